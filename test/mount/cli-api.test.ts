import { spawn } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import * as lamina from '../../src/index.js'
import { PROJECT, Scratch, unavailable } from './fixture.js'

const skip = unavailable('lamina') ?? false

function isMounted(mountpoint: string): boolean {
  return fs.readFileSync('/proc/mounts', 'utf8').includes(` ${mountpoint} `)
}

t.test('mount, diff, stats and unmount from a program', { skip }, async t => {
  using scratch = new Scratch('api')
  for (const name of ['lower', 'upper', 'work', 'mnt']) scratch.mkdir(name)
  fs.writeFileSync(scratch.path('lower/a'), 'below')
  const mount = await lamina.mount({
    lower: [scratch.path('lower')],
    upper: scratch.path('upper'),
    work: Buffer.from(scratch.path('work')),
    mountpoint: scratch.path('mnt'),
    options: { timeout: 5 },
    mountOptions: 'noexec',
  })
  // The daemon is another process, so synchronous calls into the mount are fine.
  t.equal(fs.readFileSync(path.join(mount.mountpoint, 'a'), 'utf8'), 'below')
  fs.rmSync(path.join(mount.mountpoint, 'a'))
  fs.writeFileSync(path.join(mount.mountpoint, 'b'), '')
  t.match(mount.diff(), [
    { kind: 'D', path: '/a' },
    { kind: 'A', path: '/b', type: 'file' },
  ])
  t.strictSame(lamina.diff(scratch.path('upper')), mount.diff())
  t.equal((await mount.stats()).requests['INIT'], 1)
  await mount.unmount()
  t.equal(await mount.ended, 0)
  t.notOk(isMounted(mount.mountpoint))
  await mount.unmount()
})

t.test('a mount that cannot be rejects with one line', { skip }, async t => {
  using scratch = new Scratch('api-error')
  const request = { lower: [scratch.path('none')], mountpoint: scratch.mkdir('mnt') }
  await t.rejects(lamina.mount(request), { message: /^lowerdir '.*' does not exist$/ })
})

t.test('a mount ends with the program that made it, unless it is detached', { skip }, async t => {
  using scratch = new Scratch('api-life')
  for (const name of ['lower', 'bound', 'detached']) scratch.mkdir(name)
  const program = `
    import { mount } from '${PROJECT}/dist/src/index.js'
    const lower = ['${scratch.path('lower')}']
    const bound = await mount({ lower, mountpoint: '${scratch.path('bound')}' })
    const detached = await mount({ lower, mountpoint: '${scratch.path('detached')}', detached: true })
    console.log(bound.pid, detached.pid)`
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let output = ''
  child.stdout.on('data', data => (output += data.toString()))
  const [code] = (await once(child, 'close')) as [number]
  t.equal(code, 0, 'a mount keeps no program alive')
  const [bound, detached] = output.trim().split(' ').map(Number) as [number, number]
  while (fs.existsSync(`/proc/${bound}/fd/0`)) await new Promise(resolve => setTimeout(resolve, 2))
  t.notOk(isMounted(scratch.path('bound')))
  t.ok(isMounted(scratch.path('detached')))
  process.kill(detached, 'SIGTERM')
  while (fs.existsSync(`/proc/${detached}/fd/0`)) await new Promise(resolve => setTimeout(resolve, 2))
  t.notOk(isMounted(scratch.path('detached')))
})
