/**
 * Hard links of the lower layers (index=on): the names of one lower file stay one file after copy-up.
 *
 * The first copy-up of any of them makes the index entry, `WORKDIR/index/HEX` (HEX being the lower file's origin record); every upper
 * name is a link to it. A name that has no upper link yet still finds the copy through the index. How many names the view
 * shows is kept in the nlink attribute, relative to the links of the lower file (`L+0`) or of the upper one (`U-1`), whichever does
 * not change by what comes next.
 *
 * Source: fs/overlayfs/util.c (ovl_nlink_start), fs/overlayfs/inode.c (ovl_get_nlink), overlayfs.rst ("Inode index").
 */
import * as sys from '../sys/index.js'
import type { Stat } from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { isCharWhiteout, type OverlayPrefix } from '../format/index.js'
import type { DirInode, Inode } from './inode.js'
import { type Layer, Real } from './layer.js'
import { originRecord } from './origin-ino.js'
import type { At, View } from './view.js'

export interface IndexEntry {
  readonly real: Real
  readonly stat: Stat
}

/** Twice as many hexadecimal digits have to fit a name. */
const MAX_RECORD = 127

/** The open index directory, as a layer of its own: its entries are upper objects that always have this name. */
export class HardlinkIndex {
  constructor(
    readonly layer: Layer,
    private readonly prefix: OverlayPrefix,
  ) {}

  /** The index entry of a lower file; `undefined` before its first copy-up. */
  find(lower: Real, dirfd: number): IndexEntry | undefined {
    return this.findRecord(originRecord(lower.layer, dirfd, lower.name))
  }

  /** The same by origin record. A record from disk may be garbage: it is only ever a name in hexadecimal. */
  findRecord(record: Buffer): IndexEntry | undefined {
    if (record.length === 0 || record.length > MAX_RECORD) return undefined
    const real = this.entry(record)
    const stat = sys.statAt(this.layer.rootFd.n, real.name)
    return stat === undefined || isCharWhiteout(stat) ? undefined : { real, stat }
  }

  /** The place of an entry, whether it exists or not. */
  entry(record: Buffer): Real {
    return new Real(this.layer, this.layer.root, record.toString('hex'))
  }

  /** The names that the view shows of an entry; `undefined` where its attribute says nothing. */
  shownLinks(name: string, stat: Stat, lowerLinks: number | undefined): number | undefined {
    const value = sys.getxattrAt(this.layer.rootFd.n, name, this.prefix + 'nlink')
    const match = SHAPE.exec(value?.toString('latin1') ?? '')
    if (match === null) return undefined
    const base = match[1] === 'L' ? lowerLinks : stat.nlink
    return base === undefined ? undefined : base + Number(match[2])
  }

  /** Removes entries that a crash left without any name in the view. */
  sweep(): void {
    const { rootFd } = this.layer
    for (const name of sys.listDir(rootFd.n).names) {
      const stat = sys.statAt(rootFd.n, name)
      if (stat === undefined || sys.S_ISDIR(stat.mode)) continue
      const shown = this.shownLinks(name, stat, undefined)
      if (stat.nlink === 1 && shown !== undefined && shown <= 0) sys.unlinkat(rootFd.n, name, 0)
    }
  }
}

const SHAPE = /^([LU])([+-]\d{1,9})$/

/** Keeps the count of names right across a change that adds or removes an upper link together with a name. */
export function keepLinks(view: View, inode: Inode): void {
  if (inode.links === 0) return
  const at = view.at(inode)
  const stat = sys.statAt(at.dirfd, at.name)
  if (stat !== undefined) writeLinks(view, at, 'U', inode.links - stat.nlink)
}

/** Keeps the count right across a change of the upper links alone; `lowerLinks` is the lower file's count. */
export function keepLinksByLower(view: View, at: At, links: number, lowerLinks: number): void {
  writeLinks(view, at, 'L', links - lowerLinks)
}

function writeLinks(view: View, at: At, base: 'L' | 'U', delta: number): void {
  const value = `${base}${delta < 0 ? '' : '+'}${delta}`
  sys.setxattrAt(at.dirfd, at.name, view.prefix + 'nlink', Buffer.from(value))
}

/** True for an upper object that is reached through the index. */
export function isIndexed(view: View, inode: Inode): boolean {
  return view.index !== null && inode.upper?.layer === view.index.layer
}

/** A name of a lower hard link is about to go: the count of those that stay needs the index, and so the copy, first. */
export function needsIndex(view: View, inode: Inode): boolean {
  return view.index !== null && inode.links > 0 && inode.upper === null && !inode.nameless
}

/**
 * Gives a name of an indexed object its upper link, so that removing or renaming it is like removing any upper name.
 * The parent has an upper directory.
 */
export function ensureAlias(view: View, inode: Inode, parent: DirInode, name: string): void {
  if (!isIndexed(view, inode) || inode.upper === null) return
  const parentFd = view.upperFd(parent)
  const from = view.at(inode)
  if (sys.statAt(parentFd, name) !== undefined) return
  const { lower } = inode
  const lowerStat = lower?.parent == null ? undefined : sys.statAt(view.fds.get(lower.parent), lower.name)
  if (lowerStat !== undefined) keepLinksByLower(view, from, inode.links, lowerStat.nlink)
  sys.linkat(from.dirfd, from.name, parentFd, name, 0)
  keepLinks(view, inode)
}

/** One name of an indexed object is gone: when it was the last, the index entry goes too. */
export function linkRemoved(view: View, inode: Inode): void {
  if (inode.links === 0) return
  inode.links--
  if (inode.links > 0 || !isIndexed(view, inode) || inode.upper === null || view.index === null) return
  const { rootFd } = view.index.layer
  if (inode.orphan === null)
    view.hold(inode, sys.openat(rootFd.n, inode.upper.name, sys.O_PATH | sys.O_NOFOLLOW))
  try {
    sys.unlinkat(rootFd.n, inode.upper.name, 0)
  } catch (error) {
    if (!(error instanceof SysError) || error.errno !== E.ENOENT) throw error
  }
  inode.upper = null
}
