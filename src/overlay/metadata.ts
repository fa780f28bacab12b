/** What a copy takes over from its original besides data. */
import * as sys from '../sys/index.js'
import type { Stat } from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { isPrivateXattr } from '../format/index.js'
import type { At } from './view.js'

/**
 * Owner, extended attributes, mode and times, in this order: chown clears setuid and security.capability, setting an ACL
 * changes the mode, and everything but the last changes nothing of the times that are set then.
 * @throws SysError ENOSPC, EDQUOT, EPERM, EIO: the copy is then worthless
 */
export function copyMetadata(from: At, to: At, stat: Stat, to_owner: { uid: number; gid: number }): void {
  if (to_owner.uid !== stat.uid || to_owner.gid !== stat.gid)
    sys.fchownat(to.dirfd, to.name, stat.uid, stat.gid)
  copyXattrs(from, to)
  if (!sys.S_ISLNK(stat.mode)) sys.chmodAt(to.dirfd, to.name, stat.mode & 0o7777)
  copyTimes(to, stat)
}

/** The owner of what cannot carry it in an attribute. Without privilege it stays the daemon's, as fuse-overlayfs leaves it. */
export function chownReal(at: At, uid: number, gid: number): void {
  try {
    sys.fchownat(at.dirfd, at.name, uid, gid)
  } catch (error) {
    if (!(error instanceof SysError) || (error.errno !== E.EPERM && error.errno !== E.EINVAL)) throw error
  }
}

export function copyTimes(to: At, stat: Stat): void {
  sys.utimensAt(to.dirfd, to.name, stat.atime, stat.atimeNsec, stat.mtime, stat.mtimeNsec)
}

/** An attribute without which the copy would grant more, or protect less, than the original. */
function mustCopy(name: string): boolean {
  return name.startsWith('system.posix_acl_') || name.startsWith('security.')
}

/** All but the overlay's own. */
export function copyXattrs(from: At, to: At): void {
  for (const name of sys.listxattrAt(from.dirfd, from.name)) {
    if (isPrivateXattr(name)) continue
    const value = sys.getxattrAt(from.dirfd, from.name, name)
    if (value === undefined) continue
    try {
      sys.setxattrAt(to.dirfd, to.name, name, value)
    } catch (error) {
      if (!(error instanceof SysError)) throw error
      const unsupported = error.errno === E.EOPNOTSUPP && !mustCopy(name)
      // Without privilege a security label stays behind; a file capability is thereby dropped, never gained.
      const unprivileged = error.errno === E.EPERM && sys.geteuid() !== 0
      if (!unsupported && !unprivileged) throw error
    }
  }
}

/** Runs a change of the directory that its readers must not see in its times (a copy-up into it). */
export function keepingTimes<T>(dirfd: number, change: () => T): T {
  const before = sys.statAt(dirfd, '')
  const result = change()
  if (before !== undefined) {
    try {
      copyTimes({ dirfd, name: '' }, before)
    } catch (error) {
      // The change stands; that the directory now looks younger is the lesser evil (as fs/overlayfs/copy_up.c).
      if (!(error instanceof SysError)) throw error
    }
  }
  return result
}
