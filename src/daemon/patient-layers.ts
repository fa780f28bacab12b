/**
 * Layers on filesystems that may fall silent: a network's, FUSE, a disk's. A server or a disk that does not answer must hold up the
 * requests that need it, and no others, while JavaScript serves one request at a time. So calls on such a layer are waited for only so
 * long (native/patience.h). A request that meets silence waits, as for a copy-up, and is run anew when the layer has answered.
 *
 * Calls on lower layers change nothing, so a request may be given up in the midst of one. Upper is changed: a request that has begun to
 * change it is not given up any more, and holds up the others where upper does not answer. While upper is known to be silent no request
 * begins with that. What is known to be silent is found out by calls that read; before a first change upper is asked, too, but not
 * more than a few times a second.
 */
import { toUtf8 } from '../base/bytes.js'
import { debug } from '../base/log.js'
import { E } from '../base/errno.js'
import type { Fd } from '../base/fd.js'
import { SysError } from '../base/sys-error.js'
import { Again, type FileSystem } from '../fuse/index.js'
import * as sys from '../sys/index.js'
import { PATIENCE, type Patience } from './options.js'

/** Filesystems on disks, whose inodes are in memory while they are open, and whose names are what the kernel knows them to be. */
const ON_DISK: ReadonlySet<number> = new Set([
  0xef53, // ext2, 3, 4
  0x58465342, // xfs
  0x9123683e, // btrfs
  0xca451a4e, // bcachefs
  0xf2f52010, // f2fs
  0x2fc12fc1, // zfs
  0x73717368, // squashfs
  0xe0f5e1e2, // erofs
  0x794c7630, // overlayfs
  0x3153464a, // jfs
  0x9660, // iso9660
])

export interface LayerRoot {
  readonly fd: number
  /** For people. '' for one more way into a layer that was named before. */
  readonly path: string
  readonly upper: boolean
}

interface Silence {
  readonly since: number
  /** Settles with the answer. */
  readonly over: Promise<void>
  readonly end: () => void
  /** What waits for it, for the log. */
  readonly waiting: string[]
  readonly reminder: NodeJS.Timeout
}

interface Remote {
  readonly paths: string[]
  readonly roots: number[]
  silence: Silence | undefined
}

/** A number and how it is used, as they are handed on. */
const USE_UNIT = 256

/** So long after the first line the log says what waits, milliseconds. */
const REMINDER = 10_000
/** Of those that wait, the log names so many. */
const MOST_NAMED = 20

const log = debug('daemon')

export class PatientLayers {
  /** By number, from 1. */
  private readonly remotes: Remote[] = []
  private readonly withUpper: boolean

  /**
   * `numbers`: of each layer, with its use; 0 where it never falls silent, or is not to be watched. `ifHung`: what they are for a successor
   * after a daemon that did not return from a call on a layer. `pulse`: a file of upper's (sys.makePulse).
   */
  private constructor(
    readonly numbers: readonly number[],
    readonly ifHung: readonly number[],
    readonly pulse: Fd | null,
  ) {
    this.withUpper = numbers.some(number => (Math.floor(number / USE_UNIT) & sys.USE.upper) !== 0)
  }

  /** Finds out which of `layers` are on such filesystems. */
  static over(layers: readonly LayerRoot[], patience: Patience, pulse: Fd | null): PatientLayers {
    const filesystems = layers.map(({ fd }) => filesystemOf(fd, patience))
    const numbers = numbersOf(layers, filesystems, patience)
    return PatientLayers.again(layers, numbers, numbersOf(layers, filesystems, 'all'), pulse)
  }

  /** As a predecessor found out: nothing is asked of a layer that may be silent now. */
  static again(
    layers: readonly LayerRoot[],
    numbers: readonly number[],
    ifHung: readonly number[],
    pulse: Fd | null,
  ): PatientLayers {
    const patient = new PatientLayers(numbers, ifHung, pulse)
    for (const [i, { fd, path, upper }] of layers.entries()) {
      const number = (numbers[i] ?? 0) % USE_UNIT
      if (number === 0) continue
      sys.coverDescriptor(fd, number, Math.floor((numbers[i] ?? 0) / USE_UNIT))
      if (upper && pulse !== null) sys.setPulse(fd, pulse.n)
      const remote = (patient.remotes[number - 1] ??= { paths: [], roots: [], silence: undefined })
      if (path === '') continue
      remote.paths.push(path)
      remote.roots.push(fd)
    }
    if (patient.remotes.length > 0) {
      sys.onAnswer(number => {
        patient.answered(number)
      })
    }
    return patient
  }

  /** Layers that do not answer, and since when (milliseconds since 1970). */
  silent(): { layers: string[]; since: number }[] {
    return this.remotes.flatMap(({ paths, silence }) =>
      silence === undefined ? [] : [{ layers: paths.map(toUtf8), since: silence.since }],
    )
  }

  /** Waits until each layer has answered. */
  async answering(): Promise<void> {
    for (const { roots } of this.remotes) {
      for (const root of roots)
        await this.inTime('the takeover', () => {
          // Attributes of an open file are in memory; these are what the overlay reads first.
          sys.listxattrAt(root, '')
          sys.mayChange(root)
        })
    }
  }

  /** Does `work` as soon as the layers that it needs answer. It may be begun anew until it changes something. `what`: for people. */
  async inTime(what: string, work: () => void): Promise<void> {
    // Nothing else keeps a process alive that serves no mount yet.
    const alive = setInterval(() => undefined, 60_000)
    try {
      for (let silent = this.attempt(what, work); silent !== undefined; silent = this.attempt(what, work))
        await silent
    } finally {
      clearInterval(alive)
    }
  }

  private attempt(what: string, work: () => void): Promise<void> | undefined {
    try {
      this.revocably(work)
      return undefined
    } catch (error) {
      const silent = this.silence(error, what)
      if (silent === undefined) throw error
      return silent
    }
  }

  /** Calls may be given up in the midst of `work`, until it changes something. What goes on later, or beside requests, is not given up. */
  private revocably<T>(work: () => T): T {
    if (!this.withUpper) return work()
    sys.serving(true)
    try {
      return work()
    } finally {
      sys.serving(false)
    }
  }

  /** `inner`, whose requests wait where a layer does not answer. */
  serve(inner: FileSystem): FileSystem {
    if (this.remotes.length === 0) return inner
    const made = new Map<PropertyKey, unknown>()
    return new Proxy(inner, {
      get: (target, name) => {
        const value: unknown = Reflect.get(target, name, target)
        if (typeof value !== 'function') return value
        const method = value as (...args: unknown[]) => unknown
        if (!made.has(name)) {
          made.set(name, (...args: unknown[]): unknown => {
            try {
              const result = this.revocably(() => method.apply(target, args))
              return result instanceof Promise ? result.catch((error: unknown) => this.late(error)) : result
            } catch (error) {
              throw this.waiting(error, String(name), args)
            }
          })
        }
        return made.get(name)
      },
    })
  }

  /** What is thrown instead of `error`. */
  private waiting(error: unknown, method: string, args: readonly unknown[]): unknown {
    const request = (): string => describe(method, args)
    if (error instanceof Again)
      return new Again(error.ready.catch((late: unknown) => this.afterwards(late, request())))
    if (sys.silentFilesystem(error) === undefined) return error
    const silent = this.silence(error, request())
    return silent === undefined ? error : new Again(silent)
  }

  /** A copy-up that met silence is begun anew by the request that is run anew. */
  private async afterwards(error: unknown, request: string): Promise<void> {
    const silent = this.silence(error, request)
    if (silent === undefined) throw error
    await silent
  }

  /** What had begun already cannot be begun anew. */
  private late(error: unknown): never {
    throw this.silence(error, 'a request that had begun') === undefined ? error : new SysError(E.EIO, 'layer')
  }

  /** `request`: who waits, for people. */
  private silence(error: unknown, request: string): Promise<void> | undefined {
    const number = sys.silentFilesystem(error)
    const remote = number === undefined ? undefined : this.remotes[number - 1]
    if (remote === undefined) return undefined
    if (remote.silence === undefined) {
      let end = (): void => undefined
      const over = new Promise<void>(resolve => (end = resolve))
      const reminder = setInterval(() => remind(remote), REMINDER).unref()
      remote.silence = { since: Date.now(), over, end, waiting: [], reminder }
      say(`${nameOf(remote)} does not answer: what needs it waits, everything else goes on`)
    }
    remote.silence.waiting.push(request)
    return remote.silence.over
  }

  private answered(number: number): void {
    const remote = this.remotes[number - 1]
    if (remote?.silence === undefined) return
    const { since, end, reminder } = remote.silence
    remote.silence = undefined
    clearInterval(reminder)
    say(`${nameOf(remote)} answers again after ${seconds(since)} s`)
    end()
  }
}

interface Filesystem {
  readonly dev: number
  readonly type: number
}

/** Undefined where nobody is patient: then the layer is not asked. */
function filesystemOf(fd: number, patience: Patience): Filesystem | undefined {
  return patience === 'off' ? undefined : { dev: sys.statFd(fd).dev, type: sys.fstatfs(fd).type }
}

/** Lower layers of one filesystem have one number: its server is one. */
function numbersOf(
  layers: readonly LayerRoot[],
  filesystems: readonly (Filesystem | undefined)[],
  patience: Patience,
): number[] {
  const numbers = new Map<string, number>()
  return layers.map(({ upper }, i) => {
    const filesystem = filesystems[i]
    const use = filesystem === undefined ? undefined : useOf(filesystem.type, upper, patience)
    if (filesystem === undefined || use === undefined) return 0
    const key = `${filesystem.dev},${use}`
    const number = numbers.get(key) ?? numbers.size + 1
    if (number > sys.MOST_REMOTE) return 0
    numbers.set(key, number)
    return number + use * USE_UNIT
  })
}

/** How a layer is watched; undefined where it is not. */
function useOf(type: number, upper: boolean, patience: Patience): number | undefined {
  const level = PATIENCE.indexOf(patience)
  if (level < PATIENCE.indexOf(upper ? 'all' : 'remote')) return undefined
  const disk = ON_DISK.has(type)
  if (!sys.REMOTE_FILESYSTEMS.has(type) && (!disk || level < PATIENCE.indexOf('lower'))) return undefined
  return (disk ? sys.USE.disk : 0) | (upper ? sys.USE.upper : 0)
}

function nameOf({ paths }: Remote): string {
  return paths.map(toUtf8).join(', ')
}

function seconds(since: number): number {
  return Math.round((Date.now() - since) / 1000)
}

/** A request by its method, the object that it is about, and its name where it has one. */
function describe(method: string, [nodeid, name]: readonly unknown[]): string {
  return `${method} ${String(nodeid)}${typeof name === 'string' ? ` ${toUtf8(name)}` : ''}`
}

/** Names those who wait, once for each that came since. */
function remind(remote: Remote): void {
  const { silence } = remote
  if (silence === undefined || silence.waiting.length === 0) return
  const { since, waiting } = silence
  const more = waiting.length > MOST_NAMED ? `, and ${waiting.length - MOST_NAMED} more` : ''
  const named = waiting.splice(0).slice(0, MOST_NAMED).join('; ')
  say(`${nameOf(remote)} has not answered for ${seconds(since)} s; waiting now: ${named}${more}`)
}

/** To the log, where there is one. */
function say(what: string): void {
  log?.(what)
  process.stderr.write(`lamina: ${what}\n`)
}
