import fs from 'node:fs'
import path from 'node:path'
import { PLAIN, type Place, type Subject } from './subjects.js'
import type { Results, Unit } from './statistics.js'
import { run } from './tool.js'

/** One workload on one subject, once: a fresh mount, what is measured in it, and everything removed again. */

export interface Workload {
  /** As on the command line: `--workload NAME`. */
  name: string
  what: string
  /** Makes the lower layer, and what else the workload reads, once for all subjects. `scale` is 1, or less with --quick. */
  prepare?(input: Input): void
  /** The workload changes what it finds: a plain directory then works on a copy. */
  changes: boolean
  /** It makes many files: each sample has a filesystem of its own, in which none were removed before. */
  makesFiles?: boolean
  /** Why it cannot be done here. */
  missing?(): string | undefined
  /** Only these make sense. Default: all. */
  subjects?(subject: Subject): boolean
  run(sample: Sample): void | Promise<void>
}

export interface Input {
  /** The lower layer. */
  lower: string
  /** For whatever else is needed: archives, lists, caches. */
  extra: string
  /** `n` at full size. */
  scaled(n: number): number
}

/** Somebody else emptied the kernel's caches while something was measured in them. The sample is taken anew. */
export class Disturbed extends Error {}

/** How often anybody has dropped dentries and inodes since the machine started. */
const drops = (): string | undefined => /^drop_slab \d+/m.exec(fs.readFileSync('/proc/vmstat', 'utf8'))?.[0]

export class Sample {
  readonly place: Place
  private mounted = false
  private drops = drops()
  /** Handed to `results` when the sample is complete. */
  private readonly collected: (() => void)[] = []
  constructor(
    readonly workload: Workload,
    readonly subject: Subject,
    readonly input: Input,
    private readonly root: string,
    private readonly results: Results,
    /** The last one of its kind counts requests, which takes a moment. */
    private readonly last: boolean,
  ) {
    this.place = {
      lower: input.lower,
      upper: path.join(root, 'upper'),
      work: path.join(root, 'work'),
      merged: path.join(root, 'merged'),
    }
    for (const directory of [this.place.upper, this.place.work, this.place.merged, this.scratch])
      fs.mkdirSync(directory, { recursive: true })
  }

  /** Where the workload finds the lower tree and makes its changes. */
  get path(): string {
    return this.subject === PLAIN && !this.workload.changes ? this.place.lower : this.place.merged
  }

  /** On the same filesystem, outside of the view. */
  get scratch(): string {
    return path.join(this.root, 'scratch')
  }

  mount(): void {
    if (this.subject === PLAIN && this.workload.changes && !this.mounted)
      run('cp', ['-a', `${this.place.lower}/.`, this.place.merged])
    else this.subject.mount(this.place)
    this.mounted = true
  }

  async unmount(): Promise<void> {
    if (this.mounted && this.subject !== PLAIN) await this.subject.unmount(this.place)
    if (this.subject !== PLAIN) this.mounted = false
  }

  /** Mounted anew, with nothing in any cache of the kernel's. */
  async cold(): Promise<void> {
    await this.unmount()
    run('sync', ['-f', this.root])
    fs.writeFileSync('/proc/sys/vm/drop_caches', '3')
    this.drops = drops()
    if (this.subject !== PLAIN) this.mount()
  }

  /** Mounted anew; what lies below stays in the caches of its own filesystem. */
  async fresh(): Promise<void> {
    if (this.subject === PLAIN) return
    await this.unmount()
    this.mount()
  }

  /** What was written before is on disk, and does not slow down what comes. */
  settle(): void {
    run('sync', ['-f', this.root])
  }

  /** Measures the time of an action. `name` '' is the workload itself. */
  async time(name: string, action: () => void | Promise<void>): Promise<void> {
    const before = this.requests()
    const started = process.hrtime.bigint()
    await action()
    const nanoseconds = Number(process.hrtime.bigint() - started)
    this.undisturbed()
    this.record(name, nanoseconds / 1e6, 'ms')
    this.countRequests(name, before)
  }

  /** Takes a value that the action itself has measured. */
  async take(name: string, unit: Unit, action: () => number | Promise<number>): Promise<void> {
    const before = this.requests()
    const value = await action()
    this.undisturbed()
    this.record(name, value, unit)
    this.countRequests(name, before)
  }

  record(name: string, value: number, unit: Unit): void {
    this.collected.push(() => this.results.add(this.measure(name), this.subject.name, value, unit))
  }

  /** The sample is complete: its values count. */
  commit(): void {
    for (const add of this.collected) add()
  }

  /** @throws Disturbed */
  private undisturbed(): void {
    if (drops() !== this.drops) throw new Disturbed('somebody else drops the caches of this machine')
  }

  requests(): Record<string, number> | undefined {
    return this.last && this.mounted ? this.subject.requests?.(this.place) : undefined
  }

  private measure(name: string): string {
    return name === '' ? this.workload.name : `${this.workload.name} ${name}`
  }

  private countRequests(name: string, before: Record<string, number> | undefined): void {
    const now = before === undefined ? undefined : this.requests()
    if (before === undefined || now === undefined) return
    const sent = Object.entries(now).map(
      ([request, count]) => [request, count - (before[request] ?? 0)] as const,
    )
    const counts = Object.fromEntries(sent.filter(([, count]) => count > 0))
    this.collected.push(() => this.results.addRequests(this.measure(name), this.subject.name, counts))
  }

  /** Unmounts, by force if need be, and removes everything but the input. @throws Error when it took force */
  async end(): Promise<void> {
    try {
      await this.unmount()
    } catch (error) {
      run('umount', ['-l', this.place.merged])
      throw error
    } finally {
      for (const name of fs.readdirSync(this.root))
        run('rm', ['-rf', '--one-file-system', path.join(this.root, name)])
    }
  }
}
