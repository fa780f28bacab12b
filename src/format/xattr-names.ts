/**
 * The extended attributes by which overlays talk to themselves, and how a merged view hides and escapes them.
 *
 * Source: Documentation/filesystems/overlayfs.rst ("Nesting overlayfs mounts"), fs/overlayfs/xattrs.c,
 * fuse-overlayfs(1).
 */

/**
 * The two namespaces in which the kernel's overlayfs keeps its attributes (the second with `userxattr`). A mount has one of them:
 * what grants something (redirect, metacopy) or says what an object is (origin, nlink, impure, index) is read there only, since anybody
 * can write `user.` to a file of his own. What only hides (opaque, whiteout) is read in both: see FORMAT.md, "Whose attributes count".
 */
export const OVERLAY_PREFIXES = ['trusted.overlay.', 'user.overlay.'] as const
export type OverlayPrefix = (typeof OVERLAY_PREFIXES)[number]

/** What a layer may carry after either prefix. */
export type OverlayAttr =
  | 'opaque'
  | 'redirect'
  | 'origin'
  | 'metacopy'
  | 'impure'
  | 'nlink'
  | 'upper'
  | 'uuid'
  | 'protattr'
  | 'whiteout'

/** fuse-overlayfs's own, never shown and never settable. */
export const FUSE_OVERLAYFS_PREFIX = 'user.fuseoverlayfs.'
export const OVERRIDE_STAT_SECURITY = 'security.fuseoverlayfs.override_stat'
export const OVERRIDE_STAT_CONTAINERS = 'user.containers.override_stat'
export const OVERRIDE_STAT_LEGACY = 'user.fuseoverlayfs.override_stat'

/** Escaped attributes carry the word twice: `trusted.overlay.overlay.opaque` is somebody else's `trusted.overlay.opaque`. */
const ESCAPE = 'overlay.'

function overlayPrefixOf(name: string): OverlayPrefix | undefined {
  return OVERLAY_PREFIXES.find(prefix => name.startsWith(prefix))
}

/** True for an attribute that belongs to this overlay and is never shown in, nor copied up by, the merged view. */
export function isPrivateXattr(name: string): boolean {
  const prefix = overlayPrefixOf(name)
  if (prefix !== undefined) return !name.startsWith(ESCAPE, prefix.length)
  return name.startsWith(FUSE_OVERLAYFS_PREFIX) || isOverrideStat(name)
}

/** An attribute that says owner, mode and type, in whichever mount: who could write it could be whoever he likes. */
export function isOverrideStat(name: string): boolean {
  return name === OVERRIDE_STAT_CONTAINERS || name === OVERRIDE_STAT_SECURITY || name === OVERRIDE_STAT_LEGACY
}

/** The name under which the merged view's attribute `name` is stored in a layer. */
export function escapeXattr(name: string): string {
  const prefix = overlayPrefixOf(name)
  return prefix === undefined ? name : prefix + ESCAPE + name.slice(prefix.length)
}

/** The name that the merged view shows for a layer's attribute; `undefined` where it shows none. */
export function unescapeXattr(stored: string): string | undefined {
  if (isPrivateXattr(stored)) return undefined
  const prefix = overlayPrefixOf(stored)
  return prefix === undefined ? stored : prefix + stored.slice(prefix.length + ESCAPE.length)
}
