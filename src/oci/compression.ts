import { availableParallelism } from 'node:os'
import type { Duplex } from 'node:stream'
import { createRequire } from 'node:module'
import { pipeline } from 'node:stream/promises'
import { promisify } from 'node:util'
import * as zlib from 'node:zlib'
import type * as Fzstd from 'fzstd'
import { asBuffer, humanBytes, OciError, type ByteSource } from './error.js'
import type { Compression } from './media-types.js'
import { findProgram, throughProgram } from './program-stream.js'
import { ZstdFrames } from './zstd-frames.js'

/** What an archive may be packed with; images use the first three, `ADD` and `import` also the others. */
export type AnyCompression = Compression | 'bzip2' | 'xz'

/** Node 22.15 and 23.8 have zstd in zlib; Node 20 does not, nor do its types. */
interface ZstdOfZlib {
  createZstdDecompress?: (options?: { chunkSize?: number }) => Duplex
  zstdDecompressSync?: (data: Uint8Array, options?: { maxOutputLength?: number }) => Buffer
  createZstdCompress?: (options?: { chunkSize?: number; params?: Record<number, number> }) => Duplex
}
const zstdOfZlib: ZstdOfZlib = zlib as ZstdOfZlib
/** Source: zstd.h. */
const ZSTD_c_compressionLevel = 100
const ZSTD_c_checksumFlag = 201

/** Output buffer of the native decoders: larger means fewer trips through the event loop. */
const chunkSize = 256 * 1024

/** By magic bytes; never by name. Source: RFC 1952; RFC 8878 3.1.1 and 3.1.2 (skippable frames); bzip2, xz formats. */
export function detectCompression(head: Uint8Array): AnyCompression {
  const [a, b, c, d] = head
  if (a === 0x1f && b === 0x8b) return 'gzip'
  if (a === 0x28 && b === 0xb5 && c === 0x2f && d === 0xfd) return 'zstd'
  if (a !== undefined && a >= 0x50 && a <= 0x5f && b === 0x2a && c === 0x4d && d === 0x18) return 'zstd'
  if (a === 0x42 && b === 0x5a && c === 0x68) return 'bzip2'
  if (a === 0xfd && b === 0x37 && c === 0x7a && d === 0x58) return 'xz'
  return 'plain'
}

/** Reads at least `min` bytes (fewer at the end of the stream) and gives them back with the whole stream. */
export async function peek(source: ByteSource, min: number): Promise<{ head: Buffer; source: ByteSource }> {
  const iterator = source[Symbol.asyncIterator]()
  const parts: Buffer[] = []
  let size = 0
  while (size < min) {
    const next = await iterator.next()
    if (next.done === true) break
    parts.push(asBuffer(next.value))
    size += next.value.length
  }
  const head = parts.length === 1 ? (parts[0] as Buffer) : Buffer.concat(parts)
  async function* whole(): AsyncGenerator<Uint8Array, void, void> {
    try {
      if (head.length > 0) yield head
      for (;;) {
        const next = await iterator.next()
        if (next.done === true) return
        yield next.value
      }
    } finally {
      await iterator.return?.()
    }
  }
  return { head, source: whole() }
}

export interface ExpansionLimit {
  /** Output bytes per input byte; gzip reaches 1030 and zstd far more on zeros, real layers 2 to 20. */
  ratio: number
  /** Output up to this many bytes is never refused. */
  free: number
}
export const defaultExpansionLimit: ExpansionLimit = { ratio: 250, free: 1 << 30 }

export interface DecompressOptions {
  what?: string
  /** Decompression bombs end in an error; `false` for trusted input. */
  limit?: ExpansionLimit | false
}

/**
 * Unpacks `source` by its content; plain data passes through.
 * Errors (damaged, truncated, expands too much) come from iterating `data`.
 */
export async function decompress(
  source: ByteSource,
  options: DecompressOptions = {},
): Promise<{ compression: AnyCompression; data: ByteSource }> {
  const what = options.what ?? 'archive'
  const limit = options.limit ?? defaultExpansionLimit
  const peeked = await peek(source, 4)
  const compression = detectCompression(peeked.head)
  if (compression === 'plain') return { compression, data: peeked.source }
  let input = 0
  async function* counted(): AsyncGenerator<Uint8Array, void, void> {
    for await (const chunk of peeked.source) {
      input += chunk.length
      yield chunk
    }
  }
  const unpacked = decoder(compression, counted(), what)
  if (limit === false) return { compression, data: unpacked }
  const { ratio, free } = limit
  async function* limited(): AsyncGenerator<Uint8Array, void, void> {
    let output = 0
    for await (const chunk of unpacked) {
      output += chunk.length
      if (output > free && output > input * ratio) {
        throw new OciError(
          'limit',
          `${what} expands from ${humanBytes(input)} to more than ${humanBytes(output)}: refused as a decompression bomb`,
        )
      }
      yield chunk
    }
  }
  return { compression, data: limited() }
}

function decoder(
  compression: Exclude<AnyCompression, 'plain'>,
  source: ByteSource,
  what: string,
): ByteSource {
  switch (compression) {
    case 'gzip':
      return throughTransform(source, zlib.createGunzip({ chunkSize }), what)
    case 'zstd': {
      if (zstdOfZlib.createZstdDecompress) return unzstdFrames(source, what, zstdOfZlib.createZstdDecompress)
      const program = findProgram('zstd')
      if (program !== undefined) return throughProgram(source, program, ['-dcq'], what)
      return unzstdInJavaScript(source, what)
    }
    case 'bzip2':
    case 'xz': {
      const program = findProgram(compression)
      if (program === undefined) {
        throw new OciError(
          'unsupported',
          `${what} is packed with ${compression}, and there is no program '${compression}'`,
        )
      }
      return throughProgram(source, program, ['-dc'], what)
    }
  }
}

/** The end of a chain of streams as an iteration, with errors of any of them, and all ended when the reader stops. */
async function* throughTransform(
  source: ByteSource,
  transform: Duplex,
  what: string,
): AsyncGenerator<Uint8Array, void, void> {
  let sourceError: unknown
  async function* guarded(): AsyncGenerator<Uint8Array, void, void> {
    try {
      yield* source
    } catch (error) {
      sourceError = error ?? new Error('source failed')
      throw error
    }
  }
  const feeding = pipeline(guarded(), transform).catch(() => undefined)
  try {
    for await (const chunk of transform) yield chunk as Buffer
  } catch (error) {
    if (sourceError !== undefined) throw sourceError
    const code = (error as { code?: string }).code ?? ''
    if (code === 'Z_BUF_ERROR' || /unexpected end|premature/i.test((error as Error).message)) {
      throw new OciError('truncated', `${what} ends in the middle of its compressed data`, { cause: error })
    }
    if (code.startsWith('Z_') || code.startsWith('ZSTD_') || code.startsWith('ERR_')) {
      throw new OciError('malformed', `${what}: damaged compressed data (${(error as Error).message})`, {
        cause: error,
      })
    }
    throw error
  } finally {
    transform.destroy()
    await feeding
  }
}

/** A frame of at most this many bytes is unpacked at once, unless it turns out large. */
const smallFrame = 128 * 1024
const smallOutput = 4 << 20

/** With Node's own decoder, frame by frame (see zstd-frames.ts). */
async function* unzstdFrames(
  source: ByteSource,
  what: string,
  create: NonNullable<ZstdOfZlib['createZstdDecompress']>,
): AsyncGenerator<Uint8Array, void, void> {
  const frames = new ZstdFrames(source, what)
  try {
    while (await frames.more()) {
      const frame = frames.frame()
      const parts: Buffer[] = []
      let size = 0
      let complete = false
      while (size <= smallFrame && !complete) {
        const next = await frame.next()
        if (next.done === true) complete = true
        else {
          parts.push(next.value)
          size += next.value.length
        }
      }
      if (complete && size === 0) continue // a skippable frame
      const small = complete ? unzstdSmall(Buffer.concat(parts), what) : undefined
      if (small !== undefined) yield small
      else yield* throughTransform(chain(parts, frame), create({ chunkSize }), what)
    }
  } finally {
    await frames.close()
  }
}

async function* chain(parts: readonly Buffer[], rest: ByteSource): AsyncGenerator<Uint8Array, void, void> {
  yield* parts
  yield* rest
}

/** undefined when the frame unpacks to more than should be in memory at once. */
function unzstdSmall(frame: Buffer, what: string): Buffer | undefined {
  try {
    return zstdOfZlib.zstdDecompressSync?.(frame, { maxOutputLength: smallOutput })
  } catch (error) {
    if ((error as { code?: string }).code === 'ERR_BUFFER_TOO_LARGE') return undefined
    throw new OciError('malformed', `${what}: damaged compressed data (${(error as Error).message})`, {
      cause: error,
    })
  }
}

/** Slow (in JavaScript, on this thread) and always there. */
export async function* unzstdInJavaScript(
  source: ByteSource,
  what: string,
): AsyncGenerator<Uint8Array, void, void> {
  let ready: Uint8Array[] = []
  const { Decompress } = createRequire(import.meta.url)('fzstd') as typeof Fzstd
  const stream = new Decompress(data => ready.push(data))
  const step = (chunk: Uint8Array, final: boolean): Uint8Array[] => {
    try {
      stream.push(chunk, final)
    } catch (error) {
      const message = (error as Error).message
      if (/EOF/i.test(message))
        throw new OciError('truncated', `${what} ends in the middle of its compressed data`)
      throw new OciError('malformed', `${what}: damaged compressed data (${message})`, { cause: error })
    }
    const out = ready
    ready = []
    return out
  }
  for await (const chunk of source) {
    // small pieces, so that one of them does not become hundreds of megabytes at once
    for (let at = 0; at < chunk.length; at += 65_536) {
      for (const data of step(chunk.subarray(at, at + 65_536), false)) if (data.length > 0) yield data
    }
  }
  for (const data of step(new Uint8Array(0), true)) if (data.length > 0) yield data
}

export interface CompressOptions {
  /** gzip 1-9 (5: of /usr/include, python3 and share/doc a quarter less processor time than 6 for 1 percent more bytes), zstd 1-19 (3). */
  level?: number
}

/**
 * Packs `source`. gzip: the same input gives the same output with one version of Node. zstd: of one version of libzstd.
 * @throws OciError `unsupported` for zstd on Node 20 without the program `zstd`
 */
export function compress(
  source: ByteSource,
  compression: Compression,
  options: CompressOptions = {},
): ByteSource {
  switch (compression) {
    case 'plain':
      return source
    case 'gzip':
      return gzipInBlocks(source, options.level ?? 5)
    case 'zstd': {
      const level = options.level ?? 3
      if (zstdOfZlib.createZstdCompress) {
        const params = { [ZSTD_c_compressionLevel]: level, [ZSTD_c_checksumFlag]: 1 }
        return throughTransform(source, zstdOfZlib.createZstdCompress({ chunkSize, params }), 'zstd')
      }
      const program = findProgram('zstd')
      if (program === undefined) {
        throw new OciError(
          'unsupported',
          `writing zstd needs Node.js 22.15 or the program 'zstd' (apt-get install zstd)`,
        )
      }
      return throughProgram(source, program, ['-cq', `-${level}`, '-T0'], 'zstd')
    }
  }
}

const gzip = promisify<Buffer, zlib.ZlibOptions, Buffer>(zlib.gzip)
const blockSize = 1 << 20

/**
 * A gzip stream of many members, one for each MiB of input, packed on as many threads as there are processors.
 * Every gzip reader takes members one after the other (RFC 1952 2.2); the cost is about one percent of size.
 */
async function* gzipInBlocks(source: ByteSource, level: number): AsyncGenerator<Buffer, void, void> {
  const inFlight: Promise<Buffer>[] = []
  const most = Math.max(2, Math.min(8, availableParallelism()))
  let block = Buffer.allocUnsafe(blockSize)
  let filled = 0
  let any = false
  const start = (data: Buffer): void => {
    const packed = gzip(data, { level })
    packed.catch(() => undefined) // reported when awaited
    inFlight.push(packed)
    any = true
  }
  for await (const chunk of source) {
    let at = 0
    while (at < chunk.length) {
      const take = Math.min(blockSize - filled, chunk.length - at)
      block.set(chunk.subarray(at, at + take), filled)
      filled += take
      at += take
      if (filled < blockSize) break
      start(block)
      block = Buffer.allocUnsafe(blockSize)
      filled = 0
      if (inFlight.length >= most) yield await (inFlight.shift() as Promise<Buffer>)
    }
  }
  if (filled > 0 || !any) start(block.subarray(0, filled))
  for (const packed of inFlight) yield await packed
}
