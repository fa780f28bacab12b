/** Which listings are held: bounded by entries, the least recently read goes first. */
import type { DirInode } from './inode.js'
import type { Listing } from './listing.js'

export class ListingCache {
  /** In order of use, oldest first. */
  private readonly held = new Map<DirInode, number>()
  private entries = 0

  constructor(private readonly maxEntries: number) {}

  /** Marks the directory's listing as used just now. */
  hold(dir: DirInode, listing: Listing): void {
    this.entries += listing.size - (this.held.get(dir) ?? 0)
    this.held.delete(dir)
    this.held.set(dir, listing.size)
    dir.listing = listing
    for (const oldest of this.held.keys()) {
      if (this.entries <= this.maxEntries || oldest === dir) break
      this.drop(oldest)
    }
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
