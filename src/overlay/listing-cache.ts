/** Which listings are held: bounded by entries, the least recently used goes first. */
import type { DirInode } from './inode.js'
import type { Listing } from './listing.js'

/** Entries that take as much memory as an empty listing. */
const ITSELF = 8
/** Entries that are added between two looks at the bounds. */
const GROWTH = 256
const MOST_UNREAD = 16_384
/** Milliseconds without a READDIR after which nobody is taken to be in the middle of a listing. */
const QUIET = 600_000

export class ListingCache {
  /** In order of use, oldest first. */
  private readonly held = new Map<DirInode, number>()
  private entries = 0

  constructor(private readonly maxEntries: number) {}

  /** Marks the directory's listing as used just now. */
  hold(dir: DirInode, listing: Listing): void {
    const entries = listing.size + ITSELF
    this.entries += entries - (this.held.get(dir) ?? 0)
    this.held.delete(dir)
    this.held.set(dir, entries)
    dir.listing = listing
    for (const oldest of this.held.keys()) {
      if (this.entries <= this.maxEntries || oldest === dir) break
      this.drop(oldest)
    }
  }

  /**
   * Upper has a new object, of that S_IF* type. Positions are kept for readers; where there is none, the gaps of what went go too, and a
   * long listing is not kept for lookups alone.
   */
  created(dir: DirInode, name: string, type: number, ino: number): void {
    const { listing } = dir
    if (listing === null) return
    listing.add(name, type >>> 12, ino, 0)
    if (listing.names.length % GROWTH !== 0) return
    const unread = Date.now() - listing.readAt > QUIET
    if (!unread || (!listing.worn && listing.size <= MOST_UNREAD)) {
      this.hold(dir, listing)
      return
    }
    this.drop(dir)
    if (listing.size <= MOST_UNREAD) this.hold(dir, listing.withoutGaps())
  }

  drop(dir: DirInode): void {
    const size = this.held.get(dir)
    if (size === undefined) return
    this.held.delete(dir)
    this.entries -= size
    dir.listing?.kept?.dropped()
    dir.listing = null
  }
}
