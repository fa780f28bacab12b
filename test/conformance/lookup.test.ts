import { lookup } from './cases/lookup.js'
import { runCases } from './run.js'

await runCases('lookup', lookup)
