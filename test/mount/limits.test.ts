import { execFileSync, spawn } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { Scratch, unavailable, type Mount } from './fixture.js'

/** Limits of the kernel's and of the process: reaching one is slower, or an errno, and never the daemon's end that anybody notices. */

const skip = unavailable('lamina') ?? false

interface Limited extends Disposable {
  mount: Mount
  scratch: Scratch
  at: (...names: string[]) => string
}

function limited(name: string): Limited {
  const scratch = new Scratch(name, 80)
  process.env['LAMINA_RUN'] = scratch.mkdir('run')
  const lower = scratch.mkdir('lower0')
  for (let i = 0; i < 20; i++) {
    const dir = path.join(lower, `d${i}`)
    fs.mkdirSync(dir)
    for (let j = 0; j < 50; j++) fs.writeFileSync(path.join(dir, `f${j}`), `${i}/${j}`)
    fs.writeFileSync(path.join(dir, 'big'), Buffer.alloc(1 << 20, i))
  }
  const mount = scratch.overlay('lamina', 1, ['keeper=1'])
  return {
    mount,
    scratch,
    at: (...names) => path.join(mount.mountpoint, ...names),
    [Symbol.dispose]: () => scratch[Symbol.dispose](),
  }
}

function finished(command: string, ...args: string[]): Promise<{ code: number | null; said: string }> {
  const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  child.stderr.on('data', (data: Buffer) => (said += data.toString()))
  return new Promise(resolve => child.once('close', code => resolve({ code, said })))
}

/** Twenty at once: each reads all of one directory, changes a file of it, and makes new ones. */
async function work({ at }: Limited): Promise<{ code: number | null; said: string }[]> {
  const script =
    'set -e; cd "$0"; cat * > /dev/null; echo x >> big; for i in 1 2 3 4 5; do cp f$i n$i; done; sync -f big; rm n1'
  return Promise.all(Array.from({ length: 20 }, (_, i) => finished('sh', '-c', script, at(`d${i}`))))
}

function check(t: { fail: (what: string) => unknown }, { at }: Limited): void {
  for (let i = 0; i < 20; i++) {
    const big = fs.readFileSync(at(`d${i}`, 'big'))
    if (big.length !== (1 << 20) + 2 || big[9] !== i || big.at(-2) !== 120) t.fail(`d${i}/big`)
    if (fs.readFileSync(at(`d${i}`, 'n2'), 'utf8') !== `${i}/2`) t.fail(`d${i}/n2`)
    if (fs.existsSync(at(`d${i}`, 'n1'))) t.fail(`d${i}/n1`)
  }
}

t.test('requests in flight: one in the background at a time', { skip }, async t => {
  using it = limited('limits-background')
  const [device] = fs
    .readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter(line => line.includes(` ${it.mount.mountpoint} `))
    .map(line => line.split(' ')[2]?.split(':')[1])
  const control = it.scratch.mkdir('control')
  execFileSync('mount', ['-t', 'fusectl', 'none', control])
  const connection = path.join(control, device ?? '')
  for (const file of ['congestion_threshold', 'max_background'])
    fs.writeFileSync(path.join(connection, file), '1')
  t.equal(fs.readFileSync(path.join(connection, 'max_background'), 'utf8'), '1\n')
  execFileSync('umount', [control])
  const { pid } = it.mount
  t.strictSame(
    (await work(it)).filter(({ code }) => code !== 0),
    [],
  )
  check(t, it)
  t.equal(it.mount.pid, pid)
})

t.test('inotify: watches of the mount run out', { skip }, t => {
  using it = limited('limits-inotify')
  const { pid } = it.mount
  const program = `
    const fs = require('node:fs'); const errors = []
    for (let i = 0; i < 20; i++) try { fs.watch(process.argv[1] + '/d' + i) } catch (error) { errors.push(error.code) }
    console.log(errors.length, new Set(errors)); process.exit()`
  const shell = 'echo 5 > /proc/sys/user/max_inotify_watches && exec "$0" -e "$1" "$2"'
  const said = execFileSync(
    'unshare',
    ['-r', 'sh', '-c', shell, process.execPath, program, it.mount.mountpoint],
    { encoding: 'utf8' },
  )
  t.match(said, /^1\d Set\(1\) { 'ENOSPC' }/)
  t.equal(fs.readFileSync(it.at('d1', 'f1'), 'utf8'), '1/1')
  t.equal(it.mount.pid, pid)
  t.end()
})

t.test('address space: what the daemon cannot have is ENOMEM, or another daemon', { skip }, async t => {
  using it = limited('limits-address')
  const size = /VmSize:\s+(\d+) kB/.exec(fs.readFileSync(`/proc/${it.mount.pid}/status`, 'utf8'))?.[1]
  const most = String((Number(size) + 1024) * 1024)
  execFileSync('prlimit', ['--pid', String(it.mount.pid), `--as=${most}:`])
  const done = await work(it)
  for (const { code, said } of done) if (code !== 0) t.match(said, 'Cannot allocate memory')
  execFileSync('prlimit', ['--pid', String(it.mount.pid), '--as=unlimited:'])
  // Whoever was refused tries again.
  for (const [i, { code }] of done.entries()) {
    if (code === 0) continue
    const again =
      'cd "$0"; for i in 1 2 3 4 5; do cp f$i n$i; done; rm n1; truncate -s 1048576 big; echo x >> big'
    t.match(await finished('sh', '-c', again, it.at(`d${i}`)), { code: 0 })
  }
  check(t, it)
})

t.test('memory of a small control group', { skip }, async t => {
  using it = limited('limits-memory')
  const parent = '/sys/fs/cgroup'
  const group = ['memory', '']
    .map(name => path.join(parent, name))
    .find(each => fs.existsSync(path.join(each, 'cgroup.procs')))
  const own = path.join(group ?? '/nonexistent', `lamina-limits-${process.pid}`)
  try {
    fs.mkdirSync(own)
  } catch {
    t.pass('a limit of memory', { skip: 'no cgroup for it' })
    return
  }
  try {
    const limit = ['memory.max', 'memory.limit_in_bytes'].find(file => fs.existsSync(path.join(own, file)))
    if (limit === undefined) {
      t.pass('a limit of memory', { skip: 'no memory controller' })
      return
    }
    fs.writeFileSync(path.join(own, limit), String(6 << 20))
    fs.writeFileSync(path.join(own, 'cgroup.procs'), String(it.mount.pid))
    t.strictSame(
      (await work(it)).filter(({ code }) => code !== 0),
      [],
      'nobody notices',
    )
    check(t, it)
  } finally {
    for (const pid of fs.readFileSync(path.join(own, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean))
      fs.writeFileSync(path.join(group ?? '', 'cgroup.procs'), pid)
    fs.rmdirSync(own)
  }
})
