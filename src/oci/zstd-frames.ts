/**
 * Cuts a zstd stream into its frames. Node's decoder (22.15 to 24) stops silently after the first frame and, in 22, takes
 * a truncated one for complete; podman's zstd:chunked layers have a frame for every file.
 * Source: RFC 8878 3.1 (frames, skippable frames), 3.1.1.1 (frame header), 3.1.1.2 (blocks).
 */
import { asBuffer, OciError, type ByteSource } from './error.js'

const frameMagic = 0xfd2fb528
/** 0x184d2a50 to 0x184d2a5f. */
const skippableMagic = 0x184d2a50

type Step = 'magic' | 'descriptor' | 'header' | 'block' | 'body' | 'checksum' | 'skip-size' | 'skip-body'

export class ZstdFrames {
  readonly #source: AsyncIterator<Uint8Array>
  /** Bytes not given out yet. */
  #chunk: Buffer = Buffer.alloc(0)
  readonly #what: string

  constructor(source: ByteSource, what: string) {
    this.#source = source[Symbol.asyncIterator]()
    this.#what = what
  }

  /** Whether there is another frame to come. */
  async more(): Promise<boolean> {
    while (this.#chunk.length === 0) {
      const next = await this.#source.next()
      if (next.done === true) return false
      this.#chunk = asBuffer(next.value)
    }
    return true
  }

  /**
   * The bytes of one frame, to its end and no further; nothing for a skippable frame.
   * @throws OciError `truncated`, `malformed`
   */
  async *frame(): AsyncGenerator<Buffer, void, void> {
    let step: Step = 'magic'
    /** Of the current step: bytes still wanted, and those that came, where they matter. */
    let wanted = 4
    let field = Buffer.alloc(0)
    let hasChecksum = false
    let isLast = false
    let skippable = false
    const held: Buffer[] = []
    while (await this.more()) {
      // as many steps as the chunk has bytes for, then one piece
      let at = 0
      let done = false
      while (at < this.#chunk.length && !done) {
        const take = Math.min(wanted, this.#chunk.length - at)
        const matters = step !== 'body' && step !== 'skip-body' && step !== 'checksum' && step !== 'header'
        if (matters) field = Buffer.concat([field, this.#chunk.subarray(at, at + take)])
        at += take
        wanted -= take
        while (wanted === 0 && !done) {
          const value = field
          field = Buffer.alloc(0)
          switch (step) {
            case 'magic': {
              const magic = value.readUInt32LE(0)
              if (magic === frameMagic) [step, wanted] = ['descriptor', 1]
              else if ((magic & 0xfffffff0) >>> 0 === skippableMagic) {
                ;[step, wanted] = ['skip-size', 4]
                skippable = true
              } else throw new OciError('malformed', `${this.#what}: damaged compressed data (no zstd frame)`)
              break
            }
            case 'descriptor': {
              const descriptor = value[0] as number
              const single = (descriptor & 0x20) !== 0
              hasChecksum = (descriptor & 0x04) !== 0
              const dictionary = [0, 1, 2, 4][descriptor & 3] as number
              const size = [single ? 1 : 0, 2, 4, 8][descriptor >> 6] as number
              ;[step, wanted] = ['header', (single ? 0 : 1) + dictionary + size]
              break
            }
            case 'header':
              ;[step, wanted] = ['block', 3]
              break
            case 'block': {
              const header = value.readUIntLE(0, 3)
              isLast = (header & 1) !== 0
              const type = (header >> 1) & 3
              if (type === 3)
                throw new OciError('malformed', `${this.#what}: damaged compressed data (bad zstd block)`)
              // of a run only its one byte is stored
              ;[step, wanted] = ['body', type === 1 ? 1 : header >> 3]
              break
            }
            case 'body':
              if (!isLast) [step, wanted] = ['block', 3]
              else if (hasChecksum) [step, wanted] = ['checksum', 4]
              else done = true
              break
            case 'skip-size':
              ;[step, wanted] = ['skip-body', value.readUInt32LE(0)]
              break
            case 'checksum':
            case 'skip-body':
              done = true
          }
        }
      }
      const piece = this.#chunk.subarray(0, at)
      this.#chunk = this.#chunk.subarray(at)
      // until the magic is complete nobody knows whether this is to be given out
      if (step === 'magic') held.push(piece)
      else if (!skippable) {
        if (held.length > 0) yield Buffer.concat(held.splice(0))
        yield piece
      }
      if (done) return
    }
    throw new OciError('truncated', `${this.#what} ends in the middle of its compressed data`)
  }

  async close(): Promise<void> {
    await this.#source.return?.()
  }
}
