import { execFileSync, spawn } from 'node:child_process'
import { existsSync, lstatSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { t, type Test } from 'tap'
import { createContainer, importRootfs, removeContainer, type Store } from '../../src/manager/index.js'
import { packTree } from '../../src/manager/layer-tar.js'
import { Bench, isRoot, leftovers } from './fixture.js'
import { InProcess } from './in-process.js'

const skip = isRoot ? false : 'needs root'

/** A store with one image, `base`, made of a tree that `more` may add to. */
async function withBase(
  t: Test,
  files: Readonly<Record<string, string>>,
  more: (root: string) => void = () => undefined,
): Promise<{ bench: Bench; cli: InProcess; store: Store }> {
  const bench = new Bench(t)
  const tree = bench.tree('tree', files)
  more(tree)
  const store = await bench.open({ driver: 'overlay2' })
  t.teardown(() => store.close())
  await importRootfs(store, packTree(tree), { name: 'base' })
  return { bench, cli: new InProcess(bench), store }
}

const text = (...path: string[]): string => readFileSync(join(...path), 'utf8')

t.test(
  'volumes, binds and tmpfs are mounted in order, shared, counted and gone in the end',
  { skip },
  async t => {
    const { bench, cli, store } = await withBase(t, { 'etc/app/default': 'from the image\n', 'srv/keep': '' })
    const host = bench.tree('host', { 'dir/file': 'host\n', single: 'one file\n' })
    const create = ['container', 'create', '--storage-driver', 'overlay2', '-v', 'data:/etc/app']
    const id = (
      await cli.run(
        ...create,
        '--name',
        'one',
        '-v',
        'inner:/etc/app/inner/deep',
        '-v',
        `${host}/dir:/srv/dir:ro`,
        '--mount',
        `type=bind,src=${host}/single,dst=/srv/single,readonly`,
        '--tmpfs',
        '/run/x:size=1m,mode=0700',
        '-v',
        '/anon',
        'base',
      )
    ).trim()
    t.match(id, /^[0-9a-f]{64}$/)
    await cli.run(...create, '--name', 'two', 'base')
    const root = (await cli.run('container', 'mount', 'one')).trim()
    t.equal(text(root, 'etc/app/default'), 'from the image\n', 'a new volume takes what the image has there')
    t.equal(text(root, 'srv/single'), 'one file\n')
    t.throws(() => writeFileSync(join(root, 'srv/dir/file'), 'x'), { code: 'EROFS' })
    t.match(
      execFileSync('stat', ['-f', '-c', '%T %b', join(root, 'run/x')], { encoding: 'utf8' }),
      /^tmpfs 256$/m,
    )
    t.equal(lstatSync(join(root, 'run/x')).mode & 0o7777, 0o700)
    writeFileSync(join(root, 'etc/app/inner/deep/file'), 'inner')
    writeFileSync(join(root, 'run/x/secret'), 'never on disk')

    const other = (await cli.run('container', 'mount', 'two')).trim()
    writeFileSync(join(other, 'etc/app/shared'), 'seen by both\n')
    t.equal(text(root, 'etc/app/shared'), 'seen by both\n')
    t.notOk(existsSync(join(other, 'run/x')), "a second container never sees the first one's mounts")

    t.match((await cli.lamina('volume', 'rm', 'data')).stderr, /is used by container one, container two/)
    t.equal((await cli.run('container', 'mount', 'one')).trim(), root)
    await cli.run('container', 'umount', 'one')
    t.ok(existsSync(join(root, 'run/x/secret')), 'the second user keeps the mount')
    await cli.run('container', 'umount', 'one')
    t.notOk(existsSync(join(root, 'etc')))
    t.throws(() => execFileSync('grep', ['-rqs', 'never on disk', bench.root]))
    t.match((await cli.lamina('container', 'rm', 'two')).stderr, /is mounted on/)
    t.match(
      (await cli.lamina('volume', 'rm', 'inner')).stderr,
      /is used by container one/,
      'also while not mounted',
    )

    await cli.run('volume', 'rename', 'data', 'renamed')
    t.equal((await cli.run('container', 'mount', 'one')).trim(), root)
    t.equal(text(root, 'etc/app/shared'), 'seen by both\n', 'under the new name')
    await cli.run('container', 'umount', 'one')
    const before = store.volumes.list().length
    await cli.run('container', 'rm', '-v', 'one')
    t.equal(store.volumes.list().length, before - 1, 'the anonymous volume went')
    await cli.run('container', 'rm', '-f', 'two')
    t.same(leftovers(bench.root), [])
    t.equal(text(host, 'dir/file'), 'host\n')
  },
)

t.test('what fails half way is undone, and says which mount it was', { skip }, async t => {
  const { bench, cli, store } = await withBase(t, { 'a/b': '' })
  const create = ['container', 'create', '--storage-driver', 'overlay2']
  await cli.run(
    ...create,
    '--name',
    'bad',
    '-v',
    'v1:/one',
    '--mount',
    'type=bind,src=/no/such/thing,dst=/two',
    'base',
  )
  const failed = await cli.lamina('container', 'mount', 'bad')
  t.match(failed.stderr, /bind source path does not exist: \/no\/such\/thing/)
  t.same(leftovers(bench.root), [])
  t.notOk(store.volumes.isActive(store.volumes.find('v1')))
  t.match(
    (await cli.lamina(...create, '-v', '/x', '--tmpfs', '/x', 'base')).stderr,
    /two mounts have the target \/x/,
  )
  t.match((await cli.lamina(...create, '-v', 'v9:/x', 'nothing')).stderr, /no such image/)
  t.equal(store.volumes.lookup('v9'), undefined, 'no volume is left of a container that was not made')
})

t.test('a mount that a process uses stays whole; --force takes it', { skip }, async t => {
  const { bench, cli } = await withBase(t, { 'a/b': '' })
  await cli.run(
    'container',
    'create',
    '--storage-driver',
    'overlay2',
    '--name',
    'busy',
    '--tmpfs',
    '/mem',
    'base',
  )
  const root = (await cli.run('container', 'mount', 'busy')).trim()
  writeFileSync(join(root, 'mem/kept'), '')
  const sleeper = spawn('sleep', ['60'], { cwd: join(root, 'a') })
  t.teardown(() => sleeper.kill())
  t.match(
    (await cli.lamina('container', 'umount', 'busy')).stderr,
    new RegExp(`process ${sleeper.pid} uses it`),
  )
  t.ok(existsSync(join(root, 'mem/kept')), 'nothing was taken away')
  await cli.run('container', 'umount', '--force', 'busy')
  t.notOk(existsSync(join(root, 'mem')))
  sleeper.kill()
  await cli.run('container', 'rm', 'busy')
  t.same(leftovers(bench.root), [])
})

t.test('after the mounts were lost (reboot, kill) mount works again', { skip }, async t => {
  const { bench, cli, store } = await withBase(t, { 'a/b': '' })
  await createContainer(store, {
    image: 'base',
    name: 'cc',
    mounts: [{ type: 'tmpfs', target: '/t', readOnly: false, options: [] }],
  })
  const root = await store.containers.mount('cc')
  execFileSync('umount', [join(root, 't')])
  t.equal((await cli.run('container', 'mount', 'cc')).trim(), root, 'one mount was missing')
  t.match(execFileSync('stat', ['-f', '-c', '%T', join(root, 't')], { encoding: 'utf8' }), /tmpfs/)
  execFileSync('umount', ['-R', root])
  store.db.run("UPDATE mounts SET boot = 'another'")
  t.equal((await cli.run('container', 'mount', 'cc')).trim(), root)
  t.match(await cli.run('container', 'inspect', '--format', '{{.mountUsers}}', 'cc'), /^1$/m)
  await cli.run('container', 'umount', 'cc')
  await removeContainer(store, 'cc')
  t.same(leftovers(bench.root), [])
})

t.test('a hostile image leads no mount out of its rootfs', { skip }, async t => {
  const { bench, cli } = await withBase(t, { 'real/dir/file': 'image\n', 'etc/passwd': 'x\n' }, root => {
    symlinkSync('/', join(root, 'top'))
    symlinkSync('/etc', join(root, 'abs'))
    symlinkSync('../../../../../../etc', join(root, 'up'))
    symlinkSync('/proc/self/root/etc', join(root, 'magic'))
    symlinkSync('/nowhere/at/all', join(root, 'dangling'))
    symlinkSync('loop', join(root, 'loop'))
    mkdirSync(join(root, 'proc/self'), { recursive: true })
    symlinkSync('/tmp', join(root, 'outside'))
    symlinkSync('/../../../run/resolv/stub.conf', join(root, 'etc/resolv.conf'))
  })
  const outside = bench.tree('outside', { witness: 'untouched\n' })
  const resolv = bench.tree('host', { 'resolv.conf': 'nameserver 192.0.2.1\n' })
  const hostEtc = execFileSync('ls', ['-A', '/etc'], { encoding: 'utf8' })
  await cli.run(
    'container',
    'create',
    '--storage-driver',
    'overlay2',
    '--name',
    'evil',
    '-v',
    'v1:/abs/one',
    '-v',
    'v2:/up/two',
    '-v',
    'v3:/magic/three',
    '-v',
    'v4:/dangling/four',
    '-v',
    `v5:${outside}/five`,
    '-v',
    'v6:/outside/six',
    '--mount',
    `type=bind,src=${resolv}/resolv.conf,dst=/etc/resolv.conf,readonly`,
    'base',
  )
  const root = (await cli.run('container', 'mount', 'evil')).trim()
  for (const path of ['etc/one', 'etc/two', 'nowhere/at/all/four', 'proc/self/root/etc/three']) {
    t.ok(lstatSync(join(root, path)).isDirectory(), `${path} is in the rootfs`)
  }
  t.equal(execFileSync('ls', ['-A', '/etc'], { encoding: 'utf8' }), hostEtc)
  t.same(execFileSync('ls', ['-A', outside], { encoding: 'utf8' }), 'witness\n')
  // Other tests mount as well: what is ours is known by the store's own volumes, wherever it is.
  const ours = text('/proc/self/mountinfo')
    .split('\n')
    .filter(line => line.includes(`${basename(bench.dir)}/store/volumes/`))
    .map(line => line.split(' ')[4] ?? '')
  t.equal(ours.length, 6)
  t.ok(
    ours.every(target => target.startsWith(`${root}/`)),
    'nothing is mounted outside of the rootfs',
  )
  const table = text('/proc/self/mounts')
    .split('\n')
    .filter(line => line.split(' ')[1]?.startsWith(`${root}/`))
  t.equal(table.length, 7)

  // A volume that holds a symlink, and a volume inside that volume.
  symlinkSync('/etc', join(root, 'etc/one/sub'))
  await cli.run('container', 'umount', 'evil')
  await cli.run(
    'container',
    'create',
    '--storage-driver',
    'overlay2',
    '--name',
    'nested',
    '-v',
    'v1:/vol',
    '-v',
    'v7:/vol/sub/seven',
    'base',
  )
  const nested = (await cli.run('container', 'mount', 'nested')).trim()
  t.ok(existsSync(join(nested, 'etc/seven')))
  await cli.run('container', 'umount', 'nested')

  for (const [target, said] of [
    ['/top', /leads to the root of the container/],
    ['/loop', /ELOOP/],
    ['/etc/passwd/x', /ENOTDIR/],
  ] as const) {
    const name = `bad-${target.replaceAll('/', '')}`
    await cli.run(
      'container',
      'create',
      '--storage-driver',
      'overlay2',
      '--name',
      name,
      '-v',
      `v1:${target}`,
      'base',
    )
    t.match((await cli.lamina('container', 'mount', name)).stderr, said)
  }
  await cli.run(
    'container',
    'create',
    '--storage-driver',
    'overlay2',
    '--name',
    'subpath',
    '--mount',
    'src=v1,dst=/s,volume-subpath=sub',
    'base',
  )
  t.match(
    (await cli.lamina('container', 'mount', 'subpath')).stderr,
    /: volume v1 has no 'sub': make it in the volume first/,
    'the symlink ends in the volume',
  )
  t.same(leftovers(bench.root), [])
})

t.test('a container and its uses of volumes appear at once, or not at all', { skip }, async t => {
  const { bench, store } = await withBase(t, { 'a/b': '' })
  // As a command that dies between the two.
  store.db.run("CREATE TRIGGER broken BEFORE INSERT ON volume_users BEGIN SELECT raise(ABORT, 'no'); END")
  const volume = { type: 'volume', readOnly: false, noCopy: false, options: {}, labels: {} } as const
  const mounts = [{ ...volume, name: 'data', target: '/data' }]
  await t.rejects(createContainer(store, { image: 'base', mounts }), /no/)
  t.same(store.containers.list(), [])
  t.same(store.volumes.list(), [], 'nor does the volume stay that was made for it')
  t.same(leftovers(bench.root), [])
})

t.test('a volume with mount options keeps the mode that they say', { skip }, async t => {
  const { bench, cli } = await withBase(t, { 'a/b': '' })
  const options = ['-o', 'type=tmpfs', '-o', 'device=tmpfs', '-o', 'o=size=64k,mode=1777']
  await cli.run('volume', 'create', ...options, 'ram')
  const made = [
    'container',
    'create',
    '--storage-driver',
    'overlay2',
    '--name',
    'one',
    '-v',
    'ram:/ram',
    'base',
  ]
  await cli.run(...made)
  const root = (await cli.run('container', 'mount', 'one')).trim()
  t.equal(lstatSync(join(root, 'ram')).mode & 0o7777, 0o1777)
  await cli.run('container', 'umount', 'one')
  t.same(leftovers(bench.root), [])
})
