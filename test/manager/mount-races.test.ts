import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { t } from 'tap'
import { Bench, isRoot, leftovers, run } from './fixture.js'

/** Mounts in a rootfs that somebody changes meanwhile; what is mounted below a bind source; propagation. */

const skip = isRoot ? false : 'needs root'

t.test(
  'a directory that turns into a symlink and back during the mount leads nothing out',
  { skip },
  async t => {
    const bench = new Bench(t)
    const outside = bench.tree('outside', { witness: 'untouched' })
    mkdirSync(`${outside}/deep`)
    const tree = bench.tree('tree', { f: 'x' })
    bench.run('image', 'import', tree, 'img')
    bench.run(
      'container',
      'create',
      '--name',
      'c1',
      '-v',
      'vol:/data/deep/in',
      '-v',
      `${tree}:/data/bind:ro`,
      'img',
    )
    // Made by the first mount, in the writable layer: a directory of the image cannot be renamed as it is.
    const root = bench.run('container', 'mount', 'c1').trim()
    symlinkSync('../'.repeat(20).slice(0, -1) + outside, `${root}/link`)
    bench.run('container', 'umount', 'c1')
    // renameat2(RENAME_EXCHANGE), as fast as it goes, on what is mounted there.
    const swap = `
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
end = time.time() + 60
swaps = 0
root = sys.argv[1].encode()
while time.time() < end:
  if libc.renameat2(-100, root + b'/data', -100, root + b'/link', 2) == 0: swaps += 1
  if os.path.exists(sys.argv[2]): break
open(sys.argv[2], 'w').write(str(swaps))`
    const stop = bench.path('stop')
    const swapper = spawn('python3', ['-c', swap, root, stop], { stdio: 'ignore' })
    const before = readFileSync('/proc/self/mountinfo', 'utf8')
    let mounted = 0
    for (let round = 0; round < 6; round += 1) {
      // Either way it goes: an error of one line, or mounts inside.
      const { status, stderr } = bench.lamina('container', 'mount', 'c1')
      if (status === 0) mounted += 1
      else t.equal(stderr.split('\n').length, 2, stderr)
      const strangers = readFileSync('/proc/self/mountinfo', 'utf8')
        .split('\n')
        .filter(line => line.includes(` ${outside}`))
      t.same(strangers, [], `round ${round}`)
      bench.lamina('container', 'umount', '--all', '--force', 'c1')
    }
    writeFileSync(stop, '')
    await new Promise(resolve => swapper.once('close', resolve))
    t.ok(Number(readFileSync(stop, 'utf8')) > 100, 'it did change')
    t.comment(`${mounted} of 6 mounted`)
    t.same(readdirSync(outside).sort(), ['deep', 'witness'], 'nothing was made outside')
    t.same(readdirSync(`${outside}/deep`), [])
    t.equal(readFileSync('/proc/self/mountinfo', 'utf8'), before, 'nothing is left mounted')
    t.same(leftovers(bench.root), [])
  },
)

t.test('read-only is for what is mounted below the source, too', { skip }, t => {
  const bench = new Bench(t)
  const source = bench.tree('source', { 'sub/hidden': '' })
  run('mount', ['-t', 'tmpfs', 'tmpfs', `${source}/sub`])
  writeFileSync(`${source}/sub/file`, 'submount')
  const create = (name: string, ...spec: string[]): string => {
    bench.run('container', 'create', '--name', name, ...spec)
    return `${bench.run('container', 'mount', name).trim()}/dst`
  }
  const ro = create('ro', '-v', `${source}:/dst:ro`)
  t.equal(readFileSync(`${ro}/sub/file`, 'utf8'), 'submount')
  t.throws(() => writeFileSync(`${ro}/sub/file`, 'x'), { code: 'EROFS' })
  t.throws(() => writeFileSync(`${ro}/new`, 'x'), { code: 'EROFS' })
  const alone = create('alone', '--mount', `type=bind,src=${source},dst=/dst,bind-recursive=disabled`)
  t.notOk(existsSync(`${alone}/sub/file`), 'not recursive: what is below the mount')
  writeFileSync(`${source}/sub/file`, 'the source can still be written to')
  for (const name of ['ro', 'alone']) bench.run('container', 'umount', name)
  run('umount', [`${source}/sub`])
  t.same(leftovers(bench.root), [])
  t.end()
})

t.test('propagation: private keeps later mounts out, slave lets them in, shared both ways', { skip }, t => {
  const bench = new Bench(t)
  const source = bench.tree('source', { 'a/f': '', 'b/f': '' })
  run('mount', ['--bind', source, source])
  run('mount', ['--make-shared', source])
  const create = (name: string, option: string): string => {
    bench.run('container', 'create', '--name', name, '-v', `${source}:/dst${option}`)
    return `${bench.run('container', 'mount', name).trim()}/dst`
  }
  const [own, slave, shared] = [create('own', ''), create('slave', ':rslave'), create('shared', ':rshared')]
  run('mount', ['-t', 'tmpfs', 'tmpfs', `${source}/a`])
  writeFileSync(`${source}/a/late`, '')
  t.notOk(existsSync(`${own}/a/late`))
  t.ok(existsSync(`${slave}/a/late`))
  t.ok(existsSync(`${shared}/a/late`))
  run('mount', ['-t', 'tmpfs', 'tmpfs', `${shared}/b`])
  writeFileSync(`${shared}/b/out`, '')
  t.ok(existsSync(`${source}/b/out`), 'out of the shared one')
  run('umount', [`${shared}/b`])
  run('mount', ['-t', 'tmpfs', 'tmpfs', `${slave}/b`])
  writeFileSync(`${slave}/b/out`, '')
  t.notOk(existsSync(`${source}/b/out`), 'not out of the slave')
  run('umount', [`${slave}/b`])
  run('umount', [`${source}/a`])
  for (const name of ['own', 'slave', 'shared']) bench.run('container', 'umount', name)
  spawnSync('umount', [source])
  const refused = bench.lamina('container', 'create', '--name', 'none', '-v', `${bench.path()}:/dst:rshared`)
  t.equal(refused.status, 0)
  t.match(bench.lamina('container', 'mount', 'none').stderr, /is not on a shared mount/)
  t.same(leftovers(bench.root), [])
  t.end()
})
