import t from 'tap'
import { E } from '../../src/base/errno.js'
import { SysError } from '../../src/base/sys-error.js'
import { Dispatcher } from '../../src/fuse/dispatch.js'
import { Again, type OpenReply } from '../../src/fuse/index.js'
import { Op } from '../../src/fuse/opcodes.js'
import { ReplayTransport } from '../../src/fuse/transport-replay.js'
import { DummyFs, entry } from './fuse-dummy-fs.js'
import { frame, initFrame } from './fuse-frames.js'

function bench(fs = new DummyFs()) {
  const faults: [fault: unknown, what: string][] = []
  const transport = new ReplayTransport()
  const dispatcher = new Dispatcher(fs, transport, { onFault: (fault, what) => faults.push([fault, what]) })
  transport.start(
    length => dispatcher.handle(length),
    () => dispatcher.destroy(),
  )
  transport.feed(initFrame())
  transport.replies.length = 0
  fs.calls.length = 0
  return { fs, transport, dispatcher, faults, replies: transport.replies }
}

/** A promise and its two ends. */
function deferred<T>() {
  let resolve!: (value: T) => void
  let reject!: (reason: unknown) => void
  const promise = new Promise<T>((yes, no) => {
    resolve = yes
    reject = no
  })
  return { promise, resolve, reject }
}

const settle = () => new Promise(resolve => setImmediate(resolve))

t.test('Again: the request is run anew from a copy of its frame, and answered once', async t => {
  const { fs, transport, dispatcher, replies } = bench()
  const copied = deferred<void>()
  let tries = 0
  fs.rename = (parent, name, newParent, newName, flags) => {
    fs.calls.push(['rename', parent, name, newParent, newName, flags])
    if (tries++ === 0) throw new Again(copied.promise)
  }
  transport.feed(
    frame('RENAME2', {
      unique: 0x8000_0000_0000_0004n,
      fields: { newdir: 9, flags: 1 },
      names: ['old', 'new'],
    }),
  )
  t.equal(dispatcher.pending, 1)
  // Others are served meanwhile, in the same memory.
  transport.feed(frame('UNLINK', { unique: 6n, names: ['meanwhile'] }))
  t.strictSame(
    replies.map(reply => reply.unique),
    [6n],
  )
  copied.resolve()
  await settle()
  t.strictSame(
    replies.map(reply => [reply.unique, reply.error]),
    [
      [6n, 0],
      [0x8000_0000_0000_0004n, 0],
    ],
  )
  t.strictSame(fs.calls[2], ['rename', 1, 'old', 9, 'new', 1])
  t.equal(dispatcher.pending, 0)
  t.equal(dispatcher.counters.requests[Op.RENAME2], 1, 'counted once')
  t.equal(dispatcher.counters.waits[Op.RENAME2], 1)
})

t.test('Again, more than once', async t => {
  const { fs, transport, replies } = bench()
  let tries = 0
  fs.unlink = (_parent, name) => {
    fs.calls.push(['unlink', name])
    if (tries++ < 3) throw new Again(Promise.resolve())
  }
  transport.feed(frame('UNLINK', { names: ['x'] }))
  await settle()
  t.equal(replies.length, 1)
  t.strictSame(fs.calls, new Array(4).fill(['unlink', 'x']))
})

t.test('Again whose wait fails is answered with that errno', async t => {
  const { fs, transport, faults, replies } = bench()
  let reason: unknown = new SysError(E.ENOSPC, 'copy_file_range')
  fs.unlink = () => {
    throw new Again(Promise.reject(reason))
  }
  transport.feed(frame('UNLINK', { names: ['x'] }))
  await settle()
  reason = new Error('a mistake')
  transport.feed(frame('UNLINK', { names: ['x'] }))
  await settle()
  t.strictSame(
    replies.map(reply => reply.error),
    [-E.ENOSPC, -E.EIO],
  )
  t.equal(faults.length, 1)
  t.equal(faults[0]?.[1], 'UNLINK')
})

t.test('promises: answered when they settle, with the unique of their request', async t => {
  const { fs, transport, dispatcher, replies } = bench()
  const first = deferred<OpenReply | undefined>()
  const second = deferred<void>()
  fs.open = () => first.promise
  fs.fsync = () => second.promise
  transport.feed(frame('OPEN', { unique: 10n }))
  transport.feed(frame('FSYNC', { unique: 12n }))
  transport.feed(frame('STATFS', { unique: 14n }))
  t.equal(dispatcher.pending, 2)
  second.reject(new SysError(E.EDQUOT, 'fsync'))
  await settle()
  first.resolve({ fh: 3, flags: 0 })
  await settle()
  t.strictSame(
    replies.map(reply => [reply.unique, reply.error, reply.payload.length]),
    [
      [14n, 0, 80],
      [12n, -E.EDQUOT, 0],
      [10n, 0, 16],
    ],
  )
  t.equal(dispatcher.pending, 0)
})

t.test('an open that resolves to nothing is ENOSYS', async t => {
  const { fs, transport, replies } = bench()
  fs.open = () => Promise.resolve(undefined)
  transport.feed(frame('OPEN'))
  await settle()
  t.equal(replies[0]?.error, -E.ENOSYS)
})

t.test('an unexpected exception is logged, answered EIO, and serving goes on', async t => {
  const { fs, transport, dispatcher, faults, replies } = bench()
  fs.getattr = () => {
    throw new TypeError('cannot read properties of undefined')
  }
  fs.fsync = () => Promise.reject(new RangeError('late'))
  fs.forget = () => {
    throw new Error('in a request without a reply')
  }
  transport.feed(frame('GETATTR'))
  transport.feed(frame('FSYNC'))
  transport.feed(frame('FORGET', { fields: { nlookup: 1 } }))
  transport.feed(frame('STATFS'))
  await settle()
  t.strictSame(replies.map(reply => reply.error).sort(), [-E.EIO, -E.EIO, 0].sort())
  t.strictSame(
    faults.map(([, what]) => what),
    ['GETATTR', 'FORGET', 'FSYNC'],
  )
  t.equal(dispatcher.counters.faults, 3)
})

t.test('a log that throws does not cost the reply', async t => {
  const transport = new ReplayTransport()
  const fs = new DummyFs()
  const dispatcher = new Dispatcher(fs, transport, {
    onFault: () => {
      throw new Error('the disk is full')
    },
  })
  transport.start(
    length => dispatcher.handle(length),
    () => undefined,
  )
  fs.statfs = () => {
    throw new Error('a mistake')
  }
  transport.feed(frame('STATFS'))
  t.equal(transport.replies[0]?.error, -E.EIO)
})

t.test('READ and WRITE: the file is made known, then the frame goes back to the data plane', async t => {
  const { fs, transport, dispatcher, replies } = bench()
  const ready = deferred<void>()
  let tries = 0
  fs.prepareIo = (nodeid, write) => {
    fs.calls.push(['prepareIo', nodeid, write])
    if (write && tries++ === 0) throw new Again(ready.promise)
  }
  transport.feed(frame('WRITE', { unique: 4n, nodeid: 5, fields: { size: 5 }, data: Buffer.from('hello') }))
  transport.feed(frame('READ', { unique: 6n, nodeid: 5, fields: { size: 100 } }))
  t.strictSame(
    replies.map(reply => reply.unique),
    [6n],
  )
  ready.resolve()
  await settle()
  t.strictSame(
    replies.map(reply => [reply.unique, reply.error]),
    [
      [6n, 0],
      [4n, 0],
    ],
  )
  t.equal(replies[1]?.payload.readUInt32LE(0), 5)
  t.equal(dispatcher.counters.replies, 1, 'INIT: the data plane answered the others')
})

t.test('a READ that cannot be prepared is answered with the reason', async t => {
  const { fs, transport, replies } = bench()
  fs.prepareIo = () => {
    throw new SysError(E.EISDIR, 'read')
  }
  transport.feed(frame('READ'))
  t.equal(replies[0]?.error, -E.EISDIR)
})

t.test('a lookup reference that did not reach the kernel is taken back', async t => {
  const { fs, transport, dispatcher } = bench()
  transport.sendResult = -E.ENOENT
  transport.feed(frame('LOOKUP', { names: ['a'] }))
  t.strictSame(fs.calls.at(-1), ['forget', 17, 1])
  transport.feed(frame('CREATE', { names: ['a'] }))
  t.strictSame(fs.calls.slice(-2), [
    ['release', 22, 6],
    ['forget', 22, 1],
  ])
  fs.calls.length = 0
  fs.readdir = (_nodeid, _fh, _cookie, sink) => {
    sink.addPlus('.', 1, 4, entry(1), 1)
    sink.addPlus('..', 2, 4, entry(1), 1)
    sink.addPlus('a', 3, 8, entry(30), 30)
    sink.addPlus('..b', 4, 8, entry(31), 31)
    sink.addPlus('c', 5, 8, undefined, 32)
  }
  transport.feed(frame('READDIRPLUS', { fields: { size: 4096 } }))
  t.strictSame(fs.calls, [
    ['forget', 30, 1],
    ['forget', 31, 1],
  ])
  t.equal(dispatcher.counters.undelivered, 3)
})

t.test('a reply that the kernel refuses as a message is followed by EIO', async t => {
  const { transport, replies } = bench()
  transport.sendResult = -E.EINVAL
  transport.feed(frame('STATFS'))
  t.strictSame(
    replies.map(reply => reply.error),
    [0, -E.EIO],
  )
})

t.test('the filesystem hears of its end once', async t => {
  const { fs, transport, replies } = bench()
  transport.feed(frame('DESTROY'))
  t.equal(replies[0]?.error, 0)
  transport.end()
  t.strictSame(fs.calls, [['destroy']])
})

t.test('a reply too large for the output is EIO, not a crash', async t => {
  const { fs, transport, faults, replies } = bench()
  fs.readlink = () => 'x'.repeat(2 * 1024 * 1024)
  transport.feed(frame('READLINK'))
  fs.ioctl = () => ({ result: 0, output: Buffer.alloc(100) })
  transport.feed(frame('IOCTL', { fields: { out_size: 8 } }))
  t.strictSame(
    replies.map(reply => reply.error),
    [-E.EIO, -E.EIO],
  )
  t.equal(faults.length, 2)
})
