import assert from 'node:assert/strict'
import t from 'tap'
import {
  isOurs,
  Scratch,
  unavailable,
  type Mount,
  type MountRequest,
  type Subject,
} from '../mount/fixture.js'
import { inexpressible } from './inexpressible.js'
import type { Json } from './posix.js'
import { errnoOf, outcome } from './posix.js'

/**
 * Conformance cases, after the manner of go-fuse's suite: a map of name to function, each run on a plain directory (which
 * proves the case), on the kernel's overlayfs (which is the oracle) and on ours. A case asserts what it knows; what it
 * records besides must be the same on every subject.
 *
 * Environment: LAMINA_SUBJECTS=plain,kernel,fuse-overlayfs,lamina,fuse-native picks subjects; LAMINA_CASE=REGEXP picks cases.
 */

export interface Context {
  readonly subject: Subject
  /** The case's own directory, in the view. */
  readonly dir: string
  /** The same directory in upperdir, and in the lower layers, top first. Empty on a plain directory. */
  readonly upper: string
  readonly lowers: readonly string[]
  readonly work: string
  /** Of a case with a mount of its own: the view's root. */
  readonly root: string
  /** Unmounts and mounts again (on plain, nothing). Only of a case with a mount of its own. */
  remount(options?: readonly string[]): void
  /** The mount itself; not on plain. */
  mount(): Mount
  /** Another mount, over the same lower layers unless given, instead of the case's own (which must be unmounted). */
  again(over: { upper: string; work: string; lowers?: readonly string[] }): Mount
  /** A further mount, of another subject, of any directories. */
  over(subject: Exclude<Subject, 'plain'>, request: Omit<MountRequest, 'subject'>): Mount
  /** Records a value. */
  note(label: string, value: Json): void
  /** Records the result of `fn`, or its errno, and gives it back. */
  see(label: string, fn: () => Json | void): Json
}

/** Fills one directory before the mount. */
export type Fill = (dir: string) => void

export interface Case {
  /** Default: all three of plain, kernel and lamina; plain not when there are several layers or an upper. */
  on?: readonly Subject[]
  /** Top first. Default: one lower layer with an empty directory. */
  lowers?: readonly Fill[]
  upper?: Fill
  /** A mount of its own with these options; the directories are then the layers' roots. */
  options?: readonly string[]
  /** Options of ours where they differ from the kernel's. */
  laminaOptions?: readonly string[]
  /** A mount of its own also without options. */
  alone?: boolean
  /** No upperdir. */
  readOnly?: boolean
  /** The transcripts differ on purpose; why. The assertions hold all the same. */
  differs?: string
  run(c: Context): void
}

export type Cases = Readonly<Record<string, Case | Case['run']>>

/** What is not the kernel's default everywhere is said. */
const KERNEL_OPTIONS = ['redirect_dir=off', 'index=off', 'metacopy=off', 'xino=off']
const SHARED_LOWERS = 3
/** Runs the cases that are on this other subject. */
const STANDS_FOR: Partial<Record<Subject, Subject>> = { 'fuse-overlayfs': 'lamina', 'fuse-native': 'lamina' }

const subjects = (process.env['LAMINA_SUBJECTS'] ?? 'plain,kernel,lamina').split(',') as Subject[]
const wanted = new RegExp(process.env['LAMINA_CASE'] ?? '', 'i')

/** Registers one tap test for each case. `seconds` is the limit for each case on each subject. */
export async function runCases(topic: string, cases: Cases, seconds = 30): Promise<void> {
  const all = Object.entries(cases)
    .map(([name, given], i) => ({
      name,
      id: `c${i}`,
      given: typeof given === 'function' ? { run: given } : given,
    }))
    .filter(({ name }) => wanted.test(name))
  t.setTimeout(280_000)
  const rooms = subjects.flatMap(subject => {
    const reason = unavailable(subject)
    if (reason !== undefined) {
      void t.test(`${topic} on ${subject}`, { skip: reason }, () => {})
      return []
    }
    const shared = all.filter(({ given }) => !isAlone(given) && runsOn(given, subject))
    return [{ subject, shared: new Shared(topic, subject, shared, seconds) }]
  })
  for (const { name, id, given } of all)
    await t.test(`${topic}: ${name}`, child => {
      const transcripts: { subject: Subject; transcript: Json }[] = []
      for (const { subject, shared } of rooms) {
        if (!runsOn(given, subject)) continue
        const cannot = subject === 'fuse-native' ? inexpressible(`${topic}: ${name}`) : undefined
        if (cannot !== undefined) {
          child.pass(subject, { skip: cannot })
          continue
        }
        const transcript: { [key: string]: Json } = {}
        let fault: unknown
        try {
          if (isAlone(given)) runAlone(topic, subject, given, seconds, transcript)
          else shared.run(id, given, transcript)
        } catch (error) {
          fault = error
        }
        shared.pause()
        if (fault === undefined) child.pass(subject)
        else child.fail(`${subject}: ${describe(fault)}`, { transcript })
        transcripts.push({ subject, transcript })
      }
      const oracle = transcripts.find(({ subject }) => subject === 'kernel') ?? transcripts[0]
      if (given.differs === undefined && oracle !== undefined)
        for (const { subject, transcript } of transcripts)
          if (subject !== oracle.subject)
            child.same(transcript, oracle.transcript, `${subject} records what ${oracle.subject} does`)
      child.end()
    })
  for (const { subject, shared } of rooms)
    await t.test(`${topic}: ${subject} leaves nothing behind`, child => {
      try {
        shared[Symbol.dispose]()
        child.pass('clean')
      } catch (error) {
        child.fail(describe(error))
      }
      child.end()
    })
}

function isAlone(given: Case): boolean {
  return (
    given.alone === true ||
    given.options !== undefined ||
    given.readOnly === true ||
    (given.lowers?.length ?? 0) > SHARED_LOWERS
  )
}

function runsOn(given: Case, subject: Subject): boolean {
  if (given.on !== undefined) return given.on.includes(STANDS_FOR[subject] ?? subject)
  if (subject !== 'plain') return true
  return (
    given.upper === undefined &&
    (given.lowers?.length ?? 0) <= 1 &&
    given.options === undefined &&
    given.readOnly !== true
  )
}

function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const at = error.stack?.split('\n').find(line => line.includes('/cases/')) ?? ''
  return `${error.message} ${errnoOf(error) ?? ''} ${at.trim()}`.trim()
}

/** One mount for all the cases of a topic that need none of their own: each has a directory of its own in it. */
class Shared implements Disposable {
  private scratch: Scratch | undefined
  private mount: Mount | undefined

  constructor(
    private readonly topic: string,
    private readonly subject: Subject,
    private readonly cases: readonly { id: string; given: Case }[],
    private readonly seconds: number,
  ) {}

  run(id: string, given: Case, transcript: { [key: string]: Json }): void {
    const scratch = this.ready()
    scratch.renew()
    const plain = this.subject === 'plain'
    const mount = this.mount
    given.run(
      context(transcript, {
        subject: this.subject,
        root: scratch.path(plain ? 'plain' : 'mnt'),
        dir: scratch.path(plain ? 'plain' : 'mnt', id),
        upper: plain ? '' : scratch.path('upper', id),
        work: plain ? '' : scratch.path('work'),
        lowers: plain ? [] : fillsOf(given).map((_, i) => scratch.path(`lower${i}`, id)),
        remount: () => {
          throw new Error('a case on the shared mount cannot remount')
        },
        mount: () => mount ?? notMounted(),
        again: notMounted,
        over: notMounted,
      }),
    )
  }

  /** Other cases, with mounts of their own, may take long. */
  pause(): void {
    this.scratch?.pause()
  }

  /** The mount, made anew when its daemon has died in an earlier case. */
  private ready(): Scratch {
    if (this.scratch !== undefined && (this.subject === 'plain' || this.mount?.alive() === true))
      return this.scratch
    this.scratch?.clear()
    const scratch = (this.scratch = new Scratch(`${this.topic}-${this.subject}`, this.seconds))
    for (const { id, given } of this.cases) {
      if (this.subject === 'plain') {
        const dir = scratch.mkdir('plain', id)
        for (const fill of fillsOf(given)) fill(dir)
        continue
      }
      fillsOf(given).forEach((fill, i) => fill(scratch.mkdir(`lower${i}`, id)))
      if (given.upper) given.upper(scratch.mkdir('upper', id))
    }
    if (this.subject !== 'plain')
      this.mount = scratch.overlay(this.subject, SHARED_LOWERS, optionsFor(this.subject, {}))
    return scratch
  }

  [Symbol.dispose](): void {
    this.scratch?.[Symbol.dispose]()
  }
}

function fillsOf(given: Case): readonly Fill[] {
  return given.lowers ?? [() => {}]
}

function optionsFor(subject: Subject, given: Pick<Case, 'options' | 'laminaOptions'>): readonly string[] {
  const own = isOurs(subject) ? (given.laminaOptions ?? given.options ?? []) : (given.options ?? [])
  if (subject !== 'kernel') return own
  const named = new Set(own.map(option => option.split('=')[0]))
  // Without an upper the kernel refuses index=off along with some others only when they contradict; these never do.
  return [...KERNEL_OPTIONS.filter(option => !named.has(option.split('=')[0])), ...own]
}

function runAlone(
  topic: string,
  subject: Subject,
  given: Case,
  seconds: number,
  transcript: { [key: string]: Json },
): void {
  using scratch = new Scratch(`${topic}-${subject}`, seconds)
  if (subject === 'plain') {
    const dir = scratch.mkdir('plain')
    for (const fill of fillsOf(given)) fill(dir)
    given.run(
      context(transcript, {
        subject,
        root: dir,
        dir,
        upper: '',
        work: '',
        lowers: [],
        remount: () => {},
        mount: notMounted,
        again: notMounted,
        over: notMounted,
      }),
    )
    return
  }
  // Short names: the kernel takes at most one page of options.
  const lowers = fillsOf(given).map((fill, i) => {
    const dir = scratch.mkdir(`l${i}`)
    fill(dir)
    return dir
  })
  const upper = given.readOnly === true ? undefined : scratch.mkdir('upper')
  if (upper !== undefined) given.upper?.(upper)
  let mount = scratch.mount({
    subject,
    lowers,
    ...(upper !== undefined && { upper, work: scratch.mkdir('work') }),
    mountpoint: scratch.mkdir('mnt'),
    options: optionsFor(subject, given),
  })
  given.run(
    context(transcript, {
      subject,
      root: mount.mountpoint,
      dir: mount.mountpoint,
      upper: upper ?? '',
      work: upper === undefined ? '' : scratch.path('work'),
      lowers,
      remount: options => {
        mount = mount.remount(options && optionsFor(subject, { options }))
        scratch.mounts.push(mount)
      },
      mount: () => mount,
      again: over => {
        const other = scratch.mount({ ...mount.request, ...over })
        return other
      },
      over: (kind, request) => scratch.mount({ ...request, subject: kind }),
    }),
  )
}

function notMounted(): never {
  throw new Error('this case has no mount of its own')
}

function context(transcript: { [key: string]: Json }, base: Omit<Context, 'note' | 'see'>): Context {
  const note = (label: string, value: Json): void => {
    assert.ok(!(label in transcript), `'${label}' is recorded twice`)
    transcript[label] = value
  }
  return {
    ...base,
    note,
    see: (label, fn) => {
      const value = outcome(fn)
      note(label, value)
      return value
    },
  }
}
