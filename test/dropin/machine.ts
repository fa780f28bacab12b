import { spawn, type ChildProcess } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { PROJECT } from '../mount/fixture.js'

/**
 * A machine for container clients inside this one: a mount namespace of its own with its own /run, /dev/shm, /var/tmp,
 * password files and /dev/fuse (mode 0666, as distributions have it), so that a test neither needs an account on the
 * machine nor leaves anything on it. What is mounted in it ends with it.
 *
 * There are two ordinary users in it: `lamina` (uid 12345), with 65536 subordinate ids from 200000 on, and `plain` (12346), who
 * has none.
 */

export const USER = { name: 'lamina', uid: 12_345, subids: 200_000 }
export const PLAIN = { name: 'plain', uid: 12_346 }

export interface RunOptions {
  /** As an ordinary user rather than as root; `plain` is the one without subordinate ids. */
  user?: boolean | 'plain'
  cwd?: string
  env?: Readonly<Record<string, string>>
  input?: string
  /** Default 120. */
  seconds?: number
}

export interface Ran {
  code: number
  stdout: string
  stderr: string
  /** Until the end of the process, and of its standard output and error: whichever came last. Milliseconds. */
  took: number
}

/** Why no machine can be had here; undefined when it can. */
export function unavailable(...programs: readonly string[]): string | undefined {
  if (process.geteuid?.() !== 0) return 'needs root'
  if (!fs.existsSync('/dev/fuse')) return 'no /dev/fuse'
  for (const program of ['unshare', 'nsenter', 'setpriv', ...programs]) {
    if (which(program) === undefined) return `${program} is not installed`
  }
  return undefined
}

const PATH = [
  path.dirname(process.execPath),
  '/usr/local/sbin',
  '/usr/local/bin',
  '/usr/sbin',
  '/usr/bin',
  '/sbin',
  '/bin',
]

export function which(program: string): string | undefined {
  return PATH.map(dir => path.join(dir, program)).find(file => fs.existsSync(file))
}

const machines = new Set<Machine>()
process.on('exit', () => {
  for (const machine of machines) machine.end()
})

const SETUP = `
set -e
for dir in /run /dev/shm /var/tmp; do mount -t tmpfs -o mode=1777 tmpfs $dir; done
if [ -d /var/lib/containers ]; then mount -t tmpfs tmpfs /var/lib/containers; fi
umount /sys/fs/cgroup/unified 2>/dev/null || true # crun refuses the hybrid kind
for uid in ${USER.uid} ${PLAIN.uid}; do
  mkdir -m 700 -p /run/user/$uid
  chown $uid:$uid /run/user/$uid
done
mount --bind "$ROOT/etc/fuse" /dev/fuse
for file in passwd group subuid subgid fuse.conf; do
  [ -e /etc/$file ] || continue
  mount --bind "$ROOT/etc/$file" /etc/$file
done
mount --bind "$PROJECT" "$ROOT/project"
mount --bind "$ROOT/bin" /usr/local/sbin # mount(8) drops PATH before it starts a helper
echo ready
exec cat
`

export class Machine implements AsyncDisposable {
  /** Everything that belongs to it; 0755, so that the user can get in. */
  readonly root: string
  /** The user's. */
  readonly home: string
  /** Of the user without subordinate ids. */
  readonly plainHome: string
  /** `fuse-lamina`, as npm links it. */
  readonly fuseLamina: string
  /** `lamina`, as npm links it. */
  readonly lamina: string

  private constructor(
    private readonly holder: ChildProcess,
    root: string,
  ) {
    this.root = root
    this.home = path.join(root, 'home')
    this.plainHome = path.join(root, 'plain')
    this.fuseLamina = path.join(root, 'bin/fuse-lamina')
    this.lamina = path.join(root, 'bin/lamina')
    machines.add(this)
  }

  static async start(): Promise<Machine> {
    const root = fs.mkdtempSync(path.join(os.tmpdir(), 'lamina-dropin-'))
    fs.chmodSync(root, 0o755)
    for (const dir of ['etc', 'bin', 'project']) fs.mkdirSync(path.join(root, dir))
    for (const [home, { uid }] of [
      ['home', USER],
      ['plain', PLAIN],
    ] as const) {
      for (const dir of [home, `${home}/tmp`]) {
        fs.mkdirSync(path.join(root, dir))
        fs.chownSync(path.join(root, dir), uid, uid)
      }
    }
    for (const program of ['fuse-lamina', 'lamina']) {
      fs.symlinkSync(path.join(root, `project/bin/${program}.js`), path.join(root, 'bin', program))
    }
    accounts(path.join(root, 'etc'), root)
    await run('mknod', ['-m', '666', path.join(root, 'etc/fuse'), 'c', '10', '229'], {})
    fs.chmodSync(path.join(root, 'etc/fuse'), 0o666)
    const holder = spawn('unshare', ['-m', '--propagation', 'private', 'sh', '-c', SETUP], {
      env: { PATH: PATH.join(':'), ROOT: root, PROJECT },
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    const machine = new Machine(holder, root)
    await new Promise<void>((resolve, reject) => {
      holder.stdout?.once('data', () => resolve())
      holder.once('exit', code => reject(new Error(`no machine: unshare ended with ${code}`)))
    })
    return machine
  }

  /** Runs a program to its end, and to the end of its output. */
  run(program: string, args: readonly string[], options: RunOptions = {}): Promise<Ran> {
    const { user = false, env = {} } = options
    const { uid, name } = user === 'plain' ? PLAIN : USER
    const home = user === 'plain' ? this.plainHome : this.home
    const cwd = options.cwd ?? (user === false ? '/' : home)
    const identity =
      user === false
        ? []
        : ['setpriv', `--reuid=${uid}`, `--regid=${uid}`, '--init-groups', '--inh-caps=-all', '--']
    const own =
      user === false
        ? { HOME: '/root', USER: 'root' }
        : { HOME: home, USER: name, XDG_RUNTIME_DIR: `/run/user/${uid}`, TMPDIR: `${home}/tmp` }
    const enter = [`--mount=/proc/${this.holder.pid}/ns/mnt`, `--wdns=${cwd}`, '--']
    // Exactly these variables: tap puts loaders into every child's NODE_OPTIONS, which would be in the daemons as well.
    const variables = Object.entries({ PATH: PATH.join(':'), ...own, ...env }).map(([k, v]) => `${k}=${v}`)
    return run('nsenter', [...enter, 'env', '-i', ...variables, ...identity, program, ...args], {
      ...(options.input !== undefined && { input: options.input }),
      seconds: options.seconds ?? 120,
    })
  }

  /** The same, its standard output. @throws Error with what it said when it fails */
  async ok(program: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
    const ran = await this.run(program, args, options)
    if (ran.code !== 0) {
      const command = [path.basename(program), ...args].join(' ').slice(0, 400)
      throw new Error(`${command}: exit ${ran.code}\n${ran.stderr.trim()}\n${ran.stdout.slice(-2000)}`)
    }
    return ran.stdout
  }

  sh(script: string, options: RunOptions = {}): Promise<string> {
    return this.ok('sh', ['-ec', script], options)
  }

  /** FUSE mounts below the machine's directory in its namespace, and processes that name it, this process' own aside. */
  left(): string[] {
    const mounts = fs
      .readFileSync(`/proc/${this.holder.pid}/mountinfo`, 'utf8')
      .split('\n')
      .filter(line => line.includes(` ${this.root}/`) && / - fuse/.test(line))
      .map(line => `mount ${line.split(' ')[4] ?? ''}`)
    const processes = this.processes().map(
      pid => `process ${pid} (${commandOf(pid).join(' ').slice(0, 200)})`,
    )
    return [...mounts, ...processes]
  }

  /** The same, once it is empty or three seconds have gone: a lazy unmount ends a daemon when its last user lets go. */
  async settled(): Promise<string[]> {
    for (let waited = 0; ; waited += 20) {
      const left = this.left()
      if (left.length === 0 || waited >= 3000) return left
      await new Promise(resolve => setTimeout(resolve, 20))
    }
  }

  /** Processes of this machine by the name that ps shows. */
  pidsNamed(name: string): number[] {
    return this.processes().filter(pid => {
      try {
        return fs.readFileSync(`/proc/${pid}/comm`, 'utf8').trim() === name
      } catch {
        return false
      }
    })
  }

  private processes(): number[] {
    return fs
      .readdirSync('/proc')
      .filter(name => /^\d+$/.test(name))
      .map(Number)
      .filter(pid => pid !== process.pid && pid !== this.holder.pid)
      .filter(pid => commandOf(pid).some(arg => arg.includes(`${this.root}/`)))
  }

  /** Ends what is left by force. */
  end(): void {
    if (!machines.delete(this)) return
    for (const pid of this.processes()) {
      try {
        process.kill(pid, 'SIGKILL')
      } catch {
        // It has just ended.
      }
    }
    this.holder.kill('SIGKILL')
    for (let tries = 0; tries < 100 && fs.existsSync(this.root); tries++) {
      try {
        fs.rmSync(this.root, { recursive: true, force: true })
      } catch {
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50)
      }
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.end()
    return Promise.resolve()
  }
}

function accounts(etc: string, root: string): void {
  const add = (file: string, line: string): void => {
    const own = path.join(etc, file)
    if (!fs.existsSync(own))
      fs.writeFileSync(own, fs.existsSync(`/etc/${file}`) ? fs.readFileSync(`/etc/${file}`) : '')
    fs.writeFileSync(own, `${fs.readFileSync(own, 'utf8').replace(/([^\n])$/, '$1\n')}${line}\n`)
  }
  for (const [{ name, uid }, home] of [
    [USER, 'home'],
    [PLAIN, 'plain'],
  ] as const) {
    add('passwd', `${name}:x:${uid}:${uid}::${path.join(root, home)}:/bin/sh`)
    add('group', `${name}:x:${uid}:`)
  }
  add('subuid', `${USER.name}:${USER.subids}:65536`)
  add('subgid', `${USER.name}:${USER.subids}:65536`)
  add('fuse.conf', 'user_allow_other')
}

function run(
  program: string,
  args: readonly string[],
  options: { input?: string; seconds?: number },
): Promise<Ran> {
  const started = Date.now()
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { cwd: '/', stdio: ['pipe', 'pipe', 'pipe'], detached: true })
    let [stdout, stderr] = ['', '']
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => (stdout += chunk))
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => (stderr += chunk))
    child.stdin.on('error', () => undefined)
    child.stdin.end(options.input ?? '')
    const timer = setTimeout(
      () => {
        stderr += `\nended after ${options.seconds ?? 60} s`
        if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL')
        child.stdout.destroy()
        child.stderr.destroy()
      },
      (options.seconds ?? 60) * 1000,
    )
    child.once('error', reject)
    child.once('close', (code, signal) => {
      clearTimeout(timer)
      resolve({ code: code ?? (signal === null ? 1 : 137), stdout, stderr, took: Date.now() - started })
    })
  })
}

function commandOf(pid: number): string[] {
  try {
    return fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
  } catch {
    return []
  }
}

/** A root filesystem of one static busybox; a Debian one would cost a mirror. */
export function busyboxRoot(dir: string): void {
  for (const name of ['bin', 'etc', 'tmp', 'dev', 'proc', 'sys', 'root', 'usr/bin', 'var/log', 'srv/big']) {
    fs.mkdirSync(path.join(dir, name), { recursive: true })
  }
  fs.chmodSync(path.join(dir, 'tmp'), 0o1777)
  const busybox = which('busybox')
  if (busybox === undefined) throw new Error('busybox is not installed')
  fs.copyFileSync(busybox, path.join(dir, 'bin/busybox'))
  for (const applet of APPLETS.split(' ')) fs.symlinkSync('busybox', path.join(dir, 'bin', applet))
  fs.writeFileSync(path.join(dir, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\nme:x:1000:1000::/:/bin/sh\n')
  fs.writeFileSync(path.join(dir, 'etc/group'), 'root:x:0:\nme:x:1000:\n')
  for (let i = 0; i < 50; i++) fs.writeFileSync(path.join(dir, `srv/big/f${i}`), `${i}\n`.repeat(i * 100))
}

const APPLETS =
  'sh ls cat echo cp mv rm mkdir rmdir ln chmod chown touch id stat find tar sha256sum mknod sleep true false env head ' +
  'tail wc printf sed grep mount umount ps dd sync readlink sort test truncate mkfifo'
