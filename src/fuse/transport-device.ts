/**
 * /dev/fuse, through the addon's Channel (native/channel.cc). READ and WRITE of registered files never come here: the
 * channel serves them itself, inline or on threads of its own. Nor do some requests whose answer it knows (native/answers.h).
 */
import type { Account } from '../sys/account.js'
import { addon, type AccountHandle } from '../sys/addon.js'
import { SysError } from '../base/sys-error.js'
import { OP_LIMIT } from './opcodes.js'
import type { AnsweredDirectory, Issued, LowerFile, Told } from './filesystem.js'
import { timeoutWords } from './output.js'
import type { Transport, TransportCounters } from './transport.js'

/** As native/channel-methods.cc exports it. */
export interface Channel {
  readonly input: ArrayBuffer
  readonly output: ArrayBuffer
  start(): number
  send(length: number): number
  sendBuffer(message: Uint8Array): number
  notify(message: Uint8Array): number
  onNotified(callback: (number: number) => void): void
  notifying(): number
  close(): void
  registerFile(
    nodeid: number,
    fd: number,
    writable: boolean,
    ino?: number,
    stamp?: number,
    most?: number,
    appends?: boolean,
  ): void
  fileOf(nodeid: number): number
  showFiles(seconds: number, nanoseconds: number): void
  limit(account: AccountHandle): void
  unregisterFile(nodeid: number): boolean
  isRegistered(nodeid: number): 0 | 1 | 2
  pin(nodeid: number, on: boolean): boolean
  keepFiles(max: number): number
  resubmit(frame: Uint8Array): void
  followAttributes(nodeid: number, fd: number, oneLink: boolean): void
  /** Doubles: native/names.h. */
  readonly issued: ArrayBuffer
  answerNames(
    nodeid: number,
    reals: Uint8Array,
    known: string | undefined,
    seconds: number,
    nanoseconds: number,
    linksApart: boolean,
  ): void
  tellFiles(directory: number, words: Uint8Array, names: string): void
  keepIssued(memory: ArrayBuffer, places: Uint8Array): void
  takeNames(): string
  answersChanged(nodeid: number): void
  hasWork(on: boolean): void
  askAll(): void
  backingOpen(fd: number): number
  backingClose(id: number): number
  counters(): Float64Array
}

export interface FuseAddon {
  readonly Channel: new (
    fd: number,
    bufferSize: number,
    onFrame: (length: number) => void,
    onEnd: (errno: number) => void,
    inputFile?: number,
    inputOffset?: number,
    forgetsOffset?: number,
  ) => Channel
  /** The compiler's view of the protocol: `size` and `[offset, size]` of each field. */
  abi(): Record<string, { size: number; fields: Record<string, [offset: number, size: number]> }>
}

export const native = addon as unknown as FuseAddon

/** Room for a WRITE's headers before its data; the kernel wants fuse_in_header + fuse_write_in, 80 bytes. */
const HEADROOM = 4096

/** Where a successor finds what this process had read and not carried out, and the inodes that were made without JavaScript. */
export interface KeptInput {
  /** A file that holds the frame being handled from `offset`, and FORGETs that are not handled yet from `forgets`. */
  readonly fd: number
  readonly offset: number
  readonly forgets: number
  /** Its memory, and the places of native/journal.h's IssueJournal in it. */
  readonly memory: ArrayBuffer
  readonly issues: Uint32Array
}

/** Of the words that native/names.h writes: how many inodes, where the first one is, and how many words each has. */
const ISSUED_COUNT = 1
const ISSUED_FIRST = 2
const ISSUED_WORDS = 10
const NONE: readonly Issued[] = []

export class DeviceTransport implements Transport {
  readonly input: ArrayBuffer
  readonly output: ArrayBuffer
  readonly newest: Float64Array
  private readonly issued: Float64Array
  private readonly channel: Channel
  private onFrame: (length: number) => void = () => undefined
  private onEnd: (errno: number) => void = () => undefined

  /**
   * `fd` is an open /dev/fuse; it belongs to the transport from here on and is made non-blocking.
   * `maxWrite` is the largest READ or WRITE that INIT will agree on, bytes.
   */
  constructor(fd: number, maxWrite: number, input?: KeptInput) {
    this.channel = new native.Channel(
      fd,
      maxWrite + HEADROOM,
      length => {
        this.onFrame(length)
      },
      errno => {
        this.onEnd(errno)
      },
      input?.fd,
      input?.offset,
      input?.forgets,
    )
    this.input = this.channel.input
    this.output = this.channel.output
    if (input !== undefined) this.channel.keepIssued(input.memory, Buffer.from(input.issues.buffer))
    this.issued = new Float64Array(this.channel.issued)
    this.newest = this.issued.subarray(0, 1)
  }

  /** @throws SysError EPERM, EBADF … when the fd cannot be polled */
  start(onFrame: (length: number) => void, onEnd: (errno: number) => void): void {
    this.onFrame = onFrame
    this.onEnd = onEnd
    const rc = this.channel.start()
    if (rc < 0) throw new SysError(-rc, 'epoll_ctl', '/dev/fuse')
  }

  send(length: number): number {
    return this.channel.send(length)
  }
  sendBuffer(message: Buffer): number {
    return this.channel.sendBuffer(message)
  }
  notify(message: Buffer): number {
    return this.channel.notify(message)
  }
  onNotified(callback: (number: number) => void): void {
    this.channel.onNotified(callback)
  }
  notifying(): number {
    return this.channel.notifying()
  }
  resubmit(frame: Buffer): void {
    this.channel.resubmit(frame)
  }
  registerFile(nodeid: number, fd: number, writable: boolean, ino?: number, told?: Told | 'unknown'): void {
    if (told === undefined) this.channel.registerFile(nodeid, fd, writable, ino)
    else if (told === 'unknown') this.channel.registerFile(nodeid, fd, writable, ino, 0, 0, true)
    else this.channel.registerFile(nodeid, fd, writable, ino, told.stamp, told.most)
  }
  fileOf(nodeid: number): number | undefined {
    const fd = this.channel.fileOf(nodeid)
    return fd < 0 ? undefined : fd
  }
  showFiles(timeout: number): void {
    const { seconds, nanoseconds } = timeoutWords(timeout)
    this.channel.showFiles(seconds, nanoseconds)
  }
  limit(account: Account): void {
    this.channel.limit(account.handle)
  }
  unregisterFile(nodeid: number): boolean {
    return this.channel.unregisterFile(nodeid)
  }
  isRegistered(nodeid: number): 0 | 1 | 2 {
    return this.channel.isRegistered(nodeid)
  }
  pin(nodeid: number, on: boolean): void {
    this.channel.pin(nodeid, on)
  }
  keepFiles(max: number): number {
    return this.channel.keepFiles(max)
  }
  followAttributes(nodeid: number, fd: number, oneLink: boolean): void {
    this.channel.followAttributes(nodeid, fd, oneLink)
  }
  answerNames({ nodeid, reals, known, timeout, linksApart }: AnsweredDirectory): void {
    const words = new Float64Array(
      reals.flatMap(({ fd, upper, markers, inos }) => [
        fd,
        (upper ? 1 : 0) | (markers ? 2 : 0),
        inos.base,
        inos.limit,
      ]),
    )
    const names = known?.map(name => name + '\0').join('')
    const { seconds, nanoseconds } = timeoutWords(timeout)
    this.channel.answerNames(nodeid, Buffer.from(words.buffer), names, seconds, nanoseconds, linksApart)
  }

  tellFiles(directory: number, files: readonly LowerFile[]): void {
    const words = new Float64Array(
      files.flatMap(({ nodeid, below, ino, stamp, most }) => [nodeid, below, ino, stamp, most]),
    )
    this.channel.tellFiles(
      directory,
      Buffer.from(words.buffer),
      files.map(({ name }) => name + '\0').join(''),
    )
  }

  takeIssued(): readonly Issued[] {
    const { issued } = this
    const count = issued[ISSUED_COUNT] as number
    if (count === 0) return NONE
    const names = this.channel.takeNames().split('\0')
    const taken: Issued[] = []
    for (let i = 0; i < count; i++) {
      const at = ISSUED_FIRST + i * ISSUED_WORDS
      taken.push({
        nodeid: issued[at] as number,
        directory: issued[at + 1] as number,
        name: names[i] as string,
        below: issued[at + 2] as number,
        ino: issued[at + 3] as number,
        ownIno: issued[at + 4] as number,
        type: issued[at + 5] as number,
        references: issued[at + 6] as 0 | 1,
        slot: issued[at + 7] as number,
        stamp: issued[at + 8] as number,
        size: issued[at + 9] as number,
      })
    }
    return taken
  }

  answersChanged(nodeid: number): void {
    this.channel.answersChanged(nodeid)
  }
  hasWork(on: boolean): void {
    this.channel.hasWork(on)
  }
  askAll(): void {
    this.channel.askAll()
  }
  backingOpen(fd: number): number {
    return this.channel.backingOpen(fd)
  }
  backingClose(id: number): number {
    return this.channel.backingClose(id)
  }

  counters(): TransportCounters {
    const figures = this.channel.counters()
    const at = (index: number) => figures[index] ?? 0
    return {
      requests: figures.slice(0, OP_LIMIT),
      framesToJs: at(64),
      readsInline: at(65),
      readsThreaded: at(66),
      writesInline: at(67),
      writesThreaded: at(68),
      bytesRead: at(69),
      bytesWritten: at(70),
      registered: at(71),
      wakeups: at(72),
      followed: at(73),
      namesAnswered: at(74),
      attributesAnswered: at(75),
    }
  }

  close(): void {
    this.channel.close()
  }
}
