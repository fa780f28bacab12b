/** `ADD archive.tar.gz`: unpacked where it is a tar, of whatever age and compression. */
import { createReadStream } from 'node:fs'
import type { ByteName } from '../../base/bytes.js'
import type { Fd } from '../../base/fd.js'
import { applyTar, decompress, isTarHeader, peek, type CopyStep } from '../../oci/index.js'
import type { Override } from '../copy-tree.js'
import type { CopyTarget } from './copy-target.js'

/** @returns false for a file that is no archive, or an empty one */
export async function addArchive(
  fd: Fd,
  target: CopyTarget,
  path: ByteName,
  step: CopyStep,
  { uid, gid }: Override,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const open = (): ReturnType<typeof createReadStream> =>
    createReadStream(`/proc/self/fd/${fd.n}`, { highWaterMark: 1 << 20 })
  if (!(await isTar(open()))) return false
  using dir = target.directory(path)
  const { data } = await decompress(open(), { what: 'the archive of ADD', limit: false })
  await applyTar(dir.n, data, {
    whiteouts: 'literal',
    signal,
    what: 'the archive of ADD',
    // Owners in the archive count, unlike those of a context's files.
    ...(step.chown === undefined ? {} : { owner: { uid: uid ?? 0, gid: gid ?? 0 } }),
  })
  return true
}

/** Compressed or not: it begins with a header whose checksum is right. */
async function isTar(source: AsyncIterable<Uint8Array>): Promise<boolean> {
  try {
    const { data } = await decompress(source, { what: 'a file of ADD', limit: false })
    const { head, source: rest } = await peek(data, 512)
    // Leaving the iteration closes what is behind it.
    for await (const _ of rest) break
    return isTarHeader(head)
  } catch {
    return false
  }
}
