/**
 * What a detached container says: containers/ID/output.log, and output.log.1 with what was before, each of at most `LIMIT` bytes. A
 * record is a line `TIME STREAM F|P TEXT`, as container engines write it (CRI: F ends a line, P does not), so any tool reads it.
 */
import {
  closeSync,
  existsSync,
  fstatSync,
  openSync,
  readSync,
  renameSync,
  statSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { causeOf } from '../store-error.js'

/** Bytes of one file; there are two. */
export const LIMIT = 5 << 20
const NEWLINE = 0x0a

export type Stream = 'stdout' | 'stderr'

export interface LogEntry {
  /** As Date gives it: 2026-11-21T12:54:00.123Z */
  readonly time: string
  readonly stream: Stream
  /** With its end of line, if it has one. */
  readonly text: Buffer
}

const logPath = (dir: string): string => join(dir, 'output.log')

/** Output is never held up by a disk that takes no more: it is left out then, and the log says how much. */
export class OutputLog implements Disposable {
  #fd: number
  #size: number
  #lost = 0
  #why = ''

  constructor(
    readonly dir: string,
    readonly limit = LIMIT,
  ) {
    this.#fd = openSync(logPath(dir), 'a', 0o600)
    this.#size = fstatSync(this.#fd).size
  }

  write(stream: Stream, chunk: Buffer): void {
    const time = new Date().toISOString()
    const records: Buffer[] = []
    for (let from = 0; from < chunk.length;) {
      const end = chunk.indexOf(NEWLINE, from)
      const text = chunk.subarray(from, end < 0 ? chunk.length : end)
      records.push(Buffer.from(`${time} ${stream} ${end < 0 ? 'P' : 'F'} `), text, Buffer.of(NEWLINE))
      from += text.length + 1
    }
    this.#append(Buffer.concat(records), chunk.length)
  }

  #append(records: Buffer, said: number): void {
    try {
      if (this.#size > 0 && this.#size + records.length > this.limit) this.#rotate()
      if (this.#lost > 0) {
        const note = `${new Date().toISOString()} stderr F lamina: ${this.#lost} bytes of output lost: ${this.#why}\n`
        this.#put(Buffer.from(note))
        this.#lost = 0
      }
      this.#put(records)
    } catch (error) {
      this.#lost += said
      this.#why = causeOf(error)
    }
  }

  /** Half a record is ended, so that it does not spoil the next. */
  #put(bytes: Buffer): void {
    let done = 0
    try {
      while (done < bytes.length) done += writeSync(this.#fd, bytes, done)
      this.#size += bytes.length
    } catch (error) {
      this.#size += done
      if (done > 0) this.#endRecord()
      throw error
    }
  }

  #endRecord(): void {
    try {
      this.#size += writeSync(this.#fd, '\n')
    } catch {
      // The reader takes what follows for the rest of the line.
    }
  }

  #rotate(): void {
    renameSync(logPath(this.dir), `${logPath(this.dir)}.1`)
    const fd = openSync(logPath(this.dir), 'a', 0o600)
    closeSync(this.#fd)
    this.#fd = fd
    this.#size = 0
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd)
  }
}

export interface ReadLog {
  /** The last so many lines only. */
  readonly tail?: number
  /** Milliseconds since 1970. */
  readonly since?: number
  /** Goes on until this says that nobody writes any more. */
  readonly follow?: () => boolean
  readonly signal?: AbortSignal
}

/** Whether anything was ever kept. */
export function hasLog(dir: string): boolean {
  return existsSync(logPath(dir))
}

export async function* readLog(dir: string, options: ReadLog = {}): AsyncGenerator<LogEntry, void, void> {
  const reader = new LogReader(dir)
  using closing = reader
  void closing
  const wanted = (entry: LogEntry): boolean =>
    options.since === undefined || Date.parse(entry.time) >= options.since
  const before = [...reader.read()].filter(wanted)
  yield* options.tail === undefined ? before : lastLines(before, options.tail)
  while (options.follow !== undefined) {
    // Asked first: what is written before the end is read after it.
    const over = !options.follow()
    yield* [...reader.read()].filter(wanted)
    if (over) return
    await new Promise(resolve => setTimeout(resolve, 50))
    options.signal?.throwIfAborted()
  }
}

/** A line may be in several records: those of one stream up to one that ends it. */
function lastLines(entries: readonly LogEntry[], count: number): LogEntry[] {
  let lines = 0
  let first = entries.length
  while (first > 0) {
    if (first === entries.length || entries[first - 1]?.text.at(-1) === NEWLINE) lines += 1
    if (lines > count) break
    first -= 1
  }
  return entries.slice(first)
}

class LogReader implements Disposable {
  #fds: number[] = []
  /** Of the first one, what is no whole record yet. */
  #rest = Buffer.alloc(0)

  constructor(readonly dir: string) {
    // The newer one first: where it becomes the older one meanwhile, it is met twice and not missed.
    for (const path of [logPath(dir), `${logPath(dir)}.1`]) {
      if (!existsSync(path)) continue
      const fd = openSync(path, 'r')
      if (this.#fds.some(other => fstatSync(other).ino === fstatSync(fd).ino)) closeSync(fd)
      else this.#fds.unshift(fd)
    }
  }

  /** What has come since the last time. */
  *read(): Generator<LogEntry, void, void> {
    for (;;) {
      const [fd, next] = this.#fds
      if (fd === undefined) return
      yield* this.#readFile(fd)
      if (next === undefined && !this.#openNext(fd)) return
      closeSync(fd)
      this.#fds.shift()
      this.#rest = Buffer.alloc(0)
    }
  }

  /** The file that was begun when this one was full. */
  #openNext(current: number): boolean {
    const path = logPath(this.dir)
    if (!existsSync(path) || statSync(path).ino === fstatSync(current).ino) return false
    this.#fds.push(openSync(path, 'r'))
    return true
  }

  *#readFile(fd: number): Generator<LogEntry, void, void> {
    const chunk = Buffer.alloc(1 << 16)
    for (;;) {
      const count = readSync(fd, chunk)
      if (count === 0) return
      const bytes = Buffer.concat([this.#rest, chunk.subarray(0, count)])
      let from = 0
      for (let end = bytes.indexOf(NEWLINE); end >= 0; end = bytes.indexOf(NEWLINE, from)) {
        const entry = parse(bytes.subarray(from, end))
        if (entry !== undefined) yield entry
        from = end + 1
      }
      this.#rest = Buffer.from(bytes.subarray(from))
    }
  }

  [Symbol.dispose](): void {
    for (const fd of this.#fds.splice(0)) closeSync(fd)
  }
}

/** `undefined` for what a crash or a full disk has left of a record. */
function parse(line: Buffer): LogEntry | undefined {
  const match = /^(\S+) (stdout|stderr) ([FP]) /.exec(line.subarray(0, 64).toString('latin1'))
  if (match === null) return undefined
  const [head, time = '', stream = '', kind] = match
  const text = line.subarray(head.length)
  return {
    time,
    stream: stream as Stream,
    text: kind === 'F' ? Buffer.concat([text, Buffer.of(NEWLINE)]) : Buffer.from(text),
  }
}
