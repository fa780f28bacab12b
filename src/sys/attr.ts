import { E } from '../base/errno.js'
import { addon, check } from './addon.js'
import { AT_SYMLINK_NOFOLLOW } from './constants.js'

/** What statx(2) says of one object. Times are seconds, which may be negative, and nanoseconds from 0 to 999,999,999. */
export interface Stat {
  /** Type and permission bits. */
  mode: number
  nlink: number
  uid: number
  gid: number
  size: number
  /** Of 512 bytes. */
  blocks: number
  blksize: number
  /** major * 2^20 + minor, see makedev(). */
  dev: number
  rdev: number
  /** Exact below 2^53; the halves always are. */
  ino: number
  inoHi: number
  inoLo: number
  atime: number
  atimeNsec: number
  mtime: number
  mtimeNsec: number
  ctime: number
  ctimeNsec: number
  /** Birth; valid when `mask` has STATX_BTIME. */
  btime: number
  btimeNsec: number
  /** The low 32 bits of stx_attributes: STATX_ATTR_*. */
  attributes: number
  mntId: number
  /** STATX_* of what is valid here. */
  mask: number
  /** Tells one file, or content of a file, from another; see {@link sameContent}. */
  stamp: number
}

/** What statfs(2) says. `blocks`, `bfree` and `bavail` are in units of `frsize`. */
export interface StatFs {
  type: number
  bsize: number
  frsize: number
  blocks: number
  bfree: number
  bavail: number
  files: number
  ffree: number
  namelen: number
  fsidLo: number
  fsidHi: number
  flags: number
}

const slots = addon.statBuffer

/** Doubles per name in the array of statMany; the order of the slots is that of native/env.h. */
const STRIDE = slots.length
const ERRNO_SLOT = STRIDE - 1

/** `| 0` where the value fits 31 bits: the field is then a small integer and not a number on the heap. */
function read(from: Float64Array, at: number): Stat {
  return {
    mode: from[at]! | 0,
    nlink: from[at + 1]!,
    uid: from[at + 2]!,
    gid: from[at + 3]!,
    size: from[at + 4]!,
    blocks: from[at + 5]!,
    blksize: from[at + 6]!,
    dev: from[at + 7]!,
    rdev: from[at + 8]!,
    ino: from[at + 9]!,
    inoHi: from[at + 10]!,
    inoLo: from[at + 11]!,
    atime: from[at + 12]!,
    atimeNsec: from[at + 13]! | 0,
    mtime: from[at + 14]!,
    mtimeNsec: from[at + 15]! | 0,
    ctime: from[at + 16]!,
    ctimeNsec: from[at + 17]! | 0,
    btime: from[at + 18]!,
    btimeNsec: from[at + 19]! | 0,
    attributes: from[at + 20]!,
    mntId: from[at + 21]!,
    mask: from[at + 22]!,
    stamp: from[at + 23]!,
  }
}

/** Of a stamp (native/stamp.h): what the inode's time of change makes of it. */
const CHANGE = 2 ** 26

/** Whether two stamps are of one file that was not written in between, as far as its size and time say. Others may be so as well. */
export function sameContent(a: number, b: number): boolean {
  return Math.floor(a / CHANGE) === Math.floor(b / CHANGE)
}

/**
 * Name '' is `dirfd` itself, also when it was opened with O_PATH.
 * @returns undefined for ENOENT
 * @throws SysError ENOTDIR, ELOOP, EACCES, ENAMETOOLONG, ESTALE…
 */
export function statAt(dirfd: number, name: string, flags = AT_SYMLINK_NOFOLLOW): Stat | undefined {
  const rc = addon.statAt(dirfd, name, flags)
  if (rc === 0) return read(slots, 0)
  if (rc === -E.ENOENT) return undefined
  check(rc, 'statx', name)
  return undefined
}

export function statFd(fd: number): Stat {
  check(addon.statFd(fd), 'statx')
  return read(slots, 0)
}

/** One crossing for many names of a directory: each is a Stat, undefined for ENOENT, or the positive errno. */
export function statMany(
  dirfd: number,
  names: readonly string[],
  flags = AT_SYMLINK_NOFOLLOW,
): (Stat | number | undefined)[] {
  const out = new Float64Array(names.length * STRIDE)
  check(addon.statMany(dirfd, names, flags, out), 'statx')
  const stats = new Array<Stat | number | undefined>(names.length)
  for (let i = 0; i < names.length; i++) {
    const errno = out[i * STRIDE + ERRNO_SLOT]!
    stats[i] = errno === 0 ? read(out, i * STRIDE) : errno === E.ENOENT ? undefined : errno
  }
  return stats
}

/** -1 leaves an id as it is. Clears setuid, setgid and security.capability, as chown(2) says. */
export function fchown(fd: number, uid: number, gid: number): void {
  check(addon.fchown(fd, uid, gid), 'fchown')
}

/** Never follows a symlink; name '' is `dirfd` itself, O_PATH too. */
export function fchownat(dirfd: number, name: string, uid: number, gid: number): void {
  check(addon.fchownat(dirfd, name, uid, gid), 'fchownat', name)
}

export function fchmod(fd: number, mode: number): void {
  check(addon.fchmod(fd, mode), 'fchmod')
}

/** Never follows a symlink (EOPNOTSUPP for one); name '' is `dirfd` itself, O_PATH too. */
export function chmodAt(dirfd: number, name: string, mode: number): void {
  check(addon.chmodAt(dirfd, name, mode), 'fchmodat', name)
}

/** Never follows a symlink; name '' is `dirfd` itself, O_PATH too. Nanoseconds may be UTIME_NOW or UTIME_OMIT. */
export function utimensAt(
  dirfd: number,
  name: string,
  atime: number,
  atimeNsec: number,
  mtime: number,
  mtimeNsec: number,
): void {
  check(addon.utimensAt(dirfd, name, atime, atimeNsec, mtime, mtimeNsec), 'utimensat', name)
}

export function truncateFd(fd: number, size: number): void {
  check(addon.ftruncate(fd, size), 'ftruncate')
}

export function fstatfs(fd: number): StatFs {
  check(addon.fstatfs(fd), 'fstatfs')
  return {
    type: slots[0]!,
    bsize: slots[1]!,
    frsize: slots[2]!,
    blocks: slots[3]!,
    bfree: slots[4]!,
    bavail: slots[5]!,
    files: slots[6]!,
    ffree: slots[7]!,
    namelen: slots[8]!,
    fsidLo: slots[9]!,
    fsidHi: slots[10]!,
    flags: slots[11]!,
  }
}
