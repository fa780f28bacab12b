import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { t } from 'tap'
import { skipBox, withBox } from './box-image.js'
import { leftovers } from './fixture.js'
import { InProcess } from './in-process.js'

/** `run -d`, `start`, `stop`, `kill`, `wait`, `logs`: containers that run on by themselves. */

const TRAP = 'trap "echo bye; exit 5" TERM; echo started; echo wrong >&2; while :; do sleep 0.1; done'

/** Until the container says so: it may not have its trap yet. */
async function heard(lamina: InProcess, name: string, text: string): Promise<void> {
  for (let tries = 0; tries < 200; tries += 1) {
    if ((await lamina.lamina('logs', name)).stdout.includes(text)) return
    await wait(50)
  }
  throw new Error(`${name} never said ${text}`)
}

for (const runtime of ['', 'none']) {
  t.test(
    `a command in the background ${runtime === '' ? 'in an OCI runtime' : 'without a runtime'}`,
    { skip: skipBox },
    async t => {
      const bench = await withBox(t)
      process.env['LAMINA_RUNTIME'] = runtime
      const lamina = new InProcess(bench)
      const status = async (name: string) =>
        (await lamina.run('container', 'inspect', '-f', '{{.status}}', name)).trim()
      const id = await lamina.run('run', '-d', '--name', 'web', '-v', 'data:/data', 'box', 'sh', '-c', TRAP)
      t.match(id, /^[0-9a-f]{64}\n$/)
      await heard(lamina, 'web', 'started')
      t.match(await status('web'), /^Up /)
      t.match(await lamina.run('container', 'ls', '--filter', 'status=running', '-q'), id)
      t.equal(bench.run('exec', 'web', 'sh', '-c', 'echo beside > /data/x; cat /data/x'), 'beside\n')
      t.match((await lamina.lamina('start', 'web')).stderr, /container web is running: 'lamina exec'.*\n$/)
      t.match((await lamina.lamina('container', 'rm', 'web')).stderr, /web is running: 'lamina stop web'/)
      t.equal((await lamina.lamina('volume', 'rm', 'data')).status, 1)
      t.equal(await lamina.run('container', 'prune'), 'Freed 0 B\n')
      t.equal(await lamina.run('stop', 'web'), 'web\n')
      t.match(await status('web'), /^Exited \(5\) /)
      t.equal(await lamina.run('wait', 'web'), '5\n')
      const log = await lamina.lamina('logs', 'web')
      t.equal(log.stdout, 'started\nbye\n')
      t.equal(log.stderr, 'wrong\n')
      t.match(await lamina.run('logs', '-t', '--tail', '1', 'web'), /^\d{4}-\d\d-\d\dT\S+Z bye\n$/)
      t.equal((await lamina.lamina('exec', 'web', 'true')).status, 125)
      t.same(leftovers(bench.root), [], 'nothing is mounted or claimed')

      t.equal(await lamina.run('container', 'start', 'web'), 'web\n')
      await heard(lamina, 'web', 'bye\nstarted')
      t.equal(await lamina.run('kill', '-s', '9', 'web'), 'web\n')
      t.equal(await lamina.run('wait', 'web'), '137\n')
      t.match(await lamina.run('logs', 'web'), /^started\nbye\nstarted\n$/)
      t.match((await lamina.lamina('kill', 'web')).stderr, /nothing runs in container web/)
      t.equal((await lamina.lamina('kill', '-s', 'FOO', 'web')).status, 2)
      t.equal(await lamina.run('stop', 'web'), 'web\n', 'what has ended needs no stop')

      await lamina.run(
        'run',
        '-d',
        '--rm',
        '--name',
        'short',
        '-v',
        '/anonymous',
        'box',
        'sh',
        '-c',
        'sleep 1; exit 3',
      )
      t.equal(await lamina.run('wait', 'short'), '3\n', 'though the container is gone then')
      t.equal((await lamina.run('container', 'ls', '-a', '-q')).split('\n').length, 2)
      t.equal(await lamina.run('volume', 'ls', '-q'), 'data\n')

      await lamina.run('run', '-d', '--name', 'deaf', 'box', 'sleep', '1000')
      const before = Date.now()
      t.equal(await lamina.run('restart', '-t', '1', 'deaf'), 'deaf\n')
      t.ok(Date.now() - before < 8000, 'SIGKILL after a second')
      t.match(await status('deaf'), /^Up /)
      t.equal(await lamina.run('container', 'rm', '-f', 'deaf'), 'deaf\n')

      t.equal((await lamina.lamina('run', '-d', 'box', 'nosuch')).status, 127)
      t.match(
        (await lamina.lamina('run', '-d', '-t', 'box', 'sh')).stderr,
        /neither input nor terminal: .*exec -it/,
      )
      t.equal(await lamina.run('system', 'check'), 'Nothing is wrong.\n')
      t.same(leftovers(bench.root), [])
    },
  )
}

t.test('a monitor that is killed: the next command ends what it began', { skip: skipBox }, async t => {
  const bench = await withBox(t)
  const lamina = new InProcess(bench)
  process.env['LAMINA_RUNTIME'] = ''
  for (const rm of [[], ['--rm']]) {
    await lamina.run('run', '-d', ...rm, '--name', 'web', '-v', '/anonymous', 'box', 'sleep', '1000')
    const pid = readdirSync('/proc').find(name => {
      const path = `/proc/${name}/cmdline`
      if (!/^\d+$/.test(name) || !existsSync(path)) return false
      if (!readFileSync(path, 'latin1').startsWith('lamina-monitor web')) return false
      return readFileSync(`/proc/${name}/environ`, 'latin1').includes(`LAMINA_ROOT=${bench.root}\0`)
    })
    process.kill(Number(pid), 'SIGKILL')
    while (existsSync(`/proc/${pid}`)) await wait(10)
    if (rm.length === 0) {
      t.match(await lamina.run('container', 'inspect', '-f', '{{.status}}', 'web'), /^Exited \(137\)/)
      await lamina.run('container', 'rm', '-v', 'web')
    }
    t.equal(await lamina.run('container', 'ls', '-a', '-q'), '')
    t.equal(await lamina.run('volume', 'ls', '-q'), '')
    t.equal(await lamina.run('system', 'check'), 'Nothing is wrong.\n')
    t.same(leftovers(bench.root), [])
  }
})

t.test('a log is followed, is bounded, and keeps what is no text', { skip: skipBox }, async t => {
  const bench = await withBox(t)
  const script =
    'printf "\\377 half"; sleep 0.5; echo " whole"; for i in $(seq 3); do echo $i; sleep 0.3; done'
  bench.run('run', '-d', '--name', 'web', 'box', 'sh', '-c', script.replace('$(seq 3)', '1 2 3'))
  const followed = bench.laminaWith({ env: {} }, 'logs', '-f', 'web')
  t.equal(followed.stdout, '\ufffd half whole\n1\n2\n3\n')
  const { OutputLog, readLog } = await import('../../src/manager/containers/output-log.js')
  const dir = bench.tree('log', { 'output.log': 'torn\n' })
  {
    using log = new OutputLog(dir, 4096)
    for (let i = 0; i < 1000; i += 1) log.write(i % 2 === 0 ? 'stdout' : 'stderr', Buffer.from(`line ${i}\n`))
  }
  const lines: string[] = []
  for await (const entry of readLog(dir)) lines.push(entry.text.toString())
  t.equal(lines.at(-1), 'line 999\n')
  t.same(
    lines,
    Array.from({ length: lines.length }, (_, i) => `line ${1000 - lines.length + i}\n`),
    'the newest, in order',
  )
  t.ok(lines.length > 80 && lines.length < 250, `${lines.length} lines`)
  for (const name of ['output.log', 'output.log.1']) t.ok(readFileSync(join(dir, name)).length <= 4096)
  const last: string[] = []
  for await (const entry of readLog(dir, { tail: 3 })) last.push(entry.text.toString())
  t.same(last, ['line 997\n', 'line 998\n', 'line 999\n'])
})
