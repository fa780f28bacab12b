/**
 * Where the bytes of an image are: what each layer adds, changes and deletes, and what is wasted, that is stored in one
 * layer and hidden by a later one. Everything is read from the layers' own directories; nothing is mounted.
 */
import type { Fd } from '../base/fd.js'
import { hasOpaqueMarker, opaquenessFromXattrs } from '../format/index.js'
import * as sys from '../sys/index.js'
import { byteOrder } from './byte-order.js'
import { displayName } from './images.js'
import { layerEntries } from './merged-tree.js'
import { openAll } from './stack-roots.js'
import { historyOfLayers, type Digest } from '../oci/index.js'
import type { Store } from './store.js'

export interface ExploredLayer {
  /** 0 is the lowest. */
  readonly index: number
  readonly diffId: Digest
  readonly createdBy: string
  /** Bytes of files that it stores. */
  readonly size: number
  readonly added: Count
  readonly changed: Count
  /** What it deletes from below: bytes that stay stored there. */
  readonly deleted: Count
  /** Of `size`, hidden by later layers. */
  readonly wasted: number
}

export interface Count {
  readonly entries: number
  readonly bytes: number
}

/** One stored file that a later layer hides. */
export interface WastedFile {
  /** A byte name, without a leading slash. */
  readonly path: string
  readonly bytes: number
  /** Where it is stored, and which layer hides it. */
  readonly layer: number
  readonly hiddenBy: number
  readonly how: 'deleted' | 'replaced'
}

/** The merged tree by size. Directories that hold little are folded into their parent's `rest`. */
export interface SizeNode {
  /** A byte name. */
  readonly name: string
  bytes: number
  /** The layer that stores it, for files. */
  layer?: number
  children?: SizeNode[]
}

export interface Exploration {
  readonly image: string
  readonly id: Digest
  readonly layers: readonly ExploredLayer[]
  readonly stored: number
  /** Bytes that the merged tree shows. */
  readonly visible: number
  readonly wasted: number
  /** visible / stored. */
  readonly efficiency: number
  readonly wastedFiles: readonly WastedFile[]
  readonly tree: SizeNode
}

interface Tally {
  added: { entries: number; bytes: number }
  changed: { entries: number; bytes: number }
  deleted: { entries: number; bytes: number }
  size: number
  wasted: number
}

interface TreeFile {
  readonly kind: 'file'
  readonly layer: number
  readonly bytes: number
}
interface TreeDir {
  readonly kind: 'dir'
  readonly layer: number
  readonly children: Map<string, TreeFile | TreeDir>
}

export function exploreImage(store: Store, ref: string): Exploration {
  const image = store.images.find(ref)
  const stack = store.layers.chainStack(image.chainId).reverse()
  const steps = historyOfLayers(store.images.config(image.id))
  const explorer = new Explorer(stack.length)
  using roots = openAll(stack.map(chain => store.layers.tree(chain.layer)))
  for (const [index, root] of roots.roots.entries()) explorer.apply(index, root)
  const layers = stack.map((chain, index): ExploredLayer => {
    const { added, changed, deleted, size, wasted } = explorer.tallies[index] ?? emptyTally()
    const createdBy = steps[index]?.created_by ?? ''
    return { index, diffId: chain.diffId, createdBy, size, added, changed, deleted, wasted }
  })
  const stored = layers.reduce((sum, layer) => sum + layer.size, 0)
  const wasted = layers.reduce((sum, layer) => sum + layer.wasted, 0)
  return {
    image: displayName(image.tags[0] ?? image.id),
    id: image.id,
    layers,
    stored,
    visible: stored - wasted,
    wasted,
    efficiency: stored === 0 ? 1 : (stored - wasted) / stored,
    wastedFiles: explorer.wasted.sort((a, b) => b.bytes - a.bytes || byteOrder(a.path, b.path)),
    tree: sizes('', explorer.root),
  }
}

function emptyTally(): Tally {
  return {
    added: { entries: 0, bytes: 0 },
    changed: { entries: 0, bytes: 0 },
    deleted: { entries: 0, bytes: 0 },
    size: 0,
    wasted: 0,
  }
}

/** Lays one layer after the other, from the bottom, over an index of what shows. */
class Explorer {
  readonly root: TreeDir = { kind: 'dir', layer: 0, children: new Map() }
  readonly tallies: Tally[]
  readonly wasted: WastedFile[] = []
  /** `dev:ino` of files with several names in the layer at hand: their bytes count once. */
  #seen = new Set<string>()

  constructor(layers: number) {
    this.tallies = Array.from({ length: layers }, emptyTally)
  }

  apply(index: number, root: Fd): void {
    this.#seen = new Set()
    this.#directory(index, root.n, this.root, '')
  }

  #directory(index: number, dirfd: number, into: TreeDir, prefix: string): void {
    const tally = this.tallies[index] ?? emptyTally()
    const { opaque, xwhiteouts } = opaquenessFromXattrs(dirfd, '', sys.flistxattr(dirfd))
    const part = { fd: { n: dirfd } as Fd, xwhiteouts }
    const entries = layerEntries(part)
    if (opaque || hasOpaqueMarker(dirfd)) {
      for (const name of [...into.children.keys()]) {
        if (!entries.has(name)) this.#hide(index, into, name, prefix, 'deleted')
      }
    }
    for (const [name, entry] of entries) {
      if (entry.kind === 'whiteout') {
        this.#hide(index, into, name, prefix, 'deleted')
        continue
      }
      const old = into.children.get(name)
      const count = old === undefined ? tally.added : tally.changed
      count.entries += 1
      if (sys.S_ISDIR(entry.stat.mode)) {
        if (old !== undefined && old.kind !== 'dir') this.#hide(index, into, name, prefix, 'replaced')
        const dir: TreeDir = old?.kind === 'dir' ? old : { kind: 'dir', layer: index, children: new Map() }
        into.children.set(name, dir)
        using child = sys.openat(dirfd, name, sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW)
        this.#directory(index, child.n, dir, `${prefix}${name}/`)
        continue
      }
      if (old !== undefined) this.#hide(index, into, name, prefix, 'replaced')
      const bytes = this.#bytesOf(entry.stat)
      count.bytes += bytes
      tally.size += bytes
      into.children.set(name, { kind: 'file', layer: index, bytes })
    }
  }

  #bytesOf(stat: sys.Stat): number {
    if (!sys.S_ISREG(stat.mode)) return 0
    if (stat.nlink > 1) {
      const key = `${stat.dev}:${stat.ino}`
      if (this.#seen.has(key)) return 0
      this.#seen.add(key)
    }
    return stat.size
  }

  #hide(index: number, dir: TreeDir, name: string, prefix: string, how: WastedFile['how']): void {
    const old = dir.children.get(name)
    if (old === undefined) return
    dir.children.delete(name)
    this.#waste(index, old, prefix + name, how)
  }

  #waste(index: number, node: TreeFile | TreeDir, path: string, how: WastedFile['how']): void {
    const tally = this.tallies[index]
    if (tally !== undefined && how === 'deleted') tally.deleted.entries += 1
    if (node.kind === 'dir') {
      for (const [name, child] of node.children) this.#waste(index, child, `${path}/${name}`, how)
      return
    }
    if (tally !== undefined && how === 'deleted') tally.deleted.bytes += node.bytes
    const stored = this.tallies[node.layer]
    // Within its own layer nothing is hidden: a layer says each name once.
    if (stored !== undefined) stored.wasted += node.bytes
    if (node.bytes > 0) this.wasted.push({ path, bytes: node.bytes, layer: node.layer, hiddenBy: index, how })
  }
}

/** Sums up; children by size. */
function sizes(name: string, node: TreeFile | TreeDir): SizeNode {
  if (node.kind === 'file') return { name, bytes: node.bytes, layer: node.layer }
  const children = [...node.children].map(([child, below]) => sizes(child, below))
  children.sort((a, b) => b.bytes - a.bytes || byteOrder(a.name, b.name))
  return { name, bytes: children.reduce((sum, child) => sum + child.bytes, 0), children }
}

/**
 * The tree with at most `limit` nodes: the largest ones as they are, what is small in one node `…` of its directory.
 * For a page that a browser shows at once.
 */
export function pruneTree(root: SizeNode, limit: number): SizeNode {
  const all: number[] = []
  const collect = (node: SizeNode): void => {
    all.push(node.bytes)
    node.children?.forEach(collect)
  }
  collect(root)
  all.sort((a, b) => b - a)
  const threshold = all.length > limit ? (all[limit] ?? 0) : -1
  const prune = (node: SizeNode): SizeNode => {
    if (node.children === undefined) return node
    const kept = node.children.filter(child => child.bytes > threshold)
    const rest = node.children.filter(child => child.bytes <= threshold)
    const bytes = rest.reduce((sum, child) => sum + child.bytes, 0)
    const folded = bytes > 0 ? [{ name: `… ${rest.length} more`, bytes }] : []
    return { name: node.name, bytes: node.bytes, children: [...kept.map(prune), ...folded] }
  }
  return prune(root)
}
