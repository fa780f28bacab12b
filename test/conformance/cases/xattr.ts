import assert from 'node:assert/strict'
import * as sys from '../../../src/sys/index.js'
import { acl } from '../acl.js'
import {
  asUser,
  chmod,
  chown,
  facts,
  getxattr,
  join,
  listxattr,
  mkdir,
  mknod,
  outcome,
  python,
  removexattr,
  setxattr,
  stat,
  symlink,
  unlink,
  write,
  xattrs,
  type Json,
} from '../posix.js'
import type { Cases } from '../run.js'

/** getxattr and listxattr with sizes of one's own, errno and all. */
const SIZES = `
def get(path, name, size):
    buf = ctypes.create_string_buffer(max(size, 1))
    return check(libc.lgetxattr(path, name, buf, ctypes.c_size_t(size)))
def lst(path, size):
    buf = ctypes.create_string_buffer(max(size, 1))
    return check(libc.llistxattr(path, buf, ctypes.c_size_t(size)))
`
const both = (fill: (path: string) => void) => ({
  lowers: [(dir: string) => fill(join(dir, 'lower'))],
  made: (dir: string) => fill(join(dir, 'upper')),
})
const plainFile = both(path => {
  write(path, 'x')
  setxattr(path, 'user.a', 'value')
})

export const xattr: Cases = {
  'set, get, list, replace, remove on lower and upper files': {
    lowers: plainFile.lowers,
    run: c => {
      plainFile.made(c.dir)
      for (const name of ['lower', 'upper']) {
        const path = join(c.dir, name)
        assert.equal(getxattr(path, 'user.a'), 'value')
        setxattr(path, 'user.b', Buffer.from([0, 1, 255]))
        setxattr(path, 'user.a', 'longer value')
        setxattr(path, 'trusted.t', 't')
        setxattr(path, 'user.empty', '')
        assert.deepEqual(listxattr(path), ['trusted.t', 'user.a', 'user.b', 'user.empty'])
        assert.deepEqual(xattrs(path), {
          'trusted.t': 't',
          'user.a': 'longer value',
          'user.b': '\0\x01\xff',
          'user.empty': '',
        })
        removexattr(path, 'user.a')
        assert.equal(getxattr(path, 'user.a'), undefined)
        assert.deepEqual(listxattr(path), ['trusted.t', 'user.b', 'user.empty'])
        c.see(`remove of a missing one on ${name}`, () => removexattr(path, 'user.a'))
      }
    },
  },

  'XATTR_CREATE and XATTR_REPLACE': {
    lowers: plainFile.lowers,
    run: c => {
      plainFile.made(c.dir)
      for (const name of ['lower', 'upper']) {
        const path = join(c.dir, name)
        assert.equal(
          outcome(() => setxattr(path, 'user.a', 'x', sys.XATTR_CREATE)),
          'EEXIST',
        )
        assert.equal(
          outcome(() => setxattr(path, 'user.b', 'x', sys.XATTR_REPLACE)),
          'ENODATA',
        )
        setxattr(path, 'user.b', 'x', sys.XATTR_CREATE)
        setxattr(path, 'user.a', 'y', sys.XATTR_REPLACE)
        assert.deepEqual(xattrs(path), { 'user.a': 'y', 'user.b': 'x' })
      }
    },
  },

  'size questions, ERANGE, E2BIG, ENODATA, names too long': {
    lowers: plainFile.lowers,
    run: c => {
      plainFile.made(c.dir)
      for (const name of ['lower', 'upper'])
        c.note(
          name,
          python(
            `${SIZES}
p = A[0]
print(json.dumps([
  E(lambda: get(p, b'user.a', 0)), E(lambda: get(p, b'user.a', 4)), E(lambda: get(p, b'user.a', 5)), E(lambda: get(p, b'user.a', 65536)),
  E(lambda: get(p, b'user.none', 0)), E(lambda: get(p, b'user.none', 10)),
  E(lambda: lst(p, 0)), E(lambda: lst(p, 3)), E(lambda: lst(p, 7)), E(lambda: lst(p, 65536)),
  E(lambda: os.setxattr(p, b'user.big', b'x' * 65537)), E(lambda: os.setxattr(p, b'user.' + b'n' * 251, b'x')), E(lambda: os.setxattr(p, b'user.' + b'n' * 250, b'x')),
  E(lambda: os.setxattr(p, b'user.', b'x')), E(lambda: os.setxattr(p, b'nonsense', b'x')), E(lambda: os.setxattr(p, b'', b'x')), E(lambda: os.setxattr(p, b'nonsense.x', b'x')),
  E(lambda: os.getxattr(p, b'nonsense.x').decode()), E(lambda: os.removexattr(p, b'nonsense.x')),
  sorted(os.listxattr(p)),
]))`,
            join(c.dir, name),
          ),
        )
    },
  },

  'values up to what a local file takes': {
    lowers: plainFile.lowers,
    run: c => {
      const path = join(c.dir, 'lower')
      for (const size of [0, 1, 255, 1024, 3000]) {
        setxattr(path, 'user.v', Buffer.alloc(size, 'v'))
        assert.equal(getxattr(path, 'user.v')?.length, size)
      }
      c.see('too much for the backing file system', () =>
        setxattr(path, 'user.huge', Buffer.alloc(65_000, 'h')),
      )
      assert.equal(getxattr(path, 'user.v')?.length, 3000)
    },
  },

  'names that are not UTF-8': {
    lowers: plainFile.lowers,
    run: c => {
      setxattr(join(c.dir, 'lower'), 'user.\xff\xfe', 'x')
      assert.deepEqual(listxattr(join(c.dir, 'lower')), ['user.a', 'user.\xff\xfe'])
      assert.equal(getxattr(join(c.dir, 'lower'), 'user.\xff\xfe'), 'x')
    },
  },

  'of directories, lower, merged and upper, and of the directory that is looked at first': {
    lowers: [
      dir => (mkdir(join(dir, 'd')), setxattr(join(dir, 'd'), 'user.a', '0')),
      dir => (mkdir(join(dir, 'd')), setxattr(join(dir, 'd'), 'user.b', '1')),
    ],
    run: c => {
      assert.deepEqual(xattrs(join(c.dir, 'd')), { 'user.a': '0' })
      setxattr(join(c.dir, 'd'), 'user.c', '2')
      assert.deepEqual(xattrs(join(c.dir, 'd')), { 'user.a': '0', 'user.c': '2' })
      mkdir(join(c.dir, 'd', 'up'))
      setxattr(join(c.dir, 'd', 'up'), 'user.x', 'y')
      assert.deepEqual(xattrs(join(c.dir, 'd', 'up')), { 'user.x': 'y' })
    },
  },

  'user attributes of symlinks, fifos and devices': {
    lowers: [
      dir => (
        symlink('x', join(dir, 'symlink')),
        mknod(join(dir, 'fifo'), sys.S_IFIFO | 0o666),
        mknod(join(dir, 'char'), sys.S_IFCHR | 0o666, sys.makedev(1, 3))
      ),
    ],
    run: c => {
      for (const name of ['symlink', 'fifo', 'char']) {
        c.see(`user on ${name}`, () => setxattr(join(c.dir, name), 'user.x', 'y'))
        c.see(`trusted on ${name}`, () => setxattr(join(c.dir, name), 'trusted.x', 'y'))
        c.note(name, xattrs(join(c.dir, name)))
      }
    },
  },

  "the overlay's own attributes in a layer are not seen, and others of a like name are": {
    on: ['kernel', 'lamina'],
    lowers: [
      dir => {
        write(join(dir, 'f'), 'x')
        for (const name of [
          'trusted.overlay.origin',
          'trusted.overlay.impure',
          'trusted.overlay.nlink',
          'trusted.overlay.upper',
          'trusted.overlay.protattr',
        ])
          setxattr(join(dir, 'f'), name, 'x')
        setxattr(join(dir, 'f'), 'trusted.overlays', 'seen')
        setxattr(join(dir, 'f'), 'user.overlays', 'seen')
        setxattr(join(dir, 'f'), 'user.a', 'seen')
      },
    ],
    run: c => {
      assert.deepEqual(xattrs(join(c.dir, 'f')), {
        'trusted.overlays': 'seen',
        'user.a': 'seen',
        'user.overlays': 'seen',
      })
      assert.equal(getxattr(join(c.dir, 'f'), 'trusted.overlay.origin'), undefined)
      chmod(join(c.dir, 'f'), 0o600)
      assert.deepEqual(xattrs(join(c.dir, 'f')), {
        'trusted.overlays': 'seen',
        'user.a': 'seen',
        'user.overlays': 'seen',
      })
    },
  },

  'the attributes of fuse-overlayfs, and of an overlay mounted by a user, are not seen': {
    on: ['lamina'],
    lowers: [
      dir => {
        write(join(dir, 'f'), 'x')
        for (const name of ['user.fuseoverlayfs.origin', 'user.fuseoverlayfs.override_stat'])
          setxattr(join(dir, 'f'), name, '0:0:0644')
        for (const name of ['user.overlay.origin', 'user.overlay.impure']) setxattr(join(dir, 'f'), name, 'x')
      },
    ],
    run: c => assert.deepEqual(xattrs(join(c.dir, 'f')), {}),
  },

  'security.*: set by root, listed, kept over copy-up': {
    lowers: [
      dir => (write(join(dir, 'f'), 'x', 0o755), setxattr(join(dir, 'f'), 'security.capability', CAPABILITY)),
    ],
    run: c => {
      c.note('before', xattrs(join(c.dir, 'f')))
      setxattr(join(c.dir, 'f'), 'user.x', 'y')
      c.note('after', xattrs(join(c.dir, 'f')))
      write(join(c.dir, 'g'), '', 0o755)
      setxattr(join(c.dir, 'g'), 'security.capability', CAPABILITY)
      c.note('new', xattrs(join(c.dir, 'g')))
      c.see('nonsense', () => setxattr(join(c.dir, 'g'), 'security.capability', 'nonsense'))
      c.see('another of security', () => setxattr(join(c.dir, 'g'), 'security.lamina', 'x'))
      c.note('in the end', xattrs(join(c.dir, 'g')))
    },
  },

  'an ordinary user: own files, files of others, trusted, security, sticky directories': {
    lowers: [
      dir => {
        write(join(dir, 'own'), 'x')
        chown(join(dir, 'own'), 1000, 1000)
        write(join(dir, 'other'), 'x', 0o644)
        write(join(dir, 'closed'), 'x', 0o600)
        for (const name of ['own', 'other', 'closed']) setxattr(join(dir, name), 'user.a', 'v')
        setxattr(join(dir, 'own'), 'trusted.t', 'v')
        mkdir(join(dir, 'sticky'))
        chmod(join(dir, 'sticky'), 0o1777)
      },
    ],
    run: c =>
      asUser(1000, 1000, () => {
        for (const name of ['own', 'other', 'closed']) {
          const path = join(c.dir, name)
          const results: Record<string, Json> = {}
          results['get user'] = outcome(() => getxattr(path, 'user.a') ?? null)
          results['get trusted'] = outcome(() => getxattr(path, 'trusted.t') ?? null)
          results['set user'] = outcome(() => setxattr(path, 'user.a', 'w'))
          results['set trusted'] = outcome(() => setxattr(path, 'trusted.t', 'w'))
          results['set security'] = outcome(() => setxattr(path, 'security.capability', CAPABILITY))
          results['remove user'] = outcome(() => removexattr(path, 'user.a'))
          results['remove trusted'] = outcome(() => removexattr(path, 'trusted.t'))
          results['list'] = outcome(() => listxattr(path))
          c.note(name, results)
        }
        c.see('user attribute on a sticky directory of another', () =>
          setxattr(join(c.dir, 'sticky'), 'user.a', 'v'),
        )
      }),
  },

  'POSIX ACLs: set, get, list, remove, and the mode they make': {
    lowers: [dir => (write(join(dir, 'f'), 'x', 0o640), mkdir(join(dir, 'd'), 0o750))],
    run: c => {
      const f = join(c.dir, 'f')
      c.see('set', () =>
        setxattr(f, 'system.posix_acl_access', acl('u::rw-,u:1000:rwx,g::r--,m::rwx,o::r--')),
      )
      c.note('facts', facts(f))
      c.note('xattrs', xattrs(f))
      chmod(f, 0o604)
      c.note('after chmod', xattrs(f))
      c.see('an ACL that the mode says all of', () =>
        setxattr(f, 'system.posix_acl_access', acl('u::rw-,g::r--,o::r--')),
      )
      c.note('mode', (stat(f).mode & 0o7777).toString(8))
      c.note('xattrs of a small ACL', xattrs(f))
      c.see('default on a file', () => setxattr(f, 'system.posix_acl_default', acl('u::rw-,g::r--,o::r--')))
      c.see('default on a directory', () =>
        setxattr(join(c.dir, 'd'), 'system.posix_acl_default', acl('u::rwx,u:1000:rwx,g::r-x,m::rwx,o::---')),
      )
      c.note('of the directory', xattrs(join(c.dir, 'd')))
      c.see('nonsense', () => setxattr(f, 'system.posix_acl_access', 'nonsense'))
      c.see('remove default', () => removexattr(join(c.dir, 'd'), 'system.posix_acl_default'))
      c.see('remove access', () => removexattr(f, 'system.posix_acl_access'))
      c.note('in the end', [xattrs(f), xattrs(join(c.dir, 'd'))])
      c.see('by another user', () =>
        asUser(1000, 1000, () => setxattr(f, 'system.posix_acl_access', acl('u::rwx,g::rwx,o::rwx'))),
      )
    },
  },

  'POSIX ACLs are checked': {
    lowers: [
      dir => {
        write(join(dir, 'f'), 'x', 0o600)
        setxattr(
          join(dir, 'f'),
          'system.posix_acl_access',
          acl('u::rw-,u:1000:r--,g::---,G:2000:rw-,m::rw-,o::---'),
        )
        chmod(dir, 0o755)
      },
    ],
    run: c => {
      const attempt = (label: string, uid: number, gid: number): void => {
        asUser(uid, gid, () => {
          c.see(`${label} reads`, () => sys.openat(sys.AT_FDCWD, join(c.dir, 'f'), sys.O_RDONLY).close())
          c.see(`${label} writes`, () => sys.openat(sys.AT_FDCWD, join(c.dir, 'f'), sys.O_WRONLY).close())
        })
      }
      attempt('the named user', 1000, 1000)
      attempt('the named group', 1001, 2000)
      attempt('anybody', 1001, 1001)
      setxattr(join(c.dir, 'f'), 'system.posix_acl_access', acl('u::rw-,u:1001:rw-,g::---,m::rw-,o::---'))
      attempt('after a change, the earlier user', 1000, 1000)
      attempt('after a change, the new user', 1001, 1001)
    },
  },

  'default ACLs make the ACL and mode of what is created': {
    lowers: [
      dir => (
        mkdir(join(dir, 'd'), 0o755),
        setxattr(join(dir, 'd'), 'system.posix_acl_default', acl('u::rwx,u:1000:rwx,g::r-x,m::rwx,o::---'))
      ),
    ],
    run: c => {
      const d = join(c.dir, 'd')
      mkdir(join(d, 'sub'), 0o777)
      write(join(d, 'file'), 'x', 0o666)
      mknod(join(d, 'fifo'), sys.S_IFIFO | 0o666)
      symlink('x', join(d, 'symlink'))
      write(join(d, 'sub', 'deep'), 'x', 0o644)
      write(join(d, 'gone'), '')
      unlink(join(d, 'gone'))
      write(join(d, 'gone'), 'over nothing', 0o660)
      for (const name of ['sub', 'file', 'fifo', 'symlink', 'sub/deep', 'gone'])
        c.note(name, { ...facts(join(d, name)), xattrs: xattrs(join(d, name)) })
    },
  },

  'xattrs of a file that is in three layers are those of the uppermost': {
    lowers: [0, 1, 2].map(i => dir => {
      write(join(dir, 'f'), `${i}`)
      setxattr(join(dir, 'f'), `user.layer${i}`, `${i}`)
    }),
    run: c => {
      assert.deepEqual(xattrs(join(c.dir, 'f')), { 'user.layer0': '0' })
      removexattr(join(c.dir, 'f'), 'user.layer0')
      assert.deepEqual(xattrs(join(c.dir, 'f')), {})
    },
  },
}

/** vfs_cap_data revision 2 with CAP_NET_RAW. Source: linux/capability.h. */
const CAPABILITY = Buffer.from('0100000200200000000000000000000000000000', 'hex')
