import { randomBytes } from 'node:crypto'
import {
  chmodSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { spawnSync } from 'node:child_process'
import { setTimeout as wait } from 'node:timers/promises'
import { t, type Test } from 'tap'
import { parseDestination } from '../../src/manager/volumes/send-to.js'
import { Bench, isRoot, lacking, leftovers, manifest, run } from './fixture.js'

/** Snapshots, incremental backups, and what takes them away. */

const skip = isRoot ? false : 'needs root'

function dataOf(bench: Bench, name: string): string {
  return bench.run('volume', 'inspect', '--format', '{{.mountpoint}}', name).trim()
}

function withData(t: Test): { bench: Bench; data: string } {
  const bench = new Bench(t)
  bench.run('volume', 'create', 'data')
  const data = dataOf(bench, 'data')
  mkdirSync(`${data}/dir/deep`, { recursive: true })
  writeFileSync(`${data}/dir/deep/file`, 'one')
  writeFileSync(`${data}/keep`, 'kept')
  writeFileSync(`${data}/gone`, 'gone')
  writeFileSync(`${data}/.wh.name`, 'not a whiteout here')
  writeFileSync(`${data}/linked`, 'linked')
  linkSync(`${data}/linked`, `${data}/dir/second`)
  symlinkSync('keep', `${data}/link`)
  writeFileSync(Buffer.from(`${data}/\xff\xfe`, 'latin1'), 'bytes')
  return { bench, data }
}

t.test('a chain of incremental backups restores each state exactly', { skip }, t => {
  const { bench, data } = withData(t)
  const backup = (file: string, ...options: string[]): void => {
    bench.run('volume', 'backup', ...options, '-o', bench.path(file), 'data')
  }
  backup('mon', '--snapshot', 'mon')
  const monday = manifest(data)

  rmSync(`${data}/gone`)
  writeFileSync(`${data}/dir/deep/file`, 'two')
  writeFileSync(`${data}/linked`, 'linked anew')
  rmSync(`${data}/link`)
  mkdirSync(`${data}/link`)
  writeFileSync(`${data}/link/inside`, '')
  chmodSync(`${data}/keep`, 0o600)
  backup('tue', '--since', 'mon', '--snapshot', 'tue')
  const tuesday = manifest(data)

  rmSync(`${data}/dir`, { recursive: true })
  writeFileSync(`${data}/dir`, 'a file now')
  renameSync(`${data}/keep`, `${data}/kept`)
  rmSync(`${data}/.wh.name`)
  utimesSync(`${data}/kept`, 1, 1)
  truncateSync(`${data}/linked`, 100_000)
  backup('wed', '--since', 'tue')
  const wednesday = manifest(data)

  bench.run('volume', 'restore', bench.path('mon'), 'r-mon')
  t.same(manifest(dataOf(bench, 'r-mon')), monday)
  bench.run('volume', 'restore', bench.path('mon'), 'r-tue', '--then', bench.path('tue'))
  t.same(manifest(dataOf(bench, 'r-tue')), tuesday)
  bench.run(
    'volume',
    'restore',
    bench.path('mon'),
    'r-wed',
    '--then',
    bench.path('tue'),
    '--then',
    bench.path('wed'),
  )
  t.same(manifest(dataOf(bench, 'r-wed')), wednesday)
  t.equal(readFileSync(`${dataOf(bench, 'r-wed')}/dir`, 'utf8'), 'a file now')

  const wrong = (...words: string[]): string => {
    const { status, stderr } = bench.lamina('volume', ...words)
    t.not(status, 0)
    t.equal(stderr.split('\n').length, 2, 'one line')
    return stderr
  }
  t.match(wrong('restore', bench.path('tue'), 'x'), /--then FILE/)
  t.match(wrong('restore', bench.path('mon'), 'xx', '--then', bench.path('wed')), /in their order/)
  const bytes = readFileSync(bench.path('tue'))
  writeFileSync(bench.path('cut'), bytes.subarray(0, bytes.length - 40))
  wrong('restore', bench.path('mon'), 'xx', '--then', bench.path('cut'))
  t.match(wrong('backup', '--since', 'never', '-o', bench.path('y'), 'data'), /no snapshot never/)
  t.match(wrong('backup', '--snapshot', 'mon', '-o', bench.path('y'), 'data'), /snapshot mon already/)
  t.notMatch(bench.run('volume', 'ls'), /\bxx\b/, 'nothing half made')
  t.same(leftovers(bench.root), [])
  t.end()
})

t.test('snapshots stand still, are listed and removed', { skip }, t => {
  const { bench, data } = withData(t)
  bench.run('volume', 'snapshot', 'create', 'data', 'first')
  const before = manifest(data)
  writeFileSync(`${data}/keep`, 'changed')
  const list = JSON.parse(bench.run('volume', 'snapshot', 'ls', '--format', 'json', 'data')) as {
    name: string
    path: string
  }[]
  t.same(
    list.map(one => one.name),
    ['first'],
  )
  t.same(manifest(list[0]?.path ?? ''), before)
  t.match(bench.lamina('volume', 'snapshot', 'create', 'data', '../up').stderr, /not a volume name/)
  bench.run('volume', 'snapshot', 'rm', 'data', 'first')
  t.equal(bench.run('volume', 'snapshot', 'ls', '--format', '{{.name}}', 'data'), '')
  t.match(bench.lamina('volume', 'snapshot', 'rm', 'data', 'first').stderr, /no snapshot first/)
  bench.run('volume', 'rm', 'data')
  t.same(leftovers(bench.root), [])
  t.end()
})

t.test('a volume in use is refused, or its filesystem frozen where that can be', { skip }, t => {
  const { bench } = withData(t)
  bench.run('container', 'create', '--name', 'c1', '-v', 'data:/data')
  bench.run('container', 'mount', 'c1')
  const out = bench.path('out')
  t.match(bench.lamina('volume', 'backup', '-o', out, 'data').stderr, /may be written to/)
  t.match(
    bench.lamina('volume', 'backup', '--freeze', '-o', out, 'data').stderr,
    /cannot be frozen: it lies on the store's own/,
  )
  bench.run('volume', 'backup', '--live', '-o', out, 'data')
  bench.run('container', 'umount', 'c1')

  // A volume that is a filesystem of its own.
  writeFileSync(bench.path('disk'), '')
  truncateSync(bench.path('disk'), 16 << 20)
  run('mkfs.ext4', ['-q', bench.path('disk')])
  const options = ['-o', 'type=ext4', '-o', 'o=loop', '-o', `device=${bench.path('disk')}`]
  bench.run('volume', 'create', ...options, 'own')
  bench.run('container', 'create', '--name', 'c2', '-v', 'own:/own')
  const root = bench.run('container', 'mount', 'c2').trim()
  writeFileSync(`${root}/own/file`, 'written')
  bench.run('volume', 'backup', '--freeze', '-o', out, 'own')
  writeFileSync(`${root}/own/after`, 'thawed')
  bench.run('container', 'umount', 'c2')
  bench.run('volume', 'restore', out, 'restored')
  t.equal(readFileSync(`${dataOf(bench, 'restored')}/file`, 'utf8'), 'written')
  t.same(leftovers(bench.root), [])
  t.end()
})

t.test('--to restic', { skip: skip || lacking('restic') || false }, t => {
  const { bench, data } = withData(t)
  const repository = bench.path('repository')
  const env = { RESTIC_PASSWORD: 'x', RESTIC_CACHE_DIR: bench.path('cache') }
  const restic = (...args: string[]) =>
    spawnSync('restic', ['-r', repository, ...args], { env: { ...process.env, ...env }, maxBuffer: 1 << 28 })
  const backup = () => bench.laminaWith({ env }, 'volume', 'backup', '--to', `restic:${repository}`, 'data')
  const failed = backup()
  t.equal(failed.status, 1)
  t.match(failed.stderr, /\nlamina: restic ended with \d+; see its message above\n$/)
  t.equal(restic('init').status, 0)
  for (const content of ['first', 'second']) {
    writeFileSync(`${data}/content`, content)
    const { status, stderr } = backup()
    t.equal(status, 0, stderr)
  }
  const snapshots = JSON.parse(restic('snapshots', '--json').stdout.toString()) as { id: string }[]
  t.equal(snapshots.length, 2)
  writeFileSync(bench.path('dumped'), restic('dump', snapshots[0]?.id ?? '', 'data.tar').stdout)
  bench.run('volume', 'restore', bench.path('dumped'), 'one')
  t.equal(readFileSync(`${dataOf(bench, 'one')}/content`, 'utf8'), 'first')
  const { stdout: latest } = restic('dump', 'latest', 'data.tar')
  const { status, stderr } = bench.laminaWith({ input: latest }, 'volume', 'restore', '-', 'two')
  t.equal(status, 0, stderr)
  t.same(manifest(dataOf(bench, 'two')), manifest(data))
  t.equal(restic('check').status, 0)
  t.same(leftovers(bench.root), [])
  t.end()
})

t.test('--to rclone', { skip: skip || lacking('rclone') || false }, t => {
  const { bench, data } = withData(t)
  const remote = bench.tree('remote', {})
  mkdirSync(remote)
  bench.tree('.', { 'rclone.conf': '[here]\ntype = local\n' })
  const env = { RCLONE_CONFIG: bench.path('rclone.conf') }
  const backup = (place: string) => bench.laminaWith({ env }, 'volume', 'backup', '--to', place, 'data')
  for (const place of [`rclone:here:${remote}/`, `rclone:here:${remote}/named`]) {
    const { status, stderr } = backup(place)
    t.equal(status, 0, stderr)
  }
  t.same(readdirSync(remote).sort(), ['data.tar.zst', 'named'])
  for (const name of readdirSync(remote)) {
    bench.run('volume', 'restore', `${remote}/${name}`, name)
    t.same(manifest(dataOf(bench, name)), manifest(data))
  }
  const failed = backup('rclone:elsewhere:x')
  t.equal(failed.status, 1)
  t.match(failed.stderr, /\nlamina: rclone ended with \d+; see its message above\n$/)
  t.match(backup('ftp:somewhere').stderr, /restic:REPOSITORY or rclone/)
  t.same(leftovers(bench.root), [])
  t.end()
})

t.test('a backup that fails half way is none, and spares the one before', { skip }, async t => {
  const bench = new Bench(t)
  const remote = bench.tree('remote', { file: 'the one before' })
  bench.tree('.', { 'rclone.conf': '[here]\ntype = local\n' })
  const repository = bench.path('repository')
  const env = {
    RCLONE_CONFIG: bench.path('rclone.conf'),
    RESTIC_PASSWORD: 'x',
    RESTIC_CACHE_DIR: bench.path('cache'),
  }
  for (const [name, value] of Object.entries(env)) process.env[name] = value
  t.teardown(() => Object.keys(env).forEach(name => delete process.env[name]))
  async function* broken(): AsyncGenerator<Uint8Array, void, void> {
    for (let i = 0; i < 40; i += 1) yield randomBytes(1 << 20)
    await wait(300)
    throw new Error('the disk is broken')
  }
  const send = (place: string) => parseDestination(place).send(broken(), 'data')
  await t.test('restic', { skip: lacking('restic') ?? false }, async t => {
    run('restic', ['-r', repository, 'init'])
    await t.rejects(send(`restic:${repository}`), /the disk is broken/)
    t.equal(run('restic', ['-r', repository, 'snapshots', '--json']).trim(), '[]')
    t.equal(run('restic', ['-r', repository, 'list', 'locks']), '')
  })
  await t.test('rclone', { skip: lacking('rclone') ?? false }, async t => {
    await t.rejects(send(`rclone:here:${remote}/file`), /the disk is broken/)
    t.same(readdirSync(remote), ['file'])
    t.equal(readFileSync(`${remote}/file`, 'utf8'), 'the one before')
  })
})
