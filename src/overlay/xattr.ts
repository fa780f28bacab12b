/** Extended attributes: the overlay's own are hidden, and those of an overlay on top of this one are escaped. */
import * as sys from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { escapeXattr, isPrivateXattr, unescapeXattr } from '../format/index.js'
import type { Caller } from '../fuse/filesystem.js'
import { isCapable } from './caller.js'
import { ensureUpper } from './copy-up.js'
import type { Inode } from './inode.js'
import type { At, View } from './view.js'

/** What Linux knows; a name in none of them is EOPNOTSUPP on every local filesystem. Source: xattr(7) */
const NAMESPACES = ['user.', 'trusted.', 'security.', 'system.'] as const

/** @throws SysError ENODATA; EOPNOTSUPP for what the mount does not show; ENOSYS with noxattrs */
export function getxattr(view: View, inode: Inode, name: string): Buffer {
  checkShown(view, name)
  const at = view.at(inode)
  const stored = escapeXattr(name)
  const value = isPrivateXattr(stored) ? undefined : sys.getxattrAt(at.dirfd, at.name, stored)
  if (value === undefined) {
    const known = NAMESPACES.some(prefix => name.startsWith(prefix))
    throw new SysError(known ? E.ENODATA : E.EOPNOTSUPP, 'getxattr', name)
  }
  return value
}

/** trusted.* is listed for those who may read it, as fs/overlayfs/xattrs.c does. */
export function listxattr(view: View, inode: Inode, caller: Caller): string[] {
  checkShown(view, '')
  const at = view.at(inode)
  const shown: string[] = []
  let admin: boolean | undefined
  for (const stored of sys.listxattrAt(at.dirfd, at.name)) {
    const name = unescapeXattr(stored)
    if (name === undefined) continue
    if (view.options.noacl && name.startsWith(ACL)) continue
    if (name.startsWith('trusted.') && !(admin ??= isCapable(caller, sys.CAP_SYS_ADMIN))) continue
    shown.push(name)
  }
  return shown
}

/** @throws SysError EEXIST (XATTR_CREATE), ENODATA (XATTR_REPLACE), ENOSPC, EDQUOT, EROFS, EPERM */
export function setxattr(view: View, inode: Inode, name: string, value: Buffer, flags: number): void {
  checkShown(view, name)
  checkSettable(name)
  ensureUpper(view, inode, 'metadata')
  const at = view.at(inode)
  if (flags !== 0) announce(view, at, name)
  sys.setxattrAt(at.dirfd, at.name, escapeXattr(name), value, flags)
  view.kernel.answersChanged(inode.nodeid)
}

/** Done twice, XATTR_CREATE and a removal would fail: a successor is told what was there before. */
function announce(view: View, at: At, name: string): void {
  view.journal?.changing(undefined, sys.getxattrAt(at.dirfd, at.name, escapeXattr(name)) !== undefined)
}

export function removexattr(view: View, inode: Inode, name: string, caller: Caller): void {
  checkShown(view, name)
  checkSettable(name)
  // Asked before the copy-up: removing nothing must not copy anything.
  if (inode.upper === null) getxattr(view, inode, name)
  ensureUpper(view, inode, 'metadata')
  const at = view.at(inode)
  announce(view, at, name)
  sys.removexattrAt(at.dirfd, at.name, escapeXattr(name))
  if (name === 'security.capability') view.capabilityTaken.set(inode, caller.pid)
}

const ACL = 'system.posix_acl_'

/** ENOSYS is for the whole mount: with noxattrs the kernel never asks again, and `ls -l` sends nothing. */
function checkShown(view: View, name: string): void {
  if (view.options.noxattrs) throw new SysError(E.ENOSYS, 'xattr', name)
  if (view.options.noacl && name.startsWith(ACL)) throw new SysError(E.EOPNOTSUPP, 'xattr', name)
}

/**
 * Names that are an overlay's own and have no escaped form. Refused also where this mount does not believe them: the layer may be
 * mounted by another one that does.
 */
function checkSettable(name: string): void {
  if (isPrivateXattr(escapeXattr(name))) throw new SysError(E.EPERM, 'setxattr', name)
}
