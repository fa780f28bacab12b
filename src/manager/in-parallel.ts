/**
 * Runs `work` on every item, at most `limit` at a time. The first failure aborts the others (through their signal) and,
 * once all have ended, is thrown.
 */
export async function inParallel<Item>(
  items: readonly Item[],
  limit: number,
  signal: AbortSignal | undefined,
  work: (item: Item, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const stop = new AbortController()
  const both = signal === undefined ? stop.signal : AbortSignal.any([signal, stop.signal])
  const queue = items.values()
  let failed = false
  let failure: unknown
  const worker = async (): Promise<void> => {
    for (const item of queue) {
      if (both.aborted) return
      try {
        await work(item, both)
      } catch (error) {
        if (!failed) {
          failed = true
          failure = error
        }
        stop.abort(error)
        return
      }
    }
  }
  await Promise.all(Array.from({ length: Math.max(1, Math.min(limit, items.length)) }, worker))
  if (failed) throw failure
  signal?.throwIfAborted()
}
