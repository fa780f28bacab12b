import fs from 'node:fs'
import t from 'tap'
import * as sys from '../../src/sys/index.js'
import {
  append,
  chmod,
  exists,
  join,
  link,
  open,
  outcome,
  readAt,
  rename,
  stat,
  unlink,
  utimens,
  write,
} from '../conformance/posix.js'
import { pause, Scratch, unavailable } from './fixture.js'

/** Mode, owner and times of upper files are changed without JavaScript (native/file-attributes.h), as the kernel's overlayfs does it. */

const skip = unavailable('lamina') ?? false

const MODES = [0o600, 0o4755, 0o2755, 0o2644, 0o6711, 0o1777, 0o0]
const TIMES = [
  { sec: 1, nsec: 2 },
  { sec: -5, nsec: 999_999_999 },
  { sec: 2 ** 33, nsec: 0 },
]

/** Changes one after the other, each with what is seen after it. */
const CHANGES: readonly (readonly [string, (path: string) => void])[] = [
  ...MODES.map(mode => [`chmod ${mode.toString(8)}`, (path: string) => chmod(path, mode)] as const),
  ...MODES.map(
    mode =>
      [
        `chown of a ${mode.toString(8)}`,
        (path: string) => {
          chmod(path, mode)
          fs.chownSync(path, 12, 34)
        },
      ] as const,
  ),
  ['chown of the group', path => fs.chownSync(path, -1, 56)],
  ...MODES.map(
    mode =>
      [
        `chown(-1, -1) of a ${mode.toString(8)}`,
        (path: string) => {
          chmod(path, mode)
          fs.chownSync(path, -1, -1)
        },
      ] as const,
  ),
  ...TIMES.map(time => [`utimens ${time.sec}`, (path: string) => utimens(path, time, time)] as const),
  ['utimens of the mtime', path => utimens(path, { sec: 0, nsec: sys.UTIME_OMIT }, { sec: 7, nsec: 8 })],
  ['utimens of the atime', path => utimens(path, { sec: 9, nsec: 10 }, { sec: 0, nsec: sys.UTIME_OMIT })],
  ['truncate', path => fs.truncateSync(path, 2)],
  ['append', path => append(path, 'more')],
  ['an owner that cannot be', path => fs.chownSync(path, 2 ** 32 - 2, 5)],
]

function look(path: string): unknown {
  const { mode, uid, gid, size, nlink, atime, atimeNsec, mtime, mtimeNsec } = stat(path)
  // Some of the times are those of the moment.
  const past = (sec: number, nsec: number): unknown => (sec < 1e9 || sec > 2 ** 32 ? [sec, nsec] : 'now')
  return { mode, uid, gid, size, nlink, atime: past(atime, atimeNsec), mtime: past(mtime, mtimeNsec) }
}

for (const keeper of [0, 1])
  t.test(`what is changed is what the kernel would show, keeper=${keeper}`, { skip }, child => {
    using scratch = new Scratch('attributes', 60)
    const lower = scratch.mkdir('lower0')
    write(join(lower, 'below'), 'below')
    const [ours, theirs] = scratch.beside([lower], { lamina: [`keeper=${keeper}`] })
    const without = ours.gained('attributesAnswered', () => {
      for (const name of ['new', 'below']) {
        for (const { mountpoint } of [ours, theirs])
          if (name === 'new') write(join(mountpoint, name), 'new')
          else append(join(mountpoint, name), 'x')
        for (const [what, change] of CHANGES) {
          const [mine, other] = [ours, theirs].map(({ mountpoint }) => {
            const path = join(mountpoint, name)
            return [outcome(() => change(path)), look(path)]
          })
          child.same(mine, other, `${name}: ${what}`)
        }
        child.same(
          look(join(ours.mountpoint, name)),
          look(join(scratch.path('upper-lamina'), name)),
          'it is on the disk',
        )
      }
    })
    child.ok(without > CHANGES.length, `${without} without JavaScript`)
    child.equal(stat(join(lower, 'below')).size, 5)
    child.end()
  })

t.test('an archive is unpacked with one request to JavaScript a file', { skip }, child => {
  using scratch = new Scratch('attributes', 60)
  const mount = scratch.overlay('lamina')
  const before = mount.stats().dataPlane.framesToJs
  for (let i = 0; i < 100; i++) {
    const path = join(mount.mountpoint, `f${i}`)
    const fd = fs.openSync(path, 'wx', 0o600)
    fs.writeSync(fd, 'x'.repeat(3000))
    fs.futimesSync(fd, 1, 2)
    fs.fchownSync(fd, 3, 4)
    fs.fchmodSync(fd, 0o640)
    fs.closeSync(fd)
    // Not in the mount: the time of birth, which is asked for as well, is a request to JavaScript.
    const { mode, uid, gid, mtime } = stat(join(scratch.path('upper'), `f${i}`))
    child.same([mode & 0o7777, uid, gid, mtime], [0o640, 3, 4, 2])
  }
  const asked = mount.stats().dataPlane.framesToJs - before
  child.ok(asked < 150, `${asked} requests to JavaScript`)
  child.end()
})

t.test('a file with two names, and one without', { skip }, child => {
  using scratch = new Scratch('attributes', 60)
  const mount = scratch.overlay('lamina')
  const at = (name: string): string => join(mount.mountpoint, name)
  using file = open(at('one'), sys.O_RDWR | sys.O_CREAT, 0o644)
  sys.pwriteSync(file.n, Buffer.from('data'), 0, 4, 0)
  link(at('one'), at('two'))
  for (const [names, links] of [
    [['one', 'two'], 2],
    [['two'], 1],
    [[], 0],
  ] as const) {
    for (const name of ['one', 'two'])
      if (!(names as readonly string[]).includes(name) && exists(at(name))) unlink(at(name))
    const mode = 0o600 + links
    fs.fchmodSync(file.n, mode)
    const { nlink, mode: shown } = sys.statFd(file.n)
    child.same([nlink, shown & 0o7777], [links, mode], `${links} names`)
    for (const name of names) child.same([stat(at(name)).nlink, stat(at(name)).mode & 0o7777], [links, mode])
  }
  child.end()
})

t.test('a file of a lower layer, with a name and without', { skip }, child => {
  using scratch = new Scratch('attributes', 60)
  const lower = scratch.mkdir('lower0')
  const names = Array.from({ length: 30 }, (_, i) => `f${i}`)
  for (const name of names) write(join(lower, name), name)
  const mount = scratch.overlay('lamina')
  const at = (name: string): string => join(mount.mountpoint, name)
  // Both the attributes that need a STATX, and those that a GETATTR brings.
  const look = (path: string): unknown => {
    const { mode, size, nlink, mtime, mtimeNsec, btime, btimeNsec, inoLo } = stat(path)
    return { mode, size, nlink, mtime, mtimeNsec, btime, btimeNsec, inoLo }
  }
  const without = mount.gained('attributesAnswered', () => {
    for (const name of names) child.same(look(at(name)), look(join(lower, name)), name)
  })
  child.ok(without > names.length / 2, `${without} without JavaScript`)
  for (const [i, name] of names.entries()) {
    if (i % 3 === 2) continue
    using file = open(at(name), sys.O_RDONLY)
    child.equal(readAt(file, 100, 0).toString(), name)
    if (i % 3 === 0) unlink(at(name))
    else rename(at(names[i + 1] as string), at(name))
    child.equal(sys.statFd(file.n).nlink, 0, 'its name is gone')
    child.equal(readAt(file, 100, 0).toString(), name)
    mount.dropCaches()
    child.equal(readAt(file, 100, 0).toString(), name)
    child.equal(sys.statFd(file.n).nlink, 0, 'and stays so')
  }
  child.end()
})

t.test('a symlink of a lower layer that is given to somebody', { skip }, child => {
  using scratch = new Scratch('attributes', 60)
  const lower = scratch.mkdir('lower0')
  const names = Array.from({ length: 12 }, (_, i) => `s${i}`)
  for (const name of names) fs.symlinkSync('nowhere', join(lower, name))
  const mount = scratch.overlay('lamina')
  for (const name of names) {
    const path = join(mount.mountpoint, name)
    stat(path)
    fs.lchownSync(path, 12, 34)
    // With a change of times the kernel asks for the attributes again.
    fs.lutimesSync(path, 1, 2)
    const { uid, gid, mtime } = stat(path)
    child.same([uid, gid, mtime], [12, 34, 2], name)
    child.equal(fs.readlinkSync(path), 'nowhere')
  }
  child.end()
})

t.test('what was asked of a daemon that was killed is done by its successor', { skip }, async child => {
  using scratch = new Scratch('attributes', 60)
  const mount = scratch.overlay('lamina', 1, ['keeper=1'])
  const files = Array.from({ length: 50 }, (_, i) => join(mount.mountpoint, `f${i}`))
  for (const file of files) write(file, 'x')
  for (let round = 0; round < 4; round++) {
    const dead = mount.pid as number
    for (const [i, file] of files.entries()) {
      if (i === 10 + round * 10) process.kill(dead, 'SIGKILL')
      chmod(file, 0o600 + round)
      utimens(file, { sec: i, nsec: round }, { sec: round, nsec: i })
    }
    while (mount.pid === dead || mount.pid === undefined) pause(5)
    for (const [i, file] of files.entries()) {
      const { mode, mtime, mtimeNsec } = stat(file)
      child.same([mode & 0o7777, mtime, mtimeNsec], [0o600 + round, round, i])
    }
    await new Promise(resolve => setTimeout(resolve, 50))
  }
})
