import t from 'tap'
import { E } from '../../src/base/errno.js'
import { Dispatcher } from '../../src/fuse/dispatch.js'
import { INIT_FLAG, type InitFlag } from '../../src/fuse/flags.js'
import { INIT_DEFAULTS, type InitParameters, NegotiatedConnection } from '../../src/fuse/init.js'
import { InitInCompat } from '../../src/fuse/structs.js'
import { type Reply, ReplayTransport } from '../../src/fuse/transport-replay.js'
import { DummyFs } from './fuse-dummy-fs.js'
import { initFrame } from './fuse-frames.js'

interface Outcome {
  reply: Reply
  connection: NegotiatedConnection | undefined
  refused: string | undefined
  has(flag: InitFlag): boolean
}

function init(message: Buffer, parameters: Partial<InitParameters> = {}): Outcome {
  const transport = new ReplayTransport()
  let refused: string | undefined
  const dispatcher = new Dispatcher(new DummyFs(), transport, {
    init: parameters,
    onInit: outcome => {
      if (!(outcome instanceof NegotiatedConnection)) refused = outcome.reason
    },
  })
  transport.start(
    length => dispatcher.handle(length),
    () => undefined,
  )
  transport.feed(message)
  const reply = transport.replies[0] as Reply
  const low = reply.payload.length === 64 ? reply.payload.readUInt32LE(12) : 0
  const high = reply.payload.length === 64 ? reply.payload.readUInt32LE(32) : 0
  const has = (flag: InitFlag) => {
    const bit = INIT_FLAG[flag]
    return (((bit < 32 ? low : high) >>> (bit % 32)) & 1) === 1
  }
  return { reply, connection: dispatcher.connection, refused, has }
}

function bits(...flags: InitFlag[]): { flags: number; flags2: number } {
  let low = 2 ** INIT_FLAG.INIT_EXT
  let high = 0
  for (const flag of flags) {
    const bit = INIT_FLAG[flag]
    if (flag === 'INIT_EXT') continue
    if (bit < 32) low += 2 ** bit
    else high += 2 ** (bit - 32)
  }
  return { flags: low, flags2: high }
}

t.test('a kernel of today: the reply, field by field', async t => {
  const { reply, connection } = init(initFrame())
  const { payload } = reply
  t.equal(payload.length, 64)
  t.equal(payload.readUInt32LE(0), 7)
  t.equal(payload.readUInt32LE(4), 45)
  t.equal(payload.readUInt32LE(8), 131072, 'max_readahead is the kernel’s')
  t.equal(payload.readUInt16LE(16), 64, 'max_background')
  t.equal(payload.readUInt16LE(18), 48, 'congestion_threshold')
  t.equal(payload.readUInt32LE(20), 512 * 1024, 'max_write')
  t.equal(payload.readUInt32LE(24), 1, 'time_gran')
  t.equal(payload.readUInt16LE(28), 256, 'max_pages')
  t.equal(payload.readUInt32LE(36), 0, 'max_stack_depth')
  t.strictSame(payload.subarray(40), Buffer.alloc(24))
  t.equal(connection?.maxWrite, 512 * 1024)
})

t.test('what is in force is what was wanted and offered, bit for bit', async t => {
  const every = Object.keys(INIT_FLAG) as InitFlag[]
  const { connection, has } = init(initFrame())
  for (const flag of every) t.equal(has(flag), connection?.has(flag), flag)
  // Offered one at a time: never more than that.
  for (const flag of every) {
    const { connection: one, has: got } = init(initFrame(bits(flag)))
    for (const other of every) {
      if (other === flag || other === 'INIT_EXT') continue
      t.notOk(got(other), `${other} when only ${flag} is offered`)
    }
    t.equal(one?.offers(flag), true, flag)
    t.equal(one?.offers(flag === 'ASYNC_READ' ? 'ASYNC_DIO' : 'ASYNC_READ'), false)
  }
})

t.test('every parameter switches its flag', async t => {
  const table: [keyof InitParameters, InitFlag][] = [
    ['writebackCache', 'WRITEBACK_CACHE'],
    ['passthrough', 'PASSTHROUGH'],
    ['posixAcl', 'POSIX_ACL'],
    ['dontMask', 'DONT_MASK'],
    ['handleKillprivV2', 'HANDLE_KILLPRIV_V2'],
    ['noOpenSupport', 'NO_OPEN_SUPPORT'],
    ['noOpendirSupport', 'NO_OPENDIR_SUPPORT'],
    ['parallelDirops', 'PARALLEL_DIROPS'],
    ['asyncDio', 'ASYNC_DIO'],
    ['cacheSymlinks', 'CACHE_SYMLINKS'],
    ['explicitInvalData', 'EXPLICIT_INVAL_DATA'],
    ['exportSupport', 'EXPORT_SUPPORT'],
    ['setxattrExt', 'SETXATTR_EXT'],
    ['createSuppGroup', 'CREATE_SUPP_GROUP'],
    ['hasResend', 'HAS_RESEND'],
    ['allowIdmap', 'ALLOW_IDMAP'],
    ['directIoAllowMmap', 'DIRECT_IO_ALLOW_MMAP'],
  ]
  for (const [parameter, flag] of table) {
    t.equal(init(initFrame(), { [parameter]: true }).has(flag), true, `${parameter} on`)
    t.equal(init(initFrame(), { [parameter]: false }).has(flag), false, `${parameter} off`)
  }
  t.strictSame(
    (['always', 'auto', 'never'] as const).map(readdirplus => {
      const { has } = init(initFrame(), { readdirplus })
      return [has('DO_READDIRPLUS'), has('READDIRPLUS_AUTO')]
    }),
    [
      [true, false],
      [true, true],
      [false, false],
    ],
  )
  t.ok(init(initFrame(), { explicitInvalData: false }).has('AUTO_INVAL_DATA'))
  t.notOk(init(initFrame()).has('AUTO_INVAL_DATA'))
  t.ok(init(initFrame()).has('NO_EXPORT_SUPPORT'))
})

t.test('what is never asked for', async t => {
  const all = Object.fromEntries(
    Object.entries(INIT_DEFAULTS).map(([name, value]) => [name, typeof value === 'boolean' ? true : value]),
  )
  const { has } = init(initFrame(), all)
  for (const flag of [
    'POSIX_LOCKS',
    'FLOCK_LOCKS',
    'SPLICE_READ',
    'SPLICE_WRITE',
    'SPLICE_MOVE',
    'HANDLE_KILLPRIV',
    'SECURITY_CTX',
    'MAP_ALIGNMENT',
    'HAS_INODE_DAX',
    'SUBMOUNTS',
    'OVER_IO_URING',
    'REQUEST_TIMEOUT',
    'INIT_RESERVED',
  ] as const)
    t.notOk(has(flag), flag)
})

t.test('passthrough allows one filesystem below, and gives way to the writeback cache', async t => {
  const passthrough = init(initFrame(), { passthrough: true })
  t.equal(passthrough.reply.payload.readUInt32LE(36), 1)
  const both = init(initFrame(), { passthrough: true, writebackCache: true })
  t.notOk(both.has('PASSTHROUGH'))
  t.ok(both.has('WRITEBACK_CACHE'))
  t.equal(both.reply.payload.readUInt32LE(36), 0)
})

t.test('ATOMIC_O_TRUNC only where every open is sent', async t => {
  t.notOk(init(initFrame(), { atomicOTrunc: true }).has('ATOMIC_O_TRUNC'))
  t.ok(init(initFrame(), { atomicOTrunc: true, noOpenSupport: false }).has('ATOMIC_O_TRUNC'))
  // Wanted, but the kernel has no zero-message opens.
  t.ok(init(initFrame(bits('ATOMIC_O_TRUNC')), { atomicOTrunc: true }).has('ATOMIC_O_TRUNC'))
})

t.test('flags of the second word need INIT_EXT and the long form', async t => {
  const without = init(initFrame({ flags: 0xbfff_ffff }), { passthrough: true })
  t.notOk(without.has('PASSTHROUGH'))
  t.notOk(without.connection?.offers('PASSTHROUGH'))
  t.equal(without.reply.payload.readUInt32LE(32), 0)
  const short = init(initFrame({ minor: 31 }, InitInCompat), { passthrough: true })
  t.equal(short.reply.error, 0)
  t.notOk(short.has('PASSTHROUGH'))
  t.equal(short.reply.payload.readUInt32LE(4), 31)
})

t.test('without MAX_PAGES a request has 32 pages', async t => {
  const { reply, connection } = init(initFrame(bits('ASYNC_READ')))
  t.equal(reply.payload.readUInt16LE(28), 0)
  t.equal(reply.payload.readUInt32LE(20), 128 * 1024)
  t.equal(connection?.maxWrite, 128 * 1024)
  t.equal(init(initFrame(), { maxWrite: 5000 }).connection?.maxWrite, 8192, 'whole pages')
})

t.test('versions: a newer kernel minor, a newer major, and kernels that are too old', async t => {
  t.equal(init(initFrame({ minor: 99 })).reply.payload.readUInt32LE(4), 45)
  const major = init(initFrame({ major: 8 }))
  t.equal(major.reply.payload.readUInt32LE(0), 7)
  t.equal(major.connection, undefined)
  for (const fields of [{ minor: 30 }, { major: 6 }]) {
    const old = init(initFrame(fields))
    t.equal(old.reply.error, -E.EPROTO)
    t.match(old.refused, /Linux 5\.4/)
  }
})

t.test('a connection can be written down and taken over', async t => {
  const { connection } = init(initFrame())
  if (connection === undefined) throw new Error('no connection')
  const again = new NegotiatedConnection(JSON.parse(JSON.stringify(connection)))
  t.strictSame(again.toJSON(), connection.toJSON())
  const fs = new DummyFs()
  const dispatcher = new Dispatcher(fs, new ReplayTransport(), { adopt: again })
  t.equal(dispatcher.connection?.has('SETXATTR_EXT'), true)
  t.equal(fs.calls[0]?.[0], 'init')
})
