/**
 * rename, as fs/overlayfs/dir.c does it: the upper object moves by one renameat2; where something below would show at the old
 * place, the same call leaves a whiteout there.
 */
import * as sys from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { setOpaque } from '../format/index.js'
import { ensureUpper, markImpureFor } from './copy-up.js'
import { dropMarker } from './create.js'
import { ensureAlias, isIndexed, keepLinks, needsIndex } from './hardlinks.js'
import type { DirInode, Inode } from './inode.js'
import { findChild, lowerPositive, probe } from './lookup.js'
import { isEmpty } from './readdir.js'
import { setRedirect } from './redirect.js'
import { existing, keepReachable, letGo, nameGone } from './remove.js'
import type { View } from './view.js'
import { whiteOut } from './whiteout.js'
import { emptyDir } from './workdir.js'

/** One end of a rename. */
interface Place {
  readonly dir: DirInode
  readonly name: string
}

/**
 * @throws SysError EXDEV for a directory that comes from below while redirect_dir is off; EEXIST with RENAME_NOREPLACE;
 * EINVAL for RENAME_WHITEOUT and for flags that exclude each other
 */
export function rename(view: View, from: Place, to: Place, flags: number): void {
  const exchange = (flags & sys.RENAME_EXCHANGE) !== 0
  const known = sys.RENAME_NOREPLACE | sys.RENAME_EXCHANGE
  if ((flags & ~known) !== 0 || (flags & known) === known) throw new SysError(E.EINVAL, 'rename', from.name)
  const source = existing(view, from.dir, from.name)
  const target = findChild(view, to.dir, to.name)
  checkPlaces(view, to, source, target, flags)
  if (source === target) return
  if (source.isDir()) checkMovable(view, source)
  if (exchange && target?.isDir() === true) checkMovable(view, target)
  // After EXDEV, as the kernel asks: mv(1) then looks for itself what is in the way.
  if (!exchange && target?.isDir() === true && !isEmpty(view, target)) {
    throw new SysError(E.ENOTEMPTY, 'rename', to.name)
  }

  ensureUpper(view, from.dir)
  ensureUpper(view, to.dir)
  ensureUpper(view, source, 'metadata')
  if (target !== undefined && needsIndex(view, target)) ensureUpper(view, target, 'metadata')
  ensureAlias(view, source, from.dir, from.name)
  if (exchange && target !== undefined) {
    ensureUpper(view, target, 'metadata')
    ensureAlias(view, target, to.dir, to.name)
    exchangePlaces(view, from, source, to, target)
  } else {
    move(view, from, source, to, target)
  }
}

function checkPlaces(view: View, to: Place, source: Inode, target: Inode | undefined, flags: number): void {
  if (to.name.length > 255) throw new SysError(E.ENAMETOOLONG, 'rename', to.name)
  if (to.name.startsWith('.wh.')) throw new SysError(E.EINVAL, 'rename', to.name)
  if (to.dir.nameless && to.dir !== view.table.root) throw new SysError(E.ENOENT, 'rename', to.name)
  if ((flags & sys.RENAME_EXCHANGE) !== 0) {
    if (target === undefined) throw new SysError(E.ENOENT, 'rename', to.name)
    return
  }
  if (target === undefined) return
  if ((flags & sys.RENAME_NOREPLACE) !== 0) throw new SysError(E.EEXIST, 'rename', to.name)
  if (source.isDir() && !target.isDir()) throw new SysError(E.ENOTDIR, 'rename', to.name)
  if (!source.isDir() && target.isDir()) throw new SysError(E.EISDIR, 'rename', to.name)
}

/** mv(1) takes EXDEV as "copy and delete", which is what the kernel's overlayfs makes it do. */
function checkMovable(view: View, dir: DirInode): void {
  if (dir.merges && view.options.redirectDir !== 'on') throw new SysError(E.EXDEV, 'rename', dir.name)
}

/** Before an object moves: what it merges with, or has its data from, must be found from its new place, and nothing else there. */
function prepareMove(view: View, inode: Inode, from: Place, to: Place): void {
  if (inode.data !== null) setRedirect(view, inode, from.dir === to.dir)
  if (!inode.isDir()) return
  if (inode.merges) setRedirect(view, inode, from.dir === to.dir)
  else if (to.dir.merges && lowerPositive(view, to.dir, to.name)) {
    const { dirfd, name } = view.at(inode)
    setOpaque(dirfd, name, view.prefix)
  }
}

function move(view: View, from: Place, source: Inode, to: Place, target: Inode | undefined): void {
  const fromFd = view.upperFd(from.dir)
  const toFd = view.upperFd(to.dir)
  const leaveWhiteout = from.dir.merges && lowerPositive(view, from.dir, from.name)
  prepareMove(view, source, from, to)
  markImpureFor(view, source, to.dir, from.dir)
  if (target?.isDir() === true) clearWhiteouts(view, target)
  if (target !== undefined && isIndexed(view, target)) {
    ensureAlias(view, target, to.dir, to.name)
    keepLinks(view, target)
  }
  if (target !== undefined) keepReachable(view, target, to.dir, to.name)
  view.journal?.changing(sys.statAt(fromFd, from.name))
  try {
    moveUpper(view, { ...from, fd: fromFd }, { ...to, fd: toFd }, source.isDir(), leaveWhiteout)
  } catch (error) {
    if (target !== undefined) letGo(view, target)
    throw error
  }
  dropMarker(view, to.dir, toFd, to.name)
  if (target !== undefined) nameGone(view, target, to.dir, to.name)
  renamed(view, source, from, to)
}

interface OpenPlace extends Place {
  readonly fd: number
}

function moveUpper(view: View, from: OpenPlace, to: OpenPlace, isDir: boolean, leaveWhiteout: boolean): void {
  const { features } = view.workdir()
  const whiteoutThere = isDir && upperWhiteout(view, to)
  if (whiteoutThere && features.renameExchange) {
    // The whiteout at the new place moves to the old one, where it stays if it is needed.
    sys.renameat2(from.fd, from.name, to.fd, to.name, sys.RENAME_EXCHANGE)
    if (!leaveWhiteout) sys.unlinkat(from.fd, from.name, 0)
    return
  }
  if (whiteoutThere) sys.unlinkat(to.fd, to.name, 0)
  if (leaveWhiteout && features.renameWhiteout && features.whiteout === 'char') {
    sys.renameat2(from.fd, from.name, to.fd, to.name, sys.RENAME_WHITEOUT)
    return
  }
  sys.renameat2(from.fd, from.name, to.fd, to.name)
  // A crash in between shows the lower object at the old place again: two objects, none lost.
  if (leaveWhiteout) whiteOut(view, from.dir, from.name)
}

function upperWhiteout(view: View, place: OpenPlace): boolean {
  return probe(view, view.upperOf(place.dir), place.name, false) === 'hidden'
}

/** A target directory that looks empty may hold whiteouts in upper; rename(2) wants it really empty. */
function clearWhiteouts(view: View, dir: DirInode): void {
  if (dir.upper === null) return
  const { dirfd, name } = view.at(dir)
  // Nothing below may show through meanwhile.
  if (dir.merges) setOpaque(dirfd, name, view.prefix)
  emptyDir(dirfd, name)
}

function exchangePlaces(view: View, from: Place, source: Inode, to: Place, target: Inode): void {
  prepareMove(view, source, from, to)
  prepareMove(view, target, to, from)
  markImpureFor(view, source, to.dir, from.dir)
  markImpureFor(view, target, from.dir, to.dir)
  const fromFd = view.upperFd(from.dir)
  const toFd = view.upperFd(to.dir)
  view.journal?.changing(sys.statAt(fromFd, from.name))
  sys.renameat2(fromFd, from.name, toFd, to.name, sys.RENAME_EXCHANGE)
  from.dir.listing?.remove(from.name)
  to.dir.listing?.remove(to.name)
  const aside: Place = { dir: from.dir, name: '' }
  replaceName(view, target, to, aside)
  renamed(view, source, from, to)
  renamed(view, target, aside, from)
}

/** Brings the tables in line with a rename that has happened on disk. */
function renamed(view: View, inode: Inode, from: Place, to: Place): void {
  from.dir.listing?.remove(from.name)
  replaceName(view, inode, from, to)
  const stat = view.stat(inode)
  to.dir.listing?.add(to.name, inode.type >>> 12, stat.ino, 0, inode.isDir() && inode.merges)
}

function replaceName(view: View, inode: Inode, from: Place, to: Place): void {
  const upper = view.upperOf(to.dir)
  // Added before the old one goes, so that the inode is never without a name.
  view.table.addName(inode, to.dir, to.name)
  view.table.removeName(inode, from.dir, from.name)
  const real = inode.upper
  if (real === null || isIndexed(view, inode)) return
  if (inode.aliases === null || (real.parent === from.dir.upper && real.name === from.name)) {
    real.parent = upper
    real.name = to.name
  }
}
