import assert from 'node:assert/strict'
import * as sys from '../../../src/sys/index.js'
import {
  asUser,
  chmod,
  chown,
  exists,
  facts,
  getxattr,
  join,
  kindOf,
  link,
  ls,
  mkdir,
  open,
  outcome,
  read,
  readAt,
  rename,
  rmdir,
  same,
  setxattr,
  stat,
  symlink,
  text,
  unlink,
  write,
  writeAt,
} from '../posix.js'
import type { Cases } from '../run.js'

const isWhiteout = (path: string): boolean => kindOf(stat(path).mode) === 'char' && stat(path).rdev === 0
const layered = (dir: string): void => {
  for (const name of ['a', 'b']) write(join(dir, name), `lower ${name}`)
  mkdir(join(dir, 'd'))
  write(join(dir, 'd', 'in'), 'lower in')
  mkdir(join(dir, 'empty'))
  symlink('a', join(dir, 'l'))
}

export const renames: Cases = {
  'a lower file: copied up, a whiteout left, content and metadata kept': {
    lowers: [dir => (layered(dir), chown(join(dir, 'a'), 3, 4), setxattr(join(dir, 'a'), 'user.x', 'y'))],
    run: c => {
      rename(join(c.dir, 'a'), join(c.dir, 'd', 'moved'))
      assert.deepEqual(ls(c.dir), ['b', 'd', 'empty', 'l'])
      assert.equal(text(join(c.dir, 'd', 'moved')), 'lower a')
      assert.equal(getxattr(join(c.dir, 'd', 'moved'), 'user.x'), 'y')
      c.note('facts', facts(join(c.dir, 'd', 'moved')))
      if (c.upper === '') return
      assert.ok(isWhiteout(join(c.upper, 'a')))
      assert.deepEqual(ls(c.upper), ['a', 'd'])
    },
  },

  'an upper file leaves nothing behind': {
    lowers: [layered],
    run: c => {
      write(join(c.dir, 'new'), 'n')
      rename(join(c.dir, 'new'), join(c.dir, 'd', 'new'))
      assert.equal(exists(join(c.dir, 'new')), false)
      if (c.upper !== '') assert.deepEqual(ls(c.upper), ['d'])
    },
  },

  'over an existing file: lower over lower, upper over lower, lower over upper, a link over itself': {
    lowers: [dir => ['a', 'b', 'e', 'f', 'g'].map(name => write(join(dir, name), name))],
    run: c => {
      rename(join(c.dir, 'a'), join(c.dir, 'b'))
      assert.equal(text(join(c.dir, 'b')), 'a')
      write(join(c.dir, 'up'), 'up')
      rename(join(c.dir, 'up'), join(c.dir, 'e'))
      assert.equal(text(join(c.dir, 'e')), 'up')
      write(join(c.dir, 'up2'), 'up2')
      rename(join(c.dir, 'f'), join(c.dir, 'up2'))
      assert.equal(text(join(c.dir, 'up2')), 'f')
      rename(join(c.dir, 'g'), join(c.dir, 'g'))
      assert.equal(text(join(c.dir, 'g')), 'g')
      link(join(c.dir, 'up2'), join(c.dir, 'up3'))
      rename(join(c.dir, 'up2'), join(c.dir, 'up3'))
      assert.deepEqual(ls(c.dir), ['b', 'e', 'g', 'up2', 'up3'])
      assert.equal(stat(join(c.dir, 'up3')).nlink, 2)
    },
  },

  'over a whiteout': {
    lowers: [layered],
    run: c => {
      unlink(join(c.dir, 'a'))
      unlink(join(c.dir, 'd', 'in'))
      rename(join(c.dir, 'b'), join(c.dir, 'a'))
      assert.equal(text(join(c.dir, 'a')), 'lower b')
      mkdir(join(c.dir, 'new'))
      rename(join(c.dir, 'new'), join(c.dir, 'd', 'in'))
      assert.deepEqual(ls(join(c.dir, 'd', 'in')), [])
      assert.deepEqual(ls(c.dir), ['a', 'd', 'empty', 'l'])
      rename(join(c.dir, 'd', 'in'), join(c.dir, 'b'))
      assert.deepEqual(ls(join(c.dir, 'd')), [])
      rmdir(join(c.dir, 'b'))
      assert.equal(exists(join(c.dir, 'b')), false)
    },
  },

  'a pure upper directory, with its content, also over a whiteout and over empty directories': {
    lowers: [layered],
    alone: true,
    run: c => {
      mkdir(join(c.dir, 'new'))
      write(join(c.dir, 'new', 'f'), 'f')
      mkdir(join(c.dir, 'new', 'sub'))
      rename(join(c.dir, 'new'), join(c.dir, 'moved'))
      rename(join(c.dir, 'moved'), join(c.dir, 'd', 'deeper'))
      assert.equal(text(join(c.dir, 'd', 'deeper', 'f')), 'f')
      unlink(join(c.dir, 'b'))
      rename(join(c.dir, 'd', 'deeper'), join(c.dir, 'b'))
      assert.deepEqual(ls(join(c.dir, 'b')), ['f', 'sub'])
      c.see('over an empty lower directory', () => rename(join(c.dir, 'b'), join(c.dir, 'empty')))
      mkdir(join(c.dir, 'full'))
      write(join(c.dir, 'full', 'x'), '')
      c.see('over a full one', () => rename(join(c.dir, 'empty'), join(c.dir, 'full')))
      c.see('over a full lower one', () => rename(join(c.dir, 'full'), join(c.dir, 'd')))
      mkdir(join(c.dir, 'void'))
      c.see('over an empty upper one', () => rename(join(c.dir, 'full'), join(c.dir, 'void')))
      const seen = ls(c.dir)
      c.note('listing', seen)
      c.remount()
      assert.deepEqual(ls(c.dir), seen)
      assert.deepEqual(ls(join(c.dir, 'empty')), ['f', 'sub'])
      assert.deepEqual(ls(join(c.dir, 'void')), ['x'])
    },
  },

  'an upper directory renamed over an emptied merged one': {
    lowers: [layered],
    run: c => {
      unlink(join(c.dir, 'd', 'in'))
      mkdir(join(c.dir, 'new'))
      write(join(c.dir, 'new', 'x'), '')
      c.see('rename', () => rename(join(c.dir, 'new'), join(c.dir, 'd')))
      c.note('d', ls(join(c.dir, 'd')))
      c.note('all', ls(c.dir))
    },
  },

  'a lower or merged directory is EXDEV without redirect_dir': {
    on: ['kernel', 'lamina'],
    lowers: [layered],
    run: c => {
      assert.equal(
        c.see('lower', () => rename(join(c.dir, 'd'), join(c.dir, 'e'))),
        'EXDEV',
      )
      write(join(c.dir, 'd', 'x'), '')
      assert.equal(
        c.see('merged', () => rename(join(c.dir, 'd'), join(c.dir, 'e'))),
        'EXDEV',
      )
      assert.equal(
        c.see('empty', () => rename(join(c.dir, 'empty'), join(c.dir, 'e'))),
        'EXDEV',
      )
      assert.deepEqual(ls(c.dir), ['a', 'b', 'd', 'empty', 'l'])
      assert.equal(exists(join(c.upper, 'e')), false)
    },
  },

  'mv falls back to copying a lower directory': {
    lowers: [layered],
    run: c => {
      mkdir(join(c.dir, 'e'))
      for (const name of ls(join(c.dir, 'd'))) rename(join(c.dir, 'd', name), join(c.dir, 'e', name))
      rmdir(join(c.dir, 'd'))
      assert.equal(text(join(c.dir, 'e', 'in')), 'lower in')
      assert.deepEqual(ls(c.dir), ['a', 'b', 'e', 'empty', 'l'])
    },
  },

  'kinds that do not fit': {
    lowers: [layered],
    run: c => {
      mkdir(join(c.dir, 'up'))
      write(join(c.dir, 'f'), '')
      c.see('file over lower dir', () => rename(join(c.dir, 'a'), join(c.dir, 'd')))
      c.see('file over upper dir', () => rename(join(c.dir, 'a'), join(c.dir, 'up')))
      c.see('dir over lower file', () => rename(join(c.dir, 'up'), join(c.dir, 'a')))
      c.see('dir over upper file', () => rename(join(c.dir, 'up'), join(c.dir, 'f')))
      c.see('dir into itself', () => rename(join(c.dir, 'up'), join(c.dir, 'up', 'x')))
      c.see('dir over its parent', () => rename(join(c.dir, 'd', 'in'), join(c.dir, 'd')))
      c.see('missing', () => rename(join(c.dir, 'none'), join(c.dir, 'up')))
      c.see('into missing', () => rename(join(c.dir, 'a'), join(c.dir, 'none', 'x')))
      c.see('into a file', () => rename(join(c.dir, 'a'), join(c.dir, 'b', 'x')))
      assert.deepEqual(ls(c.dir), ['a', 'b', 'd', 'empty', 'f', 'l', 'up'])
    },
  },

  RENAME_NOREPLACE: {
    lowers: [layered],
    run: c => {
      write(join(c.dir, 'up'), 'up')
      const attempt = (from: string, to: string) =>
        rename(join(c.dir, from), join(c.dir, to), sys.RENAME_NOREPLACE)
      assert.equal(
        c.see('over lower', () => attempt('up', 'a')),
        'EEXIST',
      )
      assert.equal(
        c.see('lower over upper', () => attempt('a', 'up')),
        'EEXIST',
      )
      assert.equal(
        c.see('over itself', () => attempt('a', 'a')),
        'EEXIST',
      )
      assert.equal(
        c.see('to a new name', () => attempt('a', 'new')),
        'ok',
      )
      assert.equal(
        c.see('over a whiteout', () => attempt('up', 'a')),
        'ok',
      )
      assert.equal(text(join(c.dir, 'a')), 'up')
      assert.deepEqual(ls(c.dir), ['a', 'b', 'd', 'empty', 'l', 'new'])
    },
  },

  'RENAME_EXCHANGE of files, lower and upper, and of upper directories': {
    lowers: [layered],
    alone: true,
    run: c => {
      write(join(c.dir, 'up'), 'up')
      mkdir(join(c.dir, 'dir'))
      write(join(c.dir, 'dir', 'x'), 'x')
      const swap = (a: string, b: string) => rename(join(c.dir, a), join(c.dir, b), sys.RENAME_EXCHANGE)
      swap('a', 'up')
      assert.equal(text(join(c.dir, 'a')), 'up')
      assert.equal(text(join(c.dir, 'up')), 'lower a')
      swap('a', 'b')
      assert.equal(text(join(c.dir, 'b')), 'up')
      swap('b', 'dir')
      assert.deepEqual(ls(join(c.dir, 'b')), ['x'])
      swap('l', 'b')
      assert.equal(sys.readlinkat(sys.AT_FDCWD, join(c.dir, 'b')), 'a')
      c.see('with a missing name', () => swap('a', 'none'))
      const kinds = (): string[] => ls(c.dir).map(name => `${name} ${kindOf(stat(join(c.dir, name)).mode)}`)
      const seen = kinds()
      c.remount()
      assert.deepEqual(kinds(), seen)
    },
  },

  'RENAME_EXCHANGE with a lower directory': {
    on: ['kernel', 'lamina'],
    lowers: [layered],
    run: c => {
      write(join(c.dir, 'up'), 'up')
      c.see('exchange', () => rename(join(c.dir, 'd'), join(c.dir, 'up'), sys.RENAME_EXCHANGE))
      c.note('listing', ls(c.dir))
    },
  },

  'RENAME_WHITEOUT, and flags that do not go together': {
    on: ['kernel', 'lamina'],
    lowers: [layered],
    run: c => {
      write(join(c.dir, 'up'), 'up')
      const attempt = (flags: number) => () => rename(join(c.dir, 'up'), join(c.dir, 'z'), flags)
      c.see('whiteout', attempt(sys.RENAME_WHITEOUT))
      c.see('exchange and noreplace', attempt(sys.RENAME_EXCHANGE | sys.RENAME_NOREPLACE))
      c.see('unknown', attempt(1 << 8))
      c.note('listing', ls(c.dir))
    },
  },

  'an open file goes on under its new name': {
    lowers: [layered],
    run: c => {
      using lower = open(join(c.dir, 'a'), sys.O_RDONLY)
      using upper = open(join(c.dir, 'new'), sys.O_RDWR | sys.O_CREAT, 0o600)
      rename(join(c.dir, 'a'), join(c.dir, 'a2'))
      rename(join(c.dir, 'new'), join(c.dir, 'new2'))
      writeAt(upper, 'after', 0)
      assert.equal(readAt(lower, 100, 0).toString(), 'lower a')
      assert.equal(text(join(c.dir, 'new2')), 'after')
      write(join(c.dir, 'a3'), 'replaces')
      rename(join(c.dir, 'a3'), join(c.dir, 'a2'))
      assert.equal(readAt(lower, 100, 0).toString(), 'lower a')
      rename(join(c.dir, 'a2'), join(c.dir, 'new2'))
      assert.equal(readAt(upper, 100, 0).toString(), 'after')
      assert.equal(sys.statFd(upper.n).nlink, 0)
    },
  },

  'an open directory goes on under its new name': c => {
    mkdir(join(c.dir, 'd'))
    write(join(c.dir, 'd', 'f'), 'f')
    using dir = open(join(c.dir, 'd'), sys.O_RDONLY | sys.O_DIRECTORY)
    rename(join(c.dir, 'd'), join(c.dir, 'e'))
    using made = sys.openat(dir.n, 'g', sys.O_CREAT | sys.O_WRONLY, 0o600)
    writeAt(made, 'g', 0)
    assert.deepEqual(ls(join(c.dir, 'e')), ['f', 'g'])
    assert.ok(sys.statAt(dir.n, 'f'))
    assert.equal(
      outcome(() => ls(join(c.dir, 'd'))),
      'ENOENT',
    )
  },

  'names under a renamed directory are found under the new path only': c => {
    mkdir(join(c.dir, 'd'))
    mkdir(join(c.dir, 'd', 'e'))
    write(join(c.dir, 'd', 'e', 'f'), 'f')
    for (let i = 0; i < 10; i++) {
      const [from, to] = i % 2 === 0 ? ['d', 'x'] : ['x', 'd']
      rename(join(c.dir, from!), join(c.dir, to!))
      assert.equal(text(join(c.dir, to!, 'e', 'f')), 'f')
      assert.equal(
        outcome(() => text(join(c.dir, from!, 'e', 'f'))),
        'ENOENT',
      )
      mkdir(join(c.dir, from!))
      assert.equal(exists(join(c.dir, from!, 'e')), false)
      rmdir(join(c.dir, from!))
    }
  },

  'a directory moved under another follows in dot-dot': c => {
    mkdir(join(c.dir, 'a'))
    mkdir(join(c.dir, 'a', 'd'))
    mkdir(join(c.dir, 'b'))
    rename(join(c.dir, 'a', 'd'), join(c.dir, 'b', 'd'))
    assert.ok(same(join(c.dir, 'b', 'd', '..'), join(c.dir, 'b')))
  },

  'a sticky directory lets only the owners rename and remove': {
    lowers: [
      dir => {
        mkdir(join(dir, 't'))
        write(join(dir, 't', 'theirs'), 'x')
        write(join(dir, 't', 'mine'), 'x')
        chown(join(dir, 't', 'mine'), 1000, 1000)
        chmod(join(dir, 't'), 0o1777)
      },
    ],
    run: c =>
      asUser(1000, 1000, () => {
        const t = join(c.dir, 't')
        c.see('rename theirs', () => rename(join(t, 'theirs'), join(t, 'x')))
        c.see('unlink theirs', () => unlink(join(t, 'theirs')))
        c.see('rename mine over theirs', () => rename(join(t, 'mine'), join(t, 'theirs')))
        c.see('rename mine', () => rename(join(t, 'mine'), join(t, 'x')))
        c.see('unlink mine', () => unlink(join(t, 'x')))
        c.note('left', ls(t))
      }),
  },

  'the mtime and ctime of both parents move': {
    lowers: [layered],
    run: c => {
      const stale = { sec: 1000, nsec: 0 }
      const parents = ['d', 'empty'].map(name => join(c.dir, name))
      for (const parent of parents) sys.utimensAt(sys.AT_FDCWD, parent, stale.sec, 0, stale.sec, 0)
      rename(join(c.dir, 'd', 'in'), join(c.dir, 'empty', 'in'))
      for (const parent of parents) assert.ok(stat(parent).mtime > 1000, parent)
      assert.equal(read(join(c.dir, 'empty', 'in')).toString(), 'lower in')
    },
  },
}
