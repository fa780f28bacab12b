import type {
  Attr,
  Caller,
  Connection,
  DirSink,
  Entry,
  FileSystem,
  NegativeEntry,
  OpenReply,
  SetAttr,
  StatFsReply,
  StatxReply,
} from '../../src/fuse/index.js'

export const ATTR: Attr = {
  ino: 0x1_0000_0005,
  size: 0x2_0000_0006,
  blocks: 7,
  atime: -1,
  mtime: 1_700_000_000,
  ctime: 2 ** 33,
  atimeNsec: 999_999_999,
  mtimeNsec: 1,
  ctimeNsec: 0,
  mode: 0o100644,
  nlink: 3,
  uid: 1000,
  gid: 0xffff_fffe,
  rdev: 0,
  blksize: 4096,
}

export function entry(nodeid: number): Entry {
  return { nodeid, generation: 0, entryValid: Infinity, attrValid: 1.5, attr: ATTR }
}

/** Answers everything, keeps what it was asked; a test replaces the method that it is about. */
export class DummyFs implements FileSystem {
  readonly calls: [name: string, ...args: unknown[]][] = []
  listing: string[] = ['a', 'bb', 'ccc']

  private called(name: string, ...args: unknown[]): void {
    this.calls.push([name, ...args])
  }

  init(connection: Connection): void {
    this.called('init', connection)
  }
  destroy(): void {
    this.called('destroy')
  }
  adoptIssued(): void {
    // Nothing is answered without it.
  }
  lookup(parent: number, name: string, caller: Caller): Entry | NegativeEntry {
    this.called('lookup', parent, name, caller)
    return entry(17)
  }
  forget(nodeid: number, nlookup: number): void {
    this.called('forget', nodeid, nlookup)
  }
  getattr(nodeid: number, fh: number | undefined) {
    this.called('getattr', nodeid, fh)
    return { attrValid: Infinity, attr: ATTR }
  }
  statx(nodeid: number, mask: number): StatxReply {
    this.called('statx', nodeid, mask)
    return { attrValid: 0, attr: ATTR, btime: { sec: 5, nsec: 6 }, attributes: 4, attributesMask: 0x74 }
  }
  setattr(nodeid: number, change: SetAttr, caller: Caller) {
    this.called('setattr', nodeid, change, caller)
    return { attrValid: Infinity, attr: ATTR }
  }
  readlink(nodeid: number): string {
    this.called('readlink', nodeid)
    return '../to/\xff'
  }
  symlink(parent: number, name: string, target: string, caller: Caller): Entry {
    this.called('symlink', parent, name, target, caller)
    return entry(18)
  }
  mknod(parent: number, name: string, mode: number, rdev: number, umask: number, caller: Caller): Entry {
    this.called('mknod', parent, name, mode, rdev, umask, caller)
    return entry(19)
  }
  mkdir(parent: number, name: string, mode: number, umask: number, caller: Caller): Entry {
    this.called('mkdir', parent, name, mode, umask, caller)
    return entry(20)
  }
  unlink(parent: number, name: string, caller: Caller): void {
    this.called('unlink', parent, name, caller)
  }
  rmdir(parent: number, name: string, caller: Caller): void {
    this.called('rmdir', parent, name, caller)
  }
  rename(
    parent: number,
    name: string,
    newParent: number,
    newName: string,
    flags: number,
    caller: Caller,
  ): void {
    this.called('rename', parent, name, newParent, newName, flags, caller)
  }
  link(nodeid: number, newParent: number, newName: string, caller: Caller): Entry {
    this.called('link', nodeid, newParent, newName, caller)
    return entry(21)
  }
  open(
    nodeid: number,
    flags: number,
    caller: Caller,
  ): Promise<OpenReply | undefined> | OpenReply | undefined {
    this.called('open', nodeid, flags, caller)
    return { fh: 5, flags: 2 }
  }
  create(parent: number, name: string, flags: number, mode: number, umask: number, caller: Caller) {
    this.called('create', parent, name, flags, mode, umask, caller)
    return { entry: entry(22), open: { fh: 6, flags: 0x80, backingId: 9 } }
  }
  tmpfile(parent: number, flags: number, mode: number, umask: number, caller: Caller) {
    this.called('tmpfile', parent, flags, mode, umask, caller)
    return { entry: entry(23), open: { fh: 7, flags: 0 } }
  }
  release(nodeid: number, fh: number): void {
    this.called('release', nodeid, fh)
  }
  prepareIo(nodeid: number, write: boolean): void {
    this.called('prepareIo', nodeid, write)
  }
  fsync(nodeid: number, datasync: boolean): Promise<void> | void {
    this.called('fsync', nodeid, datasync)
  }
  fsyncdir(nodeid: number, datasync: boolean): void {
    this.called('fsyncdir', nodeid, datasync)
  }
  syncfs(): void {
    this.called('syncfs')
  }
  fallocate(nodeid: number, offset: number, length: number, mode: number): void {
    this.called('fallocate', nodeid, offset, length, mode)
  }
  lseek(nodeid: number, offset: number, whence: number): number {
    this.called('lseek', nodeid, offset, whence)
    return 2 ** 40 + 1
  }
  copyFileRange(
    nodeIn: number,
    offIn: number,
    nodeOut: number,
    offOut: number,
    length: number,
    flags: number,
  ) {
    this.called('copyFileRange', nodeIn, offIn, nodeOut, offOut, length, flags)
    return length
  }
  ioctl(
    nodeid: number,
    cmd: number,
    arg: bigint,
    input: Buffer,
    outSize: number,
    flags: number,
    caller: Caller,
  ) {
    this.called('ioctl', nodeid, cmd, arg, input, outSize, flags, caller)
    return { result: 1, output: Buffer.alloc(outSize, 0xee) }
  }
  opendir(nodeid: number, flags: number): OpenReply | undefined {
    this.called('opendir', nodeid, flags)
    return { fh: 8, flags: 0 }
  }
  readdir(nodeid: number, fh: number, cookie: number, sink: DirSink): void {
    this.called('readdir', nodeid, fh, cookie)
    for (let i = cookie; i < this.listing.length; i++) {
      const name = this.listing[i] as string
      const more = sink.plus
        ? sink.fits(name) && sink.addPlus(name, i + 1, 8, entry(100 + i), 100 + i)
        : sink.add(name, 100 + i, 8, i + 1)
      if (!more) return
    }
  }
  releasedir(nodeid: number, fh: number): void {
    this.called('releasedir', nodeid, fh)
  }
  statfs(nodeid: number): StatFsReply {
    this.called('statfs', nodeid)
    return { blocks: 1, bfree: 2, bavail: 3, files: 4, ffree: 5, bsize: 6, namelen: 7, frsize: 8 }
  }
  setxattr(
    nodeid: number,
    name: string,
    value: Buffer,
    flags: number,
    killSgid: boolean,
    caller: Caller,
  ): void {
    this.called('setxattr', nodeid, name, value, flags, killSgid, caller)
  }
  getxattr(nodeid: number, name: string, caller: Caller): Buffer {
    this.called('getxattr', nodeid, name, caller)
    return Buffer.from('value')
  }
  listxattr(nodeid: number, caller: Caller): string[] {
    this.called('listxattr', nodeid, caller)
    return ['user.a', 'user.\xff']
  }
  removexattr(nodeid: number, name: string, caller: Caller): void {
    this.called('removexattr', nodeid, name, caller)
  }
}
