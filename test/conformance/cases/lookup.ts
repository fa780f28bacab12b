import assert from 'node:assert/strict'
import * as sys from '../../../src/sys/index.js'
import {
  asUser,
  exists,
  facts,
  join,
  link,
  ls,
  mkdir,
  open,
  outcome,
  rename,
  rmdir,
  stat,
  symlink,
  text,
  unlink,
  write,
} from '../posix.js'
import type { Cases } from '../run.js'

const file = (name: string, content: string) => (dir: string) => write(join(dir, name), content)

export const lookup: Cases = {
  'a missing name is ENOENT, is found once made, and missing again once removed': c => {
    const path = join(c.dir, 'x')
    for (let round = 0; round < 3; round++) {
      assert.equal(
        outcome(() => stat(path).size),
        'ENOENT',
      )
      assert.equal(
        outcome(() => stat(path).size),
        'ENOENT',
      )
      write(path, `round ${round}`)
      assert.equal(text(path), `round ${round}`)
      unlink(path)
    }
    assert.equal(exists(path), false)
  },

  'a name below a file is ENOTDIR, with or without a slash at the end': {
    lowers: [file('f', 'x')],
    run: c => {
      assert.equal(
        outcome(() => stat(join(c.dir, 'f', 'g')).size),
        'ENOTDIR',
      )
      assert.equal(
        outcome(() => stat(join(c.dir, 'f', '')).size),
        'ENOTDIR',
      )
      assert.equal(
        outcome(() => stat(join(c.dir, 'missing', 'g')).size),
        'ENOENT',
      )
      c.see('open with O_DIRECTORY', () => open(join(c.dir, 'f'), sys.O_RDONLY | sys.O_DIRECTORY).close())
      c.see('create with a slash', () => write(join(c.dir, 'g', ''), ''))
    },
  },

  'the uppermost layer that has a file wins': {
    lowers: [
      file('a', 'lower 0'),
      dir => (file('a', 'lower 1')(dir), file('b', 'lower 1')(dir)),
      dir => ['a', 'b', 'c'].map(n => file(n, 'lower 2')(dir)),
    ],
    upper: file('u', 'upper'),
    run: c => {
      assert.deepEqual(ls(c.dir), ['a', 'b', 'c', 'u'])
      assert.equal(text(join(c.dir, 'a')), 'lower 0')
      assert.equal(text(join(c.dir, 'b')), 'lower 1')
      assert.equal(text(join(c.dir, 'c')), 'lower 2')
      assert.equal(text(join(c.dir, 'u')), 'upper')
    },
  },

  'directories of one name merge over all layers, and the uppermost gives owner and mode': {
    lowers: [0, 1, 2].map(i => dir => {
      mkdir(join(dir, 'd'), 0o750 + i)
      sys.fchownat(sys.AT_FDCWD, join(dir, 'd'), 100 + i, 200 + i)
      write(join(dir, 'd', `f${i}`), `${i}`)
      write(join(dir, 'd', 'same'), `${i}`)
    }),
    run: c => {
      assert.deepEqual(ls(join(c.dir, 'd')), ['f0', 'f1', 'f2', 'same'])
      assert.equal(text(join(c.dir, 'd', 'same')), '0')
      c.note('facts', facts(join(c.dir, 'd')))
      assert.equal(stat(join(c.dir, 'd')).uid, 100)
    },
  },

  'a file between two directories of its name ends the merge': {
    lowers: [
      dir => mkdir(join(dir, 'd')),
      file('d', 'a file'),
      dir => (mkdir(join(dir, 'd')), write(join(dir, 'd', 'hidden'), '')),
    ],
    run: c => assert.deepEqual(ls(join(c.dir, 'd')), []),
  },

  'a directory over a file, and a file over a directory, hide what is below': {
    lowers: [
      dir => (mkdir(join(dir, 'd')), write(join(dir, 'd', 'in'), ''), write(join(dir, 'f'), 'file')),
      dir => (write(join(dir, 'd'), 'file'), mkdir(join(dir, 'f')), write(join(dir, 'f', 'in'), '')),
    ],
    run: c => {
      assert.deepEqual(ls(join(c.dir, 'd')), ['in'])
      assert.equal(text(join(c.dir, 'f')), 'file')
      c.see('below the file', () => stat(join(c.dir, 'f', 'in')).size)
    },
  },

  'a symlink in one layer hides a directory below, and is followed in the view': {
    lowers: [
      dir => (
        symlink('other', join(dir, 'd')),
        mkdir(join(dir, 'other')),
        write(join(dir, 'other', 'x'), 'top')
      ),
      dir => (
        mkdir(join(dir, 'd')),
        write(join(dir, 'd', 'y'), ''),
        mkdir(join(dir, 'other')),
        write(join(dir, 'other', 'z'), 'bottom')
      ),
    ],
    run: c => {
      assert.equal(facts(join(c.dir, 'd'))['kind'], 'symlink')
      assert.deepEqual(ls(join(c.dir, 'd', '')), ['x', 'z'])
      assert.equal(text(join(c.dir, 'd', 'z')), 'bottom')
    },
  },

  'dot and dot-dot': {
    lowers: [dir => (mkdir(join(dir, 'a')), mkdir(join(dir, 'a', 'b')))],
    run: c => {
      const ino = (path: string) => `${stat(path).dev}:${stat(path).ino}`
      assert.equal(ino(join(c.dir, 'a', '.')), ino(join(c.dir, 'a')))
      assert.equal(ino(join(c.dir, 'a', 'b', '..')), ino(join(c.dir, 'a')))
      c.see('rmdir .', () => rmdir(join(c.dir, 'a', '.')))
      c.see('rmdir ..', () => rmdir(join(c.dir, 'a', 'b', '..')))
      c.see('rename .', () => rename(join(c.dir, 'a', '.'), join(c.dir, 'z')))
    },
  },

  'the same name in different letter cases or normal forms is different names': {
    lowers: [dir => ['Name', 'name', '\xc3\xa9', 'e\xcc\x81'].map(n => write(join(dir, n), n))],
    run: c => {
      write(join(c.dir, 'NAME'), 'NAME')
      assert.deepEqual(ls(c.dir), ['NAME', 'Name', 'e\xcc\x81', 'name', '\xc3\xa9'])
      for (const name of ls(c.dir)) assert.equal(text(join(c.dir, name)), name)
    },
  },

  'names that are not UTF-8, or hold newlines, colons, backslashes and control bytes': {
    lowers: [dir => ODD.map(n => write(join(dir, n), n))],
    run: c => {
      assert.deepEqual(ls(c.dir), [...ODD].sort())
      for (const name of ODD) {
        assert.equal(text(join(c.dir, name)), name)
        rename(join(c.dir, name), join(c.dir, `${name}\xfe`))
        link(join(c.dir, `${name}\xfe`), join(c.dir, `${name}\xff`))
        unlink(join(c.dir, `${name}\xfe`))
        mkdir(join(c.dir, name))
        write(join(c.dir, name, name), 'deep')
        assert.equal(text(join(c.dir, name, name)), 'deep')
      }
      assert.deepEqual(ls(c.dir), [...ODD, ...ODD.map(n => `${n}\xff`)].sort())
    },
  },

  'all 253 one-byte names': c => {
    const names = Array.from({ length: 255 }, (_, i) => String.fromCharCode(i + 1)).filter(
      n => n !== '.' && n !== '/',
    )
    for (const name of names) write(join(c.dir, name), name)
    assert.deepEqual(ls(c.dir), names.sort())
    for (const name of names) assert.equal(text(join(c.dir, name)), name)
    for (const name of names) unlink(join(c.dir, name))
    assert.deepEqual(ls(c.dir), [])
  },

  'names of 255 bytes work, of 256 are ENAMETOOLONG': {
    lowers: [dir => write(join(dir, 'n'.repeat(255)), 'lower')],
    run: c => {
      const long = join(c.dir, 'n'.repeat(255))
      const longer = join(c.dir, 'n'.repeat(256))
      assert.equal(text(long), 'lower')
      write(long, 'changed')
      rename(long, join(c.dir, 'm'.repeat(255)))
      symlink('x', join(c.dir, 's'.repeat(255)))
      mkdir(join(c.dir, 'd'.repeat(255)))
      unlink(join(c.dir, 'm'.repeat(255)))
      write(long, 'anew')
      unlink(long)
      assert.deepEqual(ls(c.dir), ['d'.repeat(255), 's'.repeat(255)])
      write(join(c.dir, 'f'), '')
      const attempts: Record<string, () => void> = {
        stat: () => void stat(longer),
        create: () => write(longer, ''),
        mkdir: () => mkdir(longer),
        symlink: () => symlink('x', longer),
        link: () => link(join(c.dir, 'f'), longer),
        rename: () => rename(join(c.dir, 'f'), longer),
        unlink: () => unlink(longer),
        rmdir: () => rmdir(longer),
        'in the middle': () => void stat(join(longer, 'x')),
      }
      for (const [label, attempt] of Object.entries(attempts))
        assert.equal(c.see(label, attempt), 'ENAMETOOLONG', label)
    },
  },

  'a path of 4095 bytes works, of 4096 is ENAMETOOLONG': c => {
    let path = c.dir
    while (path.length < 4095 - 220) {
      path = join(path, 'p'.repeat(199))
      mkdir(path)
    }
    const last = join(path, 'f'.repeat(4095 - path.length - 1))
    assert.equal(last.length, 4095)
    write(last, 'deep')
    assert.equal(text(last), 'deep')
    assert.equal(
      outcome(() => stat(`${last}x`).size),
      'ENAMETOOLONG',
    )
    rename(last, join(path, 'g'))
    assert.deepEqual(ls(path), ['g'])
  },

  'a path longer than 4096 bytes, reached by directory descriptors, in a lower layer and made in the view': {
    lowers: [
      dir => {
        const fds = [open(dir, sys.O_RDONLY | sys.O_DIRECTORY)]
        for (let i = 0; i < 30; i++) {
          sys.mkdirat(fds[i]!.n, 'q'.repeat(200), 0o755)
          fds.push(sys.openat(fds[i]!.n, 'q'.repeat(200), sys.O_RDONLY | sys.O_DIRECTORY))
        }
        sys.openat(fds[30]!.n, 'bottom', sys.O_CREAT | sys.O_WRONLY, 0o600).close()
        for (const fd of fds) fd.close()
      },
    ],
    run: c => {
      let fd = open(c.dir, sys.O_RDONLY | sys.O_DIRECTORY)
      const step = (name: string): void => {
        const next = sys.openat(fd.n, name, sys.O_RDONLY | sys.O_DIRECTORY)
        fd.close()
        fd = next
      }
      for (let i = 0; i < 30; i++) step('q'.repeat(200))
      assert.equal(sys.statAt(fd.n, 'bottom')?.mode, sys.S_IFREG | 0o600)
      sys.chmodAt(fd.n, 'bottom', 0o640)
      assert.equal(sys.statAt(fd.n, 'bottom')?.mode, sys.S_IFREG | 0o640)
      for (let i = 0; i < 10; i++) {
        sys.mkdirat(fd.n, 'r'.repeat(255), 0o755)
        step('r'.repeat(255))
      }
      sys.openat(fd.n, 'made', sys.O_CREAT | sys.O_WRONLY, 0o600).close()
      sys.unlinkat(fd.n, 'made', 0)
      fd.close()
    },
  },

  'search permission is asked of every directory on the way': {
    lowers: [
      dir => (
        mkdir(join(dir, 'closed'), 0o700),
        write(join(dir, 'closed', 'f'), 'x'),
        mkdir(join(dir, 'noread'), 0o711),
        write(join(dir, 'noread', 'f'), 'x')
      ),
    ],
    run: c =>
      asUser(1000, 1000, () => {
        assert.equal(
          outcome(() => stat(join(c.dir, 'closed', 'f')).size),
          'EACCES',
        )
        assert.equal(
          outcome(() => stat(join(c.dir, 'noread', 'f')).size),
          1,
        )
        assert.equal(
          outcome(() => ls(join(c.dir, 'noread'))),
          'EACCES',
        )
      }),
  },

  'a deep tree spread over three layers': {
    lowers: [0, 1, 2].map(i => dir => {
      let path = dir
      for (let depth = 0; depth < 60; depth++) {
        path = join(path, 'd')
        mkdir(path)
        write(join(path, `f${i}`), `${depth} ${i}`)
      }
    }),
    run: c => {
      let path = c.dir
      for (let depth = 0; depth < 60; depth++) {
        path = join(path, 'd')
        assert.deepEqual(ls(path), ['d', 'f0', 'f1', 'f2'].slice(depth === 59 ? 1 : 0))
      }
      write(join(path, 'new'), 'x')
      assert.equal(text(join(path, 'f2')), '59 2')
    },
  },

  '500 lower layers': {
    lowers: Array.from({ length: 500 }, (_, i) => (dir: string) => {
      write(join(dir, 'f'), `${i}`)
      write(join(dir, `only${i}`), `${i}`)
      mkdir(join(dir, 'd'))
      write(join(dir, 'd', `in${i}`), `${i}`)
    }),
    run: c => {
      assert.equal(text(join(c.dir, 'f')), '0')
      assert.equal(ls(c.dir).length, 502)
      assert.equal(ls(join(c.dir, 'd')).length, 500)
      assert.equal(text(join(c.dir, 'd', 'in499')), '499')
      write(join(c.dir, 'd', 'in499'), 'changed')
      unlink(join(c.dir, 'only250'))
      assert.equal(ls(c.dir).length, 501)
      c.remount()
      assert.equal(text(join(c.dir, 'd', 'in499')), 'changed')
      assert.equal(ls(c.dir).length, 501)
    },
  },

  'the root of the view: listed, statted, changed, and not removed': {
    alone: true,
    lowers: [dir => (write(join(dir, 'f'), 'x'), sys.chmodAt(sys.AT_FDCWD, dir, 0o751))],
    run: c => {
      assert.deepEqual(ls(c.dir), ['f'])
      sys.chmodAt(sys.AT_FDCWD, c.dir, 0o753)
      assert.equal(stat(c.dir).mode & 0o7777, 0o753)
      c.see('rmdir of the root', () => rmdir(c.dir))
    },
    on: ['kernel', 'lamina'],
  },
}

const ODD = [
  '\xff\xfe',
  '\xc3',
  '\xed\xa0\x80',
  'new\nline',
  'co:lon',
  'back\\slash',
  'com,ma',
  'sp ace',
  '\x01\x7f',
  '-',
  '\x80'.repeat(200),
]
