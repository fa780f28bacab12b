/**
 * The last step into a container without an OCI runtime, as a process of its own: unshare(1) or nsenter(1) has put it into
 * the namespaces; here it gets the root, the ids and the directory, and becomes the command. Everything that is loaded is
 * loaded before the root changes.
 */
import { readFileSync } from 'node:fs'
import { fromUtf8 } from '../../base/bytes.js'
import { E, errnoMessage } from '../../base/errno.js'
import { SysError } from '../../base/sys-error.js'
import * as sys from '../../sys/index.js'
import { CAPABILITY_NUMBERS, type BundleOptions } from '../oci-bundle.js'
import { hasOneId } from '../rootless/standing.js'
import { EXIT, REQUEST_FD, type EnterRequest } from './request.js'
import { enterNewRoot } from './rootfs.js'

process.exitCode = EXIT.failed
try {
  const request = JSON.parse(readFileSync(REQUEST_FD, 'utf8')) as EnterRequest
  sys.close(REQUEST_FD)
  if (request.pid === undefined) {
    if (request.bundle.hostname !== undefined) sys.setHostname(fromUtf8(request.bundle.hostname))
    enterNewRoot(request.bundle)
  } else {
    joinMounts(request.pid)
  }
  become(request.bundle)
} catch (error) {
  process.stderr.write(`lamina: ${error instanceof Error ? error.message : String(error)}\n`)
}

/** Takes the mounts and the root of another process. */
function joinMounts(pid: number): void {
  using namespace = sys.openat(sys.AT_FDCWD, `/proc/${pid}/ns/mnt`, sys.O_RDONLY)
  // A mount namespace is joined by a thread whose root and directory are its own.
  sys.unshare(sys.CLONE_FS)
  sys.setns(namespace.n, sys.CLONE_NEWNS)
  process.chdir('/')
}

function become(bundle: BundleOptions): void {
  const { user } = bundle
  sys.dropBounding(CAPABILITY_NUMBERS)
  sys.umask(0o022)
  // With one id there is neither a group to take nor the right to take one.
  if (!hasOneId()) process.setgroups?.([...user.groups])
  process.setgid?.(user.gid)
  process.setuid?.(user.uid)
  process.chdir(bundle.cwd)
  const [program = ''] = bundle.args
  const args = bundle.args.map(fromUtf8)
  const env = bundle.env.map(fromUtf8)
  let denied: SysError | undefined
  for (const path of candidates(program, bundle.env)) {
    try {
      sys.exec(fromUtf8(path), args, env)
    } catch (error) {
      if (!(error instanceof SysError)) throw error
      if (error.errno !== E.ENOENT && error.errno !== E.ENOTDIR) denied ??= error
    }
  }
  const why = denied === undefined ? 'not found in the container' : errnoMessage(denied.errno)
  process.stderr.write(`lamina: cannot run '${program}': ${why}\n`)
  process.exitCode = denied === undefined ? EXIT.notFound : EXIT.notExecutable
}

function candidates(program: string, env: readonly string[]): string[] {
  if (program.includes('/')) return [program]
  const path = env.find(entry => entry.startsWith('PATH='))?.slice('PATH='.length) ?? ''
  return path.split(':').map(dir => `${dir === '' ? '.' : dir}/${program}`)
}
