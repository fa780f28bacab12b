import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { addon, check } from './addon.js'

/*
 * Slow work on native threads. The descriptors must stay open until the promise settles; it rejects with a SysError
 * (ECANCELED when the environment ends first).
 */

// Node waits for what runs in the pool before it exits: without this, process.exit() would take as long as the copy.
process.once('exit', () => addon.stopJobs())

/** Memory that C and C++ have freed goes back to the system (glibc; elsewhere it does nothing). */
export function mallocTrim(): void {
  addon.mallocTrim()
}

export type CopyMethod = 'reflink' | 'copy_file_range' | 'read_write'

/** In the order of CopyJob::Method in native/jobs.cc. */
const METHODS = ['reflink', 'copy_file_range', 'read_write'] as const

export interface CopyResult {
  /** Of data: holes are not counted, a reflink counts as the whole file. */
  bytes: number
  /** The last way that was used; copy_file_range may itself have shared extents. */
  method: CopyMethod
}

/**
 * Copies the first `size` bytes of one regular file into another, which must hold no data yet. Holes stay holes, and
 * `dst` is `size` bytes long afterwards, also when the source was truncated meanwhile. Tries a reflink (unless
 * `reflink` is false), then copy_file_range, then read and write. Moves the position of `src`.
 * @throws SysError EIO, ENOSPC, EDQUOT, EFBIG… of the copy; what was written so far stays in `dst`
 */
export async function copyData(
  src: number,
  dst: number,
  size: number,
  options: { reflink?: boolean } = {},
): Promise<CopyResult> {
  const result = await addon.copyData(src, dst, size, options.reflink ?? true)
  if (typeof result === 'number') throw new SysError(-result, 'copy')
  return { bytes: result[0], method: METHODS[result[1]] ?? 'read_write' }
}

/** Up to here {@link copyCached} copies. */
export const COPY_CACHED_MOST = 65_536

/**
 * Copies a range of one regular file into another on the spot, if all of it is in the page cache and no longer than
 * {@link COPY_CACHED_MOST}: gives the bytes copied, fewer than asked at the end of the file. Undefined when it is not: then nothing
 * was written, and {@link copyData} or {@link copyFileRange} is the way.
 * @throws SysError ENOSPC, EDQUOT, EIO… of the writing
 */
export function copyCached(
  from: number,
  fromAt: number,
  to: number,
  toAt: number,
  length: number,
): number | undefined {
  const copied = addon.copyCached(from, fromAt, to, toAt, length)
  return copied === -E.EAGAIN ? undefined : check(copied, 'copy')
}

export async function fsync(fd: number): Promise<void> {
  check(await addon.fsyncJob(fd), 'fsync')
}

export async function fdatasync(fd: number): Promise<void> {
  check(await addon.fdatasyncJob(fd), 'fdatasync')
}

/** Writes back the whole filesystem that `fd` is on. */
export async function syncfs(fd: number): Promise<void> {
  check(await addon.syncfsJob(fd), 'syncfs')
}

export async function fallocate(fd: number, mode: number, offset: number, length: number): Promise<void> {
  check(await addon.fallocateJob(fd, mode, offset, length), 'fallocate')
}

/**
 * Makes the kernel's table of this process's descriptors as large as `count` needs: when it has to grow later, the call that needs the
 * next descriptor takes 5 to 15 ms.
 * @throws SysError EINVAL above RLIMIT_NOFILE, EMFILE, ENOMEM
 */
export async function growDescriptors(count: number): Promise<void> {
  check(await addon.growDescriptorsJob(count), 'fcntl')
}

/** One copy_file_range(2): may copy less than asked, 0 at the end. @throws SysError EXDEV, EINVAL, EOPNOTSUPP… */
export async function copyFileRange(
  inFd: number,
  inOffset: number,
  outFd: number,
  outOffset: number,
  length: number,
): Promise<number> {
  return check(await addon.copyFileRangeJob(inFd, inOffset, outFd, outOffset, length), 'copy_file_range')
}
