import { mkdirSync, rmSync, statfsSync, writeFileSync } from 'node:fs'
import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import t from 'tap'
import { skipBox, withBox } from './box-image.js'
import { lacking, leftovers, run, type Bench } from './fixture.js'
import { startRegistry } from './oci-tools.js'

/**
 * A disk with next to no room, at every step that needs some: one line of error or success, `system check` finds nothing, and
 * removing works with no byte left. More of it: `npm run test:store`.
 */
const ROUNDS = Number(process.env['LAMINA_ROUNDS'] ?? '1')
const skip = skipBox || lacking('docker-registry') || false
/** Kilobytes left, besides the reserve of 2,048; a layer here takes 4,800. */
const LEFT = [0, 900, 2900]

/** Fills the store's disk but for some kilobytes. */
function fill(bench: Bench, kilobytes: number): () => void {
  const ballast = `${bench.root}/../ballast`
  const { bavail, bsize } = statfsSync(bench.root)
  const bytes = bavail * bsize - kilobytes * 1024
  if (bytes > 0) run('fallocate', ['-l', String(bytes), ballast])
  return () => rmSync(ballast, { force: true })
}

function check(bench: Bench): string {
  const { status, stdout, stderr } = bench.lamina('system', 'check', '--content')
  return status === 0 ? 'sound' : stdout + stderr
}

void t.test('pull, load, build, commit and rm on a disk that is nearly full', { skip }, async t => {
  const seed = await withBox(t)
  const registry = await startRegistry(seed.path('registry'))
  t.teardown(() => registry.stop())
  const files: Record<string, string> = {}
  for (let i = 0; i < 60; i += 1) files[`d/f${i}`] = randomBytes(40_000).toString('hex')
  seed.run('image', 'import', seed.tree('big', files), 'big')
  const ref = `${registry.host}/big:1`
  seed.run('image', 'push', 'big', ref)
  seed.run('image', 'save', '-o', seed.path('big.tar'), 'big')
  seed.run('image', 'save', '--format', 'oci-dir', '--compression', 'gzip', '-o', seed.path('big'), 'big')
  seed.run('image', 'save', '-o', seed.path('box.tar'), 'box')
  const context = seed.tree('context', {
    Containerfile: 'FROM box\nCOPY d /d\nRUN dd if=/dev/zero of=/zero bs=1000 count=4000 2>/dev/null\n',
    ...files,
  })

  const bench = await withBox(t)
  const disk = bench.path('disk')
  mkdirSync(disk)
  run('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', disk])
  t.teardown(() => void spawnSync('umount', ['-l', disk]))
  const full = Object.create(bench, { root: { value: `${disk}/store` } }) as Bench
  const again = (): void => {
    full.run('system', 'prune', '--all')
    full.run('image', 'load', seed.path('box.tar'))
  }
  again()
  full.run('container', 'create', '--name', 'cc', 'box')
  const rootfs = full.run('container', 'mount', 'cc').trim()
  writeFileSync(`${rootfs}/made`, randomBytes(4_500_000))
  full.run('container', 'umount', 'cc')
  const commands = [
    ['image', 'pull', ref],
    ['image', 'load', seed.path('big.tar')],
    ['image', 'load', '--keep-blobs', seed.path('big')],
    ['build', '--no-cache', '-t', 'built', context],
    ['commit', 'cc', 'committed'],
  ]
  let failed = 0
  for (let round = 0; round < ROUNDS * LEFT.length; round += 1) {
    const kilobytes = ROUNDS === 1 ? (LEFT[round] ?? 0) : Math.floor(Math.random() * 6000)
    for (const words of commands) {
      const what = `${words.slice(0, 2).join(' ')} with ${kilobytes} kB left`
      const makeRoom = fill(full, kilobytes)
      const { status, stderr } = full.lamina(...words)
      if (status !== 0) {
        failed += 1
        t.match(stderr, /(^|\n)lamina: [^\n]*(No space left|no space left|RUN dd)[^\n]*\n$/, what)
      }
      t.equal(check(full), 'sound', `${what}: before there is room again`)
      // What a broken download has brought is for the next one.
      t.same(
        leftovers(full.root).filter(name => !name.startsWith('partial/')),
        [],
        what,
      )
      makeRoom()
      full.run('system', 'prune', '--all')
    }
    again()
  }
  t.ok(failed > commands.length, `${failed} found the disk full`)

  // Not a byte: what is there can be listed and removed, several times over.
  for (const name of ['one', 'two']) full.run('image', 'import', seed.path('big'), name)
  const makeRoom = fill(full, 0)
  t.match(full.run('image', 'ls'), /one/)
  full.run('image', 'rm', 'one')
  makeRoom()
  fill(full, 0)
  full.run('image', 'rm', 'two')
  full.run('container', 'rm', 'cc')
  full.run('system', 'prune', '--all')
  t.equal(full.run('image', 'ls', '-q'), '')
  t.equal(check(full), 'sound')
})
