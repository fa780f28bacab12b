import { execFileSync, spawn } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { childOf, lamina, PROJECT, Scratch, umount, unavailable, type Mount } from './fixture.js'

/** The life of a mount with a keeper: who ends when, and who may end whom. keeper-kill.test.ts has the deaths under load. */

const skip = unavailable('lamina') ?? false

interface Kept {
  scratch: Scratch
  mount: Mount
  run: string
}

/** A mount of its own run directory, so that no other program takes its record for that of a dead daemon. */
function kept(name: string, options: readonly string[] = []): Kept & Disposable {
  const scratch = new Scratch(name, 60)
  const run = (process.env['LAMINA_RUN'] = scratch.mkdir('run'))
  const lower = scratch.mkdir('lower0')
  fs.writeFileSync(path.join(lower, 'file'), 'below')
  fs.mkdirSync(path.join(lower, 'dir'))
  const mount = scratch.overlay('lamina', 1, ['keeper=1', ...options])
  return { scratch, mount, run, [Symbol.dispose]: () => scratch[Symbol.dispose]() }
}

const later = (milliseconds: number): Promise<void> =>
  new Promise(resolve => setTimeout(resolve, milliseconds))

async function until(what: string, holds: () => boolean, seconds = 20): Promise<void> {
  for (const end = Date.now() + seconds * 1000; !holds(); await later(20))
    if (Date.now() > end) throw new Error(`not in ${seconds} s: ${what}`)
}

const alive = (pid: number | undefined): boolean => {
  if (pid === undefined) return false
  const stat = fs.existsSync(`/proc/${pid}`) ? fs.readFileSync(`/proc/${pid}/stat`, 'utf8') : ') Z'
  return !/\) [ZX]/.test(stat)
}

function kill(mount: Mount, signal: NodeJS.Signals = 'SIGKILL'): number {
  const pid = mount.pid ?? 0
  process.kill(pid, signal)
  return pid
}

function textOf(file: string): string {
  try {
    return fs.readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}

const isMounted = (mount: Mount): boolean =>
  fs.readFileSync('/proc/self/mountinfo', 'utf8').includes(` ${mount.mountpoint} `)

t.test('what is open, unlinked or below stays what it was for those who have it', { skip }, async t => {
  using it = kept('keeper-open')
  const { mount } = it
  const at = (name: string): string => path.join(mount.mountpoint, name)
  fs.writeFileSync(at('new'), 'new')
  const unlinked = fs.openSync(at('new'), 'r+')
  fs.unlinkSync(at('new'))
  const lower = fs.openSync(at('file'), 'r')
  fs.unlinkSync(at('file'))
  fs.mkdirSync(at('made'))
  fs.renameSync(at('made'), at('moved'))
  const before = fs.statSync(at('moved')).ino
  const pid = kill(mount)
  t.equal(fs.statSync(at('moved')).ino, before, 'st_ino')
  await until('another daemon answers', () => mount.pid !== undefined && mount.pid !== pid)
  fs.writeSync(unlinked, ' data', 3)
  t.equal(fs.fstatSync(unlinked).nlink, 0)
  const buffer = Buffer.alloc(8)
  fs.readSync(unlinked, buffer, 0, 8, 0)
  t.equal(buffer.toString(), 'new data')
  fs.readSync(lower, buffer, 0, 5, 0)
  t.equal(buffer.toString('utf8', 0, 5), 'below')
  t.throws(() => fs.statSync(at('file')), { code: 'ENOENT' })
  fs.closeSync(unlinked)
  fs.closeSync(lower)
  const { deaths } = mount.stats() as { deaths?: { count: number; last?: { cause: string } } }
  t.match(deaths, { count: 1, last: { cause: 'signal 9' } })
})

t.test('SIGTERM to the keeper, or to the daemon, unmounts', { skip }, async t => {
  for (const who of ['keeper', 'pid'] as const) {
    using it = kept('keeper-term')
    const { mount, run } = it
    const pids = [mount.keeper, mount.pid]
    process.kill(mount[who] ?? 0, 'SIGTERM')
    await until('both have ended', () => !pids.some(alive))
    t.notOk(isMounted(mount), who)
    t.strictSame(fs.readdirSync(run), [], 'no record stays')
    mount.kill()
  }
})

t.test('unmounted by somebody else, also while no daemon lives, both end', { skip }, async t => {
  for (const dead of [false, true]) {
    using it = kept('keeper-umount')
    const { mount, run } = it
    const { keeper } = mount
    if (dead) kill(mount)
    umount(mount.mountpoint)
    await until('the keeper has ended', () => !alive(keeper))
    t.strictSame(fs.readdirSync(run), [], 'no record stays')
    mount.kill()
  }
})

t.test('a daemon that dies again and again is not started for ever: the mount ends', { skip }, async t => {
  process.env['LAMINA_KEEPER_DEATHS'] = '2'
  using it = kept('keeper-limit')
  delete process.env['LAMINA_KEEPER_DEATHS']
  const { mount, run } = it
  const { keeper } = mount
  for (let death = 0; death < 3; death++) {
    const pid = kill(mount)
    await until('another daemon, or none', () => !alive(keeper) || (childOf(keeper ?? 0) ?? pid) !== pid)
  }
  await until('the keeper has ended', () => !alive(keeper))
  t.notOk(isMounted(mount))
  t.strictSame(fs.readdirSync(run), [], 'no record stays')
  mount.kill()
})

t.test('a keeper that is killed takes nothing with it', { skip }, async t => {
  using it = kept('keeper-killed')
  const { mount } = it
  const pid = mount.pid ?? 0
  process.kill(mount.keeper ?? 0, 'SIGKILL')
  await until('it is gone', () => !alive(mount.keeper))
  fs.writeFileSync(path.join(mount.mountpoint, 'goes-on'), '')
  lamina('umount', mount.mountpoint)
  t.notOk(alive(pid))
  mount.kill()
})

t.test(
  'lamina daemon restart hands a mount over, and back where the new program does not start',
  { skip },
  async t => {
    using it = kept('keeper-restart')
    const { mount } = it
    const open = fs.openSync(path.join(mount.mountpoint, 'dir', 'open'), 'w+')
    fs.unlinkSync(path.join(mount.mountpoint, 'dir', 'open'))
    const first = mount.pid
    t.match(lamina('daemon', 'restart', mount.mountpoint), `pid ${first} -> `)
    t.not(mount.pid, first)
    fs.writeSync(open, 'x')
    const second = mount.pid ?? 0
    // A program that ends at once.
    const { request } = await broken(it)
    t.match(request, 'ok')
    await until(
      'the old program is back',
      () => mount.pid !== undefined && mount.pid !== second && answers(mount),
    )
    fs.writeSync(open, 'y')
    t.equal(fs.fstatSync(open).size, 2)
    fs.closeSync(open)
  },
)

function answers(mount: Mount): boolean {
  try {
    return mount.stats().pid === mount.pid
  } catch {
    return false
  }
}

async function broken({ run, scratch }: Kept): Promise<{ request: string }> {
  const main = scratch.path('broken.js')
  fs.writeFileSync(main, 'process.exit(3)\n')
  const socket = fs.readdirSync(run).find(name => name.endsWith('.sock')) ?? ''
  const { connect } = await import('node:net')
  const client = connect(path.join(run, socket))
  client.write(`${JSON.stringify({ cmd: 'restart', program: process.execPath, main })}\n`)
  return new Promise((resolve, reject) => {
    client.once('data', data => {
      resolve({ request: data.toString() })
      client.destroy()
    })
    client.once('error', reject)
  })
}

t.test('a daemon that takes no requests is replaced', { skip }, async t => {
  using it = kept('keeper-hang', ['watchdog=2'])
  const { mount } = it
  const pid = kill(mount, 'SIGSTOP')
  const started = Date.now()
  // Another process: this one would wait as well.
  const listed = execFileSync('ls', [path.join(mount.mountpoint, 'dir', '..')], {
    encoding: 'utf8',
    timeout: 30_000,
  })
  t.match(listed, 'file')
  t.not(mount.pid, pid)
  t.ok(Date.now() - started < 20_000)
})

t.test('a daemon in an endless loop is replaced, and the log says where it was', { skip }, async t => {
  const hook = path.join(fs.mkdtempSync('/tmp/lamina-loop-'), 'loop.cjs')
  const log = path.join(path.dirname(hook), 'log')
  fs.writeFileSync(
    hook,
    `process.on('SIGUSR2', function once() {
      let n = 0
      function theLoopOfThisTest() { for (;;) n++ }
      theLoopOfThisTest()
    })`,
  )
  Object.assign(process.env, { NODE_OPTIONS: `--require ${hook}`, LAMINA_LOG: log })
  try {
    using it = kept('keeper-loop', ['watchdog=1'])
    delete process.env['NODE_OPTIONS']
    const { mount } = it
    const pid = kill(mount, 'SIGUSR2')
    const listed = execFileSync('ls', [mount.mountpoint], { encoding: 'utf8', timeout: 30_000 })
    t.match(listed, 'file')
    t.not(mount.pid, pid)
    const said = textOf(log)
    t.match(said, /has taken no request for \d+ s; the last one: opcode/)
    t.match(said, /thread \d+ \(.*\): system call running/)
    t.match(said, /where JavaScript is:\n.*theLoopOfThisTest.*loop\.cjs:3/)
  } finally {
    delete process.env['NODE_OPTIONS']
    delete process.env['LAMINA_LOG']
    fs.rmSync(path.dirname(hook), { recursive: true })
  }
})

t.test('a mount is handed over as often as one likes', { skip }, t => {
  using it = kept('keeper-restarts')
  const { mount } = it
  for (let i = 0; i < 6; i++) lamina('daemon', 'restart', mount.mountpoint)
  t.match(fs.readdirSync(mount.mountpoint), ['dir', 'file'])
  t.match((mount.stats() as { deaths?: unknown }).deaths, { count: 0 })
  t.end()
})

t.test(
  'a kernel that sends nothing again: what was in flight fails, the mount goes on',
  { skip },
  async t => {
    process.env['LAMINA_NO_RESEND'] = '1'
    using it = kept('keeper-no-resend')
    delete process.env['LAMINA_NO_RESEND']
    const { mount, scratch } = it
    fs.writeFileSync(scratch.path('lower0', 'big'), Buffer.alloc(256 << 20, 1))
    // The copy of so much takes long enough to die in it.
    const big = path.join(mount.mountpoint, 'big')
    const waiting = spawn('dd', ['if=/dev/zero', `of=${big}`, 'conv=notrunc', 'bs=1', 'count=1'], {
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    let said = ''
    waiting.stderr.on('data', (data: Buffer) => (said += data.toString()))
    const ended = new Promise<number | null>(resolve => waiting.once('close', resolve))
    await until('the copy is under way', () => copying(mount) || waiting.exitCode !== null)
    kill(mount)
    t.equal(await ended, 1)
    t.match(said, 'Input/output error')
    t.equal(fs.readFileSync(path.join(mount.mountpoint, 'file'), 'utf8'), 'below')
  },
)

/** Whether the daemon has a file open that has no name yet: one of more than the one block that it has open all the time. */
function copying(mount: Mount): boolean {
  const fds = `/proc/${mount.pid ?? 0}/fd`
  return fs.readdirSync(fds).some(fd => {
    try {
      const file = path.join(fds, fd)
      const nameless = /\/work\/.* \(deleted\)$/.test(fs.readlinkSync(file))
      return nameless && fs.statSync(file).size > 4096
    } catch {
      return false
    }
  })
}

t.test('watchdog_action=abort ends the mount instead', { skip }, async t => {
  using it = kept('keeper-abort', ['watchdog=1', 'watchdog_action=abort'])
  const { mount } = it
  const { keeper } = mount
  kill(mount, 'SIGSTOP')
  t.throws(() => execFileSync('ls', [path.join(mount.mountpoint, 'dir')], { stdio: 'pipe', timeout: 30_000 }))
  await until('the keeper has ended', () => !alive(keeper))
  mount.kill()
})

t.test('in the foreground, the mount ends with who started it', { skip }, async t => {
  using scratch = new Scratch('keeper-foreground', 60)
  process.env['LAMINA_RUN'] = scratch.mkdir('run')
  const mountpoint = scratch.mkdir('mnt')
  const starter = spawn(
    process.execPath,
    [
      path.join(PROJECT, 'bin/lamina.js'),
      'mount',
      '-f',
      '-o',
      `keeper=1,lowerdir=${scratch.mkdir('lower')}`,
      mountpoint,
    ],
    { stdio: 'ignore' },
  )
  const mounted = (): boolean => fs.readFileSync('/proc/self/mountinfo', 'utf8').includes(` ${mountpoint} `)
  await until('it is mounted', mounted)
  const served = fs
    .readdirSync('/proc')
    .filter(pid => /^[0-9]+$/.test(pid) && Number(pid) !== starter.pid)
    .filter(pid => textOf(`/proc/${pid}/cmdline`).includes(mountpoint))
    .map(Number)
  t.equal(served.length, 2, 'keeper and daemon')
  starter.kill('SIGKILL')
  await until('it is unmounted, and both have ended', () => !mounted() && !served.some(alive))
})

t.test('the limit of descriptors is the worst case: 1,024 of them serve any tree', { skip }, async t => {
  using it = kept('keeper-limit-fds')
  const { mount } = it
  const { pid } = mount
  execFileSync('prlimit', ['--pid', String(mount.keeper), '--nofile=1024:1024'])
  kill(mount)
  t.match(fs.readdirSync(mount.mountpoint), ['dir', 'file'])
  t.not(mount.pid, pid)
  t.match(fs.readFileSync(`/proc/${mount.pid}/limits`, 'utf8'), /Max open files +1024 +1024/)
  const dirs = Array.from({ length: 1500 }, (_, i) => path.join(mount.mountpoint, 'dir', `d${i}`))
  for (const dir of dirs) {
    fs.mkdirSync(dir)
    fs.writeFileSync(path.join(dir, 'f'), dir)
  }
  const open = dirs.slice(0, 200).map(dir => fs.openSync(path.join(dir, 'f'), 'r+'))
  for (const dir of dirs.slice(0, 200)) fs.unlinkSync(path.join(dir, 'f'))
  kill(mount)
  t.strictSame(
    open.map(fd => fs.readFileSync(fd, 'utf8')),
    dirs.slice(0, 200),
    'files without a name',
  )
  for (const fd of open) fs.closeSync(fd)
  for (const dir of dirs.slice(200)) if (fs.readFileSync(path.join(dir, 'f'), 'utf8') !== dir) t.fail(dir)
})

t.test('no further thread or process can be started: the mount goes on, slower', { skip }, async t => {
  const parent = ['/sys/fs/cgroup/pids', '/sys/fs/cgroup'].find(each =>
    fs.existsSync(path.join(each, 'cgroup.procs')),
  )
  const group = path.join(parent ?? '/nonexistent', `lamina-test-${process.pid}`)
  try {
    fs.mkdirSync(group)
  } catch {
    t.pass('a limit of processes', { skip: 'no cgroup for it' })
    return
  }
  try {
    using it = kept('keeper-threads')
    const { mount, scratch } = it
    if (!fs.existsSync(path.join(group, 'pids.max'))) {
      t.pass('a limit of processes', { skip: 'no cgroup for it' })
      return
    }
    for (let i = 0; i < 40; i++)
      fs.writeFileSync(scratch.path('lower0', `big-${i}`), Buffer.alloc(1 << 20, i))
    const pid = mount.pid ?? 0
    fs.writeFileSync(path.join(group, 'cgroup.procs'), String(pid))
    fs.writeFileSync(path.join(group, 'pids.max'), '1')
    // Copy-ups, fsync and reads of what is not cached are for threads.
    for (let i = 0; i < 40; i++) {
      const file = path.join(mount.mountpoint, `big-${i}`)
      const fd = fs.openSync(file, 'r+')
      fs.writeSync(fd, 'changed', 0)
      fs.fsyncSync(fd)
      fs.closeSync(fd)
      const found = fs.readFileSync(file)
      if (found.length !== 1 << 20 || found.toString('latin1', 0, 7) !== 'changed' || found[9] !== i)
        t.fail(`${file} is another`)
    }
    t.equal(mount.pid, pid, 'the same daemon')
    t.same((mount.stats() as { faults: number }).faults, 0)
    fs.writeFileSync(path.join(group, 'pids.max'), 'max')
    fs.writeFileSync(path.join(parent ?? '', 'cgroup.procs'), String(pid))
  } finally {
    fs.rmdirSync(group)
  }
})
