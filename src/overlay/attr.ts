/** getattr, statx and setattr. */
import * as sys from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import type { AttrReply, Caller, SetAttr, StatxReply } from '../fuse/filesystem.js'
import { isInGroup, keepsSuidgid } from './caller.js'
import { ensureUpper } from './copy-up.js'
import type { Inode } from './inode.js'
import { openReal } from './io.js'
import { chownReal } from './metadata.js'
import type { At, View } from './view.js'

export function getattr(view: View, inode: Inode): AttrReply {
  // The kernel asks for a directory's attributes after each change in it.
  if (inode.isDir() && inode.upper !== null && view.owner.plain)
    view.kernel.followAttributes(inode.nodeid, view.fds.get(inode.upper), view.oneLink(inode))
  return attrReply(view, inode)
}

function attrReply(view: View, inode: Inode): AttrReply {
  return { attrValid: view.timeout(inode), attr: view.attr(inode, view.stat(inode)) }
}

/** Beyond fuse_attr a Linux user can ask for the time of birth and for file flags. */
export function statx(view: View, inode: Inode): StatxReply {
  const stat = view.stat(inode)
  const reply: StatxReply = {
    attrValid: view.timeout(inode),
    attr: view.attr(inode, stat),
    attributes: stat.attributes,
    attributesMask: stat.attributes,
  }
  if ((stat.mask & sys.STATX_BTIME) !== 0) reply.btime = { sec: stat.btime, nsec: stat.btimeNsec }
  return reply
}

/**
 * chmod, chown, truncate, utimens. Owner goes before mode, because chown clears setuid.
 * @throws SysError EROFS, EPERM, ENOSPC, EFBIG, EDQUOT; Again while the file's data is copied up
 */
export function setattr(view: View, inode: Inode, change: SetAttr, caller: Caller): AttrReply {
  // A file that is cut keeps only what lies before the cut.
  ensureUpper(view, inode, change.size ?? 'metadata')
  view.changes.settled(inode)
  const at = view.at(inode)
  const capabilityTaken = view.capabilityTaken.get(inode) === caller.pid
  view.capabilityTaken.delete(inode)
  const falls = change.mode === undefined && (change.killSuidgid || (isEmpty(change) && !capabilityTaken))
  // Who keeps setgid is asked with the group that the file has before.
  const kept = falls ? keptMode(view, inode, at, caller) : undefined
  if (change.size !== undefined) truncate(view, inode, change.size)
  if (change.uid !== undefined || change.gid !== undefined) chown(view, inode, at, change)
  const mode = change.mode ?? kept
  if (mode !== undefined) chmod(view, inode, at, mode)
  if (change.atime !== undefined || change.mtime !== undefined) utimens(at, change)
  return attrReply(view, inode)
}

/**
 * chown(-1, -1), which names no owner and takes setuid and setgid all the same, from root's files too. A write that takes a file's
 * capability sends the same after REMOVEXATTR, and takes no more than that from what root writes to.
 */
function isEmpty({ mode, uid, gid, size, atime, mtime, ctime }: SetAttr): boolean {
  return [mode, uid, gid, size, atime, mtime, ctime].every(value => value === undefined)
}

function truncate(view: View, inode: Inode, size: number): void {
  if (inode.isDir()) throw new SysError(E.EISDIR, 'truncate', inode.name)
  const fd = openReal(view, inode, sys.O_WRONLY | sys.O_NONBLOCK)
  try {
    sys.truncateFd(fd, size)
  } finally {
    sys.close(fd)
  }
}

function chown(view: View, inode: Inode, at: At, change: SetAttr): void {
  const uid = change.uid === undefined ? undefined : view.owner.uidOnDisk(change.uid)
  const gid = change.gid === undefined ? undefined : view.owner.gidOnDisk(change.gid)
  if (view.owner.overrideAttr === undefined) {
    sys.fchownat(at.dirfd, at.name, uid ?? -1, gid ?? -1)
    return
  }
  keepInAttribute(view, inode, at, { uid, gid })
}

function chmod(view: View, inode: Inode, at: At, mode: number): void {
  if (view.owner.overrideAttr === undefined) sys.chmodAt(at.dirfd, at.name, mode & 0o7777)
  else keepInAttribute(view, inode, at, { mode: mode & 0o7777 })
}

/** Owner and mode as the attribute has them (or the object, where it has none), with what changes. */
function keepInAttribute(
  view: View,
  inode: Inode,
  at: At,
  change: { uid?: number | undefined; gid?: number | undefined; mode?: number },
): void {
  const stat = view.stat(inode)
  const before = view.owner.read(view.layerOf(inode), at) ?? {
    uid: stat.uid,
    gid: stat.gid,
    mode: stat.mode & 0o7777,
  }
  const kept = {
    ...before,
    uid: change.uid ?? before.uid,
    gid: change.gid ?? before.gid,
    mode: change.mode ?? before.mode,
  }
  if (view.owner.write(at, kept)) return
  chownReal(at, kept.uid, kept.gid)
  if (change.mode !== undefined && inode.type !== sys.S_IFLNK) sys.chmodAt(at.dirfd, at.name, kept.mode)
}

/** What fallocate and copy_file_range by an ordinary user take away: these requests carry no KILL_SUIDGID flag. */
export function contentChangedBy(view: View, inode: Inode, caller: Caller): void {
  ensureUpper(view, inode)
  if (keepsSuidgid(caller)) return
  const at = view.at(inode)
  const mode = keptMode(view, inode, at, caller)
  if (mode === undefined) return
  chmod(view, inode, at, mode)
  view.attrChanged(inode)
}

/**
 * The mode that a file is left with by chown(2), and by a write or truncation of an ordinary user (FUSE_HANDLE_KILLPRIV_V2); undefined where
 * nothing falls. Setgid without group execution, once the mark of mandatory locking, stays for who is in the group.
 * Source: fs/attr.c, setattr_should_drop_suidgid; native/suidgid.h is the same for what does not come here
 */
function keptMode(view: View, inode: Inode, at: At, caller: Caller): number | undefined {
  if (inode.isDir() || inode.type === sys.S_IFLNK) return undefined
  const stat = sys.statAt(at.dirfd, at.name)
  if (stat === undefined) return undefined
  const { mode } = view.owner.stored(stat, view.layerOf(inode), () => at)
  if ((mode & (sys.S_ISUID | sys.S_ISGID)) === 0) return undefined
  const marked = (mode & (sys.S_ISGID | sys.S_IXGRP)) === sys.S_ISGID
  const stays = marked && (isInGroup(caller, view.owner.shown(stat, inode, view).gid) || keepsSuidgid(caller))
  const kept = mode & ~(sys.S_ISUID | (stays ? 0 : sys.S_ISGID))
  return kept === mode ? undefined : kept
}

/** Setting an ACL takes setgid from a file whose group the caller is not in (FUSE_SETXATTR_ACL_KILL_SGID). */
export function dropSetgid(view: View, inode: Inode): void {
  const at = view.at(inode)
  const stat = sys.statAt(at.dirfd, at.name)
  if (stat === undefined) return
  const { mode } = view.owner.stored(stat, view.layerOf(inode), () => at)
  if ((mode & sys.S_ISGID) !== 0) chmod(view, inode, at, mode & 0o7777 & ~sys.S_ISGID)
}

function utimens(at: At, change: SetAttr): void {
  const [atime, atimeNsec] = timeOf(change.atime)
  const [mtime, mtimeNsec] = timeOf(change.mtime)
  sys.utimensAt(at.dirfd, at.name, atime, atimeNsec, mtime, mtimeNsec)
}

function timeOf(time: SetAttr['atime']): [number, number] {
  if (time === undefined) return [0, sys.UTIME_OMIT]
  return time === 'now' ? [0, sys.UTIME_NOW] : [time.sec, time.nsec]
}
