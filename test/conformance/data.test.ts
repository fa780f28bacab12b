import { data } from './cases/data.js'
import { runCases } from './run.js'

await runCases('data', data)
