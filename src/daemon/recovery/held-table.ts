/**
 * Descriptors that outlive the daemon by being listed in shared memory: native/orphan-holder.cc is the process that keeps them, and puts
 * them on the shelf when the daemon is dead. Listing one is one store, and so is taking it away.
 *
 *     u32  the process: its id while it lives (a robust futex: the kernel changes it at its end); 0 none yet
 *     u32  which socket it sends to first
 *     u32  entries behind so many are not in use
 *     u32  another number for each daemon: whose descriptors these are
 *     u32  one more than that number of the daemon whose descriptors are asked for (SIGUSR1): it may be unable to die
 *     64   the entries, one for each number of a descriptor: f64 the nodeid of the object that it is; 0: it is not listed
 */
import fs from 'node:fs'
import { E } from '../../base/errno.js'
import { debug } from '../../base/log.js'
import type { Fd } from '../../base/fd.js'
import { SysError } from '../../base/sys-error.js'
import * as sys from '../../sys/index.js'
import type { StateMemory } from './memory.js'

const log = debug('daemon')

const HEAD = 64
/** Of 8 bytes. */
const FIRST = HEAD / 8
/** Word indices. */
const W = { holder: 0, side: 1, used: 2, life: 3, asked: 4 } as const
/** FUTEX_OWNER_DIED. */
const ENDED = 0x4000_0000
const NAME = 'lamina-orphans\n'
/** Milliseconds. A process that has only to send needs one. */
const PATIENCE = 3000

export class HeldTable {
  private readonly bytes: Buffer
  private readonly words: Uint32Array
  private readonly doubles: Float64Array
  private readonly most: number
  /** What this daemon has started. */
  private holder = 0
  private self: Fd | undefined
  private signals: Fd | undefined

  constructor(memory: StateMemory) {
    const bytes = (this.bytes = memory.held)
    this.words = new Uint32Array(bytes.buffer, bytes.byteOffset, HEAD / 4)
    this.doubles = new Float64Array(bytes.buffer, bytes.byteOffset, bytes.length / 8)
    this.most = this.doubles.length - FIRST
  }

  /** Whether the process lives, so that what is listed outlives this daemon. */
  get outlives(): boolean {
    return this.holder !== 0 && this.words[W.holder] === this.holder
  }

  /** Starts the process; it counts some moments later. Precondition: there is none. False: it cannot be started. */
  start(sockets: readonly [number, number]): boolean {
    this.words[W.holder] = 0
    try {
      this.self ??= sys.pidfdSelf()
      this.signals ??= sys.signalsOfOthers()
      this.holder = sys.holdOrphans(this.bytes, this.self.n, this.signals.n, ...sockets)
      return true
    } catch (error) {
      if (!(error instanceof SysError)) throw error
      log?.(`no process that keeps descriptors: ${error.message}`)
      return false
    }
  }

  /** To which of its sockets the process sends first. */
  set side(side: 0 | 1) {
    this.words[W.side] = side
  }

  /** False: it would not outlive this daemon. */
  list(nodeid: number, fd: number): boolean {
    if (!this.outlives || fd >= this.most) return false
    if (fd >= (this.words[W.used] as number)) this.words[W.used] = fd + 1
    this.doubles[FIRST + fd] = nodeid
    return true
  }

  /** To be done before the descriptor is closed. False: it was not listed. */
  strike(nodeid: number, fd: number): boolean {
    if (fd >= this.most || this.doubles[FIRST + fd] !== nodeid) return false
    this.doubles[FIRST + fd] = 0
    return true
  }

  /** What is listed: nodeids and descriptors. */
  listed(): [nodeid: number, fd: number][] {
    const found: [number, number][] = []
    const used = Math.min(this.words[W.used] as number, this.most)
    for (let fd = 0; fd < used; fd++) {
      const nodeid = this.doubles[FIRST + fd] as number
      if (nodeid !== 0) found.push([nodeid, fd])
    }
    if (found.length === 0) this.words[W.used] = 0
    return found
  }

  /**
   * For a successor, before it looks at the shelf: asks the predecessor's process for what it keeps, and waits until it has put that
   * there. Gives the nodeids of what it could not, and empties the table.
   */
  inherit(): number[] {
    this.waitForHolder(this.words[W.holder] as number)
    const listed = this.listed()
    this.words[W.life] = (this.words[W.life] as number) + 1
    for (const [nodeid, fd] of listed) this.strike(nodeid, fd)
    this.words[W.holder] = this.words[W.used] = 0
    return listed.map(([nodeid]) => nodeid)
  }

  private waitForHolder(pid: number): void {
    const clock = new Int32Array(new SharedArrayBuffer(4))
    const lives = (): boolean => this.words[W.holder] === pid && isHolder(pid)
    const wait = (end: number): void => {
      while (lives() && Date.now() < end) Atomics.wait(clock, 0, 0, 1)
    }
    if (pid === 0 || pid >= ENDED) return
    this.words[W.asked] = (this.words[W.life] as number) + 1
    if (lives()) signal(pid, 'SIGUSR1')
    wait(Date.now() + PATIENCE)
    if (!lives()) return
    // Stopped by somebody.
    log?.(`process ${pid} does not hand over what it keeps: it is ended`)
    signal(pid, 'SIGKILL')
    wait(Date.now() + PATIENCE)
  }
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).errno !== -E.ESRCH) throw error
  }
}

/** Numbers of processes are used again. */
function isHolder(pid: number): boolean {
  try {
    return fs.readFileSync(`/proc/${pid}/comm`, 'latin1') === NAME
  } catch {
    return false
  }
}
