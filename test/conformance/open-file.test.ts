import { openFiles } from './cases/open-file.js'
import { runCases } from './run.js'

await runCases('open-file', openFiles)
