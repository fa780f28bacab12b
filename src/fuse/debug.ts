/**
 * LAMINA_DEBUG=fuse: one line for each request and its reply, built from the opcode table:
 *
 *     #0x4f2 LOOKUP nodeid 1 'passwd' uid 0 pid 512 -> nodeid 17 entry ∞ attr ∞ mode 0100644 size 1204, 41 µs
 *
 * READ and WRITE that the data plane serves are not seen here; the counters have them.
 */
import { toUtf8 } from '../base/bytes.js'
import { errnoName } from '../base/errno.js'
import { type DebugLog, debug } from '../base/log.js'
import { FATTR, FOPEN, INIT_FLAG, IOCTL, NOTIFY, RELEASE, UNIQUE_RESEND_HIGH, WRITE } from './flags.js'
import { Frame } from './frame.js'
import type { Field, Layout } from './layout.js'
import { Op, OPCODES, type OpcodeInfo, opName } from './opcodes.js'
import { PAYLOAD } from './output.js'
import * as S from './structs.js'
import { TransportDecorator } from './transport-decorator.js'
import type { Transport } from './transport.js'

type FlagNames = Readonly<Record<string, number>>

const OPEN_FLAGS: FlagNames = {
  WRONLY: 1,
  RDWR: 2,
  CREAT: 0o100,
  EXCL: 0o200,
  NOCTTY: 0o400,
  TRUNC: 0o1000,
  APPEND: 0o2000,
  NONBLOCK: 0o4000,
  DSYNC: 0o10000,
  LARGEFILE: 0o100000,
  NOATIME: 0o1000000,
  CLOEXEC: 0o2000000,
}
const RENAME_FLAGS: FlagNames = { NOREPLACE: 1, EXCHANGE: 2, WHITEOUT: 4 }
const XATTR_FLAGS: FlagNames = { CREATE: 1, REPLACE: 2 }
const FALLOCATE_MODES: FlagNames = {
  KEEP_SIZE: 1,
  PUNCH_HOLE: 2,
  COLLAPSE_RANGE: 8,
  ZERO_RANGE: 16,
  INSERT_RANGE: 32,
}

/** Fields that hold flags, by struct and field. */
const FLAG_FIELDS: Readonly<Record<string, FlagNames>> = {
  'fuse_setattr_in.valid': FATTR,
  'fuse_open_in.flags': OPEN_FLAGS,
  'fuse_create_in.flags': OPEN_FLAGS,
  'fuse_release_in.flags': OPEN_FLAGS,
  'fuse_release_in.release_flags': RELEASE,
  'fuse_write_in.write_flags': WRITE,
  'fuse_rename2_in.flags': RENAME_FLAGS,
  'fuse_setxattr_in.flags': XATTR_FLAGS,
  'fuse_fallocate_in.mode': FALLOCATE_MODES,
  'fuse_ioctl_in.flags': IOCTL,
  'fuse_open_out.open_flags': FOPEN,
}
const OCTAL = new Set(['mode', 'umask'])
const HEXADECIMAL = new Set(['cmd', 'arg', 'mask', 'sx_mask'])
/** Says nothing in itself. */
const SILENT = /^(padding|dummy|unused\d?|reserved|lock_owner|spare)$/
/** 2^40 - 1 seconds, see output.ts. */
const FOREVER = 0xff_ffff_ffff

/** `WRONLY|TRUNC`, with what has no name in hexadecimal. */
export function flagNames(value: number, names: FlagNames): string {
  const known: string[] = []
  let rest = value
  for (const [name, bit] of Object.entries(names)) {
    if ((value & bit) === bit && bit !== 0) {
      known.push(name)
      rest &= ~bit
    }
  }
  if (rest !== 0) known.push(`0x${(rest >>> 0).toString(16)}`)
  return known.length === 0 ? '0' : known.join('|')
}

function initFlagNames(low: number, high: number): string {
  const names = Object.entries(INIT_FLAG)
    .filter(([, bit]) => ((bit < 32 ? low >>> bit : high >>> (bit - 32)) & 1) === 1)
    .map(([name]) => name)
  return names.join('|')
}

function scalar(frame: Frame, at: number, field: Field): number | undefined {
  switch (field.type) {
    case 'u16':
      return frame.u16(at)
    case 'u32':
      return frame.u32(at)
    case 's32':
      return frame.u32(at) | 0
    case 'u64':
      return frame.u64(at)
    case 's64':
      return frame.s64(at)
    default:
      return undefined
  }
}

/** Fields of a struct that are not zero. */
function fields(frame: Frame, at: number, struct: Layout): string {
  let text = ''
  for (const [name, field] of Object.entries(struct.fields)) {
    if (SILENT.test(name)) continue
    const value = scalar(frame, at + field.offset, field)
    if (value === undefined || value === 0) continue
    const flags = FLAG_FIELDS[`${struct.name}.${name}`]
    if (flags !== undefined) text += ` ${name} ${flagNames(value, flags)}`
    else if (OCTAL.has(name)) text += ` ${name} 0${value.toString(8)}`
    else if (HEXADECIMAL.has(name)) text += ` ${name} 0x${value.toString(16)}`
    else text += ` ${name} ${value}`
  }
  return text
}

function names(frame: Frame, at: number, end: number, count: number): string {
  let text = ''
  for (let i = 0; i < count && at < end; i++) {
    const nul = frame.bytes.indexOf(0, at)
    const stop = nul < 0 || nul > end ? end : nul
    text += ` '${toUtf8(frame.bytes.toString('latin1', at, stop))}'`
    at = stop + 1
  }
  return text
}

/** One request, without its unique. */
export function describeRequest(frame: Frame, length: number): string {
  const op = frame.u32(S.InHeader.at.opcode)
  const info: OpcodeInfo | undefined = OPCODES[op]
  const nodeid = frame.u64(S.InHeader.at.nodeid)
  let text = `${opName(op)} nodeid ${nodeid}`
  if (info === undefined) return text
  let at: number = S.InHeader.size
  if (info.input !== undefined && at + info.input.size <= length) {
    if (op === Op.INIT) {
      const { at: field } = S.InitIn
      text += ` ${frame.u32(at + field.major)}.${frame.u32(at + field.minor)}`
      text += ` offers ${initFlagNames(frame.u32(at + field.flags), frame.u32(at + field.flags2))}`
    } else {
      text += fields(frame, at, info.input)
    }
    at += info.input.size
  }
  text += names(frame, at, length, info.names)
  const { uid, gid, pid } = S.InHeader.at
  return `${text} uid ${frame.u32(uid)} gid ${frame.u32(gid)} pid ${frame.u32(pid)}`
}

function timeout(seconds: number): string {
  return seconds >= FOREVER ? '∞' : `${seconds}`
}

function describeAttr(frame: Frame, at: number): string {
  const field = S.Attr.at
  return ` ino ${frame.u64(at + field.ino)} mode 0${frame.u32(at + field.mode).toString(8)} size ${frame.u64(at + field.size)} nlink ${frame.u32(at + field.nlink)}`
}

/** What a reply says; `op` is the request's. */
export function describeReply(frame: Frame, length: number, op: number): string {
  const error = frame.u32(S.OutHeader.at.error) | 0
  if (error !== 0) return errnoName(-error)
  const output = OPCODES[op]?.output
  if (output === S.EntryOut || op === Op.CREATE || op === Op.TMPFILE) {
    const field = S.EntryOut.at
    const nodeid = frame.u64(PAYLOAD + field.nodeid)
    const entry = timeout(frame.u64(PAYLOAD + field.entry_valid))
    if (nodeid === 0) return `negative entry ${entry}`
    const attr = timeout(frame.u64(PAYLOAD + field.attr_valid))
    const open = output === S.EntryOut ? '' : fields(frame, PAYLOAD + S.EntryOut.size, S.OpenOut)
    return `nodeid ${nodeid} entry ${entry} attr ${attr}${describeAttr(frame, PAYLOAD + field.attr)}${open}`
  }
  if (output === S.AttrOut) {
    const valid = timeout(frame.u64(PAYLOAD + S.AttrOut.at.attr_valid))
    return `attr ${valid}${describeAttr(frame, PAYLOAD + S.AttrOut.at.attr)}`
  }
  if (op === Op.INIT) {
    const { flags, flags2, minor } = S.InitOut.at
    const chosen = initFlagNames(frame.u32(PAYLOAD + flags), frame.u32(PAYLOAD + flags2))
    return `7.${frame.u32(PAYLOAD + minor)} with ${chosen}`
  }
  if (output === undefined || output === 'nothing' || length === PAYLOAD) return 'done'
  if (output === 'bytes') return `${length - PAYLOAD} bytes`
  return fields(frame, PAYLOAD, output).trimStart() || '0'
}

class DebugTransport extends TransportDecorator {
  private readonly inFrame: Frame
  private readonly outFrame: Frame
  private readonly open = new Map<string, { text: string; op: number; since: bigint }>()

  constructor(
    inner: Transport,
    private readonly log: DebugLog,
  ) {
    super(inner)
    this.inFrame = new Frame(inner.input)
    this.outFrame = new Frame(inner.output)
  }

  private key(frame: Frame, at: number): string {
    const high = frame.high(at)
    const resent = high >= UNIQUE_RESEND_HIGH
    const unique = (BigInt(resent ? high - UNIQUE_RESEND_HIGH : high) << 32n) | BigInt(frame.low(at))
    return `#0x${unique.toString(16)}${resent ? ' resent' : ''}`
  }

  private reply(frame: Frame, length: number, rc: number): void {
    const key = this.key(frame, S.OutHeader.at.unique)
    const request = this.open.get(key)
    this.open.delete(key)
    const took = request === undefined ? '' : `, ${this.since(request.since)}`
    const taken = rc < 0 ? ` (not taken: ${errnoName(-rc)})` : ''
    const answer = describeReply(frame, length, request?.op ?? 0)
    this.log(`${key} ${request?.text ?? 'a request unknown here'} -> ${answer}${taken}${took}`)
  }

  private since(begin: bigint): string {
    return `${Number((process.hrtime.bigint() - begin) / 1000n)} µs`
  }

  override start(onFrame: (length: number) => void, onEnd: (errno: number) => void): void {
    super.start(
      length => {
        const frame = this.inFrame
        if (length >= S.InHeader.size) {
          const op = frame.u32(S.InHeader.at.opcode)
          const text = describeRequest(frame, length)
          const key = this.key(frame, S.InHeader.at.unique)
          if (OPCODES[op]?.replied === false) this.log(`${key} ${text}`)
          else this.open.set(key, { text, op, since: process.hrtime.bigint() })
        }
        onFrame(length)
      },
      errno => {
        this.log(`the device ends: ${errnoName(errno)}; unanswered: ${this.open.size}`)
        onEnd(errno)
      },
    )
  }

  override send(length: number): number {
    // The reply is still in the output afterwards: sending does not change it.
    const rc = super.send(length)
    this.reply(this.outFrame, length, rc)
    return rc
  }

  override sendBuffer(message: Buffer): number {
    const rc = super.sendBuffer(message)
    const memory = new Frame(new ArrayBuffer((message.length + 7) & ~7))
    message.copy(memory.bytes)
    this.reply(memory, message.length, rc)
    return rc
  }

  override notify(message: Buffer): number {
    const code = message.readInt32LE(S.OutHeader.at.error)
    const name = Object.entries(NOTIFY).find(([, number]) => number === code)?.[0] ?? `${code}`
    const nodeid = message.length >= PAYLOAD + 8 ? ` nodeid ${message.readBigUInt64LE(PAYLOAD)}` : ''
    this.log(`NOTIFY_${name}${nodeid}`)
    return super.notify(message)
  }

  override resubmit(frame: Buffer): void {
    const unique = frame.readBigUInt64LE(S.InHeader.at.unique)
    const key = `#0x${unique.toString(16)}`
    const request = this.open.get(key)
    this.open.delete(key)
    if (request !== undefined) this.log(`${key} ${request.text} -> data plane, ${this.since(request.since)}`)
    super.resubmit(frame)
  }
}

/** `transport` itself, or one that prints what it carries when LAMINA_DEBUG has `fuse`. */
export function withDebug(transport: Transport, log = debug('fuse')): Transport {
  return log === undefined ? transport : new DebugTransport(transport, log)
}
