/**
 * Requests that wait for something before they can begin (Again). The kernel lets a caller who is killed go only when his request is
 * answered, and says so with an INTERRUPT: a request that has not begun can be answered EINTR at once.
 *
 * INTERRUPT is sent for every signal, also for those that a caller handles and goes on after, who would not expect EINTR from
 * stat(2). So only a caller who is about to die is answered: SIGKILL is then pending in his thread, whatever the signal was.
 */
import { readFileSync } from 'node:fs'

export interface WaitingRequest {
  readonly high: number
  readonly low: number
  readonly op: number
  readonly nodeid: number
  /** Of the caller's thread; 0 where the daemon cannot see it. */
  readonly pid: number
  /** Answered before its time. */
  gone: boolean
}

/** Signals that come after the first one send no further INTERRUPT: so often is looked, milliseconds. */
const LOOK_AGAIN = 500

const SIGKILL_PENDING = 1n << 8n

export class Waiting {
  private readonly requests = new Map<string, WaitingRequest>()
  private interrupted: WaitingRequest[] = []
  private timer: NodeJS.Timeout | undefined

  constructor(private readonly giveUp: (request: WaitingRequest) => void) {}

  add(request: WaitingRequest): void {
    this.requests.set(`${request.high},${request.low}`, request)
  }

  remove(request: WaitingRequest): void {
    this.requests.delete(`${request.high},${request.low}`)
    if (this.interrupted.length > 0) this.interrupted = this.interrupted.filter(other => other !== request)
  }

  /** The caller of the request with this `unique` has a signal. */
  interrupt(high: number, low: number): void {
    const request = this.requests.get(`${high},${low}`)
    if (request === undefined) return
    this.interrupted.push(request)
    this.look()
  }

  private look(): void {
    for (const request of this.interrupted.slice()) {
      if (!dies(request.pid)) continue
      this.remove(request)
      request.gone = true
      this.giveUp(request)
    }
    if (this.interrupted.length === 0 || this.timer !== undefined) return
    this.timer = setTimeout(() => {
      this.timer = undefined
      this.look()
    }, LOOK_AGAIN)
    this.timer.unref()
  }
}

/** Whether the thread is being killed. One that cannot be seen is taken to be. */
function dies(pid: number): boolean {
  if (pid === 0) return true
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'latin1')
    const pending = /^SigPnd:\s*([0-9a-f]+)$/m.exec(status)?.[1]
    return pending === undefined || (BigInt(`0x${pending}`) & SIGKILL_PENDING) !== 0n
  } catch {
    return true
  }
}
