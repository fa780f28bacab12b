import t from 'tap'
import { E } from '../../src/base/errno.js'
import { Dispatcher } from '../../src/fuse/dispatch.js'
import { Op, OPCODES, type OpName } from '../../src/fuse/opcodes.js'
import { InHeader, InitInCompat, SetxattrInCompat } from '../../src/fuse/structs.js'
import { type Reply, ReplayTransport } from '../../src/fuse/transport-replay.js'
import { DummyFs } from './fuse-dummy-fs.js'
import { EXAMPLES, frame, type FrameSpec, initFrame } from './fuse-frames.js'

interface Bench {
  fs: DummyFs
  transport: ReplayTransport
  dispatcher: Dispatcher
  ask(op: OpName, spec?: FrameSpec): Reply
}

function bench(
  init: Buffer | undefined = initFrame(),
  options: ConstructorParameters<typeof Dispatcher>[2] = {},
): Bench {
  const fs = new DummyFs()
  const transport = new ReplayTransport()
  const dispatcher = new Dispatcher(fs, transport, options)
  transport.start(
    length => dispatcher.handle(length),
    () => dispatcher.destroy(),
  )
  if (init !== undefined) transport.feed(init)
  transport.replies.length = 0
  fs.calls.length = 0
  const ask = (op: OpName, spec: FrameSpec = {}): Reply => {
    const before = transport.replies.length
    transport.feed(frame(op, spec))
    if (transport.replies.length !== before + 1)
      throw new Error(`${transport.replies.length - before} replies`)
    return transport.replies[before] as Reply
  }
  return { fs, transport, dispatcher, ask }
}

const CALLER = { uid: 1000, gid: 1000, pid: 42 }

t.test('arguments arrive as the kernel sent them', async t => {
  const { fs, ask } = bench()
  const cases: [OpName, FrameSpec, unknown[]][] = [
    ['LOOKUP', { nodeid: 5, names: ['\xff\xfe'] }, ['lookup', 5, '\xff\xfe', CALLER]],
    ['GETATTR', { fields: { fh: 3 } }, ['getattr', 1, undefined]],
    ['GETATTR', { fields: { fh: 3, getattr_flags: 1 } }, ['getattr', 1, 3]],
    ['STATX', { fields: { sx_mask: 0x800 } }, ['statx', 1, 0x800]],
    ['SYMLINK', { names: ['l', '../../etc/x'] }, ['symlink', 1, 'l', '../../etc/x', CALLER]],
    [
      'MKNOD',
      { fields: { mode: 0o20600, rdev: 0x103, umask: 0o77 }, names: ['n'] },
      ['mknod', 1, 'n', 0o20600, 0x103, 0o77, CALLER],
    ],
    [
      'MKDIR',
      { fields: { mode: 0o1777, umask: 0o22 }, names: ['d'] },
      ['mkdir', 1, 'd', 0o1777, 0o22, CALLER],
    ],
    ['UNLINK', { names: ['x'] }, ['unlink', 1, 'x', CALLER]],
    ['RMDIR', { names: ['x'] }, ['rmdir', 1, 'x', CALLER]],
    ['RENAME', { fields: { newdir: 4 }, names: ['a', 'b'] }, ['rename', 1, 'a', 4, 'b', 0, CALLER]],
    [
      'RENAME2',
      { fields: { newdir: 4, flags: 2 }, names: ['a', 'b'] },
      ['rename', 1, 'a', 4, 'b', 2, CALLER],
    ],
    ['LINK', { nodeid: 8, fields: { oldnodeid: 9 }, names: ['h'] }, ['link', 9, 8, 'h', CALLER]],
    ['OPEN', { fields: { flags: 0o102 } }, ['open', 1, 0o102, CALLER]],
    ['RELEASE', { fields: { fh: 12 } }, ['release', 1, 12]],
    ['FSYNC', { fields: { fsync_flags: 1 } }, ['fsync', 1, true]],
    ['FSYNCDIR', {}, ['fsyncdir', 1, false]],
    ['SYNCFS', {}, ['syncfs']],
    ['STATFS', { nodeid: 6 }, ['statfs', 6]],
    [
      'SETXATTR',
      { fields: { size: 2, flags: 1, setxattr_flags: 1 }, names: ['user.a/b'], data: Buffer.from('\0x') },
      ['setxattr', 1, 'user.a/b', Buffer.from('\0x'), 1, true, CALLER],
    ],
    ['REMOVEXATTR', { names: ['user.a'] }, ['removexattr', 1, 'user.a', CALLER]],
    ['OPENDIR', { fields: { flags: 0o200000 } }, ['opendir', 1, 0o200000]],
    ['RELEASEDIR', { fields: { fh: 8 } }, ['releasedir', 1, 8]],
    ['READDIR', { fields: { fh: 8, offset: 2, size: 512 } }, ['readdir', 1, 8, 2]],
    [
      'CREATE',
      { fields: { flags: 0o301, mode: 0o100600, umask: 0o22 }, names: ['c'] },
      ['create', 1, 'c', 0o301, 0o100600, 0o22, CALLER],
    ],
    [
      'TMPFILE',
      { fields: { flags: 2, mode: 0o100600, umask: 0 }, data: Buffer.from('/\0') },
      ['tmpfile', 1, 2, 0o100600, 0, CALLER],
    ],
    [
      'FALLOCATE',
      { fields: { offset: 2n ** 40n, length: 4096, mode: 3 } },
      ['fallocate', 1, 2 ** 40, 4096, 3],
    ],
    ['LSEEK', { fields: { offset: 2n ** 40n, whence: 4 } }, ['lseek', 1, 2 ** 40, 4]],
    [
      'COPY_FILE_RANGE_64',
      { fields: { off_in: 1, nodeid_out: 2, off_out: 3, len: 2n ** 33n } },
      ['copyFileRange', 1, 1, 2, 3, 2 ** 33, 0],
    ],
    [
      'COPY_FILE_RANGE',
      { fields: { off_in: 1, nodeid_out: 2, off_out: 3, len: 2n ** 33n } },
      ['copyFileRange', 1, 1, 2, 3, 0x7fff_f000, 0],
    ],
    [
      'IOCTL',
      {
        fields: { cmd: 0xc0086601, arg: 2n ** 63n + 5n, in_size: 2, out_size: 3, flags: 16 },
        data: Buffer.from('in'),
      },
      ['ioctl', 1, 0xc0086601, 2n ** 63n + 5n, Buffer.from('in'), 3, 16, CALLER],
    ],
    ['READ', { fields: { size: 10 } }, ['prepareIo', 1, false]],
    ['WRITE', { fields: { size: 2 }, data: Buffer.from('ab') }, ['prepareIo', 1, true]],
  ]
  for (const [op, spec, call] of cases) {
    fs.calls.length = 0
    const reply = ask(op, spec)
    t.equal(reply.error, 0, op)
    t.strictSame(fs.calls, [call], op)
  }
})

t.test('SETATTR carries only what is valid', async t => {
  const { fs, ask } = bench()
  const fields = {
    mode: 0o100600,
    uid: 1,
    gid: 2,
    size: 3,
    atime: -5n,
    atimensec: 6,
    mtime: 7,
    mtimensec: 8,
    ctime: 9,
    ctimensec: 10,
    fh: 11,
  }
  const change = (valid: number) => {
    ask('SETATTR', { fields: { ...fields, valid } })
    return fs.calls.pop()?.[2]
  }
  t.strictSame(change(0), { killSuidgid: false })
  t.strictSame(change(0x7f | (1 << 10) | (1 << 11)), {
    killSuidgid: true,
    mode: 0o100600,
    uid: 1,
    gid: 2,
    size: 3,
    atime: { sec: -5, nsec: 6 },
    mtime: { sec: 7, nsec: 8 },
    ctime: { sec: 9, nsec: 10 },
    fh: 11,
  })
  t.strictSame(change(0x30 | 0x180), { killSuidgid: false, atime: 'now', mtime: 'now' })
})

t.test('names that no entry can have never reach the filesystem', async t => {
  const { fs, ask } = bench()
  const long = 'n'.repeat(255)
  t.equal(ask('LOOKUP', { names: [long] }).error, 0)
  fs.calls.length = 0
  const refused: [OpName, FrameSpec, number][] = [
    ['LOOKUP', { names: [long + 'n'] }, E.ENAMETOOLONG],
    ['LOOKUP', { names: [''] }, E.EINVAL],
    ['LOOKUP', { names: ['a/b'] }, E.EINVAL],
    ['LOOKUP', { names: ['.'] }, E.EINVAL],
    ['LOOKUP', { names: ['..'] }, E.EINVAL],
    ['LOOKUP', { data: Buffer.from('no end') }, E.EINVAL],
    ['LOOKUP', { data: Buffer.alloc(300, 0x61) }, E.EINVAL],
    ['LOOKUP', {}, E.EINVAL],
    ['MKDIR', { names: ['../../etc'] }, E.EINVAL],
    ['CREATE', { names: [long + 'n'] }, E.ENAMETOOLONG],
    ['RENAME2', { names: ['a', 'b/c'] }, E.EINVAL],
    ['RENAME2', { names: ['a'] }, E.EINVAL],
    ['SYMLINK', { names: ['a', ''] }, E.ENOENT],
    ['SYMLINK', { names: ['a', 'x'.repeat(4096)] }, E.ENAMETOOLONG],
    ['GETXATTR', { names: ['x'.repeat(256)] }, E.ERANGE],
    ['REMOVEXATTR', { names: [''] }, E.EINVAL],
  ]
  for (const [op, spec, errno] of refused)
    t.equal(ask(op, spec).error, -errno, `${op} ${JSON.stringify(spec.names)}`)
  t.strictSame(fs.calls, [])
  t.equal(ask('SYMLINK', { names: ['a', 'x'.repeat(4095)] }).error, 0)
})

t.test('dots are looked up where the mount is exported', async t => {
  const { fs, ask } = bench(initFrame(), { init: { exportSupport: true } })
  t.equal(ask('LOOKUP', { names: ['..'] }).error, 0)
  t.strictSame(fs.calls, [['lookup', 1, '..', CALLER]])
})

t.test('sizes that do not fit their data are refused', async t => {
  const { fs, ask } = bench()
  const refused: [OpName, FrameSpec, number][] = [
    ['WRITE', { fields: { size: 6 }, data: Buffer.from('hello') }, E.EINVAL],
    ['WRITE', { fields: { size: 4 }, data: Buffer.from('hello') }, E.EINVAL],
    ['READ', { fields: { size: 0xffff_ffff } }, E.EINVAL],
    ['SETXATTR', { fields: { size: 4 }, names: ['user.a'], data: Buffer.from('abc') }, E.EINVAL],
    ['SETXATTR', { fields: { size: 70000 }, names: ['user.a'], data: Buffer.alloc(70000) }, E.E2BIG],
    ['IOCTL', { fields: { in_size: 4 } }, E.EINVAL],
    ['IOCTL', { fields: { out_size: 0xffff_ffff } }, E.EINVAL],
    ['GETXATTR', { fields: { size: 4 }, names: ['user.a'] }, E.ERANGE],
    ['LISTXATTR', { fields: { size: 13 } }, E.ERANGE],
  ]
  for (const [op, spec, errno] of refused) t.equal(ask(op, spec).error, -errno, op)
  t.strictSame(
    fs.calls.map(([name]) => name),
    ['getxattr', 'listxattr'],
  )
})

t.test('a header that lies about the length is answered EINVAL, half a header is dropped', async t => {
  const { fs, transport, dispatcher } = bench()
  const lying = frame('UNLINK', { names: ['a'] })
  lying.writeUInt32LE(lying.length + 1, 0)
  transport.feed(lying)
  t.equal(transport.replies[0]?.error, -E.EINVAL)
  for (const size of [0, 1, 39]) transport.feed(frame('STATFS').subarray(0, size))
  t.equal(transport.replies.length, 1)
  t.equal(dispatcher.counters.dropped, 3)
  const extended = frame('UNLINK', { names: ['a'] })
  extended.writeUInt16LE(0xffff, InHeader.at.total_extlen)
  transport.feed(extended)
  t.equal(transport.replies[1]?.error, -E.EINVAL)
  t.strictSame(fs.calls, [])
})

t.test('extensions are not taken for arguments', async t => {
  const { fs, ask } = bench()
  // Without its extension the name would have no end.
  const reply = ask('LOOKUP', { data: Buffer.from('abc'), extensions: Buffer.alloc(8) })
  t.equal(reply.error, -E.EINVAL)
  t.equal(ask('LOOKUP', { names: ['abcdefg'], extensions: Buffer.alloc(16, 1) }).error, 0)
  t.strictSame(fs.calls, [['lookup', 1, 'abcdefg', CALLER]])
})

t.test('SETXATTR is short where the extended form was not agreed on', async t => {
  const { fs, ask } = bench(initFrame({ flags: 0, max_readahead: 0 }, InitInCompat))
  const reply = ask('SETXATTR', {
    struct: SetxattrInCompat,
    fields: { size: 1, flags: 2 },
    names: ['user.a'],
    data: Buffer.from('v'),
  })
  t.equal(reply.error, 0)
  t.strictSame(fs.calls, [['setxattr', 1, 'user.a', Buffer.from('v'), 2, false, CALLER]])
})

t.test('FORGET and BATCH_FORGET are counted and never answered', async t => {
  const { fs, transport } = bench()
  transport.feed(frame('FORGET', { nodeid: 7, fields: { nlookup: 3 } }))
  const data = Buffer.alloc(32)
  data.writeBigUInt64LE(8n, 0)
  data.writeBigUInt64LE(1n, 8)
  data.writeBigUInt64LE(9n, 16)
  data.writeBigUInt64LE(2n, 24)
  transport.feed(frame('BATCH_FORGET', { fields: { count: 2 }, data }))
  t.strictSame(fs.calls, [
    ['forget', 7, 3],
    ['forget', 8, 1],
    ['forget', 9, 2],
  ])
  // One that claims more than it has gives what it has.
  fs.calls.length = 0
  transport.feed(frame('BATCH_FORGET', { fields: { count: 0xffff_ffff }, data }))
  t.equal(fs.calls.length, 2)
  transport.feed(frame('INTERRUPT'))
  t.strictSame(transport.replies, [])
})

t.test('what is not implemented is answered ENOSYS', async t => {
  const { fs, ask, transport } = bench()
  for (const op of ['FLUSH', 'ACCESS', 'BMAP', 'POLL', 'GETLK', 'SETLK', 'SETLKW', 'SETUPMAPPING'] as const)
    t.equal(ask(op).error, -E.ENOSYS, op)
  const unknown = frame('STATFS')
  for (const opcode of [0, 7, 54, 4096, 0xffff_ffff]) {
    unknown.writeUInt32LE(opcode, InHeader.at.opcode)
    transport.feed(unknown)
    t.equal(transport.replies.pop()?.error, -E.ENOSYS, `opcode ${opcode}`)
  }
  t.strictSame(fs.calls, [])
})

t.test('a STATX that the mount does not want is answered ENOSYS', async t => {
  const { ask } = bench(initFrame(), { init: { statx: false } })
  t.equal(ask('STATX').error, -E.ENOSYS)
  t.equal(ask('GETATTR').error, 0)
  t.equal(Op.STATX, 52)
})

t.test('a request cut off anywhere never reaches the filesystem', async t => {
  const { fs, transport } = bench()
  for (const op of Object.keys(EXAMPLES) as OpName[]) {
    // A message may end early only where what is missing was optional: fuse_init_in, and the count of forgets.
    if (op === 'INIT' || op === 'BATCH_FORGET') continue
    const whole = frame(op, EXAMPLES[op])
    const info = OPCODES[Op[op]]
    const ignored = op === 'TMPFILE' ? 2 : 0
    for (let length = InHeader.size; length < whole.length - ignored; length++) {
      fs.calls.length = 0
      transport.replies.length = 0
      const cut = Buffer.from(whole.subarray(0, length))
      cut.writeUInt32LE(length, InHeader.at.len)
      transport.feed(cut)
      if (fs.calls.length > 0) t.fail(`${op} of ${length} bytes`)
      const expected =
        info?.replied === false ? [] : [info?.unsupported === undefined ? -E.EINVAL : -E.ENOSYS]
      const got = transport.replies.map(reply => reply.error)
      if (String(got) !== String(expected)) t.fail(`${op} of ${length} bytes was answered ${String(got)}`)
    }
  }
  t.pass('every opcode, every length')
})
