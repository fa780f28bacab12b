/**
 * The origin attribute: which lower object an upper one was copied from, as a file handle. It keeps st_ino the same
 * across copy-up and remount, and tells "changed" from "added".
 *
 * Layout (struct ovl_fb, fs/overlayfs/overlayfs.h): version u8 = 0, magic u8 = 0xfb, len u8 (whole record), flags u8,
 * type u8 (of the file handle), uuid 16 bytes of the lower filesystem, then the handle.
 */

const VERSION = 0
const MAGIC = 0xfb
const HEADER = 21
/** OVL_FH_FLAG_* */
const FLAG_BIG_ENDIAN = 1
const FLAG_ANY_ENDIAN = 2
const FLAG_PATH_UPPER = 4
/** MAX_HANDLE_SZ. */
const MAX_HANDLE = 128

export interface Origin {
  /** The file handle's type and bytes, as name_to_handle_at(2) gives them. */
  readonly type: number
  readonly handle: Buffer
  /** s_uuid of the lower filesystem; 16 zero bytes where it has none. */
  readonly uuid: Buffer
  /** The handle is of an upper object (an index entry's `upper` attribute). */
  readonly upper: boolean
}

export function encodeOrigin(origin: Origin): Buffer {
  const out = Buffer.alloc(HEADER + origin.handle.length)
  out[0] = VERSION
  out[1] = MAGIC
  out[2] = out.length
  out[3] = origin.upper ? FLAG_PATH_UPPER : 0
  out[4] = origin.type
  origin.uuid.copy(out, 5, 0, 16)
  origin.handle.copy(out, HEADER)
  return out
}

/** `undefined` for an empty record ("origin unknown"), a foreign version or byte order, or garbage. */
export function decodeOrigin(record: Buffer): Origin | undefined {
  if (record.length <= HEADER || record.length > HEADER + MAX_HANDLE) return undefined
  const flags = record[3] ?? 0
  if (record[0] !== VERSION || record[1] !== MAGIC || record[2] !== record.length) return undefined
  // Handles are opaque bytes of the writing host's order; every host we run on is little endian.
  if ((flags & FLAG_BIG_ENDIAN) !== 0 && (flags & FLAG_ANY_ENDIAN) === 0) return undefined
  return {
    type: record[4] ?? 0,
    uuid: Buffer.from(record.subarray(5, HEADER)),
    handle: Buffer.from(record.subarray(HEADER)),
    upper: (flags & FLAG_PATH_UPPER) !== 0,
  }
}
