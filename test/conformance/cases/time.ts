import assert from 'node:assert/strict'
import * as sys from '../../../src/sys/index.js'
import {
  python,
  append,
  asUser,
  atime,
  chmod,
  chown,
  join,
  link,
  ls,
  mkdir,
  mtime,
  open,
  overwrite,
  read,
  readlink,
  rename,
  setxattr,
  stat,
  symlink,
  truncate,
  unlink,
  utimens,
  write,
  writeAt,
} from '../posix.js'
import type { Cases, Context } from '../run.js'

const STALE = { sec: 1_000_000, nsec: 5 }
const OMIT = { sec: 0, nsec: sys.UTIME_OMIT }
const NOW = { sec: 0, nsec: sys.UTIME_NOW }
const ctime = (path: string): number => stat(path).ctime * 1e9 + stat(path).ctimeNsec
const stale = (path: string): void => utimens(path, STALE, STALE)
const moved = (path: string): boolean => stat(path).mtime > Date.now() / 1000 - 3600

/** Reads one of each, for the first time in this mount, and tells whose access time moved. */
function accessed(c: Context): void {
  for (const name of ['upper', 'lower']) read(join(c.dir, name))
  for (const name of ['upperdir', 'lowerdir']) ls(join(c.dir, name))
  for (const name of ['upperlink', 'lowerlink']) readlink(join(c.dir, name))
  for (const layer of ['upper', 'lower'])
    for (const kind of ['', 'dir', 'link']) c.note(layer + kind, stat(join(c.dir, layer + kind)).atime > 1e9)
}

const oneOfEach =
  (layer: string) =>
  (dir: string): void => {
    write(join(dir, layer), 'content')
    mkdir(join(dir, `${layer}dir`))
    symlink('target', join(dir, `${layer}link`))
    for (const kind of ['', 'dir', 'link']) stale(join(dir, layer + kind))
  }

export const time: Cases = {
  'times to the nanosecond, before 1970 and after 2038, on lower and upper files and directories': {
    lowers: [dir => (write(join(dir, 'lower'), ''), mkdir(join(dir, 'lowerdir')))],
    run: c => {
      write(join(c.dir, 'upper'), '')
      mkdir(join(c.dir, 'upperdir'))
      for (const name of ['lower', 'lowerdir', 'upper', 'upperdir'])
        for (const [sec, nsec] of [
          [0, 0],
          [0, 1],
          [1, 999_999_999],
          [-1, 999_999_999],
          [-1_000_000_000, 123_456_789],
          [2_147_483_648, 1],
          [4_294_967_296, 7],
          [10_000_000_000, 987_654_321],
        ] as const) {
          utimens(join(c.dir, name), { sec, nsec }, { sec: sec + 1, nsec })
          assert.equal(mtime(join(c.dir, name)), `${sec + 1}.${String(nsec).padStart(9, '0')}`)
          assert.equal(atime(join(c.dir, name)), `${sec}.${String(nsec).padStart(9, '0')}`)
        }
    },
  },

  'of lower files as they are in the layer': {
    lowers: [
      dir => {
        for (const [i, sec] of [-5, 0, 1, 4_000_000_000].entries()) {
          write(join(dir, `f${i}`), '')
          utimens(join(dir, `f${i}`), { sec, nsec: 111_111_111 * i }, { sec, nsec: 999_999_999 - i })
        }
      },
    ],
    run: c => {
      for (let i = 0; i < 4; i++) c.note(`f${i}`, [mtime(join(c.dir, `f${i}`)), atime(join(c.dir, `f${i}`))])
    },
  },

  ...Object.fromEntries(
    [['noatime'], ['relatime'], ['strictatime'], ['nodiratime']].map(options => [
      `access times of a mount with ${options.join(',')}: none of lower objects`,
      { lowers: [oneOfEach('lower')], upper: oneOfEach('upper'), options, run: accessed },
    ]),
  ),

  'reading writes no access time unless a mount option asks for it': {
    on: ['lamina'],
    lowers: [oneOfEach('lower')],
    upper: oneOfEach('upper'),
    alone: true,
    run: c => {
      accessed(c)
      for (const name of ['upper', 'upperdir', 'upperlink'])
        assert.equal(stat(join(c.dir, name)).atime, 1_000_000)
    },
  },

  'UTIME_NOW and UTIME_OMIT': {
    lowers: [dir => (write(join(dir, 'f'), ''), stale(join(dir, 'f')))],
    run: c => {
      const f = join(c.dir, 'f')
      utimens(f, OMIT, OMIT)
      assert.equal(mtime(f), '1000000.000000005')
      utimens(f, { sec: 7, nsec: 7 }, OMIT)
      assert.equal(mtime(f), '1000000.000000005')
      assert.equal(atime(f), '7.000000007')
      utimens(f, OMIT, { sec: 8, nsec: 8 })
      assert.equal(atime(f), '7.000000007')
      assert.equal(mtime(f), '8.000000008')
      utimens(f, OMIT, NOW)
      assert.ok(moved(f))
      assert.equal(atime(f), '7.000000007')
      utimens(f, NOW, { sec: 9, nsec: 9 })
      assert.equal(mtime(f), '9.000000009')
      assert.ok(stat(f).atime > 1e9)
    },
  },

  'a write moves mtime, and what is set after it stays': {
    lowers: [dir => (write(join(dir, 'f'), 'content'), stale(join(dir, 'f')))],
    run: c => {
      const f = join(c.dir, 'f')
      overwrite(f, 'x')
      assert.ok(moved(f))
      {
        using fd = open(f, sys.O_RDWR)
        writeAt(fd, 'y'.repeat(10_000), 0)
        sys.utimensAt(fd.n, '', STALE.sec, STALE.nsec, STALE.sec, STALE.nsec)
        assert.equal(mtime(f), '1000000.000000005')
      }
      assert.equal(mtime(f), '1000000.000000005')
      read(f)
      assert.equal(mtime(f), '1000000.000000005')
      append(f, 'z')
      assert.ok(moved(f))
    },
  },

  'what changes mtime, ctime, or neither': {
    lowers: [
      dir =>
        ['chmod', 'chown', 'link', 'rename', 'xattr', 'read', 'truncate', 'same size', 'nothing'].forEach(
          name => (write(join(dir, name), 'content'), stale(join(dir, name))),
        ),
    ],
    run: c => {
      const acts: Record<string, (path: string) => string | void> = {
        chmod: path => chmod(path, 0o600),
        chown: path => chown(path, 5, 5),
        link: path => link(path, `${path}2`),
        rename: path => (rename(path, `${path}2`), `${path}2`),
        xattr: path => setxattr(path, 'user.x', 'y'),
        read: path => void read(path),
        truncate: path => truncate(path, 1),
        'same size': path => truncate(path, 7),
        nothing: path => open(path, sys.O_RDWR).close(),
      }
      for (const [name, act] of Object.entries(acts)) {
        const path = join(c.dir, name)
        const before = ctime(path)
        const after = act(path) ?? path
        c.note(name, { mtime: moved(after) ? 'now' : mtime(after) })
        if (!['read', 'nothing'].includes(name)) assert.ok(ctime(after) > before, `ctime of ${name}`)
      }
    },
  },

  'a directory moves when entries come and go, and not when they change': {
    lowers: [
      dir => (
        mkdir(join(dir, 'd')),
        write(join(dir, 'd', 'f'), ''),
        write(join(dir, 'd', 'g'), ''),
        stale(join(dir, 'd'))
      ),
    ],
    run: c => {
      const d = join(c.dir, 'd')
      const acts: Record<string, () => void> = {
        'content of an entry': () => overwrite(join(d, 'f'), 'x'),
        'mode of an entry': () => chmod(join(d, 'f'), 0o600),
        'copy-up of an entry': () => chmod(join(d, 'g'), 0o600),
        create: () => write(join(d, 'new'), ''),
        unlink: () => unlink(join(d, 'f')),
        mkdir: () => mkdir(join(d, 'sub')),
        'below a subdirectory': () => write(join(d, 'sub', 'x'), ''),
        symlink: () => symlink('x', join(d, 'l')),
        link: () => link(join(d, 'g'), join(d, 'h')),
        rename: () => rename(join(d, 'h'), join(d, 'i')),
        'a failed unlink': () => {
          try {
            unlink(join(d, 'none'))
          } catch {
            return
          }
        },
      }
      for (const [name, act] of Object.entries(acts)) {
        stale(d)
        act()
        c.note(name, moved(d) ? 'now' : mtime(d))
      }
    },
  },

  'a user may set the times of own files, and to now of writable ones': {
    lowers: [
      dir => (
        write(join(dir, 'own'), ''),
        chown(join(dir, 'own'), 1000, 1000),
        write(join(dir, 'writable'), ''),
        chmod(join(dir, 'writable'), 0o666),
        write(join(dir, 'other'), '')
      ),
    ],
    run: c =>
      asUser(1000, 1000, () => {
        for (const name of ['own', 'writable', 'other']) {
          c.see(`${name} now`, () => utimens(join(c.dir, name), NOW, NOW))
          c.see(`${name} both`, () => utimens(join(c.dir, name), STALE, STALE))
          c.see(`${name} one`, () => utimens(join(c.dir, name), OMIT, NOW))
          c.see(`${name} none`, () => utimens(join(c.dir, name), OMIT, OMIT))
        }
      }),
  },

  'size, mtime and blocks are seen at once by a second descriptor and by stat': {
    lowers: [dir => write(join(dir, 'f'), 'content')],
    run: c => {
      using a = open(join(c.dir, 'f'), sys.O_RDWR)
      using b = open(join(c.dir, 'f'), sys.O_RDONLY)
      for (let i = 1; i <= 20; i++) {
        writeAt(a, Buffer.alloc(5000, i), i * 5000)
        assert.equal(sys.statFd(b.n).size, (i + 1) * 5000)
        assert.equal(stat(join(c.dir, 'f')).size, (i + 1) * 5000)
      }
    },
  },

  'times that no double holds': {
    run: c => {
      write(join(c.dir, 'f'), '')
      c.note(
        'seen',
        python(
          `
libc.utimensat.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int]
r = []
for s in [2**53 - 1, 2**53 + 1, 2**62 + 1, -2**62]:
    t = struct.pack('qqqq', s, 5, s, 6)
    r.append([E(lambda: check(libc.utimensat(-100, A[0], t, 0))), os.stat(A[0]).st_mtime_ns])
print(json.dumps(r))`,
          join(c.dir, 'f'),
        ),
      )
    },
  },
}
