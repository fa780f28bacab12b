import { symlinkSync } from 'node:fs'
import t from 'tap'
import { E } from '../../src/base/errno.js'
import * as sys from '../../src/sys/index.js'
import { errnoOf, file, openFds, scratch } from './sys-scratch.js'
import { failure } from './sys-failure.js'

t.test('openat2 stays beneath its root', async t => {
  const { path, dir } = scratch(t)
  sys.mkdirat(dir.n, 'd', 0o755)
  file(dir, 'd/f', 'x')
  symlinkSync('/etc', `${path}/abs`)
  symlinkSync('../..', `${path}/up`)
  symlinkSync('d/f', `${path}/inside`)
  const strict = sys.RESOLVE_BENEATH | sys.RESOLVE_NO_SYMLINKS
  const opens = (name: string, resolve: number) =>
    errnoOf(() => sys.openat2(dir.n, name, sys.O_PATH, 0, resolve).close())
  t.equal(opens('d/f', strict), 0)
  t.equal(opens('inside', sys.RESOLVE_BENEATH), 0)
  t.equal(opens('inside', strict), E.ELOOP)
  t.equal(opens('../x', strict), E.EXDEV)
  t.equal(opens('abs/passwd', sys.RESOLVE_BENEATH), E.EXDEV)
  t.equal(opens('up', sys.RESOLVE_BENEATH), E.EXDEV)
  t.equal(sys.tryOpenat2(dir.n, 'missing', sys.O_PATH, 0, strict), -E.ENOENT)
})

t.test('openat2 takes a mode with O_CREAT and ignores it otherwise', async t => {
  const { dir } = scratch(t)
  const old = sys.umask(0o022)
  t.teardown(() => sys.umask(old))
  {
    using made = sys.openat2(dir.n, 'f', sys.O_CREAT | sys.O_RDWR, 0o100666, sys.RESOLVE_BENEATH)
    t.equal(sys.statFd(made.n).mode, 0o100644)
  }
  using again = sys.openat2(dir.n, 'f', sys.O_RDONLY, 0o777, 0)
  t.equal(sys.statFd(again.n).mode, 0o100644)
  using unnamed = sys.openat2(dir.n, '.', sys.O_TMPFILE | sys.O_RDWR, 0o600, 0)
  t.equal(sys.statFd(unnamed.n).nlink, 0)
})

t.test('every descriptor is close-on-exec', async t => {
  const { dir } = scratch(t)
  file(dir, 'f')
  using a = sys.openat(dir.n, 'f', sys.O_RDONLY)
  using b = sys.openat2(dir.n, 'f', sys.O_RDONLY, 0, 0)
  using c = sys.dup(a.n)
  const [d, e] = sys.socketpair()
  for (const fd of [dir, a, b, c, d, e]) t.equal(sys.fcntl(fd.n, sys.F_GETFD), sys.FD_CLOEXEC)
  d.close()
  e.close()
})

t.test('reading, writing, seeking', async t => {
  const { dir } = scratch(t)
  using fd = sys.openat(dir.n, 'f', sys.O_CREAT | sys.O_RDWR, 0o600)
  const far = 2 ** 40
  t.equal(sys.pwriteSync(fd.n, Buffer.from('xhellox'), 1, 5, far), 5)
  const buffer = Buffer.alloc(10)
  t.equal(sys.preadSync(fd.n, buffer, 2, 8, far), 5)
  t.equal(buffer.toString('latin1'), '\0\0hello\0\0\0')
  t.equal(sys.preadSync(fd.n, buffer, 0, 10, far + 5), 0)
  t.equal(sys.lseek(fd.n, 0, sys.SEEK_DATA), far)
  t.equal(sys.lseek(fd.n, 0, sys.SEEK_END), far + 5)
  t.match(
    failure(() => sys.lseek(fd.n, far + 5, sys.SEEK_DATA)),
    { errno: E.ENXIO },
  )
  sys.lseek(fd.n, 0, sys.SEEK_SET)
  t.equal(sys.pwriteSync(fd.n, Buffer.from('ab'), 0, 2, -1), 2, 'position -1 is the descriptor’s own')
  t.equal(sys.lseek(fd.n, 0, sys.SEEK_CUR), 2)
  sys.fsyncSync(fd.n)
  sys.fallocateSync(fd.n, sys.FALLOC_FL_PUNCH_HOLE | sys.FALLOC_FL_KEEP_SIZE, 0, 65536)
  t.equal(sys.lseek(fd.n, 0, sys.SEEK_DATA), far)
})

t.test('a range outside of its buffer is a TypeError', async t => {
  const { dir } = scratch(t)
  using fd = sys.openat(dir.n, 'f', sys.O_CREAT | sys.O_RDWR, 0o600)
  const buffer = Buffer.alloc(10)
  for (const [offset, length] of [
    [0, 11],
    [10, 1],
    [11, 0],
    [-1, 1],
    [5, -1],
    [2 ** 50, 1],
  ] as const) {
    t.throws(() => sys.preadSync(fd.n, buffer, offset, length, 0), TypeError)
    t.throws(() => sys.pwriteSync(fd.n, buffer, offset, length, 0), TypeError)
  }
  t.equal(sys.preadSync(fd.n, buffer, 10, 0, 0), 0)
})

t.test('flock tells who holds it', async t => {
  const { dir } = scratch(t)
  file(dir, 'lock')
  using a = sys.openat(dir.n, 'lock', sys.O_RDONLY)
  using b = sys.openat(dir.n, 'lock', sys.O_RDONLY)
  t.equal(sys.flock(a.n, sys.LOCK_EX | sys.LOCK_NB), true)
  t.equal(sys.flock(b.n, sys.LOCK_EX | sys.LOCK_NB), false)
  sys.flock(a.n, sys.LOCK_UN)
  t.equal(sys.flock(b.n, sys.LOCK_SH | sys.LOCK_NB), true)
})

t.test('ioctl with memory of the size that the request says', async t => {
  const { dir } = scratch(t)
  const flags = Buffer.alloc(8)
  const rc = sys.ioctlNumber(dir.n, sys.FS_IOC_GETFLAGS, flags)
  t.ok(rc === 0 || rc === -E.ENOTTY || rc === -E.EOPNOTSUPP)
  t.throws(() => sys.ioctlNumber(dir.n, sys.FS_IOC_GETFLAGS, Buffer.alloc(7)), TypeError)
  t.equal(sys.ioctlNumber(dir.n, 0, 0), -E.ENOTTY)
  t.equal(sys.ioctlNumber(9999, 0, 0), -E.EBADF)
})

t.test('close is final, and nothing leaks', async t => {
  const { dir } = scratch(t)
  file(dir, 'f')
  const before = openFds()
  for (let i = 0; i < 100; i++) {
    using fd = sys.openat(dir.n, 'f', sys.O_RDONLY)
    errnoOf(() => sys.openat(dir.n, 'missing', sys.O_RDONLY))
    errnoOf(() => sys.openat(dir.n, 'f/x', sys.O_RDONLY))
    sys.close(sys.dup(fd.n).release())
  }
  t.equal(openFds(), before)
  t.match(
    failure(() => sys.close(9999)),
    { errno: E.EBADF },
  )
})
