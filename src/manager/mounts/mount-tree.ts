/** Detached mounts: made in full, with all their flags, before anybody can see them; then put on a descriptor. */
import { fromUtf8, type ByteName } from '../../base/bytes.js'
import { E } from '../../base/errno.js'
import type { Fd } from '../../base/fd.js'
import { SysError } from '../../base/sys-error.js'
import * as sys from '../../sys/index.js'
import { StoreError } from '../store-error.js'
import type { Propagation } from './mount-spec.js'
import { parseSize } from './size.js'

/**
 * A copy of the mount at `dirfd`/`path`, with what is mounted below it where `recursive`. Read-only then means what is
 * below, too.
 */
export function cloneTree(
  dirfd: number,
  path: ByteName,
  options: { readonly recursive: boolean; readonly readOnly: boolean },
): Fd {
  const recursive = options.recursive ? sys.AT_RECURSIVE : 0
  const tree = sys.openTree(dirfd, path, sys.OPEN_TREE_CLONE | recursive)
  try {
    if (options.readOnly) sys.mountSetattr(tree.n, '', recursive, { set: sys.MOUNT_ATTR_RDONLY })
    return tree
  } catch (error) {
    tree.close()
    throw error
  }
}

const PROPAGATION_FLAGS: Readonly<Record<Propagation, readonly [flag: number, recursive: boolean]>> = {
  private: [sys.MS_PRIVATE, false],
  rprivate: [sys.MS_PRIVATE, true],
  shared: [sys.MS_SHARED, false],
  rshared: [sys.MS_SHARED, true],
  slave: [sys.MS_SLAVE, false],
  rslave: [sys.MS_SLAVE, true],
}

export function setPropagation(fd: number, propagation: Propagation): void {
  const [flag, recursive] = PROPAGATION_FLAGS[propagation]
  sys.mountSetattr(fd, '', recursive ? sys.AT_RECURSIVE : 0, { propagation: flag })
}

/** Puts a detached mount on the object behind `target`. */
export function attach(tree: number, target: number): void {
  sys.moveMount(tree, '', target, '', sys.MOVE_MOUNT_F_EMPTY_PATH | sys.MOVE_MOUNT_T_EMPTY_PATH)
}

/** Each flag of mount(8): what it sets and clears of MOUNT_ATTR_*. */
const ATTRIBUTES: Readonly<Record<string, readonly [set: number, clear: number]>> = {
  exec: [0, sys.MOUNT_ATTR_NOEXEC],
  noexec: [sys.MOUNT_ATTR_NOEXEC, 0],
  suid: [0, sys.MOUNT_ATTR_NOSUID],
  nosuid: [sys.MOUNT_ATTR_NOSUID, 0],
  dev: [0, sys.MOUNT_ATTR_NODEV],
  nodev: [sys.MOUNT_ATTR_NODEV, 0],
  atime: [0, sys.MOUNT_ATTR__ATIME],
  noatime: [sys.MOUNT_ATTR_NOATIME, sys.MOUNT_ATTR__ATIME],
  relatime: [sys.MOUNT_ATTR_RELATIME, sys.MOUNT_ATTR__ATIME],
  norelatime: [0, 0],
  strictatime: [sys.MOUNT_ATTR_STRICTATIME, sys.MOUNT_ATTR__ATIME],
  diratime: [0, sys.MOUNT_ATTR_NODIRATIME],
  nodiratime: [sys.MOUNT_ATTR_NODIRATIME, 0],
}

/**
 * A tmpfs, never on disk: `noswap` where the kernel has it (Linux 6.4, not in a user namespace). Options are those of
 * TmpfsMount; nosuid, nodev and noexec unless they say otherwise, as in Docker.
 * @throws StoreError failed with what the kernel said
 */
export function makeTmpfs(options: readonly string[], readOnly: boolean): Fd {
  let attributes = sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NODEV | sys.MOUNT_ATTR_NOEXEC
  using context = sys.fsopen('tmpfs')
  try {
    sys.fsconfigString(context.n, 'source', 'tmpfs')
    for (const option of options) {
      const flag = ATTRIBUTES[option]
      if (flag !== undefined) {
        attributes = (attributes & ~flag[1]) | flag[0]
        continue
      }
      const equals = option.indexOf('=')
      const [key, value] = [option.slice(0, equals), option.slice(equals + 1)]
      // The kernel knows k, m, g; not the longer ways that Docker takes.
      const plain = key === 'size' && !value.endsWith('%') ? String(parseSize(value, 'tmpfs')) : value
      sys.fsconfigString(context.n, key, fromUtf8(plain))
    }
    noSwap(context.n)
    sys.fsconfigCreate(context.n)
  } catch (error) {
    if (!(error instanceof SysError)) throw error
    const said = sys.fsLog(context.n).at(-1)?.slice(2) ?? error.message
    throw new StoreError('failed', `tmpfs with ${options.join(',')}: ${said}`, undefined, { cause: error })
  }
  return sys.fsmount(context.n, attributes | (readOnly ? sys.MOUNT_ATTR_RDONLY : 0))
}

function noSwap(context: number): void {
  try {
    sys.fsconfigFlag(context, 'noswap')
  } catch (error) {
    const unknown = error instanceof SysError && (error.errno === E.EINVAL || error.errno === E.EPERM)
    if (!unknown) throw error
    sys.fsLog(context)
  }
}
