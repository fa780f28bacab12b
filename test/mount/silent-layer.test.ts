import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { Scratch, unavailable } from './fixture.js'
import { Far, fillFar, fillUpper, type Kind, later, mountOver, nearLayer, run } from './silent-fixture.js'

/** A layer that does not answer: whoever needs it waits, and nobody else. */

const skip = unavailable('lamina') ?? false

const ways: readonly [Kind, string][] = [
  ['server', 'keeper=0'],
  ['server', 'keeper=1'],
  ['disk', 'patience=lower'],
  ['disk', 'keeper=1,patience=lower'],
  ['disk', 'patience=all'],
]
for (const [kind, option] of ways)
  t.test(`a ${kind} that does not answer holds up only who needs it, ${option}`, { skip }, async t => {
    using scratch = new Scratch('silent', 50)
    using far = Far.begin(scratch, kind, fillFar)
    using view = mountOver(scratch, far, [option])
    const at = (...names: string[]): string => path.join(view.mountpoint, ...names)
    const { pid } = view
    // These are known, so nothing asks whether the other layer has them as well.
    fs.statSync(at('near'))
    t.equal(fs.readFileSync(at('far', 'f0'), 'utf8'), 'far 0')
    const open = fs.openSync(at('far', 'big'), 'r')
    far.fallSilent()
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
      t.match((view.stats() as { silent?: unknown }).silent, [{ layers: [far.dir] }])

      for (const { pid } of killed) process.kill(pid, 'SIGKILL')
      for (const { ended } of killed) t.equal((await ended).signal, 'SIGKILL', 'whoever is killed goes')
      t.equal((await interrupted.ended).code, 124)
      t.notOk([...waiting, copying].some(({ isOver }) => isOver()))
      far.answer()
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
      far.answer()
      fs.closeSync(open)
    }
  })

for (const kind of ['server', 'disk'] as const)
  t.test(`a mount over a ${kind} that does not answer can be ended`, { skip }, async t => {
    using scratch = new Scratch('silent-end', 30)
    using far = Far.begin(scratch, kind, fillFar)
    const view = mountOver(scratch, far, ['patience=lower'])
    fs.statSync(path.join(view.mountpoint, 'far'))
    const pid = view.pid ?? 0
    far.fallSilent()
    try {
      const big = path.join(view.mountpoint, 'far', 'big')
      const waiting = [run('sh', '-c', `printf more | dd of=${big} conv=notrunc,nocreat`), run('cat', big)]
      await later(500)
      execFileSync('umount', ['-f', '-l', view.mountpoint])
      for (const { ended } of waiting) t.not((await ended).code, 0)
      // A thread that waits for a disk cannot be killed: its process goes when the disk answers.
      if (kind === 'disk') far.answer()
      for (let i = 0; i < 100 && fs.existsSync(`/proc/${pid}`); i++) await later(50)
      t.notOk(fs.existsSync(`/proc/${pid}`), 'no daemon stays')
    } finally {
      far.answer()
      view.kill()
    }
  })

for (const kind of ['server', 'disk'] as const)
  t.test(`a daemon that dies while a ${kind} does not answer has a successor at once`, { skip }, async t => {
    using scratch = new Scratch('silent-death', 40)
    using far = Far.begin(scratch, kind, fillFar)
    using view = mountOver(scratch, far, ['keeper=1', 'watchdog=2', 'patience=lower'])
    const at = (...names: string[]): string => path.join(view.mountpoint, ...names)
    fs.statSync(at('far'))
    fs.statSync(at('near'))
    const pid = view.pid ?? 0
    far.fallSilent()
    try {
      const waiting = [run('cat', at('far', 'f1')), run('cat', at('near', 'n1'))]
      await later(500)
      t.ok(waiting[1]?.isOver())
      process.kill(pid, 'SIGKILL')
      const after = run('cat', at('near', 'n2'))
      waiting.push(after)
      if (kind === 'disk') {
        // Threads that wait for a disk cannot be killed.
        t.ok(fs.existsSync(`/proc/${pid}`))
        t.match(
          await Promise.race([after.ended, later(8000)]),
          { code: 0 },
          'although the one before is still there',
        )
      } else {
        // Whether the server has that directory, too, is asked anew.
        await later(2500)
      }
      t.match(view.stats(), { silent: [{ layers: [far.dir] }], deaths: { count: 1 } })
      t.notOk(waiting[0]?.isOver())
      far.answer()
      t.match(await Promise.all(waiting.map(({ ended }) => ended)), [
        { code: 0, output: 'far 1' },
        { code: 0, output: 'near 1' },
        { code: 0, output: 'near 2' },
      ])
      t.match(view.stats(), { deaths: { count: 1 } }, 'no other daemon died')
    } finally {
      far.answer()
    }
  })

/** An open file that closes with its scope. */
class DisposableFile implements Disposable {
  private readonly fd: number
  constructor(file: string) {
    this.fd = fs.openSync(file, 'r')
  }
  byte(position: number): number | undefined {
    const buffer = Buffer.alloc(1)
    fs.readSync(this.fd, buffer, 0, 1, position)
    return buffer[0]
  }
  [Symbol.dispose](): void {
    fs.closeSync(this.fd)
  }
}

for (const dies of [false, true])
  t.test(
    `upper's disk does not answer: what is only below is there, changes wait${dies ? '; the daemon dies' : ''}`,
    { skip },
    async t => {
      using scratch = new Scratch('silent-upper', 50)
      using far = Far.begin(scratch, 'disk', fillUpper)
      using view = scratch.mount({
        subject: 'lamina',
        lowers: [nearLayer(scratch)],
        upper: path.join(far.dir, 'upper'),
        work: path.join(far.dir, 'work'),
        mountpoint: scratch.mkdir('mnt'),
        options: ['patience=all', ...(dies ? ['keeper=1'] : [])],
      })
      const at = (...names: string[]): string => path.join(view.mountpoint, ...names)
      // A directory that is in no upper: what is looked up in it needs none. The kernel does not forget what is open: it would look for the
      // name in a directory where others' changes wait, and that keeps it out.
      const near = fs.openSync(at('near'), 'r')
      t.equal(fs.readFileSync(at('u', 'u0'), 'utf8'), 'upper 0')
      using closing = new DisposableFile(at('u', 'big'))
      far.fallSilent()
      try {
        const killed = run('stat', at('u', 'u9'))
        const waiting = [run('stat', '-c', '%s', at('u', 'u1'))]
        // A change that finds it out holds up everybody.
        while ((view.stats() as { silent?: unknown[] }).silent?.length === 0) await later(50)
        waiting.push(
          // Not in the directory that is read: while a change waits the kernel keeps others out of its directory.
          run('mkdir', at('made')),
          run('rm', at('u', 'u0')),
          run('mv', at('u', 'u2'), at('u', 'moved')),
          run(
            'sh',
            '-c',
            `printf more | dd of=${at('near', 'n3')} conv=notrunc,nocreat bs=1 seek=6 status=none`,
          ),
          run('dd', `if=${at('u', 'big')}`, 'bs=64k', 'skip=30', 'count=1', 'status=none', `of=/dev/null`),
        )
        await later(500)
        const begin = Date.now()
        t.equal(execFileSync('ls', [at('near')], { encoding: 'utf8', timeout: 5000 }).split('\n').length, 21)
        for (const i of [5, 6, 7, 8]) t.equal(fs.readFileSync(at('near', `n${i}`), 'utf8'), `near ${i}`)
        t.ok(Date.now() - begin < 1000, `what is below in ${Date.now() - begin} ms`)
        t.match((view.stats() as { silent?: unknown }).silent, [{ layers: [path.join(far.dir, 'upper')] }])
        t.notOk(waiting.some(({ isOver }) => isOver()))
        process.kill(killed.pid, 'SIGKILL')
        t.equal((await killed.ended).signal, 'SIGKILL')
        if (dies) process.kill(view.pid ?? 0, 'SIGKILL')
        far.answer()
        const ended = await Promise.all(waiting.map(({ ended }) => ended))
        t.match(ended, [{ code: 0, output: '7\n' }, ...waiting.slice(1).map(() => ({ code: 0, output: '' }))])
        t.ok(fs.statSync(at('made')).isDirectory())
        t.notOk(fs.existsSync(at('u', 'u0')))
        t.notOk(fs.existsSync(at('u', 'u2')))
        t.equal(fs.readFileSync(at('u', 'moved'), 'utf8'), 'upper 2')
        t.equal(fs.readFileSync(at('near', 'n3'), 'utf8'), 'near 3more')
        t.equal(closing.byte((4 << 20) - 1), 7)
        t.match(view.stats(), { silent: [], faults: 0 })
      } finally {
        far.answer()
        fs.closeSync(near)
      }
    },
  )
