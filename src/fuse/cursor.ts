/**
 * The one reader of requests. It never looks outside the message: whatever runs out, or is not as the protocol says,
 * is a BadRequest, which dispatch answers with its errno.
 */
import { E } from '../base/errno.js'
import { NAME_MAX, SYMLINK_MAX } from './flags.js'
import type { Frame } from './frame.js'
import type { Layout } from './layout.js'

/** A request that is not as the protocol says. Cheap: garbage must not cost a stack each. */
export class BadRequest {
  constructor(
    readonly errno: number,
    readonly reason: string,
  ) {}
}

const SLASH = 0x2f
const DOT = 0x2e

export class Cursor {
  frame!: Frame
  /** Next unread byte, and the end of the message. */
  private at = 0
  private end = 0

  /** Preconditions: start <= end <= the memory of the frame. */
  use(frame: Frame, start: number, end: number): this {
    this.frame = frame
    this.at = start
    this.end = end
    return this
  }

  get remaining(): number {
    return this.end - this.at
  }

  /** Consumes a struct and gives its offset in the frame. */
  take(struct: Layout): number {
    const at = this.at
    if (struct.size > this.end - at) throw new BadRequest(E.EINVAL, `${struct.name} is cut off`)
    this.at = at + struct.size
    return at
  }

  /** Offset of the NUL that ends the string at the cursor. */
  private stringEnd(): number {
    const end = this.frame.bytes.indexOf(0, this.at)
    if (end < 0 || end >= this.end) throw new BadRequest(E.EINVAL, 'a name has no end')
    return end
  }

  private consume(end: number): string {
    const text = this.frame.bytes.toString('latin1', this.at, end)
    this.at = end + 1
    return text
  }

  /**
   * A directory entry's name: not empty, without '/', at most 255 bytes, neither "." nor ".." unless `dots`.
   * @throws BadRequest EINVAL, ENAMETOOLONG
   */
  name(dots = false): string {
    const bytes = this.frame.bytes
    const start = this.at
    const limit = Math.min(this.end, start + NAME_MAX + 1)
    let at = start
    while (at < limit) {
      const byte = bytes[at] as number
      if (byte === 0) break
      if (byte === SLASH) throw new BadRequest(E.EINVAL, 'a name has a slash')
      at++
    }
    if (at === limit) {
      this.stringEnd()
      throw new BadRequest(E.ENAMETOOLONG, 'a name is longer than 255 bytes')
    }
    if (at === start) throw new BadRequest(E.EINVAL, 'a name is empty')
    if (!dots && bytes[start] === DOT && (at === start + 1 || (at === start + 2 && bytes[start + 1] === DOT)))
      throw new BadRequest(E.EINVAL, 'a name is . or ..')
    return this.consume(at)
  }

  /** An extended attribute's name, which may have slashes. @throws BadRequest EINVAL, ERANGE */
  attributeName(): string {
    const end = this.stringEnd()
    if (end === this.at) throw new BadRequest(E.EINVAL, 'an attribute name is empty')
    if (end - this.at > NAME_MAX) throw new BadRequest(E.ERANGE, 'an attribute name is longer than 255 bytes')
    return this.consume(end)
  }

  /** Where a symlink leads. @throws BadRequest ENOENT when empty, ENAMETOOLONG */
  target(): string {
    const end = this.stringEnd()
    if (end === this.at) throw new BadRequest(E.ENOENT, 'a symlink target is empty')
    if (end - this.at > SYMLINK_MAX) throw new BadRequest(E.ENAMETOOLONG, 'a symlink target is too long')
    return this.consume(end)
  }

  /** A view of `length` bytes, valid as long as the frame is. */
  data(length: number): Buffer {
    if (length > this.end - this.at) throw new BadRequest(E.EINVAL, 'data is cut off')
    const view = this.frame.bytes.subarray(this.at, this.at + length)
    this.at += length
    return view
  }
}
