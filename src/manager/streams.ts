/**
 * What a command of a container has for standard input, output and error. It never gets the terminal or the files that this process has: it
 * would be able to type into the one, and to give the other a new mode. They are passed on through pipes, or through a terminal of its own.
 */
import type { ChildProcess, IOType } from 'node:child_process'
import { fstatSync } from 'node:fs'
import { Socket } from 'node:net'
import { ReadStream, isatty } from 'node:tty'
import { type Fd } from '../base/fd.js'
import * as sys from '../sys/index.js'

/** Source: asm-generic/ioctls.h, asm-generic/termbits.h */
const [TCGETS, TCSETS, TIOCSWINSZ, OPOST] = [0x5401, 0x5402, 0x5414, 1]

/** How long what still holds the output may take when the command has ended, milliseconds. */
const LINGER = 1000

type Wanted = IOType | 'pipe'

/** `pipe` in place of what may not be inherited. */
export function safeStreams(wanted: readonly Wanted[]): Wanted[] {
  return wanted.map((how, fd) => (how === 'inherit' && !isHarmless(fd) ? 'pipe' : how))
}

/** A pipe is the other end's and ours; a socket may be anybody's. */
function isHarmless(fd: number): boolean {
  try {
    return fstatSync(fd).isFIFO() || (fstatSync(fd).isCharacterDevice() && !isatty(fd))
  } catch {
    return true
  }
}

/** Pipes in place of the sockets that Node would make: a program may open /dev/stdout, which is no socket's to be. */
export class Pipes {
  /** For spawn: the child's ends. */
  readonly stdio: (IOType | number)[]
  readonly #theirs: Fd[] = []
  readonly #ours: (Socket | null)[] = []

  constructor(used: readonly Wanted[]) {
    this.stdio = used.map((how, fd) => {
      if (how !== 'pipe') {
        this.#ours.push(null)
        return how
      }
      const [read, write] = sys.pipe()
      const [ours, theirs] = fd === 0 ? [write, read] : [read, write]
      this.#theirs.push(theirs)
      this.#ours.push(new Socket({ fd: ours.release(), readable: fd !== 0, writable: fd === 0 }))
      return theirs.n
    })
  }

  /** Gives the child that has been started its streams. */
  attach(child: ChildProcess): void {
    for (const fd of this.#theirs) fd.close()
    const [stdin = null, stdout = null, stderr = null] = this.#ours
    // It may have ended, or does not read.
    stdin?.on('error', () => undefined)
    Object.assign(child, { stdin, stdout, stderr })
  }

  /** When all output has been read. */
  async ended(): Promise<void> {
    const outputs = this.#ours.slice(1).filter(stream => stream !== null && !stream.destroyed)
    await Promise.all(
      outputs.map(async stream => await new Promise(resolve => stream?.once('close', resolve))),
    )
  }
}

/** Passes on what {@link safeStreams} has made pipes of. */
export function passOn(child: ChildProcess, wanted: readonly Wanted[], used: readonly Wanted[]): void {
  const changed = (fd: number): boolean => wanted[fd] === 'inherit' && used[fd] === 'pipe'
  const input = changed(0) ? child.stdin : null
  if (input !== null) process.stdin.pipe(input)
  if (changed(1)) child.stdout?.pipe(process.stdout, { end: false })
  if (changed(2)) child.stderr?.pipe(process.stderr, { end: false })
  child.once('exit', () => {
    if (input !== null) release(input)
    // A process that it has left behind may keep them open.
    const timer = setTimeout(() => {
      if (changed(1)) child.stdout?.destroy()
      if (changed(2)) child.stderr?.destroy()
    }, LINGER)
    timer.unref()
  })
}

function release(input?: NodeJS.WritableStream): void {
  if (input !== undefined) process.stdin.unpipe(input)
  process.stdin.destroy()
}

/**
 * This process's terminal, passed on to one of the container's. `socket` receives its descriptor from lamina-enter, once.
 * Resolves when what runs in it has ended, and its output is out.
 */
export async function passTerminal(child: ChildProcess, socket: Fd): Promise<void> {
  const master = await received(child, socket)
  if (master === undefined) return
  const { stdin, stdout } = process
  const fd = master.release()
  const terminal = new ReadStream(fd)
  const resize = (): void => {
    if (terminal.destroyed) return
    const { rows = 0, columns = 0 } = stdout
    sys.ioctlNumber(fd, TIOCSWINSZ, Buffer.from(Uint16Array.of(rows, columns, 0, 0).buffer))
  }
  resize()
  // Before the command starts, which the byte does: the ends of its lines are the container's business.
  stdin.setRawMode(true)
  passOutputAsItIs()
  sys.sendFd(socket.n, [])
  stdin.pipe(terminal)
  stdout.on('resize', resize)
  terminal.pipe(stdout, { end: false })
  await new Promise<void>(resolve => {
    // EIO: nobody has the other end any more.
    terminal.once('error', () => resolve()).once('close', () => resolve())
    child.once('exit', () => setTimeout(resolve, LINGER).unref())
  })
  stdout.off('resize', resize)
  stdin.setRawMode(false)
  release(terminal)
  terminal.destroy()
}

/** Node's raw mode leaves newlines to be changed, a second time after the container's terminal. Ends as the raw mode ends. */
function passOutputAsItIs(): void {
  // struct termios: words of flags for input and output, of which this is the second.
  const termios = new Uint32Array(16)
  const bytes = new Uint8Array(termios.buffer)
  if (sys.ioctlNumber(process.stdin.fd, TCGETS, bytes) < 0) return
  termios[1] = (termios[1] ?? 0) & ~OPOST
  sys.ioctlNumber(process.stdin.fd, TCSETS, bytes)
}

/** Nothing where the child has ended before it had a terminal. */
async function received(child: ChildProcess, socket: Fd): Promise<Fd | undefined> {
  return await new Promise(resolve => {
    const look = setInterval(() => {
      const message = sys.recvFd(socket.n)
      if (message === undefined && child.exitCode === null && child.signalCode === null) return
      clearInterval(look)
      resolve(message?.fds[0])
    }, 5)
  })
}
