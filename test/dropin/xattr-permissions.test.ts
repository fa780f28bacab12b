import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import * as sys from '../../src/sys/index.js'
import { Scratch, unavailable, type Mount } from '../mount/fixture.js'

/**
 * xattr_permissions: owner, mode and device numbers kept in an attribute, as fuse-overlayfs and containers/storage write and
 * read it.
 */

const skip = unavailable('lamina') ?? false
const peer = unavailable('fuse-overlayfs')

const SECURITY = 'security.fuseoverlayfs.override_stat'
const CONTAINERS = 'user.containers.override_stat'
const LEGACY = 'user.fuseoverlayfs.override_stat'

const attr = (file: string, name: string): string | undefined =>
  sys.getxattrAt(sys.AT_FDCWD, file, name)?.toString()
const set = (file: string, name: string, value: string): void =>
  sys.setxattrAt(sys.AT_FDCWD, file, name, Buffer.from(value))

function shown(root: string, name: string): string {
  const s = sys.statAt(sys.AT_FDCWD, path.join(root, name))
  if (s === undefined) return 'absent'
  return `${s.mode.toString(8)} ${s.uid}:${s.gid} ${sys.devMajor(s.rdev)},${sys.devMinor(s.rdev)}`
}

function plant(scratch: Scratch): void {
  const lower = scratch.mkdir('lower0')
  fs.mkdirSync(path.join(lower, 'dir'))
  fs.writeFileSync(path.join(lower, 'file'), 'low')
  fs.chmodSync(path.join(lower, 'file'), 0o640)
  fs.chownSync(path.join(lower, 'file'), 1000, 1001)
  fs.symlinkSync('x', path.join(lower, 'link'))
  sys.mknodat(sys.AT_FDCWD, path.join(lower, 'null'), sys.S_IFCHR | 0o666, sys.makedev(1, 3))
}

function change(m: string): void {
  const at = (name: string): string => path.join(m, name)
  fs.writeFileSync(at('new'), 'n', { mode: 0o644 })
  fs.chownSync(at('new'), 3, 4)
  fs.chmodSync(at('new'), 0o4755)
  fs.chownSync(at('file'), 5, 6)
  fs.mkdirSync(at('sticky'))
  fs.chmodSync(at('sticky'), 0o1777)
  fs.chmodSync(at('dir'), 0o2750)
  fs.chownSync(at('dir'), 8, 9)
  fs.writeFileSync(at('dir/inherits'), '')
  fs.symlinkSync('q', at('own-link'))
  fs.chownSync(at('null'), 7, 7)
  sys.mknodat(sys.AT_FDCWD, at('tty'), sys.S_IFCHR | 0o620, sys.makedev(4, 3))
  sys.mknodat(sys.AT_FDCWD, at('disk'), sys.S_IFBLK | 0o660, sys.makedev(8, 17))
  sys.mknodat(sys.AT_FDCWD, at('pipe'), sys.S_IFIFO | 0o600, 0)
}

const EXPECTED: Readonly<Record<string, string>> = {
  new: '104755 3:4 0,0',
  file: '100640 5:6 0,0',
  sticky: '41777 0:0 0,0',
  dir: '42750 8:9 0,0',
  'dir/inherits': '100644 0:9 0,0',
  null: '20644 7:7 1,3',
  tty: '20600 0:0 4,3',
  disk: '60640 0:0 8,17',
  pipe: '10600 0:0 0,0',
}

function expectAll(t: Test, mount: Mount, but: Readonly<Record<string, string>> = {}): void {
  for (const [name, value] of Object.entries({ ...EXPECTED, ...but })) {
    t.equal(shown(mount.mountpoint, name), value, name)
  }
}

for (const [mode, name] of [
  [1, SECURITY],
  [2, CONTAINERS],
] as const) {
  t.test(
    `xattr_permissions=${mode}: everything is in ${name}, nothing on disk sets an id`,
    { skip },
    async t => {
      using scratch = new Scratch(`xattr-permissions-${mode}`)
      plant(scratch)
      const mask = process.umask(0o022)
      using mount = scratch.overlay('lamina', 1, [`xattr_permissions=${mode}`])
      change(mount.mountpoint)
      process.umask(mask)
      const but = { null: '20644 7:7 1,3' }
      expectAll(t, mount, { ...but, tty: '20600 0:0 4,3' })
      const upper = scratch.path('upper')
      t.equal(attr(path.join(upper, 'new'), name), '3:4:4755')
      t.equal(attr(upper, name), '0:0:0755', 'the root is marked')
      for (const at of ['new', 'file', 'dir', 'sticky']) {
        const stat = fs.statSync(path.join(upper, at))
        t.equal(stat.uid, 0, `${at} belongs to the daemon on disk`)
        t.equal(stat.mode & 0o7000, 0)
      }
      if (mode === 2) {
        t.equal(attr(path.join(upper, 'disk'), name), '0:0:0640:block-8-17')
        t.ok(fs.lstatSync(path.join(upper, 'disk')).isFile())
        t.equal(attr(path.join(upper, 'null'), name), '7:7:0644:char-1-3')
      }
      t.notOk(attr(path.join(mount.mountpoint, 'new'), name), 'and the view does not show it')
      const types = new Map(fs.readdirSync(mount.mountpoint, { withFileTypes: true }).map(e => [e.name, e]))
      t.ok(types.get('disk')?.isBlockDevice(), 'readdir says what stat says')

      const again = mount.remount()
      expectAll(t, again, but)
      // Written to once more, and copied within the view.
      fs.chmodSync(path.join(again.mountpoint, 'tty'), 0o660)
      fs.renameSync(path.join(again.mountpoint, 'disk'), path.join(again.mountpoint, 'disk2'))
      t.equal(shown(again.mountpoint, 'tty'), '20660 0:0 4,3')
      t.equal(shown(again.mountpoint, 'disk2'), '60640 0:0 8,17')
      again.unmount()
    },
  )
}

t.test(
  'layers that containers/storage unpacked are read by their mark, with the option',
  { skip },
  async t => {
    using scratch = new Scratch('override-lower')
    const lower = scratch.mkdir('lower0')
    set(lower, CONTAINERS, '0:0:0755:dir')
    for (const [name, value] of Object.entries({
      file: '33:44:4750:file',
      null: '0:0:0666:char-1-3',
      disk: '0:6:0660:block-8-1',
      pipe: '1:1:0600:pipe',
      socket: '1:1:0700:socket',
      old: '10:11:100600',
    })) {
      fs.writeFileSync(path.join(lower, name), name)
      set(path.join(lower, name), CONTAINERS, value)
    }
    const mask = process.umask(0o022)
    using mount = scratch.overlay('lamina', 1, ['xattr_permissions=2'])
    process.umask(mask)
    const at = (name: string): string => path.join(mount.mountpoint, name)
    t.equal(shown(mount.mountpoint, 'file'), '104750 33:44 0,0')
    t.equal(shown(mount.mountpoint, 'null'), '20666 0:0 1,3')
    t.equal(shown(mount.mountpoint, 'disk'), '60660 0:6 8,1')
    t.equal(shown(mount.mountpoint, 'pipe'), '10600 1:1 0,0')
    t.equal(shown(mount.mountpoint, 'socket'), '140700 1:1 0,0')
    t.equal(shown(mount.mountpoint, 'old'), '100600 10:11 0,0')
    fs.appendFileSync(at('file'), '!')
    fs.chownSync(at('null'), 5, 5)
    t.equal(shown(mount.mountpoint, 'file'), '104750 33:44 0,0', 'copied up')
    t.equal(attr(scratch.path('upper', 'file'), CONTAINERS), '33:44:4750')
    t.equal(shown(mount.mountpoint, 'null'), '20666 5:5 1,3')
  },
)

for (const mode of [1, 2]) {
  t.test(
    `fuse-overlayfs and ours take an upperdir with xattr_permissions=${mode} from each other`,
    {
      skip: skip === false ? (peer ?? false) : skip,
    },
    async t => {
      using scratch = new Scratch(`override-peer-${mode}`)
      plant(scratch)
      fs.rmSync(scratch.path('lower0', 'null')) // 1.10 makes a symlink of it
      const options = [`xattr_permissions=${mode}`]
      const theirs = scratch.overlay('fuse-overlayfs', 1, options)
      fs.writeFileSync(path.join(theirs.mountpoint, 'new'), 'n')
      fs.chmodSync(path.join(theirs.mountpoint, 'new'), 0o751)
      fs.chownSync(path.join(theirs.mountpoint, 'file'), 5, 6)
      theirs.unmount()
      if (mode === 2) t.ok(attr(scratch.path('upper'), LEGACY), 'the older name')

      const ours = scratch.overlay('lamina', 1, options)
      t.match(shown(ours.mountpoint, 'new'), /^100751 0:0/)
      t.match(shown(ours.mountpoint, 'file'), /^100640 5:6/)
      fs.writeFileSync(path.join(ours.mountpoint, 'ours'), 'o')
      fs.chownSync(path.join(ours.mountpoint, 'ours'), 12, 13)
      fs.chmodSync(path.join(ours.mountpoint, 'ours'), 0o711)
      fs.chmodSync(path.join(ours.mountpoint, 'new'), 0o700)
      fs.mkdirSync(path.join(ours.mountpoint, 'made'))
      ours.unmount()

      using back = scratch.overlay('fuse-overlayfs', 1, options)
      t.match(shown(back.mountpoint, 'ours'), /^100711 12:13/)
      t.match(shown(back.mountpoint, 'new'), /^100700 0:0/)
      t.match(shown(back.mountpoint, 'file'), /^100640 5:6/)
      t.strictSame(fs.readdirSync(back.mountpoint).sort(), ['dir', 'file', 'link', 'made', 'new', 'ours'])
    },
  )
}
