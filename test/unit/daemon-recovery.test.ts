/** What a successor reads: the journal of names against a plain model, damage, and requests whose answer may be lost. */
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { JournalLog, KIND } from '../../src/daemon/recovery/journal-log.js'
import { readLog } from '../../src/daemon/recovery/known-inodes.js'
import { AT, FIRST_REFERENCE } from '../../src/daemon/recovery/memory.js'
import { Random } from '../fuzz/random.js'
import type { Entry } from '../../src/fuse/filesystem.js'
import { frame } from './fuse-frames.js'
import { Succession } from './recovery-fixture.js'

const O_RDWR = 2

t.test('names that come, go and change hands are found again, by number and by directory', async t => {
  const seed = Date.now() % 1_000_000
  t.comment(`seed ${seed}`)
  const random = new Random(seed)
  using it = new Succession(false)
  const log = new JournalLog(it.memory)
  const slots = new Map<number, number>()
  const names = new Map<number, string[]>()
  const owner = new Map<string, number>()
  const live: number[] = []
  const gone = (nodeid: number, at: string): void => {
    log.append(KIND.unnamed, nodeid, Number(at.split('/')[0]), 0, at.split('/')[1] ?? '')
    names.set(nodeid, names.get(nodeid)?.filter(each => each !== at) ?? [])
    owner.delete(at)
  }
  for (let turn = 0, nodeid = 2; turn < 4000; turn++) {
    const parent = 1 + random.below(5)
    const at = `${parent}/n${random.below(60)}`
    const known = owner.get(at)
    const kind = random.below(4)
    if (kind === 0 || live.length < 3) {
      if (known !== undefined) continue
      slots.set(nodeid, log.append(KIND.inode, nodeid, parent, 8, at.split('/')[1] ?? '', 1, nodeid * 10))
      names.set(nodeid, [at])
      owner.set(at, nodeid)
      live.push(nodeid++)
    } else if (kind === 1) {
      if (known !== undefined) gone(known, at)
    } else if (kind === 2) {
      if (known !== undefined) gone(known, at)
      const who = random.pick(live)
      log.append(KIND.named, who, parent, 0, at.split('/')[1] ?? '')
      names.get(who)?.push(at)
      owner.set(at, who)
    } else {
      const [who = 0] = live.splice(random.below(live.length), 1)
      log.kill(slots.get(who) ?? 0)
      for (const each of names.get(who) ?? []) owner.delete(each)
      names.delete(who)
    }
  }
  const { inodes } = readLog(new JournalLog(it.memory))
  t.equal(inodes.left, live.length)
  for (let parent = 1; parent <= 5; parent++) {
    const expected = [...owner].filter(([at]) => at.startsWith(`${parent}/`)).map(([, who]) => who)
    t.same(new Set(inodes.childrenOf(parent)), new Set(expected), `directory ${parent}`)
  }
  for (const nodeid of live) {
    const known = inodes.take(nodeid)
    const found = known?.names.map(each => `${each.parent}/${each.name}`)
    if (known?.ino !== nodeid * 10 || found?.join() !== names.get(nodeid)?.join())
      t.fail(`inode ${nodeid}: ${found?.join()} in place of ${names.get(nodeid)?.join()}`)
    if (inodes.take(nodeid) !== undefined) t.fail(`inode ${nodeid} is given twice`)
  }
  t.equal(inodes.left, 0)
  t.same(inodes.some(10), [])
})

t.test(
  'a record that is not what was written stops the takeover; one that is not complete is not seen',
  async t => {
    using it = new Succession(false)
    const log = new JournalLog(it.memory)
    for (let i = 2; i < 12; i++) log.append(KIND.inode, i, 1, 8, `name-${i}`, 1, i)
    const { bytes } = it.memory
    const at = it.memory.half(0)
    const size = log.size
    // What comes behind the tail was never finished.
    bytes.fill(0xa5, at + size, at + size + 64)
    t.equal(readLog(new JournalLog(it.memory)).inodes.left, 10)
    for (let byte = 8; byte < size; byte++) {
      // nlookup and ino change in place, and one bit of the kind says that an inode is dead.
      const inRecord = (byte - 8) % 56
      if ((inRecord >= 12 && inRecord < 24) || inRecord === 3) continue
      const before = bytes[at + byte] as number
      bytes[at + byte] = before ^ 0x40
      try {
        readLog(new JournalLog(it.memory))
        t.fail(`byte ${inRecord} of a record is not looked at`)
      } catch (error) {
        if (!/damaged/.test(String(error))) t.fail(String(error))
      }
      bytes[at + byte] = before
    }
  },
)

t.test('upper is not asked for what was only below, and is for what was copied up', t => {
  using it = new Succession(false)
  const caller = { uid: 0, gid: 0, pid: 0 }
  for (const name of ['still', 'raised']) mkdirSync(join(it.root, 'lower', name))
  const [still, raised] = ['still', 'raised'].map(name => it.overlay.lookup(1, name).nodeid)
  it.overlay.mkdir(raised ?? 0, 'made', 0o755, 0, caller)
  it.takeOver()
  t.not(it.overlay.lookup(raised ?? 0, 'made').nodeid, 0)
  // Behind the mount, to see who looks.
  mkdirSync(join(it.root, 'upper', 'still', 'hidden'), { recursive: true })
  t.equal(it.overlay.lookup(still ?? 0, 'hidden').nodeid, 0)
  t.end()
})

t.test('what predecessors left in the work directory goes, and what is prepared there does not', t => {
  using it = new Succession(false)
  const work = join(it.root, 'work', 'work')
  for (const name of ['#0.1', '#0.2', '#1.1']) mkdirSync(join(work, name, 'more'), { recursive: true })
  it.takeOver()
  t.same(readdirSync(work), ['#1.1'])
  it.takeOver()
  t.same(readdirSync(work), [])
  t.end()
})

for (const [what, backs] of [
  ['whose answer was lost is counted once', true],
  ['whose answer came through stays counted', false],
] as const) {
  t.test(`io=passthrough: an OPEN ${what}`, async t => {
    using it = new Succession(true)
    writeFileSync(join(it.root, 'upper', 'f'), 'x')
    const { nodeid } = it.overlay.lookup(1, 'f')
    const open = frame('OPEN', { unique: 10n, nodeid })
    it.begin(open)
    const reply = await it.overlay.open(nodeid, O_RDWR)
    t.match(reply, { fh: 3, backingId: 1 })
    it.takeOver()
    // The takeover may die as well, and what it found out stays.
    it.takeOver()
    if (backs) {
      t.strictSame(it.begin(open, true), { done: false, before: undefined })
      t.same([...it.backings], [], 'nothing is open while it is not answered')
      t.match(await it.overlay.open(nodeid, O_RDWR), { fh: 3 })
    } else {
      it.begin(frame('GETATTR', { unique: 12n, nodeid }))
    }
    t.equal(it.backings.size, 1)
    it.begin(frame('RELEASE', { unique: 14n, nodeid }))
    it.overlay.release(nodeid, 3)
    t.equal(it.backings.size, 0, 'the last close is the last')
  })
}

t.test('io=passthrough: a RELEASE whose answer was lost closes one handle, not two', async t => {
  using it = new Succession(true)
  writeFileSync(join(it.root, 'upper', 'f'), 'x')
  const { nodeid } = it.overlay.lookup(1, 'f')
  for (const unique of [10n, 12n]) {
    it.begin(frame('OPEN', { unique, nodeid }))
    await it.overlay.open(nodeid, O_RDWR)
  }
  const release = frame('RELEASE', { unique: 14n, nodeid })
  it.begin(release)
  it.overlay.release(nodeid, 3)
  it.takeOver()
  t.match(it.begin(release, true), { done: true })
  t.equal(it.backings.size, 1, 'the other handle needs it')
  it.begin(frame('RELEASE', { unique: 16n, nodeid }))
  it.overlay.release(nodeid, 3)
  t.equal(it.backings.size, 0)
  t.equal(it.takeOver()[0], 1, 'a backing file that the dead one may not have closed is closed')
})

t.test('what was open survives a journal that was written anew by a successor', async t => {
  using it = new Succession(true)
  writeFileSync(join(it.root, 'upper', 'f'), 'x')
  const { nodeid } = it.overlay.lookup(1, 'f')
  it.begin(frame('OPEN', { unique: 10n, nodeid }))
  await it.overlay.open(nodeid, O_RDWR)
  it.begin(frame('SETATTR', { unique: 12n, nodeid }))
  it.overlay.setattr(nodeid, { mode: 0o4755, killSuidgid: false }, { uid: 0, gid: 0, pid: process.pid })
  it.takeOver()
  it.journal.rewrite()
  it.takeOver()
  t.same(it.overlay.doubtful(), [nodeid], 'its setuid may fall by a write')
  it.begin(frame('OPEN', { unique: 14n, nodeid }))
  t.match(
    await it.overlay.open(nodeid, O_RDWR),
    { backingId: 1 },
    'the backing file that the other handle has',
  )
})

t.test('a successor that writes the journal anew at once has all that nobody has asked for yet', t => {
  using it = new Succession(false)
  mkdirSync(join(it.root, 'upper', 'd'))
  const dir = it.overlay.lookup(1, 'd').nodeid
  const names = Array.from({ length: 50 }, (_, i) => `f${i}`)
  for (const name of names) writeFileSync(join(it.root, 'upper', 'd', name), name)
  const before = new Map(names.map(name => [name, it.overlay.lookup(dir, name)] as const))
  // Twice, so that either half of the memory is the one that counts.
  for (let round = 0; round < 2; round++) {
    it.takeOver()
    it.journal.rewrite()
  }
  it.takeOver()
  t.equal(it.overlay.inodeCount, names.length + 2)
  for (const [name, { nodeid, attr }] of before as Map<string, Entry>) {
    t.same(it.overlay.getattr(nodeid).attr.ino, attr.ino, name)
    t.equal(it.overlay.lookup(dir, name).nodeid, nodeid)
  }
  t.end()
})

t.test('backing files that no answer carries are closed, those that are open are not', async t => {
  using it = new Succession(true)
  const nodeids = ['f', 'g'].map(name => {
    writeFileSync(join(it.root, 'upper', name), 'x')
    return it.overlay.lookup(1, name).nodeid
  })
  for (const [i, nodeid] of [...nodeids, ...nodeids].entries()) {
    it.begin(frame('OPEN', { unique: BigInt(10 + 2 * i), nodeid }))
    await it.overlay.open(nodeid, O_RDWR)
  }
  it.begin(frame('RELEASE', { unique: 30n, nodeid: nodeids[0] ?? 0 }))
  it.overlay.release(nodeids[0] ?? 0, 3)
  t.same([...it.backings], [1, 2])
  const strays = it.takeOver()
  t.notOk(strays.includes(1) || strays.includes(2), 'the smaller id was noted last')
  t.equal(strays[0], 3, 'the kernel gives numbers out in turn')
})

/** A file of upper to which the kernel has three references. */
function lookedUp(it: Succession, name: string): number {
  writeFileSync(join(it.root, 'upper', name), 'x')
  let nodeid = 0
  for (let i = 0; i < 3; i++) {
    it.begin(frame('LOOKUP', { unique: BigInt(2 + 2 * i), names: [name] }))
    nodeid = it.overlay.lookup(1, name).nodeid
  }
  return nodeid
}

t.test('a FORGET takes its references back once, wherever in it a daemon dies', async t => {
  for (const until of ['read', 'begun', 'half', 'done', 'answered another']) {
    using it = new Succession(false)
    const nodeids = ['f', 'g'].map(name => lookedUp(it, name))
    const entries = Buffer.alloc(32)
    for (const [i, nodeid] of nodeids.entries()) {
      entries.writeUInt32LE(nodeid, i * 16)
      entries.writeUInt32LE(2, i * 16 + 8)
    }
    const batch = it.read(frame('BATCH_FORGET', { unique: 100n, fields: { count: 2 }, data: entries }))
    const steps = ['read', 'begun', 'half', 'done', 'answered another'].indexOf(until)
    if (steps >= 1) it.journal.beginForget(batch)
    for (const [i, nodeid] of nodeids.entries()) {
      if (steps >= 1 + i) it.journal.forgetting(i, nodeid, 2)
      if (steps >= 2 + i) it.overlay.forget(nodeid, 2)
    }
    const more = until === 'answered another' ? 1 : 0
    if (more > 0) {
      // It waited for a copy-up meanwhile: its frame is not the last one that was read.
      it.begin(frame('LOOKUP', { unique: 10n, names: ['g'] }))
      it.overlay.lookup(1, 'g')
      it.begin(frame('GETATTR', { unique: 12n }))
    }
    for (const times of ['once', 'twice']) {
      it.takeOver()
      t.same(
        nodeids.map(nodeid => it.overlay.references(nodeid)),
        [1, 1 + more],
        `died when it was ${until}, ${times}`,
      )
    }
  }
})

t.test(
  'FORGETs that were read and not begun are carried out once, wherever they are when a daemon dies',
  async t => {
    const FORGETS = 3520 << 10
    for (const where of [
      'taken in',
      'taken in, and another is begun',
      'half brought',
      'brought',
      'carried out',
    ]) {
      using it = new Succession(false)
      const { memory } = it
      const nodeids = ['f', 'g', 'h'].map(name => lookedUp(it, name))
      const [f = 0, g = 0, h = 0] = nodeids
      // As the channel has it: the last of the two is still the frame that was read last.
      it.read(frame('FORGET', { unique: 0x1_2345_6782n, nodeid: g, fields: { nlookup: 1 } }))
      for (const [i, [nodeid, count]] of [[f, 2] as const, [g, 1] as const].entries()) {
        memory.bytes.writeBigUInt64LE(BigInt(nodeid), FORGETS + 8 + i * 16)
        memory.bytes.writeBigUInt64LE(BigInt(count), FORGETS + 16 + i * 16)
      }
      memory.bytes.writeBigUInt64LE((0x1_2345_6782n << 16n) | 2n, FORGETS)
      const expected = [1, 2, 3]
      if (where === 'taken in, and another is begun') {
        const other = it.read(frame('FORGET', { unique: 0x1_2345_6784n, nodeid: h, fields: { nlookup: 2 } }))
        it.journal.beginForget(other)
        expected[2] = 1
      } else if (where !== 'taken in') {
        const state = memory.bytes.readBigUInt64LE(FORGETS)
        t.ok(memory.bringForgets())
        if (where === 'half brought') {
          memory.bytes.writeBigUInt64LE(state, FORGETS)
        } else if (where === 'carried out') {
          const batch = memory.frame()
          it.journal.beginForget(batch)
          for (const [i, [nodeid, count]] of [[f, 2] as const, [g, 1] as const].entries()) {
            it.journal.forgetting(i, nodeid, count)
            it.overlay.forget(nodeid, count)
          }
        }
      }
      for (let deaths = 0; deaths < 3; deaths++) {
        it.takeOver()
        t.strictSame(
          nodeids.map(nodeid => it.overlay.references(nodeid)),
          expected,
          `died when they were ${where}, ${deaths + 1} times`,
        )
      }
      t.notOk(memory.bringForgets(), 'nothing is left of them')
    }
  },
)

t.test('a reference that was listed and not counted is not taken back', async t => {
  using it = new Succession(false)
  writeFileSync(join(it.root, 'upper', 'f'), 'x')
  it.begin(frame('LOOKUP', { unique: 2n, names: ['f'] }))
  const { nodeid } = it.overlay.lookup(1, 'f')
  const again = frame('LOOKUP', { unique: 4n, names: ['f'] })
  it.begin(again)
  it.memory.doubles.set([nodeid, 2], FIRST_REFERENCE)
  it.memory.setU32(AT.references, 1)
  it.takeOver()
  it.begin(again, true)
  t.equal(it.overlay.references(nodeid), 1)
  it.overlay.lookup(1, 'f')
  it.takeOver()
  it.begin(again, true)
  t.equal(it.overlay.references(nodeid), 1, 'one that was counted is')
})

t.test('deaths do not put off the day when the journal is written anew', async t => {
  using it = new Succession(false)
  let log = new JournalLog(it.memory)
  let appended = 0
  for (; !log.worn && appended < 100_000; appended++) {
    log.append(KIND.listed, 1, 0, 0, 'x'.repeat(100))
    // Every daemon dies after a while.
    if (appended % 1000 === 0) log = new JournalLog(it.memory)
  }
  t.ok(log.size < 1.1 * 2 ** 20, `${log.size} bytes`)
  log.rewrite(() => undefined)
  t.notOk(new JournalLog(it.memory).worn)
})

t.test(
  'inodes that live are written once, however many; what they were is not kept longer than they',
  async t => {
    using it = new Succession(false)
    let log = new JournalLog(it.memory)
    const slots: number[] = []
    const add = (log: JournalLog, i: number): number => log.append(KIND.inode, i + 2, 1, 8, `name-${i}`, 1, i)
    for (let i = 0; i < 60_000; i++) slots.push(add(log, i))
    t.ok(log.size > 3 * 2 ** 20)
    t.notOk(log.worn, 'nothing in it is out of date')
    let killed = 0
    while (!log.worn && killed < slots.length) {
      log.kill(slots[killed++] ?? 0)
      if (killed % 1000 === 0) log = new JournalLog(it.memory)
    }
    t.ok(killed > 29_000 && killed < 31_000, `${killed} of ${slots.length} are gone`)
    log.rewrite(() => {
      for (let i = killed; i < slots.length; i++) add(log, i)
    })
    t.notOk(log.worn)
    t.ok(log.size < 2 * 2 ** 20, `${log.size} bytes`)
    t.equal(readLog(new JournalLog(it.memory)).inodes.left, slots.length - killed)
  },
)
