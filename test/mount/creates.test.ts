import { execFile } from 'node:child_process'
import fs from 'node:fs'
import t from 'tap'
import { E } from '../../src/base/errno.js'
import * as sys from '../../src/sys/index.js'
import {
  asUser,
  chmod,
  exists,
  join,
  link,
  listed,
  listxattr,
  ls,
  mkdir,
  open,
  outcome,
  readAt,
  rename,
  setxattr,
  stat,
  text,
  unlink,
  withUmask,
  write,
  writeAt,
} from '../conformance/posix.js'
import { mountTmpfs, pause, Scratch, umount, unavailable, type Mount } from './fixture.js'

/** Regular files are made in upper without JavaScript (native/names.h), as the kernel's overlayfs makes them. */

const skip = unavailable('lamina') ?? unavailable('kernel') ?? false
// The keeper does not give up.
process.env['LAMINA_KEEPER_DEATHS'] = '0'
const NEW = sys.O_CREAT | sys.O_EXCL | sys.O_RDWR

/** user::rwx,user:7:rwx,group::r-x,mask::rwx,other::--- as an attribute. */
const DEFAULT_ACL = Buffer.from(
  '02000000' +
    '01000700ffffffff' +
    '0200070007000000' +
    '04000500ffffffff' +
    '10000700ffffffff' +
    '20000000ffffffff',
  'hex',
)

/** From then on names in the directory are answered without JavaScript. */
function warm(dir: string): void {
  for (let i = 0; i < 3; i++) exists(join(dir, `nothing${i}`))
}

function pair(scratch: Scratch, keeper: number): [Mount, Mount] {
  const lower = scratch.mkdir('lower0')
  for (const dir of ['merged', 'opaque']) {
    mkdir(join(lower, dir))
    for (const name of ['a', 'gone', 'hidden']) write(join(lower, dir, name), 'below')
  }
  return scratch.beside([lower], { lamina: [`keeper=${keeper}`] })
}

const PLACES: Readonly<Record<string, (root: string) => void>> = {
  new: root => mkdir(join(root, 'new')),
  merged: root => chmod(join(root, 'merged'), 0o777),
  opaque: root => {
    fs.rmSync(join(root, 'opaque'), { recursive: true })
    mkdir(join(root, 'opaque'))
  },
  setgid: root => {
    mkdir(join(root, 'setgid'))
    fs.chownSync(join(root, 'setgid'), 0, 34)
    chmod(join(root, 'setgid'), 0o2777)
  },
  acl: root => {
    mkdir(join(root, 'acl'))
    setxattr(join(root, 'acl'), 'system.posix_acl_default', DEFAULT_ACL)
  },
}
const MODES = [0o644, 0o600, 0o4755, 0o2775, 0o1777, 0o400, 0]

for (const keeper of [0, 1])
  t.test(`a new file is what the kernel makes it, keeper=${keeper}`, { skip }, child => {
    using scratch = new Scratch('creates', 60)
    const [ours, theirs] = pair(scratch, keeper)
    const seen = (root: string, dir: string): unknown[] => {
      const rows: unknown[] = []
      const note = (name: string, mode: number): void => {
        const path = join(root, dir, name)
        const made = outcome(() => {
          using fd = open(path, NEW, mode)
          writeAt(fd, name, 0)
          return sys.statFd(fd.n).size
        })
        const { mode: shown, uid, gid, nlink, size } = stat(path)
        rows.push([name, made, shown, uid, gid, nlink, size, listxattr(path), text(path)])
      }
      for (const mode of MODES) {
        for (const mask of [0, 0o22, 0o77]) withUmask(mask, () => note(`m${mode}.${mask}`, mode))
        for (const [uid, gid] of [
          [12, 34],
          [12, 0],
          [0, 34],
        ] as const) {
          if (mode === 0 || mode === 0o400) continue
          chmod(join(root, dir), 0o777 | (stat(join(root, dir)).mode & 0o7000))
          asUser(uid, gid, () => note(`u${uid}.${gid}.${mode}`, mode | 0o600))
        }
      }
      return rows
    }
    for (const [dir, make] of Object.entries(PLACES)) {
      for (const { mountpoint } of [ours, theirs]) {
        make(mountpoint)
        warm(join(mountpoint, dir))
      }
      let mine: unknown[] = []
      const without = ours.gained('namesAnswered', () => (mine = seen(ours.mountpoint, dir)))
      child.same(mine, seen(theirs.mountpoint, dir), dir)
      // The LOOKUP before it, and the CREATE.
      child.ok(without >= 2 * mine.length, `${dir}: ${without} without JavaScript for ${mine.length} files`)
      child.same(ls(join(ours.mountpoint, dir)).sort(), ls(join(theirs.mountpoint, dir)).sort())
      const onDisk = fs.readdirSync(join(scratch.path('upper-lamina'), dir))
      child.same(onDisk.sort(), fs.readdirSync(join(scratch.path('upper-kernel'), dir)).sort())
      using listing = open(join(ours.mountpoint, dir), sys.O_RDONLY | sys.O_DIRECTORY)
      for (const { name, ino, type } of listed(listing).filter(entry => !entry.name.startsWith('.')))
        child.same([ino, type], [stat(join(ours.mountpoint, dir, name)).inoLo, sys.DT_REG], name)
    }
    child.end()
  })

t.test('names that stand for something else, or may not be', { skip }, child => {
  using scratch = new Scratch('creates', 60)
  const [ours, theirs] = pair(scratch, 1)
  const seen = ({ mountpoint }: Mount): unknown[] => {
    const at = (name: string): string => join(mountpoint, 'merged', name)
    unlink(at('gone'))
    warm(join(mountpoint, 'merged'))
    const rows: unknown[] = []
    const note = (what: string, flags: number): void => {
      const done = outcome(() => {
        using fd = open(at(what), flags)
        return sys.statFd(fd.n).size
      })
      rows.push([what.slice(0, 20), done, outcome(() => exists(at(what)))])
    }
    note('gone', NEW)
    note('gone', NEW)
    note('a', NEW)
    note('a', sys.O_CREAT | sys.O_RDWR)
    note('n'.repeat(255), NEW)
    note('n'.repeat(256), NEW)
    note('\xff\xfe', NEW)
    note(' \n', NEW)
    for (let i = 0; i < 3; i++) {
      note('again', NEW)
      note('again', NEW)
      unlink(at('again'))
      note('again', sys.O_RDWR)
    }
    link(at('gone'), at('other'))
    rename(at('gone'), at('moved'))
    rows.push(stat(at('moved')).nlink, stat(at('other')).inoLo === stat(at('moved')).inoLo)
    note('gone', NEW)
    rows.push(ls(join(mountpoint, 'merged')).sort())
    return rows
  }
  child.same(seen(ours), seen(theirs))
  child.same(
    outcome(() => {
      open(join(ours.mountpoint, 'merged', '.wh.a'), NEW).close()
    }),
    'EINVAL',
  )
  child.ok(exists(join(ours.mountpoint, 'merged', 'a')))
  child.end()
})

t.test('who is in the midst of a listing sees what is made meanwhile once', { skip }, child => {
  using scratch = new Scratch('creates', 60)
  const mount = scratch.overlay('lamina')
  const dir = join(mount.mountpoint, 'd')
  mkdir(dir)
  warm(dir)
  const names = Array.from({ length: 600 }, (_, i) => `file${i}`)
  for (const name of names) write(join(dir, name), 'x')
  const reader = fs.opendirSync(dir, { bufferSize: 16 })
  const found: string[] = []
  for (let i = 0; i < 100; i++) found.push(reader.readSync()?.name ?? '')
  const later = Array.from({ length: 100 }, (_, i) => `later${i}`)
  for (const name of later) write(join(dir, name), 'x')
  for (let entry = reader.readSync(); entry !== null; entry = reader.readSync()) found.push(entry.name)
  reader.closeSync()
  child.equal(new Set(found).size, found.length, 'nothing twice')
  child.same(found.filter(name => name.startsWith('file')).sort(), [...names].sort())
  child.same(ls(dir).sort(), [...names, ...later].sort())
  child.end()
})

t.test('a directory that is gone, and a file that is removed while it is open', { skip }, child => {
  using scratch = new Scratch('creates', 60)
  const mount = scratch.overlay('lamina', 1, ['keeper=1'])
  const dir = join(mount.mountpoint, 'd')
  mkdir(dir)
  warm(dir)
  using held = open(dir, sys.O_RDONLY | sys.O_DIRECTORY)
  const files = ['a', 'b', 'c'].map(name => {
    const file = open(join(dir, name), NEW)
    writeAt(file, name, 0)
    return file
  })
  for (const name of ['a', 'b', 'c']) unlink(join(dir, name))
  for (const [i, file] of files.entries()) {
    child.equal(readAt(file, 10, 0).toString(), 'abc'[i])
    child.equal(sys.statFd(file.n).nlink, 0)
    file.close()
  }
  fs.rmdirSync(dir)
  child.same(
    outcome(() => {
      open(`/proc/self/fd/${held.n}/x`, NEW).close()
    }),
    'ENOENT',
  )
  child.end()
})

t.test('a name that was taken away behind the mount', { skip }, child => {
  using scratch = new Scratch('creates', 60)
  const mount = scratch.overlay('lamina')
  const dir = join(mount.mountpoint, 'd')
  mkdir(dir)
  for (const [one, other] of [
    ['a', 'b'],
    ['y', 'x'],
  ] as const) {
    write(join(dir, one), 'old')
    link(join(dir, one), join(dir, other))
    using held = open(join(dir, other), sys.O_RDONLY)
    mount.dropCaches()
    for (const name of [one, other]) stat(join(dir, name))
    mount.dropCaches()
    warm(dir)
    fs.unlinkSync(join(scratch.path('upper'), 'd', one))
    const without = mount.gained('namesAnswered', () => {
      using fd = open(join(dir, one), NEW)
      writeAt(fd, 'new', 0)
    })
    child.ok(without > 0, 'made without JavaScript')
    child.equal(text(join(dir, one)), 'new')
    child.equal(text(join(dir, other)), 'old')
    child.equal(readAt(held, 10, 0).toString(), 'old')
    chmod(join(dir, other), 0o600)
    setxattr(join(dir, other), 'user.of', other)
    child.same(
      [one, other].map(name => listxattr(join(dir, name))),
      [[], ['user.of']],
    )
    child.same([stat(join(dir, one)).mode & 0o777, stat(join(dir, other)).mode & 0o777], [0o644, 0o600])
  }
  child.end()
})

t.test('a full disk', { skip }, child => {
  using scratch = new Scratch('creates', 60)
  const disk = scratch.mkdir('disk')
  mountTmpfs(disk, 'nr_inodes=40')
  try {
    for (const dir of ['upper', 'work']) mkdir(join(disk, dir))
    const lowers = [scratch.mkdir('lower0')]
    const [upper, work, mountpoint] = [join(disk, 'upper'), join(disk, 'work'), scratch.mkdir('mnt')]
    using mount = scratch.mount({ subject: 'lamina', lowers, upper, work, mountpoint })
    const at = (i: number): string => join(mount.mountpoint, `f${i}`)
    warm(mount.mountpoint)
    for (let round = 0; round < 3; round++) {
      let made = 0
      while (outcome(() => write(at(made), 'x')) === 'ok') made++
      child.ok(made > 20 && made < 40, `${made} files`)
      child.equal(
        outcome(() => write(at(made), 'x')),
        'ENOSPC',
      )
      for (let i = 0; i < made; i++) unlink(at(i))
    }
  } finally {
    umount(disk)
  }
  child.end()
})

t.test('each file is made once, however often the daemon is killed', { skip }, async child => {
  using scratch = new Scratch('creates', 100)
  const mount = scratch.overlay('lamina', 1, ['keeper=1'])
  const dir = join(mount.mountpoint, 'd')
  mkdir(dir)
  const programs = ['a', 'b'].map(prefix =>
    python(
      `import os,sys
for i in range(2000):
    n = os.path.join(sys.argv[1], sys.argv[2] + str(i))
    fd = os.open(n, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640)
    os.write(fd, n.encode())
    assert os.fstat(fd).st_ino == os.stat(n).st_ino, n
    os.close(fd)
    if i % 3 == 0: os.unlink(n)`,
      dir,
      prefix,
    ),
  )
  let ended = 0
  const done = Promise.all(programs).then(outcomes => {
    ended = 1
    return outcomes
  })
  let kills = 0
  const made = (): number => fs.readdirSync(join(scratch.path('upper'), 'd')).length
  while (ended === 0) {
    await new Promise(resolve => setTimeout(resolve, 20 + ((kills * 37) % 160)))
    const { pid } = mount
    if (pid === undefined) continue
    try {
      process.kill(pid, 'SIGKILL')
      kills++
    } catch (error) {
      if ((error as { errno?: number }).errno !== -E.ESRCH) throw error
    }
    // One daemon after the other, not a keeper that gives up.
    for (let waited = 0; waited < 200 && (mount.pid === pid || mount.pid === undefined); waited++) pause(5)
    // Each gets something done, however slow the machine is.
    const before = made()
    for (let waited = 0; waited < 500 && ended === 0 && made() < before + 40; waited++)
      await new Promise(resolve => setTimeout(resolve, 10))
  }
  child.same(await done, ['', ''])
  child.ok(kills >= 5, `${kills} kills`)
  const wanted = ['a', 'b'].flatMap(prefix =>
    Array.from({ length: 2000 }, (_, i) => i)
      .filter(i => i % 3 !== 0)
      .map(i => `${prefix}${i}`),
  )
  child.same(ls(dir).sort(), [...wanted].sort())
  child.same(fs.readdirSync(join(scratch.path('upper'), 'd')).sort(), [...wanted].sort())
  for (const name of wanted) if (text(join(dir, name)) !== join(dir, name)) child.fail(name)
})

/** What it said on standard error. */
function python(program: string, ...args: string[]): Promise<string> {
  return new Promise(resolve => {
    execFile('python3', ['-c', program, ...args], (error, _out, err) => {
      resolve(error === null ? '' : err || String(error))
    })
  })
}
