/**
 * Objects to which no name leads any more (unlinked while in use, O_TMPFILE), kept beyond the daemon's death by their descriptors.
 *
 * Most are forgotten by the kernel a moment later (`rm`), so at first they are only listed in memory, from which another process puts
 * them here when the daemon dies (held-table.ts). What is listed for longer than a second is put here by the daemon, many at a time:
 * then it takes more than the end of two processes to lose it. And so is everything while there is no such process: before the first
 * object, and where none can be started or it was killed, until the next one runs.
 *
 * They lie in a socket between two ends that the keeper has open as well: a descriptor in a message is a reference of its own, and costs
 * the daemon one call to put there and one to take away, and the keeper nothing. Messages cannot be taken from the middle, so those of
 * objects that are gone stay until the shelf is empty, or until they are most: then the others are packed into the second socket, and
 * the first is emptied. At every moment one of the two has all, but for what the other process has put into the second because the first
 * was full.
 *
 * What cannot be kept (the limit of descriptors, RLIMIT_NOFILE, holds for those in sockets too) is lost with the daemon: its users get ESTALE.
 */
import * as sys from '../../sys/index.js'
import { debug } from '../../base/log.js'
import { SysError } from '../../base/sys-error.js'
import type { Fd } from '../../base/fd.js'
import type { HeldTable } from './held-table.js'

const log = debug('daemon')

/** SCM_MAX_FD. */
const MOST_IN_MESSAGE = 253
/** Messages of things gone that are tolerated: each keeps its object, and the room it takes on disk. */
const MOST_GONE = 16

/** More messages than any socket holds. */
const MORE_THAN_FIT = 2 ** 40

/** How long something is only listed, once or twice as long; milliseconds. */
const TICK = 1000
/** Where the process cannot be started it is tried again after so many milliseconds. */
const RETRY = 60_000

interface Side {
  readonly send: number
  readonly receive: number
}

export class Shelf {
  private readonly sides: readonly [Side, Side]
  private current: 0 | 1 = 0
  private readonly held = new Map<number, number>()
  private gone = 0
  /** On the current side: whoever knows how many there are need not ask whether there is another. */
  private messages = 0
  /** What a predecessor's process has put into the side that is not current, and nobody else has. */
  private spilled: number[] = []
  /** What is listed and has been for a tick, by descriptor: its nodeid. */
  private aged = new Map<number, number>()
  private timer: NodeJS.Timeout | undefined
  /** When the process may be started, milliseconds since 1970. */
  private startAt = 0

  /** Two socket pairs, four descriptors. Without a table everything is put here at once. */
  constructor(
    fds: readonly number[],
    private readonly table?: HeldTable,
  ) {
    const [a = -1, b = -1, c = -1, d = -1] = fds
    this.sides = [
      { send: a, receive: b },
      { send: c, receive: d },
    ]
  }

  put(nodeid: number, fd: number): void {
    const { table } = this
    if (table !== undefined) {
      const listed = table.list(nodeid, fd)
      if (this.timer === undefined) this.tickAfter(table, listed ? TICK : this.startAt - Date.now())
      if (listed) return
    }
    if (this.lay([[nodeid, fd]])) return
    // There may be room when the others are packed anew.
    this.held.set(nodeid, fd)
    log?.(`nodeid ${nodeid}: no room to keep it beyond this daemon`)
  }

  /** To be called before `fd` is closed. */
  drop(nodeid: number, fd: number): void {
    if (this.table?.strike(nodeid, fd) === true) return
    if (!this.held.delete(nodeid)) return
    this.gone++
    if (this.held.size === 0) {
      sys.discardMessages(this.side.receive, this.messages)
      this.gone = this.messages = 0
    } else if (this.gone > MOST_GONE && this.gone > this.held.size) {
      this.repack()
    }
  }

  private tickAfter(table: HeldTable, milliseconds: number): void {
    this.timer = setTimeout(() => {
      this.timer = undefined
      this.tick(table)
    }, milliseconds).unref()
  }

  private tick(table: HeldTable): void {
    const { outlives } = table
    const listed = table.listed()
    // A number that is listed for the same object at two ticks was so in between: nodeids are not used again.
    const old = outlives ? listed.filter(([nodeid, fd]) => this.aged.get(fd) === nodeid) : listed
    for (let from = 0; from < old.length; from += MOST_IN_MESSAGE) {
      const part = old.slice(from, from + MOST_IN_MESSAGE)
      // Where there is no room it stays listed, which is better than nothing.
      if (!this.lay(part)) break
      for (const [nodeid, fd] of part) table.strike(nodeid, fd)
    }
    this.aged = new Map(listed.map(([nodeid, fd]) => [fd, nodeid]))
    const now = Date.now()
    if (!outlives && now >= this.startAt)
      this.startAt = now + (table.start([this.sides[0].send, this.sides[1].send]) ? TICK : RETRY)
    if (listed.length > 0) this.tickAfter(table, TICK)
  }

  /**
   * What a predecessor left: nodeid and descriptor. The descriptors are the caller's, and stay on the shelf, until {@link settle} says
   * which are wanted.
   */
  take(): Map<number, Fd> {
    const left = this.table?.inherit() ?? []
    const [first, second] = [new Map<number, Fd>(), new Map<number, Fd>()]
    const counts = [this.peek(this.sides[0], first), this.peek(this.sides[1], second)] as const
    const [most, fewer] = counts[0] >= counts[1] ? [first, second] : [second, first]
    this.turnTo(most === first ? 0 : 1)
    for (const [nodeid, fd] of fewer) {
      if (most.has(nodeid)) fd.close()
      else {
        most.set(nodeid, fd)
        this.spilled.push(nodeid)
      }
    }
    const lost = left.filter(nodeid => !most.has(nodeid)).length
    if (lost > 0)
      process.stderr.write(`lamina: ${lost} files without a name are lost: what kept them was ended, too\n`)
    return most
  }

  /** Keeps these, and nothing else. */
  settle(wanted: ReadonlyMap<number, number>): void {
    const spilled = this.spilled.flatMap((nodeid): [number, number][] => {
      const fd = wanted.get(nodeid)
      return fd === undefined ? [] : [[nodeid, fd]]
    })
    this.spilled = []
    for (let from = 0; from < spilled.length; from += MOST_IN_MESSAGE)
      this.send(this.side, spilled.slice(from, from + MOST_IN_MESSAGE))
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

  private turnTo(side: 0 | 1): void {
    this.current = side
    if (this.table !== undefined) this.table.side = side
  }

  /** At most as many as a message holds. False: there is no room for them. */
  private lay(objects: readonly (readonly [nodeid: number, fd: number])[]): boolean {
    for (const [nodeid, fd] of objects) this.held.set(nodeid, fd)
    if (this.send(this.side, objects)) {
      this.messages++
      return true
    }
    if (this.repack()) return true
    for (const [nodeid] of objects) this.held.delete(nodeid)
    return false
  }

  /** False: nothing was sent. */
  private send(side: Side, objects: readonly (readonly [nodeid: number, fd: number])[]): boolean {
    const payload = Buffer.alloc(objects.length * 8)
    for (const [i, [nodeid]] of objects.entries()) payload.writeDoubleLE(nodeid, i * 8)
    const fds = objects.map(([, fd]) => fd)
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
      if (!this.send(other, all.slice(from, from + MOST_IN_MESSAGE))) {
        sys.discardMessages(other.receive)
        return false
      }
    }
    const before = this.side
    this.turnTo(this.current === 0 ? 1 : 0)
    this.gone = 0
    this.messages = Math.ceil(all.length / MOST_IN_MESSAGE)
    sys.discardMessages(before.receive)
    return true
  }
}
