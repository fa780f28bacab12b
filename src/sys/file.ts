import { E } from '../base/errno.js'
import { Fd } from '../base/fd.js'
import { addon, check } from './addon.js'

/** O_CLOEXEC is always added. `mode` is subject to the umask. */
export function openat(dirfd: number, path: string, flags: number, mode = 0): Fd {
  return new Fd(check(addon.openat(dirfd, path, flags, mode), 'openat', path))
}

/** As openat(), resolved under the restrictions `resolve` (RESOLVE_*). EAGAIN of a concurrent rename is retried. */
export function openat2(dirfd: number, path: string, flags: number, mode: number, resolve: number): Fd {
  return new Fd(check(addon.openat2(dirfd, path, flags, mode, resolve), 'openat2', path))
}

/** openat2 for the hot path: the descriptor, which the caller owns, or -errno. */
export function tryOpenat2(
  dirfd: number,
  path: string,
  flags: number,
  mode: number,
  resolve: number,
): number {
  return addon.openat2(dirfd, path, flags, mode, resolve)
}

/** Closes a raw descriptor. Never retried. @throws SysError EBADF, EIO, ENOSPC, EDQUOT */
export function close(fd: number): void {
  const rc = addon.close(fd)
  if (rc < 0 && rc !== -E.EINTR) check(rc, 'close')
}

/** A second descriptor of the same open file, close-on-exec. */
export function dup(fd: number): Fd {
  return new Fd(check(addon.dup(fd), 'fcntl'))
}

/** Opens the file behind `fd`, which may have no name, once more. */
export function reopen(fd: number, flags: number): Fd {
  return new Fd(check(addon.reopen(fd, flags), 'open'))
}

/** Blocks the event loop; fsync() does not. */
export function fsyncSync(fd: number): void {
  check(addon.fsync(fd), 'fsync')
}

/** @throws SysError ENXIO: SEEK_DATA found no more data */
export function lseek(fd: number, offset: number, whence: number): number {
  return check(addon.lseek(fd, offset, whence), 'lseek')
}

/** One pread(2); a position of -1 is read(2). Gives the bytes read, 0 at the end. */
export function preadSync(
  fd: number,
  buffer: Uint8Array,
  bufferOffset: number,
  length: number,
  position: number,
): number {
  return check(addon.pread(fd, buffer, bufferOffset, length, position), 'pread')
}

/** One pwrite(2); a position of -1 is write(2). Gives the bytes written, which may be fewer than asked. */
export function pwriteSync(
  fd: number,
  buffer: Uint8Array,
  bufferOffset: number,
  length: number,
  position: number,
): number {
  return check(addon.pwrite(fd, buffer, bufferOffset, length, position), 'pwrite')
}

/** Blocks the event loop; fallocate() does not. */
export function fallocateSync(fd: number, mode: number, offset: number, length: number): void {
  check(addon.fallocate(fd, mode, offset, length), 'fallocate')
}

/** @returns false when LOCK_NB was given and somebody else holds the lock */
export function flock(fd: number, operation: number): boolean {
  const rc = addon.flock(fd, operation)
  if (rc === -E.EAGAIN) return false
  check(rc, 'flock')
  return true
}

/** F_GETFL, F_SETFL, F_GETFD, F_SETFD, F_SETPIPE_SZ and the seals: commands whose argument is a number. */
export function fcntl(fd: number, command: number, value = 0): number {
  return check(addon.fcntl(fd, command, value), 'fcntl')
}

/** The ioctl's own result, or -errno. A Buffer must be as large as the request says. */
export function ioctlNumber(fd: number, request: number, argument: Uint8Array | number): number {
  return addon.ioctl(fd, request, argument)
}
