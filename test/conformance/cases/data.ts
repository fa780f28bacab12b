import assert from 'node:assert/strict'
import * as sys from '../../../src/sys/index.js'
import {
  append,
  exists,
  facts,
  hash,
  join,
  ls,
  mkdir,
  open,
  outcome,
  overwrite,
  python,
  read,
  readAt,
  stat,
  text,
  truncate,
  write,
  writeAt,
  type Json,
} from '../posix.js'
import type { Cases } from '../run.js'

const pattern = (size: number, seed = 1): Buffer => {
  const bytes = Buffer.allocUnsafe(size)
  for (let i = 0; i < size; i++) bytes[i] = (i * 31 * seed + (i >> 9)) & 255
  return bytes
}

export const data: Cases = {
  'reads at every kind of offset and length': {
    lowers: [dir => write(join(dir, 'f'), pattern(1_000_003))],
    run: c => {
      const all = pattern(1_000_003)
      using fd = open(join(c.dir, 'f'), sys.O_RDONLY)
      for (const [offset, length] of [
        [0, 1],
        [0, 4096],
        [4095, 2],
        [1, 131_072],
        [999_999, 100],
        [1_000_002, 1],
        [1_000_003, 1],
        [2_000_000, 5],
        [0, 2_000_000],
        [123_457, 700_001],
      ] as const)
        assert.ok(
          readAt(fd, length, offset).equals(all.subarray(offset, offset + length)),
          `${offset} ${length}`,
        )
      assert.equal(
        outcome(() => sys.preadSync(fd.n, Buffer.alloc(1), 0, 1, 2 ** 40)),
        0,
      )
    },
  },

  'writes at every kind of offset and length, over a lower file': {
    lowers: [dir => write(join(dir, 'f'), pattern(300_000))],
    run: c => {
      const expected = Buffer.alloc(900_000)
      pattern(300_000).copy(expected)
      let size = 300_000
      using fd = open(join(c.dir, 'f'), sys.O_RDWR)
      let i = 1
      for (const [offset, length] of [
        [0, 1],
        [4095, 2],
        [299_999, 2],
        [131_072, 131_072],
        [100, 200_001],
        [400_000, 10],
        [899_999, 1],
        [350_000, 100_000],
      ] as const) {
        const bytes = pattern(length, ++i)
        writeAt(fd, bytes, offset)
        bytes.copy(expected, offset)
        size = Math.max(size, offset + length)
        assert.equal(sys.statFd(fd.n).size, size)
      }
      assert.ok(read(join(c.dir, 'f')).equals(expected.subarray(0, size)))
      sys.fsyncSync(fd.n)
      if (c.upper !== '') assert.equal(hash(join(c.upper, 'f')), hash(join(c.dir, 'f')))
    },
  },

  '64 MiB written in pieces of 1 MiB, read back, and through another descriptor': c => {
    using fd = open(join(c.dir, 'f'), sys.O_CREAT | sys.O_RDWR, 0o600)
    const piece = pattern(1 << 20)
    for (let i = 0; i < 64; i++) {
      piece.writeUInt32LE(i, 0)
      writeAt(fd, piece, i << 20)
    }
    for (let i = 63; i >= 0; i -= 7) {
      piece.writeUInt32LE(i, 0)
      assert.ok(readAt(fd, 1 << 20, i << 20).equals(piece))
    }
    assert.equal(stat(join(c.dir, 'f')).size, 64 << 20)
    sys.fsyncSync(fd.n)
    if (c.upper !== '') assert.equal(hash(join(c.upper, 'f')), hash(join(c.dir, 'f')))
  },

  'truncate down, up, to the same, through names and descriptors': {
    lowers: [dir => ['a', 'b', 'c', 'd'].forEach(name => write(join(dir, name), pattern(10_000)))],
    run: c => {
      truncate(join(c.dir, 'a'), 5000)
      assert.ok(read(join(c.dir, 'a')).equals(pattern(10_000).subarray(0, 5000)))
      truncate(join(c.dir, 'a'), 12_000)
      assert.ok(
        read(join(c.dir, 'a')).equals(Buffer.concat([pattern(10_000).subarray(0, 5000), Buffer.alloc(7000)])),
      )
      truncate(join(c.dir, 'b'), 0)
      assert.equal(read(join(c.dir, 'b')).length, 0)
      truncate(join(c.dir, 'c'), 10_000)
      assert.ok(read(join(c.dir, 'c')).equals(pattern(10_000)))
      using fd = open(join(c.dir, 'd'), sys.O_RDWR)
      writeAt(fd, 'x', 9999)
      sys.truncateFd(fd.n, 9000)
      assert.equal(readAt(fd, 10_000, 0).length, 9000)
      sys.truncateFd(fd.n, 9001)
      assert.equal(readAt(fd, 10, 9000)[0], 0)
      c.see('negative', () => sys.truncateFd(fd.n, -1))
      c.see('of a directory', () => {
        mkdir(join(c.dir, 'dir'))
        truncate(join(c.dir, 'dir'), 0)
      })
      c.see('truncate(2) of a directory', () =>
        python(`print(json.dumps(E(lambda: os.truncate(A[0], 0))))`, join(c.dir, 'dir')),
      )
      c.see('truncate(2) of a file', () =>
        python(`print(json.dumps(E(lambda: os.truncate(A[0], 3))))`, join(c.dir, 'c')),
      )
      assert.equal(stat(join(c.dir, 'c')).size, 3)
    },
  },

  'what was cut off does not come back': {
    lowers: [dir => write(join(dir, 'f'), 'secret'.repeat(2000))],
    run: c => {
      using fd = open(join(c.dir, 'f'), sys.O_RDWR)
      sys.truncateFd(fd.n, 100)
      writeAt(fd, 'end', 11_000)
      const seen = read(join(c.dir, 'f'))
      assert.equal(seen.length, 11_003)
      assert.ok(seen.subarray(100, 11_000).every(byte => byte === 0))
    },
  },

  'sizes above 4 GiB': {
    lowers: [
      dir => {
        write(join(dir, 'f'), '')
        using fd = open(join(dir, 'f'), sys.O_RDWR)
        sys.truncateFd(fd.n, 6 * 2 ** 30)
        writeAt(fd, 'end', 6 * 2 ** 30 - 3)
      },
    ],
    run: c => {
      using fd = open(join(c.dir, 'f'), sys.O_RDONLY)
      assert.equal(sys.statFd(fd.n).size, 6 * 2 ** 30)
      assert.equal(readAt(fd, 10, 6 * 2 ** 30 - 3).toString(), 'end')
      overwrite(join(c.dir, 'f'), 'mid', 5 * 2 ** 30)
      using again = open(join(c.dir, 'f'), sys.O_RDONLY)
      assert.equal(readAt(again, 3, 5 * 2 ** 30).toString(), 'mid')
      assert.equal(readAt(again, 10, 6 * 2 ** 30 - 3).toString(), 'end')
      assert.ok(stat(join(c.dir, 'f')).blocks * 512 < 16 << 20)
    },
  },

  'a file of 1 TB, sparse': c => {
    write(join(c.dir, 'f'), '')
    using fd = open(join(c.dir, 'f'), sys.O_RDWR)
    sys.truncateFd(fd.n, 1e12)
    writeAt(fd, 'x', 1e12 - 1)
    assert.equal(sys.statFd(fd.n).size, 1e12)
    assert.equal(readAt(fd, 2, 1e12 - 1).toString(), 'x')
    assert.ok(stat(join(c.dir, 'f')).blocks < 1000)
  },

  'fallocate: allocate, keep size, punch hole, zero range': {
    lowers: [dir => write(join(dir, 'f'), pattern(65_536))],
    run: c => {
      using fd = open(join(c.dir, 'f'), sys.O_RDWR)
      const modes: [string, number, number, number][] = [
        ['extend', 0, 60_000, 10_000],
        ['keep size', sys.FALLOC_FL_KEEP_SIZE, 70_000, 100_000],
        ['punch hole', sys.FALLOC_FL_PUNCH_HOLE | sys.FALLOC_FL_KEEP_SIZE, 8192, 8192],
        ['punch hole without keep size', sys.FALLOC_FL_PUNCH_HOLE, 8192, 8192],
        ['zero range', sys.FALLOC_FL_ZERO_RANGE, 20_000, 3000],
        ['zero range past the end', sys.FALLOC_FL_ZERO_RANGE, 65_000, 20_000],
        ['zero range, keep size', sys.FALLOC_FL_ZERO_RANGE | sys.FALLOC_FL_KEEP_SIZE, 80_000, 20_000],
        ['negative', 0, -1, 10],
        ['no length', 0, 0, 0],
        ['unknown mode', 0x1000, 0, 10],
      ]
      for (const [label, mode, offset, length] of modes) {
        c.see(label, () => sys.fallocateSync(fd.n, mode, offset, length))
        c.note(`${label}: size`, sys.statFd(fd.n).size)
        c.note(`${label}: content`, hash(join(c.dir, 'f')))
      }
      mkdir(join(c.dir, 'd'))
      using dir = open(join(c.dir, 'd'), sys.O_RDONLY)
      c.see('of a directory', () => sys.fallocateSync(dir.n, 0, 0, 10))
    },
  },

  'fallocate: collapse and insert range': {
    lowers: [dir => write(join(dir, 'f'), pattern(65_536))],
    run: c => {
      using fd = open(join(c.dir, 'f'), sys.O_RDWR)
      for (const [label, mode, offset] of [
        ['collapse', sys.FALLOC_FL_COLLAPSE_RANGE, 4096],
        ['collapse, not whole blocks', sys.FALLOC_FL_COLLAPSE_RANGE, 100],
        ['insert', sys.FALLOC_FL_INSERT_RANGE, 4096],
      ] as const) {
        const answer = c.see(label, () => sys.fallocateSync(fd.n, mode, offset, offset))
        if (c.subject === 'lamina') assert.equal(answer, 'EOPNOTSUPP')
      }
      if (c.subject === 'lamina') assert.ok(read(join(c.dir, 'f')).equals(pattern(65_536)))
      c.note('content', hash(join(c.dir, 'f')))
    },
    differs: 'fuse_file_fallocate answers these itself, with EOPNOTSUPP',
  },

  'SEEK_DATA and SEEK_HOLE': {
    lowers: [
      dir => {
        write(join(dir, 'f'), '')
        using fd = open(join(dir, 'f'), sys.O_RDWR)
        sys.truncateFd(fd.n, 1 << 20)
        writeAt(fd, pattern(8192), 131_072)
        writeAt(fd, pattern(4096), 524_288)
        sys.fsyncSync(fd.n)
      },
    ],
    run: c => {
      const map = (path: string): Json => {
        using fd = open(path, sys.O_RDONLY)
        const seek = (offset: number, whence: number): Json => outcome(() => sys.lseek(fd.n, offset, whence))
        return [0, 131_072, 140_000, 524_288, 600_000, (1 << 20) - 1, 1 << 20, 2 << 20].flatMap(offset => [
          seek(offset, sys.SEEK_DATA),
          seek(offset, sys.SEEK_HOLE),
        ])
      }
      c.note('lower', map(join(c.dir, 'f')))
      overwrite(join(c.dir, 'f'), pattern(4096), 131_072)
      {
        using fd = open(join(c.dir, 'f'), sys.O_RDWR)
        sys.fsyncSync(fd.n)
      }
      if (c.subject !== 'kernel') c.note('copied up', map(join(c.dir, 'f')))
      using fd = open(join(c.dir, 'f'), sys.O_RDONLY)
      c.note('SEEK_END', sys.lseek(fd.n, -10, sys.SEEK_END))
      c.note('SEEK_CUR', sys.lseek(fd.n, 5, sys.SEEK_CUR))
      c.see('before the start', () => sys.lseek(fd.n, -1, sys.SEEK_SET))
      c.see('unknown', () => sys.lseek(fd.n, 0, 77))
    },
    differs: 'the kernel finds holes in steps of 1 MiB when it copies up, so that its copy is not as sparse',
  },

  'copy_file_range: lower to upper, upper to lower, within a file, past the end': {
    lowers: [dir => (write(join(dir, 'a'), pattern(100_000)), write(join(dir, 'b'), pattern(50_000, 3)))],
    run: c => {
      write(join(c.dir, 'up'), '')
      const seen = python(
        `
def copy(src, dst, n, so, do):
    s = os.open(src, os.O_RDWR if src == dst else os.O_RDONLY); d = s if src == dst else os.open(dst, os.O_RDWR)
    try:
        done = 0
        while done < n:
            k = os.copy_file_range(s, d, n - done, so + done, do + done)
            if k == 0: break
            done += k
        return done
    finally:
        os.close(s)
        if d != s: os.close(d)
a, b, up = A
print(json.dumps([
  E(lambda: copy(a, up, 100000, 0, 0)), E(lambda: copy(up, b, 10, 5, 7)), E(lambda: copy(b, up, 1000000, 40000, 200000)),
  E(lambda: copy(up, up, 1000, 0, 50000)), E(lambda: copy(up, up, 1000, 0, 500)), E(lambda: copy(a, up, 10, 100000, 0)),
]))`,
        join(c.dir, 'a'),
        join(c.dir, 'b'),
        join(c.dir, 'up'),
      )
      c.note('copied', seen)
      for (const name of ['a', 'b', 'up']) c.note(name, hash(join(c.dir, name)))
    },
  },

  'copy_file_range and sendfile in and out of the mount': {
    lowers: [dir => write(join(dir, 'a'), pattern(100_000))],
    run: c => {
      assert.equal(
        python(
          `
import tempfile
out = tempfile.TemporaryFile()
s = os.open(A[0], os.O_RDONLY)
n = 0
while n < 100000:
    k = os.sendfile(out.fileno(), s, n, 100000 - n)
    if k == 0: break
    n += k
back = os.open(A[1], os.O_CREAT | os.O_WRONLY, 0o600)
m = 0
while m < 100000:
    k = os.sendfile(back, out.fileno(), m, 100000 - m)
    if k == 0: break
    m += k
print(json.dumps(n + m))`,
          join(c.dir, 'a'),
          join(c.dir, 'b'),
        ),
        200_000,
      )
      assert.equal(hash(join(c.dir, 'b')), hash(join(c.dir, 'a')))
    },
  },

  'O_TMPFILE, and the name it is given by linkat': {
    lowers: [dir => mkdir(join(dir, 'd'))],
    run: c => {
      using fd = open(join(c.dir, 'd'), sys.O_TMPFILE | sys.O_RDWR, 0o640)
      writeAt(fd, 'temporary', 0)
      assert.deepEqual(ls(join(c.dir, 'd')), [])
      c.note('nlink', sys.statFd(fd.n).nlink)
      c.see('linkat', () =>
        sys.linkat(
          sys.AT_FDCWD,
          `/proc/self/fd/${fd.n}`,
          sys.AT_FDCWD,
          join(c.dir, 'd', 'named'),
          sys.AT_SYMLINK_FOLLOW,
        ),
      )
      c.note(
        'named',
        exists(join(c.dir, 'd', 'named'))
          ? { ...facts(join(c.dir, 'd', 'named')), text: text(join(c.dir, 'd', 'named')) }
          : null,
      )
      writeAt(fd, 'T', 0)
      c.note('later', exists(join(c.dir, 'd', 'named')) ? text(join(c.dir, 'd', 'named')) : null)
      {
        using unlinkable = open(join(c.dir, 'd'), sys.O_TMPFILE | sys.O_EXCL | sys.O_RDWR, 0o600)
        c.see('linkat of O_EXCL', () =>
          sys.linkat(
            sys.AT_FDCWD,
            `/proc/self/fd/${unlinkable.n}`,
            sys.AT_FDCWD,
            join(c.dir, 'd', 'excl'),
            sys.AT_SYMLINK_FOLLOW,
          ),
        )
      }
      c.see('for reading', () => open(join(c.dir, 'd'), sys.O_TMPFILE | sys.O_RDONLY, 0o600).close())
      c.see('in a file', () => open(join(c.dir, 'd', 'named'), sys.O_TMPFILE | sys.O_RDWR, 0o600).close())
      c.note('listing', ls(join(c.dir, 'd')))
    },
  },

  O_DIRECT: {
    lowers: [dir => write(join(dir, 'f'), pattern(65_536))],
    run: c => {
      const before = hash(join(c.dir, 'f'))
      const seen = python(
        `
buf = mmap.mmap(-1, 65536)
fd = os.open(A[0], os.O_RDONLY | os.O_DIRECT)
n = os.preadv(fd, [buf], 0)
import hashlib
first = hashlib.sha256(buf[:n]).hexdigest()
w = os.open(A[0], os.O_RDWR | os.O_DIRECT)
buf[:] = b'D' * 65536
m = os.pwritev(w, [memoryview(buf)[:8192]], 4096)
again = os.open(A[0], os.O_RDONLY)
print(json.dumps([n, first, m, os.pread(again, 3, 4095).hex(), os.pread(again, 2, 12287).hex(), os.fstat(w).st_size]))`,
        join(c.dir, 'f'),
      )
      assert.equal((seen as Json[])[1], before)
      c.note('seen', seen)
    },
  },

  'O_SYNC, O_DSYNC, fsync, fdatasync, syncfs, sync_file_range': {
    lowers: [dir => (write(join(dir, 'f'), 'x'), mkdir(join(dir, 'd')))],
    run: c => {
      for (const flag of [sys.O_SYNC, sys.O_DSYNC]) {
        using fd = open(join(c.dir, 'f'), sys.O_RDWR | flag)
        writeAt(fd, 'y', 0)
      }
      const seen = python(
        `
f = os.open(A[0], os.O_RDONLY); d = os.open(A[1], os.O_RDONLY)
print(json.dumps([E(lambda: os.fsync(f)), E(lambda: os.fdatasync(f)), E(lambda: os.fsync(d)), E(lambda: os.fdatasync(d)), E(lambda: check(libc.syncfs(f))), E(lambda: check(libc.sync_file_range(f, ctypes.c_int64(0), ctypes.c_int64(0), 7)))]))`,
        join(c.dir, 'f'),
        join(c.dir, 'd'),
      )
      c.note('seen', seen)
    },
  },

  'many small appends, then the whole': {
    lowers: [dir => write(join(dir, 'f'), 'start\n')],
    run: c => {
      for (let i = 0; i < 500; i++) append(join(c.dir, 'f'), `line ${i}\n`)
      assert.equal(
        text(join(c.dir, 'f')),
        `start\n${Array.from({ length: 500 }, (_, i) => `line ${i}\n`).join('')}`,
      )
    },
  },

  'a read at the end while another appends': {
    lowers: [dir => write(join(dir, 'log'), 'first\n')],
    run: c => {
      using tail = open(join(c.dir, 'log'), sys.O_RDONLY)
      const seen: string[] = [readAt(tail, 100, 0).toString()]
      append(join(c.dir, 'log'), 'before the next\n')
      using late = open(join(c.dir, 'log'), sys.O_RDONLY)
      let at = 0
      for (let i = 0; i < 20; i++) {
        append(join(c.dir, 'log'), `${i}\n`)
        const part = readAt(late, 1000, at)
        at += part.length
        seen.push(part.toString())
      }
      assert.equal(seen.join('').replace(/^first\n/, ''), text(join(c.dir, 'log')))
    },
  },

  'an empty write, and vectors': {
    lowers: [dir => write(join(dir, 'f'), '0123456789')],
    run: c => {
      assert.deepEqual(
        python(
          `
fd = os.open(A[0], os.O_RDWR)
r = [os.pwrite(fd, b'', 0), os.pwritev(fd, [b'a', b'', b'bc'], 2)]
b1, b2 = bytearray(4), bytearray(10)
r.append(os.preadv(fd, [b1, b2], 0)); r.append((bytes(b1) + bytes(b2))[:r[-1]].decode())
print(json.dumps(r))`,
          join(c.dir, 'f'),
        ),
        [0, 3, 10, '01abc56789'],
      )
    },
  },

  'offsets and lengths up to 2^63': {
    lowers: [dir => (write(join(dir, 'f'), 'below'), write(join(dir, 'g'), 'below'))],
    run: c => {
      const seen = python(
        `
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
KEEP, PUNCH = 1, 2
f = os.open(A[0], os.O_RDWR)
r = {}
for at in [2**44 * 2, 2**53 - 1, 2**53, 2**53 + 1, 2**62 + 1, 2**63 - 1]:
    r[str(at)] = [
        E(lambda: os.ftruncate(f, at)),
        E(lambda: os.truncate(A[1], at)),
        E(lambda: check(libc.fallocate(f, 0, at, 1))),
        E(lambda: check(libc.fallocate(f, 0, 0, at))),
        E(lambda: check(libc.fallocate(f, KEEP, at - 1, 1))),
        E(lambda: check(libc.fallocate(f, KEEP | PUNCH, at, 1))),
        E(lambda: os.lseek(f, at, os.SEEK_DATA)),
        E(lambda: os.lseek(f, at, os.SEEK_HOLE)),
        E(lambda: os.pwrite(f, b'x', at)),
        E(lambda: len(os.pread(f, 1, at))),
        E(lambda: os.copy_file_range(f, f, 1, 0, min(at, 2**62 + 1))),
        E(lambda: os.copy_file_range(f, f, 1, at, 10)),
        E(lambda: os.copy_file_range(f, f, min(at, 2**63 - 9), 0, 8)),
    ]
r['back'] = [E(lambda: os.lseek(f, -2**62, os.SEEK_DATA)), E(lambda: os.lseek(f, -1, os.SEEK_HOLE))]
r['content'] = [os.fstat(f).st_size, os.pread(f, 100, 0).hex(), os.stat(A[1]).st_size]
print(json.dumps(r))`,
        join(c.dir, 'f'),
        join(c.dir, 'g'),
      )
      c.note('seen', seen)
    },
  },
}
