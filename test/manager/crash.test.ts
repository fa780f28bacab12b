import { once } from 'node:events'
import { mkdirSync, readFileSync, readdirSync, truncateSync, writeFileSync } from 'node:fs'
import { spawnSync, type ChildProcess } from 'node:child_process'
import { setTimeout as wait } from 'node:timers/promises'
import t from 'tap'
import { Bench, isRoot, leftovers, run } from './fixture.js'

/** kill -9 at any time, many commands at once, a full disk: afterwards `system check` finds nothing. */

/** An archive with some thousand files, so that every phase of a load takes long enough to be hit. */
function makeArchive(bench: Bench, name: string, files: number): string {
  const maker = new Bench({ teardown: end => void cleanups.push(end) })
  const tree: Record<string, string> = {}
  for (let i = 0; i < files; i += 1) tree[`d${i % 50}/f${i}`] = `${name} ${i} `.repeat(50)
  const dir = maker.tree('tree', tree)
  maker.run('image', 'import', dir, name)
  const archive = bench.path(`${name}.tar`)
  maker.run('image', 'save', '-o', archive, name)
  return archive
}

const cleanups: (() => unknown)[] = []
t.teardown(() => cleanups.forEach(end => end()))

function check(bench: Bench): string {
  const { status, stdout, stderr } = bench.lamina('system', 'check', '--content')
  return status === 0 ? 'sound' : stdout + stderr
}

void t.test(
  'a load killed at any time leaves a sound store, and what was reported done is there',
  { skip: !isRoot && 'needs root' },
  async t => {
    const bench = new Bench(t)
    const archive = makeArchive(bench, 'victim', 1500)
    bench.run('image', 'import', archive, 'keep')
    let killed = 0
    for (let round = 0; round < 12; round += 1) {
      const child = bench.start('image', 'load', archive)
      const delay = 40 + Math.floor(Math.random() * 700)
      await Promise.race([wait(delay), once(child, 'exit')])
      if (child.exitCode === null) {
        killed += 1
        child.kill('SIGKILL')
        await once(child, 'exit')
      }
      const listed = bench.run('image', 'ls', '--format', '{{.name}}')
      t.match(listed, /keep/, `round ${round}, after ${delay} ms`)
      if (child.exitCode === 0) {
        t.match(listed, /victim/, 'reported done, and there')
        bench.run('image', 'rm', 'victim')
      }
      t.equal(check(bench), 'sound', `round ${round}, killed after ${delay} ms`)
      t.same(leftovers(bench.root), [])
      if (/victim/.test(bench.run('image', 'ls'))) bench.run('image', 'rm', 'victim')
    }
    t.ok(killed > 2, `${killed} were killed in time`)
    t.equal(readdirSync(`${bench.root}/layers`).length, 1)
  },
)

void t.test(
  'a removal killed at any time leaves a sound store',
  { skip: !isRoot && 'needs root' },
  async t => {
    const bench = new Bench(t)
    const archive = makeArchive(bench, 'victim', 1500)
    for (let round = 0; round < 8; round += 1) {
      bench.run('image', 'load', archive)
      const child = bench.start('image', 'rm', 'victim')
      await Promise.race([wait(60 + Math.random() * 200), once(child, 'exit')])
      if (child.exitCode === null) {
        child.kill('SIGKILL')
        await once(child, 'exit')
      }
      t.equal(check(bench), 'sound')
      t.same(leftovers(bench.root), [])
    }
  },
)

void t.test(
  'a build killed at any time leaves a sound store and nothing mounted',
  { skip: !isRoot && 'needs root' },
  async t => {
    const bench = new Bench(t)
    const context = bench.tree('context', {
      Containerfile: 'FROM scratch\nCOPY a /a\nWORKDIR /w\nCOPY b /b\nCOPY --from=0 /a /c\n',
      a: 'a',
      b: 'b',
    })
    writeFileSync(
      `${context}/Containerfile`,
      'FROM scratch AS one\nCOPY a /a\nWORKDIR /w\nFROM one\nCOPY --from=one /a /c\nCOPY b /b\n',
    )
    for (let round = 0; round < 8; round += 1) {
      const child = bench.start('build', '--no-cache', '-t', 'built', context)
      await Promise.race([wait(100 + Math.random() * 400), once(child, 'exit')])
      if (child.exitCode === null) {
        child.kill('SIGKILL')
        await once(child, 'exit')
      }
      t.equal(check(bench), 'sound')
      t.same(leftovers(bench.root), [])
    }
  },
)

void t.test(
  'loads, removals, imports and builds at once do not get into each other',
  { skip: !isRoot && 'needs root' },
  async t => {
    const bench = new Bench(t)
    const archive = makeArchive(bench, 'shared', 400)
    const context = bench.tree('context', {
      Containerfile: 'FROM shared\nCOPY a /a\nCOPY b /b\n',
      a: 'a',
      b: 'b',
    })
    bench.run('image', 'load', archive)
    const finish = async (child: ChildProcess): Promise<number | null> => {
      const [code] = (await once(child, 'exit')) as [number | null]
      return code
    }
    for (let round = 0; round < 3; round += 1) {
      const codes = await Promise.all([
        finish(bench.start('image', 'load', archive)),
        finish(bench.start('image', 'load', archive)),
        finish(bench.start('build', '-t', `one${round}`, context)),
        finish(bench.start('build', '-t', `two${round}`, context)),
        finish(bench.start('image', 'prune')),
        finish(bench.start('system', 'df')),
        finish(bench.start('image', 'import', archive, `plain${round}`)),
      ])
      t.same(
        codes,
        codes.map(() => 0),
      )
      // These may lose the race for a name, and nothing else.
      const removals = [
        finish(bench.start('image', 'rm', `one${round}`)),
        finish(bench.start('image', 'rm', `one${round}`)),
      ]
      t.ok((await Promise.all(removals)).includes(0))
      t.equal(check(bench), 'sound')
      t.same(leftovers(bench.root), [])
    }
  },
)

void t.test(
  'a full disk ends in one line, and removing makes room again',
  { skip: !isRoot && 'needs root' },
  t => {
    const bench = new Bench(t)
    const archive = makeArchive(bench, 'large', 3000)
    writeFileSync(bench.path('disk'), '')
    truncateSync(bench.path('disk'), 24 << 20)
    run('mkfs.ext4', ['-q', '-m', '0', '-N', '6000', bench.path('disk')])
    mkdirSync(bench.root)
    run('mount', ['-o', 'loop', bench.path('disk'), bench.root])
    t.teardown(() => void spawnSync('umount', ['-l', bench.root]))
    bench.run('image', 'load', archive)
    const second = bench.tree(
      'second',
      Object.fromEntries(Array.from({ length: 60 }, (_, i) => [`f${i}`, 'x'.repeat(400_000)])),
    )
    const full = bench.lamina('image', 'import', second, 'second')
    t.equal(full.status, 1)
    t.match(full.stderr, /^lamina: .*No space left on device.*\n$/)
    t.equal(check(bench), 'sound')
    t.same(leftovers(bench.root), [])
    t.notMatch(bench.run('image', 'ls'), /second/)
    bench.run('image', 'rm', 'large')
    t.equal(check(bench), 'sound')
    const small = bench.tree('small', { file: readFileSync(archive, 'latin1').slice(0, 1000) })
    bench.run('image', 'import', small, 'small')
    t.end()
  },
)
