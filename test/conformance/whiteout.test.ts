import { whiteouts } from './cases/whiteout.js'
import { runCases } from './run.js'

await runCases('whiteout', whiteouts)
