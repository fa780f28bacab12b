/** Replies byte for byte, written by hand from linux/fuse.h, so that a mistake in a layout cannot hide in both. */
import t from 'tap'
import { E } from '../../src/base/errno.js'
import { SysError } from '../../src/base/sys-error.js'
import { Dispatcher } from '../../src/fuse/dispatch.js'
import { FOPEN, type Entry, type NegativeEntry } from '../../src/fuse/index.js'
import type { OpName } from '../../src/fuse/opcodes.js'
import { type Reply, ReplayTransport } from '../../src/fuse/transport-replay.js'
import { ATTR, DummyFs } from './fuse-dummy-fs.js'
import { frame, type FrameSpec, initFrame } from './fuse-frames.js'

function bench(fs = new DummyFs()) {
  const transport = new ReplayTransport()
  const dispatcher = new Dispatcher(fs, transport)
  transport.start(
    length => dispatcher.handle(length),
    () => undefined,
  )
  transport.feed(initFrame())
  transport.replies.length = 0
  return {
    fs,
    transport,
    ask(op: OpName, spec?: FrameSpec): Reply {
      transport.feed(frame(op, spec))
      return transport.replies.pop() as Reply
    },
  }
}

/** Little-endian hexadecimal words, written the way a person reads them. */
function bytes(...parts: (number | bigint | string)[]): Buffer {
  return Buffer.concat(
    parts.map(part => {
      if (typeof part === 'string') return Buffer.from(part, 'latin1')
      const out = Buffer.alloc(typeof part === 'bigint' ? 8 : 4)
      if (typeof part === 'bigint') out.writeBigUInt64LE(BigInt.asUintN(64, part))
      else out.writeUInt32LE(part)
      return out
    }),
  )
}

/** ATTR of fuse-dummy-fs.ts: fuse_attr, 88 bytes. */
const ATTR_BYTES = bytes(
  0x1_0000_0005n, // ino
  0x2_0000_0006n, // size
  7n, // blocks
  -1n, // atime: a second before 1970
  1_700_000_000n, // mtime
  0x2_0000_0000n, // ctime: after 2106
  999_999_999, // atimensec
  1, // mtimensec
  0, // ctimensec
  0o100644, // mode
  3, // nlink
  1000, // uid
  0xffff_fffe, // gid
  0, // rdev
  4096, // blksize
  0, // flags
)
const FOREVER = 0xff_ffff_ffffn

/** entry(): entry_valid for ever, attr_valid 1.5 s. */
function entryBytes(nodeid: bigint): Buffer {
  return Buffer.concat([bytes(nodeid, 0n, FOREVER, 1n, 0, 500_000_000), ATTR_BYTES])
}

t.test('an entry, for ever and for one and a half seconds', async t => {
  const reply = bench().ask('LOOKUP', { names: ['a'], unique: 0x8000_0000_0000_0102n })
  t.equal(reply.unique, 0x8000_0000_0000_0102n, 'the bit of a resent request comes back')
  t.equal(reply.error, 0)
  t.equal(reply.payload.length, 128)
  t.strictSame(reply.payload, entryBytes(17n))
})

t.test('a negative entry is nodeid 0 with its timeout, or ENOENT when it has none', async t => {
  const { fs, ask } = bench()
  let valid = 0.25
  fs.lookup = (): NegativeEntry => ({ nodeid: 0, entryValid: valid })
  const kept = ask('LOOKUP', { names: ['a'] })
  t.equal(kept.error, 0)
  t.strictSame(kept.payload, Buffer.concat([bytes(0n, 0n, 0n, 0n, 250_000_000, 0), Buffer.alloc(88)]))
  for (valid of [0, -1, NaN]) {
    const reply = ask('LOOKUP', { names: ['a'] })
    t.equal(reply.error, -E.ENOENT)
    t.equal(reply.payload.length, 0)
  }
})

t.test('a negative entry leaves nothing of an earlier reply in the message', async t => {
  const { fs, ask } = bench()
  ask('LOOKUP', { names: ['a'] })
  fs.lookup = (): Entry | NegativeEntry => ({ nodeid: 0, entryValid: Infinity })
  t.strictSame(
    ask('LOOKUP', { names: ['a'] }).payload,
    Buffer.concat([bytes(0n, 0n, FOREVER, 0n, 0, 0), Buffer.alloc(88)]),
  )
})

t.test('attributes', async t => {
  const reply = bench().ask('GETATTR')
  t.equal(reply.payload.length, 104)
  t.strictSame(reply.payload, Buffer.concat([bytes(FOREVER, 0, 0), ATTR_BYTES]))
})

t.test('statx with a birth time, and a device number in its two forms', async t => {
  const { fs, ask } = bench()
  const time = (sec: bigint, nsec: number) => bytes(sec, nsec, 0)
  const plain = ask('STATX').payload
  t.equal(plain.length, 288)
  t.strictSame(
    plain,
    Buffer.concat([
      bytes(0n, 0, 0, 0n, 0n), // attr_valid, its nanoseconds, flags, spare
      bytes(0xfff, 4096, 4n, 3, 1000, 0xffff_fffe, 0o100644), // mask … mode (and __spare0)
      bytes(0x1_0000_0005n, 0x2_0000_0006n, 7n, 0x74n), // ino, size, blocks, attributes_mask
      time(-1n, 999_999_999),
      time(5n, 6),
      time(0x2_0000_0000n, 0),
      time(1_700_000_000n, 1),
      bytes(0, 0, 0, 0),
      Buffer.alloc(112),
    ]),
  )
  // makedev(259, 0x12345) in new_encode_dev: minor low 8, major 12, minor high 12.
  fs.statx = () => ({
    attrValid: 0,
    attr: { ...ATTR, mode: 0o60600, rdev: 0x45 | (259 << 8) | (0x123 << 20) },
    attributes: 0,
    attributesMask: 0,
  })
  const device = ask('STATX').payload
  t.equal(device.readUInt32LE(32), 0x7ff, 'no birth time')
  t.equal(device.readUInt32LE(32 + 128), 259)
  t.equal(device.readUInt32LE(32 + 132), 0x12345)
})

t.test('CREATE is an entry and an open with its backing id', async t => {
  const reply = bench().ask('CREATE', { names: ['c'] })
  t.equal(reply.payload.length, 144)
  t.strictSame(reply.payload, Buffer.concat([entryBytes(22n), bytes(6n, FOPEN.PASSTHROUGH, 9)]))
})

t.test('OPEN, and ENOSYS where the filesystem gives nothing', async t => {
  const { fs, ask } = bench()
  t.strictSame(ask('OPEN').payload, bytes(5n, FOPEN.KEEP_CACHE, 0))
  fs.open = () => undefined
  fs.opendir = () => undefined
  t.equal(ask('OPEN').error, -E.ENOSYS)
  t.equal(ask('OPENDIR').error, -E.ENOSYS)
})

t.test(
  'an open that says nothing is answered plainly where the kernel would not understand ENOSYS',
  async t => {
    const fs = new DummyFs()
    fs.open = () => undefined
    fs.opendir = () => undefined
    const transport = new ReplayTransport()
    const dispatcher = new Dispatcher(fs, transport, {
      init: { noOpenSupport: false, noOpendirSupport: false },
    })
    transport.start(
      length => dispatcher.handle(length),
      () => undefined,
    )
    transport.feed(initFrame())
    transport.feed(frame('OPEN'))
    transport.feed(frame('OPENDIR'))
    t.strictSame(transport.replies[1]?.payload, bytes(0n, FOPEN.KEEP_CACHE, 0))
    t.strictSame(transport.replies[2]?.payload, bytes(0n, FOPEN.KEEP_CACHE | FOPEN.CACHE_DIR, 0))
  },
)

t.test('READDIR: records of 24 bytes and a name, padded to 8', async t => {
  const reply = bench().ask('READDIR', { fields: { size: 4096 } })
  t.strictSame(
    reply.payload,
    Buffer.concat([
      bytes(100n, 1n, 1, 8, 'a\0\0\0\0\0\0\0'),
      bytes(101n, 2n, 2, 8, 'bb\0\0\0\0\0\0'),
      bytes(102n, 3n, 3, 8, 'ccc\0\0\0\0\0'),
    ]),
  )
})

t.test('READDIRPLUS: an entry before each record, and as many as fit', async t => {
  const { fs, ask } = bench()
  const whole = ask('READDIRPLUS', { fields: { size: 4096 } })
  t.equal(whole.payload.length, 3 * 160)
  t.strictSame(
    whole.payload.subarray(0, 160),
    Buffer.concat([entryBytes(100n), bytes(100n, 1n, 1, 8, 'a\0\0\0\0\0\0\0')]),
  )
  t.equal(ask('READDIRPLUS', { fields: { size: 2 * 160 } }).payload.length, 320)
  t.equal(ask('READDIRPLUS', { fields: { size: 2 * 160 - 1 } }).payload.length, 160)
  t.equal(ask('READDIRPLUS', { fields: { size: 159 } }).payload.length, 0)
  t.equal(ask('READDIRPLUS', { fields: { size: 4096, offset: 3 } }).payload.length, 0, 'the end')
  fs.readdir = (_nodeid, _fh, _cookie, sink) => {
    sink.addPlus('.', 1, 4, undefined, 1)
    sink.addPlus('x'.repeat(255), 2, 4, undefined, 2)
  }
  const dots = ask('READDIRPLUS', { fields: { size: 4096 } })
  t.strictSame(
    dots.payload.subarray(0, 160),
    Buffer.concat([Buffer.alloc(128), bytes(1n, 1n, 1, 4, '.\0\0\0\0\0\0\0')]),
  )
  t.equal(dots.payload.length, 160 + 152 + 256)
})

t.test('a name of bytes goes out as it came in', async t => {
  const { fs, ask } = bench()
  fs.listing = ['\xff\xfe\x80', 'é'.repeat(100)]
  const { payload } = ask('READDIR', { fields: { size: 4096 } })
  t.strictSame(payload.subarray(24, 27), Buffer.from([0xff, 0xfe, 0x80]))
  t.strictSame(payload.subarray(32 + 24, 32 + 24 + 100), Buffer.alloc(100, 0xe9))
  t.strictSame(ask('READLINK').payload, Buffer.from('../to/\xff', 'latin1'))
})

t.test('attributes: the size is asked first, the value then', async t => {
  const { fs, ask } = bench()
  t.strictSame(ask('GETXATTR', { names: ['user.a'] }).payload, bytes(5, 0))
  t.strictSame(ask('GETXATTR', { names: ['user.a'], fields: { size: 5 } }).payload, Buffer.from('value'))
  t.strictSame(ask('LISTXATTR').payload, bytes(14, 0))
  t.strictSame(
    ask('LISTXATTR', { fields: { size: 14 } }).payload,
    Buffer.from('user.a\0user.\xff\0', 'latin1'),
  )
  fs.listxattr = () => []
  t.strictSame(ask('LISTXATTR').payload, bytes(0, 0))
  t.strictSame(ask('LISTXATTR', { fields: { size: 1 } }).payload, Buffer.alloc(0))
})

t.test('statfs, lseek, copy_file_range in both widths, ioctl', async t => {
  const { ask } = bench()
  t.strictSame(
    ask('STATFS').payload,
    Buffer.concat([bytes(1n, 2n, 3n, 4n, 5n, 6, 7, 8, 0), Buffer.alloc(24)]),
  )
  t.strictSame(ask('LSEEK').payload, bytes(2n ** 40n + 1n))
  t.strictSame(ask('COPY_FILE_RANGE', { fields: { len: 77 } }).payload, bytes(77, 0))
  t.strictSame(ask('COPY_FILE_RANGE_64', { fields: { len: 2n ** 33n } }).payload, bytes(2n ** 33n))
  t.strictSame(ask('IOCTL', { fields: { out_size: 2 } }).payload, bytes(1, 0, 0, 0, '\xee\xee'))
  t.strictSame(ask('UNLINK', { names: ['x'] }).payload, Buffer.alloc(0))
})

t.test('an errno that the kernel would refuse goes out as EIO', async t => {
  const { fs, ask } = bench()
  for (const errno of [0, -5, 512, 1.5, NaN]) {
    fs.statfs = () => {
      throw new SysError(errno, 'statfs')
    }
    t.equal(ask('STATFS').error, -E.EIO, `${errno}`)
  }
  fs.statfs = () => {
    throw new SysError(E.EDQUOT, 'statfs')
  }
  t.equal(ask('STATFS').error, -E.EDQUOT)
})
