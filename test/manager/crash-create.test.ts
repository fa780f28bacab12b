import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { Database } from '../../src/manager/database.js'
import { createContainer } from '../../src/manager/containers/create.js'
import { Store } from '../../src/manager/index.js'
import { checkStore } from '../../src/manager/check.js'
import { parseVolumeFlag } from '../../src/manager/mounts/mount-spec.js'
import { Bench, isRoot, leftovers } from './fixture.js'

/**
 * kill -9 at each statement that `container create` sends to the database: afterwards the container is there with its volumes, or
 * neither is. The test starts itself as the command that is killed.
 */

const [, , mode, root = '', count = ''] = process.argv

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
  const mounts = ['/anonymous', 'named:/named', '/more'].map(text => parseVolumeFlag(text))
  await createContainer(store, { name: 'web', mounts })
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
