import type { Random } from '../random.js'

const WORDS = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]

/** One to eight changes of an input, or a piece of another one in it. */
export function mutate(input: Buffer, others: readonly Buffer[], random: Random, longest: number): Buffer {
  let out = Buffer.from(input)
  for (let left = 1 << random.below(4); left > 0; left--) {
    const at = random.below(out.length + 1)
    switch (random.below(9)) {
      case 0:
        out = Buffer.from(out.subarray(0, at))
        break
      case 1:
        out = Buffer.concat([out.subarray(0, at), out.subarray(random.below(out.length + 1))])
        break
      case 2: {
        const other = random.pick(others)
        const from = random.below(other.length + 1)
        const piece = other.subarray(from, from + random.below(200))
        out = Buffer.concat([out.subarray(0, at), piece, out.subarray(at)])
        break
      }
      case 3: {
        const other = random.pick(others)
        other.copy(out, at, random.below(other.length + 1))
        break
      }
      case 4:
        if (at + 4 <= out.length) out.writeUInt32LE(random.pick(WORDS), at)
        break
      case 5:
        if (at + 2 <= out.length) out.writeUInt16LE(random.below(65_536), at)
        break
      case 6:
        if (at < out.length) out[at] = (out[at] as number) ^ (1 << random.below(8))
        break
      case 7:
        out = Buffer.concat([
          out.subarray(0, at),
          Buffer.alloc(random.below(20), random.below(256)),
          out.subarray(at),
        ])
        break
      default:
        if (at < out.length) out[at] = random.below(256)
    }
  }
  return out.subarray(0, longest)
}
