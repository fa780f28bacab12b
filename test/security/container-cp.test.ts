import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { t, type Test } from 'tap'
import { copyIn, copyInTar, copyOut } from '../../src/manager/containers/copy.js'
import { Bench, isRoot, lacking, leftovers, PROJECT } from '../manager/fixture.js'

/** `container cp` against a container that is hostile, and lives meanwhile. */

const skip = isRoot ? false : 'needs root'

function withContainer(t: Test, make: (root: string) => void): { bench: Bench; root: string } {
  const bench = new Bench(t)
  bench.run('image', 'import', bench.tree('tree', { 'etc/passwd': 'root:x:0:0::/:/bin/sh\n' }), 'img')
  bench.run('container', 'create', '--name', 'c1', 'img')
  const root = bench.run('container', 'mount', 'c1').trim()
  make(root)
  return { bench, root }
}

const mode = (path: string): string => (lstatSync(path).mode & 0o7777).toString(8)

t.test(
  'out without -a: no setuid, setgid, file capability or device reaches the host',
  { skip: skip || lacking('setcap') || false },
  t => {
    const { bench } = withContainer(t, root => {
      const script = `cd "$0"; mkdir -p d/sub; for f in d/suid d/sgid d/cap; do cp /bin/true $f; done
      chmod 4755 d/suid; chmod 2755 d/sgid d/sub; setcap cap_setuid+ep d/cap; chmod 644 etc/passwd
      mknod d/disk b 8 0; mknod d/null c 1 3; mkfifo d/fifo`
      t.equal(spawnSync('sh', ['-ec', script, root]).status, 0)
    })
    const { status, stderr } = bench.lamina('container', 'cp', 'c1:/d', bench.path('out'))
    t.equal(status, 0, stderr)
    t.match(stderr, /^lamina: the device 'out\/disk' was left out: only --archive copies it$/m)
    t.same(readdirSync(bench.path('out')).sort(), ['cap', 'fifo', 'sgid', 'sub', 'suid'])
    t.same(
      ['suid', 'sgid', 'sub'].map(name => mode(bench.path('out', name))),
      ['755', '755', '755'],
    )
    t.equal(spawnSync('getcap', [bench.path('out/cap')], { encoding: 'utf8' }).stdout, '')
    bench.run('container', 'cp', 'c1:/d/suid', bench.path('one'))
    t.equal(mode(bench.path('one')), '755', 'a file by itself')
    const device = bench.lamina('container', 'cp', 'c1:/d/disk', bench.path('disk'))
    t.equal(device.status, 2)
    t.match(device.stderr, /^lamina: c1:\/d\/disk is a device: only --archive copies one to the host\n$/)
    t.notOk(existsSync(bench.path('disk')))
    bench.run('container', 'cp', '-a', 'c1:/d', bench.path('all'))
    t.equal(mode(bench.path('all/suid')), '4755', 'asked for with --archive')
    t.ok(lstatSync(bench.path('all/disk')).isBlockDevice())
    bench.run('container', 'umount', 'c1')
    t.same(leftovers(bench.root), [])
    t.end()
  },
)

/** As a process of the container does it: two names change places all the time. */
const SWAP = `import ctypes, os, sys
os.chdir(sys.argv[1])
libc = ctypes.CDLL(None)
while True: libc.renameat2(-100, sys.argv[2].encode(), -100, sys.argv[3].encode(), 2)`

async function whileSwapping(
  t: Test,
  root: string,
  names: [string, string],
  work: () => Promise<void>,
): Promise<void> {
  const swapper = spawn('python3', ['-c', SWAP, root, ...names], { stdio: 'ignore' })
  t.teardown(() => swapper.kill('SIGKILL'))
  const first = lstatSync(join(root, names[0])).ino
  while (lstatSync(join(root, names[0]), { throwIfNoEntry: false })?.ino === first)
    await new Promise(setImmediate)
  await work()
  swapper.kill('SIGKILL')
  await once(swapper, 'exit')
}

const skipSwap = skip || lacking('python3') || false

t.test(
  'CVE-2018-15664: a directory that becomes a symlink while cp walks leads nowhere else',
  { skip: skipSwap },
  async t => {
    const secret = new Bench(t)
    secret.tree('host', { passwd: 'of the host\n' })
    const host = secret.path('host')
    const { bench, root } = withContainer(t, root => {
      mkdirSync(join(root, 'real'))
      writeFileSync(join(root, 'real/passwd'), 'of the container\n')
      symlinkSync(host, join(root, 'link'))
    })
    const tar = spawnSync('tar', ['-C', PROJECT, '-cf', '-', 'package.json']).stdout
    const got = new Set<string>()
    using store = await bench.open()
    // What is not there at the moment is an error, and no harm.
    const attempt = async (work: Promise<unknown>): Promise<void> => void (await work.catch(() => undefined))
    await whileSwapping(t, root, ['real', 'link'], async () => {
      for (let round = 0; round < 30; round += 1) {
        const out = bench.path('out')
        rmSync(out, { recursive: true, force: true })
        await attempt(copyOut(store, 'c1', '/real/passwd', out, { followLink: true }))
        if (existsSync(out)) got.add(readFileSync(out, 'utf8'))
        await attempt(copyIn(store, join(PROJECT, 'package.json'), 'c1', '/real/new'))
        await attempt(copyInTar(store, Readable.from([tar]), 'c1', '/real'))
      }
    })
    t.notOk(got.has('of the host\n'), 'nothing of the host was read')
    t.same(readdirSync(host), ['passwd'], 'and nothing written')
    t.equal(readFileSync(join(host, 'passwd'), 'utf8'), 'of the host\n')
    await store.containers.unmount('c1')
  },
)

t.test('a file that becomes a FIFO while cp looks at it holds nobody up', { skip: skipSwap }, async t => {
  const { bench, root } = withContainer(t, root => {
    writeFileSync(join(root, 'file'), 'text')
    spawnSync('mkfifo', [join(root, 'fifo')])
  })
  using store = await bench.open()
  await whileSwapping(t, root, ['file', 'fifo'], async () => {
    for (let round = 0; round < 40; round += 1) {
      const out = bench.path('out')
      await copyOut(store, 'c1', '/.', out).catch((error: unknown) => t.match(String(error), /ESTALE|stale/i))
      rmSync(out, { recursive: true, force: true })
    }
  })
  t.pass('it goes on')
  await store.containers.unmount('c1')
})

t.test(
  'CVE-2019-14271: cp starts and loads nothing of the container',
  { skip: skip || lacking('strace') || false },
  t => {
    const { bench, root } = withContainer(t, root => writeFileSync(join(root, 'file'), 'text'))
    const trace = bench.path('trace')
    const words = ['container', 'cp', 'c1:/file', bench.path('out')]
    const what = 'trace=chroot,pivot_root,setns,execve,openat,openat2,open,chdir,fchdir'
    const { status, stderr } = spawnSync(
      'strace',
      ['-f', '-o', trace, '-e', what, process.execPath, join(PROJECT, 'bin/lamina.js'), ...words],
      { encoding: 'utf8', env: { ...process.env, LAMINA_ROOT: bench.root } },
    )
    t.equal(status, 0, stderr)
    const lines = readFileSync(trace, 'utf8').split('\n')
    t.ok(
      lines.some(line => line.includes('openat2(') && line.includes('"/file"')),
      'the trace sees the copy',
    )
    t.same(
      lines.filter(line => /chroot\(|pivot_root\(|setns\(|chdir\(/.test(line)),
      [],
    )
    t.same(
      lines.filter(line => line.includes('execve(') && line.includes(root)),
      [],
    )
    t.same(
      lines.filter(line => /\.so|nsswitch|\/passwd/.test(line) && line.includes(root)),
      [],
    )
    bench.run('container', 'umount', 'c1')
    t.end()
  },
)
