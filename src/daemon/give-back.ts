import * as sys from '../sys/index.js'

/** So many inodes fewer are worth the tens of milliseconds that a collection takes. */
const MANY = 10_000

/** Milliseconds: what let go of so many may not have ended yet. */
const PAUSE = 2000

/** V8 gives a page back one collection after it became empty, and moves what keeps others from being empty meanwhile. */
const ROUNDS = 3
const BETWEEN_ROUNDS = 500

/**
 * Gives what is to be called after every FORGET: once the kernel has let go of many inodes, their memory goes back to the
 * system. V8 collects when it allocates, and a daemon that nobody uses allocates nothing.
 * @param inodes how many the kernel knows
 */
export function givingBack(inodes: () => number): () => void {
  // Started without --expose-gc, V8 does as it likes.
  const collect = globalThis.gc
  let most = 0
  let timer: NodeJS.Timeout | undefined
  const run = (left: number): void => {
    void collect?.()
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
