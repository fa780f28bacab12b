import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync, statSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import { buildImage } from '../../src/manager/build/build.js'
import { parseContainerfile } from '../../src/oci/index.js'
import { Bench, isRoot, leftovers, PROJECT } from './fixture.js'

/** `ADD URL`: files of a web server on loopback. */

const skip = !isRoot && 'needs root'
const sha256 = (data: string | Buffer): string => createHash('sha256').update(data).digest('hex')

interface Web {
  readonly url: string
  readonly files: Map<string, { body: Buffer | string; headers?: Record<string, string>; status?: number }>
  /** Paths that were asked for, in order. */
  readonly asked: string[]
}

async function serve(t: { teardown(end: () => unknown): void }): Promise<Web> {
  const files: Web['files'] = new Map()
  const asked: string[] = []
  const server = createServer((request, response) => {
    const path = request.url ?? ''
    asked.push(path)
    const file = files.get(path)
    response.writeHead(file?.status ?? (file === undefined ? 404 : 200), file?.headers ?? {})
    response.end(file?.body)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, files, asked }
}

/** As Bench.lamina, but this process goes on serving meanwhile. */
async function build(bench: Bench, file: string, ...more: string[]) {
  const child = spawn(
    process.execPath,
    [join(PROJECT, 'bin/lamina.js'), 'build', '-t', 'out', ...more, '-'],
    {
      env: { ...process.env, LAMINA_ROOT: bench.root },
    },
  )
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', data => (stdout += String(data)))
  child.stderr.on('data', data => (stderr += String(data)))
  child.stdin.end(file)
  const [status] = (await once(child, 'close')) as [number | null]
  return { status, stdout, stderr }
}

function inImage<T>(bench: Bench, look: (root: string) => T): T {
  const root = bench.run('image', 'mount', 'out').trim()
  try {
    return look(root)
  } finally {
    bench.run('image', 'umount', 'out')
  }
}

void t.test('ADD URL brings the file: mode 0600, time of the server, not unpacked', { skip }, async t => {
  const bench = new Bench(t)
  const web = await serve(t)
  const archive = gzipSync('not looked into')
  web.files.set('/a/one.txt', {
    body: 'one',
    headers: { 'last-modified': 'Tue, 15 Nov 1994 12:45:26 GMT' },
  })
  web.files.set('/b/two.tar.gz', { body: archive })
  web.files.set('/old', { body: '', status: 302, headers: { location: '/a/one.txt' } })
  const made = await build(
    bench,
    `FROM scratch
ARG WHERE=/a
ADD ${web.url}$WHERE/one.txt /dir/
ADD --chown=3:4 --chmod=644 ${web.url}/b/two.tar.gz ${web.url}/a/one.txt /many/
ADD ${web.url}/old /renamed
`,
  )
  t.equal(made.status, 0, made.stderr)
  inImage(bench, root => {
    const one = statSync(join(root, 'dir/one.txt'))
    t.equal(readFileSync(join(root, 'dir/one.txt'), 'utf8'), 'one')
    t.same([one.mode & 0o7777, one.uid, one.gid, one.mtimeMs], [0o600, 0, 0, 784903526000])
    const two = statSync(join(root, 'many/two.tar.gz'))
    t.same([two.mode & 0o7777, two.uid, two.gid, two.mtimeMs], [0o644, 3, 4, 0])
    t.same(readFileSync(join(root, 'many/two.tar.gz')), archive)
    t.equal(readFileSync(join(root, 'many/one.txt'), 'utf8'), 'one')
    t.equal(readFileSync(join(root, 'renamed'), 'utf8'), 'one')
  })
  t.same(leftovers(bench.root), [])
})

void t.test('the cache holds while the file does; with --checksum nobody asks', { skip }, async t => {
  const bench = new Bench(t)
  const web = await serve(t)
  web.files.set('/f', { body: 'first' })
  const plain = `FROM scratch\nADD ${web.url}/f /f\n`
  await build(bench, plain)
  t.match((await build(bench, plain)).stdout, /CACHED/, 'fetched again, and the same')
  web.files.set('/f', { body: 'second' })
  t.notMatch((await build(bench, plain)).stdout, /CACHED/)
  t.equal(
    inImage(bench, root => readFileSync(join(root, 'f'), 'utf8')),
    'second',
  )
  const sure = `FROM scratch\nADD --checksum=sha256:${sha256('second')} ${web.url}/f /f\n`
  t.equal((await build(bench, sure)).status, 0)
  const before = web.asked.length
  t.match((await build(bench, sure)).stdout, /CACHED/)
  t.equal(web.asked.length, before)
})

void t.test('what cannot be added is one line, and leaves nothing', { skip }, async t => {
  const bench = new Bench(t)
  const web = await serve(t)
  web.files.set('/f', { body: 'x'.repeat(2000) })
  const fails = async (line: string, message: RegExp): Promise<void> => {
    const { status, stderr } = await build(bench, `FROM scratch\n${line}\n`)
    t.equal(status, 1, line)
    t.match(stderr, message)
    t.equal(stderr.split('\n').length, 2, 'one line')
  }
  await fails(
    `ADD ${web.url}/gone /x`,
    /^lamina: line 2: http:.*\/gone: there is no such file \(HTTP 404\)\n$/,
  )
  await fails(`ADD ${web.url}/ /dir/`, /^lamina: line 2: .*(404|does not end in the name)/)
  const wrong = 'a'.repeat(64)
  await fails(
    `ADD --checksum=sha256:${wrong} ${web.url}/f /x`,
    /has digest sha256:[0-9a-f]{64}, expected sha256:aaa/,
  )
  await fails(`ADD --checksum=md5:12 ${web.url}/f /x`, /is not sha256: and 64 hex digits/)
  await fails('ADD https://example.invalid/a/b.git /x', /repositories are not cloned: clone it in a RUN step/)
  await fails('ADD git@example.invalid:a/b /x', /repositories are not cloned/)
  await fails('ADD http://127.0.0.1:1/x /x', /127\.0\.0\.1:1: .*ECONNREFUSED/)
  t.equal(bench.run('layer', 'ls', '-q'), '')
  t.same(leftovers(bench.root), [])

  await t.test('a file that is too long', async t => {
    const store = await bench.open()
    t.teardown(() => store.close())
    const containerfile = parseContainerfile(`FROM scratch\nADD ${web.url}/f /f\n`)
    await t.rejects(
      buildImage(store, { containerfile, maxDownload: 1999 }),
      /line 2: http:.*\/f is larger than 2\.0 kB, the most that is downloaded/,
    )
    await buildImage(store, { containerfile, maxDownload: 2000 })
    t.same(leftovers(bench.root), [])
  })
})
