import { createHash, type Hash } from 'node:crypto'
import { OciError, type ByteSource } from './error.js'

/** `algorithm:hex` of the OCI image spec (descriptor.md, "Digests"); both registered algorithms. */
export type Digest = `sha256:${string}` | `sha512:${string}`
type Algorithm = 'sha256' | 'sha512'

const digestPattern = /^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/

export function isDigest(value: unknown): value is Digest {
  return typeof value === 'string' && digestPattern.test(value)
}

/** @throws OciError `malformed` */
export function parseDigest(value: unknown, what = 'digest'): Digest {
  if (isDigest(value)) return value
  const shown = typeof value === 'string' ? JSON.stringify(value.slice(0, 100)) : typeof value
  throw new OciError('malformed', `${what} is not a sha256 or sha512 digest: ${shown}`)
}

export function digestAlgorithm(digest: Digest): Algorithm {
  return digest.startsWith('sha512:') ? 'sha512' : 'sha256'
}

export function digestHex(digest: Digest): string {
  return digest.slice(digest.indexOf(':') + 1)
}

/** sha256 of bytes or of a string's UTF-8. */
export function digestOf(data: Uint8Array | string): Digest {
  return `sha256:${createHash('sha256').update(data).digest('hex')}`
}

/** Hashes and counts as bytes go by. */
export class Digester {
  readonly #hash: Hash
  readonly #algorithm: Algorithm
  /** Bytes seen so far. */
  size = 0

  constructor(algorithm: Algorithm = 'sha256') {
    this.#algorithm = algorithm
    this.#hash = createHash(algorithm)
  }

  update(chunk: Uint8Array): void {
    this.#hash.update(chunk)
    this.size += chunk.length
  }

  /** Once; the hash cannot be continued. */
  digest(): Digest {
    return `${this.#algorithm}:${this.#hash.digest('hex')}`
  }
}

/** Passes `source` on and hashes it into `digester`. */
export async function* digesting(
  source: ByteSource,
  digester: Digester,
): AsyncGenerator<Uint8Array, void, void> {
  for await (const chunk of source) {
    digester.update(chunk)
    yield chunk
  }
}

export interface Expected {
  digest: Digest
  /** Bytes; checked as they come, so that a stream without end is not read to its end. */
  size?: number | undefined
}

/**
 * Passes `source` on and fails at its end when it was not what `expected` says. The reader has then seen bytes that it
 * must not use: whoever writes them somewhere does so under a temporary name.
 * @throws OciError `size` or `digest`
 */
export async function* verifying(
  source: ByteSource,
  expected: Expected,
  what: string,
): AsyncGenerator<Uint8Array, void, void> {
  const digester = new Digester(digestAlgorithm(expected.digest))
  for await (const chunk of source) {
    digester.update(chunk)
    if (expected.size !== undefined && digester.size > expected.size) {
      throw new OciError('size', `${what} is longer than the ${expected.size} bytes announced`)
    }
    yield chunk
  }
  if (expected.size !== undefined && digester.size !== expected.size) {
    throw new OciError('size', `${what} has ${digester.size} bytes, announced were ${expected.size}`)
  }
  const actual = digester.digest()
  if (actual !== expected.digest) {
    throw new OciError('digest', `${what} has digest ${actual}, expected ${expected.digest}`)
  }
}

/** @throws OciError `size` or `digest` when `data` is not what `expected` says */
export function verifyBytes(data: Uint8Array, expected: Expected, what: string): void {
  if (expected.size !== undefined && data.length !== expected.size) {
    throw new OciError('size', `${what} has ${data.length} bytes, announced were ${expected.size}`)
  }
  const digester = new Digester(digestAlgorithm(expected.digest))
  digester.update(data)
  const actual = digester.digest()
  if (actual !== expected.digest) {
    throw new OciError('digest', `${what} has digest ${actual}, expected ${expected.digest}`)
  }
}
