import { type Profiler, Session } from 'node:inspector'

/** Which blocks of this program have run, as V8 counts them. */
export class Coverage {
  private readonly session = new Session()
  private readonly seen = new Set<string>()

  /** `files`: parts of the paths that count. */
  constructor(private readonly files: readonly string[]) {
    this.session.connect()
    this.session.post('Profiler.enable')
    this.session.post('Profiler.startPreciseCoverage', { callCount: true, detailed: true })
  }

  get size(): number {
    return this.seen.size
  }

  /** Whether a block has run since the last call that had never run before. */
  grew(): boolean {
    let found: Profiler.ScriptCoverage[] = []
    this.session.post('Profiler.takePreciseCoverage', (error, result) => {
      if (error === null) found = result.result
    })
    const before = this.seen.size
    for (const { url, functions } of found) {
      if (!this.files.some(file => url.includes(file))) continue
      for (const { ranges } of functions)
        for (const { startOffset, endOffset, count } of ranges)
          if (count > 0) this.seen.add(`${url}:${startOffset}:${endOffset}:${Math.min(count, 2)}`)
    }
    return this.seen.size > before
  }

  close(): void {
    this.session.disconnect()
  }
}
