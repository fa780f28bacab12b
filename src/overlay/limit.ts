/**
 * The mount option `size=`: what upper takes is counted once at mount and kept from then on, so a crash loses nothing. A change
 * that needs room gets it before it is made (ENOSPC otherwise); what it really took is noted afterwards. Data written is
 * noted by the data plane, in the same account.
 */
import { E } from '../base/errno.js'
import { Fd } from '../base/fd.js'
import { SysError } from '../base/sys-error.js'
import type { Entry, FileSystem, Maybe, StatFsReply } from '../fuse/filesystem.js'
import * as sys from '../sys/index.js'
import { Account } from '../sys/index.js'
import { ensureUpper } from './copy-up.js'
import type { Inode } from './inode.js'
import { openReal } from './io.js'
import { findChild } from './lookup.js'
import type { View } from './view.js'

const OPEN_DIR = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW
const BLOCK = 4096
const FALLOC_FREES = sys.FALLOC_FL_PUNCH_HOLE | sys.FALLOC_FL_COLLAPSE_RANGE

/** Counts what is in upper. */
export function openAccount(limit: number, upper: number): Account {
  const bySize = Account.chargesSizes(sys.fstatfs(upper).type)
  const scale = new Account(limit, 0, bySize)
  return new Account(limit, taken(upper, scale), bySize)
}

/** A directory on the way down, and which of its own are still to be counted. */
interface Level {
  readonly stat: sys.Stat
  readonly dirs: string[]
}

/** What is in a tree. One descriptor at a time: it may be deeper than a process has descriptors. */
function taken(root: number, scale: Account): number {
  const links = new Set<string>()
  let bytes = 0
  const enter = (dir: number): Level => {
    const level: Level = { stat: sys.statFd(dir), dirs: [] }
    bytes += scale.weigh(level.stat)
    const { names } = sys.listDir(dir)
    for (const [index, stat] of sys.statMany(dir, names).entries()) {
      if (stat === undefined || typeof stat === 'number') continue
      if (sys.S_ISDIR(stat.mode)) {
        level.dirs.push(names[index] ?? '')
        continue
      }
      if (stat.nlink > 1) {
        const key = `${stat.inoHi}:${stat.inoLo}`
        if (links.has(key)) continue
        links.add(key)
      }
      bytes += scale.weigh(stat)
    }
    return level
  }
  let dir = sys.openat(root, '.', OPEN_DIR)
  try {
    const levels = [enter(dir.n)]
    const go = (name: string): void => {
      const next = sys.openat(dir.n, name, OPEN_DIR)
      dir.close()
      dir = next
    }
    for (let level = levels.at(-1); level !== undefined; level = levels.at(-1)) {
      const name = level.dirs.pop()
      if (name !== undefined) {
        go(name)
        levels.push(enter(dir.n))
        continue
      }
      levels.pop()
      const above = levels.at(-1)
      if (above === undefined) break
      go('..')
      const { inoLo, inoHi } = sys.statFd(dir.n)
      // Moved meanwhile by somebody who has no business in it.
      if (inoLo !== above.stat.inoLo || inoHi !== above.stat.inoHi) throw new SysError(E.EBUSY, 'size', name)
    }
  } finally {
    dir.close()
  }
  return bytes
}

const noSpace = (): SysError => new SysError(E.ENOSPC, 'size')

/** Room held for one change; given back when what the change took has been noted. */
class Room {
  constructor(
    readonly account: Account,
    readonly bytes: number,
  ) {
    // What takes nothing, a removal say, is for a full mount too.
    if (bytes > 0 && !account.hold(bytes)) throw noSpace()
  }

  release(): void {
    this.account.release(this.bytes)
  }
}

/** What changes upper's size outside of copy-up, wrapped around the filesystem that does it. */
export class Limit {
  constructor(
    readonly account: Account,
    readonly view: View,
  ) {}

  private inUpper(inode: Inode): boolean {
    return inode.upper !== null || inode.orphan !== null
  }

  private baseline(inode: Inode): void {
    // What is only below has no charge yet: its copy-up makes one.
    if (this.inUpper(inode)) this.account.baseline(inode.nodeid, this.account.weigh(this.view.stat(inode)))
  }

  private settle(inode: Inode): void {
    if (this.inUpper(inode)) this.account.settle(inode.nodeid, this.account.weigh(this.view.stat(inode)))
  }

  /** Runs a change of these objects that may take `bytes`. */
  private change<T>(inodes: readonly Inode[], bytes: number, make: () => T): T {
    for (const inode of inodes) this.baseline(inode)
    const room = new Room(this.account, bytes)
    try {
      return make()
    } finally {
      for (const inode of inodes) this.settle(inode)
      room.release()
    }
  }

  /** The same for a change that goes on for a while. */
  private async changeSlowly<T>(inode: Inode, bytes: number, make: () => Maybe<T>): Promise<T> {
    this.baseline(inode)
    const room = new Room(this.account, bytes)
    try {
      return await make()
    } finally {
      this.settle(inode)
      room.release()
    }
  }

  private made(entry: Entry): void {
    this.account.baseline(entry.nodeid, 0)
    this.settle(this.view.inode(entry.nodeid))
  }

  create<T>(parent: number, bytes: number, make: () => T, entryOf: (made: T) => Entry): T {
    return this.change([this.view.inode(parent)], bytes, () => {
      const made = make()
      this.made(entryOf(made))
      return made
    })
  }

  /** Takes names away: objects whose last name that was go, at once or when their last user does. */
  remove(
    changed: readonly (Inode | undefined)[],
    victims: readonly (Inode | undefined)[],
    make: () => void,
  ): void {
    const leaving: [inode: Inode, bytes: number][] = []
    for (const victim of victims) {
      if (victim === undefined || !this.inUpper(victim)) continue
      const stat = this.view.stat(victim)
      this.account.baseline(victim.nodeid, this.account.weigh(stat))
      if (victim.isDir() || stat.nlink === 1) leaving.push([victim, this.account.weigh(stat)])
    }
    this.change(
      changed.filter(inode => inode !== undefined),
      0,
      make,
    )
    for (const [victim, bytes] of leaving) {
      // One that is still in use goes when the kernel lets go of it: dropped().
      if (victim.orphan === null && victim.upper === null) this.account.gone(victim.nodeid, bytes)
    }
  }

  child(parent: number, name: string): Inode | undefined {
    return findChild(this.view, this.view.dir(parent), name)
  }

  /** The kernel knows the object no longer. Called before its orphan descriptor is closed. */
  dropped(inode: Inode): void {
    if (inode.orphan !== null) {
      const stat = sys.statFd(inode.orphan.n)
      if (stat.nlink === 0 || inode.isDir()) {
        this.account.gone(inode.nodeid, this.account.weigh(stat))
        return
      }
    }
    this.account.forget(inode.nodeid)
  }

  /** Held while an object is copied up; `end` notes what the copy took. */
  copyUp(inode: Inode, extent: number | 'metadata'): { end: () => void } {
    const { parent } = inode
    if (parent !== null) this.baseline(parent)
    if (this.inUpper(inode)) this.baseline(inode)
    else this.account.baseline(inode.nodeid, 0)
    const stat = this.view.stat(inode)
    const data = inode.type === sys.S_IFREG ? this.account.weigh(stat) : BLOCK
    const room = new Room(this.account, Math.min(data, extent === 'metadata' ? Infinity : extent) + BLOCK)
    return {
      end: () => {
        this.settle(inode)
        // Its directory has one name more, and may carry a mark.
        if (parent !== null) this.settle(parent)
        room.release()
      },
    }
  }

  statfs(backing: StatFsReply): StatFsReply {
    const { limit, used } = this.account
    const blocks = Math.floor(limit / BLOCK)
    const bfree = Math.max(0, blocks - Math.ceil(used / BLOCK))
    const bavail = Math.min(bfree, Math.floor((backing.bavail * backing.frsize) / BLOCK))
    return { ...backing, blocks, bfree, bavail, bsize: BLOCK, frsize: BLOCK }
  }

  fallocate(
    nodeid: number,
    offset: number,
    length: number,
    mode: number,
    make: () => Maybe<void>,
  ): Maybe<void> {
    const inode = this.view.inode(nodeid)
    ensureUpper(this.view, inode)
    const takes = (mode & FALLOC_FREES) === 0
    return this.changeSlowly(inode, takes ? this.needOf(inode, offset, length) : 0, make)
  }

  copyFileRange(nodeid: number, offset: number, length: number, make: () => Maybe<number>): Maybe<number> {
    const inode = this.view.inode(nodeid)
    ensureUpper(this.view, inode)
    return this.changeSlowly(inode, this.needOf(inode, offset, length), make)
  }

  private needOf(inode: Inode, offset: number, length: number): number {
    if (length > this.account.limit) throw noSpace()
    using fd = new Fd(openReal(this.view, inode, sys.O_RDONLY))
    return this.account.need(fd.n, offset, length)
  }

  attributes<T>(nodeid: number, bytes: number, make: () => T): T {
    return this.change([this.view.inode(nodeid)], bytes, make)
  }
}

/** `inner` with every change noted. */
export function limited(inner: FileSystem, limit: Limit): FileSystem {
  const { account, view } = limit
  const self = (entry: Entry): Entry => entry
  const ofOpen = (made: { entry: Entry }): Entry => made.entry
  const changed: Partial<FileSystem> = {
    symlink: (parent, ...rest) => limit.create(parent, 1, () => inner.symlink(parent, ...rest), self),
    mknod: (parent, ...rest) => limit.create(parent, 1, () => inner.mknod(parent, ...rest), self),
    mkdir: (parent, ...rest) => limit.create(parent, BLOCK, () => inner.mkdir(parent, ...rest), self),
    create: (parent, ...rest) => limit.create(parent, 1, () => inner.create(parent, ...rest), ofOpen),
    tmpfile: (parent, ...rest) => limit.create(parent, 1, () => inner.tmpfile(parent, ...rest), ofOpen),
    link: (nodeid, parent, ...rest) => limit.attributes(parent, 1, () => inner.link(nodeid, parent, ...rest)),
    unlink: (parent, name, caller) => {
      limit.remove([view.inode(parent)], [limit.child(parent, name)], () => {
        inner.unlink(parent, name, caller)
      })
    },
    rmdir: (parent, name, caller) => {
      limit.remove([view.inode(parent)], [limit.child(parent, name)], () => {
        inner.rmdir(parent, name, caller)
      })
    },
    rename: (parent, name, newParent, newName, flags, caller) => {
      const [source, target] = [limit.child(parent, name), limit.child(newParent, newName)]
      const exchange = (flags & sys.RENAME_EXCHANGE) !== 0
      // What moves may get a mark that says where it came from.
      const changed = [view.inode(parent), view.inode(newParent), source, exchange ? target : undefined]
      limit.remove(changed, [exchange ? undefined : target], () => {
        inner.rename(parent, name, newParent, newName, flags, caller)
      })
    },
    setattr: (nodeid, change, caller) => {
      const grows = account.bySize && change.size !== undefined
      const before = grows ? account.weigh(view.stat(view.inode(nodeid))) : 0
      const after = grows ? account.weigh({ size: change.size ?? 0, blocks: 0 }) : 0
      return limit.attributes(nodeid, Math.max(0, after - before), () =>
        inner.setattr(nodeid, change, caller),
      )
    },
    setxattr: (nodeid, name, value, ...rest) => {
      const bytes = Math.ceil(value.length / BLOCK) * BLOCK
      limit.attributes(nodeid, bytes, () => {
        inner.setxattr(nodeid, name, value, ...rest)
      })
    },
    removexattr: (nodeid, ...rest) => {
      limit.attributes(nodeid, 0, () => {
        inner.removexattr(nodeid, ...rest)
      })
    },
    fallocate: (nodeid, offset, length, mode, caller) =>
      limit.fallocate(nodeid, offset, length, mode, () =>
        inner.fallocate(nodeid, offset, length, mode, caller),
      ),
    copyFileRange: (nodeIn, offIn, nodeOut, offOut, length, ...rest) => {
      // Fewer bytes than asked for is an answer; a sparse source may be larger than the limit.
      const size = view.stat(view.inode(nodeIn)).size
      const left = Math.max(0, Math.min(length, size - offIn, account.limit))
      return limit.copyFileRange(nodeOut, offOut, left, () =>
        inner.copyFileRange(nodeIn, offIn, nodeOut, offOut, left, ...rest),
      )
    },
    statfs: nodeid => limit.statfs(inner.statfs(nodeid)),
  }
  return Object.assign(Object.create(inner) as FileSystem, changed)
}
