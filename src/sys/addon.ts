import nodeGypBuild from 'node-gyp-build'
import { fileURLToPath } from 'node:url'
import { setCloseCall } from '../base/fd.js'
import { SysError } from '../base/sys-error.js'

/**
 * The native addon as it is: a result is the syscall's value or -errno, a wrong argument is a TypeError. Only src/sys
 * and the device transport see this; everybody else uses the typed wrappers. The functions are those of native/*.cc.
 */
declare const accountBrand: unique symbol
/** An account of native/account.cc, which JavaScript only passes on. */
export interface AccountHandle {
  readonly [accountBrand]: never
}

/** Writes a record of the recovery journal: gives its place, or 0 when there is no room. See daemon/recovery/journal-log.ts. */
export type JournalAppend = (
  kind: number,
  nodeid: number,
  other: number,
  small: number,
  text: string,
  nlookup?: number,
  ino?: number,
) => number

export interface Addon {
  // native/attr.cc
  readonly statBuffer: Float64Array
  statAt(dirfd: number, name: string, flags: number): number
  statFd(fd: number): number
  statMany(dirfd: number, names: readonly string[], flags: number, out: Float64Array): number
  fchown(fd: number, uid: number, gid: number): number
  fchownat(dirfd: number, name: string, uid: number, gid: number): number
  fchmod(fd: number, mode: number): number
  chmodAt(dirfd: number, name: string, mode: number): number
  utimensAt(
    dirfd: number,
    name: string,
    atime: number,
    atimeNsec: number,
    mtime: number,
    mtimeNsec: number,
  ): number
  ftruncate(fd: number, size: number): number
  fstatfs(fd: number): number

  // native/file.cc
  openat(dirfd: number, path: string, flags: number, mode: number): number
  openat2(dirfd: number, path: string, flags: number, mode: number, resolve: number): number
  close(fd: number): number
  dup(fd: number): number
  reopen(fd: number, flags: number): number
  fsync(fd: number): number
  lseek(fd: number, offset: number, whence: number): number
  pread(fd: number, buffer: Uint8Array, offset: number, length: number, position: number): number
  pwrite(fd: number, buffer: Uint8Array, offset: number, length: number, position: number): number
  fallocate(fd: number, mode: number, offset: number, length: number): number
  flock(fd: number, operation: number): number
  fcntl(fd: number, command: number, value: number): number
  ioctl(fd: number, request: number, argument: Uint8Array | number): number

  // native/name.cc
  mkdirat(dirfd: number, name: string, mode: number): number
  mknodat(dirfd: number, name: string, mode: number, rdev: number): number
  symlinkat(target: string, dirfd: number, name: string): number
  linkat(fromFd: number, from: string, toFd: number, to: string, flags: number): number
  linkFd(fd: number, dirfd: number, name: string): number
  unlinkat(dirfd: number, name: string, flags: number): number
  renameat2(fromFd: number, from: string, toFd: number, to: string, flags: number): number
  readlinkat(dirfd: number, name: string): string | number

  // native/dir.cc
  getdents(fd: number): string[] | number | undefined
  hasPrefix(dirfd: number, prefix: string, most: number): number
  direntBuffers(): [types: Uint8Array, inos: Float64Array]

  // native/xattr.cc
  getxattrAt(dirfd: number, name: string, attr: string): Buffer | number
  listxattrAt(dirfd: number, name: string): string | number
  setxattrAt(dirfd: number, name: string, attr: string, value: Uint8Array, flags: number): number
  removexattrAt(dirfd: number, name: string, attr: string): number
  features(xattrat?: boolean, fchmodat2?: boolean): [xattrat: boolean, fchmodat2: boolean]

  // native/cred.cc
  becomeCreator(uid: number, gid: number): number
  dumpable(): boolean
  fsIds(): [fsuid: number, fsgid: number]
  umask(mask: number): number
  geteuid(): number
  capabilities(): [effective: number, permitted: number] | number
  getrlimit(resource: number): [soft: number, hard: number] | number
  setrlimit(resource: number, soft: number, hard: number): number

  // native/jobs.cc
  copyData(
    src: number,
    dst: number,
    size: number,
    reflink: boolean,
  ): Promise<[bytes: number, method: number] | number>
  copyCached(from: number, fromAt: number, to: number, toAt: number, length: number): number
  stopJobs(): void
  mallocTrim(): void
  fsyncJob(fd: number): Promise<number>
  fdatasyncJob(fd: number): Promise<number>
  syncfsJob(fd: number): Promise<number>
  fallocateJob(fd: number, mode: number, offset: number, length: number): Promise<number>
  growDescriptorsJob(count: number): Promise<number>
  copyFileRangeJob(
    inFd: number,
    inOffset: number,
    outFd: number,
    outOffset: number,
    length: number,
  ): Promise<number>

  // native/mount.cc
  mount(
    source: string | null,
    target: string,
    fstype: string | null,
    flags: number,
    data: string | null,
  ): number
  umount2(target: string, flags: number): number
  openTree(dirfd: number, path: string, flags: number): number
  moveMount(fromFd: number, from: string, toFd: number, to: string, flags: number): number
  mountSetattr(
    dirfd: number,
    path: string,
    flags: number,
    set: number,
    clear: number,
    propagation: number,
    usernsFd: number,
  ): number
  fsopen(fstype: string, flags: number): number
  fsconfig(
    fd: number,
    command: number,
    key: string | null,
    value: string | Uint8Array | null,
    aux: number,
  ): number
  fsmount(fd: number, flags: number, attributes: number): number
  unshare(flags: number): number
  setns(fd: number, type: number): number
  pivotRoot(newRoot: string, putOld: string): number
  fchdir(fd: number): number

  // native/handle.cc
  nameToHandle(
    dirfd: number,
    name: string,
    flags: number,
  ): [type: number, handle: Buffer, mountId: number] | number
  openByHandle(mountFd: number, type: number, handle: Uint8Array, flags: number): number
  getFsUuid(fd: number): Buffer | number

  // native/account.cc
  accountOpen(limit: number, used: number, bySize: boolean): AccountHandle
  account(handle: AccountHandle, operation: number, a: number, b: number, c: number): number

  // native/js-stack.cc
  reportStack(socket: number): number

  // native/orphan-holder.cc
  pidfdSelf(): number
  signalsOfOthers(): number
  holdOrphans(table: Uint8Array, self: number, signals: number, a: number, b: number): number

  // native/patience.cc
  coverDescriptor(fd: number, filesystem: number, use: number): number
  coverAlike(fd: number, like: number): void
  makePulse(dirfd: number): number
  setPulse(fd: number, pulse: number): void
  mayChange(fd: number): number
  serving(on: boolean): void
  onAnswer(callback: (filesystem: number) => void): void

  // native/process.cc
  exitNow(code: number): never
  exec(program: string | number, args: Uint8Array, env: Uint8Array): number
  sealedCopy(path: string): number
  memoryFile(bytes: Uint8Array): number
  pipe(): [number, number] | number
  closeOnExec(first: number): number
  syscalls(): Readonly<Record<string, number>>
  setHostname(name: string): number

  // native/socket.cc
  listenAt(path: string): number
  socketpair(type: number): [a: number, b: number] | number
  sendFds(socket: number, fds: readonly number[], data: Uint8Array): number
  recvFds(socket: number, buffer: Uint8Array): number[] | number
  peekFds(socket: number, buffer: Uint8Array): number[] | number
  setPeekOffset(socket: number, offset: number): number
  peerPid(socket: number): number
  discardMessages(socket: number, most: number): number

  // native/journal.cc
  journalWriter(
    memory: ArrayBuffer,
    half: number,
    size: number,
    tail: number,
    waste: number,
    lost: number,
    inode: number,
  ): JournalAppend

  // native/map.cc
  mapFile(fd: number, length: number): ArrayBuffer | number

  // native/watch.cc
  watchOpen(callback: () => void): number
  watchAdd(fd: number, dirfd: number): number
  watchRemove(fd: number, watch: number): number
  watchRead(fd: number): (number | string)[] | undefined

  // native/abi.cc
  abi(): Record<string, { size: number; fields: Record<string, [offset: number, size: number]> }>
  constants(): Record<string, number>
}

/** The package's root, seen from dist/src/sys. */
const root = fileURLToPath(new URL('../../..', import.meta.url))

function load(): Addon {
  // A prebuilt addon where the package ships one for this machine, else what was built in build/Release.
  try {
    return nodeGypBuild(root) as Addon
  } catch (cause) {
    throw new Error(
      `the native addon is missing or does not load; build it with "npm run build:native" in ${root}`,
      {
        cause,
      },
    )
  }
}

export const addon = load()

setCloseCall(fd => addon.close(fd))

/** The one place where an errno becomes an error: gives `rc` back, or throws when it is negative. */
export function check(rc: number, syscall: string, path?: string): number {
  if (rc < 0) throw new SysError(-rc, syscall, path)
  return rc
}
