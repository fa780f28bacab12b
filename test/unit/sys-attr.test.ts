import { lstatSync, statfsSync, symlinkSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { E } from '../../src/base/errno.js'
import { addon } from '../../src/sys/addon.js'
import * as sys from '../../src/sys/index.js'
import { errnoOf, file, isRoot, scratch } from './sys-scratch.js'
import { failure } from './sys-failure.js'

t.test('statAt agrees with Node, symlinks are not followed', async t => {
  const { path, dir } = scratch(t)
  writeFileSync(`${path}/file`, 'hello')
  symlinkSync('file', `${path}/link`)
  for (const name of ['file', 'link']) {
    const ours = sys.statAt(dir.n, name)
    const theirs = lstatSync(`${path}/${name}`, { bigint: true })
    t.ok(ours)
    if (ours === undefined) continue
    t.equal(ours.mode, Number(theirs.mode))
    t.equal(ours.size, Number(theirs.size))
    t.equal(ours.nlink, Number(theirs.nlink))
    t.equal(ours.blocks, Number(theirs.blocks))
    t.equal((BigInt(ours.inoHi) << 32n) | BigInt(ours.inoLo), theirs.ino)
    t.equal(BigInt(ours.ino), theirs.ino)
    t.equal(BigInt(ours.mtime) * 1_000_000_000n + BigInt(ours.mtimeNsec), theirs.mtimeNs)
    t.equal(BigInt(ours.ctime) * 1_000_000_000n + BigInt(ours.ctimeNsec), theirs.ctimeNs)
    t.equal(BigInt(ours.btime) * 1_000_000_000n + BigInt(ours.btimeNsec), theirs.birthtimeNs)
    t.equal(sys.encodeDev(ours.dev), Number(theirs.dev))
    t.equal(ours.mask & sys.STATX_BASIC_STATS, sys.STATX_BASIC_STATS)
    t.ok(ours.mntId > 0)
  }
  t.equal(sys.statAt(dir.n, 'link', 0)?.size, 5, 'unless asked to')
})

t.test('an absent name is undefined, other failures are thrown', async t => {
  const { dir } = scratch(t)
  file(dir, 'file')
  t.equal(sys.statAt(dir.n, 'missing'), undefined)
  t.equal(sys.statAt(dir.n, 'missing/below'), undefined)
  t.match(
    failure(() => sys.statAt(dir.n, 'file/below')),
    { errno: E.ENOTDIR, syscall: 'statx', path: 'file/below' },
  )
  t.match(
    failure(() => sys.statAt(dir.n, 'x'.repeat(256))),
    { errno: E.ENAMETOOLONG },
  )
  t.match(
    failure(() => sys.statAt(dir.n, 'x/'.repeat(3000))),
    { errno: E.ENAMETOOLONG },
  )
  t.match(
    failure(() => sys.statAt(9999, 'x')),
    { errno: E.EBADF },
  )
  t.match(
    failure(() => sys.statFd(9999)),
    { errno: E.EBADF },
  )
})

t.test("the name '' is the descriptor itself, an O_PATH one of a symlink too", async t => {
  const { path, dir } = scratch(t)
  symlinkSync('nowhere', `${path}/link`)
  using link = sys.openat(dir.n, 'link', sys.O_PATH | sys.O_NOFOLLOW)
  t.ok(sys.S_ISLNK(sys.statFd(link.n).mode))
  t.same(sys.statAt(link.n, ''), sys.statAt(dir.n, 'link'))
  sys.utimensAt(link.n, '', 1, 2, 3, 4)
  const stat = sys.statFd(link.n)
  t.same([stat.atime, stat.atimeNsec, stat.mtime, stat.mtimeNsec], [1, 2, 3, 4])
  if (isRoot) {
    sys.fchownat(link.n, '', 12, 34)
    t.equal(sys.statFd(link.n).uid, 12)
    t.equal(sys.statFd(link.n).gid, 34)
  }
})

t.test('times to the nanosecond, before 1970 too, UTIME_NOW and UTIME_OMIT', async t => {
  const { dir } = scratch(t)
  file(dir, 'f')
  for (const [sec, nsec] of [
    [0, 0],
    [1_700_000_000, 123_456_789],
    [-1, 999_999_999],
    [-86_400 * 365 * 30, 1],
    [4_000_000_000, 5],
  ] as const) {
    sys.utimensAt(dir.n, 'f', sec, nsec, sec, nsec)
    const stat = sys.statAt(dir.n, 'f')
    t.same([stat?.atime, stat?.atimeNsec, stat?.mtime, stat?.mtimeNsec], [sec, nsec, sec, nsec])
  }
  sys.utimensAt(dir.n, 'f', 7, 8, 0, sys.UTIME_OMIT)
  t.equal(sys.statAt(dir.n, 'f')?.atime, 7)
  t.equal(sys.statAt(dir.n, 'f')?.mtime, 4_000_000_000)
  sys.utimensAt(dir.n, 'f', 0, sys.UTIME_OMIT, 0, sys.UTIME_NOW)
  t.ok(Math.abs((sys.statAt(dir.n, 'f')?.mtime ?? 0) - Date.now() / 1000) < 60)
  t.equal(sys.statAt(dir.n, 'f')?.atime, 7)
  t.match(
    failure(() => sys.utimensAt(dir.n, 'f', 0, 1_000_000_000, 0, 0)),
    { errno: E.EINVAL },
  )
})

for (const way of ['fchmodat2', '/proc/self/fd'] as const) {
  t.test(`chmodAt never follows (${way})`, async t => {
    const [xattrat, fchmodat2] = addon.features()
    addon.features(xattrat, fchmodat2 && way === 'fchmodat2')
    t.teardown(() => addon.features(xattrat, fchmodat2))
    const { path, dir } = scratch(t)
    file(dir, 'f')
    symlinkSync('f', `${path}/link`)
    sys.chmodAt(dir.n, 'f', 0o4751)
    t.equal((sys.statAt(dir.n, 'f')?.mode ?? 0) & 0o7777, 0o4751)
    t.match(
      failure(() => sys.chmodAt(dir.n, 'link', 0o777)),
      { errno: E.EOPNOTSUPP },
    )
    t.match(
      failure(() => sys.chmodAt(dir.n, 'missing', 0o777)),
      { errno: E.ENOENT },
    )
    using opath = sys.openat(dir.n, 'f', sys.O_PATH)
    sys.chmodAt(opath.n, '', 0o600)
    t.equal((sys.statAt(dir.n, 'f')?.mode ?? 0) & 0o7777, 0o600)
    using real = sys.openat(dir.n, 'f', sys.O_RDONLY)
    sys.fchmod(real.n, 0o640)
    t.equal((sys.statAt(dir.n, 'f')?.mode ?? 0) & 0o7777, 0o640)
  })
}

t.test(
  'ownership: -1 leaves an id, a symlink itself is changed',
  { skip: !isRoot && 'needs root' },
  async t => {
    const { path, dir } = scratch(t)
    file(dir, 'f')
    symlinkSync('f', `${path}/link`)
    sys.fchownat(dir.n, 'link', 1000, 4_000_000_000)
    t.equal(sys.statAt(dir.n, 'link')?.uid, 1000)
    t.equal(sys.statAt(dir.n, 'link')?.gid, 4_000_000_000)
    t.equal(sys.statAt(dir.n, 'f')?.uid, 0)
    using fd = sys.openat(dir.n, 'f', sys.O_RDWR)
    sys.fchown(fd.n, 5, 6)
    sys.fchown(fd.n, -1, 7)
    sys.fchown(fd.n, 8, 0xffffffff)
    t.equal(sys.statFd(fd.n).uid, 8)
    t.equal(sys.statFd(fd.n).gid, 7)
  },
)

t.test('truncateFd, also beyond 4 GiB', async t => {
  const { dir } = scratch(t)
  using fd = sys.openat(dir.n, 'f', sys.O_CREAT | sys.O_RDWR, 0o600)
  const size = 2 ** 42 + 4097
  sys.truncateFd(fd.n, size)
  t.equal(sys.statFd(fd.n).size, size)
  t.equal(sys.statFd(fd.n).blocks, 0)
  t.match(
    failure(() => sys.truncateFd(fd.n, -1)),
    { errno: E.EINVAL },
  )
})

t.test('statMany: one Stat, undefined or errno per name', async t => {
  const { dir } = scratch(t)
  file(dir, 'a', '1')
  file(dir, '\xff\xfe', '22')
  const [a, missing, bytes, below] = sys.statMany(dir.n, ['a', 'missing', '\xff\xfe', 'a/b'])
  t.same(a, sys.statAt(dir.n, 'a'))
  t.equal(missing, undefined)
  t.same(bytes, sys.statAt(dir.n, '\xff\xfe'))
  t.equal(below, E.ENOTDIR)
  t.same(sys.statMany(dir.n, []), [])
})

t.test('fstatfs agrees with Node, on O_PATH descriptors too', async t => {
  const { path, dir } = scratch(t)
  const theirs = statfsSync(path)
  using opath = sys.openat(sys.AT_FDCWD, path, sys.O_PATH)
  for (const fd of [dir, opath]) {
    const ours = sys.fstatfs(fd.n)
    t.equal(ours.type, theirs.type)
    t.equal(ours.bsize, theirs.bsize)
    t.equal(ours.blocks, theirs.blocks)
    t.equal(ours.files, theirs.files)
    t.equal(ours.namelen, 255)
  }
  t.equal(
    errnoOf(() => sys.fstatfs(9999)),
    E.EBADF,
  )
})

t.test('device numbers', async t => {
  t.equal(sys.makedev(8, 1), 8 * 2 ** 20 + 1)
  for (const [major, minor] of [
    [0, 0],
    [8, 1],
    [4095, 1_048_575],
    [259, 70_000],
  ] as const) {
    const dev = sys.makedev(major, minor)
    t.equal(sys.devMajor(dev), major)
    t.equal(sys.devMinor(dev), minor)
    t.equal(sys.decodeDev(sys.encodeDev(dev)), dev)
  }
})
