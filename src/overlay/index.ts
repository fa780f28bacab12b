/**
 * The merged view as a filesystem: every request type is one line that finds the inodes and calls the room of its concern.
 */
import * as sys from '../sys/index.js'
import { toUtf8 } from '../base/bytes.js'
import { E } from '../base/errno.js'
import type { Fd } from '../base/fd.js'
import { SysError } from '../base/sys-error.js'
import type {
  AttrReply,
  Caller,
  Connection,
  DirSink,
  Entry,
  FileSystem,
  KernelSide,
  Maybe,
  NegativeEntry,
  OpenReply,
  SetAttr,
  StatFsReply,
  StatxReply,
  WriteAt,
} from '../fuse/filesystem.js'
import * as attr from './attr.js'
import type { LowerMode, MountOptions, OverlayConfig } from './config.js'
import * as create from './create.js'
import { DirInode, type Inode, ROOT_ID } from './inode.js'
import { InoMap } from './ino.js'
import * as io from './io.js'
import { ioctl } from './ioctl.js'
import { DirFds } from './layer.js'
import { Limit, limited, openAccount } from './limit.js'
import { link } from './link.js'
import { ListingCache } from './listing-cache.js'
import { lookup } from './lookup.js'
import type { Journal } from './journal.js'
import {
  endVolatile,
  type HandedLayers,
  type OpenedLayers,
  openLayers,
  takeOverLayers,
} from './open-layers.js'
import { isTrusted } from './marks.js'
import { adoptIssued } from './names.js'
import { Opens } from './opens.js'
import { Ownership } from './ownership.js'
import { readdir } from './readdir.js'
import { NOBODY, Restorer } from './recover.js'
import { rmdir, unlink } from './remove.js'
import { rename } from './rename.js'
import { type Mountpoint, View } from './view.js'
import { LowerWatch } from './watch.js'
import * as xattr from './xattr.js'

/** Listings are held for at most so many entries in all (about 100 bytes each). */
const MAX_LISTED = 400_000

export interface OverlayFacts {
  readonly inodes: number
  readonly ahead: { readonly found: number; readonly used: number }
  readonly openDirs: number
  readonly xattrPrefix: string
  readonly whiteout: string
  /** False where mounts below a layer show through. */
  readonly cloned: boolean
  readonly lower: LowerFacts
}

/** How it stands with lower layers that change. */
export interface LowerFacts {
  readonly mode: LowerMode
  /** Changes of lower files that were noticed. */
  readonly noticed: number
  /** With lower=live: directories that are watched, how many are not, and why. */
  readonly watched?: number
  readonly outside?: { directories: number; why: string }
}

export class Overlay implements FileSystem {
  /** Called after every FORGET. */
  onForget: (() => void) | undefined
  private readonly privileged = sys.geteuid() === 0
  /** Present when opens are answered one by one. */
  private opens: Opens | undefined
  private restorer: Restorer | undefined

  private constructor(
    private readonly view: View,
    private readonly layers: OpenedLayers,
    private readonly config: OverlayConfig,
  ) {}

  /** Opens the layers. @throws SysError whose path names the layer; nothing is left open then */
  static open(config: OverlayConfig): Overlay {
    const overlay = Overlay.over(config, openLayers(config), () => entryOf(config.mountpoint))
    markOwned(overlay.view)
    return overlay
  }

  /**
   * Over a predecessor's layers, none of which is asked anything; restore() comes next, and sweep() when upper answers. `since`: when the
   * mount began, milliseconds since 1970.
   */
  static takeOver(
    config: OverlayConfig,
    handed: HandedLayers,
    generation: number,
    mountpoint: Mountpoint | null,
    since: number,
  ): Overlay {
    return Overlay.over(config, takeOverLayers(config, handed, generation), () => mountpoint, since)
  }

  private static over(
    config: OverlayConfig,
    layers: OpenedLayers,
    mountpoint: () => Mountpoint | null,
    since = Date.now(),
  ): Overlay {
    const options = possibleOptions(layers, config.options)
    const all = [layers.upper, ...layers.lowers].filter(layer => layer !== null)
    const inos = new InoMap({
      devices: all.map(layer => layer.dev),
      xino: options.xino,
      ino32: options.ino32,
    })
    const top = layers.lowers[0] ?? layers.upper
    if (top === undefined || top === null) throw new SysError(E.EINVAL, 'mount', 'lowerdir')
    const root = new DirInode(ROOT_ID, sys.S_IFDIR, inos.shown(top.facts))
    root.upper = layers.upper?.root ?? null
    root.lowers = layers.lowers.map(layer => layer.root)
    root.lower = root.lowers[0] ?? null
    const view = new View(
      layers.upper,
      layers.lowers,
      layers.dataOnly,
      layers.work,
      layers.index,
      new DirFds(dirFdLimit()),
      new ListingCache(MAX_LISTED),
      inos,
      ownershipOf(layers, options),
      options,
      layers.prefix,
      root,
      since,
    )
    if (options.size !== undefined && layers.upper !== null) {
      view.limit = new Limit(openAccount(options.size, layers.upper.rootFd.n), view)
    }
    if (!layers.cloned) view.mountpoint = mountpoint()
    return new Overlay(view, layers, config)
  }

  /** Everything that the kernel knows is written there from now on; before the first request. */
  keep(journal: Journal): void {
    this.view.table.journal = journal
  }

  /** For a table as a predecessor's journal has it; before the first request. */
  restore(): Restorer {
    this.view.kernel = NOBODY
    return (this.restorer = new Restorer(this.view))
  }

  /** What a successor is given to {@link takeOver}. The descriptors stay the overlay's. */
  handOver(): { layers: HandedLayers; mountpoint: Mountpoint | null } {
    const { upper, workdir, work, lowers, dataOnly, cloned, index } = this.layers
    const above =
      upper === null || workdir === null || work === null
        ? null
        : {
            rootFd: upper.rootFd,
            facts: upper.facts,
            workdir,
            work: work.fd,
            prefix: work.prefix,
            features: work.features,
            index: index?.layer.rootFd ?? null,
          }
    return {
      layers: { upper: above, lowers, dataOnly, cloned },
      mountpoint: this.view.mountpoint,
    }
  }

  /** Removes what predecessors were in the midst of, for which upper has to answer. Between two requests. */
  sweep(): void {
    const { work, index } = this.layers
    work?.sweep()
    index?.sweep()
  }

  /** No nodeid up to this one is given out again. */
  usedUp(nodeid: number): void {
    this.view.table.usedUp(nodeid)
  }

  /** How many inodes the kernel knows. */
  get inodeCount(): number {
    return this.view.table.size
  }

  /** All inodes that the kernel knows, for a journal that begins anew. */
  inodes(): Iterable<Inode> {
    return this.view.table.all()
  }

  /** How many references the kernel has to it; 0 for what it does not know. */
  references(nodeid: number): number {
    return this.view.table.get(nodeid)?.nlookup ?? 0
  }

  /** Those of them that were asked for since this daemon took over. */
  askedFor(): Iterable<Inode> {
    return this.view.table.asked()
  }

  /** Nodeids of which the kernel may have other attributes than are true: a predecessor was about to tell it. */
  doubtful(): number[] {
    return Array.from(this.restorer?.suspects.keys() ?? [], inode => inode.nodeid)
  }

  /** Reads some more of what a predecessor knew. False when nothing is left. */
  recallSome(count: number): boolean {
    return this.view.table.recallSome(count)
  }

  /** Tells the overlay how to reach the kernel; before the first request. */
  attach(kernel: KernelSide): void {
    this.view.kernel = kernel
    this.view.table.countIn(kernel.newest)
    if (this.view.options.lower === 'live') {
      this.view.watch = new LowerWatch(this.view)
      this.view.watch.add(this.view.table.root)
    }
    if (this.view.limit !== null) kernel.limit(this.view.limit.account)
  }

  /** After a takeover, between requests: nobody watched the lower layers in between. */
  watchAgain(): void {
    this.view.watch?.everything()
  }

  /** The first change of a lower file that is noticed. */
  onLowerChanged(callback: (path: string) => void): void {
    this.view.changes.onNoticed = callback
  }

  /** Nothing is looked up before it is asked for: a layer may take long to answer. */
  stayBehind(): void {
    this.view.ahead.enabled = false
  }

  /** What the session serves. */
  served(): FileSystem {
    return this.view.limit === null ? this : limited(this, this.view.limit)
  }

  /** After copy-ups under way have ended, one way or the other. A volatile upper becomes an ordinary one. */
  async close(): Promise<void> {
    const copying = [...this.view.table.asked()].map(inode => inode.copyUp).filter(copy => copy !== null)
    await Promise.allSettled(copying)
    const { upper, work } = this.layers
    if (upper !== null && work !== null && this.config.options.volatile) {
      await sys.syncfs(upper.rootFd.n)
      endVolatile(work)
    }
    this.view.close()
  }

  /** What cannot be had over these layers, a line each for people. */
  limitations(): string[] {
    const { upper, work } = this.layers
    if (upper === null || work === null || work.features.xattrs) return []
    const markers =
      work.features.whiteout === 'file' ? 'removals and opaque directories' : 'opaque directories'
    return [
      `upperdir '${toUtf8(upper.path)}' is on a filesystem without extended attributes: no redirect_dir, metacopy or index, ` +
        `a copied-up file shows another inode number after a remount, ${markers} are kept as .wh. files, and the kernel's ` +
        `overlayfs cannot go on with it`,
    ]
  }

  facts(): OverlayFacts {
    this.adoptIssued()
    return {
      inodes: this.view.table.size,
      ahead: this.view.ahead.counters,
      openDirs: this.view.fds.size,
      xattrPrefix: this.view.prefix,
      whiteout: this.layers.work?.features.whiteout ?? 'none',
      cloned: this.layers.cloned,
      lower: lowerFacts(this.view),
    }
  }

  adoptIssued(): void {
    adoptIssued(this.view)
  }

  private inode(nodeid: number): Inode {
    this.view.fds.nextRequest()
    return this.view.inode(nodeid)
  }

  private dir(nodeid: number): DirInode {
    this.view.fds.nextRequest()
    return this.view.dir(nodeid)
  }

  init(connection: Connection): void {
    const { view } = this
    if (connection.has('PASSTHROUGH')) this.opens = new Opens(view, this.restorer ?? null)
    else if (view.owner.plain && view.index === null && view.limit === null && !view.options.metacopy)
      view.kernel.showFiles(view.options.timeout)
  }

  /** How file contents are read and written, and why. */
  ioMode(): { mode: 'cached' | 'passthrough'; why: string } {
    const { io } = this.config.options
    if (this.opens === undefined) {
      return { mode: 'cached', why: io === 'passthrough' ? 'the kernel offers no passthrough' : `io=${io}` }
    }
    const { refused } = this.opens
    return refused === undefined ? { mode: 'passthrough', why: `io=${io}` } : { mode: 'cached', why: refused }
  }

  destroy(): void {
    // The daemon closes the overlay once the session has ended, in whatever way.
  }

  lookup(parent: number, name: string): Entry | NegativeEntry {
    return lookup(this.view, this.dir(parent), name)
  }

  forget(nodeid: number, nlookup: number): void {
    const inode = this.view.table.get(nodeid)
    if (inode !== undefined) {
      if (inode.isDir() && inode.nlookup <= nlookup) this.view.ahead.drop(inode)
      this.view.table.forget(inode, nlookup)
    }
    this.onForget?.()
  }

  getattr(nodeid: number): AttrReply {
    return attr.getattr(this.view, this.inode(nodeid))
  }

  statx(nodeid: number, _mask: number): StatxReply {
    return attr.statx(this.view, this.inode(nodeid))
  }

  setattr(nodeid: number, change: SetAttr, caller: Caller): AttrReply {
    const inode = this.inode(nodeid)
    const reply = attr.setattr(this.view, inode, change, caller)
    if (change.mode !== undefined) this.opens?.modeGiven(inode, change.mode)
    return reply
  }

  readlink(nodeid: number): string {
    const at = this.view.at(this.inode(nodeid))
    return sys.readlinkat(at.dirfd, at.name)
  }

  symlink(parent: number, name: string, target: string, caller: Caller): Entry {
    const what = { mode: sys.S_IFLNK | 0o777, target, umask: 0, caller }
    return create.create(this.view, this.dir(parent), name, what)
  }

  mknod(parent: number, name: string, mode: number, rdev: number, umask: number, caller: Caller): Entry {
    // That would be a whiteout. The kernel's overlayfs refuses it with the same errno.
    if (sys.S_ISCHR(mode) && rdev === 0) throw new SysError(E.EPERM, 'mknod', name)
    const what = { mode, rdev: sys.decodeDev(rdev), umask, caller }
    return create.create(this.view, this.dir(parent), name, what)
  }

  mkdir(parent: number, name: string, mode: number, umask: number, caller: Caller): Entry {
    const what = { mode: sys.S_IFDIR | (mode & 0o7777), umask, caller }
    return create.create(this.view, this.dir(parent), name, what)
  }

  unlink(parent: number, name: string): void {
    unlink(this.view, this.dir(parent), name)
  }

  rmdir(parent: number, name: string): void {
    rmdir(this.view, this.dir(parent), name)
  }

  rename(parent: number, name: string, newParent: number, newName: string, flags: number): void {
    const from = { dir: this.dir(parent), name }
    rename(this.view, from, { dir: this.view.dir(newParent), name: newName }, flags)
  }

  link(nodeid: number, newParent: number, newName: string): Entry {
    return link(this.view, this.inode(nodeid), this.view.dir(newParent), newName)
  }

  /**
   * io=cached: opens send no message after the first (ENOSYS), because data is served by inode, whichever file is behind it at
   * that moment. io=passthrough: every open is answered, with the backing file where there may be one.
   */
  open(nodeid: number, flags: number): Maybe<OpenReply | undefined> {
    return this.opens?.openFile(this.inode(nodeid), flags)
  }

  create(parent: number, name: string, _flags: number, mode: number, umask: number, caller: Caller) {
    const what = { mode: sys.S_IFREG | (mode & 0o7777), umask, caller }
    return this.created(create.createFile(this.view, this.dir(parent), name, what))
  }

  tmpfile(parent: number, _flags: number, mode: number, umask: number, caller: Caller) {
    const what = { mode: sys.S_IFREG | (mode & 0o7777), umask, caller }
    return this.created(create.createTmpfile(this.view, this.dir(parent), what))
  }

  private created({ entry, fd }: { entry: Entry; fd: Fd }): { entry: Entry; open: OpenReply } {
    const open = this.opens?.created(this.view.inode(entry.nodeid), fd.n, entry.attr.mode) ?? KEEP_CACHE
    // The descriptor serves READ and WRITE later on, whatever the file's mode says.
    if (open.backingId === undefined) {
      this.view.kernel.registerFile(entry.nodeid, fd.release(), true, entry.attr.ino)
      // An ordinary user's daemon could not open a read-only file for writing a second time.
      if (!this.privileged && (entry.attr.mode & 0o600) !== 0o600) this.view.kernel.pin(entry.nodeid, true)
    } else {
      fd.close()
    }
    return { entry, open }
  }

  release(nodeid: number, fh: number): void {
    const inode = this.view.table.get(nodeid)
    if (inode !== undefined) this.opens?.release(inode, fh)
  }

  prepareIo(nodeid: number, write: boolean, at?: WriteAt): void {
    io.prepareIo(this.view, this.inode(nodeid), write, at)
  }

  fsync(nodeid: number, datasync: boolean): Maybe<void> {
    return io.fsync(this.view, this.inode(nodeid), datasync)
  }

  fsyncdir(nodeid: number, datasync: boolean): Maybe<void> {
    return io.fsync(this.view, this.inode(nodeid), datasync)
  }

  syncfs(): Maybe<void> {
    return io.syncfs(this.view)
  }

  fallocate(nodeid: number, offset: number, length: number, mode: number, caller: Caller): Maybe<void> {
    attr.contentChangedBy(this.view, this.inode(nodeid), caller)
    return io.fallocate(this.view, this.inode(nodeid), offset, length, mode)
  }

  lseek(nodeid: number, offset: number, whence: number): Maybe<number> {
    return io.lseek(this.view, this.inode(nodeid), offset, whence)
  }

  copyFileRange(
    nodeIn: number,
    offIn: number,
    nodeOut: number,
    offOut: number,
    length: number,
    _flags: number,
    caller: Caller,
  ): Maybe<number> {
    attr.contentChangedBy(this.view, this.view.inode(nodeOut), caller)
    const from = { inode: this.inode(nodeIn), offset: offIn }
    return io.copyFileRange(this.view, from, { inode: this.view.inode(nodeOut), offset: offOut }, length)
  }

  ioctl(nodeid: number, command: number, _arg: bigint, input: Buffer) {
    return ioctl(this.view, this.inode(nodeid), command, input)
  }

  /** Zero messages here too: cookies are stable without a handle, and the kernel caches the listing. */
  opendir(): OpenReply | undefined {
    return undefined
  }

  readdir(nodeid: number, _fh: number, cookie: number, sink: DirSink): void {
    readdir(this.view, this.dir(nodeid), cookie, sink)
  }

  releasedir(): void {
    // There is no state per open directory.
  }

  statfs(): StatFsReply {
    const layer = this.layers.upper ?? this.layers.lowers[0]
    if (layer === undefined) throw new SysError(E.EIO, 'statfs')
    const { blocks, bfree, bavail, files, ffree, bsize, namelen, frsize } = sys.fstatfs(layer.rootFd.n)
    return { blocks, bfree, bavail, files, ffree, bsize, namelen, frsize }
  }

  setxattr(nodeid: number, name: string, value: Buffer, flags: number, killSgid: boolean): void {
    const inode = this.inode(nodeid)
    xattr.setxattr(this.view, inode, name, value, flags)
    if (killSgid) attr.dropSetgid(this.view, inode)
  }

  getxattr(nodeid: number, name: string): Buffer {
    return xattr.getxattr(this.view, this.inode(nodeid), name)
  }

  listxattr(nodeid: number, caller: Caller): string[] {
    return xattr.listxattr(this.view, this.inode(nodeid), caller)
  }

  removexattr(nodeid: number, name: string, caller: Caller): void {
    xattr.removexattr(this.view, this.inode(nodeid), name, caller)
  }
}

function lowerFacts({ options, changes, watch }: View): LowerFacts {
  const facts = { mode: options.lower, noticed: changes.noticed }
  if (watch === null) return facts
  const outside = watch.outside()
  return { ...facts, watched: watch.watches, ...(outside !== undefined && { outside }) }
}

/** The directory entry behind a path, before anything is mounted on it. */
function entryOf(path: string): Mountpoint | null {
  const slash = path.lastIndexOf('/')
  const dir = sys.statAt(sys.AT_FDCWD, path.slice(0, slash) || '/', 0)
  if (dir === undefined) return null
  return { dev: dir.dev, inoHi: dir.inoHi, inoLo: dir.inoLo, name: path.slice(slash + 1) }
}

function ownershipOf(layers: OpenedLayers, options: MountOptions): Ownership {
  const { upper, lowers } = layers
  const marked = { upper: upper?.facts.mark ?? null, lowers: lowers.map(lower => lower.facts.mark) }
  return new Ownership(options, marked, isTrusted())
}

/** With xattr_permissions upper's root is marked, as fuse-overlayfs does it: readers look at nothing else. */
function markOwned({ upper, owner }: View): void {
  if (upper === null || owner.overrideAttr === undefined) return
  const root = { dirfd: upper.rootFd.n, name: '' }
  if (owner.read(upper.index, root) !== undefined) return
  const { uid, gid, mode } = sys.statFd(root.dirfd)
  owner.write(root, { uid, gid, mode: mode & 0o7777 })
}

/** FOPEN_KEEP_CACHE: the page cache belongs to the inode, not to one opening of it. */
const KEEP_CACHE: OpenReply = { fh: 0, flags: 1 << 1 }

/** Directory descriptors may take a quarter of what the process has; 64 are needed for the deepest single request. */
function dirFdLimit(): number {
  return Math.max(64, Math.min(16_384, Math.floor(sys.getrlimitNofile().soft / 4)))
}

/** Without attributes in upper nothing of this can be kept there: as the kernel does, the mount goes on without. */
function possibleOptions(layers: OpenedLayers, options: MountOptions): MountOptions {
  if (layers.work === null || layers.work.features.xattrs) return options
  const redirectDir = options.redirectDir === 'on' ? 'follow' : options.redirectDir
  return { ...options, metacopy: false, redirectDir }
}

export type { Identity, Journal, OpenFacts } from './journal.js'
export type { DirInode, Inode } from './inode.js'
export type { HandedLayer, HandedLayers, HandedUpper } from './open-layers.js'
export type { Real } from './layer.js'
export type { KnownInode, KnownName, Predecessor } from './predecessor.js'
export type { Announced, Restorer } from './recover.js'
export type { RootFacts } from './root-facts.js'
export type { Mountpoint } from './view.js'
