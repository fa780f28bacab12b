import assert from 'node:assert/strict'
import * as sys from '../../../src/sys/index.js'
import {
  append,
  asUser,
  chmod,
  chown,
  facts,
  getxattr,
  join,
  link,
  ls,
  mkdir,
  mknod,
  open,
  overwrite,
  read,
  readAt,
  rename,
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

export const links: Cases = {
  'two names of an upper file are one inode': c => {
    const [a, b] = [join(c.dir, 'a'), join(c.dir, 'b')]
    write(a, 'one')
    link(a, b)
    assert.ok(same(a, b))
    assert.equal(stat(a).nlink, 2)
    append(b, ' two')
    assert.equal(text(a), 'one two')
    chmod(a, 0o600)
    setxattr(b, 'user.x', 'y')
    assert.equal(stat(b).mode & 0o777, 0o600)
    assert.equal(getxattr(a, 'user.x'), 'y')
    unlink(a)
    assert.equal(stat(b).nlink, 1)
    assert.equal(text(b), 'one two')
  },

  'a link to a lower file is one inode with it': {
    lowers: [dir => (write(join(dir, 'f'), 'lower'), mkdir(join(dir, 'd')))],
    run: c => {
      const [a, b] = [join(c.dir, 'f'), join(c.dir, 'd', 'g')]
      const before = stat(a).ino
      link(a, b)
      assert.ok(same(a, b))
      assert.equal(stat(a).ino, before)
      assert.equal(stat(b).nlink, 2)
      overwrite(b, 'LOWER')
      assert.equal(text(a), 'LOWER')
      unlink(a)
      assert.equal(text(b), 'LOWER')
      assert.equal(stat(b).nlink, 1)
      c.note('facts', facts(b))
    },
  },

  'nlink goes up and down with many names, in several directories': {
    lowers: [dir => (write(join(dir, 'f'), 'x'), mkdir(join(dir, 'd')))],
    run: c => {
      for (let i = 0; i < 50; i++) link(join(c.dir, 'f'), join(c.dir, i % 2 ? 'd' : '', `l${i}`))
      assert.equal(stat(join(c.dir, 'f')).nlink, 51)
      for (let i = 0; i < 50; i += 3) unlink(join(c.dir, i % 2 ? 'd' : '', `l${i}`))
      assert.equal(stat(join(c.dir, 'f')).nlink, 34)
      rename(join(c.dir, 'l2'), join(c.dir, 'd', 'l1'))
      assert.equal(stat(join(c.dir, 'f')).nlink, 34)
      unlink(join(c.dir, 'd', 'l1'))
      assert.equal(stat(join(c.dir, 'f')).nlink, 33)
    },
  },

  'names that are one inode stay so after a remount': {
    alone: true,
    lowers: [dir => write(join(dir, 'f'), 'x')],
    run: c => {
      link(join(c.dir, 'f'), join(c.dir, 'g'))
      write(join(c.dir, 'u'), 'u')
      link(join(c.dir, 'u'), join(c.dir, 'v'))
      c.remount()
      assert.ok(same(join(c.dir, 'f'), join(c.dir, 'g')))
      assert.ok(same(join(c.dir, 'u'), join(c.dir, 'v')))
      append(join(c.dir, 'g'), 'y')
      assert.equal(text(join(c.dir, 'f')), 'xy')
      append(join(c.dir, 'v'), 'y')
      assert.equal(text(join(c.dir, 'u')), 'uy')
    },
  },

  'links of symlinks, fifos, sockets and devices': {
    lowers: [
      dir => {
        symlink('x', join(dir, 'symlink'))
        mknod(join(dir, 'fifo'), sys.S_IFIFO | 0o600)
        mknod(join(dir, 'socket'), sys.S_IFSOCK | 0o600)
        mknod(join(dir, 'char'), sys.S_IFCHR | 0o600, sys.makedev(1, 3))
      },
    ],
    run: c => {
      for (const name of ls(c.dir)) {
        link(join(c.dir, name), join(c.dir, `${name}2`))
        assert.ok(same(join(c.dir, name), join(c.dir, `${name}2`)), name)
        c.note(name, facts(join(c.dir, `${name}2`)))
      }
    },
  },

  'what cannot be linked': {
    lowers: [dir => (mkdir(join(dir, 'd')), write(join(dir, 'f'), 'x'))],
    run: c => {
      c.see('a directory', () => link(join(c.dir, 'd'), join(c.dir, 'e')))
      c.see('over an existing name', () => link(join(c.dir, 'f'), join(c.dir, 'd')))
      c.see('over itself', () => link(join(c.dir, 'f'), join(c.dir, 'f')))
      c.see('a missing file', () => link(join(c.dir, 'none'), join(c.dir, 'x')))
      c.see('into a missing directory', () => link(join(c.dir, 'f'), join(c.dir, 'none', 'x')))
      c.see('into a file', () => link(join(c.dir, 'f'), join(c.dir, 'f', 'x')))
      c.see('out of the mount', () => link(join(c.dir, 'f'), join('/proc', 'x')))
    },
  },

  'a link made while the file is open, then both names removed': {
    lowers: [dir => write(join(dir, 'f'), 'lower')],
    run: c => {
      using fd = open(join(c.dir, 'f'), sys.O_RDWR)
      link(join(c.dir, 'f'), join(c.dir, 'g'))
      writeAt(fd, 'LOW', 0)
      assert.equal(text(join(c.dir, 'g')), 'LOWer')
      unlink(join(c.dir, 'f'))
      unlink(join(c.dir, 'g'))
      assert.equal(sys.statFd(fd.n).nlink, 0)
      writeAt(fd, 'gone', 0)
      assert.equal(readAt(fd, 10, 0).toString(), 'goner')
    },
  },

  'a link over a whiteout, and to a file copied up before': {
    lowers: [dir => (write(join(dir, 'a'), 'a'), write(join(dir, 'b'), 'b'))],
    run: c => {
      unlink(join(c.dir, 'b'))
      append(join(c.dir, 'a'), '!')
      link(join(c.dir, 'a'), join(c.dir, 'b'))
      assert.equal(read(join(c.dir, 'b')).toString(), 'a!')
      unlink(join(c.dir, 'b'))
      assert.deepEqual(ls(c.dir), ['a'])
      link(join(c.dir, 'a'), join(c.dir, 'b'))
      assert.equal(stat(join(c.dir, 'a')).nlink, 2)
    },
  },

  'a user links own files; the kernel protects those of others': {
    lowers: [
      dir => (
        write(join(dir, 'own'), 'x'),
        chown(join(dir, 'own'), 1000, 1000),
        write(join(dir, 'root'), 'x', 0o644),
        mkdir(join(dir, 'd')),
        chmod(join(dir, 'd'), 0o777)
      ),
    ],
    run: c =>
      asUser(1000, 1000, () => {
        c.see('own', () => link(join(c.dir, 'own'), join(c.dir, 'd', 'own')))
        c.see('of root', () => link(join(c.dir, 'root'), join(c.dir, 'd', 'root')))
        c.see('into a closed directory', () => link(join(c.dir, 'own'), join(c.dir, 'x')))
      }),
  },
}
