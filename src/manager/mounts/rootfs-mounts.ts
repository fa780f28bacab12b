/**
 * What `-v`, `--mount` and `--tmpfs` mount in a container's rootfs. Parents before children; what a failure leaves half
 * made is undone; what is mounted already (a command died, or somebody else was first) stays as it is. Called under the
 * container's claim.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { fromUtf8, toUtf8, type ByteName } from '../../base/bytes.js'
import { E } from '../../base/errno.js'
import type { Fd } from '../../base/fd.js'
import { SysError } from '../../base/sys-error.js'
import * as sys from '../../sys/index.js'
import { rootOf, specOf } from '../containers/container-spec.js'
import { mountFailed } from '../drivers/mount-error.js'
import { mountsWithin } from '../mount-table.js'
import { StoreError } from '../store-error.js'
import { fillVolume } from '../volumes/fill.js'
import type { Volumes } from '../volumes/volumes.js'
import type { BindMount, MountSpec, VolumeMount } from './mount-spec.js'
import { attach, cloneTree, makeTmpfs, setPropagation } from './mount-tree.js'
import { makeInRoot, openInRoot } from './target.js'

interface Container {
  readonly id: string
  readonly name: string
  readonly spec: unknown
}

const userOf = (container: Pick<Container, 'id'>): string => `container:${container.id}`

/** How many components; a child has more than its parent. */
const depth = (path: string): number => path.split('/').length

export class RootfsMounts {
  constructor(readonly volumes: Volumes) {}

  /**
   * @param files are mounted too, unless the rootfs has something in their places that no file can be mounted on
   * @throws StoreError with the mount that failed; those of this call are undone
   */
  async assemble(container: Container, rootfs: string, files: readonly BindMount[] = []): Promise<void> {
    const spec = specOf(container)
    if (spec.mounts.length + files.length === 0 && !spec.readOnly) return
    const made: Fd[] = []
    using root = sys.openat(sys.AT_FDCWD, fromUtf8(rootfs), sys.O_PATH | sys.O_DIRECTORY)
    try {
      // What is mounted inside is this container's own, wherever the store itself is shared.
      sys.mountSetattr(root.n, '', 0, { propagation: sys.MS_PRIVATE })
      const sorted = [...spec.mounts].sort((a, b) => depth(a.target) - depth(b.target))
      for (const mount of sorted) await this.#mount(container, root, mount, made)
      for (const file of files) {
        await this.#mount(container, root, file, made).catch((error: unknown) => {
          if (!isUnsuitable(error)) throw error
        })
      }
      if (spec.readOnly) sys.mountSetattr(root.n, '', 0, { set: sys.MOUNT_ATTR_RDONLY })
    } catch (error) {
      for (const fd of made.reverse()) sys.umount2(`/proc/self/fd/${fd.n}`, sys.MNT_DETACH)
      throw error
    } finally {
      for (const fd of made) fd.close()
    }
  }

  async #mount(container: Container, root: Fd, mount: MountSpec, made: Fd[]): Promise<void> {
    const volume = mount.type === 'volume' ? await this.#acquire(container, mount) : undefined
    try {
      const source = this.#source(mount, volume)
      using held = source
      void held
      const isFile = source !== undefined && !sys.S_ISDIR(sys.statFd(source.n).mode)
      const { uid, gid } = rootOf(specOf(container))
      using target = sys.asCreator(uid, gid, 0, () =>
        placeIn(root, fromUtf8(mount.target), isFile ? 'file' : 'directory'),
      )
      const stat = sys.statFd(target.n)
      const rootId = sys.statFd(root.n).mntId
      const isRoot = (stat.attributes & sys.STATX_ATTR_MOUNT_ROOT) !== 0
      if (isRoot && stat.mntId === rootId) {
        throw new StoreError(
          'invalid',
          `cannot mount on ${mount.target}: it leads to the root of the container`,
        )
      }
      if (made.some(fd => isRoot && sys.statFd(fd.n).mntId === stat.mntId)) {
        throw new StoreError(
          'invalid',
          `cannot mount on ${mount.target}: another mount leads to the same place`,
        )
      }
      // Mounted by an earlier command.
      if (isRoot) return
      if (
        volume !== undefined &&
        mount.type === 'volume' &&
        !mount.noCopy &&
        mount.subpath === undefined &&
        !isFile
      ) {
        await fillVolume(this.volumes, volume, target.n)
      }
      const tree =
        mount.type === 'tmpfs'
          ? makeTmpfs(mount.options, mount.readOnly)
          : cloneTree(source?.n ?? -1, '', {
              recursive: mount.type === 'bind' && mount.recursive,
              readOnly: mount.readOnly,
            })
      try {
        attach(tree.n, target.n)
      } catch (error) {
        tree.close()
        throw error
      }
      made.push(tree)
      setPropagation(tree.n, mount.type === 'bind' ? mount.propagation : 'rprivate')
    } catch (error) {
      if (error instanceof StoreError) throw error
      const what =
        mount.type === 'bind' ? mount.source : mount.type === 'volume' ? `volume ${volume}` : 'tmpfs'
      throw mountFailed(what, mount.target, error)
    }
  }

  /** The row says which volume it is now: a rename changes rows, not specs. */
  async #acquire(container: Container, mount: VolumeMount): Promise<string> {
    const { db } = this.volumes.context
    const sql = 'SELECT volume FROM volume_users WHERE container = ? AND target = ?'
    let row = db.get<{ volume: string }>(sql, container.id, mount.target)
    if (row === undefined) {
      // Its create died before it could say so.
      const name = this.volumes.find(mount.name ?? '').name
      this.addUser(container.id, mount.target, name)
      row = { volume: name }
    }
    await this.volumes.acquire(row.volume, userOf(container))
    return row.volume
  }

  addUser(container: string, target: string, volume: string): void {
    const sql = 'INSERT OR REPLACE INTO volume_users (volume, container, target) VALUES (?, ?, ?)'
    this.volumes.context.db.run(sql, volume, container, target)
  }

  /** What is shown at the target; `undefined` for a tmpfs. */
  #source(mount: MountSpec, volume: string | undefined): Fd | undefined {
    switch (mount.type) {
      case 'tmpfs':
        return undefined
      case 'bind':
        return openBindSource(mount)
      case 'volume': {
        const path = fromUtf8(this.volumes.find(volume ?? '').mountpoint)
        if (mount.subpath === undefined) return sys.openat(sys.AT_FDCWD, path, sys.O_PATH | sys.O_DIRECTORY)
        using data = sys.openat(sys.AT_FDCWD, path, sys.O_PATH | sys.O_DIRECTORY)
        // A container may have written symlinks into the volume: they end in it.
        const part = openInRoot(data.n, fromUtf8(mount.subpath))
        if (part !== undefined) return part
        throw new StoreError(
          'invalid',
          `volume ${volume} has no '${mount.subpath}'`,
          'make it in the volume first, or mount all of it',
        )
      }
    }
  }

  /**
   * Whether anything holds the rootfs or what is mounted in it. Found before anything is unmounted: a tmpfs that is
   * taken away does not come back.
   * @throws StoreError in-use
   */
  checkIdle(container: Container, rootfs: string): void {
    const pids = processesIn(rootfs)
    const inside = mountsWithin(rootfs).filter(path => path !== fromUtf8(rootfs))
    const leaves = inside.filter(path => !inside.some(other => other.startsWith(path + '/')))
    const busy = pids.length > 0 ? undefined : leaves.find(isBusy)
    if (pids.length === 0 && busy === undefined) return
    const what =
      busy === undefined ? `process ${pids.slice(0, 3).join(', ')} uses it` : `${toUtf8(busy)} is in use`
    throw new StoreError(
      'in-use',
      `cannot unmount container ${container.name}: ${what}`,
      'end the process, or detach the mount with --force',
    )
  }

  /**
   * Detaches everything that is mounted in the rootfs, latest first, each by a descriptor that was compared with the table. Where
   * somebody renames what is above a mount as fast as this looks it up, the table is read anew.
   */
  dismantle(rootfs: string): void {
    const base = fromUtf8(rootfs)
    using root = sys.openat(sys.AT_FDCWD, base, sys.O_PATH | sys.O_DIRECTORY)
    for (let tries = 1; ; tries += 1) {
      const inside = mountsWithin(rootfs).filter(path => path !== base)
      if (inside.length === 0) return
      for (const path of inside) {
        try {
          detach(root, path.slice(base.length + 1))
        } catch (error) {
          const skipped = error instanceof SysError && [...MOVED, ...BELOW].includes(error.errno)
          if (!skipped || tries >= MOST_TRIES) throw error
        }
      }
      if (tries >= MOST_TRIES) throw new SysError(E.EBUSY, 'umount2', inside[0] ?? base)
    }
  }

  /** When the rootfs is gone. */
  async releaseVolumes(container: Container): Promise<void> {
    const { db } = this.volumes.context
    const sql = 'SELECT volume FROM volume_mounts WHERE user = ?'
    for (const { volume } of db.all<{ volume: string }>(sql, userOf(container))) {
      await this.volumes.release(volume, userOf(container))
    }
  }
}

/** Of a place where the image has a directory, links in a circle, a link to another mount, or that is read-only. */
function isUnsuitable(error: unknown): boolean {
  if (!(error instanceof StoreError)) return false
  const { cause } = error
  const errnos: readonly number[] = [E.ENOTDIR, E.EISDIR, E.ELOOP, E.EROFS, E.EINVAL]
  return error.code === 'invalid' || (cause instanceof SysError && errnos.includes(cause.errno))
}

/** What openat2 says of a path that was renamed since, with a symlink in its place, or with nothing. */
const MOVED: readonly number[] = [E.ELOOP, E.ENOENT, E.ENOTDIR, E.EXDEV, E.EAGAIN]
/**
 * What came along with a bind mount of the host's, and goes with it: hidden below another mount (ENOENT), in a directory of
 * another user's, or, in a user namespace, not to be unmounted alone (EINVAL).
 */
const BELOW: readonly number[] = [E.ENOENT, E.ENOTDIR, E.EACCES, E.EINVAL]
const MOST_TRIES = 1000

function detach(root: Fd, path: ByteName): void {
  using fd = sys.openat2(root.n, path, sys.O_PATH, 0, sys.RESOLVE_IN_ROOT | sys.RESOLVE_NO_SYMLINKS)
  if ((sys.statFd(fd.n).attributes & sys.STATX_ATTR_MOUNT_ROOT) === 0) return
  sys.umount2(`/proc/self/fd/${fd.n}`, sys.MNT_DETACH)
}

/** The target; a mount on it whose daemon died is taken away first. */
function placeIn(root: Fd, path: ByteName, kind: 'file' | 'directory'): Fd {
  for (;;) {
    const target = makeInRoot(root.n, path, kind)
    try {
      // The kernel may have the attributes of a dead mount still; this it must ask for.
      sys.fstatfs(target.n)
      return target
    } catch (error) {
      using dead = target
      if (!(error instanceof SysError && error.errno === E.ENOTCONN)) throw error
      sys.umount2(`/proc/self/fd/${dead.n}`, sys.MNT_DETACH)
    }
  }
}

function openBindSource(mount: BindMount): Fd {
  if (!existsSync(mount.source)) {
    if (!mount.createSource) {
      throw new StoreError(
        'invalid',
        `bind source path does not exist: ${mount.source}`,
        "make it, or use '-v', which does",
      )
    }
    mkdirSync(mount.source, { recursive: true, mode: 0o755 })
  }
  const fd = sys.openat(sys.AT_FDCWD, fromUtf8(mount.source), sys.O_PATH)
  const needed = {
    shared: ['shared'],
    rshared: ['shared'],
    slave: ['shared', 'master'],
    rslave: ['shared', 'master'],
  }
  const peers: readonly string[] | undefined = needed[mount.propagation as keyof typeof needed]
  if (peers !== undefined && !peers.some(kind => mountTags(sys.statFd(fd.n).mntId).includes(kind))) {
    fd.close()
    throw new StoreError(
      'invalid',
      `${mount.source} is not on a ${peers.join(' or ')} mount, as propagation ${mount.propagation} needs`,
      `'mount --make-shared' that mount first, or use rprivate`,
    )
  }
  return fd
}

/** `shared`, `master`, … of a mount. Source: proc_pid_mountinfo(5), optional fields */
function mountTags(mntId: number): string[] {
  const lines = readFileSync('/proc/self/mountinfo', 'latin1').split('\n')
  const fields = lines.find(line => line.startsWith(`${mntId} `))?.split(' ') ?? []
  return fields.slice(6, fields.indexOf('-')).map(field => field.split(':')[0] ?? '')
}

/** Pids with a working directory, root or open file in the tree, as fuser(1) finds them. */
function processesIn(rootfs: string): number[] {
  const inside = (link: string): boolean => {
    try {
      const path = readlinkSync(link)
      return path === rootfs || path.startsWith(rootfs + '/')
    } catch {
      return false
    }
  }
  return readdirSync('/proc')
    .filter(name => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter(pid => {
      if (inside(`/proc/${pid}/cwd`) || inside(`/proc/${pid}/root`)) return true
      try {
        return readdirSync(`/proc/${pid}/fd`).some(fd => inside(`/proc/${pid}/fd/${fd}`))
      } catch {
        return false
      }
    })
    .map(Number)
}

/** MNT_EXPIRE on a mount without children only marks it, and says EBUSY when something uses it: umount(2). */
function isBusy(path: ByteName): boolean {
  try {
    sys.umount2(path, sys.MNT_EXPIRE | sys.UMOUNT_NOFOLLOW)
    return false
  } catch (error) {
    if (!(error instanceof SysError)) throw error
    return error.errno === E.EBUSY
  }
}
