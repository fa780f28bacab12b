/**
 * Files of lower layers that change beneath the mount: their owner saves them in an editor, a layer is replaced.
 *
 * The kernel keeps attributes and data for as long as nobody says otherwise, and asks for neither. So an inode of a lower file remembers what the
 * kernel was told of it (a stamp: which file, how long, when written and when changed) and what size it may believe in. Whenever the file is
 * opened, asked for attributes, or copied up here, and after each READ (native/data-plane.h), what is there is compared. A difference first makes
 * the kernel let go of all it has, and is answered then.
 *
 * Which waits for which: the kernel lets go of a page when no READ or WRITE has it locked. So attributes wait until it has let go
 * ({@link Changes.attributes}), and READ and WRITE never do. A READ of a file that grew waits until the kernel doubts the size that it has
 * ({@link Changes.reading}), for which it needs no page: else its reader would take the old size for the end of the new file.
 *
 * A name that stands for another file now is another inode, as on any filesystem: who has the old one open goes on with that, as long as the data plane
 * has it open (Inode.held).
 */
import * as sys from '../sys/index.js'
import type { Stat } from '../sys/index.js'
import { E } from '../base/errno.js'
import { Fd } from '../base/fd.js'
import { SysError } from '../base/sys-error.js'
import { Again, type Told } from '../fuse/filesystem.js'
import type { DirInode, Inode } from './inode.js'
import type { View } from './view.js'

/** Of an inode whose predecessor's daemon knew what the kernel was told: any stamp differs from it. */
export const FORGOTTEN = -1

/** A copy-up of a file that is being written is begun anew so often, and after pauses of so many milliseconds more each time. */
const TRIES = 12
const PAUSE = 5

/** Milliseconds by which a file's time may lie before that of the clock: it is taken from one that stands still in between. */
const SLACK = 20

export class Changes {
  /** How many differences were noticed. */
  noticed = 0
  /** Called at the first one, with the file's path in its layer. */
  onNoticed: ((path: string) => void) | undefined
  /** Files of which the kernel is letting go. */
  private readonly telling = new Map<Inode, Promise<void>>()
  private readonly tries = new Map<Inode, number>()

  /** `since`: when the mount began, in milliseconds since 1970. A file that was last changed before is what any daemon of this mount has told. */
  constructor(
    private readonly view: View,
    private readonly since: number,
  ) {}

  /** Whether an inode's file is looked at: only this daemon changes those of upper. */
  private compares(inode: Inode): boolean {
    return inode.type === sys.S_IFREG && inode.upper === null && inode.orphan === null && inode.data === null
  }

  /** Whether attributes of the inode's layer say what a file is shown as. */
  keepsTypes({ lower }: Inode): boolean {
    return lower !== null && this.view.owner.keeps(lower.layer.index)
  }

  /** What the kernel was told by this daemon's predecessors, which kept no note of it. */
  recovered(inode: Inode, stat: Stat): void {
    const unchanged = stat.ctime * 1000 < this.since - SLACK
    inode.stamp = unchanged ? stat.stamp : FORGOTTEN
    inode.most = unchanged ? stat.size : Number.MAX_SAFE_INTEGER
  }

  /** The attributes of an object that only a lower layer has; undefined where the inode's name stands for it no longer, and nobody holds it. */
  stat(inode: Inode): Stat | undefined {
    const { dirfd, name } = this.view.at(inode)
    const stat = sys.statAt(dirfd, name)
    if (inode.held !== null || inode.isDir()) return stat
    if (stat !== undefined && (this.isSame(inode, stat) || this.goOnAs(inode, stat, true))) return stat
    this.replaced(inode)
    const held = inode.held as Fd | null
    return held === null ? undefined : sys.statFd(held.n)
  }

  /**
   * The attributes of a file that is going to be copied up: what its name stands for, since that is what is meant to be changed.
   * @throws SysError ESTALE
   */
  copying(inode: Inode): Stat | undefined {
    const { dirfd, name } = this.view.at(inode)
    const stat = sys.statAt(dirfd, name)
    if (!this.compares(inode) || inode.held !== null) return stat
    if (stat !== undefined && (this.isSame(inode, stat) || this.goOnAs(inode, stat, false))) {
      if (stat.stamp !== inode.stamp) this.notice(inode, stat)
      return stat
    }
    this.replaced(inode)
    const held = inode.held as Fd | null
    return held === null ? undefined : sys.statFd(held.n)
  }

  /**
   * Another file of the same type has the inode's name: the inode is that from now on, as if its content had changed. False: it is not;
   * with `unlessHeld` also where the data plane has the old one open, with which its readers can go on.
   */
  private goOnAs(inode: Inode, stat: Stat, unlessHeld: boolean): boolean {
    const { view } = this
    const known = inode.type === (stat.mode & sys.S_IFMT) && inode.links === 0 && !this.keepsTypes(inode)
    if (!known || (unlessHeld && view.kernel.registered(inode.nodeid) !== 0)) return false
    inode.ino = view.inos.shown(stat)
    view.journal?.renumbered(inode)
    inode.parent?.listing?.renumbered(inode.name, stat.ino)
    return true
  }

  private isSame(inode: Inode, stat: Stat): boolean {
    // With owners in attributes a file may be shown as something else.
    const sameType = this.keepsTypes(inode) || (stat.mode & sys.S_IFMT) === inode.type
    return sameType && this.view.inos.shown(stat) === inode.ino
  }

  /** The inode loses its names, which stand for another object or for none. */
  replaced(inode: Inode): void {
    const { view } = this
    const fd = inode.held === null ? view.kernel.fileOf(inode.nodeid) : undefined
    if (fd !== undefined) {
      inode.held = new Fd(fd)
      inode.stamp = sys.statFd(fd).stamp
    }
    this.count(inode)
    view.kernel.unregisterFile(inode.nodeid)
    for (let dir = inode.parent; dir !== null; dir = inode.parent) {
      const { name } = inode
      relist(view, dir)
      view.kernel.invalidateEntry(dir.nodeid, name)
      view.table.removeName(inode, dir, name)
    }
    if (inode.held === null) inode.lower = null
    view.attrChanged(inode)
  }

  /**
   * Before the kernel is told attributes.
   * @throws Again until it has let go of what does not belong to them
   */
  attributes(inode: Inode, stat: Stat): void {
    if (this.compares(inode) && stat.stamp !== inode.stamp) this.notice(inode, stat)
    this.settled(inode)
  }

  /** What the inode's file is by now, between requests. */
  seen(inode: Inode, stat: Stat): void {
    if (this.compares(inode) && stat.stamp !== inode.stamp) this.notice(inode, stat)
  }

  /** @throws Again while the kernel is letting go of the inode's data. Not for READ and WRITE, for which it waits. */
  settled(inode: Inode): void {
    const told = this.telling.size === 0 ? undefined : this.telling.get(inode)
    if (told !== undefined) throw new Again(told)
  }

  isTelling(inode: Inode): boolean {
    return this.telling.has(inode)
  }

  /** What the kernel knows of a lower file; undefined while that is not settled, or of others. */
  told(inode: Inode): Told | undefined {
    return inode.stamp > 0 && !this.telling.has(inode) ? { stamp: inode.stamp, most: inode.most } : undefined
  }

  /**
   * The inode's file was opened for a READ and is `stat`.
   * @throws Again until the kernel doubts its size
   */
  reading(inode: Inode, stat: Stat): void {
    if (stat.stamp === inode.stamp) return
    const waits =
      inode.stamp !== 0 && !this.telling.has(inode) && (stat.size > inode.most || inode.stamp === FORGOTTEN)
    // First the attributes alone: all else waits for this READ.
    const doubted = waits ? this.view.kernel.afterInvalidating(inode.nodeid, -1) : undefined
    this.notice(inode, stat)
    if (doubted !== undefined) throw new Again(doubted)
  }

  private notice(inode: Inode, stat: Stat): void {
    const first = inode.stamp === 0
    inode.stamp = stat.stamp
    inode.most = first ? stat.size : Math.max(inode.most, stat.size)
    if (first) return
    this.count(inode)
    inode.endless = true
    this.view.kernel.unregisterFile(inode.nodeid)
    this.tell(inode)
  }

  private tell(inode: Inode): void {
    const { view } = this
    if (inode.nlookup === 0) return
    view.journal?.notified(inode.nodeid)
    const told = view.kernel.afterInvalidating(inode.nodeid, 0).then(() => {
      if (this.telling.get(inode) === told) this.telling.delete(inode)
    })
    this.telling.set(inode, told)
  }

  private count(inode: Inode): void {
    if (this.noticed++ === 0) this.onNoticed?.(inode.lower?.path() ?? inode.name)
  }

  /**
   * A copy of the inode's file was not of one content.
   * @throws SysError EBUSY when that has happened too often
   */
  async torn(inode: Inode): Promise<void> {
    const tries = (this.tries.get(inode) ?? 0) + 1
    this.tries.set(inode, tries)
    if (tries > TRIES) {
      this.tries.delete(inode)
      throw new SysError(E.EBUSY, 'copy-up', inode.name)
    }
    await new Promise(resolve => setTimeout(resolve, PAUSE * tries))
  }

  /** It was. */
  whole(inode: Inode): void {
    this.tries.delete(inode)
  }

  dropped(inode: Inode): void {
    this.tries.delete(inode)
    this.telling.delete(inode)
    inode.held?.close()
    inode.held = null
  }
}

/** The listing is made anew when somebody reads it: who is in the midst goes on in the old order. */
export function relist(view: View, dir: DirInode): void {
  view.ahead.drop(dir)
  if (dir.listing === null) return
  dir.oldOrder = dir.listing.names.map(name => name ?? '')
  view.listings.drop(dir)
}
