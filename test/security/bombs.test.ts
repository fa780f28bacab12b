/** Archives that are more than they seem: bounded by a limit or by the disk, told in one line, and nothing is left. */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { t, type Test } from 'tap'
import {
  applyTar,
  digestHex,
  digestOf,
  resolveManifest,
  type Descriptor,
  type ImageSource,
} from '../../src/oci/index.js'
import { Bench, isRoot, leftovers } from '../manager/fixture.js'
import { chunked, header, Place, tar } from '../unit/oci-fixture.js'

const skip = isRoot ? false : 'needs root'

/** A store on a small filesystem of its own. */
function smallStore(t: Test, options: string): Bench {
  const bench = new Bench(t)
  mkdirSync(bench.root, { recursive: true })
  const { status } = spawnSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', bench.root])
  t.equal(status, 0)
  return bench
}

/** One line, and a store that is as it was. */
function refused(t: Test, bench: Bench, args: string[], said: RegExp): void {
  const { status, stderr } = bench.lamina(...args)
  t.equal(status, 1)
  t.match(stderr, said)
  t.match(stderr, /^lamina: [^\n]*\n$/)
  const mounts = (line: string): boolean => !line.startsWith('mount tmpfs')
  t.same(leftovers(bench.root).filter(mounts), [])
  const layers = join(bench.root, 'layers')
  t.same(existsSync(layers) ? readdirSync(layers) : [], [])
}

t.test('zeros without end fill the disk, which is said', { skip }, async t => {
  const bench = smallStore(t, 'size=24m')
  const zeros = gzipSync(
    Buffer.concat([header({ name: 'zeros', size: 2 ** 33 - 512 }), Buffer.alloc(32 << 20)]),
    { level: 1 },
  )
  writeFileSync(bench.path('bomb.tar.gz'), zeros)
  refused(t, bench, ['layer', 'import', bench.path('bomb.tar.gz')], /[Nn]o space left/)
})

t.test('so do entries without end', { skip }, async t => {
  const bench = smallStore(t, 'size=64m,nr_inodes=2000')
  const many = tar(...Array.from({ length: 5000 }, (_, i) => ({ name: `f${i}` })))
  writeFileSync(bench.path('many.tar'), many)
  refused(t, bench, ['layer', 'import', bench.path('many.tar')], /[Nn]o space left/)
})

t.test('entries and directories have a limit, whatever the disk has', async t => {
  const run = async (archive: Buffer, limits: object): Promise<unknown> => {
    using place = new Place()
    return await applyTar(place.root.n, chunked(archive, 4096), { whiteouts: 'overlay', limits })
  }
  const directories = tar(...Array.from({ length: 60 }, (_, i) => ({ name: `d${i}/x/`, type: '5' })))
  await t.rejects(run(directories, { directories: 50 }), {
    code: 'limit',
    message: /more than 50 directories/,
  })
  await t.rejects(run(directories, { entries: 20 }), { code: 'limit', message: /more than 20 entries/ })
})

t.test('a pax header of 2 GB, a long name of 2 GB, a sparse file of 8 EiB', { skip }, async t => {
  const bench = new Bench(t)
  for (const [name, type] of [
    ['pax', 'x'],
    ['global', 'g'],
    ['long', 'L'],
  ] as const) {
    writeFileSync(
      bench.path(name),
      Buffer.concat([header({ name, type, size: 2 ** 31 }), Buffer.alloc(1 << 20, 'x')]),
    )
    refused(t, bench, ['layer', 'import', bench.path(name)], /extended header of 2147483648 bytes/)
  }
  writeFileSync(
    bench.path('sparse'),
    tar({ name: 's', pax: { 'GNU.sparse.size': String(2 ** 53 - 1), 'GNU.sparse.map': '' } }),
  )
  refused(t, bench, ['layer', 'import', bench.path('sparse')], /'s'|s: |File too large/)
})

t.test('manifests of 2 GB are not read', { skip }, async t => {
  const bench = new Bench(t)
  const large = (path: string): void => {
    writeFileSync(path, '')
    truncateSync(path, 2 ** 31)
  }
  const marker = '{"imageLayoutVersion":"1.0.0"}'
  const index = bench.tree('index', { 'oci-layout': marker })
  large(`${index}/index.json`)
  const docker = bench.tree('docker', {})
  mkdirSync(docker)
  large(`${docker}/manifest.json`)
  const digest = digestOf('x')
  const manifests = [{ mediaType: 'application/vnd.oci.image.manifest.v1+json', digest, size: 2 ** 31 }]
  const manifest = bench.tree('manifest', {
    'oci-layout': marker,
    'index.json': JSON.stringify({ schemaVersion: 2, manifests }),
    'blobs/sha256/x': '',
  })
  large(`${manifest}/blobs/sha256/${digestHex(digest)}`)
  for (const dir of [index, docker, manifest])
    refused(t, bench, ['image', 'load', dir], /larger than \d+ bytes/)
})

t.test('indexes of indexes end, and so do lists of layers', async t => {
  const type = 'application/vnd.oci.image.index.v1+json'
  // What a registry may answer to any digest; the check of the digest is the source's.
  const descriptor: Descriptor = { mediaType: type, digest: digestOf('x'), size: 1 }
  let asked = 0
  const source: Pick<ImageSource, 'manifest'> = {
    manifest: async () => {
      asked++
      const index = { schemaVersion: 2 as const, manifests: [descriptor] }
      return { kind: 'index', mediaType: type, digest: descriptor.digest, bytes: Buffer.alloc(0), index }
    },
  }
  await t.rejects(resolveManifest(source, descriptor), { code: 'malformed', message: /without end/ })
  t.ok(asked < 10)
  const { parseManifest } = await import('../../src/oci/manifest.js')
  const entries = (count: number): object[] =>
    new Array<object>(count).fill({ ...descriptor, mediaType: 'x' })
  const manifest = { schemaVersion: 2, config: descriptor, layers: entries(5000) }
  t.throws(() => parseManifest(Buffer.from(JSON.stringify(manifest))), { code: 'limit' })
  const index = { schemaVersion: 2, manifests: entries(17_000) }
  t.throws(() => parseManifest(Buffer.from(JSON.stringify(index))), { code: 'limit' })
})
