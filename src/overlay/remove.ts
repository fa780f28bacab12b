/** unlink and rmdir. */
import * as sys from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { ensureUpper } from './copy-up.js'
import { ensureAlias, isIndexed, keepLinks, linkRemoved, needsIndex } from './hardlinks.js'
import type { DirInode, Inode } from './inode.js'
import { Real } from './layer.js'
import { findChild, lowerPositive } from './lookup.js'
import { isEmpty } from './readdir.js'
import type { View } from './view.js'
import { replaceByWhiteout, takeAway, whiteOut } from './whiteout.js'

/** @throws SysError ENOENT, EISDIR, EROFS, ENOSPC (a whiteout needs room), … */
export function unlink(view: View, parent: DirInode, name: string): void {
  const inode = existing(view, parent, name)
  if (inode.isDir()) throw new SysError(E.EISDIR, 'unlink', name)
  removeObject(view, parent, name, inode)
}

/** @throws SysError ENOTEMPTY when anything shows in the merged directory; ENOTDIR */
export function rmdir(view: View, parent: DirInode, name: string): void {
  const inode = existing(view, parent, name)
  if (!inode.isDir()) throw new SysError(E.ENOTDIR, 'rmdir', name)
  if (!isEmpty(view, inode)) throw new SysError(E.ENOTEMPTY, 'rmdir', name)
  removeObject(view, parent, name, inode)
}

export function existing(view: View, parent: DirInode, name: string): Inode {
  if (view.upper === null) throw new SysError(E.EROFS, 'change', name)
  const inode = findChild(view, parent, name)
  if (inode === undefined) throw new SysError(E.ENOENT, 'change', name)
  return inode
}

function removeObject(view: View, parent: DirInode, name: string, inode: Inode): void {
  ensureUpper(view, parent)
  if (needsIndex(view, inode)) ensureUpper(view, inode, 'metadata')
  if (isIndexed(view, inode)) {
    ensureAlias(view, inode, parent, name)
    keepLinks(view, inode)
  }
  const below = parent.merges && lowerPositive(view, parent, name)
  keepReachable(view, inode, parent, name)
  view.journal?.changing()
  try {
    if (inode.upper === null) whiteOut(view, parent, name)
    else if (below) replaceByWhiteout(view, parent, name, inode.isDir())
    else takeAway(view, view.upperFd(parent), name, inode.isDir())
  } catch (error) {
    letGo(view, inode)
    throw error
  }
  nameGone(view, inode, parent, name)
}

/**
 * Before the name by which an upper object is reached goes: holds the object itself, in case the kernel still uses it (an
 * open file, a working directory). Opens send no message, so the daemon cannot know; FORGET lets go.
 */
export function keepReachable(view: View, inode: Inode, parent: DirInode, name: string): void {
  if (inode.orphan !== null || inode.nlookup === 0) return
  if (inode.aliases !== null || inode.parent !== parent || inode.name !== name) return
  if (inode.data !== null || inode.upper === null) view.journal?.below(inode)
  if (inode.upper === null) return
  if (!isIndexed(view, inode)) {
    view.hold(inode, sys.openat(view.upperFd(parent), name, sys.O_PATH | sys.O_NOFOLLOW))
  } else if (inode.links === 1) {
    const { dirfd, name: entry } = view.at(inode)
    view.hold(inode, sys.openat(dirfd, entry, sys.O_PATH | sys.O_NOFOLLOW))
  }
}

/** Undoes {@link keepReachable} when the name stayed after all. */
export function letGo(view: View, inode: Inode): void {
  if (!inode.nameless) view.unhold(inode)
}

/** The name is gone on disk: now in memory. */
export function nameGone(view: View, inode: Inode, parent: DirInode, name: string): void {
  parent.listing?.remove(name)
  const ownName = inode.upper !== null && !isIndexed(view, inode)
  view.table.removeName(inode, parent, name)
  linkRemoved(view, inode)
  if (inode.isDir()) view.kernel.answersChanged(inode.nodeid)
  // It is shown without links from here on, which the object below has.
  else if (inode.nameless && inode.upper === null) view.kernel.unregisterFile(inode.nodeid)
  if (ownName) {
    const next = inode.parent
    if (inode.isDir()) {
      if (inode.upper !== null) view.fds.drop(inode.upper)
      inode.upper = null
    } else {
      // Another name of the same object becomes the way to it; without one it is reached by `orphan`.
      inode.upper = next?.upper == null ? null : new Real(next.upper.layer, next.upper, inode.name)
    }
    if (inode.orphan === null && inode.upper === null) inode.lower = null
  }
  view.table.dropIfUnused(inode)
}
