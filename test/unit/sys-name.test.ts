import { readFileSync, readdirSync, readlinkSync, statSync } from 'node:fs'
import t from 'tap'
import { E } from '../../src/base/errno.js'
import * as sys from '../../src/sys/index.js'
import { errnoOf, file, isRoot, scratch } from './sys-scratch.js'
import { failure } from './sys-failure.js'

t.test('names are bytes: what no encoding knows comes back as it was', async t => {
  const { path, dir } = scratch(t)
  const names = ['\xff\xfe', 'gr\xc3\xbc\xc3\x9f', 'a\nb', '\x01\x7f\x80', ' ', 'n'.repeat(255)]
  for (const name of names) sys.mkdirat(dir.n, name, 0o755)
  const listed = readdirSync(path, { encoding: 'buffer' }).map(name => name.toString('latin1'))
  t.same(listed.sort(), [...names].sort())
  t.same(sys.listDir(dir.n).names.sort(), [...names].sort())
  for (const name of names) {
    t.ok(sys.S_ISDIR(sys.statAt(dir.n, name)?.mode ?? 0))
    sys.unlinkat(dir.n, name, sys.AT_REMOVEDIR)
  }
  t.same(readdirSync(path), [])
})

t.test('symlinks of any length', async t => {
  const { path, dir } = scratch(t)
  for (const target of ['x', '\xff\xfe', 'd/'.repeat(2000) + 'end', 't'.repeat(4095)]) {
    sys.symlinkat(target, dir.n, 'link')
    t.equal(sys.readlinkat(dir.n, 'link'), target)
    t.equal(readlinkSync(`${path}/link`, { encoding: 'latin1' }), target)
    using opath = sys.openat(dir.n, 'link', sys.O_PATH | sys.O_NOFOLLOW)
    t.equal(sys.readlinkat(opath.n, ''), target)
    sys.unlinkat(dir.n, 'link')
  }
  t.match(
    failure(() => sys.symlinkat('t'.repeat(4096), dir.n, 'link')),
    { errno: E.ENAMETOOLONG },
  )
  file(dir, 'file')
  t.match(
    failure(() => sys.readlinkat(dir.n, 'file')),
    { errno: E.EINVAL },
  )
  t.match(
    failure(() => sys.readlinkat(dir.n, 'missing')),
    { errno: E.ENOENT, path: 'missing' },
  )
})

t.test('mknodat: files, fifos, sockets and devices', async t => {
  const { dir } = scratch(t)
  for (const type of [sys.S_IFREG, sys.S_IFIFO, sys.S_IFSOCK]) {
    sys.mknodat(dir.n, `n${type}`, type | 0o600, 0)
    t.equal((sys.statAt(dir.n, `n${type}`)?.mode ?? 0) & sys.S_IFMT, type)
  }
  if (!isRoot) return
  sys.mknodat(dir.n, 'whiteout', sys.S_IFCHR, sys.makedev(0, 0))
  t.equal(sys.statAt(dir.n, 'whiteout')?.rdev, 0)
  sys.mknodat(dir.n, 'block', sys.S_IFBLK | 0o660, sys.makedev(259, 70_000))
  t.equal(sys.statAt(dir.n, 'block')?.rdev, sys.makedev(259, 70_000))
})

t.test('linkat and linkFd', async t => {
  const { path, dir } = scratch(t)
  file(dir, 'a', 'content')
  sys.linkat(dir.n, 'a', dir.n, 'b')
  t.equal(sys.statAt(dir.n, 'b')?.ino, sys.statAt(dir.n, 'a')?.ino)
  t.equal(sys.statAt(dir.n, 'b')?.nlink, 2)
  t.match(
    failure(() => sys.linkat(dir.n, 'a', dir.n, 'b')),
    { errno: E.EEXIST, path: 'b' },
  )

  using unnamed = sys.openat(dir.n, '.', sys.O_TMPFILE | sys.O_RDWR, 0o600)
  sys.pwriteSync(unnamed.n, Buffer.from('from nowhere'), 0, 12, 0)
  sys.linkFd(unnamed.n, dir.n, 'named')
  t.equal(readFileSync(`${path}/named`, 'utf8'), 'from nowhere')
  t.match(
    failure(() => sys.linkFd(unnamed.n, dir.n, 'named')),
    { errno: E.EEXIST },
  )
  using opath = sys.openat(dir.n, 'a', sys.O_PATH)
  sys.linkFd(opath.n, dir.n, 'c')
  t.equal(sys.statAt(dir.n, 'c')?.nlink, 3)
})

t.test('renameat2 with its flags', async t => {
  const { path, dir } = scratch(t)
  file(dir, 'a', 'A')
  file(dir, 'b', 'B')
  t.match(
    failure(() => sys.renameat2(dir.n, 'a', dir.n, 'b', sys.RENAME_NOREPLACE)),
    { errno: E.EEXIST },
  )
  sys.renameat2(dir.n, 'a', dir.n, 'b', sys.RENAME_EXCHANGE)
  t.equal(readFileSync(`${path}/a`, 'utf8'), 'B')
  sys.renameat2(dir.n, 'a', dir.n, 'b')
  t.same(readdirSync(path), ['b'])
  t.match(
    failure(() => sys.renameat2(dir.n, 'a', dir.n, 'c')),
    { errno: E.ENOENT },
  )
  if (isRoot) {
    sys.renameat2(dir.n, 'b', dir.n, 'c', sys.RENAME_WHITEOUT)
    const left = sys.statAt(dir.n, 'b')
    t.ok(sys.S_ISCHR(left?.mode ?? 0))
    t.equal(left?.rdev, 0)
  }
})

t.test('the errno of a refusal', async t => {
  const { path, dir } = scratch(t)
  file(dir, 'file')
  sys.mkdirat(dir.n, 'full', 0o755)
  file(dir, 'full/x')
  t.equal(
    errnoOf(() => sys.mkdirat(dir.n, 'file', 0o755)),
    E.EEXIST,
  )
  t.equal(
    errnoOf(() => sys.mkdirat(dir.n, 'no/where', 0o755)),
    E.ENOENT,
  )
  t.equal(
    errnoOf(() => sys.unlinkat(dir.n, 'full')),
    E.EISDIR,
  )
  t.equal(
    errnoOf(() => sys.unlinkat(dir.n, 'full', sys.AT_REMOVEDIR)),
    E.ENOTEMPTY,
  )
  t.equal(
    errnoOf(() => sys.unlinkat(dir.n, 'file', sys.AT_REMOVEDIR)),
    E.ENOTDIR,
  )
  t.equal(
    errnoOf(() => sys.unlinkat(dir.n, 'missing')),
    E.ENOENT,
  )
  t.equal(
    errnoOf(() => sys.mkdirat(dir.n, '', 0o755)),
    E.ENOENT,
  )
  t.equal(statSync(`${path}/full`).isDirectory(), true)
})
