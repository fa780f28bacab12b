/**
 * Decodes a request, calls the filesystem, encodes the result, and replies exactly once.
 *
 * A frame is only readable until handle() returns, because the transport reads the next one into the same memory. A
 * synchronous handler therefore runs straight on it and encodes straight into the transport's output: nothing is copied
 * and, names apart, little is allocated. A handler that throws Again has its frame copied and is run anew later. A
 * handler that returns a promise needs its frame no more; only `unique` is kept, as two words, because its top bit
 * (a request that was sent before, to a daemon that died) must come back as it was.
 */
import { E } from '../base/errno.js'
import { debug } from '../base/log.js'
import { SysError } from '../base/sys-error.js'
import { BadRequest, Cursor } from './cursor.js'
import { ReplySink } from './dir-sink.js'
import {
  Again,
  type Caller,
  type Entry,
  type FileSystem,
  type NegativeEntry,
  type OpenReply,
  type SetAttr,
} from './filesystem.js'
import {
  FATTR,
  FOPEN,
  FSYNC_FDATASYNC,
  GETATTR_FH,
  MAX_REPLY_ERRNO,
  SETXATTR_ACL_KILL_SGID,
  XATTR_SIZE_MAX,
} from './flags.js'
import { Frame } from './frame.js'
import {
  INIT_DEFAULTS,
  INIT_IN_SMALLEST,
  type NegotiatedConnection,
  negotiate,
  type InitParameters,
} from './init.js'
import { O_APPEND } from '../sys/constants.js'
import { OP_LIMIT, OPCODES, Op, type UnsupportedOp, opName } from './opcodes.js'
import { Output, PAYLOAD } from './output.js'
import type { RequestJournal, Settled } from './request-journal.js'
import * as S from './structs.js'
import type { Transport } from './transport.js'
import { Waiting } from './waiting.js'

/** An open file of a mount whose opens are not answered. */
const NO_HANDLE: OpenReply = { fh: 0, flags: FOPEN.KEEP_CACHE }

/** What a handler gives: payload bytes encoded in the output, or one of these. */
const NO_REPLY = -1
/** The reply will come from a promise. */
const LATER = -2
/** The transport answers it. */
const HANDED_ON = -3

/** setxattr(2): fails where the attribute is there. */
const XATTR_CREATE = 1

/**
 * A file has at most so many bytes: all that a number of JavaScript's counts exactly. (8 PiB; ext4 has 16 TiB.)
 */
const MAX_FILE = Number.MAX_SAFE_INTEGER

/** COPY_FILE_RANGE is answered in 32 bits; the largest page-aligned count of the VFS (MAX_RW_COUNT) fits. */
const MAX_COPY_32 = 0x7fff_f000

export interface DispatchOptions {
  readonly init?: Partial<InitParameters>
  /** A connection that another daemon negotiated before; no INIT will come. */
  readonly adopt?: NegotiatedConnection
  /** Called when INIT was answered, or with the reason why it was refused. */
  readonly onInit?: (outcome: NegotiatedConnection | { errno: number; reason: string }) => void
  /** Who keeps the mount's state for a successor. */
  readonly journal?: RequestJournal
  /** Where an unexpected exception goes. */
  readonly onFault?: (fault: unknown, what: string) => void
}

export interface DispatchCounters {
  /** By opcode: frames that were handled in JavaScript, error replies, and how often a request waited for Again. */
  readonly requests: Float64Array
  readonly errors: Float64Array
  readonly waits: Float64Array
  replies: number
  /** Replies that nobody waited for any more. */
  undelivered: number
  /** Frames too broken to answer. */
  dropped: number
  /** Unexpected exceptions. */
  faults: number
}

function isPromise<T>(value: T | Promise<T>): value is Promise<T> {
  return (
    typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function'
  )
}

function printFault(fault: unknown, what: string): void {
  const text = fault instanceof Error ? (fault.stack ?? fault.message) : String(fault)
  process.stderr.write(`lamina: ${what}: answered EIO: ${text}\n`)
}

export class Dispatcher {
  readonly counters: DispatchCounters = {
    requests: new Float64Array(OP_LIMIT),
    errors: new Float64Array(OP_LIMIT),
    waits: new Float64Array(OP_LIMIT),
    replies: 0,
    undelivered: 0,
    dropped: 0,
    faults: 0,
  }

  private readonly input: Frame
  private readonly out: Output
  private readonly sink: ReplySink
  private readonly cursor = new Cursor()
  private readonly parameters: InitParameters
  private readonly onFault: (fault: unknown, what: string) => void
  private readonly log = debug('fuse')
  private connected: NegotiatedConnection | undefined
  private destroyed = false
  private inFlight = 0
  private readonly waiting = new Waiting(({ high, low, op, nodeid }) => {
    this.resume(high, low, op, nodeid)
    this.reject(E.EINTR)
  })
  private setxattrIn: typeof S.SetxattrIn | typeof S.SetxattrInCompat = S.SetxattrInCompat
  private dots = false

  /** The request being served: fuse_in_header.unique, opcode and nodeid. */
  private high = 0
  private low = 0
  private op = 0
  private nodeid = 0
  /** What a dead predecessor did of it. */
  private settled: Settled | undefined

  constructor(
    private readonly fs: FileSystem,
    private readonly transport: Transport,
    private readonly options: DispatchOptions = {},
  ) {
    this.input = new Frame(transport.input)
    this.out = new Output(transport.output)
    this.sink = new ReplySink(this.out)
    this.parameters = { ...INIT_DEFAULTS, ...options.init }
    this.onFault = options.onFault ?? printFault
    if (options.adopt !== undefined) this.connect(options.adopt)
  }

  get connection(): NegotiatedConnection | undefined {
    return this.connected
  }

  /** Requests that wait for a promise. */
  get pending(): number {
    return this.inFlight
  }

  /** Serves the frame in the transport's input. Never throws. */
  handle(length: number): void {
    const op = this.input.u32(S.InHeader.at.opcode)
    if (op < OP_LIMIT) (this.counters.requests[op] as number)++
    this.serve(this.input, length)
  }

  /** Tells the filesystem, once, that the mount is gone. */
  destroy(): void {
    if (this.destroyed) return
    this.destroyed = true
    try {
      this.fs.destroy()
    } catch (fault) {
      this.fault(fault, 'destroy')
    }
  }

  private serve(frame: Frame, length: number): void {
    const { at } = S.InHeader
    if (!(length >= S.InHeader.size && length <= frame.bytes.length)) {
      // There is not even a `unique` to answer. A real kernel never sends this.
      this.counters.dropped++
      this.log?.(`dropped a frame of ${length} bytes`)
      return
    }
    this.high = frame.high(at.unique)
    this.low = frame.low(at.unique)
    const nodeid = (this.nodeid = frame.u64(at.nodeid))
    const op = (this.op = frame.u32(at.opcode))
    const { journal } = this.options
    let payload: number
    try {
      this.fs.adoptIssued()
      if (frame.u32(at.len) !== length) throw new BadRequest(E.EINVAL, 'the length is not that of the header')
      const extensions = frame.u16(at.total_extlen) * 8
      if (extensions > length - S.InHeader.size) throw new BadRequest(E.EINVAL, 'extensions are cut off')
      this.cursor.use(frame, S.InHeader.size, length - extensions)
      this.settled = undefined
      if (journal !== undefined && op !== Op.FORGET && op !== Op.BATCH_FORGET && op !== Op.INTERRUPT)
        this.settled = journal.begin(frame, length, op)
      payload =
        this.settled?.done === true ? this.answerDone(op, frame, nodeid) : this.run(op as Op, frame, nodeid)
    } catch (thrown) {
      this.failed(thrown, frame, length)
      journal?.changed()
      return
    }
    if (payload >= 0) this.succeed(payload)
    if (payload !== LATER) journal?.changed()
  }

  private caller(frame: Frame): Caller {
    const { at } = S.InHeader
    return { uid: frame.u32(at.uid), gid: frame.u32(at.gid), pid: frame.u32(at.pid) }
  }

  /** Calls the filesystem. Gives the payload's length, or NO_REPLY, LATER, HANDED_ON. */
  private run(op: Op, frame: Frame, nodeid: number): number {
    const { fs, cursor, out } = this
    switch (op) {
      case Op.LOOKUP:
        return this.looked(fs.lookup(nodeid, cursor.name(this.dots), this.caller(frame)))
      case Op.FORGET:
        this.forget(frame, nodeid, frame.u64(cursor.take(S.ForgetIn)))
        return NO_REPLY
      case Op.BATCH_FORGET:
        return this.batchForget(frame)
      case Op.GETATTR: {
        const at = cursor.take(S.GetattrIn)
        const open = (frame.u32(at + S.GetattrIn.at.getattr_flags) & GETATTR_FH) !== 0
        return out.attrReply(fs.getattr(nodeid, open ? frame.u64(at + S.GetattrIn.at.fh) : undefined))
      }
      case Op.STATX: {
        if (this.connected?.statx === false) return this.unsupported()
        const at = cursor.take(S.StatxIn)
        return out.statx(fs.statx(nodeid, frame.u32(at + S.StatxIn.at.sx_mask)))
      }
      case Op.SETATTR:
        return out.attrReply(fs.setattr(nodeid, this.change(frame), this.caller(frame)))
      case Op.READLINK:
        return out.text(fs.readlink(nodeid))
      case Op.SYMLINK: {
        const name = cursor.name()
        return out.entry(fs.symlink(nodeid, name, cursor.target(), this.caller(frame)))
      }
      case Op.MKNOD: {
        const at = cursor.take(S.MknodIn)
        const name = cursor.name()
        return out.entry(
          fs.mknod(
            nodeid,
            name,
            frame.u32(at + S.MknodIn.at.mode),
            frame.u32(at + S.MknodIn.at.rdev),
            frame.u32(at + S.MknodIn.at.umask),
            this.caller(frame),
          ),
        )
      }
      case Op.MKDIR: {
        const at = cursor.take(S.MkdirIn)
        const name = cursor.name()
        const mode = frame.u32(at + S.MkdirIn.at.mode)
        return out.entry(fs.mkdir(nodeid, name, mode, frame.u32(at + S.MkdirIn.at.umask), this.caller(frame)))
      }
      case Op.UNLINK:
        fs.unlink(nodeid, cursor.name(), this.caller(frame))
        return 0
      case Op.RMDIR:
        fs.rmdir(nodeid, cursor.name(), this.caller(frame))
        return 0
      case Op.RENAME: {
        const at = cursor.take(S.RenameIn)
        return this.rename(frame, nodeid, frame.u64(at), 0)
      }
      case Op.RENAME2: {
        const at = cursor.take(S.Rename2In)
        return this.rename(frame, nodeid, frame.u64(at), frame.u32(at + S.Rename2In.at.flags))
      }
      case Op.LINK: {
        const old = frame.u64(cursor.take(S.LinkIn))
        return out.entry(fs.link(old, nodeid, cursor.name(), this.caller(frame)))
      }
      case Op.OPEN: {
        const at = cursor.take(S.OpenIn)
        const opened = fs.open(nodeid, frame.u32(at + S.OpenIn.at.flags), this.caller(frame))
        if (isPromise(opened))
          return this.later(opened, reply => this.opened(reply, 'NO_OPEN_SUPPORT', FOPEN.KEEP_CACHE))
        return this.opened(opened, 'NO_OPEN_SUPPORT', FOPEN.KEEP_CACHE)
      }
      case Op.OPENDIR: {
        const at = cursor.take(S.OpenIn)
        const opened = fs.opendir(nodeid, frame.u32(at + S.OpenIn.at.flags))
        return this.opened(opened, 'NO_OPENDIR_SUPPORT', FOPEN.KEEP_CACHE | FOPEN.CACHE_DIR)
      }
      case Op.READ:
      case Op.WRITE:
        return this.io(op, frame, nodeid)
      case Op.STATFS:
        return out.statfs(fs.statfs(nodeid))
      case Op.RELEASE:
        fs.release(nodeid, frame.u64(cursor.take(S.ReleaseIn)))
        return 0
      case Op.RELEASEDIR:
        fs.releasedir(nodeid, frame.u64(cursor.take(S.ReleaseIn)))
        return 0
      case Op.FSYNC:
        return this.nothing(fs.fsync(nodeid, this.dataOnly(frame)))
      case Op.FSYNCDIR:
        return this.nothing(fs.fsyncdir(nodeid, this.dataOnly(frame)))
      case Op.SYNCFS:
        cursor.take(S.SyncfsIn)
        return this.nothing(fs.syncfs())
      case Op.SETXATTR:
        return this.setxattr(frame, nodeid)
      case Op.GETXATTR: {
        const size = frame.u32(cursor.take(S.GetxattrIn))
        const value = fs.getxattr(nodeid, cursor.attributeName(), this.caller(frame))
        return size === 0 ? out.count32(value.length) : out.raw(within(value, size))
      }
      case Op.LISTXATTR: {
        const size = frame.u32(cursor.take(S.GetxattrIn))
        const names = fs.listxattr(nodeid, this.caller(frame))
        const list = names.length === 0 ? '' : names.join('\0') + '\0'
        if (size === 0) return out.count32(list.length)
        if (list.length > size) throw new BadRequest(E.ERANGE, 'the list does not fit')
        return out.text(list)
      }
      case Op.REMOVEXATTR:
        return this.removexattr(frame, nodeid)
      case Op.INIT:
        return this.init(frame)
      case Op.DESTROY:
        this.destroy()
        return 0
      case Op.READDIR:
      case Op.READDIRPLUS: {
        const at = cursor.take(S.ReadIn)
        const sink = this.sink.start(op === Op.READDIRPLUS, frame.u32(at + S.ReadIn.at.size))
        fs.readdir(nodeid, frame.u64(at + S.ReadIn.at.fh), frame.u64(at + S.ReadIn.at.offset), sink)
        return sink.length
      }
      case Op.CREATE: {
        const at = cursor.take(S.CreateIn)
        const name = cursor.name()
        const flags = frame.u32(at + S.CreateIn.at.flags)
        const mode = frame.u32(at + S.CreateIn.at.mode)
        const umask = frame.u32(at + S.CreateIn.at.umask)
        const made = fs.create(nodeid, name, flags, mode, umask, this.caller(frame))
        return out.created(made.entry, made.open)
      }
      case Op.TMPFILE: {
        const at = cursor.take(S.CreateIn)
        const flags = frame.u32(at + S.CreateIn.at.flags)
        const mode = frame.u32(at + S.CreateIn.at.mode)
        const made = fs.tmpfile(nodeid, flags, mode, frame.u32(at + S.CreateIn.at.umask), this.caller(frame))
        return out.created(made.entry, made.open)
      }
      case Op.IOCTL:
        return this.ioctl(frame, nodeid)
      case Op.FALLOCATE: {
        const at = cursor.take(S.FallocateIn)
        const offset = frame.u64(at + S.FallocateIn.at.offset)
        const length = frame.u64(at + S.FallocateIn.at.length)
        checkEnd(offset + length)
        const mode = frame.u32(at + S.FallocateIn.at.mode)
        return this.nothing(fs.fallocate(nodeid, offset, length, mode, this.caller(frame)))
      }
      case Op.LSEEK: {
        const at = cursor.take(S.LseekIn)
        const whence = frame.u32(at + S.LseekIn.at.whence)
        const from = frame.s64(at + S.LseekIn.at.offset)
        if (!Number.isSafeInteger(from)) throw new BadRequest(E.ENXIO, 'beyond the end of any file')
        const offset = fs.lseek(nodeid, from, whence)
        return isPromise(offset) ? this.later(offset, found => out.count64(found)) : out.count64(offset)
      }
      case Op.COPY_FILE_RANGE:
      case Op.COPY_FILE_RANGE_64:
        return this.copyFileRange(op, frame, nodeid)
      case Op.INTERRUPT: {
        // What has begun is answered in its own time.
        const at = cursor.take(S.InterruptIn)
        this.waiting.interrupt(frame.high(at), frame.low(at))
        return NO_REPLY
      }
      case Op.FLUSH:
      case Op.GETLK:
      case Op.SETLK:
      case Op.SETLKW:
      case Op.ACCESS:
      case Op.BMAP:
      case Op.POLL:
      case Op.NOTIFY_REPLY:
      case Op.SETUPMAPPING:
      case Op.REMOVEMAPPING:
        return OPCODES[op satisfies UnsupportedOp]?.replied === true ? this.unsupported() : NO_REPLY
      default:
        op satisfies never
        return this.unsupported()
    }
  }

  /** The answer to a change that was made before the predecessor died. */
  private answerDone(op: number, frame: Frame, nodeid: number): number {
    const { fs, cursor, out } = this
    switch (op) {
      case Op.UNLINK:
      case Op.RMDIR:
      case Op.RENAME:
      case Op.RENAME2:
      case Op.RELEASE:
        return 0
      case Op.LINK:
        cursor.take(S.LinkIn)
        break
      case Op.MKNOD:
        cursor.take(S.MknodIn)
        break
      case Op.MKDIR:
        cursor.take(S.MkdirIn)
        break
      case Op.CREATE: {
        const flags = frame.u32(cursor.take(S.CreateIn) + S.CreateIn.at.flags)
        const entry = this.existing(nodeid, cursor.name(), frame)
        const opened = fs.open(entry.nodeid, flags, this.caller(frame))
        if (isPromise(opened)) return this.later(opened, reply => out.created(entry, reply ?? NO_HANDLE))
        return out.created(entry, opened ?? NO_HANDLE)
      }
    }
    return out.entry(this.existing(nodeid, cursor.name(), frame))
  }

  private existing(parent: number, name: string, frame: Frame): Entry {
    const found = this.fs.lookup(parent, name, this.caller(frame))
    if (found.nodeid === 0) throw new SysError(E.ESTALE, 'recover', name)
    return found as Entry
  }

  private unsupported(): number {
    throw new BadRequest(E.ENOSYS, 'not implemented')
  }

  // ---- handlers of more than a few lines

  private looked(found: Entry | NegativeEntry): number {
    if (found.nodeid !== 0) return this.out.entry(found as Entry)
    // With no time to be remembered for, a plain error says the same in a ninth of the bytes.
    if (!(found.entryValid > 0)) throw new BadRequest(E.ENOENT, 'no such name')
    return this.out.negativeEntry(found.entryValid)
  }

  private forget(frame: Frame, nodeid: number, count: number): void {
    const { journal } = this.options
    journal?.beginForget(frame)
    journal?.forgetting(0, nodeid, count)
    this.fs.forget(nodeid, count)
  }

  private batchForget(frame: Frame): number {
    const { journal } = this.options
    const count = frame.u32(this.cursor.take(S.BatchForgetIn))
    journal?.beginForget(frame)
    for (let i = 0; i < count; i++) {
      const at = this.cursor.take(S.ForgetOne)
      const nodeid = frame.u64(at)
      const nlookup = frame.u64(at + S.ForgetOne.at.nlookup)
      journal?.forgetting(i, nodeid, nlookup)
      this.fs.forget(nodeid, nlookup)
    }
    return NO_REPLY
  }

  private change(frame: Frame): SetAttr {
    const at = this.cursor.take(S.SetattrIn)
    const field = S.SetattrIn.at
    const valid = frame.u32(at + field.valid)
    const change: SetAttr = { killSuidgid: (valid & FATTR.KILL_SUIDGID) !== 0 }
    if (valid & FATTR.MODE) change.mode = frame.u32(at + field.mode)
    if (valid & FATTR.UID) change.uid = frame.u32(at + field.uid)
    if (valid & FATTR.GID) change.gid = frame.u32(at + field.gid)
    if (valid & FATTR.SIZE) {
      change.size = frame.u64(at + field.size)
      checkEnd(change.size)
    }
    const time = (sec: number, nsec: number) => ({
      sec: withinExact(frame.s64(at + sec)),
      nsec: frame.u32(at + nsec),
    })
    if (valid & FATTR.ATIME_NOW) change.atime = 'now'
    else if (valid & FATTR.ATIME) change.atime = time(field.atime, field.atimensec)
    if (valid & FATTR.MTIME_NOW) change.mtime = 'now'
    else if (valid & FATTR.MTIME) change.mtime = time(field.mtime, field.mtimensec)
    if (valid & FATTR.CTIME) change.ctime = time(field.ctime, field.ctimensec)
    if (valid & FATTR.FH) change.fh = frame.u64(at + field.fh)
    return change
  }

  private rename(frame: Frame, parent: number, newParent: number, flags: number): number {
    const name = this.cursor.name()
    this.fs.rename(parent, name, newParent, this.cursor.name(), flags, this.caller(frame))
    return 0
  }

  /** `undefined` is ENOSYS where the kernel understands it so, and else an open without a handle. */
  private opened(reply: OpenReply | undefined, flag: string, flags: number): number {
    if (reply !== undefined) return this.out.open(reply)
    if (this.connected?.has(flag) === true) return this.unsupported()
    return this.out.open({ fh: 0, flags })
  }

  /** A READ or WRITE whose nodeid the data plane does not know (or not as writable): the filesystem makes it known. */
  private io(op: typeof Op.READ | typeof Op.WRITE, frame: Frame, nodeid: number): number {
    const { cursor, fs, transport } = this
    const at = cursor.take(op === Op.READ ? S.ReadIn : S.WriteIn)
    const size = frame.u32(at + S.WriteIn.at.size)
    if (op === Op.WRITE ? size !== cursor.remaining : size > this.out.capacity - PAYLOAD)
      throw new BadRequest(E.EINVAL, 'the size is not that of the data')
    if (op === Op.READ) fs.prepareIo(nodeid, false)
    else {
      const append = (frame.u32(at + S.WriteIn.at.flags) & O_APPEND) !== 0
      fs.prepareIo(nodeid, true, { offset: frame.u64(at + S.WriteIn.at.offset), append })
    }
    transport.resubmit(frame.bytes.subarray(0, frame.u32(S.InHeader.at.len)))
    return HANDED_ON
  }

  private dataOnly(frame: Frame): boolean {
    const at = this.cursor.take(S.FsyncIn)
    return (frame.u32(at + S.FsyncIn.at.fsync_flags) & FSYNC_FDATASYNC) !== 0
  }

  private setxattr(frame: Frame, nodeid: number): number {
    const { cursor } = this
    const at = cursor.take(this.setxattrIn)
    const size = frame.u32(at + S.SetxattrIn.at.size)
    const extended = this.setxattrIn === S.SetxattrIn
    const killSgid =
      extended && (frame.u32(at + S.SetxattrIn.at.setxattr_flags) & SETXATTR_ACL_KILL_SGID) !== 0
    const name = cursor.attributeName()
    if (size > XATTR_SIZE_MAX) throw new BadRequest(E.E2BIG, 'the value is too large')
    if (size !== cursor.remaining) throw new BadRequest(E.EINVAL, 'the size is not that of the value')
    // A copy: the filesystem may keep it, and a frame is gone when handle() returns.
    const value = Buffer.from(cursor.data(size))
    let flags = frame.u32(at + S.SetxattrIn.at.flags)
    // It was not there before the predecessor began with this very request.
    if (this.settled?.before === false) flags &= ~XATTR_CREATE
    this.fs.setxattr(nodeid, name, value, flags, killSgid, this.caller(frame))
    return 0
  }

  private removexattr(frame: Frame, nodeid: number): number {
    try {
      this.fs.removexattr(nodeid, this.cursor.attributeName(), this.caller(frame))
    } catch (error) {
      // It was there before the predecessor began with this very request.
      const removed = error instanceof SysError && error.errno === E.ENODATA && this.settled?.before === true
      if (!removed) throw error
    }
    return 0
  }

  private init(frame: Frame): number {
    const { cursor, out, options } = this
    const length = cursor.remaining
    const at = cursor.take(INIT_IN_SMALLEST)
    const answer = negotiate(frame, at, length, out, PAYLOAD, this.parameters)
    switch (answer.kind) {
      case 'again':
        return S.InitOut.size
      case 'refused':
        options.onInit?.({ errno: answer.errno, reason: answer.reason })
        throw new BadRequest(answer.errno, answer.reason)
      case 'agreed':
        this.connect(answer.connection)
        options.onInit?.(answer.connection)
        return S.InitOut.size
    }
  }

  private connect(connection: NegotiatedConnection): void {
    this.connected = connection
    this.setxattrIn = connection.has('SETXATTR_EXT') ? S.SetxattrIn : S.SetxattrInCompat
    this.dots = connection.has('EXPORT_SUPPORT')
    this.fs.init(connection)
  }

  private ioctl(frame: Frame, nodeid: number): number {
    const { cursor, out } = this
    const at = cursor.take(S.IoctlIn)
    const field = S.IoctlIn.at
    const inSize = frame.u32(at + field.in_size)
    const outSize = frame.u32(at + field.out_size)
    if (outSize > out.capacity - PAYLOAD - S.IoctlOut.size)
      throw new BadRequest(E.EINVAL, 'the answer is too large')
    const input = Buffer.from(cursor.data(inSize))
    const arg = (BigInt(frame.high(at + field.arg)) << 32n) | BigInt(frame.low(at + field.arg))
    const command = frame.u32(at + field.cmd)
    const done = this.fs.ioctl(
      nodeid,
      command,
      arg,
      input,
      outSize,
      frame.u32(at + field.flags),
      this.caller(frame),
    )
    const encode = (reply: { result: number; output: Buffer }) => {
      if (reply.output.length > outSize)
        throw new RangeError(`ioctl gave ${reply.output.length} bytes for ${outSize}`)
      return out.ioctl(reply.result, reply.output)
    }
    return isPromise(done) ? this.later(done, encode) : encode(done)
  }

  private copyFileRange(
    op: typeof Op.COPY_FILE_RANGE | typeof Op.COPY_FILE_RANGE_64,
    frame: Frame,
    nodeid: number,
  ): number {
    const at = this.cursor.take(S.CopyFileRangeIn)
    const field = S.CopyFileRangeIn.at
    const wide = op === Op.COPY_FILE_RANGE_64
    const encode = (bytes: number) => (wide ? this.out.count64(bytes) : this.out.count32(bytes))
    const offIn = frame.u64(at + field.off_in)
    const offOut = frame.u64(at + field.off_out)
    checkEnd(offOut + 1)
    // Beyond the end of any file there is nothing.
    if (offIn > MAX_FILE) return encode(0)
    const room = MAX_FILE - Math.max(offIn, offOut)
    const copied = this.fs.copyFileRange(
      nodeid,
      offIn,
      frame.u64(at + field.nodeid_out),
      offOut,
      Math.min(frame.u64(at + field.len), wide ? room : Math.min(room, MAX_COPY_32)),
      frame.u32(at + field.flags),
      this.caller(frame),
    )
    return isPromise(copied) ? this.later(copied, encode) : encode(copied)
  }

  // ---- replying

  private nothing(done: void | Promise<void>): number {
    return isPromise(done) ? this.later(done, () => 0) : 0
  }

  /** Answers when `result` settles. `encode` runs on an output that is its own until the reply is sent. */
  private later<T>(result: Promise<T>, encode: (value: T) => number): number {
    const { high, low, op, nodeid } = this
    this.inFlight++
    result.then(
      value => {
        this.resume(high, low, op, nodeid)
        let payload: number
        try {
          payload = encode(value)
        } catch (thrown) {
          this.failed(thrown, undefined, 0)
          return
        }
        this.succeed(payload)
      },
      (thrown: unknown) => {
        this.resume(high, low, op, nodeid)
        this.failed(thrown, undefined, 0)
      },
    )
    return LATER
  }

  private resume(high: number, low: number, op: number, nodeid: number): void {
    this.inFlight--
    this.nodeid = nodeid
    this.high = high
    this.low = low
    this.op = op
  }

  private succeed(payload: number): void {
    const { out, high, low, transport } = this
    const length = PAYLOAD + payload
    out.header(length, 0, high, low)
    this.counters.replies++
    const sent = transport.send(length)
    if (sent < 0) this.undelivered(-sent)
  }

  private reject(errno: number): void {
    const { out, op, counters, transport } = this
    const known = Number.isInteger(errno) && errno > 0 && errno <= MAX_REPLY_ERRNO
    out.header(PAYLOAD, -(known ? errno : E.EIO), this.high, this.low)
    counters.replies++
    if (op < OP_LIMIT) (counters.errors[op] as number)++
    if (transport.send(PAYLOAD) < 0) counters.undelivered++
  }

  /**
   * The kernel did not take the reply: the caller was killed, or the mount is going away. What the reply would have
   * handed over is taken back, or its nodeid would never be forgotten.
   */
  private undelivered(errno: number): void {
    const { op, out, fs, counters } = this
    counters.undelivered++
    const name = opName(op)
    this.log?.(`${name} #${this.low}: reply not taken, errno ${errno}`)
    try {
      switch (op) {
        case Op.LOOKUP:
        case Op.SYMLINK:
        case Op.MKNOD:
        case Op.MKDIR:
        case Op.LINK: {
          const nodeid = out.u64(PAYLOAD + S.EntryOut.at.nodeid)
          if (nodeid !== 0) fs.forget(nodeid, 1)
          break
        }
        case Op.CREATE:
        case Op.TMPFILE: {
          const nodeid = out.u64(PAYLOAD + S.EntryOut.at.nodeid)
          const fh = out.u64(PAYLOAD + S.EntryOut.size + S.OpenOut.at.fh)
          if (fh !== 0) fs.release(nodeid, fh)
          fs.forget(nodeid, 1)
          break
        }
        case Op.READDIRPLUS:
          this.sink.forEachReference(nodeid => fs.forget(nodeid, 1))
          break
        case Op.OPEN:
          fs.release(this.nodeid, out.u64(PAYLOAD + S.OpenOut.at.fh))
          break
        case Op.OPENDIR:
          fs.releasedir(this.nodeid, out.u64(PAYLOAD + S.OpenOut.at.fh))
          break
      }
    } catch (fault) {
      this.fault(fault, `taking back an undelivered ${name}`)
    }
    // The kernel refused the message itself: somebody still waits.
    if (errno === E.EINVAL || errno === E.ENOMEM || errno === E.EFAULT) this.reject(E.EIO)
  }

  /** `frame` is undefined for a request that was answered late: it cannot be run anew. */
  private failed(thrown: unknown, frame: Frame | undefined, length: number): void {
    const { op } = this
    if (thrown instanceof Again && frame !== undefined) {
      this.wait(thrown, frame, length)
      return
    }
    const replied = OPCODES[op]?.replied ?? true
    if (thrown instanceof BadRequest || thrown instanceof SysError) {
      if (thrown instanceof BadRequest && thrown.errno === E.EINVAL)
        this.log?.(`${opName(op)}: ${thrown.reason}`)
      if (replied) this.reject(thrown.errno)
      return
    }
    this.fault(thrown, opName(op))
    if (replied) this.reject(E.EIO)
  }

  private fault(fault: unknown, what: string): void {
    this.counters.faults++
    try {
      this.onFault(fault, what)
    } catch {
      // A broken log must not end the mount.
    }
  }

  /** Runs the request anew when what it needs is there. */
  private wait(again: Again, frame: Frame, length: number): void {
    const { high, low, op, nodeid } = this
    if (op < OP_LIMIT) (this.counters.waits[op] as number)++
    const own = frame === this.input ? frame.copy(length) : frame
    this.inFlight++
    const request = { high, low, op, nodeid, pid: own.u32(S.InHeader.at.pid), gone: false }
    this.waiting.add(request)
    again.ready.then(
      () => {
        if (request.gone) return
        this.waiting.remove(request)
        this.inFlight--
        this.serve(own, length)
      },
      (thrown: unknown) => {
        if (request.gone) return
        this.waiting.remove(request)
        this.resume(high, low, op, nodeid)
        this.failed(thrown, undefined, 0)
      },
    )
  }
}

function within(value: Buffer, size: number): Buffer {
  if (value.length > size) throw new BadRequest(E.ERANGE, 'the value does not fit')
  return value
}

/** @throws BadRequest for what a file would reach to */
function checkEnd(end: number): void {
  if (end > MAX_FILE) throw new BadRequest(E.EFBIG, 'a file cannot be so large')
}

/** Seconds that no filesystem has: it takes the nearest that it has. */
function withinExact(value: number): number {
  return Math.max(-Number.MAX_SAFE_INTEGER, Math.min(Number.MAX_SAFE_INTEGER, value))
}
