import { optionGroups } from './cases/options.js'
import { runCases } from './run.js'

for (const [topic, cases] of Object.entries(optionGroups)) await runCases(`options ${topic}`, cases)
