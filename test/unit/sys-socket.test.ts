import { fstatSync } from 'node:fs'
import t from 'tap'
import { E } from '../../src/base/errno.js'
import * as sys from '../../src/sys/index.js'
import { failure } from './sys-failure.js'
import { file, openFds, scratch } from './sys-scratch.js'

t.test('descriptors arrive with their data', async t => {
  const { dir } = scratch(t)
  file(dir, 'f', 'content')
  const before = openFds()
  const [a, b] = sys.socketpair()
  {
    using fd = sys.openat(dir.n, 'f', sys.O_RDONLY)
    t.equal(sys.sendFd(a.n, [fd.n, dir.n], Buffer.from('two')), 3)
    const buffer = Buffer.alloc(16)
    const got = sys.recvFd(b.n, buffer)
    t.equal(buffer.toString('latin1', 0, got?.bytes), 'two')
    t.equal(got?.fds.length, 2)
    t.equal(fstatSync(got?.fds[0]?.n ?? -1).ino, sys.statFd(fd.n).ino)
    t.equal(sys.fcntl(got?.fds[0]?.n ?? -1, sys.F_GETFD), sys.FD_CLOEXEC)
    for (const one of got?.fds ?? []) one.close()
  }
  sys.sendFd(a.n, [])
  t.same(sys.recvFd(b.n), { bytes: 1, fds: [] })
  a.close()
  t.same(sys.recvFd(b.n), { bytes: 0, fds: [] }, 'the other side has closed')
  t.match(
    failure(() => sys.sendFd(b.n, [])),
    { errno: E.EPIPE },
    'and no signal',
  )
  b.close()
  t.equal(openFds(), before)
})

t.test('a non-blocking socket has nothing, messages stay apart, 253 descriptors go at once', async t => {
  const [a, b] = sys.socketpair(sys.SOCK_SEQPACKET | sys.SOCK_NONBLOCK)
  t.equal(sys.recvFd(b.n), undefined)
  sys.sendFd(a.n, new Array<number>(253).fill(a.n), Buffer.from('first'))
  sys.sendFd(a.n, [], Buffer.from('second'))
  const buffer = Buffer.alloc(64)
  const got = sys.recvFd(b.n, buffer)
  t.equal(got?.bytes, 5)
  t.equal(got?.fds.length, 253)
  for (const fd of got?.fds ?? []) fd.close()
  t.same(sys.recvFd(b.n, buffer), { bytes: 6, fds: [] })
  t.throws(() => sys.sendFd(a.n, new Array<number>(254).fill(a.n)), TypeError)
  t.throws(() => sys.sendFd(a.n, [a.n], Buffer.alloc(0)), TypeError)
  t.throws(() => sys.sendFd(a.n, ['x' as unknown as number]), TypeError)
  t.match(
    failure(() => sys.sendFd(a.n, [9999])),
    { errno: E.EBADF },
  )
  a.close()
  b.close()
})

t.test('with no room for the descriptors none is given', async t => {
  const { soft, hard } = sys.getrlimitNofile()
  const [a, b] = sys.socketpair()
  const before = openFds()
  sys.sendFd(a.n, [a.n, a.n, a.n, a.n])
  // The lowest free number is the first that the limit forbids: there may be gaps below the count.
  const free = sys.dup(a.n)
  const lowest = free.n
  free.close()
  sys.setrlimitNofile(lowest, hard)
  try {
    t.match(
      failure(() => sys.recvFd(b.n)),
      { errno: E.EMFILE },
    )
  } finally {
    sys.setrlimitNofile(soft, hard)
  }
  t.equal(openFds(), before)
  a.close()
  b.close()
})
