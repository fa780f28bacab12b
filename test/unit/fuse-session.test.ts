import { closeSync, openSync, readFileSync, rmSync } from 'node:fs'
import t from 'tap'
import { E, errnoName } from '../../src/base/errno.js'
import { withDebug, flagNames } from '../../src/fuse/debug.js'
import { describeEnd, Session } from '../../src/fuse/session.js'
import { readTrace, withTrace } from '../../src/fuse/trace.js'
import { ReplayTransport } from '../../src/fuse/transport-replay.js'
import { DummyFs } from './fuse-dummy-fs.js'
import { frame, initFrame } from './fuse-frames.js'

const tick = () => new Promise(resolve => setImmediate(resolve))

t.test('initialized tells what was agreed on, ended why it is over', async t => {
  const transport = new ReplayTransport()
  const session = new Session(transport)
  const fs = new DummyFs()
  session.start(fs)
  t.throws(() => session.start(fs), /before/)
  transport.feed(initFrame())
  t.equal((await session.initialized).has('CACHE_SYMLINKS'), true)
  transport.end()
  const end = await session.ended
  t.strictSame(end, { reason: 'unmounted', errno: E.ENODEV })
  t.equal(describeEnd(end), 'unmounted (ENODEV)')
  t.equal(fs.calls.filter(([name]) => name === 'destroy').length, 1)
  await session.close()
})

t.test('how a session can end', async t => {
  for (const [errno, reason] of [
    [E.ECONNABORTED, 'aborted'],
    [E.EINVAL, 'failed'],
  ] as const) {
    const transport = new ReplayTransport()
    const session = new Session(transport)
    session.start(new DummyFs())
    transport.end(errno)
    t.strictSame(await session.ended, { reason, errno })
    await t.rejects(session.initialized, { code: errnoName(errno) })
  }
  const session = new Session(new ReplayTransport())
  session.start(new DummyFs())
  await session.close()
  const end = await session.ended
  t.equal(describeEnd(end), 'closed')
})

t.test('a kernel that is too old is refused in one line', async t => {
  const transport = new ReplayTransport()
  const session = new Session(transport)
  session.start(new DummyFs())
  transport.feed(initFrame({ minor: 23 }))
  await t.rejects(session.initialized, { code: 'EPROTO', message: /the kernel speaks FUSE 7\.23/ })
  transport.end()
})

t.test('notifications leave after the reply, byte for byte', async t => {
  const transport = new ReplayTransport()
  const session = new Session(transport)
  const fs = new DummyFs()
  session.start(fs)
  fs.unlink = () => {
    session.invalidateInode(5, -1, 0)
    session.invalidateInode(5, 0, -1)
    session.invalidateEntry(2 ** 33, '\xffx')
    session.deleteEntry(2, 3, 'gone')
    session.resend()
    t.equal(transport.notifications.length, 0)
  }
  transport.feed(initFrame())
  transport.feed(frame('UNLINK', { names: ['x'] }))
  t.equal(transport.replies.length, 2)
  t.equal(transport.notifications.length, 0)
  await tick()
  const hex = transport.notifications.map(message => message.toString('hex'))
  const word = (n: number) => {
    const out = Buffer.alloc(4)
    out.writeInt32LE(n)
    return out.toString('hex')
  }
  const long = (n: bigint) => {
    const out = Buffer.alloc(8)
    out.writeBigInt64LE(n)
    return out.toString('hex')
  }
  t.strictSame(hex, [
    word(40) + word(2) + long(0n) + long(5n) + long(-1n) + long(0n),
    word(40) + word(2) + long(0n) + long(5n) + long(0n) + long(-1n),
    word(35) + word(3) + long(0n) + long(2n ** 33n) + word(2) + word(1) + 'ff7800',
    word(45) +
      word(6) +
      long(0n) +
      long(2n) +
      long(3n) +
      word(4) +
      word(0) +
      Buffer.from('gone\0').toString('hex'),
    word(16) + word(7) + long(0n),
  ])
  t.throws(() => session.invalidateEntry(1, ''), RangeError)
  t.equal(session.counters().notifications, 5)
  transport.end()
  session.invalidateInode(5, 0, 0)
  await tick()
  t.equal(transport.notifications.length, 5, 'none after the end')
})

t.test('files of the data plane are limited, the pinned ones stay', async t => {
  const transport = new ReplayTransport()
  const session = new Session(transport, { maxOpenFiles: 10 })
  session.start(new DummyFs())
  for (let nodeid = 1; nodeid <= 200; nodeid++) {
    session.registerFile(nodeid, openSync('/dev/null', 'r'), nodeid % 2 === 0)
    if (nodeid === 3) session.pin(3, true)
  }
  t.ok(transport.counters().registered <= 10 + 64, `${transport.counters().registered} remain`)
  t.equal(session.registered(3), 1)
  t.equal(session.registered(200), 2)
  t.equal(session.registered(5), 0)
  session.unregisterFile(200)
  t.equal(session.registered(200), 0)
  t.equal(session.registered(3), 1)
  t.equal(session.openBacking(0), undefined)
  await session.close()
})

t.test('a recording holds every message and can be replayed', async t => {
  const path = `${t.testdir()}/trace`
  const inner = new ReplayTransport()
  const traced = withTrace(inner, path)
  const session = new Session(traced)
  session.start(new DummyFs())
  const sent = [
    initFrame(),
    frame('LOOKUP', { names: ['a'] }),
    frame('FORGET', { nodeid: 17, fields: { nlookup: 1 } }),
    frame('READ', { fields: { size: 3 } }),
  ]
  for (const each of sent) inner.feed(each)
  session.invalidateInode(1, 0, 0)
  await tick()
  await session.close()

  const records = readTrace(readFileSync(path))
  t.strictSame(
    records.map(record => record.kind),
    ['frame', 'reply', 'frame', 'reply', 'frame', 'frame', 'handedOn', 'notification'],
  )
  const frames = records.filter(record => record.kind === 'frame').map(record => record.message)
  t.strictSame(frames, sent)
  t.ok(records.every((record, i) => i === 0 || record.time >= (records[i - 1]?.time ?? 0n)))

  const again = new ReplayTransport()
  new Session(again).start(new DummyFs())
  for (const each of frames) again.feed(each)
  t.strictSame(again.replies, inner.replies)

  const file = readFileSync(path)
  t.equal(readTrace(file.subarray(0, file.length - 3)).length, records.length - 1, 'cut off at the end')
  t.throws(() => readTrace(Buffer.from('something else, long enough')), /not a recording/)
  file.writeUInt32LE(2, 8)
  t.throws(() => readTrace(file), /version 2/)
  rmSync(path)
})

t.test('a debug line pairs a request with its reply', async t => {
  const lines: string[] = []
  const inner = new ReplayTransport()
  const session = new Session(withDebug(inner, line => lines.push(line.replace(/\d+ µs/, 'N µs'))))
  const fs = new DummyFs()
  session.start(fs)
  inner.feed(initFrame())
  t.match(lines[0], /^#0x2 INIT nodeid 0 7\.45 offers ASYNC_READ\|.* -> 7\.45 with .*CACHE_SYMLINKS.*, N µs$/)
  lines.length = 0
  fs.lookup = () => ({ nodeid: 0, entryValid: Infinity })
  inner.feed(frame('LOOKUP', { unique: 0x8000_0000_0000_00abn, names: ['caf\xc3\xa9'] }))
  inner.feed(frame('SETATTR', { fields: { valid: 0x201, mode: 0o644 } }))
  inner.feed(frame('OPEN', { fields: { flags: 0o1001 } }))
  inner.feed(frame('CREATE', { names: ['c'], fields: { flags: 2, mode: 0o600 } }))
  inner.feed(frame('FORGET', { fields: { nlookup: 2 } }))
  inner.feed(frame('ACCESS', { fields: { mask: 4 } }))
  inner.feed(frame('READ', { fields: { size: 7 } }))
  inner.feed(frame('UNLINK', { names: ['u'] }))
  t.strictSame(lines, [
    "#0xab resent LOOKUP nodeid 1 'café' uid 1000 gid 1000 pid 42 -> negative entry ∞, N µs",
    '#0x2 SETATTR nodeid 1 valid MODE|LOCKOWNER mode 0644 uid 1000 gid 1000 pid 42 -> attr ∞ ino 4294967301 mode 0100644 size 8589934598 nlink 3, N µs',
    '#0x2 OPEN nodeid 1 flags WRONLY|TRUNC uid 1000 gid 1000 pid 42 -> fh 5 open_flags KEEP_CACHE, N µs',
    "#0x2 CREATE nodeid 1 flags RDWR mode 0600 'c' uid 1000 gid 1000 pid 42 -> nodeid 22 entry ∞ attr 1 ino 4294967301 mode 0100644 size 8589934598 nlink 3 fh 6 open_flags PASSTHROUGH backing_id 9, N µs",
    '#0x2 FORGET nodeid 1 nlookup 2 uid 1000 gid 1000 pid 42',
    '#0x2 ACCESS nodeid 1 mask 0x4 uid 1000 gid 1000 pid 42 -> ENOSYS, N µs',
    '#0x2 READ nodeid 1 size 7 uid 1000 gid 1000 pid 42 -> data plane, N µs',
    "#0x2 UNLINK nodeid 1 'u' uid 1000 gid 1000 pid 42 -> done, N µs",
  ])
  t.equal(flagNames(0, { A: 1 }), '0')
  t.equal(flagNames(9, { A: 1 }), 'A|0x8')
  await session.close()
})

t.test('counters tell requests by name', async t => {
  const inner = new ReplayTransport()
  const session = new Session(inner)
  session.start(new DummyFs())
  inner.feed(initFrame())
  inner.feed(frame('LOOKUP', { names: ['a'] }))
  inner.feed(frame('LOOKUP', { names: ['a/b'] }))
  inner.feed(frame('FLUSH'))
  const { requests, errors, replies } = session.counters()
  t.strictSame(
    { requests, errors, replies },
    {
      requests: { LOOKUP: 2, FLUSH: 1, INIT: 1 },
      errors: { LOOKUP: 1, FLUSH: 1 },
      replies: 4,
    },
  )
  await session.close()
})

t.test('the file of a registration is closed by the session', async t => {
  const transport = new ReplayTransport()
  const session = new Session(transport)
  const fd = openSync('/dev/null', 'r')
  session.registerFile(1, fd, false)
  await session.close()
  t.throws(() => closeSync(fd), { code: 'EBADF' })
})
