/**
 * The journal's records: appended to one half of the memory, and rewritten into the other when most of them are out of date.
 *
 * A record has a head of 48 bytes and a text, together a multiple of 8:
 *
 *     u32  kind; DEAD is set in place when its object is gone, BELOW while upper certainly has none of it
 *     u32  bytes, head included
 *     u32  sum over everything but the words that change in place (kind, nlookup, ino)
 *     u32  nlookup   changes in place
 *     f64  ino       changes in place
 *     f64  nodeid
 *     f64  other: a parent's nodeid, or a number
 *     u32  a small number
 *     u32  bytes of the text, latin1
 *
 * It counts from the moment when the half's tail lies behind it.
 */
import { journalWriter, type JournalAppend } from '../../sys/index.js'
import { AT, FIRST_REFERENCE, type StateMemory } from './memory.js'

export const KIND = {
  /** Inode `nodeid` of type `small`, named `text` in `other` (0: it has no name). */
  inode: 1,
  named: 2,
  unnamed: 3,
  /** Its key in the table of hard links is `text`; '' none. */
  linked: 4,
  /** It is, without a name, `text` on layer `other`; `small` 0 the object, 1 its data. */
  below: 5,
  /**
   * Open handles: `other` passthrough, `small` cached; `text`, with commas: the backing id, how many may write, unique of the request
   * that made it so (0: none), the handle that it opened, or with a minus closed.
   */
  opens: 6,
  /** The listing of directory `nodeid`: names with NUL between them, an empty one for a gap. */
  listing: 7,
  listed: 8,
  unlisted: 9,
  unlist: 10,
  /**
   * A request of a predecessor's whose answer may be lost: `nodeid` its unique, `small` bits of SETTLED, `text` its references,
   * `other` the inode that it opened.
   */
  settled: 11,
  /** Of all of those nothing is open any more. */
  answered: 12,
  /** io=passthrough: bits of `nodeid` that a write may have taken; `other` 0: none any more. */
  suspect: 13,
} as const

export type Kind = (typeof KIND)[keyof typeof KIND]

const DEAD = 0x8000_0000
const BELOW = 0x4000_0000
const HEAD = 48
/** Word indices in the head. */
const W = { kind: 0, bytes: 1, sum: 2, nlookup: 3, text: 11, small: 10 } as const
/** Indices of 8 byte words. */
const D = { ino: 2, nodeid: 3, other: 4 } as const

/** The journal is rewritten when it is longer than this, and more than half of it is waste. */
const SMALLEST = 1 << 20
/** Word indices in the keeper's page. */
const TAILS = AT.tails >>> 2
const WASTE = AT.waste >>> 2

export class JournalLog {
  private half: number
  private base: number
  /** For each half: stores of native/journal.cc. */
  private readonly writers: readonly [JournalAppend, JournalAppend]
  /** Gives the record's slot: its place in this half, never 0; or 0 when the memory is full. */
  append: JournalAppend

  constructor(private readonly memory: StateMemory) {
    this.half = memory.u32(AT.half) & 1
    this.base = memory.half(this.half)
    const writer = (half: number): JournalAppend =>
      journalWriter(
        memory.bytes.buffer,
        memory.half(half),
        memory.halfBytes,
        { tail: AT.tails + half * 4, waste: AT.waste, lost: AT.lost },
        KIND.inode,
      )
    this.writers = [writer(0), writer(1)]
    this.append = this.writers[this.half as 0 | 1]
  }

  /** Bytes used, from `base`. */
  private get tail(): number {
    return this.memory.u32(AT.tails + this.half * 4)
  }

  setNlookup(slot: number, nlookup: number): void {
    this.memory.words[((this.base + slot) >>> 2) + W.nlookup] = nlookup
  }

  setIno(slot: number, ino: number): void {
    this.memory.doubles[((this.base + slot) >>> 3) + D.ino] = ino
  }

  setBelow(slot: number, below: boolean): void {
    const { words } = this.memory
    const word = (this.base + slot) >>> 2
    const kind = words[word + W.kind] as number
    words[word + W.kind] = below ? kind | BELOW : kind & ~BELOW
  }

  isBelow(slot: number): boolean {
    return ((this.memory.words[(this.base + slot) >>> 2] as number) & BELOW) !== 0
  }

  kill(slot: number): void {
    const { words } = this.memory
    const word = (this.base + slot) >>> 2
    words[word + W.kind] = (words[word + W.kind] as number) | DEAD
    words[WASTE] = (words[WASTE] as number) + (words[word + W.bytes] as number)
  }

  /** More than half of it may say nothing any more. Inodes that only become more never make it so. */
  get worn(): boolean {
    const { words } = this.memory
    const tail = words[TAILS + this.half] as number
    return tail > SMALLEST && (words[WASTE] as number) * 2 > tail
  }

  get size(): number {
    return this.tail
  }

  /** Writes the journal anew into the other half; it counts when `write` has returned. Gives the range that may be freed. */
  rewrite(write: () => void): { offset: number; length: number } {
    const old = { offset: this.base, length: this.tail }
    const { memory } = this
    this.half = 1 - this.half
    this.base = memory.half(this.half)
    this.append = this.writers[this.half as 0 | 1]
    memory.setU32(AT.tails + this.half * 4, 0)
    write()
    memory.setU32(AT.half, this.half)
    // A death before this leaves too much of it: then the journal is written anew sooner than need be.
    memory.setU32(AT.waste, 0)
    return old
  }

  /** Every record in order. @throws Error for one that is not what was written: the memory is damaged */
  check(each: (slot: number) => void): void {
    const { memory, base, tail } = this
    const { words } = memory
    if (tail > memory.halfBytes) throw new Error('the recovery state is damaged: its tail')
    for (let slot = 8; slot < tail;) {
      const word = (base + slot) >>> 2
      const size = words[word + W.bytes] as number
      const length = words[word + W.text] as number
      const sound =
        size >= HEAD && size % 8 === 0 && slot + size <= tail && ((HEAD + length + 7) & ~7) === size
      if (!sound || sumOf(words, word, size) !== words[word + W.sum])
        throw new Error(`the recovery state is damaged: record at ${slot} of ${tail}`)
      each(slot)
      slot += size
    }
  }

  /** Makes every sum right, as far as the lengths are: for tests of what comes behind that. */
  seal(): void {
    const { words } = this.memory
    for (let slot = 8; slot < this.tail;) {
      const word = (this.base + slot) >>> 2
      const size = words[word + W.bytes] as number
      if (size < HEAD || size % 8 !== 0 || slot + size > this.tail) return
      words[word + W.sum] = sumOf(words, word, size)
      slot += size
    }
  }

  /** 0 for an inode that is dead. */
  kindAt(slot: number): Kind | 0 {
    const raw = this.memory.words[(this.base + slot) >>> 2] as number
    return raw >= DEAD ? 0 : ((raw & ~BELOW) as Kind)
  }

  nlookupAt(slot: number): number {
    return this.memory.words[((this.base + slot) >>> 2) + W.nlookup] as number
  }

  inoAt(slot: number): number {
    return this.memory.doubles[((this.base + slot) >>> 3) + D.ino] as number
  }

  nodeidAt(slot: number): number {
    return this.memory.doubles[((this.base + slot) >>> 3) + D.nodeid] as number
  }

  otherAt(slot: number): number {
    return this.memory.doubles[((this.base + slot) >>> 3) + D.other] as number
  }

  smallAt(slot: number): number {
    return this.memory.words[((this.base + slot) >>> 2) + W.small] as number
  }

  textAt(slot: number): string {
    const at = this.base + slot
    const length = this.memory.words[(at >>> 2) + W.text] as number
    return this.memory.bytes.toString('latin1', at + HEAD, at + HEAD + length)
  }
}

function sumOf(words: Uint32Array, at: number, size: number): number {
  let hash = size ^ ((words[at] as number) & ~(DEAD | BELOW))
  const end = at + (size >>> 2)
  for (let i = at + 6; i < end; i++) {
    hash = Math.imul(hash ^ (words[i] as number), 0x9e3779b1)
    hash ^= hash >>> 15
  }
  return hash >>> 0
}

/** Where native code finds what it writes for an inode that is made without JavaScript: native/journal.h, IssueJournal. */
export function issuePlaces(memory: StateMemory): Uint32Array {
  const half = (which: number): number[] => [memory.half(which), AT.tails + which * 4]
  const { waste, lost, lastId, forgotten, serving, references, said, request, saidTime } = AT
  return Uint32Array.of(
    ...[...half(0), ...half(1), memory.halfBytes, waste, lost, KIND.inode, AT.half],
    ...[lastId, forgotten, serving, references, said, request, FIRST_REFERENCE * 8, saidTime],
  )
}
