import { closeSync, fstatSync, openSync } from 'node:fs'
import t from 'tap'
import { E } from '../../src/base/errno.js'
import { Fd, setCloseCall } from '../../src/base/fd.js'
import { SysError } from '../../src/base/sys-error.js'
import { failure } from './sys-failure.js'

t.test('an Fd closes once', async t => {
  const fd = new Fd(openSync('/dev/null', 'r'))
  const n = fd.n
  t.doesNotThrow(() => fstatSync(n), 'accepted')
  fd.close()
  t.equal(fd.closed, true)
  t.throws(() => fstatSync(n), { code: 'EBADF' })
  fd.close()
  t.match(
    failure(() => fd.n),
    { errno: E.EBADF },
  )
})

t.test('using closes at the end of the block, released ones excepted', async t => {
  let inner: number
  let given: number
  {
    using a = new Fd(openSync('/dev/null', 'r'))
    using b = new Fd(openSync('/dev/null', 'r'))
    inner = a.n
    given = b.release()
    t.equal(b.closed, true)
  }
  t.throws(() => fstatSync(inner), { code: 'EBADF' })
  t.doesNotThrow(() => fstatSync(given), 'accepted')
  closeSync(given)
})

t.test('a descriptor that somebody else closed is reported', async t => {
  const fd = new Fd(openSync('/dev/null', 'r'))
  closeSync(fd.n)
  t.match(
    failure(() => fd.close()),
    { errno: E.EBADF, syscall: 'close' },
  )
})

t.test('a late write error is thrown by close, not by the end of a block; EINTR is a success', async t => {
  let answer = 0
  const calls: number[] = []
  setCloseCall(n => {
    calls.push(n)
    return answer
  })
  answer = -E.EIO
  t.throws(() => new Fd(1000).close(), new SysError(E.EIO, 'close'))
  t.doesNotThrow(() => new Fd(1001)[Symbol.dispose](), 'accepted')
  answer = -E.EINTR
  t.doesNotThrow(() => new Fd(1002).close(), 'accepted')
  t.same(calls, [1000, 1001, 1002], 'one call each')
})

t.test('what is no descriptor is refused', async t => {
  t.throws(() => new Fd(-1), TypeError)
  t.throws(() => new Fd(NaN), TypeError)
  t.throws(() => new Fd(1.5), TypeError)
})
