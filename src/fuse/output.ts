/**
 * Encodes replies straight into the transport's output buffer: fuse_out_header at 0, the payload from 16 on.
 * Every method returns the number of payload bytes it wrote.
 */
import type {
  Attr as AttrValues,
  AttrReply,
  Entry,
  OpenReply,
  StatFsReply,
  StatxReply,
} from './filesystem.js'
import { STATX_BASIC_STATS, STATX_BTIME } from './flags.js'
import { Frame } from './frame.js'
import {
  Attr,
  AttrOut,
  EntryOut,
  IoctlOut,
  Kstatfs,
  OpenOut,
  OutHeader,
  StatfsOut,
  Statx,
  StatxOut,
  SxTime,
} from './structs.js'

export const PAYLOAD = OutHeader.size

/**
 * The kernel adds a timeout to its clock in jiffies and cuts it off far above this one (fuse_time_to_jiffies), so that
 * nothing can wrap around: 2^40 - 1 seconds, 34,000 years, is "for ever" on every architecture.
 */
const FOREVER_SECONDS = 0xff_ffff_ffff

const NANOSECONDS = 1_000_000_000

/** A timeout in seconds as replies have it. */
export function timeoutWords(timeout: number): { seconds: number; nanoseconds: number } {
  if (timeout >= FOREVER_SECONDS) return { seconds: FOREVER_SECONDS, nanoseconds: 0 }
  if (!(timeout > 0)) return { seconds: 0, nanoseconds: 0 }
  const seconds = Math.floor(timeout)
  return { seconds, nanoseconds: Math.floor((timeout - seconds) * NANOSECONDS) }
}

export class Output extends Frame {
  readonly capacity: number

  constructor(memory: ArrayBuffer) {
    super(memory)
    this.capacity = memory.byteLength
  }

  /** `error` is 0 or negative, or a notification code. */
  header(length: number, error: number, uniqueHigh: number, uniqueLow: number): void {
    const words = this.words
    words[0] = length
    words[1] = error
    this.setHighLow(OutHeader.at.unique, uniqueHigh, uniqueLow)
  }

  /** A timeout as seconds and nanoseconds; Infinity is for ever, NaN and negative ones are none at all. */
  private timeout(secondsAt: number, nanosecondsAt: number, timeout: number): void {
    const { seconds, nanoseconds } = timeoutWords(timeout)
    this.set64(secondsAt, seconds)
    this.setU32(nanosecondsAt, nanoseconds)
  }

  private attr(at: number, attr: AttrValues): void {
    this.set64(at + Attr.at.ino, attr.ino)
    this.set64(at + Attr.at.size, attr.size)
    this.set64(at + Attr.at.blocks, attr.blocks)
    this.set64(at + Attr.at.atime, attr.atime)
    this.set64(at + Attr.at.mtime, attr.mtime)
    this.set64(at + Attr.at.ctime, attr.ctime)
    this.setU32(at + Attr.at.atimensec, attr.atimeNsec)
    this.setU32(at + Attr.at.mtimensec, attr.mtimeNsec)
    this.setU32(at + Attr.at.ctimensec, attr.ctimeNsec)
    this.setU32(at + Attr.at.mode, attr.mode)
    this.setU32(at + Attr.at.nlink, attr.nlink)
    this.setU32(at + Attr.at.uid, attr.uid)
    this.setU32(at + Attr.at.gid, attr.gid)
    this.setU32(at + Attr.at.rdev, attr.rdev)
    this.setU32(at + Attr.at.blksize, attr.blksize)
    this.setU32(at + Attr.at.flags, 0)
  }

  entryAt(at: number, entry: Entry): void {
    this.set64(at + EntryOut.at.nodeid, entry.nodeid)
    this.set64(at + EntryOut.at.generation, entry.generation)
    this.timeout(at + EntryOut.at.entry_valid, at + EntryOut.at.entry_valid_nsec, entry.entryValid)
    this.timeout(at + EntryOut.at.attr_valid, at + EntryOut.at.attr_valid_nsec, entry.attrValid)
    this.attr(at + EntryOut.at.attr, entry.attr)
  }

  entry(entry: Entry): number {
    this.entryAt(PAYLOAD, entry)
    return EntryOut.size
  }

  /** nodeid 0: the kernel remembers for `entryValid` that the name does not exist. */
  negativeEntry(entryValid: number): number {
    this.words.fill(0, PAYLOAD >>> 2, (PAYLOAD + EntryOut.size) >>> 2)
    this.timeout(PAYLOAD + EntryOut.at.entry_valid, PAYLOAD + EntryOut.at.entry_valid_nsec, entryValid)
    return EntryOut.size
  }

  attrReply(reply: AttrReply): number {
    this.timeout(PAYLOAD + AttrOut.at.attr_valid, PAYLOAD + AttrOut.at.attr_valid_nsec, reply.attrValid)
    this.setU32(PAYLOAD + AttrOut.at.dummy, 0)
    this.attr(PAYLOAD + AttrOut.at.attr, reply.attr)
    return AttrOut.size
  }

  private openAt(at: number, open: OpenReply): void {
    this.set64(at + OpenOut.at.fh, open.fh)
    this.setU32(at + OpenOut.at.open_flags, open.flags)
    this.setU32(at + OpenOut.at.backing_id, open.backingId ?? 0)
  }

  open(open: OpenReply): number {
    this.openAt(PAYLOAD, open)
    return OpenOut.size
  }

  created(entry: Entry, open: OpenReply): number {
    this.entryAt(PAYLOAD, entry)
    this.openAt(PAYLOAD + EntryOut.size, open)
    return EntryOut.size + OpenOut.size
  }

  private statxTime(at: number, seconds: number, nanoseconds: number): void {
    this.set64(at + SxTime.at.tv_sec, seconds)
    this.setU32(at + SxTime.at.tv_nsec, nanoseconds)
  }

  statx(reply: StatxReply): number {
    const { attr, btime } = reply
    const at = PAYLOAD + StatxOut.at.stat
    this.words.fill(0, PAYLOAD >>> 2, (PAYLOAD + StatxOut.size) >>> 2)
    this.timeout(PAYLOAD + StatxOut.at.attr_valid, PAYLOAD + StatxOut.at.attr_valid_nsec, reply.attrValid)
    this.setU32(at + Statx.at.mask, STATX_BASIC_STATS | (btime === undefined ? 0 : STATX_BTIME))
    this.setU32(at + Statx.at.blksize, attr.blksize)
    this.set64(at + Statx.at.attributes, reply.attributes)
    this.set64(at + Statx.at.attributes_mask, reply.attributesMask)
    this.setU32(at + Statx.at.nlink, attr.nlink)
    this.setU32(at + Statx.at.uid, attr.uid)
    this.setU32(at + Statx.at.gid, attr.gid)
    this.setU16(at + Statx.at.mode, attr.mode)
    this.set64(at + Statx.at.ino, attr.ino)
    this.set64(at + Statx.at.size, attr.size)
    this.set64(at + Statx.at.blocks, attr.blocks)
    this.statxTime(at + Statx.at.atime, attr.atime, attr.atimeNsec)
    this.statxTime(at + Statx.at.mtime, attr.mtime, attr.mtimeNsec)
    this.statxTime(at + Statx.at.ctime, attr.ctime, attr.ctimeNsec)
    if (btime !== undefined) this.statxTime(at + Statx.at.btime, btime.sec, btime.nsec)
    // new_decode_dev of linux/kdev_t.h.
    this.setU32(at + Statx.at.rdev_major, (attr.rdev >>> 8) & 0xfff)
    this.setU32(at + Statx.at.rdev_minor, (attr.rdev & 0xff) | ((attr.rdev >>> 12) & 0xfff00))
    return StatxOut.size
  }

  statfs(st: StatFsReply): number {
    const at = PAYLOAD
    this.words.fill(0, PAYLOAD >>> 2, (PAYLOAD + StatfsOut.size) >>> 2)
    this.set64(at + Kstatfs.at.blocks, st.blocks)
    this.set64(at + Kstatfs.at.bfree, st.bfree)
    this.set64(at + Kstatfs.at.bavail, st.bavail)
    this.set64(at + Kstatfs.at.files, st.files)
    this.set64(at + Kstatfs.at.ffree, st.ffree)
    this.setU32(at + Kstatfs.at.bsize, st.bsize)
    this.setU32(at + Kstatfs.at.namelen, st.namelen)
    this.setU32(at + Kstatfs.at.frsize, st.frsize)
    return StatfsOut.size
  }

  ioctl(result: number, output: Buffer): number {
    this.setU32(PAYLOAD + IoctlOut.at.result, result)
    this.setU32(PAYLOAD + IoctlOut.at.flags, 0)
    this.setU32(PAYLOAD + IoctlOut.at.in_iovs, 0)
    this.setU32(PAYLOAD + IoctlOut.at.out_iovs, 0)
    return IoctlOut.size + this.data(PAYLOAD + IoctlOut.size, output)
  }

  /** Copies `data` to `at`. @throws RangeError when it does not fit, which is a fault of the filesystem */
  private data(at: number, data: Buffer): number {
    if (at + data.length > this.capacity) throw new RangeError(`a reply of ${data.length} bytes does not fit`)
    data.copy(this.bytes, at)
    return data.length
  }

  raw(data: Buffer): number {
    return this.data(PAYLOAD, data)
  }

  /** A byte string (latin1). */
  text(text: string): number {
    if (PAYLOAD + text.length > this.capacity)
      throw new RangeError(`a reply of ${text.length} bytes does not fit`)
    return this.bytes.write(text, PAYLOAD, 'latin1')
  }

  /** fuse_getxattr_out, fuse_write_out: one 32-bit number and padding. */
  count32(count: number): number {
    this.setU32(PAYLOAD, count)
    this.setU32(PAYLOAD + 4, 0)
    return 8
  }

  /** fuse_lseek_out, fuse_copy_file_range_out: one 64-bit number. */
  count64(count: number): number {
    this.set64(PAYLOAD, count)
    return 8
  }
}
