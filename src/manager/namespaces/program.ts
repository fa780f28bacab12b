/**
 * The way into a new container without an OCI runtime, as a process of its own: unshare(1) has put it into the namespaces, alone; here it
 * makes the root and becomes lamina-enter, which becomes the command. Everything that is loaded is loaded before the root changes.
 */
import { readFileSync } from 'node:fs'
import { fromUtf8 } from '../../base/bytes.js'
import * as sys from '../../sys/index.js'
import { enteringProgram, enteringRequest } from './entering.js'
import { EXIT, REQUEST_FD, TERMINAL_FD, type EnterRequest } from './request.js'
import { enterNewRoot } from './rootfs.js'

/** Source: fcntl(2) */
const F_SETFD = 2

process.exitCode = EXIT.failed
try {
  const { bundle } = JSON.parse(readFileSync(REQUEST_FD, 'utf8')) as EnterRequest
  sys.close(REQUEST_FD)
  const program = enteringProgram()
  const request = sys.memoryFile(enteringRequest(bundle))
  if (bundle.hostname !== undefined) sys.setHostname(fromUtf8(bundle.hostname))
  enterNewRoot(bundle)
  // Node has marked what it was started with to be closed.
  if (bundle.terminal === true) sys.fcntl(TERMINAL_FD, F_SETFD, 0)
  sys.execFd(program.n, ['lamina-enter', String(request.n)], [])
} catch (error) {
  process.stderr.write(`lamina: ${error instanceof Error ? error.message : String(error)}\n`)
}
