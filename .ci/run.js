/** `node .ci/run.js test/bench/bench.js ARGS…`: builds what is stale, then runs that compiled file. */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { prepare, root } from './prepare.js'

prepare()
const [file, ...args] = process.argv.slice(2)
// A long run is no hang: tap would end it after half a minute.
const env = { ...process.env, TAP_TIMEOUT: process.env.TAP_TIMEOUT ?? '0' }
const child = spawn(process.execPath, [join(root, 'dist', file), ...args], { stdio: 'inherit', env })
// The child decides how to end; this process only outlives it.
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => child.kill(signal))
child.on('close', (code, signal) => process.exit(code ?? (signal === null ? 1 : 128)))
