/** `lamina-enter`, the program that becomes a container's command where there is no OCI runtime (native/enter), and what it is told. */
import { fileURLToPath } from 'node:url'
import { endianness } from 'node:os'
import { fromUtf8 } from '../../base/bytes.js'
import type { Fd } from '../../base/fd.js'
import * as sys from '../../sys/index.js'
import { findProgram } from '../oci-runtime.js'
import { hasOneId } from '../rootless/standing.js'
import { capabilityNumber } from '../security/capabilities.js'
import { compileFilter } from '../security/seccomp-filter.js'
import { capabilitiesOf, seccompOf } from '../security/security-options.js'
import { StoreError } from '../store-error.js'
import type { BundleOptions } from '../oci-bundle.js'

/** A copy that nobody can change: a container sees it as its own /proc/self/exe. @throws StoreError unsupported */
export function enteringProgram(): Fd {
  for (const place of ['build/Release', `prebuilds/linux-${process.arch}`]) {
    const path = fileURLToPath(new URL(`../../../../${place}/lamina-enter`, import.meta.url))
    if (findProgram(path) !== undefined) return sys.sealedCopy(fromUtf8(path))
  }
  throw new StoreError(
    'unsupported',
    'lamina-enter is missing, without which nothing runs in an image here',
    "install crun or runc, or let 'npm run build:native' build it",
  )
}

/**
 * What the program reads (native/enter/enter.c has the format).
 * @param pid of a process whose namespaces are joined
 * @throws StoreError unsupported
 */
export function enteringRequest(bundle: BundleOptions, pid?: number): Buffer {
  const { user, security, args, env } = bundle
  // Nothing guards devices here: no node is made.
  const capabilities = capabilitiesOf(security).filter(name => name !== 'CAP_MKNOD')
  const mask = capabilities.reduce((bits, name) => bits | (1n << BigInt(capabilityNumber(name))), 0n)
  const seccomp = seccompOf(security)
  const path = env.findLast(entry => entry.startsWith('PATH='))?.slice('PATH='.length) ?? ''
  return Buffer.concat([
    ...(pid === undefined ? [] : [record('J', word(pid, 4))]),
    ...(pid === undefined || bundle.network === 'host' ? [] : [record('N')]),
    ...(bundle.terminal === true ? [record('t')] : []),
    ...(hasOneId() ? [record('o')] : [record('G', Buffer.concat(user.groups.map(group => word(group, 4))))]),
    record('u', word(user.uid, 4)),
    record('g', word(user.gid, 4)),
    record('b', word(mask, 8)),
    record('c', word(user.uid === 0 ? mask : 0n, 8)),
    ...(security?.noNewPrivileges === true ? [record('n')] : []),
    ...(seccomp === undefined ? [] : [record('s', compileFilter(seccomp))]),
    record('w', text(bundle.cwd)),
    ...args.map(arg => record('a', text(arg))),
    ...env.map(entry => record('e', text(entry))),
    ...path.split(':').map(dir => record('p', text(dir))),
  ])
}

const text = (utf8: string): Buffer => Buffer.from(fromUtf8(utf8), 'latin1')

/** As this machine has numbers. */
function word(value: number | bigint, size: 4 | 8): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  const short = bytes.subarray(0, size)
  return endianness() === 'LE' ? short : short.reverse()
}

/** Each is followed by a NUL, so that a text in it is a string of C's. */
const record = (kind: string, bytes: Buffer = Buffer.alloc(0)): Buffer =>
  Buffer.concat([Buffer.from(kind), word(bytes.length, 4), bytes, Buffer.of(0)])
