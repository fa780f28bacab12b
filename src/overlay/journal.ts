/**
 * What a mount tells whoever keeps it for a successor: every object that the kernel knows, under which names, and how often it counts
 * on it. Where nothing is kept there is no journal, and none of this costs anything.
 *
 * A call is made when the tables are already as it says, and on disk before that; so a successor finds the disk ahead of the journal
 * by at most the one change that was being made, never behind it. The exceptions, `changing`, `raising`, `hold` and `below`, come before
 * their change.
 */
import type { Stat } from '../sys/index.js'
import type { DirInode, Inode } from './inode.js'

/** Which object a change is about: told before it, it shows afterwards whether the change was made. */
export type Identity = Pick<Stat, 'dev' | 'inoHi' | 'inoLo'>

export interface OpenFacts {
  readonly cached: number
  readonly passthrough: number
  readonly writers: number
  readonly backingId: number
}

export interface Journal {
  /** The number is used up, whether anything comes of it or not. */
  issued(nodeid: number): void
  named(inode: Inode, parent: DirInode, name: string): void
  unnamed(inode: Inode, parent: DirInode, name: string): void
  /** The answer being made gives the kernel one more reference. */
  counted(inode: Inode): void
  /** The kernel gave references back. */
  forgot(inode: Inode): void
  dropped(inode: Inode): void
  /** An upper object comes into being for it next, which a successor has to look for from now on. */
  raising(inode: Inode): void
  /** Whether there is certainly none: of an inode that a predecessor knew, and upper need not be asked. */
  isOnlyBelow(inode: Inode): boolean
  /** `linkKey` has changed. */
  linked(inode: Inode): void
  /** `ino` has changed. */
  renumbered(inode: Inode): void
  /** Keeps the object behind `fd`, to which no name leads, or will lead in a moment. */
  hold(inode: Inode, fd: number): void
  /** Before `fd`, which it is held by, is closed. */
  unhold(inode: Inode, fd: number): void
  /** The inode's last name is about to go while the object is on a lower layer, where it stays. */
  below(inode: Inode): void
  /** The kernel is told to ask for the attributes again. */
  notified(nodeid: number): void
  /**
   * The change of the request being served is made next. `moved` is the upper object that gets a name by it. `before`: whether what
   * is set or removed was there.
   */
  changing(moved?: Identity, before?: boolean): void
  /** A reader will go on in this listing: its positions must last. '' is a gap. */
  listing(dir: DirInode, names: readonly (string | undefined)[]): void
  listed(dir: DirInode, name: string): void
  unlisted(dir: DirInode, name: string): void
  unlist(dir: DirInode): void
  /**
   * io=passthrough: how an inode is open now. `change` is the handle that the request being served has opened, or with a minus
   * closed: its answer may be lost. A backing file is closed after this.
   */
  opens(inode: Inode, facts: OpenFacts, change: number): void
  /** io=passthrough: setuid and setgid bits that a write may take without the kernel knowing; undefined: none any more. */
  suspects(inode: Inode, bits: number | undefined): void
}
