/**
 * Names that are answered without this room (KernelSide.answerNames): in which directories, and what is done about the inodes that
 * come of it. native/names.h says how it is kept from giving one object two of them.
 */
import { SysError } from '../base/sys-error.js'
import * as sys from '../sys/index.js'
import { type AnsweredReal, type LowerFile, MOST_REALS } from '../fuse/filesystem.js'
import type { DirInode } from './inode.js'
import { type DirReal, Real } from './layer.js'
import { nameGone } from './remove.js'
import type { View } from './view.js'

/** Names that are asked for before it is worth it. */
const WORTH = 2
/** By then an answered directory may have been given up for others. */
const AGAIN = 8
/** Known names that are told; with more, only what is missing is answered. */
const MOST_KNOWN = 256
/** Names in a directory whose files are told; native code has room for two thousand at once. */
const MOST_TOLD = 1024

/** To be called when a name in the directory was looked up here. */
export function lookedUp(view: View, dir: DirInode): void {
  const asked = ++dir.asked
  if ((asked === WORTH || asked % AGAIN === 0) && isPlain(view, dir)) answerIfReached(view, dir)
}

/** What was said of the directory's names is true no longer. It is said anew when it is worth it again. */
export function rulesChanged(view: View, dir: DirInode): void {
  dir.asked = dir.opened = 0
  view.kernel.answersChanged(dir.nodeid)
}

function answerIfReached(view: View, dir: DirInode): void {
  try {
    answer(view, dir)
  } catch (error) {
    // A layer that cannot be reached just now: what was looked up is none the less so.
    if (!(error instanceof SysError)) throw error
  }
}

/** To be called when a file that only a lower layer has was opened here to be read: who reads two files of a directory often reads all. */
export function openedBelow(view: View, dir: DirInode): void {
  const opened = ++dir.opened
  if ((opened !== WORTH && opened % AGAIN !== 0) || dir.children.size > MOST_TOLD || !isPlain(view, dir))
    return
  answerIfReached(view, dir)
  const files: LowerFile[] = []
  for (const [name, inode] of dir.children) {
    const { nodeid, ino, type, upper, lower, links } = inode
    // One of several names may be copied up under another.
    if (type !== sys.S_IFREG || upper !== null || lower?.parent == null || links > 0) continue
    const below = dir.lowers.indexOf(lower.parent)
    const told = view.changes.told(inode)
    if (below >= 0 && lower.name === name && told !== undefined)
      files.push({ nodeid, below, name, ino, ...told })
  }
  view.kernel.tellFiles(dir.nodeid, files)
}

/** What is found in such a directory is what is shown, as far as its real directories do not hide it from each other. */
function isPlain(view: View, dir: DirInode): boolean {
  const { options, owner, dataOnly, mountpoint } = view
  return (
    owner.plain &&
    !options.metacopy &&
    dataOnly.length === 0 &&
    mountpoint === null &&
    (!dir.nameless || dir === view.table.root) &&
    dir.ahead === null &&
    view.watch?.isUnwatched(dir) !== true &&
    dir.lowers.length + (dir.upper === null ? 0 : 1) <= MOST_REALS &&
    !dir.lowers.some(real => real.xwhiteouts) &&
    dir.upper?.xwhiteouts !== true
  )
}

function answer(view: View, dir: DirInode): void {
  // A request that was put off goes on at any time, and the names that are told have to be all.
  adoptIssued(view)
  const last = dir.lowers.at(-1)
  const reals = dir.lowers.map(real => answered(view, real, real !== last))
  if (dir.upper !== null) reals.unshift({ ...answered(view, dir.upper, last !== undefined), upper: true })
  view.kernel.answerNames({
    nodeid: dir.nodeid,
    reals,
    known: dir.children.size <= MOST_KNOWN ? [...dir.children.keys()] : undefined,
    timeout: view.options.timeout,
    linksApart: view.index !== null,
  })
}

/** `above`: markers in it would hide something. */
function answered(view: View, real: DirReal, above: boolean): AnsweredReal {
  const fd = view.fds.get(real)
  const markers = above && real.lookForMarkers(fd)
  return { fd, upper: false, markers, inos: view.inos.range(sys.statFd(fd).dev) }
}

/** Makes the inodes that the kernel was told of meanwhile. */
export function adoptIssued(view: View): void {
  for (const issued of view.kernel.takeIssued()) {
    const dir = view.table.get(issued.directory)
    const isNew = issued.below < 0
    const real = dir?.isDir() !== true ? null : isNew ? dir.upper : dir.lowers[issued.below]
    if (dir?.isDir() !== true || real == null) continue
    // Somebody took what had the name away behind the mount.
    const stale = isNew ? dir.children.get(issued.name) : undefined
    if (stale !== undefined) nameGone(view, stale, dir, issued.name)
    const inode = view.table.issued(issued, dir)
    const own = new Real(real.layer, real, issued.name)
    if (isNew) {
      inode.upper = own
      view.listings.created(dir, issued.name, issued.type, issued.ownIno)
    } else {
      inode.lower = own
      inode.stamp = issued.stamp
      inode.most = issued.size
    }
    view.table.dropIfUnused(inode)
  }
}
