import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { t } from 'tap'
import { Bench, isRoot, leftovers, manifest } from './fixture.js'
import { InProcess } from './in-process.js'

// A loaded machine starts mount(8) and zstd in its own time.

const skip = isRoot ? false : 'needs root'

t.test('a named volume is made once, found again, described, and removed with its data', async t => {
  const bench = new Bench(t)
  const cli = new InProcess(bench)
  t.equal(await cli.run('volume', 'create', '--label', 'app=web', 'data'), 'data\n')
  t.equal(await cli.run('volume', 'create', 'data'), 'data\n')
  const [seen] = JSON.parse(await cli.run('volume', 'inspect', 'data')) as [Record<string, unknown>]
  t.match(seen, { name: 'data', driver: 'local', labels: { app: 'web' }, anonymous: false, usedBy: [] })
  t.ok(existsSync(String(seen['mountpoint'])))
  t.equal(await cli.run('volume', 'rm', 'data'), 'data\n')
  t.notOk(existsSync(String(seen['mountpoint'])))
  const again = await cli.lamina('volume', 'rm', 'data')
  t.equal(again.status, 1)
  t.match(again.stderr, /^lamina: no such volume: data: see 'lamina volume ls'\n$/)
  t.equal((await cli.lamina('volume', 'rm', '-f', 'data')).status, 0)
  t.same(leftovers(bench.root), [])
})

t.test('an anonymous volume has 64 hex digits and is found by some of them', async t => {
  const bench = new Bench(t)
  const cli = new InProcess(bench)
  const name = (await cli.run('volume', 'create')).trim()
  t.match(name, /^[0-9a-f]{64}$/)
  t.equal((await cli.run('volume', 'inspect', '--format', '{{.Name}}', name.slice(0, 12))).trim(), name)
})

t.test('filters, labels, rename, and prune of exactly what was asked', async t => {
  const bench = new Bench(t)
  const cli = new InProcess(bench)
  const anonymous = (await cli.run('volume', 'create')).trim()
  await cli.run('volume', 'create', '-l', 'keep', 'one')
  await cli.run('volume', 'create', '-l', 'tier=gold', 'two')
  const names = async (...args: string[]): Promise<string[]> =>
    (await cli.run('volume', 'ls', '-q', ...args)).split('\n').filter(Boolean)
  t.same(await names('-f', 'label=keep'), ['one'])
  t.same(await names('-f', 'label=tier=gold', '-f', 'name=tw'), ['two'])
  t.same(await names('-f', 'label=tier=silver'), [])
  t.same(await names('-f', 'dangling=false'), [])
  await cli.run('volume', 'update', '-l', 'tier=silver', 'two')
  await cli.run('volume', 'update', '--label-rm', 'keep', '-l', 'x=y', 'one')
  t.same(await names('-f', 'label=tier=silver'), ['two'])
  t.same(await names('-f', 'label=keep'), [])
  await cli.run('volume', 'rename', 'two', 'three')
  t.match((await cli.lamina('volume', 'rename', 'three', 'one')).stderr, /already called one/)
  t.match(await cli.run('volume', 'prune', '--all', '--dry-run'), /one\nthree\nWould free/)
  t.match(await cli.run('volume', 'prune'), new RegExp(`^${anonymous}\\nFreed`))
  t.same(await names(), ['one', 'three'])
  t.match(await cli.run('volume', 'prune', '--all', '--filter', 'label!=x'), /^three\nFreed/)
  t.same(await names(), ['one'])
  t.equal((await cli.lamina('volume', 'ls', '-f', 'colour=red')).status, 2)
})

t.test('what cannot be is refused before anything is made', async t => {
  const bench = new Bench(t)
  const cli = new InProcess(bench)
  for (const [args, said] of [
    [['-o', 'size=1x', 'v1'], /'1x' is not a size/],
    [['-o', 'size=1m', '-o', 'type=tmpfs', '-o', 'device=tmpfs', 'v1'], /'size' limits a plain volume/],
    [['-o', 'colour=red', 'v1'], /'colour' is not an option/],
    [['-o', 'type=tmpfs', 'v1'], /needs 'device' too/],
    [['../up'], /is not a volume name/],
    [['/abs'], /is not a volume name/],
    [['x'], /is not a volume name/],
  ] as const) {
    const { stderr, status } = await cli.lamina('volume', 'create', ...args)
    t.match(stderr, said)
    t.not(status, 0)
  }
  t.equal(await cli.run('volume', 'ls', '-q'), '')
})

t.test('backup and restore keep everything; a damaged or cut backup makes no volume', { skip }, async t => {
  const bench = new Bench(t)
  const cli = new InProcess(bench)
  await cli.run('volume', 'create', '-l', 'a=b', 'data')
  const at = async (name: string): Promise<string> =>
    (await cli.run('volume', 'inspect', '--format', '{{.mountpoint}}', name)).trim()
  execFileSync('sh', [
    '-c',
    `cd "$1"
    chmod 2750 . && chown 12:34 .
    mkdir -p data/deep && echo text > data/deep/file && ln data/deep/file hard && ln -s /etc/passwd link
    truncate -s 8M sparse && printf end >> sparse
    chown 1000:1001 hard && chmod 4711 hard && mkfifo fifo && echo .wh > .wh.kept
    touch -d '2001-02-03 04:05:06.789' data/deep . `,
    'sh',
    await at('data'),
  ])
  const file = bench.path('data.tar.zst')
  await cli.run('volume', 'backup', '-o', file, 'data')
  t.equal(await cli.run('volume', 'restore', file, 'copy'), 'copy\n')
  t.same(manifest(await at('copy')), manifest(await at('data')))
  const stat = (path: string): string =>
    execFileSync('stat', ['-c', '%a %u %g %y', path], { encoding: 'utf8' })
  t.equal(stat(await at('copy')), stat(await at('data')))
  const disk = (path: string): number =>
    Number(execFileSync('du', ['-k', path], { encoding: 'utf8' }).split('\t')[0])
  t.ok(disk(join(await at('copy'), 'sparse')) < 100, 'holes stay holes')
  t.equal((await cli.run('volume', 'inspect', '--format', '{{json .labels}}', 'copy')).trim(), '{"a":"b"}')
  t.match((await cli.lamina('volume', 'restore', file)).stderr, /a volume is already called data/)

  t.equal(await cli.run('volume', 'clone', 'data', 'twin'), 'twin\n')
  t.same(manifest(await at('twin')), manifest(await at('data')))

  const tar = execFileSync('zstd', ['-dc', file])
  const altered = Buffer.from(tar)
  altered[tar.indexOf('text\n')] = 0x54
  writeFileSync(bench.path('altered'), altered)
  t.match(
    (await cli.lamina('volume', 'restore', bench.path('altered'), 'bad')).stderr,
    /checksum does not agree/,
  )
  truncateSync(file, readFileSync(file).length - 20)
  t.not((await cli.lamina('volume', 'restore', file, 'bad')).status, 0)
  writeFileSync(bench.path('other'), 'not a backup')
  t.match(
    (await cli.lamina('volume', 'restore', bench.path('other'), 'bad')).stderr,
    /is no backup of a volume/,
  )
  t.notMatch(await cli.run('volume', 'ls', '-q'), /bad/)
  t.same(leftovers(bench.root), [])
})

t.test(
  'driver options are mount(8)s: bind and tmpfs are mounted while somebody uses them',
  { skip },
  async t => {
    const bench = new Bench(t)
    const cli = new InProcess(bench)
    const source = bench.tree('source', { file: 'there\n' })
    await cli.run('volume', 'create', '-o', 'type=none', '-o', 'o=bind', '-o', `device=${source}`, 'bound')
    await cli.run(
      'volume',
      'create',
      '-o',
      'type=tmpfs',
      '-o',
      'device=tmpfs',
      '-o',
      'o=size=1m,mode=0700',
      'memory',
    )
    await cli.run(
      'volume',
      'create',
      '-o',
      'type=none',
      '-o',
      'o=bind',
      '-o',
      'device=/does/not/exist',
      'broken',
    )
    using store = await bench.open()
    const bound = await store.volumes.acquire('bound', 'plugin:one')
    await store.volumes.acquire('bound', 'plugin:two')
    t.equal(readFileSync(join(bound.mountpoint, 'file'), 'utf8'), 'there\n')
    await t.rejects(store.volumes.remove('bound'), { code: 'in-use' })
    await store.volumes.release('bound', 'plugin:one')
    t.ok(existsSync(join(bound.mountpoint, 'file')), 'the second user keeps it')
    await store.volumes.release('bound', 'plugin:two')
    t.notOk(existsSync(join(bound.mountpoint, 'file')))
    const memory = await store.volumes.acquire('memory', 'plugin:one')
    t.match(
      execFileSync('stat', ['-f', '-c', '%T %b', memory.mountpoint], { encoding: 'utf8' }),
      /^tmpfs 256$/m,
    )
    await store.volumes.release('memory', 'plugin:one')
    await t.rejects(store.volumes.acquire('broken', 'plugin:one'), {
      message: /mount: .*special device \/does\/not\/exist does not exist/,
    })
    t.same(store.volumes.users(store.volumes.find('broken')), [])
    for (const name of ['bound', 'memory', 'broken']) await store.volumes.remove(name)
    t.equal(readFileSync(join(source, 'file'), 'utf8'), 'there\n', 'the device is not the volume to remove')
    t.same(leftovers(bench.root), [])
  },
)
