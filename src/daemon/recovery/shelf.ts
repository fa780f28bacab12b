/**
 * Objects to which no name leads any more (unlinked while in use, O_TMPFILE), kept beyond the daemon's death by their descriptors.
 *
 * They lie in a socket between two ends that the keeper has open as well: a descriptor in a message is a reference of its own, and costs
 * the daemon one call to put there and one to take away, and the keeper nothing. Messages cannot be taken from the middle, so those of
 * objects that are gone stay until the shelf is empty, or until they are most: then the others are packed into the second socket, and
 * the first is emptied. At every moment one of the two has all.
 *
 * What cannot be kept (the limit of descriptors, RLIMIT_NOFILE, holds for those in sockets too) is lost with the daemon: its users get ESTALE.
 */
import * as sys from '../../sys/index.js'
import { debug } from '../../base/log.js'
import { SysError } from '../../base/sys-error.js'
import type { Fd } from '../../base/fd.js'

const log = debug('daemon')

/** SCM_MAX_FD. */
const MOST_IN_MESSAGE = 253
/** Messages of things gone that are tolerated: each keeps its object, and the room it takes on disk. */
const MOST_GONE = 16

/** More messages than any socket holds. */
const MORE_THAN_FIT = 2 ** 40

interface Side {
  readonly send: number
  readonly receive: number
}

export class Shelf {
  private readonly sides: readonly [Side, Side]
  private current = 0
  private readonly held = new Map<number, number>()
  private gone = 0
  /** On the current side: whoever knows how many there are need not ask whether there is another. */
  private messages = 0

  /** Two socket pairs, four descriptors. */
  constructor(fds: readonly number[]) {
    const [a = -1, b = -1, c = -1, d = -1] = fds
    this.sides = [
      { send: a, receive: b },
      { send: c, receive: d },
    ]
  }

  put(nodeid: number, fd: number): void {
    this.held.set(nodeid, fd)
    if (this.send(this.side, [nodeid], [fd])) {
      this.messages++
      return
    }
    if (this.repack()) return
    log?.(`nodeid ${nodeid}: no room to keep it beyond this daemon`)
  }

  drop(nodeid: number): void {
    if (!this.held.delete(nodeid)) return
    this.gone++
    if (this.held.size === 0) {
      sys.discardMessages(this.side.receive, this.messages)
      this.gone = this.messages = 0
    } else if (this.gone > MOST_GONE && this.gone > this.held.size) {
      this.repack()
    }
  }

  /**
   * What a predecessor left: nodeid and descriptor. The descriptors are the caller's, and stay on the shelf, until {@link settle} says
   * which are wanted.
   */
  take(): Map<number, Fd> {
    const found = new Map<number, Fd>()
    const counts = this.sides.map(side => this.peek(side, found))
    this.current = (counts[0] ?? 0) >= (counts[1] ?? 0) ? 0 : 1
    return found
  }

  /** Keeps these, and nothing else. */
  settle(wanted: ReadonlyMap<number, number>): void {
    for (const [nodeid, fd] of wanted) this.held.set(nodeid, fd)
    const other = this.sides[1 - this.current] as Side
    sys.discardMessages(other.receive)
    if (wanted.size > 0 && this.repack()) return
    if (wanted.size === 0) sys.discardMessages(this.side.receive)
    // Where repacking failed nobody knows: then all that are there are taken.
    this.messages = wanted.size === 0 ? 0 : MORE_THAN_FIT
  }

  private get side(): Side {
    return this.sides[this.current] as Side
  }

  private peek(side: Side, into: Map<number, Fd>): number {
    const buffer = Buffer.alloc(MOST_IN_MESSAGE * 8)
    let count = 0
    sys.setPeekOffset(side.receive, 0)
    for (;;) {
      const message = sys.peekFd(side.receive, buffer)
      if (message === undefined) break
      for (const [i, fd] of message.fds.entries()) {
        const nodeid = buffer.readDoubleLE(i * 8)
        count++
        if (into.has(nodeid)) fd.close()
        else into.set(nodeid, fd)
      }
    }
    sys.setPeekOffset(side.receive, -1)
    return count
  }

  /** False: nothing was sent. */
  private send(side: Side, nodeids: readonly number[], fds: readonly number[]): boolean {
    const payload = Buffer.alloc(nodeids.length * 8)
    for (const [i, nodeid] of nodeids.entries()) payload.writeDoubleLE(nodeid, i * 8)
    try {
      sys.sendFd(side.send, fds, payload)
      return true
    } catch (error) {
      if (error instanceof SysError) return false
      throw error
    }
  }

  private repack(): boolean {
    const other = this.sides[1 - this.current] as Side
    const all = [...this.held]
    for (let from = 0; from < all.length; from += MOST_IN_MESSAGE) {
      const part = all.slice(from, from + MOST_IN_MESSAGE)
      const sent = this.send(
        other,
        part.map(([nodeid]) => nodeid),
        part.map(([, fd]) => fd),
      )
      if (!sent) {
        sys.discardMessages(other.receive)
        return false
      }
    }
    const before = this.side
    this.current = 1 - this.current
    this.gone = 0
    this.messages = Math.ceil(all.length / MOST_IN_MESSAGE)
    sys.discardMessages(before.receive)
    return true
  }
}
