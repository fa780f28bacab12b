import assert from 'node:assert/strict'
import { chmod, join, ls, mkdir, read, rename, text, write } from '../posix.js'
import type { Cases, Context } from '../run.js'
import { walk } from '../tree.js'
import type { Mount } from '../../mount/fixture.js'

/** Each step on a new upperdir, that of the step before being the top lower layer: as layers of images come about. */

type Step = (dir: string) => void

function inTurn(c: Context, options: readonly string[], steps: readonly Step[]): void {
  c.mount().unmount()
  let lowers = [...c.lowers]
  for (const [i, step] of steps.entries()) {
    const [upper, work] = [`upper${i}`, `work${i}`].map(name => join(c.upper, '..', name)) as [string, string]
    for (const dir of [upper, work]) mkdir(dir)
    {
      using mount = c.again({ upper, work, lowers })
      step(mount.mountpoint)
    }
    lowers = [upper, ...lowers]
  }
  // What was written is read by both.
  for (const subject of ['kernel', 'lamina'] as const) {
    const mountpoint = join(c.upper, '..', `by-${subject}`)
    mkdir(mountpoint)
    using mount: Mount = c.over(subject, { lowers, mountpoint, options })
    const seen = [...walk(mount.mountpoint)]
      .map(
        ([path, entry]) =>
          `${path} ${entry.kind} ${entry.kind === 'file' ? text(join(mount.mountpoint, path)) : ''}`,
      )
      .sort()
    c.note(`as ${subject} shows it`, seen)
  }
}

const tree = (dir: string): void => {
  for (const path of ['d', 'd/pop', 'd/pop/sub', 'other', 'empty']) mkdir(join(dir, path))
  for (const path of ['d/a', 'd/pop/b', 'd/pop/sub/c', 'other/o']) write(join(dir, path), path)
}

const OVERLAY = ['kernel', 'lamina'] as const
const redirect = ['redirect_dir=on']
const metacopy = ['redirect_dir=on', 'metacopy=on']

export const rotated: Cases = {
  'a directory is moved, and then one out of it': {
    on: OVERLAY,
    options: redirect,
    lowers: [tree],
    run: c => {
      inTurn(c, redirect, [
        dir => rename(join(dir, 'd'), join(dir, 'empty', 'd')),
        dir => rename(join(dir, 'empty/d/pop'), join(dir, 'empty/pop')),
        dir => {
          assert.equal(text(join(dir, 'empty/pop/b')), 'd/pop/b')
          assert.deepEqual(ls(join(dir, 'empty/d')), ['a'])
          rename(join(dir, 'empty/pop/sub'), join(dir, 'sub'))
          rename(join(dir, 'empty'), join(dir, 'full'))
        },
        dir => {
          assert.equal(text(join(dir, 'sub/c')), 'd/pop/sub/c')
          assert.equal(text(join(dir, 'full/pop/b')), 'd/pop/b')
          rename(join(dir, 'sub'), join(dir, 'sub2'))
          rename(join(dir, 'sub2'), join(dir, 'full/d/sub3'))
          mkdir(join(dir, 'd'))
          write(join(dir, 'd/new'), 'new')
        },
        dir => {
          assert.equal(text(join(dir, 'full/d/sub3/c')), 'd/pop/sub/c')
          assert.deepEqual(ls(join(dir, 'd')), ['new'])
          rename(join(dir, 'full/d'), join(dir, 'last'))
        },
      ])
    },
  },
  "directories take each other's places": {
    on: OVERLAY,
    options: redirect,
    lowers: [tree],
    run: c => {
      const swap = (dir: string): void => {
        rename(join(dir, 'd'), join(dir, 'aside'))
        rename(join(dir, 'other'), join(dir, 'd'))
        rename(join(dir, 'aside'), join(dir, 'other'))
      }
      inTurn(c, redirect, [
        swap,
        dir => {
          assert.equal(text(join(dir, 'other/pop/b')), 'd/pop/b')
          swap(dir)
        },
        dir => {
          assert.equal(text(join(dir, 'd/pop/b')), 'd/pop/b')
          rename(join(dir, 'd/pop'), join(dir, 'other/pop'))
          swap(dir)
        },
      ])
    },
  },
  'files with metadata only, moved in directories that were moved': {
    on: OVERLAY,
    options: metacopy,
    lowers: [tree],
    run: c => {
      inTurn(c, metacopy, [
        dir => {
          rename(join(dir, 'd'), join(dir, 'empty', 'd'))
          chmod(join(dir, 'empty/d/a'), 0o600)
        },
        dir => {
          rename(join(dir, 'empty/d/a'), join(dir, 'a'))
          rename(join(dir, 'empty/d/pop/b'), join(dir, 'other/b'))
        },
        dir => {
          assert.equal(text(join(dir, 'a')), 'd/a')
          assert.equal(text(join(dir, 'other/b')), 'd/pop/b')
          chmod(join(dir, 'a'), 0o640)
          rename(join(dir, 'a'), join(dir, 'a2'))
          rename(join(dir, 'other'), join(dir, 'empty/other'))
        },
        dir => {
          assert.equal(text(join(dir, 'a2')), 'd/a')
          chmod(join(dir, 'empty/other/b'), 0o604)
          rename(join(dir, 'empty/other/b'), join(dir, 'empty/d/a'))
          assert.equal(read(join(dir, 'empty/d/a')).length, 7)
        },
      ])
    },
  },
}
