/**
 * Copy-up: an object that exists only below gets an upper one, so that it can be changed.
 *
 * Atomic: the copy is built in the work directory (as a file without a name where the filesystem can do that), complete
 * with all metadata, and then appears in upper by one link or rename. A failure or a crash leaves upper as it was.
 *
 * Directories, symlinks, special files, and small files that the page cache holds are copied on the spot. The data of other
 * files is copied, and synced, by a native thread: the operation that needs it is told to come again (see Again) and
 * meanwhile everything else goes on.
 */
import * as sys from '../sys/index.js'
import type { Stat } from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { Fd } from '../base/fd.js'
import { Again } from '../fuse/filesystem.js'
import { type DirInode, type Inode } from './inode.js'
import { DirReal, type Layer, openBeneath, Real } from './layer.js'
import { METACOPY_WITHOUT_DIGEST } from '../format/index.js'
import { keepLinks, keepLinksByLower } from './hardlinks.js'
import { rulesChanged } from './names.js'
import { upperKey } from './lookup.js'
import { openReal } from './io.js'
import { renameNoReplace, TempFile } from './temp-file.js'
import { chownReal, copyMetadata, copyTimes, keepingTimes } from './metadata.js'
import { originRecord } from './origin-ino.js'
import type { At, View } from './view.js'

/** How much of a regular file's data the change that follows needs: so many bytes, or none where metacopy allows it. */
export type Extent = number | 'metadata'

/**
 * Returns when `inode` has an upper object (or is one without a name), with as much of its data as `extent` says.
 * @throws Again while the data is being copied or synced
 * @throws SysError EROFS without upperdir; ENOSPC, EDQUOT, EIO, EPERM as the upper filesystem says
 */
export function ensureUpper(view: View, inode: Inode, extent: Extent = Infinity): void {
  const above = inode.upper !== null || inode.orphan !== null
  if (above && (inode.data === null || extent === 'metadata')) return
  if (view.upper === null) throw new SysError(E.EROFS, 'copy-up', inode.name)
  if (inode.copyUp !== null) throw new Again(inode.copyUp)
  const room = view.limit?.copyUp(inode, extent)
  let begun: Promise<void> | undefined
  try {
    begun = beginCopyUp(view, inode, extent, above)
  } finally {
    if (begun === undefined) room?.end()
  }
  if (begun === undefined) return
  const copying = begun.finally(() => {
    inode.copyUp = null
    room?.end()
    view.table.dropIfUnused(inode)
  })
  inode.copyUp = copying
  throw new Again(copying)
}

/** The directories above first, from the top: as deep as a tree may be, which is deeper than the stack and than all descriptors. */
function ensureParents(view: View, inode: Inode): void {
  const missing: DirInode[] = []
  for (let dir = inode.parent; dir !== null && dir.upper === null; dir = dir.parent) missing.push(dir)
  for (const dir of missing.reverse()) {
    ensureUpper(view, dir)
    // Nobody holds one of the cache's descriptors across a copy-up.
    view.fds.nextRequest()
  }
}

/** Gives the promise of what goes on behind the call, or nothing when all is done. */
function beginCopyUp(view: View, inode: Inode, extent: Extent, above: boolean): Promise<void> | undefined {
  ensureParents(view, inode)
  if (inode.isDir()) copyUpDir(view, inode)
  else if (inode.type !== sys.S_IFREG) copyUpSpecial(view, inode)
  else if (extent === 'metadata' && view.options.metacopy && !inode.nameless) copyUpMetadata(view, inode)
  else {
    const size = extent === 'metadata' ? Infinity : extent
    return above ? completeMetacopy(view, inode, size) : copyUpFile(view, inode, size)
  }
  return undefined
}

/** The facts of one copy-up: what is copied, and what becomes of the copy. */
interface CopyUp {
  readonly inode: Inode
  readonly from: At
  /** As it was before. */
  readonly stat: Stat
  readonly lower: Real
  /** The origin attribute's value; `undefined` where none is recorded. */
  readonly origin: Buffer | undefined
}

function begin(view: View, inode: Inode): CopyUp {
  const stat = inode.isDir() ? view.stat(inode) : view.changes.copying(inode)
  const lower = inode.lower
  const isOther =
    !view.changes.keepsTypes(inode) && stat !== undefined && (stat.mode & sys.S_IFMT) !== inode.type
  if (stat === undefined || lower === null || isOther) throw new SysError(E.ESTALE, 'copy-up', inode.name)
  const from = view.at(inode)
  // Without an index the names of a lower hard link become several files, which must not share its number: copy_up.c.
  const recorded = view.workdir().features.xattrs && (inode.isDir() || stat.nlink === 1 || inode.links > 0)
  const origin = recorded ? originRecord(lower.layer, from.dirfd, from.name) : undefined
  return { inode, from, stat, lower, origin }
}

/** Everything but data and name. `to` is new, and belongs to the daemon. */
function dress(view: View, copy: CopyUp, to: At): void {
  const made = sys.statAt(to.dirfd, to.name)
  if (made === undefined) throw new SysError(E.EIO, 'copy-up', copy.inode.name)
  if (view.owner.overrideAttr === undefined) copyMetadata(copy.from, to, copy.stat, made)
  else dressByAttribute(view, copy, to, made)
  if (copy.origin !== undefined) setOrigin(view, to, copy.origin)
  if (copy.inode.links > 0) keepLinksByLower(view, to, copy.inode.links, copy.stat.nlink)
}

/** Owner and mode go into the attribute. */
function dressByAttribute(view: View, { from, stat, lower }: CopyUp, to: At, made: sys.Stat): void {
  const { uid, gid, mode, rdev } = view.owner.stored(stat, lower.layer.index, () => from)
  const real = { ...stat, uid: made.uid, gid: made.gid, mode: view.owner.disguise(mode) }
  copyMetadata(from, to, real, made)
  const type = mode & sys.S_IFMT
  const differs = type !== (made.mode & sys.S_IFMT)
  const kept = view.owner.write(to, { uid, gid, mode: mode & 0o7777, ...(differs && { type, rdev }) })
  if (!kept) chownReal(to, uid, gid)
}

/** user.* attributes exist on files and directories only; without an origin the object is merely "added" later. */
function setOrigin(view: View, to: At, origin: Buffer): void {
  try {
    sys.setxattrAt(to.dirfd, to.name, view.prefix + 'origin', origin)
  } catch (error) {
    if (!(error instanceof SysError)) throw error
    if (error.errno !== E.EPERM && error.errno !== E.EOPNOTSUPP) throw error
  }
}

/**
 * Before an object gets a name in `to`: marks the directory if the object carries, or may carry (it stands in one that is
 * marked), an origin or a metacopy attribute. Without the mark the attribute is not looked for, and a metacopy file is holes.
 */
export function markImpureFor(view: View, inode: Inode, to: DirInode, from: DirInode | null): void {
  if (inode.lower !== null || inode.data !== null || from?.upper?.impure === true) markImpure(view, to)
}

/** Marks the directory as holding objects with an origin. */
export function markImpure(view: View, dir: DirInode): void {
  const upper = view.upperOf(dir)
  if (upper.impure) return
  const { dirfd, name } = view.at(dir)
  try {
    sys.setxattrAt(dirfd, name, view.prefix + 'impure', Buffer.from('y'))
    upper.impure = true
  } catch (error) {
    if (!(error instanceof SysError)) throw error
    if (error.errno !== E.EPERM && error.errno !== E.EOPNOTSUPP) throw error
  }
}

/** Gives the finished copy its place: `publish` links or renames it into the upper parent. */
function commit(view: View, copy: CopyUp, publish: (dirfd: number, name: string) => void): void {
  const { inode } = copy
  const parent = inode.parent
  if (parent === null) throw new SysError(E.ENOENT, 'copy-up', inode.name)
  ensureUpper(view, parent)
  if (copy.origin !== undefined) markImpure(view, parent)
  const dirfd = view.upperFd(parent)
  const indexed = view.index !== null && inode.links > 0 && copy.origin !== undefined
  const entry = indexed ? view.index.entry(copy.origin) : null
  view.journal?.raising(inode)
  if (entry !== null) publish(entry.layer.rootFd.n, entry.name)
  keepingTimes(dirfd, () => {
    if (entry === null) publish(dirfd, inode.name)
    else sys.linkat(entry.layer.rootFd.n, entry.name, dirfd, inode.name, 0)
  })
  parent.listing?.movedUp(inode.name)
  if (entry !== null) {
    inode.upper = entry
    view.table.setLink(inode, upperKey(view.stat(inode)))
    keepLinks(view, inode)
    return
  }
  const upper = view.upperOf(parent)
  if (inode.isDir()) {
    const real = new DirReal(upper.layer, upper, inode.name)
    real.markers = false
    inode.upper = real
    rulesChanged(view, inode)
  } else {
    inode.upper = new Real(upper.layer, upper, inode.name)
  }
  if (!inode.isDir() && copy.stat.nlink > 1 && copy.origin === undefined)
    showOwnNumber(view, inode, parent, dirfd)
}

/** The names of a lower hard link part at copy-up: two files of one st_ino would be linked together by tar, rsync and cp. */
function showOwnNumber(view: View, inode: Inode, parent: DirInode, dirfd: number): void {
  const made = sys.statAt(dirfd, inode.name)
  if (made === undefined) return
  inode.ino = view.inos.shown(made)
  view.journal?.renumbered(inode)
  parent.listing?.renumbered(inode.name, made.ino)
  view.attrChanged(inode)
  // It has the number as well.
  view.attrAndListingChanged(parent)
}

function copyUpDir(view: View, dir: DirInode): void {
  const copy = begin(view, dir)
  if (dir.nameless) throw new SysError(E.ENOENT, 'copy-up', dir.name)
  const work = view.workdir()
  work.staged(
    (fd, temp) => {
      sys.mkdirat(fd, temp, 0o700)
      dress(view, copy, { dirfd: fd, name: temp })
    },
    (fd, temp) => {
      commit(view, copy, (dirfd, name) => {
        renameNoReplace(fd, temp, dirfd, name)
      })
    },
  )
  view.attrChanged(dir)
}

function copyUpSpecial(view: View, inode: Inode): void {
  const copy = begin(view, inode)
  view.workdir().staged(
    (fd, temp) => {
      if (inode.type === sys.S_IFLNK) {
        sys.symlinkat(sys.readlinkat(copy.from.dirfd, copy.from.name), fd, temp)
      } else {
        const { mode, rdev } = view.owner.stored(copy.stat, copy.lower.layer.index, () => copy.from)
        sys.mknodat(fd, temp, view.owner.overrideAttr === undefined ? mode : view.owner.disguise(mode), rdev)
      }
      dress(view, copy, { dirfd: fd, name: temp })
    },
    (fd, temp) => {
      if (inode.nameless) {
        view.hold(inode, sys.openat(fd, temp, sys.O_PATH | sys.O_NOFOLLOW))
        sys.unlinkat(fd, temp, 0)
      } else {
        commit(view, copy, (dirfd, name) => {
          renameNoReplace(fd, temp, dirfd, name)
        })
      }
    },
  )
}

/** metacopy=on: the upper file gets everything but the data, which is found below by name (or redirect, once renamed). */
function copyUpMetadata(view: View, inode: Inode): void {
  const copy = begin(view, inode)
  using temp = TempFile.create(view, inode)
  sys.truncateFd(temp.fd.n, copy.stat.size)
  const to: At = { dirfd: temp.fd.n, name: '' }
  sys.setxattrAt(to.dirfd, '', view.prefix + 'metacopy', METACOPY_WITHOUT_DIGEST)
  dress(view, copy, to)
  // Before it is there: its readers must look for the attribute, which is where an origin would be.
  if (inode.parent !== null) markImpure(view, inode.parent)
  commit(view, copy, (dirfd, name) => {
    temp.publish(dirfd, name)
  })
  inode.data ??= copy.lower
}

/**
 * Gives a metacopy file its data. The attribute goes last: until then a reader, after a crash too, takes the data from below.
 */
async function completeMetacopy(view: View, inode: Inode, size: number): Promise<void> {
  const data = inode.data
  if (data?.parent == null) throw new SysError(E.ESTALE, 'copy-up', inode.name)
  using source = new Fd(openBeneath(view.fds.get(data.parent), data.name, sys.O_RDONLY | sys.O_NOATIME))
  const { dirfd, name } = view.at(inode)
  using target = new Fd(
    name === '' ? sys.reopen(dirfd, sys.O_RDWR).release() : openBeneath(dirfd, name, sys.O_RDWR),
  )
  const before = sys.statFd(target.n)
  const { stamp } = sys.statFd(source.n)
  await sys.copyData(source.n, target.n, Math.min(size, before.size))
  // It still has the attribute: its data is not looked at.
  if (sys.statFd(source.n).stamp !== stamp) return view.changes.torn(inode)
  view.changes.whole(inode)
  copyTimes({ dirfd: target.n, name: '' }, before)
  await syncCopy(view, target)
  sys.fremovexattr(target.n, view.prefix + 'metacopy')
  forgetData(view, inode)
  view.kernel.unregisterFile(inode.nodeid)
}

/** Gives the promise of a copy that is under way, or nothing when it was small and is done. */
function copyUpFile(view: View, inode: Inode, size: number): Promise<void> | undefined {
  const building = new Building(view, inode)
  try {
    const length = Math.min(size, building.copy.stat.size)
    const copied = building.copyNow(length)
    if (!copied || (length > 0 && view.syncs)) return finishSlowly(view, building, length, copied)
    building.dress(view)
    if (!building.isWhole()) throw new Again(view.changes.torn(inode))
    place(view, building)
  } catch (error) {
    building[Symbol.dispose]()
    throw error
  }
  building[Symbol.dispose]()
  return undefined
}

async function finishSlowly(view: View, built: Building, length: number, copied: boolean): Promise<void> {
  using building = built
  if (!copied) await building.copyData(length)
  building.dress(view)
  // Whoever needs the copy comes again, and it is made anew.
  if (!building.isWhole()) return view.changes.torn(building.copy.inode)
  if (length > 0) await syncCopy(view, building.temp.fd)
  view.fds.nextRequest()
  place(view, building)
}

/** The finished copy becomes what the inode is. */
function place(view: View, { copy, temp }: Building): void {
  const { inode } = copy
  view.changes.whole(inode)
  if (inode.nameless) {
    view.hold(inode, temp.keepNameless())
  } else {
    commit(view, copy, (dirfd, name) => {
      temp.publish(dirfd, name)
    })
  }
  forgetData(view, inode)
  // The page cache of the inode stays valid; only the file behind it is another one now.
  view.kernel.unregisterFile(inode.nodeid)
}

/** The file has its data itself now. */
function forgetData(view: View, inode: Inode): void {
  if (inode.data !== null) view.fds.dropPassages(inode.data)
  inode.data = null
}

/** A copy of a regular file being made, with the open files that it is made of. */
class Building implements Disposable {
  readonly copy: CopyUp
  readonly temp: TempFile
  private readonly source: Fd
  private readonly original: Fd | null = null
  private readonly layer: Layer
  private readonly before: Stat

  constructor(view: View, inode: Inode) {
    const copy = begin(view, inode)
    const data = inode.data ?? copy.lower
    this.layer = data.layer
    this.source = new Fd(openReal(view, inode, sys.O_RDONLY | sys.O_NOATIME))
    this.before = data === copy.lower ? copy.stat : sys.statFd(this.source.n)
    try {
      if (data !== copy.lower)
        this.original = new Fd(openBeneath(copy.from.dirfd, copy.from.name, sys.O_PATH))
      this.temp = TempFile.create(view, inode)
    } catch (error) {
      this.original?.close()
      this.source.close()
      throw error
    }
    // The directory descriptors of `begin` may be closed meanwhile: the open files stand for the objects.
    this.copy = { ...copy, from: { dirfd: (this.original ?? this.source).n, name: '' } }
  }

  /** True when a small file, all of it in the page cache, was copied on the spot: two changes of thread cost more. */
  copyNow(size: number): boolean {
    if (size > sys.COPY_CACHED_MOST || size < this.copy.stat.size) return size === 0
    // Where a reflink works it is to be had; where there are fewer blocks than data there may be holes to keep.
    const { copiedBy } = this.layer
    if (copiedBy === undefined || copiedBy === 'reflink' || this.copy.stat.blocks * 512 < size)
      return size === 0
    // Fewer bytes than there were: it is being cut, and is copied once more.
    return sys.copyCached(this.source.n, 0, this.temp.fd.n, 0, size) === size
  }

  async copyData(size: number): Promise<void> {
    const { method } = await sys.copyData(this.source.n, this.temp.fd.n, size)
    this.layer.copiedBy = method
  }

  /** Whether the file was one content from beginning to end, and is of what the copy is dressed as. */
  isWhole(): boolean {
    return sys.statFd(this.source.n).stamp === this.before.stamp
  }

  dress(view: View): void {
    dress(view, this.copy, { dirfd: this.temp.fd.n, name: '' })
  }

  [Symbol.dispose](): void {
    this.temp[Symbol.dispose]()
    this.original?.close()
    this.source.close()
  }
}

/** Data is on disk before a name leads to it: a crash never shows an empty file in the place of a full one. */
async function syncCopy(view: View, file: Fd): Promise<void> {
  if (view.syncs) await sys.fsync(file.n)
}
