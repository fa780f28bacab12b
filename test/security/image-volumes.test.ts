import { mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { t } from 'tap'
import { importRootfs } from '../../src/manager/index.js'
import { packTree } from '../../src/manager/layer-tar.js'
import { skipBox, withBox } from '../manager/box-image.js'
import { Bench, leftovers } from '../manager/fixture.js'
import { runtimes } from './runtimes.js'

for (const { name, env } of runtimes()) {
  t.test(`CVE-2022-23648: VOLUME paths of an image stay in its root, ${name}`, { skip: skipBox }, async t => {
    const bench = await withBox(t)
    const host = new Bench(t)
    host.tree('host', { secret: 'of the host\n' })
    host.tree('other', { secret: 'of the host\n' })
    const outside = host.path('host')
    const tree = bench.path('tree')
    // From the rootfs, from a mount in the store, and absolute.
    const up = '../'.repeat(24)
    symlinkSync(outside, join(tree, 'absolute'))
    symlinkSync(`${up}${host.path('other').slice(1)}`, join(tree, 'relative'))
    const volumes = [
      '/absolute',
      '/relative',
      `/${up}${outside.slice(1)}/made`,
      `/absolute/below`,
      '/proc/self/root/x',
    ]
    const store = await bench.open()
    await importRootfs(store, packTree(tree), {
      name: 'evil',
      changes: [`VOLUME ${JSON.stringify(volumes)}`],
    })
    store.close()
    const before = readFileSync('/proc/self/mountinfo', 'utf8')
    const words = [
      'sh',
      '-c',
      'cat /absolute/* /relative/* 2>/dev/null; echo over > /absolute/secret; echo end',
    ]
    const { stdout, stderr } = bench.laminaWith({ env }, 'run', '--rm', 'evil', ...words)
    t.equal(stdout, 'end\n', stderr)
    for (const dir of ['host', 'other'])
      t.same(readdirSync(host.path(dir)), ['secret'], 'nothing was made outside')
    t.equal(readFileSync(join(outside, 'secret'), 'utf8'), 'of the host\n')
    t.equal(readFileSync('/proc/self/mountinfo', 'utf8'), before, 'and nothing mounted')
    t.same(leftovers(bench.root), [])
  })
}

t.test(
  'a volume that is filled takes what the image has, not what a symlink of it names on the host',
  { skip: skipBox },
  async t => {
    const bench = await withBox(t)
    const host = new Bench(t)
    host.tree('host', { secret: 'of the host\n' })
    const tree = bench.path('tree')
    rmSync(join(tree, 'var/data'), { recursive: true })
    symlinkSync(host.path('host'), join(tree, 'var/data'))
    mkdirSync(join(tree, 'srv'))
    symlinkSync(host.path('host/secret'), join(tree, 'srv/link'))
    const store = await bench.open()
    await importRootfs(store, packTree(tree), { name: 'evil' })
    store.close()
    bench.run('container', 'create', '--name', 'one', '-v', 'linked:/var/data', '-v', 'filled:/srv', 'evil')
    using open = await bench.open()
    await open.containers.mount('one')
    const content = (name: string): string[] => readdirSync(open.volumes.find(name).mountpoint)
    t.same([content('linked'), content('filled')], [[], ['link']])
    await open.containers.unmount('one')
    t.same(readdirSync(host.path('host')), ['secret'])
    t.same(leftovers(bench.root), [])
  },
)
