import * as sys from '../../src/sys/index.js'
import { DIR_MODES, FILE_MODES } from './layers.js'
import type { Operation } from './operation.js'
import type { Random } from './random.js'

const SLOTS = 8
const XATTRS = ['user.a', 'user.b', 'trusted.c', 'trusted.overlay.x', 'user.\xff']
const OPEN_FLAGS = [
  sys.O_RDONLY,
  sys.O_RDONLY,
  sys.O_WRONLY,
  sys.O_RDWR,
  sys.O_RDWR,
  sys.O_RDWR | sys.O_CREAT,
  sys.O_RDWR | sys.O_CREAT | sys.O_EXCL,
  sys.O_WRONLY | sys.O_APPEND,
  sys.O_RDWR | sys.O_TRUNC,
  sys.O_RDONLY | sys.O_TRUNC,
  sys.O_WRONLY | sys.O_CREAT | sys.O_TRUNC,
  sys.O_RDONLY | sys.O_DIRECTORY,
]
const CREATE_FLAGS = [
  sys.O_WRONLY | sys.O_CREAT | sys.O_TRUNC,
  sys.O_WRONLY | sys.O_CREAT | sys.O_EXCL,
  sys.O_WRONLY | sys.O_CREAT,
  sys.O_WRONLY | sys.O_APPEND,
  sys.O_WRONLY,
]

/** How often each operation comes. */
const WEIGHTS = {
  open: 6,
  close: 3,
  pread: 4,
  pwrite: 5,
  ftruncate: 2,
  fstat: 3,
  fchmod: 1,
  fallocate: 1,
  fsync: 0.3,
  content: 5,
  create: 10,
  truncate: 2,
  mkdir: 6,
  mknod: 1,
  symlink: 2,
  link: 4,
  rename: 12,
  unlink: 7,
  rmdir: 5,
  chmod: 3,
  chown: 2,
  utimens: 2,
  setxattr: 3,
  removexattr: 1.5,
  getxattr: 1,
  listxattr: 1,
  stat: 8,
  access: 1,
  readlink: 1,
  readdir: 4,
  remount: 0.15,
  swap: 0.15,
  tree: 0.4,
}

/** What the view holds, so that most operations meet something. */
export interface Known {
  paths: readonly string[]
  dirs: readonly string[]
  /** What new names are taken from. */
  names: readonly string[]
}

export function nextOperation(random: Random, known: Known): Operation {
  const operation = drawn(random, known)
  const acts = operation.op !== 'remount' && operation.op !== 'swap' && operation.op !== 'tree'
  return acts && random.chance(0.12) ? { ...operation, user: 1000 } : operation
}

function drawn(random: Random, known: Known): Operation {
  const path = aPath(random, known)
  const slot = random.below(SLOTS)
  const op = random.weighted(WEIGHTS)
  switch (op) {
    case 'open':
      return {
        op,
        slot,
        path,
        flags: random.pick(OPEN_FLAGS) | sys.O_NOFOLLOW | sys.O_NONBLOCK,
        mode: random.pick(FILE_MODES),
      }
    case 'close':
    case 'fstat':
    case 'fsync':
      return { op, slot }
    case 'pread':
      return { op, slot, offset: anOffset(random), length: random.pick([1, 10, 4096, 20_000]) }
    case 'pwrite':
      return {
        op,
        slot,
        offset: anOffset(random),
        length: random.pick([1, 10, 4096, 20_000]),
        seed: random.below(256),
      }
    case 'ftruncate':
      return { op, slot, size: anOffset(random) }
    case 'fchmod':
      return { op, slot, mode: random.pick(FILE_MODES) }
    case 'fallocate':
      return {
        op,
        slot,
        mode: random.pick([0, 1, 3, 16, 17]),
        offset: anOffset(random),
        length: random.pick([1, 4096, 30_000]),
      }
    case 'content':
    case 'stat':
    case 'access':
    case 'readlink':
    case 'listxattr':
    case 'unlink':
      return { op, path }
    case 'readdir':
    case 'rmdir':
      return { op, path: random.chance(0.8) ? random.pick(known.dirs) : path }
    case 'create':
      return {
        op,
        path,
        flags: random.pick(CREATE_FLAGS) | sys.O_NOFOLLOW | sys.O_NONBLOCK,
        mode: random.pick(FILE_MODES),
        length: random.pick([0, 1, 100, 5000]),
        seed: random.below(256),
      }
    case 'truncate':
      return { op, path, size: anOffset(random) }
    case 'mkdir':
      return { op, path, mode: random.pick(DIR_MODES) }
    case 'mknod':
      return {
        op,
        path,
        mode: random.pick([sys.S_IFIFO, sys.S_IFSOCK, sys.S_IFCHR, sys.S_IFREG]) | random.pick(FILE_MODES),
      }
    case 'symlink':
      return { op, path, target: random.pick(['a', '../b', 'c/d', 'nowhere', 't'.repeat(500)]) }
    case 'link':
      return { op, path, to: aPath(random, known) }
    case 'rename':
      return {
        op,
        path,
        to: aPath(random, known),
        flags: random.chance(0.6) ? 0 : random.pick([sys.RENAME_NOREPLACE, sys.RENAME_EXCHANGE]),
      }
    case 'chmod':
      return { op, path, mode: random.pick(random.chance(0.5) ? FILE_MODES : DIR_MODES) }
    case 'chown':
      return { op, path, uid: random.pick([-1, 0, 1000, 2000]), gid: random.pick([-1, 0, 1000, 2000]) }
    case 'utimens':
      return { op, path, sec: random.below(1_000_000_000) - 1000, nsec: random.below(1e9) }
    case 'setxattr':
      return {
        op,
        path,
        name: random.pick(XATTRS),
        length: random.pick([0, 1, 100, 1000]),
        flags: random.pick([0, 0, 0, sys.XATTR_CREATE, sys.XATTR_REPLACE]),
      }
    case 'removexattr':
    case 'getxattr':
      return { op, path, name: random.pick(XATTRS) }
    case 'remount':
    case 'swap':
    case 'tree':
      return { op }
  }
}

/** One that is there, or a name in a directory that is there, or below something that may be none. */
function aPath(random: Random, known: Known): string {
  const kind = random.weighted({ there: 5, named: 4, below: 0.5 })
  if (kind === 'there' && known.paths.length > 0) return random.pick(known.paths)
  const parent =
    kind === 'below' && known.paths.length > 0 ? random.pick(known.paths) : random.pick(known.dirs)
  const name = random.pick(known.names)
  return parent === '' ? name : `${parent}/${name}`
}

function anOffset(random: Random): number {
  return random.pick([0, 1, 100, 4095, 4096, 10_000, 60_000])
}
