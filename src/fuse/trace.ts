/**
 * Recordings of a connection: LAMINA_TRACE=FILE writes one, ReplayTransport is fed from one. A recording is a test
 * fixture, a fuzz corpus and a bug report at once. It holds names and xattr values of the mount; file data is only in it
 * where a WRITE entered JavaScript (the first one of a file).
 *
 * The file, all numbers little-endian:
 *
 *     header   8 bytes  "LAMTRACE"
 *              u32      version of this format, 1
 *              u32      bytes of a record's head, 16
 *     records  u32      kind: 1 a frame from the kernel, 2 a reply to it, 3 a notification, 4 a READ or WRITE that was
 *                       handed on to the data plane (its reply is not recorded)
 *              u32      bytes that follow the head
 *              u64      nanoseconds since the recording began
 *              …        the message, as it crossed the device (kind 4: as far as fuse_read_in or fuse_write_in)
 *
 * The last record may be cut off where the daemon was killed.
 */
import { closeSync, openSync, writeSync } from 'node:fs'
import { InHeader, ReadIn } from './structs.js'
import { TransportDecorator } from './transport-decorator.js'
import type { Transport } from './transport.js'

const MAGIC = 'LAMTRACE'
const VERSION = 1
const FILE_HEAD = 16
const RECORD_HEAD = 16

export const TRACE_KIND = { frame: 1, reply: 2, notification: 3, handedOn: 4 } as const
export type TraceKind = keyof typeof TRACE_KIND

export interface TraceRecord {
  readonly kind: TraceKind
  /** Nanoseconds since the recording began. */
  readonly time: bigint
  readonly message: Buffer
}

/** Appends records to a file. A failed write ends the recording, never the mount. */
export class TraceWriter {
  private fd: number
  private readonly begin = process.hrtime.bigint()

  constructor(path: string) {
    // Recordings hold what the mount holds: for their owner only.
    this.fd = openSync(path, 'w', 0o600)
    const head = Buffer.alloc(FILE_HEAD)
    head.write(MAGIC, 'latin1')
    head.writeUInt32LE(VERSION, 8)
    head.writeUInt32LE(RECORD_HEAD, 12)
    writeSync(this.fd, head)
  }

  write(kind: TraceKind, message: Uint8Array): void {
    if (this.fd < 0) return
    const record = Buffer.allocUnsafe(RECORD_HEAD + message.length)
    record.writeUInt32LE(TRACE_KIND[kind], 0)
    record.writeUInt32LE(message.length, 4)
    record.writeBigUInt64LE(process.hrtime.bigint() - this.begin, 8)
    record.set(message, RECORD_HEAD)
    try {
      writeSync(this.fd, record)
    } catch (error) {
      process.stderr.write(`lamina: the recording ends here: ${String(error)}\n`)
      this.close()
    }
  }

  close(): void {
    if (this.fd >= 0) closeSync(this.fd)
    this.fd = -1
  }
}

/**
 * The records of a recording.
 * @throws Error when it is not one, or of a version that this program does not know
 */
export function readTrace(file: Buffer): TraceRecord[] {
  if (file.length < FILE_HEAD || file.toString('latin1', 0, 8) !== MAGIC)
    throw new Error('not a recording of a FUSE connection')
  const version = file.readUInt32LE(8)
  if (version !== VERSION)
    throw new Error(`a recording of version ${version}; this program reads version ${VERSION}`)
  const head = file.readUInt32LE(12)
  if (head < RECORD_HEAD) throw new Error('the recording is damaged')
  const kinds = new Map(Object.entries(TRACE_KIND).map(([name, number]) => [number, name as TraceKind]))
  const records: TraceRecord[] = []
  for (let at = FILE_HEAD; at + head <= file.length;) {
    const kind = kinds.get(file.readUInt32LE(at) as 1)
    const start = at + head
    const end = start + file.readUInt32LE(at + 4)
    if (end > file.length) break
    if (kind !== undefined)
      records.push({ kind, time: file.readBigUInt64LE(at + 8), message: file.subarray(start, end) })
    at = end
  }
  return records
}

class TracingTransport extends TransportDecorator {
  private readonly inBytes: Buffer
  private readonly outBytes: Buffer

  constructor(
    inner: Transport,
    private readonly writer: TraceWriter,
  ) {
    super(inner)
    this.inBytes = Buffer.from(inner.input)
    this.outBytes = Buffer.from(inner.output)
  }

  override start(onFrame: (length: number) => void, onEnd: (errno: number) => void): void {
    super.start(length => {
      this.writer.write('frame', this.inBytes.subarray(0, length))
      onFrame(length)
    }, onEnd)
  }

  override send(length: number): number {
    this.writer.write('reply', this.outBytes.subarray(0, length))
    return super.send(length)
  }

  override sendBuffer(message: Buffer): number {
    this.writer.write('reply', message)
    return super.sendBuffer(message)
  }

  override notify(message: Buffer): number {
    this.writer.write('notification', message)
    return super.notify(message)
  }

  override resubmit(frame: Buffer): void {
    this.writer.write('handedOn', frame.subarray(0, InHeader.size + ReadIn.size))
    super.resubmit(frame)
  }

  override close(): void {
    super.close()
    this.writer.close()
  }
}

/** `transport` itself, or one that records it when LAMINA_TRACE (or `path`) names a file. */
export function withTrace(transport: Transport, path = process.env['LAMINA_TRACE']): Transport {
  if (path === undefined || path === '') return transport
  return new TracingTransport(transport, new TraceWriter(path))
}
