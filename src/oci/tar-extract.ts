/**
 * Puts the entries of a tar below a directory: the part of `applyTar` that touches the disk, all of it synchronous.
 *
 * Order for each object: create, data, owner, xattrs, mode, times (chown and write take security.capability and setuid
 * away). Directories get mode, ACLs and times at the end, when nothing changes in them any more; so does a directory
 * that could not be written to.
 */
import { E } from '../base/errno.js'
import { toUtf8 } from '../base/bytes.js'
import { SysError } from '../base/sys-error.js'
import * as format from '../format/index.js'
import * as sys from '../sys/index.js'
import { EntryMetadata } from './entry-metadata.js'
import { EntryWhiteouts } from './entry-whiteouts.js'
import { OciError } from './error.js'
import type { IdMap } from './id-map.js'
import { baseOf, LayerTree, layerPath, parentOf } from './layer-tree.js'
import { aclAccess, aclDefault } from './posix-acl.js'
import type { TarEntry } from './tar-format.js'
import type { TarHandler } from './tar-reader.js'
import { writeFully, type TarSplitRecorder } from './tar-split.js'

export interface ExtractOptions {
  /**
   * `overlay`: `.wh.` entries become whiteouts of `dialect`: what a layer directory is.
   * `apply`: they remove what is there: for a full copy of the layers below.
   * `literal`: they are files like others: for `ADD archive.tar`.
   */
  whiteouts: 'overlay' | 'apply' | 'literal'
  /** The tree becomes an upperdir although its whiteouts are `literal`: attributes of overlays are escaped in it. */
  upper?: boolean
  /** With `overlay`. Default `char`. */
  dialect?: format.WhiteoutDialect
  /** With `overlay`: trusted.overlay. (default) as root, user.overlay. otherwise. */
  xattrPrefix?: format.OverlayPrefix
  /** Ids in the archive to ids on disk; absent: the same. */
  ids?: IdMap | undefined
  /** Of everything, whatever the archive says. */
  owner?: { readonly uid: number; readonly gid: number } | undefined
  /**
   * `chown` (default): owners as the archive says.
   * `xattr`: kept in user.containers.override_stat, for a user without a range of ids; devices become files.
   * `ignore`: everything belongs to the caller.
   */
  ownership?: 'chown' | 'xattr' | 'ignore'
  /** What happens with a device node that this user may not make. Default `refuse`. */
  devices?: 'refuse' | 'skip'
}

const createFlags = sys.O_WRONLY | sys.O_CREAT | sys.O_EXCL | sys.O_NOFOLLOW
const maxPath = 4095

interface Directory {
  mode: number
  mtime: number
  mtimeNsec: number
  /** ACLs, which would be inherited by what is still to come. */
  acls: [name: string, value: Buffer][] | undefined
  owner: [uid: number, gid: number]
  /** Listed in the archive; otherwise made because something was below it. */
  listed: boolean
}

export class TarExtractor implements TarHandler {
  readonly counts = { files: 0, directories: 0, links: 0, symlinks: 0, devices: 0, whiteouts: 0 }
  dataBytes = 0

  readonly #tree: LayerTree
  readonly #directories = new Map<string, Directory>()
  readonly #metadata: EntryMetadata
  readonly #whiteouts: EntryWhiteouts
  readonly #ownership: 'chown' | 'xattr' | 'ignore'
  readonly #overlay: boolean
  /** The file that is being written. */
  #fd = -1
  #entry: TarEntry | undefined
  /** Place in the file, and in `entry.sparse`. */
  #position = 0
  #extent = 0
  #extentDone = 0
  /** With `apply`: what this archive brought, which its own whiteouts do not touch. */
  readonly #own: Set<string> | undefined

  constructor(
    readonly rootFd: number,
    readonly options: ExtractOptions,
    readonly recorder: TarSplitRecorder | undefined,
  ) {
    this.#overlay = options.whiteouts === 'overlay'
    this.#ownership = options.ownership ?? 'chown'
    this.#own = options.whiteouts === 'apply' ? new Set() : undefined
    this.#tree = new LayerTree(rootFd, (fd, name, path) => this.#makeParent(fd, name, path))
    const root = sys.statAt(rootFd, '')
    const inherits = root !== undefined && (root.mode & sys.S_ISGID) !== 0
    // A store below a directory with default ACLs must not hand them to every file of every layer.
    if (this.#overlay) {
      for (const attr of sys.listxattrAt(rootFd, '')) {
        if (attr === aclDefault || attr === aclAccess) sys.removexattrAt(rootFd, '', attr)
      }
    }
    const uid = process.geteuid?.() ?? 0
    const gid = process.getegid?.() ?? 0
    this.#metadata = new EntryMetadata({
      ids: options.ids,
      owner: options.owner,
      ownership: this.#ownership,
      overlay: this.#overlay || options.upper === true,
      self: inherits || !this.#overlay ? undefined : [uid, gid],
    })
    this.#whiteouts = new EntryWhiteouts({
      tree: this.#tree,
      overlay: this.#overlay,
      dialect: options.dialect ?? 'char',
      prefix: options.xattrPrefix ?? (sys.geteuid() === 0 ? 'trusted.overlay.' : 'user.overlay.'),
      own: this.#own,
    })
  }

  /** One line each, at most 100: attributes that this filesystem or user cannot have, devices left out. */
  get warnings(): string[] {
    return this.#metadata.warnings
  }

  /** Whose modes and times are kept in memory until the end: about 500 bytes each. */
  get directories(): number {
    return this.#directories.size
  }

  raw(bytes: Buffer): void {
    this.recorder?.raw(bytes)
  }

  entry(entry: TarEntry): 'store' | 'skip' {
    const path = layerPath(entry.path)
    if (path.length > maxPath)
      throw new OciError('limit', `a name of ${path.length} bytes; the most is ${maxPath}`)
    this.#entry = entry
    this.#metadata.path = path
    try {
      return this.#dispatch(entry, path)
    } catch (error) {
      throw located(error, path)
    }
  }

  #dispatch(entry: TarEntry, path: string): 'store' | 'skip' {
    const name = baseOf(path)
    if (this.options.whiteouts !== 'literal' && name.startsWith(format.WH_PREFIX)) {
      this.#whiteouts.apply(path, name)
      this.counts.whiteouts = this.#whiteouts.count
      this.#entry = undefined
      return 'skip'
    }
    if (path === '') {
      if (entry.type !== 'directory')
        throw new OciError('unsafe', 'an entry that is not a directory replaces the root')
      this.#directory(entry, path)
      return 'skip'
    }
    this.#keep(path)
    switch (entry.type) {
      case 'directory':
        this.#directory(entry, path)
        return 'skip'
      case 'file':
        this.#openFile(entry, path, name)
        return 'store'
      case 'link':
        this.#link(entry, path, name)
        return 'skip'
      case 'symlink':
        this.#symlink(entry, path, name)
        return 'skip'
      case 'char':
      case 'block':
      case 'fifo':
        this.#node(entry, path, name)
        return 'skip'
    }
  }

  /** With `apply`: this and what leads to it is this archive's own. */
  #keep(path: string): void {
    if (this.#own === undefined) return
    for (let up = path; up !== '' && !this.#own.has(up); up = parentOf(up)) this.#own.add(up)
  }

  // Files

  #openFile(entry: TarEntry, path: string, name: string): void {
    const parent = this.#parent(path)
    let fd = sys.tryOpenat2(parent, name, createFlags, 0o600, 0)
    if (fd === -E.EEXIST) {
      this.#clear(parent, name, path)
      fd = sys.tryOpenat2(this.#parent(path), name, createFlags, 0o600, 0)
    }
    if (fd < 0) throw new SysError(-fd, 'openat', path)
    this.#fd = fd
    this.#position = 0
    this.#extent = 0
    this.#extentDone = 0
    if (entry.size > 0 && (entry.sparse === undefined || entry.sparse.length > 0)) {
      this.recorder?.file(path, entry.size, entry.sparse)
    }
    this.counts.files++
  }

  data(chunk: Buffer): void {
    this.dataBytes += chunk.length
    const sparse = this.#entry?.sparse
    try {
      if (sparse === undefined) {
        writeFully(this.#fd, chunk, this.#position)
        this.#position += chunk.length
        return
      }
      while (chunk.length > 0) {
        const extent = sparse[this.#extent]
        if (extent === undefined)
          throw new OciError('malformed', 'a sparse file has more data than its map says')
        const part = chunk.subarray(0, extent.length - this.#extentDone)
        writeFully(this.#fd, part, extent.offset + this.#extentDone)
        chunk = chunk.subarray(part.length)
        this.#extentDone += part.length
        if (this.#extentDone === extent.length) {
          this.#extent++
          this.#extentDone = 0
        }
      }
    } catch (error) {
      throw located(error, this.#metadata.path)
    }
  }

  entryEnd(): void {
    const entry = this.#entry
    if (this.#fd === -1 || entry === undefined) return
    const fd = this.#fd
    try {
      if (entry.sparse !== undefined) sys.truncateFd(fd, entry.size)
      this.#metadata.finishObject(entry, fd, '')
    } catch (error) {
      throw located(error, this.#metadata.path)
    } finally {
      this.#fd = -1
      this.#entry = undefined
      sys.close(fd)
    }
  }

  // Everything else

  #link(entry: TarEntry, path: string, name: string): void {
    const target = layerPath(entry.linkPath)
    const targetName = baseOf(target)
    if (target === path) throw new OciError('malformed', 'a hard link to itself')
    if (target === '') throw new OciError('unsafe', 'a hard link to the root')
    if (this.options.whiteouts !== 'literal' && targetName.startsWith(format.WH_PREFIX)) {
      throw new OciError('unsafe', `a hard link to the whiteout '${toUtf8(target)}'`)
    }
    // Two directories are needed at once, and the cache may let go of the first one.
    using from = sys.dup(this.#tree.directory(parentOf(target)))
    const stat = sys.statAt(from.n, targetName)
    if (stat === undefined)
      throw new OciError('malformed', `a hard link to '${toUtf8(target)}', which is not in the archive`)
    if (sys.S_ISDIR(stat.mode))
      throw new OciError('unsafe', `a hard link to the directory '${toUtf8(target)}'`)
    if (this.#whiteouts.isWhiteout(from.n, targetName)) {
      throw new OciError('unsafe', `a hard link to the whiteout '${toUtf8(target)}'`)
    }
    const to = this.#parent(path)
    const there = sys.statAt(to, name)
    if (there !== undefined) {
      // a link that is there already is not taken away: the target may have been replaced by it
      if (there.ino === stat.ino && there.dev === stat.dev) return
      this.#clear(to, name, path)
    }
    sys.linkat(from.n, targetName, this.#parent(path), name)
    this.counts.links++
  }

  #symlink(entry: TarEntry, path: string, name: string): void {
    if (entry.linkPath === '') throw new OciError('malformed', 'a symbolic link to nothing')
    this.#create(path, name, parent => sys.symlinkat(entry.linkPath, parent, name))
    const parent = this.#parent(path)
    this.#metadata.chown(entry, parent, name)
    if (entry.xattrs !== undefined) this.#metadata.xattrs(entry, parent, name)
    this.#metadata.times(entry, parent, name)
    this.counts.symlinks++
  }

  #node(entry: TarEntry, path: string, name: string): void {
    const type = entry.type === 'fifo' ? sys.S_IFIFO : entry.type === 'char' ? sys.S_IFCHR : sys.S_IFBLK
    const rdev = entry.type === 'fifo' ? 0 : sys.makedev(entry.devMajor, entry.devMinor)
    if (this.#ownership === 'xattr' && type !== sys.S_IFIFO) {
      this.#create(path, name, parent => sys.openat(parent, name, createFlags, 0o600).close())
      this.#metadata.overrideStat(entry, this.#parent(path), name, type, rdev)
      this.counts.devices++
      return
    }
    try {
      this.#create(path, name, parent => sys.mknodat(parent, name, type | 0o600, rdev))
    } catch (error) {
      if (!(error instanceof SysError) || error.errno !== E.EPERM) throw error
      const device = `device node '${toUtf8(path)}' (${entry.devMajor}:${entry.devMinor})`
      if (this.options.devices !== 'skip') {
        throw new OciError('unsafe', `the archive has ${device}, which this user may not make`, {
          cause: error,
        })
      }
      this.#metadata.warn(`${device} was left out: this user may not make it`)
      return
    }
    this.#metadata.finishObject(entry, this.#parent(path), name)
    this.counts.devices++
  }

  #directory(entry: TarEntry, path: string): void {
    const name = baseOf(path)
    let fresh = false
    if (path !== '') {
      const parent = this.#parent(path)
      fresh = this.#makeDirectory(parent, name, path)
    }
    const self = this.#tree.directory(path)
    const known = this.#directories.get(path)
    // the last of several entries says what the attributes are, all of them
    if (!fresh && this.#overlay && known?.listed === true) this.#metadata.dropXattrs(self)
    this.#directories.set(path, {
      mode: entry.mode,
      mtime: entry.mtime,
      mtimeNsec: entry.mtimeNsec,
      acls: undefined,
      owner: this.#metadata.chown(entry, self, ''),
      listed: true,
    })
    if (entry.xattrs !== undefined || entry.acls !== undefined)
      this.#metadata.xattrs(entry, self, '', this.#directories.get(path))
    this.counts.directories++
  }

  /** @returns whether it was made now */
  #makeDirectory(parent: number, name: string, path: string): boolean {
    const opaque = this.#whiteouts.takeWhiteout(parent, name)
    for (;;) {
      try {
        sys.mkdirat(parent, name, 0o700)
        break
      } catch (error) {
        if (!(error instanceof SysError) || error.errno !== E.EEXIST) throw error
        const there = sys.statAt(parent, name)
        if (there !== undefined && sys.S_ISDIR(there.mode)) return false
        this.#clear(parent, name, path)
        parent = this.#parent(path)
      }
    }
    if (opaque) this.#whiteouts.makeOpaque(this.#tree.directory(path), '')
    return true
  }

  /** A parent that the archive does not list: root's, 0755, as old as what needed it. */
  #makeParent(parentFd: number, name: string, path: string): void {
    const there = sys.statAt(parentFd, name)
    // a file or symlink in the way is reported by whoever opens the directory
    if (there !== undefined && !this.#whiteouts.isWhiteout(parentFd, name)) return
    const opaque = this.#whiteouts.takeWhiteout(parentFd, name)
    sys.mkdirat(parentFd, name, 0o700)
    if (opaque) this.#whiteouts.makeOpaque(parentFd, name)
    this.#keep(path)
    const root = { uid: 0, gid: 0 }
    this.#directories.set(path, {
      mode: 0o755,
      mtime: this.#entry?.mtime ?? 0,
      mtimeNsec: this.#entry?.mtimeNsec ?? 0,
      acls: undefined,
      owner: this.#metadata.chown(root, parentFd, name),
      listed: false,
    })
  }

  #parent(path: string): number {
    return this.#tree.directory(parentOf(path))
  }

  /** Runs `make`, and once more after removing what was in the way. */
  #create(path: string, name: string, make: (parentFd: number) => void): void {
    const parent = this.#parent(path)
    try {
      make(parent)
    } catch (error) {
      if (!(error instanceof SysError) || error.errno !== E.EEXIST) throw error
      this.#clear(parent, name, path)
      make(this.#parent(path))
    }
  }

  /** Removes what an earlier entry made of this name: the last one wins. */
  #clear(parent: number, name: string, path: string): void {
    const recorder = this.recorder
    this.#tree.remove(parent, name, path, recorder && ((fd, n, p) => recorder.supersede(fd, n, p)))
    if (this.#directories.delete(path)) {
      const below = `${path}/`
      for (const known of this.#directories.keys())
        if (known.startsWith(below)) this.#directories.delete(known)
    }
  }

  /** Gives directories what they could not have before: the deepest first, since a mode may shut the way. */
  finish(): void {
    const paths = [...this.#directories.keys()].reverse()
    for (const path of paths) {
      const directory = this.#directories.get(path) as Directory
      try {
        const fd = this.#tree.directory(path)
        for (const [attr, value] of directory.acls ?? []) {
          this.#metadata.path = path
          this.#metadata.setXattr(fd, '', attr, value)
        }
        const mode = this.#ownership === 'xattr' ? directory.mode | 0o700 : directory.mode
        sys.chmodAt(fd, '', mode)
        this.#metadata.times(directory, fd, '')
      } catch (error) {
        throw located(error, path)
      }
    }
  }

  close(): void {
    if (this.#fd !== -1) sys.close(this.#fd)
    this.#fd = -1
    this.#tree.close()
  }
}

/** Says which entry it was. */
function located(error: unknown, path: string): unknown {
  if (error instanceof OciError) {
    return new OciError(error.code, `entry '${toUtf8(path)}': ${error.message}`, { cause: error })
  }
  if (error instanceof SysError) return new SysError(error.errno, error.syscall, path)
  return error
}
