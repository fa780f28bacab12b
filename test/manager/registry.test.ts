import { once } from 'node:events'
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { spawn, type ChildProcess } from 'node:child_process'
import { setTimeout as wait } from 'node:timers/promises'
import { createHash } from 'node:crypto'
import t from 'tap'
import { Bench, isRoot, lacking, leftovers, PROJECT, run } from './fixture.js'
import { freePort, startRegistry as startIn } from './oci-tools.js'

/** pull, push and login with Debian's docker-registry on loopback; skopeo and podman read and write the same. */

const skip = (!isRoot && 'needs root') || lacking('docker-registry') || lacking('skopeo') || false

async function startRegistry(bench: Bench, test: { teardown(end: () => unknown): void }): Promise<string> {
  const registry = await startIn(bench.path('registry'))
  test.teardown(() => registry.stop())
  return registry.host
}

function twoLayers(bench: Bench): void {
  const files = Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`d/f${i}`, `${i} `.repeat(2000)]))
  bench.run('image', 'import', bench.tree('base', files), 'base')
  const context = bench.tree('context', { Containerfile: 'FROM base\nCOPY f /f\n', f: 'f' })
  bench.run('build', '-t', 'app', context)
}

/** Gives the manifest of a layout an annotation, as other tools write them, and thereby another digest. */
function annotate(layout: string): void {
  const blob = (digest: string): string => `${layout}/blobs/${digest.replace(':', '/')}`
  const index = JSON.parse(readFileSync(`${layout}/index.json`, 'utf8')) as {
    manifests: { digest: string; size: number }[]
  }
  const [entry] = index.manifests
  if (entry === undefined) throw new Error('the layout is empty')
  const manifest = JSON.parse(readFileSync(blob(entry.digest), 'utf8')) as object
  const text = JSON.stringify({ ...manifest, annotations: { made: 'elsewhere' } }, null, 2)
  entry.digest = `sha256:${createHash('sha256').update(text).digest('hex')}`
  entry.size = Buffer.byteLength(text)
  writeFileSync(blob(entry.digest), text)
  writeFileSync(`${layout}/index.json`, JSON.stringify(index))
}

void t.test(
  'what is pushed is read by skopeo and podman and pulled by us, and only what lacks travels',
  { skip },
  async t => {
    const bench = new Bench(t)
    const host = await startRegistry(bench, t)
    twoLayers(bench)
    const id = bench.run('image', 'inspect', '--format', '{{.id}}', 'app')
    const digest = bench.run('image', 'push', 'app', `${host}/team/app:1`).trim()
    const seen = JSON.parse(
      run('skopeo', ['inspect', '--tls-verify=false', `docker://${host}/team/app:1`]),
    ) as { Digest: string; Layers: string[] }
    t.equal(seen.Digest, digest)
    t.equal(seen.Layers.length, 2)

    const other = new Bench(t)
    t.equal(`${other.run('image', 'pull', `${host}/team/app:1`).trim()}\n`, id)
    t.equal(other.lamina('system', 'check', '--content').status, 0)
    t.same(leftovers(other.root), [])
    t.match(other.run('image', 'ls', '--digests'), digest)
    t.match(
      other.run('image', 'inspect', '--format', '{{.id}}', `${host}/team/app@${digest}`),
      /^sha256/,
      'and is found by digest',
    )
    t.equal(
      other.run('image', 'push', `${host}/team/app:1`, `${host}/other/app:2`).trim(),
      digest,
      'pushed on, it keeps its digest',
    )

    run('skopeo', [
      'copy',
      '--insecure-policy',
      '--dest-tls-verify=false',
      '--src-tls-verify=false',
      `docker://${host}/team/app:1`,
      `docker://${host}/skopeo/app:1`,
    ])
    t.equal(other.run('image', 'pull', `${host}/skopeo/app:1`).trim(), id.trim())
    bench.run('image', 'save', '-o', bench.path('app.tar'), 'app')
    run('skopeo', [
      'copy',
      '--insecure-policy',
      '--dest-tls-verify=false',
      `docker-archive:${bench.path('app.tar')}`,
      `docker://${host}/archive/app:1`,
    ])
    const third = new Bench(t)
    t.equal(
      third.run('image', 'pull', `${host}/archive/app:1`).trim(),
      id.trim(),
      'what another tool packed is the same image',
    )

    // Layers that came unpacked go out as they came, and so does the manifest, whoever made it.
    const plain = bench.path('plain')
    bench.run('image', 'save', '--format', 'oci-dir', '-o', plain, 'app')
    annotate(plain)
    const fourth = new Bench(t)
    fourth.run('image', 'load', plain)
    fourth.run('image', 'save', '--format', 'oci-dir', '-o', fourth.path('again'), 'app')
    const manifestOf = (dir: string): string =>
      (JSON.parse(readFileSync(`${dir}/index.json`, 'utf8')) as { manifests: { digest: string }[] })
        .manifests[0]?.digest ?? ''
    t.match(manifestOf(plain), /^sha256:/)
    t.equal(manifestOf(fourth.path('again')), manifestOf(plain), 'the digest of the manifest')

    const missing = bench.lamina('image', 'pull', `${host}/no/such:thing`)
    t.equal(missing.status, 1)
    t.match(missing.stderr, /^lamina: .*no\/such.*\n$/)
  },
)

void t.test(
  'a pull goes on where another broke off, and where that was wrong begins anew',
  { skip },
  async t => {
    const bench = new Bench(t)
    const host = await startRegistry(bench, t)
    const ref = `${host}/team/app:1`
    twoLayers(bench)
    bench.run('image', 'push', 'app', ref)
    const raw = run('skopeo', ['inspect', '--tls-verify=false', '--raw', `docker://${ref}`])
    const { layers } = JSON.parse(raw) as { layers: { digest: string; size: number }[] }
    const [hex = ''] = layers.sort((a, b) => b.size - a.size).map(({ digest }) => digest.slice(7))
    const kept = run('find', [bench.path('registry'), '-path', `*/${hex}/data`]).trim()
    const blob = readFileSync(kept)
    const half = blob.length >> 1
    const damaged = Buffer.from(blob).fill(0, 0, half)

    // What the registry has of the first half is of no use: it must not be asked for.
    const other = new Bench(t)
    other.run('image', 'ls')
    writeFileSync(kept, damaged)
    writeFileSync(`${other.root}/partial/sha256-${hex}`, blob.subarray(0, half))
    other.run('image', 'pull', ref)
    t.equal(other.lamina('system', 'check', '--content').status, 0)
    t.same(leftovers(other.root), [])

    const third = new Bench(t)
    third.run('image', 'ls')
    writeFileSync(kept, blob)
    writeFileSync(`${third.root}/partial/sha256-${hex}`, damaged.subarray(0, half))
    third.run('image', 'pull', ref)
    t.equal(third.lamina('system', 'check', '--content').status, 0)
    t.same(leftovers(third.root), [])

    const fourth = new Bench(t)
    fourth.run('image', 'ls')
    writeFileSync(kept, damaged)
    writeFileSync(`${fourth.root}/partial/sha256-${hex}`, damaged.subarray(0, half))
    const wrong = fourth.lamina('image', 'pull', ref)
    t.equal(wrong.status, 1)
    t.match(wrong.stderr, /^lamina: [^\n]*\n$/)
    t.same(leftovers(fourth.root), [], 'what is wrong is not kept')
  },
)

void t.test('with kept blobs an image leaves with the manifest that it came with', { skip }, async t => {
  const bench = new Bench(t)
  const host = await startRegistry(bench, t)
  twoLayers(bench)
  bench.run('image', 'save', '-o', bench.path('app.tar'), 'app')
  // Packed by another tool: nobody here can make these bytes again.
  const copy = ['copy', '--insecure-policy', '--dest-tls-verify=false', '--dest-compress-format', 'zstd']
  run('skopeo', [...copy, `docker-archive:${bench.path('app.tar')}`, `docker://${host}/team/app:1`])
  const { Digest: digest } = JSON.parse(
    run('skopeo', ['inspect', '--tls-verify=false', `docker://${host}/team/app:1`]),
  ) as { Digest: string }

  const other = new Bench(t)
  const elsewhere = await startRegistry(other, t)
  const pull = ['image', 'pull', `${host}/team/app:1`]
  const push = ['image', 'push', `${host}/team/app:1`]
  other.run(...pull)
  t.not(other.run(...push, `${elsewhere}/packed:1`).trim(), digest, 'packed anew it is another manifest')
  other.run(...pull, '--keep-blobs')
  t.equal(other.run(...push, `${elsewhere}/kept:1`).trim(), digest, 'fetched for a layer that is here')
  t.equal(other.lamina('system', 'check', '--content').status, 0)
  other.run('image', 'save', '--format', 'oci-dir', '-o', other.path('layout'), `${host}/team/app:1`)
  const manifestOf = (dir: string): string =>
    (JSON.parse(readFileSync(`${dir}/index.json`, 'utf8')) as { manifests: { digest: string }[] })
      .manifests[0]?.digest ?? ''
  t.equal(manifestOf(other.path('layout')), digest)
  run('skopeo', ['inspect', `oci:${other.path('layout')}:1`])

  const third = new Bench(t)
  third.tree('store', { 'config.json': '{ "keepBlobs": true }' })
  third.run('image', 'load', other.path('layout'))
  const [name = ''] = third.run('image', 'ls', '--format', '{{.name}}').split('\n')
  third.run('image', 'save', '--format', 'oci-dir', '-o', third.path('again'), name)
  t.equal(manifestOf(third.path('again')), digest, 'kept by config.json')
  third.run('image', 'save', '--format', 'oci-dir', '--compression', 'gzip', '-o', third.path('gzip'), name)
  t.not(manifestOf(third.path('gzip')), digest, 'but as it is asked for where that is said')

  const [dir = ''] = run('find', [`${third.root}/layers`, '-name', 'blob-*']).split('\n')
  const bytes = readFileSync(dir)
  bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1
  writeFileSync(dir, bytes)
  const damaged = third.lamina('image', 'save', '--format', 'oci-dir', '-o', third.path('bad'), name)
  t.equal(damaged.status, 1)
  t.match(damaged.stderr, /^lamina: blob sha256:.* has digest .*\n$/)
  t.match(third.lamina('system', 'check', '--content').stdout, /blob.*it was altered/)
  t.equal(third.lamina('system', 'check', '--content', '--repair').status, 0)
  t.equal(third.lamina('system', 'check', '--content').status, 0)
  third.run('image', 'save', '--format', 'oci-dir', '-o', third.path('mended'), name)

  t.match(other.run('system', 'prune', '--blobs', '--dry-run'), /Kept blobs: 2/)
  t.match(other.run('system', 'prune', '--blobs'), /Kept blobs: 2/)
  t.equal(run('find', [`${other.root}/layers`, '-name', 'blob-*']), '')
  t.equal(other.lamina('system', 'check', '--content').status, 0)
  t.same(leftovers(other.root), [])
})

void t.test(
  'an image pulled in two compressions leaves under each name as it came under it',
  { skip },
  async t => {
    const bench = new Bench(t)
    const host = await startRegistry(bench, t)
    twoLayers(bench)
    bench.run('image', 'save', '-o', bench.path('app.tar'), 'app')
    const digests = ['zstd', 'gzip'].map(compression => {
      // A store of its own: another form that a registry has is not sent again.
      const from = new Bench(t)
      from.run('image', 'load', bench.path('app.tar'))
      const to = `${host}/team/app:${compression}`
      return from.run('image', 'push', '--compression', compression, 'app', to).trim()
    })
    t.not(digests[0], digests[1])
    const other = new Bench(t)
    const elsewhere = await startRegistry(other, t)
    const name = (compression: string): string => `${host}/team/app:${compression}`
    for (const compression of ['zstd', 'gzip']) other.run('image', 'pull', '--keep-blobs', name(compression))
    other.run('image', 'tag', name('gzip'), 'another')
    other.run('image', 'tag', `${host}/team/app@${digests[0] ?? ''}`, 'by-digest')
    const pushed = [name('zstd'), name('gzip'), 'another', 'by-digest'].map((from, i) =>
      other.run('image', 'push', from, `${elsewhere}/app:${i}`).trim(),
    )
    t.same(pushed, [digests[0], digests[1], digests[1], digests[0]])
    other.run('image', 'save', '--format', 'oci-dir', '-o', other.path('layout'), name('gzip'), name('zstd'))
    const { manifests } = JSON.parse(readFileSync(other.path('layout', 'index.json'), 'utf8')) as {
      manifests: { digest: string }[]
    }
    t.same(
      manifests.map(entry => entry.digest),
      [digests[1], digests[0]],
    )
    other.run('image', 'save', '-o', other.path('both.tar'), name('gzip'), name('zstd'))
    const [first, ...more] = JSON.parse(run('tar', ['-xOf', other.path('both.tar'), 'manifest.json'])) as {
      RepoTags: string[]
    }[]
    t.same(more, [], 'a docker archive has one entry for an image')
    t.equal(first?.RepoTags.length, 2)
    t.same(leftovers(other.root), [])
  },
)

void t.test('a multi-platform index gives the platform that is asked for', { skip }, async t => {
  const bench = new Bench(t)
  const host = await startRegistry(bench, t)
  const { buildIndex } = await import('../../src/oci/index.js')
  const entries = []
  for (const architecture of ['amd64', 'arm64']) {
    bench.run(
      'image',
      'import',
      '--platform',
      `linux/${architecture}`,
      bench.tree(architecture, { arch: architecture }),
      architecture,
    )
    const digest = bench
      .run('image', 'push', architecture, `${host}/multi:${architecture}`)
      .trim() as `sha256:${string}`
    const raw = run('skopeo', [
      'inspect',
      '--raw',
      '--tls-verify=false',
      `docker://${host}/multi:${architecture}`,
    ])
    entries.push({
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      digest,
      size: Buffer.byteLength(raw),
      platform: { os: 'linux', architecture },
    })
  }
  const index = buildIndex(entries)
  const answer = await fetch(`http://${host}/v2/multi/manifests/all`, {
    method: 'PUT',
    headers: { 'content-type': index.mediaType },
    body: new Uint8Array(index.bytes),
  })
  t.equal(answer.status, 201)
  for (const architecture of ['amd64', 'arm64']) {
    const other = new Bench(t)
    other.run('image', 'pull', '--platform', `linux/${architecture}`, `${host}/multi:all`)
    t.equal(
      other.run('image', 'inspect', '--format', '{{.platform}}', `${host}/multi:all`).trim(),
      `linux/${architecture}`,
    )
  }
  t.match(
    bench.lamina('image', 'pull', '--platform', 'linux/s390x', `${host}/multi:all`).stderr,
    /no image for linux\/s390x in the index; it has: linux\/amd64, linux\/arm64/,
  )
})

void t.test(
  'pulls at once, one of them killed: all that end well have the image, and the store is sound',
  { skip },
  async t => {
    const bench = new Bench(t)
    const host = await startRegistry(bench, t)
    twoLayers(bench)
    bench.run('image', 'push', 'app', `${host}/team/app:1`)
    for (let round = 0; round < 3; round += 1) {
      const other = new Bench(t)
      mkdirSync(other.root)
      const log = openSync(other.path('said'), 'w')
      const pulls = Array.from({ length: 3 }, () =>
        spawn(process.execPath, [`${PROJECT}/bin/lamina.js`, 'image', 'pull', `${host}/team/app:1`], {
          stdio: ['ignore', 'ignore', log],
          env: { ...process.env, LAMINA_ROOT: other.root },
        }),
      )
      const exits = pulls.map(
        async (child: ChildProcess) => ((await once(child, 'exit')) as [number | null])[0],
      )
      await wait(150 + 200 * Math.random())
      pulls[0]?.kill('SIGKILL')
      const [, ...codes] = await Promise.all(exits)
      closeSync(log)
      t.same(codes, [0, 0], readFileSync(other.path('said'), 'utf8'))
      t.match(other.run('image', 'ls'), 'team/app')
      const checked = other.lamina('system', 'check', '--content')
      t.equal(checked.status, 0, checked.stdout + checked.stderr)
      other.run('system', 'prune')
      t.same(leftovers(other.root), [])
    }
  },
)

void t.test(
  'login keeps credentials where docker and podman look, and a refusal is one line',
  { skip },
  async t => {
    const bench = new Bench(t)
    const host = await startRegistry(bench, t)
    const file = bench.path('auth.json')
    const done = bench.laminaWith(
      { input: 'secret\n' },
      'login',
      '-u',
      'me',
      '--password-stdin',
      '--authfile',
      file,
      host,
    )
    t.equal(done.status, 0, done.stderr)
    t.ok(existsSync(file))
    t.match(run('cat', [file]), Buffer.from('me:secret').toString('base64'))
    t.equal(bench.lamina('logout', '--authfile', file, host).status, 0)
    t.notMatch(run('cat', [file]), 'bWU6')
    const port = await freePort()
    const refused = bench.lamina('image', 'pull', `127.0.0.1:${port}/x`)
    t.equal(refused.status, 1)
    t.equal(refused.stderr.trim().split('\n').length, 1, refused.stderr)
  },
)
