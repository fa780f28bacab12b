/**
 * Opaque directories: "nothing shows from below this directory". Every dialect is read, one attribute is written.
 *
 * Source: Documentation/filesystems/overlayfs.rst; OCI image-spec layer.md ("Opaque Whiteout"); fuse-overlayfs(1).
 */
import * as sys from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { FUSE_OVERLAYFS_PREFIX, OVERLAY_PREFIXES, type OverlayPrefix } from './xattr-names.js'
import { OPAQUE_HAS_XATTR_WHITEOUTS, WH_OPAQUE, WH_OPAQUE_CHAR } from './whiteout.js'

/** `opaque`: hides what is below. `xwhiteouts`: may contain whiteouts of the xattr dialect (opaque=x). */
export interface Opaqueness {
  readonly opaque: boolean
  readonly xwhiteouts: boolean
}

const OPAQUE_ATTRS = [...OVERLAY_PREFIXES.map(p => p + 'opaque'), FUSE_OVERLAYFS_PREFIX + 'opaque']

/**
 * What the attributes of a directory say. `names` is its attribute list, so that a plain directory costs no further
 * call. `name` '' is the directory behind `dirfd` itself.
 */
export function opaquenessFromXattrs(dirfd: number, name: string, names: readonly string[]): Opaqueness {
  let opaque = false
  let xwhiteouts = false
  for (const attr of OPAQUE_ATTRS) {
    if (!names.includes(attr)) continue
    const value = sys.getxattrAt(dirfd, name, attr)?.toString('latin1')
    if (value === 'y') opaque = true
    // An opaque directory may hold xattr whiteouts of its own as well: fs/overlayfs/util.c, ovl_get_opaquedir_val.
    if (value === OPAQUE_HAS_XATTR_WHITEOUTS) xwhiteouts = true
  }
  return { opaque, xwhiteouts }
}

/** Whether the directory behind `dirfd` holds one of the marker files that make it opaque. */
export function hasOpaqueMarker(dirfd: number): boolean {
  return (
    sys.statAt(dirfd, WH_OPAQUE) !== undefined || sys.S_ISCHR(sys.statAt(dirfd, WH_OPAQUE_CHAR)?.mode ?? 0)
  )
}

/**
 * Makes the directory `name` (or `dirfd` itself for '') opaque for the kernel, fuse-overlayfs and us. On a filesystem without
 * attributes a marker file says it, which fuse-overlayfs and we read, and the kernel does not.
 */
export function setOpaque(dirfd: number, name: string, prefix: OverlayPrefix): void {
  try {
    sys.setxattrAt(dirfd, name, prefix + 'opaque', Buffer.from('y'))
  } catch (error) {
    if (!(error instanceof SysError) || error.errno !== E.EOPNOTSUPP) throw error
    const path = name === '' ? '.' : name
    using dir = sys.openat(dirfd, path, sys.O_PATH | sys.O_DIRECTORY | sys.O_NOFOLLOW)
    sys.openat(dir.n, WH_OPAQUE, sys.O_CREAT | sys.O_WRONLY | sys.O_NOFOLLOW, 0o600).close()
  }
}
