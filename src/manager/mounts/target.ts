/**
 * Places in a root filesystem that a stranger made. Every path is resolved with the rootfs as `/` (openat2
 * RESOLVE_IN_ROOT, no magic links), and what is returned is a descriptor: nothing is looked up by a host path again, so
 * a symlink in the image, also one that is swapped meanwhile, leads to another place in the rootfs at most.
 */
import { E } from '../../base/errno.js'
import type { Fd } from '../../base/fd.js'
import { SysError } from '../../base/sys-error.js'
import type { ByteName } from '../../base/bytes.js'
import * as sys from '../../sys/index.js'

export const IN_ROOT = sys.RESOLVE_IN_ROOT | sys.RESOLVE_NO_MAGICLINKS

/** As in the kernel (MAXSYMLINKS). */
const MAX_SYMLINKS = 40

const OPEN_PARENT = sys.O_PATH | sys.O_DIRECTORY | sys.O_NOFOLLOW

/** An O_PATH descriptor of what `path` shows in the rootfs; `undefined` where nothing is. */
export function openInRoot(root: number, path: ByteName): Fd | undefined {
  try {
    return sys.openat2(root, path, sys.O_PATH, 0, IN_ROOT)
  } catch (error) {
    if (error instanceof SysError && error.errno === E.ENOENT) return undefined
    throw error
  }
}

/** Calls `make` to make `name`, which says whether it was not there. */
export type Making = (dirfd: number, name: ByteName, make: () => boolean) => void

/**
 * The same, made where it is missing: directories of mode 0755 above it, and itself as an empty directory or file. A
 * dangling symlink on the way is followed inside the rootfs, and what it names is made.
 * @param making makes each object that is not there, by calling what it is given
 * @throws SysError ENOTDIR, ELOOP, EROFS
 */
export function makeInRoot(
  root: number,
  path: ByteName,
  kind: 'directory' | 'file',
  making: Making = (_dirfd, _name, make) => void make(),
): Fd {
  const found = openInRoot(root, path)
  if (found !== undefined) return found
  makeMissing(root, path, kind, making)
  return sys.openat2(root, path, sys.O_PATH, 0, IN_ROOT)
}

function makeMissing(root: number, path: ByteName, kind: 'directory' | 'file', making: Making): void {
  const directory = (dirfd: number, name: ByteName): void =>
    making(dirfd, name, () => makeDirectory(dirfd, name))
  const { parent, name } = placeInRoot(root, path, directory)
  using _ = parent
  if (name === '' || sys.statAt(parent.n, name) !== undefined) return
  if (kind === 'directory') directory(parent.n, name)
  else making(parent.n, name, () => makeFile(parent.n, name))
}

/** Where a path of a rootfs ends: a name in an open directory. */
export interface Place {
  /** O_PATH. */
  readonly parent: Fd
  /** No symlink, and possibly absent; '' where the path is that of the directory itself. */
  readonly name: ByteName
}

/**
 * The place that `path` names, also where nothing is: symlinks are followed inside the rootfs, also dangling ones and
 * the last one; a directory that is missing on the way is made by `make`. `..` goes back to a descriptor that this walk
 * has opened, never through the filesystem.
 * @throws SysError ENOTDIR, ELOOP
 */
export function placeInRoot(
  root: number,
  path: ByteName,
  make: (dirfd: number, name: ByteName) => void,
): Place {
  const walked: Fd[] = []
  const todo = path.split('/').reverse()
  let symlinks = 0
  try {
    for (let name = todo.pop(); name !== undefined; name = todo.pop()) {
      if (name === '' || name === '.') continue
      if (name === '..') {
        walked.pop()?.close()
        continue
      }
      const here = walked.at(-1)?.n ?? root
      const stat = sys.statAt(here, name)
      if (stat !== undefined && sys.S_ISLNK(stat.mode)) {
        if (++symlinks > MAX_SYMLINKS) throw new SysError(E.ELOOP, 'open', path)
        const target = sys.readlinkat(here, name)
        if (target.startsWith('/')) for (const fd of walked.splice(0)) fd.close()
        todo.push(...target.split('/').reverse())
        continue
      }
      const last = !todo.some(rest => rest !== '' && rest !== '.')
      if (last) return { parent: sys.openat(here, '.', sys.O_PATH | sys.O_DIRECTORY), name }
      if (stat === undefined) make(here, name)
      walked.push(sys.openat(here, name, OPEN_PARENT))
    }
    const here = walked.at(-1)?.n ?? root
    return { parent: sys.openat(here, '.', sys.O_PATH | sys.O_DIRECTORY), name: '' }
  } finally {
    for (const fd of walked) fd.close()
  }
}

/** @returns whether it was not there */
function makeDirectory(dirfd: number, name: ByteName): boolean {
  try {
    sys.mkdirat(dirfd, name, 0o755)
    sys.chmodAt(dirfd, name, 0o755)
    return true
  } catch (error) {
    if (!(error instanceof SysError && error.errno === E.EEXIST)) throw error
    return false
  }
}

/** @returns whether it was not there */
function makeFile(dirfd: number, name: ByteName): boolean {
  const flags = sys.O_WRONLY | sys.O_CREAT | sys.O_EXCL | sys.O_NOFOLLOW
  try {
    sys.openat(dirfd, name, flags, 0o644).close()
    return true
  } catch (error) {
    if (!(error instanceof SysError && error.errno === E.EEXIST)) throw error
    return false
  }
}
