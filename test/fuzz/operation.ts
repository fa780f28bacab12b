import type { Fd } from '../../src/base/fd.js'
import * as sys from '../../src/sys/index.js'
import {
  asUser,
  atime,
  chmod,
  chown,
  getxattr,
  hashOf,
  join,
  kindOf,
  link,
  listxattr,
  mkdir,
  mknod,
  open,
  outcome,
  readAt,
  readlink,
  removexattr,
  rename,
  rmdir,
  setxattr,
  stat,
  symlink,
  unlink,
  utimens,
  type Json,
} from '../conformance/posix.js'
import { isGhost } from '../conformance/tree.js'
import type { Subject } from '../mount/fixture.js'
import { bytes } from './layers.js'

/** One operation, as it is written to a replay file. Paths are relative to the view's root; byte names (latin1). */
export type Operation = { user?: number } & (
  | { op: 'open'; slot: number; path: string; flags: number; mode: number }
  | { op: 'close'; slot: number }
  | { op: 'pread'; slot: number; offset: number; length: number }
  | { op: 'pwrite'; slot: number; offset: number; length: number; seed: number }
  | { op: 'ftruncate'; slot: number; size: number }
  | { op: 'fstat'; slot: number }
  | { op: 'fchmod'; slot: number; mode: number }
  | { op: 'fallocate'; slot: number; mode: number; offset: number; length: number }
  | { op: 'fsync'; slot: number }
  | { op: 'content'; path: string }
  | { op: 'create'; path: string; flags: number; mode: number; length: number; seed: number }
  | { op: 'truncate'; path: string; size: number }
  | { op: 'mkdir'; path: string; mode: number }
  | { op: 'mknod'; path: string; mode: number }
  | { op: 'symlink'; path: string; target: string }
  | { op: 'link'; path: string; to: string }
  | { op: 'rename'; path: string; to: string; flags: number }
  | { op: 'unlink'; path: string }
  | { op: 'rmdir'; path: string }
  | { op: 'chmod'; path: string; mode: number }
  | { op: 'chown'; path: string; uid: number; gid: number }
  | { op: 'utimens'; path: string; sec: number; nsec: number }
  | { op: 'setxattr'; path: string; name: string; length: number; flags: number }
  | { op: 'removexattr'; path: string; name: string }
  | { op: 'getxattr'; path: string; name: string }
  | { op: 'listxattr'; path: string }
  | { op: 'stat'; path: string }
  | { op: 'access'; path: string }
  | { op: 'readlink'; path: string }
  | { op: 'readdir'; path: string }
  | { op: 'remount' }
  | { op: 'swap' }
  | { op: 'tree' }
)

/** One of the two that are compared. */
export interface Side {
  subject: Subject
  root: string
  slots: Map<number, Fd>
}

/** Times that no operation sets: what happened during the run. */
const NOW = 1_200_000_000

/** Does it on one side. The result is what must be the same on the other. `remount`, `swap`, `tree` are the run's. */
export function apply(operation: Operation, side: Side): Json {
  if (operation.user === undefined) return act(operation, side)
  return asUser(operation.user, operation.user, () => act(operation, side))
}

function act(operation: Operation, side: Side): Json {
  return outcome(() => {
    if ('slot' in operation) return actOnSlot(operation, side)
    if (!('path' in operation)) return 'ok'
    const path = join(side.root, operation.path)
    switch (operation.op) {
      case 'content': {
        using fd = open(path, sys.O_RDONLY | sys.O_NOFOLLOW | sys.O_NONBLOCK)
        return kindOf(sys.statFd(fd.n).mode) === 'file' ? hashOf(fd) : 'not a file'
      }
      case 'create': {
        using fd = open(path, operation.flags, operation.mode)
        if (operation.length > 0)
          sys.pwriteSync(fd.n, bytes(operation.seed, operation.length), 0, operation.length, -1)
        return sys.statFd(fd.n).size
      }
      case 'truncate': {
        using fd = open(path, sys.O_WRONLY | sys.O_NOFOLLOW | sys.O_NONBLOCK)
        return sys.truncateFd(fd.n, operation.size)
      }
      case 'mkdir':
        return mkdir(path, operation.mode)
      case 'mknod':
        return mknod(
          path,
          operation.mode,
          (operation.mode & sys.S_IFMT) === sys.S_IFCHR ? sys.makedev(1, 3) : 0,
        )
      case 'symlink':
        return symlink(operation.target, path)
      case 'link':
        return link(path, join(side.root, operation.to))
      case 'rename':
        return rename(path, join(side.root, operation.to), operation.flags)
      case 'unlink':
        return unlink(path)
      case 'rmdir':
        return rmdir(path)
      case 'chmod':
        return chmod(path, operation.mode)
      case 'chown':
        return chown(path, operation.uid, operation.gid)
      case 'utimens': {
        const at = { sec: operation.sec, nsec: operation.nsec }
        utimens(path, at, at)
        return kindOf(stat(path).mode) === 'file' ? atime(path) : 'ok'
      }
      case 'setxattr':
        return setxattr(path, operation.name, bytes(7, operation.length), operation.flags)
      case 'removexattr':
        return removexattr(path, operation.name)
      case 'getxattr':
        return getxattr(path, operation.name) ?? 'none'
      case 'listxattr':
        return listxattr(path)
      case 'stat':
        return described(stat(path))
      case 'access': {
        using fd = open(path, sys.O_RDONLY | sys.O_NOFOLLOW | sys.O_NONBLOCK)
        return fd.closed ? 'closed' : 'ok'
      }
      case 'readlink':
        return readlink(path)
      case 'readdir': {
        using fd = open(path, sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW)
        const { names, types } = sys.listDir(fd.n)
        const ghosts = side.subject === 'kernel'
        return names
          .filter((name, i) => !(ghosts && isGhost(fd.n, name, types[i] ?? -1)))
          .map(name => `${name} ${types[names.indexOf(name)] ?? -1}`)
          .sort()
      }
    }
  })
}

function actOnSlot(operation: Extract<Operation, { slot: number }>, side: Side): Json | void {
  const { slots } = side
  if (operation.op === 'open') {
    slots.get(operation.slot)?.close()
    slots.delete(operation.slot)
    slots.set(operation.slot, open(join(side.root, operation.path), operation.flags, operation.mode))
    return 'ok'
  }
  const fd = slots.get(operation.slot)
  if (fd === undefined) return 'not open'
  switch (operation.op) {
    case 'close':
      slots.delete(operation.slot)
      return fd.close()
    case 'pread': {
      const data = readAt(fd, operation.length, operation.offset)
      return `${data.length} ${data.toString('base64').slice(0, 200)}`
    }
    case 'pwrite':
      return sys.pwriteSync(
        fd.n,
        bytes(operation.seed, operation.length),
        0,
        operation.length,
        operation.offset,
      )
    case 'ftruncate':
      return sys.truncateFd(fd.n, operation.size)
    case 'fstat':
      return described(sys.statFd(fd.n))
    case 'fchmod':
      return sys.fchmod(fd.n, operation.mode)
    case 'fallocate':
      return sys.fallocateSync(fd.n, operation.mode, operation.offset, operation.length)
    case 'fsync':
      return sys.fsyncSync(fd.n)
  }
}

/** A stat as far as two sides can agree: a time that nobody set is `now`. */
function described(s: sys.Stat): { [key: string]: Json } {
  const kind = kindOf(s.mode)
  return {
    kind,
    mode: (s.mode & 0o7777).toString(8),
    owner: `${s.uid}:${s.gid}`,
    mtime: timeOf(s.mtime, s.mtimeNsec),
    ...(kind !== 'dir' && { nlink: s.nlink, size: s.size }),
    ...(kind === 'char' && { rdev: s.rdev }),
  }
}

export function timeOf(sec: number, nsec: number): string {
  return sec > NOW ? 'now' : `${sec}.${String(nsec).padStart(9, '0')}`
}

/** One line, for a person. */
export function shown(operation: Operation): string {
  const { op, user, ...rest } = operation
  const fields = Object.entries(rest).map(([key, value]) => `${key}=${spelled(key, value)}`)
  return [user === undefined ? '' : `as ${user}:`, op, ...fields].filter(Boolean).join(' ')
}

function spelled(key: string, value: unknown): string {
  if (key === 'mode' && typeof value === 'number') return `0${value.toString(8)}`
  if (key === 'flags' && typeof value === 'number') return `0x${value.toString(16)}`
  if (typeof value === 'string')
    return JSON.stringify(value.replace(/n{20,}/g, run => `n*${run.length}`)).replace(
      /[\x80-\xff]/g,
      c => `\\x${c.charCodeAt(0).toString(16)}`,
    )
  return String(value)
}
