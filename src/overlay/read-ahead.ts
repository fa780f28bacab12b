/**
 * Who reads a tree (find, du, tar, git, rsync) reads one directory after the other, and between two requests works on what it got. That
 * time is used: what lies in the directory that comes next is looked up before it is asked for.
 *
 * Only directories that no upper layer has, since these cannot change: what was found is true as long as upper has neither the directory
 * nor the object, and this is looked at when it is used ({@link ReadAhead.found}). One directory at a time, a few names between two
 * requests, and only once the directory that was read had been expected to be the next one.
 */
import { debug } from '../base/log.js'
import { SysError } from '../base/sys-error.js'
import * as sys from '../sys/index.js'
import type { Stat } from '../sys/index.js'
import type { DirInode, Inode } from './inode.js'
import { lookupChild } from './lookup.js'
import { listingWithin } from './readdir.js'
import type { View } from './view.js'

/** Names looked up between two requests: what a request waits at most, about 0.2 ms. */
const AT_ONCE = 16
/** Entries of a directory that is read ahead. */
const MOST = 1024
/** Names that may be known in a directory that is worth it. */
const FEW = 8
/** Directories above the one that was read in which the next one is looked for. */
const HIGHEST = 64

const log = debug('overlay')

export class ReadAhead {
  /** False: never. */
  enabled = true
  /** Names that were looked up before they were asked for, and how many of these were asked for. */
  readonly counters = { found: 0, used: 0 }
  /** Whose names are looked up ahead, and which one is next. */
  private dir: DirInode | null = null
  private at = 0
  /** The directory that is expected to be read next. */
  private expected: DirInode | null = null
  private walking = false
  private planned = false

  constructor(private readonly view: View) {}

  /** The kernel reads the directory from its beginning. */
  began(dir: DirInode): void {
    this.walking = dir === this.expected
    this.expected = null
    if (this.dir !== dir) this.letGo()
  }

  /** It has read all of it. */
  ended(dir: DirInode): void {
    this.letGo()
    if (!this.enabled) return
    this.expected = nextAfter(dir)
    if (!this.walking || this.expected === null || !isBelowOnly(this.expected)) return
    // Who asked for its files by name before has no use for it, and native code knows them.
    if (this.expected.children.size > FEW) return
    this.dir = this.expected
    this.dir.ahead = new Map()
    // The kernel is not told of what is found so.
    this.view.kernel.answersChanged(this.dir.nodeid)
    this.at = 0
    this.plan()
  }

  /** The kernel gives back its last reference to the directory, or it goes. */
  drop(dir: DirInode): void {
    if (this.dir === dir) this.letGo()
    if (this.expected === dir) this.expected = null
  }

  /** A name's inode and its attributes as they were looked up ahead; undefined where that is not known, or may no longer be so. */
  found(dir: DirInode, name: string): { inode: Inode; stat: Stat } | undefined {
    const stat = dir.ahead === null || dir.upper !== null ? undefined : dir.ahead.get(name)
    const inode = stat === undefined ? undefined : dir.children.get(name)
    if (stat === undefined || inode?.upper !== null || inode.orphan !== null) return undefined
    this.counters.used++
    return { inode, stat }
  }

  private plan(): void {
    if (this.planned) return
    this.planned = true
    this.view.kernel.hasWork(true)
    setImmediate(() => {
      this.planned = false
      this.view.kernel.hasWork(false)
      try {
        if (this.some()) this.plan()
      } catch (error) {
        // Whoever asks for it hears of it.
        log?.(`reading ahead: ${String(error)}`)
        this.letGo()
        if (!(error instanceof SysError)) this.enabled = false
      }
    })
  }

  /** Looks some names up. False: there are no more. */
  private some(): boolean {
    const { dir, view } = this
    if (dir === null || !isBelowOnly(dir)) return false
    view.fds.nextRequest()
    const listing = listingWithin(view, dir, MOST)
    if (listing === undefined) return false
    const end = Math.min(this.at + AT_ONCE, listing.names.length)
    for (; this.at < end; this.at++) {
      const name = listing.names[this.at]
      if (name === undefined || dir.children.has(name)) continue
      const found = lookupChild(view, dir, name)
      if (found === undefined) continue
      dir.ahead?.set(name, found.stat)
      this.counters.found++
    }
    return end < listing.names.length
  }

  /** What the kernel did not get after all goes. */
  private letGo(): void {
    const { dir, view } = this
    this.dir = null
    const ahead = dir?.ahead
    if (dir === null || ahead == null) return
    dir.ahead = null
    for (const name of ahead.keys()) {
      const inode = dir.children.get(name)
      if (inode?.nlookup === 0) view.table.dropIfUnused(inode)
    }
  }
}

function isBelowOnly(dir: DirInode): boolean {
  return dir.upper === null && !dir.nameless && !dir.recovered && dir.oldOrder === null
}

/** Depth first, in the order in which the kernel was told of them: the directory that comes after `dir` among those that are known. */
function nextAfter(dir: DirInode): DirInode | null {
  const inside = firstUnread(dir, 0)
  if (inside !== null) return inside
  let below = dir
  for (let levels = 0; levels < HIGHEST && below.parent !== null; levels++) {
    const above = below.parent
    const at = above.listing?.position(below.name)
    if (at === undefined) return null
    const beside = firstUnread(above, at + 1)
    if (beside !== null) return beside
    below = above
  }
  return null
}

/** The first directory at `from` or later that the kernel knows; null as well where somebody has read that one before. */
function firstUnread(dir: DirInode, from: number): DirInode | null {
  const { listing } = dir
  if (listing === null) return null
  for (let at = from; at < listing.names.length; at++) {
    if (listing.types[at] !== sys.DT_DIR) continue
    const child = dir.children.get(listing.names[at] ?? '')
    if (child?.isDir() === true && child.nlookup > 0) return child.listing === null ? child : null
  }
  return null
}
