/** Archives that other tools wrote, read; and ours, read by them. Digests are equal on every way round. */
import { createReadStream, createWriteStream, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import t from 'tap'
import {
  Digester,
  dockerArchive,
  layoutArchive,
  LayoutDirectory,
  memoryBlob,
  namedEntries,
  openImageArchive,
  parseConfig,
  readAll,
  resolveManifest,
  type Descriptor,
  type ImageSource,
  type ManifestContent,
} from '../../src/oci/index.js'
import { makeLayout, missing, run, scratch, sh } from './oci-tools.js'

const place = scratch('lamina-archive-')
const skip = missing('skopeo', 'umoci', 'busybox')
t.teardown(() => rmSync(place, { recursive: true, force: true }))

const hash = async (source: AsyncIterable<Uint8Array>) => {
  const digester = new Digester()
  for await (const chunk of source) digester.update(chunk)
  return digester.digest()
}

/** The image in `source`, with every blob read and so verified. */
async function readImage(
  source: ImageSource,
): Promise<ManifestContent & { names: string[]; diffIds: string[] }> {
  const image = source.images[0]
  if (image === undefined) throw new Error('no image')
  const content = await resolveManifest(source, image.descriptor)
  const { config, layers } = content.manifest
  const configBytes = await readAll(source.blob(config), 1 << 20, 'config')
  for (const layer of layers) await hash(source.blob(layer))
  return { ...content, names: image.names, diffIds: parseConfig(configBytes).rootfs.diff_ids }
}

async function* cut(path: string) {
  yield* createReadStream(path, { highWaterMark: 1000 })
}

t.test('archives of skopeo and umoci: directory, file, compressed file and pipe', { skip }, async t => {
  makeLayout(place)
  sh(
    `
    skopeo copy -q oci:layout:v1 docker-archive:docker.tar:example.com/team/app:v1
    skopeo copy -q oci:layout:v1 oci-archive:oci.tar:v1
    gzip -k docker.tar; zstd -q -k oci.tar
    mkdir docker.dir && tar -C docker.dir -xf docker.tar
    `,
    place,
  )
  const layout = await openImageArchive(join(place, 'layout'))
  const original = await readImage(layout)
  t.same(original.names, ['v1'])
  const manifestDigests = new Set<string>()
  for (const name of ['oci.tar', 'oci.tar.zst', 'docker.tar', 'docker.tar.gz', 'docker.dir']) {
    const path = join(place, name)
    const sources = [
      await openImageArchive(path),
      ...(name.endsWith('.dir') ? [] : [await openImageArchive(cut(path), place)]),
    ]
    for (const source of sources) {
      const image = await readImage(source)
      t.same(image.diffIds, original.diffIds, name)
      if (name.startsWith('docker')) {
        t.same(image.names, ['example.com/team/app:v1'])
        t.same(
          image.manifest.layers.map(layer => layer.digest),
          image.diffIds,
          'layers are plain, so known by their diffID',
        )
        manifestDigests.add(image.digest)
      } else t.equal(image.digest, original.digest)
      await source.close()
    }
  }
  t.equal(manifestDigests.size, 1, 'the same image, however it is packed')
  await layout.close()
  t.same(
    readdirSync(place).filter(name => name.startsWith('lamina-archive-')),
    [],
    'nothing is left of what was spooled',
  )
})

t.test('a docker archive of ours is read by skopeo and umoci, with the same digests', { skip }, async t => {
  const source = await openImageArchive(join(place, 'docker.tar'))
  const image = await readImage(source)
  const config = await readAll(source.blob(image.manifest.config), 1 << 20, 'config')
  const ours = join(place, 'ours.tar')
  const layers = image.manifest.layers.map(layer => ({
    diffId: layer.digest,
    size: layer.size,
    open: () => source.blob(layer),
  }))
  const names = ['example.com/team/app:v1', 'example.com/team/app:latest']
  const archive = () =>
    dockerArchive([
      { names, config, layers },
      { names: ['example.com/again:1'], config, layers },
    ])
  await pipeline(archive(), createWriteStream(ours))
  t.equal(await hash(archive()), await hash(createReadStream(ours)), 'the same bytes each time')
  await source.close()
  sh(
    'rm -rf from-ours && skopeo copy -q docker-archive:ours.tar:example.com/team/app:latest oci:from-ours:x',
    place,
  )
  sh(
    'rm -rf b1 b2 && umoci unpack --image from-ours:x b1 >/dev/null && umoci unpack --image layout:v1 b2 >/dev/null && diff -r --no-dereference b1/rootfs/etc b2/rootfs/etc',
    place,
  )
  const again = await openImageArchive(ours)
  t.equal(again.images.length, 2)
  t.same(again.images[0]?.names, names)
  t.equal((await readImage(again)).manifest.config.digest, image.manifest.config.digest)
  await again.close()
  const raw = await run('skopeo', ['inspect', '--raw', '--config', 'oci:from-ours:x'], { cwd: place })
  t.same(parseConfig(Buffer.from(raw.stdout)).rootfs.diff_ids, image.diffIds)
})

t.test('layouts of ours, as a directory and as a tar, are read by skopeo', { skip }, async t => {
  const source = await openImageArchive(join(place, 'layout'))
  const { manifest, bytes, mediaType, digest } = await readImage(source)
  const root: Descriptor = { mediaType, digest, size: bytes.length }
  const blobs = () => [
    ...[manifest.config, ...manifest.layers].map(descriptor => ({
      descriptor,
      open: () => source.blob(descriptor),
    })),
    memoryBlob(root, bytes),
  ]
  const entries = namedEntries(root, ['docker.io/library/app:v2', 'plain'])
  await pipeline(layoutArchive(entries, blobs()), createWriteStream(join(place, 'layout.tar')))
  sh('skopeo copy -q oci-archive:layout.tar:v2 oci:copy1:x', place)

  const directory = await LayoutDirectory.open(join(place, 'written'))
  for (const blob of blobs()) await directory.put(blob)
  await directory.addToIndex(entries)
  await directory.addToIndex(namedEntries(root, ['plain']))
  sh('skopeo copy -q oci:written:plain oci:copy2:x', place)
  for (const name of ['copy1', 'copy2', 'written', 'layout.tar']) {
    const back = await openImageArchive(join(place, name))
    t.equal((await readImage(back)).digest, digest, name)
    if (name === 'written') t.same(back.images[0]?.names.sort(), ['docker.io/library/app:v2', 'plain'])
    await back.close()
  }
  const wrong = {
    descriptor: { ...manifest.config, digest: `sha256:${'0'.repeat(64)}` as const },
    open: () => source.blob(manifest.config),
  }
  await t.rejects(directory.put(wrong), { code: 'digest' })
  t.same(
    readdirSync(join(place, 'written/blobs/sha256')).filter(name => name.includes('tmp')),
    [],
  )
  await source.close()
})

t.test(
  'podman loads what we wrote and we read what podman saves',
  { skip: skip || missing('podman') },
  async t => {
    const podman = `podman --root ${place}/podman --runroot ${place}/podman-run --storage-driver vfs`
    t.teardown(() => sh(`${podman} system reset -f >/dev/null 2>&1 || true`))
    sh(`${podman} load -q -i ours.tar; ${podman} load -q -i oci.tar`, place)
    sh(
      `
    ${podman} save -q -o podman-docker.tar example.com/team/app:v1
    ${podman} save -q --format oci-archive -o podman-oci.tar example.com/team/app:v1
    ${podman} save -q --format oci-dir -o podman-oci example.com/team/app:v1
    ${podman} save -q -m -o podman-many.tar example.com/team/app:v1 example.com/again:1
    `,
      place,
    )
    const original = await openImageArchive(join(place, 'ours.tar'))
    const { diffIds } = await readImage(original)
    await original.close()
    for (const name of ['podman-docker.tar', 'podman-oci.tar', 'podman-oci', 'podman-many.tar']) {
      const source = await openImageArchive(join(place, name))
      const image = await readImage(source)
      t.same(image.diffIds, diffIds, name)
      t.ok(
        image.names.some(tag => tag.includes('v1')),
        `${name}: ${image.names.join(' ')}`,
      )
      await source.close()
    }
  },
)

t.test('archives that are none, damaged or hostile', { skip }, async t => {
  const write = (name: string, script: string) => {
    sh(`rm -rf bad && mkdir bad && cd bad && ${script} && tar -cf ../${name} .`, place)
    return join(place, name)
  }
  const empty = write('none.tar', 'touch x')
  await t.rejects(openImageArchive(empty), { code: 'not-found' })
  await t.rejects(
    openImageArchive(write('out.tar', `echo '[{"Config":"../../etc/passwd","Layers":[]}]' > manifest.json`)),
    { code: 'unsafe' },
  )
  await t.rejects(
    openImageArchive(write('absolute.tar', `echo '[{"Config":"/etc/passwd","Layers":[]}]' > manifest.json`)),
    { code: 'unsafe' },
  )
  await t.rejects(
    openImageArchive(
      write(
        'link.tar',
        `ln -s /etc/passwd c.json && echo '[{"Config":"c.json","Layers":[]}]' > manifest.json`,
      ),
    ),
    { code: 'not-found' },
  )
  sh(
    `rm -rf linked && mkdir linked && ln -s /etc/passwd linked/c.json && echo '[{"Config":"c.json","Layers":[]}]' > linked/manifest.json`,
    place,
  )
  await t.rejects(openImageArchive(join(place, 'linked')), { code: 'not-found' })
  await t.rejects(openImageArchive(write('json.tar', `echo '{' > manifest.json`)), { code: 'malformed' })
  await t.rejects(openImageArchive(join(place, 'nowhere')), { code: 'ENOENT' })
  writeFileSync(join(place, 'zero'), '')
  await t.rejects(openImageArchive(join(place, 'zero')), { code: 'not-found' })
  sh('head -c 700000 docker.tar > cut.tar', place)
  await t.rejects(openImageArchive(join(place, 'cut.tar')), { name: 'OciError' })
  await t.rejects(openImageArchive(createReadStream(join(place, 'cut.tar')), place), { name: 'OciError' })
  sh(
    'cp -a layout altered && for f in altered/blobs/sha256/*; do printf X | dd of="$f" bs=1 seek=20 conv=notrunc status=none; done',
    place,
  )
  const altered = await openImageArchive(join(place, 'altered'))
  await t.rejects(readImage(altered), { code: 'digest' })
  await altered.close()
  t.same(
    readdirSync(place).filter(name => name.startsWith('lamina-archive-')),
    [],
    'nothing is left of what was spooled',
  )
})
