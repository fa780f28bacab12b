import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import * as sys from '../../../src/sys/index.js'
import {
  append,
  chmod,
  chown,
  exists,
  join,
  link,
  ls,
  mkdir,
  open,
  overwrite,
  rename,
  rmdir,
  stat,
  symlink,
  text,
  truncate,
  unlink,
  write,
} from '../posix.js'
import type { Cases } from '../run.js'

const id = (path: string): string => `${stat(path).dev}:${stat(path).inoHi}:${stat(path).inoLo}`

export const inodes: Cases = {
  'copies of one lower object that somebody made in upper have numbers of their own': {
    on: ['lamina'], // The kernel shows one of them, and ESTALE for the others while that is known.
    lowers: [
      dir => (write(join(dir, 'f'), 'content'), mkdir(join(dir, 'd')), write(join(dir, 'd', 'g'), 'x')),
    ],
    options: ['redirect_dir=on'],
    run: c => {
      const ino = (name: string): string => id(join(c.dir, name)).replace(/^\d+:/, '') // st_dev is another after a remount
      const before = { f: ino('f'), d: ino('d') }
      for (const name of ['f', 'd']) rename(join(c.dir, name), join(c.dir, `${name}1`))
      append(join(c.dir, 'd1', 'g'), 'y')
      for (const name of ['f', 'd'])
        execFileSync('cp', ['-a', join(c.upper, `${name}1`), join(c.upper, `${name}2`)])
      c.remount()
      for (const name of ['f1', 'd1', join('d1', 'g')]) {
        const copy = name.replace('1', '2')
        const [one, other] = [ino(name), ino(copy)]
        assert.notEqual(one, other, name)
        assert.deepEqual([ino(name), ino(copy)], [one, other])
      }
      assert.deepEqual({ f: ino('f1'), d: ino('d1') }, before)
      unlink(join(c.dir, 'f1'))
      assert.equal(text(join(c.dir, 'f2')), 'content')
    },
  },

  'st_ino and st_dev stay the same across every kind of copy-up': {
    lowers: [
      dir => {
        for (const name of [
          'write',
          'append',
          'chmod',
          'chown',
          'truncate',
          'link',
          'rename',
          'xattr',
          'times',
        ])
          write(join(dir, name), name)
        symlink('x', join(dir, 'symlink'))
        mkdir(join(dir, 'd'))
        write(join(dir, 'd', 'in'), '')
      },
    ],
    run: c => {
      const before = new Map(ls(c.dir).map(name => [name, id(join(c.dir, name))]))
      const at = (name: string): string => join(c.dir, name)
      overwrite(at('write'), 'W')
      append(at('append'), 'A')
      chmod(at('chmod'), 0o600)
      chown(at('chown'), 1, 1)
      truncate(at('truncate'), 1)
      link(at('link'), at('link2'))
      rename(at('rename'), at('renamed'))
      sys.setxattrAt(sys.AT_FDCWD, at('xattr'), 'user.x', Buffer.from('x'))
      sys.utimensAt(sys.AT_FDCWD, at('times'), 1, 0, 1, 0)
      chown(at('symlink'), 1, 1)
      write(join(at('d'), 'new'), '')
      for (const [name, ino] of before) assert.equal(id(at(name === 'rename' ? 'renamed' : name)), ino, name)
      assert.equal(id(at('link2')), before.get('link'))
    },
  },

  'an open descriptor and the name agree on st_ino before and after copy-up': {
    lowers: [dir => write(join(dir, 'f'), 'x')],
    run: c => {
      using early = open(join(c.dir, 'f'), sys.O_RDONLY)
      const before = sys.statFd(early.n)
      overwrite(join(c.dir, 'f'), 'y')
      using late = open(join(c.dir, 'f'), sys.O_RDONLY)
      assert.equal(sys.statFd(late.n).ino, before.ino)
      assert.equal(sys.statFd(early.n).ino, before.ino)
      assert.equal(stat(join(c.dir, 'f')).ino, before.ino)
    },
  },

  'different objects have different st_ino, over all layers': {
    lowers: [0, 1, 2].map(i => dir => {
      for (let j = 0; j < 50; j++) write(join(dir, `f${i}-${j}`), '')
      mkdir(join(dir, `d${i}`))
      for (let j = 0; j < 50; j++) write(join(dir, `d${i}`, `${j}`), '')
    }),
    run: c => {
      mkdir(join(c.dir, 'up'))
      for (let j = 0; j < 50; j++) write(join(c.dir, 'up', `${j}`), '')
      const all: string[] = []
      for (const name of ls(c.dir)) {
        all.push(id(join(c.dir, name)))
        if (!name.startsWith('f'))
          for (const inner of ls(join(c.dir, name))) all.push(id(join(c.dir, name, inner)))
      }
      assert.equal(new Set(all).size, all.length)
    },
  },

  'a file made under an old name is another object': {
    lowers: [dir => (write(join(dir, 'f'), 'x'), mkdir(join(dir, 'd')))],
    run: c => {
      using held = open(join(c.dir, 'f'), sys.O_RDONLY)
      using heldDir = open(join(c.dir, 'd'), sys.O_RDONLY | sys.O_DIRECTORY)
      unlink(join(c.dir, 'f'))
      rmdir(join(c.dir, 'd'))
      write(join(c.dir, 'f'), 'x')
      mkdir(join(c.dir, 'd'))
      assert.notEqual(stat(join(c.dir, 'f')).ino, sys.statFd(held.n).ino)
      assert.notEqual(stat(join(c.dir, 'd')).ino, sys.statFd(heldDir.n).ino)
    },
  },

  'st_ino follows renames, over existing names and between directories': {
    lowers: [dir => (mkdir(join(dir, 'd')), write(join(dir, 'a'), 'a'), write(join(dir, 'd', 'b'), 'b'))],
    run: c => {
      const a = id(join(c.dir, 'a'))
      rename(join(c.dir, 'a'), join(c.dir, 'd', 'b'))
      assert.equal(id(join(c.dir, 'd', 'b')), a)
      mkdir(join(c.dir, 'n'))
      const n = id(join(c.dir, 'n'))
      rename(join(c.dir, 'n'), join(c.dir, 'd', 'n'))
      assert.equal(id(join(c.dir, 'd', 'n')), n)
    },
  },

  'one st_dev for everything': {
    lowers: [dir => (mkdir(join(dir, 'd')), write(join(dir, 'f'), '')), dir => write(join(dir, 'g'), '')],
    run: c => {
      write(join(c.dir, 'u'), '')
      assert.equal(
        new Set([c.dir, ...ls(c.dir).map(name => join(c.dir, name))].map(path => stat(path).dev)).size,
        1,
      )
    },
  },

  'st_ino after names and inodes were dropped from the cache': {
    alone: true,
    on: ['kernel', 'lamina'],
    lowers: [dir => (mkdir(join(dir, 'd')), write(join(dir, 'd', 'f'), 'x'), write(join(dir, 'g'), ''))],
    run: c => {
      write(join(c.dir, 'u'), '')
      chmod(join(c.dir, 'g'), 0o600)
      const paths = ['d', 'd/f', 'g', 'u'].map(name => join(c.dir, name))
      using held = open(join(c.dir, 'd', 'f'), sys.O_RDONLY)
      const before = paths.map(id)
      if (c.subject === 'lamina') c.mount().dropCaches()
      assert.deepEqual(paths.map(id), before)
      assert.equal(sys.statFd(held.n).ino, stat(join(c.dir, 'd', 'f')).ino)
      assert.ok(exists(join(c.dir, 'u')))
    },
  },

  'st_ino and generation numbers are not zero, and readable as 64 bits': {
    lowers: [dir => write(join(dir, 'f'), '')],
    run: c => {
      for (const path of [c.dir, join(c.dir, 'f')]) assert.ok(stat(path).ino > 0)
    },
  },
}
