import assert from 'node:assert/strict'
import * as sys from '../../../src/sys/index.js'
import {
  exists,
  facts,
  join,
  listxattr,
  ls,
  mkdir,
  overwrite,
  read,
  setxattr,
  text,
  truncate,
  write,
} from '../posix.js'
import type { Cases, Context } from '../run.js'

/** Data-only lower layers (`lowerdir=A::D`): what is in them is reached through absolute redirects of metacopy files only. */

const OVERLAY = ['kernel', 'lamina'] as const
const SIZE = 10_000

/** A file without data, as the kernel (or composefs) writes it, whose data is at `target` in a data-only layer. */
function pointTo(file: string, target: string): void {
  write(file, '', 0o640)
  truncate(file, SIZE)
  setxattr(file, 'trusted.overlay.metacopy', '')
  setxattr(file, 'trusted.overlay.redirect', target)
}

/** The case's mount again, with its last lower layer as a data-only one. */
function withDataOnly(c: Context, act: () => void): void {
  c.mount().unmount()
  const [data, ...above] = c.lowers.slice().reverse()
  assert.ok(data !== undefined)
  using mount = c.again({ upper: c.upper, work: c.work, lowers: [...above.reverse(), '', data] })
  act()
  mount.unmount()
}

export const dataOnly: Cases = {
  'data is found there, and nothing else of it shows': {
    on: OVERLAY,
    options: ['metacopy=on', 'redirect_dir=on'],
    lowers: [
      dir => {
        pointTo(join(dir, 'near'), '/blob')
        mkdir(join(dir, 'd'))
        pointTo(join(dir, 'd', 'far'), '/store/12/34')
        pointTo(join(dir, 'lost'), '/not/there')
        write(join(dir, 'own'), 'own')
      },
      dir => {
        write(join(dir, 'blob'), 'b'.repeat(SIZE), 0o600)
        for (const path of ['store', 'store/12']) mkdir(join(dir, path))
        write(join(dir, 'store/12/34'), 's'.repeat(SIZE))
        write(join(dir, 'own'), 'not this one')
      },
    ],
    run: c => {
      withDataOnly(c, () => {
        assert.deepEqual(ls(c.dir), ['d', 'lost', 'near', 'own'])
        assert.ok(!exists(join(c.dir, 'blob')))
        assert.equal(text(join(c.dir, 'near')), 'b'.repeat(SIZE))
        assert.equal(text(join(c.dir, 'd', 'far')), 's'.repeat(SIZE))
        assert.equal(text(join(c.dir, 'own')), 'own')
        for (const name of ['near', 'd/far']) c.note(name, facts(join(c.dir, name)))
        // The kernel looks for the data at open (ENOENT), we do at lookup (EIO, as for any metacopy file): neither shows zeros.
        assert.throws(() => read(join(c.dir, 'lost')), /No such file or directory|Input\/output error/)
        overwrite(join(c.dir, 'near'), 'X', 5)
      })
      assert.ok(!listxattr(join(c.upper, 'near')).includes('trusted.overlay.metacopy'))
      withDataOnly(c, () => {
        const now = read(join(c.dir, 'near'))
        assert.deepEqual([now.length, now.subarray(4, 7).toString()], [SIZE, 'bXb'])
      })
      assert.equal(
        sys.statAt(sys.AT_FDCWD, join(c.lowers[0] ?? '', 'near'))?.blocks,
        0,
        'the layer is as it was',
      )
    },
  },
}
