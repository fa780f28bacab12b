/**
 * btrfs: one read-only subvolume a chain, made from its parent's by a snapshot and the layer on top of it; a writable
 * layer is a snapshot of its chain's. The layers' own files are shared with the subvolumes (reflink), so a chain costs
 * metadata.
 *
 * Source: linux/btrfs.h, linux/btrfs_tree.h.
 */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { fromUtf8 } from '../../base/bytes.js'
import { errnoMessage } from '../../base/errno.js'
import { SysError } from '../../base/sys-error.js'
import * as sys from '../../sys/index.js'
import type { Change } from '../changes.js'
import { applyLayer } from '../copy-tree.js'
import { detachWithin } from '../mount-table.js'
import { removeTree } from '../remove-tree.js'
import type { SnapshotKeeper } from '../snapshot-keeper.js'
import { openAll } from '../stack-roots.js'
import { treeUsage } from '../tree-usage.js'
import { bindMount, unmountTarget } from './bind.js'
import type { Availability, Box, Driver, LayerTree, MountRequest, Stack, Usage } from './driver.js'
import { changesAsLayer, treeOf, wholeTreeChanges } from './vfs.js'

/** BTRFS_SUPER_MAGIC */
const BTRFS_MAGIC = 0x9123683e
/** _IOW(0x94, N, 4096 bytes) */
const IOC_SNAP_DESTROY = 0x5000940f
const IOC_SNAP_CREATE_V2 = 0x50009417
const IOC_SUBVOL_CREATE_V2 = 0x50009418
/** _IOW(0x94, 26, 8 bytes) */
const IOC_SUBVOL_SETFLAGS = 0x4008941a
const ARGS_SIZE = 4096
/** Offset of `name` in struct btrfs_ioctl_vol_args_v2 and in struct btrfs_ioctl_vol_args. */
const V2_NAME = 56
const V2_FLAGS = 16
const V1_NAME = 8
const SUBVOL_RDONLY = 2n
/** BTRFS_FIRST_FREE_OBJECTID: the inode number of every subvolume's root. */
const SUBVOL_ROOT_INO = 256

export class BtrfsDriver implements Driver {
  readonly name = 'btrfs'

  constructor(
    readonly root: string,
    readonly snapshots: SnapshotKeeper,
    /** The stack that chain `id` stands on, without its own top layer. */
    readonly parentStack: (chainId: string) => Stack,
  ) {}

  probe(): Promise<Availability> {
    if (!isBtrfs(this.root)) {
      return Promise.resolve({ available: false, reason: `${this.root} is not on btrfs` })
    }
    if (sys.geteuid() !== 0) {
      return Promise.resolve({ available: false, reason: 'bind mounts need root (or a user namespace)' })
    }
    return Promise.resolve({ available: true, reason: 'snapshots of subvolumes' })
  }

  async prepare(box: Box): Promise<void> {
    if (box.stack.chainId === undefined) {
      createSubvolume(box.dir, 'tree')
      return
    }
    const snapshot = await this.#chainTree(box.stack)
    snapshotSubvolume(join(snapshot, 'tree'), box.dir, 'tree', false)
  }

  /** The read-only subvolume of a stack, with those of all stacks below it. */
  async #chainTree(stack: Stack): Promise<string> {
    const chainId = stack.chainId
    if (chainId === undefined) throw new Error('the empty stack has no subvolume')
    const known = this.snapshots.find('btrfs', chainId)
    if (known !== undefined) return known
    const below = this.parentStack(chainId)
    const parent = below.chainId === undefined ? undefined : await this.#chainTree(below)
    return await this.snapshots.get('btrfs', stack, async dir => {
      if (parent === undefined) createSubvolume(dir, 'work')
      else snapshotSubvolume(join(parent, 'tree'), dir, 'work', false)
      const top = stack.dirs[0]
      if (top !== undefined) {
        using roots = openAll([top, join(dir, 'work')])
        const [layer = -1, target = -1] = roots.fds
        await applyLayer(layer, target)
      }
      snapshotSubvolume(join(dir, 'work'), dir, 'tree', true)
      await removeSubvolume(join(dir, 'work'))
    })
  }

  mount(box: Box, request: MountRequest): Promise<void> {
    bindMount(treeOf(box), request.target, request.readOnly === true)
    return Promise.resolve()
  }

  async mountReadOnly(stack: Stack, target: string): Promise<void> {
    if (stack.chainId === undefined) {
      const empty = join(this.root, 'scratch', 'empty')
      mkdirSync(empty, { recursive: true, mode: 0o755 })
      bindMount(empty, target, true)
      return
    }
    bindMount(join(await this.#chainTree(stack), 'tree'), target, true)
  }

  unmount(target: string, options?: { readonly force?: boolean }): Promise<void> {
    unmountTarget(target, options?.force === true)
    return Promise.resolve()
  }

  settle(): Promise<void> {
    return Promise.resolve()
  }

  changes(box: Box): Generator<Change, void, void> {
    return wholeTreeChanges(box)
  }

  layerTree(box: Box, signal?: AbortSignal): Promise<LayerTree> {
    return changesAsLayer(box, signal)
  }

  usage(box: Box): Promise<Usage> {
    return Promise.resolve(treeUsage(treeOf(box)))
  }

  async remove(box: Pick<Box, 'dir'>): Promise<void> {
    detachWithin(box.dir)
    await removeSubvolume(treeOf(box))
    await removeTree(box.dir)
  }
}

export function isBtrfs(dir: string): boolean {
  using fd = sys.openat(sys.AT_FDCWD, fromUtf8(dir), sys.O_RDONLY | sys.O_DIRECTORY)
  return sys.fstatfs(fd.n).type === BTRFS_MAGIC
}

function createSubvolume(parent: string, name: string): void {
  using dir = sys.openat(sys.AT_FDCWD, fromUtf8(parent), sys.O_RDONLY | sys.O_DIRECTORY)
  const args = Buffer.alloc(ARGS_SIZE)
  args.write(fromUtf8(name), V2_NAME, 'latin1')
  ioctl(dir.n, IOC_SUBVOL_CREATE_V2, args, `create subvolume ${parent}/${name}`)
}

function snapshotSubvolume(source: string, parent: string, name: string, readOnly: boolean): void {
  using from = sys.openat(sys.AT_FDCWD, fromUtf8(source), sys.O_RDONLY | sys.O_DIRECTORY)
  using dir = sys.openat(sys.AT_FDCWD, fromUtf8(parent), sys.O_RDONLY | sys.O_DIRECTORY)
  const args = Buffer.alloc(ARGS_SIZE)
  args.writeBigInt64LE(BigInt(from.n), 0)
  args.writeBigUInt64LE(readOnly ? SUBVOL_RDONLY : 0n, V2_FLAGS)
  args.write(fromUtf8(name), V2_NAME, 'latin1')
  ioctl(dir.n, IOC_SNAP_CREATE_V2, args, `snapshot ${source} as ${parent}/${name}`)
}

/** Removes a subvolume, or whatever lies in its place; absence is no error. */
async function removeSubvolume(path: string): Promise<void> {
  const stat = sys.statAt(sys.AT_FDCWD, fromUtf8(path))
  if (stat === undefined) return
  const slash = path.lastIndexOf('/')
  if (sys.S_ISDIR(stat.mode) && stat.ino === SUBVOL_ROOT_INO) {
    using dir = sys.openat(sys.AT_FDCWD, fromUtf8(path.slice(0, slash)), sys.O_RDONLY | sys.O_DIRECTORY)
    const args = Buffer.alloc(ARGS_SIZE)
    args.write(fromUtf8(path.slice(slash + 1)), V1_NAME, 'latin1')
    if (sys.ioctlNumber(dir.n, IOC_SNAP_DESTROY, args) >= 0) return
    // A container may have made subvolumes inside (ENOTEMPTY), or an ordinary user may not destroy any (EPERM, without the mount
    // option user_subvol_rm_allowed): emptied, each goes by rmdir. Those that are read-only are made writable for that.
    using subvolume = sys.openat(dir.n, fromUtf8(path.slice(slash + 1)), sys.O_RDONLY | sys.O_DIRECTORY)
    sys.ioctlNumber(subvolume.n, IOC_SUBVOL_SETFLAGS, Buffer.alloc(8))
  }
  await removeTree(path)
}

/** For the store's collector: a chain's tree, which is a read-only subvolume in a plain directory. */
export async function removeBtrfsSnapshot(dir: string): Promise<void> {
  for (const name of ['work', 'tree']) await removeSubvolume(join(dir, name))
  await removeTree(dir)
}

function ioctl(fd: number, request: number, args: Buffer, what: string): void {
  const result = sys.ioctlNumber(fd, request, args)
  if (result < 0) throw new SysError(-result, `${what}: ${errnoMessage(-result)}`)
}
