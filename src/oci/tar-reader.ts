import { toUtf8 } from '../base/bytes.js'
import { asBuffer, OciError } from './error.js'
import { resolveEntry, type SparseMap } from './tar-entry.js'
import * as f from './tar-format.js'
import type { Extent, RawHeader, TarEntry } from './tar-format.js'

/** Told what is in an archive, synchronously and in order. A buffer is valid only during the call. */
export interface TarHandler {
  /**
   * A new entry. `store`: its data comes through `data`. `skip`: its data is only counted and goes to `raw`.
   * Data of a sparse file is its extents one after the other.
   */
  entry(entry: TarEntry): 'store' | 'skip'
  data(chunk: Buffer): void
  /** The entry's data is complete. */
  entryEnd(): void
  /** Everything of the archive that is not given to `data`, for an exact copy of it. */
  raw?(bytes: Buffer): void
}

type State =
  | 'header'
  | 'meta' // data of a pax header or GNU long name
  | 'sparse-extension' // old GNU: more of the map in blocks after the header
  | 'sparse-map' // pax 1.0: the map in front of the data
  | 'data'
  | 'padding'
  | 'zero' // one zero block seen
  | 'end'

/** An old GNU sparse file whose map goes on in more blocks. */
interface ExtendedSparse {
  readonly header: RawHeader
  readonly extents: Extent[]
  readonly realSize: number
}

/** A pax 1.0 sparse file whose map is being read. */
interface FrontMap {
  readonly entry: TarEntry
  readonly realSize: number
  /** Bytes of map and data that are still to come. */
  left: number
  /** Digits of a number that a block's end cut in two. */
  text: string
  /** Numbers in the map; -1 until its first line is read. */
  wanted: number
  readonly numbers: number[]
}

/**
 * Tar framing as a push parser: `write` chunks of any size, then `finish`. Bounded memory: one block, one pax header
 * (maxMetaSize), one sparse map.
 */
export class TarReader {
  #state: State = 'header'
  /** Bytes of a block that is not complete yet. */
  readonly #partial = Buffer.alloc(f.blockSize)
  #partialLength = 0
  /** Bytes left of data, meta or padding. */
  #left = 0
  #padding = 0
  #deliver: 'store' | 'skip' = 'skip'
  #metaType = ''
  #meta: Buffer[] = []
  readonly #global = new Map<string, Buffer>()
  #local: [string, Buffer][] = []
  #longName: string | undefined
  #longLink: string | undefined
  #extended: ExtendedSparse | undefined
  #frontMap: FrontMap | undefined
  #entries = 0
  #offset = 0

  constructor(readonly handler: TarHandler) {}

  /** Entries seen. */
  get entries(): number {
    return this.#entries
  }

  /** Bytes of the current entry's data that are still to come; 0 outside of data. */
  get dataLeft(): number {
    return this.#state === 'data' ? this.#left : 0
  }

  /** Steps over the rest of the entry's data, which a seekable source need not read. The handler sees none of it. */
  skipData(): void {
    if (this.#state !== 'data') return
    this.#offset += this.#left
    this.#left = 0
    this.#complete()
  }

  /** @throws OciError `malformed`, `unsupported`, `limit`; and whatever the handler throws */
  write(bytes: Uint8Array): void {
    let chunk = asBuffer(bytes)
    this.#offset += chunk.length
    while (chunk.length > 0) {
      switch (this.#state) {
        case 'data':
        case 'meta':
        case 'padding': {
          const taken = chunk.subarray(0, Math.min(this.#left, chunk.length))
          chunk = chunk.subarray(taken.length)
          this.#left -= taken.length
          this.#take(taken)
          if (this.#left === 0) this.#complete()
          break
        }
        case 'end':
          this.handler.raw?.(chunk)
          return
        default: {
          let block: Buffer
          if (this.#partialLength === 0 && chunk.length >= f.blockSize) {
            block = chunk.subarray(0, f.blockSize)
            chunk = chunk.subarray(f.blockSize)
          } else {
            const taken = chunk.subarray(0, f.blockSize - this.#partialLength)
            this.#partial.set(taken, this.#partialLength)
            this.#partialLength += taken.length
            chunk = chunk.subarray(taken.length)
            if (this.#partialLength < f.blockSize) return
            this.#partialLength = 0
            block = this.#partial
          }
          this.handler.raw?.(block)
          this.#block(block)
        }
      }
    }
  }

  /** @throws OciError `truncated` when the archive ends inside an entry */
  finish(): void {
    // An archive without the two zero blocks is accepted at an entry's end, as tar, Go and docker do.
    const clean = this.#state === 'header' || this.#state === 'zero' || this.#state === 'end'
    const pending = this.#local.length > 0 || this.#longName !== undefined || this.#longLink !== undefined
    if (!clean || this.#partialLength > 0 || pending) {
      throw new OciError(
        'truncated',
        `tar: the archive ends in the middle of an entry, after ${this.#offset} bytes`,
      )
    }
  }

  #take(bytes: Buffer): void {
    if (this.#state === 'data' && this.#deliver === 'store') this.handler.data(bytes)
    else {
      this.handler.raw?.(bytes)
      if (this.#state === 'meta') this.#meta.push(Buffer.from(bytes))
    }
  }

  #complete(): void {
    if (this.#state === 'data') this.handler.entryEnd()
    else if (this.#state === 'meta') this.#metaComplete()
    this.#state = 'header'
    if (this.#padding > 0) {
      this.#left = this.#padding
      this.#padding = 0
      this.#state = 'padding'
    }
  }

  #block(block: Buffer): void {
    switch (this.#state) {
      case 'zero':
        if (!f.isZeroBlock(block)) throw new OciError('malformed', 'tar: data after a zero block')
        this.#state = 'end'
        return
      case 'sparse-extension': {
        const { header, extents, realSize } = this.#extended as ExtendedSparse
        if (f.parseGnuSparseExtension(block, extents)) return
        this.#extended = undefined
        this.#startEntry(header, { extents, realSize })
        return
      }
      case 'sparse-map':
        this.#sparseMapBlock(block)
        return
      default:
        this.#header(block)
    }
  }

  #header(block: Buffer): void {
    if (block[0] === 0 && f.isZeroBlock(block)) {
      this.#state = 'zero'
      return
    }
    const header = f.parseHeader(block)
    switch (header.typeflag) {
      case 'x':
      case 'X': // Solaris
      case 'g':
      case 'L':
      case 'K':
        this.#startMeta(header)
        return
      case 'V': // GNU volume label
        if (header.size < 0) throw negativeSize()
        this.#startData('skip', header.size, undefined)
        return
      case 'S': {
        const { extents, extended, realSize } = f.parseGnuSparseHeader(block)
        if (extended) {
          this.#extended = { header, extents, realSize }
          this.#state = 'sparse-extension'
        } else this.#startEntry(header, { extents, realSize })
        return
      }
      default:
        this.#startEntry(header)
    }
  }

  #startMeta(header: RawHeader): void {
    if (header.size < 0) throw negativeSize()
    if (header.size > f.maxMetaSize)
      throw new OciError('limit', `tar: an extended header of ${header.size} bytes`)
    this.#metaType = header.typeflag
    this.#meta = []
    this.#left = header.size
    this.#padding = paddingOf(header.size)
    this.#state = 'meta'
    if (header.size === 0) this.#complete()
  }

  #metaComplete(): void {
    const data = this.#meta.length === 1 ? (this.#meta[0] as Buffer) : Buffer.concat(this.#meta)
    this.#meta = []
    switch (this.#metaType) {
      case 'L':
        this.#longName = cutAtNul(data)
        return
      case 'K':
        this.#longLink = cutAtNul(data)
        return
      case 'g':
        this.#setGlobal(f.parsePax(data))
        return
      default:
        this.#local = f.parsePax(data)
    }
  }

  /** They stay, and are looked at for every entry: few and small. */
  #setGlobal(records: readonly [key: string, value: Buffer][]): void {
    for (const [key, value] of records) {
      if (value.length === 0) this.#global.delete(key)
      else this.#global.set(key, Buffer.from(value))
    }
    let bytes = 0
    for (const [key, value] of this.#global) bytes += key.length + value.length
    if (this.#global.size > maxGlobalRecords || bytes > f.maxMetaSize)
      throw new OciError('limit', 'tar: too many global pax records')
  }

  #startEntry(header: RawHeader, gnuMap?: SparseMap): void {
    const over = { longName: this.#longName, longLink: this.#longLink, pax: this.#takePax() }
    this.#longName = undefined
    this.#longLink = undefined
    const { entry, stored, sparse } = resolveEntry(header, over, gnuMap)
    if (sparse === undefined) {
      const deliver = this.#begin(entry)
      this.#startData(entry.type === 'file' ? deliver : 'skip', stored, entry)
    } else if (sparse.extents !== undefined) {
      this.#beginSparse(entry, sparse.extents, stored, sparse.realSize)
    } else {
      if (stored < f.blockSize) throw new OciError('malformed', 'tar: a sparse file without a map')
      this.#frontMap = { entry, realSize: sparse.realSize, left: stored, text: '', wanted: -1, numbers: [] }
      this.#state = 'sparse-map'
    }
  }

  #beginSparse(entry: TarEntry, extents: Extent[], dataSize: number, realSize: number): void {
    if (realSize < 0) throw new OciError('malformed', 'tar: a sparse file has a negative size')
    if (f.checkExtents(extents, realSize) !== dataSize) {
      throw new OciError(
        'malformed',
        `tar: the map of sparse file '${toUtf8(entry.path)}' does not fit its data`,
      )
    }
    entry.size = realSize
    entry.sparse = extents
    this.#startData(this.#begin(entry), dataSize, entry)
  }

  /** pax 1.0: decimal numbers, one a line: how many, then offset and length of each; padded to a block. */
  #sparseMapBlock(block: Buffer): void {
    const map = this.#frontMap as FrontMap
    map.left -= f.blockSize
    for (let from = 0; map.numbers.length !== map.wanted;) {
      const newline = block.indexOf(0x0a, from)
      map.text += block.toString('latin1', from, newline === -1 ? block.length : newline)
      if (newline === -1) {
        if (map.text.length <= 32 && map.left >= f.blockSize) return
        throw new OciError('malformed', 'tar: the map of a sparse file is damaged')
      }
      const value = f.parsePaxNumber(map.text, 'sparse map')
      map.text = ''
      from = newline + 1
      if (map.wanted !== -1) map.numbers.push(value)
      else if (value >= 0 && value <= f.maxSparseExtents) map.wanted = value * 2
      else throw new OciError('limit', 'tar: a sparse file has too many parts')
    }
    const extents: Extent[] = []
    for (let i = 0; i < map.wanted; i += 2)
      extents.push({ offset: map.numbers[i] as number, length: map.numbers[i + 1] as number })
    this.#frontMap = undefined
    this.#beginSparse(map.entry, extents, map.left, map.realSize)
  }

  /** Local records over global ones. */
  #takePax(): ReadonlyMap<string, Buffer> {
    if (this.#local.length === 0 && this.#global.size === 0) return noPax
    const pax = new Map(this.#global)
    const extents: number[] = []
    for (const [key, value] of this.#local) {
      // 0.0 repeats these two keys, once for each part
      if (key === 'GNU.sparse.offset' || key === 'GNU.sparse.numbytes') {
        if ((extents.length % 2 === 0) !== (key === 'GNU.sparse.offset'))
          throw new OciError('malformed', 'tar: the map of a sparse file is damaged')
        extents.push(f.parsePaxNumber(value.toString('latin1'), key))
      } else if (value.length === 0 && !mayBeEmpty.test(key)) pax.delete(key)
      else pax.set(key, value)
    }
    if (extents.length > 0) pax.set('GNU.sparse.map', Buffer.from(extents.join(',')))
    this.#local = []
    return pax
  }

  #begin(entry: TarEntry): 'store' | 'skip' {
    this.#entries++
    return this.handler.entry(entry)
  }

  #startData(deliver: 'store' | 'skip', size: number, entry: TarEntry | undefined): void {
    this.#deliver = deliver
    this.#left = size
    this.#padding = paddingOf(size)
    this.#state = size > 0 ? 'data' : 'header'
    if (size > 0) {
      if (entry === undefined) this.#state = 'padding' // nobody is told of its end
    } else if (entry !== undefined) this.handler.entryEnd()
  }
}

const maxGlobalRecords = 1000

/** Elsewhere an empty record takes an earlier one away: an attribute may be empty, and so may the map of a file that is one hole. */
const mayBeEmpty = /^(?:GNU\.sparse\.map$|SCHILY\.xattr\.|LIBARCHIVE\.xattr\.)/

const noPax: ReadonlyMap<string, Buffer> = new Map()

function negativeSize(): OciError {
  return new OciError('malformed', 'tar: an entry has a negative size')
}

function paddingOf(size: number): number {
  const over = size % f.blockSize
  return over === 0 ? 0 : f.blockSize - over
}

function cutAtNul(data: Buffer): string {
  const nul = data.indexOf(0)
  return data.toString('latin1', 0, nul === -1 ? data.length : nul)
}
