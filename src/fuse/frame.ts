/**
 * Memory of one message: the same bytes as a Buffer (names, data) and as words (everything else: structs are aligned).
 * FUSE is host-endian; a 64-bit field is two words, of which `LOW` is the low one.
 */
import { endianness } from 'node:os'

export const LOW = endianness() === 'LE' ? 0 : 1
export const HIGH = 1 - LOW

const TWO_32 = 0x1_0000_0000

export class Frame {
  readonly bytes: Buffer
  readonly words: Uint32Array
  readonly signed: Int32Array
  readonly halves: Uint16Array

  constructor(memory: ArrayBuffer) {
    this.bytes = Buffer.from(memory)
    const whole = memory.byteLength & ~3
    this.words = new Uint32Array(memory, 0, whole >>> 2)
    this.signed = new Int32Array(memory, 0, whole >>> 2)
    this.halves = new Uint16Array(memory, 0, whole >>> 1)
  }

  /** A frame of its own with the first `length` bytes of this one. */
  copy(length: number): Frame {
    const memory = new ArrayBuffer((length + 7) & ~7)
    const copy = new Frame(memory)
    this.bytes.copy(copy.bytes, 0, 0, length)
    return copy
  }

  // Reads and writes at byte offsets, which the caller has checked. Inlined by the JIT.

  u16(at: number): number {
    return this.halves[at >>> 1] as number
  }

  u32(at: number): number {
    return this.words[at >>> 2] as number
  }

  /** Exact below 2^53; larger ones are rounded, and stay larger: whoever reads an offset or a length checks. */
  u64(at: number): number {
    const word = at >>> 2
    return (this.words[word + HIGH] as number) * TWO_32 + (this.words[word + LOW] as number)
  }

  s64(at: number): number {
    const word = at >>> 2
    return (this.signed[word + HIGH] as number) * TWO_32 + (this.words[word + LOW] as number)
  }

  low(at: number): number {
    return this.words[(at >>> 2) + LOW] as number
  }

  high(at: number): number {
    return this.words[(at >>> 2) + HIGH] as number
  }

  setU16(at: number, value: number): void {
    this.halves[at >>> 1] = value
  }

  setU32(at: number, value: number): void {
    this.words[at >>> 2] = value
  }

  /** Any integer of up to 53 bits, negative ones in two's complement. */
  set64(at: number, value: number): void {
    const word = at >>> 2
    this.words[word + LOW] = value
    this.words[word + HIGH] = value >= 0 && value < TWO_32 ? 0 : Math.floor(value / TWO_32)
  }

  setHighLow(at: number, high: number, low: number): void {
    const word = at >>> 2
    this.words[word + LOW] = low
    this.words[word + HIGH] = high
  }
}
