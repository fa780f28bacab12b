import assert from 'node:assert/strict'
import * as sys from '../../../src/sys/index.js'
import {
  exists,
  join,
  kindOf,
  listed,
  ls,
  mkdir,
  mknod,
  open,
  python,
  rename,
  rmdir,
  stat,
  symlink,
  unlink,
  write,
} from '../posix.js'
import { mountTmpfs, umount } from '../../mount/fixture.js'
import type { Cases } from '../run.js'

const many =
  (count: number, prefix = 'f') =>
  (dir: string) => {
    using fd = open(dir, sys.O_RDONLY | sys.O_DIRECTORY)
    for (let i = 0; i < count; i++) sys.mknodat(fd.n, `${prefix}${i}`, sys.S_IFREG | 0o600, 0)
  }
const DT: Record<string, number> = {
  file: sys.DT_REG,
  dir: sys.DT_DIR,
  symlink: sys.DT_LNK,
  fifo: sys.DT_FIFO,
  socket: sys.DT_SOCK,
  char: sys.DT_CHR,
  block: sys.DT_BLK,
}
const kinds = (dir: string): void => {
  write(join(dir, 'file'), '')
  mkdir(join(dir, 'dir'))
  symlink('x', join(dir, 'symlink'))
  mknod(join(dir, 'fifo'), sys.S_IFIFO | 0o600)
  mknod(join(dir, 'socket'), sys.S_IFSOCK | 0o600)
  mknod(join(dir, 'char'), sys.S_IFCHR | 0o600, sys.makedev(1, 3))
  mknod(join(dir, 'block'), sys.S_IFBLK | 0o600, sys.makedev(7, 0))
}

export const readdir: Cases = {
  'd_type and d_ino agree with lstat, for every kind, lower, upper, merged and copied up': {
    lowers: [kinds],
    run: c => {
      for (const name of ls(c.dir)) rename(join(c.dir, name), join(c.dir, name)) // no change
      mkdir(join(c.dir, 'up'))
      kinds(join(c.dir, 'up'))
      sys.chmodAt(sys.AT_FDCWD, join(c.dir, 'file'), 0o600)
      write(join(c.dir, 'dir', 'in'), '')
      for (const dir of [c.dir, join(c.dir, 'up'), join(c.dir, 'dir')]) {
        using fd = open(dir, sys.O_RDONLY | sys.O_DIRECTORY)
        for (const { name, type, ino } of listed(fd)) {
          const s = stat(join(dir, name))
          assert.equal(type, DT[kindOf(s.mode)], name)
          assert.equal(ino, s.ino, `d_ino of ${name}`)
        }
      }
    },
  },

  'dot and dot-dot are listed first and have the right d_ino': {
    lowers: [dir => mkdir(join(dir, 'd'))],
    run: c => {
      const seen = python(
        `
class Dirent(ctypes.Structure):
    _fields_ = [('ino', ctypes.c_uint64), ('off', ctypes.c_int64), ('reclen', ctypes.c_uint16), ('type', ctypes.c_uint8), ('name', ctypes.c_char * 256)]
libc.opendir.restype = ctypes.c_void_p; libc.opendir.argtypes = [ctypes.c_char_p]
libc.readdir.restype = ctypes.POINTER(Dirent); libc.readdir.argtypes = [ctypes.c_void_p]
d = libc.opendir(A[0])
found = {}
while True:
    e = libc.readdir(d)
    if not e: break
    found[e.contents.name.decode()] = [e.contents.type, e.contents.ino]
p = A[0]
print(json.dumps([sorted(found), found['.'][0], found['..'][0], found['.'][1] == os.lstat(p).st_ino, found['..'][1] == os.lstat(os.path.dirname(p)).st_ino]))
`,
        join(c.dir, 'd'),
      )
      assert.deepEqual(seen, [['.', '..'], 4, 4, true, true])
    },
  },

  '10,000 entries over three layers and upper': {
    lowers: [many(4000, 'a'), dir => (many(4000, 'b')(dir), many(500, 'a')(dir)), many(2000, 'c')],
    run: c => {
      assert.equal(ls(c.dir).length, 10_000)
      write(join(c.dir, 'new'), '')
      for (let i = 0; i < 100; i++) unlink(join(c.dir, `a${i}`))
      const names = ls(c.dir)
      assert.equal(names.length, 9901)
      assert.equal(new Set(names).size, 9901)
      assert.equal(exists(join(c.dir, 'a50')), false)
      assert.ok(exists(join(c.dir, 'c1999')))
    },
  },

  '100,000 entries in one lower directory, listed, added to and removed from': {
    on: ['kernel', 'lamina'],
    alone: true,
    // On a tmpfs, for time.
    lowers: [
      dir => {
        mountTmpfs(dir, 'nr_inodes=200k')
        many(100_000)(dir)
      },
    ],
    run: c => {
      assert.equal(ls(c.dir).length, 100_000)
      for (let i = 0; i < 1000; i++) unlink(join(c.dir, `f${i * 100}`))
      write(join(c.dir, 'new'), '')
      const names = new Set(ls(c.dir))
      assert.equal(names.size, 99_001)
      assert.ok(names.has('new') && names.has('f99999') && !names.has('f99900'))
      assert.ok(exists(join(c.dir, 'f77777')))
      c.mount().unmount()
      umount(c.lowers[0]!)
    },
  },

  '10,000 files made, listed, and removed in upper': c => {
    many(10_000)(c.dir)
    assert.equal(ls(c.dir).length, 10_000)
    for (let i = 0; i < 10_000; i++) unlink(join(c.dir, `f${i}`))
    assert.deepEqual(ls(c.dir), [])
  },

  'rm -r while listing: nothing that exists is lost or given twice': {
    lowers: [many(5000)],
    run: c => {
      // As rm does: unlink what each batch gave, then ask for the next.
      using fd = open(c.dir, sys.O_RDONLY | sys.O_DIRECTORY)
      const seen = new Set<string>()
      for (let batch = sys.getdents(fd.n); batch !== undefined; batch = sys.getdents(fd.n))
        for (const name of batch.names) {
          assert.ok(!seen.has(name), `${name} given twice`)
          seen.add(name)
          unlink(join(c.dir, name))
        }
      assert.equal(seen.size, 5000)
      assert.deepEqual(ls(c.dir), [])
    },
  },

  'entries made, removed and renamed during a listing: what stood still comes exactly once': {
    lowers: [many(6000, 'still')],
    run: c => {
      for (let i = 0; i < 2000; i++) write(join(c.dir, `old${i}`), '')
      using fd = open(c.dir, sys.O_RDONLY | sys.O_DIRECTORY)
      const counts = new Map<string, number>()
      let step = 0
      for (let batch = sys.getdents(fd.n); batch !== undefined; batch = sys.getdents(fd.n)) {
        for (const name of batch.names) counts.set(name, (counts.get(name) ?? 0) + 1)
        for (let i = 0; i < 20 && step < 1000; i++, step++) {
          write(join(c.dir, `new${step}`), '')
          unlink(join(c.dir, `old${step}`))
          rename(join(c.dir, `old${1000 + step}`), join(c.dir, `renamed${step}`))
        }
      }
      for (let i = 0; i < 6000; i++) assert.equal(counts.get(`still${i}`), 1, `still${i}`)
      for (const [name, count] of counts) assert.equal(count, 1, name)
    },
  },

  'rewinding shows what changed since': {
    lowers: [dir => write(join(dir, 'a'), '')],
    run: c => {
      using fd = open(c.dir, sys.O_RDONLY | sys.O_DIRECTORY)
      const names = (): string[] =>
        listed(fd)
          .map(entry => entry.name)
          .sort()
      assert.deepEqual(names(), ['a'])
      write(join(c.dir, 'b'), '')
      assert.deepEqual(names(), ['a', 'b'])
      unlink(join(c.dir, 'a'))
      assert.deepEqual(names(), ['b'])
      mkdir(join(c.dir, 'a'))
      rename(join(c.dir, 'b'), join(c.dir, 'c'))
      assert.deepEqual(names(), ['a', 'c'])
    },
  },

  'a listing made before a change does not make the next one stale': {
    lowers: [dir => Array.from({ length: 20 }, (_, i) => write(join(dir, `l${i}`), ''))],
    run: c => {
      for (let i = 0; i < 20; i++) {
        assert.equal(ls(c.dir).length, 20)
        unlink(join(c.dir, `l${i}`))
        assert.equal(ls(c.dir).length, 19)
        ;(i % 2 ? mkdir : (path: string) => write(path, ''))(join(c.dir, `n${i}`))
        assert.ok(ls(c.dir).includes(`n${i}`))
      }
    },
  },

  'telldir and seekdir come back to the same entry': {
    lowers: [many(3000)],
    run: c => {
      const seen = python(
        `
class Dirent(ctypes.Structure):
    _fields_ = [('ino', ctypes.c_uint64), ('off', ctypes.c_int64), ('reclen', ctypes.c_uint16), ('type', ctypes.c_uint8), ('name', ctypes.c_char * 256)]
libc.opendir.restype = ctypes.c_void_p; libc.opendir.argtypes = [ctypes.c_char_p]
libc.readdir.restype = ctypes.POINTER(Dirent); libc.readdir.argtypes = [ctypes.c_void_p]
libc.telldir.restype = ctypes.c_long; libc.telldir.argtypes = [ctypes.c_void_p]
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
d = libc.opendir(A[0])
order = []
while True:
    at = libc.telldir(d)
    e = libc.readdir(d)
    if not e: break
    order.append((at, e.contents.name))
wrong = []
for i in list(range(0, len(order), 97)) + list(range(len(order) - 1, 0, -211)):
    libc.seekdir(d, order[i][0])
    got = libc.readdir(d).contents.name
    if got != order[i][1]: wrong.append([i, got.decode(), order[i][1].decode()])
libc.seekdir(d, order[100][0])
rest = 0
while libc.readdir(d): rest += 1
print(json.dumps([len(order), len(set(n for _, n in order)), wrong, rest]))
`,
        c.dir,
      )
      assert.deepEqual(seen, [3002, 3002, [], 2902])
    },
  },

  'two listings of one directory at once do not disturb each other': {
    lowers: [many(4000)],
    run: c => {
      using a = open(c.dir, sys.O_RDONLY | sys.O_DIRECTORY)
      using b = open(c.dir, sys.O_RDONLY | sys.O_DIRECTORY)
      const first: string[] = []
      const second: string[] = []
      for (;;) {
        const x = sys.getdents(a.n)
        const y = sys.getdents(b.n)
        if (x) first.push(...x.names)
        if (y) second.push(...y.names)
        if (!x && !y) break
      }
      assert.equal(new Set(first).size, 4000)
      assert.deepEqual(first.sort(), second.sort())
    },
  },

  'names of 255 bytes fill a listing': {
    lowers: [
      dir => Array.from({ length: 1000 }, (_, i) => write(join(dir, String(i).padStart(255, 'n')), '')),
    ],
    run: c => {
      assert.equal(ls(c.dir).length, 1000)
      assert.ok(ls(c.dir).every(name => name.length === 255))
    },
  },

  'st_nlink of directories': {
    lowers: [dir => (mkdir(join(dir, 'l')), mkdir(join(dir, 'l', 'a')), mkdir(join(dir, 'l', 'b')))],
    on: ['kernel', 'lamina'],
    run: c => {
      mkdir(join(c.dir, 'u'))
      mkdir(join(c.dir, 'u', 'a'))
      c.note('lower', stat(join(c.dir, 'l')).nlink)
      c.note('upper', stat(join(c.dir, 'u')).nlink)
      mkdir(join(c.dir, 'l', 'c'))
      c.note('merged', stat(join(c.dir, 'l')).nlink)
      rmdir(join(c.dir, 'l', 'a'))
      c.note('merged, one less', stat(join(c.dir, 'l')).nlink)
    },
  },

  'find and ls -lR of the shell see one tree': {
    lowers: [
      dir => {
        for (let i = 0; i < 20; i++) {
          mkdir(join(dir, `d${i}`))
          for (let j = 0; j < 20; j++) write(join(dir, `d${i}`, `f${j}`), '')
        }
      },
    ],
    run: c => {
      rename(join(c.dir, 'd0', 'f0'), join(c.dir, 'd1', 'moved'))
      const seen = python(
        `
import subprocess
find = subprocess.run(['find', '.', '-type', 'f'], cwd=A[0], capture_output=True).stdout.decode().split()
walked = [os.path.join(d, f) for d, _, fs in os.walk(A[0].decode()) for f in fs]
print(json.dumps([len(find), len(walked)]))
`,
        c.dir,
      )
      assert.deepEqual(seen, [400, 400])
    },
  },

  'renaming each entry while the directory is read comes to an end': {
    lowers: [
      dir => {
        for (const name of ['below', 'merged', 'both']) mkdir(join(dir, name))
        many(60)(join(dir, 'below'))
        many(60)(join(dir, 'merged'))
        many(100)(join(dir, 'both'))
      },
    ],
    run: c => {
      for (const name of ['merged', 'plain', 'both']) if (!exists(join(c.dir, name))) mkdir(join(c.dir, name))
      many(200, 'g')(join(c.dir, 'merged'))
      many(400, 'a-rather-long-name-so-that-one-answer-does-not-hold-all-of-them-')(join(c.dir, 'plain'))
      for (const name of ['below', 'merged', 'plain', 'both']) {
        const seen = python(
          `
d, again = A[0], A[1] == b'both'
before = sorted(os.listdir(d))
seen, others = [], []
fd = os.open(d, os.O_RDONLY | os.O_DIRECTORY)
for e in os.scandir(d):
    seen.append(e.name)
    if len(seen) > 10 * len(before): break
    os.rename(e.path, d + b'/temporary'); os.rename(d + b'/temporary', e.path)
    if again and len(seen) % 50 == 0: others.append(len(os.listdir(d)) == len(before))
os.close(fd)
print(json.dumps([len(set(seen)) == len(before), len(seen) < 2 * len(before), all(others), sorted(os.listdir(d)) == before]))`,
          join(c.dir, name),
          name,
        )
        assert.deepEqual(seen, [true, true, true, true], name)
      }
    },
  },

  'making files while a directory is read comes to an end, and each beginning sees what is there': {
    lowers: [many(200)],
    run: c => {
      const seen = python(
        `
d = A[0]
libc.opendir.restype = ctypes.c_void_p
libc.opendir.argtypes = [ctypes.c_char_p]
for f in (libc.readdir, libc.telldir, libc.rewinddir, libc.closedir, libc.seekdir): f.argtypes = [ctypes.c_void_p]
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
libc.readdir.restype = ctypes.c_void_p; libc.telldir.restype = ctypes.c_long
def nameof(p): return ctypes.string_at(p + 19)
D = libc.opendir(d)
old = set(os.listdir(d)); got = []; places = {}
n = 0
while True:
    t = libc.telldir(D); p = libc.readdir(D)
    if not p: break
    name = nameof(p)
    if name in (b'.', b'..'): continue
    got.append(name); places[name] = t
    open(d + b'/new%d' % n, 'w').close(); n += 1
    if n > 3000: break
r = [n <= 3000, old <= set(got), len(got) == len(set(got))]
ok = True
for name in sorted(old)[::17]:
    libc.seekdir(D, places[name]); ok = ok and nameof(libc.readdir(D)) == name
r.append(ok)
libc.rewinddir(D)
all = []
while True:
    p = libc.readdir(D)
    if not p: break
    all.append(nameof(p))
r.append(set(all) - {b'.', b'..'} == set(os.listdir(d)))
r.append(max(places.values()) < 2**31 or A[1] != b'lamina')
libc.closedir(D)
print(json.dumps(r))`,
        c.dir,
        c.subject,
      )
      assert.deepEqual(seen, [true, true, true, true, true, true])
    },
  },
}
