import fs from 'node:fs'
import t from 'tap'
import * as sys from '../../src/sys/index.js'
import {
  append,
  chmod,
  exists,
  join,
  link,
  ls,
  mkdir,
  open,
  outcome,
  readAt,
  readlink,
  rename,
  rmdir,
  stat,
  symlink,
  text,
  unlink,
  utimens,
  write,
} from '../conformance/posix.js'
import { pause, Scratch, unavailable } from './fixture.js'

/** Names that are answered without JavaScript (native/names.h) are those that JavaScript would have answered, and stay so. */

const skip = unavailable('lamina') ?? false
const COUNT = 60
const NAMES = Array.from({ length: COUNT }, (_, i) => `n${i}`)

/** What a name looks like, as far as it is the same in two mounts over the same lower layers; `inos`: numbers that these have. */
function look(path: string, inos: ReadonlySet<number>): unknown {
  return outcome(() => {
    const { mode, uid, gid, size, nlink, ino, mtime, mtimeNsec, rdev } = stat(path)
    const isDir = sys.S_ISDIR(mode)
    const content = sys.S_ISLNK(mode) ? readlink(path) : (mode & sys.S_IFMT) === sys.S_IFREG ? text(path) : ''
    return {
      mode,
      uid,
      gid,
      rdev,
      mtime,
      mtimeNsec,
      content,
      size: isDir ? 0 : size,
      nlink: isDir ? 0 : nlink,
      ino: inos.has(ino) ? ino : 0,
    }
  })
}

/** Something of each kind, again and again. */
function fill(dir: string, layer: number): void {
  for (const [i, name] of NAMES.entries()) {
    const path = join(dir, name)
    const kind = (i + layer * 5) % 9
    if (kind === 0) mkdir(path)
    else if (kind === 1) symlink(`${layer} to ${i}`, path)
    else if (kind === 2) sys.mknodat(sys.AT_FDCWD, path, sys.S_IFCHR | 0o600, 0)
    else if (kind === 3) fs.mkdirSync(path, { mode: 0o2750 })
    else if (kind < 7) write(path, `${layer} ${name}`.repeat(i), 0o640)
    if (kind === 6) link(path, join(dir, `${name}-too`))
  }
}

t.test('every kind of name in every kind of directory is what the kernel shows', { skip }, child => {
  using scratch = new Scratch('names', 120)
  const lowers = ['lower0', 'lower1'].map(name => scratch.mkdir(name))
  for (const [layer, lower] of lowers.entries())
    for (const dir of ['merged', 'shared', `only${layer}`]) {
      mkdir(join(lower, dir))
      fill(join(lower, dir), layer)
    }
  const [ours, theirs] = scratch.beside(lowers, { kernel: ['redirect_dir=off', 'index=off', 'metacopy=off'] })
  for (const { mountpoint } of [ours, theirs]) {
    // `merged` gets an upper with whiteouts, copies and new files; the others stay as they are.
    const at = (name: string): string => join(mountpoint, 'merged', name)
    for (const [i, name] of NAMES.entries()) {
      if (!exists(at(name))) continue
      if (i % 7 === 0) fs.rmSync(at(name), { recursive: true })
      else if (i % 7 === 1 && !sys.S_ISLNK(stat(at(name)).mode)) chmod(at(name), 0o700)
    }
    write(at('new'), 'new')
    utimens(at('new'), { sec: 1, nsec: 2 }, { sec: 3, nsec: 4 })
  }
  const inos = new Set<number>()
  for (const lower of lowers)
    for (const name of fs.readdirSync(lower, { recursive: true }))
      inos.add(stat(join(lower, String(name))).ino)
  const all = [...NAMES, ...NAMES.map(name => `${name}-too`), 'new', '.wh.n5', 'x'.repeat(255)]
  for (let round = 0; round < 3; round++) {
    ours.dropCaches()
    for (const dir of ['merged', 'shared', 'only0', 'only1']) {
      const without = ours.gained('namesAnswered', () => {
        for (const name of all) {
          const [mine, other] = [ours, theirs].map(({ mountpoint }) =>
            look(join(mountpoint, dir, name), inos),
          )
          if (JSON.stringify(mine) !== JSON.stringify(other)) child.same(mine, other, `${dir}/${name}`)
        }
      })
      child.ok(without > COUNT, `${dir}: ${without} of ${all.length} names without JavaScript`)
    }
  }
  child.end()
})

t.test('a name keeps its inode when the kernel asks for it again', { skip }, child => {
  using scratch = new Scratch('names', 60)
  const lower = scratch.mkdir('lower0')
  for (const name of NAMES) write(join(lower, name), name)
  const mount = scratch.overlay('lamina')
  const at = (name: string): string => join(mount.mountpoint, name)
  const without = mount.gained('namesAnswered', () => NAMES.forEach(name => stat(at(name))))
  child.ok(without > COUNT / 2, `${without} without JavaScript`)
  const held = NAMES.map(name => open(at(name), sys.O_RDONLY))
  // Names go, what is open stays.
  mount.dropCaches()
  for (const [i, name] of NAMES.entries()) {
    append(at(name), ' and more')
    const fd = held[i] as (typeof held)[0]
    child.equal(readAt(fd, 100, 0).toString(), `${name} and more`, 'one file')
    child.equal(sys.statFd(fd.n).inoLo, stat(at(name)).inoLo)
    fd.close()
  }
  child.end()
})

t.test('more directories than there are descriptors for', { skip }, child => {
  using scratch = new Scratch('names', 60)
  const lowers = ['lower0', 'lower1'].map(name => scratch.mkdir(name))
  const dirs = Array.from({ length: 100 }, (_, i) => `d${i}`)
  for (const lower of lowers) for (const dir of dirs) mkdir(join(lower, dir))
  const mount = scratch.overlay('lamina', 2)
  const look = (some: readonly string[], name: string): number =>
    mount.gained('namesAnswered', () => {
      for (const dir of some)
        for (let i = 0; i < 5; i++) child.notOk(exists(join(mount.mountpoint, dir, `${name}${i}`)))
    })
  const { fds } = mount.stats()
  const first = look(dirs, 'a')
  child.ok(first >= dirs.length * 3, `${first} of 500 without JavaScript`)
  const held = mount.stats().fds - fds
  child.ok(held < 400, `${held} descriptors more`)
  // As many as are held are answered at once when they are asked for again.
  const some = dirs.slice(-50)
  child.ok(look(some, 'b') >= 245)
  // The others after some names.
  child.ok(look(dirs.slice(0, 20), 'b') < 100)
  child.ok(look(dirs.slice(0, 20), 'c') > 50)
  child.end()
})

t.test('files are opened before they are read where those before them were read', { skip }, child => {
  using scratch = new Scratch('names', 60)
  const lower = scratch.mkdir('lower0')
  for (const name of NAMES) write(join(lower, name), name)
  const mount = scratch.overlay('lamina')
  const at = (name: string): string => join(mount.mountpoint, name)
  const opened = (act: () => void): number => mount.gained('registered', act)
  child.equal(
    opened(() => NAMES.slice(0, 20).forEach(name => stat(at(name)))),
    0,
    'not where they are only looked at',
  )
  for (const name of NAMES.slice(20, 40)) child.equal(text(at(name)), name)
  const ahead = opened(() => stat(at(NAMES[40] as string)))
  child.equal(ahead, 1)
  append(at(NAMES[40] as string), ' and more')
  child.equal(text(at(NAMES[40] as string)), `${NAMES[40]} and more`)
  const wrong = opened(() => NAMES.slice(41).forEach(name => stat(at(name))))
  child.ok(wrong < 16, `${wrong} of 19 opened in vain`)
  child.end()
})

for (const keeper of [0, 1])
  t.test(
    `files of a directory that was listed are opened without JavaScript, keeper=${keeper}`,
    { skip },
    child => {
      using scratch = new Scratch('names', 60)
      const lowers = ['lower0', 'lower1'].map(name => scratch.mkdir(name))
      // Every name in one of the layers, some in both, and one that is a link.
      for (const [i, name] of NAMES.entries())
        for (const [layer, lower] of lowers.entries())
          if (i % 3 !== layer) write(join(lower, name), `${layer} ${name}`)
      link(join(scratch.path('lower1'), 'n0'), join(scratch.path('lower1'), 'n0-too'))
      const mount = scratch.mount({
        subject: 'lamina',
        lowers,
        upper: scratch.mkdir('upper'),
        work: scratch.mkdir('work'),
        mountpoint: scratch.mkdir('mnt'),
        options: [`keeper=${keeper}`],
      })
      const at = (name: string): string => join(mount.mountpoint, name)
      const shown = (i: number): string => `${i % 3 === 0 ? 1 : 0} n${i}`
      for (let round = 0; round < 2; round++) {
        // ls -l, so that the next listing brings the attributes as well.
        for (const name of ls(mount.mountpoint)) stat(at(name))
        mount.dropCaches()
        child.equal(ls(mount.mountpoint).length, COUNT + 1)
        const asked = mount.gained('framesToJs', () => {
          for (let i = 2; i < COUNT; i++) child.equal(text(at(NAMES[i] as string)), shown(i))
        })
        // Names that were forgotten are asked of JavaScript until the rules are said again.
        child.ok(
          asked < (round === 0 ? COUNT / 3 : COUNT),
          `${asked} requests to JavaScript for ${COUNT} files`,
        )
      }
      for (let i = 2; i < COUNT; i++) {
        const name = NAMES[i] as string
        if (i % 5 === 0) append(at(name), '!')
        else if (i % 5 === 1) unlink(at(name))
        else if (i % 5 === 2) rename(at(name), at(`${name}-moved`))
        else if (i % 5 === 3) chmod(at(name), 0o600)
      }
      mount.dropCaches()
      for (let i = 2; i < COUNT; i++) {
        const name = NAMES[i] as string
        if (i % 5 === 1) child.notOk(exists(at(name)))
        else child.equal(text(at(i % 5 === 2 ? `${name}-moved` : name)), shown(i) + (i % 5 === 0 ? '!' : ''))
        if (i % 5 === 3) child.equal(stat(at(name)).mode & 0o777, 0o600)
      }
      for (const [layer, lower] of lowers.entries())
        for (const [i, name] of NAMES.entries())
          if (i > 1 && i % 3 !== layer)
            child.equal(text(join(lower, name)), `${layer} ${name}`, 'the layers are as they were')
      child.end()
    },
  )

t.test('what was answered so can be changed like anything else', { skip }, child => {
  using scratch = new Scratch('names', 60)
  const lower = join(scratch.mkdir('lower0'), 'dir')
  mkdir(lower)
  for (const name of NAMES) write(join(lower, name), name)
  const mount = scratch.overlay('lamina')
  const at = (name: string): string => join(mount.mountpoint, 'dir', name)
  const changes: ((name: string) => void)[] = [
    name => {
      unlink(at(name))
      child.notOk(exists(at(name)))
      write(at(name), 'new')
      child.equal(text(at(name)), 'new')
    },
    name => {
      rename(at(name), at(`${name}-moved`))
      child.notOk(exists(at(name)))
      child.equal(text(at(`${name}-moved`)), name)
    },
    name => {
      link(at(name), at(`${name}-link`))
      append(at(`${name}-link`), '!')
      child.equal(text(at(name)), `${name}!`)
      child.equal(stat(at(name)).nlink, 2)
    },
    name => {
      chmod(at(name), 0o600)
      child.equal(stat(at(name)).mode & 0o777, 0o600)
    },
    name => {
      write(join(mount.mountpoint, 'other'), 'other')
      rename(join(mount.mountpoint, 'other'), at(name))
      child.equal(text(at(name)), 'other')
    },
  ]
  // Looked up, and not read: some are known to native code alone when the change comes.
  NAMES.forEach(name => {
    stat(at(name))
    child.notOk(exists(at(`${name}-missing`)))
  })
  for (const [i, name] of NAMES.entries()) changes[i % changes.length]?.(name)
  for (const name of NAMES) {
    write(at(`${name}-missing`), 'is there now')
    child.ok(exists(at(`${name}-missing`)))
  }
  const before = ls(join(mount.mountpoint, 'dir'))
  mount.dropCaches()
  child.same(
    before.filter(name => !exists(at(name))),
    [],
    'all that is listed is there',
  )
  for (const name of before) unlink(at(name))
  rmdir(join(mount.mountpoint, 'dir'))
  mkdir(join(mount.mountpoint, 'dir'))
  child.same(
    NAMES.filter(name => exists(at(name))),
    [],
    'nothing of the old one shows in a new directory',
  )
  child.end()
})

for (const whiteout of ['char', 'xattr', 'file'])
  t.test(`what is removed stays so, whiteout=${whiteout}`, { skip }, child => {
    using scratch = new Scratch('names', 60)
    const lower = join(scratch.mkdir('lower0'), 'dir')
    mkdir(lower)
    for (const name of NAMES) write(join(lower, name), name)
    const mount = scratch.overlay('lamina', 1, [`whiteout=${whiteout}`])
    const at = (name: string): string => join(mount.mountpoint, 'dir', name)
    // It gets an upper, and the rules for its names are said, before the first whiteout.
    write(at('new'), 'new')
    for (const name of NAMES) child.notOk(exists(at(`${name}-missing`)))
    for (const [i, name] of NAMES.entries()) {
      if (i % 2 === 0) unlink(at(name))
      mount.dropCaches()
      child.equal(exists(at(name)), i % 2 !== 0, name)
    }
    child.end()
  })

t.test('with a keeper, what was answered so outlives the daemon', { skip }, async child => {
  using scratch = new Scratch('names', 90)
  const lower = scratch.mkdir('lower0')
  for (const name of NAMES) write(join(lower, name), name)
  const mount = scratch.overlay('lamina', 1, ['keeper=1'])
  const at = (name: string): string => join(mount.mountpoint, name)
  for (let round = 0; round < 4; round++) {
    const inos = new Map<string, number>()
    const without = mount.gained('namesAnswered', () => {
      for (const name of NAMES) inos.set(name, stat(at(name)).inoLo)
    })
    child.ok(without > COUNT / 2, `${without} without JavaScript`)
    const held = NAMES.map(name => open(at(name), sys.O_RDONLY))
    const { inodes } = mount.stats()
    const dead = mount.pid
    process.kill(dead as number, 'SIGKILL')
    while (mount.pid === dead || mount.pid === undefined) pause(5)
    for (const [i, name] of NAMES.entries()) {
      child.equal(stat(at(name)).inoLo, inos.get(name))
      const fd = held[i] as (typeof held)[0]
      child.equal(readAt(fd, 100, 0).toString(), text(at(name)))
      fd.close()
    }
    child.equal(mount.stats().inodes, inodes, 'none more and none less')
    append(at(NAMES[round] as string), '!')
    mount.dropCaches()
    await new Promise(resolve => setTimeout(resolve, 50))
  }
})
