import { mounts } from './cases/mounts.js'
import { runCases } from './run.js'

await runCases('mounts', mounts)
