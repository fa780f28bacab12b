import assert from 'node:assert/strict'
import { E } from '../../../src/base/errno.js'
import * as sys from '../../../src/sys/index.js'
import { join, mkdir, open, stat, text, write } from '../posix.js'
import type { Cases, Context } from '../run.js'

/** lsattr and chattr, and the ioctls that an overlay does not answer. */

const NODUMP = 0x40
const SYNC = 0x08
const FITRIM = 0xc0185879
const FIEMAP = 0xc020660b
const UNKNOWN = 0xc0187a34

function flagsOf(path: string): number {
  using fd = open(path, sys.O_RDONLY | sys.O_NONBLOCK)
  const value = Buffer.alloc(8)
  const result = sys.ioctlNumber(fd.n, sys.FS_IOC_GETFLAGS, value)
  assert.ok(result >= 0, `GETFLAGS: ${result}`)
  return value.readUInt32LE()
}

function setFlags(path: string, flags: number): number {
  using fd = open(path, sys.O_RDONLY)
  const value = Buffer.alloc(8)
  value.writeUInt32LE(flags)
  return sys.ioctlNumber(fd.n, sys.FS_IOC_SETFLAGS, value)
}

const ctime = (path: string): number => stat(path).ctime * 1e9 + stat(path).ctimeNsec

const flagged = (c: Context, name: string): number => flagsOf(join(c.dir, name)) & (NODUMP | SYNC)

export const fileFlags: Cases = {
  'flags of a lower file and directory are shown, set in upper, and stay': {
    alone: true,
    lowers: [
      dir => {
        write(join(dir, 'f'), 'content')
        mkdir(join(dir, 'd'))
        assert.ok(setFlags(join(dir, 'd'), flagsOf(join(dir, 'd')) | NODUMP) >= 0)
      },
    ],
    run: c => {
      assert.equal(flagged(c, 'f'), 0)
      assert.equal(flagged(c, 'd'), NODUMP)
      assert.equal(setFlags(join(c.dir, 'f'), flagsOf(join(c.dir, 'f')) | NODUMP | SYNC), 0)
      assert.equal(flagged(c, 'f'), NODUMP | SYNC)
      assert.equal(text(join(c.dir, 'f')), 'content')
      c.remount()
      assert.equal(flagged(c, 'f'), NODUMP | SYNC)
      if (c.lowers.length > 0) assert.equal(flagsOf(join(c.lowers[0] ?? '', 'f')) & (NODUMP | SYNC), 0)
    },
  },
  'a change of flags moves ctime': {
    upper: dir => (write(join(dir, 'f'), ''), mkdir(join(dir, 'd'))),
    run: c => {
      for (const name of ['f', 'd']) {
        const path = join(c.dir, name)
        const before = ctime(path)
        while (Date.now() * 1e6 - before < 50e6); // a tick of the clock that filesystems take times from
        setFlags(path, flagsOf(path) | NODUMP)
        // The kernel is told behind the answer to the ioctl.
        const limit = Date.now() + 5000
        while (ctime(path) === before && Date.now() < limit);
        assert.ok(ctime(path) > before, name)
      }
    },
  },
  FIEMAP: {
    on: ['kernel', 'lamina'],
    run: c => {
      write(join(c.dir, 'f'), 'x')
      using fd = open(join(c.dir, 'f'), sys.O_RDWR)
      // struct fiemap, all of the file, counting extents only.
      const question = Buffer.alloc(32)
      question.fill(0xff, 8, 16)
      assert.equal(sys.ioctlNumber(fd.n, FIEMAP, question), c.subject === 'kernel' ? 0 : -E.EOPNOTSUPP)
    },
    differs:
      'FIEMAP is answered in the kernel, by filesystems that say where their blocks are; FUSE has no request for it',
  },
  'FITRIM, and what nobody knows': {
    on: ['kernel', 'lamina'],
    run: c => {
      write(join(c.dir, 'f'), 'x')
      using fd = open(join(c.dir, 'f'), sys.O_RDWR)
      for (const [name, command] of Object.entries({ FITRIM, unknown: UNKNOWN }))
        c.note(name, sys.ioctlNumber(fd.n, command, Buffer.alloc(24)))
    },
  },
}
