/**
 * The protocol against the real kernel: a MemoryFs in a child process (a daemon never touches its own mount), mounted on a
 * directory of its own. Needs root and /dev/fuse.
 */
import { type ChildProcess, fork, spawn, spawnSync } from 'node:child_process'
import * as fs from 'node:fs'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { SysError } from '../../src/base/sys-error.js'
import {
  type ConnectionState,
  FOPEN,
  type InitParameters,
  type SessionCounters,
} from '../../src/fuse/index.js'
import * as sys from '../../src/sys/index.js'
import type { MemoryOptions } from './fuse-memory-fs.js'
import type { Order } from './fuse-mount-child.js'

const skip =
  process.getuid?.() !== 0 ? 'needs root' : fs.existsSync('/dev/fuse') ? false : 'no /dev/fuse here'

/** Other users' identifiers, and what CAP_SYS_ADMIN of the initial namespace allows. */
const skipInNamespace =
  skip ||
  (/^\s*0\s+0\s+4294967295$/m.test(fs.readFileSync('/proc/self/uid_map', 'latin1'))
    ? false
    : 'needs the initial user namespace')

const CHILD = fileURLToPath(new URL('fuse-mount-child.js', import.meta.url))
/** A daemon that does not answer in this time (milliseconds) has its connection aborted, so that nothing hangs. */
const PATIENCE = 20_000

class Mount {
  /** What INIT agreed on. */
  flags: readonly string[] = []

  private constructor(
    readonly path: string,
    private readonly child: ChildProcess,
  ) {}

  /** A daemon that is to serve `path`. */
  static over(t: Tap, path: string, child: ChildProcess): Mount {
    const mount = new Mount(path, child)
    t.teardown(() => mount.cleanUp())
    return mount
  }

  static async make(
    t: Tap,
    options: Partial<MemoryOptions> = {},
    init: Partial<InitParameters> = {},
    count = 0,
  ): Promise<Mount> {
    const path = fs.mkdtempSync(join(tmpdir(), 'lamina-fuse-test-'))
    const child = fork(CHILD, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    const mount = Mount.over(t, path, child)
    const files = { prefix: 'f', count, content: 'hello world' }
    const order = { target: path, options: { directory: tmpdir(), ...options }, init, files }
    const { connection } = await mount.order({ mount: order })
    mount.flags = (connection as ConnectionState).flags
    return mount
  }

  async order(order: Order): Promise<Record<string, unknown>> {
    const { child } = this
    const timer = setTimeout(() => this.abort(), PATIENCE)
    const answer = await new Promise<Record<string, unknown>>(resolve => {
      const ended = (code: number | null) => {
        child.off('message', answered)
        resolve({ error: `the daemon ended: ${code}` })
      }
      const answered = (message: Record<string, unknown>) => {
        child.off('exit', ended)
        resolve(message)
      }
      child.once('message', answered)
      child.once('exit', ended)
      child.send(order)
    })
    clearTimeout(timer)
    if (answer['error'] !== undefined) throw new Error(String(answer['error']))
    return answer
  }

  async counters(): Promise<SessionCounters> {
    return (await this.order({ counters: true }))['counters'] as SessionCounters
  }

  /** Requests since `before`, by name. */
  async since(before: SessionCounters): Promise<Record<string, number>> {
    const { requests } = await this.counters()
    const more: Record<string, number> = {}
    for (const [name, count] of Object.entries(requests)) {
      const difference = count - (before.requests[name] ?? 0)
      if (difference > 0) more[name] = difference
    }
    return more
  }

  private get mounted(): boolean {
    const mounts = fs.readFileSync('/proc/self/mountinfo', 'latin1').split('\n')
    return mounts.some(line => line.split(' ')[4] === this.path)
  }

  /** Ends the connection; unmounts too unless somebody has something open there. */
  abort(): void {
    try {
      if (this.mounted) sys.umount2(this.path, sys.MNT_FORCE)
    } catch (error) {
      if (!(error instanceof SysError) || error.code !== 'EBUSY') throw error
    }
  }

  in(name: string): string {
    return join(this.path, name)
  }

  async unmount(): Promise<Record<string, unknown>> {
    return await this.order({ unmount: this.path })
  }

  /** Ends the daemon as a crash would; the connection lives while somebody holds the device. */
  async kill(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return
    const exit = once(this.child, 'exit')
    this.child.kill('SIGKILL')
    await exit
  }

  private async cleanUp(): Promise<void> {
    this.abort()
    await this.kill()
    if (this.mounted) sys.umount2(this.path, sys.MNT_DETACH)
    if (fs.existsSync(this.path)) fs.rmdirSync(this.path)
  }
}

/** What make() needs of a test. */
interface Tap {
  teardown(task: () => Promise<void>): void
}

t.test('a mounted filesystem, from the first lookup to the unmount', { skip }, async t => {
  const mount = await Mount.make(t, {}, {}, 100)
  const { path } = mount
  t.equal(fs.readFileSync(mount.in('f7'), 'latin1'), 'hello world')
  t.equal(fs.readdirSync(path).length, 100)
  t.throws(() => fs.statSync(mount.in('missing')), { code: 'ENOENT' })

  fs.writeFileSync(mount.in('new'), 'written')
  t.equal(fs.readFileSync(mount.in('new'), 'latin1'), 'written')
  fs.appendFileSync(mount.in('new'), ' more')
  t.equal(fs.statSync(mount.in('new')).size, 12)
  fs.truncateSync(mount.in('new'), 3)
  t.equal(fs.readFileSync(mount.in('new'), 'latin1'), 'wri')

  fs.mkdirSync(mount.in('dir'), 0o751)
  t.equal(fs.statSync(mount.in('dir')).mode, 0o40751)
  fs.renameSync(mount.in('new'), mount.in('dir/renamed'))
  fs.linkSync(mount.in('dir/renamed'), mount.in('hard'))
  t.equal(fs.statSync(mount.in('hard')).ino, fs.statSync(mount.in('dir/renamed')).ino)
  fs.symlinkSync('dir/renamed', mount.in('soft'))
  t.equal(fs.readFileSync(mount.in('soft'), 'latin1'), 'wri')
  fs.unlinkSync(mount.in('dir/renamed'))
  t.throws(() => fs.rmdirSync(mount.in('missing')), { code: 'ENOENT' })
  fs.rmdirSync(mount.in('dir'))

  const strange = Buffer.concat([Buffer.from(`${path}/`), Buffer.from([0xff, 0xfe, 0x0a])])
  fs.writeFileSync(strange, '')
  t.ok(fs.readdirSync(path, 'buffer').some(name => name.equals(Buffer.from([0xff, 0xfe, 0x0a]))))
  fs.writeFileSync(mount.in('n'.repeat(255)), '')
  t.throws(() => fs.writeFileSync(mount.in('n'.repeat(256)), ''), { code: 'ENAMETOOLONG' })

  // Not utimesSync: Node.js takes a negative time for now.
  sys.utimensAt(sys.AT_FDCWD, mount.in('hard'), 1000, 0, -6, 750_000_000)
  t.equal(fs.statSync(mount.in('hard')).mtimeMs, -5250)
  t.equal(
    fs.statSync(mount.in('f1'), { bigint: true }).birthtimeNs % 1000n,
    7n,
    'STATX brings the birth time',
  )
  t.equal(fs.statfsSync(path).blocks, 1000)

  sys.setxattrAt(sys.AT_FDCWD, mount.in('hard'), 'user.a', Buffer.from([0, 255]))
  t.strictSame(sys.getxattrAt(sys.AT_FDCWD, mount.in('hard'), 'user.a'), Buffer.from([0, 255]))
  t.strictSame(sys.listxattrAt(sys.AT_FDCWD, mount.in('hard')), ['user.a'])
  t.equal(sys.getxattrAt(sys.AT_FDCWD, mount.in('hard'), 'user.b'), undefined)

  const fd = fs.openSync(mount.in('hard'), 'r+')
  fs.unlinkSync(mount.in('hard'))
  fs.writeSync(fd, 'unlinked', 0)
  fs.fsyncSync(fd)
  t.equal(fs.readFileSync(`/proc/self/fd/${fd}`, 'latin1'), 'unlinked')
  fs.closeSync(fd)

  const { faults, dropped, undelivered } = await mount.counters()
  t.strictSame({ faults, dropped, undelivered }, { faults: 0, dropped: 0, undelivered: 0 })
  t.strictSame(await mount.unmount(), {
    ended: { reason: 'unmounted', errno: 19 },
    destroyed: 1,
    leaked: 0,
  })
})

t.test('what the kernel has seen once is not asked again', { skip }, async t => {
  const mount = await Mount.make(t, {}, {}, 500)
  const buffer = Buffer.alloc(100)
  const visit = () => {
    for (const name of fs.readdirSync(mount.path)) {
      const fd = fs.openSync(mount.in(name), 'r')
      fs.readSync(fd, buffer)
      fs.closeSync(fd)
      fs.lstatSync(mount.in(name))
    }
    t.throws(() => fs.statSync(mount.in('missing')), { code: 'ENOENT' })
  }
  visit()
  // After a READDIR the kernel takes the directory's atime for stale, and the next fstat (opendir(3) does one) asks.
  visit()
  const first = await mount.counters()
  const reads = first.requests['READ'] ?? 0
  // The machine may take a page back at any time; it is then read again.
  const again = 3
  t.ok(reads >= 500 && reads <= 500 + again, `${reads} READs`)
  t.equal(first.requests['OPEN'], 1, 'answered ENOSYS once')
  t.equal(first.dataPlane.readsInline + first.dataPlane.readsThreaded, reads)
  visit()
  const { READ, ...others } = await mount.since(first)
  t.ok((READ ?? 0) <= again, `${READ ?? 0} READs`)
  t.strictSame(others, {})
})

t.test('a changed name or attribute is asked for again after an invalidation', { skip }, async t => {
  const mount = await Mount.make(t, {}, {}, 3)
  fs.statSync(mount.in('f1'))
  const before = await mount.counters()
  fs.statSync(mount.in('f1'))
  t.strictSame(await mount.since(before), {})
  await mount.order({ invalidate: { parent: 1, name: 'f1', nodeid: 3 } })
  // The kernel takes it from a thread of the daemon's: ask until it did.
  for (;;) {
    fs.statSync(mount.in('f1'))
    const { LOOKUP } = await mount.since(before)
    if (LOOKUP === 1) break
  }
  t.pass('looked up once more')
})

t.test(
  'invalidations of a directory that others change do not deadlock',
  { skip, timeout: 60_000 },
  async t => {
    const mount = await Mount.make(t, {}, {}, 3)
    const script = `for i in $(seq 300); do : > ${mount.in('x')}$i; mkdir ${mount.in('d')}$i; ls -l ${mount.path} > /dev/null; done`
    const shells = [1, 2].map(n =>
      spawn('sh', ['-c', script.replaceAll('/x', `/x${n}-`).replaceAll('/d', `/d${n}-`)]),
    )
    const done = Promise.all(shells.map(shell => once(shell, 'exit')))
    let busy = true
    const all = done.then(() => {
      busy = false
    })
    let sent = 0
    while (busy) {
      await mount.order({ invalidate: { parent: 1, name: `x1-${sent++ % 300}`, nodeid: 1 } })
    }
    await all
    t.ok(sent > 5, `${sent} invalidations`)
    t.equal(fs.readdirSync(mount.path).length, 3 + 2 * 600)
  },
)

t.test('data: large and small, direct, in order', { skip, timeout: 60_000 }, async t => {
  const mount = await Mount.make(t, { zeroOpen: false, openFlags: FOPEN.DIRECT_IO })
  const size = 9 * 1024 * 1024 + 12345
  const data = Buffer.alloc(size)
  for (let i = 0; i < size; i += 4096) data.writeUInt32LE(i, Math.min(i, size - 4))
  fs.writeFileSync(mount.in('big'), data)
  t.equal(fs.statSync(mount.in('big')).size, size)
  t.ok(fs.readFileSync(mount.in('big')).equals(data))
  const { dataPlane } = await mount.counters()
  const writes = dataPlane.writesInline + dataPlane.writesThreaded
  t.ok(writes >= 18 && writes <= 20, `${writes} writes of up to half a megabyte`)
  t.ok(dataPlane.bytesWritten === size && dataPlane.bytesRead >= size)

  // Small writes behind large ones of the same file: each must find what the one before it wrote.
  const fd = fs.openSync(mount.in('order'), 'w+')
  const large = Buffer.alloc(1024 * 1024)
  for (let round = 0; round < 20; round++) {
    large.fill(round)
    fs.writeSync(fd, large, 0, large.length, 0)
    fs.writeSync(fd, Buffer.from([200 + round]), 0, 1, 5)
    const got = Buffer.alloc(7)
    fs.readSync(fd, got, 0, 7, 4)
    t.strictSame([...got], [round, 200 + round, round, round, round, round, round])
  }
  fs.closeSync(fd)
  t.equal(
    fs.readSync(fs.openSync(mount.in('order'), 'r'), Buffer.alloc(10), 0, 10, 1024 * 1024),
    0,
    'the end',
  )
})

t.test('the writeback cache: what was written is there after a remount of the cache', { skip }, async t => {
  const mount = await Mount.make(t, {}, { writebackCache: true })
  const data = Buffer.alloc(3 * 1024 * 1024 + 77)
  for (let i = 0; i < data.length; i++) data[i] = (i * 7) & 255
  const fd = fs.openSync(mount.in('file'), 'w+')
  for (let at = 0; at < data.length; at += 1000)
    fs.writeSync(fd, data, at, Math.min(1000, data.length - at), at)
  fs.fsyncSync(fd)
  fs.closeSync(fd)
  await mount.order({ invalidate: { parent: 1, name: 'file', nodeid: 2 } })
  t.ok(fs.readFileSync(mount.in('file')).equals(data))
  const { requests, dataPlane } = await mount.counters()
  t.ok(
    (requests['WRITE'] ?? 0) < 200,
    `${requests['WRITE']} WRITEs for ${Math.ceil(data.length / 1000)} writes`,
  )
  t.equal(dataPlane.bytesWritten >= data.length, true)
})

t.test('a request that must wait does not hold up the others', { skip }, async t => {
  const mount = await Mount.make(t, { prepareDelay: 500 }, {}, 10)
  const reader = spawn('cat', [mount.in('f1')], { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  reader.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()))
  const exit = once(reader, 'exit')
  while ((await mount.counters()).pending === 0) await new Promise(resolve => setImmediate(resolve))
  const begin = Date.now()
  t.equal(fs.readdirSync(mount.path).length, 10)
  t.ok(Date.now() - begin < 400, 'listed meanwhile')
  t.equal((await mount.counters()).pending, 1)
  await exit
  t.equal(text, 'hello world')
  t.equal((await mount.counters()).waits['READ'], 1)
})

t.test(
  'a write of somebody without CAP_FSETID clears setuid and setgid',
  { skip: skipInNamespace },
  async t => {
    const mount = await Mount.make(t, { timeout: 0 }, {}, 1)
    fs.chmodSync(mount.path, 0o777)
    fs.writeFileSync(mount.in('suid'), 'x')
    const modeAfter = (mode: number): string => {
      fs.chownSync(mount.in('suid'), 0, 0)
      fs.chmodSync(mount.in('suid'), mode)
      const write = spawnSync('sh', ['-c', `printf y >> ${mount.in('suid')}`], { uid: 65534, gid: 65534 })
      t.equal(write.status, 0, write.stderr.toString())
      return '0' + fs.statSync(mount.in('suid')).mode.toString(8)
    }
    t.equal(modeAfter(0o6777), '0100777')
    t.equal(modeAfter(0o4766), '0100766')
    t.equal(
      modeAfter(0o2766),
      '0100766',
      'setgid without group execution as well, of who is not in the group',
    )
    fs.chmodSync(mount.in('suid'), 0o6777)
    fs.appendFileSync(mount.in('suid'), 'root')
    t.equal(fs.statSync(mount.in('suid')).mode, 0o106777)
  },
)

t.test('umount -f of a busy mount ends the session', { skip }, async t => {
  const mount = await Mount.make(t, {}, {}, 1)
  const busy = fs.openSync(mount.path, 'r')
  mount.abort()
  t.throws(() => fs.readdirSync(mount.path), { code: 'ENOTCONN' })
  fs.closeSync(busy)
  const end = await mount.unmount()
  t.strictSame((end['ended'] as { reason: string }).reason, 'unmounted')
  t.equal(end['leaked'], 0)
})

t.test('hundreds of callers at once', { skip, timeout: 60_000 }, async t => {
  const mount = await Mount.make(t, { timeout: 0 }, {}, 50)
  const work = Array.from({ length: 400 }, async (_, i) => {
    const name = mount.in(`w${i}`)
    await fs.promises.writeFile(name, Buffer.alloc(i * 100, i))
    const back = await fs.promises.readFile(name)
    if (back.length !== i * 100 || back.some(byte => byte !== (i & 255))) throw new Error(`w${i} differs`)
    await fs.promises.stat(mount.in(`f${i % 50}`))
  })
  await Promise.all(work)
  t.equal(fs.readdirSync(mount.path).length, 450)
  const { faults, undelivered, pending } = await mount.counters()
  t.strictSame({ faults, undelivered, pending }, { faults: 0, undelivered: 0, pending: 0 })
})

t.test('passthrough: the kernel reads and writes the file itself', { skip: skipInNamespace }, async t => {
  const mount = await Mount.make(t, { zeroOpen: false, passthrough: true }, { passthrough: true })
  if (!mount.flags.includes('PASSTHROUGH')) {
    t.comment('this kernel has no passthrough (Linux 6.9): nothing to test')
    return
  }
  fs.writeFileSync(mount.in('file'), 'written')
  fs.appendFileSync(mount.in('file'), ' and more')
  t.equal(fs.readFileSync(mount.in('file'), 'latin1'), 'written and more')
  t.equal(fs.statSync(mount.in('file')).size, 16, 'attributes are asked for again')
  const { requests } = await mount.counters()
  t.equal(requests['READ'], undefined)
  t.equal(requests['WRITE'], undefined)
  t.equal((await mount.unmount())['leaked'], 0)
})

t.test('a new daemon answers what a killed one left unanswered', { skip }, async t => {
  const path = fs.mkdtempSync(join(tmpdir(), 'lamina-fuse-test-'))
  // This process keeps the connection alive; it never reads it.
  const device = fs.openSync('/dev/fuse', 'r+')
  const daemon = () => fork(CHILD, { stdio: ['ignore', 'inherit', 'inherit', 'ipc', device] })
  const first = Mount.over(t, path, daemon())
  const files = { prefix: 'f', count: 3, content: 'survived' }
  const options = { directory: tmpdir(), prepareDelay: 3_600_000 }
  const { connection } = await first.order({ mount: { target: path, device: 4, options, init: {}, files } })
  const reader = spawn('cat', [join(path, 'f1')], { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  reader.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()))
  const exit = once(reader, 'exit')
  while ((await first.counters()).pending === 0) await new Promise(resolve => setImmediate(resolve))
  await first.kill()

  const second = Mount.over(t, path, daemon())
  await second.order({
    takeOver: {
      target: path,
      device: 4,
      options: { directory: tmpdir() },
      init: {},
      files,
      connection: connection as ConnectionState,
    },
  })
  const [code] = (await exit) as [number]
  t.equal(code, 0)
  t.equal(text, 'survived')
  t.equal(fs.readFileSync(join(path, 'f2'), 'latin1'), 'survived', 'and goes on')
  fs.closeSync(device)
})
