/**
 * Opening the layers of a mount, and finding out what the upper filesystem can do.
 *
 * Where the daemon may, it clones the mounts that the layers lie on: a detached mount has no other mounts below it, so a layer
 * never leads into another filesystem, and least of all into the overlay's own mountpoint, where the daemon would wait for itself. The
 * kernel's overlayfs does the same (fs/overlayfs/super.c, clone_private_mount).
 */
import * as sys from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import type { Fd } from '../base/fd.js'
import {
  hasWhiteoutXattr,
  isCharWhiteout,
  makeWhiteout,
  type OverlayPrefix,
  WH_PREFIX,
  type WhiteoutDialect,
} from '../format/index.js'
import type { AccessTimes, MountOptions, OverlayConfig } from './config.js'
import { HardlinkIndex } from './hardlinks.js'
import { Layer } from './layer.js'
import { namespaceOf } from './marks.js'
import { rootFacts, type RootFacts } from './root-facts.js'
import { emptyDir, removeTree, type UpperFeatures, WorkDir } from './workdir.js'

const DIR = sys.O_RDONLY | sys.O_DIRECTORY
/** The kernel's marker of an upper whose writes were never synced. */
const VOLATILE = 'incompat/volatile'

export interface OpenedLayers {
  readonly upper: Layer | null
  readonly lowers: Layer[]
  readonly dataOnly: Layer[]
  readonly work: WorkDir | null
  readonly index: HardlinkIndex | null
  readonly prefix: OverlayPrefix
  /** False where the layers' mounts could not be cloned: mounts below a layer then show through. */
  readonly cloned: boolean
  /** WORKDIR itself, whose lock says that it is in use. */
  readonly workdir: Fd | null
}

/** A layer of a predecessor's, with what its root says, so that it need not answer. */
export interface HandedLayer {
  readonly rootFd: Fd
  readonly facts: RootFacts
}

/** The upper layer and what belongs to it, with what was found out when the mount began. */
export interface HandedUpper extends HandedLayer {
  /** WORKDIR itself. */
  readonly workdir: Fd
  readonly work: Fd
  readonly prefix: OverlayPrefix
  readonly features: UpperFeatures
  /** The index of hard links, where there is one. */
  readonly index: Fd | null
}

/** What a daemon that takes over a mount is given: its predecessor's descriptors, locks and clones included. */
export interface HandedLayers {
  readonly upper: HandedUpper | null
  readonly lowers: readonly HandedLayer[]
  readonly dataOnly: readonly HandedLayer[]
  readonly cloned: boolean
}

/**
 * The same layers as seen by {@link openLayers}. No layer is asked anything, and no path used: it might lead into the mount by now.
 * `generation`: how many daemons the mount had before.
 */
export function takeOverLayers(
  config: OverlayConfig,
  handed: HandedLayers,
  generation: number,
): OpenedLayers {
  const { lowers, dataOnly, cloned, upper } = handed
  const below = {
    lowers: lowers.map(({ rootFd, facts }, i) => layer(i + 1, rootFd, config.lower[i] ?? '', true, facts)),
    dataOnly: dataOnly.map(({ rootFd, facts }, i) =>
      layer(lowers.length + i + 1, rootFd, config.dataOnly?.[i] ?? '', true, facts),
    ),
    cloned,
  }
  if (upper === null) return withoutUpper(config, below)
  const { rootFd, facts, workdir, work, prefix, features, index } = upper
  return {
    ...below,
    upper: layer(0, rootFd, config.upper ?? '', false, facts),
    work: new WorkDir(work, prefix, features, generation),
    index: index === null ? null : indexOver(index, facts, prefix, config),
    prefix,
    workdir,
  }
}

/** @throws SysError with the path that is to blame */
export function openLayers(config: OverlayConfig): OpenedLayers {
  const opened: Fd[] = []
  const keep = (fd: Fd): Fd => {
    opened.push(fd)
    return fd
  }
  try {
    let cloned = true
    const openLower = (path: string, index: number): Layer => {
      const cloned_ = cloneMount(path, sys.MOUNT_ATTR_NOATIME)
      cloned &&= cloned_ !== undefined
      const fd = keep(cloned_ ?? sys.openat(sys.AT_FDCWD, path, DIR))
      // Only of an upper it matters in which namespace it is impure.
      return layer(index, fd, path, true, rootFacts(fd.n, namespaceOf(config.options)))
    }
    const lowers = config.lower.map((path, i) => openLower(path, i + 1))
    const dataOnly = (config.dataOnly ?? []).map((path, i) => openLower(path, lowers.length + i + 1))
    if (config.upper === undefined || config.work === undefined)
      return complete(config, { lowers, dataOnly, cloned }, null)
    const times =
      ACCESS_TIMES[config.accessTimes ?? 'relatime'] |
      (config.nodiratime === true ? sys.MOUNT_ATTR_NODIRATIME : 0)
    const pair = openUpperAndWork(config.upper, config.work, times)
    keep(pair.upper)
    keep(pair.work)
    cloned &&= pair.cloned
    lockUpper(pair.upper, config.upper)
    lockUpper(pair.work, config.work)
    return complete(config, { lowers, dataOnly, cloned }, pair)
  } catch (error) {
    for (const fd of opened) fd.close()
    throw error
  }
}

/** Reads what the layers say of themselves, and makes the work directory and the index ready. */
function complete(
  config: OverlayConfig,
  below: Pick<OpenedLayers, 'lowers' | 'dataOnly' | 'cloned'>,
  pair: { readonly upper: Fd; readonly work: Fd } | null,
): OpenedLayers {
  if (pair === null) return withoutUpper(config, below)
  const work = prepareWork(pair.work, config)
  try {
    const facts = rootFacts(pair.upper.n, work.prefix)
    const upper = layer(0, pair.upper, config.upper ?? '', false, facts)
    const index = openIndex(pair.work, upper, below.lowers, work, config)
    index?.sweep()
    return { ...below, upper, work, index, prefix: work.prefix, workdir: pair.work }
  } catch (error) {
    work.fd.close()
    throw error
  }
}

function withoutUpper(
  config: OverlayConfig,
  below: Pick<OpenedLayers, 'lowers' | 'dataOnly' | 'cloned'>,
): OpenedLayers {
  const prefix = namespaceOf(config.options)
  return { ...below, upper: null, work: null, index: null, prefix, workdir: null }
}

function layer(index: number, fd: Fd, path: string, readOnly: boolean, facts: RootFacts): Layer {
  const one = new Layer(index, fd, path, facts, readOnly)
  one.root.impure = facts.impure
  one.root.xwhiteouts = facts.xwhiteouts
  return one
}

/** A detached copy of the mount at `path`, without the mounts below it; `undefined` where that is not allowed. */
function cloneMount(path: string, accessTimes: number): Fd | undefined {
  try {
    using tree = sys.openTree(sys.AT_FDCWD, path, sys.OPEN_TREE_CLONE | sys.OPEN_TREE_CLOEXEC)
    setAccessTimes(tree, accessTimes)
    return sys.openat(tree.n, '.', DIR)
  } catch (error) {
    if (error instanceof SysError && error.errno !== E.ENOENT && error.errno !== E.ENOTDIR) return undefined
    throw error
  }
}

/** Access times are written by the mount that a layer is read through, whatever the view's says: the layer's clone says it. */
const ACCESS_TIMES: Readonly<Record<AccessTimes, number>> = {
  noatime: sys.MOUNT_ATTR_NOATIME,
  relatime: 0,
  strictatime: sys.MOUNT_ATTR_STRICTATIME,
}

function setAccessTimes(tree: Fd, set: number): void {
  try {
    const clear = sys.MOUNT_ATTR__ATIME | (set & sys.MOUNT_ATTR_NODIRATIME ? 0 : sys.MOUNT_ATTR_NODIRATIME)
    sys.mountSetattr(tree.n, '', 0, { set, clear })
  } catch (error) {
    // Before Linux 5.12 there is no such call; in a user namespace what the host's mount says is locked.
    if (!(error instanceof SysError) || (error.errno !== E.EPERM && error.errno !== E.ENOSYS)) throw error
  }
}

/**
 * Renames between work and upper need one mount for both: their common parent directory is cloned, and both are opened
 * below it.
 */
function openUpperAndWork(
  upper: string,
  work: string,
  accessTimes: number,
): { upper: Fd; work: Fd; cloned: boolean } {
  const plainUpper = sys.openat(sys.AT_FDCWD, upper, DIR)
  let plainWork: Fd | undefined
  try {
    plainWork = sys.openat(sys.AT_FDCWD, work, DIR)
    const pair = clonePair(upper, work, accessTimes)
    if (pair !== undefined && sameObject(pair.upper, plainUpper) && sameObject(pair.work, plainWork)) {
      plainUpper.close()
      plainWork.close()
      return { ...pair, cloned: true }
    }
    pair?.upper.close()
    pair?.work.close()
    return { upper: plainUpper, work: plainWork, cloned: false }
  } catch (error) {
    plainUpper.close()
    plainWork?.close()
    throw error
  }
}

function sameObject(a: Fd, b: Fd): boolean {
  const [one, two] = [sys.statFd(a.n), sys.statFd(b.n)]
  return one.dev === two.dev && one.inoLo === two.inoLo && one.inoHi === two.inoHi
}

function clonePair(upper: string, work: string, accessTimes: number): { upper: Fd; work: Fd } | undefined {
  const [a, b] = [upper.split('/'), work.split('/')]
  let shared = 0
  while (shared < a.length && shared < b.length && a[shared] === b[shared]) shared++
  const base = cloneMount(a.slice(0, shared).join('/') || '/', accessTimes)
  if (base === undefined) return undefined
  try {
    using root = base
    const upperFd = sys.openat(root.n, a.slice(shared).join('/') || '.', DIR)
    try {
      return { upper: upperFd, work: sys.openat(root.n, b.slice(shared).join('/') || '.', DIR) }
    } catch (error) {
      upperFd.close()
      throw error
    }
  } catch (error) {
    // A mount between the common parent and one of the two: they are opened as they are.
    if (error instanceof SysError) return undefined
    throw error
  }
}

/** @throws SysError EBUSY when a live mount of ours has it */
function lockUpper(fd: Fd, path: string): void {
  if (!sys.flock(fd.n, sys.LOCK_EX | sys.LOCK_NB)) throw new SysError(E.EBUSY, 'flock', path)
}

/** `WORKDIR/work`, made or emptied. @throws SysError EINVAL for an upper that a volatile mount left behind */
function prepareWork(workdir: Fd, config: OverlayConfig): WorkDir {
  const volatile = sys.statAt(workdir.n, `work/${VOLATILE}`) !== undefined
  if (volatile) throw new SysError(E.EINVAL, 'volatile', `${config.work ?? ''}/work/${VOLATILE}`)
  makeDir(workdir.n, 'work')
  emptyDir(workdir.n, 'work')
  const fd = sys.openat(workdir.n, 'work', DIR | sys.O_NOFOLLOW)
  try {
    inheritNothing(fd)
    if (config.options.volatile) {
      makeDir(fd.n, 'incompat')
      makeDir(fd.n, VOLATILE)
    }
    const prefix = workingPrefix(fd, config.options)
    const features = probeFeatures(fd, prefix, config)
    return new WorkDir(fd, prefix ?? namespaceOf(config.options), features, 0)
  } catch (error) {
    fd.close()
    throw error
  }
}

/** What is born in the work directory has its own owner and mode, not the directory's: as fs/overlayfs/super.c (ovl_workdir_create). */
function inheritNothing(work: Fd): void {
  for (const acl of ['system.posix_acl_default', 'system.posix_acl_access'])
    if (sys.getxattrAt(work.n, '', acl) !== undefined) sys.removexattrAt(work.n, '', acl)
  sys.fchmod(work.n, 0o700)
}

/**
 * `WORKDIR/index`, for index=on. `auto` goes on with an index that is there and starts none: an upper that has one shows old
 * content under the names not copied up yet to every mount without it, and in every image layer made of it.
 * @throws SysError EOPNOTSUPP where index=on is asked for and cannot be had: file handles below, attributes in upper
 */
function openIndex(
  workdir: Fd,
  upper: Layer,
  lowers: readonly Layer[],
  work: WorkDir,
  config: OverlayConfig,
): HardlinkIndex | null {
  const { index } = config.options
  if (index === false || (index === 'auto' && !hasIndex(workdir))) return null
  const able =
    work.features.xattrs &&
    lowers.every(lower =>
      succeeds(() => {
        if (sys.nameToHandle(lower.rootFd.n, '', 0) === undefined) throw new SysError(E.EOPNOTSUPP, 'handle')
      }),
    )
  if (!able) {
    if (index === 'auto') return null
    throw new SysError(E.EOPNOTSUPP, 'index', config.upper)
  }
  makeDir(workdir.n, 'index')
  const fd = sys.openat(workdir.n, 'index', DIR | sys.O_NOFOLLOW)
  return indexOver(fd, upper.facts, work.prefix, config)
}

function indexOver(fd: Fd, facts: RootFacts, prefix: OverlayPrefix, config: OverlayConfig): HardlinkIndex {
  return new HardlinkIndex(new Layer(0, fd, `${config.work ?? ''}/index`, facts, false), prefix)
}

function hasIndex(workdir: Fd): boolean {
  if (sys.statAt(workdir.n, 'index') === undefined) return false
  using fd = sys.openat(workdir.n, 'index', DIR | sys.O_NOFOLLOW)
  return sys.listDir(fd.n).names.length > 0
}

/** A volatile upper that was unmounted in order, and synced, is like any other. */
export function endVolatile(work: WorkDir): void {
  removeTree(work.fd.n, 'incompat')
}

function makeDir(dirfd: number, name: string): void {
  try {
    sys.mkdirat(dirfd, name, 0o700)
  } catch (error) {
    if (!(error instanceof SysError) || error.errno !== E.EEXIST) throw error
  }
}

/**
 * The namespace in which attributes can be written here, and are there when they are read again, if any: a filesystem without trusted.*
 * makes it a mount of the user namespace.
 */
function workingPrefix(work: Fd, options: MountOptions): OverlayPrefix | undefined {
  return [...new Set([namespaceOf(options), 'user.overlay.'] as const)].find(prefix => {
    const attr = prefix + 'opaque'
    return succeeds(() => {
      sys.setxattrAt(work.n, '', attr, Buffer.from('0'))
      if (sys.getxattrAt(work.n, '', attr)?.toString() !== '0') throw new SysError(E.EOPNOTSUPP, 'getxattr')
      sys.removexattrAt(work.n, '', attr)
    })
  })
}

/** Tries each feature in the work directory, as fs/overlayfs/super.c does at mount. */
function probeFeatures(work: Fd, prefix: OverlayPrefix | undefined, config: OverlayConfig): UpperFeatures {
  const dir = work.n
  const tmpfile = succeeds(() => {
    sys.openat(dir, '.', sys.O_TMPFILE | sys.O_RDWR, 0o600).close()
  })
  const touch = (name: string): void => {
    sys.openat(dir, name, sys.O_CREAT | sys.O_WRONLY, 0o600).close()
  }
  const renameExchange = succeeds(() => {
    touch('a')
    touch('b')
    sys.renameat2(dir, 'a', dir, 'b', sys.RENAME_EXCHANGE)
  })
  const renameWhiteout = succeeds(() => {
    touch('a')
    sys.renameat2(dir, 'a', dir, 'c', sys.RENAME_WHITEOUT)
  })
  const asked = config.options.whiteout
  const dialects = asked === 'auto' ? (['char', 'xattr', 'file'] as const) : [asked]
  const whiteout = dialects.find(dialect => keepsWhiteout(dir, dialect, prefix))
  if (whiteout === undefined) throw new SysError(E.EOPNOTSUPP, 'whiteout', config.upper)
  emptyDir(dir, '.')
  if (config.options.volatile) {
    makeDir(dir, 'incompat')
    makeDir(dir, VOLATILE)
  }
  return {
    tmpfile,
    renameExchange,
    renameWhiteout,
    durable: sys.fstatfs(dir).type !== sys.TMPFS_MAGIC,
    xattrs: prefix !== undefined,
    whiteout,
  }
}

/** Whether a whiteout that is made here is one when it is looked at again: another overlay takes its attribute, and keeps it for itself. */
function keepsWhiteout(dir: number, dialect: WhiteoutDialect, prefix: OverlayPrefix | undefined): boolean {
  if (dialect === 'xattr' && prefix === undefined) return false
  const name = `w.${dialect}`
  return succeeds(() => {
    makeWhiteout(dir, name, dialect, prefix ?? 'user.overlay.')
    const made = sys.statAt(dir, dialect === 'file' ? WH_PREFIX + name : name)
    const kept =
      made !== undefined &&
      (dialect === 'char' ? isCharWhiteout(made) : dialect === 'file' || hasWhiteoutXattr(dir, name))
    if (!kept) throw new SysError(E.EOPNOTSUPP, 'whiteout', name)
  })
}

function succeeds(attempt: () => void): boolean {
  try {
    attempt()
    return true
  } catch (error) {
    if (error instanceof SysError) return false
    throw error
  }
}
