/**
 * The files of an image archive by name, wherever they are: in a directory, in a tar that can be seeked, or in a stream
 * (a pipe, a compressed file), which is spooled into a temporary directory because manifests may come after layers.
 */
import { createReadStream } from 'node:fs'
import { mkdtemp, open, rm, stat, type FileHandle } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fromUtf8, toUtf8 } from '../base/bytes.js'
import * as sys from '../sys/index.js'
import { decompress, detectCompression } from './compression.js'
import { OciError, readAll, type ByteSource } from './error.js'
import { layerPath, parentOf } from './layer-tree.js'
import { TarReader, type TarHandler } from './tar-reader.js'

const maxFiles = 200_000
const readSize = 1 << 20

export interface FileSet {
  /** Names without a leading `./`, links included. A directory lists only what was asked for. */
  size(path: string): Promise<number | undefined>
  /** @throws OciError `not-found` */
  read(path: string): ByteSource
  /** Removes what was spooled. */
  close(): Promise<void>
}

/** @throws OciError `not-found`, `limit` */
export async function readSmall(files: FileSet, path: string, max: number): Promise<Buffer> {
  const size = await files.size(path)
  if (size !== undefined && size > max) throw new OciError('limit', `'${path}' is larger than ${max} bytes`)
  return readAll(files.read(path), max, `'${path}'`)
}

function missing(path: string): OciError {
  return new OciError('not-found', `the archive has no file '${path}'`)
}

/**
 * The archive at `path` (a directory or a file, compressed or not), or `source` itself when it is a stream.
 * @param temp where a stream is spooled; default the system's temporary directory
 */
export async function openFileSet(source: string | ByteSource, temp = tmpdir()): Promise<FileSet> {
  if (typeof source !== 'string') return SpooledTar.read(source, temp)
  const info = await stat(source)
  if (info.isDirectory()) return new DirectoryFiles(source)
  if (info.isFile()) {
    const file = await open(source, 'r')
    try {
      const head = Buffer.alloc(4)
      const { bytesRead } = await file.read(head, 0, 4, 0)
      if (detectCompression(head.subarray(0, bytesRead)) === 'plain') return await SeekableTar.scan(file)
    } catch (error) {
      await file.close()
      throw error
    }
    await file.close()
  }
  return SpooledTar.read(createReadStream(source, { highWaterMark: readSize }), temp)
}

/** A directory; symlinks are followed while they stay in it. */
class DirectoryFiles implements FileSet {
  readonly #root
  constructor(path: string) {
    this.#root = sys.openat(sys.AT_FDCWD, fromUtf8(path), sys.O_RDONLY | sys.O_DIRECTORY)
  }

  #open(path: string): number {
    const flags = sys.O_RDONLY | sys.O_NONBLOCK | sys.O_CLOEXEC
    return sys.tryOpenat2(
      this.#root.n,
      layerPath(fromUtf8(path)),
      flags,
      0,
      sys.RESOLVE_BENEATH | sys.RESOLVE_NO_MAGICLINKS,
    )
  }

  async size(path: string): Promise<number | undefined> {
    const fd = this.#open(path)
    if (fd < 0) return undefined
    try {
      const info = sys.statFd(fd)
      return sys.S_ISREG(info.mode) ? info.size : undefined
    } finally {
      sys.close(fd)
    }
  }

  async *read(path: string): AsyncGenerator<Buffer, void, void> {
    const fd = this.#open(path)
    if (fd < 0) throw missing(path)
    try {
      if (!sys.S_ISREG(sys.statFd(fd).mode)) throw missing(path)
    } catch (error) {
      sys.close(fd)
      throw error
    }
    yield* createReadStream('', { fd, highWaterMark: readSize }) as AsyncIterable<Buffer>
  }

  async close(): Promise<void> {
    this.#root.close()
  }
}

type Place = { offset: number; size: number } | { link: string }

/** Follows links among the names of an archive; a loop is not found. */
function follow<T extends object>(
  places: ReadonlyMap<string, T | { link: string }>,
  path: string,
): T | undefined {
  let place = places.get(path)
  for (let hops = 0; hops < 16 && place !== undefined; hops++) {
    if (!('link' in place)) return place
    place = places.get(place.link)
  }
  return undefined
}

/** Where a symlink of an archive leads, as a name of the same archive; undefined when out of it. */
function symlinkTarget(path: string, target: string): string | undefined {
  if (target.startsWith('/')) return undefined
  const parts = parentOf(path).split('/').filter(Boolean)
  for (const part of target.split('/')) {
    if (part === '' || part === '.') continue
    if (part === '..') {
      if (parts.pop() === undefined) return undefined
    } else parts.push(part)
  }
  return parts.join('/')
}

function remember<T extends object>(
  places: Map<string, T | { link: string }>,
  path: string,
  place: T | { link: string },
): void {
  if (places.size >= maxFiles && !places.has(path))
    throw new OciError('limit', `the archive has more than ${maxFiles} files`)
  places.set(path, place)
}

/** An uncompressed tar file: its headers are read once, the data when it is wanted. */
class SeekableTar implements FileSet {
  private constructor(
    readonly file: FileHandle,
    readonly places: ReadonlyMap<string, Place>,
  ) {}

  static async scan(file: FileHandle): Promise<SeekableTar> {
    const places = new Map<string, Place>()
    let at = 0
    let starts: string | undefined
    const handler: TarHandler = {
      entry(entry) {
        const path = toUtf8(layerPath(entry.path))
        starts = undefined
        if (entry.type === 'link')
          remember<{ offset: number; size: number }>(places, path, {
            link: toUtf8(layerPath(entry.linkPath)),
          })
        if (entry.type === 'symlink') {
          const target = symlinkTarget(path, toUtf8(entry.linkPath))
          if (target !== undefined) remember<{ offset: number; size: number }>(places, path, { link: target })
        }
        if (entry.type !== 'file') return 'skip'
        if (entry.sparse !== undefined)
          throw new OciError('unsupported', `'${path}' in the archive is a sparse file`)
        starts = path
        if (entry.size === 0) remember(places, path, { offset: 0, size: 0 })
        return 'store'
      },
      data() {
        // only what was read along with a header
      },
      entryEnd() {
        starts = undefined
      },
    }
    const reader = new TarReader(handler)
    // One block at a time while headers come, so that the place of the data is known.
    const block = Buffer.alloc(512)
    for (;;) {
      // To the block's end: data that came along with a header would have no place.
      const bytesRead = sys.preadSync(file.fd, block, 0, block.length - (at % block.length), at)
      if (bytesRead === 0) break
      at += bytesRead
      reader.write(block.subarray(0, bytesRead))
      if (reader.dataLeft > 0) {
        const size = reader.dataLeft
        if (starts !== undefined) remember(places, starts, { offset: at, size })
        reader.skipData()
        at += size
      }
    }
    reader.finish()
    const { size } = await file.stat()
    if (at > size) throw new OciError('truncated', 'the archive ends in the middle of a file')
    return new SeekableTar(file, places)
  }

  async size(path: string): Promise<number | undefined> {
    return follow<{ offset: number; size: number }>(this.places, path)?.size
  }

  async *read(path: string): AsyncGenerator<Buffer, void, void> {
    const place = follow<{ offset: number; size: number }>(this.places, path)
    if (place === undefined) throw missing(path)
    for (let done = 0; done < place.size;) {
      const buffer = Buffer.allocUnsafe(Math.min(readSize, place.size - done))
      const { bytesRead } = await this.file.read(buffer, 0, buffer.length, place.offset + done)
      if (bytesRead === 0) throw new OciError('truncated', 'the archive became shorter while it was read')
      done += bytesRead
      yield buffer.subarray(0, bytesRead)
    }
  }

  async close(): Promise<void> {
    await this.file.close()
  }
}

/** A stream, its files spooled under numbers. */
class SpooledTar implements FileSet {
  private constructor(
    readonly directory: string,
    readonly places: ReadonlyMap<string, { file: string; size: number } | { link: string }>,
  ) {}

  static async read(source: ByteSource, temp: string): Promise<SpooledTar> {
    const directory = await mkdtemp(join(temp, 'lamina-archive-'))
    const places = new Map<string, { file: string; size: number } | { link: string }>()
    const root = sys.openat(sys.AT_FDCWD, fromUtf8(directory), sys.O_RDONLY | sys.O_DIRECTORY)
    let fd: number | undefined
    let spooled = 0
    const handler: TarHandler = {
      entry(entry) {
        const path = toUtf8(layerPath(entry.path))
        if (entry.type === 'link')
          remember<{ file: string; size: number }>(places, path, { link: toUtf8(layerPath(entry.linkPath)) })
        if (entry.type === 'symlink') {
          const target = symlinkTarget(path, toUtf8(entry.linkPath))
          if (target !== undefined) remember<{ file: string; size: number }>(places, path, { link: target })
        }
        if (entry.type !== 'file') return 'skip'
        if (entry.sparse !== undefined)
          throw new OciError('unsupported', `'${path}' in the archive is a sparse file`)
        // Not by how many names there are: a name may come twice.
        const name = String(spooled++)
        const flags = sys.O_WRONLY | sys.O_CREAT | sys.O_EXCL | sys.O_NOFOLLOW
        fd = sys.openat(root.n, name, flags, 0o600).release()
        remember(places, path, { file: join(directory, name), size: entry.size })
        return 'store'
      },
      data(chunk) {
        for (let at = 0; at < chunk.length;)
          at += sys.pwriteSync(fd as number, chunk, at, chunk.length - at, -1)
      },
      entryEnd() {
        if (fd !== undefined) sys.close(fd)
        fd = undefined
      },
    }
    try {
      const reader = new TarReader(handler)
      // the layers inside are checked for bombs when they are unpacked
      const { data } = await decompress(source, { what: 'archive' })
      for await (const chunk of data) reader.write(chunk)
      reader.finish()
      return new SpooledTar(directory, places)
    } catch (error) {
      if (fd !== undefined) sys.close(fd)
      await rm(directory, { recursive: true, force: true })
      throw error
    } finally {
      root.close()
    }
  }

  async size(path: string): Promise<number | undefined> {
    return follow<{ file: string; size: number }>(this.places, path)?.size
  }

  async *read(path: string): AsyncGenerator<Buffer, void, void> {
    const place = follow<{ file: string; size: number }>(this.places, path)
    if (place === undefined) throw missing(path)
    yield* createReadStream(place.file, {
      highWaterMark: readSize,
    }) as AsyncIterable<Buffer>
  }

  async close(): Promise<void> {
    await rm(this.directory, { recursive: true, force: true })
  }
}
