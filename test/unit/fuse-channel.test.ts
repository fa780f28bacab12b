/** The native channel without a mount: what JavaScript can do to it, and what is left when it goes. */
import { closeSync, fstatSync, openSync, readdirSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import t from 'tap'
import { native } from '../../src/fuse/transport-device.js'
import { E } from '../../src/base/errno.js'
import { frame } from './fuse-frames.js'

const nothing = () => undefined
const BUFFER = 1024 * 1024 + 4096

const openFds = () => readdirSync('/proc/self/fd').length

function channel(): InstanceType<typeof native.Channel> {
  return new native.Channel(openSync('/dev/fuse', 'r+'), BUFFER, nothing, nothing)
}

const fuse = (() => {
  try {
    closeSync(openSync('/dev/fuse', 'r+'))
    return false
  } catch {
    return 'no /dev/fuse here'
  }
})()

const reals = (...words: number[]): Buffer => Buffer.from(new Float64Array(words).buffer)

t.test(
  'the constructor refuses what it cannot use, and leaves the descriptor alone',
  { skip: fuse },
  async t => {
    const { Channel } = native
    const make = Channel as unknown as new (...args: unknown[]) => unknown
    const fd = openSync('/dev/fuse', 'r+')
    const before = openFds()
    for (const args of [
      [],
      ['1', BUFFER, nothing, nothing],
      [-1, BUFFER, nothing, nothing],
      [1.5, BUFFER, nothing, nothing],
      [2 ** 40, BUFFER, nothing, nothing],
      [9999, BUFFER, nothing, nothing],
      [fd, 100, nothing, nothing],
      [fd, 2 ** 40, nothing, nothing],
      [fd, NaN, nothing, nothing],
      [fd, BUFFER, nothing],
      [fd, BUFFER, 1, nothing],
      [fd, BUFFER, nothing, {}],
    ])
      t.throws(() => new make(...args), TypeError, JSON.stringify(args))
    t.throws(() => (Channel as unknown as (fd: number) => unknown)(fd), TypeError)
    t.equal(openFds(), before)
    fstatSync(fd)
    closeSync(fd)
  },
)

t.test('methods refuse wrong arguments', { skip: fuse }, async t => {
  const one = channel()
  const wild = one as unknown as Record<string, (...args: unknown[]) => unknown>
  const wrong: [method: string, ...args: unknown[]][] = [
    ['send'],
    ['send', 'x'],
    ['send', 15],
    ['send', -1],
    ['send', NaN],
    ['send', 2 ** 32],
    ['send', BUFFER + 8192],
    ['sendBuffer'],
    ['sendBuffer', 'x'],
    ['sendBuffer', new ArrayBuffer(16)],
    ['notify', 1],
    ['notify', Buffer.alloc(15)],
    ['notify', Buffer.alloc(1024 * 1024)],
    ['registerFile', -1, 0, true],
    ['registerFile', 1, -1, true],
    ['registerFile', 1, 0.5, true],
    ['registerFile', 1, 0],
    ['registerFile', 2 ** 60, 0, true],
    ['registerFile', 1, 0, true, -1],
    ['registerFile', 1, 0, true, 'x'],
    ['showFiles', 0.5, 0],
    ['showFiles', 1],
    ['unregisterFile', 'x'],
    ['isRegistered'],
    ['isRegistered', -1],
    ['pin', 1],
    ['keepFiles', -1],
    ['keepFiles', Infinity],
    ['resubmit', 'x'],
    ['resubmit', Buffer.alloc(10)],
    ['resubmit', Buffer.alloc(100)],
    ['resubmit', frame('LOOKUP', { names: ['a'.repeat(60)] })],
    ['resubmit', frame('WRITE', { fields: { size: 100 }, data: Buffer.alloc(5) })],
    ['followAttributes', 1, {}, true],
    ['followAttributes', 1, 0],
    ['followAttributes', -1, 0, true],
    ['answerNames', 1, Buffer.alloc(8), '', 1, 0, false],
    ['answerNames', 1, Buffer.alloc(32 * 5), '', 1, 0, false],
    ['answerNames', 1, reals(-1, 0, 0, 1), '', 1, 0, false],
    ['answerNames', 1, reals(NaN, 0, 0, 1), '', 1, 0, false],
    ['answerNames', 1, reals(0, 4, 0, 1), '', 1, 0, false],
    ['answerNames', 1, reals(0, 0, 0, Infinity), '', 1, 0, false],
    ['answerNames', 1, reals(0, 0, 0, 1), 5, 1, 0, false],
    ['answerNames', 1, reals(0, 0, 0, 1), '', 0.5, 0, false],
    ['answerNames', -1, reals(0, 0, 0, 1), '', 1, 0, false],
    ['tellFiles', -1, reals(1, 0, 1, 1, 1), 'a\0'],
    ['tellFiles', 1, reals(1, 0, 1, 1, 1), 'a'],
    ['tellFiles', 1, reals(1, 4, 1, 1, 1), 'a\0'],
    ['tellFiles', 1, reals(-1, 0, 1, 1, 1), 'a\0'],
    ['tellFiles', 1, reals(1, 0, NaN, 1, 1), 'a\0'],
    ['tellFiles', 1, 'x', 'a\0'],
    ['tellFiles', 1, reals(1, 0, 1, 1, 1), 5],
    ['tellFiles', 1, reals(1, 0, 1, -1, 1), 'a\0'],
    ['tellFiles', 1, reals(1, 0, 1, 1, NaN), 'a\0'],
    ['keepIssued', new ArrayBuffer(16), Buffer.alloc(68)],
    ['keepIssued', new ArrayBuffer(4096), Buffer.alloc(64)],
    ['keepIssued', new ArrayBuffer(4096), Buffer.alloc(68, 0xff)],
    ['answersChanged', 'x'],
    ['backingOpen', {}],
    ['backingClose', 'x'],
  ]
  for (const [method, ...args] of wrong)
    t.throws(() => wild[method]?.(...args), TypeError, `${method}(${args.map(String).join()})`)
  for (const other of [{}, null, 1, Object.create(native.Channel.prototype), new Map()])
    t.throws(() => native.Channel.prototype.send.call(other, 16), TypeError)
  one.close()
})

t.test('a device that is not mounted: errors are numbers', { skip: fuse }, async t => {
  const one = channel()
  // Linux says EPERM of a device that no mount has yet.
  t.equal(one.send(16), -E.EPERM)
  t.equal(one.sendBuffer(Buffer.alloc(16)), -E.EPERM)
  t.equal(one.sendBuffer(Buffer.alloc(3)), -E.EINVAL)
  t.ok(one.backingOpen(0) < 0)
  t.ok(one.backingClose(1) < 0)
  one.close()
})

t.test('closed twice, and used afterwards', { skip: fuse }, async t => {
  const before = openFds()
  const one = channel()
  one.registerFile(1, openSync('/dev/null', 'r'), false)
  one.registerFile(2, openSync('/dev/null', 'r'), false)
  t.equal(one.start(), 0)
  t.equal(one.start(), -E.EALREADY)
  one.close()
  one.close()
  t.equal(one.start(), -E.EBADF)
  t.equal(one.send(16), -E.EBADF)
  t.equal(one.sendBuffer(Buffer.alloc(16)), -E.EBADF)
  t.equal(one.isRegistered(1), 0)
  t.equal(one.notifying(), 0)
  one.notify(Buffer.alloc(16))
  one.resubmit(frame('READ', { fields: { size: 1 } }))
  one.registerFile(3, openSync('/dev/null', 'r'), true)
  t.equal(one.isRegistered(3), 0)
  t.equal(one.counters().length > 72, true)
  t.equal(one.backingOpen(0), -E.EBADF)
  t.ok(one.input.byteLength >= BUFFER)
  await new Promise(resolve => setImmediate(resolve))
  await new Promise(resolve => setImmediate(resolve))
  t.ok(openFds() <= before + 2, 'no more than what the loop itself opened')
})

t.test('registrations: replaced, pinned, evicted in the order of use', { skip: fuse }, async t => {
  const one = channel()
  const before = openFds()
  for (let nodeid = 1; nodeid <= 10; nodeid++)
    one.registerFile(nodeid, openSync('/dev/null', 'r'), nodeid > 5)
  one.registerFile(1, openSync('/dev/null', 'r'), true)
  t.equal(openFds(), before + 10, 'the replaced one is closed')
  t.equal(one.isRegistered(1), 2)
  t.equal(one.isRegistered(2), 1)
  t.equal(one.isRegistered(11), 0)
  t.equal(one.pin(2, true), true)
  t.equal(one.pin(11, true), false)
  t.equal(one.keepFiles(4), 6)
  // Left: the pinned one and the three used last; 1 was registered anew and so is the newest.
  t.strictSame(
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10].filter(nodeid => one.isRegistered(nodeid) !== 0),
    [1, 2, 9, 10],
  )
  t.equal(one.keepFiles(0), 3)
  t.equal(one.isRegistered(2), 1)
  t.equal(one.pin(2, false), true)
  t.equal(one.keepFiles(0), 1)
  t.equal(openFds(), before)
  t.equal(one.unregisterFile(2), false)
  one.registerFile(Number.MAX_SAFE_INTEGER, openSync('/dev/null', 'r'), false)
  t.equal(one.isRegistered(Number.MAX_SAFE_INTEGER), 1)
  one.close()
  t.equal(openFds(), before - 1, 'the device and the last file')
})

t.test('memory outlives a transferred buffer', { skip: fuse }, async t => {
  const one = channel()
  // Node 20 detaches or copies it, later ones refuse.
  let moved
  try {
    moved = structuredClone(one.output, { transfer: [one.output] })
    t.equal(one.send(16), -E.EPERM)
  } catch (error) {
    t.match(error, { name: 'DataCloneError' })
    moved = one.output
  }
  one.close()
  new Uint8Array(moved).fill(1)
  t.equal(new Uint8Array(moved)[5], 1)
})

t.test('channels left open end with their worker', { skip: fuse }, async t => {
  const before = openFds()
  const code = `
    const { openSync } = require('node:fs')
    const { workerData } = require('node:worker_threads')
    import(workerData).then(({ native }) => {
      for (let i = 0; i < 3; i++) {
        const one = new native.Channel(openSync('/dev/fuse', 'r+'), 100000, () => {}, () => {})
        one.registerFile(1, openSync('/dev/null', 'r'), true)
        if (i > 0) one.start()
        if (i > 1) one.close()
      }
      setTimeout(() => process.exit(0), 20)
    })`
  const url = new URL('../../src/fuse/transport-device.js', import.meta.url).href
  for (let round = 0; round < 3; round++) {
    const worker = new Worker(code, { eval: true, workerData: url })
    const exit = await new Promise<number>((resolve, reject) => {
      worker.on('exit', resolve)
      worker.on('error', reject)
    })
    t.equal(exit, 0)
  }
  t.ok(openFds() <= before + 4, `${openFds() - before} descriptors more`)
})
