import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import * as sys from '../../src/sys/index.js'
import { Scratch, umount, unavailable, type Mount } from './fixture.js'

/** An upperdir on each kind of filesystem: the same changes, the same view, also after a remount, and in the kernel's overlayfs. */

const skip = unavailable('lamina') ?? false

interface Backing {
  /** How it is made in an image of its own; undefined for what needs none. */
  readonly mkfs?: readonly string[]
  readonly megabytes?: number
  /** The kernel's overlayfs takes it as upper, too. */
  readonly kernel: boolean
}

const BACKINGS: Readonly<Record<string, Backing>> = {
  ext4: { mkfs: ['mkfs.ext4', '-q', '-F'], megabytes: 32, kernel: true },
  xfs: { mkfs: ['mkfs.xfs', '-q', '-f'], megabytes: 320, kernel: true },
  btrfs: { mkfs: ['mkfs.btrfs', '-q', '-f'], megabytes: 128, kernel: true },
  tmpfs: { kernel: true },
  // Without extended attributes.
  ramfs: { kernel: false },
}

function missing(type: string): string | false {
  const filesystems = fs.readFileSync('/proc/filesystems', 'utf8').split(/\s+/)
  if (!filesystems.includes(type)) return `the kernel has no ${type}`
  const program = BACKINGS[type]?.mkfs?.[0]
  const found = ['/sbin', '/usr/sbin', '/usr/bin'].some(dir => fs.existsSync(`${dir}/${program ?? ''}`))
  if (program !== undefined && !found) return `${program} is not installed`
  return program !== undefined && !fs.existsSync('/dev/loop-control') ? 'no loop devices' : skip
}

function mountBacking(scratch: Scratch, type: string): string {
  const dir = scratch.mkdir('disk')
  const { mkfs, megabytes = 0 } = BACKINGS[type] ?? { kernel: false }
  if (mkfs === undefined) {
    execFileSync('mount', ['-t', type, type, dir])
  } else {
    const image = scratch.path('image')
    fs.writeFileSync(image, '')
    fs.truncateSync(image, megabytes << 20)
    execFileSync(mkfs[0] ?? '', [...mkfs.slice(1), image], { stdio: 'ignore' })
    execFileSync('mount', ['-o', 'loop', image, dir])
  }
  for (const name of ['upper', 'work']) fs.mkdirSync(path.join(dir, name))
  return dir
}

function plant(lower: string): void {
  for (const dir of ['kept/sub', 'removed/sub', 'replaced'])
    fs.mkdirSync(path.join(lower, dir), { recursive: true })
  for (const file of [
    'appended',
    'gone',
    'moved',
    'owned',
    'kept/in',
    'kept/sub/deep',
    'removed/sub/x',
    'replaced/old',
  ])
    fs.writeFileSync(path.join(lower, file), `${file}\n`)
  fs.linkSync(path.join(lower, 'owned'), path.join(lower, 'owned2'))
}

function change(m: string): void {
  const at = (name: string): string => path.join(m, name)
  fs.appendFileSync(at('appended'), 'more')
  fs.unlinkSync(at('gone'))
  fs.renameSync(at('moved'), at('kept/moved'))
  fs.chownSync(at('owned'), 12, 34)
  fs.chmodSync(at('owned'), 0o2750)
  fs.unlinkSync(at('kept/sub/deep'))
  fs.rmSync(at('removed'), { recursive: true })
  fs.rmSync(at('replaced'), { recursive: true })
  fs.mkdirSync(at('replaced'))
  fs.writeFileSync(at('replaced/new'), 'new')
  fs.symlinkSync('to', at('link'))
  fs.linkSync(at('replaced/new'), at('linked'))
  sys.mknodat(sys.AT_FDCWD, at('fifo'), sys.S_IFIFO | 0o600, 0)
  sys.mknodat(sys.AT_FDCWD, at('null'), sys.S_IFCHR | 0o666, sys.makedev(1, 3))
  const fd = fs.openSync(at('sparse'), 'w')
  fs.writeSync(fd, 'end', 5 << 20)
  fs.closeSync(fd)
  fs.utimesSync(at('sparse'), 1_000_000, 2_000_000)
  for (let i = 0; i < 30; i++) fs.writeFileSync(at(`kept/sub/${i}`), '')
}

function look(root: string): string[] {
  const seen: string[] = []
  const visit = (dir: string): void => {
    for (const name of fs.readdirSync(path.join(root, dir)).sort()) {
      const at = path.join(dir, name)
      const stat = fs.lstatSync(path.join(root, at))
      const size = stat.isFile() ? fs.readFileSync(path.join(root, at)).length : ''
      seen.push(
        `${at} ${stat.mode.toString(8)} ${stat.uid}:${stat.gid} ${size} ${stat.isDirectory() ? '' : stat.nlink}`,
      )
      if (stat.isDirectory()) visit(at)
    }
  }
  visit('.')
  return seen
}

for (const [type, { kernel }] of Object.entries(BACKINGS)) {
  await t.test(`upper on ${type}`, { skip: missing(type) }, async t => {
    using scratch = new Scratch(`backing-${type}`, 100)
    plant(scratch.mkdir('lower0'))
    const disk = mountBacking(scratch, type)
    try {
      const request = {
        lowers: [scratch.path('lower0')],
        upper: path.join(disk, 'upper'),
        work: path.join(disk, 'work'),
        mountpoint: scratch.mkdir('mnt'),
      }
      let mount: Mount = scratch.mount({ subject: 'lamina', ...request })
      change(mount.mountpoint)
      const seen = look(mount.mountpoint)
      t.ok(seen.includes('owned 102750 12:34 6 1'), 'owner, mode and links as changed')
      t.notMatch(seen.join('\n'), /^(gone|removed|moved|replaced\/old|kept\/sub\/deep) /m)
      t.match(seen.join('\n'), /^null 206[0-7]{2} 0:0 {2}1$/m)
      mount = mount.remount()
      t.strictSame(look(mount.mountpoint), seen, 'the same after a remount')
      mount.unmount()
      if (kernel && unavailable('kernel') === undefined) {
        const options = ['index=off', 'xino=off', 'metacopy=off']
        using theirs = scratch.mount({ subject: 'kernel', ...request, options })
        t.strictSame(look(theirs.mountpoint), seen, "the same in the kernel's overlayfs")
      }
    } finally {
      for (const mount of scratch.mounts) mount.unmount()
      umount(disk)
    }
  })
}

/** Whether all data of a file is shared with another (FIEMAP_EXTENT_SHARED). */
function sharesItsData(file: string): boolean {
  const extents = execFileSync('filefrag', ['-v', file], { encoding: 'utf8' }).match(/^ +\d+: .*$/gm) ?? []
  return extents.length > 0 && extents.every(line => line.includes('shared'))
}

for (const type of ['btrfs', 'xfs'])
  await t.test(`copies share their data on ${type}`, { skip: missing(type) }, async t => {
    using scratch = new Scratch(`reflink-${type}`, 100)
    const disk = mountBacking(scratch, type)
    try {
      const [lower, upper] = [path.join(disk, 'lower'), path.join(disk, 'upper')]
      fs.mkdirSync(lower)
      const data = Buffer.alloc(4 << 20, 'lamina')
      for (const name of ['changed', 'copied']) fs.writeFileSync(path.join(lower, name), data)
      const mount = scratch.mount({
        subject: 'lamina',
        lowers: [lower],
        upper,
        work: path.join(disk, 'work'),
        mountpoint: scratch.mkdir('mnt'),
      })
      const at = (name: string): string => path.join(mount.mountpoint, name)
      fs.chmodSync(at('changed'), 0o600)
      execFileSync('cp', [at('copied'), at('copy')])
      execFileSync('sync', ['-f', disk])
      t.ok(sharesItsData(path.join(upper, 'changed')), 'a file that was copied up')
      t.ok(sharesItsData(path.join(upper, 'copy')), 'one that a program copied within the view')
      fs.appendFileSync(at('changed'), 'more')
      t.ok(fs.readFileSync(path.join(lower, 'changed')).equals(data), 'what is below stays as it is')
      t.ok(fs.readFileSync(at('copy')).equals(data))
    } finally {
      for (const mount of scratch.mounts) mount.unmount()
      umount(disk)
    }
  })

await t.test(
  'an upper without extended attributes: what that means is said at mount',
  { skip: missing('ramfs') },
  async t => {
    using scratch = new Scratch('backing-said')
    fs.mkdirSync(path.join(scratch.mkdir('lower0'), 'dir'))
    fs.writeFileSync(scratch.path('lower0', 'dir', 'f'), 'data')
    const disk = mountBacking(scratch, 'ramfs')
    const mnt = scratch.mkdir('mnt')
    const mount = (...more: string[]): { status: number | null; stderr: string } => {
      const options = [
        `lowerdir=${scratch.path('lower0')}`,
        `upperdir=${disk}/upper`,
        `workdir=${disk}/work`,
        ...more,
      ]
      const args = ['bin/lamina.js', 'mount', '-o', options.join(), mnt]
      try {
        execFileSync(process.execPath, args, {
          stdio: ['ignore', 'ignore', fs.openSync(scratch.path('said'), 'w')],
        })
        return { status: 0, stderr: fs.readFileSync(scratch.path('said'), 'utf8') }
      } catch {
        return { status: 1, stderr: fs.readFileSync(scratch.path('said'), 'utf8') }
      }
    }
    try {
      const said = mount('redirect_dir=on', 'metacopy=on')
      t.equal(said.status, 0)
      t.match(
        said.stderr,
        /^lamina: upperdir '.*' is on a filesystem without extended attributes: .*\n$/,
        'one line',
      )
      fs.chmodSync(path.join(mnt, 'dir/f'), 0o600)
      t.equal(fs.readFileSync(path.join(mnt, 'dir/f'), 'utf8'), 'data', 'metacopy is off')
      t.throws(() => fs.renameSync(path.join(mnt, 'dir'), path.join(mnt, 'moved')), /EXDEV/, 'mv(1) copies')
      execFileSync('mv', [path.join(mnt, 'dir'), path.join(mnt, 'moved')])
      t.equal(fs.readFileSync(path.join(mnt, 'moved/f'), 'utf8'), 'data')
      execFileSync(process.execPath, ['bin/lamina.js', 'umount', mnt])
      const refused = mount('index=on')
      t.equal(refused.status, 1)
      t.match(refused.stderr, /index/)
    } finally {
      umount(disk)
    }
  },
)
