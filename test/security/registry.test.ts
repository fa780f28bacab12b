/**
 * A registry that lies. More: test/unit/oci-registry.test.ts (altered, longer and shorter blobs; manifests of another digest or too large; logins
 * that do not follow a redirect; redirects in a circle).
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { t, type Test } from 'tap'
import { digestOf, parseReference, type Descriptor } from '../../src/oci/index.js'
import { Registry } from '../../src/oci/registry.js'

const MANIFEST = 'application/vnd.oci.image.manifest.v1+json'

async function registry(
  t: Test,
  answer: (path: string, request: IncomingMessage, response: ServerResponse) => void,
  login = false,
): Promise<{ client: Registry; asked: string[] }> {
  const asked: string[] = []
  const server = createServer((request, response) => {
    response.on('error', () => undefined)
    const path = request.url ?? ''
    asked.push(path)
    if (path === '/v2/') response.writeHead(200).end()
    else answer(path, request, response)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`
  const credentials = login ? { username: 'me', password: 'secret' } : null
  const client = await Registry.connect(parseReference(`${host}/team/app:v1`), { credentials, retries: 0 })
  t.teardown(async () => {
    await client.close()
    server.closeAllConnections()
    server.close()
  })
  return { client, asked }
}

/** Zeros for as long as somebody reads. */
function endless(response: ServerResponse, status = 200, headers: Record<string, string> = {}): void {
  response.writeHead(status, headers)
  const chunk = Buffer.alloc(1 << 16, ' ')
  const more = (): void => {
    while (!response.destroyed && response.write(chunk));
    if (!response.destroyed) response.once('drain', more)
  }
  more()
}

async function drain(source: AsyncIterable<Uint8Array>): Promise<number> {
  let size = 0
  for await (const chunk of source) size += chunk.length
  return size
}

/** An error of one line that a person can read. */
async function refused(t: Test, promise: Promise<unknown>, code: string, message: RegExp): Promise<void> {
  const error = await promise.then(
    () => undefined,
    (error: unknown) => error as Error,
  )
  t.match(error, { name: 'OciError', code, message })
  t.notMatch(error?.message, /[\n\x1b]/)
}

const layer: Descriptor = {
  mediaType: 'application/vnd.oci.image.layer.v1.tar',
  digest: digestOf('layer'),
  size: 5,
}

t.test('redirects to what is no web address are not followed', async t => {
  for (const [location, said] of [
    ['file:///etc/passwd', /redirects to file:/],
    ['data:,hello', /redirects to data:/],
    ['gopher://127.0.0.1/', /redirects to gopher:/],
    ['http://[', /redirects to what is no URL/],
  ] as const) {
    const { client } = await registry(t, (_path, _request, response) =>
      response.writeHead(307, { location }).end(),
    )
    await refused(t, client.resolve(), 'registry', said)
    await refused(t, drain(client.blob(layer)), 'registry', said)
  }
})

t.test('a token server that is no web server is not asked', async t => {
  for (const realm of ['file:///etc/passwd', 'ftp://127.0.0.1/token', 'nonsense', '']) {
    const { client } = await registry(t, (_path, _request, response) =>
      response.writeHead(401, { 'www-authenticate': `Bearer realm="${realm}",service="x"` }).end(),
    )
    await refused(t, client.resolve(), 'registry', /token server/)
  }
})

t.test('a login is not sent to a token server elsewhere without encryption', async t => {
  const { client } = await registry(
    t,
    (_path, _request, response) =>
      response.writeHead(401, { 'www-authenticate': 'Bearer realm="http://198.51.100.1/token"' }).end(),
    true,
  )
  await refused(t, client.resolve(), 'unauthorized', /without encryption: refused/)
})

t.test('answers without end are cut off', async t => {
  const manifests = await registry(t, (_path, _request, response) =>
    endless(response, 200, { 'content-type': MANIFEST }),
  )
  await refused(t, manifests.client.resolve(), 'limit', /larger than/)
  const blobs = await registry(t, (_path, _request, response) => endless(response))
  await refused(t, drain(blobs.client.blob(layer)), 'size', /5 bytes/)
  const errors = await registry(t, (_path, _request, response) => endless(response, 500))
  await t.rejects(errors.client.resolve(), { name: 'OciError', code: 'registry' })
  const tokens = await registry(t, (path, request, response) => {
    if (path.startsWith('/token')) endless(response)
    else
      response
        .writeHead(401, { 'www-authenticate': `Bearer realm="http://${request.headers.host}/token"` })
        .end()
  })
  await refused(t, tokens.client.resolve(), 'limit', /token is larger/)
})

t.test('what is announced and what comes are compared', async t => {
  const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, config: layer, layers: [layer] }))
  const { client } = await registry(t, (_path, _request, response) =>
    response
      .writeHead(200, { 'content-type': MANIFEST, 'docker-content-digest': digestOf('another') })
      .end(bytes),
  )
  await refused(t, client.resolve(), 'digest', /digest/)
  await refused(
    t,
    client.manifest({ mediaType: MANIFEST, digest: digestOf('third'), size: 3 }),
    'digest',
    /digest/,
  )
  const shorter = await registry(t, (_path, _request, response) => response.writeHead(200).end('laye'))
  await t.rejects(drain(shorter.client.blob(layer)), { name: 'OciError' })
  const other = await registry(t, (_path, _request, response) => response.writeHead(200).end('reyal'))
  await refused(t, drain(other.client.blob(layer)), 'digest', /digest/)
})

t.test(
  'CVE-2020-15157: addresses that a manifest gives for a layer get no login, and must be https',
  async t => {
    const seen: (string | undefined)[] = []
    const { client, asked } = await registry(
      t,
      (path, request, response) => {
        if (path.includes('/blobs/')) response.writeHead(404).end()
        else {
          seen.push(request.headers.authorization)
          response.writeHead(200).end('layer')
        }
      },
      true,
    )
    const host = client.reference.domain
    const foreign = {
      ...layer,
      mediaType: 'application/vnd.oci.image.layer.nondistributable.v1.tar',
      urls: ['nonsense', 'file:///etc/passwd', `http://${host}/elsewhere`],
    }
    await t.rejects(drain(client.blob(foreign)), { name: 'OciError' })
    t.same(seen, [])
    t.notOk(asked.includes('/elsewhere'))
  },
)

t.test('a list of tags does not lead to another host', async t => {
  const { client, asked } = await registry(t, (_path, _request, response) =>
    response
      .writeHead(200, { link: '<http://198.51.100.1/v2/next>; rel="next"' })
      .end(JSON.stringify({ tags: ['a'] })),
  )
  t.same(await client.tags(), ['a'])
  t.equal(asked.length, 2)
})
