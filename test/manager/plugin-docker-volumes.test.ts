import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, statfsSync, statSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { t } from 'tap'
import { serveDockerVolumes } from '../../src/plugins/docker-volumes.js'
import { Bench, isRoot, leftovers } from './fixture.js'

const skip = isRoot ? false : 'needs root'

/** As dockerd 20.10 sends it: POST, an empty Host, its own media type. */
async function call(
  socketPath: string,
  path: string,
  body?: object | string,
): Promise<Record<string, unknown>> {
  const text = body === undefined ? '' : typeof body === 'string' ? body : JSON.stringify(body)
  return await new Promise((resolve, reject) => {
    const headers = { Host: '', Accept: 'application/vnd.docker.plugins.v1.2+json' }
    const sent = request({ socketPath, path, method: 'POST', headers, agent: false }, response => {
      let answer = ''
      response.setEncoding('utf8').on('data', (chunk: string) => (answer += chunk))
      response.on('end', () => resolve({ status: response.statusCode, ...(JSON.parse(answer) as object) }))
    })
    sent.once('error', reject).end(text)
  })
}

t.test('the protocol as dockerd and Podman speak it', { skip }, async t => {
  const bench = new Bench(t)
  using store = await bench.open()
  const socket = bench.path('plugins', 'lamina.sock')
  const end = new AbortController()
  let served: Promise<void> = Promise.resolve()
  await new Promise<void>(resolve => {
    served = serveDockerVolumes(store, socket, end.signal, resolve)
  })
  t.equal(statSync(socket).mode & 0o777, 0o600)
  const driver = (name: string, body?: object | string) => call(socket, `/VolumeDriver.${name}`, body)
  const ok = { status: 200, Err: '' }

  t.same(await call(socket, '/Plugin.Activate'), { ...ok, Implements: ['VolumeDriver'] })
  t.same(await driver('Capabilities', {}), { ...ok, Capabilities: { Scope: 'local' } })
  // docker volume create
  t.same(await driver('Get', { Name: 'v1' }), { status: 500, Err: 'no such volume' })
  t.same(await driver('Create', { Name: 'v1' }), ok)
  // docker run -v v1:/data
  t.match(await driver('Get', { Name: 'v1' }), {
    ...ok,
    Volume: { Name: 'v1', Mountpoint: /_data$/, Status: {} },
  })
  const first = 'a'.repeat(64)
  const second = 'b'.repeat(64)
  const { Mountpoint } = await driver('Mount', { Name: 'v1', ID: first })
  writeFileSync(join(String(Mountpoint), 'file'), '')
  t.match(await driver('Mount', { Name: 'v1', ID: second }), { ...ok, Mountpoint })
  t.match(await driver('Path', { Name: 'v1' }), { ...ok, Mountpoint })
  t.match(await driver('Remove', { Name: 'v1' }), {
    status: 500,
    Err: /volume v1 is used by plugin client aaaa/,
  })
  t.same(await driver('Unmount', { Name: 'v1', ID: first }), ok)
  t.match(
    await driver('Remove', { Name: 'v1' }),
    { Err: /plugin client bbbb/ },
    'the other container has it still',
  )
  t.same(await driver('Unmount', { Name: 'v1', ID: second }), ok)

  // Options: a tmpfs is there from Mount to Unmount.
  t.same(await driver('Create', { Name: 'm1', Opts: { type: 'tmpfs', device: 'tmpfs', o: 'size=1m' } }), ok)
  const memory = await driver('Mount', { Name: 'm1', ID: first })
  writeFileSync(join(String(memory['Mountpoint']), 'gone'), '')
  t.same(await driver('Unmount', { Name: 'm1', ID: first }), ok)
  t.notOk(existsSync(join(String(memory['Mountpoint']), 'gone')))
  t.same(await driver('Create', { Name: 'v2', Opts: { size: '2m' } }), ok)
  const small = await driver('Mount', { Name: 'v2', ID: first })
  t.equal(statfsSync(String(small['Mountpoint'])).blocks * 4096, 2 << 20)
  t.same(await driver('Unmount', { Name: 'v2', ID: first }), ok)
  t.same(await driver('Remove', { Name: 'v2' }), ok)
  t.match(await driver('Create', { Name: 'v2', Opts: { quota: '2m' } }), {
    status: 500,
    Err: /not an option/,
  })
  // Its client died: a person says so.
  t.match(await driver('Mount', { Name: 'm1', ID: second }), ok)
  t.match((await driver('Remove', { Name: 'm1' }))['Err'], /lamina volume release m1/)
  t.match(bench.run('volume', 'release', 'm1'), /from 1 clients/)
  t.match(await driver('Create', { Name: '../up' }), { status: 500, Err: /is not a volume name/ })

  for (const body of [undefined, {}]) {
    t.match(await driver('List', body), { ...ok, Volumes: [{ Name: 'm1' }, { Name: 'v1' }] })
  }
  t.match(await driver('Create', 'not json'), { status: 500, Err: /not JSON/ })
  t.match(await driver('Create', {}), { status: 500, Err: /no volume name/ })
  t.match(await call(socket, '/VolumeDriver.Colour', {}), { status: 404 })
  await t.rejects(serveDockerVolumes(store, socket, end.signal), { code: 'in-use' })
  t.ok(existsSync(socket), 'and the running server keeps its socket')
  for (const Name of ['v1', 'm1']) t.same(await driver('Remove', { Name }), ok)
  end.abort()
  await served
  t.notOk(existsSync(socket))
  writeFileSync(socket, '')
  const ended = new AbortController()
  const again = new Promise<void>((resolve, reject) => {
    serveDockerVolumes(store, socket, ended.signal, () => ended.abort()).then(resolve, reject)
  })
  await again
  t.same(leftovers(bench.root), [])
})

/** A client in a process of its own: it asks once, prints the answer, and stays until it is killed. */
function client(socketPath: string, path: string, body: object): ChildProcess {
  const script = `
    const { request } = require('node:http')
    request({ socketPath: ${JSON.stringify(socketPath)}, path: ${JSON.stringify(path)}, method: 'POST', agent: false }, r => {
      let text = ''
      r.on('data', part => (text += part)).on('end', () => console.log(text))
    }).end(${JSON.stringify(JSON.stringify(body))})
    setInterval(() => {}, 1000)`
  return spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] })
}

async function answerOf(child: ChildProcess): Promise<Record<string, unknown>> {
  for await (const chunk of child.stdout as Readable)
    return JSON.parse(String(chunk)) as Record<string, unknown>
  throw new Error('the client said nothing')
}

async function killed(child: ChildProcess): Promise<void> {
  const ended = once(child, 'exit')
  child.kill('SIGKILL')
  await ended
}

t.test('what a client that died had is free again, unless a process still shows it', { skip }, async t => {
  const bench = new Bench(t)
  using store = await bench.open()
  const socket = bench.path('plugins', 'lamina.sock')
  const end = new AbortController()
  let served: Promise<void> = Promise.resolve()
  await new Promise<void>(resolve => {
    served = serveDockerVolumes(store, socket, end.signal, resolve)
  })
  const driver = (name: string, body?: object) => call(socket, `/VolumeDriver.${name}`, body)
  const ID = 'c'.repeat(64)
  const tmpfs = { type: 'tmpfs', device: 'tmpfs', o: 'size=1m' }
  for (const [Name, Opts] of [
    ['plain', {}],
    ['memory', tmpfs],
  ] as const) {
    await t.test(Name, async t => {
      await driver('Create', { Name, Opts })
      const dockerd = client(socket, '/VolumeDriver.Mount', { Name, ID })
      const { Mountpoint } = await answerOf(dockerd)
      writeFileSync(join(String(Mountpoint), 'left'), '')
      t.match(await driver('Remove', { Name }), { Err: /used by plugin client/ }, 'it lives')

      // A container of its: the volume is in its mount namespace, whatever becomes of the client.
      const script = 'mount --bind "$1" "$2" && umount "$1" 2>/dev/null; echo ready; exec sleep 1000'
      const container = spawn(
        'unshare',
        ['--mount', 'sh', '-c', script, 'sh', String(Mountpoint), bench.path()],
        {
          stdio: ['ignore', 'pipe', 'inherit'],
        },
      )
      await once(container.stdout, 'data')
      await killed(dockerd)
      t.match(await driver('Remove', { Name }), { Err: /used by plugin client/ }, 'its container lives')
      t.match(await driver('List', {}), { Err: '' })
      t.match(bench.lamina('volume', 'rm', Name).stderr, /used by plugin client/)
      await killed(container)

      // Restarted, it mounts what it still needs.
      const again = await driver('Mount', { Name, ID: 'd'.repeat(64) })
      t.equal(existsSync(join(String(again['Mountpoint']), 'left')), Name === 'plain', 'a tmpfs is a new one')
      t.match(await driver('Unmount', { Name, ID: 'd'.repeat(64) }), { Err: '' })
      t.match(await driver('Remove', { Name }), { Err: '' }, 'nobody has to release it')
    })
  }
  await t.test('a client that only lists ends the mounts of the dead', async t => {
    await driver('Create', { Name: 'memory', Opts: tmpfs })
    const dockerd = client(socket, '/VolumeDriver.Mount', { Name: 'memory', ID })
    const { Mountpoint } = await answerOf(dockerd)
    const mounted = (): boolean => readFileSync('/proc/self/mountinfo', 'utf8').includes(String(Mountpoint))
    await killed(dockerd)
    t.ok(mounted())
    t.match(await driver('List', {}), { Err: '' })
    t.notOk(mounted())
    t.match(bench.run('volume', 'rm', 'memory'), /memory/)
  })
  end.abort()
  await served
  t.same(leftovers(bench.root), [])
})
