/**
 * The merged listing of a directory, and how the kernel reads it.
 *
 * A directory that exists in one layer only is not merged: its entries are taken as they come. In a merged one the upper
 * layers' names are kept in a map, whiteouts among them.
 */
import * as sys from '../sys/index.js'
import type { Stat } from '../sys/index.js'
import {
  hasWhiteoutXattr,
  hiddenByMarker,
  isMarkerName,
  isCharWhiteout,
  mayBeXattrWhiteout,
} from '../format/index.js'
import { Again, type DirSink, type Entry } from '../fuse/filesystem.js'
import type { DirInode, Inode } from './inode.js'
import { type DirReal, openBeneath } from './layer.js'
import { Listing } from './listing.js'
import { lookupChild } from './lookup.js'
import type { View } from './view.js'

/** READDIR and READDIRPLUS. */
export function readdir(view: View, dir: DirInode, cookie: number, sink: DirSink): void {
  if (cookie < 1 && !addDot(view, sink, '.', dir.ino, 1)) return
  if (cookie < 2 && !addDot(view, sink, '..', dir.parent?.ino ?? dir.ino, 2)) return
  if (cookie < 2 && dir.listing?.worn === true) view.listings.drop(dir)
  if (sink.plus && cookie === 0) view.ahead.began(dir)
  const listing = listingOf(view, dir)
  listing.readAt = Date.now()
  const { at: first, end, cookieOf } = listing.placeOf(cookie)
  for (let at = first; at < end; at++) {
    const name = listing.names[at]
    if (name === undefined) continue
    if (!sink.fits(name)) return keep(view, dir, listing)
    const next = cookieOf(at)
    const real = listing.types[at] ?? sys.DT_UNKNOWN
    // A plain file may stand for a device whose numbers are kept in an attribute.
    const kept = real === sys.DT_REG && view.owner.keeps(layerOf(dir, listing.from[at] ?? 0))
    const type = kept ? sys.DT_UNKNOWN : real
    const added = sink.plus
      ? addPlus(view, dir, sink, name, type, next)
      : sink.add(name, entryIno(view, dir, listing, at, name), type, next)
    if (!added) return keep(view, dir, listing)
  }
  if (sink.plus && first < end) view.ahead.ended(dir)
}

/** The number of the layer whose directory has an entry, by the place of that directory among those that merge. */
function layerOf(dir: DirInode, from: number): number {
  return from === 0 ? 0 : (dir.lowers[from - 1]?.layer.index ?? 0)
}

/** The reader will be back with a cookie, perhaps to another daemon. */
function keep({ journal }: View, dir: DirInode, listing: Listing): void {
  if (journal === null || listing.kept !== null) return
  journal.listing(dir, listing.names)
  listing.kept = {
    listed: name => journal.listed(dir, name),
    unlisted: name => journal.unlisted(dir, name),
    dropped: () => journal.unlist(dir),
  }
}

function addDot(_view: View, sink: DirSink, name: string, ino: number, cookie: number): boolean {
  return sink.plus
    ? sink.addPlus(name, cookie, sys.DT_DIR, undefined, ino)
    : sink.add(name, ino, sys.DT_DIR, cookie)
}

/** An entry that vanished from its layer behind the mount is left out; one that cannot be looked up is shown by name. */
function addPlus(
  view: View,
  dir: DirInode,
  sink: DirSink,
  name: string,
  type: number,
  cookie: number,
): boolean {
  const known = dir.children.get(name)
  if (known !== undefined && isKept(view, known)) {
    return sink.addPlus(name, cookie, known.type >>> 12, undefined, known.ino)
  }
  let found: ReturnType<typeof lookupChild>
  try {
    found = view.ahead.found(dir, name) ?? lookupChild(view, dir, name)
  } catch {
    return sink.addPlus(name, cookie, type, undefined, 0)
  }
  if (found === undefined) return true
  const entry = entryOf(view, found.inode, found.stat)
  return sink.addPlus(name, cookie, found.inode.type >>> 12, entry, found.inode.ino)
}

/** Undefined while the kernel has to be told first that the file has changed: it asks for it by name. */
function entryOf(view: View, inode: Inode, stat: Stat): Entry | undefined {
  try {
    return view.entry(inode, stat)
  } catch (error) {
    if (!(error instanceof Again)) throw error
    return undefined
  }
}

/** Whether the kernel has the entry, for good: it was asked for by name, as git does before it lists. */
function isKept(view: View, inode: Inode): boolean {
  return inode.nlookup > 0 && inode.aliases === null && view.options.timeout === Infinity
}

/** d_ino as stat(2) would say it. */
function entryIno(view: View, dir: DirInode, listing: Listing, at: number, name: string): number {
  const known = dir.children.get(name)
  if (known !== undefined) return known.ino
  const from = listing.from[at] ?? 0
  const real = from === 0 ? dir.upper : dir.lowers[from - 1]
  const isDir = listing.types[at] === sys.DT_DIR
  // A merged directory shows its lower number, an upper file with an origin that one's: ask properly.
  const plain = from === 0 ? dir.upper?.impure === false && !(isDir && listing.more[at] === true) : true
  if (real === undefined || real === null || !plain) {
    const inode = lookupChild(view, dir, name)?.inode
    if (inode !== undefined) view.table.dropIfUnused(inode)
    return inode?.ino ?? 1
  }
  return view.inos.shownEntry(real.layer.dev, listing.inos[at] ?? 1)
}

/** The directory's listing, made if it is not held. */
export function listingOf(view: View, dir: DirInode): Listing {
  const held = dir.listing
  if (held !== null) {
    view.listings.hold(dir, held)
    return held
  }
  // A removed directory is empty, whatever the layers have under its old name.
  const found = dir.nameless && dir !== view.table.root ? new Listing() : merge(view, dir)
  const listing = dir.oldOrder === null ? found : inOldOrder(found, dir.oldOrder)
  view.listings.hold(dir, listing)
  if (dir.oldOrder !== null) keep(view, dir, listing)
  dir.oldOrder = null
  return listing
}

/** The same, of a directory of which nobody has a cookie; undefined where its layers have more than `most` entries and it is not held. */
export function listingWithin(view: View, dir: DirInode, most: number): Listing | undefined {
  if (dir.listing !== null) return dir.listing
  const listing = merge(view, dir, most)
  if (listing !== undefined) view.listings.hold(dir, listing)
  return listing
}

/** Cookies from before this daemon mean the same positions: what is gone leaves a gap, what is new comes last. */
function inOldOrder(found: Listing, order: readonly string[]): Listing {
  const listing = new Listing()
  const add = (name: string, at: number): void =>
    listing.add(
      name,
      found.types[at] ?? sys.DT_UNKNOWN,
      found.inos[at] ?? 0,
      found.from[at] ?? 0,
      found.more[at] ?? true,
    )
  for (const name of order) {
    const at = name === '' || listing.position(name) !== undefined ? undefined : found.position(name)
    if (at === undefined) listing.addGap()
    else add(name, at)
  }
  for (const [at, name] of found.names.entries())
    if (name !== undefined && listing.position(name) === undefined) add(name, at)
  return listing
}

function merge(view: View, dir: DirInode): Listing
/** Undefined: the layers have more than `most` entries in all. */
function merge(view: View, dir: DirInode, most: number): Listing | undefined
function merge(view: View, dir: DirInode, most = Infinity): Listing | undefined {
  const listing = new Listing()
  const hidden = new Set<string>()
  const stack: { real: DirReal; from: number }[] = dir.lowers.map((real, i) => ({ real, from: i + 1 }))
  if (dir.upper !== null) stack.unshift({ real: dir.upper, from: 0 })
  let left = most
  for (const [i, { real, from }] of stack.entries()) {
    left -= mergeOne(view, listing, hidden, real, from, i + 1 < stack.length, left)
    if (left < 0) return undefined
  }
  return listing
}

/** Adds the entries of one real directory to what those above it gave. Gives how many they are; stops when these are more than `most`. */
function mergeOne(
  view: View,
  listing: Listing,
  hidden: Set<string>,
  real: DirReal,
  from: number,
  below: boolean,
  most: number,
): number {
  const first = listing.size === 0 && hidden.size === 0
  const dirfd = view.fds.get(real)
  const hides: string[] = []
  let markers = false
  let entries = 0
  const fd = openBeneath(dirfd, '.', sys.O_RDONLY | sys.O_DIRECTORY)
  try {
    for (;;) {
      const batch = sys.getdents(fd)
      if (batch === undefined) break
      entries += batch.names.length
      if (entries > most) return entries
      for (let i = 0; i < batch.names.length; i++) {
        const name = batch.names[i] ?? ''
        if (isMarkerName(name)) {
          markers = true
          const hiddenName = hiddenByMarker(name)
          if (hiddenName !== undefined) hides.push(hiddenName)
          continue
        }
        if (view.mountpoint !== null && view.isOwnMountpoint(dirfd, name)) continue
        const at = first ? undefined : listing.position(name)
        if (at !== undefined) {
          listing.more[at] = true
          continue
        }
        if (!first && hidden.has(name)) continue
        const type = classify(real, dirfd, name, batch.types[i] ?? sys.DT_UNKNOWN)
        if (type === undefined) {
          if (below) hides.push(name)
        } else {
          listing.add(name, type, batch.inos[i] ?? 0, from)
        }
      }
    }
  } finally {
    sys.close(fd)
  }
  real.markers = markers
  if (below) for (const name of hides) if (!hasOwnEntry(listing, name, from)) hidden.add(name)
  return entries
}

/** `.wh.NAME` beside NAME of the same layer hides only what is below; NAME itself shows, and nothing merges with it. */
function hasOwnEntry(listing: Listing, name: string, from: number): boolean {
  const at = listing.position(name)
  return at !== undefined && listing.from[at] === from
}

/** The entry's DT_ type, or `undefined` for a whiteout. */
function classify(real: DirReal, dirfd: number, name: string, type: number): number | undefined {
  const suspicious =
    type === sys.DT_CHR || type === sys.DT_UNKNOWN || (type === sys.DT_REG && real.xwhiteouts)
  if (!suspicious) return type
  const stat = sys.statAt(dirfd, name)
  if (stat === undefined || isCharWhiteout(stat)) return undefined
  if (real.xwhiteouts && mayBeXattrWhiteout(stat) && hasWhiteoutXattr(dirfd, name)) return undefined
  return (stat.mode & sys.S_IFMT) >>> 12
}

/** Whether the merged view of the directory shows nothing. */
export function isEmpty(view: View, dir: DirInode): boolean {
  return listingOf(view, dir).size === 0
}
