import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import t from 'tap'
import { Scratch, unavailable } from './fixture.js'

/**
 * A tree that is deeper than a stack of calls, than all descriptors, and than a path may be long: every step is one name from the
 * working directory, so another process takes it.
 */

const skip = unavailable('lamina') ?? false
const DEPTH = 5000
const DESCRIPTORS = 1024

/** What a node process prints that goes down from `top`, by name, and then does `work`. */
function below(top: string, work: string, each = ''): string {
  const script = `const fs = require('node:fs'); for (let i = 0; i < ${DEPTH}; i++) { ${each}; process.chdir('d') }; ${work}`
  return execFileSync(process.execPath, ['-e', script], { cwd: top, encoding: 'utf8' })
}

t.test('a deep tree is read, copied up, taken over and removed', { skip }, t => {
  using scratch = new Scratch('deep-tree', 110)
  const lower = scratch.mkdir('lower0')
  below(lower, `fs.writeFileSync('file', 'deep')`, `fs.mkdirSync('d')`)
  const mount = scratch.overlay('lamina', 1, ['keeper=1'])
  const { mountpoint } = mount
  // Its successors have so few.
  execFileSync('prlimit', ['--pid', String(mount.keeper), `--nofile=${DESCRIPTORS}:${DESCRIPTORS}`])
  process.kill(mount.pid ?? 0, 'SIGKILL')
  const read = `process.stdout.write(fs.readFileSync('file', 'utf8'))`
  t.equal(below(mountpoint, read), 'deep')
  const { pid } = mount
  // The caller goes on in its directory, of which the successor of the daemon has heard nothing yet.
  const killed = below(
    mountpoint,
    `process.kill(${pid}, 'SIGKILL'); ${read}; fs.writeFileSync('made', 'new')`,
  )
  t.equal(killed, 'deep')
  t.not(mount.pid, pid)
  const list = `process.stdout.write(fs.readdirSync('.').sort().join() + fs.readFileSync('made', 'utf8'))`
  t.equal(below(mountpoint, list), 'file,madenew')
  t.equal(below(scratch.path('upper'), list.replace('file', 'made')), 'madenew', 'copied up to the bottom')
  process.kill(mount.pid ?? 0, 'SIGKILL')
  execFileSync('rm', ['-r', 'd'], { cwd: mountpoint })
  t.strictSame(fs.readdirSync(mountpoint), [])
  t.match(mount.stats(), { faults: 0 })
  t.ok(mount.stats().fds <= DESCRIPTORS)
  t.end()
})
