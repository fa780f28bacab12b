import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import * as sys from '../../src/sys/index.js'
import { Scratch, umount, unavailable, type Mount } from './fixture.js'

/**
 * What the disk can do to an overlay: full, out of inodes, unreadable, read-only. Always the same three demands: the caller gets
 * the right error, what was there before still is, and the daemon lives.
 */

function loopMissing(): string | undefined {
  if (!fs.existsSync('/dev/loop-control')) return 'no loop devices'
  const known = fs.readFileSync('/proc/filesystems', 'utf8').includes('\text4\n')
  return known ? undefined : 'the kernel has no ext4'
}

const skip = unavailable('lamina') ?? loopMissing() ?? false

/** A filesystem of its own in a file. */
class Disk implements Disposable {
  readonly image: string
  readonly dir: string

  constructor(scratch: Scratch, name: string, megabytes: number, mkfs: readonly string[] = []) {
    this.image = scratch.path(`${name}.img`)
    this.dir = scratch.mkdir(name)
    fs.writeFileSync(this.image, '')
    fs.truncateSync(this.image, megabytes << 20)
    execFileSync('mkfs.ext4', ['-q', '-F', '-m', '0', '-O', '^has_journal', ...mkfs, this.image])
    this.mount()
  }

  mount(): void {
    execFileSync('mount', ['-o', 'loop,errors=continue', this.image, this.dir])
  }

  /** /dev/loopN */
  device(): string {
    return execFileSync('findmnt', ['-no', 'SOURCE', this.dir], { encoding: 'utf8' }).trim()
  }

  /** Writes until nothing more fits. */
  fill(): void {
    const fd = fs.openSync(path.join(this.dir, 'filler'), 'w')
    try {
      for (const size of [1 << 20, 1 << 16, 4096, 512]) {
        const block = Buffer.alloc(size, 1)
        try {
          for (;;) fs.writeSync(fd, block)
        } catch (error) {
          if (codeOf(error) !== 'ENOSPC') throw error
        }
      }
      fs.fsyncSync(fd)
    } finally {
      fs.closeSync(fd)
    }
  }

  empty(): void {
    fs.rmSync(path.join(this.dir, 'filler'))
  }

  [Symbol.dispose](): void {
    umount(this.dir)
  }
}

function codeOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  if ('code' in error && typeof error.code === 'string') return error.code
  return 'errno' in error && error.errno === 28 ? 'ENOSPC' : error.message
}

/** The result of `fn` as a word: `ok` or the error's name. */
function outcome(fn: () => void): string {
  try {
    fn()
    return 'ok'
  } catch (error) {
    return codeOf(error)
  }
}

/** Names, types, modes, owners and contents of everything below. */
function snapshot(root: string): string[] {
  const lines: string[] = []
  const walk = (dir: string): void => {
    for (const name of fs.readdirSync(path.join(root, dir)).sort()) {
      const at = path.join(dir, name)
      const stat = fs.lstatSync(path.join(root, at))
      const data = stat.isFile() ? fs.readFileSync(path.join(root, at), 'latin1') : ''
      lines.push(
        `${at} ${stat.mode.toString(8)} ${stat.uid} ${stat.nlink} ${data.length} ${data.slice(0, 20)} ${data.slice(-20)}`,
      )
      if (stat.isDirectory()) walk(at)
    }
  }
  walk('.')
  return lines
}

function plant(lower: string): void {
  for (const dir of ['dir/sub', 'gone', 'empty']) fs.mkdirSync(path.join(lower, dir), { recursive: true })
  fs.writeFileSync(path.join(lower, 'big'), 'big;'.repeat(500_000))
  fs.writeFileSync(path.join(lower, 'dir/small'), 'small;'.repeat(2000))
  fs.writeFileSync(path.join(lower, 'dir/sub/other'), 'other;'.repeat(2000))
  fs.writeFileSync(path.join(lower, 'gone/file'), 'x')
}

const append = (file: string, data: string): void => {
  const fd = fs.openSync(file, 'a')
  try {
    fs.writeSync(fd, data)
  } finally {
    fs.closeSync(fd)
  }
}

/** Every kind of change, each of which needs room. The first word is its name. */
function changes(m: string): Record<string, () => void> {
  const at = (name: string): string => path.join(m, name)
  return {
    'append to a lower file': () => append(at('big'), 'more'),
    'chmod of a lower file': () => fs.chmodSync(at('big'), 0o600),
    'chown of a lower file': () => fs.chownSync(at('dir/small'), 5, 5),
    'truncate of a lower file': () => fs.truncateSync(at('dir/small'), 6000),
    'rename of a lower file': () => fs.renameSync(at('big'), at('big2')),
    'link of a lower file': () => fs.linkSync(at('big'), at('big3')),
    'append to an upper file': () => append(at('upper'), 'more'.repeat(5000)),
    'an attribute of an upper file': () =>
      sys.setxattrAt(sys.AT_FDCWD, at('upper'), 'user.long', Buffer.alloc(700, 1)),
    'chmod of a lower directory': () => fs.chmodSync(at('dir/sub'), 0o700),
    mkdir: () => fs.mkdirSync(at('new')),
    'mkdir in a lower directory': () => fs.mkdirSync(at('dir/sub/new')),
    'a long symlink': () => fs.symlinkSync('x'.repeat(500), at('link')),
    'a new file with data': () => fs.writeFileSync(at('fresh'), 'x'.repeat(20_000)),
    'removal in a lower directory': () => fs.unlinkSync(at('dir/sub/other')),
  }
}

await t.test('disk full: ENOSPC to the caller, the old state stands, the daemon lives', { skip }, async t => {
  using scratch = new Scratch('disk-full', 120)
  plant(scratch.mkdir('lower0'))
  using disk = new Disk(scratch, 'disk', 16)
  using mount = onDisk(scratch, disk)
  const m = mount.mountpoint
  fs.writeFileSync(path.join(m, 'upper'), 'upper;')
  disk.fill()
  const before = snapshot(m)
  for (const [name, change] of Object.entries(changes(m))) {
    const result = outcome(change)
    t.equal(result, 'ENOSPC', name)
    // A file that was created stays, as on any filesystem; only its data found no room.
    if (name === 'a new file with data' && fs.existsSync(path.join(m, 'fresh')))
      fs.unlinkSync(path.join(m, 'fresh'))
    t.strictSame(snapshot(m), before, `after "${name}" all is as it was`)
  }
  t.strictSame(fs.readdirSync(path.join(disk.dir, 'work/work')).filter(temporary), [], 'nothing in workdir')
  disk.empty()
  worksAgain(t, mount)
})

await t.test('no inode left: ENOSPC, and nothing half made', { skip }, async t => {
  using scratch = new Scratch('inodes', 120)
  plant(scratch.mkdir('lower0'))
  using disk = new Disk(scratch, 'disk', 16, ['-N', '64'])
  using mount = onDisk(scratch, disk)
  const m = mount.mountpoint
  fs.writeFileSync(path.join(m, 'upper'), 'upper;')
  fs.mkdirSync(path.join(disk.dir, 'fill'))
  for (let i = 0; ; i++) {
    if (outcome(() => fs.writeFileSync(path.join(disk.dir, `fill/${i}`), '')) === 'ENOSPC') break
  }
  const before = snapshot(m)
  for (const [name, change] of Object.entries(changes(m))) {
    if (/upper file/.test(name)) continue // needs none
    t.equal(outcome(change), 'ENOSPC', name)
    t.strictSame(snapshot(m), before, `after "${name}" all is as it was`)
  }
  t.strictSame(fs.readdirSync(path.join(disk.dir, 'work/work')).filter(temporary), [], 'nothing in workdir')
  fs.rmSync(path.join(disk.dir, 'fill'), { recursive: true })
  worksAgain(t, mount)
})

await t.test('a lower file that cannot be read: EIO, and no copy of zeros', { skip }, async t => {
  using scratch = new Scratch('eio', 120)
  using disk = new Disk(scratch, 'disk', 32)
  fs.writeFileSync(path.join(disk.dir, 'small'), 'small')
  // Far back in the image, so that what describes the files is in front of it.
  fs.writeFileSync(path.join(disk.dir, 'room'), Buffer.alloc(12 << 20, 1))
  fs.writeFileSync(path.join(disk.dir, 'bad'), Buffer.alloc(8 << 20, 2))
  umount(disk.dir)
  disk.mount()
  using mount = scratch.mount({
    subject: 'lamina',
    lowers: [disk.dir],
    upper: scratch.mkdir('upper'),
    work: scratch.mkdir('work'),
    mountpoint: scratch.mkdir('mnt'),
  })
  const m = mount.mountpoint
  t.equal(fs.readFileSync(path.join(m, 'small'), 'utf8'), 'small')
  fs.truncateSync(disk.image, 9 << 20)
  const bad = path.join(m, 'bad')
  for (const [name, change] of Object.entries<() => void>({
    read: () => void fs.readFileSync(bad),
    append: () => append(bad, 'x'),
    chmod: () => fs.chmodSync(bad, 0o600),
    rename: () => fs.renameSync(bad, `${bad}2`),
    link: () => fs.linkSync(bad, `${bad}3`),
    cp: () => {
      execFileSync('cp', [bad, path.join(m, 'copy')], { stdio: 'ignore' })
    },
  })) {
    const result = outcome(change)
    if (name === 'cp') t.not(result, 'ok', name)
    else t.equal(result, 'EIO', name)
    fs.rmSync(path.join(m, 'copy'), { force: true })
    t.strictSame(fs.readdirSync(scratch.path('upper')), [], `${name}: nothing in upperdir`)
    t.equal(fs.statSync(bad).size, 8 << 20)
  }
  t.strictSame(fs.readdirSync(scratch.path('work', 'work')).filter(temporary), [], 'nothing in workdir')
  fs.truncateSync(disk.image, 32 << 20)
  append(path.join(m, 'small'), '!')
  t.equal(fs.readFileSync(path.join(m, 'small'), 'utf8'), 'small!', 'the daemon lives')
})

await t.test('an upper filesystem that turns read-only: EROFS, reading goes on', { skip }, async t => {
  using scratch = new Scratch('erofs', 120)
  plant(scratch.mkdir('lower0'))
  using disk = new Disk(scratch, 'disk', 16)
  // The filesystem itself does it, as ext4 does after an error; an ordinary remount asks for no writer.
  execFileSync('mount', ['-o', 'remount,errors=remount-ro', disk.dir])
  const trigger = `/sys/fs/ext4/${path.basename(disk.device())}/trigger_fs_error`
  if (!fs.existsSync(trigger)) {
    t.pass('no trigger_fs_error here', { skip: true })
    return
  }
  using mount = onDisk(scratch, disk)
  const m = mount.mountpoint
  fs.writeFileSync(path.join(m, 'upper'), 'upper;')
  const before = snapshot(m)
  fs.writeFileSync(trigger, 'asked for by a test')
  for (const [name, change] of Object.entries(changes(m))) {
    t.match(outcome(change), /^(EROFS|30|.*Read-only file system.*)$/, name)
    t.strictSame(snapshot(m), before, `after "${name}" all is as it was`)
  }
})

function onDisk(scratch: Scratch, disk: Disk): Mount {
  for (const name of ['upper', 'work']) fs.mkdirSync(path.join(disk.dir, name), { recursive: true })
  return scratch.mount({
    subject: 'lamina',
    lowers: [scratch.path('lower0')],
    upper: path.join(disk.dir, 'upper'),
    work: path.join(disk.dir, 'work'),
    mountpoint: scratch.mkdir('mnt'),
  })
}

function temporary(name: string): boolean {
  return name !== 'incompat'
}

/** With room again, the same changes go through. */
function worksAgain(t: Test, mount: Mount): void {
  for (const [name, change] of Object.entries(changes(mount.mountpoint))) {
    if (/append to a lower|chmod of a lower file|link of|truncate|rename/.test(name)) continue
    t.equal(outcome(change), 'ok', `${name}, with room`)
  }
  append(path.join(mount.mountpoint, 'big'), 'end')
  t.equal(fs.statSync(path.join(mount.mountpoint, 'big')).size, 2_000_003)
}
