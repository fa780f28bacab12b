/**
 * Copies trees with everything a layer holds: owner, mode, times to the nanosecond, xattrs and ACLs, hard links, holes,
 * devices, fifos. Data is shared (reflink) where the filesystem can. Nothing is followed, nothing is written outside the
 * target directory.
 */
import type { Fd } from '../base/fd.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { unescapeXattr } from '../format/index.js'
import * as sys from '../sys/index.js'
import type { Stat } from '../sys/index.js'
import type { Change } from './changes.js'
import { layerEntries, MergedDir } from './merged-tree.js'

const OPEN_DIR = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW
const BENEATH = sys.RESOLVE_BENEATH | sys.RESOLVE_NO_SYMLINKS

export interface CopyTotals {
  entries: number
  /** Bytes of file data, shared or copied. */
  bytes: number
  /** Of these, bytes that take no room of their own. */
  shared: number
}

/** What COPY --chown and --chmod say instead of the source. */
export interface Override {
  readonly uid?: number | undefined
  readonly gid?: number | undefined
  /** Permission bits. */
  readonly mode?: number | undefined
  /** Or what becomes of those of the source. */
  readonly changeMode?: ((mode: number, isDirectory: boolean) => number) | undefined
  /** File capabilities do not go along. */
  readonly harmless?: boolean
}

/** One copy in progress: where hard links were first written, and the totals. */
export class Copier {
  readonly totals: CopyTotals = { entries: 0, bytes: 0, shared: 0 }
  /** `dev:ino` of a source with several names, to its first path in the target. */
  readonly #links = new Map<string, string>()

  constructor(
    readonly targetRoot: number,
    readonly signal?: AbortSignal,
    readonly override: Override = {},
    /** Who makes the objects: where root's own ids do not exist (a mount that shows other ids). */
    readonly creator?: { readonly uid: number; readonly gid: number },
  ) {}

  make<T>(create: () => T): T {
    const { creator } = this
    return creator === undefined ? create() : sys.asCreator(creator.uid, creator.gid, 0, create)
  }

  /** Copies the non-directory `name`; nothing may exist in its place. */
  async object(from: number, name: string, stat: Stat, to: number, path: string): Promise<void> {
    this.signal?.throwIfAborted()
    this.totals.entries += 1
    if (stat.nlink > 1 && this.#link(stat, to, name)) return
    await this.create(from, name, stat, to, name)
    if (stat.nlink > 1) this.#links.set(`${stat.dev}:${stat.ino}`, path)
  }

  #link(stat: Stat, to: number, name: string): boolean {
    const first = this.#links.get(`${stat.dev}:${stat.ino}`)
    if (first === undefined) return false
    const slash = first.lastIndexOf('/')
    try {
      using parent =
        slash < 0
          ? sys.openat(this.targetRoot, '.', OPEN_DIR)
          : sys.openat2(this.targetRoot, first.slice(0, slash), sys.O_PATH | sys.O_DIRECTORY, 0, BENEATH)
      sys.linkat(parent.n, first.slice(slash + 1), to, name, 0)
      return true
    } catch (error) {
      // EMLINK: the target filesystem allows fewer names. ENAMETOOLONG: a path beyond PATH_MAX. A copy is right too.
      if (error instanceof SysError && (error.errno === E.EMLINK || error.errno === E.ENAMETOOLONG))
        return false
      throw error
    }
  }

  /**
   * Copies one object, without looking for its other names. `name` '' is the object behind the descriptor `from`
   * itself, which may be O_PATH; `as` is its name in the target.
   */
  async create(from: number, name: string, stat: Stat, to: number, as: string): Promise<void> {
    const type = stat.mode & sys.S_IFMT
    switch (type) {
      case sys.S_IFREG: {
        using source = openRegular(from, name)
        const flags = sys.O_WRONLY | sys.O_CREAT | sys.O_EXCL | sys.O_NOFOLLOW
        using target = this.make(() => sys.openat(to, as, flags, 0o600))
        if (stat.size > 0) {
          const { method } = await sys.copyData(source.n, target.n, stat.size, { reflink: true })
          this.totals.bytes += stat.size
          if (method === 'reflink') this.totals.shared += stat.size
        }
        break
      }
      case sys.S_IFLNK:
        this.make(() => sys.symlinkat(sys.readlinkat(from, name), to, as))
        break
      default:
        this.make(() => sys.mknodat(to, as, type | 0o600, stat.rdev))
    }
    this.metadata(from, name, stat, to, as)
  }

  metadata(from: number, name: string, stat: Stat, to: number, as: string): void {
    copyMetadata(from, name, stat, to, as, this.override)
  }
}

/**
 * Opens a regular file to be read. Not what has come in its place since it was looked at: a FIFO would hold us up, and a device of a
 * container's is a device of the host's when we open it.
 * @throws SysError ESTALE
 */
function openRegular(from: number, name: string): Fd {
  using named = name === '' ? undefined : sys.openat(from, name, sys.O_PATH | sys.O_NOFOLLOW)
  const fd = named?.n ?? from
  if (!sys.S_ISREG(sys.statFd(fd).mode)) throw new SysError(E.ESTALE, 'open', name)
  return sys.reopen(fd, sys.O_RDONLY)
}

/** Owner, xattrs, mode, times, in the order in which none undoes another. `name` '' is the descriptor itself. */
function copyMetadata(
  from: number,
  name: string,
  stat: Stat,
  to: number,
  target: string,
  override: Override = {},
): void {
  sys.fchownat(to, target, override.uid ?? stat.uid, override.gid ?? stat.gid)
  const wanted = new Set<string>()
  for (const attr of sys.listxattrAt(from, name)) {
    // The overlay's own say something about another stack; the target is a tree of its own.
    if (unescapeXattr(attr) === undefined) continue
    if (override.harmless === true && attr === 'security.capability') continue
    const value = sys.getxattrAt(from, name, attr)
    if (value === undefined) continue
    wanted.add(attr)
    sys.setxattrAt(to, target, attr, value)
  }
  for (const attr of sys.listxattrAt(to, target)) {
    if (!wanted.has(attr) && unescapeXattr(attr) !== undefined && attr !== 'security.selinux') {
      sys.removexattrAt(to, target, attr)
    }
  }
  if (!sys.S_ISLNK(stat.mode)) sys.chmodAt(to, target, modeOf(stat, override))
  sys.utimensAt(to, target, stat.atime, stat.atimeNsec, stat.mtime, stat.mtimeNsec)
}

function modeOf({ mode }: Stat, override: Override): number {
  return override.mode ?? override.changeMode?.(mode & 0o7777, sys.S_ISDIR(mode)) ?? mode & 0o7777
}

/**
 * Lays the layer directory `layer` over the plain tree `target`: objects replace or merge, whiteouts and opaque
 * directories delete. Applied to an empty directory from the bottom layer up, it makes the merged view.
 * @throws SysError ENOSPC, EPERM (device nodes without privilege), EIO
 */
export async function applyLayer(layer: number, target: number, signal?: AbortSignal): Promise<CopyTotals> {
  const copier = new Copier(target, signal)
  using from = MergedDir.ofRoots([layer])
  await applyDirectory(copier, from, target, '')
  return copier.totals
}

async function applyDirectory(
  copier: Copier,
  from: MergedDir,
  target: number,
  prefix: string,
): Promise<void> {
  const part = from.top
  if (part.opaque) for (const name of sys.listDir(target).names) removeEntry(target, name)
  for (const [name, entry] of layerEntries(part)) {
    if (entry.kind === 'whiteout') {
      removeEntry(target, name)
      continue
    }
    const existing = sys.statAt(target, name)
    if (!sys.S_ISDIR(entry.stat.mode)) {
      if (existing !== undefined) removeEntry(target, name)
      await copier.object(part.fd.n, name, entry.stat, target, prefix + name)
      continue
    }
    copier.totals.entries += 1
    if (existing !== undefined && !sys.S_ISDIR(existing.mode)) removeEntry(target, name)
    if (existing === undefined || !sys.S_ISDIR(existing.mode)) sys.mkdirat(target, name, 0o700)
    using child = from.open(name)
    using childTarget = sys.openat(target, name, OPEN_DIR)
    if (child !== undefined) await applyDirectory(copier, child, childTarget.n, `${prefix}${name}/`)
  }
  copyMetadata(part.fd.n, '', sys.statFd(part.fd.n), target, '')
}

/** Removes `name` with all in it. Synchronous: what a layer deletes is small beside what it is applied to. */
export function removeEntry(dirfd: number, name: string): void {
  const stat = sys.statAt(dirfd, name)
  if (stat === undefined) return
  if (!sys.S_ISDIR(stat.mode)) {
    sys.unlinkat(dirfd, name, 0)
    return
  }
  using dir = sys.openat(dirfd, name, OPEN_DIR)
  for (const child of sys.listDir(dir.n).names) removeEntry(dir.n, child)
  sys.unlinkat(dirfd, name, sys.AT_REMOVEDIR)
}

/** How a writable place marks deletions; see format/whiteout.ts. */
export type MakeWhiteout = (dirfd: number, name: string) => void

/**
 * Writes `changes` (from treeChanges) as a layer directory in overlay form: the objects of `tree` and whiteouts.
 * For drivers whose writable layer is a whole tree.
 */
export async function writeChanges(
  tree: number,
  changes: Iterable<Change>,
  target: number,
  whiteOut: MakeWhiteout,
  signal?: AbortSignal,
): Promise<CopyTotals> {
  const copier = new Copier(target, signal)
  const made = new Set<string>()
  copyMetadata(tree, '', sys.statFd(tree), target, '')
  for (const change of changes) {
    const slash = change.path.lastIndexOf('/')
    const parentPath = slash < 0 ? '' : change.path.slice(0, slash)
    const name = change.path.slice(slash + 1)
    makeParents(tree, target, parentPath, made)
    using parent = openBeneath(target, parentPath)
    if (change.kind === 'D') {
      whiteOut(parent.n, name)
    } else if (sys.S_ISDIR(change.stat.mode)) {
      makeParents(tree, target, change.path, made)
    } else {
      using from = openBeneath(tree, parentPath)
      await copier.object(from.n, name, change.stat, parent.n, change.path)
    }
  }
  // Children change their directory's times: set them again, deepest first.
  for (const path of [...made].sort((a, b) => b.length - a.length)) {
    using from = openBeneath(tree, path)
    using to = openBeneath(target, path)
    const stat = sys.statFd(from.n)
    sys.utimensAt(to.n, '', stat.atime, stat.atimeNsec, stat.mtime, stat.mtimeNsec)
  }
  return copier.totals
}

function makeParents(tree: number, target: number, path: string, made: Set<string>): void {
  if (path === '' || made.has(path)) return
  const slash = path.lastIndexOf('/')
  const parentPath = slash < 0 ? '' : path.slice(0, slash)
  makeParents(tree, target, parentPath, made)
  using parent = openBeneath(target, parentPath)
  sys.mkdirat(parent.n, path.slice(slash + 1), 0o700)
  using from = openBeneath(tree, path)
  using to = openBeneath(target, path)
  copyMetadata(from.n, '', sys.statFd(from.n), to.n, '')
  made.add(path)
}

/** Opens a directory of a tree by its path, without leaving the tree. Paths beyond PATH_MAX are walked in pieces. */
export function openBeneath(root: number, path: string): Fd {
  if (path === '') return sys.openat(root, '.', OPEN_DIR)
  if (path.length < 4000) return sys.openat2(root, path, OPEN_DIR, 0, BENEATH)
  const cut = path.lastIndexOf('/', 4000)
  using first = sys.openat2(root, path.slice(0, cut), OPEN_DIR, 0, BENEATH)
  return openBeneath(first.n, path.slice(cut + 1))
}
