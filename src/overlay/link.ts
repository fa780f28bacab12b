/** Hard links. */
import * as sys from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import type { Entry } from '../fuse/filesystem.js'
import { ensureUpper, markImpureFor } from './copy-up.js'
import { prepareParent, replaceWhiteout } from './create.js'
import { keepLinks } from './hardlinks.js'
import { linkFd } from './temp-file.js'
import type { DirInode, Inode } from './inode.js'
import { Real } from './layer.js'
import { probe, upperKey } from './lookup.js'
import { setRedirect } from './redirect.js'
import type { At, View } from './view.js'

/** @throws SysError EPERM for a directory, EEXIST, EMLINK, ENOENT for a removed file, EROFS */
export function link(view: View, inode: Inode, parent: DirInode, name: string): Entry {
  if (inode.isDir()) throw new SysError(E.EPERM, 'link', name)
  prepareParent(view, parent, name)
  ensureUpper(view, inode, 'metadata')
  view.changes.settled(inode)
  if (inode.data !== null) setRedirect(view, inode, false)
  keepLinks(view, inode)
  markImpureFor(view, inode, parent, inode.parent)
  const from = view.at(inode)
  const dirfd = view.upperFd(parent)
  view.journal?.changing(sys.statAt(from.dirfd, from.name))
  try {
    linkObject(from, dirfd, name)
  } catch (error) {
    const taken = error instanceof SysError && error.errno === E.EEXIST
    if (!taken || probe(view, view.upperOf(parent), name, false) !== 'hidden') throw error
    linkOverWhiteout(view, from, parent, dirfd, name)
  }
  adoptName(view, inode, parent, name)
  if (inode.links > 0) inode.links++
  const stat = view.stat(inode)
  if (stat.nlink > 1) view.table.setLink(inode, upperKey(stat))
  parent.listing?.add(name, inode.type >>> 12, stat.ino, 0)
  return view.entry(inode, stat)
}

function linkObject(from: At, dirfd: number, name: string): void {
  if (from.name === '') linkFd(from.dirfd, dirfd, name)
  else sys.linkat(from.dirfd, from.name, dirfd, name, 0)
}

function linkOverWhiteout(view: View, from: At, parent: DirInode, dirfd: number, name: string): void {
  view.workdir().staged(
    (fd, temp) => {
      linkObject(from, fd, temp)
    },
    (fd, temp) => {
      replaceWhiteout(view, fd, temp, parent, dirfd, name, false)
    },
  )
}

/** A file without a name (O_TMPFILE, or unlinked but for this) is reached by its name again. */
function adoptName(view: View, inode: Inode, parent: DirInode, name: string): void {
  view.table.addName(inode, parent, name)
  const upper = view.upperOf(parent)
  inode.upper ??= new Real(upper.layer, upper, name)
  view.unhold(inode)
}
