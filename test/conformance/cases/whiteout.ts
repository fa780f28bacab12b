import assert from 'node:assert/strict'
import * as sys from '../../../src/sys/index.js'
import {
  exists,
  facts,
  getxattr,
  join,
  kindOf,
  link,
  listxattr,
  ls,
  mkdir,
  mknod,
  open,
  outcome,
  rename,
  rmdir,
  setxattr,
  stat,
  symlink,
  text,
  unlink,
  write,
} from '../posix.js'
import type { Cases } from '../run.js'

/** An overlay's whiteout, as the kernel makes it. */
const whiteout = (path: string): void => mknod(path, sys.S_IFCHR, 0)
const isWhiteout = (path: string): boolean => kindOf(stat(path).mode) === 'char' && stat(path).rdev === 0
const below = (dir: string): void => {
  for (const name of ['a', 'b', 'c']) write(join(dir, name), name)
  mkdir(join(dir, 'd'))
  mkdir(join(dir, 'd', 'e'))
  write(join(dir, 'd', 'f'), 'f')
  write(join(dir, 'd', 'e', 'g'), 'g')
}
const OVERLAY = ['kernel', 'lamina'] as const

export const whiteouts: Cases = {
  'character device 0:0 in a lower layer hides a file and a directory': {
    lowers: [dir => (whiteout(join(dir, 'a')), whiteout(join(dir, 'd'))), below],
    run: c => {
      assert.deepEqual(ls(c.dir), ['b', 'c'])
      for (const name of ['a', 'd']) {
        assert.equal(
          outcome(() => stat(join(c.dir, name)).size),
          'ENOENT',
        )
        assert.equal(
          outcome(() => unlink(join(c.dir, name))),
          'ENOENT',
        )
        assert.equal(
          outcome(() => rename(join(c.dir, name), join(c.dir, 'z'))),
          'ENOENT',
        )
      }
      assert.equal(
        outcome(() => stat(join(c.dir, 'd', 'f')).size),
        'ENOENT',
      )
    },
  },

  'a whiteout with nothing below it is not seen either': {
    lowers: [
      dir => (
        whiteout(join(dir, 'nothing')),
        mkdir(join(dir, 'only')),
        whiteout(join(dir, 'only', 'nothing'))
      ),
    ],
    // The kernel lists it in a directory of one layer, and then does not find it.
    on: ['lamina'],
    run: c => {
      assert.deepEqual(ls(c.dir), ['only'])
      assert.deepEqual(ls(join(c.dir, 'only')), [])
      assert.equal(exists(join(c.dir, 'only', 'nothing')), false)
      rmdir(join(c.dir, 'only'))
      assert.deepEqual(ls(c.dir), [])
    },
  },

  'a whiteout in the middle hides what is below, not what is above': {
    lowers: [
      dir => write(join(dir, 'a'), 'top'),
      dir => (whiteout(join(dir, 'a')), whiteout(join(dir, 'b')), whiteout(join(dir, 'd'))),
      below,
    ],
    run: c => {
      assert.equal(text(join(c.dir, 'a')), 'top')
      assert.deepEqual(ls(c.dir), ['a', 'c'])
    },
  },

  'a whiteout between directories of one name cuts the merge': {
    lowers: [
      dir => (mkdir(join(dir, 'd')), write(join(dir, 'd', 'top'), '')),
      dir => whiteout(join(dir, 'd')),
      below,
    ],
    run: c => assert.deepEqual(ls(join(c.dir, 'd')), ['top']),
  },

  'whiteouts deep in a merged directory, whatever is looked at first': {
    lowers: [
      dir => (
        mkdir(join(dir, 'd')),
        mkdir(join(dir, 'd', 'e')),
        whiteout(join(dir, 'd', 'e', 'g')),
        whiteout(join(dir, 'd', 'f'))
      ),
      below,
    ],
    run: c => {
      assert.equal(exists(join(c.dir, 'd', 'e', 'g')), false)
      assert.deepEqual(ls(join(c.dir, 'd', 'e')), [])
      assert.deepEqual(ls(join(c.dir, 'd')), ['e'])
    },
  },

  '.wh.NAME in a lower layer hides NAME and is itself not seen': {
    on: ['lamina'],
    lowers: [
      dir => {
        write(join(dir, '.wh.a'), '', 0)
        write(join(dir, '.wh.d'), '', 0)
        mkdir(join(dir, 'sub'))
        write(join(dir, 'sub', '.wh.x'), '', 0)
      },
      dir => (
        below(dir),
        mkdir(join(dir, 'sub')),
        write(join(dir, 'sub', 'x'), ''),
        write(join(dir, 'sub', 'y'), '')
      ),
    ],
    run: c => {
      assert.equal(exists(join(c.dir, 'a')), false)
      assert.equal(exists(join(c.dir, 'sub', 'x')), false)
      assert.deepEqual(ls(c.dir), ['b', 'c', 'sub'])
      assert.deepEqual(ls(join(c.dir, 'sub')), ['y'])
      assert.equal(exists(join(c.dir, '.wh.a')), false)
      write(join(c.dir, 'a'), 'anew')
      mkdir(join(c.dir, 'd'))
      assert.deepEqual(ls(c.dir), ['a', 'b', 'c', 'd', 'sub'])
      assert.deepEqual(ls(join(c.dir, 'd')), [])
      unlink(join(c.dir, 'a'))
      assert.deepEqual(ls(c.dir), ['b', 'c', 'd', 'sub'])
    },
  },

  '.wh.NAME beside NAME in one layer hides only what is below that layer': {
    on: ['lamina'],
    lowers: [
      dir => (mkdir(join(dir, 'd')), write(join(dir, 'd', 'mine'), ''), write(join(dir, '.wh.d'), '', 0)),
      below,
    ],
    run: c => {
      assert.deepEqual(ls(join(c.dir, 'd')), ['mine'])
      assert.deepEqual(ls(c.dir), ['a', 'b', 'c', 'd'])
    },
  },

  'empty files with trusted.overlay.whiteout in a directory marked opaque=x': {
    on: OVERLAY,
    alone: true,
    lowers: [
      dir => {
        setxattr(dir, 'trusted.overlay.opaque', 'x')
        write(join(dir, 'a'), '')
        setxattr(join(dir, 'a'), 'trusted.overlay.whiteout', 'y')
        mkdir(join(dir, 'd'))
        setxattr(join(dir, 'd'), 'trusted.overlay.opaque', 'x')
        write(join(dir, 'd', 'f'), '')
        setxattr(join(dir, 'd', 'f'), 'trusted.overlay.whiteout', 'y')
        write(join(dir, 'd', 'empty'), '')
      },
      below,
    ],
    run: c => {
      assert.equal(exists(join(c.dir, 'a')), false)
      assert.equal(exists(join(c.dir, 'd', 'f')), false)
      assert.deepEqual(ls(c.dir), ['b', 'c', 'd'])
      assert.deepEqual(ls(join(c.dir, 'd')), ['e', 'empty'])
      assert.deepEqual(listxattr(join(c.dir, 'd')), [])
    },
  },

  'empty files with user.overlay.whiteout in a directory marked opaque=x': {
    on: ['lamina'],
    lowers: [
      dir => {
        mkdir(join(dir, 'd'))
        setxattr(join(dir, 'd'), 'user.overlay.opaque', 'x')
        write(join(dir, 'd', 'f'), '')
        setxattr(join(dir, 'd', 'f'), 'user.overlay.whiteout', 'y')
      },
      below,
    ],
    run: c => {
      assert.equal(exists(join(c.dir, 'd', 'f')), false)
      assert.deepEqual(ls(join(c.dir, 'd')), ['e'])
    },
  },

  'unlink of a lower file leaves a whiteout in upperdir': {
    lowers: [below],
    run: c => {
      unlink(join(c.dir, 'a'))
      unlink(join(c.dir, 'd', 'e', 'g'))
      assert.deepEqual(ls(c.dir), ['b', 'c', 'd'])
      assert.deepEqual(ls(join(c.dir, 'd', 'e')), [])
      if (c.upper === '') return
      assert.ok(isWhiteout(join(c.upper, 'a')))
      assert.ok(isWhiteout(join(c.upper, 'd', 'e', 'g')))
      assert.deepEqual(ls(c.upper), ['a', 'd'])
    },
  },

  'unlink of what is only in upper leaves nothing there': {
    lowers: [below],
    run: c => {
      write(join(c.dir, 'new'), '')
      mkdir(join(c.dir, 'd', 'newdir'))
      symlink('x', join(c.dir, 'd', 'newdir', 'link'))
      unlink(join(c.dir, 'd', 'newdir', 'link'))
      rmdir(join(c.dir, 'd', 'newdir'))
      unlink(join(c.dir, 'new'))
      if (c.upper !== '') {
        assert.deepEqual(ls(join(c.upper, 'd')), [])
        assert.deepEqual(ls(c.upper), ['d'])
      }
    },
  },

  'unlink of a copied-up file leaves a whiteout': {
    lowers: [below],
    run: c => {
      write(join(c.dir, 'a'), 'changed')
      unlink(join(c.dir, 'a'))
      assert.equal(exists(join(c.dir, 'a')), false)
      if (c.upper !== '') assert.ok(isWhiteout(join(c.upper, 'a')))
    },
  },

  'a file, directory, symlink, fifo or link made over a whiteout replaces it': {
    lowers: [
      dir => ['file', 'dir', 'symlink', 'fifo', 'link', 'renamed'].map(name => write(join(dir, name), 'old')),
    ],
    run: c => {
      for (const name of ls(c.dir)) unlink(join(c.dir, name))
      assert.deepEqual(ls(c.dir), [])
      write(join(c.dir, 'file'), 'new')
      mkdir(join(c.dir, 'dir'))
      symlink('target', join(c.dir, 'symlink'))
      mknod(join(c.dir, 'fifo'), sys.S_IFIFO | 0o600)
      link(join(c.dir, 'file'), join(c.dir, 'link'))
      write(join(c.dir, 'source'), 'moved')
      rename(join(c.dir, 'source'), join(c.dir, 'renamed'))
      assert.deepEqual(ls(c.dir), ['dir', 'fifo', 'file', 'link', 'renamed', 'symlink'])
      for (const name of ls(c.dir)) c.note(name, facts(join(c.dir, name)))
      assert.equal(text(join(c.dir, 'renamed')), 'moved')
      if (c.upper !== '') {
        assert.deepEqual(ls(c.upper), ['dir', 'fifo', 'file', 'link', 'renamed', 'symlink'])
        assert.equal(getxattr(join(c.upper, 'dir'), 'trusted.overlay.opaque'), 'y')
      }
      for (const name of ls(c.dir)) (name === 'dir' ? rmdir : unlink)(join(c.dir, name))
      assert.deepEqual(ls(c.dir), [])
      if (c.upper !== '') for (const name of ls(c.upper)) assert.ok(isWhiteout(join(c.upper, name)), name)
    },
  },

  'O_EXCL over a whiteout creates, and O_CREAT over a whiteout does not show the old content': {
    lowers: [dir => (write(join(dir, 'a'), 'old content'), write(join(dir, 'b'), 'old content'))],
    run: c => {
      unlink(join(c.dir, 'a'))
      unlink(join(c.dir, 'b'))
      open(join(c.dir, 'a'), sys.O_CREAT | sys.O_EXCL | sys.O_WRONLY, 0o640).close()
      open(join(c.dir, 'b'), sys.O_CREAT | sys.O_RDWR, 0o600).close()
      assert.equal(text(join(c.dir, 'a')) + text(join(c.dir, 'b')), '')
      c.note('a', facts(join(c.dir, 'a')))
    },
  },

  'a directory removed and made again is empty': {
    lowers: [below],
    run: c => {
      unlink(join(c.dir, 'd', 'e', 'g'))
      rmdir(join(c.dir, 'd', 'e'))
      unlink(join(c.dir, 'd', 'f'))
      rmdir(join(c.dir, 'd'))
      assert.equal(exists(join(c.dir, 'd')), false)
      mkdir(join(c.dir, 'd'))
      assert.deepEqual(ls(join(c.dir, 'd')), [])
      assert.equal(exists(join(c.dir, 'd', 'f')), false)
      mkdir(join(c.dir, 'd', 'e'))
      assert.deepEqual(ls(join(c.dir, 'd', 'e')), [])
      write(join(c.dir, 'd', 'e', 'g'), 'again')
      assert.equal(text(join(c.dir, 'd', 'e', 'g')), 'again')
    },
  },

  'rmdir of a merged directory: ENOTEMPTY while something is seen, then a whiteout': {
    lowers: [dir => (mkdir(join(dir, 'd')), write(join(dir, 'd', 'top'), '')), below],
    run: c => {
      const d = join(c.dir, 'd')
      assert.equal(
        outcome(() => rmdir(d)),
        'ENOTEMPTY',
      )
      unlink(join(d, 'f'))
      unlink(join(d, 'top'))
      assert.equal(
        outcome(() => rmdir(d)),
        'ENOTEMPTY',
      )
      unlink(join(d, 'e', 'g'))
      rmdir(join(d, 'e'))
      rmdir(d)
      assert.equal(
        outcome(() => ls(d)),
        'ENOENT',
      )
      if (c.upper !== '') assert.ok(isWhiteout(join(c.upper, 'd')))
    },
  },

  'rmdir of an empty lower directory, and of an upper directory full of whiteouts': {
    lowers: [
      dir => (
        mkdir(join(dir, 'empty')),
        mkdir(join(dir, 'full')),
        Array.from({ length: 50 }, (_, i) => write(join(dir, 'full', `${i}`), ''))
      ),
    ],
    run: c => {
      rmdir(join(c.dir, 'empty'))
      for (const name of ls(join(c.dir, 'full'))) unlink(join(c.dir, 'full', name))
      rmdir(join(c.dir, 'full'))
      assert.deepEqual(ls(c.dir), [])
      if (c.upper !== '')
        assert.deepEqual(
          ls(c.upper).map(name => isWhiteout(join(c.upper, name))),
          [true, true],
        )
    },
  },

  'unlink of a directory and rmdir of a file': {
    lowers: [below],
    run: c => {
      c.see('unlink lower dir', () => unlink(join(c.dir, 'd')))
      c.see('rmdir lower file', () => rmdir(join(c.dir, 'a')))
      mkdir(join(c.dir, 'up'))
      write(join(c.dir, 'upf'), '')
      c.see('unlink upper dir', () => unlink(join(c.dir, 'up')))
      c.see('rmdir upper file', () => rmdir(join(c.dir, 'upf')))
      c.see('mkdir over file', () => mkdir(join(c.dir, 'a')))
      c.see('mkdir over dir', () => mkdir(join(c.dir, 'd')))
      c.see('symlink over lower', () => symlink('x', join(c.dir, 'a')))
      c.see('mknod over lower', () => mknod(join(c.dir, 'a'), sys.S_IFIFO | 0o600))
      c.see('link over lower', () => link(join(c.dir, 'b'), join(c.dir, 'a')))
      c.see('O_EXCL over lower', () =>
        open(join(c.dir, 'a'), sys.O_CREAT | sys.O_EXCL | sys.O_WRONLY).close(),
      )
      assert.deepEqual(ls(c.dir), ['a', 'b', 'c', 'd', 'up', 'upf'])
    },
  },

  'a character device 0:0 cannot be made through the view': {
    on: OVERLAY,
    run: c => {
      c.see('mknod', () => mknod(join(c.dir, 'w'), sys.S_IFCHR | 0o600, 0))
      assert.deepEqual(ls(c.dir), [])
    },
  },

  'what is named .wh.NAME in the view never hides NAME': {
    on: ['lamina'],
    alone: true,
    lowers: [below],
    run: c => {
      outcome(() => write(join(c.dir, '.wh.a'), 'mine'))
      outcome(() => mkdir(join(c.dir, '.wh.d')))
      const listing = ls(c.dir)
      c.remount()
      assert.ok(exists(join(c.dir, 'a')))
      assert.ok(exists(join(c.dir, 'd', 'f')))
      assert.deepEqual(ls(c.dir), listing)
    },
  },

  'a whiteout made before the mount, in upper, is removed by creating over it': {
    upper: dir => (whiteout(join(dir, 'a')), mkdir(join(dir, 'd')), whiteout(join(dir, 'd', 'f'))),
    lowers: [below],
    run: c => {
      assert.deepEqual(ls(c.dir), ['b', 'c', 'd'])
      write(join(c.dir, 'a'), 'new')
      mkdir(join(c.dir, 'd', 'f'))
      assert.equal(text(join(c.dir, 'a')), 'new')
      assert.deepEqual(ls(join(c.dir, 'd', 'f')), [])
      assert.deepEqual(ls(join(c.dir, 'd')), ['e', 'f'])
      unlink(join(c.dir, 'a'))
      assert.ok(isWhiteout(join(c.upper, 'a')))
    },
  },

  'everything removed, one thing after another, then seen so after a remount': {
    alone: true,
    lowers: [below],
    run: c => {
      const empty = (dir: string): void => {
        for (const name of ls(dir)) {
          const path = join(dir, name)
          if (kindOf(stat(path).mode) === 'dir') {
            empty(path)
            rmdir(path)
          } else unlink(path)
        }
      }
      empty(c.dir)
      assert.deepEqual(ls(c.dir), [])
      c.remount()
      assert.deepEqual(ls(c.dir), [])
      below(c.dir)
      c.remount()
      assert.deepEqual(ls(c.dir), ['a', 'b', 'c', 'd'])
      assert.deepEqual(ls(join(c.dir, 'd', 'e')), ['g'])
    },
  },
}
