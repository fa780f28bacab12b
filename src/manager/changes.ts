/**
 * What differs between two trees, and what a layer changes in the stack below it.
 *
 * `A` added, `C` changed (content, metadata, type), `D` deleted; a directory is `C` when its own metadata differ or,
 * in a layer's diff, when the layer carries it. Paths are byte names without a leading slash, in byte order.
 */
import * as sys from '../sys/index.js'
import type { Stat } from '../sys/index.js'
import { unescapeXattr } from '../format/index.js'
import { byteOrder } from './byte-order.js'
import { layerEntries, MergedDir, type MergedEntry } from './merged-tree.js'

export type ChangeKind = 'A' | 'C' | 'D'

export interface Change {
  readonly kind: ChangeKind
  readonly path: string
  /** The object that there is now; of `D`, the one that was. */
  readonly stat: Stat
}

/**
 * What the directory tree `upper` (a layer, or a container's writable layer) changes in the stack `below`. Walks
 * `upper` alone: the cost is that of the change, not of the image.
 */
export function* layerChanges(upper: number, below: readonly number[]): Generator<Change, void, void> {
  using top = MergedDir.ofRoots([upper])
  using lower = below.length === 0 ? undefined : MergedDir.ofRoots(below)
  yield* directoryChanges(top, lower, '')
}

function* directoryChanges(
  upper: MergedDir,
  below: MergedDir | undefined,
  prefix: string,
): Generator<Change, void, void> {
  const part = upper.top
  const entries = layerEntries(part)
  if (part.opaque && below !== undefined) {
    // Everything of below that is not here again is gone.
    for (const entry of sorted(below.list())) {
      const here = entries.get(entry.name)
      if (here === undefined) yield { kind: 'D', path: prefix + entry.name, stat: entry.stat }
    }
  }
  for (const [name, entry] of [...entries].sort(byName)) {
    const path = prefix + name
    const old = below?.get(name)
    if (entry.kind === 'whiteout') {
      // A whiteout of what is not there hides nothing: not a change.
      if (old !== undefined) yield { kind: 'D', path, stat: old.stat }
      continue
    }
    yield { kind: old === undefined ? 'A' : 'C', path, stat: entry.stat }
    if (!sys.S_ISDIR(entry.stat.mode)) continue
    using child = upper.open(name)
    using lower = old !== undefined && sys.S_ISDIR(old.stat.mode) ? below?.open(name) : undefined
    if (child !== undefined) yield* directoryChanges(child, lower, path + '/')
  }
}

/** What turned tree `before` into tree `after`; both are stacks of layer directories, top first. */
export function* treeChanges(
  before: readonly number[],
  after: readonly number[],
): Generator<Change, void, void> {
  using old = before.length === 0 ? undefined : MergedDir.ofRoots(before)
  using now = after.length === 0 ? undefined : MergedDir.ofRoots(after)
  yield* compareDirectories(old, now, '')
}

function* compareDirectories(
  before: MergedDir | undefined,
  after: MergedDir | undefined,
  prefix: string,
): Generator<Change, void, void> {
  if (before !== undefined && after !== undefined && sameDirectories(before, after)) return
  const old = new Map((before?.list() ?? []).map(entry => [entry.name, entry]))
  const now = new Map((after?.list() ?? []).map(entry => [entry.name, entry]))
  for (const name of [...new Set([...old.keys(), ...now.keys()])].sort(byteOrder)) {
    const path = prefix + name
    const was = old.get(name)
    const is = now.get(name)
    if (is === undefined) {
      if (was !== undefined) yield { kind: 'D', path, stat: was.stat }
      continue
    }
    const isDir = sys.S_ISDIR(is.stat.mode)
    const wasDir = was !== undefined && sys.S_ISDIR(was.stat.mode)
    if (was === undefined) yield { kind: 'A', path, stat: is.stat }
    else if (!sameObject(before, was, after, is)) yield { kind: 'C', path, stat: is.stat }
    if (!isDir) continue
    using oldChild = wasDir ? before?.open(name) : undefined
    using newChild = after?.open(name)
    yield* compareDirectories(oldChild, newChild, path + '/')
  }
}

/** Both views read the very same directories: two images that share their lower layers. */
function sameDirectories(a: MergedDir, b: MergedDir): boolean {
  if (a.parts.length !== b.parts.length) return false
  return a.parts.every((part, index) => {
    const other = b.parts[index]
    if (other === undefined) return false
    const x = sys.statFd(part.fd.n)
    const y = sys.statFd(other.fd.n)
    return x.dev === y.dev && x.ino === y.ino
  })
}

function sameObject(
  before: MergedDir | undefined,
  was: MergedEntry,
  after: MergedDir | undefined,
  is: MergedEntry,
): boolean {
  const a = was.stat
  const b = is.stat
  if (a.dev === b.dev && a.ino === b.ino) return true
  if (a.mode !== b.mode || a.uid !== b.uid || a.gid !== b.gid) return false
  const oldFd = before?.inLayer(was.layer)?.fd.n
  const newFd = after?.inLayer(is.layer)?.fd.n
  if (oldFd === undefined || newFd === undefined) return false
  if (!sameXattrs(oldFd, was.name, newFd, is.name)) return false
  if (sys.S_ISDIR(a.mode)) return true
  if (sys.S_ISLNK(a.mode)) return sys.readlinkat(oldFd, was.name) === sys.readlinkat(newFd, is.name)
  if (sys.S_ISCHR(a.mode) || sys.S_ISBLK(a.mode)) return a.rdev === b.rdev
  if (!sys.S_ISREG(a.mode)) return true
  if (a.size !== b.size) return false
  // Copies keep times to the nanosecond, and a write changes them: equal times mean an untouched file, as everywhere
  // (rsync, docker diff). Times that differ may still lie over equal content.
  if (a.mtime === b.mtime && a.mtimeNsec === b.mtimeNsec) return true
  return sameContent(oldFd, was.name, newFd, is.name)
}

function sameXattrs(aFd: number, aName: string, bFd: number, bName: string): boolean {
  const a = visibleXattrs(aFd, aName)
  const b = visibleXattrs(bFd, bName)
  if (a.length !== b.length || a.some((name, index) => name !== b[index])) return false
  return a.every(name => {
    const x = sys.getxattrAt(aFd, aName, name)
    const y = sys.getxattrAt(bFd, bName, name)
    return x !== undefined && y !== undefined && x.equals(y)
  })
}

function visibleXattrs(fd: number, name: string): string[] {
  return sys
    .listxattrAt(fd, name)
    .filter(attr => unescapeXattr(attr) !== undefined)
    .sort(byteOrder)
}

const CHUNK = 1 << 20
const bufferA = Buffer.alloc(CHUNK)
const bufferB = Buffer.alloc(CHUNK)

function sameContent(aFd: number, aName: string, bFd: number, bName: string): boolean {
  using a = sys.openat(aFd, aName, sys.O_RDONLY | sys.O_NOFOLLOW | sys.O_NONBLOCK)
  using b = sys.openat(bFd, bName, sys.O_RDONLY | sys.O_NOFOLLOW | sys.O_NONBLOCK)
  for (let offset = 0; ;) {
    const n = sys.preadSync(a.n, bufferA, 0, CHUNK, offset)
    const m = sys.preadSync(b.n, bufferB, 0, CHUNK, offset)
    if (n !== m || !bufferA.subarray(0, n).equals(bufferB.subarray(0, m))) return false
    if (n === 0) return true
    offset += n
  }
}

function sorted(entries: MergedEntry[]): MergedEntry[] {
  return entries.sort((a, b) => byteOrder(a.name, b.name))
}

function byName(a: readonly [string, unknown], b: readonly [string, unknown]): number {
  return byteOrder(a[0], b[0])
}
