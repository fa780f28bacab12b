import t from 'tap'
import {
  chainId,
  chainIds,
  choosePlatform,
  Digester,
  digestOf,
  familiarReference,
  formatPlatform,
  formatReference,
  isDigest,
  normalizePlatform,
  parseConfig,
  parseManifest,
  parsePlatform,
  parseReference,
  platformFit,
  registryHost,
  verifying,
  withDefaultTag,
  type Descriptor,
  type Digest,
} from '../../src/oci/index.js'
import { chunked, collect } from './oci-fixture.js'

const hex = 'a'.repeat(64)

t.test('references are read as docker reads them', async t => {
  const cases: [string, string, string][] = [
    ['debian', 'docker.io/library/debian', 'debian'],
    ['debian:12', 'docker.io/library/debian:12', 'debian:12'],
    ['team/app', 'docker.io/team/app', 'team/app'],
    ['docker.io/debian', 'docker.io/library/debian', 'debian'],
    ['index.docker.io/library/debian', 'docker.io/library/debian', 'debian'],
    ['localhost/app', 'localhost/app', 'localhost/app'],
    ['localhost:5000/app:v1', 'localhost:5000/app:v1', 'localhost:5000/app:v1'],
    ['127.0.0.1:5000/a/b/c', '127.0.0.1:5000/a/b/c', '127.0.0.1:5000/a/b/c'],
    ['[::1]:5000/a', '[::1]:5000/a', '[::1]:5000/a'],
    ['reg.example/a_b/c-d/e.f__g', 'reg.example/a_b/c-d/e.f__g', 'reg.example/a_b/c-d/e.f__g'],
    [`x@sha256:${hex}`, `docker.io/library/x@sha256:${hex}`, `x@sha256:${hex}`],
    [`x:1@sha256:${hex}`, `docker.io/library/x:1@sha256:${hex}`, `x:1@sha256:${hex}`],
    ['docker.io/library/a/b', 'docker.io/library/a/b', 'library/a/b'],
  ]
  for (const [text, full, familiar] of cases) {
    const reference = parseReference(text)
    t.equal(formatReference(reference), full)
    t.equal(familiarReference(reference), familiar)
    t.same(parseReference(formatReference(reference)), reference, 'the full form means the same')
    t.same(parseReference(familiarReference(reference)), reference, 'the short form means the same')
  }
  t.equal(formatReference(withDefaultTag(parseReference('a'))), 'docker.io/library/a:latest')
  t.equal(
    formatReference(withDefaultTag(parseReference(`a@sha256:${hex}`))),
    `docker.io/library/a@sha256:${hex}`,
  )
  t.equal(registryHost('docker.io'), 'registry-1.docker.io')
})

t.test('what is no reference is refused with the reason', async t => {
  const bad = [
    '',
    'UPPER',
    'a//b',
    'a/',
    '/a',
    'a:',
    'a:b:c',
    'a@sha256:123',
    '-a',
    'a..b',
    hex,
    'a b',
    'x'.repeat(300),
    'a:' + 't'.repeat(129),
    '../a',
    'reg.example/Team/app',
  ]
  for (const text of bad) t.throws(() => parseReference(text), { code: 'malformed' }, text)
})

t.test('digests are checked while reading', async t => {
  const data = Buffer.from('hello')
  const digest = digestOf(data)
  t.ok(isDigest(digest))
  t.notOk(isDigest('sha256:ABC'))
  t.same(await collect(verifying(chunked(data, 2), { digest, size: 5 }, 'x')), data)
  await t.rejects(collect(verifying(chunked(data, 2), { digest, size: 4 }, 'x')), { code: 'size' })
  await t.rejects(collect(verifying(chunked(data, 2), { digest, size: 6 }, 'x')), { code: 'size' })
  await t.rejects(collect(verifying(chunked(data, 2), { digest: digestOf('other') }, 'x')), {
    code: 'digest',
  })
  const sha512 = new Digester('sha512')
  sha512.update(data)
  const long = sha512.digest()
  t.same(await collect(verifying(chunked(data), { digest: long }, 'x')), data)
})

t.test('a stream without end is not read beyond the announced size', async t => {
  let given = 0
  async function* endless() {
    for (;;) {
      given += 1000
      yield Buffer.alloc(1000)
    }
  }
  await t.rejects(collect(verifying(endless(), { digest: digestOf(''), size: 5000 }, 'x')), { code: 'size' })
  t.ok(given <= 7000)
})

t.test('chainIDs are those of the specification', async t => {
  const [a, b, c] = ['a', 'b', 'c'].map(x => digestOf(x)) as [Digest, Digest, Digest]
  t.equal(chainId([]), undefined)
  t.equal(chainId([a]), a)
  t.equal(chainId([a, b]), digestOf(`${a} ${b}`))
  t.equal(chainId([a, b, c]), digestOf(`${digestOf(`${a} ${b}`)} ${c}`))
  t.same(chainIds([a, b]), [a, digestOf(`${a} ${b}`)])
})

t.test('platforms: aliases, variants, and the best of an index', async t => {
  t.equal(formatPlatform(parsePlatform('linux/aarch64')), 'linux/arm64')
  t.equal(formatPlatform(parsePlatform('linux/arm64/v8')), 'linux/arm64')
  t.equal(formatPlatform(parsePlatform('linux/arm')), 'linux/arm/v7')
  t.equal(formatPlatform(parsePlatform('linux/armhf')), 'linux/arm/v7')
  t.equal(formatPlatform(parsePlatform('linux/x86_64')), 'linux/amd64')
  t.throws(() => parsePlatform('a/b/c/d'), { code: 'malformed' })
  t.throws(() => parsePlatform('linux/../x'), { code: 'malformed' })
  const arm = (variant: string) => normalizePlatform({ os: 'linux', architecture: 'arm', variant })
  t.ok(platformFit(arm('v7'), arm('v6')) > 0, 'v7 runs v6')
  t.equal(platformFit(arm('v6'), arm('v7')), 0, 'v6 does not run v7')
  const entry = (n: string, platform: string, annotations?: Record<string, string>): Descriptor => ({
    mediaType: 'x',
    digest: digestOf(n),
    size: 1,
    platform: parsePlatform(platform),
    ...(annotations ? { annotations } : {}),
  })
  const index = [
    entry('attestation', 'linux/amd64', { 'vnd.docker.reference.type': 'attestation-manifest' }),
    entry('v5', 'linux/arm/v5'),
    entry('v6', 'linux/arm/v6'),
    entry('amd', 'linux/amd64'),
  ]
  t.equal(choosePlatform(index, parsePlatform('linux/amd64')).digest, digestOf('amd'))
  t.equal(choosePlatform(index, parsePlatform('linux/arm/v7')).digest, digestOf('v6'), 'the best that runs')
  t.throws(() => choosePlatform(index, parsePlatform('linux/s390x')), {
    code: 'not-found',
    message: /arm\/v5/,
  })
})

t.test('manifests are bounded, checked, and keep what is not known', async t => {
  const descriptor = {
    mediaType: 'application/vnd.oci.image.config.v1+json',
    digest: `sha256:${hex}`,
    size: 3,
    extra: 1,
  }
  const good = Buffer.from(
    JSON.stringify({ schemaVersion: 2, config: descriptor, layers: [descriptor], 'x-own': { a: 1 } }),
  )
  const content = parseManifest(good)
  t.equal(content.kind, 'manifest')
  t.equal(content.digest, digestOf(good))
  if (content.kind === 'manifest') {
    t.same(content.manifest['x-own'], { a: 1 })
    t.equal(content.manifest.config['extra'], 1)
  }
  const wrong: [string, object | string][] = [
    ['not JSON', '{'],
    ['an array', '[]'],
    ['schema 1', { schemaVersion: 1 }],
    ['no config', { schemaVersion: 2, layers: [] }],
    ['a bad digest', { schemaVersion: 2, config: { ...descriptor, digest: 'sha256:x' }, layers: [] }],
    ['a negative size', { schemaVersion: 2, config: { ...descriptor, size: -1 }, layers: [] }],
    ['both kinds at once', { schemaVersion: 2, config: descriptor, layers: [], manifests: [] }],
    ['too many layers', { schemaVersion: 2, config: descriptor, layers: new Array(5000).fill(descriptor) }],
  ]
  for (const [name, value] of wrong) {
    t.throws(
      () => parseManifest(Buffer.from(typeof value === 'string' ? value : JSON.stringify(value))),
      { name: 'OciError' },
      name,
    )
  }
  t.throws(
    () => parseManifest(good, 'application/vnd.oci.image.index.v1+json'),
    { name: 'OciError' },
    'announced as something else',
  )
  t.throws(() => parseManifest(Buffer.alloc(5 << 20, ' ')), { code: 'limit' })
})

t.test('image configs are checked, and null lists of Go are lists', async t => {
  const config = parseConfig(
    Buffer.from(
      JSON.stringify({
        architecture: 'amd64',
        os: 'linux',
        config: { Cmd: null, Env: ['A=1'], Labels: null, own: true },
        rootfs: { type: 'layers', diff_ids: [`sha256:${hex}`] },
        history: [{ created_by: 'x' }, { empty_layer: true }],
        'moby.buildkit.x': 1,
      }),
    ),
  )
  t.same(config.config?.Env, ['A=1'])
  t.equal(config['moby.buildkit.x'], 1)
  t.throws(() => parseConfig(Buffer.from('{"rootfs":{"type":"layers","diff_ids":["x"]}}')), {
    code: 'malformed',
  })
  t.throws(() => parseConfig(Buffer.from('{}')), { code: 'malformed' })
})
