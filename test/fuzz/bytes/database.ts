import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { Store } from '../../../src/manager/store.js'
import { isFault, type Target } from './target.js'

/** The manager's database file. Opening it and listing what is in it ends with rows or an error of one line. */
export async function database(): Promise<Target> {
  const root = mkdtempSync(join(tmpdir(), 'lamina-database-'))
  const seed = await made(join(root, 'seed'))
  const fuzzed = join(root, 'fuzzed')
  await made(fuzzed)
  const file = join(fuzzed, 'lamina.db')
  // A closed database lives on until its statements are collected.
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  let turn = 0
  return {
    seeds: [seed],
    covers: ['/src/manager/'],
    async run(input) {
      for (const ending of ['', '-wal', '-shm']) rmSync(file + ending, { force: true })
      writeFileSync(file, input)
      try {
        using store = await Store.open({ root: fuzzed, driver: 'vfs' })
        store.layers.list()
        store.images.list()
        store.containers.list()
        store.volumes.list()
        await store.sweep()
      } catch (error) {
        if (isFault(error)) throw error
      }
      if (++turn % 50 !== 0) return
      collect()
      // What was collected is let go of in a turn of the event loop's own.
      await new Promise(resolve => setImmediate(resolve))
    },
    close: () => rmSync(root, { recursive: true, force: true }),
  }
}

async function made(root: string): Promise<Buffer> {
  {
    using store = await Store.open({ root, driver: 'vfs' })
    for (const name of ['one', 'two']) await store.volumes.create({ name, labels: { key: name } })
  }
  copyFileSync(join(root, 'lamina.db'), join(root, 'copy'))
  return readFileSync(join(root, 'copy'))
}
