import * as sys from '../sys/index.js'
import { toUtf8, type ByteName } from '../base/bytes.js'
import { E } from '../base/errno.js'
import type { Fd } from '../base/fd.js'
import { SysError } from '../base/sys-error.js'
import { runHelper } from './helper-program.js'
import type { MountFlag, Propagation } from './options.js'
import type { MountSpec } from './spec.js'

/** Mounting could not be done; the message is one line for people. */
export class FuseMountError extends Error {}

const MS: Readonly<Record<MountFlag, number>> = {
  ro: sys.MS_RDONLY,
  nosuid: sys.MS_NOSUID,
  nodev: sys.MS_NODEV,
  noexec: sys.MS_NOEXEC,
  noatime: sys.MS_NOATIME,
  nodiratime: sys.MS_NODIRATIME,
  relatime: sys.MS_RELATIME,
  strictatime: sys.MS_STRICTATIME,
  sync: sys.MS_SYNCHRONOUS,
  dirsync: sys.MS_DIRSYNC,
  lazytime: sys.MS_LAZYTIME,
}

/** Those that fusermount3 knows; it refuses others. Source: util/fusermount.c, mount_flags */
const HELPER_FLAGS: ReadonlySet<MountFlag> = new Set([
  'ro',
  'nosuid',
  'nodev',
  'noexec',
  'noatime',
  'nodiratime',
  'relatime',
  'strictatime',
  'sync',
  'dirsync',
])

const PROPAGATION: Readonly<Record<Propagation, number>> = {
  private: sys.MS_PRIVATE,
  rprivate: sys.MS_PRIVATE | sys.MS_REC,
  shared: sys.MS_SHARED,
  rshared: sys.MS_SHARED | sys.MS_REC,
  slave: sys.MS_SLAVE,
  rslave: sys.MS_SLAVE | sys.MS_REC,
  unbindable: sys.MS_UNBINDABLE,
  runbindable: sys.MS_UNBINDABLE | sys.MS_REC,
}

/** An open /dev/fuse, mounted at `mountpoint`. INIT is waiting in it. @throws FuseMountError */
export async function mountFuse(spec: MountSpec, mountpoint: ByteName): Promise<Fd> {
  if (!/^[\w.+-]{1,64}$/.test(spec.subtype)) {
    throw new FuseMountError(`subtype '${toUtf8(spec.subtype)}': letters, digits and ._+- only, 64 at most`)
  }
  if (spec.source.length > 4095) throw new FuseMountError('fsname is too long (4095 bytes at most)')
  const direct = mountDirectly(spec, mountpoint)
  return direct ?? mountByHelper(spec, mountpoint)
}

/** mount(2), for root and inside a user namespace; undefined where it is not allowed. */
function mountDirectly(spec: MountSpec, mountpoint: ByteName): Fd | undefined {
  if (!sys.hasCapability(sys.CAP_SYS_ADMIN)) {
    openDevice()?.close() // what is wrong with the device is wrong for the helper as well
    return undefined
  }
  const device = openDevice()
  if (device === undefined) return undefined
  try {
    const uid = process.geteuid?.() ?? 0
    const gid = process.getegid?.() ?? 0
    const data = [
      `fd=${device.n}`,
      'rootmode=40000',
      `user_id=${uid}`,
      `group_id=${gid}`,
      'default_permissions',
    ]
    if (spec.allowOther ?? true) data.push('allow_other')
    const flags = spec.flags.reduce((all, flag) => all | MS[flag], 0)
    sys.mount(spec.source, mountpoint, `fuse.${spec.subtype}`, flags, data.join(','))
  } catch (error) {
    device.close()
    if (!(error instanceof SysError)) throw error
    if (error.errno === E.EPERM) return undefined
    if (error.errno === E.ENODEV) throw new FuseMountError(NO_FUSE)
    throw new FuseMountError(`mounting at '${toUtf8(mountpoint)}' failed: ${error.message}`)
  }
  if (spec.propagation !== undefined) {
    try {
      sys.mount(null, mountpoint, null, PROPAGATION[spec.propagation], null)
    } catch (error) {
      sys.umount2(mountpoint, sys.MNT_DETACH | sys.UMOUNT_NOFOLLOW)
      device.close()
      throw error
    }
  }
  return device
}

const NO_FUSE =
  'no /dev/fuse: load the kernel module (modprobe fuse), or give the container the device (--device /dev/fuse)'

/** Undefined when only the helper may open it. */
function openDevice(): Fd | undefined {
  try {
    return sys.openat(sys.AT_FDCWD, '/dev/fuse', sys.O_RDWR)
  } catch (error) {
    if (!(error instanceof SysError)) throw error
    if (error.errno === E.EACCES || error.errno === E.EPERM) return undefined
    if (error.errno === E.ENOENT || error.errno === E.ENODEV || error.errno === E.ENXIO) {
      throw new FuseMountError(NO_FUSE)
    }
    throw new FuseMountError(`cannot open /dev/fuse: ${error.message}`)
  }
}

/**
 * fusermount3 is setuid root: it opens the device, mounts where its caller may write, and sends the descriptor back
 * over the socket that _FUSE_COMMFD names.
 */
async function mountByHelper(spec: MountSpec, mountpoint: ByteName): Promise<Fd> {
  const options = [
    ...spec.flags.filter(flag => HELPER_FLAGS.has(flag)),
    `fsname=${escape(spec.source)}`,
    `subtype=${escape(spec.subtype)}`,
    'default_permissions',
  ]
  if (!spec.flags.includes('ro')) options.unshift('rw')
  if (spec.allowOther === true) options.push('allow_other')
  for (const helper of ['fusermount3', 'fusermount']) {
    const [ours, theirs] = sys.socketpair()
    using socket = ours
    let result
    try {
      result = await runHelper(helper, ['-o', options.join(','), '--', mountpoint], theirs.n)
    } finally {
      theirs.close()
    }
    if (result === undefined) continue
    const message = sys.recvFd(socket.n)
    const device = message?.fds[0]
    if (result.code === 0 && device !== undefined) return device
    device?.close()
    const said = result.stderr.split('\n')[0]?.replace(/^fusermount3?: /, '') ?? ''
    throw new FuseMountError(
      `no permission to mount at '${toUtf8(mountpoint)}': ${helper}: ${said || 'failed'}`,
    )
  }
  throw new FuseMountError(
    'no permission to mount: not root, and fusermount3 is not installed (Debian package fuse3)',
  )
}

/** fusermount3 splits its options at commas that no backslash precedes. */
function escape(value: ByteName): ByteName {
  return value.replace(/[\\,]/g, '\\$&')
}
