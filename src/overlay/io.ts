/**
 * Data: which real file stands behind an inode. READ and WRITE themselves never come here; the data plane serves them from
 * the descriptor that is registered for the inode.
 */
import * as sys from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { Fd } from '../base/fd.js'
import type { Maybe, WriteAt } from '../fuse/filesystem.js'
import { ensureUpper } from './copy-up.js'
import type { Inode } from './inode.js'
import { openBeneath } from './layer.js'
import { openedBelow } from './names.js'
import type { View } from './view.js'

/**
 * Opens the file that holds an inode's data. The descriptor is the caller's.
 * @throws SysError EACCES, ELOOP (no longer what it was), EMFILE, EIO
 */
export function openReal(view: View, inode: Inode, flags: number): number {
  const held = inode.orphan ?? (inode.upper === null ? inode.held : null)
  if (held !== null && inode.data === null) return sys.reopen(held.n, flags).release()
  const real = inode.data ?? inode.upper ?? inode.lower
  if (real?.parent == null) throw new SysError(E.ESTALE, 'open', inode.name)
  return openBeneath(view.fds.get(real.parent), real.name, flags)
}

/** Makes the inode's file known to the data plane. A file that is only below is copied up before the first write. */
export function prepareIo(view: View, inode: Inode, write: boolean, at?: WriteAt): void {
  if (inode.type !== sys.S_IFREG) throw new SysError(inode.isDir() ? E.EISDIR : E.EINVAL, 'io', inode.name)
  if (write) ensureUpper(view, inode)
  const changeable = inode.data === null && (inode.upper !== null || inode.orphan !== null)
  if (!changeable) {
    registerBelow(view, inode)
    if (inode.parent !== null) openedBelow(view, inode.parent)
    return
  }
  if (at?.append === false) refuseBehindEnd(view, inode, at.offset)
  const told = inode.endless ? 'unknown' : undefined
  if (write && inode.endless) forgetWritten(view, inode)
  const ino = view.changes.isTelling(inode) ? undefined : inode.ino
  try {
    view.kernel.registerFile(inode.nodeid, openReal(view, inode, sys.O_RDWR), true, ino, told)
  } catch (error) {
    // A file of an ordinary user's that its mode lets nobody write can still be read.
    if (write || !(error instanceof SysError) || (error.errno !== E.EACCES && error.errno !== E.ETXTBSY))
      throw error
    view.kernel.registerFile(inode.nodeid, openReal(view, inode, sys.O_RDONLY), false, ino)
  }
}

/** What is appended may lie elsewhere than the kernel has put it in its own pages: these go once it is written, and each WRITE comes here. */
function forgetWritten(view: View, inode: Inode): void {
  setImmediate(() => {
    view.kernel.unregisterFile(inode.nodeid)
    if (inode.nlookup > 0) view.kernel.invalidateInode(inode.nodeid, 0, 0)
  })
}

/** @throws Again, see changes.ts */
function registerBelow(view: View, inode: Inode): void {
  using file = new Fd(openBelow(view, inode))
  const stat = sys.statFd(file.n)
  view.changes.reading(inode, stat)
  // Without a name it is shown without links, which the object below has. What is being told is shown when it is.
  const unwatched = inode.parent !== null && view.watch?.isUnwatched(inode.parent) === true
  const shown = inode.data === null && !inode.nameless && !unwatched && !view.changes.isTelling(inode)
  const told = { stamp: inode.stamp, most: inode.most }
  view.kernel.registerFile(inode.nodeid, file.release(), false, shown ? inode.ino : undefined, told)
}

/** The inode's lower file, or what is held of it where its name stands for it no longer. */
function openBelow(view: View, inode: Inode): number {
  if (inode.data === null && !inode.nameless) view.statIfThere(inode)
  return openReal(view, inode, sys.O_RDONLY | sys.O_NOATIME)
}

/**
 * Whoever writes behind the end of a file that has changed beneath him means the end that it had: there would be a hole that nobody made.
 * @throws SysError ESTALE
 */
function refuseBehindEnd(view: View, inode: Inode, offset: number): void {
  if (view.changes.isTelling(inode) && offset > view.stat(inode).size && offset <= inode.most)
    throw new SysError(E.ESTALE, 'write', inode.name)
}

/** fsync(2): only what was changed has anything to write back. */
export function fsync(view: View, inode: Inode, datasync: boolean): Maybe<void> {
  if (!view.syncs || (inode.upper === null && inode.orphan === null)) return
  return writeBack(view, inode, datasync)
}

async function writeBack(view: View, inode: Inode, datasync: boolean): Promise<void> {
  const flags = inode.isDir() ? sys.O_RDONLY | sys.O_DIRECTORY : sys.O_RDONLY
  using fd = new Fd(inode.isDir() ? openDir(view, inode) : openReal(view, inode, flags))
  await (datasync ? sys.fdatasync(fd.n) : sys.fsync(fd.n))
}

/** Opens the directory whose attributes the view shows. */
export function openDir(view: View, inode: Inode): number {
  const { dirfd, name } = view.at(inode)
  return openBeneath(dirfd, name === '' ? '.' : name, sys.O_RDONLY | sys.O_DIRECTORY)
}

export async function syncfs(view: View): Promise<void> {
  if (view.upper === null || !view.syncs) return
  const fd = new Fd(openBeneath(view.upper.rootFd.n, '.', sys.O_RDONLY | sys.O_DIRECTORY))
  try {
    await sys.syncfs(fd.n)
  } finally {
    fd.close()
  }
}

/** @throws SysError EOPNOTSUPP, ENOSPC, EFBIG; Again while the file's data is copied up */
export function fallocate(
  view: View,
  inode: Inode,
  offset: number,
  length: number,
  mode: number,
): Promise<void> {
  ensureUpper(view, inode)
  const fd = new Fd(openReal(view, inode, sys.O_RDWR))
  return sys.fallocate(fd.n, mode, offset, length).finally(() => {
    fd.close()
  })
}

/** SEEK_DATA and SEEK_HOLE; every other whence is the kernel's own business. */
export function lseek(view: View, inode: Inode, offset: number, whence: number): number {
  using fd = new Fd(openReal(view, inode, sys.O_RDONLY))
  return sys.lseek(fd.n, offset, whence)
}

interface Position {
  readonly inode: Inode
  readonly offset: number
}

/**
 * Bytes copied: by reflink where the upper filesystem can, else a small range that is in memory on the spot, because two changes
 * of thread cost more. @throws Again while the target's data is copied up
 */
export function copyFileRange(view: View, from: Position, to: Position, length: number): Maybe<number> {
  ensureUpper(view, to.inode)
  return copySmall(view, from, to, length) ?? copyRange(view, from, to, length)
}

function copySmall(view: View, from: Position, to: Position, length: number): number | undefined {
  using source = new Fd(openReal(view, from.inode, sys.O_RDONLY))
  using target = new Fd(openReal(view, to.inode, sys.O_RDWR))
  if (view.upper === null || (view.upper.clones ??= canClone(target.n))) return undefined
  return sys.copyCached(source.n, from.offset, target.n, to.offset, length)
}

async function copyRange(view: View, from: Position, to: Position, length: number): Promise<number> {
  using source = new Fd(openReal(view, from.inode, sys.O_RDONLY))
  using target = new Fd(openReal(view, to.inode, sys.O_RDWR))
  return await sys.copyFileRange(source.n, from.offset, target.n, to.offset, length)
}

/** A file is asked to become a clone of itself: nothing, or an error that comes after the question whether this can be done at all. */
function canClone(fd: number): boolean {
  const result = sys.ioctlNumber(fd, sys.FICLONE, fd)
  return result !== -E.EOPNOTSUPP && result !== -E.ENOTTY && result !== -E.ENOSYS
}
