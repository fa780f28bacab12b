import assert from 'node:assert/strict'
import * as sys from '../../../src/sys/index.js'
import {
  chmod,
  chown,
  exists,
  facts,
  getxattr,
  join,
  link,
  ls,
  mkdir,
  mknod,
  open,
  overwrite,
  python,
  removexattr,
  rename,
  rmdir,
  setxattr,
  symlink,
  text,
  truncate,
  unlink,
  utimens,
  write,
} from '../posix.js'
import type { Cases } from '../run.js'

const two = [
  (dir: string) => (
    mkdir(join(dir, 'd')),
    write(join(dir, 'd', 'top'), 'top'),
    write(join(dir, 'f'), 'top'),
    mknod(join(dir, 'gone'), sys.S_IFCHR, 0)
  ),
  (dir: string) => {
    mkdir(join(dir, 'd'))
    write(join(dir, 'd', 'below'), 'below')
    write(join(dir, 'f'), 'below')
    write(join(dir, 'gone'), '')
    setxattr(join(dir, 'd', 'below'), 'user.a', 'v')
  },
]

export const mounts: Cases = {
  'without an upperdir everything is read, and every change is EROFS': {
    readOnly: true,
    lowers: two,
    run: c => {
      assert.deepEqual(ls(c.dir), ['d', 'f'])
      assert.deepEqual(ls(join(c.dir, 'd')), ['below', 'top'])
      assert.equal(text(join(c.dir, 'f')), 'top')
      assert.equal(getxattr(join(c.dir, 'd', 'below'), 'user.a'), 'v')
      const f = join(c.dir, 'f')
      const n = join(c.dir, 'new')
      const acts: Record<string, () => void> = {
        create: () => write(n, ''),
        'open for writing': () => open(f, sys.O_WRONLY).close(),
        'open to truncate': () => open(f, sys.O_RDONLY | sys.O_TRUNC).close(),
        mkdir: () => mkdir(n),
        mknod: () => mknod(n, sys.S_IFIFO | 0o600),
        symlink: () => symlink('x', n),
        link: () => link(f, n),
        unlink: () => unlink(f),
        rmdir: () => rmdir(join(c.dir, 'd')),
        rename: () => rename(f, n),
        chmod: () => chmod(f, 0o600),
        chown: () => chown(f, 1, 1),
        utimens: () => utimens(f, { sec: 1, nsec: 1 }, { sec: 1, nsec: 1 }),
        truncate: () => void python('print(json.dumps(E(lambda: os.truncate(A[0], 0))))', f),
        setxattr: () => setxattr(f, 'user.x', 'y'),
        removexattr: () => removexattr(f, 'user.x'),
        tmpfile: () => open(c.dir, sys.O_TMPFILE | sys.O_RDWR, 0o600).close(),
        'unlink of a missing name': () => unlink(n),
        'mkdir over a name': () => mkdir(join(c.dir, 'd')),
      }
      for (const [label, act] of Object.entries(acts)) c.see(label, act)
      assert.equal(
        c.see('open for reading', () => open(f, sys.O_RDONLY).close()),
        'ok',
      )
    },
  },

  'a single lower layer without an upperdir': {
    on: ['lamina'],
    readOnly: true,
    lowers: [two[0]!],
    run: c => {
      assert.deepEqual(ls(c.dir), ['d', 'f'])
      assert.equal(exists(join(c.dir, 'gone')), false)
      assert.equal(text(join(c.dir, 'd', 'top')), 'top')
    },
  },

  'statfs shows the upper file system': {
    alone: true,
    on: ['kernel', 'lamina'],
    lowers: two,
    run: c => {
      using view = open(c.dir, sys.O_RDONLY)
      using upper = open(c.upper, sys.O_RDONLY)
      const [a, b] = [sys.fstatfs(view.n), sys.fstatfs(upper.n)]
      for (const field of ['blocks', 'bsize', 'frsize', 'files', 'namelen'] as const)
        assert.equal(a[field], b[field], field)
      assert.ok(Math.abs(a.bavail - b.bavail) < 100_000)
      c.note('namelen', a.namelen)
    },
  },

  'a change, a remount, and the same view again, three times': {
    alone: true,
    lowers: two.slice(1),
    run: c => {
      for (let round = 0; round < 3; round++) {
        write(join(c.dir, 'd', `made${round}`), `${round}`)
        overwrite(join(c.dir, 'd', 'below'), `${round}`)
        if (round > 0) unlink(join(c.dir, 'd', `made${round - 1}`))
        mkdir(join(c.dir, `dir${round}`))
        chmod(join(c.dir, 'f'), 0o600 + round)
        truncate(join(c.dir, 'f'), 10 + round)
        c.remount()
        c.note(`round ${round}`, [
          ls(c.dir),
          ls(join(c.dir, 'd')),
          text(join(c.dir, 'd', 'below')),
          facts(join(c.dir, 'f')),
        ])
      }
    },
  },

  'the upper directory as a lower layer of the next mount': {
    alone: true,
    on: ['kernel', 'lamina'],
    lowers: two,
    run: c => {
      unlink(join(c.dir, 'f'))
      write(join(c.dir, 'd', 'new'), 'new')
      unlink(join(c.dir, 'd', 'below'))
      mkdir(join(c.dir, 'gone'))
      const before = [ls(c.dir), ls(join(c.dir, 'd')), ls(join(c.dir, 'gone'))]
      c.mount().unmount()
      mkdir(join(c.upper, '..', 'upper2'))
      mkdir(join(c.upper, '..', 'work2'))
      using next = c.again({
        upper: join(c.upper, '..', 'upper2'),
        work: join(c.upper, '..', 'work2'),
        lowers: [c.upper, ...c.lowers],
      })
      assert.deepEqual(
        [ls(next.mountpoint), ls(join(next.mountpoint, 'd')), ls(join(next.mountpoint, 'gone'))],
        before,
      )
      write(join(next.mountpoint, 'f'), 'again')
      assert.equal(text(join(next.mountpoint, 'f')), 'again')
      rmdir(join(next.mountpoint, 'gone'))
      assert.equal(exists(join(next.mountpoint, 'gone')), false)
    },
  },

  'lower directories with colons, commas, backslashes and spaces in their names': {
    on: ['lamina'],
    alone: true,
    lowers: two,
    run: c => {
      c.mount().unmount()
      const odd = join(c.upper, '..', 'a:b,c\\d e')
      mkdir(odd)
      write(join(odd, 'inside'), 'x')
      mkdir(join(c.upper, '..', 'work2'))
      using next = c.again({ upper: c.upper, work: join(c.upper, '..', 'work2'), lowers: [odd, ...c.lowers] })
      assert.deepEqual(ls(next.mountpoint), ['d', 'f', 'inside'])
    },
  },

  'inotify sees what is done in the view': {
    lowers: [dir => write(join(dir, 'f'), 'x')],
    run: c => {
      const seen = python(
        `
fd = check(libc.inotify_init1(os.O_NONBLOCK))
check(libc.inotify_add_watch(fd, A[0], 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200))
check(libc.inotify_add_watch(fd, A[0] + b'/f', 0x2 | 0x4))
p = A[0].decode()
open(p + '/new', 'w').close(); os.rename(p + '/new', p + '/old'); os.unlink(p + '/old')
os.chmod(p + '/f', 0o600); w = open(p + '/f', 'r+'); w.write('y'); w.close()
data = os.read(fd, 65536); events = []
while data:
    wd, mask, cookie, n = struct.unpack('iIII', data[:16]); events.append([wd, hex(mask), data[16:16+n].rstrip(b'\\0').decode()]); data = data[16+n:]
print(json.dumps(events))`,
        c.dir,
      )
      c.note('events', seen)
      assert.ok(Array.isArray(seen))
      const ofFile = seen.filter(event => Array.isArray(event) && event[0] === 2)
      const [attrib, modify] = [
        [2, '0x4', ''],
        [2, '0x2', ''],
      ]
      if (c.subject !== 'kernel') assert.deepEqual(ofFile, [attrib, modify], 'the watch outlives the copy-up')
    },
    differs: "the kernel's overlayfs loses the watch on a file that is copied up",
  },
}
