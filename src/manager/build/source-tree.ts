/**
 * What COPY, ADD and bind mounts of RUN read: the build context, the tree of another stage or image. This is the one
 * place that says what a context shows: .dockerignore hides files, and directories unless something in them is shown;
 * nothing that is hidden is listed, copied, digested, or reached through a symlink. Paths are byte names relative to the
 * root; symlinks are followed within it.
 */
import type { Fd } from '../../base/fd.js'
import { toUtf8, type ByteName } from '../../base/bytes.js'
import { E } from '../../base/errno.js'
import { SysError } from '../../base/sys-error.js'
import type { PathPatterns } from '../../oci/index.js'
import * as sys from '../../sys/index.js'
import type { Stat } from '../../sys/index.js'
import { byteOrder } from '../byte-order.js'
import { StoreError } from '../store-error.js'

const OPEN_DIR = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW
const BENEATH = sys.RESOLVE_BENEATH | sys.RESOLVE_NO_SYMLINKS
/** As in the kernel (MAXSYMLINKS). */
const MAX_SYMLINKS = 40

export interface ShownEntry {
  readonly name: ByteName
  readonly stat: Stat
}

export class SourceTree {
  /** Directories that match a pattern of .dockerignore and may have exceptions: something in them is shown. */
  readonly #opened = new Map<ByteName, boolean>()

  constructor(
    readonly root: number,
    /** In messages: "the build context". */
    readonly what: string,
    readonly ignore?: PathPatterns,
    /** Owners of a context are those of whoever builds: they do not count and are not copied. */
    readonly owners = true,
  ) {}

  /** What the directory shows, in the order of bytes. */
  list(dir: number, path: ByteName): ShownEntry[] {
    return sys
      .listDir(dir)
      .names.sort(byteOrder)
      .flatMap(name => {
        const stat = sys.statAt(dir, name)
        return stat !== undefined && this.#shows(dir, name, joined(path, name), stat) ? [{ name, stat }] : []
      })
  }

  #shows(dir: number, name: ByteName, path: ByteName, stat: Stat): boolean {
    const { ignore } = this
    if (ignore === undefined || !ignore.matches(path)) return true
    if (!sys.S_ISDIR(stat.mode) || !ignore.mayExceptBelow(path)) return false
    const known = this.#opened.get(path)
    if (known !== undefined) return known
    using child = sys.openat(dir, name, OPEN_DIR)
    const shown = sys.listDir(child.n).names.some(each => {
      const stat = sys.statAt(child.n, each)
      return stat !== undefined && this.#shows(child.n, each, joined(path, each), stat)
    })
    this.#opened.set(path, shown)
    return shown
  }

  /** The topmost paths that are not shown, for who makes a tree without them. */
  *hidden(): Generator<ByteName, void, void> {
    if (this.ignore === undefined) return
    using root = sys.openat(this.root, '.', OPEN_DIR)
    yield* this.#hiddenBelow(root.n, '')
  }

  *#hiddenBelow(dir: number, path: ByteName): Generator<ByteName, void, void> {
    for (const name of sys.listDir(dir).names.sort(byteOrder)) {
      const stat = sys.statAt(dir, name)
      if (stat === undefined) continue
      const full = joined(path, name)
      if (!this.#shows(dir, name, full, stat)) {
        yield full
      } else if (sys.S_ISDIR(stat.mode)) {
        using child = sys.openat(dir, name, OPEN_DIR)
        yield* this.#hiddenBelow(child.n, full)
      }
    }
  }

  /**
   * Where `path` leads: a path without symlinks, `..` and doubled slashes; undefined where nothing is shown.
   * A `..` above the root stays at the root.
   */
  resolve(path: ByteName): ByteName | undefined {
    const walked: { name: ByteName; fd: Fd }[] = []
    const todo = path.split('/').reverse()
    let symlinks = 0
    try {
      for (let name = todo.pop(); name !== undefined; name = todo.pop()) {
        if (name === '' || name === '.') continue
        if (name === '..') {
          walked.pop()?.fd.close()
          continue
        }
        const here = walked.at(-1)?.fd.n ?? this.root
        const stat = statOrAbsent(here, name)
        if (stat === undefined) return undefined
        const full = [...walked.map(part => part.name), name].join('/')
        if (!this.#shows(here, name, full, stat)) return undefined
        if (sys.S_ISLNK(stat.mode)) {
          if (++symlinks > MAX_SYMLINKS) throw new SysError(E.ELOOP, 'open', path)
          const target = sys.readlinkat(here, name)
          if (target.startsWith('/')) for (const part of walked.splice(0)) part.fd.close()
          todo.push(...target.split('/').reverse())
          continue
        }
        walked.push({ name, fd: sys.openat(here, name, sys.O_PATH | sys.O_NOFOLLOW) })
      }
      return walked.map(part => part.name).join('/')
    } finally {
      for (const part of walked) part.fd.close()
    }
  }

  /** An O_PATH descriptor of a path without symlinks, as {@link resolve} gives it. */
  open(path: ByteName): Fd {
    try {
      return sys.openat2(this.root, path === '' ? '.' : path, sys.O_PATH | sys.O_NOFOLLOW, 0, BENEATH)
    } catch (error) {
      const gone: readonly number[] = [E.ENOENT, E.ENOTDIR, E.ELOOP]
      if (error instanceof SysError && gone.includes(error.errno))
        throw new StoreError('not-found', `'${toUtf8(path)}' is no longer in ${this.what}`)
      throw error
    }
  }

  /** @throws StoreError not-found, saying so where .dockerignore is why */
  notFound(path: string, bytes: ByteName): StoreError {
    const bare = new SourceTree(this.root, this.what)
    const hidden = this.ignore !== undefined && bare.resolve(bytes) !== undefined
    return new StoreError(
      'not-found',
      `'${path}' is not in ${this.what}${hidden ? ' (a pattern of .dockerignore hides it)' : ''}`,
    )
  }
}

function statOrAbsent(dir: number, name: ByteName): Stat | undefined {
  try {
    return sys.statAt(dir, name)
  } catch (error) {
    if (error instanceof SysError && error.errno === E.ENOTDIR) return undefined
    throw error
  }
}

export function joined(a: ByteName, b: ByteName): ByteName {
  return a === '' ? b : b === '' ? a : `${a}/${b}`
}
