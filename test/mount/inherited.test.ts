import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { listxattr, setxattr, stat, utimens } from '../conformance/posix.js'
import * as sys from '../../src/sys/index.js'
import { Scratch, unavailable } from './fixture.js'

/** What upper's and the work directory's filesystem would add by themselves, and is not to be seen. */

const skip = unavailable('lamina') ?? false

/** user::rwx, user 1000 rwx, group::---, mask rwx, other::--- */
const ACL = Buffer.from(
  '0200000001000700ffffffff02000700e803000004000000ffffffff10000700ffffffff20000000ffffffff',
  'hex',
)

t.test(
  "a default ACL of the work directory is nobody's",
  { skip: skip !== false ? skip : (unavailable('kernel') ?? false) },
  t => {
    using scratch = new Scratch('work-acl')
    const lower = scratch.mkdir('lower0')
    for (const name of ['file', 'dir', 'fifo', 'copied'])
      fs.writeFileSync(path.join(lower, name), '', { mode: 0o644 })
    for (const subject of ['lamina', 'kernel']) {
      setxattr(scratch.mkdir(`work-${subject}`), 'system.posix_acl_default', ACL)
      fs.chmodSync(scratch.path(`work-${subject}`), 0o2775)
      fs.chownSync(scratch.path(`work-${subject}`), 0, 3000)
    }
    const seen = scratch.beside([lower]).map(mount => {
      const at = (name: string): string => path.join(mount.mountpoint, name)
      for (const name of ['file', 'dir', 'fifo']) fs.unlinkSync(at(name))
      fs.writeFileSync(at('file'), 'x', { mode: 0o640 })
      fs.mkdirSync(at('dir'), { mode: 0o750 })
      sys.mknodat(sys.AT_FDCWD, at('fifo'), sys.S_IFIFO | 0o620, 0)
      fs.utimesSync(at('copied'), 1, 1)
      return Object.fromEntries(
        ['file', 'dir', 'fifo', 'copied'].map(name => {
          const { mode, gid } = stat(at(name))
          return [name, [mode.toString(8), gid, ...listxattr(at(name))]]
        }),
      )
    })
    t.strictSame(seen[0], seen[1])
    t.strictSame(seen[0]?.['file'], ['100640', 0])
    t.end()
  },
)

for (const io of ['cached', 'passthrough']) {
  t.test(
    `O_NOATIME leaves the access time of an upper file, and reading without it does not (${io})`,
    { skip },
    t => {
      using scratch = new Scratch('noatime')
      scratch.mkdir('lower0')
      const upper = scratch.mkdir('upper')
      for (const name of ['quiet', 'loud']) {
        fs.writeFileSync(path.join(upper, name), 'content')
        utimens(path.join(upper, name), { sec: 1, nsec: 0 }, { sec: 1000, nsec: 0 })
      }
      using mount = scratch.overlay('lamina', 1, ['atime', `io=${io}`])
      for (const [name, flags] of [
        ['quiet', sys.O_NOATIME],
        ['loud', 0],
        ['quiet', sys.O_NOATIME],
      ] as const) {
        using fd = sys.openat(sys.AT_FDCWD, path.join(mount.mountpoint, name), sys.O_RDONLY | flags)
        sys.preadSync(fd.n, Buffer.alloc(10), 0, 10, 0)
      }
      t.equal(stat(path.join(upper, 'quiet')).atime, 1)
      t.equal(stat(path.join(mount.mountpoint, 'quiet')).atime, 1)
      t.not(stat(path.join(upper, 'loud')).atime, 1)
      t.end()
    },
  )
}

t.test(
  'an upperdir on an overlay that keeps no marks is refused, rather than deletions be lost',
  { skip: skip !== false ? skip : (unavailable('fuse-overlayfs') ?? false) },
  t => {
    using scratch = new Scratch('on-fuse-overlayfs')
    scratch.mkdir('lower0')
    const below = scratch.overlay('fuse-overlayfs')
    fs.mkdirSync(path.join(below.mountpoint, 'u'))
    fs.mkdirSync(path.join(below.mountpoint, 'w'))
    const lower = scratch.mkdir('low')
    fs.writeFileSync(path.join(lower, 'gone'), 'x')
    const mount = () =>
      scratch.mount({
        subject: 'lamina',
        lowers: [lower],
        upper: path.join(below.mountpoint, 'u'),
        work: path.join(below.mountpoint, 'w'),
        mountpoint: scratch.mkdir('top'),
      })
    let first
    try {
      first = mount()
    } catch (error) {
      t.match(String(error), /upperdir '.*' is on a filesystem that keeps no whiteouts/)
      t.end()
      return
    }
    // A version that keeps some dialect: what is removed stays so.
    fs.unlinkSync(path.join(first.mountpoint, 'gone'))
    first.unmount()
    using again = mount()
    t.notOk(fs.existsSync(path.join(again.mountpoint, 'gone')))
    t.end()
  },
)
