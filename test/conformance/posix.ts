import { createHash } from 'node:crypto'
import { execFileSync } from 'node:child_process'
import { E, errnoName } from '../../src/base/errno.js'
import type { Fd } from '../../src/base/fd.js'
import { SysError } from '../../src/base/sys-error.js'
import * as sys from '../../src/sys/index.js'

/**
 * System calls by path, as the cases use them: a path is a latin1 string, one character for each byte, and nothing
 * follows a symlink. Every call is made in this process; the daemon that serves the mount is always another one.
 */

const CWD = sys.AT_FDCWD

/** What a JSON transcript is made of. */
export type Json = string | number | boolean | null | Json[] | { [key: string]: Json }

export interface Time {
  sec: number
  nsec: number
}

export function join(...parts: string[]): string {
  return parts.join('/')
}

export function open(path: string, flags: number, mode = 0o644): Fd {
  return sys.openat(CWD, path, flags, mode)
}

/** Writes all of `data` at the start of `path`, which is created or truncated. */
export function write(path: string, data: string | Buffer, mode = 0o644): void {
  using fd = open(path, sys.O_WRONLY | sys.O_CREAT | sys.O_TRUNC, mode)
  writeAt(fd, data, 0)
}

export function append(path: string, data: string | Buffer): void {
  using fd = open(path, sys.O_WRONLY | sys.O_APPEND)
  writeAt(fd, data, 0)
}

/** Overwrites in place, without O_CREAT or O_TRUNC. */
export function overwrite(path: string, data: string | Buffer, offset = 0): void {
  using fd = open(path, sys.O_WRONLY)
  writeAt(fd, data, offset)
}

export function writeAt(fd: Fd, data: string | Buffer, offset: number): void {
  const bytes = typeof data === 'string' ? Buffer.from(data, 'latin1') : data
  let done = 0
  while (done < bytes.length) done += sys.pwriteSync(fd.n, bytes, done, bytes.length - done, offset + done)
}

export function readAt(fd: Fd, length: number, offset: number): Buffer {
  const bytes = Buffer.alloc(length)
  let done = 0
  while (done < length) {
    const n = sys.preadSync(fd.n, bytes, done, length - done, offset + done)
    if (n === 0) break
    done += n
  }
  return bytes.subarray(0, done)
}

export function read(path: string): Buffer {
  using fd = open(path, sys.O_RDONLY)
  const parts: Buffer[] = []
  for (let offset = 0; ;) {
    const part = readAt(fd, 1 << 18, offset)
    if (part.length === 0) return Buffer.concat(parts)
    parts.push(part)
    offset += part.length
  }
}

export function text(path: string): string {
  return read(path).toString('latin1')
}

export function hash(path: string): string {
  using fd = open(path, sys.O_RDONLY)
  return hashOf(fd)
}

export function hashOf(fd: Fd): string {
  const sum = createHash('sha256')
  for (let offset = 0; ;) {
    const part = readAt(fd, 1 << 20, offset)
    if (part.length === 0) return sum.digest('hex')
    sum.update(part)
    offset += part.length
  }
}

export function mkdir(path: string, mode = 0o755): void {
  sys.mkdirat(CWD, path, mode)
}

export function rmdir(path: string): void {
  sys.unlinkat(CWD, path, sys.AT_REMOVEDIR)
}

export function unlink(path: string): void {
  sys.unlinkat(CWD, path, 0)
}

export function rename(from: string, to: string, flags = 0): void {
  sys.renameat2(CWD, from, CWD, to, flags)
}

export function link(from: string, to: string): void {
  sys.linkat(CWD, from, CWD, to, 0)
}

export function symlink(target: string, path: string): void {
  sys.symlinkat(target, CWD, path)
}

export function readlink(path: string): string {
  return sys.readlinkat(CWD, path)
}

export function mknod(path: string, mode: number, rdev = 0): void {
  sys.mknodat(CWD, path, mode, rdev)
}

export function chmod(path: string, mode: number): void {
  sys.chmodAt(CWD, path, mode)
}

export function chown(path: string, uid: number, gid: number): void {
  sys.fchownat(CWD, path, uid, gid)
}

export function utimens(path: string, atime: Time, mtime: Time): void {
  sys.utimensAt(CWD, path, atime.sec, atime.nsec, mtime.sec, mtime.nsec)
}

export function truncate(path: string, size: number): void {
  using fd = open(path, sys.O_WRONLY)
  sys.truncateFd(fd.n, size)
}

/** lstat. @throws SysError ENOENT too, unlike sys.statAt. */
export function stat(path: string): sys.Stat {
  const found = sys.statAt(CWD, path)
  if (found === undefined) throw new SysError(E.ENOENT, 'statx', path)
  return found
}

export function exists(path: string): boolean {
  return sys.statAt(CWD, path) !== undefined
}

export function getxattr(path: string, name: string): string | undefined {
  return sys.getxattrAt(CWD, path, name)?.toString('latin1')
}

export function setxattr(path: string, name: string, value: string | Buffer, flags = 0): void {
  const bytes = typeof value === 'string' ? Buffer.from(value, 'latin1') : value
  sys.setxattrAt(CWD, path, name, bytes, flags)
}

export function removexattr(path: string, name: string): void {
  sys.removexattrAt(CWD, path, name)
}

export function listxattr(path: string): string[] {
  return sys.listxattrAt(CWD, path).sort()
}

export function xattrs(path: string): Record<string, string> {
  const all: Record<string, string> = {}
  for (const name of listxattr(path)) all[name] = getxattr(path, name) ?? '?'
  return all
}

/** Names in byte order. */
export function ls(path: string): string[] {
  using fd = open(path, sys.O_RDONLY | sys.O_DIRECTORY)
  return listed(fd)
    .map(entry => entry.name)
    .sort()
}

/** One listing in the order it came, from the start of the directory. */
export function listed(fd: Fd): { name: string; type: number; ino: number }[] {
  const batch = sys.listDir(fd.n)
  return batch.names.map((name, i) => ({ name, type: batch.types[i] ?? -1, ino: batch.inos[i] ?? -1 }))
}

const KIND: Readonly<Record<number, string>> = {
  [sys.S_IFREG]: 'file',
  [sys.S_IFDIR]: 'dir',
  [sys.S_IFLNK]: 'symlink',
  [sys.S_IFIFO]: 'fifo',
  [sys.S_IFSOCK]: 'socket',
  [sys.S_IFCHR]: 'char',
  [sys.S_IFBLK]: 'block',
}

export function kindOf(mode: number): string {
  return KIND[mode & sys.S_IFMT] ?? `type ${mode & sys.S_IFMT}`
}

/** What of a stat must agree between subjects: no inode numbers, no times, no size of a directory. */
export function facts(path: string): { [key: string]: Json } {
  const s = stat(path)
  const kind = kindOf(s.mode)
  const all: { [key: string]: Json } = { kind, mode: (s.mode & 0o7777).toString(8), uid: s.uid, gid: s.gid }
  if (kind !== 'dir') {
    all['nlink'] = s.nlink
    all['size'] = s.size
  }
  if (kind === 'char' || kind === 'block') all['rdev'] = s.rdev
  return all
}

export function mtime(path: string): string {
  const s = stat(path)
  return `${s.mtime}.${String(s.mtimeNsec).padStart(9, '0')}`
}

export function atime(path: string): string {
  const s = stat(path)
  return `${s.atime}.${String(s.atimeNsec).padStart(9, '0')}`
}

/** Two names of one inode? */
export function same(a: string, b: string): boolean {
  const x = stat(a)
  const y = stat(b)
  return x.dev === y.dev && x.ino === y.ino
}

/** The result, or the errno's name: what a transcript records. */
export function outcome(fn: () => Json | void): Json {
  try {
    const value = fn()
    return value === undefined ? 'ok' : value
  } catch (error) {
    const name = errnoOf(error)
    if (name === undefined) throw error
    return name
  }
}

export function errnoOf(error: unknown): string | undefined {
  if (error instanceof SysError) return errnoName(error.errno)
  if (
    error instanceof Error &&
    'code' in error &&
    typeof error.code === 'string' &&
    error.code.startsWith('E')
  )
    return error.code
  return undefined
}

/**
 * Runs `fn` as an ordinary user: effective ids of this process, so no capabilities, with no supplementary groups
 * unless given. Synchronous, so nothing else of this process runs meanwhile.
 */
export function asUser<T>(uid: number, gid: number, fn: () => T, groups: number[] = []): T {
  const before = process.getgroups!()
  process.setgroups!(groups)
  process.setegid!(gid)
  process.seteuid!(uid)
  try {
    return fn()
  } finally {
    process.seteuid!(0)
    process.setegid!(0)
    process.setgroups!(before)
  }
}

export function withUmask<T>(mask: number, fn: () => T): T {
  const before = process.umask(mask)
  try {
    return fn()
  } finally {
    process.umask(before)
  }
}

/**
 * What neither Node nor the addon can do (mmap, POSIX locks, O_DIRECT, raw xattr sizes): a short Python program that
 * prints one JSON value. `E(fn)` in it gives the result of fn, or the errno's name. Names arrive in `A` as bytes.
 */
export function python(program: string, ...args: string[]): Json {
  const prelude = `import os, sys, json, errno, mmap, fcntl, struct, ctypes, stat
A = [bytes.fromhex(a) for a in sys.argv[1:]]
libc = ctypes.CDLL(None, use_errno=True)
def check(r):
    if r < 0:
        e = ctypes.get_errno(); raise OSError(e, os.strerror(e))
    return r
def E(fn):
    try:
        r = fn()
        return 'ok' if r is None else r
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e.errno))
`
  const hex = args.map(arg => Buffer.from(arg, 'latin1').toString('hex'))
  const out = execFileSync('python3', ['-c', `${prelude}${program}`, ...hex], {
    timeout: 60_000,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    maxBuffer: 64 << 20,
  })
  return JSON.parse(out) as Json
}
