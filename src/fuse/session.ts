/**
 * One mounted connection: a transport and a dispatcher, from INIT to the end, and the kernel side of it that the
 * filesystem talks to.
 *
 * How it goes: the daemon opens /dev/fuse, builds a Session on it, and calls start(). mount(2) then makes the kernel
 * send INIT, which is answered from the event loop: mount(2) itself does not wait for it. The session ends when the
 * kernel says so (`ended` resolves), or by close(). Either way the filesystem's destroy() is called once.
 */
import { E, errnoName } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import type { Account } from '../sys/account.js'
import { withDebug } from './debug.js'
import { type DispatchOptions, Dispatcher } from './dispatch.js'
import type { AnsweredDirectory, FileSystem, Issued, KernelSide, LowerFile, Told } from './filesystem.js'
import type { NegotiatedConnection } from './init.js'
import { OP_LIMIT, opName } from './opcodes.js'
import { Output, PAYLOAD } from './output.js'
import { deleteEntry, invalidateEntry, invalidateInode, resend } from './notification.js'
import { withTrace } from './trace.js'
import type { Transport } from './transport.js'

export interface SessionOptions extends Omit<DispatchOptions, 'onInit'> {
  /** Most files that the data plane keeps open; the least recently used are closed. */
  readonly maxOpenFiles?: number
  /** With `adopt`, where the kernel sends nothing again: the last request that the predecessor is known to have read. */
  readonly lastUnique?: number
}

/** Requests before that one which may still be unanswered, and READs and WRITEs behind it, of which nobody made a note. */
const READ_BEFORE = 16_384
const READ_AFTER = 65_536

/** Why a session ended. */
export interface SessionEnd {
  reason: 'unmounted' | 'aborted' | 'closed' | 'failed'
  /** Of the device: ENODEV, ECONNABORTED, or what went wrong. 0 for 'closed'. */
  errno: number
}

export interface SessionCounters {
  /** Requests by opcode name, those served without JavaScript included; none that are zero. */
  requests: Record<string, number>
  errors: Record<string, number>
  waits: Record<string, number>
  replies: number
  undelivered: number
  dropped: number
  faults: number
  pending: number
  notifications: number
  dataPlane: {
    framesToJs: number
    readsInline: number
    readsThreaded: number
    writesInline: number
    writesThreaded: number
    bytesRead: number
    bytesWritten: number
    registered: number
    wakeups: number
    followed: number
    namesAnswered: number
    attributesAnswered: number
  }
}

const DEFAULT_MAX_OPEN_FILES = 512

/** How long close() waits for notifications that the kernel has not taken yet, milliseconds. */
const NOTIFY_GRACE = 2000
const NOTIFY_POLL = 5

function byName(counts: Float64Array): Record<string, number> {
  const named: Record<string, number> = {}
  for (let op = 0; op < OP_LIMIT; op++) {
    const count = counts[op] as number
    if (count > 0) named[opName(op)] = count
  }
  return named
}

export class Session implements KernelSide {
  /** Resolves with what INIT agreed on; rejects when it was refused or the session ended before it. */
  readonly initialized: Promise<NegotiatedConnection>
  /** Resolves when the session is over; never rejects. */
  readonly ended: Promise<SessionEnd>

  private readonly transport: Transport
  private dispatcher: Dispatcher | undefined
  private over = false
  private notifications = 0
  private queue: { message: Buffer; done?: () => void }[] = []
  /** Who waits for the kernel to take the notification of that number. */
  private untaken: { number: number; done: () => void }[] = []
  private flushing = false
  private resolveInit!: (connection: NegotiatedConnection) => void
  private rejectInit!: (error: SysError) => void
  private resolveEnd!: (end: SessionEnd) => void

  /** `transport` belongs to the session from here on. */
  constructor(
    transport: Transport,
    private readonly options: SessionOptions = {},
  ) {
    this.transport = withDebug(withTrace(transport))
    this.transport.onNotified(number => this.taken(number))
    this.transport.keepFiles(options.maxOpenFiles ?? DEFAULT_MAX_OPEN_FILES)
    this.initialized = new Promise((resolve, reject) => {
      this.resolveInit = resolve
      this.rejectInit = reject
    })
    // A session whose INIT nobody awaits must not end the process.
    this.initialized.catch(() => undefined)
    this.ended = new Promise(resolve => {
      this.resolveEnd = resolve
    })
  }

  /** Serves `fs` from now on. Call it once. */
  start(fs: FileSystem): void {
    if (this.dispatcher !== undefined) throw new Error('the session was started before')
    const { maxOpenFiles: _, lastUnique: __, ...rest } = this.options
    const dispatcher = new Dispatcher(fs, this.transport, {
      ...rest,
      onInit: outcome => {
        if ('errno' in outcome) {
          const refused = new SysError(outcome.errno, 'FUSE_INIT', undefined)
          refused.message = outcome.reason
          this.rejectInit(refused)
        } else {
          this.resolveInit(outcome)
        }
      },
    })
    this.dispatcher = dispatcher
    const { adopt, journal } = this.options
    if (adopt !== undefined) this.resolveInit(adopt)
    // Before anything is read: the journal counts on what was asked before coming first. The kernel waits for nothing here.
    if (journal !== undefined && adopt?.has('HAS_RESEND') === true) this.transport.sendBuffer(resend())
    else if (adopt !== undefined && this.options.lastUnique !== undefined)
      this.failAround(this.options.lastUnique)
    this.transport.start(
      length => {
        dispatcher.handle(length)
      },
      errno => {
        this.onEnd(errno)
      },
    )
  }

  /**
   * Without FUSE_NOTIFY_RESEND nobody will ever answer what the predecessor had read: EIO for every number that it may have. The
   * kernel counts requests by two; what is not waiting, or not read yet, is ENOENT to it.
   */
  private failAround(last: number): void {
    const out = new Output(new ArrayBuffer(PAYLOAD))
    const message = out.bytes.subarray(0, PAYLOAD)
    for (let unique = Math.max(2, last - 2 * READ_BEFORE); unique <= last + 2 * READ_AFTER; unique += 2) {
      out.header(PAYLOAD, -E.EIO, Math.floor(unique / 2 ** 32), unique >>> 0)
      this.transport.sendBuffer(message)
    }
  }

  get connection(): NegotiatedConnection | undefined {
    return this.dispatcher?.connection
  }

  private onEnd(errno: number): void {
    const reason = errno === E.ENODEV ? 'unmounted' : errno === E.ECONNABORTED ? 'aborted' : 'failed'
    this.finish({ reason, errno })
  }

  private finish(end: SessionEnd): void {
    if (this.over) return
    this.over = true
    this.letWaitersGo()
    this.dispatcher?.destroy()
    this.transport.close()
    this.rejectInit(new SysError(end.errno === 0 ? E.ECANCELED : end.errno, 'FUSE_INIT', undefined))
    this.resolveEnd(end)
  }

  /**
   * Ends the session from this side: what the kernel still asks is never answered (callers get ENOTCONN), so unmount
   * first. Notifications under way are waited for, because the kernel may need an answer of ours to take them.
   */
  async close(): Promise<void> {
    this.letWaitersGo()
    const limit = Date.now() + NOTIFY_GRACE
    while (!this.over && this.transport.notifying() > 0 && Date.now() < limit) {
      await new Promise(resolve => setTimeout(resolve, NOTIFY_POLL))
    }
    this.finish({ reason: 'closed', errno: 0 })
  }

  // ---- KernelSide

  registerFile(nodeid: number, fd: number, writable: boolean, ino?: number, told?: Told | 'unknown'): void {
    this.transport.registerFile(nodeid, fd, writable, ino, told)
  }

  fileOf(nodeid: number): number | undefined {
    return this.transport.fileOf(nodeid)
  }

  showFiles(timeout: number): void {
    this.transport.showFiles(timeout)
  }

  limit(account: Account): void {
    this.transport.limit(account)
  }

  unregisterFile(nodeid: number): void {
    this.transport.unregisterFile(nodeid)
  }

  registered(nodeid: number): 0 | 1 | 2 {
    return this.transport.isRegistered(nodeid)
  }

  pin(nodeid: number, on: boolean): void {
    this.transport.pin(nodeid, on)
  }

  followAttributes(nodeid: number, fd: number, oneLink: boolean): void {
    this.transport.followAttributes(nodeid, fd, oneLink)
  }

  hasWork(on: boolean): void {
    this.transport.hasWork(on)
  }

  answerNames(directory: AnsweredDirectory): void {
    this.transport.answerNames(directory)
  }

  tellFiles(directory: number, files: readonly LowerFile[]): void {
    this.transport.tellFiles(directory, files)
  }

  takeIssued(): readonly Issued[] {
    return this.transport.takeIssued()
  }

  get newest(): Float64Array {
    return this.transport.newest
  }

  answersChanged(nodeid: number): void {
    this.transport.answersChanged(nodeid)
  }

  invalidateInode(nodeid: number, offset: number, length: number): void {
    this.enqueue(invalidateInode(nodeid, offset, length))
  }

  afterInvalidating(nodeid: number, offset: number): Promise<void> {
    return new Promise(done => {
      if (this.over) done()
      else this.enqueue(invalidateInode(nodeid, offset, 0), done)
    })
  }

  invalidateEntry(parent: number, name: string): void {
    this.enqueue(invalidateEntry(parent, name, this.connection?.has('HAS_EXPIRE_ONLY') === true))
  }

  deleteEntry(parent: number, child: number, name: string): void {
    this.enqueue(deleteEntry(parent, child, name))
  }

  /** Asks for every request that a dead predecessor left unanswered. Needs HAS_RESEND. */
  resend(): void {
    this.enqueue(resend())
  }

  openBacking(fd: number): number | undefined {
    const id = this.transport.backingOpen(fd)
    return id > 0 ? id : undefined
  }

  closeBacking(id: number): void {
    this.transport.backingClose(id)
  }

  /**
   * After the reply of the request being served, so that the caller sees the invalidation behind the answer it belongs
   * to; and then from a thread, see Transport.notify.
   */
  private enqueue(message: Buffer, done?: () => void): void {
    if (this.over) return
    this.notifications++
    this.queue.push(done === undefined ? { message } : { message, done })
    if (this.flushing) return
    this.flushing = true
    setImmediate(() => {
      this.flushing = false
      const messages = this.queue
      this.queue = []
      for (const { message, done } of messages) {
        const number = this.transport.notify(message)
        if (done === undefined) continue
        if (number === 0) done()
        else this.untaken.push({ number, done })
      }
    })
  }

  private taken(number: number): void {
    let count = 0
    for (; count < this.untaken.length && (this.untaken[count]?.number ?? 0) <= number; count++)
      this.untaken[count]?.done()
    this.untaken.splice(0, count)
  }

  /** Nobody waits for what will not come any more. */
  private letWaitersGo(): void {
    for (const { done } of this.queue) done?.()
    this.queue = []
    this.taken(Infinity)
  }

  // ---- figures

  counters(): SessionCounters {
    const native = this.transport.counters()
    const js = this.dispatcher?.counters
    const none = new Float64Array(OP_LIMIT)
    return {
      requests: byName(native.requests),
      errors: byName(js?.errors ?? none),
      waits: byName(js?.waits ?? none),
      replies: js?.replies ?? 0,
      undelivered: js?.undelivered ?? 0,
      dropped: js?.dropped ?? 0,
      faults: js?.faults ?? 0,
      pending: this.dispatcher?.pending ?? 0,
      notifications: this.notifications,
      dataPlane: {
        framesToJs: native.framesToJs,
        readsInline: native.readsInline,
        readsThreaded: native.readsThreaded,
        writesInline: native.writesInline,
        writesThreaded: native.writesThreaded,
        bytesRead: native.bytesRead,
        bytesWritten: native.bytesWritten,
        registered: native.registered,
        wakeups: native.wakeups,
        followed: native.followed,
        namesAnswered: native.namesAnswered,
        attributesAnswered: native.attributesAnswered,
      },
    }
  }
}

/** "unmounted (ENODEV)", for a log. */
export function describeEnd(end: SessionEnd): string {
  return end.errno === 0 ? end.reason : `${end.reason} (${errnoName(end.errno)})`
}
