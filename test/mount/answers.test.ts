import fs from 'node:fs'
import t from 'tap'
import * as sys from '../../src/sys/index.js'
import {
  exists,
  facts,
  getxattr,
  join,
  listxattr,
  mkdir,
  open,
  outcome,
  removexattr,
  rename,
  rmdir,
  setxattr,
  stat,
  text,
  unlink,
  write,
} from '../conformance/posix.js'
import { mountTmpfs, Scratch, umount, unavailable } from './fixture.js'

/** What the daemon answers without asking JavaScript (native/answers.h) is what JavaScript would have said. */

const skip = unavailable('lamina') ?? false
const CAPABILITY = 'security.capability'
/** cap_net_raw=p, as setcap(8) writes it. */
const NET_RAW = Buffer.from('0100000200200000000000000000000000000000', 'hex')

t.test('the attributes of a directory follow every change in it', { skip }, child => {
  using scratch = new Scratch('answers', 100)
  mkdir(join(scratch.mkdir('lower0'), 'merged'))
  const mount = scratch.overlay('lamina')
  const at = (...names: string[]): string => join(mount.mountpoint, ...names)
  mkdir(at('new'))
  for (const dir of ['merged', 'new']) {
    const { ino } = stat(at(dir))
    const seen = (): void => {
      const shown = stat(at(dir))
      const real = stat(join(scratch.path('upper'), dir))
      child.same(shown.ino, ino, 'st_ino stays')
      child.same(shown.nlink, dir === 'merged' ? 1 : real.nlink)
      for (const field of ['mode', 'uid', 'gid', 'size', 'mtime', 'mtimeNsec', 'ctime', 'ctimeNsec'] as const)
        child.same(shown[field], real[field], `${dir}: ${field}`)
    }
    for (let i = 0; i < 5; i++) {
      write(at(dir, `file${i}`), 'x')
      seen()
      mkdir(at(dir, `dir${i}`))
      seen()
    }
    unlink(at(dir, 'file0'))
    seen()
    rmdir(at(dir, 'dir0'))
    seen()
    fs.chmodSync(at(dir), 0o2750)
    write(at(dir, 'after'), '')
    seen()
    fs.chownSync(at(dir), 12, 34)
    unlink(at(dir, 'after'))
    seen()
  }
  rename(at('new'), at('renamed'))
  write(at('renamed', 'more'), '')
  child.same(stat(at('renamed')).mtimeNsec, stat(join(scratch.path('upper'), 'renamed')).mtimeNsec)
  child.end()
})

t.test('a removed directory that is in use has no links', { skip }, child => {
  using scratch = new Scratch('answers', 60)
  mkdir(join(scratch.mkdir('lower0'), 'merged'))
  const mount = scratch.overlay('lamina')
  for (const dir of ['merged', 'new']) {
    const path = join(mount.mountpoint, dir)
    if (dir === 'new') mkdir(path)
    write(join(path, 'x'), '')
    using held = open(path, sys.O_RDONLY | sys.O_DIRECTORY)
    stat(path)
    unlink(join(path, 'x'))
    stat(path)
    rmdir(path)
    child.equal(sys.statFd(held.n).nlink, 0, dir)
    child.notOk(exists(path))
  }
  child.end()
})

t.test('more directories than are followed at once', { skip }, child => {
  using scratch = new Scratch('answers', 60)
  const mount = scratch.overlay('lamina')
  const dirs = Array.from({ length: 100 }, (_, i) => `d${i}`)
  for (const dir of dirs) mkdir(join(mount.mountpoint, dir))
  for (let round = 0; round < 2; round++)
    for (const [i, dir] of dirs.entries()) {
      for (let j = 0; j <= i % 3; j++) mkdir(join(mount.mountpoint, dir, `${round}-${j}`))
      child.same(stat(join(mount.mountpoint, dir)).nlink, 2 + (round + 1) * (1 + (i % 3)))
    }
  const { fds } = mount.stats()
  for (const dir of dirs) fs.rmSync(join(mount.mountpoint, dir), { recursive: true })
  stat(mount.mountpoint)
  child.ok(mount.stats().fds < fds, 'what was removed is not held open')
  child.end()
})

t.test('an attribute that was missing is found once it is set', { skip }, child => {
  using scratch = new Scratch('answers', 60)
  write(join(scratch.mkdir('lower0'), 'below'), 'x')
  const mount = scratch.overlay('lamina')
  write(join(mount.mountpoint, 'new'), 'x')
  for (const name of ['below', 'new']) {
    const path = join(mount.mountpoint, name)
    for (let again = 0; again < 3; again++) {
      child.equal(getxattr(path, CAPABILITY), undefined)
      setxattr(path, CAPABILITY, NET_RAW)
      child.ok(getxattr(path, CAPABILITY) !== undefined, `${name}: set`)
      child.ok(listxattr(path).includes(CAPABILITY))
      // Writing takes it away.
      fs.appendFileSync(path, 'more')
      child.equal(getxattr(path, CAPABILITY), undefined, `${name}: a write takes it`)
    }
    child.same(
      outcome(() => removexattr(path, CAPABILITY)),
      'ENODATA',
    )
    setxattr(path, 'system.posix_acl_access', acl())
    child.ok(getxattr(path, 'system.posix_acl_access') !== undefined)
  }
  child.end()
})

/** u::rw-,u:7:r--,g::r--,m::r--,o::--- */
function acl(): Buffer {
  const entries = [
    [1, 6, 0xffffffff],
    [2, 4, 7],
    [4, 4, 0xffffffff],
    [16, 4, 0xffffffff],
    [32, 0, 0xffffffff],
  ] as const
  const out = Buffer.alloc(4 + 8 * entries.length)
  out.writeUInt32LE(2)
  for (const [i, [tag, perm, id]] of entries.entries()) {
    out.writeUInt16LE(tag, 4 + 8 * i)
    out.writeUInt16LE(perm, 6 + 8 * i)
    out.writeUInt32LE(id, 8 + 8 * i)
  }
  return out
}

for (const keeper of [0, 1])
  t.test(
    `files are made, written and removed with one request to JavaScript each, keeper=${keeper}`,
    { skip },
    child => {
      using scratch = new Scratch('answers', 60)
      const mount = scratch.overlay('lamina', 1, [`keeper=${keeper}`])
      mkdir(join(mount.mountpoint, 'd'))
      const path = (i: number): string => join(mount.mountpoint, 'd', `f${i}`)
      write(path(-1), 'x')
      stat(join(mount.mountpoint, 'd'))
      const rounds = [1, 2, 3, 4].map(() =>
        mount.gained('framesToJs', () => {
          for (let i = 0; i < 100; i++) write(path(i), 'x')
          for (let i = 0; i < 100; i++) unlink(path(i))
        }),
      )
      // UNLINK; and some LOOKUPs, until they are answered without. FORGETs come together, or one by one where this test was held up.
      const asked = Math.min(...rounds)
      child.ok(asked >= 100 && asked < 200, `${rounds.join(', ')} for 100 files`)
      child.end()
    },
  )

t.test('what is asked with getxattr again and again is asked of JavaScript once', { skip }, child => {
  using scratch = new Scratch('answers', 60)
  write(join(scratch.mkdir('lower0'), 'file'), 'x')
  const mount = scratch.overlay('lamina')
  const file = join(mount.mountpoint, 'file')
  const ask = (): void => {
    for (let i = 0; i < 50; i++) child.equal(getxattr(file, 'security.selinux'), undefined)
  }
  ask()
  child.ok(mount.gained('framesToJs', ask) < 10)
  child.end()
})

for (const keeper of [0, 1])
  t.test(`the room of what was removed is there for the next write, keeper=${keeper}`, { skip }, child => {
    using scratch = new Scratch('answers', 60)
    const disk = scratch.mkdir('disk')
    mountTmpfs(disk, 'size=8m')
    try {
      for (const dir of ['upper', 'work']) mkdir(join(disk, dir))
      const mount = scratch.mount({
        subject: 'lamina',
        lowers: [scratch.mkdir('lower0')],
        upper: join(disk, 'upper'),
        work: join(disk, 'work'),
        mountpoint: scratch.mkdir('mnt'),
        options: [`keeper=${keeper}`],
      })
      const file = join(mount.mountpoint, 'file')
      const data = Buffer.alloc(6 << 20, 'x')
      for (let i = 0; i < 100; i++) {
        write(file, data)
        unlink(file)
      }
      write(file, data)
      child.equal(text(file).length, data.length)
      mount.unmount()
    } finally {
      umount(disk)
    }
    child.end()
  })

for (const keeper of [0, 1])
  t.test(`what the kernel forgets is forgotten, keeper=${keeper}`, { skip }, child => {
    using scratch = new Scratch('answers', 60)
    const lower = scratch.mkdir('lower0')
    for (let i = 0; i < 300; i++) write(join(lower, `f${i}`), '')
    const mount = scratch.overlay('lamina', 1, [`keeper=${keeper}`])
    for (let i = 0; i < 300; i++) facts(join(mount.mountpoint, `f${i}`))
    const before = mount.stats().inodes
    mount.dropCaches()
    const limit = Date.now() + 10_000
    while (mount.stats().inodes > 1 && Date.now() < limit);
    child.ok(before > 300 && mount.stats().inodes === 1, `${before} before, ${mount.stats().inodes} after`)
    child.end()
  })
