/**
 * A directory tree reached only from its root descriptor: no path leads out of it, whatever symlinks it holds.
 *
 * Paths are normal forms of `layerPath`: relative, no empty, `.` or `..` component, '' for the root. Descriptors of
 * directories are cached, because archives list a directory's files one after the other.
 */
import { E } from '../base/errno.js'
import { toUtf8 } from '../base/bytes.js'
import { SysError } from '../base/sys-error.js'
import * as sys from '../sys/index.js'
import { OciError } from './error.js'

const oddComponent = /(?:^|\/)\.{0,2}(?:\/|$)/
const cacheSize = 128

const dirFlags = sys.O_PATH | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC
const strict = sys.RESOLVE_BENEATH | sys.RESOLVE_NO_SYMLINKS
/** Symlinks within the tree are followed, an absolute one or one with too many `..` is EXDEV. */
const beneath = sys.RESOLVE_BENEATH | sys.RESOLVE_NO_MAGICLINKS

/**
 * The normal form of a name in an archive. A leading `/` is the tree's root, as tar, docker and podman take it.
 * @throws OciError `unsafe` for `..`, `malformed` for NUL
 */
export function layerPath(raw: string): string {
  if (raw.includes('\0')) throw new OciError('malformed', `a name in the archive has a NUL byte`)
  if (!oddComponent.test(raw)) return raw
  const parts: string[] = []
  for (const part of raw.split('/')) {
    if (part === '' || part === '.') continue
    if (part === '..') throw new OciError('unsafe', `'${toUtf8(raw)}' leads out of the archive's root`)
    parts.push(part)
  }
  return parts.join('/')
}

export function parentOf(path: string): string {
  const slash = path.lastIndexOf('/')
  return slash === -1 ? '' : path.slice(0, slash)
}

export function baseOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1)
}

/** Makes a directory that an archive needs and does not list: `name` in `parentFd`. */
export type MakeDirectory = (parentFd: number, name: string, path: string) => void

export class LayerTree {
  /** Oldest first. */
  readonly #cache = new Map<string, number>()
  #lastPath = ''
  #lastFd: number

  /** `rootFd` stays the caller's. */
  constructor(
    readonly rootFd: number,
    readonly makeDirectory?: MakeDirectory,
  ) {
    this.#lastFd = rootFd
  }

  /**
   * A descriptor (O_PATH) of the directory `path`, valid until the next call of any method.
   * @throws SysError ENOENT (unless makeDirectory makes it), ENOTDIR; OciError `unsafe`
   */
  directory(path: string): number {
    if (path === this.#lastPath) return this.#lastFd
    const fd = path === '' ? this.rootFd : (this.#cached(path) ?? this.#open(path))
    this.#lastPath = path
    this.#lastFd = fd
    return fd
  }

  #cached(path: string): number | undefined {
    const fd = this.#cache.get(path)
    if (fd === undefined) return undefined
    this.#cache.delete(path)
    this.#cache.set(path, fd)
    return fd
  }

  #open(path: string): number {
    // Component by component: any depth, longer than PATH_MAX too; nearly always the parent is cached.
    const pending: string[] = [path]
    let fd = this.rootFd
    for (let up = parentOf(path); up !== ''; up = parentOf(up)) {
      const known = this.#cached(up)
      if (known !== undefined) {
        fd = known
        break
      }
      pending.push(up)
    }
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      fd = this.#openOne(fd, next)
      this.#remember(next, fd)
    }
    return fd
  }

  #openOne(parentFd: number, path: string): number {
    const name = baseOf(path)
    let rc = sys.tryOpenat2(parentFd, name, dirFlags, 0, strict)
    if ((rc === -E.ENOENT || rc === -E.ENOTDIR) && this.makeDirectory !== undefined) {
      this.makeDirectory(parentFd, name, path)
      rc = sys.tryOpenat2(parentFd, name, dirFlags, 0, strict)
    }
    if (rc === -E.ELOOP || rc === -E.ENOTDIR) {
      // O_NOFOLLOW | O_DIRECTORY on a symlink is ENOTDIR
      const stat = sys.statAt(parentFd, name)
      if (stat !== undefined && sys.S_ISLNK(stat.mode)) rc = this.#follow(path)
    }
    if (rc < 0) throw new SysError(-rc, 'openat2', path)
    return rc
  }

  /** A directory reached through a symlink of the same tree, as `lib -> usr/lib` in many images. */
  #follow(path: string): number {
    const rc = sys.tryOpenat2(this.rootFd, path, sys.O_PATH | sys.O_DIRECTORY | sys.O_CLOEXEC, 0, beneath)
    if (rc === -E.EXDEV) throw new OciError('unsafe', `'${toUtf8(path)}' leads out through a symbolic link`)
    if (rc === -E.ELOOP) throw new OciError('unsafe', `'${toUtf8(path)}' is a loop of symbolic links`)
    return rc
  }

  #remember(path: string, fd: number): void {
    this.#cache.set(path, fd)
    if (this.#cache.size <= cacheSize) return
    const [oldest] = this.#cache
    if (oldest === undefined || oldest[1] === fd) return
    this.#cache.delete(oldest[0])
    if (oldest[0] === this.#lastPath) this.#forgetLast()
    sys.close(oldest[1])
  }

  #forgetLast(): void {
    this.#lastPath = ''
    this.#lastFd = this.rootFd
  }

  /** To be called when a directory or a symlink goes: cached descriptors may then be of something else. */
  forget(): void {
    this.#forgetLast()
    for (const fd of this.#cache.values()) sys.close(fd)
    this.#cache.clear()
  }

  /**
   * Opens the regular file `path` for reading.
   * @throws SysError; ELOOP for a symlink
   */
  openFile(path: string): number {
    const dir = this.directory(parentOf(path))
    // O_NONBLOCK: a fifo in the place of a file must not stop us
    const flags = sys.O_RDONLY | sys.O_NOFOLLOW | sys.O_NONBLOCK | sys.O_CLOEXEC
    const rc = sys.tryOpenat2(dir, baseOf(path), flags, 0, strict)
    if (rc < 0) throw new SysError(-rc, 'openat2', path)
    return rc
  }

  /** `gone` is told of every object that is not a directory before it goes. */
  remove(
    dirFd: number,
    name: string,
    path: string,
    gone?: (dirFd: number, name: string, path: string) => void,
  ): void {
    const stat = sys.statAt(dirFd, name)
    if (stat === undefined) return
    if (!sys.S_ISDIR(stat.mode)) {
      gone?.(dirFd, name, path)
      sys.unlinkat(dirFd, name)
      if (sys.S_ISLNK(stat.mode)) this.forget()
      return
    }
    removeContents(dirFd, name, path, gone)
    sys.unlinkat(dirFd, name, sys.AT_REMOVEDIR)
    this.forget()
  }

  close(): void {
    this.forget()
  }
}

/** Everything in the directory `name`, by its descriptor, depth first; never follows a symlink. */
function removeContents(
  dirFd: number,
  name: string,
  path: string,
  gone?: (dirFd: number, name: string, path: string) => void,
): void {
  using fd = sys.openat2(dirFd, name, sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW, 0, strict)
  const { names, types } = sys.listDir(fd.n)
  names.forEach((child, i) => {
    const isDir =
      types[i] === sys.DT_DIR ||
      (types[i] === sys.DT_UNKNOWN && sys.S_ISDIR(sys.statAt(fd.n, child)?.mode ?? 0))
    const childPath = `${path}/${child}`
    if (isDir) {
      removeContents(fd.n, child, childPath, gone)
      sys.unlinkat(fd.n, child, sys.AT_REMOVEDIR)
    } else {
      gone?.(fd.n, child, childPath)
      sys.unlinkat(fd.n, child)
    }
  })
}
