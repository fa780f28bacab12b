import { existsSync, mkdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import t from 'tap'
import { createContainer, parseVolumeFlag } from '../../src/manager/index.js'
import { Bench, isRoot, lacking, leftovers, manifest, run } from './fixture.js'

/** The commands as a user types them. */

const skip = !isRoot && 'needs root'

function sha256(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex')
}

/** A tree with the things that layers are about. */
function sampleTree(bench: Bench, name = 'tree'): string {
  const dir = bench.tree(name, {
    'bin/sh': '#!',
    'etc/passwd': 'root:x:0:0::/root:/bin/sh\nweb:x:33:33::/:/x\n',
    'etc/group': 'root:x:0:\nweb:x:33:\n',
    'a/b/c': 'deep',
  })
  run('sh', [
    '-c',
    `cd "$1" && ln a/b/c hard && ln -s a/b soft && mkfifo fifo && mknod null c 1 3 && truncate -s 1M sparse && printf x | dd of=sparse bs=1 seek=500000 conv=notrunc status=none && setfattr -n user.k -v v a/b/c && setfacl -m u:33:r a/b/c && chown 1000:1000 a && chmod 4755 bin/sh && touch -d '2001-02-03 04:05:06.789012345' a/b/c && : > "$(printf 'bad\\377name')"`,
    'sh',
    dir,
  ])
  return dir
}

void t.test('layers: create, ls, tree, inspect, diff, export, verify, rm', { skip }, t => {
  const bench = new Bench(t)
  const dir = sampleTree(bench)
  const chain = bench.run('layer', 'create', dir).trim()
  t.match(chain, /^sha256:[0-9a-f]{64}$/)
  t.equal(bench.run('layer', 'create', dir).trim(), chain, 'the same tree is the same layer')
  t.equal(bench.run('layer', 'ls', '-q').trim(), chain, 'and stored once')
  const upper = bench.tree('upper', { 'a/new': 'n' })
  writeFileSync(join(upper, 'a/.wh.b'), '')
  const top = bench.run('layer', 'create', '--parent', chain.slice(7, 19), upper).trim()
  t.equal(bench.run('layer', 'diff', top), 'C /a\nD /a/b\nA /a/new\n')
  t.match(bench.run('layer', 'tree'), /^[0-9a-f]{12} .*\n└─ [0-9a-f]{12} /)
  const [inspected] = JSON.parse(bench.run('layer', 'inspect', top)) as [
    { parent: string; depth: number; path: string },
  ]
  t.equal(inspected.parent, chain)
  t.equal(inspected.depth, 2)
  bench.run('layer', 'export', '-o', bench.path('out.tar'), chain)
  t.equal(`sha256:${sha256(bench.path('out.tar'))}`, chain, 'the tar has the digest')
  const other = new Bench(t)
  t.equal(other.run('layer', 'import', bench.path('out.tar')).trim(), chain)
  const unpacked = other.path('unpacked')
  mkdirSync(unpacked)
  run('tar', ['--xattrs', '--acls', '-xpf', bench.path('out.tar'), '-C', unpacked])
  t.same(manifest(unpacked), manifest(dir), 'and another tar reads the same tree from it')
  t.match(bench.run('layer', 'verify'), /^[0-9a-f]{12} +ok\n[0-9a-f]{12} +ok\n$/)
  const used = bench.lamina('layer', 'rm', chain)
  t.equal(used.status, 1)
  t.match(
    used.stderr,
    /^lamina: layer [0-9a-f]{12} is used by layer [0-9a-f]{12}: remove what uses it first\n$/,
  )
  bench.run('layer', 'rm', top, chain)
  t.equal(bench.run('layer', 'ls', '-q'), '')
  t.same(leftovers(bench.root), [])
  t.end()
})

void t.test('a layer comes from standard input, and a wrong digest leaves nothing', { skip }, t => {
  const bench = new Bench(t)
  const tar = bench.path('l.tar')
  run('tar', ['-C', sampleTree(bench), '-cf', tar, '.'])
  const digest = `sha256:${sha256(tar)}`
  const made = bench.laminaWith({ input: readFileSync(tar) }, 'layer', 'create', '-')
  t.equal(made.stdout.trim(), digest, made.stderr)
  run('gzip', ['-k', tar])
  t.equal(bench.run('layer', 'create', `${tar}.gz`).trim(), digest, 'compressed, it is the same layer')
  const wrong = bench.lamina('layer', 'create', '--diff-id', `sha256:${'0'.repeat(64)}`, tar)
  t.equal(wrong.status, 1)
  t.match(wrong.stderr, /^lamina: .*expected sha256:0000.*\n$/)
  const cut = bench.laminaWith({ input: readFileSync(tar).subarray(0, 3000) }, 'layer', 'create', '-')
  t.equal(cut.status, 1)
  t.equal(cut.stderr.trim().split('\n').length, 1)
  t.equal(bench.run('layer', 'ls', '-q').trim(), digest)
  t.same(leftovers(bench.root), [])
  t.end()
})

void t.test(
  'images: import, ls, tag, history, inspect, diff, save and load in every form, rm',
  { skip },
  t => {
    const bench = new Bench(t)
    const dir = sampleTree(bench)
    const id = bench
      .run('image', 'import', '-c', 'CMD ["/bin/sh"]', '-c', 'ENV A=b', '-m', 'first', dir, 'app:1')
      .trim()
    bench.run('image', 'tag', 'app:1', 'registry.example.com/team/app:2')
    t.same(bench.run('image', 'ls', '--format', '{{.name}}').trim().split('\n').sort(), [
      'app:1',
      'registry.example.com/team/app:2',
    ])
    t.equal(
      bench.run('image', 'inspect', '--format', '{{json .config.Cmd}} {{.id}}', 'app:1').trim(),
      `["/bin/sh"] ${id}`,
    )
    t.match(bench.run('image', 'history', 'app:1'), /lamina image import.*first/)
    const upper = bench.tree('upper', { 'etc/new': '1' })
    bench.run('commit', '--base', 'app:1', upper, 'app:3')
    t.equal(bench.run('image', 'diff', 'app:1', 'app:3'), 'A /etc/new\n')
    for (const [format, compression] of [
      ['docker-archive', 'plain'],
      ['oci-archive', 'plain'],
      ['oci-archive', 'gzip'],
      ['oci-archive', 'zstd'],
      ['oci-dir', 'gzip'],
    ] as const) {
      const out = bench.path(`out-${format}-${compression}`)
      bench.run(
        'image',
        'save',
        '--format',
        format,
        '--compression',
        compression,
        '-o',
        out,
        'app:1',
        'app:3',
      )
      const other = new Bench(t)
      t.match(other.run('image', 'load', out), /Loaded image: .*app:1/, format)
      t.same(
        other.run('image', 'ls', '--format', '{{.name}} {{.id}}'),
        bench.run('image', 'ls', 'app', '--format', '{{.name}} {{.id}}'),
        format,
      )
      other.run('image', 'save', '-o', other.path('again'), 'app:1')
      bench.run('image', 'save', '-o', bench.path('again'), 'app:1')
      t.equal(sha256(other.path('again')), sha256(bench.path('again')), 'saved again it is the same archive')
      t.equal(other.lamina('system', 'check', '--content').status, 0)
      if (format === 'docker-archive') {
        const piped = new Bench(t)
        t.equal(piped.laminaWith({ input: readFileSync(out) }, 'image', 'load').status, 0, 'also from a pipe')
      }
    }
    const ambiguous = bench.lamina('image', 'rm', id.slice(7, 19))
    t.match(ambiguous.stderr, /has 2 names: .*remove by name, or all with --force/)
    t.match(bench.run('image', 'rm', 'app:1'), /^Untagged: app:1\n$/)
    t.match(bench.run('image', 'rm', 'registry.example.com/team/app:2', 'app:3'), /Deleted: sha256:/)
    t.equal(bench.run('layer', 'ls', '-q'), '')
    t.end()
  },
)

void t.test('the same tree gives the same image with SOURCE_DATE_EPOCH', { skip }, t => {
  const one = new Bench(t)
  const two = new Bench(t)
  const env = { SOURCE_DATE_EPOCH: '1000000000' }
  const ids = [one, two].map(
    bench => bench.laminaWith({ env }, 'image', 'import', sampleTree(bench), 'x').stdout,
  )
  t.equal(ids[0], ids[1])
  t.match(ids[0], /^sha256:/)
  t.end()
})

void t.test('prune and df: what is unused goes, what is used stays', { skip }, async t => {
  const bench = new Bench(t)
  for (const name of ['one', 'two'])
    bench.run('image', 'import', bench.tree(name, { [name]: name.repeat(1000) }), name)
  bench.run('image', 'tag', 'two', 'one')
  const store = await bench.open()
  await store.containers.create({ image: 'two', name: 'user' })
  const { mountpoint } = await store.volumes.create({ name: 'unused' })
  writeFileSync(join(mountpoint, 'file'), '0123456789')
  await createContainer(store, { name: 'other', mounts: [parseVolumeFlag('used:/x')] })
  store.close()
  const usage = JSON.parse(bench.run('system', 'df', '--format', 'json')) as {
    images: object
    volumes: object
    perVolume: { size: number }[]
  }
  t.match(usage.images, { count: 2, active: 1, size: 6000, reclaimable: 3000 })
  const [unused = { size: 0 }, used = { size: 0 }] = usage.perVolume
  t.match(usage.perVolume, [
    { name: 'unused', users: 0 },
    { name: 'used', users: 1 },
  ])
  t.ok(unused.size > used.size, 'as du counts: blocks')
  t.match(usage.volumes, {
    count: 2,
    active: 1,
    size: unused.size + used.size,
    reclaimable: unused.size,
  })
  t.match(bench.run('system', 'df', '-v'), /\nVolumes +2 +1 .* kB .*\n[^]*\nunused +0 .* kB\n/)
  t.match(bench.run('image', 'prune', '--dry-run'), /Would free 3.00 kB/)
  t.match(bench.run('image', 'prune'), /Freed 3.00 kB/)
  t.match(bench.run('image', 'prune', '--all'), /Freed 0 B/)
  t.match(bench.lamina('image', 'rm', '-f', 'two', 'one').stderr, /is used by container user/)
  t.equal(bench.lamina('system', 'check').status, 0)
})

void t.test(
  'check finds orphans, missing and altered layers, dead mounts, and repairs them',
  { skip },
  async t => {
    const bench = new Bench(t)
    bench.run('image', 'import', sampleTree(bench), 'app')
    bench.run('image', 'import', bench.tree('second', { file: '1234' }), 'second')
    const pathOf = (name: string): string =>
      bench.run('image', 'inspect', '--format', '{{json .layers}}', name).match(/"path":"([^"]+)"/)?.[1] ?? ''
    mkdirSync(join(bench.root, 'layers/stranger/diff'), { recursive: true })
    writeFileSync(join(pathOf('second'), 'file'), '4321')
    rmSync(pathOf('app'), { recursive: true })
    const store = await bench.open()
    store.db.run(
      "INSERT INTO mounts (target, kind, driver, users, boot, created) VALUES ('/nowhere', 'image', 'vfs', 1, ?, 0)",
      readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim(),
    )
    store.close()
    const problems = JSON.parse(bench.lamina('system', 'check', '--format', 'json').stdout) as {
      kind: string
      name: string
      problem: string
    }[]
    t.same(problems.map(({ kind, problem }) => `${kind}: ${problem}`).sort(), [
      'layer: a directory that nothing refers to',
      'layer: its directory is missing',
      'layer: names, sizes, modes, owners or times in it were altered',
      'mount: recorded and not mounted',
    ])
    t.equal(bench.lamina('system', 'check').status, 1)
    t.equal(bench.lamina('system', 'check', '--repair').status, 0)
    t.match(bench.run('system', 'check'), 'Nothing is wrong.')
    t.equal(bench.run('image', 'ls', '-q'), '')
  },
)

void t.test('content that was altered with its times kept is found by --content', { skip }, t => {
  const bench = new Bench(t)
  bench.run('image', 'import', bench.tree('tree', { file: '1234' }), 'app')
  const path = JSON.parse(bench.run('image', 'inspect', '--format', '{{json .layers}}', 'app')) as [
    { path: string },
  ]
  const file = join(path[0].path, 'file')
  run('sh', [
    '-c',
    'cp -p "$1" "$2" && printf 4321 > "$1" && touch -r "$2" "$1"',
    'sh',
    file,
    bench.path('stamp'),
  ])
  t.equal(bench.lamina('system', 'check').status, 0)
  const found = bench.lamina('system', 'check', '--content')
  t.equal(found.status, 1)
  t.match(found.stdout, /layer +[0-9a-f]{12}/)
  t.end()
})

void t.test('a thousand layers: df and ls answer from rows', { skip }, async t => {
  const bench = new Bench(t)
  const store = await bench.open()
  const { emptyConfig, withLayer } = await import('../../src/manager/image-create.js')
  const { encodeJson } = await import('../../src/oci/index.js')
  const hex = (n: number): string => n.toString(16).padStart(64, '0')
  store.db.transaction(() => {
    for (let i = 0; i < 1000; i += 1) {
      const id = `sha256:${hex(i + 1)}` as const
      store.db.run(
        'INSERT INTO layers (diff_id, dir, size, disk, entries, tar_size, fingerprint, created) VALUES (?, ?, 1000, 4096, 1, 2048, ?, 0)',
        id,
        `d${i}`,
        '',
      )
    }
    for (let image = 0; image < 50; image += 1) {
      let config = emptyConfig()
      for (let i = 0; i < 20; i += 1)
        config = withLayer(config, `sha256:${hex(image * 20 + i + 1)}`, `step ${i}`)
      store.images.add(encodeJson(config), [`image${image}`])
    }
  })
  const { diskUsage } = await import('../../src/manager/disk-usage.js')
  await diskUsage(store, store.containers, store.volumes)
  const begin = performance.now()
  const usage = await diskUsage(store, store.containers, store.volumes)
  const took = performance.now() - begin
  t.equal(usage.layers.count, 1000)
  t.equal(usage.images.size, 1_000_000)
  t.ok(took < 100, `df took ${took.toFixed(1)} ms`)
  store.close()
})

void t.test(
  'podman and skopeo take what we save, and we take what podman saves',
  { skip: skip || lacking('podman') || lacking('skopeo') || false },
  t => {
    const bench = new Bench(t)
    const podman = (...args: string[]): string =>
      run('podman', [
        '--root',
        bench.path('p/root'),
        '--runroot',
        bench.path('p/run'),
        '--tmpdir',
        bench.path('p/tmp'),
        '--storage-driver',
        'vfs',
        '--cgroup-manager',
        'cgroupfs',
        '--events-backend',
        'file',
        ...args,
      ])
    const id = bench.run('image', 'import', '-c', 'CMD ["/bin/sh"]', sampleTree(bench), 'app:1').trim()
    const context = bench.tree('context', { Containerfile: 'FROM app:1\nCOPY f /f\n', f: 'f' })
    bench.run('build', '-t', 'app:2', context)
    for (const format of ['docker-archive', 'oci-archive'] as const) {
      const out = bench.path(`${format}.tar`)
      bench.run(
        'image',
        'save',
        '--format',
        format,
        '--compression',
        format === 'oci-archive' ? 'gzip' : 'plain',
        '-o',
        out,
        'app:2',
      )
      run('skopeo', ['inspect', `${format}:${out}`])
      podman('load', '-i', out)
      t.equal(
        `sha256:${podman('images', '--no-trunc', '--format', '{{.Id}}').trim().replace('sha256:', '')}`,
        bench.run('image', 'inspect', '--format', '{{.id}}', 'app:2').trim(),
        format,
      )
      const mounted = podman('image', 'mount', 'docker.io/library/app:2').trim()
      const ours = bench.run('image', 'mount', 'app:2').trim()
      t.same(manifest(ours), manifest(mounted), `${format}: podman's tree and ours are one`)
      bench.run('image', 'umount', 'app:2')
      podman('image', 'umount', 'docker.io/library/app:2')
      podman('save', '--format', format, '-o', bench.path(`podman-${format}`), 'docker.io/library/app:2')
      const other = new Bench(t)
      other.run('image', 'load', bench.path(`podman-${format}`))
      t.equal(
        other.run('image', 'inspect', '--format', '{{.id}}', 'app:2'),
        bench.run('image', 'inspect', '--format', '{{.id}}', 'app:2'),
      )
      podman('rmi', '-af')
    }
    t.match(id, /^sha256/)
    t.end()
  },
)

void t.test('errors are one line that says what to do, and exit codes mean something', t => {
  const bench = new Bench(t)
  writeFileSync(bench.path('junk'), Buffer.alloc(4096, 'junk '))
  const cases: [string[], number, RegExp][] = [
    [
      ['image', 'inspect', 'nothing'],
      1,
      /^lamina: no such image: nothing: see 'lamina image ls', or 'lamina image pull' it\n$/,
    ],
    [
      ['image', 'load', '/no/such/file'],
      1,
      /^lamina: cannot read \/no\/such\/file: no such file or directory\n$/,
    ],
    [['image', 'tag', 'nothing', 'Bad Name'], 1, /^lamina: 'Bad Name' is not an image reference: .*\n$/],
    [['image', 'ls', '--format', '{{.nope}}x{{bad'], 0, /^$/],
    [['build', '/no/such/context'], 1, /^lamina: the build context \/no\/such\/context is no directory\n$/],
    [
      ['image', 'save', '--format', 'zip', 'x'],
      2,
      /^lamina: --format takes docker-archive, oci-archive, oci-dir, not zip\n$/,
    ],
    [['layer', 'create', bench.path('junk')], 1, /^lamina: [^\n]*junk: [^\n]*not a tar archive[^\n]*\n$/],
    [['layer', 'rm', 'zz'], 1, /^lamina: no such layer: zz: see 'lamina layer ls'\n$/],
    [['info', '--root', '/proc/nope'], 1, /^lamina: cannot use \/proc\/nope as the store: .*\n$/],
  ]
  for (const [args, code, text] of cases) {
    const { status, stderr } = bench.lamina(...args)
    t.equal(status, code, `lamina ${args.join(' ')}: ${stderr}`)
    t.match(stderr, text)
  }
  for (const command of ['image', 'layer', 'system', 'build', 'commit', 'login', 'info']) {
    t.match(bench.run(command, '--help'), 'Usage: lamina')
  }
  t.end()
})

void t.test('an ordinary user has a store of their own', { skip }, t => {
  const bench = new Bench(t)
  const dir = bench.tree('tree', { file: 'text' })
  run('chmod', ['-R', 'a+rX', bench.dir])
  mkdirSync(bench.path('home'))
  run('chown', ['1234:1234', bench.path('home')])
  const script = `cd / && home=$1 && shift && exec setpriv --reuid 1234 --regid 1234 --clear-groups env -u LAMINA_ROOT HOME="$home" XDG_RUNTIME_DIR="$home" ${process.execPath} ${join(process.cwd(), 'bin/lamina.js')} "$@"`
  const made = run('sh', ['-c', script, 'sh', bench.path('home'), 'image', 'import', dir, 'mine'])
  t.match(made, /^sha256:/)
  t.ok(existsSync(bench.path('home/.local/share/lamina/lamina.db')))
  t.equal(statSync(bench.path('home/.local/share/lamina/lamina.db')).uid, 1234)
  run('sh', ['-c', script, 'sh', bench.path('home'), 'unshare', '--end'])
  t.end()
})

void t.test('a symlink in an image cannot lead COPY out of it', { skip }, t => {
  const bench = new Bench(t)
  const outside = bench.path('outside')
  mkdirSync(outside)
  const dir = bench.tree('tree', { file: '1' })
  symlinkSync(outside, join(dir, 'escape'))
  symlinkSync('/../../../../../../tmp', join(dir, 'up'))
  bench.run('image', 'import', dir, 'evil')
  const context = bench.tree('context', {
    Containerfile: 'FROM evil\nCOPY f /escape/f\nCOPY f /up/g\nWORKDIR /escape/w\n',
    f: 'f',
  })
  bench.lamina('build', '-t', 'built', context)
  t.equal(run('find', [outside, '-mindepth', '1']), '')
  t.notOk(existsSync('/tmp/g'))
  t.equal(bench.lamina('system', 'check').status, 0)
  t.end()
})
