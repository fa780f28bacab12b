import { opaque } from './cases/opaque.js'
import { runCases } from './run.js'

await runCases('opaque', opaque)
