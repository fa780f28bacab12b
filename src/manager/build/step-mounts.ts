/**
 * Mounts in the tree of a RUN step. The tree is a stranger's, and so is what runs in it: each target is resolved with the
 * tree as `/` and mounted by descriptor, and what was made to mount on is taken away by the descriptors that it was made
 * with, whatever the step has renamed, replaced or linked meanwhile.
 */
import { fromUtf8, type ByteName } from '../../base/bytes.js'
import { E } from '../../base/errno.js'
import type { Fd } from '../../base/fd.js'
import { SysError } from '../../base/sys-error.js'
import * as sys from '../../sys/index.js'
import { attach, setPropagation } from '../mounts/mount-tree.js'
import { makeInRoot } from '../mounts/target.js'
import { StoreError } from '../store-error.js'
import type { PreparedMount } from './run-mounts.js'

const DIR = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW

/** A directory where a file is wanted, a file on the way, links in a circle. */
const UNSUITABLE: readonly number[] = [E.ENOTDIR, E.EISDIR, E.ELOOP]

/** The step has put something into it, or taken it away. */
const KEPT: readonly number[] = [E.ENOTEMPTY, E.ENOENT, E.EBUSY]

/** What a runtime mounts on by itself. */
const SYSTEM = ['proc', 'dev', 'sys']

export class StepMounts {
  readonly #stubs: Stub[] = []
  readonly #trees: Fd[] = []

  constructor(readonly root: Fd) {
    // What is mounted inside is this step's own, wherever the store itself is shared.
    sys.mountSetattr(root.n, '', 0, { propagation: sys.MS_PRIVATE })
    for (const path of SYSTEM) this.#target(path, 'directory').close()
  }

  /** The tree stays the caller's, and open until this is disposed. */
  mount({ tree, target, optional }: PreparedMount): void {
    const kind = sys.S_ISDIR(sys.statFd(tree.n).mode) ? 'directory' : 'file'
    try {
      using place = this.#target(fromUtf8(target), kind)
      const stat = sys.statFd(place.n)
      const isRoot = (stat.attributes & sys.STATX_ATTR_MOUNT_ROOT) !== 0
      if (isRoot && stat.mntId === sys.statFd(this.root.n).mntId) {
        throw new StoreError('invalid', `cannot mount on ${target}: it leads to the root of the image`)
      }
      attach(tree.n, place.n)
      this.#trees.push(tree)
      setPropagation(tree.n, 'rprivate')
    } catch (error) {
      if (!(error instanceof SysError)) throw error
      if (optional === true && UNSUITABLE.includes(error.errno)) return
      throw new StoreError('failed', `cannot mount on ${target}: ${error.message}`, undefined, {
        cause: error,
      })
    }
  }

  #target(path: ByteName, kind: 'directory' | 'file'): Fd {
    return makeInRoot(this.root.n, path, kind, (dirfd, name, make) => {
      const before = sys.statFd(dirfd)
      if (!make()) return
      const parent = sys.openat(dirfd, '.', DIR)
      const made = sys.statAt(dirfd, name)
      if (made === undefined) throw new SysError(E.ENOENT, 'statx', name)
      this.#stubs.push({ parent, name, made, before, after: sys.statFd(parent.n) })
    })
  }

  /** Latest first. What a step has put into a directory that was made for a mount keeps the directory. */
  [Symbol.dispose](): void {
    for (const tree of this.#trees.splice(0).reverse()) detach(tree)
    for (const stub of this.#stubs.splice(0).reverse()) {
      using _ = stub.parent
      remove(stub)
    }
  }
}

/** Made to mount on; no part of the layer. */
interface Stub {
  readonly parent: Fd
  readonly name: ByteName
  readonly made: sys.Stat
  /** The directory it is in, before it was made and then. */
  readonly before: sys.Stat
  readonly after: sys.Stat
}

function detach(tree: Fd): void {
  try {
    sys.umount2(`/proc/self/fd/${tree.n}`, sys.MNT_DETACH)
  } catch (error) {
    // Gone with what it was mounted on.
    if (!(error instanceof SysError && error.errno === E.EINVAL)) throw error
  }
}

function remove({ parent, name, made, before, after }: Stub): void {
  const now = sys.statAt(parent.n, name)
  const own = now !== undefined && now.ino === made.ino && now.dev === made.dev && now.mode === made.mode
  if (!own || (!sys.S_ISDIR(now.mode) && now.size > 0)) return
  const touched = sys.statFd(parent.n)
  try {
    sys.unlinkat(parent.n, name, sys.S_ISDIR(now.mode) ? sys.AT_REMOVEDIR : 0)
  } catch (error) {
    if (error instanceof SysError && KEPT.includes(error.errno)) return
    throw error
  }
  // The directory is as it was, unless the step has changed it, too.
  const same = touched.mtime === after.mtime && touched.mtimeNsec === after.mtimeNsec
  const { atime, atimeNsec, mtime, mtimeNsec } = same ? before : touched
  sys.utimensAt(parent.n, '', atime, atimeNsec, mtime, mtimeNsec)
}
