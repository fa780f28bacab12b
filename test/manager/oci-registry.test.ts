import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import {
  buildManifest,
  compress,
  descriptorOf,
  digestOf,
  encodeJson,
  findCredentials,
  hostPlatform,
  memoryBlob,
  openLayout,
  parseReference,
  readAll,
  removeCredentials,
  resolveManifest,
  saveCredentials,
  type Descriptor,
  type Manifest,
} from '../../src/oci/index.js'
import { checkLogin, Registry } from '../../src/oci/registry.js'
import { chunked } from '../unit/oci-fixture.js'
import { makeLayout, missing, run, startRegistry } from './oci-tools.js'

const skip = missing('docker-registry', 'skopeo', 'umoci', 'busybox')
const options = { credentials: null }

t.test('Debian’s registry on loopback', { skip }, async t => {
  const place = mkdtempSync(join(tmpdir(), 'lamina-registry-'))
  const registry = await startRegistry(join(place, 'registry'))
  t.teardown(async () => {
    await registry.stop()
    rmSync(place, { recursive: true, force: true })
  })
  makeLayout(place)
  const { host } = registry
  const layout = await openLayout(join(place, 'layout'))
  t.teardown(() => layout.close())
  const image = layout.images[0]?.descriptor as Descriptor
  const content = await resolveManifest(layout, image)

  await t.test('pushed, it is what skopeo reads; a second push sends nothing', async t => {
    const client = await Registry.connect(parseReference(`${host}/team/app:v1`), options)
    const progress: [number, number | undefined][] = []
    for (const blob of [content.manifest.config, ...content.manifest.layers]) {
      const write = { descriptor: blob, open: () => layout.blob(blob) }
      t.equal(
        await client.pushBlob(write, { onProgress: (done, total) => progress.push([done, total]) }),
        'pushed',
      )
      t.equal(await client.pushBlob(write), 'exists')
    }
    t.same(progress.at(-1), [content.manifest.layers.at(-1)?.size, content.manifest.layers.at(-1)?.size])
    t.equal(await client.pushManifest(content), content.digest)
    t.same((await client.head())?.digest, content.digest)
    t.same(await client.tags(), ['v1'])
    await client.close()
    await run('skopeo', [
      'copy',
      '--src-tls-verify=false',
      `docker://${host}/team/app:v1`,
      `oci:${place}/back:v1`,
    ])
    const index = JSON.parse(readFileSync(join(place, 'back', 'index.json'), 'utf8')) as {
      manifests: Descriptor[]
    }
    t.equal(index.manifests[0]?.digest, content.digest, 'the same digest')
  })

  await t.test('a blob of another repository is mounted, not sent', async t => {
    const client = await Registry.connect(parseReference(`${host}/team/other:v1`), options)
    const layer = content.manifest.layers[0] as Descriptor
    const blob = {
      descriptor: layer,
      open(): never {
        throw new Error('was opened')
      },
    }
    t.equal(await client.pushBlob(blob, { mountFrom: ['team/nothing', 'team/app'] }), 'mounted')
    t.ok(await client.hasBlob(layer))
    await client.close()
  })

  await t.test('what skopeo pushed is pulled and verified', async t => {
    await run('skopeo', [
      'copy',
      '--dest-tls-verify=false',
      `oci:${place}/layout:v1`,
      `docker://${host}/from/skopeo:x`,
    ])
    await run('skopeo', [
      'copy',
      '--dest-tls-verify=false',
      '--format=v2s2',
      `oci:${place}/layout:v1`,
      `docker://${host}/from/skopeo:docker`,
    ])
    for (const tag of ['x', 'docker']) {
      const client = await Registry.connect(parseReference(`${host}/from/skopeo:${tag}`), options)
      const resolved = await client.resolve()
      t.equal(resolved.kind, 'manifest')
      const { config, layers } = resolved.kind === 'manifest' ? resolved.manifest : ({} as Manifest)
      for (const descriptor of [config, ...layers]) {
        const bytes = await readAll(client.blob(descriptor), 1 << 28, 'blob')
        t.equal(digestOf(bytes), descriptor.digest)
      }
      t.equal(
        (
          await client.manifest({
            ...image,
            digest: resolved.digest,
            size: resolved.bytes.length,
            mediaType: resolved.mediaType,
          })
        ).digest,
        resolved.digest,
      )
      await client.close()
    }
  })

  await t.test('an index of several platforms gives the host’s', async t => {
    const client = await Registry.connect(parseReference(`${host}/team/app:multi`), options)
    const { os, architecture } = hostPlatform()
    const here = {
      ...content.manifest.config,
      mediaType: content.mediaType,
      digest: content.digest,
      size: content.bytes.length,
    }
    const index = encodeJson({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.index.v1+json',
      manifests: [{ ...here, platform: { os, architecture } }],
    })
    await client.pushManifest({
      bytes: index,
      digest: digestOf(index),
      mediaType: 'application/vnd.oci.image.index.v1+json',
    })
    const root = await client.head()
    t.equal(root?.digest, digestOf(index))
    t.equal((await resolveManifest(client, root as Descriptor)).digest, content.digest)
    await t.rejects(resolveManifest(client, root as Descriptor, { os: 'linux', architecture: 's390x' }), {
      code: 'not-found',
    })
    await client.close()
  })

  await t.test('chunks, and a stream whose digest is not known before', async t => {
    const client = await Registry.connect(parseReference(`${host}/team/chunks:v1`), options)
    const data = Buffer.alloc(5_000_000, 'some data that is sent in pieces ')
    const layer = descriptorOf('application/vnd.oci.image.layer.v1.tar', data)
    t.equal(await client.pushBlob(memoryBlob(layer, data), { chunkSize: 1_500_000 }), 'pushed')
    t.ok((await readAll(client.blob(layer), 1 << 24, 'blob')).equals(data))
    const sent = await client.pushStream(compress(chunked(data), 'gzip'), { chunkSize: 10_000 })
    t.ok(await client.hasBlob({ mediaType: '', ...sent }))
    const config = descriptorOf('application/vnd.oci.image.config.v1+json', Buffer.from('{}'))
    await client.pushBlob(memoryBlob(config, Buffer.from('{}')))
    const manifest = buildManifest(config, [
      { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', ...sent },
    ])
    t.equal(await client.pushManifest(manifest), manifest.digest)
    await client.close()
  })

  await t.test('what is not there, and content that is not what it says', async t => {
    const client = await Registry.connect(parseReference(`${host}/no/such:thing`), options)
    await t.rejects(client.resolve(), { code: 'not-found' })
    t.equal(await client.head(), undefined)
    const nothing = { mediaType: '', digest: digestOf('nothing'), size: 7 }
    await t.rejects(readAll(client.blob(nothing), 100, 'blob'), { code: 'not-found' })
    t.equal(await client.hasBlob(nothing), false)
    await t.rejects(client.pushBlob(memoryBlob(nothing, Buffer.from('another'))), { code: 'digest' })
    await client.close()
  })
})

t.test('a registry that wants a login', { skip }, async t => {
  const place = mkdtempSync(join(tmpdir(), 'lamina-registry-'))
  // bcrypt of "secret", as htpasswd -nbBC 4 writes it
  const line = 'lisa:$2y$04$UyRsUK5thLCAF9Zn3m5vo.nS5g2bwPp25tZiip.DTdRnKPwK7XK2O\n'
  const registry = await startRegistry(join(place, 'registry'), line)
  t.teardown(async () => {
    await registry.stop()
    rmSync(place, { recursive: true, force: true })
  })
  const { host } = registry
  const reference = parseReference(`${host}/private/app:v1`)
  const blob = descriptorOf('', Buffer.from('{}'))

  const anonymous = await Registry.connect(reference, options)
  await t.rejects(anonymous.hasBlob(blob), { code: 'unauthorized', message: /lamina login/ })
  await anonymous.close()

  const wrong = await Registry.connect(reference, { credentials: { username: 'lisa', password: 'no' } })
  await t.rejects(wrong.hasBlob(blob), { code: 'unauthorized' })
  await wrong.close()

  await t.rejects(checkLogin(host, { username: 'lisa', password: 'no' }), { code: 'unauthorized' })
  await checkLogin(host, { username: 'lisa', password: 'secret' })

  const file = join(place, 'auth', 'auth.json')
  mkdirSync(join(place, 'auth'))
  await saveCredentials(host, { username: 'lisa', password: 'secret' }, file)
  const env = { REGISTRY_AUTH_FILE: file }
  const credentials = await findCredentials(`${host}/private/app`, env)
  t.same(credentials, { username: 'lisa', password: 'secret' })
  const client = await Registry.connect(reference, { credentials })
  t.equal(await client.pushBlob(memoryBlob(blob, Buffer.from('{}'))), 'pushed')
  await client.close()
  await run('skopeo', [
    'list-tags',
    '--tls-verify=false',
    '--authfile',
    file,
    `docker://${host}/private/app`,
  ]).catch((error: { stderr: string }) =>
    t.match(error.stderr, /NAME_UNKNOWN|not known|404/i, 'logged in with our file'),
  )
  t.equal(await removeCredentials(host, file), true)
  t.equal(await findCredentials(`${host}/private/app`, env), undefined)
})
