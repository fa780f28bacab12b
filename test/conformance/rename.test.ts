import { renames } from './cases/rename.js'
import { runCases } from './run.js'

await runCases('rename', renames)
