/**
 * One mutex per key, first come first served. A key costs memory only while it is held or waited for.
 * The lock is not re-entrant: whoever holds a key and locks it again waits for itself.
 */
export class KeyedLock<K> {
  /** What the next to come waits for; present while the key is held. */
  readonly #tails = new Map<K, Promise<void>>()

  /** Whether somebody holds `key` or waits for it. */
  isLocked(key: K): boolean {
    return this.#tails.has(key)
  }

  /** How many keys are held. */
  get size(): number {
    return this.#tails.size
  }

  /** Resolves when nobody holds `key`, without taking it; at once when it is free. */
  async whenFree(key: K): Promise<void> {
    for (let tail = this.#tails.get(key); tail !== undefined; tail = this.#tails.get(key)) await tail
  }

  /** Takes `key`; the result releases it, once (`using held = await lock.acquire(key)`). */
  async acquire(key: K): Promise<Disposable> {
    const before = this.#tails.get(key)
    const { promise: released, resolve: release } = gate()
    this.#tails.set(key, released)
    if (before !== undefined) await before
    return {
      [Symbol.dispose]: () => {
        if (this.#tails.get(key) === released) this.#tails.delete(key)
        release()
      },
    }
  }

  /** Runs `work` while holding `key`. */
  async run<T>(key: K, work: () => T | Promise<T>): Promise<T> {
    const held = await this.acquire(key)
    try {
      return await work()
    } finally {
      held[Symbol.dispose]()
    }
  }
}

function gate(): { promise: Promise<void>; resolve: () => void } {
  let resolve!: () => void
  const promise = new Promise<void>(done => {
    resolve = done
  })
  return { promise, resolve }
}
