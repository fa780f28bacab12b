import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { Database } from '../../src/manager/database.js'
import { createContainer, removeContainer } from '../../src/manager/containers/create.js'
import { Store } from '../../src/manager/index.js'
import { checkStore } from '../../src/manager/check.js'
import { parseVolumeFlag } from '../../src/manager/mounts/mount-spec.js'
import { Bench, isRoot, leftovers } from './fixture.js'

/**
 * kill -9 at each statement that `container create` sends to the database: afterwards the container is there with its volumes, or
 * neither is. The test starts itself as the command that is killed.
 */

const [, , mode, root = '', count = '', removes] = process.argv
const MOUNTS = ['/anonymous', 'named:/named', '/more'].map(text => parseVolumeFlag(text))

if (mode === 'command') await command(root, Number(count))
else await tests()

async function command(root: string, last: number): Promise<void> {
  using store = await Store.open({ root, driver: 'vfs' })
  let statements = 0
  const { run } = Database.prototype
  Database.prototype.run = function (...words: Parameters<typeof run>) {
    statements += 1
    if (statements === last) process.kill(process.pid, 'SIGKILL')
    return run.apply(this, words)
  }
  if (removes === 'remove') await removeContainer(store, 'web', { volumes: true })
  else await createContainer(store, { name: 'web', mounts: MOUNTS })
}

async function tests(): Promise<void> {
  await t.test('container create, killed at each statement', { skip: !isRoot && 'needs root' }, async t => {
    const bench = new Bench(t)
    let without = 0
    for (let last = 1; ; last += 1) {
      t.ok(last < 100, 'ends')
      const child = fork(fileURLToPath(import.meta.url), ['command', bench.root, String(last)])
      const [code] = (await once(child, 'exit')) as [number | null]
      using store = await Store.open({ root: bench.root, driver: 'vfs' })
      const container = store.containers.list()[0]
      const volumes = store.volumes.list()
      t.equal(volumes.length, container === undefined ? 0 : 3, `killed at statement ${last}`)
      t.same(await checkStore(store), [])
      t.same(leftovers(bench.root), [])
      if (container === undefined) without += 1
      else await store.containers.remove(container.id)
      for (const volume of volumes) await store.volumes.remove(volume.name)
      if (code === 0) break
    }
    t.ok(without > 8, `${without} times before the container was there`)
  })

  await t.test('container rm -v, killed at each statement', { skip: !isRoot && 'needs root' }, async t => {
    const bench = new Bench(t)
    let between = 0
    for (let last = 1; ; last += 1) {
      t.ok(last < 100, 'ends')
      {
        using store = await Store.open({ root: bench.root, driver: 'vfs' })
        if (store.containers.list().length === 0)
          await createContainer(store, { name: 'web', mounts: MOUNTS })
      }
      const child = fork(fileURLToPath(import.meta.url), ['command', bench.root, String(last), 'remove'])
      const [code] = (await once(child, 'exit')) as [number | null]
      using store = await Store.open({ root: bench.root, driver: 'vfs' })
      const there = store.containers.list().length === 1
      if (!there && code !== 0) between += 1
      t.equal(store.volumes.list().length, there ? 3 : 1, `killed at statement ${last}`)
      t.same(await checkStore(store), [])
      t.same(leftovers(bench.root), [])
      if (code === 0) break
    }
    t.ok(between > 0, `${between} times after the container was gone`)
  })

  await t.test(
    'what fails leaves volumes that were there before, and no others',
    { skip: !isRoot && 'needs root' },
    async t => {
      const bench = new Bench(t)
      using store = await bench.open({ driver: 'vfs' })
      await store.volumes.create({ name: 'old' })
      const mounts = ['old:/old', 'new:/new', '/x'].map(text => parseVolumeFlag(text))
      await createContainer(store, { name: 'web' })
      await t.rejects(createContainer(store, { name: 'web', mounts }), { code: 'exists' })
      t.same(
        store.volumes.list().map(volume => volume.name),
        ['old'],
      )
      t.same(leftovers(bench.root), [])
    },
  )
}
