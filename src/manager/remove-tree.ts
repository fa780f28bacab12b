/**
 * Removes a directory tree of the store: any names (bytes), any modes, any depth; never follows a symlink, never
 * crosses into a mount.
 */
import { fromUtf8 } from '../base/bytes.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import * as sys from '../sys/index.js'

/** Entries between two turns of the event loop. */
const BATCH = 2_000

const OPEN_DIR = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW

interface Level {
  readonly fd: ReturnType<typeof sys.openat>
  readonly name: string
  readonly mntId: number
  /** Directories seen and not yet entered. */
  readonly dirs: string[]
  /** Whether the current pass over the directory saw anything. */
  found: boolean
}

/**
 * Removes `path` and everything in it. A tree that is not there is no error: another sweep may have been faster.
 * @throws SysError EBUSY where something is still mounted inside, EACCES, EIO
 */
export async function removeTree(path: string): Promise<void> {
  const root = fromUtf8(path)
  const stat = sys.statAt(sys.AT_FDCWD, root)
  if (stat === undefined) return
  if (!sys.S_ISDIR(stat.mode)) {
    unlink(sys.AT_FDCWD, root, 0)
    return
  }
  const first = openForRemoval(sys.AT_FDCWD, root)
  if (first === undefined) return
  const stack: Level[] = [newLevel(first, root, sys.statFd(first.n).mntId)]
  try {
    await emptyLevels(stack)
  } finally {
    for (const level of stack) level.fd.close()
  }
  unlink(sys.AT_FDCWD, root, sys.AT_REMOVEDIR)
}

/** Depth first with an explicit stack: an image may nest directories deeper than the call stack. */
async function emptyLevels(stack: Level[]): Promise<void> {
  let budget = BATCH
  for (let level = stack.at(-1); level !== undefined; level = stack.at(-1)) {
    const child = emptyOne(level, () => (budget -= 1))
    if (child !== undefined) {
      stack.push(child)
    } else if (stack.length === 1) {
      return
    } else {
      stack.pop()
      level.fd.close()
      const parent = stack.at(-1)
      if (parent !== undefined) unlink(parent.fd.n, level.name, sys.AT_REMOVEDIR)
    }
    if (budget <= 0) {
      budget = BATCH
      await new Promise(resolve => setImmediate(resolve))
    }
  }
}

/** Unlinks what is not a directory; returns the next directory, opened, or `undefined` once `level` is empty. */
function emptyOne(level: Level, spend: () => number): Level | undefined {
  for (;;) {
    for (let name = level.dirs.pop(); name !== undefined; name = level.dirs.pop()) {
      const fd = openForRemoval(level.fd.n, name)
      if (fd !== undefined) return newLevel(fd, name, level.mntId)
    }
    const batch = sys.getdents(level.fd.n)
    if (batch === undefined) {
      // Entries may be skipped where a directory shrinks while it is read: only a pass that finds nothing is the end.
      if (!level.found) return undefined
      level.found = false
      sys.lseek(level.fd.n, 0, sys.SEEK_SET)
      continue
    }
    for (const [index, name] of batch.names.entries()) {
      spend()
      level.found = true
      if (isDirectory(level, name, batch.types[index] ?? sys.DT_UNKNOWN)) level.dirs.push(name)
      else unlink(level.fd.n, name, 0)
    }
  }
}

function isDirectory(level: Level, name: string, type: number): boolean {
  if (type !== sys.DT_DIR && type !== sys.DT_UNKNOWN) return false
  const stat = sys.statAt(level.fd.n, name)
  if (stat === undefined || !sys.S_ISDIR(stat.mode)) return false
  if (stat.mntId !== level.mntId)
    throw new SysError(E.EBUSY, 'remove', `${name} (something is mounted there)`)
  return true
}

function newLevel(fd: ReturnType<typeof sys.openat>, name: string, mntId: number): Level {
  return { fd, name, mntId, dirs: [], found: false }
}

function openForRemoval(dirfd: number, name: string): ReturnType<typeof sys.openat> | undefined {
  try {
    return sys.openat(dirfd, name, OPEN_DIR)
  } catch (error) {
    if (isErrno(error, E.ENOENT)) return undefined
    if (!isErrno(error, E.EACCES)) throw error
    // Without CAP_DAC_OVERRIDE a directory of mode 0 must be opened up first; it is ours and about to go.
    sys.chmodAt(dirfd, name, 0o700)
    return sys.openat(dirfd, name, OPEN_DIR)
  }
}

function unlink(dirfd: number, name: string, flags: number): void {
  try {
    sys.unlinkat(dirfd, name, flags)
  } catch (error) {
    if (isErrno(error, E.ENOENT)) return
    if (isErrno(error, E.EACCES) && dirfd !== sys.AT_FDCWD) {
      sys.chmodAt(dirfd, '', 0o700)
      sys.unlinkat(dirfd, name, flags)
      return
    }
    throw error
  }
}

function isErrno(error: unknown, errno: number): boolean {
  return error instanceof SysError && error.errno === errno
}
