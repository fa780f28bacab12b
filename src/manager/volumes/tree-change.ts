/** What turned one plain tree into another, for an incremental backup. No name in them means anything. */
import { fromUtf8, type ByteName } from '../../base/bytes.js'
import * as sys from '../../sys/index.js'
import type { Stat } from '../../sys/index.js'

const OPEN_DIR = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW

export interface TreeChange {
  /** Paths of what is new or different, and of the directories above. */
  readonly changed: ReadonlySet<ByteName>
  /** Paths of what is not there any more, or is of another type; what was below is not named. */
  readonly deleted: readonly ByteName[]
}

export function treeChange(before: string, after: string): TreeChange {
  using old = sys.openat(sys.AT_FDCWD, fromUtf8(before), sys.O_RDONLY | sys.O_DIRECTORY)
  using now = sys.openat(sys.AT_FDCWD, fromUtf8(after), sys.O_RDONLY | sys.O_DIRECTORY)
  const comparison = new Comparison()
  comparison.directories(old.n, now.n, '')
  return comparison.result()
}

class Comparison {
  readonly #changed = new Set<ByteName>()
  readonly #deleted: ByteName[] = []
  /** Objects with several names: `ino` to their paths, and whether one of them changed. */
  readonly #links = new Map<string, { paths: ByteName[]; changed: boolean }>()

  directories(old: number | undefined, now: number, prefix: ByteName): void {
    const names = sys.listDir(now).names
    const here = new Set(names)
    for (const name of old === undefined ? [] : sys.listDir(old).names) {
      if (!here.has(name)) this.#deleted.push(prefix + name)
    }
    for (const name of names) {
      const stat = sys.statAt(now, name)
      if (stat === undefined) continue
      const path = prefix + name
      const was = old === undefined ? undefined : sys.statAt(old, name)
      const sameType = was !== undefined && (was.mode & sys.S_IFMT) === (stat.mode & sys.S_IFMT)
      if (was !== undefined && !sameType) this.#deleted.push(path)
      const same = sameType && sameObject(old ?? -1, was, now, stat, name)
      if (!same) this.#change(path)
      if (!sys.S_ISDIR(stat.mode)) {
        if (stat.nlink > 1) this.#link(stat, path, !same)
        continue
      }
      using child = sys.openat(now, name, OPEN_DIR)
      if (sameType) {
        using oldChild = sys.openat(old ?? -1, name, OPEN_DIR)
        this.directories(oldChild.n, child.n, `${path}/`)
      } else this.directories(undefined, child.n, `${path}/`)
    }
  }

  #link(stat: Stat, path: ByteName, changed: boolean): void {
    const key = `${stat.dev}:${stat.inoHi}:${stat.inoLo}`
    const link = this.#links.get(key) ?? { paths: [], changed: false }
    link.paths.push(path)
    link.changed ||= changed
    this.#links.set(key, link)
  }

  #change(path: ByteName): void {
    for (
      let at = path;
      at !== '' && !this.#changed.has(at);
      at = at.slice(0, Math.max(0, at.lastIndexOf('/')))
    )
      this.#changed.add(at)
  }

  result(): TreeChange {
    // All names of one object come together: an archive links them to the first one in it.
    for (const { paths, changed } of this.#links.values()) {
      if (!changed) continue
      for (const path of paths) {
        this.#change(path)
        this.#deleted.push(path)
      }
    }
    return { changed: this.#changed, deleted: [...new Set(this.#deleted)] }
  }
}

/** Equal times mean equal content: copies keep them to the nanosecond, and a write changes them. */
function sameObject(old: number, was: Stat, now: number, is: Stat, name: ByteName): boolean {
  if (was.mode !== is.mode || was.uid !== is.uid || was.gid !== is.gid || was.rdev !== is.rdev) return false
  if (was.mtime !== is.mtime || was.mtimeNsec !== is.mtimeNsec) return false
  if (!sys.S_ISDIR(is.mode) && (was.size !== is.size || was.nlink > 1 !== is.nlink > 1)) return false
  if (sys.S_ISLNK(is.mode) && sys.readlinkat(old, name) !== sys.readlinkat(now, name)) return false
  const names = sys.listxattrAt(now, name).sort()
  if (names.join('\0') !== sys.listxattrAt(old, name).sort().join('\0')) return false
  return names.every(attr => {
    const value = sys.getxattrAt(old, name, attr)
    return value !== undefined && sys.getxattrAt(now, name, attr)?.equals(value) === true
  })
}
