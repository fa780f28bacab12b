import { asBuffer, OciError } from './error.js'
import * as f from './tar-format.js'
import type { Extent, RawHeader, TarEntry, TarType } from './tar-format.js'

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

interface PendingSparse {
  header: RawHeader
  extents: Extent[]
  realSize: number
  /** Digits of a number that a block's end cut in two. */
  text: string
  /** Numbers in the map; -1 until its first line is read. */
  wanted: number
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
  /** The entry whose sparse map is still being read. */
  #sparse: PendingSparse | undefined
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
        const sparse = this.#sparse as PendingSparse
        if (f.parseGnuSparseExtension(block, sparse.extents)) return
        this.#startSparse(sparse.header, sparse.extents, sparse.realSize, sparse.header.size)
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
    if (header.size < 0) throw new OciError('malformed', 'tar: an entry has a negative size')
    switch (header.typeflag) {
      case 'x':
      case 'X': // Solaris
      case 'g':
      case 'L':
      case 'K':
        this.#startMeta(header)
        return
      case 'V': // GNU volume label
        this.#startData('skip', header.size, undefined)
        return
      case 'S': {
        this.#applyLongNames(header)
        const { extents, extended, realSize } = f.parseGnuSparseHeader(block)
        const size = this.#paxNumber('size') ?? header.size
        header.size = size
        if (extended) {
          this.#sparse = { header, extents, realSize, text: '', wanted: 0 }
          this.#state = 'sparse-extension'
        } else this.#startSparse(header, extents, realSize, size)
        return
      }
      default:
        this.#applyLongNames(header)
        this.#startEntry(header)
    }
  }

  #startMeta(header: RawHeader): void {
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
        for (const [key, value] of f.parsePax(data)) {
          if (value.length === 0) this.#global.delete(key)
          else this.#global.set(key, value)
        }
        if (this.#global.size > 10_000) throw new OciError('limit', 'tar: too many global pax records')
        return
      default:
        this.#local = f.parsePax(data)
    }
  }

  #applyLongNames(header: RawHeader): void {
    if (this.#longName !== undefined) header.name = this.#longName
    if (this.#longLink !== undefined) header.linkName = this.#longLink
    this.#longName = undefined
    this.#longLink = undefined
  }

  #paxNumber(key: string): number | undefined {
    let value = this.#global.get(key)
    for (const [k, v] of this.#local) if (k === key) value = v.length === 0 ? undefined : v
    return value === undefined ? undefined : f.parsePaxNumber(value.toString('latin1'), key)
  }

  /** Local records over global ones over the header. */
  #startEntry(header: RawHeader): void {
    const pax = this.#takePax()
    const type = typeOf(header)
    if (type === undefined) {
      throw new OciError('unsupported', `tar: entry '${header.name}' has unknown type '${header.typeflag}'`)
    }
    const entry = makeEntry(type, header, pax)
    const size = pax.has('size') ? f.parsePaxNumber(paxText(pax, 'size'), 'size') : header.size
    if (size < 0) throw new OciError('malformed', 'tar: an entry has a negative size')
    const sparse = type === 'file' ? sparseOf(pax) : undefined
    if (header.typeflag === 'D') {
      // GNU incremental: a directory whose data lists its files; only the directory is wanted
      this.#begin(entry)
      this.#deliver = 'skip'
      this.#startData('skip', size, entry)
    } else if (sparse === '1.0') {
      const realSize = f.parsePaxNumber(paxText(pax, 'GNU.sparse.realsize'), 'GNU.sparse.realsize')
      this.#sparse = { header: { ...header, size }, extents: [], realSize, text: '', wanted: -1 }
      this.#sparsePax = pax
      this.#state = 'sparse-map'
      if (size < f.blockSize) throw new OciError('malformed', 'tar: a sparse file without a map')
    } else if (sparse !== undefined) {
      this.#beginSparse(
        entry,
        sparse,
        size,
        f.parsePaxNumber(paxText(pax, 'GNU.sparse.size'), 'GNU.sparse.size'),
      )
    } else {
      entry.size = type === 'file' ? size : 0
      // Of links, devices, directories and fifos the size field is noise: no data follows. (Go's isHeaderOnlyType.)
      this.#startData(this.#begin(entry), entry.size, entry)
    }
  }

  #sparsePax = new Map<string, Buffer>()

  #startSparse(header: RawHeader, extents: Extent[], realSize: number, size: number): void {
    this.#sparse = undefined
    this.#beginSparse(makeEntry('file', header, this.#takePax()), extents, size, realSize)
  }

  #beginSparse(entry: TarEntry, extents: Extent[], dataSize: number, realSize: number): void {
    if (realSize < 0) throw new OciError('malformed', 'tar: a sparse file has a negative size')
    if (f.checkExtents(extents, realSize) !== dataSize) {
      throw new OciError('malformed', `tar: the map of sparse file '${entry.path}' does not fit its data`)
    }
    entry.size = realSize
    entry.sparse = extents
    this.#startData(this.#begin(entry), dataSize, entry)
  }

  /** pax 1.0: decimal numbers, one a line: how many, then offset and length of each; padded to a block. */
  #sparseMapBlock(block: Buffer): void {
    const sparse = this.#sparse as PendingSparse
    sparse.header.size -= f.blockSize
    let from = 0
    const numbers: number[] = []
    for (;;) {
      const newline = block.indexOf(0x0a, from)
      if (newline === -1) break
      const digits = sparse.text + block.toString('latin1', from, newline)
      sparse.text = ''
      from = newline + 1
      const value = f.parsePaxNumber(digits, 'sparse map')
      if (sparse.wanted === -1) {
        if (value < 0 || value > f.maxSparseExtents)
          throw new OciError('limit', 'tar: a sparse file has too many parts')
        sparse.wanted = value * 2
      } else numbers.push(value)
      if (sparse.wanted === this.#mapNumbers.length + numbers.length) break
    }
    this.#mapNumbers.push(...numbers)
    if (sparse.wanted === -1 || this.#mapNumbers.length < sparse.wanted) {
      sparse.text += block.toString('latin1', from)
      if (sparse.text.length > 32 || sparse.header.size < f.blockSize) {
        throw new OciError('malformed', 'tar: the map of a sparse file is damaged')
      }
      return
    }
    for (let i = 0; i < sparse.wanted; i += 2) {
      sparse.extents.push({
        offset: this.#mapNumbers[i] as number,
        length: this.#mapNumbers[i + 1] as number,
      })
    }
    this.#mapNumbers = []
    this.#sparse = undefined
    this.#beginSparse(
      makeEntry('file', sparse.header, this.#sparsePax),
      sparse.extents,
      sparse.header.size,
      sparse.realSize,
    )
  }

  #mapNumbers: number[] = []

  #takePax(): Map<string, Buffer> {
    if (this.#local.length === 0 && this.#global.size === 0) return noPax
    const pax = new Map(this.#global)
    const extents: string[] = []
    for (const [key, value] of this.#local) {
      // 0.0 repeats these two keys, once for each part
      if (key === 'GNU.sparse.offset' || key === 'GNU.sparse.numbytes') extents.push(value.toString('latin1'))
      // empty means: take it away; but an attribute may be empty, and so may the map of a file that is one hole
      else if (value.length === 0 && key !== 'GNU.sparse.map' && !key.startsWith('SCHILY.xattr.'))
        pax.delete(key)
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

const noPax = new Map<string, Buffer>()

function paddingOf(size: number): number {
  const over = size % f.blockSize
  return over === 0 ? 0 : f.blockSize - over
}

function cutAtNul(data: Buffer): string {
  const nul = data.indexOf(0)
  return data.toString('latin1', 0, nul === -1 ? data.length : nul)
}

function paxText(pax: Map<string, Buffer>, key: string): string {
  return pax.get(key)?.toString('latin1') ?? ''
}

function typeOf(header: RawHeader): TarType | undefined {
  switch (header.typeflag) {
    case '\0':
    case '0':
    case '7':
      // V7 had no directories: a name that ends in a slash is one
      return header.name.endsWith('/') ? 'directory' : 'file'
    case '1':
      return 'link'
    case '2':
      return 'symlink'
    case '3':
      return 'char'
    case '4':
      return 'block'
    case '5':
    case 'D':
      return 'directory'
    case '6':
      return 'fifo'
    case 'S':
      return 'file'
    default:
      return undefined
  }
}

function sparseOf(pax: Map<string, Buffer>): Extent[] | '1.0' | undefined {
  if (paxText(pax, 'GNU.sparse.major') === '1' && paxText(pax, 'GNU.sparse.minor') === '0') return '1.0'
  const map = pax.get('GNU.sparse.map')
  if (map === undefined) return undefined
  const numbers = map.length === 0 ? [] : map.toString('latin1').split(',')
  if (numbers.length % 2 !== 0) throw new OciError('malformed', 'tar: the map of a sparse file is damaged')
  if (numbers.length > 2 * f.maxSparseExtents)
    throw new OciError('limit', 'tar: a sparse file has too many parts')
  const extents: Extent[] = []
  for (let i = 0; i < numbers.length; i += 2) {
    extents.push({
      offset: f.parsePaxNumber(numbers[i] as string, 'sparse map'),
      length: f.parsePaxNumber(numbers[i + 1] as string, 'sparse map'),
    })
  }
  return extents
}

function makeEntry(type: TarType, header: RawHeader, pax: Map<string, Buffer>): TarEntry {
  const entry: TarEntry = {
    type,
    path: header.name,
    linkPath: header.linkName,
    mode: header.mode,
    uid: header.uid,
    gid: header.gid,
    size: header.size,
    mtime: header.mtime,
    mtimeNsec: 0,
    devMajor: header.devMajor,
    devMinor: header.devMinor,
    xattrs: undefined,
    acls: undefined,
    sparse: undefined,
  }
  for (const [key, value] of pax) applyPax(entry, key, value)
  const sparseName = pax.get('GNU.sparse.name')
  if (sparseName !== undefined) entry.path = sparseName.toString('latin1')
  if (entry.path.includes('\0') || entry.linkPath.includes('\0'))
    throw new OciError('malformed', 'tar: a name has a NUL byte')
  return entry
}

function applyPax(entry: TarEntry, key: string, value: Buffer): void {
  switch (key) {
    case 'path':
      entry.path = value.toString('latin1')
      return
    case 'linkpath':
      entry.linkPath = value.toString('latin1')
      return
    case 'uid':
    case 'gid':
      entry[key] = f.parsePaxNumber(value.toString('latin1'), key)
      return
    case 'mtime':
      ;[entry.mtime, entry.mtimeNsec] = f.parsePaxTime(value.toString('latin1'))
      return
    case 'SCHILY.acl.access':
      entry.acls = { ...entry.acls, access: value.toString('latin1') }
      return
    case 'SCHILY.acl.default':
      entry.acls = { ...entry.acls, default: value.toString('latin1') }
      return
  }
  if (key.startsWith('SCHILY.xattr.')) {
    entry.xattrs ??= new Map()
    // GNU tar escapes these two in names
    const name = key
      .slice('SCHILY.xattr.'.length)
      .replace(/%(3D|25)/g, (_, hex) => (hex === '25' ? '%' : '='))
    entry.xattrs.set(name, Buffer.from(value))
  } else if (key.startsWith('LIBARCHIVE.xattr.')) {
    // bsdtar writes both; this one is base64 with a percent-encoded name
    const name = key
      .slice('LIBARCHIVE.xattr.'.length)
      .replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) => String.fromCharCode(parseInt(hex, 16)))
    entry.xattrs ??= new Map()
    if (!entry.xattrs.has(name)) entry.xattrs.set(name, Buffer.from(value.toString('latin1'), 'base64'))
  }
}
