/**
 * The objects of the merged view, and the table by which the kernel knows them.
 *
 * An inode lives as long as the kernel counts lookups on it (nlookup), or a child of it does. It keeps one nodeid and
 * one st_ino across copy-up, rename and unlink-while-open.
 */
import type { Fd } from '../base/fd.js'
import * as sys from '../sys/index.js'
import type { Stat } from '../sys/index.js'
import type { Issued } from '../fuse/filesystem.js'
import type { Journal } from './journal.js'
import type { DirReal, Real } from './layer.js'
import type { Listing } from './listing.js'
import type { KnownInode, Predecessor } from './predecessor.js'

/** A further name of an inode with several. */
export interface Alias {
  readonly parent: DirInode
  readonly name: string
}

export class Inode {
  nlookup = 0
  /** Where the object is on the upper layer; null while it is only below, or when it has lost its last known name. */
  upper: Real | null = null
  /** Where its data and attributes come from while it has no upper; kept after copy-up (origin). */
  lower: Real | null = null
  /** The merged directory and the name by which it is known; null for the root and for what has no name any more. */
  parent: DirInode | null = null
  name = ''
  /** Names beyond the first (hard links of one upper inode). */
  aliases: Alias[] | null = null
  /** An O_PATH descriptor of an upper object that can be reached by no name: unlinked while in use, or O_TMPFILE. */
  orphan: Fd | null = null
  /** The copy-up under way, to be waited for. */
  copyUp: Promise<void> | null = null
  /** Key in the table of upper hard links, while it is there. */
  linkKey: string | null = null
  /** Names in the view of a lower hard link (index=on), or of its copy; 0 where the real object's count is right. */
  links = 0
  /** Where the data is while the topmost object has metadata only (metacopy); null where it has its own. */
  data: Real | null = null
  /** What the kernel was told of a lower file, 0 nothing yet, and the largest size that it may believe in: changes.ts. */
  stamp = 0
  most = 0
  /** A lower file that its name stands for no longer, while the kernel may use it. */
  held: Fd | null = null
  /** The kernel may not know where the file ends: it had changed. */
  endless = false
  /** Where the journal has it; 0: nowhere. */
  slot = 0
  /** Known from a predecessor's journal alone: its real objects are not looked up yet (recover.ts). */
  recovered = false

  constructor(
    readonly nodeid: number,
    /** S_IF* bits: an object never changes its type. */
    readonly type: number,
    /** st_ino as the view shows it. */
    public ino: number,
  ) {}

  isDir(): this is DirInode {
    return false
  }

  /** True once its last name is gone. */
  get nameless(): boolean {
    return this.parent === null
  }
}

export class DirInode extends Inode {
  override upper: DirReal | null = null
  /** The directories that merge below upper, top first. Empty for a pure upper directory. */
  lowers: DirReal[] = []
  private readonly known = new Map<string, Inode>()
  /** The table, while what a predecessor knew in here is not read yet. */
  unread: InodeTable | null = null
  /** The merged listing while it is known; kept exact by every change. */
  listing: Listing | null = null
  /** Attributes of what was looked up in here before it was asked for; read-ahead.ts says when they are true. */
  ahead: Map<string, Stat> | null = null
  /** The watches on its lower directories (lower=live). */
  watches: number[] | null = null
  /** How many names in here were asked for, and how many files below opened to be read; see names.ts. */
  asked = 0
  opened = 0
  /** The order of a predecessor's listing, '' for gaps, until one is made here. */
  oldOrder: string[] | null = null

  override isDir(): this is DirInode {
    return true
  }

  /** The inodes in here that the kernel, or a child of theirs, refers to. */
  get children(): Map<string, Inode> {
    if (this.unread !== null) this.unread.recallIn(this)
    return this.known
  }

  /** Without reading what else a predecessor knew in here. */
  recalled(name: string, inode: Inode): void {
    this.known.set(name, inode)
  }

  /** Whether anything from a lower layer can show in here. */
  get merges(): boolean {
    return this.lowers.length > 0
  }
}

export const ROOT_ID = 1

export class InodeTable {
  private readonly byId = new Map<number, Inode>()
  /** Upper objects with several links, by real inode number: their names are one inode. */
  private readonly byLink = new Map<string, Inode>()
  /** Who shows a number that is not its object's own, by that number. */
  private readonly borrowers = new Map<number, Inode>()
  /** The number of the newest inode; once the kernel is there, it counts on, too. */
  private newest: Float64Array = Float64Array.of(ROOT_ID)
  /** Who keeps what is here for a successor, if anybody. */
  journal: Journal | null = null
  /** What a daemon before this one knew, while some of it has not been asked for. */
  private before: Predecessor | null = null

  constructor(
    readonly root: DirInode,
    private readonly onDrop: (inode: Inode) => void,
  ) {
    this.byId.set(ROOT_ID, root)
    root.nlookup = 1
  }

  get size(): number {
    return this.byId.size + (this.before?.left ?? 0)
  }

  get(nodeid: number): Inode | undefined {
    const inode = this.byId.get(nodeid)
    return inode === undefined && this.before !== null ? this.recall(this.before.take(nodeid)) : inode
  }

  /** Makes the inode of an object that the kernel does not know yet. Its nlookup is 0 until a reply carries it. */
  create(type: number, ino: number): Inode {
    const nodeid = (this.newest[0] as number) + 1
    this.newest[0] = nodeid
    this.journal?.issued(nodeid)
    return this.put(nodeid, type, ino)
  }

  /** Goes on with what a predecessor knew; while the table is empty. */
  goOn(before: Predecessor): void {
    this.before = before
    this.root.unread = this
  }

  /** Reads some more of that. False when nothing is left. */
  recallSome(count: number): boolean {
    if (this.before === null) return false
    const some = this.before.some(count)
    for (const nodeid of some) this.get(nodeid)
    if (some.length === 0) this.before = null
    return some.length > 0
  }

  /** What is known in that directory. */
  recallIn(dir: DirInode): void {
    dir.unread = null
    for (const nodeid of this.before?.childrenOf(dir.nodeid) ?? []) this.get(nodeid)
  }

  /** With all above it: those first get their place in the table, then their names, so that the depth of the tree is no matter. */
  private recall(known: KnownInode | undefined): Inode | undefined {
    if (known === undefined) return undefined
    const inode = this.recallOne(known)
    const named = [{ inode, names: known.names }]
    for (const { inode: child, names } of named) {
      for (const { parent: parentId, name } of names) {
        let parent = this.byId.get(parentId)
        if (parent === undefined) {
          const above = this.before?.take(parentId)
          if (above === undefined) continue
          parent = this.recallOne(above)
          named.push({ inode: parent, names: above.names })
        }
        if (!parent.isDir()) continue
        parent.recalled(name, child)
        giveName(child, parent, name)
      }
    }
    return inode
  }

  private recallOne({ nodeid, type, ino, nlookup, slot }: KnownInode): Inode {
    const inode = this.put(nodeid, type, ino)
    inode.recovered = true
    inode.nlookup = nlookup
    inode.slot = slot
    if (inode.isDir()) inode.unread = this
    return inode
  }

  /** No number up to this one is given out again. */
  usedUp(nodeid: number): void {
    this.newest[0] = Math.max(this.newest[0] as number, nodeid)
  }

  /** Counts there from now on. */
  countIn(newest: Float64Array): void {
    newest[0] = Math.max(newest[0] as number, this.newest[0] as number)
    this.newest = newest
  }

  /** An inode that the kernel was told of already, and the journal as well. */
  issued({ nodeid, type, ino, name, references, slot }: Issued, dir: DirInode): Inode {
    const inode = this.put(nodeid, type, ino)
    inode.nlookup = references
    inode.slot = slot
    dir.children.set(name, inode)
    giveName(inode, dir, name)
    return inode
  }

  private put(nodeid: number, type: number, ino: number): Inode {
    const inode = type === sys.S_IFDIR ? new DirInode(nodeid, type, ino) : new Inode(nodeid, type, ino)
    this.byId.set(nodeid, inode)
    return inode
  }

  addName(inode: Inode, parent: DirInode, name: string): void {
    parent.children.set(name, inode)
    giveName(inode, parent, name)
    this.journal?.named(inode, parent, name)
  }

  /** Takes a name away. A further known name, if any, becomes the first one. */
  removeName(inode: Inode, parent: DirInode, name: string): void {
    if (parent.children.get(name) === inode) parent.children.delete(name)
    if (inode.parent === parent && inode.name === name) {
      const next = inode.aliases?.shift()
      inode.parent = next?.parent ?? null
      inode.name = next?.name ?? ''
    } else if (inode.aliases !== null) {
      inode.aliases = inode.aliases.filter(alias => alias.parent !== parent || alias.name !== name)
    }
    if (inode.aliases?.length === 0) inode.aliases = null
    this.journal?.unnamed(inode, parent, name)
    this.dropIfUnused(parent)
  }

  isBorrowed(ino: number): boolean {
    return this.borrowers.has(ino)
  }

  /** `inode` shows the number of another object, as long as it is known. */
  borrow(inode: Inode): void {
    this.borrowers.set(inode.ino, inode)
  }

  findLink(key: string): Inode | undefined {
    return this.byLink.get(key)
  }

  setLink(inode: Inode, key: string): void {
    if (inode.linkKey === key) return
    this.clearLink(inode)
    inode.linkKey = key
    this.byLink.set(key, inode)
    this.journal?.linked(inode)
  }

  clearLink(inode: Inode): void {
    if (inode.linkKey === null) return
    this.byLink.delete(inode.linkKey)
    inode.linkKey = null
  }

  /** The kernel gave back `count` references. */
  forget(inode: Inode, count: number): void {
    inode.nlookup = Math.max(0, inode.nlookup - count)
    this.journal?.forgot(inode)
    this.dropIfUnused(inode)
  }

  /**
   * Forgets an inode that neither the kernel nor a child refers to. FORGETs arrive in any order, so a directory may be
   * forgotten by the kernel before its children are: it then waits for them.
   */
  dropIfUnused(inode: Inode): void {
    for (let at: Inode | null = inode; at !== null && at !== this.root;) {
      if (at.nlookup > 0 || at.copyUp !== null || (at.isDir() && at.children.size > 0)) return
      if (!this.byId.delete(at.nodeid)) return
      this.journal?.dropped(at)
      this.clearLink(at)
      if (this.borrowers.size > 0 && this.borrowers.get(at.ino) === at) this.borrowers.delete(at.ino)
      const parent: DirInode | null = at.parent
      if (parent !== null && parent.children.get(at.name) === at) parent.children.delete(at.name)
      const others = at.aliases
      at.aliases = null
      this.onDrop(at)
      for (const alias of others ?? []) {
        if (alias.parent.children.get(alias.name) === at) alias.parent.children.delete(alias.name)
        if (alias.parent !== parent) this.dropIfUnused(alias.parent)
      }
      at = parent
    }
  }

  *all(): Iterable<Inode> {
    while (this.recallSome(Infinity));
    yield* this.byId.values()
  }

  /** Those that are here: what a predecessor knew and nobody has asked for yet is in no state that matters. */
  *asked(): Iterable<Inode> {
    yield* this.byId.values()
  }
}

function giveName(inode: Inode, parent: DirInode, name: string): void {
  if (inode.parent === null) {
    inode.parent = parent
    inode.name = name
  } else {
    ;(inode.aliases ??= []).push({ parent, name })
  }
}
