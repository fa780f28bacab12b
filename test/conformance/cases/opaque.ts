import assert from 'node:assert/strict'
import * as sys from '../../../src/sys/index.js'
import {
  exists,
  getxattr,
  join,
  listxattr,
  ls,
  mkdir,
  mknod,
  rename,
  rmdir,
  setxattr,
  text,
  unlink,
  write,
} from '../posix.js'
import type { Case, Cases, Fill } from '../run.js'

const OVERLAY = ['kernel', 'lamina'] as const
const NESTED = ['d', 'd/e', 'd/e/f', 'd/e/f/g'] as const

/** A tree four deep, a file `NAME` in each directory. */
const tree =
  (name: string): Fill =>
  dir => {
    for (const path of NESTED) {
      mkdir(join(dir, path))
      write(join(dir, path, name), name)
    }
  }

/** One mark of opacity, at each depth, seen the same whatever is looked at first. */
function dialect(mark: (dir: string) => void, on: readonly ('kernel' | 'lamina')[]): Record<string, Case> {
  const cases: Record<string, Case> = {}
  NESTED.forEach((marked, depth) => {
    for (const order of ['from the top', 'from the bottom'])
      cases[`depth ${depth + 1}, ${order}`] = {
        on,
        lowers: [dir => (tree('top')(dir), mark(join(dir, marked))), tree('below')],
        run: c => {
          const paths = order === 'from the top' ? NESTED : [...NESTED].reverse()
          for (const path of paths) {
            const hidden = path === marked || path.startsWith(`${marked}/`)
            const inner = NESTED.filter(
              p => p.startsWith(`${path}/`) && !p.slice(path.length + 1).includes('/'),
            )
            const expected = [
              ...inner.map(p => p.slice(path.length + 1)),
              ...(hidden ? [] : ['below']),
              'top',
            ].sort()
            assert.equal(exists(join(c.dir, path, 'below')), !hidden, path)
            assert.deepEqual(ls(join(c.dir, path)), expected, path)
            assert.deepEqual(listxattr(join(c.dir, path)), [], path)
          }
        },
      }
  })
  return cases
}

const dialects: Record<string, Record<string, Case>> = {
  'trusted.overlay.opaque=y': dialect(dir => setxattr(dir, 'trusted.overlay.opaque', 'y'), OVERLAY),
  'user.overlay.opaque=y': dialect(dir => setxattr(dir, 'user.overlay.opaque', 'y'), ['lamina']),
  'user.fuseoverlayfs.opaque=y': dialect(dir => setxattr(dir, 'user.fuseoverlayfs.opaque', 'y'), ['lamina']),
  '.wh..wh..opq as a file': dialect(dir => write(join(dir, '.wh..wh..opq'), '', 0), ['lamina']),
  '.wh..opq as a character device': dialect(dir => mknod(join(dir, '.wh..opq'), sys.S_IFCHR, 0), ['lamina']),
}

export const opaque: Cases = {
  ...Object.fromEntries(
    Object.entries(dialects).flatMap(([mark, cases]) =>
      Object.entries(cases).map(([name, given]) => [`${mark} at ${name}`, given]),
    ),
  ),

  'an opaque directory in upper hides the layers, and later changes show': {
    upper: dir => (
      mkdir(join(dir, 'd')),
      setxattr(join(dir, 'd'), 'trusted.overlay.opaque', 'y'),
      write(join(dir, 'd', 'up'), '')
    ),
    lowers: [tree('below')],
    run: c => {
      assert.deepEqual(ls(join(c.dir, 'd')), ['up'])
      write(join(c.dir, 'd', 'below'), 'new')
      mkdir(join(c.dir, 'd', 'e'))
      assert.deepEqual(ls(join(c.dir, 'd', 'e')), [])
      unlink(join(c.dir, 'd', 'below'))
      rmdir(join(c.dir, 'd', 'e'))
      assert.deepEqual(ls(join(c.upper, 'd')), ['up'])
      unlink(join(c.dir, 'd', 'up'))
      rmdir(join(c.dir, 'd'))
      assert.deepEqual(ls(c.dir), [])
    },
  },

  'opaque=n, or empty, is not opaque': {
    on: OVERLAY,
    lowers: [
      dir => (
        tree('top')(dir),
        setxattr(join(dir, 'd'), 'trusted.overlay.opaque', 'n'),
        setxattr(join(dir, 'd/e'), 'trusted.overlay.opaque', '')
      ),
      tree('below'),
    ],
    run: c => {
      assert.deepEqual(ls(join(c.dir, 'd')), ['below', 'e', 'top'])
      assert.deepEqual(ls(join(c.dir, 'd/e')), ['below', 'f', 'top'])
    },
  },

  'a directory made over a whiteout is opaque in upperdir and stays so when renamed': {
    lowers: [tree('below')],
    alone: true,
    run: c => {
      for (const path of [...NESTED].reverse()) {
        unlink(join(c.dir, path, 'below'))
        rmdir(join(c.dir, path))
      }
      mkdir(join(c.dir, 'd'))
      write(join(c.dir, 'd', 'new'), 'new')
      if (c.upper !== '') assert.equal(getxattr(join(c.upper, 'd'), 'trusted.overlay.opaque'), 'y')
      rename(join(c.dir, 'd'), join(c.dir, 'moved'))
      mkdir(join(c.dir, 'd'))
      c.remount()
      assert.deepEqual(ls(c.dir), ['d', 'moved'])
      assert.deepEqual(ls(join(c.dir, 'd')), [])
      assert.equal(text(join(c.dir, 'moved', 'new')), 'new')
    },
  },

  'a new directory where no layer has one holds nothing from below when the layers are looked at again': {
    alone: true,
    lowers: [dir => mkdir(join(dir, 'p')), tree('below')],
    run: c => {
      mkdir(join(c.dir, 'p', 'q'))
      mkdir(join(c.dir, 'p', 'q', 'r'))
      c.remount()
      assert.deepEqual(ls(join(c.dir, 'p', 'q')), ['r'])
    },
    on: OVERLAY,
  },
}
