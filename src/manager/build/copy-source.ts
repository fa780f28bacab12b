/**
 * What COPY and ADD read: the build context, the tree of another stage, the tree of an image. Paths are byte names
 * relative to the root; symlinks are followed within it.
 */
import { createHash, type Hash } from 'node:crypto'
import type { Fd } from '../../base/fd.js'
import { fromUtf8, toUtf8 } from '../../base/bytes.js'
import { E } from '../../base/errno.js'
import { SysError } from '../../base/sys-error.js'
import type { IgnoreRules } from '../../oci/index.js'
import * as sys from '../../sys/index.js'
import type { Stat } from '../../sys/index.js'
import { byteOrder } from '../byte-order.js'
import { StoreError } from '../store-error.js'

const OPEN_DIR = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW

export class CopySource {
  constructor(
    readonly root: number,
    /** In messages: "the build context". */
    readonly what: string,
    readonly ignore?: IgnoreRules,
    /** Owners of a context are those of whoever builds: they do not count and are not copied. */
    readonly owners = true,
  ) {}

  ignores(path: string): boolean {
    return this.ignore?.ignores(path) === true
  }

  /**
   * The paths that a source pattern means (Go's filepath.Match: `*`, `?`, `[a-z]`, none across a slash).
   * @throws StoreError not-found where it means nothing
   */
  expand(pattern: string): string[] {
    const parts = fromUtf8(pattern)
      .split('/')
      .filter(part => part !== '' && part !== '.')
    if (parts.includes('..')) {
      throw new StoreError('invalid', `'${pattern}' leads out of ${this.what}`)
    }
    let found = ['']
    for (const part of parts) {
      found = found.flatMap(path => this.#step(path, part))
    }
    const kept = found.filter(
      path => path === '' || !this.ignores(path) || this.ignore?.mayContainExceptions === true,
    )
    if (kept.length > 0) return kept.sort(byteOrder)
    const ignored = found.length > 0 ? ' (a pattern of .dockerignore hides it)' : ''
    throw new StoreError('not-found', `'${pattern}' is not in ${this.what}${ignored}`)
  }

  #step(path: string, part: string): string[] {
    const join = (name: string): string => (path === '' ? name : `${path}/${name}`)
    if (!/[*?[\\]/.test(part)) {
      const fd = this.tryOpen(join(part))
      fd?.close()
      return fd === undefined ? [] : [join(part)]
    }
    using dir = this.tryOpen(path)
    if (dir === undefined || !sys.S_ISDIR(sys.statFd(dir.n).mode)) return []
    using list = sys.openat(dir.n, '.', OPEN_DIR)
    const matcher = componentPattern(part)
    return sys
      .listDir(list.n)
      .names.filter(name => matcher.test(name))
      .map(join)
  }

  /** An O_PATH descriptor of what the path leads to, symlinks followed. */
  open(path: string): Fd {
    const fd = this.tryOpen(path)
    if (fd === undefined) throw new StoreError('not-found', `'${toUtf8(path)}' is not in ${this.what}`)
    return fd
  }

  tryOpen(path: string): Fd | undefined {
    try {
      return sys.openat2(
        this.root,
        path === '' ? '.' : path,
        sys.O_PATH,
        0,
        sys.RESOLVE_IN_ROOT | sys.RESOLVE_NO_MAGICLINKS,
      )
    } catch (error) {
      if (error instanceof SysError && (error.errno === E.ENOENT || error.errno === E.ENOTDIR))
        return undefined
      throw error
    }
  }

  /** A digest of everything that copying `path` would bring: names, types, modes, contents, xattrs; not times. */
  digest(path: string): string {
    const hash = createHash('sha256')
    using fd = this.open(path)
    const stat = sys.statFd(fd.n)
    if (sys.S_ISDIR(stat.mode)) {
      using dir = sys.openat(fd.n, '.', OPEN_DIR)
      this.#hashDirectory(hash, dir.n, path, '')
    } else {
      this.#hashObject(hash, fd.n, '', stat, toName(path))
    }
    return hash.digest('hex')
  }

  #hashDirectory(hash: Hash, dir: number, path: string, shown: string): void {
    this.#hashHead(hash, dir, '', sys.statFd(dir), `${shown}/`)
    for (const name of sys.listDir(dir).names.sort(byteOrder)) {
      const full = path === '' ? name : `${path}/${name}`
      const stat = sys.statAt(dir, name)
      if (stat === undefined) continue
      const isDir = sys.S_ISDIR(stat.mode)
      const ignored = this.ignores(full)
      if (ignored && !(isDir && this.ignore?.mayContainExceptions === true)) continue
      if (isDir) {
        using child = sys.openat(dir, name, OPEN_DIR)
        this.#hashDirectory(hash, child.n, full, `${shown}/${name}`)
      } else {
        this.#hashObject(hash, dir, name, stat, `${shown}/${name}`)
      }
    }
  }

  #hashHead(hash: Hash, dir: number, name: string, stat: Stat, shown: string): void {
    const owner = this.owners ? `${stat.uid}:${stat.gid}` : ''
    hash.update(`${shown}\0${stat.mode} ${owner} ${stat.rdev}\0`, 'latin1')
    for (const attr of sys.listxattrAt(dir, name).sort(byteOrder)) {
      const value = sys.getxattrAt(dir, name, attr)
      if (value !== undefined) hash.update(`${attr}=`, 'latin1').update(value)
    }
  }

  #hashObject(hash: Hash, dir: number, name: string, stat: Stat, shown: string): void {
    this.#hashHead(hash, dir, name, stat, shown)
    if (sys.S_ISLNK(stat.mode)) hash.update(sys.readlinkat(dir, name), 'latin1')
    if (!sys.S_ISREG(stat.mode)) return
    hash.update(`${stat.size}\0`)
    using file =
      name === ''
        ? sys.openat(sys.AT_FDCWD, `/proc/self/fd/${dir}`, sys.O_RDONLY)
        : sys.openat(dir, name, sys.O_RDONLY | sys.O_NOFOLLOW)
    for (let offset = 0; ;) {
      const length = sys.preadSync(file.n, buffer, 0, buffer.length, offset)
      if (length === 0) return
      hash.update(buffer.subarray(0, length))
      offset += length
    }
  }
}

const buffer = Buffer.alloc(1 << 20)

function toName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1)
}

/** One component of a pattern as an expression on byte names. */
function componentPattern(part: string): RegExp {
  let source = ''
  for (let i = 0; i < part.length; i += 1) {
    const c = part.charAt(i)
    const close = c === '[' ? part.indexOf(']', i + 2) : -1
    if (c === '*') source += '[^/]*'
    else if (c === '?') source += '[^/]'
    else if (close > 0) {
      source += `[${part.slice(i + 1, close).replace(/\\/g, '\\\\')}]`
      i = close
    } else if (c === '\\' && i + 1 < part.length) {
      i += 1
      source += escape(part.charAt(i))
    } else source += escape(c)
  }
  return new RegExp(`^${source}$`, 's')
}

function escape(c: string): string {
  return c.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&')
}
