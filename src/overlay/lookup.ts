/**
 * Which real objects a name of the merged view stands for.
 *
 * The rules are those of Documentation/filesystems/overlayfs.rst and fs/overlayfs/namei.c: the topmost layer that has the name
 * decides; a whiteout or a non-directory there hides all below; a directory merges with the directories of that name below
 * it until one is opaque or something else comes in between.
 */
import * as sys from '../sys/index.js'
import type { Stat } from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import {
  hasOpaqueMarker,
  hasWhiteoutXattr,
  isCharWhiteout,
  isMarkerName,
  mayBeXattrWhiteout,
  opaquenessFromXattrs,
  WH_PREFIX,
} from '../format/index.js'
import type { Entry, NegativeEntry } from '../fuse/filesystem.js'
import type { DirInode, Inode } from './inode.js'
import { DirReal, type Layer, Real } from './layer.js'
import { originIno } from './origin-ino.js'
import { followMetacopy } from './metacopy.js'
import { lookedUp } from './names.js'
import { readRedirect, walkPath } from './path-walk.js'
import { materialise } from './recover.js'
import type { View } from './view.js'

/** What a name stands for. */
export interface Resolved {
  /** Attributes of the topmost object. */
  readonly stat: Stat
  readonly upper: Real | null
  /** A non-directory's topmost lower object, when it has no upper (or its data, with metacopy). */
  readonly lower: Real | null
  /** A directory's lower directories, top first. */
  readonly lowers: DirReal[]
  /** Attributes of the topmost lower directory: a merged directory shows its number. */
  readonly lowerStat: Stat | null
  /** The upper object's attribute names, where they were read. */
  readonly upperXattrs: readonly string[]
}

/** The whole answer to LOOKUP. */
export function lookup(view: View, parent: DirInode, name: string): Entry | NegativeEntry {
  if (view.watch?.isUnwatched(parent) === true) view.watch.compare(parent)
  const found = lookupChild(view, parent, name)
  lookedUp(view, parent)
  return found === undefined
    ? { nodeid: 0, entryValid: view.timeout(parent) }
    : view.entry(found.inode, found.stat)
}

/** The inode called `name` in `parent` with its current attributes; `undefined` where the view shows none. */
export function lookupChild(
  view: View,
  parent: DirInode,
  name: string,
): { inode: Inode; stat: Stat } | undefined {
  if (name.length > 255) throw new SysError(E.ENAMETOOLONG, 'lookup', name)
  const known = knownChild(view, parent, name)
  if (known !== undefined) {
    const stat = view.statIfThere(known)
    if (parent.children.get(name) === known) {
      if (stat === undefined) throw new SysError(E.ESTALE, 'lookup', name)
      return { inode: known, stat }
    }
    // It was another file: this name stands for something else by now.
  }
  const resolved = resolve(view, parent, name)
  if (resolved === undefined) return undefined
  const inode = instantiate(view, parent, name, resolved)
  // A lower hard link may have been copied up by another of its names.
  return { inode, stat: inode.links > 0 ? view.stat(inode) : resolved.stat }
}

/** The inode called `name`, where its attributes are of no interest: one that is known costs no call. */
export function findChild(view: View, parent: DirInode, name: string): Inode | undefined {
  return knownChild(view, parent, name) ?? lookupChild(view, parent, name)?.inode
}

function knownChild(view: View, parent: DirInode, name: string): Inode | undefined {
  const known = parent.children.get(name)
  if (known?.recovered === true) materialise(view, known)
  return known
}

/** Makes the inode of a resolved name, or finds the one that another name of the same object has. */
function instantiate(view: View, parent: DirInode, name: string, found: Resolved): Inode {
  const type = view.owner.type(found.stat, found, view)
  const shared = type === sys.S_IFDIR ? undefined : sharedObject(view, found)
  const linked = shared === undefined ? undefined : view.table.findLink(shared.key)
  if (linked !== undefined) return addLinkedName(view, linked, parent, name, found)
  const inode = createInode(view, type, parent, name, found)
  try {
    giveReals(view, inode, parent, found, shared)
  } catch (error) {
    view.table.dropIfUnused(inode)
    throw error
  }
  view.table.addName(inode, parent, name)
  if (shared !== undefined) view.table.setLink(inode, shared.key)
  return inode
}

function giveReals(
  view: View,
  inode: Inode,
  parent: DirInode,
  found: Resolved,
  shared: Shared | undefined,
): void {
  if (inode.isDir()) {
    if (found.upper instanceof DirReal) inode.upper = found.upper
    inode.lowers = found.lowers
    inode.lower = found.lowers[0] ?? null
    view.watch?.add(inode)
  } else {
    inode.upper = shared?.indexed ?? found.upper
    inode.lower = found.lower
    inode.links = shared?.links ?? 0
    followMetacopy(view, parent, inode, found, shared?.indexed)
  }
}

/** Finds the real objects of an inode that a predecessor knew. False: its name stands for nothing, or something else. */
export function findAgain(view: View, inode: Inode, parent: DirInode, name: string): boolean {
  const found = resolve(view, parent, name, view.journal?.isOnlyBelow(inode) === true ? 1 : 0)
  if (found === undefined || view.owner.type(found.stat, found, view) !== inode.type) return false
  const shared = inode.isDir() ? undefined : sharedObject(view, found)
  giveReals(view, inode, parent, found, shared)
  if (shared !== undefined) view.table.setLink(inode, shared.key)
  if (inode.type === sys.S_IFREG && inode.upper === null) view.changes.recovered(inode, found.stat)
  return true
}

/** The object has one more name than was known; names that were known may all have gone meanwhile. */
function addLinkedName(view: View, inode: Inode, parent: DirInode, name: string, found: Resolved): Inode {
  if (inode.recovered) materialise(view, inode)
  if (inode.upper === null && found.upper !== null) {
    view.journal?.raising(inode)
    inode.upper = found.upper
  }
  if (inode.upper !== null) view.unhold(inode)
  view.table.addName(inode, parent, name)
  return inode
}

/** Under which key an object with several names is known. */
interface Shared {
  readonly key: string
  /** Its entry in the index, where it has one. */
  readonly indexed?: Real
  readonly links?: number
}

function sharedObject(view: View, found: Resolved): Shared | undefined {
  if (found.stat.nlink <= 1) return undefined
  const { index } = view
  if (found.upper !== null) {
    const entry = index === null ? undefined : indexEntryOf(view, found.upper, found.upperXattrs)
    const key = upperKey(found.stat)
    if (index === null || entry === undefined || upperKey(entry.stat) !== key) return { key }
    const links = index.shownLinks(entry.real.name, entry.stat, undefined)
    return { key, indexed: entry.real, links: links ?? entry.stat.nlink - 1 }
  }
  const { lower } = found
  if (index === null || lower?.parent == null) return undefined
  const entry = index.find(lower, view.fds.get(lower.parent))
  if (entry === undefined) return { key: `L${upperKey(found.stat)}`, links: found.stat.nlink }
  const links = index.shownLinks(entry.real.name, entry.stat, found.stat.nlink)
  return { key: upperKey(entry.stat), indexed: entry.real, links: links ?? found.stat.nlink }
}

function indexEntryOf(
  view: View,
  upper: Real,
  xattrs: readonly string[],
): { real: Real; stat: Stat } | undefined {
  const attr = view.prefix + 'origin'
  if (!xattrs.includes(attr) || upper.parent === null || view.index === null) return undefined
  const record = sys.getxattrAt(view.fds.get(upper.parent), upper.name, attr)
  return record === undefined ? undefined : view.index.findRecord(record)
}

export function upperKey(stat: Stat): string {
  return `${stat.dev}:${stat.inoHi}:${stat.inoLo}`
}

/**
 * A copy shows the number of the lower object. Where upper has several (somebody copied one there, attributes and all), it is
 * shown by the one that is looked up first: with the same number they would be taken for links of one file.
 */
function createInode(view: View, type: number, parent: DirInode, name: string, found: Resolved): Inode {
  const ino = shownIno(view, parent, name, found)
  const own = found.upper === null ? ino : view.inos.shown(found.stat)
  if (ino === own) return view.table.create(type, ino)
  if (view.table.isBorrowed(ino)) return view.table.create(type, own)
  const inode = view.table.create(type, ino)
  view.table.borrow(inode)
  return inode
}

export function shownIno(view: View, parent: DirInode, name: string, found: Resolved): number {
  if (found.upper === null) return view.inos.shown(found.stat)
  if (found.lowerStat !== null) return view.inos.shown(found.lowerStat)
  return originIno(view, parent, name, found) ?? view.inos.shown(found.stat)
}

/**
 * Resolves a name that is not known as an inode. `first`: the real directory to begin with, 0 is upper.
 * @throws SysError EIO and what the layers give; ENOENT is `undefined`
 */
export function resolve(view: View, parent: DirInode, name: string, first = 0): Resolved | undefined {
  if (isMarkerName(name)) return undefined
  const listing = parent.listing
  let from = first
  let more = true
  if (listing !== null) {
    const at = listing.position(name)
    if (at === undefined) return undefined
    from = Math.max(first, listing.from[at] ?? 0)
    more = listing.more[at] ?? true
  }
  const search = new Search(view, parent, name)
  try {
    return search.run(from, more)
  } catch (error) {
    search.letGo()
    throw error
  }
}

/** Whether something called `name` would show from the lower layers if upper had nothing of that name. */
export function lowerPositive(view: View, parent: DirInode, name: string): boolean {
  for (let i = 0; i < parent.lowers.length; i++) {
    const dir = parent.lowers[i]
    if (dir === undefined) continue
    const probed = probe(view, dir, name, i + 1 < parent.lowers.length)
    if (probed === 'hidden') return false
    if (probed !== 'absent') return true
  }
  return false
}

/** What one real directory has under a name. `below`: whether a marker could hide anything. */
export function probe(view: View, dir: DirReal, name: string, below: boolean): Stat | 'hidden' | 'absent' {
  const dirfd = view.fds.get(dir)
  if (view.mountpoint !== null && view.isOwnMountpoint(dirfd, name)) return 'absent'
  const stat = sys.statAt(dirfd, name)
  if (stat === undefined) return below && hasMarker(dir, dirfd, name) ? 'hidden' : 'absent'
  if (isCharWhiteout(stat)) return 'hidden'
  if (dir.xwhiteouts && mayBeXattrWhiteout(stat) && hasWhiteoutXattr(dirfd, name)) return 'hidden'
  return stat
}

/** Asked for so many names, a directory is looked through once: hardly any has markers at all. */
const WORTH_LOOKING = 8

/** Whether `.wh.NAME` stands in the directory. */
export function hasMarker(dir: DirReal, dirfd: number, name: string): boolean {
  if (!dir.markers || name.length + WH_PREFIX.length > 255) return false
  if (++dir.markersAsked === WORTH_LOOKING && !dir.lookForMarkers(dirfd)) return false
  return sys.statAt(dirfd, WH_PREFIX + name) !== undefined
}

/** Where the search goes on in the layers below: beside the object, or along a path from each layer's root. */
type Trail =
  | { readonly kind: 'name'; readonly name: string }
  | { readonly kind: 'path'; readonly parts: readonly string[] }

/** One walk down the layers for one name: the facts it gathers, and where it goes on. */
class Search {
  private stat: Stat | undefined
  private upper: Real | null = null
  private upperXattrs: readonly string[] = []
  private readonly lowers: DirReal[] = []
  private lowerStat: Stat | null = null
  /** The last directory found, whose opaqueness by marker is looked at only when something is found below it. */
  private last: DirReal | undefined
  private trail: Trail
  /** The search goes on under another name: what a listing says about this one no longer holds. */
  private redirected = false

  constructor(
    private readonly view: View,
    private readonly parent: DirInode,
    private readonly name: string,
  ) {
    this.trail = { kind: 'name', name }
  }

  /** `from`: first real directory worth asking (0 is upper, i + 1 is lowers[i]). `more`: something may be below that. */
  run(from: number, more: boolean): Resolved | undefined {
    const { parent, view, name } = this
    if (from === 0 && parent.upper !== null) {
      const below = more && parent.merges
      const probed = probe(view, parent.upper, name, below)
      if (probed === 'hidden') return undefined
      if (probed !== 'absent') {
        const dirfd = view.fds.get(parent.upper)
        this.stat = probed
        const isDir = sys.S_ISDIR(probed.mode)
        // The kernel marks no directory for a metacopy file that has no origin (a lower hard link). Such a file is all hole.
        const mayCarry =
          isDir || parent.upper.impure || view.options.metacopy || probed.size > 512 * probed.blocks
        this.upperXattrs = mayCarry ? sys.listxattrAt(dirfd, name) : []
        if (!isDir) {
          this.upper = new Real(parent.upper.layer, parent.upper, name)
          return this.result()
        }
        const real = new DirReal(parent.upper.layer, parent.upper, name)
        real.impure = this.upperXattrs.includes(view.prefix + 'impure')
        this.upper = real
        if (!this.goOnBelow(real, dirfd, this.upperXattrs, below)) return this.result()
      }
    }
    this.searchLowers(Math.max(0, from - 1), more)
    return this.stat === undefined ? undefined : this.result()
  }

  private searchLowers(first: number, more: boolean): void {
    const { parent, view } = this
    const all = parent.lowers.length
    const last = (): number => (more || this.redirected ? all : Math.min(first + 1, all))
    for (let i = first; i < last() && this.trail.kind === 'name'; i++) {
      const dir = parent.lowers[i]
      if (dir === undefined) continue
      const below = i + 1 < last()
      const probed = probe(view, dir, this.trail.name, below)
      if (probed === 'hidden') return
      if (probed === 'absent') continue
      if (!this.accept(dir, this.trail.name, probed, below)) return
    }
    this.searchByPath()
  }

  /** Takes what was found in a lower directory. Returns whether to look further down. */
  private accept(dir: DirReal, name: string, stat: Stat, below: boolean): boolean {
    const { view } = this
    if (!sys.S_ISDIR(stat.mode)) {
      if (this.stat !== undefined) return false
      this.stat = stat
      this.lowers.length = 0
      this.lowerFile = new Real(dir.layer, dir, name)
      return false
    }
    // Only now does it matter whether the directory above is opaque by a marker file in it.
    if (this.last?.markers === true && hasOpaqueMarker(view.fds.get(this.last))) return false
    const real = new DirReal(dir.layer, dir, name)
    this.stat ??= stat
    this.lowerStat ??= stat
    this.lowers.push(real)
    const dirfd = view.fds.get(dir)
    const deeper = below || dir.layer.index < view.lowers.length
    const names = deeper || dir.xwhiteouts || dir.layer.root.xwhiteouts ? sys.listxattrAt(dirfd, name) : []
    return this.goOnBelow(real, dirfd, names, deeper)
  }

  private lowerFile: Real | null = null

  /** Reads what a found directory says about the layers below it. Returns whether they are to be searched. */
  private goOnBelow(real: DirReal, parentFd: number, names: readonly string[], below: boolean): boolean {
    this.last = real
    if (names.length > 0) {
      const opaqueness = opaquenessFromXattrs(parentFd, real.name, names)
      real.xwhiteouts = opaqueness.xwhiteouts
      if (opaqueness.opaque) return false
      this.readRedirect(parentFd, real.name, names)
    }
    if (this.trail.kind === 'path') return true
    if (!below && !this.redirected) return false
    // A `.wh.NAME` beside a directory NAME hides what is below it.
    return real.parent === null || !hasMarker(real.parent, parentFd, real.name)
  }

  private readRedirect(parentFd: number, name: string, names: readonly string[]): void {
    const redirect = readRedirect(this.view, parentFd, name, names)
    if (redirect === undefined) return
    this.redirected = true
    this.trail = redirect.absolute
      ? { kind: 'path', parts: redirect.parts }
      : this.trail.kind === 'name'
        ? { kind: 'name', name: redirect.name }
        : { kind: 'path', parts: [...this.trail.parts.slice(0, -1), redirect.name] }
  }

  /** Follows an absolute redirect in every lower layer below the one that says so. */
  private searchByPath(): void {
    const after = this.last?.layer.index ?? 0
    for (const layer of this.view.lowers) {
      if (this.trail.kind !== 'path') return
      if (layer.index > after && !this.walk(layer, this.trail.parts)) return
    }
  }

  /** Follows a path from the root of one layer. Returns whether to go on in the next layer. */
  private walk(layer: Layer, parts: readonly string[]): boolean {
    const walked = walkPath(this.view, layer, parts)
    const { found } = walked
    this.trail = { kind: 'path', parts: walked.below ?? parts }
    if (found === undefined) return walked.below !== undefined
    const accepted = this.accept(found.dir, found.name, found.stat, layer.index < this.view.lowers.length)
    if (this.lowers.at(-1)?.parent !== found.dir)
      this.view.fds.dropPassages(new Real(layer, found.dir, found.name))
    return accepted && walked.below !== undefined
  }

  /** Closes what was opened for the sake of a search that ended with an error. */
  letGo(): void {
    for (const lower of this.lowers) {
      this.view.fds.drop(lower)
      this.view.fds.dropPassages(lower)
    }
  }

  private result(): Resolved {
    const stat = this.stat
    if (stat === undefined) throw new SysError(E.EIO, 'lookup', this.name)
    return {
      stat,
      upper: this.upper,
      lower: this.lowerFile,
      lowers: this.lowers,
      lowerStat: this.lowerStat,
      upperXattrs: this.upperXattrs,
    }
  }
}
