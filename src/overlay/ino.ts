/**
 * st_ino of the merged view: one device for everything, so the filesystem an object lies on has to go into the number.
 *
 * All layers on one filesystem: the real numbers. Several: the index of the filesystem in the highest of 53 bits (what
 * JavaScript, and every 64-bit off_t program, holds exactly), as the kernel's xino does in the highest of 64. A number
 * that does not fit is folded by a hash of filesystem and number: the same object always gives the same result.
 */
import type { Stat } from '../sys/index.js'

const TOTAL_BITS = 53

export interface InoOptions {
  /** Devices of the layers' roots. */
  readonly devices: readonly number[]
  readonly xino: 'off' | 'auto' | 'on'
  /** Numbers of at most 32 bits, for programs with a 32-bit ino_t. */
  readonly ino32: boolean
}

/** Of one filesystem: numbers below `limit` are shown as `base` more. */
interface Range {
  readonly index: number
  readonly base: number
  readonly limit: number
}

export class InoMap {
  private readonly filesystems = new Map<number, Range>()
  private readonly indexBits: number
  private readonly ino32: boolean
  private readonly compose: boolean

  constructor(options: InoOptions) {
    const devices = new Set(options.devices)
    // A mount inside a layer may bring a filesystem that the roots do not show: leave room for some.
    this.indexBits = devices.size === 1 ? 0 : Math.max(4, Math.ceil(Math.log2(devices.size + 1)) + 1)
    this.compose = options.xino !== 'off'
    this.ino32 = options.ino32
    for (const dev of devices) this.filesystem(dev)
  }

  /** The first filesystem has index 0, so that its numbers are the real ones. */
  private filesystem(dev: number): Range {
    let found = this.filesystems.get(dev)
    if (found === undefined) {
      const index = this.filesystems.size
      const unit = 2 ** (TOTAL_BITS - this.indexBits)
      const fits = index === 0 || (this.compose && index < 2 ** this.indexBits)
      found = { index, base: index * unit, limit: fits ? unit : 0 }
      this.filesystems.set(dev, found)
    }
    return found
  }

  shown(stat: Pick<Stat, 'dev' | 'inoHi' | 'inoLo'>): number {
    return this.shownOf(stat.dev, stat.inoHi, stat.inoLo)
  }

  /** For an entry of a listing: `ino` as the directory gave it, exact below 2^53. */
  shownEntry(dev: number, ino: number): number {
    return this.shownOf(dev, Math.floor(ino / 2 ** 32), ino >>> 0)
  }

  /** Numbers of this filesystem below `limit` are shown as `base` more; what is not is for {@link shown}. */
  range(dev: number): { base: number; limit: number } {
    const { base, limit } = this.filesystem(dev)
    return { base, limit: this.ino32 ? Math.min(limit, Math.max(0, 2 ** 32 - base)) : limit }
  }

  private shownOf(dev: number, hi: number, lo: number): number {
    const { index, base, limit } = this.filesystem(dev)
    const value = hi * 2 ** 32 + lo
    const ino = value < limit ? base + value : fold(index, hi, lo)
    return this.ino32 && ino > 0xffffffff ? foldTo32(ino) : ino
  }
}

/** A 53-bit hash, never 0 and never a number of the first filesystem's usual range. */
function fold(index: number, hi: number, lo: number): number {
  const a = mix(lo ^ Math.imul(index + 1, 0x9e3779b1), hi)
  const b = mix(hi ^ 0x85ebca6b, lo ^ Math.imul(index + 1, 0xc2b2ae35))
  return 2 ** 52 + (a & 0xfffff) * 2 ** 32 + b
}

function foldTo32(ino: number): number {
  return mix(Math.floor(ino / 2 ** 32), ino >>> 0) || 1
}

function mix(a: number, b: number): number {
  let h = Math.imul(a ^ (a >>> 16), 0x45d9f3b) ^ Math.imul(b ^ (b >>> 15), 0x2c1b3c6d)
  h = Math.imul(h ^ (h >>> 13), 0x297a2d39)
  h = Math.imul(h ^ (h >>> 16), 0x45d9f3b)
  return (h ^ (h >>> 16)) >>> 0
}
