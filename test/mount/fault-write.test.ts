import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { mountTmpfs, Scratch, umount, unavailable, type Mount } from './fixture.js'

/** An upper filesystem that has a quota, or cannot write: the caller hears of it, and what was there before still is. */

const filesystems = fs.readFileSync('/proc/filesystems', 'utf8')
const skip = unavailable('lamina') ?? (fs.existsSync('/dev/loop-control') ? false : 'no loop devices')
const noBtrfs = filesystems.includes('\tbtrfs\n') && fs.existsSync('/usr/bin/btrfs') ? skip : 'no btrfs'

const SIZE = 3 << 20

function view(scratch: Scratch, dir: string): Mount {
  const lower = scratch.mkdir('lower0')
  for (const name of ['big', 'big2']) fs.writeFileSync(path.join(lower, name), Buffer.alloc(SIZE, name))
  for (const name of ['upper', 'work']) fs.mkdirSync(path.join(dir, name))
  const [upper, work] = [path.join(dir, 'upper'), path.join(dir, 'work')]
  return scratch.mount({ subject: 'lamina', lowers: [lower], upper, work, mountpoint: scratch.mkdir('mnt') })
}

const CHANGES: Readonly<Record<string, (m: string) => void>> = {
  append: m => fs.appendFileSync(path.join(m, 'big'), 'more'),
  chmod: m => fs.chmodSync(path.join(m, 'big'), 0o600),
  chown: m => fs.chownSync(path.join(m, 'big'), 5, 5),
  rename: m => fs.renameSync(path.join(m, 'big'), path.join(m, 'moved')),
  link: m => fs.linkSync(path.join(m, 'big'), path.join(m, 'linked')),
}

function outcome(fn: () => void): string {
  try {
    fn()
    return 'ok'
  } catch (error) {
    // Node has no name for EDQUOT.
    if (error instanceof Error && 'errno' in error && error.errno === -122) return 'EDQUOT'
    return error instanceof Error && 'code' in error ? String(error.code) : String(error)
  }
}

function refusedAll(t: Test, mount: Mount, expected: RegExp, upper: string, work: string): void {
  const m = mount.mountpoint
  for (const [name, change] of Object.entries(CHANGES)) {
    t.match(
      outcome(() => change(m)),
      expected,
      name,
    )
    t.strictSame(fs.readdirSync(upper), [], `${name}: nothing in upperdir`)
    t.strictSame(fs.readdirSync(path.join(work, 'work')), [], `${name}: nothing in workdir`)
    t.strictSame(fs.readdirSync(m), ['big', 'big2'])
    t.ok(
      fs.readFileSync(path.join(m, 'big')).equals(Buffer.alloc(SIZE, 'big')),
      `${name}: the old state stands`,
    )
  }
}

await t.test('a quota that is used up: EDQUOT', { skip: noBtrfs }, async t => {
  using scratch = new Scratch('quota', 120)
  const disk = scratch.mkdir('disk')
  const image = scratch.path('image')
  fs.writeFileSync(image, '')
  fs.truncateSync(image, 256 << 20)
  execFileSync('mkfs.btrfs', ['-q', '-f', image], { stdio: 'ignore' })
  execFileSync('mount', ['-o', 'loop', image, disk])
  try {
    const limited = path.join(disk, 'limited')
    const btrfs = (...args: string[]): void => void execFileSync('btrfs', args, { stdio: 'ignore' })
    btrfs('quota', 'enable', disk)
    btrfs('subvolume', 'create', limited)
    btrfs('qgroup', 'limit', '1M', limited)
    using mount = view(scratch, limited)
    refusedAll(t, mount, /^EDQUOT$/, path.join(limited, 'upper'), path.join(limited, 'work'))
    btrfs('qgroup', 'limit', 'none', limited)
    for (const [name, change] of Object.entries(CHANGES).slice(0, 3))
      t.equal(
        outcome(() => change(mount.mountpoint)),
        'ok',
        `${name}, without a limit`,
      )
    t.equal(fs.statSync(path.join(mount.mountpoint, 'big')).size, SIZE + 4)
  } finally {
    for (const mount of scratch.mounts) mount.unmount()
    umount(disk)
  }
})

await t.test('a disk that does not take what was written, and says so at fsync', { skip }, async t => {
  using scratch = new Scratch('write-error', 120)
  const [room, disk] = [scratch.mkdir('room'), scratch.mkdir('disk')]
  // A sparse image on a filesystem that is full: the first write to a new block fails below ext4.
  mountTmpfs(room, 'size=16m')
  try {
    const image = path.join(room, 'image')
    fs.writeFileSync(image, '')
    fs.truncateSync(image, 64 << 20)
    execFileSync('mkfs.ext4', [
      '-q',
      '-F',
      '-m',
      '0',
      '-O',
      '^has_journal',
      '-E',
      'lazy_itable_init=0',
      image,
    ])
    execFileSync('mount', ['-o', 'loop,errors=continue', image, disk])
    try {
      using mount = view(scratch, disk)
      execFileSync('sync', ['-f', disk])
      const filler = path.join(room, 'filler')
      t.equal(
        outcome(() => fs.writeFileSync(filler, Buffer.alloc(32 << 20))),
        'ENOSPC',
        'the room is full',
      )
      refusedAll(t, mount, /^(EIO|ENOSPC)$/, path.join(disk, 'upper'), path.join(disk, 'work'))
      fs.rmSync(filler)
      fs.appendFileSync(path.join(mount.mountpoint, 'big2'), 'more')
      t.equal(fs.statSync(path.join(mount.mountpoint, 'big2')).size, SIZE + 4, 'with room, the same works')
    } finally {
      for (const mount of scratch.mounts) mount.unmount()
      umount(disk)
    }
  } finally {
    umount(room)
  }
})
