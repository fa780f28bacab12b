import { constants } from 'node:os'
import t from 'tap'
import { E, errnoMessage, errnoName } from '../../src/base/errno.js'
import { SysError } from '../../src/base/sys-error.js'

t.test('the numbers are those of this system', async t => {
  for (const [name, value] of Object.entries(constants.errno)) {
    const ours = (E as Record<string, number>)[name]
    if (ours !== undefined) t.equal(ours, value, name)
  }
})

t.test('a number has its name and its message', async t => {
  t.equal(errnoName(2), 'ENOENT')
  t.equal(errnoMessage(2), 'No such file or directory')
  t.equal(errnoName(E.EOPNOTSUPP), 'EOPNOTSUPP')
  t.equal(errnoName(4095), 'errno 4095')
  t.equal(errnoMessage(4095), 'Unknown error 4095')
})

t.test('a SysError says what failed, in readable bytes, and captures no stack', async t => {
  const error = new SysError(E.ENOENT, 'openat', 'a\xff\xc3\xa9')
  t.equal(error.message, "openat: No such file or directory: 'a\\xff\u00e9'")
  t.equal(error.errno, 2)
  t.equal(error.syscall, 'openat')
  t.equal(error.path, 'a\xff\xc3\xa9')
  t.equal(error.code, 'ENOENT')
  t.equal(error.name, 'SysError')
  t.ok(error instanceof Error)
  t.notMatch(error.stack ?? '', /\n\s+at /)
  t.equal('path' in new SysError(E.EIO, 'fsync'), false)
  t.match(new Error('later').stack, /\n\s+at /, 'other errors keep their stacks')
})
