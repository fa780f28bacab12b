import { permission } from './cases/permission.js'
import { runCases } from './run.js'

await runCases('permission', permission)
