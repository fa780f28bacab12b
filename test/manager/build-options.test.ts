import { existsSync, mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { skipBox, withBox } from './box-image.js'
import { Bench, isRoot, lacking, leftovers, run } from './fixture.js'
import { startRegistry } from './oci-tools.js'

/** What `lamina build` takes, and where it sends what it has made. */

const skip = !isRoot && 'needs root'

const tar = (...args: string[]): Buffer =>
  Buffer.from(run('sh', ['-c', 'tar "$@" | base64 -w0', 'sh', ...args]), 'base64')

void t.test('a context on standard input', { skip }, async t => {
  const bench = new Bench(t)
  const context = bench.tree('context', {
    Dockerfile: 'FROM scratch\nCOPY . /d/\n',
    'other/File': 'FROM scratch\nCOPY a /a\n',
    '.dockerignore': '*\n!a\n!owned\n',
    a: 'a',
    owned: 'o',
  })
  run('chown', ['7:8', join(context, 'owned')])
  const build = (input: Buffer | string, ...args: string[]) =>
    bench.laminaWith({ input }, 'build', '-q', '-o', bench.path('out'), ...args)
  const out = (name: string): string => readFileSync(bench.path('out', name), 'utf8')

  await t.test('a tar: its Dockerfile, .dockerignore and owners', async t => {
    const { status, stderr, stdout } = build(tar('-czf', '-', '-C', context, '.'), '-t', 'in', '-')
    t.equal(status, 0, stderr)
    t.equal(out('d/a'), 'a')
    t.notOk(existsSync(bench.path('out/d/Dockerfile')))
    t.match(stdout, /^sha256:[0-9a-f]{64}\n$/)
    t.match(bench.run('image', 'export', 'in').replace(/\0+/g, ' '), /d\/owned 0000644 0000007 0000010/)
  })
  await t.test('-f is in the archive, and stays there', async t => {
    t.equal(build(tar('-cf', '-', '-C', context, '.'), '-f', 'other/File', '-').status, 0)
    t.equal(out('a'), 'a')
    const evil = bench.path('evil')
    mkdirSync(evil)
    writeFileSync(bench.path('secret'), 'FROM scratch\nCOPY --from=hostfile x /\n')
    symlinkSync(bench.path('secret'), join(evil, 'Dockerfile'))
    const refused = build(tar('-cf', '-', '-C', evil, '.'), '-')
    t.equal(refused.status, 1)
    t.match(refused.stderr, /^lamina: no Containerfile or Dockerfile in the archive: name one with -f\n$/)
  })
  await t.test('a Containerfile alone has no context', async t => {
    t.equal(build('FROM scratch\nCOPY <<EOF /x\nyes\nEOF\n', '-').status, 0)
    t.equal(out('x'), 'yes\n')
    t.match(build('FROM scratch\nCOPY a /x\n', '-').stderr, /line 2: this build has no context/)
    t.match(build('FROM scratch\n', '-f', 'x', '-').stderr, /is no archive/)
  })
  await t.test('what is not fetched is refused in one line', async t => {
    for (const url of ['https://example.invalid/a.git', 'git@example.invalid:a', 'github.com/a/b'])
      t.match(build('', url).stderr, /^lamina: .* is not fetched: clone or download it.*\n$/, url)
  })
  t.same(leftovers(bench.root), [])
})

void t.test('--output', { skip }, async t => {
  const bench = new Bench(t)
  const context = bench.tree('context', {
    suid: 'x',
    plain: 'y',
    Containerfile: 'FROM scratch\nCOPY . /d/\n',
  })
  run('chmod', ['6755', join(context, 'suid')])
  run('mknod', [join(context, 'null'), 'c', '1', '3'])
  run('setcap', ['cap_net_raw+ep', join(context, 'plain')])
  bench.run('build', '-q', '-t', 'made', context)

  await t.test('a directory: the files, and nothing that gives them more than the caller has', async t => {
    const made = bench.lamina('build', '-q', '-o', bench.path('dir'), context)
    t.equal(made.status, 0, made.stderr)
    t.match(made.stderr, /device nodes are not exported: 'd\/null' \(1 in all\)/)
    t.equal(statSync(bench.path('dir/d/suid')).mode & 0o7777, 0o755)
    t.notOk(existsSync(bench.path('dir/d/null')))
    t.equal(run('getcap', [bench.path('dir/d/plain')]), '')
    symlinkSync('/nowhere', bench.path('dir/link'))
  })
  await t.test('a tar, on standard output too, with nothing else on it', async t => {
    bench.run('build', '--output', `type=tar,dest=${bench.path('out.tar')}`, context)
    t.match(run('tar', ['-tvf', bench.path('out.tar')]), /rwsr-sr-x 0\/0 .* d\/suid/)
    const { stdout, stderr } = bench.lamina('build', '-o', '-', context)
    t.match(run('tar', ['-t'], { input: Buffer.from(stdout, 'latin1') }), /d\/suid/)
    t.match(stderr, /STEP 1/)
  })
  await t.test('archives of images', { skip: lacking('skopeo') ?? false }, async t => {
    for (const [type, transport] of [
      ['oci', 'oci-archive'],
      ['docker', 'docker-archive'],
    ] as const) {
      const dest = bench.path(`${type}.tar`)
      bench.run('build', '-q', '-t', 'example.com/made:1', '-o', `type=${type},dest=${dest}`, context)
      t.match(run('skopeo', ['inspect', '--config', `${transport}:${dest}`]), /"architecture"/)
    }
  })
  await t.test('mistakes', async t => {
    const says = (spec: string, message: RegExp): void => {
      const { status, stderr } = bench.lamina('build', '--output', spec, context)
      t.equal(status, 2, spec)
      t.match(stderr, message)
    }
    says('type=local', /a directory is missing: dest=DIR/)
    says('type=zip,dest=x', /type is local, tar, oci, docker, image or registry/)
    says('type=tar,bogus=1', /'bogus=1' is none of/)
  })
})

void t.test('--build-context, --pull, --progress, files for programs', { skip }, async t => {
  const bench = new Bench(t)
  const lib = bench.tree('lib', { 'x/y': 'xy', hidden: 'h', '.dockerignore': 'hidden\n' })
  const context = bench.tree('context', { a: 'a' })
  bench.run('image', 'import', bench.tree('rootfs', { base: 'b' }), 'base')
  bench.run('image', 'save', '--format', 'oci-dir', '-o', bench.path('layout'), 'base')
  const build = (file: string, ...args: string[]) =>
    bench.laminaWith({ input: file, cwd: context }, 'build', '-f', '-', '-o', bench.path('out'), ...args)
  const built = (...names: string[]): string[] => names.filter(name => existsSync(bench.path('out', name)))
  const fresh = (): void => void run('rm', ['-rf', bench.path('out')])

  await t.test('a directory, an image, a layout', async t => {
    const made = build(
      `FROM lib AS mine
FROM debian
COPY --from=mine / /mine/
COPY --from=lib x /x/
COPY --from=laid base /laid
`,
      ...['--build-context', `lib=${lib}`, '--build-context', 'debian=docker-image://base'],
      ...['--build-context', `laid=oci-layout://${bench.path('layout')}`, '.'],
    )
    t.equal(made.status, 0, made.stderr)
    t.same(built('base', 'mine/x/y', 'mine/hidden', 'x/y', 'laid'), ['base', 'mine/x/y', 'x/y', 'laid'])
    t.match(build('FROM scratch\n', '--build-context', 'x=/nope', '.').stderr, /\/nope is no directory/)
    t.match(build('FROM scratch\n', '--build-context', 'x=https://a', '.').stderr, /is what it takes/)
  })
  await t.test('--pull without a value, before the context too', async t => {
    fresh()
    const made = build('FROM scratch\nCOPY a /\n', '--pull', '.')
    t.equal(made.status, 0, made.stderr)
    t.same(built('a'), ['a'])
    t.match(build('FROM localhost:1/none\n', '--pull').stderr, /localhost:1/)
    t.match(build('FROM none\n', '--pull', 'never', '.').stderr, /image none is not here/)
    t.match(build('FROM none\n', '--pull=sometimes', '.').stderr, /--pull takes missing, always, never/)
  })
  await t.test('--no-cache-filter, --progress, --iidfile, --metadata-file', async t => {
    const file = 'FROM scratch AS one\nCOPY a /one\nFROM scratch\nCOPY --from=one /one /two\nCOPY a /a\n'
    build(file, '.')
    const { stdout } = build(file, '--progress', 'plain', '--no-cache-filter', 'one', '.')
    t.same(stdout.match(/STEP \S+: (.*)\n {2}CACHED/g)?.length, 2)
    const files = [bench.path('iid'), bench.path('meta')]
    const quiet = build(
      file,
      '--progress=quiet',
      '-t',
      'named',
      '--iidfile',
      files[0] ?? '',
      '--metadata-file',
      files[1] ?? '',
      '.',
    )
    t.equal(quiet.stdout.trim(), readFileSync(files[0] ?? '', 'utf8'))
    t.match(JSON.parse(readFileSync(files[1] ?? '', 'utf8')), {
      'containerimage.config.digest': quiet.stdout.trim(),
      'image.name': 'named',
    })
    t.match(build(file, '--progress', 'tty', '.').stderr, /there is no terminal/)
  })
  await t.test('--cache-to and --cache-from: steps of another store', async t => {
    const file = 'FROM scratch AS one\nCOPY a /one\nFROM scratch\nCOPY --from=one /one /two\nENV x=1\n'
    const cache = bench.path('cache')
    t.equal(build(file, '--cache-to', `type=local,dest=${cache},mode=max`, '.').status, 0)
    const other = new Bench(t)
    const again = other.laminaWith(
      { input: file, cwd: context },
      'build',
      '-f',
      '-',
      '--cache-from',
      `type=local,src=${cache}`,
      '--cache-from',
      `type=local,src=${cache}/no`,
      '.',
    )
    t.equal(again.status, 0, again.stderr)
    t.equal(again.stdout.match(/CACHED/g)?.length, 3, again.stdout)
    t.match(again.stderr, /^lamina: no build cache from .*\/no: .* does not exist\n$/)
    t.same(leftovers(other.root), [])
    for (const [option, place] of [
      ['--cache-from', 'type=gha'],
      ['--cache-to', 'type=inline'],
      ['--cache-to', 'type=local'],
    ] as const)
      t.equal(build(file, option, place, '.').status, 2, place)
  })
})

void t.test('platforms', { skip }, async t => {
  const bench = new Bench(t)
  bench.run('image', 'import', '--platform', 'linux/amd64', bench.tree('amd', { amd: '' }), 'plat:amd')
  bench.run('image', 'import', '--platform', 'linux/arm64', bench.tree('arm', { arm: '' }), 'plat:arm')
  const build = (file: string, ...args: string[]) =>
    bench.laminaWith({ input: file }, 'build', '--pull=never', '-t', 'out', ...args, '-')
  const platform = (): string =>
    bench.run('image', 'inspect', '--format', '{{.os}}/{{.architecture}}', 'out').trim()

  await t.test('an image of another platform is never taken', async t => {
    const says = /^lamina: line \d: image plat:amd is for linux\/amd64, and linux\/arm64 is asked for\n$/
    t.match(build('FROM --platform=linux/arm64 plat:amd\n').stderr, says)
    t.match(build('FROM plat:amd\n', '--platform', 'linux/arm64').stderr, says)
    t.match(build('FROM scratch\nCOPY --from=plat:amd /amd /\n', '--platform', 'linux/arm64').stderr, says)
    t.match(build('FROM scratch\n', '--platform', 'linux/arm64,linux/amd64').stderr, /for one platform/)
  })
  await t.test('the image says its platform; BUILDPLATFORM is of this host', async t => {
    t.equal(build('FROM plat:arm\n').status, 0, 'unasked, what is here')
    t.equal(platform(), 'linux/arm64')
    const cross = build(
      'FROM --platform=$BUILDPLATFORM plat:amd AS tools\nFROM plat:arm\nARG TARGETARCH\nCOPY --from=tools /amd /made-for-$TARGETARCH\n',
      ...['--platform', 'linux/arm64', '-o', bench.path('out')],
    )
    t.equal(cross.status, 0, cross.stderr)
    t.equal(platform(), 'linux/arm64')
    t.ok(existsSync(bench.path('out/made-for-arm64')))
    t.equal(build('FROM scratch\nCOPY <<x /x\nx\n', '--platform', 'linux/arm/v7').status, 0)
    t.equal(platform(), 'linux/arm')
  })
})

void t.test(
  '--push, and a cache in a registry',
  { skip: skip || (lacking('docker-registry') ?? false) },
  async t => {
    const bench = new Bench(t)
    const running = await startRegistry(bench.path('registry'))
    t.teardown(() => running.stop())
    const registry = running.host
    const name = `${registry}/made:1`
    const cache = `${registry}/cache:1`
    const context = bench.tree('context', { a: 'a', Containerfile: 'FROM scratch\nCOPY a /a\n' })
    const made = bench.lamina(
      'build',
      '--push',
      '-t',
      name,
      '--cache-to',
      cache.replace(/^/, 'type=registry,ref='),
      context,
    )
    t.equal(made.status, 0, made.stderr)
    const other = new Bench(t)
    t.match(other.run('build', '--cache-from', cache, context), /CACHED/)
    other.run('image', 'pull', name)
    t.match(other.run('image', 'inspect', '--format', '{{.id}}', name), made.stdout.trim().split('\n').at(-1))
    t.match(bench.lamina('build', '--push', context).stderr, /there is no name to push to/)
  },
)

void t.test('--add-host is in /etc/hosts of RUN, and in the cache key', { skip: skipBox }, async t => {
  const bench = await withBox(t)
  const build = (...args: string[]) =>
    bench.laminaWith({ input: 'FROM box\nRUN cat /etc/hosts\n' }, 'build', ...args, '-')
  t.match(build('--add-host', 'db:192.0.2.7').stdout, /^192\.0\.2\.7\tdb$/m)
  t.match(build('--add-host', 'db:192.0.2.8').stdout, /^192\.0\.2\.8\tdb$/m)
  t.match(build('--add-host', 'db').stderr, /^lamina: .*--add-host "db": write NAME:IP/)
})
