import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { t } from 'tap'
import { digestHex, digestOf, type Descriptor } from '../../src/oci/index.js'
import { Bench, leftovers } from './fixture.js'

const OCI = 'application/vnd.oci.image'

/** An OCI layout with one manifest. */
function layout(
  dir: string,
  config: [type: string, content: object],
  layers: [type: string, content: string][],
): string {
  mkdirSync(join(dir, 'blobs/sha256'), { recursive: true })
  const blob = (mediaType: string, content: string): Descriptor => {
    const digest = digestOf(content)
    writeFileSync(join(dir, 'blobs/sha256', digestHex(digest)), content)
    return { mediaType, digest, size: Buffer.byteLength(content) }
  }
  const manifest = {
    schemaVersion: 2,
    mediaType: `${OCI}.manifest.v1+json`,
    config: blob(config[0], JSON.stringify(config[1])),
    layers: layers.map(([type, content]) => blob(type, content)),
  }
  const entry = {
    ...blob(manifest.mediaType, JSON.stringify(manifest)),
    annotations: { 'org.opencontainers.image.ref.name': 'example.org/thing:1' },
  }
  writeFileSync(join(dir, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}')
  writeFileSync(join(dir, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: [entry] }))
  return dir
}

const statement = '{"_type":"https://in-toto.io/Statement/v0.1"}'
const imageConfig = {
  architecture: 'amd64',
  os: 'linux',
  rootfs: { type: 'layers', diff_ids: [digestOf(statement)] },
}
const things: [what: string, config: [string, object], layers: [string, string][], said: RegExp][] = [
  [
    'an attestation of BuildKit',
    [`${OCI}.config.v1+json`, imageConfig],
    [['application/vnd.in-toto+json', statement]],
    /^lamina: .*thing.* is not an image: it has data of type application\/vnd\.in-toto\+json\n$/,
  ],
  [
    'a chart',
    ['application/vnd.cncf.helm.config.v1+json', { name: 'chart' }],
    [['application/vnd.cncf.helm.chart.content.v1.tar+gzip', 'x']],
    /^lamina: .*thing.* is not an image: it has data of type .*helm.*\n$/,
  ],
  [
    'an artifact with an empty config',
    ['application/vnd.oci.empty.v1+json', {}],
    [],
    /^lamina: .*thing.* is not an image: it has data of type .*empty.*\n$/,
  ],
  [
    'an image with encrypted layers',
    [`${OCI}.config.v1+json`, imageConfig],
    [[`${OCI}.layer.v1.tar+gzip+encrypted`, statement]],
    /^lamina: the layers of .*thing.* are encrypted\n$/,
  ],
]
for (const [what, config, layers, said] of things) {
  t.test(`${what} is not an image`, async t => {
    const bench = new Bench(t)
    const result = bench.lamina('image', 'load', layout(bench.path('layout'), config, layers))
    t.equal(result.status, 1)
    t.match(result.stderr, said)
    t.same(leftovers(bench.root), [])
    t.equal(bench.run('layer', 'ls', '--format', '{{.diffId}}').trim(), '')
  })
}
