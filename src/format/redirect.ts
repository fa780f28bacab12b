/**
 * The redirect attribute: where, in the layers below, a renamed directory (or metacopy file) continues.
 * A value beginning with '/' is a path from the root of each lower layer; any other is a name beside the object.
 *
 * Source: Documentation/filesystems/overlayfs.rst, "renaming directories"; fs/overlayfs/namei.c, ovl_check_redirect.
 */

/** OVL_REDIRECT_MAX: the kernel writes no longer value, and we believe none. */
export const REDIRECT_MAX = 4096

export type Redirect =
  { readonly absolute: true; readonly parts: string[] } | { readonly absolute: false; readonly name: string }

/** `undefined` for a value that no overlay writes (empty, '..', '.', NUL, '//', too long): the object then has no redirect. */
export function parseRedirect(value: Buffer): Redirect | undefined {
  if (value.length === 0 || value.length > REDIRECT_MAX || value.includes(0)) return undefined
  const text = value.toString('latin1')
  if (!text.startsWith('/')) return isComponent(text) ? { absolute: false, name: text } : undefined
  const parts = text.slice(1).split('/')
  return parts.every(isComponent) ? { absolute: true, parts } : undefined
}

function isComponent(part: string): boolean {
  return part !== '' && part !== '.' && part !== '..' && part.length <= 255 && !part.includes('/')
}
