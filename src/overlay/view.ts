/**
 * What every operation works on: the layers, the objects known to the kernel, and how a real object is reached.
 */
import * as sys from '../sys/index.js'
import type { Stat } from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import type { Fd } from '../base/fd.js'
import type { Attr, Entry, KernelSide } from '../fuse/filesystem.js'
import type { OverlayPrefix } from '../format/index.js'
import { Changes } from './changes.js'
import type { MountOptions } from './config.js'
import type { HardlinkIndex } from './hardlinks.js'
import { type DirInode, type Inode, InodeTable } from './inode.js'
import type { InoMap } from './ino.js'
import type { Journal } from './journal.js'
import type { DirFds, DirReal, Layer, Real } from './layer.js'
import type { Limit } from './limit.js'
import type { ListingCache } from './listing-cache.js'
import { type Follows, follows } from './marks.js'
import type { Ownership } from './ownership.js'
import { ReadAhead } from './read-ahead.js'
import { materialise } from './recover.js'
import { type LowerWatch, UNWATCHED } from './watch.js'
import type { WorkDir } from './workdir.js'

/** A directory entry on which the view is mounted: the directory that holds it, and its name. */
export interface Mountpoint {
  readonly dev: number
  readonly inoHi: number
  readonly inoLo: number
  readonly name: string
}

/** A real object as the *at calls take it: name '' is the object behind the descriptor itself. */
export interface At {
  readonly dirfd: number
  readonly name: string
}

export class View {
  kernel!: KernelSide
  /** Where the view itself is mounted, while a layer could lead there; see {@link isOwnMountpoint}. */
  mountpoint: Mountpoint | null = null
  readonly ahead = new ReadAhead(this)
  readonly changes: Changes
  /** Present with lower=live. */
  watch: LowerWatch | null = null
  /** Present with size=. */
  limit: Limit | null = null
  /** From which files security.capability was removed last, by which thread: the kernel does it for a write, and says no more. */
  readonly capabilityTaken = new WeakMap<Inode, number>()
  readonly table: InodeTable
  readonly follows: Follows
  /** Files whose mode has changed without the kernel knowing; any answer with attributes takes one out. */
  readonly toBeTold = new Set<Inode>()

  constructor(
    readonly upper: Layer | null,
    /** Lower layers, top first; `lowers[i].index` is i + 1. */
    readonly lowers: readonly Layer[],
    /** Data-only layers (below `::`), top first. */
    readonly dataOnly: readonly Layer[],
    readonly work: WorkDir | null,
    /** Present with index=on. */
    readonly index: HardlinkIndex | null,
    readonly fds: DirFds,
    readonly listings: ListingCache,
    readonly inos: InoMap,
    readonly owner: Ownership,
    readonly options: MountOptions,
    /** The namespace of the overlay's own attributes. */
    readonly prefix: OverlayPrefix,
    root: DirInode,
    /** When the mount began, milliseconds since 1970. */
    since: number,
  ) {
    this.follows = follows(options, prefix)
    this.changes = new Changes(this, since)
    this.table = new InodeTable(root, inode => this.dropped(inode))
  }

  /** @throws SysError ESTALE for a nodeid that was never given out: the kernel then walks the path anew. */
  inode(nodeid: number): Inode {
    const inode = this.table.get(nodeid)
    if (inode === undefined) throw new SysError(E.ESTALE, 'nodeid', String(nodeid))
    if (inode.recovered) materialise(this, inode)
    return inode
  }

  dir(nodeid: number): DirInode {
    const inode = this.inode(nodeid)
    if (!inode.isDir()) throw new SysError(E.ENOTDIR, 'nodeid', inode.name)
    return inode
  }

  /** Where the object that holds an inode's attributes is: orphan, upper, or else the topmost lower. */
  at(inode: Inode): At {
    const held = inode.orphan ?? (inode.upper === null ? inode.held : null)
    if (held !== null) return { dirfd: held.n, name: '' }
    const real = inode.upper ?? inode.lower
    if (real === null) throw new SysError(E.ESTALE, 'inode', inode.name)
    if (real.parent === null) return { dirfd: real.layer.rootFd.n, name: '' }
    return { dirfd: this.fds.get(real.parent), name: real.name }
  }

  /** The number of the layer that {@link at} leads to. */
  layerOf(inode: Inode): number {
    return inode.orphan !== null ? 0 : ((inode.upper ?? inode.lower)?.layer.index ?? 0)
  }

  /**
   * Whether `name` in a real directory is the place where this view is mounted. Looking at it would be a request to this daemon,
   * which would wait for itself for ever. Layers that could be cloned never lead there.
   */
  isOwnMountpoint(dirfd: number, name: string): boolean {
    const own = this.mountpoint
    if (own?.name !== name) return false
    const dir = sys.statAt(dirfd, '')
    return dir?.inoLo === own.inoLo && dir.inoHi === own.inoHi && dir.dev === own.dev
  }

  stat(inode: Inode): Stat {
    const stat = this.statIfThere(inode)
    if (stat === undefined) throw new SysError(E.ESTALE, 'statx', inode.name)
    return stat
  }

  /** Undefined where the object is gone from its layer. The inode may have lost its name. */
  statIfThere(inode: Inode): Stat | undefined {
    if (inode.upper === null && inode.orphan === null) return this.changes.stat(inode)
    const { dirfd, name } = this.at(inode)
    return sys.statAt(dirfd, name)
  }

  /** fuse_attr of an inode whose real object's attributes are `stat`. @throws Again: see changes.ts */
  attr(inode: Inode, stat: Stat): Attr {
    if (!inode.isDir()) this.changes.attributes(inode, stat)
    else if (this.watch?.isUnwatched(inode) === true) this.watch.compare(inode)
    if (this.toBeTold.size > 0) this.toBeTold.delete(inode)
    const shown = this.owner.shown(stat, inode, this)
    return {
      ino: inode.ino,
      size: stat.size,
      blocks: inode.data === null ? stat.blocks : this.dataBlocks(inode.data, stat),
      atime: stat.atime,
      mtime: stat.mtime,
      ctime: stat.ctime,
      atimeNsec: stat.atimeNsec,
      mtimeNsec: stat.mtimeNsec,
      ctimeNsec: stat.ctimeNsec,
      mode: inode.type | (shown.mode & 0o7777),
      nlink: this.nlink(inode, stat),
      uid: shown.uid,
      gid: shown.gid,
      rdev: sys.encodeDev(shown.rdev),
      blksize: stat.blksize,
    }
  }

  /** A file without data of its own shows the room that its data takes below, as the kernel does. */
  private dataBlocks(data: Real, stat: Stat): number {
    if (data.parent === null) return stat.blocks
    return sys.statAt(this.fds.get(data.parent), data.name)?.blocks ?? stat.blocks
  }

  private nlink(inode: Inode, stat: Stat): number {
    if (inode.isDir()) return this.oneLink(inode) ? 1 : stat.nlink
    if (inode.links > 0) return inode.links
    if (inode.nameless && inode.orphan === null) return 0
    return stat.nlink
  }

  /** The links of a merged directory cannot be counted without reading it: 1, which find(1) understands (as overlayfs). */
  oneLink(dir: DirInode): boolean {
    const merged = dir.lowers.length + (dir.upper === null ? 0 : 1) > 1
    return merged || this.options.staticNlink
  }

  /** The answer that makes the kernel hold one more reference. @throws Again before it does: see changes.ts */
  entry(inode: Inode, stat: Stat): Entry {
    const attr = this.attr(inode, stat)
    inode.nlookup++
    this.table.journal?.counted(inode)
    const attrValid = this.timeout(inode)
    const entryValid = inode.parent === null ? attrValid : this.timeout(inode.parent)
    return { nodeid: inode.nodeid, generation: 0, entryValid, attrValid, attr }
  }

  /** Seconds for which the kernel may believe in an object's attributes, or in the names of a directory. */
  timeout(inode: Inode): number {
    const { timeout } = this.options
    if (this.watch === null) return timeout
    const dir = inode.isDir() ? inode : inode.parent
    return dir !== null && this.watch.isUnwatched(dir) ? Math.min(UNWATCHED, timeout) : timeout
  }

  /** The directory's upper real, where the caller made sure that there is one. */
  upperOf(dir: DirInode): DirReal {
    if (dir.upper === null) throw new SysError(E.EROFS, 'upper', dir.name)
    return dir.upper
  }

  upperFd(dir: DirInode): number {
    return this.fds.get(this.upperOf(dir))
  }

  /** @throws SysError EROFS on a mount without upperdir */
  workdir(): WorkDir {
    if (this.work === null) throw new SysError(E.EROFS, 'mount')
    return this.work
  }

  /** Whether a sync of upper is wanted (volatile, fsync=0) and does anything. */
  get syncs(): boolean {
    const { fsync, volatile } = this.options
    return fsync && !volatile && this.work?.features.durable === true
  }

  /** Attributes that the kernel holds for `inode` are no longer true, and no reply will say so. */
  attrChanged(inode: Inode): void {
    if (inode.nlookup === 0) return
    this.table.journal?.notified(inode.nodeid)
    this.kernel.invalidateInode(inode.nodeid, -1, 0)
  }

  /** The kernel's listing of a directory, and its attributes, are no longer true. */
  attrAndListingChanged(dir: DirInode): void {
    if (dir.nlookup === 0) return
    this.table.journal?.notified(dir.nodeid)
    this.kernel.answersChanged(dir.nodeid)
    this.kernel.invalidateInode(dir.nodeid, 0, 0)
  }

  get journal(): Journal | null {
    return this.table.journal
  }

  /** From now on `fd` (O_PATH) is the way to the object: its last known name goes, or it never had one. */
  hold(inode: Inode, fd: Fd): void {
    inode.orphan = fd
    this.table.journal?.hold(inode, fd.n)
  }

  /** Undoes {@link hold}: there is a name again, or nobody asks any more. */
  unhold(inode: Inode): void {
    if (inode.orphan === null) return
    // First: a successor must not be given what another descriptor is by then.
    this.table.journal?.unhold(inode, inode.orphan.n)
    inode.orphan.close()
    inode.orphan = null
  }

  private dropped(inode: Inode): void {
    this.toBeTold.delete(inode)
    this.kernel.unregisterFile(inode.nodeid)
    this.limit?.dropped(inode)
    this.changes.dropped(inode)
    this.unhold(inode)
    if (inode.lower !== null && inode.nameless) this.fds.dropPassages(inode.lower)
    if (inode.data !== null) this.fds.dropPassages(inode.data)
    if (inode.isDir()) {
      this.watch?.remove(inode)
      this.ahead.drop(inode)
      this.listings.drop(inode)
      if (inode.upper !== null) this.fds.drop(inode.upper)
      for (const lower of inode.lowers) {
        this.fds.drop(lower)
        this.fds.dropPassages(lower)
      }
    }
  }

  close(): void {
    for (const inode of this.table.asked()) {
      inode.orphan?.close()
      inode.held?.close()
    }
    this.fds.closeAll()
    for (const layer of [this.upper, ...this.lowers, ...this.dataOnly]) layer?.rootFd.close()
    this.index?.layer.rootFd.close()
    this.work?.close()
  }
}
