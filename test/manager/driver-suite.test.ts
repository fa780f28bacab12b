import {
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import t from 'tap'
import { DRIVER_NAMES, type DriverName, type Store } from '../../src/manager/index.js'
import { commitContainer, importRootfs } from '../../src/manager/index.js'
import { loadImages, saveToDirectory } from '../../src/manager/index.js'
import { packTree } from '../../src/manager/layer-tar.js'
import { buildahImage, withAttributes, type BuildahImage } from './buildah-image.js'
import { Bench, isRoot, lacking, leftovers, manifest, run } from './fixture.js'

/** One suite for every driver: what a container sees, what is recorded as its changes, what a commit makes of them. */

/** A directory on btrfs, by a loop device of its own. */
function onBtrfs(test: Tap): string {
  const bench = new Bench(test)
  const image = bench.path('btrfs.img')
  writeFileSync(image, '')
  truncateSync(image, 512 << 20)
  run('mkfs.btrfs', ['-q', image])
  mkdirSync(bench.path('mnt'))
  run('mount', ['-o', 'loop', image, bench.path('mnt')])
  test.teardown(() => void spawnSync('umount', ['-l', bench.path('mnt')]))
  return bench.path('mnt')
}

type Tap = typeof t

/** Made once, for the first driver. */
let made: BuildahImage | undefined
const ends: (() => unknown)[] = []
t.teardown(() => ends.forEach(end => end()))

function skipReason(driver: DriverName): string | undefined {
  if (!isRoot) return 'needs root'
  if (driver === 'btrfs') return lacking('mkfs.btrfs')
  if (driver === 'fuse' && !existsSync('/dev/fuse')) return 'no /dev/fuse'
  if (driver === 'overlay2' && !readFileSync('/proc/filesystems', 'utf8').includes('\toverlay\n'))
    return 'no overlayfs'
  return undefined
}

/** An image of two layers: the upper one deletes, replaces and adds. */
async function makeImage(store: Store, bench: Bench): Promise<void> {
  const base = bench.tree('base', {
    'etc/motd': 'welcome',
    'etc/hosts': 'localhost',
    'usr/bin/tool': '#!/bin/sh\n',
    'var/old/one': '1',
    'var/old/two': '2',
    'data/file': 'x'.repeat(10_000),
  })
  chmodSync(join(base, 'usr/bin/tool'), 0o4755)
  chownSync(join(base, 'data/file'), 1000, 2000)
  linkSync(join(base, 'data/file'), join(base, 'data/hardlink'))
  symlinkSync('../etc/motd', join(base, 'data/link'))
  utimesSync(join(base, 'etc/motd'), 1, 1_000_000.5)
  await importRootfs(store, packTree(base), { name: 'base' })
  const first = await store.containers.create({ image: 'base', name: 'first' })
  const root = await store.containers.mount('first')
  rmSync(join(root, 'etc/hosts'))
  rmSync(join(root, 'var/old'), { recursive: true })
  mkdirSync(join(root, 'var/old'))
  writeFileSync(join(root, 'var/old/three'), '3')
  writeFileSync(join(root, 'etc/motd'), 'changed')
  writeFileSync(join(root, 'new'), 'new')
  await store.containers.unmount('first')
  await commitContainer(store, first.name, { name: 'image' })
  await store.containers.remove('first')
}

async function changesOf(store: Store, name: string): Promise<string[]> {
  const found: string[] = []
  for await (const { kind, path } of store.containers.changes(name)) found.push(`${kind} ${path}`)
  return found.sort()
}

for (const driver of DRIVER_NAMES) {
  const skip = skipReason(driver)
  void t.test(`driver ${driver}`, skip === undefined ? {} : { skip }, async t => {
    const bench = new Bench(t, driver === 'btrfs' ? onBtrfs(t as Tap) : undefined)
    const store = await bench.open({ driver })
    t.teardown(() => store.close())
    await makeImage(store, bench)

    await t.test('an image mounted read-only shows its merged tree', async t => {
      const at = await store.imageMounts.mount('image')
      t.same(readdirSync(at).sort(), ['data', 'etc', 'new', 'usr', 'var'])
      t.same(readdirSync(join(at, 'etc')), ['motd'])
      t.same(readdirSync(join(at, 'var/old')), ['three'])
      t.equal(readFileSync(join(at, 'etc/motd'), 'utf8'), 'changed')
      t.equal(lstatSync(join(at, 'usr/bin/tool')).mode & 0o7777, 0o4755)
      const file = lstatSync(join(at, 'data/file'))
      t.same([file.uid, file.gid, file.nlink], [1000, 2000, 2])
      t.throws(() => writeFileSync(join(at, 'no'), ''), { code: 'EROFS' })
      t.equal(await store.imageMounts.mount('image'), at, 'a second user shares the mount')
      t.equal(await store.imageMounts.unmount('image'), false, 'and does not end it')
      t.ok(existsSync(join(at, 'new')))
      t.equal(await store.imageMounts.unmount('image'), true)
      t.notOk(existsSync(at))
    })

    await t.test('containers of one image do not see each other', async t => {
      for (const name of ['one', 'two']) await store.containers.create({ image: 'image', name })
      const [one, two] = [await store.containers.mount('one'), await store.containers.mount('two')]
      writeFileSync(join(one, 'mine'), '1')
      rmSync(join(one, 'new'))
      t.notOk(existsSync(join(two, 'mine')))
      t.ok(existsSync(join(two, 'new')))
      await t.rejects(store.containers.remove('one'), { code: 'in-use' })
      for (const name of ['one', 'two']) {
        await store.containers.unmount(name)
        await store.containers.remove(name)
      }
    })

    await t.test('changes are listed, also while it is mounted, and survive unmount and mount', async t => {
      await store.containers.create({ image: 'image', name: 'work' })
      t.same(await changesOf(store, 'work'), [])
      const root = await store.containers.mount('work')
      writeFileSync(join(root, 'etc/added'), 'a')
      writeFileSync(join(root, 'data/file'), 'shorter')
      rmSync(join(root, 'usr/bin'), { recursive: true })
      mkdirSync(join(root, 'deep/er'), { recursive: true })
      writeFileSync(join(root, 'deep/er/still'), 'd')
      symlinkSync('target', join(root, 'deep/link'))
      chmodSync(join(root, 'new'), 0o600)
      renameSync(join(root, 'var/old/three'), join(root, 'var/renamed'))
      const expected = [
        'A deep',
        'A deep/er',
        'A deep/er/still',
        'A deep/link',
        'A etc/added',
        'A var/renamed',
        'C data/file',
        'C new',
        'D usr/bin',
        'D var/old/three',
      ]
      const essential = (lines: string[]): string[] =>
        lines.filter(line => !/^C (etc|data|usr|var|var\/old|data\/hardlink)$/.test(line))
      t.same(essential(await changesOf(store, 'work')), expected)
      await store.containers.unmount('work')
      t.same(essential(await changesOf(store, 'work')), expected)
      const again = await store.containers.mount('work')
      t.equal(readFileSync(join(again, 'data/file'), 'utf8'), 'shorter')
      t.notOk(existsSync(join(again, 'usr/bin')))
      await store.containers.unmount('work')
      const usage = await store.containers.usage(store.containers.find('work'))
      t.ok(usage.bytes > 0 && usage.entries > 0)
    })

    await t.test('a commit makes the tree that the container had', async t => {
      const root = await store.containers.mount('work')
      await store.containers.settle(store.containers.find('work'))
      const expected = manifest(root)
      const image = await commitContainer(store, 'work', { name: 'committed', changes: ['CMD ["/bin/sh"]'] })
      await store.containers.unmount('work')
      t.same(store.images.config(image.id).config?.Cmd, ['/bin/sh'])
      const at = await store.imageMounts.mount('committed')
      // A whole-tree copy and a file's other name: the link count of data/file is what the driver shows of it.
      t.same(withoutLinks(manifest(at)), withoutLinks(expected))
      await store.imageMounts.unmount('committed')
    })

    const bare = lacking('buildah')
    await t.test('an image of buildah is the tree that buildah shows', { skip: bare ?? false }, async t => {
      const theirs = (made ??= buildahImage(new Bench({ teardown: end => void ends.push(end) })))
      for (const archive of [theirs.archive, theirs.dockerArchive]) {
        const [image] = await loadImages(store, archive, { name: 'example.com/three:1', keepBlobs: true })
        if (image === undefined) throw new Error('nothing was loaded')
        const target = await store.imageMounts.mount(image.id)
        t.same(withAttributes(target), theirs.tree)
        await store.imageMounts.unmount(image.id)
        if (archive === theirs.archive) {
          await saveToDirectory(store, [image.id], bench.path('saved'))
          t.match(readFileSync(bench.path('saved/index.json'), 'utf8'), theirs.digest, 'saved as it came')
        }
        await store.images.remove(image.id, { force: true })
      }
    })

    await t.test('removing everything leaves nothing', async t => {
      await store.containers.remove('work')
      for (const name of ['committed', 'image', 'base']) await store.images.remove(name)
      t.same(store.layers.list(), [])
      for (const dir of ['layers', 'containers', 'snapshots', 'mounts'])
        t.same(readdirSync(join(bench.root, dir)), [], dir)
      t.same(leftovers(bench.root), [])
    })
  })
}

/** Directories' times change with what drivers do at mount; link counts differ where a copy-up breaks a link. */
function withoutLinks(lines: readonly string[]): string[] {
  return lines.map(line => {
    const fields = line.split('|')
    if (fields.length < 8) return line
    fields[7] = ''
    if (fields[1] === 'd' || fields[1] === 'l') fields[6] = ''
    return fields.join('|')
  })
}

void t.test('drivers of other tools are named with what to use', async t => {
  const bench = new Bench(t)
  for (const name of ['aufs', 'zfs', 'devicemapper']) {
    const { status, stderr } = bench.lamina('info', '--storage-driver', name, '--format', '{{.driver}}')
    t.equal(status, 0, stderr)
    t.match(bench.run('info', '--storage-driver', name), `Storage driver  none: storage driver ${name}: `)
    t.match(bench.run('info'), new RegExp(`${name} +no driver here: .*'fuse'`))
    const refused = bench.lamina('image', 'mount', '--storage-driver', name, 'x')
    t.equal(refused.status, 1)
  }
  const store = await bench.open({ driver: 'aufs' })
  await t.rejects(store.drivers.chosen(), { message: /aufs is no part of Linux/ })
  store.close()
})
