/** Digests of what a step reads, for its key in the build cache: names, types, modes, contents, attributes; not times. */
import { createHash, type Hash } from 'node:crypto'
import type { ByteName } from '../../base/bytes.js'
import * as sys from '../../sys/index.js'
import type { Stat } from '../../sys/index.js'
import { byteOrder } from '../byte-order.js'
import { Selection } from './copy-selection.js'
import { joined, type SourceTree } from './source-tree.js'

const OPEN_DIR = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW

/** Of all that `path`, which has no symlinks, shows and `selection` picks. */
export function sourceDigest(
  tree: SourceTree,
  path: ByteName,
  selection = new Selection(undefined, undefined),
): string {
  const digester = new SourceDigester(tree, selection)
  using fd = tree.open(path)
  const stat = sys.statFd(fd.n)
  if (sys.S_ISDIR(stat.mode)) {
    using dir = sys.openat(fd.n, '.', OPEN_DIR)
    digester.directory(dir.n, path, '')
  } else {
    digester.object(fd.n, '', stat, '')
  }
  return digester.hash.digest('hex')
}

class SourceDigester {
  readonly hash: Hash = createHash('sha256')

  constructor(
    readonly tree: SourceTree,
    readonly selection: Selection,
  ) {}

  directory(dir: number, path: ByteName, shown: ByteName): void {
    this.#head(dir, '', sys.statFd(dir), `${shown}/`)
    for (const { name, stat } of this.tree.list(dir, path)) {
      const as = joined(shown, name)
      const picked = this.selection.has(as)
      if (!sys.S_ISDIR(stat.mode)) {
        if (picked) this.object(dir, name, stat, as)
      } else if (picked || this.selection.mayHaveBelow(as)) {
        using child = sys.openat(dir, name, OPEN_DIR)
        this.directory(child.n, joined(path, name), as)
      }
    }
  }

  /** `name` '' is the object behind the descriptor, which may be O_PATH. */
  object(dir: number, name: ByteName, stat: Stat, shown: ByteName): void {
    this.#head(dir, name, stat, shown)
    if (sys.S_ISLNK(stat.mode)) this.hash.update(sys.readlinkat(dir, name), 'latin1')
    if (!sys.S_ISREG(stat.mode)) return
    this.hash.update(`${stat.size}\0`)
    using file =
      name === ''
        ? sys.openat(sys.AT_FDCWD, `/proc/self/fd/${dir}`, sys.O_RDONLY)
        : sys.openat(dir, name, sys.O_RDONLY | sys.O_NOFOLLOW)
    for (let offset = 0; ;) {
      const length = sys.preadSync(file.n, buffer, 0, buffer.length, offset)
      if (length === 0) return
      this.hash.update(buffer.subarray(0, length))
      offset += length
    }
  }

  #head(dir: number, name: ByteName, stat: Stat, shown: ByteName): void {
    const owner = this.tree.owners ? `${stat.uid}:${stat.gid}` : ''
    this.hash.update(`${shown}\0${stat.mode} ${owner} ${stat.rdev}\0`, 'latin1')
    for (const attr of sys.listxattrAt(dir, name).sort(byteOrder)) {
      const value = sys.getxattrAt(dir, name, attr)
      if (value !== undefined) this.hash.update(`${attr}=`, 'latin1').update(value)
    }
  }
}

const buffer = Buffer.alloc(1 << 20)
