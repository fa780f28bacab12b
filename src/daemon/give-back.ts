import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import * as sys from '../sys/index.js'

/** So many inodes fewer are worth the tens of milliseconds that a collection takes. */
const MANY = 10_000

/** Milliseconds: what let go of so many may not have ended yet. */
const PAUSE = 2000

/** V8 gives a page back one collection after it became empty, and moves what keeps others from being empty meanwhile. */
const ROUNDS = 3
const BETWEEN_ROUNDS = 500

/**
 * The young generation stays at 1 MB, where V8 would let it grow to 16 (Node 24: 32), which a daemon that answers one request after
 * the other does not need. To be called when the daemon serves: flags that differ from V8's own, on the command line or here, make it refuse
 * the compiled code that Node has of its modules, and ours; that is 10 to 20 ms of a start.
 */
export function keepYoungSmall(): void {
  setFlagsFromString('--semi-space-growth-factor=1')
}

/** V8's collector. */
function collector(): () => void {
  setFlagsFromString('--expose-gc')
  return runInNewContext('gc') as () => void
}

/**
 * Gives what is to be called after every FORGET: once the kernel has let go of many inodes, their memory goes back to the
 * system. V8 collects when it allocates, and a daemon that nobody uses allocates nothing.
 * @param inodes how many the kernel knows
 */
export function givingBack(inodes: () => number, collect?: () => void): () => void {
  let most = 0
  let timer: NodeJS.Timeout | undefined
  const run = (left: number): void => {
    collect ??= collector()
    collect()
    sys.mallocTrim()
    most = inodes()
    timer = left === 1 ? undefined : setTimeout(run, BETWEEN_ROUNDS, left - 1).unref()
  }
  return () => {
    const now = inodes()
    if (now > most) most = now
    if (most - now >= MANY && timer === undefined) timer = setTimeout(run, PAUSE, ROUNDS).unref()
  }
}
