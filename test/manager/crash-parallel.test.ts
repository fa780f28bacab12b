import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { setTimeout as wait } from 'node:timers/promises'
import t from 'tap'
import { skipBox, withBox } from './box-image.js'
import { Bench, lacking, leftovers } from './fixture.js'
import { startRegistry } from './oci-tools.js'

/**
 * Pulls, removals, prunes, builds and commits of one image at once, each killed or not: `system check` finds nothing
 * afterwards. More of it: `npm run test:store`.
 */

const skip = skipBox || lacking('docker-registry') || false
const ROUNDS = Number(process.env['LAMINA_ROUNDS'] ?? '5')

void t.test('pulls, removals and builds at once, killed at random', { skip }, async t => {
  const seed = await withBox(t)
  const registry = await startRegistry(seed.path('registry'))
  t.teardown(() => registry.stop())
  const ref = `${registry.host}/app:1`
  const files = Object.fromEntries(Array.from({ length: 800 }, (_, i) => [`d/f${i}`, `${i} `.repeat(500)]))
  const context = seed.tree('context', {
    Containerfile: 'FROM box\nCOPY d /d\nCOPY a /a\nCOPY b /b\n',
    a: 'a',
    b: 'b',
    ...files,
  })
  seed.run('build', '-t', 'app', context)
  seed.run('image', 'push', 'app', ref)
  writeFileSync(
    `${context}/Containerfile`,
    `FROM ${ref}\nCOPY a /a\nRUN sleep 0.2; echo made > /made\nCOPY b /w/b\n`,
  )
  const bench = new Bench(t)
  bench.run('image', 'pull', ref)
  bench.run('container', 'create', '--name', 'cc', ref)
  const rootfs = bench.run('container', 'mount', 'cc').trim()
  for (let i = 0; i < 300; i += 1) writeFileSync(`${rootfs}/var/data/f${i}`, `${i} `.repeat(300))
  bench.run('container', 'umount', 'cc')
  let killed = 0
  for (let round = 0; round < ROUNDS; round += 1) {
    const children = [
      bench.start('image', 'pull', ref),
      bench.start('image', 'pull', '--keep-blobs', ref),
      bench.start('commit', 'cc', `c:${round}`),
      bench.start('build', '-t', `b${round}`, context),
      bench.start('build', '-t', `b${round}`, context),
      bench.start('image', 'rm', '--force', ref),
      bench.start('image', 'prune', '--all'),
    ]
    const ends = children.map(child => once(child, 'exit'))
    await wait(200 + Math.random() * 1500)
    for (const child of children) {
      if (child.exitCode !== null || Math.random() < 0.4) continue
      killed += 1
      child.kill('SIGKILL')
    }
    await Promise.all(ends)
    const { status, stdout, stderr } = bench.lamina('system', 'check', '--content')
    t.equal(status === 0 ? 'sound' : stdout + stderr, 'sound', `round ${round}`)
    // What of a download has come may stay: the next pull goes on from there.
    t.same(
      leftovers(bench.root).filter(name => !name.startsWith('partial/')),
      [],
    )
  }
  t.ok(killed > 0, `${killed} were killed`)
  bench.run('image', 'pull', ref)
  t.same(leftovers(bench.root), [], 'nor a part of a download, when it is complete')
})
