import { setImmediate as nextTurn } from 'node:timers/promises'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import {
  decompress,
  detectCompression,
  peek,
  type AnyCompression,
  type ExpansionLimit,
} from './compression.js'
import { digestAlgorithm, Digester, type Digest, type Expected } from './digest.js'
import { humanBytes, OciError, type ByteSource } from './error.js'
import { TarExtractor, type ExtractOptions } from './tar-extract.js'
import { TarReader } from './tar-reader.js'
import type { TarSplitRecorder } from './tar-split.js'

export interface TarLimits {
  /** Bytes of the uncompressed archive. */
  bytes: number
  entries: number
  /** They are kept in memory. */
  directories: number
}

/** What no filesystem takes. */
const WRONG_NAMES: ReadonlySet<number> = new Set([E.ENOTDIR, E.ENAMETOOLONG])

/** Far above any image, below what fills a large machine by accident. */
export const defaultTarLimits: TarLimits = {
  bytes: 1024 ** 4,
  entries: 20_000_000,
  directories: 2_000_000,
}

export interface ApplyTarOptions extends ExtractOptions {
  /** diffID that the archive must have. */
  diffId?: Digest | undefined
  limits?: Partial<TarLimits>
  /** Keeps what an exact export needs (see tar-split.ts); finished by this function. */
  record?: TarSplitRecorder | undefined
  /** Bytes of the uncompressed archive so far. */
  onProgress?: ((bytes: number) => void) | undefined
  signal?: AbortSignal | undefined
  /** When all was read and before directories get their times: a last chance to refuse. */
  onEnd?: ((diffId: Digest) => Promise<void>) | undefined
  /** Named in errors: "layer sha256:1234…". */
  what?: string
}

export interface ApplyTarResult {
  diffId: Digest
  /** Bytes of the uncompressed archive. */
  size: number
  entries: number
  /** Bytes of file data on disk as the archive has it (holes not counted). */
  dataBytes: number
  /** Entries by what they made. */
  counts: {
    files: number
    directories: number
    links: number
    symlinks: number
    devices: number
    whiteouts: number
  }
  /** One line each, at most 100: attributes that this filesystem or user cannot have, devices left out. */
  warnings: string[]
}

/**
 * Unpacks an uncompressed tar below `rootFd` (a directory, not O_PATH-only rights needed beyond search; it stays the
 * caller's). Writes nothing outside; after an error the caller removes the directory.
 *
 * Memory does not grow with the archive, except for about 200 bytes a directory.
 * @throws OciError `malformed`, `truncated`, `unsafe`, `limit`, `digest`, `unsupported`; SysError ENOSPC, EPERM, …
 */
export async function applyTar(
  rootFd: number,
  source: ByteSource,
  options: ApplyTarOptions,
): Promise<ApplyTarResult> {
  const what = options.what ?? 'archive'
  const limits = { ...defaultTarLimits, ...options.limits }
  const record = options.record
  const digester = new Digester(options.diffId === undefined ? 'sha256' : digestAlgorithm(options.diffId))
  const extractor = new TarExtractor(rootFd, options, record)
  const reader = new TarReader(extractor)
  try {
    let sinceTurn = 0
    for await (const chunk of source) {
      options.signal?.throwIfAborted()
      digester.update(chunk)
      if (digester.size > limits.bytes) {
        throw new OciError('limit', `${what} is larger than ${humanBytes(limits.bytes)} unpacked`)
      }
      reader.write(chunk)
      if (reader.entries > limits.entries)
        throw new OciError('limit', `${what} has more than ${limits.entries} entries`)
      if (extractor.directories > limits.directories)
        throw new OciError('limit', `${what} has more than ${limits.directories} directories`)
      if (record !== undefined) await record.drain()
      options.onProgress?.(digester.size)
      // A source that is always ready (a cached file) would keep signals and timers waiting.
      sinceTurn += chunk.length
      if (sinceTurn > 8 << 20) {
        sinceTurn = 0
        await nextTurn()
      }
    }
    reader.finish()
    const diffId = digester.digest()
    if (options.diffId !== undefined && diffId !== options.diffId) {
      throw new OciError('digest', `${what} has diffID ${diffId}, expected ${options.diffId}`)
    }
    await options.onEnd?.(diffId)
    extractor.finish()
    await record?.finish(diffId, digester.size)
    const { counts, dataBytes, warnings } = extractor
    return { diffId, size: digester.size, entries: reader.entries, dataBytes, counts, warnings }
  } finally {
    extractor.close()
  }
}

export interface ApplyLayerOptions extends ApplyTarOptions {
  /** Digest and size of the blob as it comes, compressed or not. */
  blob?: Expected | undefined
  /** See compression.ts; `false` for what this user made. */
  expansion?: ExpansionLimit | false
}

export interface ApplyLayerResult extends ApplyTarResult {
  compression: AnyCompression
  /** Of the bytes as they came. */
  blobDigest: Digest
  blobSize: number
}

/** As applyTar, for a blob that may be compressed (told by content), verified on both sides of the decompression. */
export async function applyLayer(
  rootFd: number,
  source: ByteSource,
  options: ApplyLayerOptions,
): Promise<ApplyLayerResult> {
  const expected = options.blob
  const what = options.what ?? (expected === undefined ? 'archive' : `layer ${expected.digest}`)
  const peeked = await peek(source, 4)
  const algorithm = expected === undefined ? 'sha256' : digestAlgorithm(expected.digest)
  // Of a plain tar the blob's digest is the diffID: hashing is what unpacking spends most of its time on.
  const same = detectCompression(peeked.head) === 'plain' && algorithm === 'sha256'
  const digester = same ? undefined : new Digester(algorithm)
  let blobSize = 0
  async function* counted(): AsyncGenerator<Uint8Array, void, void> {
    for await (const chunk of peeked.source) {
      blobSize += chunk.length
      if (expected?.size !== undefined && blobSize > expected.size) {
        throw new OciError('size', `${what} is longer than the ${expected.size} bytes announced`)
      }
      digester?.update(chunk)
      yield chunk
    }
  }
  const input = counted()
  let blobDigest: Digest | undefined
  // Decoders close their input at the end of the compressed data. What follows counts for the digest too, so this
  // iterator has no return(): the input is closed here.
  const open: AsyncIterable<Uint8Array> = { [Symbol.asyncIterator]: () => ({ next: () => input.next() }) }
  try {
    const { compression, data } = await decompress(open, {
      what,
      ...(options.expansion === undefined ? {} : { limit: options.expansion }),
    })
    const result = await applyTar(rootFd, data, {
      ...options,
      what,
      onEnd: async diffId => {
        for await (const chunk of input) void chunk
        const actual = digester?.digest() ?? diffId
        blobDigest = actual
        if (expected?.size !== undefined && blobSize !== expected.size) {
          throw new OciError('size', `${what} has ${blobSize} bytes, announced were ${expected.size}`)
        }
        if (expected !== undefined && actual !== expected.digest) {
          throw new OciError('digest', `${what} has digest ${actual}, expected ${expected.digest}`)
        }
        await options.onEnd?.(diffId)
      },
    })
    return { ...result, compression, blobSize, blobDigest: blobDigest ?? result.diffId }
  } catch (error) {
    // What is wrong inside an archive says where in it; which archive it was is known here.
    // A file on the way to another, a name of 300 bytes: it is the archive that is wrong, and it is to be named.
    if (options.what !== undefined && error instanceof SysError && WRONG_NAMES.has(error.errno))
      throw new OciError('malformed', `${what}: ${error.message}`, { cause: error })
    if (!(error instanceof OciError) || options.what === undefined || error.message.includes(what))
      throw error
    throw new OciError(error.code, `${what}: ${error.message}`, { cause: error })
  } finally {
    await input.return()
  }
}
