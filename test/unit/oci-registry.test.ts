/** The registry client against servers that misbehave. Real registries: test/manager/oci-registry.test.ts. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { connect, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import {
  descriptorOf,
  digestOf,
  memoryBlob,
  parseReference,
  readAll,
  type RegistryOptions,
} from '../../src/oci/index.js'
import { Registry } from '../../src/oci/registry.js'
import { proxyFor } from '../../src/oci/http-proxy.js'
import { findProgram } from '../../src/oci/program-stream.js'
import { parseChallenges } from '../../src/oci/registry-auth.js'

const noOpenssl = findProgram('openssl') === undefined && 'needs openssl'

type Handler = (request: IncomingMessage, response: ServerResponse, body: Buffer) => void

/** A server on loopback for the length of one test, with what it was asked. */
async function serve(t: Test, handler: Handler) {
  const requests: {
    method: string
    url: string
    authorization: string | undefined
    range: string | undefined
  }[] = []
  const server = createServer((request, response) => {
    const { method = '', url = '', headers } = request
    requests.push({ method, url, authorization: headers.authorization, range: headers.range })
    const parts: Buffer[] = []
    request.on('data', (part: Buffer) => parts.push(part))
    request.on('error', () => undefined)
    request.on('end', () => handler(request, response, Buffer.concat(parts)))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`
  return { host, requests }
}

async function client(t: Test, host: string, options: RegistryOptions = {}): Promise<Registry> {
  const registry = await Registry.connect(parseReference(`${host}/team/app:v1`), {
    credentials: null,
    retries: 3,
    ...options,
  })
  t.teardown(() => registry.close())
  return registry
}

const data = Buffer.alloc(300_000, 'registry data ')
const blob = descriptorOf('application/octet-stream', data)

t.test('challenges of every form are read', async t => {
  t.same(parseChallenges('Bearer realm="https://a/token",service="x y",scope="repository:a:pull,push"'), [
    {
      scheme: 'bearer',
      parameters: { realm: 'https://a/token', service: 'x y', scope: 'repository:a:pull,push' },
    },
  ])
  t.same(parseChallenges('Basic realm="a \\"b\\"", Bearer realm = x , Negotiate'), [
    { scheme: 'basic', parameters: { realm: 'a "b"' } },
    { scheme: 'bearer', parameters: { realm: 'x' } },
    { scheme: 'negotiate', parameters: {} },
  ])
  t.same(parseChallenges(''), [])
  t.same(parseChallenges('Basic realm="unterminated'), [
    { scheme: 'basic', parameters: { realm: 'unterminated' } },
  ])
})

t.test('a connection that breaks is taken up where it broke', async t => {
  let breaks = 3
  const { host, requests } = await serve(t, (request, response) => {
    if (request.url === '/v2/') return void response.end()
    const start = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0)
    response.statusCode = start > 0 ? 206 : 200
    response.setHeader('content-length', data.length - start)
    if (start > 0) response.setHeader('content-range', `bytes ${start}-${data.length - 1}/${data.length}`)
    if (breaks-- > 0)
      response.write(data.subarray(start, start + 50_000), () => setTimeout(() => response.destroy(), 20))
    else response.end(data.subarray(start))
  })
  const registry = await client(t, host)
  t.ok((await readAll(registry.blob(blob), 1 << 20, 'blob')).equals(data))
  const ranges = requests.filter(r => r.url.includes('blobs')).map(r => r.range)
  t.equal(ranges.length, 4)
  t.equal(ranges[0], undefined)
  t.ok(ranges.slice(1).every(range => range !== undefined && !range.startsWith('bytes=0-')))
})

t.test('a server that cannot seek is read from the beginning again', async t => {
  let breaks = 1
  const { host } = await serve(t, (request, response) => {
    if (request.url === '/v2/') return void response.end()
    response.setHeader('content-length', data.length)
    if (breaks-- > 0)
      response.write(data.subarray(0, 100_000), () => setTimeout(() => response.destroy(), 20))
    else response.end(data)
  })
  const registry = await client(t, host)
  t.ok((await readAll(registry.blob(blob), 1 << 20, 'blob')).equals(data))
})

t.test('a server that refuses a range is asked for all of it', async t => {
  const { host, requests } = await serve(t, (request, response) => {
    if (request.url === '/v2/') return void response.end()
    if (request.headers.range === undefined) response.end(data)
    else response.writeHead(416).end()
  })
  const registry = await client(t, host)
  const rest = await readAll(registry.blob(blob, { offset: 1000 }), 1 << 20, 'blob')
  t.ok(rest.equals(data.subarray(1000)))
  t.same(
    requests.filter(r => r.url.includes('blobs')).map(r => r.range),
    ['bytes=1000-', undefined],
  )
})

t.test('what a registry says is one line without control characters, and names what it is about', async t => {
  const { host } = await serve(t, (request, response) => {
    if (request.url === '/v2/') return void response.end()
    if (request.url?.includes('manifests') === true)
      return void response.end('{ "schemaVersion": 2, nonsense')
    const message = 'gone\nsecond line\u001b[31m' + 'x'.repeat(1000)
    response.writeHead(404).end(JSON.stringify({ errors: [{ code: 'BLOB_UNKNOWN', message }] }))
  })
  const registry = await client(t, host)
  const said = await readAll(registry.blob(blob), 1 << 20, 'blob').catch((error: Error) => error.message)
  t.match(said, /not found: gone second line \[31mx+$/)
  t.ok(said.length < 600)
  await t.rejects(registry.resolve(), { message: `manifest ${host}/team/app:v1: manifest is not valid JSON` })
})

t.test('a connection that always breaks ends in a network error', async t => {
  const { host } = await serve(t, (request, response) => {
    if (request.url === '/v2/') return void response.end()
    response.destroy()
  })
  const registry = await client(t, host, { retries: 1 })
  await t.rejects(readAll(registry.blob(blob), 1 << 20, 'blob'), { code: 'network' })
})

t.test('503 and 429 are asked again, as late as the server wants', async t => {
  let refusals = 2
  const { host, requests } = await serve(t, (request, response) => {
    if (request.url === '/v2/') return void response.end()
    if (refusals-- > 0) {
      response.statusCode = refusals === 0 ? 429 : 503
      response.setHeader('retry-after', '0.05')
      return void response.end()
    }
    response.end(data)
  })
  const registry = await client(t, host)
  t.ok((await readAll(registry.blob(blob), 1 << 20, 'blob')).equals(data))
  t.equal(requests.filter(r => r.url.includes('blobs')).length, 3)
})

t.test('altered, longer and shorter blobs are found out', async t => {
  let answer = data
  const { host } = await serve(t, (request, response) => {
    if (request.url === '/v2/') return void response.end()
    response.end(answer)
  })
  const registry = await client(t, host, { retries: 1 })
  answer = Buffer.from(data)
  answer[1000] = 0
  await t.rejects(readAll(registry.blob(blob), 1 << 20, 'blob'), { code: 'digest' })
  answer = Buffer.concat([data, data])
  await t.rejects(readAll(registry.blob(blob), 1 << 20, 'blob'), { code: 'size' })
  answer = data.subarray(0, 10)
  await t.rejects(readAll(registry.blob(blob), 1 << 20, 'blob'), { name: 'OciError' })
})

t.test('manifests: a wrong digest, one that is too large, one that is not asked for', async t => {
  let answer = Buffer.from('{}')
  const headers: Record<string, string> = {}
  const { host } = await serve(t, (request, response) => {
    if (request.url === '/v2/') return void response.end()
    for (const [name, value] of Object.entries(headers)) response.setHeader(name, value)
    response.end(answer)
  })
  const registry = await client(t, host)
  await t.rejects(registry.resolve(digestOf('x')), { code: 'digest' })
  headers['docker-content-digest'] = digestOf('y')
  await t.rejects(registry.resolve('v1'), { code: 'digest' })
  delete headers['docker-content-digest']
  answer = Buffer.alloc(8 << 20, ' ')
  await t.rejects(registry.resolve('v1'), { code: 'limit' })
  answer = Buffer.from('<html>login please</html>')
  await t.rejects(registry.resolve('v1'), { code: 'malformed' })
})

t.test('a redirect to another host does not carry the login along', async t => {
  const storage = await serve(t, (_request, response) => void response.end(data))
  const { host, requests } = await serve(t, (request, response) => {
    if (request.headers.authorization === undefined) {
      response.statusCode = 401
      response.setHeader('www-authenticate', 'Basic realm="x"')
      return void response.end()
    }
    response.statusCode = 307
    response.setHeader('location', `http://${storage.host}/store?signature=1`)
    response.end()
  })
  const registry = await client(t, host, { credentials: { username: 'lisa', password: 'secret' } })
  t.ok((await readAll(registry.blob(blob), 1 << 20, 'blob')).equals(data))
  t.match(requests.at(-1)?.authorization, /^Basic /)
  t.equal(storage.requests[0]?.url, '/store?signature=1')
  t.equal(storage.requests[0]?.authorization, undefined)
})

t.test('redirects in a circle end', async t => {
  const { host } = await serve(t, (request, response) => {
    if (request.url === '/v2/') return void response.end()
    response.statusCode = 302
    response.setHeader('location', request.url ?? '/')
    response.end()
  })
  const registry = await client(t, host)
  await t.rejects(readAll(registry.blob(blob), 1 << 20, 'blob'), { code: 'registry' })
})

t.test('tokens: asked for with the login and the scope, kept, renewed when refused', async t => {
  let token = 'first'
  const { host, requests } = await serve(t, (request, response) => {
    const url = new URL(request.url ?? '/', 'http://x')
    if (url.pathname === '/token') {
      if (request.headers.authorization !== `Basic ${Buffer.from('lisa:secret').toString('base64')}`)
        response.statusCode = 401
      return void response.end(JSON.stringify({ token, expires_in: 300 }))
    }
    if (request.headers.authorization !== `Bearer ${token}`) {
      response.statusCode = 401
      response.setHeader('www-authenticate', `Bearer realm="http://${host}/token",service="test"`)
      return void response.end()
    }
    if (request.method === 'HEAD') response.statusCode = 404
    response.end(data)
  })
  const registry = await client(t, host, { credentials: { username: 'lisa', password: 'secret' } })
  await readAll(registry.blob(blob), 1 << 20, 'blob')
  await readAll(registry.blob(blob), 1 << 20, 'blob')
  const asked = () =>
    requests.filter(r => r.url.startsWith('/token')).map(r => new URL(r.url, 'http://x').searchParams)
  t.equal(asked().length, 1, 'kept')
  t.same(asked()[0]?.getAll('scope'), ['repository:team/app:pull'])
  t.equal(asked()[0]?.get('service'), 'test')
  t.equal(asked()[0]?.get('account'), 'lisa')
  token = 'second'
  await readAll(registry.blob(blob), 1 << 20, 'blob')
  t.equal(asked().length, 2, 'renewed')
  await registry.hasBlob(blob)
  t.same(asked()[2]?.getAll('scope'), ['repository:team/app:pull,push'], 'pushing is another scope')
})

t.test('an identity token is exchanged by OAuth2', async t => {
  let form = ''
  const { host } = await serve(t, (request, response, body) => {
    if (request.url?.startsWith('/token') === true) {
      form = `${request.method ?? ''} ${body.toString()}`
      return void response.end(JSON.stringify({ access_token: 'a' }))
    }
    if (request.headers.authorization !== 'Bearer a') {
      response.statusCode = 401
      response.setHeader('www-authenticate', `Bearer realm="http://${host}/token",service="s"`)
      return void response.end()
    }
    response.end(data)
  })
  const registry = await client(t, host, {
    credentials: { username: '', password: '', identityToken: 'refresh' },
  })
  await readAll(registry.blob(blob), 1 << 20, 'blob')
  t.match(form, /^POST .*grant_type=refresh_token.*refresh_token=refresh/)
})

t.test('refused credentials are one clear error', async t => {
  const { host } = await serve(t, (request, response) => {
    response.statusCode = 401
    if (request.url?.startsWith('/token') === true)
      return void response.end('{"errors":[{"code":"DENIED","message":"no such user"}]}')
    response.setHeader('www-authenticate', `Bearer realm="http://${host}/token"`)
    response.end()
  })
  const registry = await client(t, host, { credentials: { username: 'lisa', password: 'x' } })
  await t.rejects(registry.resolve(), { code: 'unauthorized', message: /no such user \(DENIED\)/ })
})

t.test('an upload that breaks is sent again', async t => {
  let breaks = 1
  const stored: Buffer[] = []
  const { host } = await serve(t, (request, response, body) => {
    if (request.url === '/v2/') return void response.end()
    if (request.method === 'HEAD') response.statusCode = 404
    else if (request.method === 'POST') {
      response.statusCode = 202
      response.setHeader('location', '/upload/1?state=x')
    } else if (breaks-- > 0) return void response.destroy()
    else {
      response.statusCode = 201
      t.match(request.url, `/upload/1?state=x&digest=${encodeURIComponent(blob.digest)}`)
      stored.push(body)
    }
    response.end()
  })
  const registry = await client(t, host)
  t.equal(await registry.pushBlob(memoryBlob(blob, data)), 'pushed')
  t.equal(stored.length, 1)
  t.ok(stored[0]?.equals(data))
})

t.test('a chunked upload goes on from what the registry has', async t => {
  let stored = Buffer.alloc(0)
  let breaks = 1
  const { host } = await serve(t, (request, response, body) => {
    if (request.url === '/v2/') return void response.end()
    response.setHeader('location', '/upload/1')
    if (request.method === 'HEAD') response.statusCode = 404
    else if (request.method === 'POST') response.statusCode = 202
    else if (request.method === 'PATCH') {
      if (stored.length === 100_000 && breaks-- > 0) {
        stored = Buffer.concat([stored, body.subarray(0, 30_000)])
        return void response.destroy()
      }
      t.match(request.headers['content-range'], `${stored.length}-${stored.length + body.length - 1}`)
      stored = Buffer.concat([stored, body])
      response.statusCode = 202
    } else if (request.method === 'GET') {
      response.statusCode = 204
      response.setHeader('range', `0-${stored.length - 1}`)
    } else response.statusCode = 201
    response.end()
  })
  const registry = await client(t, host)
  t.equal(await registry.pushBlob(memoryBlob(blob, data), { chunkSize: 100_000 }), 'pushed')
  t.ok(stored.equals(data))
})

t.test('a blob that changes while it is sent is not sent', async t => {
  const { host } = await serve(t, (request, response) => {
    if (request.url === '/v2/') return void response.end()
    response.statusCode = request.method === 'HEAD' ? 404 : 202
    response.setHeader('location', '/upload')
    response.end()
  })
  const registry = await client(t, host)
  async function* changed() {
    yield data.subarray(0, 100)
    yield Buffer.alloc(data.length - 100)
  }
  await t.rejects(registry.pushBlob({ descriptor: blob, open: changed }), { code: 'digest' })
})

t.test('what is no registry, and a host that is not there', async t => {
  const { host } = await serve(t, (_request, response) => {
    response.statusCode = 404
    response.end('<h1>nothing here</h1>')
  })
  await t.rejects(client(t, host), { code: 'registry' })
  await t.rejects(client(t, '127.0.0.1:1'), { code: 'network' })
})

t.test('an abort ends a pull', async t => {
  const { host } = await serve(t, (request, response) => {
    if (request.url === '/v2/') return void response.end()
    response.setHeader('content-length', data.length)
    response.write(data.subarray(0, 1000))
  })
  const controller = new AbortController()
  const registry = await client(t, host, { signal: controller.signal })
  const pull = readAll(registry.blob(blob, { onProgress: () => controller.abort() }), 1 << 20, 'blob')
  await t.rejects(pull, { name: 'AbortError' })
})

t.test(
  'TLS: a certificate that nobody vouches for is refused, unless asked for',
  { skip: noOpenssl },
  async t => {
    const place = mkdtempSync(join(tmpdir(), 'lamina-tls-'))
    t.teardown(() => rmSync(place, { recursive: true, force: true }))
    const [key, cert] = [join(place, 'key.pem'), join(place, 'cert.pem')]
    execFileSync(
      'openssl',
      [
        'req',
        '-x509',
        '-newkey',
        'rsa:2048',
        '-nodes',
        '-days',
        '1',
        '-subj',
        '/CN=localhost',
        '-keyout',
        key,
        '-out',
        cert,
      ],
      { stdio: 'ignore' },
    )
    const server = createTlsServer(
      { key: readFileSync(key), cert: readFileSync(cert) },
      (_request, response) => response.end(data),
    )
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    t.teardown(() => {
      server.closeAllConnections()
      server.close()
    })
    const host = `127.0.0.1:${(server.address() as AddressInfo).port}`
    await t.rejects(client(t, host), { code: 'network', message: /self.signed.*CA/ })
    const registry = await client(t, host, { insecure: true })
    t.ok((await readAll(registry.blob(blob), 1 << 20, 'blob')).equals(data))

    await t.test('through a proxy, which sees only the host', async t => {
      const asked: string[] = []
      const proxy = createServer((_request, response) => response.writeHead(500).end())
      proxy.on('connect', (request, socket) => {
        asked.push(
          `${request.method ?? ''} ${request.url ?? ''} ${request.headers['proxy-authorization'] ?? ''}`,
        )
        if (request.url?.startsWith('refused') === true) return void socket.end('HTTP/1.1 403 no\r\n\r\n')
        const upstream = connect((server.address() as AddressInfo).port, '127.0.0.1', () => {
          socket.write('HTTP/1.1 200 ok\r\n\r\n')
          upstream.pipe(socket).pipe(upstream)
        })
        for (const end of [upstream, socket]) end.on('error', () => undefined)
      })
      await new Promise<void>(resolve => proxy.listen(0, '127.0.0.1', resolve))
      const before = process.env['https_proxy']
      process.env['https_proxy'] = `http://user:p%40ss@127.0.0.1:${(proxy.address() as AddressInfo).port}`
      t.teardown(() => {
        if (before === undefined) delete process.env['https_proxy']
        else process.env['https_proxy'] = before
        proxy.closeAllConnections()
        proxy.close()
      })
      const far = await client(t, 'registry.example', { insecure: true })
      t.ok((await readAll(far.blob(blob), 1 << 20, 'blob')).equals(data))
      t.match(asked[0], `CONNECT registry.example:443 Basic ${Buffer.from('user:p@ss').toString('base64')}`)
      const refusal = /proxy .* refuses refused.example:443: HTTP 403/
      await t.rejects(client(t, 'refused.example'), { code: 'network', message: refusal })
      await far.close()
    })
  },
)

t.test('$NO_PROXY and the kinds of proxy', async t => {
  const via = (url: string, env: NodeJS.ProcessEnv) => proxyFor(new URL(url), env)?.host
  const env = { HTTPS_PROXY: 'proxy.example:3128', NO_PROXY: 'a.example, .b.example,c.example:5000,10.0.0.1' }
  t.equal(via('https://x.example/', env), 'proxy.example:3128')
  t.equal(via('http://x.example/', env), undefined, 'only of https is one named')
  for (const host of [
    'a.example',
    'x.a.example',
    'b.example',
    'y.b.example',
    'c.example:5000',
    '10.0.0.1',
    '127.0.0.1:5000',
    'localhost',
    '[::1]:5000',
  ]) {
    t.equal(via(`https://${host}/`, env), undefined, host)
  }
  for (const host of ['aa.example', 'c.example', '10.0.0.11'])
    t.equal(via(`https://${host}/`, env), 'proxy.example:3128', host)
  t.equal(via('https://x/', { ...env, NO_PROXY: '*' }), undefined)
  t.equal(via('http://x/', { ALL_PROXY: 'http://p' }), 'p')
  t.throws(() => via('https://x/', { https_proxy: 'socks5://p:1' }), { code: 'unsupported' })
})
