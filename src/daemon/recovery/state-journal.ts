/**
 * The journal of one mount, over the shared memory: what the overlay says of its objects, and the dispatcher of its requests.
 *
 * Every object has one record, in which its count of references is kept in place; names that come and go are further records. The
 * request being served is in the keeper's page, with the references that its answer gives away: a successor that gets the same request
 * again takes them back, since that answer was lost (begin).
 */
import * as sys from '../../sys/index.js'
import { isChange, type Frame, type RequestJournal, type Settled } from '../../fuse/index.js'
import type { DirInode, Identity, Inode, Journal, OpenFacts, Real } from '../../overlay/index.js'
import { type JournalLog, KIND } from './journal-log.js'
import {
  AT,
  FIRST_REFERENCE,
  FORGOTTEN_ALL,
  REFERENCE_ROOM,
  REQUEST_ROOM,
  SAID,
  type StateMemory,
} from './memory.js'
import type { Shelf } from './shelf.js'

/** Of a settled request; the handle that it opened is shifted by `handle`. */
export const SETTLED = { done: 1, before: 2, notBefore: 4, handle: 3 } as const

/** A predecessor's request whose answer may be lost. */
export interface Outstanding {
  flags: number
  /** What its answer would have given to the kernel. */
  references: number[]
  /** io=passthrough: the inode that it opened, and was counted for; 0 none. */
  opened: number
}

/** How what a lost answer would have given away is taken back. */
export interface TakeBack {
  /** References that the kernel has to it. */
  count(nodeid: number): number
  forget(nodeid: number): void
  release(nodeid: number, handle: number): void
}

/** Marks a `unique` that was sent before (FUSE_UNIQUE_RESEND). */
const RESENT = 0x8000_0000
const HEADER_WORDS = 10
/** Indices of words: what is stored for every request. */
const WORD = {
  forgotten: AT.forgotten >>> 2,
  forgettingHi: AT.forgettingHi >>> 2,
  forgettingLo: AT.forgettingLo >>> 2,
  leaves0: AT.leaves[0] >>> 2,
  leaves1: AT.leaves[1] >>> 2,
  serving: AT.serving >>> 2,
  references: AT.references >>> 2,
  said: AT.said >>> 2,
  request: AT.request >>> 2,
} as const
/** Indices of 8 byte words. */
const LAST_ID = AT.lastId >>> 3
const SAID_TIME = AT.saidTime >>> 3
const UNIQUE = 8
const PAGE = 4096

export class StateJournal implements Journal, RequestJournal {
  private readonly opened = new Map<Inode, OpenFacts>()
  private takingBack = false
  private readonly suspected = new Map<Inode, number>()

  constructor(
    private readonly memory: StateMemory,
    private readonly log: JournalLog,
    private readonly shelf: Shelf,
    private readonly inodes: () => Iterable<Inode>,
    private readonly takeBack: TakeBack,
    /** By unique, without the mark of being sent again. */
    readonly outstanding = new Map<number, Outstanding>(),
  ) {}

  /** What is in the journal of a predecessor's already. */
  adopt(opened: ReadonlyMap<Inode, OpenFacts>, suspected: ReadonlyMap<Inode, number>): void {
    for (const [inode, facts] of opened) this.opened.set(inode, facts)
    for (const [inode, bits] of suspected) this.suspected.set(inode, bits)
  }

  // ---- requests

  begin(frame: Frame, length: number, op: number): Settled | undefined {
    const { memory } = this
    if (this.log.worn) this.rewrite()
    const high = frame.high(UNIQUE)
    const settled = this.outstanding.size > 0 ? this.settledOf(high, frame.low(UNIQUE)) : undefined
    // Most requests are over before these lines are compiled, and until then each call costs more than what it does: so, and
    // below, words are stored here and not by a method.
    const { words } = memory
    // A FORGET before this one is carried out, also when its frame is still the last one that was read.
    words[WORD.forgotten] = FORGOTTEN_ALL
    words[WORD.serving] = 0
    const to = WORD.request
    const count = isChange(op) ? Math.min(length + 3, REQUEST_ROOM) >>> 2 : HEADER_WORDS
    const from = frame.words
    for (let i = 0; i < count; i++) words[to + i] = from[i] as number
    words[WORD.references] = 0
    words[WORD.said] = 0
    words[WORD.serving] = 1
    return settled
  }

  changed(): void {
    this.memory.words[WORD.said] = 0
  }

  beginForget(frame: Frame): void {
    const { words } = this.memory
    // Whatever was served before is answered.
    words[WORD.references] = 0
    // Of another one nothing is done yet, whichever of the words is written when this process dies.
    words[WORD.forgotten] = 0
    words[WORD.forgettingHi] = frame.high(UNIQUE)
    words[WORD.forgettingLo] = frame.low(UNIQUE)
  }

  /** Said before it is done, with what it comes to: so it can be done twice. */
  forgetting(index: number, nodeid: number, count: number): void {
    const { words } = this.memory
    const left = this.takeBack.count(nodeid) - count
    words[(index & 1) === 0 ? WORD.leaves0 : WORD.leaves1] = left < 0 ? 0 : left
    words[WORD.forgotten] = index + 1
  }

  /**
   * The kernel sends what was not answered before everything else. A first request that is new says that the others were answered.
   */
  private settledOf(high: number, low: number): Settled | undefined {
    if (high < RESENT) {
      this.log.append(KIND.answered, 0, 0, 0, '')
      this.outstanding.clear()
      return undefined
    }
    const unique = (high - RESENT) * 2 ** 32 + low
    const found = this.outstanding.get(unique)
    if (found === undefined) return undefined
    const { references, opened, flags } = found
    if (references.length > 0 || opened !== 0) {
      // Struck off first: dying in between leaves them counted, which is harmless; taken back twice they would not be.
      found.references = []
      found.opened = 0
      this.settled(unique, found)
      this.takingBack = true
      if (opened !== 0) this.takeBack.release(opened, flags >>> SETTLED.handle)
      this.takingBack = false
      for (const nodeid of references) this.takeBack.forget(nodeid)
    }
    const before =
      (flags & SETTLED.before) !== 0 ? true : (flags & SETTLED.notBefore) !== 0 ? false : undefined
    return { done: (flags & SETTLED.done) !== 0, before }
  }

  settled(unique: number, { flags, references, opened }: Outstanding): void {
    this.log.append(KIND.settled, unique, opened, flags, references.join(','))
  }

  changing(moved?: Identity, before?: boolean): void {
    const { memory } = this
    let said: number = SAID.changing
    memory.doubles[SAID_TIME] = Date.now()
    if (moved !== undefined) {
      memory.setDouble(AT.movedDev, moved.dev)
      memory.setU32(AT.movedHi, moved.inoHi)
      memory.setU32(AT.movedLo, moved.inoLo)
      said |= SAID.moved
    }
    if (before !== undefined) said |= before ? SAID.before : SAID.notBefore
    memory.words[WORD.said] = said
  }

  // ---- objects

  issued(nodeid: number): void {
    this.memory.doubles[LAST_ID] = nodeid
  }

  named(inode: Inode, parent: DirInode, name: string): void {
    // An inode that the kernel has not seen before: in one call, since most of them come before this is compiled.
    if (inode.slot === 0) {
      inode.slot = this.log.append(
        KIND.inode,
        inode.nodeid,
        parent.nodeid,
        inode.type >>> 12,
        name,
        inode.nlookup,
        inode.ino,
      )
      if (inode.upper === null && inode.lower !== null) this.log.setBelow(inode.slot, true)
    } else this.log.append(KIND.named, inode.nodeid, parent.nodeid, 0, name)
  }

  private add(inode: Inode, parent: number, name: string): void {
    const { nodeid, type, nlookup, ino } = inode
    inode.slot = this.log.append(KIND.inode, nodeid, parent, type >>> 12, name, nlookup, ino)
    // Of one that was not looked up yet nobody knows.
    if (inode.upper === null && inode.lower !== null) this.log.setBelow(inode.slot, true)
  }

  unnamed(inode: Inode, parent: DirInode, name: string): void {
    // The last step of an exchange: without this it would look as if it had not begun.
    if (name === '') this.memory.setU32(AT.said, this.memory.u32(AT.said) | SAID.complete)
    this.log.append(KIND.unnamed, inode.nodeid, parent.nodeid, 0, name)
  }

  counted(inode: Inode): void {
    const { nodeid, nlookup, slot } = inode
    const { words, doubles } = this.memory
    // First the list: a count without an entry in it could not be taken back. An entry without a count is told by its total.
    const count = words[WORD.references] as number
    if (count < REFERENCE_ROOM) {
      const at = FIRST_REFERENCE + count * 2
      doubles[at] = nodeid
      doubles[at + 1] = nlookup
      words[WORD.references] = count + 1
    }
    if (slot === 0) this.add(inode, 0, '')
    else this.log.setNlookup(slot, nlookup)
  }

  forgot(inode: Inode): void {
    if (inode.slot !== 0) this.log.setNlookup(inode.slot, inode.nlookup)
  }

  dropped(inode: Inode): void {
    if (this.opened.size > 0) this.opened.delete(inode)
    if (this.suspected.size > 0) this.suspected.delete(inode)
    if (inode.slot === 0) return
    this.log.kill(inode.slot)
    inode.slot = 0
  }

  raising(inode: Inode): void {
    if (inode.slot !== 0) this.log.setBelow(inode.slot, false)
  }

  isOnlyBelow(inode: Inode): boolean {
    return inode.slot !== 0 && this.log.isBelow(inode.slot)
  }

  linked(inode: Inode): void {
    this.log.append(KIND.linked, inode.nodeid, 0, 0, inode.linkKey ?? '')
  }

  renumbered(inode: Inode): void {
    if (inode.slot !== 0) this.log.setIno(inode.slot, inode.ino)
  }

  hold(inode: Inode, fd: number): void {
    this.shelf.put(inode.nodeid, fd)
  }

  unhold(inode: Inode, fd: number): void {
    this.shelf.drop(inode.nodeid, fd)
  }

  below(inode: Inode): void {
    const lower = inode.isDir() ? inode.lowers[0] : inode.lower
    if (inode.upper === null && lower != null) this.addBelow(inode, lower, 0)
    if (inode.data !== null) this.addBelow(inode, inode.data, 1)
  }

  private addBelow(inode: Inode, real: Real, what: 0 | 1): void {
    this.log.append(KIND.below, inode.nodeid, real.layer.index, what, real.path())
  }

  notified(nodeid: number): void {
    this.memory.notice(nodeid)
  }

  opens(inode: Inode, facts: OpenFacts, change: number): void {
    if (facts.cached <= 0 && facts.passthrough <= 0) this.opened.delete(inode)
    else this.opened.set(inode, facts)
    const { memory } = this
    const unique = this.takingBack || memory.u32(AT.serving) === 0 ? 0 : memory.unique()
    // Before the record: a successor closes what comes after it.
    if (facts.backingId > memory.u32(AT.lastBacking)) memory.setU32(AT.lastBacking, facts.backingId)
    this.addOpens(inode, facts, unique, change)
  }

  suspects(inode: Inode, bits: number | undefined): void {
    if (bits === undefined) this.suspected.delete(inode)
    else this.suspected.set(inode, bits)
    this.log.append(KIND.suspect, inode.nodeid, bits === undefined ? 0 : 1, bits ?? 0, '')
  }

  private addOpens(inode: Inode, facts: OpenFacts, unique: number, change: number): void {
    const { cached, passthrough, writers, backingId } = facts
    const text = `${backingId},${writers},${unique},${change}`
    this.log.append(KIND.opens, inode.nodeid, passthrough, Math.max(0, cached), text)
  }

  // ---- listings

  listing(dir: DirInode, names: readonly (string | undefined)[]): void {
    // What is undefined is empty in it.
    this.log.append(KIND.listing, dir.nodeid, 0, 0, names.join('\0'))
  }

  listed(dir: DirInode, name: string): void {
    this.log.append(KIND.listed, dir.nodeid, 0, 0, name)
  }

  unlisted(dir: DirInode, name: string): void {
    this.log.append(KIND.unlisted, dir.nodeid, 0, 0, name)
  }

  unlist(dir: DirInode): void {
    this.log.append(KIND.unlist, dir.nodeid, 0, 0, '')
  }

  // ---- length

  /** Writes down what there is, in place of how it came about. Between two requests: the tables agree with each other then. */
  rewrite(): void {
    // Before the other half is begun: what a predecessor knew and nobody has asked for yet is read from this one.
    const inodes = [...this.inodes()]
    const old = this.log.rewrite(() => {
      for (const [unique, request] of this.outstanding) this.settled(unique, request)
      for (const inode of inodes) this.rewriteInode(inode)
      for (const [inode, facts] of this.opened) this.addOpens(inode, facts, 0, 0)
      for (const [inode, bits] of this.suspected) this.suspects(inode, bits)
    })
    const length = (old.length + PAGE - 1) & -PAGE
    sys.fallocateSync(this.memory.fd, sys.FALLOC_FL_PUNCH_HOLE | sys.FALLOC_FL_KEEP_SIZE, old.offset, length)
  }

  private rewriteInode(inode: Inode): void {
    if (inode.slot !== 0) {
      this.add(inode, inode.parent?.nodeid ?? 0, inode.name)
      for (const alias of inode.aliases ?? [])
        this.log.append(KIND.named, inode.nodeid, alias.parent.nodeid, 0, alias.name)
      if (inode.linkKey !== null) this.linked(inode)
      if (inode.nameless && inode.orphan === null) this.below(inode)
      else if (inode.nameless && inode.data !== null) this.addBelow(inode, inode.data, 1)
    }
    if (!inode.isDir()) return
    if (inode.oldOrder !== null) this.listing(inode, inode.oldOrder)
    else if (inode.listing != null && inode.listing.kept !== null) this.listing(inode, inode.listing.names)
  }
}
