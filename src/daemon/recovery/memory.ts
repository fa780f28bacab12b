/**
 * The recovery state's memory: shared with the keeper, who holds it while no daemon lives, and with the daemon's successor.
 *
 *     0          the keeper's page: native/keeper/state.h has the offsets below 64, and that of the request
 *     4 KiB      references that the answer being made gives to the kernel (nodeid, and how many there are with it)
 *     128 KiB    the mount: one JSON text, written once
 *     2 MiB      the frame that JavaScript handles, or was handling (the channel's input)
 *     3.4 MiB    FORGETs that were read and JavaScript has not been told of (native/answers.h)
 *     3.5 MiB    descriptors that outlive the daemon (held-table.ts)
 *     4 MiB      the journal, two halves; one of them counts (journal-log.ts)
 *
 * Written by one thread, so a daemon that is killed leaves what it has stored up to an instruction. What consists of several words
 * counts when one word says so, which is written last.
 */
import { Frame, type KeptInput, writeBatchForget } from '../../fuse/index.js'
import { mapFile } from '../../sys/index.js'

export const MAGIC = 'LAMKEEP1'
/** Of everything in here. A daemon that finds another one does not start, and the keeper goes back to the one before. */
export const VERSION = 4

const SIZE = 512 << 20
const REFERENCES = 4096
const MOUNT = 128 << 10
const INPUT = 2 << 20
const FORGETS = 3520 << 10
const HELD = 3584 << 10
const JOURNAL = 4 << 20
/** Answers::kMostForgets. */
const MOST_FORGETS = 128
const HALF = (SIZE - JOURNAL) / 2

/** Byte offsets in the keeper's page. */
export const AT = {
  version: 8,
  beat: 12,
  deaths: 16,
  lastStatus: 20,
  lastDeath: 24,
  lastId: 32,
  half: 40,
  tails: 44,
  mountLength: 52,
  mountSum: 56,
  /** Not recoverable any more: the journal has run over. */
  lost: 60,
  /** 1 while the request at `request` is valid. */
  serving: 64,
  references: 68,
  /** What was announced of its change: bits of {@link SAID}. */
  said: 72,
  movedHi: 76,
  movedLo: 80,
  saidTime: 88,
  movedDev: 96,
  noticeCount: 104,
  /** How many entries of the FORGET with that `unique` were begun. */
  forgotten: 108,
  forgettingHi: 112,
  forgettingLo: 116,
  /** The count of references that the last entry begun, and the one before or behind it, leave: entry i is at [i & 1]. */
  leaves: [84, 124],
  /** The highest id of a backing file that is in the journal. */
  lastBacking: 120,
  /** The last nodeids of which the kernel was told to ask again. */
  notices: 128,
  /** How much of the journal may say nothing any more, bytes. */
  waste: 640,
  /** How many daemons have taken over. */
  generation: 644,
  request: 2048,
} as const

/** In `forgotten`: nothing of it is left. */
export const FORGOTTEN_ALL = 0xffff_ffff

export const NOTICES = 64
export const REQUEST_ROOM = 4096 - AT.request
/** Index of the first reference: two doubles each, a nodeid, and how many the kernel has to it with this one. */
export const FIRST_REFERENCE = REFERENCES >>> 3
/** More than a READDIRPLUS of 1 MiB has entries. */
export const REFERENCE_ROOM = (MOUNT - REFERENCES) / 16

/** Bits of `said`. */
export const SAID = { changing: 1, moved: 2, before: 4, notBefore: 8, complete: 16 } as const

export class StateMemory {
  readonly bytes: Buffer<ArrayBuffer>
  readonly words: Uint32Array<ArrayBuffer>
  readonly doubles: Float64Array
  readonly halfBytes = HALF

  constructor(readonly fd: number) {
    const memory = mapFile(fd, SIZE)
    this.bytes = Buffer.from(memory)
    this.words = new Uint32Array(memory)
    this.doubles = new Float64Array(memory)
  }

  /** Makes it a new state's. */
  begin(): void {
    this.words[AT.version >>> 2] = VERSION
    this.bytes.write(MAGIC, 0, 'latin1')
  }

  /** @throws Error when this is no state, or one of another version */
  check(): void {
    if (this.bytes.toString('latin1', 0, MAGIC.length) !== MAGIC || this.u32(AT.version) !== VERSION) {
      throw new Error(`the recovery state is not of version ${VERSION}: unmount, and mount with this program`)
    }
    if (this.u32(AT.lost) !== 0)
      throw new Error('the recovery state has run over: the mount cannot be taken over')
  }

  u32(at: number): number {
    return this.words[at >>> 2] as number
  }

  setU32(at: number, value: number): void {
    this.words[at >>> 2] = value
  }

  double(at: number): number {
    return this.doubles[at >>> 3] as number
  }

  setDouble(at: number, value: number): void {
    this.doubles[at >>> 3] = value
  }

  /** Where a half of the journal begins. */
  half(which: number): number {
    return JOURNAL + which * HALF
  }

  /** For the table of descriptors. */
  get held(): Buffer {
    return this.bytes.subarray(HELD, JOURNAL)
  }

  // ---- the mount

  writeMount(text: string): void {
    const bytes = Buffer.from(text)
    if (bytes.length > INPUT - MOUNT) throw new Error('the description of the mount is too long to be kept')
    bytes.copy(this.bytes, MOUNT)
    this.setU32(AT.mountSum, sum(bytes))
    this.setU32(AT.mountLength, bytes.length)
  }

  /** @throws Error when it is damaged */
  readMount(): string {
    const length = this.u32(AT.mountLength)
    if (length > INPUT - MOUNT) throw new Error('the recovery state is damaged: its length')
    const bytes = this.bytes.subarray(MOUNT, MOUNT + length)
    if (length === 0 || sum(bytes) !== this.u32(AT.mountSum))
      throw new Error('the recovery state is damaged: the description of the mount')
    return bytes.toString()
  }

  /** Of the request being served, or served last, without the mark of being sent again. */
  unique(): number {
    return (this.u32(AT.request + 12) & 0x7fff_ffff) * 2 ** 32 + this.u32(AT.request + 8)
  }

  // ---- the answer's references

  references(): { nodeid: number; total: number }[] {
    const count = Math.min(this.u32(AT.references), REFERENCE_ROOM)
    return Array.from({ length: count }, (_, i) => {
      const at = FIRST_REFERENCE + i * 2
      return { nodeid: this.doubles[at] as number, total: this.doubles[at + 1] as number }
    })
  }

  // ---- the frame

  /** For the channel. */
  get input(): Omit<KeptInput, 'issues'> {
    return { fd: this.fd, offset: INPUT, forgets: FORGETS, memory: this.words.buffer }
  }

  /** A copy of what the channel has read last for JavaScript. */
  frame(): Frame {
    const length = Math.min(this.u32(INPUT), FORGETS - INPUT)
    const memory = new ArrayBuffer((length + 47) & ~7)
    this.bytes.copy(Buffer.from(memory), 0, INPUT, INPUT + length)
    return new Frame(memory)
  }

  /** Whether the FORGET with that `unique` is among those that were taken in. */
  isTakenIn(high: number, low: number): boolean {
    const [stateLow, stateHigh] = [this.u32(FORGETS), this.u32(FORGETS + 4)]
    return (
      (stateLow & 0xffff) > 0 && stateLow >>> 16 === (low & 0xffff) && stateHigh === uniqueAbove16(high, low)
    )
  }

  /**
   * Makes a BATCH_FORGET of the FORGETs that were taken in, where the frame being handled is, as Answers::forgotten does: dying in
   * here leaves them in one of the two places. False: there are none.
   */
  bringForgets(): boolean {
    const [stateLow, stateHigh] = [this.u32(FORGETS), this.u32(FORGETS + 4)]
    const count = Math.min(stateLow & 0xffff, MOST_FORGETS)
    if (count === 0) return false
    const unique = { high: stateHigh >>> 16, low: ((stateHigh << 16) | (stateLow >>> 16)) >>> 0 }
    writeBatchForget(this, INPUT, FORGETS + 8, count, unique)
    this.setU32(FORGETS, 0)
    return true
  }

  /** How many entries of that FORGET are carried out. */
  forgottenOf(high: number, low: number): number {
    const same = this.u32(AT.forgettingHi) === high && this.u32(AT.forgettingLo) === low
    return same ? this.u32(AT.forgotten) : 0
  }

  /** So many entries of that FORGET are begun. */
  setForgetting(high: number, low: number, begun: number): void {
    if (this.forgottenOf(high, low) === 0) {
      this.setU32(AT.forgotten, 0)
      this.setU32(AT.forgettingHi, high)
      this.setU32(AT.forgettingLo, low)
    }
    this.setU32(AT.forgotten, begun)
  }

  // ---- notices

  notice(nodeid: number): void {
    const count = this.u32(AT.noticeCount)
    this.doubles[(AT.notices >>> 3) + (count % NOTICES)] = nodeid
    this.setU32(AT.noticeCount, count + 1)
  }

  notices(): number[] {
    const from = AT.notices >>> 3
    return [...this.doubles.subarray(from, from + Math.min(this.u32(AT.noticeCount), NOTICES))]
  }
}

/** Bits 16 to 47. */
function uniqueAbove16(high: number, low: number): number {
  return ((high << 16) | (low >>> 16)) >>> 0
}

function sum(bytes: Uint8Array): number {
  let hash = 0x811c9dc5
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193)
  return hash >>> 0
}
