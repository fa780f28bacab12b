import { once } from 'node:events'
import { spawn } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { connect, createServer, type AddressInfo } from 'node:net'
import { setTimeout as wait } from 'node:timers/promises'
import t from 'tap'
import { Bench, isRoot, lacking, leftovers } from './fixture.js'

/** Pulls, removals, prunes and builds of one image at once, each killed or not: `system check` finds nothing afterwards. */

const skip = (!isRoot && 'needs root') || lacking('docker-registry') || false
const ROUNDS = 5

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

async function registry(bench: Bench, t: { teardown(end: () => unknown): void }): Promise<string> {
  const port = await freePort()
  const config = bench.path('registry.yml')
  mkdirSync(bench.path('registry'))
  writeFileSync(
    config,
    `version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: ${bench.path('registry')}}}\nhttp: {addr: '127.0.0.1:${port}'}\n`,
  )
  const server = spawn('docker-registry', ['serve', config], { stdio: 'ignore' })
  t.teardown(() => server.kill('SIGKILL'))
  for (let tries = 0; tries < 100; tries += 1) {
    const socket = connect(port, '127.0.0.1')
    const open = await Promise.race([
      once(socket, 'connect').then(() => true),
      once(socket, 'error').then(() => false),
    ]).catch(() => false)
    socket.destroy()
    if (open) return `127.0.0.1:${port}`
    await wait(100)
  }
  throw new Error('the registry did not start')
}

void t.test('pulls, removals and builds at once, killed at random', { skip }, async t => {
  const seed = new Bench(t)
  const ref = `${await registry(seed, t)}/app:1`
  const files = Object.fromEntries(Array.from({ length: 800 }, (_, i) => [`d/f${i}`, `${i} `.repeat(500)]))
  seed.run('image', 'import', seed.tree('tree', files), 'base')
  const context = seed.tree('context', { Containerfile: 'FROM base\nCOPY a /a\nCOPY b /b\n', a: 'a', b: 'b' })
  seed.run('build', '-t', 'app', context)
  seed.run('image', 'push', 'app', ref)
  writeFileSync(`${context}/Containerfile`, `FROM ${ref}\nCOPY a /a\nWORKDIR /w\nCOPY b /w/b\n`)
  const bench = new Bench(t)
  let killed = 0
  for (let round = 0; round < ROUNDS; round += 1) {
    const children = [
      bench.start('image', 'pull', ref),
      bench.start('image', 'pull', ref),
      bench.start('build', '-t', `b${round}`, context),
      bench.start('build', '-t', `b${round}`, context),
      bench.start('image', 'rm', '--force', ref),
      bench.start('image', 'prune', '--all'),
    ]
    const ends = children.map(child => once(child, 'exit'))
    await wait(200 + Math.random() * 1500)
    for (const child of children) {
      if (child.exitCode !== null || Math.random() < 0.4) continue
      killed += 1
      child.kill('SIGKILL')
    }
    await Promise.all(ends)
    const { status, stdout, stderr } = bench.lamina('system', 'check', '--content')
    t.equal(status === 0 ? 'sound' : stdout + stderr, 'sound', `round ${round}`)
    // What of a download has come may stay: the next pull goes on from there.
    t.same(
      leftovers(bench.root).filter(name => !name.startsWith('partial/')),
      [],
    )
  }
  t.ok(killed > 0, `${killed} were killed`)
  bench.run('image', 'pull', ref)
  t.same(leftovers(bench.root), [], 'nor a part of a download, when it is complete')
})
