import { locks } from './cases/lock.js'
import { runCases } from './run.js'

await runCases('lock', locks)
