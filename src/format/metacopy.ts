/**
 * The metacopy attribute: an upper file that has the metadata and not (yet) the data.
 * Layout (struct ovl_metacopy): empty, or version u8 = 0, len u8, flags u8, digest_algo u8, digest[len - 4].
 *
 * Source: fs/overlayfs/overlayfs.h, fs/overlayfs/util.c (ovl_check_metacopy_xattr).
 */

export interface Metacopy {
  /** The fs-verity digest that the data must have, and its algorithm; absent where none was recorded. */
  readonly digest?: { readonly algorithm: number; readonly bytes: Buffer }
}

const HEADER = 4

/** `undefined` for garbage: the kernel answers EIO there, and so do we. */
export function parseMetacopy(value: Buffer): Metacopy | undefined {
  if (value.length === 0) return {}
  if (value.length < HEADER || value[0] !== 0 || value[1] !== value.length || value[2] !== 0) return undefined
  if (value.length === HEADER) return {}
  return { digest: { algorithm: value[3] ?? 0, bytes: Buffer.from(value.subarray(HEADER)) } }
}

/** What we write: no digest. The empty form is understood by every kernel that knows metacopy. */
export const METACOPY_WITHOUT_DIGEST = Buffer.alloc(0)
