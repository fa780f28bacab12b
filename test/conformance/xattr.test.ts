import { xattr } from './cases/xattr.js'
import { runCases } from './run.js'

await runCases('xattr', xattr)
