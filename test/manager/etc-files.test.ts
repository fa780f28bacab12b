import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, symlinkSync } from 'node:fs'
import { basename, join } from 'node:path'
import t from 'tap'
import type { ProcessSpec } from '../../src/manager/containers/container-spec.js'
import { etcFiles } from '../../src/manager/containers/etc-files.js'
import { createContainer, importRootfs, type Store } from '../../src/manager/index.js'
import { packTree } from '../../src/manager/layer-tar.js'
import { parseVolumeFlag } from '../../src/manager/mounts/mount-spec.js'
import { Bench, isRoot, leftovers } from './fixture.js'

/** /etc/hosts, hostname and resolv.conf of containers, whatever an image has in their places. */

const skip = !isRoot && 'needs root'
const SPEC: ProcessSpec = { args: ['x'], env: [], network: 'none', terminal: false, hostname: 'box' }

async function mountedWith(
  store: Store,
  name: string,
  process: ProcessSpec,
  volumes: string[] = [],
): Promise<string> {
  const mounts = volumes.map(text => parseVolumeFlag(text))
  const container = await createContainer(store, { image: name, name, process, mounts })
  return await store.containers.mount(container.id, { mounts: etcFiles(store, container, process) })
}

t.test('they are written and mounted; what the user mounts there is his', { skip }, async t => {
  const bench = new Bench(t)
  using store = await bench.open()
  for (const name of ['none', 'host', 'own', 'all'])
    await importRootfs(store, packTree(bench.tree(name, { 'etc/hosts': 'of the image\n' })), { name })
  const none = await mountedWith(store, 'none', { ...SPEC, addHosts: ['db:192.0.2.7', 'six:2001:db8::1'] })
  const hosts = readFileSync(join(none, 'etc/hosts'), 'utf8')
  t.match(hosts, /^127\.0\.0\.1\tlocalhost$/m)
  t.match(hosts, /^127\.0\.1\.1\tbox none$/m)
  t.match(hosts, /^192\.0\.2\.7\tdb\n2001:db8::1\tsix\n$/m)
  t.equal(readFileSync(join(none, 'etc/hostname'), 'utf8'), 'box\n')
  t.notOk(existsSync(join(none, 'etc/resolv.conf')), 'no network, no resolver')
  const host = await mountedWith(store, 'host', { ...SPEC, network: 'host' })
  t.equal(readFileSync(join(host, 'etc/resolv.conf'), 'utf8'), readFileSync('/etc/resolv.conf', 'utf8'))
  const inHost = readFileSync('/etc/hosts', 'utf8')
  t.ok(readFileSync(join(host, 'etc/hosts'), 'utf8').startsWith(inHost.replace(/\n$/, '')))
  const own = bench.tree('mine', { hosts: 'mine\n' })
  t.equal(
    readFileSync(
      join(await mountedWith(store, 'own', SPEC, [`${own}/hosts:/etc/hosts`]), 'etc/hosts'),
      'utf8',
    ),
    'mine\n',
  )
  t.same(readdirSync(join(await mountedWith(store, 'all', SPEC, [`${own}:/etc`]), 'etc')), ['hosts'])
  for (const [entry, network] of [
    ['db', 'none'],
    ['db:1.2.3', 'none'],
    ['a b:1.2.3.4', 'none'],
    ['x:host-gateway', 'none'],
    ['x:1.2.3.4\n0.0.0.0 y', 'host'],
  ] as const)
    await t.rejects(createContainer(store, { process: { ...SPEC, network, addHosts: [entry] } }), {
      code: 'invalid',
    })
  for (const hostname of ['', '-x', 'a\nb', 'x'.repeat(65)])
    await t.rejects(createContainer(store, { process: { ...SPEC, hostname } }), { code: 'invalid' })
  for (const { id } of store.containers.list()) await store.containers.remove(id, { force: true })
  t.same(leftovers(bench.root), [])
})

t.test(
  'hostile places lead nowhere out of the rootfs, and do not keep a container from running',
  { skip },
  async t => {
    const bench = new Bench(t)
    using store = await bench.open()
    const outside = bench.tree('outside', { witness: 'untouched\n' })
    const images: Record<string, (etc: string) => void> = {
      absolute: etc =>
        ['hosts', 'hostname'].forEach(name => symlinkSync(join(outside, 'witness'), join(etc, name))),
      relative: etc => symlinkSync(`${'../'.repeat(20)}${outside}/witness`, join(etc, 'hosts')),
      dangling: etc => symlinkSync(join(outside, 'made'), join(etc, 'hosts')),
      magic: etc => symlinkSync(`/proc/self/root${outside}/witness`, join(etc, 'hosts')),
      circle: etc => symlinkSync('hosts', join(etc, 'hosts')),
      directory: etc => void mkdirSync(join(etc, 'hosts')),
      top: etc => symlinkSync('/', join(etc, 'hosts')),
      through: etc => symlinkSync('passwd/hosts', join(etc, 'hosts')),
    }
    for (const [name, spoil] of Object.entries(images)) {
      const tree = bench.tree(name, { 'etc/passwd': 'root\n' })
      spoil(join(tree, 'etc'))
      await importRootfs(store, packTree(tree), { name })
      const root = await mountedWith(store, name, SPEC)
      t.ok(statSync(root).isDirectory(), name)
      t.equal(readFileSync(join(root, 'etc/passwd'), 'utf8'), 'root\n')
    }
    await importRootfs(store, packTree(bench.tree('file', { etc: 'no directory\n' })), { name: 'file' })
    await mountedWith(store, 'file', SPEC)
    await importRootfs(store, packTree(bench.tree('bare', { x: '' })), { name: 'bare' })
    const bare = await mountedWith(store, 'bare', SPEC)
    t.equal(readFileSync(join(bare, 'etc/hostname'), 'utf8'), 'box\n')
    const ours = readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .filter(
        line => line.includes(`${basename(bench.dir)}/store/containers/`) && /\/etc\/[a-z.]+ /.test(line),
      )
      .map(line => line.split(' ')[4] ?? '')
    t.ok(ours.length > 8, `${ours.length} mounts`)
    t.ok(ours.every(target => target.startsWith(`${bench.root}/containers/`)))
    t.same(readdirSync(outside), ['witness'])
    t.equal(readFileSync(join(outside, 'witness'), 'utf8'), 'untouched\n')
    for (const { id } of store.containers.list()) await store.containers.remove(id, { force: true })
    t.same(leftovers(bench.root), [])
  },
)
