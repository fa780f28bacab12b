import {
  chmodSync,
  linkSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { spawnSync } from 'node:child_process'
import { t, type Test } from 'tap'
import { Bench, isRoot, leftovers, manifest, run } from './fixture.js'

/** Snapshots, incremental backups, and what takes them away. */

t.setTimeout(180_000)
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

t.test('--to hands the stream to restic and rclone', { skip }, t => {
  const { bench, data } = withData(t)
  const bin = bench.tree('bin', {
    restic: '#!/bin/sh\nprintf "%s\\n" "$*" > "$OUT/args"; cat > "$OUT/restic.tar"; [ "$FAIL" = "" ]\n',
    rclone: '#!/bin/sh\nprintf "%s\\n" "$*" > "$OUT/args"; cat > "$OUT/rclone.zst"\n',
  })
  for (const name of ['restic', 'rclone']) chmodSync(`${bin}/${name}`, 0o755)
  mkdirSync(bench.path('out'))
  const env = { PATH: `${bin}:${process.env['PATH'] ?? ''}`, OUT: bench.path('out'), FAIL: '' }
  const to = (place: string, more: NodeJS.ProcessEnv = {}) =>
    bench.laminaWith({ env: { ...env, ...more } }, 'volume', 'backup', '--to', place, 'data')
  t.equal(to('restic:/srv/repo').status, 0)
  t.equal(
    readFileSync(bench.path('out/args'), 'utf8'),
    '-r /srv/repo backup --stdin --stdin-filename data.tar --tag lamina\n',
  )
  bench.run('volume', 'restore', bench.path('out/restic.tar'), 'one')
  t.same(manifest(dataOf(bench, 'one')), manifest(data))
  t.equal(to('rclone:remote:backups/').status, 0)
  t.equal(readFileSync(bench.path('out/args'), 'utf8'), 'rcat remote:backups/data.tar.zst\n')
  bench.run('volume', 'restore', bench.path('out/rclone.zst'), 'two')
  t.same(manifest(dataOf(bench, 'two')), manifest(data))
  const failed = to('restic:/srv/repo', { FAIL: '1' })
  t.equal(failed.status, 1)
  t.match(failed.stderr, /restic ended with 1/)
  t.match(to('ftp:somewhere').stderr, /restic:REPOSITORY or rclone/)
  const none = bench.laminaWith(
    { env: { PATH: '/nonexistent' } },
    'volume',
    'backup',
    '--to',
    'rclone:x:y',
    'data',
  )
  if (spawnSync('sh', ['-c', 'command -v rclone']).status !== 0)
    t.match(none.stderr, /rclone is not installed: Debian/)
  t.ok(statSync(data).isDirectory())
  t.same(leftovers(bench.root), [])
  t.end()
})
