import { once } from 'node:events'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { setTimeout as wait } from 'node:timers/promises'
import t from 'tap'
import { skipBox, withBox } from './box-image.js'
import { lacking, leftovers, type Bench } from './fixture.js'

/** kill -9 of what runs programs and makes layers of containers: no process, no mount and no half layer is left. */

const skip = skipBox

function check(bench: Bench): string {
  const { status, stdout, stderr } = bench.lamina('system', 'check', '--content')
  return status === 0 ? 'sound' : stdout + stderr
}

/** Processes whose command line has `word`. */
function processes(word: string): string[] {
  return readdirSync('/proc').filter(pid => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes(word)
    } catch {
      return false // ended since we listed it
    }
  })
}

for (const runtime of ['crun', 'runc', 'none']) {
  void t.test(
    `a build killed in a RUN (runtime: ${runtime}): the next command ends what it ran`,
    { skip: skip || (runtime === 'none' ? false : lacking(runtime)) || false },
    async t => {
      const bench = await withBox(t)
      // A number that no other process on this host has in its arguments.
      const seconds = `${10_000 + (process.pid % 50_000)}.${runtime.length}${Date.now() % 1000}`
      const context = bench.tree('context', { Containerfile: `FROM box\nRUN exec sleep ${seconds}\n` })
      const running = (): string[] => processes(`sleep\0${seconds}`)
      const env = process.env['LAMINA_RUNTIME']
      process.env['LAMINA_RUNTIME'] = runtime
      const child = bench.start('build', '-t', 'x', context)
      if (env === undefined) delete process.env['LAMINA_RUNTIME']
      else process.env['LAMINA_RUNTIME'] = env
      while (running().length === 0 && child.exitCode === null) await wait(20)
      child.kill('SIGKILL')
      await once(child, 'exit')
      t.equal(running().length, 1, 'it outlives the build')
      t.equal(check(bench), 'sound')
      for (let tries = 0; tries < 100 && running().length > 0; tries += 1) await wait(20)
      t.same(running(), [])
      t.same(leftovers(bench.root), [])
    },
  )
}

void t.test('a commit killed at any time leaves the container and a sound store', { skip }, async t => {
  const bench = await withBox(t)
  bench.run('container', 'create', '--name', 'cc', 'box')
  const rootfs = bench.run('container', 'mount', 'cc').trim()
  for (let i = 0; i < 600; i += 1) writeFileSync(`${rootfs}/var/data/f${i}`, `${i} `.repeat(300))
  let killed = 0
  for (let round = 0; round < 6; round += 1) {
    const child = bench.start('commit', 'cc', `made:${round}`)
    await Promise.race([wait(80 + Math.random() * 300), once(child, 'exit')])
    if (child.exitCode === null) {
      killed += 1
      child.kill('SIGKILL')
      await once(child, 'exit')
    }
    t.equal(check(bench), 'sound', `round ${round}`)
    t.same(
      leftovers(bench.root).filter(name => !name.includes('/merged')),
      [],
    )
    if (child.exitCode === 0) t.match(bench.run('image', 'ls'), /made/)
  }
  t.ok(killed > 0, `${killed} were killed`)
  t.equal(readFileSync(`${rootfs}/var/data/f599`, 'utf8').length, 4 * 300, 'the container has all')
  bench.run('container', 'umount', 'cc')
})
