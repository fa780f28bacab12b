import { spawn, type ChildProcess } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import * as sys from '../../src/sys/index.js'
import { asUser } from '../conformance/posix.js'
import { Scratch, umount, unavailable } from './fixture.js'

/** An idmapped mount of ours (mount_setattr(2), Linux 5.12; FUSE allows it since 6.12): user 1000 on disk is user 2000 in it. */

/** `inside outside count` lines of the map: ids below 1000 are themselves. */
const MAP = '0 0 1000\n1000 2000 1\n'

/** A process in a user namespace with that map. */
async function namespaceHolder(): Promise<ChildProcess> {
  const own = fs.readlinkSync('/proc/self/ns/user')
  const holder = spawn('unshare', ['-U', 'sleep', '60'], { stdio: 'ignore' })
  await new Promise((resolve, reject) => holder.once('spawn', resolve).once('error', reject))
  while (fs.readlinkSync(`/proc/${holder.pid ?? 0}/ns/user`) === own)
    await new Promise(resolve => setTimeout(resolve, 5))
  for (const map of ['uid_map', 'gid_map']) fs.writeFileSync(`/proc/${holder.pid ?? 0}/${map}`, MAP)
  return holder
}

function errorOf(fn: () => void): string {
  try {
    fn()
    return 'ok'
  } catch (error) {
    return error instanceof Error && 'code' in error ? String(error.code) : String(error)
  }
}

t.test('an idmapped mount of a view', { skip: unavailable('lamina') ?? false }, async t => {
  using scratch = new Scratch('idmap')
  fs.writeFileSync(path.join(scratch.mkdir('lower0'), 'f'), 'x')
  fs.chownSync(scratch.path('lower0', 'f'), 1000, 1000)
  using mount = scratch.overlay('lamina')
  fs.chmodSync(mount.mountpoint, 0o777)
  const mapped = scratch.mkdir('mapped')
  const at = (name: string): string => path.join(mapped, name)
  const owner = (file: string): string => {
    const { uid, gid } = fs.lstatSync(file)
    return `${uid}:${gid}`
  }
  const holder = await namespaceHolder()
  try {
    const ns = fs.openSync(`/proc/${holder.pid ?? 0}/ns/user`, 'r')
    using tree = sys.openTree(sys.AT_FDCWD, mount.mountpoint, sys.OPEN_TREE_CLONE)
    try {
      sys.mountSetattr(tree.n, '', 0, { set: sys.MOUNT_ATTR_IDMAP, usernsFd: ns })
    } catch (error) {
      t.pass(`the kernel has no idmapped FUSE mounts: ${String(error)}`, { skip: true })
      return
    } finally {
      fs.closeSync(ns)
    }
    sys.moveMount(tree.n, '', sys.AT_FDCWD, mapped, sys.MOVE_MOUNT_F_EMPTY_PATH)
  } finally {
    holder.kill()
  }
  try {
    t.equal(owner(at('f')), '2000:2000', 'owners are shown mapped')
    asUser(2000, 2000, () => {
      fs.appendFileSync(at('f'), 'y')
      fs.writeFileSync(at('new'), 'new')
      fs.mkdirSync(at('dir'))
      fs.symlinkSync('to', at('link'))
      fs.chmodSync(at('f'), 0o600)
      fs.renameSync(at('new'), at('renamed'))
      fs.linkSync(at('renamed'), at('linked'))
    })
    t.equal(fs.readFileSync(at('f'), 'utf8'), 'xy')
    for (const name of ['f', 'renamed', 'dir', 'link']) {
      t.equal(owner(at(name)), '2000:2000', `${name} in the idmapped mount`)
      t.equal(owner(path.join(mount.mountpoint, name)), '1000:1000', `${name} in the view`)
      t.equal(owner(scratch.path('upper', name)), '1000:1000', `${name} on disk`)
    }
    fs.chownSync(at('renamed'), 5, 2000)
    t.equal(owner(scratch.path('upper', 'renamed')), '5:1000', 'chown is mapped back')
    asUser(1000, 1000, () => {
      t.equal(
        errorOf(() => void fs.readFileSync(at('f'))),
        'EACCES',
        'the id on disk has no rights here',
      )
      t.equal(
        errorOf(() => fs.writeFileSync(at('other'), '')),
        'EOVERFLOW',
        'an id without a mapping makes nothing',
      )
    })
    t.throws(() => fs.chownSync(at('renamed'), 1000, -1), /EINVAL|EOVERFLOW/)
  } finally {
    umount(mapped)
  }
})
