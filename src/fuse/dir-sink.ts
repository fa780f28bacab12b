/** Fills READDIR and READDIRPLUS replies, never beyond what the kernel asked for. */
import type { DirSink, Entry } from './filesystem.js'
import type { Output } from './output.js'
import { PAYLOAD } from './output.js'
import { Dirent, Direntplus, EntryOut } from './structs.js'

/** FUSE_REC_ALIGN: records start at multiples of 8 bytes. */
function align(size: number): number {
  return (size + 7) & ~7
}

export class ReplySink implements DirSink {
  plus = false
  private at = PAYLOAD
  private end = PAYLOAD

  constructor(private readonly out: Output) {}

  /** Starts a reply of at most `size` bytes. */
  start(plus: boolean, size: number): this {
    this.plus = plus
    this.at = PAYLOAD
    this.end = Math.min(PAYLOAD + size, this.out.capacity)
    return this
  }

  /** Payload bytes so far. */
  get length(): number {
    return this.at - PAYLOAD
  }

  private get record(): number {
    return this.plus ? Direntplus.size : Dirent.size
  }

  fits(name: string): boolean {
    return this.at + align(this.record + name.length) <= this.end
  }

  private dirent(at: number, name: string, ino: number, type: number, cookie: number): void {
    const { out } = this
    const length = name.length
    out.set64(at + Dirent.at.ino, ino)
    out.set64(at + Dirent.at.off, cookie)
    out.setU32(at + Dirent.at.namelen, length)
    out.setU32(at + Dirent.at.type, type)
    const start = at + Dirent.size
    const end = start + length
    if (length < 24) for (let i = 0; i < length; i++) out.bytes[start + i] = name.charCodeAt(i)
    else out.bytes.write(name, start, 'latin1')
    for (let pad = end; (pad & 7) !== 0; pad++) out.bytes[pad] = 0
  }

  add(name: string, ino: number, type: number, cookie: number): boolean {
    const next = this.at + align(Dirent.size + name.length)
    if (next > this.end) return false
    this.dirent(this.at, name, ino, type, cookie)
    this.at = next
    return true
  }

  addPlus(name: string, cookie: number, type: number, entry: Entry | undefined, ino: number): boolean {
    const next = this.at + align(Direntplus.size + name.length)
    if (next > this.end) return false
    if (entry === undefined) this.out.words.fill(0, this.at >>> 2, (this.at + EntryOut.size) >>> 2)
    else this.out.entryAt(this.at, entry)
    this.dirent(this.at + Direntplus.at.dirent, name, ino, type, cookie)
    this.at = next
    return true
  }

  /** The lookup references that the reply in `out` hands to the kernel: to be given back when it was not delivered. */
  forEachReference(forget: (nodeid: number) => void): void {
    if (!this.plus) return
    for (let at = PAYLOAD; at < this.at;) {
      const nameLength = this.out.u32(at + Direntplus.at.dirent + Dirent.at.namelen)
      const nodeid = this.out.u64(at + EntryOut.at.nodeid)
      const dot = nameLength <= 2 && this.isDots(at + Direntplus.size, nameLength)
      if (nodeid !== 0 && !dot) forget(nodeid)
      at += align(Direntplus.size + nameLength)
    }
  }

  private isDots(at: number, length: number): boolean {
    for (let i = 0; i < length; i++) if (this.out.bytes[at + i] !== 0x2e) return false
    return true
  }
}
