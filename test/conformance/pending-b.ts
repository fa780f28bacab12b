import { pendingB } from './cases/pending-b.js'
import { runCases } from './run.js'

/** `npm run test:pending-b`: cases of options whose features are yet to land; not a part of `npm test`. */
for (const [topic, cases] of Object.entries(pendingB)) await runCases(`pending-b ${topic}`, cases)
