import type { SysError } from '../base/sys-error.js'
import type { Account } from '../sys/account.js'

/**
 * The seam between the protocol and a filesystem: what dispatch decodes into, and encodes from.
 *
 * A method is synchronous wherever it can be: JavaScript runs one handler at a time, so a synchronous handler is
 * atomic with respect to every other request. Where something slow must come first (the data of a copy-up), the
 * method throws {@link Again} before it has changed anything; dispatch waits and runs the request anew. Where the slow
 * thing is the operation itself (fsync, fallocate), the method returns a promise.
 *
 * Names are byte names (latin1). Errors are thrown as SysError with a positive errno.
 */

/** Thrown by a method that needs `ready` to settle before it can start; the request is then run anew. */
export class Again {
  constructor(readonly ready: Promise<unknown>) {}
}

/** Who asks: fuse_in_header. Identifiers are those of the mount's user namespace. */
export interface Caller {
  readonly uid: number
  readonly gid: number
  readonly pid: number
}

/** fuse_attr. Times in seconds (may be negative) and nanoseconds; size in bytes; blocks of 512 bytes. */
export interface Attr {
  /** At most 2^53 - 1. */
  ino: number
  size: number
  blocks: number
  atime: number
  mtime: number
  ctime: number
  atimeNsec: number
  mtimeNsec: number
  ctimeNsec: number
  /** Type and permission bits. */
  mode: number
  nlink: number
  uid: number
  gid: number
  /** In the kernel's `new_encode_dev` form, as FUSE carries it. */
  rdev: number
  blksize: number
}

/** fuse_entry_out. `nodeid` 0 is a negative entry, cached for `entryValid`. */
export interface Entry {
  nodeid: number
  generation: number
  /** Seconds; Infinity is "for ever". May be fractional. */
  entryValid: number
  attrValid: number
  attr: Attr
}

export interface NegativeEntry {
  nodeid: 0
  entryValid: number
}

/** fuse_attr_out. */
export interface AttrReply {
  attrValid: number
  attr: Attr
}

/** fuse_setattr_in, only the fields whose FATTR_ bit is set are present. */
export interface SetAttr {
  mode?: number
  uid?: number
  gid?: number
  size?: number
  /** `'now'` is FATTR_ATIME_NOW. */
  atime?: { sec: number; nsec: number } | 'now'
  mtime?: { sec: number; nsec: number } | 'now'
  ctime?: { sec: number; nsec: number }
  /** FATTR_KILL_SUIDGID (HANDLE_KILLPRIV_V2). */
  killSuidgid: boolean
  /** Present when the caller named an open file. */
  fh?: number
}

/** fuse_statx, what a Linux user can ask beyond fuse_attr. */
export interface StatxReply {
  attrValid: number
  attr: Attr
  btime?: { sec: number; nsec: number }
  attributes: number
  attributesMask: number
}

export interface StatFsReply {
  blocks: number
  bfree: number
  bavail: number
  files: number
  ffree: number
  bsize: number
  namelen: number
  frsize: number
}

/** How an OPEN or CREATE is answered. */
export interface OpenReply {
  fh: number
  /** FOPEN_* bits. */
  flags: number
  /** With FOPEN_PASSTHROUGH. */
  backingId?: number
}

/** Where a READDIR or READDIRPLUS reply is filled. Both return false when the entry does not fit: stop, it was not added. */
export interface DirSink {
  /** True for READDIRPLUS. */
  readonly plus: boolean
  /** READDIR. `type` is a DT_ value. `cookie` is what the kernel sends to continue after this entry. */
  add(name: string, ino: number, type: number, cookie: number): boolean
  /** READDIRPLUS; `entry.nodeid` 0 gives name and type only. Ask {@link fits} before taking a lookup reference. */
  addPlus(name: string, cookie: number, type: number, entry: Entry | undefined, ino: number): boolean
  /** Whether an entry with this name would fit. */
  fits(name: string): boolean
}

/** Where a WRITE begins, and whether it is meant for the end of the file (O_APPEND), wherever that is. */
export interface WriteAt {
  readonly offset: number
  readonly append: boolean
}

/** What INIT negotiated. */
export interface Connection {
  readonly major: number
  readonly minor: number
  /** FUSE_* INIT flags in force (both words), see init.ts. */
  has(flag: string): boolean
  readonly maxWrite: number
}

export type Maybe<T> = T | Promise<T>

/** Every request type that the daemon may implement. A method left out is answered ENOSYS; see opcodes.ts for why. */
export interface FileSystem {
  init(connection: Connection): void
  destroy(): void
  /** Called before each request: see {@link KernelSide.takeIssued}. */
  adoptIssued(): void
  lookup(parent: number, name: string, caller: Caller): Entry | NegativeEntry
  /** Never answered. */
  forget(nodeid: number, nlookup: number): void
  getattr(nodeid: number, fh: number | undefined): AttrReply
  statx(nodeid: number, mask: number): StatxReply
  setattr(nodeid: number, change: SetAttr, caller: Caller): AttrReply
  readlink(nodeid: number): string
  symlink(parent: number, name: string, target: string, caller: Caller): Entry
  mknod(parent: number, name: string, mode: number, rdev: number, umask: number, caller: Caller): Entry
  mkdir(parent: number, name: string, mode: number, umask: number, caller: Caller): Entry
  unlink(parent: number, name: string, caller: Caller): void
  rmdir(parent: number, name: string, caller: Caller): void
  /** `flags`: RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT. */
  rename(
    parent: number,
    name: string,
    newParent: number,
    newName: string,
    flags: number,
    caller: Caller,
  ): void
  link(nodeid: number, newParent: number, newName: string, caller: Caller): Entry
  /** `undefined`: answer ENOSYS once, so that later opens send nothing. */
  open(nodeid: number, flags: number, caller: Caller): Maybe<OpenReply | undefined>
  create(
    parent: number,
    name: string,
    flags: number,
    mode: number,
    umask: number,
    caller: Caller,
  ): { entry: Entry; open: OpenReply }
  tmpfile(
    parent: number,
    flags: number,
    mode: number,
    umask: number,
    caller: Caller,
  ): { entry: Entry; open: OpenReply }
  release(nodeid: number, fh: number): void
  /** Makes the nodeid's backing file known to the data plane, so that the READ or WRITE can be served (see transport). */
  prepareIo(nodeid: number, write: boolean, at?: WriteAt): void
  fsync(nodeid: number, datasync: boolean): Maybe<void>
  fsyncdir(nodeid: number, datasync: boolean): Maybe<void>
  syncfs(): Maybe<void>
  fallocate(nodeid: number, offset: number, length: number, mode: number, caller: Caller): Maybe<void>
  lseek(nodeid: number, offset: number, whence: number): Maybe<number>
  copyFileRange(
    nodeIn: number,
    offIn: number,
    nodeOut: number,
    offOut: number,
    length: number,
    flags: number,
    caller: Caller,
  ): Maybe<number>
  ioctl(
    nodeid: number,
    cmd: number,
    arg: bigint,
    input: Buffer,
    outSize: number,
    flags: number,
    caller: Caller,
  ): Maybe<{ result: number; output: Buffer }>
  /** `undefined`: answer ENOSYS once (zero-message opendir; the kernel then caches listings). */
  opendir(nodeid: number, flags: number): OpenReply | undefined
  readdir(nodeid: number, fh: number, cookie: number, sink: DirSink): void
  releasedir(nodeid: number, fh: number): void
  statfs(nodeid: number): StatFsReply
  setxattr(
    nodeid: number,
    name: string,
    value: Buffer,
    flags: number,
    killSgid: boolean,
    caller: Caller,
  ): void
  /** @throws SysError ENODATA; size checks (ERANGE, the size question) are dispatch's. */
  getxattr(nodeid: number, name: string, caller: Caller): Buffer
  listxattr(nodeid: number, caller: Caller): string[]
  removexattr(nodeid: number, name: string, caller: Caller): void
}

/** How the filesystem tells the kernel, and the data plane, what changed behind its back. Given at construction. */
/** A directory whose names may be answered by asking its real directories in turn. */
export interface AnsweredDirectory {
  readonly nodeid: number
  /** At most {@link MOST_REALS}, top first. The descriptors stay the caller's. */
  readonly reals: readonly AnsweredReal[]
  /** Names in it that have an inode; undefined where they are too many: then only what is missing is answered. */
  readonly known: readonly string[] | undefined
  /** Seconds for which the kernel may believe in an answer. */
  readonly timeout: number
  /** Files with several names are left to the filesystem. */
  readonly linksApart: boolean
}

/** Names::kMostReals. */
export const MOST_REALS = 4

export interface AnsweredReal {
  readonly fd: number
  readonly upper: boolean
  /** `.wh.` markers may be in it. */
  readonly markers: boolean
  /** What is shown as st_ino: `base` more than the number, where that is below `limit`. */
  readonly inos: { readonly base: number; readonly limit: number }
}

/** A file of a lower layer in a directory of which names are answered. */
export interface LowerFile extends Told {
  readonly nodeid: number
  /** Which of the directory's lower real ones has it. */
  readonly below: number
  readonly name: string
  readonly ino: number
}

/** What the kernel knows of a lower file. */
export interface Told {
  /** {@link Stat.stamp}. */
  readonly stamp: number
  /** The largest size that it may believe in. */
  readonly most: number
}

/** An inode that the kernel was told of in an answer to LOOKUP, of a file or symlink of a lower layer. */
export interface Issued {
  readonly nodeid: number
  readonly directory: number
  readonly name: string
  /** Which of the directory's lower real ones has it; -1: it was made in the upper one. */
  readonly below: number
  readonly ino: number
  /** As its own filesystem has it. */
  readonly ownIno: number
  /** S_IF* bits. */
  readonly type: number
  /** 0: the kernel did not take the answer. */
  readonly references: 0 | 1
  /** Where the journal of what is kept for a successor has it; 0 nowhere. */
  readonly slot: number
  /** With the size that it was told. */
  readonly stamp: number
  readonly size: number
}

export interface KernelSide {
  /**
   * Hands `fd` (ownership passes) to the data plane for READ and WRITE of `nodeid`. `ino`: its st_ino, where all else that is shown of it
   * is as the object behind `fd` has it; see {@link showFiles}. `told`: of a lower file, READs of which come to prepareIo once it is no longer
   * that. 'unknown': of an upper one, of which the kernel may not know where it ends; what is appended goes to its end.
   */
  registerFile(nodeid: number, fd: number, writable: boolean, ino?: number, told?: Told | 'unknown'): void
  /** A descriptor of the registered file, the caller's; undefined without one. */
  fileOf(nodeid: number): number | undefined
  /**
   * GETATTR and STATX of files that are registered with their st_ino, and SETATTR of mode, owner and times of the writable ones, may be
   * answered without the filesystem from now on, with attributes that are valid for `timeout` seconds. GETATTR and STATX also of
   * lower files that are known ({@link tellFiles}, {@link takeIssued}).
   */
  showFiles(timeout: number): void
  /** Data written from now on is noted in the account of the mount's size limit, and refused beyond it. */
  limit(account: Account): void
  unregisterFile(nodeid: number): void
  /** 0 not registered, 1 read-only, 2 writable. */
  registered(nodeid: number): 0 | 1 | 2
  /** A pinned registration is not closed by eviction: its file can be reached in no other way. */
  pin(nodeid: number, on: boolean): void
  /**
   * While GETATTR of a directory is handled: further ones may be answered with the attributes of the object behind `fd`, as they are
   * then, and with the st_ino of this answer, until the nodeid is forgotten; with one link where `oneLink`. `fd` stays the caller's.
   */
  followAttributes(nodeid: number, fd: number, oneLink: boolean): void
  /** What was answered to GETATTR of a followed directory, or that an object lacks an attribute (xattr), may be true no longer. */
  answersChanged(nodeid: number): void
  /**
   * Names in that directory may be answered without the filesystem from now on, until {@link answersChanged} of it. What is given a
   * number so is told by {@link takeIssued}.
   */
  answerNames(directory: AnsweredDirectory): void
  /** These may be opened for READ without the filesystem, until they are registered or unregistered. After {@link answerNames}. */
  tellFiles(directory: number, files: readonly LowerFile[]): void
  /** What was given a number since the last call. */
  takeIssued(): readonly Issued[]
  /** The number of the newest inode, which both sides count up. */
  readonly newest: Float64Array
  /** Something else is to be done (setImmediate) as soon as no request is there: nobody waits awake for the next one. */
  hasWork(on: boolean): void
  /** FUSE_NOTIFY_INVAL_INODE: attributes, and data from `offset` (-1: attributes only). */
  invalidateInode(nodeid: number, offset: number, length: number): void
  /** The same; resolves when the kernel has done it. With data that is when no READ of it is waiting: so no READ may wait for it. */
  afterInvalidating(nodeid: number, offset: number): Promise<void>
  /** FUSE_NOTIFY_INVAL_ENTRY. */
  invalidateEntry(parent: number, name: string): void
  /** FUSE_NOTIFY_DELETE: the same, and watchers of the directory hear of it. Gone it is only where the kernel can let go of it. */
  deleteEntry(parent: number, child: number, name: string): void
  /** FUSE_DEV_IOC_BACKING_OPEN / CLOSE; undefined where the kernel or the privileges lack it. */
  openBacking(fd: number): number | undefined
  closeBacking(id: number): void
}

export type { SysError }
