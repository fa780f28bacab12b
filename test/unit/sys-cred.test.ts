import t from 'tap'
import { E } from '../../src/base/errno.js'
import { addon } from '../../src/sys/addon.js'
import * as sys from '../../src/sys/index.js'
import { failure } from './sys-failure.js'
import { isRoot, scratch } from './sys-scratch.js'

const needsRoot = { skip: !isRoot && 'needs root' }

/** system.posix_acl_*: version 2, then (tag, permissions, id) each. Source: linux/posix_acl_xattr.h. */
function acl(entries: readonly (readonly [tag: number, perm: number, id: number])[]): Buffer {
  const out = Buffer.alloc(4 + 8 * entries.length)
  out.writeUInt32LE(2, 0)
  entries.forEach(([tag, perm, id], i) => {
    out.writeUInt16LE(tag, 4 + 8 * i)
    out.writeUInt16LE(perm, 6 + 8 * i)
    out.writeUInt32LE(id >>> 0, 8 + 8 * i)
  })
  return out
}

t.test('what is made belongs to the creator, masked by its umask', needsRoot, async t => {
  const { dir } = scratch(t)
  sys.fchmod(dir.n, 0o700)
  const before = addon.capabilities()
  const oldMask = sys.umask(0o077)
  t.teardown(() => sys.umask(oldMask))
  const result = sys.asCreator(1000, 1001, 0o027, () => {
    t.same(addon.capabilities(), before, 'all capabilities are there')
    t.same(addon.fsIds(), [1000, 1001])
    sys.openat(dir.n, 'f', sys.O_CREAT | sys.O_WRONLY, 0o4666).close()
    sys.mkdirat(dir.n, 'd', 0o777)
    sys.symlinkat('x', dir.n, 'l')
    sys.mknodat(dir.n, 'c', sys.S_IFCHR | 0o666, sys.makedev(1, 3))
    return 'made'
  })
  t.equal(result, 'made')
  for (const [name, mode] of [
    ['f', 0o104640],
    ['d', 0o040750],
    ['l', 0o120777],
    ['c', 0o020640],
  ] as const) {
    const stat = sys.statAt(dir.n, name)
    t.same([stat?.uid, stat?.gid, stat?.mode], [1000, 1001, mode], name)
  }
  t.same(addon.fsIds(), [0, 0], 'everything is put back')
  t.same(addon.capabilities(), before)
  t.equal(sys.umask(0o077), 0o077)
  t.equal(addon.dumpable(), true)
})

t.test(
  'everything is put back when the work throws, also from within another creator',
  needsRoot,
  async t => {
    const before = addon.capabilities()
    const mask = sys.umask(0o022)
    t.teardown(() => sys.umask(mask))
    t.throws(
      () =>
        sys.asCreator(1000, 1000, 0, () => {
          sys.asCreator(0, 5, 0o007, () => t.same(addon.fsIds(), [0, 5]))
          t.same(addon.fsIds(), [1000, 1000])
          t.same(addon.capabilities(), before)
          throw new Error('in the middle')
        }),
      /in the middle/,
    )
    t.throws(() => sys.asCreator(0, 0, 0, () => Promise.resolve()), TypeError)
    t.throws(() => sys.asCreator(7, 7, 0, () => Promise.resolve()), TypeError)
    t.same(addon.fsIds(), [0, 0])
    t.same(addon.capabilities(), before)
    t.equal(sys.umask(0o022), 0o022)
  },
)

t.test('a setgid directory and a default ACL do what they do for anybody', needsRoot, async t => {
  const { dir } = scratch(t)
  sys.mkdirat(dir.n, 'shared', 0o755)
  sys.fchownat(dir.n, 'shared', 0, 50)
  sys.chmodAt(dir.n, 'shared', 0o2775)
  sys.mkdirat(dir.n, 'acl', 0o755)
  const USER_OBJ = 1
  const USER = 2
  const GROUP_OBJ = 4
  const MASK = 0x10
  const OTHER = 0x20
  sys.setxattrAt(
    dir.n,
    'acl',
    'system.posix_acl_default',
    acl([
      [USER_OBJ, 7, -1],
      [USER, 6, 2000],
      [GROUP_OBJ, 5, -1],
      [MASK, 7, -1],
      [OTHER, 4, -1],
    ]),
  )
  sys.asCreator(1000, 1001, 0o077, () => {
    sys.openat(dir.n, 'shared/f', sys.O_CREAT | sys.O_WRONLY, 0o666).close()
    sys.mkdirat(dir.n, 'shared/d', 0o777)
    sys.openat(dir.n, 'acl/f', sys.O_CREAT | sys.O_WRONLY, 0o666).close()
  })
  t.equal(sys.statAt(dir.n, 'shared/f')?.gid, 50)
  t.equal(sys.statAt(dir.n, 'shared/d')?.gid, 50)
  t.equal(sys.statAt(dir.n, 'shared/d')?.mode, 0o042700)
  t.equal(sys.statAt(dir.n, 'acl/f')?.mode, 0o100664, 'the umask does not count beneath a default ACL')
  t.ok(sys.listxattrAt(dir.n, 'acl/f').includes('system.posix_acl_access'))
})

t.test('an id that cannot be is EINVAL, and nothing has changed', needsRoot, async t => {
  t.match(
    failure(() => sys.asCreator(0xffffffff, 0, 0, () => t.fail('not reached'))),
    { errno: E.EINVAL },
  )
  t.match(
    failure(() => sys.asCreator(0, 0xffffffff, 0, () => t.fail('not reached'))),
    { errno: E.EINVAL },
  )
  t.same(addon.fsIds(), [0, 0])
  sys.asCreator(4_000_000_000, 4_000_000_001, 0o022, () => {
    t.same(addon.fsIds(), [4_000_000_000, 4_000_000_001])
  })
})

t.test('capabilities and limits', async t => {
  t.equal(sys.geteuid(), process.geteuid?.())
  if (isRoot) t.equal(sys.hasCapability(sys.CAP_CHOWN), true)
  t.equal(sys.hasCapability(60), false)
  const { soft, hard } = sys.getrlimitNofile()
  t.ok(soft <= hard)
  sys.setrlimitNofile(soft - 1, hard)
  t.equal(sys.getrlimitNofile().soft, soft - 1)
  t.equal(sys.raiseNofile(), hard)
  t.equal(sys.getrlimitNofile().soft, hard)
  t.match(
    failure(() => sys.setrlimitNofile(hard, hard - 1)),
    { errno: E.EINVAL },
  )
})
