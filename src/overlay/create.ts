/**
 * New objects in upper: files, directories, symlinks, special files, O_TMPFILE files.
 *
 * Where nothing is in the way, the object is created in its place by one system call, under the caller's ids and umask: the
 * upper filesystem applies default ACLs and setgid directories itself, and nothing half-made is ever seen. Over a whiteout it is
 * made in the work directory and takes the whiteout's place by one rename.
 */
import * as sys from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { Fd } from '../base/fd.js'
import { isCharWhiteout, isMarkerName, setOpaque, WH_PREFIX } from '../format/index.js'
import type { Caller, Entry } from '../fuse/filesystem.js'
import { ensureUpper } from './copy-up.js'
import type { DirInode, Inode } from './inode.js'
import { DirReal, openBeneath, Real } from './layer.js'
import { type Inheritance, inheritance } from './workdir.js'
import { Listing } from './listing.js'
import { hasMarker, probe } from './lookup.js'
import type { At, View } from './view.js'

/** Everything about a new object but where it goes. */
export interface NewObject {
  /** Type and permission bits. */
  readonly mode: number
  readonly rdev?: number
  readonly target?: string
  readonly umask: number
  readonly caller: Caller
}

/** Creates the object and answers as LOOKUP would. @throws SysError EEXIST, ENOSPC, EROFS, … */
export function create(view: View, parent: DirInode, name: string, what: NewObject): Entry {
  // It would be a whiteout of the upper layer. The kernel refuses it too, so that a nested overlay writes xattrs instead.
  if ((what.mode & sys.S_IFMT) === sys.S_IFCHR && what.rdev === 0) throw new SysError(E.EPERM, 'mknod', name)
  const real = onDisk(view, what)
  return createWith(view, parent, name, what, at => {
    makeObject(at, real)
  }).entry
}

/** Creates a regular file, opened for reading and writing. The descriptor is the caller's. */
export function createFile(
  view: View,
  parent: DirInode,
  name: string,
  what: NewObject,
): { entry: Entry; fd: Fd } {
  const { mode } = onDisk(view, what)
  const { entry, made } = createWith(view, parent, name, what, at => {
    const flags = sys.O_CREAT | sys.O_EXCL | sys.O_RDWR | sys.O_NOFOLLOW
    return sys.openat(at.dirfd, at.name, flags, mode & 0o7777)
  })
  return { entry, fd: made }
}

/** Checks that `name` may be created in `parent`, and gives `parent` an upper directory. */
export function prepareParent(view: View, parent: DirInode, name: string): void {
  if (name.length > 255) throw new SysError(E.ENAMETOOLONG, 'create', name)
  if (parent.nameless && parent !== view.table.root) throw new SysError(E.ENOENT, 'create', name)
  if (view.upper === null) throw new SysError(E.EROFS, 'create', name)
  // A marker would hide its neighbour at the next mount, in every dialect that reads it.
  if (isMarkerName(name)) throw new SysError(E.EINVAL, 'create', name)
  if (parent.children.has(name)) throw new SysError(E.EEXIST, 'create', name)
  ensureUpper(view, parent)
}

/** What is really made of it: something else where owner and mode go into an attribute. */
function onDisk(view: View, what: NewObject): NewObject {
  if (view.owner.overrideAttr === undefined) return what
  return { ...what, mode: view.owner.disguise(what.mode & ~(what.umask & 0o777)) }
}

function makeObject(at: At, what: NewObject): void {
  const type = what.mode & sys.S_IFMT
  const mode = what.mode & 0o7777
  if (type === sys.S_IFDIR) sys.mkdirat(at.dirfd, at.name, mode)
  else if (type === sys.S_IFLNK) sys.symlinkat(what.target ?? '', at.dirfd, at.name)
  else sys.mknodat(at.dirfd, at.name, type | mode, what.rdev ?? 0)
}

function createWith<T>(
  view: View,
  parent: DirInode,
  name: string,
  what: NewObject,
  make: (at: At) => T,
): { entry: Entry; made: T } {
  prepareParent(view, parent, name)
  const dirfd = view.upperFd(parent)
  view.journal?.changing()
  const made = place(view, parent, dirfd, name, what, make)
  return { entry: adoptNew(view, parent, name, what.mode & sys.S_IFMT), made }
}

function place<T>(
  view: View,
  parent: DirInode,
  dirfd: number,
  name: string,
  what: NewObject,
  make: (at: At) => T,
): T {
  const inTheWay = whiteoutInPlace(view, parent, dirfd, name)
  const isDir = (what.mode & sys.S_IFMT) === sys.S_IFDIR
  if (inTheWay === 'none' && view.owner.overrideAttr === undefined) {
    try {
      return view.owner.asCaller(what.caller, what.umask, () => make({ dirfd, name }))
    } catch (error) {
      const taken = error instanceof SysError && error.errno === E.EEXIST
      if (!taken || !isWhiteoutNow(view, parent, name)) throw error
    }
  }
  return stageOver(view, parent, dirfd, name, what, isDir, make)
}

/** What a pre-existing upper directory is known to hold under this name. Fresh directories hold no markers. */
function whiteoutInPlace(view: View, parent: DirInode, dirfd: number, name: string): 'marker' | 'none' {
  const upper = view.upperOf(parent)
  const marked = parent.merges && hasMarker(upper, dirfd, name)
  return marked ? 'marker' : 'none'
}

function isWhiteoutNow(view: View, parent: DirInode, name: string): boolean {
  return probe(view, view.upperOf(parent), name, false) === 'hidden'
}

/** Makes the object in the work directory and lets it take the place of a whiteout of any dialect, or of nothing. */
function stageOver<T>(
  view: View,
  parent: DirInode,
  dirfd: number,
  name: string,
  what: NewObject,
  isDir: boolean,
  make: (at: At) => T,
): T {
  const work = view.workdir()
  const stage = (at: At): T => {
    const made = view.owner.asCaller(what.caller, what.umask, () => make(at))
    try {
      keepOwner(view, at, parent, what)
      // What a whiteout hid must stay hidden under a new directory.
      if (isDir && parent.merges) setOpaque(at.dirfd, at.name, view.prefix)
      replaceWhiteout(view, at.dirfd, at.name, parent, dirfd, name, isDir)
    } catch (error) {
      if (made instanceof Fd) made.close()
      throw error
    }
    return made
  }
  const temp = work.tempName()
  const inherited = inheritance(dirfd)
  if (inherited === undefined && work.isNeutral()) {
    try {
      return stage({ dirfd: work.fd.n, name: temp })
    } catch (error) {
      work.discard(temp)
      throw error
    }
  }
  try {
    using room = stagingRoom(work.fd.n, temp, inherited)
    return stage({ dirfd: room.n, name: 'x' })
  } finally {
    work.discard(temp)
  }
}

/** A directory in the work directory in which objects are born as they would be in the real parent. */
function stagingRoom(workFd: number, room: string, inherited: Inheritance | undefined): Fd {
  sys.mkdirat(workFd, room, 0o777)
  const fd = new Fd(openBeneath(workFd, room, sys.O_RDONLY | sys.O_DIRECTORY))
  try {
    const { gid, acl } = inherited ?? {}
    if (gid !== undefined) {
      sys.fchownat(fd.n, '', -1, gid)
      sys.fchmod(fd.n, 0o2777)
    }
    if (acl !== undefined) sys.setxattrAt(fd.n, '', 'system.posix_acl_default', acl)
    return fd
  } catch (error) {
    fd.close()
    throw error
  }
}

/** Puts a staged object in place. A directory cannot replace a whiteout file by rename, so the two change places. */
export function replaceWhiteout(
  view: View,
  fromFd: number,
  from: string,
  parent: DirInode,
  dirfd: number,
  name: string,
  isDir: boolean,
): void {
  const standing = sys.statAt(dirfd, name)
  if (isDir && standing !== undefined) {
    if (!isCharWhiteout(standing) && probe(view, view.upperOf(parent), name, false) !== 'hidden') {
      throw new SysError(E.EEXIST, 'create', name)
    }
    exchange(view, fromFd, from, dirfd, name)
    sys.unlinkat(fromFd, from, 0)
  } else {
    sys.renameat2(fromFd, from, dirfd, name)
  }
  dropMarker(view, parent, dirfd, name)
}

/** RENAME_EXCHANGE of a directory with a whiteout; where the filesystem has none, the whiteout goes first. */
function exchange(view: View, fromFd: number, from: string, dirfd: number, name: string): void {
  if (view.workdir().features.renameExchange) {
    sys.renameat2(fromFd, from, dirfd, name, sys.RENAME_EXCHANGE)
    return
  }
  sys.unlinkat(dirfd, name, 0)
  sys.renameat2(fromFd, from, dirfd, name)
  sys.openat(fromFd, from, sys.O_CREAT | sys.O_WRONLY, 0).close()
}

/** Removes `.wh.NAME`: after the new object is there, so that what it hid never shows. */
export function dropMarker(view: View, parent: DirInode, dirfd: number, name: string): void {
  if (!view.upperOf(parent).markers || name.length + WH_PREFIX.length > 255) return
  try {
    sys.unlinkat(dirfd, WH_PREFIX + name, 0)
  } catch (error) {
    if (!(error instanceof SysError) || error.errno !== E.ENOENT) throw error
  }
}

/** Where owner and mode live in an attribute, a new object gets its own before it is seen; its group from a setgid directory. */
function keepOwner(view: View, at: At, parent: DirInode, what: NewObject): void {
  if (view.owner.overrideAttr === undefined) return
  const stat = sys.statAt(at.dirfd, at.name)
  if (stat === undefined) return
  const directory = view.owner.stored(view.stat(parent), view.layerOf(parent), () => view.at(parent))
  const inherits = (directory.mode & sys.S_ISGID) !== 0
  const type = what.mode & sys.S_IFMT
  const setgid = inherits && type === sys.S_IFDIR ? sys.S_ISGID : 0
  view.owner.write(at, {
    uid: view.owner.uidOnDisk(what.caller.uid),
    gid: inherits ? directory.gid : view.owner.gidOnDisk(what.caller.gid),
    mode: (what.mode & 0o7777 & ~what.umask) | setgid,
    ...(type !== (stat.mode & sys.S_IFMT) && { type, rdev: what.rdev ?? 0 }),
  })
}

/** Makes the inode of an object that was just put into upper. */
function adoptNew(view: View, parent: DirInode, name: string, type: number): Entry {
  const upper = view.upperOf(parent)
  const stat = sys.statAt(view.fds.get(upper), name)
  if (stat === undefined) throw new SysError(E.EIO, 'create', name)
  const inode = view.table.create(type, view.inos.shown(stat))
  if (inode.isDir()) {
    const real = new DirReal(upper.layer, upper, name)
    real.markers = false
    inode.upper = real
    // It is empty, and whatever comes into it comes through here: what is not listed is not there.
    view.listings.hold(inode, new Listing())
  } else {
    inode.upper = new Real(upper.layer, upper, name)
  }
  view.table.addName(inode, parent, name)
  view.listings.created(parent, name, type, stat.ino)
  return view.entry(inode, stat)
}

/** O_TMPFILE: a file without a name, which LINK may give one. */
export function createTmpfile(view: View, parent: DirInode, what: NewObject): { entry: Entry; fd: Fd } {
  if (view.upper === null) throw new SysError(E.EROFS, 'tmpfile')
  ensureUpper(view, parent)
  const dirfd = view.upperFd(parent)
  const fd = view.owner.asCaller(what.caller, what.umask, () =>
    sys.openat(dirfd, '.', sys.O_TMPFILE | sys.O_RDWR, onDisk(view, what).mode & 0o7777),
  )
  try {
    keepOwner(view, { dirfd: fd.n, name: '' }, parent, what)
    const stat = sys.statFd(fd.n)
    const inode: Inode = view.table.create(sys.S_IFREG, view.inos.shown(stat))
    view.hold(inode, sys.reopen(fd.n, sys.O_PATH))
    return { entry: view.entry(inode, stat), fd }
  } catch (error) {
    fd.close()
    throw error
  }
}
