import { execFileSync, spawnSync, type SpawnSyncReturns } from 'node:child_process'
import fs from 'node:fs'
import { createRequire } from 'node:module'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { limit } from './watchdog.js'

/**
 * Mounts for tests: a directory of one's own, a time limit, and nothing left afterwards, also when the test fails.
 *
 * A test may use a mount synchronously because the daemon is always another process.
 */

/**
 * `plain` is no overlay (a directory, which proves the test itself), `kernel` is the kernel's overlayfs (the oracle),
 * `fuse-overlayfs` is Debian's, `lamina` is ours, `fuse-native` is ours through the npm package of that name.
 */
export type Subject = 'plain' | 'kernel' | 'fuse-overlayfs' | 'lamina' | 'fuse-native'

/** Its daemon is ours. */
export function isOurs(subject: Subject): boolean {
  return subject === 'lamina' || subject === 'fuse-native'
}

export interface MountRequest {
  subject: Exclude<Subject, 'plain'>
  /** Top first. */
  lowers: readonly string[]
  upper?: string
  work?: string
  mountpoint: string
  /** Beyond lowerdir, upperdir, workdir. */
  options?: readonly string[]
}

/** What `lamina stats --format json` prints, as far as tests read it. */
export interface Stats {
  pid: number
  /** Requests by name, since the mount. */
  requests: Record<string, number>
  /** Inodes that the kernel holds a reference to, the root included. */
  inodes: number
  /** Names looked up before they were asked for, and how many of these were. */
  ahead: { found: number; used: number }
  /** Open descriptors of the daemon. */
  fds: number
  /** Unexpected exceptions, each answered EIO. */
  faults: number
  dataPlane: {
    wakeups: number
    framesToJs: number
    followed: number
    namesAnswered: number
    registered: number
    attributesAnswered: number
  }
  [key: string]: unknown
}

/** The project's directory, from dist/test/mount. */
export const PROJECT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../..')
const LAMINA = path.join(PROJECT, 'bin/lamina.js')

const live = new Set<Scratch>()
process.on('exit', () => {
  for (const scratch of live) scratch.clear()
})
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
  process.on(signal, () => {
    process.exit(1)
  })

/** Why `subject` cannot be mounted on this machine; undefined when it can. */
export function unavailable(subject: Subject): string | undefined {
  if (subject === 'plain') return undefined
  if (process.geteuid!() !== 0) return 'needs root'
  if (subject === 'kernel') {
    const known = fs.readFileSync('/proc/filesystems', 'utf8').includes('\toverlay\n')
    return known ? undefined : 'the kernel has no overlayfs'
  }
  if (!fs.existsSync('/dev/fuse')) return 'no /dev/fuse'
  if (subject === 'fuse-overlayfs') {
    const found = (process.env['PATH'] ?? '')
      .split(':')
      .some(dir => fs.existsSync(path.join(dir, 'fuse-overlayfs')))
    return found ? undefined : 'fuse-overlayfs is not installed'
  }
  if (!fs.existsSync(LAMINA)) return 'there is no bin/lamina.js yet'
  if (subject === 'fuse-native') {
    try {
      createRequire(import.meta.url)('fuse-native')
    } catch (error) {
      return `fuse-native cannot be loaded: ${(error as Error).message.split('\n')[0] ?? ''}`
    }
  }
  return undefined
}

/** A directory of the test's own, and every mount made in it. Dispose it, with `using`. */
export class Scratch implements Disposable {
  readonly root: string
  readonly mounts: Mount[] = []

  /** @param seconds how long the test may take; renew with {@link renew} */
  constructor(
    name: string,
    private readonly seconds = 60,
  ) {
    this.root = fs.mkdtempSync(path.join(os.tmpdir(), `lamina-${name.replace(/[^a-z0-9]+/gi, '-')}-`))
    fs.chmodSync(this.root, 0o755)
    live.add(this)
    this.renew()
  }

  renew(): void {
    limit(this.root, this.seconds)
  }

  /** The limit does not run while the test is busy elsewhere. */
  pause(): void {
    limit(this.root, 0)
  }

  path(...names: string[]): string {
    return path.join(this.root, ...names)
  }

  mkdir(...names: string[]): string {
    const dir = this.path(...names)
    fs.mkdirSync(dir, { recursive: true })
    return dir
  }

  /** @throws Error with what the mount program printed */
  mount(request: MountRequest): Mount {
    const mount = new Mount(request, this.root)
    this.mounts.push(mount)
    return mount
  }

  /** Fewest layers and most usual names: `lower0`… (top first), `upper`, `work`, `mnt`, made where missing. */
  overlay(subject: Exclude<Subject, 'plain'>, lowers = 1, options: readonly string[] = []): Mount {
    return this.mount({
      subject,
      lowers: Array.from({ length: lowers }, (_, i) => this.mkdir(`lower${i}`)),
      upper: this.mkdir('upper'),
      work: this.mkdir('work'),
      mountpoint: this.mkdir('mnt'),
      options,
    })
  }

  /** Ours and the kernel's over the same lower layers, each with an upper layer of its own: upper-lamina, upper-kernel. */
  beside(
    lowers: readonly string[],
    options: { readonly lamina?: readonly string[]; readonly kernel?: readonly string[] } = {},
  ): [ours: Mount, theirs: Mount] {
    const mount = (subject: 'lamina' | 'kernel'): Mount =>
      this.mount({
        subject,
        lowers,
        upper: this.mkdir(`upper-${subject}`),
        work: this.mkdir(`work-${subject}`),
        mountpoint: this.mkdir(`mnt-${subject}`),
        options: options[subject] ?? [],
      })
    return [mount('lamina'), mount('kernel')]
  }

  /** @throws Error when something was left behind */
  [Symbol.dispose](): void {
    this.renew()
    const faults: string[] = []
    for (const mount of this.mounts.slice().reverse()) {
      try {
        mount.unmount()
      } catch (error) {
        faults.push(String(error))
      }
    }
    faults.push(...this.clear())
    if (faults.length > 0) throw new Error(`left behind: ${faults.join('; ')}`)
  }

  /** Ends by force what is still there and removes the directory; says what that was. */
  clear(): string[] {
    limit(this.root, 0)
    const faults: string[] = []
    for (const mountpoint of mountsBelow(this.root).reverse()) {
      faults.push(`mount ${mountpoint}`)
      abort(connectionOf(mountpoint))
      umount(mountpoint, '-l')
    }
    for (const pid of processesBelow(this.root)) {
      faults.push(`process ${pid} (${commandOf(pid).join(' ')})`)
      process.kill(pid, 'SIGKILL')
      waitForEnd(pid)
    }
    // rm and not fs.rmSync: paths may be longer than PATH_MAX and names may not be UTF-8.
    execFileSync('rm', ['-rf', '--', this.root])
    live.delete(this)
    return faults
  }
}

/** One mounted overlay. */
export class Mount implements Disposable {
  readonly mountpoint: string
  private readonly firstPid: number | undefined
  /** Who starts the daemon again; undefined without a keeper. */
  readonly keeper: number | undefined
  private readonly connection: string
  private mounted = true
  private fdsAtMount: number | undefined

  constructor(
    readonly request: MountRequest,
    private readonly root: string,
  ) {
    this.mountpoint = request.mountpoint
    const before = new Set(processesBelow(root))
    start(request)
    this.connection = connectionOf(request.mountpoint)
    const started = processesBelow(root).filter(
      pid => !before.has(pid) && commandOf(pid).includes(request.mountpoint),
    )
    const isKeeper = (pid: number): boolean => path.basename(commandOf(pid)[0] ?? '') === 'lamina-keeper'
    this.keeper = started.find(isKeeper)
    const daemon = started.find(pid => !isKeeper(pid))
    if (request.subject !== 'kernel' && daemon === undefined)
      throw new Error('mounted, but there is no daemon')
    this.firstPid = daemon
    if (request.subject === 'lamina') this.fdsAtMount = openDescriptors(this.pid ?? 0)
  }

  /** Of the daemon, with a keeper the one that lives now; undefined for the kernel's. */
  get pid(): number | undefined {
    return this.keeper === undefined ? this.firstPid : childOf(this.keeper)
  }

  get subject(): Subject {
    return this.request.subject
  }

  /** Of ours only. */
  stats(): Stats {
    return JSON.parse(lamina('stats', '--format', 'json', this.mountpoint)) as Stats
  }

  /** By how much a counter of the daemon's grows while `act` runs. */
  gained(counter: keyof Stats['dataPlane'], act: () => void): number {
    const before = this.stats().dataPlane[counter]
    act()
    return this.stats().dataPlane[counter] - before
  }

  /**
   * Unmounts and waits for the daemon's end.
   * @throws Error when the daemon kept inodes or descriptors, a temp file stayed in workdir, or the daemon stays
   */
  unmount(): void {
    if (!this.mounted) return
    this.mounted = false
    const faults: string[] = []
    if (this.fdsAtMount !== undefined) faults.push(...this.kept(this.fdsAtMount))
    try {
      this.letGo()
    } catch (error) {
      faults.push(`cannot unmount: ${String(error)}`)
      if (isMounted(this.mountpoint)) umount(this.mountpoint, '-l')
      abort(this.connection)
    }
    for (const pid of [this.keeper, this.pid]) {
      if (pid === undefined || waitForEnd(pid)) continue
      faults.push(`${pid === this.keeper ? 'keeper' : 'daemon'} ${pid} did not end`)
      process.kill(pid, 'SIGKILL')
      waitForEnd(pid)
    }
    // The kernel keeps one whiteout in workdir on purpose, to link further ones from.
    if (isOurs(this.subject) && this.request.work !== undefined)
      faults.push(...temporaries(this.request.work))
    if (faults.length > 0) throw new Error(`${this.subject}: ${faults.join('; ')}`)
  }

  private letGo(): void {
    if (this.subject === 'kernel') umount(this.mountpoint)
    else if (!copiedElsewhere(this.mountpoint)) {
      if (isOurs(this.subject)) lamina('umount', this.mountpoint)
      else umount(this.mountpoint)
    } else {
      // Then the daemon would go on for as long as that namespace does.
      umount(this.mountpoint)
      abort(this.connection)
    }
  }

  [Symbol.dispose](): void {
    this.unmount()
  }

  /** Again over the same directories, with `options` in place of the earlier ones when given. */
  remount(options?: readonly string[]): Mount {
    this.unmount()
    return new Mount({ ...this.request, ...(options && { options }) }, this.root)
  }

  /** Whether the file system still answers. */
  alive(): boolean {
    return (
      this.mounted &&
      (this.subject === 'kernel' || (this.pid !== undefined && fs.existsSync(`/proc/${this.pid}`))) &&
      isMounted(this.mountpoint)
    )
  }

  /** kill -9, of the keeper first, and the dead mount taken away. */
  kill(): void {
    this.mounted = false
    const pids = [this.keeper, this.pid].filter(pid => pid !== undefined)
    for (const pid of pids) {
      // Somebody else may have done it: a test that kills at a random moment.
      if (fs.existsSync(`/proc/${pid}`)) process.kill(pid, 'SIGKILL')
      waitForEnd(pid)
    }
    if (pids.length === 0) return
    if (isMounted(this.mountpoint)) umount(this.mountpoint, '-l')
  }

  /** Makes the kernel drop the mount's names and inodes (and so send FORGET), without touching other file systems. */
  dropCaches(): void {
    run('mount', ['-i', '-o', 'remount', this.mountpoint])
  }

  /** What the daemon still holds, against just after the mount, once the kernel has let everything go. */
  private kept(fdsAtMount: number): string[] {
    try {
      this.dropCaches()
      let now = this.stats()
      // The root is never forgotten, so it may stay among the directories that are followed.
      const open = (): number => openDescriptors(this.pid ?? 0) - now.dataPlane.followed
      // FORGET is not answered, so there is nothing to wait on but the count itself.
      for (let tries = 0; tries < 20 && (now.inodes > 1 || open() > fdsAtMount); tries++) {
        pause(50)
        now = this.stats()
      }
      const faults: string[] = []
      if (now.inodes > 1) faults.push(`${now.inodes - 1} inodes kept besides the root`)
      const fds = open()
      if (fds > fdsAtMount) faults.push(`${fds - fdsAtMount} descriptors kept`)
      if (now.faults > 0) faults.push(`${now.faults} unexpected exceptions in the daemon`)
      return faults
    } catch (error) {
      return [`no stats: ${String(error)}`]
    }
  }
}

/** The one child of a process; undefined when it has none, or has ended itself. */
export function childOf(pid: number): number | undefined {
  try {
    const children = fs.readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean)
    const daemon = children.find(child => {
      const name = nameOf(Number(child))
      return name !== undefined && name !== 'lamina-holder' && name !== 'lamina-orphans'
    })
    return daemon === undefined ? undefined : Number(daemon)
  } catch {
    return undefined
  }
}

/** The process of native/orphan-holder.cc. It, and who starts it, are called lamina-holder for a moment. */
export function isOrphanHolder(pid: number): boolean {
  return nameOf(pid) === 'lamina-orphans'
}

/** Undefined once it has ended. */
function nameOf(pid: number): string | undefined {
  try {
    return fs.readFileSync(`/proc/${pid}/comm`, 'utf8').trimEnd()
  } catch {
    return undefined
  }
}

/**
 * Runs `script` as a user without privilege in the scratch directory, with $node and $lamina; `inside` goes before the shell. /dev/fuse is
 * a device node of the test's own, over the one of the host, in a private namespace: modes of the host stay.
 */
export function runAsNobody(scratch: Scratch, script: string, inside = ''): SpawnSyncReturns<string> {
  fs.chmodSync(scratch.root, 0o777)
  const device = scratch.path('fuse')
  const all = `
    set -e
    mknod '${device}' c 10 229; chmod 666 '${device}'
    mount --bind '${device}' /dev/fuse
    cd '${scratch.root}'
    export LAMINA_RUN=$PWD/run
    exec setpriv --reuid=65534 --regid=65534 --clear-groups ${inside} sh -ec "$script"`
  return spawnSync('unshare', ['-m', '--propagation', 'private', 'sh', '-c', all], {
    encoding: 'utf8',
    timeout: 60_000,
    env: { ...process.env, node: process.execPath, lamina: LAMINA, script },
  })
}

/** What each of its descriptors is. */
export function linksOf(pid: number): string[] {
  const directory = `/proc/${pid}/fd`
  return fs.readdirSync(directory).flatMap(fd => {
    try {
      return [fs.readlinkSync(path.join(directory, fd))]
    } catch {
      return [] // closed meanwhile
    }
  })
}

/**
 * Without what it keeps for itself: pipes as long as it expects large writes (big-writes.test.ts looks at their number), and a pidfd
 * and a signalfd since it first unlinked what may be open.
 */
function openDescriptors(pid: number): number {
  // libuv opens one of /dev/null when the first socket is used, which a daemon does some time after it has begun to serve.
  return linksOf(pid).filter(link => !/^pipe:|pidfd|signalfd|^\/dev\/null$/.test(link)).length
}

/** Runs `lamina`; its standard output. @throws Error with its standard error */
export function lamina(...args: string[]): string {
  return run(process.execPath, [LAMINA, ...args])
}

/** Past any umount helper: the daemon's end is waited for here. */
export function umount(mountpoint: string, ...flags: string[]): void {
  run('umount', ['-i', ...flags, mountpoint])
}

export function mountTmpfs(mountpoint: string, options: string): void {
  run('mount', ['-t', 'tmpfs', '-o', options, 'none', mountpoint])
}

function start(request: MountRequest): void {
  const base = path.dirname(request.mountpoint)
  const named = (dir: string): string =>
    escaped(request.subject === 'kernel' && dir.startsWith(`${base}/`) ? path.relative(base, dir) : dir)
  const options = [`lowerdir=${request.lowers.map(named).join(':')}`]
  if (request.upper !== undefined) options.push(`upperdir=${named(request.upper)}`)
  if (request.work !== undefined) options.push(`workdir=${named(request.work)}`)
  options.push(...(request.options ?? []))
  switch (request.subject) {
    case 'kernel':
      // mount(2) takes one page of options, and libmount's new way 256 bytes of each: hence names from the directory that
      // all share, and the old way.
      run('mount', ['-t', 'overlay', 'overlay', '-o', options.join(','), request.mountpoint], base)
      return
    case 'fuse-overlayfs':
      run('fuse-overlayfs', ['-o', options.join(','), request.mountpoint])
      return
    case 'lamina':
      lamina('mount', '-o', options.join(','), request.mountpoint)
      return
    case 'fuse-native':
      lamina('mount', '--transport', 'fuse-native', '-o', options.join(','), request.mountpoint)
      return
  }
}

function escaped(dir: string): string {
  return dir.replace(/[\\:,]/g, '\\$&')
}

function run(program: string, args: string[], cwd?: string): string {
  try {
    return execFileSync(program, args, {
      ...(cwd !== undefined && { cwd }),
      env: { ...process.env, LIBMOUNT_FORCE_MOUNT2: 'always' },
      encoding: 'utf8',
      timeout: 30_000,
      killSignal: 'SIGKILL',
      stdio: ['ignore', 'pipe', 'pipe'],
      maxBuffer: 16 << 20,
    })
  } catch (error) {
    const said = error instanceof Error && 'stderr' in error ? String(error.stderr).trim() : ''
    throw new Error(
      `${path.basename(args[0] === LAMINA ? 'lamina' : program)} ${args.slice(0, 2).join(' ')}: ${said || String(error)}`,
    )
  }
}

/** Mountpoints below `root`, in the order they were mounted. */
function mountsBelow(root: string): string[] {
  return mountinfo()
    .map(fields => unescaped(fields[4] ?? ''))
    .filter(mountpoint => mountpoint === root || mountpoint.startsWith(`${root}/`))
}

function isMounted(mountpoint: string): boolean {
  return mountinfo().some(fields => unescaped(fields[4] ?? '') === mountpoint)
}

function mountinfo(): string[][] {
  return fs
    .readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map(line => line.split(' '))
}

function unescaped(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)))
}

/** The number of a mount below /sys/fs/fuse/connections, should it be a FUSE one. */
function connectionOf(mountpoint: string): string {
  const device = mountinfo().findLast(fields => unescaped(fields[4] ?? '') === mountpoint)?.[2]
  return device?.split(':')[1] ?? ''
}

/** Ends a FUSE connection, so that nothing waits for its daemon. No effect on another kind of mount. */
function abort(connection: string): void {
  const control = `/sys/fs/fuse/connections/${connection}/abort`
  if (connection !== '' && fs.existsSync(control)) fs.writeFileSync(control, '1')
}

/** Whether a program that runs beside has made a mount namespace, which copies every mount there is. */
function copiedElsewhere(mountpoint: string): boolean {
  const own = fs.readlinkSync('/proc/self/ns/mnt')
  return processes().some(pid => {
    try {
      if (fs.readlinkSync(`/proc/${pid}/ns/mnt`) === own) return false
      return fs.readFileSync(`/proc/${pid}/mountinfo`, 'utf8').includes(` ${mountpoint} `)
    } catch {
      return false
    }
  })
}

function processes(): number[] {
  return fs
    .readdirSync('/proc')
    .filter(name => /^[0-9]+$/.test(name) && Number(name) !== process.pid)
    .map(Number)
}

/** Processes, other than this one, with a path below `root` in their arguments. */
function processesBelow(root: string): number[] {
  return processes().filter(pid => commandOf(pid).some(arg => arg.includes(`${root}/`)))
}

function commandOf(pid: number): string[] {
  try {
    return fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
  } catch {
    return []
  }
}

/** Waits for a process that need not be a child. */
function waitForEnd(pid: number, seconds = 30): boolean {
  for (const until = Date.now() + seconds * 1000; Date.now() < until;) {
    const state = stateOf(pid)
    if (state === undefined || state === 'Z') return true
    pause(5)
  }
  return false
}

function stateOf(pid: number): string | undefined {
  try {
    return /^State:\s+(\S)/m.exec(fs.readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
  } catch {
    return undefined
  }
}

export function pause(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds)
}

/**
 * What an overlay left in its workdir beyond its own directories: `work` empty, `index` as it is.
 * The kernel leaves `work/incompat/volatile` of a volatile mount on purpose.
 */
function temporaries(work: string): string[] {
  const left: string[] = []
  for (const name of fs.readdirSync(work)) {
    const dir = path.join(work, name)
    if (!fs.lstatSync(dir).isDirectory()) left.push(`${name} in workdir`)
    else if (name !== 'index')
      left.push(
        ...fs
          .readdirSync(dir)
          .filter(inner => inner !== 'incompat')
          .map(inner => `${name}/${inner} in workdir`),
      )
  }
  return left
}
