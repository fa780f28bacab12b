import type { ByteName } from '../base/bytes.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import * as sys from '../sys/index.js'

export type SmallFile =
  | { readonly kind: 'absent' }
  /** A directory, a device, a fifo …, or what leads nowhere. */
  | { readonly kind: 'no file' }
  | { readonly kind: 'too large' }
  | { readonly kind: 'file'; readonly bytes: Buffer }

/**
 * A file that whoever made an image or a build context may have put there: /etc/passwd, a Containerfile, .dockerignore. Symlinks lead to
 * places in the root. It is not opened before it is known to be a regular file: a device, once opened, does things, and may have no end
 * (CVE-2024-9676).
 * @param max bytes, whatever its size says
 */
export function readInRoot(root: number, path: ByteName, max: number): SmallFile {
  let found
  try {
    found = sys.openat2(root, path, sys.O_PATH, 0, sys.RESOLVE_IN_ROOT | sys.RESOLVE_NO_MAGICLINKS)
  } catch (error) {
    if (!(error instanceof SysError)) throw error
    const { errno } = error
    if (errno === E.ENOENT || errno === E.ENOTDIR) return { kind: 'absent' }
    if (errno === E.ELOOP || errno === E.ENAMETOOLONG) return { kind: 'no file' }
    throw error
  }
  using place = found
  const { mode } = sys.statFd(place.n)
  if (!sys.S_ISREG(mode)) return { kind: 'no file' }
  using file = sys.openat(sys.AT_FDCWD, `/proc/self/fd/${place.n}`, sys.O_RDONLY)
  const bytes = Buffer.alloc(Math.min(sys.statFd(file.n).size, max) + 1)
  let length = 0
  while (length < bytes.length) {
    const n = sys.preadSync(file.n, bytes, length, bytes.length - length, length)
    if (n === 0) return { kind: 'file', bytes: bytes.subarray(0, length) }
    length += n
  }
  return { kind: 'too large' }
}
