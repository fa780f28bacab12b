/**
 * The mounts of a new container, for hosts without an OCI runtime. The rootfs is a stranger's: every target is resolved with
 * the rootfs as `/` and mounted by descriptor, and what is made in /dev is made through the descriptor of the mount, so that
 * a symlink named `proc` or `dev` leads to another place in the rootfs at most.
 */
import { fromUtf8 } from '../../base/bytes.js'
import { E } from '../../base/errno.js'
import type { Fd } from '../../base/fd.js'
import { SysError } from '../../base/sys-error.js'
import * as sys from '../../sys/index.js'
import { hasOneId, inUserNamespace } from '../rootless/standing.js'
import { attach, cloneTree, makeTmpfs } from '../mounts/mount-tree.js'
import { makeInRoot } from '../mounts/target.js'
import { deviceNodes, type DeviceNode } from '../security/devices.js'
import {
  maskedPaths,
  READ_ONLY,
  refuseElsewhere,
  refuseLimited,
  type BundleMount,
  type BundleOptions,
} from '../oci-bundle.js'

const DIR = sys.O_PATH | sys.O_DIRECTORY | sys.O_NOFOLLOW
const SAFE = sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NODEV | sys.MOUNT_ATTR_NOEXEC
const DEVICES = ['null', 'zero', 'full', 'random', 'urandom', 'tty']
const LINKS: readonly (readonly [name: string, target: string])[] = [
  ['fd', '/proc/self/fd'],
  ['stdin', '/proc/self/fd/0'],
  ['stdout', '/proc/self/fd/1'],
  ['stderr', '/proc/self/fd/2'],
  ['ptmx', 'pts/ptmx'],
]

/** Makes `bundle.rootfs` the root of this process, which is alone in its mount namespace. @throws SysError */
export function enterNewRoot(bundle: BundleOptions): void {
  const devices = deviceNodes(bundle.security?.devices ?? [])
  refuseLimited(devices)
  refuseElsewhere(bundle.rootfs)
  const masked = maskedPaths()
  using root = cloneTree(sys.AT_FDCWD, fromUtf8(bundle.rootfs), { recursive: true, readOnly: false })
  // No device cgroup guards what an image or a volume holds.
  sys.mountSetattr(root.n, '', sys.AT_RECURSIVE, { set: sys.MOUNT_ATTR_NODEV })
  {
    using place = sys.openat(sys.AT_FDCWD, fromUtf8(bundle.rootfs), DIR)
    attach(root.n, place.n)
  }
  using proc = on(root, 'proc', newMount('proc', SAFE))
  using sysfs = on(root, 'sys', bundle.network === 'host' && inUserNamespace() ? hostSys() : newSys())
  using dev = on(root, 'dev', makeTmpfs(['exec', 'mode=0755', 'size=64k'], false))
  fillDev(dev)
  for (const mount of bundle.mounts ?? []) mountIn(root, mount)
  for (const device of devices) showDevice(root, device)
  guard(root, { proc, sys: sysfs }, masked)
  if (bundle.readOnly === true) sys.mountSetattr(root.n, '', 0, { set: sys.MOUNT_ATTR_RDONLY })
  sys.fchdir(root.n)
  // The old root comes to lie on the new one, and goes: pivot_root(2), "pivot_root(".", ".")".
  sys.pivotRoot('.', '.')
  sys.umount2('.', sys.MNT_DETACH)
  process.chdir('/')
}

/** Attaches a mount at a path of the rootfs. */
function on(root: Fd, path: string, mount: Fd): Fd {
  using target = makeInRoot(root.n, path, 'directory')
  attach(mount.n, target.n)
  return mount
}

function newMount(type: string, attributes: number, options: readonly string[] = []): Fd {
  using context = sys.fsopen(type)
  for (const option of options) {
    const equals = option.indexOf('=')
    if (equals < 0) sys.fsconfigFlag(context.n, option)
    else sys.fsconfigString(context.n, option.slice(0, equals), option.slice(equals + 1))
  }
  sys.fsconfigCreate(context.n)
  return sys.fsmount(context.n, attributes)
}

const newSys = (): Fd => newMount('sysfs', SAFE | sys.MOUNT_ATTR_RDONLY)

/** A sysfs belongs to a network namespace: root of another user namespace cannot mount one of the host's. */
function hostSys(): Fd {
  return cloneTree(sys.AT_FDCWD, '/sys', { recursive: true, readOnly: true })
}

function fillDev(dev: Fd): void {
  const within = (name: string, mount: Fd): void => {
    sys.mkdirat(dev.n, name, 0o755)
    using target = sys.openat(dev.n, name, DIR)
    using made = mount
    attach(made.n, target.n)
  }
  const pts = ['newinstance', 'ptmxmode=0666', 'mode=0620', ...(hasOneId() ? [] : ['gid=5'])]
  within('pts', newMount('devpts', sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NOEXEC, pts))
  within('shm', makeTmpfs(['mode=1777', 'size=64m'], false))
  within('mqueue', newMount('mqueue', SAFE))
  for (const name of DEVICES) {
    sys.openat(dev.n, name, sys.O_CREAT | sys.O_EXCL | sys.O_WRONLY, 0o644).close()
    using target = sys.openat(dev.n, name, sys.O_PATH | sys.O_NOFOLLOW)
    using device = cloneTree(sys.AT_FDCWD, `/dev/${name}`, { recursive: false, readOnly: false })
    attach(device.n, target.n)
  }
  for (const [name, target] of LINKS) sys.symlinkat(target, dev.n, name)
}

/** The host's node: a new one would take rights that this process may not have. */
function showDevice(root: Fd, { source, path }: DeviceNode): void {
  using target = makeInRoot(root.n, fromUtf8(path), 'file')
  using device = cloneTree(sys.AT_FDCWD, fromUtf8(source), { recursive: false, readOnly: false })
  attach(device.n, target.n)
}

function mountIn(root: Fd, mount: BundleMount): void {
  const path = fromUtf8(mount.target)
  if (mount.type === 'tmpfs') {
    using made = makeTmpfs(mount.options, false)
    using target = makeInRoot(root.n, path, 'directory')
    attach(made.n, target.n)
    return
  }
  using tree = cloneTree(sys.AT_FDCWD, fromUtf8(mount.source), {
    recursive: true,
    readOnly: mount.options.includes('ro'),
  })
  sys.mountSetattr(tree.n, '', sys.AT_RECURSIVE, { set: sys.MOUNT_ATTR_NODEV })
  const isDir = sys.S_ISDIR(sys.statFd(tree.n).mode)
  using target = makeInRoot(root.n, path, isDir ? 'directory' : 'file')
  attach(tree.n, target.n)
}

/** What a container may not see or change of the host: hidden behind /dev/null or an empty directory, or read-only. */
function guard(root: Fd, bases: Readonly<Record<string, Fd>>, masked: readonly string[]): void {
  const find = (path: string): Fd | undefined => {
    const [, base = '', ...rest] = path.split('/')
    try {
      return sys.openat2(
        bases[base]?.n ?? root.n,
        rest.join('/'),
        sys.O_PATH,
        0,
        sys.RESOLVE_BENEATH | sys.RESOLVE_NO_SYMLINKS,
      )
    } catch (error) {
      if (error instanceof SysError && (error.errno === E.ENOENT || error.errno === E.EACCES))
        return undefined
      throw error
    }
  }
  for (const path of masked) {
    using target = find(path)
    if (target === undefined) continue
    using mask = sys.S_ISDIR(sys.statFd(target.n).mode)
      ? makeTmpfs(['size=0'], true)
      : cloneTree(sys.AT_FDCWD, '/dev/null', { recursive: false, readOnly: true })
    attach(mask.n, target.n)
  }
  for (const path of READ_ONLY) {
    using target = find(path)
    if (target === undefined) continue
    using same = cloneTree(target.n, '', { recursive: false, readOnly: true })
    attach(same.n, target.n)
  }
}
