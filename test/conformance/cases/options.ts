import assert from 'node:assert/strict'
import * as sys from '../../../src/sys/index.js'
import { mountTmpfs, umount } from '../../mount/fixture.js'
import {
  chmod,
  chown,
  exists,
  facts,
  getxattr,
  join,
  listxattr,
  ls,
  mkdir,
  mknod,
  mtime,
  open,
  outcome,
  overwrite,
  read,
  rename,
  rmdir,
  setxattr,
  stat,
  symlink,
  text,
  truncate,
  unlink,
  write,
} from '../posix.js'
import { compare, walk } from '../tree.js'
import type { Cases, Context } from '../run.js'
import { dataOnly } from './data-only.js'
import { index } from './indexed.js'
import { rotated } from './rotated.js'

/** Options that are off by default, one group of cases each. */

const OVERLAY = ['kernel', 'lamina'] as const
const dirTree = (dir: string): void => {
  for (const path of ['d', 'd/e', 'd/e/f', 'other']) mkdir(join(dir, path))
  for (const path of ['d/1', 'd/e/2', 'd/e/f/3', 'other/4']) write(join(dir, path), path)
}

const names = (c: Context, path: string): string[] => ls(join(c.dir, path))

/** The same view before and after a remount. */
function settled(c: Context): void {
  const before = walk(c.dir)
  c.remount()
  assert.deepEqual(compare(before, walk(c.dir)), [], 'the same after a remount')
}

const redirect = ['redirect_dir=on']

const redirectDir: Cases = {
  'a lower directory is renamed': {
    on: OVERLAY,
    options: redirect,
    lowers: [dirTree],
    run: c => {
      rename(join(c.dir, 'd'), join(c.dir, 'moved'))
      assert.deepEqual(names(c, 'moved'), ['1', 'e'])
      assert.equal(text(join(c.dir, 'moved', 'e', 'f', '3')), 'd/e/f/3')
      c.note('redirect', getxattr(join(c.upper, 'moved'), 'trusted.overlay.redirect') ?? null)
      settled(c)
      assert.deepEqual(ls(c.dir), ['moved', 'other'])
    },
  },
  'into another directory the redirect is a path from the root': {
    on: OVERLAY,
    options: redirect,
    lowers: [dirTree],
    run: c => {
      rename(join(c.dir, 'd', 'e'), join(c.dir, 'other', 'e2'))
      c.note('redirect', getxattr(join(c.upper, 'other', 'e2'), 'trusted.overlay.redirect') ?? null)
      settled(c)
      assert.deepEqual(names(c, 'other/e2'), ['2', 'f'])
      assert.deepEqual(names(c, 'd'), ['1'])
    },
  },
  'nested, repeated, there and back, over whiteouts, and one made anew under the old name': {
    on: OVERLAY,
    options: redirect,
    lowers: [dirTree],
    run: c => {
      const at = (path: string): string => join(c.dir, path)
      rename(at('d/e/f'), at('d/f2'))
      rename(at('d'), at('x'))
      rename(at('x'), at('y'))
      mkdir(at('d'))
      write(at('d/new'), 'new')
      rename(at('y/e'), at('d/e'))
      write(at('d/e/2'), 'changed')
      settled(c)
      rename(at('d'), at('z'))
      rename(at('y'), at('d'))
      unlink(at('other/4'))
      rmdir(at('other'))
      rename(at('z'), at('other'))
      settled(c)
      c.note('all', [...walk(c.dir, { contents: false, xattr: () => false }).keys()].sort())
    },
  },
  'a merged directory, and over an empty one': {
    on: OVERLAY,
    options: redirect,
    lowers: [dir => (dirTree(dir), mkdir(join(dir, 'empty'))), dirTree],
    run: c => {
      write(join(c.dir, 'd', 'up'), 'up')
      rename(join(c.dir, 'd'), join(c.dir, 'empty'))
      assert.deepEqual(names(c, 'empty'), ['1', 'e', 'up'])
      settled(c)
      c.see('over a full one', () => rename(join(c.dir, 'empty'), join(c.dir, 'other')))
      c.see('exchange', () => rename(join(c.dir, 'empty'), join(c.dir, 'other'), sys.RENAME_EXCHANGE))
      settled(c)
      assert.deepEqual(names(c, 'empty'), ['4'])
    },
  },
  'redirect_dir=follow follows what was written, and writes none': {
    on: OVERLAY,
    options: redirect,
    lowers: [dirTree],
    run: c => {
      rename(join(c.dir, 'd'), join(c.dir, 'moved'))
      c.remount(['redirect_dir=follow'])
      assert.deepEqual(names(c, 'moved'), ['1', 'e'])
      c.see('rename', () => rename(join(c.dir, 'other'), join(c.dir, 'other2')))
    },
  },
  'redirect_dir=nofollow does not follow': {
    on: OVERLAY,
    options: redirect,
    lowers: [dirTree],
    run: c => {
      rename(join(c.dir, 'd'), join(c.dir, 'moved'))
      c.remount(['redirect_dir=nofollow'])
      c.see('listing', () => names(c, 'moved'))
    },
  },
  'a hostile redirect leads nowhere': {
    on: ['lamina'],
    options: redirect,
    lowers: [dirTree],
    upper: dir => {
      for (const [i, target] of [
        '../../../../etc',
        '/../../etc',
        '/',
        '..',
        '.',
        '',
        'd/../../..',
        'n'.repeat(300),
        '/h0',
      ].entries()) {
        mkdir(join(dir, `h${i}`))
        setxattr(join(dir, `h${i}`), 'trusted.overlay.redirect', target)
      }
    },
    run: c => {
      for (let i = 0; i < 9; i++) {
        const seen = outcome(() => names(c, `h${i}`))
        assert.ok(!JSON.stringify(seen).includes('passwd'), JSON.stringify(seen))
      }
      assert.deepEqual(names(c, 'd'), ['1', 'e'])
    },
  },
}

const metacopy: Cases = {
  'chmod and chown copy no data, a write completes the copy': {
    on: OVERLAY,
    options: ['metacopy=on', 'redirect_dir=on'],
    lowers: [
      dir => (write(join(dir, 'f'), Buffer.alloc(1 << 20, 'l')), setxattr(join(dir, 'f'), 'user.a', 'v')),
    ],
    run: c => {
      chmod(join(c.dir, 'f'), 0o600)
      chown(join(c.dir, 'f'), 5, 6)
      assert.equal(read(join(c.dir, 'f')).length, 1 << 20)
      assert.ok(stat(join(c.upper, 'f')).blocks * 512 < 4096 * 3)
      assert.ok(listxattr(join(c.upper, 'f')).includes('trusted.overlay.metacopy'))
      c.note('facts', facts(join(c.dir, 'f')))
      c.remount()
      assert.equal(read(join(c.dir, 'f'))[1000], 108)
      rename(join(c.dir, 'f'), join(c.dir, 'g'))
      c.remount()
      assert.equal(read(join(c.dir, 'g')).length, 1 << 20)
      overwrite(join(c.dir, 'g'), 'X', 5)
      assert.ok(!listxattr(join(c.upper, 'g')).includes('trusted.overlay.metacopy'))
      c.remount()
      assert.equal(read(join(c.dir, 'g')).subarray(4, 7).toString(), 'lXl')
      c.note('in the end', facts(join(c.dir, 'g')))
    },
  },
  'truncate, times and xattrs of a file with metadata only': {
    on: OVERLAY,
    options: ['metacopy=on', 'redirect_dir=on'],
    lowers: [
      dir => ['cut', 'grown', 'times', 'xattr'].forEach(name => write(join(dir, name), 'x'.repeat(10_000))),
    ],
    run: c => {
      for (const name of ls(c.dir)) chmod(join(c.dir, name), 0o640)
      truncate(join(c.dir, 'cut'), 10)
      truncate(join(c.dir, 'grown'), 20_000)
      sys.utimensAt(sys.AT_FDCWD, join(c.dir, 'times'), 5, 5, 6, 6)
      setxattr(join(c.dir, 'xattr'), 'user.x', 'y')
      c.remount()
      for (const name of ls(c.dir))
        c.note(name, { ...facts(join(c.dir, name)), length: read(join(c.dir, name)).length })
      assert.equal(mtime(join(c.dir, 'times')), '6.000000006')
    },
  },
}

const numbers: Cases = {
  'st_ino is the same before and after copy-up and after a remount': {
    on: OVERLAY,
    options: ['xino=on'],
    lowers: [dirTree],
    run: c => {
      const paths = ['d', 'd/1', 'd/e', 'd/e/2', 'other', 'other/4']
      const inos = (): number[] => paths.map(path => stat(join(c.dir, path)).ino)
      const before = inos()
      chmod(join(c.dir, 'd', '1'), 0o600)
      overwrite(join(c.dir, 'd/e/2'), 'X')
      chmod(join(c.dir, 'other'), 0o700)
      assert.deepEqual(inos(), before)
      c.remount()
      assert.deepEqual(inos(), before)
    },
  },
  'layers on two file systems: one st_dev, different st_ino, d_ino agrees': {
    // The kernel gives a directory of the second one the number of another.
    on: ['lamina'],
    options: ['xino=on'],
    lowers: [
      dirTree,
      dir => (
        mountTmpfs(dir, 'size=1m'),
        write(join(dir, 'on tmpfs'), ''),
        mkdir(join(dir, 'd')),
        write(join(dir, 'd', 'too'), '')
      ),
    ],
    run: c => {
      try {
        const paths = ['', 'd', 'd/1', 'd/too', 'on tmpfs', 'other'].map(path => join(c.dir, path))
        assert.equal(new Set(paths.map(path => stat(path).dev)).size, 1)
        assert.equal(new Set(paths.map(path => stat(path).ino)).size, paths.length)
        using fd = open(c.dir, sys.O_RDONLY | sys.O_DIRECTORY)
        const batch = sys.listDir(fd.n)
        batch.names.forEach((name, i) => assert.equal(batch.inos[i], stat(join(c.dir, name)).ino, name))
      } finally {
        c.mount().unmount()
        umount(c.lowers[1]!)
      }
    },
  },
}

const owners: Cases = {
  'uidmapping and gidmapping present owners, and store them mapped back': {
    on: ['lamina'],
    options: ['uidmapping=0:1000:1:1:100000:65536', 'gidmapping=0:2000:1:1:200000:65536'],
    lowers: [
      dir => (write(join(dir, 'root'), ''), write(join(dir, 'five'), ''), chown(join(dir, 'five'), 5, 6)),
    ],
    run: c => {
      assert.deepEqual([stat(join(c.dir, 'root')).uid, stat(join(c.dir, 'root')).gid], [1000, 2000])
      assert.deepEqual([stat(join(c.dir, 'five')).uid, stat(join(c.dir, 'five')).gid], [100_004, 200_005])
      chown(join(c.dir, 'root'), 100_009, 200_009)
      assert.deepEqual([stat(join(c.upper, 'root')).uid, stat(join(c.upper, 'root')).gid], [10, 10])
    },
  },
  'squash_to_uid and squash_to_gid': {
    on: ['lamina'],
    options: ['squash_to_uid=77', 'squash_to_gid=78'],
    lowers: [dir => (write(join(dir, 'f'), ''), chown(join(dir, 'f'), 5, 6))],
    run: c => assert.deepEqual([stat(join(c.dir, 'f')).uid, stat(join(c.dir, 'f')).gid], [77, 78]),
  },
  'xattr_permissions=2 keeps owner, mode and type in an attribute': {
    on: ['lamina'],
    options: ['xattr_permissions=2'],
    lowers: [
      dir => (
        write(join(dir, 'f'), 'x'),
        setxattr(dir, 'user.containers.override_stat', '0:0:0755'),
        setxattr(join(dir, 'f'), 'user.containers.override_stat', '12:34:0640')
      ),
    ],
    run: c => {
      assert.equal(facts(join(c.dir, 'f'))['mode'], '640')
      assert.deepEqual([stat(join(c.dir, 'f')).uid, stat(join(c.dir, 'f')).gid], [12, 34])
      write(join(c.dir, 'new'), 'x', 0o604)
      chown(join(c.dir, 'new'), 1000, 1001)
      assert.match(getxattr(join(c.upper, 'new'), 'user.containers.override_stat') ?? '', /^1000:1001:0?604/)
      c.remount()
      assert.equal(stat(join(c.dir, 'new')).uid, 1000)
    },
  },
  'ino32_t keeps every number within 32 bits, also over several file systems': {
    on: ['lamina'],
    options: ['ino32_t'],
    lowers: [dirTree, dir => (mountTmpfs(dir, 'size=1m,inode64'), write(join(dir, 'on tmpfs'), ''))],
    run: c => {
      try {
        const paths = ['', 'd', 'd/1', 'd/e', 'on tmpfs', 'other', 'other/4'].map(path => join(c.dir, path))
        const inos = paths.map(path => stat(path).ino)
        assert.ok(
          inos.every(ino => ino > 0 && ino < 2 ** 32),
          inos.join(),
        )
        assert.equal(new Set(inos).size, paths.length)
      } finally {
        c.mount().unmount()
        umount(c.lowers[1]!)
      }
    },
  },
  'static_nlink shows 1 for directories': {
    on: ['lamina'],
    options: ['static_nlink'],
    lowers: [dirTree],
    run: c => assert.equal(stat(join(c.dir, 'd')).nlink, 1),
  },
  'noacl mounts and works': {
    on: ['lamina'],
    options: ['noacl'],
    lowers: [dirTree],
    run: c => {
      write(join(c.dir, 'f'), 'x', 0o640)
      assert.equal(facts(join(c.dir, 'f'))['mode'], '640')
    },
  },
}

const nesting: Cases = {
  "the view as a lower layer of the kernel's overlayfs": {
    on: ['lamina'],
    alone: true,
    lowers: [dirTree],
    run: c => {
      write(join(c.dir, 'd', 'up'), 'up')
      unlink(join(c.dir, 'd', '1'))
      for (const name of ['upper2', 'work2', 'mnt2']) mkdir(join(c.dir, '..', name))
      using over = c.over('kernel', {
        lowers: [c.dir],
        upper: join(c.dir, '..', 'upper2'),
        work: join(c.dir, '..', 'work2'),
        mountpoint: join(c.dir, '..', 'mnt2'),
      })
      assert.deepEqual(ls(join(over.mountpoint, 'd')), ['e', 'up'])
      unlink(join(over.mountpoint, 'd', 'up'))
      write(join(over.mountpoint, 'd', 'e', '2'), 'changed')
      assert.deepEqual(ls(join(over.mountpoint, 'd')), ['e'])
      assert.equal(text(join(c.dir, 'd', 'e', '2')), 'd/e/2')
    },
  },
  'overlay attributes set in the view are escaped, and seen again as they were': {
    on: OVERLAY,
    alone: true,
    lowers: [dirTree],
    run: c => {
      setxattr(join(c.dir, 'd'), 'trusted.overlay.opaque', 'y')
      assert.equal(getxattr(join(c.dir, 'd'), 'trusted.overlay.opaque'), 'y')
      assert.deepEqual(names(c, 'd'), ['1', 'e'])
      c.note(
        'in upper',
        listxattr(join(c.upper, 'd')).filter(name => name.includes('overlay.overlay')),
      )
      c.remount()
      assert.deepEqual(names(c, 'd'), ['1', 'e'])
      assert.equal(getxattr(join(c.dir, 'd'), 'trusted.overlay.opaque'), 'y')
    },
  },
}

const limits: Cases = {
  'volatile leaves a mark, and refuses an upper that was not unmounted': {
    on: ['lamina'],
    options: ['volatile'],
    lowers: [dirTree],
    run: c => {
      write(join(c.dir, 'f'), 'x')
      const mark = join(c.work, 'work', 'incompat', 'volatile')
      assert.ok(exists(mark), 'as the kernel marks it')
      c.mount().kill()
      assert.throws(() => c.remount(['volatile']), /volatile/)
    },
  },
  'a symlink in a layer is never followed out of it': {
    on: ['lamina'],
    alone: true,
    lowers: [
      dir => (symlink('/etc', join(dir, 'd')), symlink('/etc/passwd', join(dir, 'f'))),
      dir => (mkdir(join(dir, 'd')), write(join(dir, 'd', 'x'), '')),
    ],
    run: c => {
      assert.equal(facts(join(c.dir, 'd'))['kind'], 'symlink')
      chown(join(c.dir, 'f'), 3, 3)
      assert.equal(stat('/etc/passwd').uid, 0)
      assert.equal(facts(join(c.upper, 'f'))['kind'], 'symlink')
      mknod(join(c.dir, 'fifo'), sys.S_IFIFO | 0o600)
    },
  },
}

export const optionGroups: Readonly<Record<string, Cases>> = {
  redirectDir,
  rotated,
  index,
  metacopy,
  dataOnly,
  numbers,
  owners,
  nesting,
  limits,
}
