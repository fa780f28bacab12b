/**
 * lower=live: what changes in lower layers is seen when it happens. Each lower directory that the kernel knows is watched. An event names
 * a directory and a name; what that stands for is looked up anew, and the kernel is told what of it has changed.
 *
 * What cannot be watched (too many watches, a directory that may not be read) is shown for {@link UNWATCHED} seconds only: then the kernel asks, and what
 * is there is compared.
 *
 * Events come between requests. Nothing here waits for the kernel (see changes.ts for what does).
 */
import * as sys from '../sys/index.js'
import { debug } from '../base/log.js'
import { SysError } from '../base/sys-error.js'
import { hiddenByMarker, isMarkerName } from '../format/index.js'
import { relist } from './changes.js'
import type { DirInode, Inode } from './inode.js'
import { DirReal, type Layer } from './layer.js'
import { resolve, type Resolved, shownIno } from './lookup.js'
import { adoptIssued, rulesChanged } from './names.js'
import { listingOf } from './readdir.js'
import { materialise } from './recover.js'
import type { View } from './view.js'

/** Seconds for which the kernel may believe in what nobody watches. */
export const UNWATCHED = 0.05

/** Inodes that are looked at between two requests. */
const AT_ONCE = 64

const log = debug('overlay')

export class LowerWatch {
  private fd = -1
  /** Why directories are not watched, once one is not. */
  private why: string | undefined
  private readonly watched = new Map<number, Set<DirInode>>()
  private readonly unwatched = new Set<DirInode>()
  /** Names that are to be looked at anew. */
  private readonly stale = new Map<DirInode, Set<string>>()
  private planned = false
  private readonly remote = new Map<Layer, boolean>()

  constructor(private readonly view: View) {
    try {
      this.fd = sys.openWatch(() => this.read())
    } catch (error) {
      if (!(error instanceof SysError)) throw error
      this.why = error.message
    }
  }

  /** What falls outside: how many directories, and why. */
  outside(): { directories: number; why: string } | undefined {
    return this.why === undefined ? undefined : { directories: this.unwatched.size, why: this.why }
  }

  get watches(): number {
    return this.watched.size
  }

  isUnwatched(dir: DirInode): boolean {
    return this.unwatched.has(dir)
  }

  /** A directory that the kernel is going to know, or whose real directories are others now. */
  add(dir: DirInode): void {
    if (dir.lowers.length === 0) return
    this.remove(dir)
    for (const real of dir.lowers) {
      const watch = this.watch(real)
      if (watch === undefined) {
        this.unwatched.add(dir)
        continue
      }
      const dirs = this.watched.get(watch)
      if (dirs === undefined) this.watched.set(watch, new Set([dir]))
      else dirs.add(dir)
      ;(dir.watches ??= []).push(watch)
    }
  }

  private watch(real: DirReal): number | undefined {
    if (this.fd < 0) return undefined
    if (this.isRemote(real.layer)) {
      this.why ??= 'nobody tells of what others change on a network filesystem'
      return undefined
    }
    try {
      const watch = sys.addWatch(this.fd, this.view.fds.get(real))
      if (watch === undefined) this.why ??= 'fs.inotify.max_user_watches is used up'
      return watch
    } catch (error) {
      if (!(error instanceof SysError)) throw error
      this.why ??= error.message
      return undefined
    }
  }

  private isRemote(layer: Layer): boolean {
    let remote = this.remote.get(layer)
    if (remote === undefined) {
      remote = sys.REMOTE_FILESYSTEMS.has(sys.fstatfs(layer.rootFd.n).type)
      this.remote.set(layer, remote)
    }
    return remote
  }

  /**
   * The kernel asks for a directory that is not watched: whether names in it came or went is seen by the times of its real directories.
   */
  compare(dir: DirInode): void {
    let stamp = 0
    for (const real of dir.lowers) stamp = (stamp * 31 + sys.statFd(this.view.fds.get(real)).stamp) % 2 ** 50
    if (dir.stamp !== 0 && dir.stamp !== stamp) {
      relist(this.view, dir)
      this.view.attrAndListingChanged(dir)
    }
    dir.stamp = stamp
  }

  remove(dir: DirInode): void {
    this.unwatched.delete(dir)
    this.stale.delete(dir)
    for (const watch of dir.watches ?? []) {
      const dirs = this.watched.get(watch)
      dirs?.delete(dir)
      if (dirs?.size !== 0) continue
      this.watched.delete(watch)
      sys.removeWatch(this.fd, watch)
    }
    dir.watches = null
  }

  private read(): void {
    // An inode of a request that was put off may be in no table yet.
    adoptIssued(this.view)
    for (let events = sys.readWatch(this.fd); events !== undefined; events = sys.readWatch(this.fd)) {
      for (const { watch, mask, name } of events) {
        if ((mask & sys.IN_Q_OVERFLOW) !== 0) this.everything()
        for (const dir of this.watched.get(watch) ?? []) this.happened(dir, mask, name)
        if ((mask & sys.IN_IGNORED) !== 0) this.watched.delete(watch)
      }
    }
    this.work()
  }

  private happened(dir: DirInode, mask: number, name: string): void {
    // Of the directory itself; what its names stand for is said by its parent's.
    if (name === '') this.view.attrChanged(dir)
    else if ((mask & (sys.IN_MODIFY | sys.IN_ATTRIB)) !== 0 && dir.children.get(name)?.isDir() === false)
      this.mark(dir, name)
    else {
      this.namesChanged(dir, name)
      this.mark(dir, name)
    }
  }

  private mark(dir: DirInode, name: string): void {
    const names = this.stale.get(dir)
    if (names === undefined) this.stale.set(dir, new Set([name]))
    else names.add(name)
  }

  /** Names came or went: listings, here and in the kernel, and what follows from markers. */
  private namesChanged(dir: DirInode, name: string): void {
    const { view } = this
    relist(view, dir)
    if (isMarkerName(name)) {
      for (const real of dir.lowers) real.markersChanged()
      rulesChanged(view, dir)
      const hidden = hiddenByMarker(name)
      if (hidden !== undefined) this.mark(dir, hidden)
      else if (dir.parent !== null) this.mark(dir.parent, dir.name)
    }
  }

  /** Anything may have changed: events were lost, or nobody watched. */
  everything(): void {
    for (const inode of this.view.table.all()) if (inode.isDir()) this.contents(inode)
    this.work()
  }

  /** All that is known, or is to be known, in a directory. */
  private contents(dir: DirInode): void {
    relist(this.view, dir)
    for (const name of dir.children.keys()) this.mark(dir, name)
    // What the kernel may know not to be there.
    try {
      if (!dir.nameless || dir === this.view.table.root)
        for (const name of listingOf(this.view, dir).names) if (name !== undefined) this.mark(dir, name)
    } catch (error) {
      if (!(error instanceof SysError)) throw error
    }
  }

  /** Looks at some of what is stale, and at the rest after the requests that wait. */
  private work(): void {
    const { view } = this
    view.fds.nextRequest()
    let left = AT_ONCE
    for (const [dir, names] of this.stale) {
      for (const name of names) {
        if (left-- <= 0) return this.plan()
        names.delete(name)
        try {
          this.look(dir, name)
        } catch (error) {
          // Its directory is gone, which is an event of its own; or a disk that fails, which whoever asks is told.
          if (!(error instanceof SysError)) throw error
          log?.(`looking at ${name}: ${error.message}`)
        }
        view.fds.nextRequest()
      }
      this.stale.delete(dir)
      view.attrAndListingChanged(dir)
    }
  }

  private plan(): void {
    if (this.planned) return
    this.planned = true
    setImmediate(() => {
      this.planned = false
      this.work()
    })
  }

  private look(dir: DirInode, name: string): void {
    const { view } = this
    const known = dir.children.get(name)
    if (known?.recovered === true) materialise(view, known)
    if (known === undefined) {
      // Known as missing, perhaps.
      view.kernel.invalidateEntry(dir.nodeid, name)
      return
    }
    if (known.orphan !== null || (known.upper !== null && !known.isDir())) return
    const found = resolve(view, dir, name)
    try {
      this.compareWith(dir, name, known, found)
    } finally {
      if (found !== undefined) this.letGo(known, found)
    }
  }

  /** Closes the directories that were opened to look, but for those that are the inode's own by now. */
  private letGo(known: Inode, { upper, lowers }: Resolved): void {
    const own: readonly unknown[] = known.isDir() ? [known.upper, ...known.lowers] : []
    for (const real of [upper, ...lowers])
      if (real instanceof DirReal && !own.includes(real)) this.view.fds.drop(real)
  }

  private compareWith(dir: DirInode, name: string, known: Inode, found: Resolved | undefined): void {
    const { view } = this
    if (found === undefined || view.owner.type(found.stat, found, view) !== known.type)
      this.gone(dir, name, known, found === undefined)
    else if (known.isDir()) this.directory(known, found)
    else this.file(dir, name, known, found)
  }

  private gone(dir: DirInode, name: string, known: Inode, nothing: boolean): void {
    const { view } = this
    if (nothing) view.kernel.deleteEntry(dir.nodeid, known.nodeid, name)
    else view.kernel.invalidateEntry(dir.nodeid, name)
    if (known.isDir()) {
      this.remove(known)
      rulesChanged(view, known)
      view.listings.drop(known)
      view.table.removeName(known, dir, name)
    } else view.changes.replaced(known)
    view.table.dropIfUnused(known)
  }

  private file(dir: DirInode, name: string, known: Inode, found: Resolved): void {
    const { view } = this
    if (view.inos.shown(found.stat) !== known.ino) {
      view.kernel.invalidateEntry(dir.nodeid, name)
      view.changes.replaced(known)
      view.table.dropIfUnused(known)
      return
    }
    known.lower = found.lower
    if (known.type === sys.S_IFREG) view.changes.seen(known, found.stat)
    else view.attrChanged(known)
  }

  private directory(known: DirInode, found: Resolved): void {
    const { view } = this
    const old = known.lowers
    view.attrChanged(known)
    if (old.length === found.lowers.length && old.every((real, i) => this.isSame(real, found.lowers[i])))
      return
    for (const real of old) view.fds.drop(real)
    known.lowers = found.lowers
    known.lower = found.lowers[0] ?? null
    known.ino = shownIno(view, known.parent ?? known, known.name, found)
    view.journal?.renumbered(known)
    rulesChanged(view, known)
    this.add(known)
    this.contents(known)
  }

  /** Whether a name leads to the directory that it led to. */
  private isSame(real: DirReal, now: DirReal | undefined): boolean {
    if (now === undefined || now.layer !== real.layer || now.name !== real.name || now.parent !== real.parent)
      return false
    real.xwhiteouts = now.xwhiteouts
    const before = sys.statFd(this.view.fds.get(real))
    const found = real.parent === null ? before : sys.statAt(this.view.fds.get(real.parent), real.name)
    return found?.inoLo === before.inoLo && found.inoHi === before.inoHi && found.dev === before.dev
  }
}
