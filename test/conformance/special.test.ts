import { special } from './cases/special.js'
import { runCases } from './run.js'

await runCases('special', special)
