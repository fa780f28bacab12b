import { time } from './cases/time.js'
import { runCases } from './run.js'

await runCases('time', time)
