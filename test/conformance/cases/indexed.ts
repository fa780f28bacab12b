import assert from 'node:assert/strict'
import { join, link, ls, mkdir, overwrite, rename, same, stat, text, unlink, write } from '../posix.js'
import type { Cases } from '../run.js'

/** index=on: the names of a lower hard link stay one file. */

const OVERLAY = ['kernel', 'lamina'] as const

const linked = (dir: string): void => {
  mkdir(join(dir, 'd'))
  write(join(dir, 'a'), 'content')
  link(join(dir, 'a'), join(dir, 'b'))
  link(join(dir, 'a'), join(dir, 'd', 'c'))
}

export const index: Cases = {
  'a lower hard link copied up once is one file under all its names': {
    on: OVERLAY,
    options: ['index=on'],
    lowers: [linked],
    run: c => {
      overwrite(join(c.dir, 'a'), 'CONTENT')
      for (const name of ['a', 'b', 'd/c']) assert.equal(text(join(c.dir, name)), 'CONTENT', name)
      assert.ok(same(join(c.dir, 'a'), join(c.dir, 'd', 'c')))
      c.note('nlink', stat(join(c.dir, 'b')).nlink)
      c.remount()
      for (const name of ['a', 'b', 'd/c']) assert.equal(text(join(c.dir, name)), 'CONTENT', name)
      assert.ok(same(join(c.dir, 'a'), join(c.dir, 'b')))
      c.note('nlink after', stat(join(c.dir, 'b')).nlink)
    },
  },
  'st_nlink as names come and go': {
    on: OVERLAY,
    options: ['index=on'],
    lowers: [linked],
    run: c => {
      const nlink = (): number => stat(join(c.dir, 'd', 'c')).nlink
      const steps: number[] = [nlink()]
      unlink(join(c.dir, 'a'))
      steps.push(nlink())
      link(join(c.dir, 'b'), join(c.dir, 'new'))
      steps.push(nlink())
      rename(join(c.dir, 'b'), join(c.dir, 'd', 'b2'))
      steps.push(nlink())
      unlink(join(c.dir, 'new'))
      unlink(join(c.dir, 'd', 'b2'))
      steps.push(nlink())
      c.note('steps', steps)
      c.remount()
      c.note('after', nlink())
      write(join(c.dir, 'a'), 'anew')
      assert.equal(text(join(c.dir, 'd', 'c')), 'content')
    },
  },
  ...Object.fromEntries(
    [['index=on'], ['index=on', 'metacopy=on', 'redirect_dir=on']].map(options => [
      `a name that goes before anything is copied up is counted, with ${options.join()}`,
      {
        on: OVERLAY,
        options,
        lowers: [
          dir => {
            for (const pair of ['removed', 'replaced', 'kept']) {
              write(join(dir, pair), `content of ${pair}`)
              link(join(dir, pair), join(dir, `${pair}2`))
            }
          },
        ],
        run: c => {
          write(join(c.dir, 'new'), 'new')
          unlink(join(c.dir, 'removed'))
          rename(join(c.dir, 'new'), join(c.dir, 'replaced'))
          const look = (when: string): void => {
            for (const name of ls(c.dir)) {
              c.note(`${when}: ${name}`, [stat(join(c.dir, name)).nlink, text(join(c.dir, name))])
            }
          }
          look('at once')
          assert.equal(text(join(c.dir, 'replaced2')), 'content of replaced')
          assert.equal(stat(join(c.dir, 'removed2')).nlink, 1)
          c.remount()
          look('after a remount')
        },
      } satisfies Cases[string],
    ]),
  ),
}
