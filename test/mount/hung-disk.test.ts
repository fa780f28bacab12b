import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { isOrphanHolder, lamina, Scratch, unavailable, type Mount } from './fixture.js'
import { Far, fillFar, fillUpper, later, mountOver, nearLayer, run, type Command } from './silent-fixture.js'

/**
 * A disk that does not answer, with a keeper and the default patience: the daemon asks disks itself and hangs, and its successor does
 * not. silent-layer.test.ts has the daemons that do not hang in the first place.
 */

const skip = unavailable('lamina') ?? false

/** Longer than finding out takes: a look every 2 s, and 5 s of sleep. */
const FOUND_OUT = 15_000

const exists = (pid: number): boolean => fs.existsSync(`/proc/${pid}`)

async function until(what: string, holds: () => boolean, milliseconds: number): Promise<void> {
  for (const end = Date.now() + milliseconds; !holds(); await later(50))
    if (Date.now() > end) throw new Error(`not in ${milliseconds} ms: ${what}`)
}

function childrenOf(pid: number): number[] {
  return fs.readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number)
}

const environmentOf = (pid: number): string => fs.readFileSync(`/proc/${pid}/environ`, 'utf8')

interface Facts {
  readonly pid: number
  readonly silent: readonly { readonly layers: readonly string[] }[]
  readonly deaths: { readonly count: number }
}
const facts = (mount: Mount): Facts => mount.stats() as unknown as Facts

/** A mount whose keeper and daemons say what they have to say in a file; `said` reads that. */
function logged(scratch: Scratch, mount: () => Mount): Mount {
  process.env['LAMINA_LOG'] = scratch.path('log')
  try {
    return mount()
  } finally {
    delete process.env['LAMINA_LOG']
  }
}
const said = (scratch: Scratch): string => fs.readFileSync(scratch.path('log'), 'utf8')

const inTime = async (command: Command, milliseconds: number): Promise<unknown> =>
  Promise.race([command.ended, later(milliseconds)])

t.test(
  'a lower disk: the daemon is replaced by one that waits for it only where it must',
  { skip },
  async t => {
    using scratch = new Scratch('hung-lower', 90)
    using far = Far.begin(scratch, 'disk', fillFar)
    using view = logged(scratch, () => mountOver(scratch, far, ['keeper=1']))
    const at = (...names: string[]): string => path.join(view.mountpoint, ...names)
    const { pid: hanging = 0, keeper = 0 } = view
    // What the kernel knows by heart: that the disk has no such directory.
    fs.statSync(at('near'))
    t.equal(fs.readFileSync(at('far', 'f0'), 'utf8'), 'far 0')
    fs.writeFileSync(at('near', 'first'), 'gone')
    fs.writeFileSync(at('near', 'second'), 'kept by a process alone')
    const opened = ['first', 'second'].map(name =>
      // Past the page cache.
      fs.openSync(at('near', name), fs.constants.O_RDWR | fs.constants.O_DIRECT),
    )
    const unnamed = opened[1] ?? -1
    try {
      fs.unlinkSync(at('near', 'first'))
      await until('a process keeps descriptors', () => childrenOf(keeper).some(isOrphanHolder), 10_000)
      fs.unlinkSync(at('near', 'second'))
      far.fallSilent(60)
      const silentSince = Date.now()
      const waiting = [run('cat', at('far', 'f1'))]
      await later(200)
      waiting.push(run('ls', at('far')))
      const others = [
        run('ls', at('near')),
        run('cat', at('near', 'n5')),
        run('sh', '-c', `echo new >${at('near', 'new')}`),
      ]
      for (const other of others)
        t.match(await inTime(other, FOUND_OUT), { code: 0 }, 'what does not need the disk')
      t.comment(`after ${Date.now() - silentSince} ms`)
      t.ok(exists(hanging), 'although the daemon that hangs cannot be killed')
      t.match(facts(view), { silent: [{ layers: [far.dir] }], deaths: { count: 1 } })
      const { pid } = facts(view)
      t.not(pid, hanging)

      const begin = Date.now()
      t.equal(fs.readFileSync(at('near', 'new'), 'utf8'), 'new\n')
      fs.appendFileSync(at('near', 'n6'), ' and more')
      fs.renameSync(at('near', 'n7'), at('near', 'moved'))
      t.equal(fs.readFileSync(at('far', 'f0'), 'utf8'), 'far 0', 'what is cached')
      const buffer = Buffer.alloc(100)
      const read = fs.readSync(unnamed, buffer, 0, buffer.length, 0)
      t.equal(buffer.toString('utf8', 0, read), 'kept by a process alone')
      fs.writeSync(unnamed, 'still', 0)
      t.ok(Date.now() - begin < 3000, `all of it in ${Date.now() - begin} ms`)
      t.notOk(waiting.some(({ isOver }) => isOver()))

      far.answer()
      t.match(await Promise.all(waiting.map(({ ended }) => ended)), [
        { code: 0, output: 'far 1' },
        { code: 0, output: /big\nf0\n/ },
      ])
      await until('the daemon that hung is gone', () => !exists(hanging), 10_000)
      t.equal(fs.readFileSync(at('near', 'n6'), 'utf8'), 'near 6 and more')
      t.equal(fs.readFileSync(at('near', 'moved'), 'utf8'), 'near 7')
      t.equal(fs.fstatSync(unnamed).nlink, 0)
      t.match(view.stats(), { pid, silent: [], faults: 0, deaths: { count: 1 } })

      t.match(environmentOf(pid), 'LAMINA_KEEPER_HUNG=1')
      lamina('daemon', 'restart', view.mountpoint)
      t.notMatch(
        environmentOf(facts(view).pid),
        'LAMINA_KEEPER_HUNG',
        'a restart goes back to what costs nothing',
      )
      t.match(
        said(scratch),
        /has taken no request and waited for a device for \d+ s.*\n(.*\n)*.*the next one does not wait for that/,
      )
      t.match(said(scratch), new RegExp(`daemon \\(pid ${hanging}\\) that waited for a layer has ended`))
    } finally {
      far.answer()
      for (const fd of opened) fs.closeSync(fd)
    }
  },
)

t.test(
  'a lower disk, while a file is copied from it: that may end late, so the daemon gets its whole time',
  { skip },
  async t => {
    using scratch = new Scratch('hung-copy', 90)
    using far = Far.begin(scratch, 'disk', fillFar)
    using view = logged(scratch, () => mountOver(scratch, far, ['keeper=1', 'watchdog=4']))
    const at = (...names: string[]): string => path.join(view.mountpoint, ...names)
    fs.statSync(at('near'))
    fs.statSync(at('far', 'big'))
    far.fallSilent(60)
    try {
      const waiting = [
        run('sh', '-c', `printf more | dd of=${at('far', 'big')} conv=notrunc,nocreat status=none`),
      ]
      await later(1000)
      waiting.push(run('cat', at('far', 'f1')))
      await later(200)
      t.match(await inTime(run('ls', at('near')), FOUND_OUT), { code: 0 }, 'what does not need the disk')
      t.notOk(waiting.some(({ isOver }) => isOver()))
      far.answer()
      t.match(await Promise.all(waiting.map(({ ended }) => ended)), [
        { code: 0 },
        { code: 0, output: 'far 1' },
      ])
      const big = fs.readFileSync(at('far', 'big'))
      t.equal(big.length, 4 << 20)
      t.equal(big.toString('latin1', 0, 4), 'more')
      t.ok(big.subarray(4).every(byte => byte === 7))
      t.match(view.stats(), { silent: [], faults: 0, deaths: { count: 1 } })
    } finally {
      far.answer()
    }
  },
)

for (const below of [false, true])
  t.test(
    `upper's disk${below ? ', which a lower layer is on as well' : ''}: the daemon is replaced by one that waits for it only where it must`,
    { skip },
    async t => {
      using scratch = new Scratch('hung-upper', 120)
      using far = Far.begin(scratch, 'disk', dir => {
        fillUpper(dir)
        fs.mkdirSync(path.join(dir, 'below', 'low'), { recursive: true })
        fs.writeFileSync(path.join(dir, 'below', 'low', 'l1'), 'lower 1')
      })
      using view = logged(scratch, () => upperOn(scratch, far, ['keeper=1'], below))
      const at = (...names: string[]): string => path.join(view.mountpoint, ...names)
      const { pid: hanging = 0 } = view
      // What is open the kernel does not forget, and the next daemon knows that upper has no such directory.
      const near = fs.openSync(at('near'), 'r')
      if (below) fs.statSync(at('low'))
      t.equal(fs.readFileSync(at('u', 'u0'), 'utf8'), 'upper 0')
      fs.writeFileSync(at('u', 'unnamed'), 'without a name')
      const unnamed = fs.openSync(at('u', 'unnamed'), 'r+')
      fs.unlinkSync(at('u', 'unnamed'))
      const block = (skip: number): string[] => [
        'dd',
        `if=${at('u', 'big')}`,
        'bs=64k',
        `skip=${skip}`,
        'count=1',
      ]
      await run(...block(0)).ended
      // That the disk has no such directory is noted for upper. A lower layer is asked, and its filesystem has to remember it.
      if (!below) far.forgetNames()
      far.fallSilent(90)
      const silentSince = Date.now()
      try {
        const waiting = [run('cat', at('u', 'u1'))]
        await later(200)
        // What is known of the file is in memory; its data is not.
        const readers = [20, 30, 40, 50, 60].map(skip => run(...block(skip)))
        if (below) waiting.push(run('cat', at('low', 'l1')))
        const others = [run('ls', at('near')), run('cat', at('near', 'n5'))]
        for (const other of others)
          t.match(await inTime(other, FOUND_OUT), { code: 0 }, 'what does not need the disk')
        t.comment(`after ${Date.now() - silentSince} ms`)
        t.ok(exists(hanging), 'although the daemon that hangs cannot be killed')
        const { pid } = facts(view)
        t.not(pid, hanging)

        const changes = [
          run('sh', '-c', `echo new >${at('u', 'new')}`),
          run('rm', at('u', 'u0')),
          run('mv', at('u', 'u3'), at('u', 'moved')),
          run(
            'sh',
            '-c',
            `printf more | dd of=${at('near', 'n3')} conv=notrunc,nocreat bs=1 seek=6 status=none`,
          ),
          run('mkdir', at('made')),
        ]
        // Longer than a daemon that waits in a change is waited for.
        for (const end = Date.now() + 13_000; Date.now() < end; await later(500)) {
          const begin = Date.now()
          t.equal((await run('ls', at('near')).ended).output.split('\n').length, 21)
          t.equal(fs.readFileSync(at('near', 'n6'), 'utf8'), 'near 6')
          t.equal(fs.fstatSync(unnamed).nlink, 0)
          t.ok(Date.now() - begin < 3000, `in ${Date.now() - begin} ms`)
        }
        t.match(
          facts(view)
            .silent.flatMap(({ layers }) => layers)
            .sort(),
          [...(below ? [path.join(far.dir, 'below')] : []), path.join(far.dir, 'upper')],
        )
        t.notOk([...waiting, ...readers, ...changes].some(({ isOver }) => isOver()))

        far.answer()
        const ended = await Promise.all([...waiting, ...changes].map(({ ended }) => ended))
        t.match(ended, [
          { code: 0, output: 'upper 1' },
          ...(below ? [{ code: 0, output: 'lower 1' }] : []),
          ...changes.map(() => ({ code: 0, output: '' })),
        ])
        for (const { ended } of readers) t.match(await ended, { code: 0 })
        await until('the daemon that hung is gone', () => !exists(hanging), 10_000)
        t.equal(fs.readFileSync(at('u', 'new'), 'utf8'), 'new\n')
        t.notOk(fs.existsSync(at('u', 'u0')))
        t.notOk(fs.existsSync(at('u', 'u3')))
        t.equal(fs.readFileSync(at('u', 'moved'), 'utf8'), 'upper 3')
        t.equal(fs.readFileSync(at('near', 'n3'), 'utf8'), 'near 3more')
        t.ok(fs.statSync(at('made')).isDirectory())
        const buffer = Buffer.alloc(100)
        t.equal(buffer.toString('utf8', 0, fs.readSync(unnamed, buffer, 0, 100, 0)), 'without a name')
        t.match(view.stats(), { pid, silent: [], faults: 0, deaths: { count: 1 } })

        t.match(environmentOf(pid), 'LAMINA_KEEPER_HUNG=1')
        lamina('daemon', 'restart', view.mountpoint)
        t.notMatch(environmentOf(facts(view).pid), 'LAMINA_KEEPER_HUNG')
        t.equal(fs.readFileSync(at('u', 'moved'), 'utf8'), 'upper 3')
        t.match(said(scratch), new RegExp(`daemon \\(pid ${hanging}\\) that waited for a layer has ended`))
      } finally {
        far.answer()
        fs.closeSync(near)
        fs.closeSync(unnamed)
      }
    },
  )

t.test("upper's disk never answers: the mount can be ended", { skip }, async t => {
  using scratch = new Scratch('hung-end', 90)
  using far = Far.begin(scratch, 'disk', fillUpper)
  const view = logged(scratch, () => upperOn(scratch, far, ['keeper=1']))
  const at = (...names: string[]): string => path.join(view.mountpoint, ...names)
  const { pid: hanging = 0, keeper = 0 } = view
  fs.statSync(at('near'))
  far.fallSilent(60)
  try {
    const waiting = [run('cat', at('u', 'u1'))]
    await later(200)
    t.match(await inTime(run('ls', at('near')), FOUND_OUT), { code: 0 })
    const { pid } = facts(view)
    lamina('umount', '--force', view.mountpoint)
    for (const { ended } of waiting) t.not((await ended).code, 0)
    await until('the keeper has ended', () => !exists(keeper), 5000)
    t.ok(exists(hanging), 'a thread that waits for a disk cannot be killed')
    far.answer()
    for (const each of [hanging, pid]) await until(`process ${each} is gone`, () => !exists(each), 10_000)
  } finally {
    far.answer()
    view.kill()
  }
})

t.test(
  'more READs wait for a disk than there are threads: those of another are served',
  { skip },
  async t => {
    using scratch = new Scratch('hung-reads', 60)
    using far = Far.begin(scratch, 'disk', fillFar)
    fs.mkdirSync(scratch.path('near', 'near'), { recursive: true })
    fs.writeFileSync(scratch.path('near', 'near', 'large'), Buffer.alloc(1 << 20, 3))
    using view = mountOver(scratch, far, [])
    const at = (...names: string[]): string => path.join(view.mountpoint, ...names)
    const block = (skip: number): Command =>
      run('dd', `if=${at('far', 'big')}`, 'bs=64k', `skip=${skip}`, 'count=1')
    t.match(await block(0).ended, { code: 0 })
    fs.statSync(at('near', 'large'))
    far.fallSilent()
    try {
      const waiting = [12, 20, 28, 36, 44, 52, 60].map(block)
      await later(1000)
      // Of that size, and past the page cache: for a thread.
      const large = run('dd', `if=${at('near', 'large')}`, 'bs=1M', 'iflag=direct', 'of=/dev/null')
      t.match(await inTime(large, 5000), { code: 0 })
      t.notOk(waiting.some(({ isOver }) => isOver()))
      far.answer()
      for (const { ended } of waiting) t.match(await ended, { code: 0 })
    } finally {
      far.answer()
    }
  },
)

t.test('upper, in a change: the mount is ended, since the change may still be made', { skip }, async t => {
  using scratch = new Scratch('hung-change', 90)
  using far = Far.begin(scratch, 'disk', fillUpper)
  using view = logged(scratch, () => upperOn(scratch, far, ['keeper=1', 'watchdog=2']))
  const at = (...names: string[]): string => path.join(view.mountpoint, ...names)
  const { pid: hanging = 0, keeper = 0 } = view
  // It is known that there is none, and where it would be.
  t.notOk(fs.existsSync(at('u', 'made')))
  far.forget()
  far.fallSilent(60)
  try {
    const began = Date.now()
    const waiting = [run('mkdir', at('u', 'made'))]
    await later(200)
    waiting.push(run('cat', at('near', 'n1')))
    t.match(await Promise.all(waiting.map(({ ended }) => ended)), [{ code: 1 }, { code: 1 }])
    t.comment(`ended after ${Date.now() - began} ms`)
    await until('the keeper has ended', () => !exists(keeper), 5000)
    t.match(said(scratch), 'it waits for a device, and may be changing upper: the mount is ended')
    t.notMatch(said(scratch), 'a new daemon')
    t.ok(exists(hanging))
    far.answer()
    await until('the daemon is gone', () => !exists(hanging), 10_000)
  } finally {
    far.answer()
    view.kill()
  }
})

function upperOn(scratch: Scratch, far: Far, options: readonly string[], below = false): Mount {
  return scratch.mount({
    subject: 'lamina',
    lowers: [nearLayer(scratch), ...(below ? [path.join(far.dir, 'below')] : [])],
    upper: path.join(far.dir, 'upper'),
    work: path.join(far.dir, 'work'),
    mountpoint: scratch.mkdir('mnt'),
    options,
  })
}
