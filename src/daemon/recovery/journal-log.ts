/**
 * The journal's records: appended to one half of the memory, and rewritten into the other when most of them are out of date.
 *
 * A record has a head of 48 bytes and a text, together a multiple of 8:
 *
 *     u32  kind; DEAD is set in place when its object is gone
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
import { AT, type StateMemory } from './memory.js'

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
const HEAD = 48
/** Word indices in the head. */
const W = { kind: 0, bytes: 1, sum: 2, nlookup: 3, text: 11, small: 10 } as const
/** Indices of 8 byte words. */
const D = { ino: 2, nodeid: 3, other: 4 } as const

/** The journal is rewritten when it is longer than this, and more than half of it is waste. */
const SMALLEST = 1 << 20

export class JournalLog {
  private half: number
  private base: number
  /** Bytes used, from `base`. */
  private tail: number
  /**
   * Bytes of what may say nothing any more: inodes that are dead, and whatever else was appended since the journal was written last. So
   * a rewrite leaves half of the length at most, and inodes that only become more cause none. Dying in the midst of one leaves too
   * much of it, which is harmless.
   */
  private waste: number

  constructor(private readonly memory: StateMemory) {
    this.half = memory.u32(AT.half) & 1
    this.base = memory.half(this.half)
    this.tail = memory.u32(AT.tails + this.half * 4)
    // As the predecessor had it: counted from its death on, the journal would grow with every death.
    this.waste = memory.u32(AT.waste)
  }

  /** Gives the record's slot: its place in this half, never 0. */
  append(
    kind: Kind,
    nodeid: number,
    other: number,
    small: number,
    text: string,
    nlookup = 0,
    ino = 0,
  ): number {
    const { memory, base } = this
    const { words, doubles, bytes } = memory
    const length = text.length
    const size = (HEAD + length + 7) & ~7
    // Never 0, so that 0 can say "nowhere".
    if (this.tail === 0) this.tail = 8
    if (this.tail + size > memory.halfBytes) {
      memory.setU32(AT.lost, 1)
      return 0
    }
    const at = base + this.tail
    const word = at >>> 2
    doubles[(at + size - 8) >>> 3] = 0
    words[word + W.kind] = kind
    words[word + W.bytes] = size
    words[word + W.nlookup] = nlookup
    doubles[(at >>> 3) + D.ino] = ino
    doubles[(at >>> 3) + D.nodeid] = nodeid
    doubles[(at >>> 3) + D.other] = other
    words[word + W.small] = small
    words[word + W.text] = length
    const textAt = at + HEAD
    if (length > 24) bytes.write(text, textAt, 'latin1')
    else for (let i = 0; i < length; i++) bytes[textAt + i] = text.charCodeAt(i)
    words[word + W.sum] = sumOf(words, word, size)
    const slot = this.tail
    this.tail += size
    words[(AT.tails >>> 2) + this.half] = this.tail
    if (kind !== KIND.inode) words[AT.waste >>> 2] = this.waste += size
    return slot
  }

  setNlookup(slot: number, nlookup: number): void {
    this.memory.words[((this.base + slot) >>> 2) + W.nlookup] = nlookup
  }

  setIno(slot: number, ino: number): void {
    this.memory.doubles[((this.base + slot) >>> 3) + D.ino] = ino
  }

  kill(slot: number): void {
    const { words } = this.memory
    const word = (this.base + slot) >>> 2
    words[word + W.kind] = (words[word + W.kind] as number) | DEAD
    words[AT.waste >>> 2] = this.waste += words[word + W.bytes] as number
  }

  get worn(): boolean {
    return this.tail > SMALLEST && this.waste * 2 > this.tail
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
    this.tail = 0
    memory.setU32(AT.tails + this.half * 4, 0)
    write()
    memory.setU32(AT.half, this.half)
    this.waste = 0
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
    return raw >= DEAD ? 0 : (raw as Kind)
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
  let hash = size ^ ((words[at] as number) & ~DEAD)
  const end = at + (size >>> 2)
  for (let i = at + 6; i < end; i++) {
    hash = Math.imul(hash ^ (words[i] as number), 0x9e3779b1)
    hash ^= hash >>> 15
  }
  return hash >>> 0
}
