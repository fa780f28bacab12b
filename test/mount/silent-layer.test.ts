import { execFileSync, spawn } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { Scratch, unavailable, type Mount } from './fixture.js'

/**
 * A layer whose server does not answer (a FUSE mount whose daemon is stopped; a network filesystem is the same): whoever needs it
 * waits, and nobody else.
 */

const skip = unavailable('lamina') ?? false
t.setTimeout(60_000)

interface Ended {
  code: number | null
  signal: NodeJS.Signals | null
  output: string
}

/** A command of its own: a call that waits holds up only itself. */
function run(...command: string[]): { pid: number; ended: Promise<Ended>; isOver: () => boolean } {
  const child = spawn(command[0] ?? '', command.slice(1), { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (data: Buffer) => (output += data.toString()))
  let over = false
  const ended = new Promise<Ended>(resolve =>
    child.once('close', (code, signal) => {
      over = true
      resolve({ code, signal, output })
    }),
  )
  return { pid: child.pid ?? 0, ended, isOver: () => over }
}

const later = (milliseconds: number): Promise<void> =>
  new Promise(resolve => setTimeout(resolve, milliseconds))

/** A view of `near`, a directory of this disk, over `far`, which is a mount of its own. */
function layers(scratch: Scratch, options: readonly string[]): { view: Mount; far: Mount } {
  const source = scratch.mkdir('source')
  for (const dir of ['far', 'both']) fs.mkdirSync(path.join(source, dir))
  for (let i = 0; i < 20; i++) fs.writeFileSync(path.join(source, 'far', `f${i}`), `far ${i}`)
  fs.writeFileSync(path.join(source, 'far', 'big'), Buffer.alloc(4 << 20, 7))
  fs.symlinkSync('f1', path.join(source, 'far', 'link'))
  const near = scratch.mkdir('near')
  fs.mkdirSync(path.join(near, 'near'))
  for (let i = 0; i < 20; i++) fs.writeFileSync(path.join(near, 'near', `n${i}`), `near ${i}`)
  // Nothing of it is remembered, so that each call asks its daemon.
  const far = scratch.mount({
    subject: 'lamina',
    lowers: [source],
    mountpoint: scratch.mkdir('farmnt'),
    options: ['timeout=0'],
  })
  const view = scratch.mount({
    subject: 'lamina',
    lowers: [near, far.mountpoint],
    upper: scratch.mkdir('upper'),
    work: scratch.mkdir('work'),
    mountpoint: scratch.mkdir('mnt'),
    options,
  })
  return { view, far }
}

for (const keeper of ['keeper=0', 'keeper=1'])
  t.test(`a layer that does not answer holds up only who needs it, ${keeper}`, { skip }, async t => {
    using scratch = new Scratch('silent', 50)
    const { view, far } = layers(scratch, [keeper])
    const at = (...names: string[]): string => path.join(view.mountpoint, ...names)
    const { pid } = view
    // These are known, so nothing asks whether the other layer has them as well.
    fs.statSync(at('near'))
    t.equal(fs.readFileSync(at('far', 'f0'), 'utf8'), 'far 0')
    const open = fs.openSync(at('far', 'big'), 'r')
    const stopped = far.pid ?? 0
    process.kill(stopped, 'SIGSTOP')
    try {
      const waiting = [run('stat', at('far', 'f1')), run('cat', at('far', 'f2')), run('ls', at('both'))]
      const readers = Array.from({ length: 8 }, (_, i) =>
        run('dd', `if=${at('far', 'big')}`, 'bs=64k', `skip=${i * 8}`, 'count=1'),
      )
      // Without O_CREAT, for which the kernel keeps everybody else out of the directory.
      const copying = run(
        'sh',
        '-c',
        `printf more | dd of=${at('far', 'f3')} conv=notrunc,nocreat bs=1 seek=5`,
      )
      const killed = [run('stat', at('far', 'f4')), run('ls', '-l', at('far'))]
      const interrupted = run('timeout', '-s', 'INT', '1', 'readlink', at('far', 'link'))
      await later(500)
      t.notOk([...waiting, copying, ...killed].some(({ isOver }) => isOver()))

      const begin = Date.now()
      t.equal(execFileSync('ls', [at('near')], { encoding: 'utf8' }).split('\n').length, 21)
      for (let i = 0; i < 20; i++) t.equal(fs.readFileSync(at('near', `n${i}`), 'utf8'), `near ${i}`)
      fs.writeFileSync(at('near', 'n1'), 'copied up')
      fs.mkdirSync(at('near', 'made'))
      fs.renameSync(at('near', 'n2'), at('near', 'made', 'moved'))
      fs.unlinkSync(at('near', 'n3'))
      t.equal(fs.readFileSync(at('far', 'f0'), 'utf8'), 'far 0', 'what is cached')
      t.ok(Date.now() - begin < 3000, `everything else in ${Date.now() - begin} ms`)
      t.match((view.stats() as { silent?: unknown }).silent, [{ layers: [far.mountpoint] }])

      for (const { pid } of killed) process.kill(pid, 'SIGKILL')
      for (const { ended } of killed) t.equal((await ended).signal, 'SIGKILL', 'whoever is killed goes')
      t.equal((await interrupted.ended).code, 124)
      t.notOk([...waiting, copying].some(({ isOver }) => isOver()))
      process.kill(stopped, 'SIGCONT')
      t.match(await Promise.all(waiting.map(({ ended }) => ended)), [
        { code: 0, output: 'regular file' },
        { code: 0, output: 'far 2' },
        { code: 0, output: '' },
      ])
      for (const { ended } of readers) t.match(await ended, { code: 0 })
      t.match(await copying.ended, { code: 0 })
      t.equal(fs.readFileSync(at('far', 'f3'), 'utf8'), 'far 3more')
      const buffer = Buffer.alloc(1)
      fs.readSync(open, buffer, 0, 1, (4 << 20) - 1)
      t.equal(buffer[0], 7)
      t.equal(view.pid, pid, 'the same daemon')
      t.match(view.stats(), { silent: [], faults: 0 })
    } finally {
      process.kill(stopped, 'SIGCONT')
      fs.closeSync(open)
    }
  })

t.test('a mount over a layer that does not answer can be ended', { skip }, async t => {
  using scratch = new Scratch('silent-end', 30)
  const { view, far } = layers(scratch, [])
  fs.statSync(path.join(view.mountpoint, 'far'))
  const [stopped, pid] = [far.pid ?? 0, view.pid ?? 0]
  process.kill(stopped, 'SIGSTOP')
  try {
    const big = path.join(view.mountpoint, 'far', 'big')
    const waiting = [run('sh', '-c', `printf more | dd of=${big} conv=notrunc,nocreat`), run('cat', big)]
    await later(500)
    execFileSync('umount', ['-f', '-l', view.mountpoint])
    for (const { ended } of waiting) t.not((await ended).code, 0)
    for (let i = 0; i < 100 && fs.existsSync(`/proc/${pid}`); i++) await later(50)
    t.notOk(fs.existsSync(`/proc/${pid}`), 'no daemon stays')
  } finally {
    process.kill(stopped, 'SIGCONT')
    view.kill()
  }
})

t.test('a daemon that dies meanwhile: its successor begins when the layer answers', { skip }, async t => {
  using scratch = new Scratch('silent-death', 40)
  const { view, far } = layers(scratch, ['keeper=1', 'watchdog=2'])
  const at = (...names: string[]): string => path.join(view.mountpoint, ...names)
  fs.statSync(at('far'))
  fs.statSync(at('near'))
  const [stopped, pid] = [far.pid ?? 0, view.pid ?? 0]
  process.kill(stopped, 'SIGSTOP')
  try {
    const waiting = [run('cat', at('far', 'f1')), run('cat', at('near', 'n1'))]
    await later(500)
    t.ok(waiting[1]?.isOver())
    process.kill(pid, 'SIGKILL')
    waiting.push(run('cat', at('near', 'n2')))
    await later(2500)
    t.notOk(waiting[0]?.isOver())
    process.kill(stopped, 'SIGCONT')
    t.match(await Promise.all(waiting.map(({ ended }) => ended)), [
      { code: 0, output: 'far 1' },
      { code: 0, output: 'near 1' },
      { code: 0, output: 'near 2' },
    ])
    t.match(view.stats(), { deaths: { count: 1 } }, 'no other daemon died')
  } finally {
    process.kill(stopped, 'SIGCONT')
  }
})
