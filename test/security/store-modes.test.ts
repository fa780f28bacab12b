import { chmodSync, mkdirSync, statSync } from 'node:fs'
import { spawnSync } from 'node:child_process'
import { t } from 'tap'
import { Bench, isRoot, lacking } from '../manager/fixture.js'
import { skipBox, withBox } from '../manager/box-image.js'

/** What another user of the host can read of a store and of the directory of control sockets. */

const skip = isRoot ? (lacking('setpriv') ?? false) : 'needs root'

/** Everything below `dir` that user 65534 can open for reading or, a socket, can write to; names alone need no listing. */
function openToOthers(dir: string): string[] {
  const all = spawnSync('find', [dir, '-type', 'f', '-o', '-type', 's'], { encoding: 'utf8' }).stdout
  const script =
    'while read -r path; do if [ -r "$path" ] && [ ! -S "$path" ] || [ -w "$path" ]; then echo "$path"; fi; done'
  const as = ['--reuid=65534', '--regid=65534', '--clear-groups', 'sh', '-c', script]
  const { stdout } = spawnSync('setpriv', as, { encoding: 'utf8', input: all })
  return stdout.split('\n').filter(line => line !== '')
}

const modeOf = (path: string): string => (statSync(path).mode & 0o777).toString(8)

t.test('a store holds nothing that another user can read', { skip: skip || skipBox }, async t => {
  const bench = await withBox(t)
  chmodSync(bench.dir, 0o755)
  bench.run('container', 'create', '--name', 'one', '-e', 'TOKEN=secret', '-v', 'data:/data', 'box')
  // Open, so that the log of the database and its index are there.
  using store = await bench.open()
  store.db.run("UPDATE containers SET labels = '{}'")
  for (const end of ['', '-wal', '-shm']) t.equal(modeOf(`${store.paths.database}${end}`), '600', end)
  t.same(openToOthers(bench.root), [])
})

t.test('a database that an earlier version left open to others is closed', { skip }, async t => {
  const bench = new Bench(t)
  using first = await bench.open()
  first.db.run('CREATE TABLE written (x)')
  for (const end of ['', '-wal', '-shm']) chmodSync(`${first.paths.database}${end}`, 0o644)
  using second = await bench.open()
  for (const end of ['', '-wal', '-shm']) t.equal(modeOf(`${second.paths.database}${end}`), '600', end)
})

t.test('control sockets are for their owner only, wherever they lie', { skip }, t => {
  const bench = new Bench(t)
  chmodSync(bench.dir, 0o755)
  const [run, lower, merged] = ['run', 'lower', 'merged'].map(name => bench.path(name))
  for (const dir of [run, lower, merged]) mkdirSync(dir ?? '', { mode: 0o755 })
  const env = { LAMINA_RUN: run }
  const mounted = bench.laminaWith({ env }, 'mount', '--lower', lower ?? '', merged ?? '')
  t.teardown(() => bench.laminaWith({ env }, 'umount', merged ?? ''))
  t.equal(mounted.status, 0, mounted.stderr)
  // As somebody would who shares the directory.
  chmodSync(run ?? '', 0o755)
  t.same(openToOthers(run ?? ''), [])
  t.end()
})
