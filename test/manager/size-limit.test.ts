import {
  closeSync,
  fstatSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  rmdirSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { statfs } from 'node:fs/promises'
import { spawnSync } from 'node:child_process'
import { setTimeout as wait } from 'node:timers/promises'
import { t, type Test } from 'tap'
import { Bench, isRoot, leftovers, PROJECT, run } from './fixture.js'

/** Limits that the daemon keeps: nothing goes beyond, and what it says is used is what du counts. */

const skip = isRoot ? false : 'needs root'
const MB = 1 << 20

interface Mount {
  readonly dir: string
  readonly upper: string
}

function mounted(t: Test, bench: Bench, size: string): Mount {
  bench.tree('lower', { 'dir/file': 'x'.repeat(10_000), large: 'l'.repeat(3 * MB) })
  for (const name of ['upper', 'work', 'merged']) mkdirSync(bench.path(name))
  const dirs = `lowerdir=${bench.path('lower')},upperdir=${bench.path('upper')},workdir=${bench.path('work')}`
  bench.run('mount', '-o', `${dirs},size=${size}`, bench.path('merged'))
  t.teardown(() => spawnSync('umount', ['-l', bench.path('merged')]))
  return { dir: bench.path('merged'), upper: bench.path('upper') }
}

const du = (dir: string): number => Number(run('du', ['-s', '-B1', dir]).split('\t')[0])

async function used(dir: string): Promise<number> {
  const { blocks, bfree, bsize } = await statfs(dir)
  return (blocks - bfree) * bsize
}

/** FORGETs arrive a moment after the last user of an object has gone. */
async function agrees(t: Test, mount: Mount, what: string): Promise<void> {
  for (let tries = 0; tries < 100 && (await used(mount.dir)) !== du(mount.upper); tries += 1) await wait(20)
  t.equal(await used(mount.dir), du(mount.upper), what)
}

/** The error's code. */
function codeOf(action: () => void): string | undefined {
  try {
    action()
    return undefined
  } catch (error) {
    return (error as NodeJS.ErrnoException).code
  }
}

/** Writes until it is full; bytes written. */
function fill(path: string): number {
  const fd = openSync(path, 'a')
  const chunk = Buffer.alloc(256 * 1024, 'f')
  let done = 0
  try {
    for (;;) done += writeSync(fd, chunk)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
    return done
  } finally {
    closeSync(fd)
  }
}

t.test('every change counts, and none goes beyond', { skip }, async t => {
  const bench = new Bench(t)
  const mount = mounted(t, bench, '16m')
  const at = (name: string): string => `${mount.dir}/${name}`
  t.equal((await statfs(mount.dir)).blocks * 4096, 16 * MB, 'df shows the limit')

  const room = fill(at('big'))
  t.ok(room > 15.9 * MB && room <= 16 * MB, `${room} bytes fit`)
  await agrees(t, mount, 'full')
  t.equal(
    codeOf(() => writeFileSync(at('more'), 'x'.repeat(5000))),
    'ENOSPC',
  )
  t.equal(
    codeOf(() => mkdirSync(at('newdir'))),
    'ENOSPC',
  )
  t.equal(
    codeOf(() => truncateSync(at('large'), 3 * MB - 1)),
    'ENOSPC',
    'no room to copy it up',
  )
  const fd = openSync(at('big'), 'r+')
  t.equal(writeSync(fd, Buffer.alloc(MB, 'o'), 0, MB, 0), MB, 'what has its room already can be overwritten')
  closeSync(fd)

  const held = openSync(at('big'), 'r')
  unlinkSync(at('big'))
  t.equal(
    codeOf(() => writeFileSync(at('more'), 'x'.repeat(5000))),
    'ENOSPC',
    'it is open still',
  )
  t.equal(fstatSync(held).size, room)
  closeSync(held)
  await agrees(t, mount, 'the last one closed it')

  writeFileSync(at('a'), Buffer.alloc(4 * MB, 'a'))
  linkSync(at('a'), at('b'))
  await agrees(t, mount, 'a hard link takes nothing')
  unlinkSync(at('a'))
  await agrees(t, mount, 'one name of two')
  truncateSync(at('b'), MB)
  await agrees(t, mount, 'truncated')
  truncateSync(at('b'), 512 * MB)
  await agrees(t, mount, 'a hole takes nothing')
  t.equal(spawnSync('fallocate', ['-l', '32M', at('b')]).status, 1, 'room for the hole is refused')
  run('fallocate', ['-l', '6M', at('c')])
  await agrees(t, mount, 'fallocate')
  run('fallocate', ['-p', '-o', '1M', '-l', '2M', at('c')])
  await agrees(t, mount, 'punched')
  writeFileSync(at('dir/file'), 'appended', { flag: 'a' })
  await agrees(t, mount, 'copied up, with its directory')
  run('cp', ['--reflink=never', at('large'), at('copy')])
  await agrees(t, mount, 'copy_file_range')
  renameSync(at('copy'), at('c'))
  await agrees(t, mount, 'renamed over another')
  symlinkSync('y'.repeat(200), at('link'))
  for (let i = 0; i < 300; i += 1) writeFileSync(at(`dir/some-longer-name-${i}`), String(i))
  await agrees(t, mount, 'many small files, and the directory that grew')
  rmSync(at('dir'), { recursive: true })
  await agrees(t, mount, 'a tree removed')
  mkdirSync(at('empty'))
  rmdirSync(at('empty'))
  run('setfattr', ['-n', 'user.big', '-v', 'v'.repeat(2000), at('b')])
  await agrees(t, mount, 'attributes')
  run('mv', [at('large'), at('moved')])
  rmSync(at('moved'))
  await agrees(t, mount, 'a lower file moved and removed')
})

t.test('data written through a mapping counts, and is refused at the sync', { skip }, async t => {
  const bench = new Bench(t)
  const mount = mounted(t, bench, '8m')
  const script = `
import mmap, os, sys
f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.ftruncate(f, 32 << 20)
m = mmap.mmap(f, 32 << 20)
m[0:1 << 20] = b'x' * (1 << 20)
m.flush()
m[0:32 << 20] = b'y' * (32 << 20)
try:
  m.flush()
  os.fsync(f)
  print('no error')
except OSError as e:
  print(e.errno)
os._exit(0)`
  t.equal(run('python3', ['-c', script, `${mount.dir}/mapped`]).trim(), '28')
  t.ok((await used(mount.dir)) <= 8 * MB)
  t.ok(du(mount.upper) <= 8 * MB)
  await agrees(t, mount, 'mapped')
})

t.test('many writers at once get no more than there is', { skip }, async t => {
  const bench = new Bench(t)
  const mount = mounted(t, bench, '24m')
  const script =
    'for i in 1 2 3 4 5 6; do dd if=/dev/zero of="$1/$i" bs=300k count=40 2>/dev/null & done; wait'
  run('sh', ['-c', script, 'sh', mount.dir])
  await agrees(t, mount, 'written')
  t.ok(du(mount.upper) <= 24 * MB)
  t.ok(du(mount.upper) > 23 * MB, 'and all of it')
})

t.test('after kill -9 the next mount counts anew', { skip }, async t => {
  const bench = new Bench(t)
  const mount = mounted(t, bench, '16m')
  writeFileSync(`${mount.dir}/kept`, Buffer.alloc(5 * MB, 'k'))
  run('sync', ['-f', mount.dir])
  const mounts = JSON.parse(bench.run('mounts', '--format', 'json')) as { mountpoint: string; pid: number }[]
  const { pid } = mounts.find(one => one.mountpoint === mount.dir) ?? { pid: 0 }
  process.kill(pid, 'SIGKILL')
  run('umount', ['-l', mount.dir])
  const dirs = `lowerdir=${bench.path('lower')},upperdir=${bench.path('upper')},workdir=${bench.path('work')}`
  bench.run('mount', '-o', `${dirs},size=16m`, mount.dir)
  await agrees(t, mount, 'counted')
  t.ok((await used(mount.dir)) >= 5 * MB)
})

t.test('options that do not go together are refused in one line', { skip }, t => {
  const bench = new Bench(t)
  bench.tree('lower', { f: 'f' })
  for (const name of ['upper', 'work', 'merged']) mkdirSync(bench.path(name))
  const dirs = `lowerdir=${bench.path('lower')},upperdir=${bench.path('upper')},workdir=${bench.path('work')}`
  for (const [options, said] of [
    [`lowerdir=${bench.path('lower')},size=1m`, /there is none/],
    [`${dirs},size=1m,io=passthrough`, /io=passthrough/],
    [`${dirs},size=1m,writeback=1`, /writeback/],
    [`${dirs},size=many`, /expected bytes/],
  ] as const) {
    const { status, stderr } = bench.lamina('mount', '-o', options, bench.path('merged'))
    t.not(status, 0)
    t.match(stderr, said)
    t.equal(stderr.split('\n').length, 2)
  }
  t.end()
})

t.test('an upper that is deeper than there are descriptors', { skip }, async t => {
  const bench = new Bench(t)
  for (const name of ['lower', 'upper', 'work', 'merged']) mkdirSync(bench.path(name))
  mkdirSync(bench.path(`upper/${'d/'.repeat(1500)}`), { recursive: true })
  const dirs = `lowerdir=${bench.path('lower')},upperdir=${bench.path('upper')},workdir=${bench.path('work')}`
  const mount = [process.execPath, `${PROJECT}/bin/lamina.js`, 'mount', '-o', `${dirs},size=64m`]
  run('prlimit', ['--nofile=1024:1024', ...mount, bench.path('merged')])
  t.teardown(() => spawnSync('umount', ['-l', bench.path('merged')]))
  t.equal(await used(bench.path('merged')), du(bench.path('upper')))
})

t.test('--storage-opt size= of a container, -o size= of a volume', { skip }, async t => {
  const bench = new Bench(t)
  bench.run('image', 'import', bench.tree('tree', { 'data/seed': 'seed', f: 'f' }), 'img')
  bench.run('volume', 'create', '-o', 'size=8m', 'small')
  bench.run('container', 'create', '--name', 'one', '--storage-opt', 'size=12m', '-v', 'small:/data', 'img')
  const root = bench.run('container', 'mount', 'one').trim()
  t.equal((await statfs(root)).blocks * 4096, 12 * MB)
  t.equal((await statfs(`${root}/data`)).blocks * 4096, 8 * MB)
  t.equal(readFileSync(`${root}/data/seed`, 'utf8'), 'seed', 'a new volume takes the content of the image')
  t.ok(fill(`${root}/big`) < 12 * MB)
  t.ok(fill(`${root}/data/big`) < 8 * MB)
  const df = JSON.parse(bench.run('volume', 'df', '--format', 'json')) as { name: string; bytes: number }[]
  t.ok(Math.abs((df[0]?.bytes ?? 0) - 8 * MB) < 8192, 'known without a walk')
  t.match(bench.lamina('volume', 'rm', 'small').stderr, /used by container one/)
  bench.run('container', 'umount', 'one')
  t.same(leftovers(bench.root), [])

  bench.run('volume', 'clone', 'small', 'copy')
  t.match(bench.run('volume', 'inspect', 'copy'), /"size": "8m"/)
  bench.run('volume', 'backup', 'small', '-o', bench.path('backup'))
  bench.run('volume', 'restore', bench.path('backup'), 'large')
  t.same(leftovers(bench.root), [])

  // Its daemon is killed: the next mount brings it back.
  bench.run('container', 'mount', 'one')
  const mounts = JSON.parse(bench.run('mounts', '--format', 'json')) as { mountpoint: string; pid: number }[]
  const daemon = mounts.find(
    one => one.mountpoint.endsWith('/_data') && one.mountpoint.startsWith(bench.root),
  )
  process.kill(daemon?.pid ?? 0, 'SIGKILL')
  await wait(100)
  bench.run('container', 'mount', 'one')
  t.equal(readFileSync(`${root}/data/seed`, 'utf8'), 'seed')
  bench.run('container', 'umount', '--all', 'one')
  bench.run('container', 'rm', 'one')
  bench.run('volume', 'rm', 'small', 'copy', 'large')
  t.same(leftovers(bench.root), [])

  const refused = bench.laminaWith(
    { env: { LAMINA_STORAGE_DRIVER: 'vfs' } },
    'container',
    'create',
    '--storage-opt',
    'size=1g',
    'img',
  )
  t.match(refused.stderr, /storage driver vfs cannot do --storage-opt size=: only fuse can/)
  t.match(bench.lamina('container', 'create', '--storage-opt', 'quota=1', 'img').stderr, /only size=BYTES/)
})
