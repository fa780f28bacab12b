/**
 * Where COPY, ADD and WORKDIR write: the mounted tree of a step. Every path is walked from the tree's root by
 * descriptors; symlinks, dangling ones too, lead to another place inside the tree at most.
 */
import { toUtf8, type ByteName } from '../../base/bytes.js'
import { E } from '../../base/errno.js'
import type { Fd } from '../../base/fd.js'
import { SysError } from '../../base/sys-error.js'
import * as sys from '../../sys/index.js'
import type { Stat } from '../../sys/index.js'
import { IN_ROOT, placeInRoot, type Place } from '../mounts/target.js'
import { StoreError } from '../store-error.js'

/** What directories get that are made on the way. */
export interface NewDirectory {
  readonly uid: number
  readonly gid: number
  /** Permission bits. */
  readonly mode: number
}

export class CopyTarget {
  constructor(
    readonly rootfs: number,
    readonly made: NewDirectory = { uid: 0, gid: 0, mode: 0o755 },
  ) {}

  /** Opens a directory for reading, made with all above it where it is missing. */
  directory(path: ByteName): Fd {
    try {
      const { parent, name } = placeInRoot(this.rootfs, path, this.#make)
      using _ = parent
      if (name === '') return sys.openat(parent.n, '.', sys.O_RDONLY | sys.O_DIRECTORY)
      if (sys.statAt(parent.n, name) === undefined) this.#make(parent.n, name)
      return sys.openat(parent.n, name, sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW)
    } catch (error) {
      throw notDirectory(error, path)
    }
  }

  /** The place of a file, the directories above it made. */
  place(path: ByteName): Place {
    try {
      return placeInRoot(this.rootfs, path, this.#make)
    } catch (error) {
      throw notDirectory(error, path)
    }
  }

  /** What is there, symlinks followed. */
  stat(path: ByteName): Stat | undefined {
    try {
      using fd = sys.openat2(this.rootfs, path === '' ? '.' : path, sys.O_PATH, 0, IN_ROOT)
      return sys.statFd(fd.n)
    } catch (error) {
      if (error instanceof SysError && (error.errno === E.ENOENT || error.errno === E.ENOTDIR))
        return undefined
      throw error
    }
  }

  readonly #make = (dirfd: number, name: ByteName): void => {
    const { uid, gid, mode } = this.made
    sys.mkdirat(dirfd, name, mode)
    sys.fchownat(dirfd, name, uid, gid)
    sys.chmodAt(dirfd, name, mode)
  }
}

function notDirectory(error: unknown, path: ByteName): unknown {
  if (!(error instanceof SysError) || error.errno !== E.ENOTDIR) return error
  return new StoreError('failed', `'/${toUtf8(path)}' is no directory, or lies below a file`)
}

/** Makes room for a file; a directory in its place is an error, as in docker. */
export function makeRoom(dir: number, name: ByteName): void {
  const stat = sys.statAt(dir, name)
  if (stat === undefined) return
  if (sys.S_ISDIR(stat.mode)) {
    throw new StoreError('failed', `cannot copy a file over the directory '${toUtf8(name)}'`)
  }
  sys.unlinkat(dir, name, 0)
}
