import { readdir } from './cases/readdir.js'
import { runCases } from './run.js'

await runCases('readdir', readdir)
