/**
 * The merged view of a stack of layer directories, read without mounting it: for export, comparison, exploring, and
 * for drivers that lay a stack out as one plain tree.
 *
 * Every dialect of whiteout and opaque marker is read (format/). Redirects and metacopy are not followed: layers of
 * the store never have them, and the drivers mount writable layers with both off.
 */
import { type Fd } from '../base/fd.js'
import { SysError } from '../base/sys-error.js'
import { hasOpaqueMarker, hiddenByMarker, isMarkerName, opaquenessFromXattrs } from '../format/index.js'
import { hasWhiteoutXattr, isCharWhiteout, mayBeXattrWhiteout } from '../format/index.js'
import * as sys from '../sys/index.js'
import type { Stat } from '../sys/index.js'

const OPEN_DIR = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW

/** One directory of one layer. */
interface Part {
  readonly fd: Fd
  /** Index of the layer in the stack; 0 is the top. */
  readonly layer: number
  /** It may hold whiteouts of the xattr dialect. */
  readonly xwhiteouts: boolean
  /** Nothing shows from below it. */
  readonly opaque: boolean
}

/** What one layer itself says about one name. */
export type LayerEntry = { readonly kind: 'whiteout' } | { readonly kind: 'object'; readonly stat: Stat }

/** One name of the merged view. */
export interface MergedEntry {
  readonly name: string
  /** The layer whose object shows. */
  readonly layer: number
  readonly stat: Stat
}

/** A directory of the merged view: the directories of that path, top first, down to the first opaque one. */
export class MergedDir implements Disposable {
  private constructor(readonly parts: readonly Part[]) {}

  /** The root of a stack of directories given by file descriptors, which are duplicated. Top first. */
  static ofRoots(roots: readonly number[]): MergedDir {
    return MergedDir.#merge(roots.map((root, layer) => ({ fd: sys.openat(root, '.', OPEN_DIR), layer })))
  }

  static #merge(found: Iterable<{ fd: Fd; layer: number }>): MergedDir {
    const parts: Part[] = []
    let covered = false
    for (const { fd, layer } of found) {
      if (covered) {
        fd.close()
        continue
      }
      const { opaque, xwhiteouts } = opaquenessFromXattrs(fd.n, '', sys.flistxattr(fd.n))
      const hides = opaque || hasOpaqueMarker(fd.n)
      parts.push({ fd, layer, xwhiteouts, opaque: hides })
      covered = hides
    }
    return new MergedDir(parts)
  }

  /** What shows, in no particular order. */
  list(): MergedEntry[] {
    const decided = new Map<string, MergedEntry | undefined>()
    for (const part of this.parts) {
      const here = layerEntries(part)
      for (const [name, entry] of here) {
        if (decided.has(name)) continue
        decided.set(
          name,
          entry.kind === 'whiteout' ? undefined : { name, layer: part.layer, stat: entry.stat },
        )
      }
    }
    return [...decided.values()].filter(entry => entry !== undefined)
  }

  /** What shows under `name`, or `undefined`. */
  get(name: string): MergedEntry | undefined {
    if (isMarkerName(name)) return undefined
    for (const part of this.parts) {
      const entry = layerEntry(part, name)
      if (entry === undefined) continue
      return entry.kind === 'whiteout' ? undefined : { name, layer: part.layer, stat: entry.stat }
    }
    return undefined
  }

  /** The merged directory `name`; `undefined` where nothing or something else shows there. */
  open(name: string): MergedDir | undefined {
    const found: { fd: Fd; layer: number }[] = []
    for (const part of this.parts) {
      const entry = layerEntry(part, name)
      if (entry === undefined) continue
      if (entry.kind === 'whiteout' || !sys.S_ISDIR(entry.stat.mode)) break
      found.push({ fd: sys.openat(part.fd.n, name, OPEN_DIR), layer: part.layer })
    }
    return found.length === 0 ? undefined : MergedDir.#merge(found)
  }

  /** The descriptor of this directory in the topmost layer that has it: whose owner, mode and times show. */
  get top(): Part {
    const part = this.parts[0]
    if (part === undefined) throw new Error('a merged directory has at least one part')
    return part
  }

  /** The descriptor of this directory in `layer`. */
  inLayer(layer: number): Part | undefined {
    return this.parts.find(part => part.layer === layer)
  }

  [Symbol.dispose](): void {
    for (const part of this.parts) part.fd.close()
  }
}

/** All that one layer's directory says: objects and whiteouts by the name they are about. */
export function layerEntries(part: Pick<Part, 'fd' | 'xwhiteouts'>): Map<string, LayerEntry> {
  const entries = new Map<string, LayerEntry>()
  const hidden: string[] = []
  const names: string[] = []
  for (const name of sys.listDir(part.fd.n).names) {
    if (!isMarkerName(name)) names.push(name)
    else hidden.push(hiddenByMarker(name) ?? '')
  }
  for (const [index, stat] of sys.statMany(part.fd.n, names).entries()) {
    const name = names[index] ?? ''
    if (typeof stat === 'number') throw new SysError(stat, 'statx', name)
    if (stat !== undefined) entries.set(name, classify(part, name, stat))
  }
  // An object beside its own `.wh.` marker shows: the marker is about the layers below.
  for (const name of hidden) if (name !== '' && !entries.has(name)) entries.set(name, { kind: 'whiteout' })
  return entries
}

function layerEntry(part: Part, name: string): LayerEntry | undefined {
  const stat = sys.statAt(part.fd.n, name)
  if (stat !== undefined) return classify(part, name, stat)
  if (name.length + 4 > 255) return undefined
  return sys.statAt(part.fd.n, '.wh.' + name) === undefined ? undefined : { kind: 'whiteout' }
}

function classify(part: Pick<Part, 'fd' | 'xwhiteouts'>, name: string, stat: Stat): LayerEntry {
  if (isCharWhiteout(stat)) return { kind: 'whiteout' }
  if (part.xwhiteouts && mayBeXattrWhiteout(stat) && hasWhiteoutXattr(part.fd.n, name))
    return { kind: 'whiteout' }
  return { kind: 'object', stat }
}
