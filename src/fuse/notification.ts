/** Messages that the daemon sends unasked. Each is a buffer of its own, ready for Transport.notify. */
import { NAME_MAX, NOTIFY } from './flags.js'
import { Output, PAYLOAD } from './output.js'
import { NotifyDeleteOut, NotifyInvalEntryOut, NotifyInvalInodeOut } from './structs.js'

function message(payload: number, code: number): Output {
  const out = new Output(new ArrayBuffer((PAYLOAD + payload + 7) & ~7))
  out.header(PAYLOAD + payload, code, 0, 0)
  return out
}

function sized(out: Output, payload: number): Buffer {
  return out.bytes.subarray(0, PAYLOAD + payload)
}

/**
 * FUSE_NOTIFY_INVAL_INODE: the kernel asks for the attributes again, and drops cached data from `offset`.
 * `offset` negative: attributes only. `length` 0 or less: to the end.
 */
export function invalidateInode(nodeid: number, offset: number, length: number): Buffer {
  const out = message(NotifyInvalInodeOut.size, NOTIFY.INVAL_INODE)
  out.set64(PAYLOAD + NotifyInvalInodeOut.at.ino, nodeid)
  out.set64(PAYLOAD + NotifyInvalInodeOut.at.off, offset)
  out.set64(PAYLOAD + NotifyInvalInodeOut.at.len, length)
  return sized(out, NotifyInvalInodeOut.size)
}

/** A name, and the NUL that the kernel insists on. @throws RangeError for a name that no entry can have */
function putName(out: Output, at: number, name: string): number {
  if (name.length === 0 || name.length > NAME_MAX) throw new RangeError('not the name of a directory entry')
  out.bytes.write(name, at, 'latin1')
  out.bytes[at + name.length] = 0
  return name.length + 1
}

const EXPIRE_ONLY = 1 << 0

/**
 * FUSE_NOTIFY_INVAL_ENTRY: the kernel looks the name up again. `expire`: it goes on with the same object if that is still what the name stands
 * for, with what is mounted there (HAS_EXPIRE_ONLY).
 */
export function invalidateEntry(parent: number, name: string, expire = false): Buffer {
  const payload = NotifyInvalEntryOut.size + name.length + 1
  const out = message(payload, NOTIFY.INVAL_ENTRY)
  out.set64(PAYLOAD + NotifyInvalEntryOut.at.parent, parent)
  out.setU32(PAYLOAD + NotifyInvalEntryOut.at.namelen, name.length)
  out.setU32(PAYLOAD + NotifyInvalEntryOut.at.flags, expire ? EXPIRE_ONLY : 0)
  putName(out, PAYLOAD + NotifyInvalEntryOut.size, name)
  return sized(out, payload)
}

/** FUSE_NOTIFY_DELETE: the name is gone, as if unlinked through the mount (watchers see IN_DELETE). */
export function deleteEntry(parent: number, child: number, name: string): Buffer {
  const payload = NotifyDeleteOut.size + name.length + 1
  const out = message(payload, NOTIFY.DELETE)
  out.set64(PAYLOAD + NotifyDeleteOut.at.parent, parent)
  out.set64(PAYLOAD + NotifyDeleteOut.at.child, child)
  out.setU32(PAYLOAD + NotifyDeleteOut.at.namelen, name.length)
  putName(out, PAYLOAD + NotifyDeleteOut.size, name)
  return sized(out, payload)
}

/** FUSE_NOTIFY_RESEND: every request that was read and not answered is sent again, with the top bit of unique set. */
export function resend(): Buffer {
  return sized(message(0, NOTIFY.RESEND), 0)
}
