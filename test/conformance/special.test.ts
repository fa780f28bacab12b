import { fileFlags } from './cases/file-flags.js'
import { special } from './cases/special.js'
import { runCases } from './run.js'

await runCases('special', special)
await runCases('file flags', fileFlags)
