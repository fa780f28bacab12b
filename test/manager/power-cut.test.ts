import { copyFileSync, existsSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import t from 'tap'
import { Bench, isRoot, lacking, run } from './fixture.js'

/**
 * A power cut: of a filesystem only that is left which it had been told to sync, or had written by itself. A copy of the device that a
 * mounted ext4 lies on is exactly that; it is mounted, which replays its journal, and looked at.
 */

const skip = isRoot ? (lacking('mkfs.ext4') ?? false) : 'needs root'
const FILES = 60

/** ext4 on a file, which writes nothing by itself for ten minutes. */
function disk(bench: Bench, config?: object): { root: string; cutPower(): string } {
  const [image, mounted] = [bench.path('disk'), bench.path('mounted')]
  writeFileSync(image, '')
  truncateSync(image, 96 << 20)
  mkdirSync(mounted)
  run('mkfs.ext4', ['-q', '-E', 'lazy_itable_init=0,lazy_journal_init=0', image])
  run('mount', ['-o', 'loop,commit=600', image, mounted])
  const root = join(mounted, 'store')
  mkdirSync(root)
  if (config !== undefined) writeFileSync(join(root, 'config.json'), JSON.stringify(config))
  run('sync', ['-f', mounted])
  return {
    root,
    cutPower() {
      const [copy, after] = [bench.path('copy'), bench.path('after')]
      copyFileSync(image, copy)
      mkdirSync(after)
      run('mount', ['-o', 'loop', copy, after])
      return join(after, 'store')
    },
  }
}

/** One layer of many files, one of a few, and one that is kept compressed as well. */
function fill(bench: Bench, root: string): void {
  const env = { LAMINA_ROOT: root }
  const done = (...args: string[]): void => {
    const { status, stderr } = bench.laminaWith({ env }, ...args)
    if (status !== 0) throw new Error(`lamina ${args.join(' ')}: ${stderr}`)
  }
  mkdirSync(bench.path('context/many'), { recursive: true })
  for (let i = 0; i < FILES; i += 1) writeFileSync(bench.path(`context/many/${i}`), randomBytes(9_000))
  writeFileSync(bench.path('context/few'), randomBytes(50_000))
  writeFileSync(
    bench.path('context/Containerfile'),
    'FROM scratch\nCOPY many /many\nCOPY few /a/b/few\nENV A=b\n',
  )
  done('image', 'build', '-t', 'app', bench.path('context'))
  done(
    'image',
    'save',
    '--format',
    'oci-archive',
    '--compression',
    'gzip',
    '-o',
    bench.path('app.tar'),
    'app',
  )
  done('image', 'load', '--keep-blobs', bench.path('app.tar'))
}

void t.test('what a command reported as stored is stored, whole, after a power cut', { skip }, async t => {
  const bench = new Bench(t)
  const { root, cutPower } = disk(bench)
  fill(bench, root)
  const env = { LAMINA_ROOT: cutPower() }
  const checked = bench.laminaWith({ env }, 'system', 'check', '--content')
  t.equal(checked.status, 0, checked.stdout + checked.stderr)
  const mounted = bench.laminaWith({ env }, 'image', 'mount', 'app').stdout.trim()
  t.same(readFileSync(join(mounted, 'a/b/few')), readFileSync(bench.path('context/few')))
  t.equal(bench.laminaWith({ env }, 'image', 'umount', 'app').status, 0)
})

void t.test('without syncing a power cut takes files, and system check sees it', { skip }, async t => {
  const bench = new Bench(t)
  const { root, cutPower } = disk(bench, { sync: 'none' })
  fill(bench, root)
  const env = { LAMINA_ROOT: cutPower() }
  const checked = bench.laminaWith({ env }, 'system', 'check')
  t.equal(checked.status, 1, 'this is how the test above would fail')
  t.match(checked.stdout, /layer/)
  t.equal(bench.laminaWith({ env }, 'system', 'check', '--repair').status, 0)
  t.equal(bench.laminaWith({ env }, 'system', 'check', '--content').status, 0)
  t.notMatch(bench.laminaWith({ env }, 'image', 'ls').stdout, 'app')
  t.equal(bench.laminaWith({ env }, 'image', 'load', bench.path('app.tar')).status, 0)
  t.equal(bench.laminaWith({ env }, 'system', 'check', '--content').status, 0)
})

void t.test('the config says how: anything else is an error', t => {
  const bench = new Bench(t)
  mkdirSync(bench.root)
  writeFileSync(join(bench.root, 'config.json'), '{ "sync": "sometimes" }')
  t.match(
    bench.lamina('image', 'ls').stderr,
    /config.json cannot be read: sync is not "filesystem" or "none"/,
  )
  t.notOk(existsSync(join(bench.root, 'lamina.db')))
  t.end()
})
