/**
 * Frames from a recording, or made by a test; replies are collected. The data plane is pretended: a READ is answered
 * with no bytes (end of file), a WRITE with its size, so that exactly one reply is due here as well.
 */
import { E } from '../base/errno.js'
import * as sys from '../sys/index.js'
import { Op, OP_LIMIT } from './opcodes.js'
import { Output, PAYLOAD } from './output.js'
import { InHeader, WriteIn } from './structs.js'
import type { Transport, TransportCounters } from './transport.js'

export interface Reply {
  /** fuse_out_header.unique, exact. */
  readonly unique: bigint
  /** 0 or negative. */
  readonly error: number
  readonly payload: Buffer
}

const DEFAULT_SIZE = 1024 * 1024 + 4096

export class ReplayTransport implements Transport {
  readonly input: ArrayBuffer
  readonly output: ArrayBuffer
  readonly replies: Reply[] = []
  readonly notifications: Buffer[] = []
  /** What send() gives from now on; a negative one is a reply that the kernel did not take. */
  sendResult = 0

  private readonly files = new Map<number, { fd: number; writable: boolean; pinned: boolean }>()
  private readonly requests = new Float64Array(OP_LIMIT)
  private frames = 0
  private notified: ((number: number) => void) | undefined
  private onFrame: ((length: number) => void) | undefined
  private onEnd: ((errno: number) => void) | undefined

  constructor(size = DEFAULT_SIZE) {
    this.input = new ArrayBuffer(size)
    this.output = new ArrayBuffer(size)
  }

  start(onFrame: (length: number) => void, onEnd: (errno: number) => void): void {
    this.onFrame = onFrame
    this.onEnd = onEnd
  }

  /** Delivers one frame. A frame larger than the input is cut, as a read(2) would. */
  feed(frame: Buffer): void {
    const length = Math.min(frame.length, this.input.byteLength)
    const memory = Buffer.from(this.input)
    frame.copy(memory, 0, 0, length)
    const op = length >= InHeader.size ? memory.readUInt32LE(InHeader.at.opcode) : OP_LIMIT
    if (op < OP_LIMIT) (this.requests[op] as number)++
    this.frames++
    this.onFrame?.(length)
    // The next frame overwrites this one; whoever still reads it shall be caught in the act.
    memory.fill(0xdb, 0, length)
  }

  /** Ends the connection as the device would. */
  end(errno: number = E.ENODEV): void {
    this.onEnd?.(errno)
  }

  send(length: number): number {
    return this.sendBuffer(Buffer.from(this.output, 0, length))
  }

  sendBuffer(message: Buffer): number {
    this.replies.push({
      unique: message.readBigUInt64LE(8),
      error: message.readInt32LE(4),
      payload: Buffer.from(message.subarray(PAYLOAD, message.readUInt32LE(0))),
    })
    return this.sendResult
  }

  fileOf(): undefined {
    return undefined
  }

  onNotified(callback: (number: number) => void): void {
    this.notified = callback
  }

  notify(message: Buffer): number {
    this.notifications.push(Buffer.from(message))
    const number = this.notifications.length
    setImmediate(() => this.notified?.(number))
    return number
  }

  notifying(): number {
    return 0
  }

  resubmit(frame: Buffer): void {
    const isWrite = frame.readUInt32LE(InHeader.at.opcode) === Op.WRITE
    const out = new Output(new ArrayBuffer(PAYLOAD + 8))
    const payload = isWrite ? out.count32(frame.readUInt32LE(InHeader.size + WriteIn.at.size)) : 0
    const unique = InHeader.at.unique
    out.header(PAYLOAD + payload, 0, frame.readUInt32LE(unique + 4), frame.readUInt32LE(unique))
    this.sendBuffer(out.bytes.subarray(0, PAYLOAD + payload))
  }

  private mostFiles = Infinity

  registerFile(nodeid: number, fd: number, writable: boolean): void {
    const before = this.files.get(nodeid)
    if (before !== undefined) sys.close(before.fd)
    this.files.delete(nodeid)
    this.files.set(nodeid, { fd, writable, pinned: before?.pinned ?? false })
    this.keepFiles(this.mostFiles)
  }

  showFiles(): void {
    // Every frame is handled.
  }

  limit(): void {
    // Recorded frames write no data.
  }

  followAttributes(): void {
    // Every frame is handled.
  }

  readonly newest = new Float64Array(1)

  answerNames(): void {
    // Every frame is handled.
  }

  tellFiles(): void {
    // Every frame is handled.
  }

  takeIssued(): readonly [] {
    return []
  }

  answersChanged(): void {
    // Nothing is remembered.
  }

  hasWork(): void {
    // It never waits.
  }

  askAll(): void {
    // It always does.
  }

  unregisterFile(nodeid: number): boolean {
    const file = this.files.get(nodeid)
    if (file === undefined) return false
    sys.close(file.fd)
    return this.files.delete(nodeid)
  }

  isRegistered(nodeid: number): 0 | 1 | 2 {
    const file = this.files.get(nodeid)
    return file === undefined ? 0 : file.writable ? 2 : 1
  }

  pin(nodeid: number, on: boolean): void {
    const file = this.files.get(nodeid)
    if (file !== undefined) file.pinned = on
  }

  keepFiles(max: number): number {
    this.mostFiles = max
    let closed = 0
    for (const [nodeid, file] of this.files) {
      if (this.files.size <= max) break
      if (!file.pinned && this.unregisterFile(nodeid)) closed++
    }
    return closed
  }

  backingOpen(): number {
    return -E.EPERM
  }

  backingClose(): number {
    return -E.EPERM
  }

  counters(): TransportCounters {
    return {
      requests: this.requests.slice(),
      framesToJs: this.frames,
      readsInline: 0,
      readsThreaded: 0,
      writesInline: 0,
      writesThreaded: 0,
      bytesRead: 0,
      bytesWritten: 0,
      registered: this.files.size,
      wakeups: 0,
      followed: 0,
      namesAnswered: 0,
      attributesAnswered: 0,
    }
  }

  close(): void {
    for (const nodeid of [...this.files.keys()]) this.unregisterFile(nodeid)
    this.onFrame = undefined
    this.onEnd = undefined
  }
}
