import t from 'tap'
import { E } from '../../src/base/errno.js'
import * as sys from '../../src/sys/index.js'
import { failure } from './sys-failure.js'
import { file, isRoot, scratch } from './sys-scratch.js'

t.test(
  'a handle finds its object after a rename, and not after its end',
  { skip: !isRoot && 'needs root' },
  async t => {
    const { dir } = scratch(t)
    file(dir, 'f', 'x')
    const found = sys.nameToHandle(dir.n, 'f')
    t.ok(found)
    if (found === undefined) return
    t.equal(found.mountId, sys.statAt(dir.n, 'f')?.mntId)
    sys.renameat2(dir.n, 'f', dir.n, 'g')
    t.same(sys.nameToHandle(dir.n, 'g'), found)
    {
      using opath = sys.openat(dir.n, 'g', sys.O_PATH)
      t.same(sys.nameToHandle(opath.n, ''), found)
      using again = sys.openByHandle(dir.n, found.type, found.handle, sys.O_RDONLY)
      t.ok(again)
      t.equal(sys.statFd(again?.n ?? -1).ino, sys.statAt(dir.n, 'g')?.ino)
    }
    sys.unlinkat(dir.n, 'g')
    t.equal(sys.openByHandle(dir.n, found.type, found.handle, sys.O_RDONLY), undefined)
    t.match(
      failure(() => sys.openByHandle(dir.n, 1, Buffer.alloc(129), 0)),
      { errno: E.EINVAL },
    )
    t.match(
      failure(() => sys.nameToHandle(dir.n, 'g')),
      { errno: E.ENOENT },
    )
  },
)

t.test('a filesystem without handles or uuid has none', async t => {
  using proc = sys.openat(sys.AT_FDCWD, '/proc', sys.O_RDONLY | sys.O_DIRECTORY)
  t.equal(sys.nameToHandle(proc.n, 'self/status'), undefined)
  t.equal(sys.getFsUuid(proc.n), undefined)
  using shm = sys.openat(sys.AT_FDCWD, '/dev/shm', sys.O_RDONLY | sys.O_DIRECTORY)
  // tmpfs has one since Linux 6.9 tells it.
  t.ok([undefined, 16].includes(sys.getFsUuid(shm.n)?.length))
  t.same(sys.getFsUuid(shm.n), sys.getFsUuid(shm.n))
})
