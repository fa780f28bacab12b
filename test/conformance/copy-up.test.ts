import { copyUp } from './cases/copy-up.js'
import { runCases } from './run.js'

await runCases('copy-up', copyUp)
