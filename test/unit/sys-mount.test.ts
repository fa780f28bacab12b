import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import t from 'tap'
import { E } from '../../src/base/errno.js'
import * as sys from '../../src/sys/index.js'
import { failure } from './sys-failure.js'
import { isRoot, scratch } from './sys-scratch.js'

const needsRoot = { skip: !isRoot && 'needs root' }

t.test('mount and umount2', needsRoot, async t => {
  const { path } = scratch(t)
  sys.mount('tmpfs', path, 'tmpfs', sys.MS_NOSUID | sys.MS_NODEV, 'size=1m,mode=711')
  using root = sys.openat(sys.AT_FDCWD, path, sys.O_PATH)
  t.equal(sys.fstatfs(root.n).type, sys.TMPFS_MAGIC)
  t.equal(sys.statFd(root.n).mode, 0o040711)
  t.equal(sys.statFd(root.n).attributes & sys.STATX_ATTR_MOUNT_ROOT, sys.STATX_ATTR_MOUNT_ROOT)
  sys.mount(null, path, null, sys.MS_REMOUNT | sys.MS_BIND | sys.MS_RDONLY, null)
  t.throws(() => writeFileSync(`${path}/x`, ''), { code: 'EROFS' })
  t.match(
    failure(() => sys.umount2(path)),
    { errno: E.EBUSY, syscall: 'umount2', path },
  )
  sys.umount2(path, sys.MNT_DETACH)
  t.match(
    failure(() => sys.umount2(path)),
    { errno: E.EINVAL },
  )
  t.match(
    failure(() => sys.mount('x', path, 'no such filesystem', 0, null)),
    { errno: E.ENODEV },
  )
  t.match(
    failure(() => sys.mount('x', path, 'tmpfs', 0, 'x'.repeat(4096))),
    { errno: E.E2BIG },
  )
})

t.test('fsopen, fsconfig, fsmount, move_mount, mount_setattr', needsRoot, async t => {
  const { path } = scratch(t)
  mkdirSync(`${path}/a`)
  mkdirSync(`${path}/b`)
  {
    using context = sys.fsopen('tmpfs')
    sys.fsconfigString(context.n, 'size', '1m')
    t.match(
      failure(() => sys.fsconfigFlag(context.n, 'nonsense')),
      { errno: E.EINVAL, path: 'nonsense' },
    )
    t.match(sys.fsLog(context.n).join('\n'), /nonsense/)
    sys.fsconfigCreate(context.n)
    using mounted = sys.fsmount(context.n, sys.MOUNT_ATTR_NOEXEC)
    sys.moveMount(mounted.n, '', sys.AT_FDCWD, `${path}/a`, sys.MOVE_MOUNT_F_EMPTY_PATH)
  }
  t.teardown(() => sys.umount2(`${path}/a`, sys.MNT_DETACH))
  writeFileSync(`${path}/a/f`, 'seen twice')
  {
    using tree = sys.openTree(sys.AT_FDCWD, `${path}/a`, sys.OPEN_TREE_CLONE)
    sys.mountSetattr(tree.n, '', 0, { set: sys.MOUNT_ATTR_RDONLY, propagation: sys.MS_PRIVATE })
    sys.moveMount(tree.n, '', sys.AT_FDCWD, `${path}/b`, sys.MOVE_MOUNT_F_EMPTY_PATH)
  }
  t.teardown(() => sys.umount2(`${path}/b`, sys.MNT_DETACH))
  t.equal(readFileSync(`${path}/b/f`, 'utf8'), 'seen twice')
  t.throws(() => writeFileSync(`${path}/b/f`, ''), { code: 'EROFS' })
  sys.mountSetattr(sys.AT_FDCWD, `${path}/b`, 0, { clear: sys.MOUNT_ATTR_RDONLY })
  writeFileSync(`${path}/b/f`, '')
  t.match(
    failure(() => sys.fsopen('no such filesystem')),
    { errno: E.ENODEV },
  )
})

t.test('unshare and setns concern one thread only', needsRoot, async t => {
  const { path } = scratch(t)
  const index = JSON.stringify(new URL('../../src/sys/index.js', import.meta.url).href)
  const worker = new Worker(
    `const { parentPort } = require('node:worker_threads')
     import(${index}).then(sys => {
       const own = sys.openat(sys.AT_FDCWD, '/proc/thread-self/ns/mnt', sys.O_RDONLY)
       sys.unshare(sys.CLONE_FS | sys.CLONE_NEWNS)
       sys.mount(null, '/', null, sys.MS_REC | sys.MS_PRIVATE, null)
       sys.mount('tmpfs', ${JSON.stringify(path)}, 'tmpfs', 0, null)
       const apart = sys.openat(sys.AT_FDCWD, ${JSON.stringify(path)}, sys.O_PATH)
       const inside = sys.fstatfs(apart.n).type
       apart.close()
       sys.umount2(${JSON.stringify(path)}, 0)
       sys.setns(own.n, sys.CLONE_NEWNS)
       own.close()
       parentPort.postMessage(inside)
     }).catch(error => parentPort.postMessage(String(error)))`,
    { eval: true },
  )
  const inside: unknown = await new Promise((resolve, reject) => {
    worker.once('message', resolve)
    worker.once('error', reject)
  })
  await worker.terminate()
  t.equal(inside, sys.TMPFS_MAGIC)
  using here = sys.openat(sys.AT_FDCWD, path, sys.O_PATH)
  t.not(sys.fstatfs(here.n).type, sys.TMPFS_MAGIC)
  t.match(
    failure(() => sys.unshare(sys.CLONE_NEWUSER)),
    { errno: E.EINVAL },
    'Node has several threads',
  )
  t.match(
    failure(() => sys.setns(here.n, 0)),
    { errno: E.EBADF },
  )
  t.match(
    failure(() => sys.pivotRoot('/nowhere', '/nowhere')),
    { errno: E.ENOENT },
  )
})
