import { closeSync, readdirSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { Socket } from 'node:net'
import { Worker } from 'node:worker_threads'
import * as sys from '../sys/index.js'
import { toUtf8 } from '../base/bytes.js'
import { E } from '../base/errno.js'
import type { Fd } from '../base/fd.js'
import { debug } from '../base/log.js'
import { SysError } from '../base/sys-error.js'
import { describeEnd, DeviceTransport, INIT_DEFAULTS, NegotiatedConnection, Session } from '../fuse/index.js'
import { Overlay, type HandedLayer, type HandedLayers, type HandedUpper } from '../overlay/index.js'
import { checkMount } from './check.js'
import type { Replies, Stats, UnmountHow } from './control-protocol.js'
import { serveControl } from './control-server.js'
import { serveByFuseNative, type Serving } from './fuse-native.js'
import { KeeperLink } from './recovery/keeper-link.js'
import { KeptMount } from './recovery/kept-mount.js'
import { givingBack, keepYoungSmall } from './give-back.js'
import { mountFuse } from './mount-fuse.js'
import { mountAt } from './mountinfo.js'
import { type LayerRoot, PatientLayers } from './patient-layers.js'
import { CheckError } from './place.js'
import { reachedBy } from './reach.js'
import {
  objectOf,
  pidNamespace,
  removeRecord,
  runDirectory,
  socketPath,
  startTimeOf,
  writeRecord,
  type MountRecord,
} from './run-dir.js'
import { decodeSpec, type MountSpec } from './spec.js'

/**
 * The life of one mount: check, open the layers, mount, answer INIT, tell the starter, serve until the kernel says that nobody
 * uses the mount any more, clean up. Whatever fails before "ready" leaves nothing mounted.
 */

/** As much as one READ carries. */
const READ_AHEAD_KIB = INIT_DEFAULTS.maxReadahead / 1024

/** Inodes; about two milliseconds. */
const RECALLED_AT_ONCE = 1000

const log = debug('daemon')

/** @param line the MountSpec; `starter` is the socket to whoever waits, `started` is called once it serves. Gives the exit code. */
export async function serve(line: string, starter: number, started: () => void): Promise<number> {
  const spec = decodeSpec(line)
  sys.raiseNofile()
  sys.umask(0) // the overlay applies each caller's own
  const mount = await RunningMount.start(spec)
  try {
    writeSync(starter, `${JSON.stringify({ ready: { pid: process.pid, notes: mount.notes } })}\n`)
  } catch {
    // Nobody knows of this mount.
    mount.terminate('the starter is gone')
    return mount.ended
  }
  if (isBound()) mount.bindTo(starter)
  else closeSync(starter)
  mount.settle(started)
  return mount.over()
}

/** Goes on where a daemon that died has stopped. Gives the exit code. */
export async function takeOver(starter: number, started: () => void): Promise<number> {
  sys.raiseNofile()
  sys.umask(0)
  const mount = await RunningMount.takeOver()
  if (isBound()) mount.bindTo(starter)
  mount.settle(started)
  return mount.over()
}

function isBound(): boolean {
  return process.env['LAMINA_BOUND'] === '1'
}

class RunningMount {
  /** Resolves with the exit code once everything is cleaned up. */
  readonly ended: Promise<number>
  private terminating = false
  private control: Fd | undefined
  /** For whoever mounts: what the layers make impossible. */
  get notes(): string[] {
    return this.overlay.limitations()
  }

  private constructor(
    private readonly session: Serving,
    private readonly overlay: Overlay,
    private readonly record: MountRecord,
    private readonly patience: PatientLayers,
    /** Present with a keeper. */
    private readonly kept: KeptMount | undefined,
  ) {
    if (patience.numbers.some(number => number !== 0)) overlay.stayBehind()
    overlay.onLowerChanged(path => lowerChanged(record, overlay, path))
    overlay.onForget = givingBack(() => overlay.inodeCount)
    this.ended = this.untilEnd()
  }

  /** @throws Error whose message is one line for people; nothing is mounted then */
  static async start(spec: MountSpec): Promise<RunningMount> {
    const { overlay: config } = spec
    config.mountpoint = await checkMount(config, spec.exclusive)
    const link = KeeperLink.fromEnvironment()
    const overlay = openOverlay(spec)
    try {
      if (spec.nosuidOfLayers && isNosuid(overlay.handOver().layers)) spec.flags.push('nosuid')
      const device = spec.transport === 'fuse-native' ? undefined : await mountFuse(spec, config.mountpoint)
      try {
        const kept = link === undefined || device === undefined ? undefined : KeptMount.begin(link, overlay)
        // fuse-native's calls cannot be begun anew.
        const { layers } = overlay.handOver()
        const roots = device === undefined ? [] : layerRoots(spec, layers)
        const patience = PatientLayers.over(roots, spec.patience, pulseOf(spec, layers, kept))
        const deviceFd = device?.n ?? -1
        const session =
          device === undefined
            ? await serveByFuseNative(spec, overlay)
            : await startSession(spec, overlay, device, patience, kept)
        raiseReadAhead(mountAt(config.mountpoint)?.device)
        const record = recordOf(spec, overlay, kept !== undefined)
        const mount = new RunningMount(session, overlay, record, patience, kept)
        mount.listen()
        const connection = session instanceof Session ? session.connection : undefined
        if (kept !== undefined && connection !== undefined) {
          kept.write(spec, connection, record, overlay, patience, deviceFd)
          kept.ready(spec, record, join(runDirectory(), record.id))
        }
        startThreads()
        return mount
      } catch (error) {
        await unmountInThread(config.mountpoint, 'lazy').catch(() => undefined)
        throw error
      }
    } catch (error) {
      await overlay.close()
      throw error
    }
  }

  /** @throws Error when the predecessor's state cannot be used */
  static async takeOver(): Promise<RunningMount> {
    const link = KeeperLink.fromEnvironment()
    if (link === undefined) throw new Error('no keeper: start lamina mount')
    const handed = KeptMount.handed(link)
    const { spec, device, written, pulse } = handed
    const { record, patience: ordinary, hungPatience: ifHung } = written
    const roots = layerRoots(spec, handed.layers)
    const patience = PatientLayers.again(roots, link.hung ? ifHung : ordinary, ifHung, pulse)
    // Names are looked up when they are asked for.
    if (KeptMount.isChanging(handed)) await patience.answering()
    const { kept, overlay } = KeptMount.takeOver(link, handed)
    const connection = new NegotiatedConnection(written.connection)
    const startTime = startTimeOf(process.pid) ?? 0
    Object.assign(record, { pid: process.pid, startTime, program: process.argv[1] ?? '' })
    if (handed.layers.upper !== null) record.upperFd = handed.layers.upper.rootFd.n
    const session = new Session(new DeviceTransport(device.release(), INIT_DEFAULTS.maxRead, kept.input), {
      adopt: connection,
      maxOpenFiles: mostOpenFiles(),
      journal: kept.journal,
      lastUnique: kept.lastUnique(),
    })
    const passthrough = connection.has('PASSTHROUGH')
    if (passthrough) for (const id of kept.strayBackings()) session.closeBacking(id)
    overlay.attach(session)
    session.start(patience.serve(overlay.served()))
    // The kernel may hold what is no longer true: attributes that it was told of just before, and modes behind its own writes.
    for (const nodeid of [...kept.notices(), ...overlay.doubtful()]) session.invalidateInode(nodeid, -1, 0)
    const mount = new RunningMount(session, overlay, record, patience, kept)
    kept.ready(spec, record, join(runDirectory(), record.id))
    mount.listen()
    mount.recall()
    overlay.watchAgain()
    mount.sweep()
    startThreads()
    return mount
  }

  /** The exit code; where threads wait for a layer that does not answer, the process ends here. */
  async over(): Promise<number> {
    const code = await this.ended
    if (this.patience.silent().length > 0) sys.exitNow(code)
    return code
  }

  /** Reads what the predecessor knew, a piece at a time between requests. */
  private recall(): void {
    const more = (): void => {
      if (this.overlay.recallSome(RECALLED_AT_ONCE)) setImmediate(more)
    }
    setImmediate(more)
  }

  /** Removes what the predecessors were in the midst of, when upper answers. */
  private sweep(): void {
    this.patience
      .inTime('what is left of a daemon that died', () => {
        this.overlay.sweep()
      })
      .catch((error: unknown) => log?.(`the work directory is not emptied: ${String(error)}`))
  }

  /** Ends with its starter, however that ends. */
  bindTo(starter: number): void {
    new Socket({ fd: starter }).on('close', () => this.terminate('the starter is gone')).resume()
  }

  /** From here on it can be found and told: whoever connects waits for `settle`. */
  private listen(): void {
    const directory = runDirectory()
    const { id } = this.record
    this.control = sys.listenAt(socketPath(directory, id))
    writeRecord(directory, this.record)
    void this.ended.then(() => removeRecord(directory, id))
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
      process.on(signal, () => this.terminate(signal))
    }
    process.on('SIGUSR1', () => process.stderr.write(`${JSON.stringify(this.stats())}\n`))
  }

  /** What a start need not wait for; half of it is loading Node's modules. `started` is called when all are loaded. */
  settle(started: () => void): void {
    if (this.control !== undefined) {
      serveControl(this.control, {
        info: () => this.record,
        stats: () => this.stats(),
        umount: how => this.unmount(how),
        restart: (program, main) => this.restart(program, main),
        yield: () => this.yield(),
      })
    }
    started()
    keepYoungSmall()
  }

  /** Unmounts at once; the mount ends when its last user lets go. A second time ends it under its users. */
  terminate(why: string): void {
    log?.(`${why}: ${this.terminating ? 'ending at once' : 'unmounting'}`)
    const how = this.terminating ? 'force' : 'lazy'
    this.terminating = true
    this.unmount(how).catch((error: unknown) => {
      // Unmounted by somebody else at the same moment is as good.
      if (error instanceof SysError && error.errno === E.EINVAL) return
      process.stderr.write(
        `lamina: cannot unmount: ${error instanceof Error ? error.message : String(error)}\n`,
      )
      void this.session.close()
    })
  }

  private restart(program: string, main: string): void {
    if (this.kept === undefined) throw new Error('this mount has no keeper')
    const { kept } = this
    // The answer goes first: this daemon is killed as soon as its keeper hears of it.
    setTimeout(() => kept.replaceBy(program, main), 10)
  }

  /** Ends a mount that nobody can reach, for somebody who wants its upperdir. */
  private async yield(): Promise<Replies['yield']> {
    const { mountpoint, device } = this.record
    if (mountAt(mountpoint)?.device !== device) return {}
    const user = reachedBy(device)
    if (user !== undefined) return { user }
    log?.('nobody can reach this mount, and somebody wants its upperdir: unmounting')
    try {
      await this.unmount('plain')
      return {}
    } catch (error) {
      if (!(error instanceof SysError) || error.errno !== E.EBUSY) throw error
      return { user: 'used by a process outside of it' }
    }
  }

  private async unmount(how: UnmountHow): Promise<void> {
    const { mountpoint, device } = this.record
    // Not what somebody else has mounted there since.
    if (mountAt(mountpoint)?.device === device) await unmountInThread(mountpoint, how)
    if (how === 'force') await this.session.close()
  }

  private async untilEnd(): Promise<number> {
    const end = await this.session.ended
    this.kept?.ending()
    log?.(`${this.record.mountpoint}: ${describeEnd(end)}`)
    // What copies from there may never end; the next mount removes what it leaves in the work directory.
    if (this.patience.silent().length > 0) return end.reason === 'failed' ? 1 : 0
    try {
      await this.overlay.close()
    } catch (error) {
      process.stderr.write(
        `lamina: closing the layers: ${error instanceof Error ? error.message : String(error)}\n`,
      )
      return 1
    }
    return end.reason === 'failed' ? 1 : 0
  }

  private stats(): Stats {
    return {
      pid: process.pid,
      inodes: this.overlay.facts().inodes,
      ahead: this.overlay.facts().ahead,
      // The descriptor that reads the directory is not counted.
      fds: readdirSync('/proc/self/fd').length - 1,
      memory: process.memoryUsage.rss(),
      io: this.overlay.ioMode(),
      ...(this.kept === undefined ? {} : { deaths: this.kept.deaths() }),
      silent: this.patience.silent(),
      lower: this.overlay.facts().lower,
      ...this.session.counters(),
    }
  }
}

/** Said once: with lower=frozen somebody had promised that this does not happen. */
function lowerChanged({ mountpoint }: MountRecord, overlay: Overlay, path: string): void {
  if (overlay.facts().lower.mode !== 'frozen') return
  process.stderr.write(
    `lamina: ${toUtf8(mountpoint)}: a lower layer has changed although lower=frozen was given: '${toUtf8(path)}'; ` +
      `what is read of it may be old: use lower=live\n`,
  )
}

/**
 * Files that the data plane keeps open. A quarter of the descriptors is for these, a quarter for directories (overlay/index.ts); what is
 * unlinked while it is open needs the rest.
 */
function mostOpenFiles(): number {
  return Math.max(32, Math.min(512, Math.floor(sys.getrlimitNofile().soft / 4)))
}

/**
 * libuv starts its threads with the first thing that needs one, and aborts the process when one of them cannot be started: so this is
 * done while there is room for them. Those of the data plane (native/work-queue.cc) are started when needed, and done without when not.
 * And that first thing is of use: the first few thousand descriptors cost no request a wait.
 */
function startThreads(): void {
  sys.growDescriptors(Math.min(4096, sys.getrlimitNofile().soft)).catch((error: unknown) => {
    log?.(`the table of descriptors grows when needed: ${String(error)}`)
  })
}

/** @throws Error: one line that names the layer */
function openOverlay(spec: MountSpec): Overlay {
  try {
    return Overlay.open(spec.overlay)
  } catch (error) {
    if (!(error instanceof SysError)) throw error
    if (error.syscall === 'volatile') {
      throw new CheckError(
        `upperdir was last mounted volatile and not unmounted: what is in it may be torn; remove '${error.path ?? ''}' to use it`,
      )
    }
    if (error.syscall === 'whiteout') {
      throw new CheckError(
        `upperdir '${toUtf8(error.path ?? '')}' is on a filesystem that keeps no whiteouts${whiteoutAsked(spec)}: what is deleted would come back`,
      )
    }
    if (error.errno === E.EROFS)
      throw new CheckError(`upperdir is on a read-only filesystem: ${error.message}`)
    if (error.errno === E.EACCES || error.errno === E.EPERM) {
      throw new CheckError(`no permission on a layer: ${error.message}`)
    }
    throw new CheckError(`cannot open the layers: ${error.message}`)
  }
}

/** A setuid program or a file capability that a mount of its layer does not honour must not become one by the view. */
function isNosuid({ upper, lowers, dataOnly }: HandedLayers): boolean {
  const roots = [...lowers, ...dataOnly, ...(upper === null ? [] : [upper])]
  return roots.some(({ rootFd }) => (sys.fstatfs(rootFd.n).flags & sys.ST_NOSUID) !== 0)
}

function whiteoutAsked({ overlay }: MountSpec): string {
  const { whiteout } = overlay.options
  return whiteout === 'auto' ? '' : ` as whiteout=${whiteout}, try whiteout=auto`
}

/** Where layers begin, and what belongs to them: the ones that may fall silent and hold up nobody who does not need them. */
function layerRoots({ overlay }: MountSpec, { upper, lowers, dataOnly }: HandedLayers): LayerRoot[] {
  const below = (layers: readonly HandedLayer[], paths: readonly string[] = []): LayerRoot[] =>
    layers.map(({ rootFd }, i) => ({ fd: rootFd.n, path: paths[i] ?? '', upper: false }))
  const above = upper === null ? [] : [upper.rootFd, upper.workdir, upper.work, upper.index]
  return [
    ...below(lowers, overlay.lower),
    ...below(dataOnly, overlay.dataOnly),
    ...above.flatMap((fd, i) =>
      fd === null ? [] : [{ fd: fd.n, path: i === 0 ? (overlay.upper ?? '') : '', upper: true }],
    ),
  ]
}

/** Where a daemon may be patient with upper: this one, or a successor. */
function pulseOf(spec: MountSpec, { upper }: HandedLayers, kept: KeptMount | undefined): Fd | null {
  const wanted = spec.patience === 'all' || (kept !== undefined && spec.patience !== 'off')
  if (upper === null || !wanted) return null
  try {
    return sys.makePulse(upper.work.n)
  } catch (error) {
    if (!(error instanceof SysError)) throw error
    log?.(`whether upper's disk answers is seen by what it is asked for: ${error.message}`)
    return null
  }
}

/** Resolves when INIT is answered: from then on the mount works. */
async function startSession(
  spec: MountSpec,
  overlay: Overlay,
  device: Fd,
  patience: PatientLayers,
  kept: KeptMount | undefined,
): Promise<Session> {
  const { options } = spec.overlay
  const transport = new DeviceTransport(device.release(), INIT_DEFAULTS.maxRead, kept?.input)
  const session = new Session(transport, {
    maxOpenFiles: mostOpenFiles(),
    init: {
      writebackCache: options.writeback && options.io !== 'passthrough',
      passthrough: options.io === 'passthrough',
      posixAcl: !options.noacl,
      // Every mount of ours has default_permissions, without which the kernel refuses this.
      allowIdmap: true,
      // For tests of what happens on kernels before 6.9.
      hasResend: process.env['LAMINA_NO_RESEND'] !== '1',
    },
    ...(kept === undefined ? {} : { journal: kept.journal }),
  })
  overlay.attach(session)
  session.start(patience.serve(overlay.served()))
  await session.initialized
  return session
}

function recordOf(spec: MountSpec, overlay: Overlay, kept: boolean): MountRecord {
  const { lower, dataOnly, upper, work, mountpoint } = spec.overlay
  const above = overlay.handOver().layers.upper
  const keeper = { pid: process.ppid, startTime: startTimeOf(process.ppid) ?? 0 }
  return {
    // Daemons come and go; whoever starts them stays.
    id: `${pidNamespace()}-${kept ? keeper.pid : process.pid}`,
    pid: process.pid,
    pidNamespace: pidNamespace(),
    startTime: startTimeOf(process.pid) ?? 0,
    ...(kept ? { keeper } : {}),
    program: process.argv[1] ?? '',
    mountpoint,
    device: mountAt(mountpoint)?.device ?? '',
    source: spec.source,
    subtype: spec.subtype,
    lower,
    dataOnly: dataOnly ?? [],
    ...(upper === undefined ? {} : { upper }),
    ...(work === undefined ? {} : { work }),
    ...(above === null ? {} : aboveOf(above)),
    readOnly: spec.flags.includes('ro'),
    io: overlay.ioMode().mode,
    since: new Date().toISOString(),
  }
}

function aboveOf({ rootFd, workdir }: HandedUpper): Pick<MountRecord, 'upperId' | 'workId' | 'upperFd'> {
  return {
    upperId: objectOf(rootFd.n),
    workId: objectOf(workdir.n),
    upperFd: rootFd.n,
  }
}

/**
 * The kernel gives a FUSE mount read-ahead of 128 KiB, an eighth of the largest READ. Only root may say otherwise; for everyone
 * else sequential reading of cold files takes more round trips.
 */
function raiseReadAhead(device: string | undefined): void {
  if (device === undefined) return
  try {
    writeFileSync(`/sys/class/bdi/${device}/read_ahead_kb`, String(READ_AHEAD_KIB))
  } catch (error) {
    log?.(`read-ahead stays as it is: ${error instanceof Error ? error.message : String(error)}`)
  }
}

/** umount(2) can wait for requests that this very daemon has to answer, hence another thread. */
function unmountInThread(mountpoint: string, how: UnmountHow): Promise<void> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL('./unmount-thread.js', import.meta.url), {
      workerData: { mountpoint, how },
    })
    worker.once('message', (errno: number) => {
      if (errno === 0) resolve()
      else reject(new SysError(errno, 'umount2', mountpoint))
    })
    worker.once('error', reject)
    worker.once('exit', () => reject(new Error('the unmounting thread ended')))
  })
}
