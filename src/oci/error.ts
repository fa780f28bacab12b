/**
 * What went wrong with an image, an archive or a registry, in one line for a person.
 * System errors (ENOSPC, EPERM …) stay SysError; this class says that the *input* or the *other side* is at fault.
 */
export type OciErrorCode =
  | 'digest' // bytes are not what their digest says
  | 'size' // longer or shorter than announced
  | 'limit' // a bound was reached (decompression bomb, too many entries, a manifest of a gigabyte)
  | 'truncated' // ended early
  | 'malformed' // not the format it claims to be
  | 'unsafe' // leads out of where it may write
  | 'unsupported' // valid, and not handled here
  | 'not-found' // no such reference, blob, platform or file in an archive
  | 'unauthorized' // the registry wants credentials, or better ones
  | 'registry' // the registry answered with an error
  | 'network' // no answer after all retries

export class OciError extends Error {
  override readonly name = 'OciError'
  constructor(
    readonly code: OciErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options)
  }
}

/** A byte stream as this room passes it around: chunks in order, errors thrown from the iteration. */
export type ByteSource = AsyncIterable<Uint8Array>

/** Told as bytes move; `total` is absent when nobody announced it. Never called more often than once per chunk. */
export type Progress = (done: number, total: number | undefined) => void

/** Makes a Buffer of `chunk` without copying. */
export function asBuffer(chunk: Uint8Array): Buffer {
  return Buffer.isBuffer(chunk) ? chunk : Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength)
}

/**
 * All bytes of `source`.
 * @throws OciError `limit` as soon as there are more than `max`
 */
export async function readAll(source: ByteSource, max: number, what: string): Promise<Buffer> {
  const parts: Buffer[] = []
  let size = 0
  for await (const chunk of source) {
    size += chunk.length
    if (size > max) throw new OciError('limit', `${what} is larger than ${max} bytes`)
    parts.push(asBuffer(chunk))
  }
  return parts.length === 1 ? (parts[0] as Buffer) : Buffer.concat(parts, size)
}

/** `1234567` → `1.2 MB`, for messages. */
export function humanBytes(n: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB']
  let unit = 0
  while (n >= 1000 && unit < units.length - 1) {
    n /= 1000
    unit++
  }
  return `${unit === 0 ? n : n.toFixed(1)} ${units[unit] ?? 'B'}`
}
