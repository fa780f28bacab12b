import fs from 'node:fs'
import path from 'node:path'

/** A memory cgroup of one's own, in either version; undefined where there is none to be had. */
export class MemoryLimit implements Disposable {
  private constructor(
    private readonly directory: string,
    private readonly parent: string,
    private readonly limits: readonly string[],
    private readonly unlimited: string,
  ) {}

  static of(pids: readonly number[]): MemoryLimit | undefined {
    const name = `lamina-soak-${process.pid}`
    for (const [parent, unlimited, ...limits] of [
      ['/sys/fs/cgroup/memory', '-1', 'memory.limit_in_bytes'],
      ['/sys/fs/cgroup', 'max', 'memory.max'],
    ] as const) {
      const directory = path.join(parent, name)
      try {
        fs.mkdirSync(directory)
        if (limits.every(file => fs.existsSync(path.join(directory, file)))) {
          for (const pid of pids) fs.writeFileSync(path.join(directory, 'cgroup.procs'), String(pid))
          return new MemoryLimit(directory, parent, limits, unlimited)
        }
        fs.rmdirSync(directory)
      } catch {
        // Not allowed, or no such controller.
      }
    }
    return undefined
  }

  /** Bytes; undefined: no limit. */
  set(bytes: number | undefined): void {
    for (const file of this.limits) {
      try {
        fs.writeFileSync(
          path.join(this.directory, file),
          bytes === undefined ? this.unlimited : String(bytes),
        )
      } catch {
        // EBUSY: less than what cannot be reclaimed. Then it stays as it was.
      }
    }
  }

  [Symbol.dispose](): void {
    this.set(undefined)
    for (const pid of fs.readFileSync(path.join(this.directory, 'cgroup.procs'), 'utf8').split('\n'))
      if (pid !== '') fs.writeFileSync(path.join(this.parent, 'cgroup.procs'), pid)
    fs.rmdirSync(this.directory)
  }
}
