import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { E } from '../../src/base/errno.js'
import { addon } from '../../src/sys/addon.js'
import * as sys from '../../src/sys/index.js'
import { errnoOf, file, isRoot, openFds, scratch } from './sys-scratch.js'

const hasXattrat = addon.features()[0]

for (const way of ['*xattrat', '/proc/self/fd'] as const) {
  t.test(
    `attributes by name (${way})`,
    { skip: way === '*xattrat' && !hasXattrat && 'needs Linux 6.13' },
    async t => {
      const [xattrat, fchmodat2] = addon.features()
      addon.features(way === '*xattrat', fchmodat2)
      t.teardown(() => addon.features(xattrat, fchmodat2))

      await t.test('set, get, list, remove', async t => {
        const { dir } = scratch(t)
        file(dir, 'f')
        const before = openFds()
        t.equal(sys.getxattrAt(dir.n, 'f', 'user.a'), undefined)
        sys.setxattrAt(dir.n, 'f', 'user.a', Buffer.from('\x00\xff', 'latin1'))
        sys.setxattrAt(dir.n, 'f', 'user.empty', Buffer.alloc(0))
        sys.setxattrAt(dir.n, 'f', 'user.\xff\xfe', Buffer.from('odd'))
        t.same(sys.getxattrAt(dir.n, 'f', 'user.a'), Buffer.from([0, 255]))
        t.same(sys.getxattrAt(dir.n, 'f', 'user.empty'), Buffer.alloc(0))
        t.same(sys.listxattrAt(dir.n, 'f').sort(), ['user.a', 'user.empty', 'user.\xff\xfe'])
        t.equal(
          errnoOf(() => sys.setxattrAt(dir.n, 'f', 'user.a', Buffer.of(1), sys.XATTR_CREATE)),
          E.EEXIST,
        )
        t.equal(
          errnoOf(() => sys.setxattrAt(dir.n, 'f', 'user.b', Buffer.of(1), sys.XATTR_REPLACE)),
          E.ENODATA,
        )
        sys.removexattrAt(dir.n, 'f', 'user.a')
        t.equal(
          errnoOf(() => sys.removexattrAt(dir.n, 'f', 'user.a')),
          E.ENODATA,
        )
        t.equal(
          errnoOf(() => sys.getxattrAt(dir.n, 'missing', 'user.a')),
          E.ENOENT,
        )
        t.equal(
          errnoOf(() => sys.listxattrAt(dir.n, 'f/x')),
          E.ENOTDIR,
        )
        t.equal(
          errnoOf(() => sys.setxattrAt(dir.n, 'f', 'user.' + 'x'.repeat(251), Buffer.of(1))),
          E.ERANGE,
        )
        t.equal(openFds(), before)
      })

      await t.test(
        'a symlink is not followed, O_PATH descriptors work',
        { skip: !isRoot && 'needs root' },
        async t => {
          const { path, dir } = scratch(t)
          file(dir, 'target')
          symlinkSync('target', `${path}/link`)
          sys.setxattrAt(dir.n, 'link', 'trusted.x', Buffer.from('of the link'))
          t.same(sys.listxattrAt(dir.n, 'target'), [])
          t.same(sys.listxattrAt(dir.n, 'link'), ['trusted.x'])
          using link = sys.openat(dir.n, 'link', sys.O_PATH | sys.O_NOFOLLOW)
          t.same(sys.getxattrAt(link.n, '', 'trusted.x'), Buffer.from('of the link'))
          sys.setxattrAt(link.n, '', 'trusted.y', Buffer.of(1))
          t.same(sys.flistxattr(link.n).sort(), ['trusted.x', 'trusted.y'])
          sys.removexattrAt(link.n, '', 'trusted.y')
          t.equal(
            errnoOf(() => sys.setxattrAt(dir.n, 'link', 'user.x', Buffer.of(1))),
            E.EPERM,
          )
          t.equal(
            errnoOf(() => sys.getxattrAt(9999, '', 'user.x')),
            E.EBADF,
          )
          t.equal(
            errnoOf(() => sys.getxattrAt(9999, 'x', 'user.x')),
            E.EBADF,
          )
        },
      )

      await t.test('values and lists up to 64 KiB', { skip: !isRoot && 'needs root' }, async t => {
        const { dir } = scratch(t, '/dev/shm')
        file(dir, 'f')
        for (const size of [4095, 4096, 4097, 65536]) {
          const value = Buffer.alloc(size, size & 0xff)
          sys.setxattrAt(dir.n, 'f', 'trusted.big', value)
          t.same(sys.getxattrAt(dir.n, 'f', 'trusted.big'), value)
        }
        t.equal(
          errnoOf(() => sys.setxattrAt(dir.n, 'f', 'trusted.big', Buffer.alloc(65537))),
          E.E2BIG,
        )
        const names = Array.from({ length: 300 }, (_, i) => `trusted.${i}.`.padEnd(200, 'n'))
        for (const name of names) sys.setxattrAt(dir.n, 'f', name, Buffer.of(1))
        t.same(sys.listxattrAt(dir.n, 'f').sort(), [...names, 'trusted.big'].sort())
      })
    },
  )
}

t.test('attributes of an open file', async t => {
  const { dir } = scratch(t)
  using fd = sys.openat(dir.n, 'f', sys.O_CREAT | sys.O_RDWR, 0o600)
  sys.fsetxattr(fd.n, 'user.a', Buffer.from('1'))
  t.same(sys.fgetxattr(fd.n, 'user.a'), Buffer.from('1'))
  t.same(sys.flistxattr(fd.n), ['user.a'])
  sys.fremovexattr(fd.n, 'user.a')
  t.equal(sys.fgetxattr(fd.n, 'user.a'), undefined)
  t.same(sys.flistxattr(fd.n), [])
})

t.test('a filesystem without attributes has none', async t => {
  t.equal(sys.getxattrAt(sys.AT_FDCWD, '/proc/self/status', 'user.a'), undefined)
  t.same(sys.listxattrAt(sys.AT_FDCWD, '/proc/self/status'), [])
  const path = mkdtempSync('/tmp/lamina-sys-')
  writeFileSync(`${path}/f`, '')
  t.equal(sys.getxattrAt(sys.AT_FDCWD, `${path}/f`, 'nonsense.a'), undefined)
  rmSync(path, { recursive: true })
})
