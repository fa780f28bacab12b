/**
 * Whiteouts: "nothing of this name shows from below". Four dialects are read, three are written.
 *
 * - `char`:  a character device 0:0 (the kernel's overlayfs);
 * - `xattr`: an empty regular file with trusted./user.overlay.whiteout, in a directory whose opaque attribute is `x`
 *   (the kernel's, since 6.7, for places where mknod is not allowed or an overlay lies on an overlay);
 * - `file`:  a regular file (or device) called `.wh.NAME` beside the place (AUFS, OCI layers, fuse-overlayfs).
 *
 * Source: Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories"; OCI image-spec, layer.md.
 */
import * as sys from '../sys/index.js'
import type { Stat } from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { OVERLAY_PREFIXES, type OverlayPrefix } from './xattr-names.js'

export type WhiteoutDialect = 'char' | 'xattr' | 'file'

export const WH_PREFIX = '.wh.'
/** Marks the directory that holds it as opaque. */
export const WH_OPAQUE = '.wh..wh..opq'
/** Seen in the wild as a character device with the same meaning. */
export const WH_OPAQUE_CHAR = '.wh..opq'

/** The value of the opaque attribute that says "xattr whiteouts may be in here" and nothing about opaqueness. */
export const OPAQUE_HAS_XATTR_WHITEOUTS = 'x'

/** A name that the merged view never shows and never creates: it is a marker in every dialect that reads it. */
export function isMarkerName(name: string): boolean {
  return name.startsWith(WH_PREFIX)
}

/** The name that a `.wh.NAME` marker hides; `undefined` for the opaque markers and for any other name. */
export function hiddenByMarker(name: string): string | undefined {
  if (!name.startsWith(WH_PREFIX) || name === WH_OPAQUE || name === WH_OPAQUE_CHAR) return undefined
  const hidden = name.slice(WH_PREFIX.length)
  return hidden === '' || hidden.startsWith(WH_PREFIX) ? undefined : hidden
}

/** The kernel's classic whiteout. */
export function isCharWhiteout(stat: Stat): boolean {
  return sys.S_ISCHR(stat.mode) && stat.rdev === 0
}

/** Whether an object could be an xattr whiteout at all: only then is its attribute worth a system call. */
export function mayBeXattrWhiteout(stat: Stat): boolean {
  return sys.S_ISREG(stat.mode) && stat.size === 0
}

/** Whether `name` beneath `dirfd` carries the whiteout attribute (in a directory marked `x`). */
export function hasWhiteoutXattr(dirfd: number, name: string): boolean {
  return OVERLAY_PREFIXES.some(prefix => sys.getxattrAt(dirfd, name, prefix + 'whiteout') !== undefined)
}

/**
 * Creates a whiteout called `name` in `dirfd`. For `file` the marker `.wh.NAME` is created instead. For `xattr` the
 * directory must carry opaque=x (or y) already: see opaque.ts.
 * @throws SysError EEXIST, ENOSPC, EPERM (mknod not allowed), EIO
 */
export function makeWhiteout(
  dirfd: number,
  name: string,
  dialect: WhiteoutDialect,
  prefix: OverlayPrefix,
): void {
  switch (dialect) {
    case 'char':
      sys.mknodat(dirfd, name, sys.S_IFCHR, 0)
      return
    case 'file': {
      const marker = WH_PREFIX + name
      if (marker.length > 255) throw new SysError(E.ENAMETOOLONG, 'whiteout', name)
      // One that is there already says the same: a daemon that was killed behind this call left it.
      sys.openat(dirfd, marker, sys.O_WRONLY | sys.O_CREAT | sys.O_NOFOLLOW, 0).close()
      return
    }
    case 'xattr': {
      sys.openat(dirfd, name, sys.O_WRONLY | sys.O_CREAT | sys.O_EXCL | sys.O_NOFOLLOW, 0o600).close()
      try {
        sys.setxattrAt(dirfd, name, prefix + 'whiteout', Buffer.from('y'))
      } catch (error) {
        sys.unlinkat(dirfd, name, 0)
        throw error
      }
      return
    }
  }
}
