import { addon, check } from './addon.js'
import { SEEK_SET } from './constants.js'

/** Parallel arrays, one place per entry; `.` and `..` are left out. */
export interface DirentBatch {
  names: string[]
  /** DT_*; DT_UNKNOWN on filesystems that do not say. */
  types: Uint8Array
  /** d_ino, exact below 2^53. */
  inos: Float64Array
}

let buffers: [types: Uint8Array, inos: Float64Array] | undefined

/**
 * The next entries at the descriptor's position: one getdents64(2) of at most 256 KiB.
 * @returns undefined at the end
 * @throws SysError ENOTDIR, EBADF, EIO
 */
export function getdents(fd: number): DirentBatch | undefined {
  const names = addon.getdents(fd)
  if (names === undefined) return undefined
  if (typeof names === 'number') {
    check(names, 'getdents64')
    return undefined
  }
  buffers ??= addon.direntBuffers()
  return { names, types: buffers[0].slice(0, names.length), inos: buffers[1].slice(0, names.length) }
}

/** The whole directory, from its beginning. Takes the descriptor's position to the end. */
export function listDir(fd: number): DirentBatch {
  check(addon.lseek(fd, 0, SEEK_SET), 'lseek')
  const first = getdents(fd)
  if (first === undefined) return { names: [], types: new Uint8Array(0), inos: new Float64Array(0) }
  const batches = [first]
  for (let next = getdents(fd); next !== undefined; next = getdents(fd)) batches.push(next)
  if (batches.length === 1) return first

  const length = batches.reduce((sum, batch) => sum + batch.names.length, 0)
  const types = new Uint8Array(length)
  const inos = new Float64Array(length)
  const names: string[] = []
  for (const batch of batches) {
    types.set(batch.types, names.length)
    inos.set(batch.inos, names.length)
    for (const name of batch.names) names.push(name)
  }
  return { names, types, inos }
}

/** Entries that {@link hasPrefix} looks at: about a millisecond. */
const MOST_LOOKED_AT = 4096

/** Whether an entry of the directory begins with `prefix`; `undefined` where there are too many to look at all, or it cannot be read. */
export function hasPrefix(dirfd: number, prefix: string): boolean | undefined {
  const found = addon.hasPrefix(dirfd, prefix, MOST_LOOKED_AT)
  return found > 1 ? undefined : found === 1
}
