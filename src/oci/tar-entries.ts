/** Entries of an archive that are no files of a tree: small things in memory, and streams of known length. */
import { toUtf8 } from '../base/bytes.js'
import { OciError, type ByteSource } from './error.js'
import type { TarEntry } from './tar-format.js'
import { blankEntry, encodeHeader, padding } from './tar-writer.js'

/** For configs and other small things in an archive. */
export interface MemoryFile {
  /** latin1 byte name. */
  path: string
  data: Buffer | string
  mode?: number
  mtime?: number
}

/** An archive of small files, e.g. manifest.json beside layers. Directories are not listed. */
export function memoryFileEntry(file: MemoryFile): Buffer {
  const data = typeof file.data === 'string' ? Buffer.from(file.data) : file.data
  const header = encodeHeader(streamEntry(file.path, data.length, file.mode, file.mtime), data.length)
  return Buffer.concat([header, data, padding(data.length)])
}

/** The entry of a regular file whose data comes from elsewhere. */
export function streamEntry(path: string, size: number, mode = 0o644, mtime = 0): TarEntry {
  return { ...blankEntry, path, mode, size, mtime }
}

/** Header, data and padding of one file of known size. @throws OciError `size` when `source` is not that long */
export async function* streamedFile(
  path: string,
  size: number,
  source: ByteSource,
): AsyncGenerator<Uint8Array, void, void> {
  yield encodeHeader(streamEntry(path, size), size)
  let done = 0
  for await (const chunk of source) {
    done += chunk.length
    if (done > size) break
    yield chunk
  }
  if (done !== size) throw new OciError('size', `'${toUtf8(path)}' has not the ${size} bytes announced`)
  yield padding(size)
}
