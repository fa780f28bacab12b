/**
 * A map that forgets what was used least recently once it holds more than `limit` entries. `onEvict` is called for what
 * is pushed out by the limit and by clear(), not for what is deleted or replaced by hand.
 */
export class Lru<K, V> {
  /** Insertion order is order of use: the first is the oldest. */
  readonly #entries = new Map<K, V>()
  readonly #onEvict: ((key: K, value: V) => void) | undefined
  #limit: number

  constructor(limit: number, onEvict?: (key: K, value: V) => void) {
    if (!(limit >= 0)) throw new RangeError(`not a limit: ${limit}`)
    this.#limit = limit
    this.#onEvict = onEvict
  }

  get size(): number {
    return this.#entries.size
  }

  get limit(): number {
    return this.#limit
  }

  set limit(limit: number) {
    this.#limit = limit
    this.#shrink()
  }

  has(key: K): boolean {
    return this.#entries.has(key)
  }

  /** The value, which becomes the most recently used. */
  get(key: K): V | undefined {
    const value = this.#entries.get(key)
    if (value === undefined && !this.#entries.has(key)) return undefined
    this.#entries.delete(key)
    this.#entries.set(key, value as V)
    return value
  }

  /** The value, its age unchanged. */
  peek(key: K): V | undefined {
    return this.#entries.get(key)
  }

  set(key: K, value: V): void {
    this.#entries.delete(key)
    this.#entries.set(key, value)
    this.#shrink()
  }

  delete(key: K): boolean {
    return this.#entries.delete(key)
  }

  /** Evicts everything. */
  clear(): void {
    const entries = [...this.#entries]
    this.#entries.clear()
    for (const [key, value] of entries) this.#onEvict?.(key, value)
  }

  /** From the least to the most recently used. */
  entries(): IterableIterator<[K, V]> {
    return this.#entries.entries()
  }

  #shrink(): void {
    while (this.#entries.size > this.#limit) {
      const oldest = this.#entries.entries().next().value
      if (oldest === undefined) return
      this.#entries.delete(oldest[0])
      this.#onEvict?.(oldest[0], oldest[1])
    }
  }
}
