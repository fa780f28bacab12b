import { execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import t from 'tap'
import { lamina, PROJECT, runAsNobody, Scratch, umount, unavailable } from './fixture.js'

const skip = unavailable('lamina') ?? false
const LAMINA = path.join(PROJECT, 'bin/lamina.js')
const DROP_IN = path.join(PROJECT, 'bin/fuse-lamina.js')

interface Listed {
  mountpoint: string
  pid: number
  io: string
  readOnly: boolean
  source: string
  upper?: string
  lower: { path: string; pathBase64?: string }[]
}

function listed(mountpoint: string): Listed | undefined {
  const all = JSON.parse(lamina('mounts', '--format', 'json')) as Listed[]
  return all.find(mount => mount.mountpoint === mountpoint)
}

function mountLine(mountpoint: string): string | undefined {
  return fs
    .readFileSync('/proc/mounts', 'utf8')
    .split('\n')
    .find(line => line.split(' ')[1] === mountpoint)
}

/** Waits for the end of a process that need not be a child; a zombie has ended. */
async function ended(pid: number): Promise<void> {
  const state = (): string | undefined => {
    try {
      return /^State:\s+(\S)/m.exec(fs.readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
    } catch {
      return undefined
    }
  }
  for (let now = state(); now !== undefined && now !== 'Z'; now = state()) {
    await new Promise(resolve => setTimeout(resolve, 2))
  }
}

/** A process that keeps `directory` busy, by its working directory. */
async function user(directory: string): Promise<ChildProcess> {
  const child = spawn('sh', ['-c', 'echo here; exec cat'], {
    cwd: directory,
    stdio: ['pipe', 'pipe', 'ignore'],
  })
  await once(child.stdout, 'data')
  return child
}

async function leave(child: ChildProcess): Promise<void> {
  child.kill('SIGKILL')
  await once(child, 'close')
}

t.test(
  'a mount is there when the command returns, and gone with its daemon when umount returns',
  { skip },
  async t => {
    using scratch = new Scratch('cli-mount')
    const [lower, upper, work, mnt] = ['lower', 'upper', 'work', 'mnt'].map(name => scratch.mkdir(name)) as [
      string,
      string,
      string,
      string,
    ]
    fs.writeFileSync(path.join(lower, 'a'), 'below')
    lamina('mount', '--lower', lower, '--upper', upper, '--work', work, '--name', 'thing', mnt)
    t.equal(fs.readFileSync(path.join(mnt, 'a'), 'utf8'), 'below')
    t.match(mountLine(mnt), /^thing \S+ fuse\.lamina rw,nodev,noatime,/)
    const mount = listed(mnt)
    t.match(mount, { mountpoint: mnt, upper, readOnly: false, source: 'thing', lower: [{ path: lower }] })
    t.match(mount?.io, /^(cached|passthrough)$/)
    t.match(lamina('mounts'), new RegExp(`${mnt} +${upper} +${lower} +${mount?.pid} +`))
    t.ok(fs.existsSync(`/proc/${mount?.pid}`))
    lamina('umount', mnt)
    t.equal(mountLine(mnt), undefined)
    t.notOk(fs.existsSync(`/proc/${mount?.pid}/fd/0`))
    t.equal(listed(mnt), undefined)
  },
)

t.test('without an upper layer the mount is read-only', { skip }, async t => {
  using scratch = new Scratch('cli-read-only')
  const [lower, mnt] = [scratch.mkdir('lower'), scratch.mkdir('mnt')]
  lamina('mount', '-o', `lowerdir=${lower}`, mnt)
  t.match(mountLine(mnt), /^lamina \S+ fuse\.lamina ro,/)
  t.throws(() => fs.writeFileSync(path.join(mnt, 'x'), ''), { code: 'EROFS' })
  t.match(listed(mnt), { readOnly: true })
  t.throws(() => lamina('diff', mnt), /without an upperdir/)
  lamina('umount', mnt)
})

t.test(
  'umount of a busy mount says so; --lazy detaches it and the daemon ends with the last user',
  { skip },
  async t => {
    using scratch = new Scratch('cli-busy')
    const [lower, mnt] = [scratch.mkdir('lower'), scratch.mkdir('mnt')]
    lamina('mount', '--lower', lower, mnt)
    const pid = listed(mnt)?.pid ?? 0
    const busy = await user(mnt)
    t.throws(() => lamina('umount', mnt), /is busy: .*--lazy/)
    t.ok(mountLine(mnt))
    lamina('umount', '--lazy', mnt)
    t.equal(mountLine(mnt), undefined)
    t.ok(fs.existsSync(`/proc/${pid}/fd/0`), 'the user still has it')
    await leave(busy)
    await ended(pid)
    t.equal(listed(mnt), undefined)
  },
)

t.test('umount --force ends a mount under its users', { skip }, async t => {
  using scratch = new Scratch('cli-force')
  const [lower, mnt] = [scratch.mkdir('lower'), scratch.mkdir('mnt')]
  lamina('mount', '--lower', lower, mnt)
  const pid = listed(mnt)?.pid ?? 0
  const busy = await user(mnt)
  lamina('umount', '--force', mnt)
  t.equal(mountLine(mnt), undefined)
  await ended(pid)
  await leave(busy)
})

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  t.test(`${signal} to the daemon unmounts`, { skip }, async t => {
    using scratch = new Scratch('cli-signal')
    const mount = scratch.overlay('lamina')
    const pid = mount.pid ?? 0
    fs.writeFileSync(path.join(mount.mountpoint, 'x'), 'kept')
    process.kill(pid, signal)
    await ended(pid)
    t.equal(mountLine(mount.mountpoint), undefined)
    t.equal(fs.readFileSync(path.join(mount.request.upper ?? '', 'x'), 'utf8'), 'kept')
    scratch.mounts.pop() // gone already
  })
}

t.test('an umount by anybody ends the daemon', { skip }, async t => {
  using scratch = new Scratch('cli-umount-8')
  const [lower, mnt] = [scratch.mkdir('lower'), scratch.mkdir('mnt')]
  lamina('mount', '--lower', lower, mnt)
  const pid = listed(mnt)?.pid ?? 0
  umount(mnt)
  await ended(pid)
  t.equal(listed(mnt), undefined, 'and its record is gone')
})

t.test('--foreground stays until a signal, and ends the mount when it is killed', { skip }, async t => {
  using scratch = new Scratch('cli-foreground')
  const [lower, mnt] = [scratch.mkdir('lower'), scratch.mkdir('mnt')]
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGKILL'] as const) {
    const child = spawn(process.execPath, [LAMINA, 'mount', '--foreground', '--lower', lower, mnt], {
      stdio: 'ignore',
      detached: true,
    })
    while (listed(mnt) === undefined) t.equal(child.exitCode, null)
    const pid = listed(mnt)?.pid ?? 0
    child.kill(signal)
    const [code] = (await once(child, 'close')) as [number | null]
    t.equal(code, signal === 'SIGKILL' ? null : 0, signal)
    await ended(pid)
    t.equal(mountLine(mnt), undefined, `unmounted after ${signal}`)
  }
})

t.test('the drop-in lets go of standard input, output and error before it exits', { skip }, async t => {
  using scratch = new Scratch('drop-in-detach')
  const [lower, mnt] = [scratch.mkdir('lower'), scratch.mkdir('mnt')]
  const child = spawn(process.execPath, [DROP_IN, '-o', `lowerdir=${lower},,`, mnt], {
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  const closed = once(child, 'close')
  const [code] = (await once(child, 'exit')) as [number]
  t.equal(code, 0)
  t.match(mountLine(mnt), /^fuse-lamina \S+ fuse\.fuse-lamina ro,nodev,noatime,/)
  // End of file comes from the daemon having closed them too, not from its end.
  await closed
  const pid = listed(mnt)?.pid ?? 0
  for (const fd of [0, 1, 2]) t.equal(fs.readlinkSync(`/proc/${pid}/fd/${fd}`), '/dev/null')
  t.equal(fs.readlinkSync(`/proc/${pid}/cwd`), '/')
  lamina('umount', mnt)
})

t.test(
  'the drop-in takes relative layers from its working directory, -oX and a source argument',
  { skip },
  async t => {
    using scratch = new Scratch('drop-in-argv')
    scratch.mkdir('l/A')
    fs.writeFileSync(scratch.path('l/A/from-a'), '')
    scratch.mkdir('l/B:C')
    fs.writeFileSync(scratch.path('l/B:C/from-b'), '')
    for (const name of ['diff', 'work', 'merged']) scratch.mkdir(name)
    const argv = [
      [
        'overlay',
        'merged',
        '-o',
        'lowerdir=l/A:l/B\\:C,upperdir=diff',
        '-o',
        'workdir=work,private,volatile',
      ],
      ['-olowerdir=l/A:l/B\\:C,upperdir=diff,workdir=work,fsname=src,subtype=sub', 'merged'],
      ['-o', 'lowerdir=l/A:l/B\\:C,upperdir=diff,workdir=work,', '--', 'merged'],
    ]
    for (const args of argv) {
      const done = spawnSync(process.execPath, [DROP_IN, ...args], { cwd: scratch.root, encoding: 'utf8' })
      t.equal(done.stderr, '')
      t.equal(done.status, 0)
      t.strictSame(fs.readdirSync(scratch.path('merged')), ['from-a', 'from-b'])
      if (args[0]?.includes('fsname') === true)
        t.match(mountLine(scratch.path('merged')), /^src \S+ fuse\.sub rw,/)
      lamina('umount', scratch.path('merged'))
    }
  },
)

t.test('the drop-in tells its version and its usage', async t => {
  const version = spawnSync(process.execPath, [DROP_IN, '-V'], { encoding: 'utf8' })
  t.equal(version.status, 0)
  t.match(version.stdout, /^fuse-lamina: version \d+\.\d+\.\d+\n/)
  t.equal(spawnSync(process.execPath, [DROP_IN, '--version'], { encoding: 'utf8' }).stdout, version.stdout)
  const help = spawnSync(process.execPath, [DROP_IN, '-h'], { encoding: 'utf8' })
  t.equal(help.status, 0)
  t.match(help.stdout, /^usage: fuse-lamina \[options\] <mountpoint>/)
})

t.test(
  'mount(8) starts the drop-in for the type fuse.fuse-lamina',
  { skip: skip || !fs.existsSync('/sbin/mount.fuse') },
  async t => {
    using scratch = new Scratch('mount-8')
    const [lower, mnt] = [scratch.mkdir('lower'), scratch.mkdir('mnt')]
    fs.writeFileSync(path.join(lower, 'a'), '')
    const bin = scratch.mkdir('bin')
    fs.symlinkSync(DROP_IN, path.join(bin, 'fuse-lamina'))
    // mount(8) drops PATH before it starts the helper, which then finds what is in the system's directories.
    const script = `mount --bind ${bin} /usr/local/sbin
      mount -t fuse.fuse-lamina overlay ${mnt} -o lowerdir=${lower}
      ls ${mnt}
      "$0" "$1" umount ${mnt}`
    const shell = ['--mount', '--propagation', 'private', 'sh', '-ec', script, process.execPath, LAMINA]
    t.equal(execFileSync('unshare', shell, { encoding: 'utf8' }), 'a\n')
  },
)

t.test('SIGUSR1 prints the counters to the log', { skip }, async t => {
  using scratch = new Scratch('cli-usr1')
  const [lower, mnt, log] = [scratch.mkdir('lower'), scratch.mkdir('mnt'), scratch.path('log')]
  lamina('mount', '--lower', lower, '--log', log, mnt)
  fs.readdirSync(mnt)
  const seen = new Promise<void>(resolve => {
    const watcher = fs.watch(log, () => {
      watcher.close()
      resolve()
    })
  })
  process.kill(listed(mnt)?.pid ?? 0, 'SIGUSR1')
  await seen
  const stats = JSON.parse(fs.readFileSync(log, 'utf8')) as { requests: Record<string, number> }
  t.equal(stats.requests['INIT'], 1)
  t.ok((stats.requests['READDIRPLUS'] ?? 0) + (stats.requests['READDIR'] ?? 0) > 0)
  lamina('umount', mnt)
})

t.test('stats counts requests, and a second look at the same things sends none', { skip }, async t => {
  using scratch = new Scratch('cli-stats')
  const mount = scratch.overlay('lamina')
  fs.writeFileSync(path.join(mount.mountpoint, 'f'), 'x')
  const look = (): void => {
    // Not ls -l: it asks each file for security.selinux, and FUSE has no cache for xattrs.
    execFileSync('find', [mount.mountpoint, '-ls'])
    t.notOk(fs.existsSync(path.join(mount.mountpoint, 'missing')))
  }
  let before, after
  // Somebody else on the machine may drop its caches meanwhile, but not each time.
  for (let i = 0; i < 5 && (before === undefined || !isDeepStrictEqual(after, before)); i++) {
    look()
    look()
    before = mount.stats().requests
    look()
    after = mount.stats().requests
  }
  t.strictSame(after, before)
  t.match(lamina('stats', mount.mountpoint), /^REQUEST +COUNT\n/)
})

/** What a daemon has in the run directory. */
function runFiles(pid: number): string[] {
  const own = process.env['LAMINA_RUN']
  const directory = own === undefined || own === '' ? '/run/lamina' : own
  return fs
    .readdirSync(directory)
    .filter(name => new RegExp(`-${pid}\\.(json|sock)$`).test(name))
    .map(name => path.join(directory, name))
}

t.test('a control socket takes no more than a short line, and nonsense does no harm', { skip }, async t => {
  using scratch = new Scratch('cli-control')
  const mount = scratch.overlay('lamina')
  const socketFile = runFiles(mount.pid ?? 0).find(file => file.endsWith('.sock')) ?? ''
  t.equal(fs.statSync(path.dirname(socketFile)).mode & 0o777, 0o700, 'only the owner gets there')
  const exchange = async (text: string): Promise<string> => {
    const socket = net.connect(socketFile)
    let answer = ''
    socket.on('data', data => (answer += data.toString()))
    socket.on('error', () => undefined)
    socket.end(text)
    await new Promise(resolve => socket.on('close', resolve))
    return answer
  }
  t.match(await exchange('nonsense\n'), /"error":"not a request"/)
  t.match(
    await exchange('{"cmd":"format-disk"}\n{"cmd":"umount","how":"gently"}\n'),
    /not a request.*\n.*not a request/,
  )
  t.equal(await exchange('x'.repeat(100_000)), '')
  t.match(await exchange('{"cmd":"info"}\n'), /"ok":\{"id"/)
  t.ok(mount.alive())
})

t.test('a mount in another mount namespace is unmounted through its daemon', { skip }, async t => {
  using scratch = new Scratch('cli-namespace')
  const [lower, mnt] = [scratch.mkdir('lower'), scratch.mkdir('mnt')]
  // The namespace lives as long as its shell, which waits for its standard input to end.
  const holder = spawn(
    'unshare',
    [
      '-m',
      '--propagation',
      'private',
      'sh',
      '-c',
      `'${process.execPath}' '${LAMINA}' mount --lower '${lower}' '${mnt}' && echo ok; exec cat`,
    ],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  )
  await once(holder.stdout, 'data')
  t.equal(mountLine(mnt), undefined)
  const pid = listed(mnt)?.pid ?? 0
  lamina('umount', mnt)
  await ended(pid)
  holder.stdin.end()
  await once(holder, 'close')
})

t.test('records of dead daemons are swept', { skip }, async t => {
  using scratch = new Scratch('cli-sweep')
  const [lower, mnt] = [scratch.mkdir('lower'), scratch.mkdir('mnt')]
  lamina('mount', '--lower', lower, mnt)
  const pid = listed(mnt)?.pid ?? 0
  process.kill(pid, 'SIGKILL')
  await ended(pid)
  t.equal(listed(mnt), undefined)
  t.strictSame(runFiles(pid), [])
  lamina('umount', mnt)
})

t.test(
  'names that are not UTF-8 work as layers and mountpoint, and JSON keeps their bytes',
  { skip },
  async t => {
    using scratch = new Scratch('cli-bytes')
    const bytes = (name: string): Buffer =>
      Buffer.concat([Buffer.from(`${scratch.root}/`), Buffer.from(name, 'latin1')])
    for (const name of ['l\xff', 'm\xfe', 'u', 'w']) fs.mkdirSync(bytes(name))
    fs.writeFileSync(Buffer.concat([bytes('l\xff'), Buffer.from('/f\xe9', 'latin1')]), 'bytes')
    const sh = (command: string): string =>
      execFileSync('bash', ['-c', command.replaceAll('lamina ', `'${process.execPath}' '${LAMINA}' `)], {
        cwd: scratch.root,
        encoding: 'utf8',
      })
    sh(`lamina mount --lower $'l\\xff' --upper u --work w $'m\\xfe'`)
    t.equal(sh(`cat $'m\\xfe/f\\xe9'; rm $'m\\xfe/f\\xe9'; touch $'m\\xfe/a\\nb'`), 'bytes')
    t.equal(sh(`lamina diff $'m\\xfe'`), 'A /a\\nb\nD /f\\xe9\n')
    t.match(JSON.parse(sh(`lamina diff u --format json`)), [
      { kind: 'A', path: '/a\nb', type: 'file' },
      { kind: 'D', path: '/f\\xe9', pathBase64: Buffer.from('/f\xe9', 'latin1').toString('base64') },
    ])
    t.match(sh('lamina mounts'), /m\\xfe/)
    sh(`lamina umount $'m\\xfe'`)
  },
)

t.test('the mountpoint may be a lower layer, or lie inside one', { skip }, async t => {
  using scratch = new Scratch('cli-over-itself')
  const [lower, upper, work] = [scratch.mkdir('lower'), scratch.mkdir('upper'), scratch.mkdir('work')]
  const inside = scratch.mkdir('lower/mnt')
  fs.writeFileSync(path.join(lower, 'a'), 'below')
  fs.writeFileSync(path.join(inside, 'hidden'), '')
  for (const mnt of [lower, inside]) {
    lamina('mount', '--lower', lower, '--upper', upper, '--work', work, mnt)
    t.match(execFileSync('find', [mnt, '-printf', '%P '], { encoding: 'utf8', timeout: 10_000 }), /a /)
    fs.writeFileSync(path.join(mnt, 'new'), '')
    lamina('umount', mnt)
  }
  t.strictSame(fs.readdirSync(lower).sort(), ['a', 'mnt'])
  t.strictSame(fs.readdirSync(upper), ['new'])
})

t.test(
  'an ordinary user mounts through fusermount3',
  { skip: skip || !fs.existsSync('/usr/bin/fusermount3') },
  async t => {
    using scratch = new Scratch('cli-user')
    const deviceMode = fs.statSync('/dev/fuse').mode & 0o777
    const done = runAsNobody(
      scratch,
      `
      mkdir lower upper work mnt run
      echo below > lower/a
      "$node" "$lamina" mount --lower lower --upper upper --work work --name some,thing mnt
      grep " $PWD/mnt " /proc/mounts
      cat mnt/a; echo changed > mnt/a; rm mnt/a; echo new > mnt/b
      "$node" "$lamina" mounts
      "$node" "$lamina" diff mnt
      "$node" "$lamina" umount mnt
      ! grep " $PWD/mnt " /proc/mounts
      # Without privilege the layers cannot be cloned, and the mount lies in its own lower.
      mkdir lower/inside
      "$node" "$lamina" mount --lower lower --upper upper --work work lower/inside
      timeout -s KILL 10 find lower/inside
      "$node" "$lamina" umount lower/inside
      `,
    )
    t.equal(done.stderr, '')
    t.equal(done.status, 0)
    t.match(done.stdout, /^some,thing \S+ fuse\.lamina rw,nosuid,nodev,noatime,user_id=65534,/)
    t.match(done.stdout, /\nbelow\n/)
    t.match(done.stdout, /\nD \/a\nA \/b\n/)
    t.match(done.stdout, /\nlower\/inside\/b\n/)
    t.equal(fs.statSync('/dev/fuse').mode & 0o777, deviceMode)
  },
)

t.test(
  'inside a user namespace it mounts by itself',
  { skip: skip || spawnSync('unshare', ['-Ur', 'true']).status !== 0 },
  async t => {
    using scratch = new Scratch('cli-userns')
    const done = runAsNobody(
      scratch,
      `
      mkdir lower upper work mnt run
      echo below > lower/a
      "$node" '${DROP_IN}' -o lowerdir=lower,upperdir=upper,workdir=work mnt
      grep " $PWD/mnt " /proc/mounts
      cat mnt/a; rm mnt/a
      "$node" "$lamina" diff mnt
      "$node" "$lamina" umount mnt
      `,
      'unshare -Urm',
    )
    t.equal(done.stderr, '')
    t.equal(done.status, 0)
    t.match(done.stdout, /fuse\.fuse-lamina rw/)
    t.match(done.stdout, /\nbelow\nD \/a\n/)
  },
)
