/**
 * Layers on filesystems that may fall silent: a network's, FUSE. A server that does not answer must hold up the requests that need it,
 * and no others, while JavaScript serves one request at a time. So calls on such a layer are waited for only so long
 * (native/patience.h). A request that meets silence waits, as for a copy-up, and is run anew when the layer has answered.
 *
 * Lower layers only: calls on them change nothing, so that a request may be given up in the midst of one. A request that finds an upper
 * layer silent cannot know what of it was done; and hardly any request does without upper.
 */
import { toUtf8 } from '../base/bytes.js'
import { debug } from '../base/log.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { Again, type FileSystem } from '../fuse/index.js'
import * as sys from '../sys/index.js'

/** Filesystems whose answers come from elsewhere: f_type of statfs(2). */
const REMOTE: ReadonlySet<number> = new Set([
  sys.FUSE_SUPER_MAGIC,
  sys.NFS_SUPER_MAGIC,
  0x517b, // smb
  0xff534d42, // cifs
  0xfe534d42, // smb2 and 3
  0x01021997, // 9p
  0x00c36400, // ceph
  0x5346414f, // afs, OpenAFS
  0x6b414653, // afs, the kernel's
  0x73757245, // coda
  0x0bd00bd0, // lustre
  0x19830326, // BeeGFS
  0x47504653, // GPFS
])

export interface LayerRoot {
  readonly fd: number
  /** For people. */
  readonly path: string
}

interface Remote {
  readonly paths: string[]
  readonly roots: number[]
  /** While it is silent: settles with its answer. */
  silence: { readonly since: number; readonly over: Promise<void>; readonly end: () => void } | undefined
}

const log = debug('daemon')

export class PatientLayers {
  /** By number, from 1. */
  private readonly remotes: Remote[] = []

  /** `numbers`: of each layer, 0 where it never falls silent. */
  private constructor(readonly numbers: readonly number[]) {}

  /** Finds out which of `layers` are on such filesystems. Layers of one filesystem have one number: its server is one. */
  static over(layers: readonly LayerRoot[]): PatientLayers {
    const devices = new Map<number, number>()
    const numbers = layers.map(({ fd }) => {
      if (!REMOTE.has(sys.fstatfs(fd).type)) return 0
      const { dev } = sys.statFd(fd)
      const number = devices.get(dev) ?? devices.size + 1
      if (number > sys.MOST_REMOTE) return 0
      devices.set(dev, number)
      return number
    })
    return PatientLayers.again(layers, numbers)
  }

  /** As a predecessor found out: nothing is asked of a layer that may be silent now. */
  static again(layers: readonly LayerRoot[], numbers: readonly number[]): PatientLayers {
    const patient = new PatientLayers(numbers)
    for (const [i, { fd, path }] of layers.entries()) {
      const number = numbers[i] ?? 0
      if (number === 0) continue
      sys.coverDescriptor(fd, number)
      const remote = (patient.remotes[number - 1] ??= { paths: [], roots: [], silence: undefined })
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
    // Nothing else keeps a process alive that serves no mount yet.
    const alive = setInterval(() => undefined, 60_000)
    try {
      for (const { roots } of this.remotes) {
        for (const root of roots) {
          for (let silent = this.silenceAt(root); silent !== undefined; silent = this.silenceAt(root))
            await silent
        }
      }
    } finally {
      clearInterval(alive)
    }
  }

  private silenceAt(root: number): Promise<void> | undefined {
    try {
      sys.statFd(root)
      return undefined
    } catch (error) {
      const silent = this.silence(error)
      if (silent === undefined) throw error
      return silent
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
              const result = method.apply(target, args)
              return result instanceof Promise ? result.catch((error: unknown) => this.late(error)) : result
            } catch (error) {
              throw this.waiting(error)
            }
          })
        }
        return made.get(name)
      },
    })
  }

  /** What is thrown instead of `error`. */
  private waiting(error: unknown): unknown {
    if (error instanceof Again) return new Again(error.ready.catch((late: unknown) => this.afterwards(late)))
    const silent = this.silence(error)
    return silent === undefined ? error : new Again(silent)
  }

  /** A copy-up that met silence is begun anew by the request that is run anew. */
  private async afterwards(error: unknown): Promise<void> {
    const silent = this.silence(error)
    if (silent === undefined) throw error
    await silent
  }

  /** What had begun already cannot be begun anew. */
  private late(error: unknown): never {
    throw this.silence(error) === undefined ? error : new SysError(E.EIO, 'layer')
  }

  private silence(error: unknown): Promise<void> | undefined {
    const number = sys.silentFilesystem(error)
    const remote = number === undefined ? undefined : this.remotes[number - 1]
    if (remote === undefined) return undefined
    if (remote.silence === undefined) {
      let end = (): void => undefined
      const over = new Promise<void>(resolve => (end = resolve))
      remote.silence = { since: Date.now(), over, end }
      say(
        `${remote.paths.map(toUtf8).join(', ')} does not answer: what needs it waits, everything else goes on`,
      )
    }
    return remote.silence.over
  }

  private answered(number: number): void {
    const remote = this.remotes[number - 1]
    if (remote?.silence === undefined) return
    const { since, end } = remote.silence
    remote.silence = undefined
    say(
      `${remote.paths.map(toUtf8).join(', ')} answers again after ${Math.round((Date.now() - since) / 1000)} s`,
    )
    end()
  }
}

/** To the log, where there is one. */
function say(what: string): void {
  log?.(what)
  process.stderr.write(`lamina: ${what}\n`)
}
