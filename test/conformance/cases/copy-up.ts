import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import * as sys from '../../../src/sys/index.js'
import { mountTmpfs, umount } from '../../mount/fixture.js'
import { acl } from '../acl.js'
import {
  append,
  atime,
  chmod,
  chown,
  errnoOf,
  exists,
  facts,
  hash,
  join,
  link,
  ls,
  mkdir,
  mknod,
  mtime,
  open,
  outcome,
  overwrite,
  read,
  rename,
  setxattr,
  stat,
  symlink,
  text,
  truncate,
  unlink,
  utimens,
  write,
  xattrs,
} from '../posix.js'
import type { Cases, Context } from '../run.js'

const OLD = { sec: 1_000_000_000, nsec: 123_456_789 }
const BEFORE_1970 = { sec: -86_401, nsec: 987_654_321 }

/** Every way to make a lower file be copied up that leaves content, size, mtime or mode as they were, or says how not. */
const TRIGGERS: Record<string, (path: string) => void> = {
  'open for writing': path => open(path, sys.O_WRONLY).close(),
  'open for reading and writing': path => open(path, sys.O_RDWR).close(),
  'open with O_APPEND': path => open(path, sys.O_WRONLY | sys.O_APPEND).close(),
  'open with O_TRUNC': path => open(path, sys.O_WRONLY | sys.O_TRUNC).close(),
  'open read-only with O_TRUNC': path => open(path, sys.O_RDONLY | sys.O_TRUNC).close(),
  'one byte overwritten': path => overwrite(path, 'X', 3),
  'one byte appended': path => append(path, 'X'),
  'truncate to 4': path => truncate(path, 4),
  'truncate to 10000': path => truncate(path, 10_000),
  chmod: path => chmod(path, 0o604),
  chown: path => chown(path, 7, 8),
  'chgrp only': path => chown(path, -1, 9),
  utimens: path => utimens(path, BEFORE_1970, OLD),
  setxattr: path => setxattr(path, 'user.new', 'v'),
  removexattr: path => sys.removexattrAt(sys.AT_FDCWD, path, 'user.a'),
  link: path => link(path, `${path}.link`),
  rename: path => {
    rename(path, `${path}.moved`)
    rename(`${path}.moved`, path)
  },
}

function lowerFile(path: string): void {
  write(path, 'the lower content', 0o640)
  chown(path, 1234, 5678)
  chmod(path, 0o4751)
  setxattr(path, 'user.a', 'value a')
  setxattr(path, 'user.empty', '')
  setxattr(path, 'trusted.t', Buffer.from([0, 255, 10]))
  setxattr(path, 'user.big', Buffer.alloc(1500, 'b'))
  utimens(path, OLD, OLD)
}

export const copyUp: Cases = {
  ...Object.fromEntries(
    Object.entries(TRIGGERS).map(([name, trigger]) => [
      `${name}: content, owner, mode, xattrs and mtime are as on a local file`,
      {
        lowers: [(dir: string) => (mkdir(join(dir, 'd')), lowerFile(join(dir, 'd', 'f')))],
        run: (c: Context) => {
          const path = join(c.dir, 'd', 'f')
          const before = Date.now() / 1000 - 2
          trigger(path)
          c.note('facts', facts(path))
          c.note('content', read(path).toString('hex').slice(0, 100))
          c.note('xattrs', xattrs(path))
          // Old to the nanosecond, or now.
          c.note('mtime', stat(path).mtime > before ? 'now' : mtime(path))
          if (c.lowers[0] !== undefined) {
            assert.equal(text(join(c.lowers[0], 'd', 'f')), 'the lower content')
            assert.equal(stat(join(c.lowers[0], 'd', 'f')).mode & 0o7777, 0o4751)
          }
        },
      },
    ]),
  ),

  'chown to nobody new clears setuid': {
    // FUSE sends nothing for it (fuse_setattr with HANDLE_KILLPRIV_V2), so the bit stays there.
    on: ['plain', 'kernel'],
    lowers: [dir => lowerFile(join(dir, 'f'))],
    run: c => {
      chown(join(c.dir, 'f'), -1, -1)
      c.note('facts', facts(join(c.dir, 'f')))
    },
  },

  'only reading copies nothing up': {
    lowers: [
      dir => (mkdir(join(dir, 'd')), lowerFile(join(dir, 'd', 'f')), symlink('f', join(dir, 'd', 'l'))),
    ],
    on: ['kernel', 'lamina'],
    run: c => {
      read(join(c.dir, 'd', 'f'))
      xattrs(join(c.dir, 'd', 'f'))
      ls(join(c.dir, 'd'))
      sys.readlinkat(sys.AT_FDCWD, join(c.dir, 'd', 'l'))
      outcome(() => unlink(join(c.dir, 'd', 'missing')))
      outcome(() => open(join(c.dir, 'd', 'f'), sys.O_WRONLY | sys.O_CREAT | sys.O_EXCL).close())
      assert.equal(exists(c.upper), false)
    },
  },

  'parents are made with the metadata of the directories below': {
    lowers: [
      dir => {
        let path = dir
        for (let i = 0; i < 5; i++) {
          path = join(path, 'p')
          mkdir(path)
          chown(path, 10 + i, 20 + i)
          chmod(path, 0o3751 - i)
          setxattr(path, 'user.depth', `${i}`)
        }
        write(join(path, 'f'), 'x')
        // From the bottom, as making an entry changes its parent.
        for (let i = 5; i > 0; i--)
          utimens(
            join(dir, ...Array<string>(i).fill('p')),
            { sec: 100 + i, nsec: i },
            { sec: 200 + i, nsec: 999_999_990 + i },
          )
      },
    ],
    run: c => {
      overwrite(join(c.dir, 'p/p/p/p/p/f'), 'y')
      for (let i = 1; i <= 5; i++) {
        const path = join(c.dir, ...Array<string>(i).fill('p'))
        c.note(`${i}`, { ...facts(path), mtime: mtime(path), xattrs: xattrs(path) })
        if (c.upper === '') continue
        const inUpper = join(c.upper, ...Array<string>(i).fill('p'))
        assert.equal(mtime(inUpper), mtime(path))
        assert.deepEqual(facts(inUpper), facts(path))
      }
    },
  },

  'sizes 0, 1, 4095, 4096, 4097 and 3 MiB + 5 arrive whole': {
    lowers: [dir => SIZES.forEach(size => write(join(dir, `${size}`), pattern(size)))],
    run: c => {
      for (const size of SIZES) {
        const path = join(c.dir, `${size}`)
        const before = hash(path)
        chmod(path, 0o600)
        assert.equal(stat(path).size, size)
        assert.equal(hash(path), before)
        if (c.upper !== '') assert.equal(hash(join(c.upper, `${size}`)), before)
        append(path, 'tail')
        assert.equal(read(path).length, size + 4)
      }
    },
  },

  'holes stay holes': {
    lowers: [
      dir => {
        write(join(dir, 'f'), '')
        using fd = open(join(dir, 'f'), sys.O_WRONLY)
        sys.truncateFd(fd.n, 64 << 20)
        for (const at of [0, 5 << 20, 40 << 20]) sys.pwriteSync(fd.n, Buffer.alloc(8192, 'h'), 0, 8192, at)
        sys.truncateFd(fd.n, (64 << 20) + 1)
        write(join(dir, 'empty'), '')
        truncate(join(dir, 'empty'), 1 << 30)
      },
    ],
    run: c => {
      const before = hash(join(c.dir, 'f'))
      chmod(join(c.dir, 'f'), 0o600)
      chmod(join(c.dir, 'empty'), 0o600)
      assert.equal(hash(join(c.dir, 'f')), before)
      assert.equal(stat(join(c.dir, 'f')).size, (64 << 20) + 1)
      assert.equal(stat(join(c.dir, 'empty')).size, 1 << 30)
      // The kernel finds holes in steps of 1 MiB.
      const most = c.subject === 'kernel' ? 4 << 20 : 64 << 10
      const files = [c.dir, ...(c.upper === '' ? [] : [c.upper])].flatMap(dir => [
        join(dir, 'f'),
        join(dir, 'empty'),
      ])
      for (const path of files)
        assert.ok(stat(path).blocks * 512 <= most, `${stat(path).blocks} blocks of ${path}`)
    },
  },

  'symlinks, fifos, sockets and devices are copied up as what they are': {
    lowers: [
      dir => {
        symlink('t'.repeat(3000), join(dir, 'symlink'))
        mknod(join(dir, 'fifo'), sys.S_IFIFO | 0o640)
        mknod(join(dir, 'socket'), sys.S_IFSOCK | 0o640)
        mknod(join(dir, 'char'), sys.S_IFCHR | 0o640, sys.makedev(1, 3))
        mknod(join(dir, 'block'), sys.S_IFBLK | 0o640, sys.makedev(4095, 1_000_000))
        for (const name of ls(dir)) {
          chown(join(dir, name), 11, 12)
          utimens(join(dir, name), OLD, OLD)
        }
      },
    ],
    run: c => {
      for (const name of ls(c.dir)) {
        chown(join(c.dir, name), 21, -1)
        c.note(name, { ...facts(join(c.dir, name)), mtime: mtime(join(c.dir, name)) })
        if (c.upper !== '') assert.deepEqual(facts(join(c.upper, name)), facts(join(c.dir, name)), name)
      }
      assert.equal(sys.readlinkat(sys.AT_FDCWD, join(c.dir, 'symlink')), 't'.repeat(3000))
    },
  },

  'times of a symlink': {
    lowers: [dir => symlink('x', join(dir, 'l'))],
    run: c => {
      utimens(join(c.dir, 'l'), OLD, BEFORE_1970)
      c.note('mtime', mtime(join(c.dir, 'l')))
      assert.equal(stat(join(c.dir, 'l')).mtime, BEFORE_1970.sec)
    },
  },

  'ACLs come along, access and default': {
    lowers: [
      dir => {
        write(join(dir, 'f'), 'x', 0o640)
        setxattr(join(dir, 'f'), 'system.posix_acl_access', acl('u::rw-,u:1000:rw-,g::r--,m::rw-,o::---'))
        mkdir(join(dir, 'd'), 0o750)
        setxattr(join(dir, 'd'), 'system.posix_acl_default', acl('u::rwx,u:1001:r-x,g::r-x,m::r-x,o::---'))
        write(join(dir, 'd', 'in'), 'x')
      },
    ],
    run: c => {
      overwrite(join(c.dir, 'f'), 'y')
      overwrite(join(c.dir, 'd', 'in'), 'y')
      for (const name of ['f', 'd', 'd/in']) {
        c.note(name, { ...facts(join(c.dir, name)), xattrs: xattrs(join(c.dir, name)) })
        if (c.upper !== '') assert.deepEqual(facts(join(c.upper, name)), facts(join(c.dir, name)))
      }
    },
  },

  'security.capability comes along with chmod and goes with a write': {
    lowers: [
      dir => {
        for (const name of ['kept', 'written', 'truncated', 'owned']) {
          write(join(dir, name), 'x', 0o755)
          setxattr(
            join(dir, name),
            'security.capability',
            Buffer.from('0100000200040000000000000000000000000000', 'hex'),
          )
        }
      },
    ],
    run: c => {
      chmod(join(c.dir, 'kept'), 0o700)
      overwrite(join(c.dir, 'written'), 'y')
      truncate(join(c.dir, 'truncated'), 0)
      chown(join(c.dir, 'owned'), 5, 5)
      for (const name of ls(c.dir)) c.note(name, xattrs(join(c.dir, name)))
    },
  },

  'a lower hard link is copied up as a file of its own, the other name keeps what it was': {
    on: ['kernel', 'lamina'],
    lowers: [dir => (write(join(dir, 'a'), 'one'), link(join(dir, 'a'), join(dir, 'b')))],
    run: c => {
      overwrite(join(c.dir, 'a'), 'ONE')
      assert.equal(text(join(c.dir, 'a')), 'ONE')
      assert.equal(text(join(c.dir, 'b')), 'one')
      c.note('a', facts(join(c.dir, 'a')))
      c.note('b', facts(join(c.dir, 'b')))
    },
  },

  'the origin xattr names the lower file, and is not seen in the view': {
    on: ['kernel', 'lamina'],
    lowers: [dir => write(join(dir, 'f'), 'x')],
    run: c => {
      chmod(join(c.dir, 'f'), 0o600)
      assert.deepEqual(xattrs(join(c.dir, 'f')), {})
      c.note('in upper', Object.keys(xattrs(join(c.upper, 'f'))))
    },
  },

  'a copied-up file is the lower one no longer: changing it below is not seen, nor the other way': {
    on: ['kernel', 'lamina'],
    lowers: [dir => write(join(dir, 'f'), 'lower')],
    run: c => {
      overwrite(join(c.dir, 'f'), 'UPPER')
      assert.equal(text(join(c.lowers[0]!, 'f')), 'lower')
      assert.equal(text(join(c.upper, 'f')), 'UPPER')
    },
  },

  'a copied-up file reads the same after a remount': {
    alone: true,
    lowers: [dir => (mkdir(join(dir, 'd')), lowerFile(join(dir, 'd', 'f')))],
    run: c => {
      append(join(c.dir, 'd', 'f'), ' and more')
      const before = {
        ...facts(join(c.dir, 'd', 'f')),
        xattrs: xattrs(join(c.dir, 'd', 'f')),
        mtime: mtime(join(c.dir, 'd', 'f')),
      }
      c.remount()
      assert.deepEqual(
        {
          ...facts(join(c.dir, 'd', 'f')),
          xattrs: xattrs(join(c.dir, 'd', 'f')),
          mtime: mtime(join(c.dir, 'd', 'f')),
        },
        before,
      )
      assert.equal(text(join(c.dir, 'd', 'f')), 'the lower content and more')
    },
  },

  'atime and mtime of a copy are those of the lower file': {
    lowers: [
      dir => (
        write(join(dir, 'f'), 'x'),
        utimens(join(dir, 'f'), BEFORE_1970, { sec: 4_000_000_000, nsec: 1 })
      ),
    ],
    run: c => {
      chmod(join(c.dir, 'f'), 0o600)
      c.note('mtime', mtime(join(c.dir, 'f')))
      c.note('atime', atime(join(c.dir, 'f')))
    },
  },

  'a copy-up that does not fit fails with ENOSPC and leaves nothing': {
    on: ['kernel', 'lamina'],
    alone: true,
    lowers: [
      dir => (
        mkdir(join(dir, 'd')),
        write(join(dir, 'd', 'big'), pattern(6 << 20)),
        write(join(dir, 'd', 'small'), 's')
      ),
    ],
    run: c => {
      // The upper layer becomes a small tmpfs of its own.
      c.mount().unmount()
      const room = join(c.upper, '..', 'room')
      fs.mkdirSync(room)
      mountTmpfs(room, 'size=3m')
      try {
        fs.mkdirSync(join(room, 'u'))
        fs.mkdirSync(join(room, 'w'))
        using other = c.again({ upper: join(room, 'u'), work: join(room, 'w') })
        const big = join(other.mountpoint, 'd', 'big')
        const before = hash(big)
        assert.equal(
          c.see('chmod', () => chmod(big, 0o600)),
          'ENOSPC',
        )
        c.see('open for writing', () => overwrite(big, 'x'))
        c.see('rename', () => rename(big, `${big}2`))
        assert.equal(hash(big), before)
        assert.equal(stat(big).mode & 0o777, 0o644)
        assert.equal(exists(join(room, 'u', 'd', 'big')), false)
        overwrite(join(other.mountpoint, 'd', 'small'), 'S')
        assert.equal(text(join(room, 'u', 'd', 'small')), 'S')
        assert.deepEqual(ls(join(room, 'u', 'd')), ['small'])
      } finally {
        umount(room, '-l')
      }
    },
  },

  'O_TRUNC copies no data up': {
    on: ['kernel', 'lamina'],
    lowers: [
      dir => (
        write(join(dir, 'f'), ''),
        truncate(join(dir, 'f'), 1 << 40),
        write(join(dir, 'g'), pattern(1 << 20))
      ),
    ],
    run: c => {
      open(join(c.dir, 'f'), sys.O_WRONLY | sys.O_TRUNC).close()
      assert.equal(stat(join(c.dir, 'f')).size, 0)
      write(join(c.dir, 'g'), 'short')
      assert.equal(text(join(c.dir, 'g')), 'short')
    },
  },

  'the shell copies, moves and edits as users do': {
    lowers: [
      dir => (
        mkdir(join(dir, 'd')),
        write(join(dir, 'd', 'f'), 'one\ntwo\n'),
        write(join(dir, 'd', 'ro'), 'read only\n', 0o444)
      ),
    ],
    run: c => {
      execFileSync('sh', [
        '-ec',
        'cd "$1"; sed -i s/one/ONE/ d/f; cp -a d e; cp d/ro d/ro2; echo x > d/new; mv e/f f; rm -r e; chmod u+w d/ro; echo more >> d/ro',
        'sh',
        c.dir,
      ])
      assert.deepEqual(ls(join(c.dir, 'd')), ['f', 'new', 'ro', 'ro2'])
      assert.equal(text(join(c.dir, 'f')), 'ONE\ntwo\n')
      assert.equal(text(join(c.dir, 'd', 'ro')), 'read only\nmore\n')
      assert.equal(text(join(c.dir, 'd', 'ro2')), 'read only\n')
      for (const name of ['f', 'd/f', 'd/ro', 'd/ro2']) c.note(name, facts(join(c.dir, name)))
    },
  },

  'an interrupted or failed change has no error but its own': {
    lowers: [dir => write(join(dir, 'f'), 'x')],
    run: c => {
      try {
        link(join(c.dir, 'f'), join(c.dir, 'missing', 'g'))
      } catch (error) {
        assert.equal(errnoOf(error), 'ENOENT')
      }
      assert.deepEqual(ls(c.dir), ['f'])
    },
  },
}

const SIZES = [0, 1, 4095, 4096, 4097, (3 << 20) + 5]

function pattern(size: number): Buffer {
  const bytes = Buffer.allocUnsafe(size)
  for (let i = 0; i < size; i++) bytes[i] = (i * 31 + (i >> 8)) & 255
  return bytes
}
