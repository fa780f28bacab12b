/**
 * A small filesystem in memory, for the tests of the protocol: a tree of nodes, whose file data is in anonymous files of a
 * directory on disk, so that the data plane has something to read and write.
 */
import { E } from '../../src/base/errno.js'
import { SysError } from '../../src/base/sys-error.js'
import {
  Again,
  type Attr,
  type AttrReply,
  type Caller,
  type Connection,
  type DirSink,
  type Entry,
  type FileSystem,
  FOPEN,
  FUSE_ROOT_ID,
  type KernelSide,
  type NegativeEntry,
  type OpenReply,
  type SetAttr,
  type StatFsReply,
  type StatxReply,
} from '../../src/fuse/index.js'
import * as sys from '../../src/sys/index.js'

const O_TMPFILE = 0o20200000

interface Node {
  nodeid: number
  attr: Attr
  /** Of a directory. */
  children: Map<string, Node> | undefined
  /** Of a file: the open file with its data, -1 until it has one. */
  fd: number
  target: string
  backing: number | undefined
  xattrs: Map<string, Buffer>
  nlookup: number
}

export interface MemoryOptions {
  /** Seconds that entries, negative entries and attributes are cached. */
  timeout: number
  /** Answer OPEN and OPENDIR with ENOSYS. */
  zeroOpen: boolean
  /** FOPEN_ bits of other opens. */
  openFlags: number
  /** Opens name their data file for the kernel to read and write itself. */
  passthrough: boolean
  /** Directory on a real filesystem where file data lives. */
  directory: string
  /** The first prepareIo of a node waits for this long (milliseconds), as a copy-up would. */
  prepareDelay: number
}

export class MemoryFs implements FileSystem {
  readonly nodes = new Map<number, Node>()
  kernel: KernelSide | undefined
  connection: Connection | undefined
  destroyed = 0
  private next = FUSE_ROOT_ID
  private readonly prepared = new Set<number>()
  private readonly options: MemoryOptions

  constructor(options: Partial<MemoryOptions> = {}) {
    this.options = {
      timeout: Infinity,
      zeroOpen: true,
      openFlags: 0,
      passthrough: false,
      directory: '/tmp',
      prepareDelay: 0,
      ...options,
    }
    this.make(sys.S_IFDIR | 0o755, { uid: 0, gid: 0, pid: 0 })
  }

  private make(mode: number, caller: Caller): Node {
    const nodeid = this.next++
    const now = Math.floor(Date.now() / 1000)
    const isDir = sys.S_ISDIR(mode)
    const attr: Attr = {
      ino: nodeid,
      size: 0,
      blocks: 0,
      atime: now,
      mtime: now,
      ctime: now,
      atimeNsec: 0,
      mtimeNsec: 0,
      ctimeNsec: 0,
      mode,
      nlink: isDir ? 2 : 1,
      uid: caller.uid,
      gid: caller.gid,
      rdev: 0,
      blksize: 4096,
    }
    const node: Node = {
      nodeid,
      attr,
      children: isDir ? new Map<string, Node>() : undefined,
      fd: -1,
      target: '',
      backing: undefined,
      xattrs: new Map(),
      nlookup: 0,
    }
    this.nodes.set(nodeid, node)
    return node
  }

  private node(nodeid: number): Node {
    const node = this.nodes.get(nodeid)
    if (node === undefined) throw new SysError(E.ESTALE, 'node')
    return node
  }

  private children(nodeid: number): Map<string, Node> {
    const { children } = this.node(nodeid)
    if (children === undefined) throw new SysError(E.ENOTDIR, 'children')
    return children
  }

  private child(parent: number, name: string): Node {
    const node = this.children(parent).get(name)
    if (node === undefined) throw new SysError(E.ENOENT, 'child', name)
    return node
  }

  private refresh(node: Node): void {
    if (node.fd < 0) return
    const st = sys.statFd(node.fd)
    node.attr.mode = (node.attr.mode & sys.S_IFMT) | (st.mode & 0o7777)
    node.attr.size = st.size
    node.attr.blocks = st.blocks
    node.attr.mtime = st.mtime
    node.attr.mtimeNsec = st.mtimeNsec
  }

  private entry(node: Node): Entry {
    this.refresh(node)
    node.nlookup++
    const { timeout } = this.options
    return { nodeid: node.nodeid, generation: 0, entryValid: timeout, attrValid: timeout, attr: node.attr }
  }

  private add(parent: number, name: string, mode: number, caller: Caller): Node {
    const children = this.children(parent)
    if (children.has(name)) throw new SysError(E.EEXIST, 'add', name)
    const node = this.make(mode, caller)
    children.set(name, node)
    return node
  }

  /** Fills a directory before the mount. */
  populate(name: string, content: Buffer): void {
    const node = this.add(FUSE_ROOT_ID, name, sys.S_IFREG | 0o644, { uid: 0, gid: 0, pid: 0 })
    sys.pwriteSync(this.data(node), content, 0, content.length, 0)
  }

  private data(node: Node): number {
    if (node.fd < 0) {
      node.fd = sys.openat(sys.AT_FDCWD, this.options.directory, O_TMPFILE | sys.O_RDWR, 0o600).release()
      sys.fchmod(node.fd, node.attr.mode & 0o7777)
    }
    return node.fd
  }

  private opened(node: Node): OpenReply {
    const { openFlags, passthrough } = this.options
    if (!passthrough) return { fh: node.nodeid, flags: openFlags }
    node.backing ??= this.kernel?.openBacking(this.data(node))
    if (node.backing === undefined) throw new SysError(E.EOPNOTSUPP, 'openBacking')
    return { fh: node.nodeid, flags: openFlags | FOPEN.PASSTHROUGH, backingId: node.backing }
  }

  init(connection: Connection): void {
    this.connection = connection
  }

  destroy(): void {
    this.destroyed++
    for (const node of this.nodes.values()) if (node.fd >= 0) sys.close(node.fd)
  }

  adoptIssued(): void {
    // Nothing is answered without it.
  }
  lookup(parent: number, name: string): Entry | NegativeEntry {
    const node = this.children(parent).get(name)
    return node === undefined ? { nodeid: 0, entryValid: this.options.timeout } : this.entry(node)
  }

  forget(nodeid: number, nlookup: number): void {
    const node = this.nodes.get(nodeid)
    if (node === undefined) return
    node.nlookup -= nlookup
    if (node.nlookup > 0 || node.attr.nlink > 0) return
    this.kernel?.unregisterFile(nodeid)
    if (node.fd >= 0) sys.close(node.fd)
    this.nodes.delete(nodeid)
  }

  getattr(nodeid: number): AttrReply {
    const node = this.node(nodeid)
    this.refresh(node)
    return { attrValid: this.options.timeout, attr: node.attr }
  }

  statx(nodeid: number): StatxReply {
    const { attr, attrValid } = this.getattr(nodeid)
    return { attrValid, attr, btime: { sec: attr.mtime, nsec: 7 }, attributes: 0, attributesMask: 0 }
  }

  setattr(nodeid: number, change: SetAttr): AttrReply {
    const node = this.node(nodeid)
    const { attr } = node
    if (change.mode !== undefined) {
      attr.mode = (attr.mode & sys.S_IFMT) | (change.mode & 0o7777)
      if (node.fd >= 0) sys.fchmod(node.fd, change.mode & 0o7777)
    }
    if (change.uid !== undefined) attr.uid = change.uid
    if (change.gid !== undefined) attr.gid = change.gid
    if (change.size !== undefined) sys.truncateFd(this.data(node), change.size)
    this.refresh(node)
    if (change.mtime !== undefined && change.mtime !== 'now') {
      if (node.fd >= 0) sys.utimensAt(node.fd, '', 0, sys.UTIME_OMIT, change.mtime.sec, change.mtime.nsec)
      attr.mtime = change.mtime.sec
      attr.mtimeNsec = change.mtime.nsec
    }
    return { attrValid: this.options.timeout, attr }
  }

  readlink(nodeid: number): string {
    return this.node(nodeid).target
  }

  symlink(parent: number, name: string, target: string, caller: Caller): Entry {
    const node = this.add(parent, name, sys.S_IFLNK | 0o777, caller)
    node.target = target
    node.attr.size = target.length
    return this.entry(node)
  }

  mknod(parent: number, name: string, mode: number, rdev: number, umask: number, caller: Caller): Entry {
    const node = this.add(parent, name, mode & ~umask, caller)
    node.attr.rdev = rdev
    return this.entry(node)
  }

  mkdir(parent: number, name: string, mode: number, umask: number, caller: Caller): Entry {
    return this.entry(this.add(parent, name, sys.S_IFDIR | (mode & ~umask & 0o7777), caller))
  }

  unlink(parent: number, name: string): void {
    const node = this.child(parent, name)
    node.attr.nlink--
    this.children(parent).delete(name)
  }

  rmdir(parent: number, name: string): void {
    const node = this.child(parent, name)
    if ((node.children?.size ?? 0) > 0) throw new SysError(E.ENOTEMPTY, 'rmdir', name)
    node.attr.nlink = 0
    this.children(parent).delete(name)
  }

  rename(parent: number, name: string, newParent: number, newName: string, flags: number): void {
    if (flags !== 0) throw new SysError(E.EINVAL, 'rename', name)
    const node = this.child(parent, name)
    const replaced = this.children(newParent).get(newName)
    if (replaced !== undefined) replaced.attr.nlink--
    this.children(parent).delete(name)
    this.children(newParent).set(newName, node)
  }

  link(nodeid: number, newParent: number, newName: string): Entry {
    const node = this.node(nodeid)
    this.children(newParent).set(newName, node)
    node.attr.nlink++
    return this.entry(node)
  }

  open(nodeid: number): OpenReply | undefined {
    return this.options.zeroOpen ? undefined : this.opened(this.node(nodeid))
  }

  create(parent: number, name: string, _flags: number, mode: number, umask: number, caller: Caller) {
    const node = this.add(parent, name, sys.S_IFREG | (mode & ~umask & 0o7777), caller)
    return { entry: this.entry(node), open: this.opened(node) }
  }

  tmpfile(_parent: number, _flags: number, mode: number, umask: number, caller: Caller) {
    const node = this.make(sys.S_IFREG | (mode & ~umask & 0o7777), caller)
    node.attr.nlink = 0
    return { entry: this.entry(node), open: { fh: 0, flags: 0 } }
  }

  release(): void {
    return
  }

  prepareIo(nodeid: number): void {
    const node = this.node(nodeid)
    if (this.options.prepareDelay > 0 && !this.prepared.has(nodeid)) {
      this.prepared.add(nodeid)
      throw new Again(new Promise(resolve => setTimeout(resolve, this.options.prepareDelay)))
    }
    this.kernel?.registerFile(
      nodeid,
      sys.openat(sys.AT_FDCWD, `/proc/self/fd/${this.data(node)}`, sys.O_RDWR).release(),
      true,
    )
  }

  async fsync(nodeid: number): Promise<void> {
    await sys.fsync(this.data(this.node(nodeid)))
  }

  fsyncdir(): void {
    return
  }

  syncfs(): void {
    return
  }

  async fallocate(nodeid: number, offset: number, length: number, mode: number): Promise<void> {
    await sys.fallocate(this.data(this.node(nodeid)), mode, offset, length)
  }

  lseek(nodeid: number, offset: number, whence: number): number {
    return sys.lseek(this.data(this.node(nodeid)), offset, whence)
  }

  copyFileRange(
    nodeIn: number,
    offIn: number,
    nodeOut: number,
    offOut: number,
    length: number,
  ): Promise<number> {
    return sys.copyFileRange(
      this.data(this.node(nodeIn)),
      offIn,
      this.data(this.node(nodeOut)),
      offOut,
      length,
    )
  }

  ioctl(nodeid: number, cmd: number): { result: number; output: Buffer } {
    if (cmd !== 0x80086601) throw new SysError(E.ENOTTY, 'ioctl')
    const output = Buffer.alloc(8)
    output.writeUInt32LE(nodeid)
    return { result: 0, output }
  }

  opendir(): OpenReply | undefined {
    return this.options.zeroOpen ? undefined : { fh: 9, flags: 0 }
  }

  readdir(nodeid: number, _fh: number, cookie: number, sink: DirSink): void {
    const entries = [...this.children(nodeid)]
    for (let i = cookie; i < entries.length; i++) {
      const [name, node] = entries[i] as [string, Node]
      const type = (node.attr.mode & sys.S_IFMT) >>> 12
      if (sink.plus) {
        if (!sink.fits(name)) return
        sink.addPlus(name, i + 1, type, this.entry(node), node.attr.ino)
      } else if (!sink.add(name, node.attr.ino, type, i + 1)) {
        return
      }
    }
  }

  releasedir(): void {
    return
  }

  statfs(): StatFsReply {
    return {
      blocks: 1000,
      bfree: 500,
      bavail: 400,
      files: 100,
      ffree: 50,
      bsize: 4096,
      namelen: 255,
      frsize: 4096,
    }
  }

  setxattr(nodeid: number, name: string, value: Buffer): void {
    this.node(nodeid).xattrs.set(name, value)
  }

  getxattr(nodeid: number, name: string): Buffer {
    const value = this.node(nodeid).xattrs.get(name)
    if (value === undefined) throw new SysError(E.ENODATA, 'getxattr')
    return value
  }

  listxattr(nodeid: number): string[] {
    return [...this.node(nodeid).xattrs.keys()]
  }

  removexattr(nodeid: number, name: string): void {
    if (!this.node(nodeid).xattrs.delete(name)) throw new SysError(E.ENODATA, 'removexattr')
  }
}
