/**
 * How a layer leaves with the digest it came with: everything of its tar that is not file data (headers, pax records,
 * padding, order, what follows the end) is kept in a side file; file data is read from the layer directory.
 * The idea is github.com/vbatts/tar-split's; the format is our own, since ours also has to keep the data of entries
 * that a later entry of the same archive replaced.
 *
 * The side file: gzip members in any order, a gzip member with the index (JSON), and a footer
 * `u64 offset of the index, u32 its length, "LMSPLIT1"`, big endian.
 * Main members, in the index's order, hold records:
 *   1 u32 length, bytes                                     bytes of the archive
 *   2 u16 length, path, u64 size                            the file's data
 *   3 u16 length, path, u32 n, n times u64 offset, u64 len  the extents of a sparse file
 */
import { promisify } from 'node:util'
import * as zlib from 'node:zlib'
import { toUtf8 } from '../base/bytes.js'
import * as sys from '../sys/index.js'
import { Digester, parseDigest, type Digest } from './digest.js'
import { OciError } from './error.js'
import { asArray, asSize, asString, parseJsonObject } from './json.js'
import { LayerTree } from './layer-tree.js'
import { maxMetaSize, type Extent } from './tar-format.js'

const gzip = promisify<Buffer, zlib.ZlibOptions, Buffer>(zlib.gzip)
const gunzip = promisify<Buffer, zlib.ZlibOptions, Buffer>(zlib.gunzip)

const magic = 'LMSPLIT1'
const footerSize = 20
const blockSize = 256 * 1024
/** Bound of one unpacked member: a block, or one record with the largest sparse map. */
const maxMember = 32 << 20
const maxIndex = 256 << 20
const copySize = 1 << 20
/** Entries that a later one replaced: they are kept in memory, and in the index. Images have a handful. */
const maxOverrides = 1_000_000

const Op = { raw: 1, file: 2, sparse: 3 } as const

interface Member {
  offset: number
  length: number
}
/** The data that `path` had for records before number `before`. */
interface Override {
  path: string
  before: number
  blob: number
}

function readFully(fd: number, length: number, offset: number, what: string): Buffer {
  const buffer = Buffer.allocUnsafe(length)
  for (let at = 0; at < length;) {
    const n = sys.preadSync(fd, buffer, at, length - at, offset + at)
    if (n === 0) throw new OciError('truncated', `${what} is shorter than expected`)
    at += n
  }
  return buffer
}

export function writeFully(fd: number, bytes: Uint8Array, offset: number): void {
  for (let at = 0; at < bytes.length;) {
    at += sys.pwriteSync(fd, bytes, at, bytes.length - at, offset < 0 ? -1 : offset + at)
  }
}

/** Written by `applyTar` while a layer is unpacked. */
export class TarSplitRecorder {
  #block = Buffer.allocUnsafe(blockSize)
  #used = 0
  /** Where the length of the raw record at the block's end is, or -1. */
  #openRaw = -1
  #end = 0
  #records = 0
  readonly #main: Member[] = []
  readonly #blobs: Member[][] = []
  readonly #overrides: Override[] = []
  /** Inodes whose data is kept already, while they have other names. */
  readonly #kept = new Map<string, number>()
  #inFlight = 0
  #chain: Promise<void> = Promise.resolve()
  #failure: unknown

  /** `fd`: an empty file open for writing, which stays the caller's. */
  constructor(readonly fd: number) {}

  raw(bytes: Buffer): void {
    for (let at = 0; at < bytes.length;) {
      if (this.#openRaw === -1) {
        if (this.#block.length - this.#used < 64) this.#flush()
        this.#block[this.#used] = Op.raw
        this.#openRaw = this.#used + 1
        this.#block.writeUInt32BE(0, this.#openRaw)
        this.#used += 5
      }
      const take = Math.min(bytes.length - at, this.#block.length - this.#used)
      this.#block.set(bytes.subarray(at, at + take), this.#used)
      this.#used += take
      at += take
      this.#block.writeUInt32BE(this.#block.readUInt32BE(this.#openRaw) + take, this.#openRaw)
      if (this.#used === this.#block.length) this.#flush()
    }
  }

  /** The data of `path` comes here in the archive. */
  file(path: string, size: number, extents: readonly Extent[] | undefined): void {
    const length = 1 + 2 + path.length + (extents === undefined ? 8 : 4 + 16 * extents.length)
    if (this.#block.length - this.#used < length) this.#flush(length)
    this.#openRaw = -1
    const block = this.#block
    let at = this.#used
    block[at++] = extents === undefined ? Op.file : Op.sparse
    at = block.writeUInt16BE(path.length, at)
    at += block.write(path, at, 'latin1')
    if (extents === undefined) at = block.writeBigUInt64BE(BigInt(size), at)
    else {
      at = block.writeUInt32BE(extents.length, at)
      for (const { offset, length } of extents) {
        at = block.writeBigUInt64BE(BigInt(offset), at)
        at = block.writeBigUInt64BE(BigInt(length), at)
      }
    }
    this.#used = at
    this.#records++
  }

  /** Keeps the data of a regular file that is about to be replaced by a later entry. */
  supersede(dirFd: number, name: string, path: string): void {
    const stat = sys.statAt(dirFd, name)
    if (stat === undefined || !sys.S_ISREG(stat.mode) || stat.size === 0) return
    if (this.#overrides.length >= maxOverrides)
      throw new OciError('limit', `the archive replaces more than ${maxOverrides} files`)
    const key = `${stat.dev}:${stat.inoHi}:${stat.inoLo}`
    let blob = this.#kept.get(key)
    if (blob === undefined) {
      using file = sys.openat(dirFd, name, sys.O_RDONLY | sys.O_NOFOLLOW)
      const members: Member[] = []
      const buffer = Buffer.allocUnsafe(copySize)
      for (let at = 0; at < stat.size;) {
        const n = sys.preadSync(file.n, buffer, 0, buffer.length, at)
        if (n === 0) break
        members.push(this.#append(zlib.gzipSync(buffer.subarray(0, n), { level: 1 })))
        at += n
      }
      blob = this.#blobs.push(members) - 1
    }
    if (stat.nlink > 1) this.#kept.set(key, blob)
    else this.#kept.delete(key)
    this.#overrides.push({ path, before: this.#records, blob })
  }

  #append(packed: Buffer): Member {
    const member = { offset: this.#end, length: packed.length }
    this.#end += packed.length
    writeFully(this.fd, packed, member.offset)
    return member
  }

  #flush(atLeast = 0): void {
    if (this.#used > 0) {
      const packed = gzip(this.#block.subarray(0, this.#used), { level: 4 })
      this.#inFlight++
      this.#chain = this.#chain
        .then(async () => {
          this.#main.push(this.#append(await packed))
        })
        .catch((error: unknown) => {
          this.#failure ??= error
        })
        .finally(() => {
          this.#inFlight--
        })
      this.#block = Buffer.allocUnsafe(Math.max(blockSize, atLeast))
      this.#used = 0
    } else if (this.#block.length < atLeast) this.#block = Buffer.allocUnsafe(atLeast)
    this.#openRaw = -1
  }

  /** Waits while too much is queued; to be called between chunks. @throws SysError of a failed write */
  async drain(): Promise<void> {
    if (this.#inFlight > 4) await this.#chain
    if (this.#failure !== undefined) throw this.#failure
  }

  /** Completes the file. The caller syncs it if it wants to. */
  async finish(diffId: Digest, size: number): Promise<void> {
    this.#flush()
    await this.#chain
    if (this.#failure !== undefined) throw this.#failure
    const flat = (members: readonly Member[]) => members.flatMap(m => [m.offset, m.length])
    const index = {
      version: 1,
      diffId,
      size,
      main: flat(this.#main),
      blobs: this.#blobs.map(flat),
      overrides: this.#overrides.map(o => [o.path, o.before, o.blob]),
    }
    const { offset, length } = this.#append(await gzip(Buffer.from(JSON.stringify(index)), {}))
    const footer = Buffer.alloc(footerSize)
    footer.writeBigUInt64BE(BigInt(offset), 0)
    footer.writeUInt32BE(length, 8)
    footer.write(magic, 12, 'latin1')
    writeFully(this.fd, footer, this.#end)
  }
}

/** What `applyTar` calls; named as the issue names it. */
export function recordTarSplit(fd: number): TarSplitRecorder {
  return new TarSplitRecorder(fd)
}

export interface TarSplitInfo {
  diffId: Digest
  /** Bytes of the uncompressed tar. */
  size: number
}

interface SplitIndex extends TarSplitInfo {
  main: Member[]
  blobs: Member[][]
  overrides: Map<string, { before: number; blob: number }[]>
}

function readMembers(value: unknown, what: string): Member[] {
  const numbers = asArray(value, 1 << 24, what)
  const members: Member[] = []
  for (let i = 0; i < numbers.length; i += 2) {
    members.push({ offset: asSize(numbers[i], what), length: asSize(numbers[i + 1], what) })
  }
  return members
}

async function readIndex(fd: number): Promise<SplitIndex> {
  const what = 'tar-split file'
  const fileSize = sys.statFd(fd).size
  if (fileSize < footerSize) throw new OciError('truncated', `${what} is too short`)
  const footer = readFully(fd, footerSize, fileSize - footerSize, what)
  const offset = Number(footer.readBigUInt64BE(0))
  const length = footer.readUInt32BE(8)
  if (footer.toString('latin1', 12) !== magic || offset + length > fileSize) {
    throw new OciError('malformed', `${what} has no footer`)
  }
  const json = await unpack(readFully(fd, length, offset, what), maxIndex)
  const object = parseJsonObject(json, maxIndex, what)
  const overrides = new Map<string, { before: number; blob: number }[]>()
  for (const item of asArray(object['overrides'], 1 << 24, what)) {
    const [path, before, blob] = asArray(item, 3, what)
    const key = asString(path, what, 1 << 16)
    const list = overrides.get(key) ?? []
    list.push({ before: asSize(before, what), blob: asSize(blob, what) })
    overrides.set(key, list)
  }
  return {
    diffId: parseDigest(object['diffId'], what),
    size: asSize(object['size'], what),
    main: readMembers(object['main'], what),
    blobs: asArray(object['blobs'], 1 << 24, what).map(blob => readMembers(blob, what)),
    overrides,
  }
}

async function unpack(packed: Buffer, max: number): Promise<Buffer> {
  try {
    return await gunzip(packed, { maxOutputLength: max })
  } catch (error) {
    throw new OciError('malformed', 'tar-split file is damaged', { cause: error })
  }
}

/** diffID and size, without replaying. `fd`: the side file, open for reading. */
export async function readTarSplitInfo(fd: number): Promise<TarSplitInfo> {
  const { diffId, size } = await readIndex(fd)
  return { diffId, size }
}

/** Gathers small pieces into chunks of `blockSize`. */
class Gather {
  #buffer = Buffer.allocUnsafe(blockSize)
  #used = 0
  room(): number {
    return this.#buffer.length - this.#used
  }
  add(bytes: Uint8Array): void {
    this.#buffer.set(bytes, this.#used)
    this.#used += bytes.length
  }
  take(): Buffer | undefined {
    if (this.#used === 0) return undefined
    const full = this.#buffer.subarray(0, this.#used)
    this.#buffer = Buffer.allocUnsafe(blockSize)
    this.#used = 0
    return full
  }
}

/**
 * The layer's tar as it came, from its side file and its directory; verified: the last step throws when the bytes are
 * not those of the recorded diffID. `splitFd` and `rootFd` must stay open until the end.
 * @throws OciError `digest` when the layer was changed, `malformed` when the side file is damaged; SysError
 */
export async function* replayTarSplit(splitFd: number, rootFd: number): AsyncGenerator<Buffer, void, void> {
  const index = await readIndex(splitFd)
  const digester = new Digester()
  const tree = new LayerTree(rootFd)
  const gather = new Gather()
  const replay = new Replay(splitFd, index, tree)
  try {
    for (const member of index.main) {
      if (member.length > maxMember) throw new OciError('malformed', 'tar-split file is damaged')
      const block = await unpack(
        readFully(splitFd, member.length, member.offset, 'tar-split file'),
        maxMember,
      )
      for await (const piece of replay.records(block)) {
        if (piece.length > gather.room()) {
          const full = gather.take()
          if (full !== undefined) {
            digester.update(full)
            yield full
          }
        }
        if (piece.length > blockSize / 4) {
          const full = gather.take()
          if (full !== undefined) {
            digester.update(full)
            yield full
          }
          digester.update(piece)
          yield piece
        } else gather.add(piece)
      }
    }
    const last = gather.take()
    if (last !== undefined) digester.update(last)
    const actual = digester.digest()
    if (digester.size !== index.size || actual !== index.diffId) {
      throw new OciError('digest', `the layer no longer makes ${index.diffId}: its files were changed`)
    }
    if (last !== undefined) yield last
  } finally {
    tree.close()
  }
}

class Replay {
  #record = 0
  constructor(
    readonly splitFd: number,
    readonly index: SplitIndex,
    readonly tree: LayerTree,
  ) {}

  /** Pieces valid until the next one is asked for. */
  async *records(block: Buffer): AsyncGenerator<Buffer, void, void> {
    let at = 0
    const need = (n: number): number => {
      if (at + n > block.length) throw new OciError('malformed', 'tar-split file is damaged')
      at += n
      return at - n
    }
    while (at < block.length) {
      const op = block[need(1)]
      if (op === Op.raw) {
        const length = block.readUInt32BE(need(4))
        if (length > maxMetaSize + maxMember) throw new OciError('malformed', 'tar-split file is damaged')
        const start = need(length)
        for (let from = start; from < start + length; from += blockSize) {
          yield block.subarray(from, Math.min(from + blockSize, start + length))
        }
        continue
      }
      if (op !== Op.file && op !== Op.sparse) throw new OciError('malformed', 'tar-split file is damaged')
      const pathLength = block.readUInt16BE(need(2))
      const pathAt = need(pathLength)
      const path = block.toString('latin1', pathAt, pathAt + pathLength)
      const extents: Extent[] = []
      if (op === Op.file) extents.push({ offset: 0, length: Number(block.readBigUInt64BE(need(8))) })
      else {
        const count = block.readUInt32BE(need(4))
        for (let i = 0; i < count; i++) {
          const offset = Number(block.readBigUInt64BE(need(8)))
          extents.push({ offset, length: Number(block.readBigUInt64BE(need(8))) })
        }
      }
      const override = this.index.overrides.get(path)?.find(o => o.before > this.#record)
      this.#record++
      if (override !== undefined) yield* this.#blob(override.blob, extents, path)
      else yield* this.#file(path, extents)
    }
  }

  *#file(path: string, extents: readonly Extent[]): Generator<Buffer, void, void> {
    const fd = this.tree.openFile(path)
    try {
      for (const { offset, length } of extents) {
        for (let done = 0; done < length;) {
          const buffer = Buffer.allocUnsafe(Math.min(blockSize, length - done))
          const n = sys.preadSync(fd, buffer, 0, buffer.length, offset + done)
          if (n === 0) throw new OciError('digest', `layer file '${toUtf8(path)}' was cut`)
          done += n
          yield buffer.subarray(0, n)
        }
      }
    } finally {
      sys.close(fd)
    }
  }

  /** Ranges of a kept copy, which is read once from its beginning. */
  async *#blob(number: number, extents: readonly Extent[], path: string): AsyncGenerator<Buffer, void, void> {
    const members = this.index.blobs[number]
    if (members === undefined) throw new OciError('malformed', 'tar-split file is damaged')
    let start = 0
    let next = 0
    for (const member of members) {
      const data = await unpack(
        readFully(this.splitFd, member.length, member.offset, 'tar-split file'),
        copySize,
      )
      const end = start + data.length
      for (let extent = extents[next]; extent !== undefined && extent.offset < end; extent = extents[next]) {
        const from = Math.max(extent.offset, start)
        const to = Math.min(extent.offset + extent.length, end)
        for (let at = from; at < to; at += blockSize) {
          yield data.subarray(at - start, Math.min(at + blockSize, to) - start)
        }
        if (extent.offset + extent.length > end) break
        next++
      }
      start = end
    }
    const last = extents.at(-1)
    if (last !== undefined && last.offset + last.length > start) {
      throw new OciError('malformed', `tar-split file lacks data of '${toUtf8(path)}'`)
    }
  }
}
