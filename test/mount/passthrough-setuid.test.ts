import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import * as sys from '../../src/sys/index.js'
import { asUser } from '../conformance/posix.js'
import { Scratch, unavailable, type Mount } from './fixture.js'

/** io=passthrough: writes that the daemon does not see take setuid and setgid from a file all the same. */

const skip = unavailable('lamina') ?? false
const USER = 1000

function mounted(scratch: Scratch): Mount {
  const mount = scratch.overlay('lamina', 1, ['io=passthrough'])
  fs.chmodSync(mount.mountpoint, 0o777)
  return mount
}

const mode = (file: string): string => (fs.statSync(file).mode & 0o7777).toString(8)

/** What `file`, a copy of id(1), says of who it runs as. */
function effectiveId(file: string): string {
  const args = ['--reuid', String(USER), '--regid', String(USER), '--clear-groups', file, '-u']
  return execFileSync('setpriv', args, { encoding: 'utf8' }).trim()
}

function opened(file: string, flags: number, createMode = 0): number {
  return sys.openat(sys.AT_FDCWD, file, flags, createMode).release()
}

t.test(
  'a file gets setuid while a user has it open for writing: the next write takes it',
  { skip },
  async t => {
    using scratch = new Scratch('pt-setuid')
    using mount = mounted(scratch)
    const at = (name: string): string => path.join(mount.mountpoint, name)
    if (mount.stats()['io'] === undefined) t.comment('stats do not say the mode')
    for (const bits of ['4777', '2777', '6777']) {
      const file = at(bits)
      fs.writeFileSync(file, 'x')
      fs.chmodSync(file, 0o777)
      const fd = asUser(USER, USER, () => opened(file, sys.O_WRONLY))
      fs.chmodSync(file, parseInt(bits, 8))
      t.equal(mode(file), bits)
      asUser(USER, USER, () => fs.writeSync(fd, 'y'))
      t.equal(mode(file), '777', `${bits} after the write`)
      fs.closeSync(fd)
      t.equal((fs.statSync(scratch.path('upper', bits)).mode & 0o7777).toString(8), '777', 'on disk')
    }
  },
)

t.test('such a program does not run as its owner, as soon as the writer has closed it', { skip }, async t => {
  using scratch = new Scratch('pt-exec')
  using mount = mounted(scratch)
  const program = path.join(mount.mountpoint, 'id')
  fs.copyFileSync('/usr/bin/id', program)
  fs.chmodSync(program, 0o4755)
  t.equal(effectiveId(program), '0', 'setuid works')
  for (let i = 0; i < 20; i++) {
    fs.chmodSync(program, 0o777)
    const fd = asUser(USER, USER, () => opened(program, sys.O_WRONLY | sys.O_APPEND))
    fs.chmodSync(program, 0o4755)
    asUser(USER, USER, () => fs.writeSync(fd, 'y'))
    t.throws(() => effectiveId(program), /Text file busy/, 'not while it is open')
    fs.closeSync(fd)
    t.equal(effectiveId(program), String(USER))
    t.equal(mode(program), '755')
  }
})

t.test('root keeps setuid of a file that had it when it was opened or created', { skip }, async t => {
  using scratch = new Scratch('pt-root')
  using mount = mounted(scratch)
  const at = (name: string): string => path.join(mount.mountpoint, name)
  fs.writeFileSync(at('there'), 'x')
  fs.chmodSync(at('there'), 0o4755)
  for (const fd of [
    opened(at('there'), sys.O_WRONLY),
    opened(at('created'), sys.O_CREAT | sys.O_WRONLY, 0o4755),
  ]) {
    fs.writeSync(fd, 'written by root')
    fs.closeSync(fd)
  }
  t.equal(mode(at('there')), '4755')
  t.equal(mode(at('created')), '4755')
  // As tar(1), cp(1) and dpkg do it.
  const fd = opened(at('unpacked'), sys.O_CREAT | sys.O_WRONLY, 0o600)
  fs.writeSync(fd, 'content')
  fs.fchmodSync(fd, 0o4755)
  fs.closeSync(fd)
  t.equal(mode(at('unpacked')), '4755')
})
