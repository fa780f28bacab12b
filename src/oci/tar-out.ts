/**
 * A directory as a tar: a layer (whiteouts and opaque directories of any dialect become OCI ones) or a plain tree.
 *
 * Reproducible: entries sorted by bytes, directory by directory; nothing host-dependent. The same tree gives the same
 * bytes, so the same diffID.
 *
 * Sparse files: as plain data by default. docker, containerd and podman read GNU's sparse format, but the tar-split of
 * docker and podman does not keep it exactly, and other registries' scanners fail on it: an image must be readable by all.
 * Volumes, which only this project and GNU tar read back, use `sparse`.
 */
import { toUtf8 } from '../base/bytes.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import * as format from '../format/index.js'
import * as sys from '../sys/index.js'
import { OciError } from './error.js'
import { toContainer, type IdMap } from './id-map.js'
import { aclAccess, aclDefault, formatAclText, mapAclIds } from './posix-acl.js'
import type { Extent, TarEntry, TarType } from './tar-format.js'
import { streamEntry } from './tar-entries.js'
import { encodeHeader, endOfArchive, padding } from './tar-writer.js'

export interface TarOutOptions {
  /**
   * `layer`: the directory is an upperdir or an unpacked layer; markers of overlays become `.wh.` entries.
   * `plain`: everything as it is (a merged tree, a volume).
   */
  contents: 'layer' | 'plain'
  /** Ids on disk to ids in the archive. */
  ids?: IdMap | undefined
  /** Seconds since 1970; later times become this one (SOURCE_DATE_EPOCH). */
  clampMtime?: number | undefined
  /** Begin with an entry `./` that has the root's own mode and owner. */
  root?: boolean
  /** Holes as GNU pax 1.0 sparse files instead of zeros. */
  sparse?: boolean
  /**
   * Owner and mode from user.containers.override_stat where there is one: where only the daemon that keeps owners so can have written it.
   * Else it says nothing, and is left out.
   */
  overrideStat?: boolean
  /** With `layer`: where redirects and metacopy are looked for. Default: trusted.overlay. as root, else user.overlay. */
  xattrPrefix?: format.OverlayPrefix
  /** Leave out a path (and what is below it). */
  exclude?: (path: string) => boolean
  /** Names in the archive begin with this: `data/`. */
  prefix?: string
  /**
   * With `layer`: the root of the merged view of the same upperdir, for files whose data is still below (metacopy) and
   * directories that were renamed (redirect). Served by another process.
   */
  mergedFd?: number | undefined
  /** Bytes of the archive so far, and the last path. */
  onProgress?: ((bytes: number, path: string) => void) | undefined
  signal?: AbortSignal | undefined
}

export interface TarOutResult {
  entries: number
  /** Bytes of file data. */
  dataBytes: number
  /** One line each: sockets, which tar has no entry for. */
  warnings: string[]
}

const chunkSize = 256 * 1024

/**
 * The archive of everything below `rootFd` (open for reading; stays the caller's).
 * @param result filled in as the archive is read; complete at its end
 * @throws SysError; OciError `unsupported` for what a layer cannot express
 */
export async function* tarTree(
  rootFd: number,
  options: TarOutOptions,
  result: TarOutResult = { entries: 0, dataBytes: 0, warnings: [] },
): AsyncGenerator<Buffer, void, void> {
  const writer = new TreeWriter(options, result)
  let bytes = 0
  let sinceTurn = 0
  for (const chunk of writer.archive(rootFd)) {
    options.signal?.throwIfAborted()
    bytes += chunk.length
    yield chunk
    options.onProgress?.(bytes, writer.path)
    sinceTurn += chunk.length
    if (sinceTurn > 8 << 20) {
      sinceTurn = 0
      await new Promise(resolve => setImmediate(resolve))
    }
  }
}

interface Child {
  name: string
  stat: sys.Stat
}

class TreeWriter {
  path = ''
  #buffer = Buffer.allocUnsafe(chunkSize)
  #used = 0
  readonly #layer: boolean
  readonly #override: boolean
  readonly #attrs: format.OverlayPrefix
  /** First name of each inode that has several. */
  readonly #links = new Map<string, string>()
  readonly #prefix: string

  constructor(
    readonly options: TarOutOptions,
    readonly result: TarOutResult,
  ) {
    this.#layer = options.contents === 'layer'
    this.#override = options.overrideStat === true
    this.#attrs = options.xattrPrefix ?? (sys.geteuid() === 0 ? 'trusted.overlay.' : 'user.overlay.')
    this.#prefix = options.prefix ?? ''
  }

  *archive(rootFd: number): Generator<Buffer, void, void> {
    using fd = sys.openat(rootFd, '.', sys.O_RDONLY | sys.O_DIRECTORY)
    const stat = sys.statFd(fd.n)
    if (this.options.root === true) yield* this.#emit(this.#entryOf('directory', './', fd.n, '', stat), 0)
    yield* this.#directory(fd.n, '', this.#layer)
    yield* this.#put(endOfArchive())
    if (this.#used > 0) yield this.#buffer.subarray(0, this.#used)
  }

  *#put(bytes: Buffer): Generator<Buffer, void, void> {
    if (bytes.length > chunkSize - this.#used) {
      if (this.#used > 0) yield this.#buffer.subarray(0, this.#used)
      this.#buffer = Buffer.allocUnsafe(chunkSize)
      this.#used = 0
      if (bytes.length > chunkSize / 2) {
        yield bytes
        return
      }
    }
    this.#buffer.set(bytes, this.#used)
    this.#used += bytes.length
  }

  *#emit(entry: TarEntry, dataSize: number): Generator<Buffer, void, void> {
    this.result.entries++
    if (this.#prefix !== '') {
      // The root itself: `data/`, not `data/./`.
      entry.path = entry.path === './' ? this.#prefix : this.#prefix + entry.path
      if (entry.type === 'link') entry.linkPath = this.#prefix + entry.linkPath
    }
    yield* this.#put(encodeHeader(entry, dataSize))
  }

  /** The children of an open directory, `path` ending in a slash or empty. */
  *#directory(fd: number, path: string, layer: boolean): Generator<Buffer, void, void> {
    const { names } = sys.listDir(fd)
    names.sort() // latin1 strings compare as their bytes do
    const { opaque, xwhiteouts } = layer
      ? format.opaquenessFromXattrs(fd, '', sys.listxattrAt(fd, ''))
      : { opaque: false, xwhiteouts: false }
    if (layer && (opaque || format.hasOpaqueMarker(fd))) yield* this.#whiteout(`${path}${format.WH_OPAQUE}`)
    // in portions, so that a directory of a million names does not take a million Stats
    for (let from = 0; from < names.length; from += 1024) {
      const portion = names.slice(from, from + 1024)
      const stats = sys.statMany(fd, portion)
      for (let i = 0; i < portion.length; i++) {
        const name = portion[i] as string
        const stat = stats[i]
        this.path = path + name
        if (stat === undefined) continue // removed meanwhile
        if (typeof stat === 'number') throw new SysError(stat, 'statx', this.path)
        if (this.options.exclude?.(this.path) === true) continue
        try {
          yield* this.#child(fd, { name, stat }, path, layer, xwhiteouts)
        } catch (error) {
          if (error instanceof SysError && error.path !== this.path)
            throw new SysError(error.errno, error.syscall, path + name)
          throw error
        }
      }
    }
  }

  *#child(
    dirFd: number,
    { name, stat }: Child,
    parentPath: string,
    layer: boolean,
    xwhiteouts: boolean,
  ): Generator<Buffer, void, void> {
    const path = parentPath + name
    if (layer) {
      if (name.startsWith(format.WH_PREFIX)) {
        const hidden = format.hiddenByMarker(name)
        if (hidden !== undefined) yield* this.#whiteout(path)
        return
      }
      const isWhiteout =
        format.isCharWhiteout(stat) ||
        (xwhiteouts && format.mayBeXattrWhiteout(stat) && format.hasWhiteoutXattr(dirFd, name))
      if (isWhiteout) {
        yield* this.#whiteout(`${parentPath}${format.WH_PREFIX}${name}`)
        return
      }
    }
    switch (stat.mode & sys.S_IFMT) {
      case sys.S_IFDIR:
        yield* this.#subdirectory(dirFd, name, path, stat, layer)
        return
      case sys.S_IFREG:
        yield* this.#file(dirFd, name, path, stat, layer)
        return
      case sys.S_IFLNK: {
        if (this.#isLinked(stat, path)) return yield* this.#hardLink(stat, path)
        const entry = this.#entryOf('symlink', path, dirFd, name, stat)
        entry.linkPath = sys.readlinkat(dirFd, name)
        yield* this.#emit(entry, 0)
        return
      }
      case sys.S_IFCHR:
      case sys.S_IFBLK:
      case sys.S_IFIFO: {
        if (this.#isLinked(stat, path)) return yield* this.#hardLink(stat, path)
        yield* this.#emit(this.#entryOf(typeOf(stat.mode), path, dirFd, name, stat), 0)
        return
      }
      default:
        if (this.result.warnings.length < 100) {
          this.result.warnings.push(`'${toUtf8(path)}' is a socket and was left out: tar has no entry for it`)
        }
    }
  }

  *#whiteout(path: string): Generator<Buffer, void, void> {
    const name = path.slice(path.lastIndexOf('/') + 1)
    if (name.length > 255)
      throw new OciError('unsupported', `the deleted name '${toUtf8(path)}' is too long for a whiteout`)
    // no time or owner: a deletion is the same whoever did it
    yield* this.#emit(streamEntry(path, 0, 0), 0)
  }

  *#subdirectory(
    dirFd: number,
    name: string,
    path: string,
    stat: sys.Stat,
    layer: boolean,
  ): Generator<Buffer, void, void> {
    using fd = sys.openat2(
      dirFd,
      name,
      sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW,
      0,
      sys.RESOLVE_BENEATH,
    )
    if (layer && this.#has(fd.n, '', 'redirect')) {
      // Renamed from elsewhere: what it had below belongs into this layer, and nothing of the new name's lower one.
      using merged = this.#mergedDirectory(path)
      yield* this.#emit(this.#entryOf('directory', `${path}/`, fd.n, '', stat), 0)
      yield* this.#whiteout(`${path}/${format.WH_OPAQUE}`)
      yield* this.#directory(merged.n, `${path}/`, false)
      return
    }
    yield* this.#emit(this.#entryOf('directory', `${path}/`, fd.n, '', stat), 0)
    yield* this.#directory(fd.n, `${path}/`, layer)
  }

  *#file(
    dirFd: number,
    name: string,
    path: string,
    stat: sys.Stat,
    layer: boolean,
  ): Generator<Buffer, void, void> {
    if (this.#isLinked(stat, path)) return yield* this.#hardLink(stat, path)
    const entry = this.#entryOf('file', path, dirFd, name, stat)
    if (entry.type !== 'file') return yield* this.#emit(entry, 0) // a device kept as a file with override_stat
    if (stat.size === 0) return yield* this.#emit(entry, 0)
    using fd =
      layer && this.#has(dirFd, name, 'metacopy')
        ? this.#mergedFile(path)
        : sys.openat(dirFd, name, sys.O_RDONLY | sys.O_NOFOLLOW | sys.O_NONBLOCK)
    const extents = this.options.sparse === true ? dataExtents(fd.n, stat) : undefined
    if (extents !== undefined) entry.sparse = extents
    const ranges = extents ?? [{ offset: 0, length: stat.size }]
    const dataSize = ranges.reduce((sum, range) => sum + range.length, 0)
    yield* this.#emit(entry, dataSize)
    for (const range of ranges) yield* this.#data(fd.n, range, path)
    yield* this.#put(padding(dataSize))
    this.result.dataBytes += dataSize
  }

  *#data(fd: number, { offset, length }: Extent, path: string): Generator<Buffer, void, void> {
    for (let done = 0; done < length;) {
      if (this.#used === chunkSize) {
        yield this.#buffer
        this.#buffer = Buffer.allocUnsafe(chunkSize)
        this.#used = 0
      }
      const n = sys.preadSync(
        fd,
        this.#buffer,
        this.#used,
        Math.min(chunkSize - this.#used, length - done),
        offset + done,
      )
      if (n === 0) throw new OciError('size', `'${toUtf8(path)}' became shorter while it was read`)
      this.#used += n
      done += n
    }
  }

  #has(dirFd: number, name: string, attr: format.OverlayAttr): boolean {
    return sys.getxattrAt(dirFd, name, this.#attrs + attr) !== undefined
  }

  #merged(path: string): number {
    if (this.options.mergedFd !== undefined) return this.options.mergedFd
    throw new OciError(
      'unsupported',
      `'${toUtf8(path)}' has its content in a lower layer (metacopy or redirect); it can be exported only while mounted`,
    )
  }

  #mergedDirectory(path: string) {
    return sys.openat2(this.#merged(path), path, sys.O_RDONLY | sys.O_DIRECTORY, 0, beneath)
  }

  #mergedFile(path: string) {
    return sys.openat2(this.#merged(path), path, sys.O_RDONLY | sys.O_NONBLOCK, 0, beneath)
  }

  #isLinked(stat: sys.Stat, path: string): boolean {
    if (stat.nlink < 2) return false
    const key = `${stat.dev}:${stat.inoHi}:${stat.inoLo}`
    if (this.#links.has(key)) return true
    this.#links.set(key, path)
    return false
  }

  *#hardLink(stat: sys.Stat, path: string): Generator<Buffer, void, void> {
    const entry = this.#statEntry('link', path, stat)
    entry.linkPath = this.#links.get(`${stat.dev}:${stat.inoHi}:${stat.inoLo}`) as string
    yield* this.#emit(entry, 0)
  }

  #statEntry(type: TarType, path: string, stat: sys.Stat): TarEntry {
    const clamp = this.options.clampMtime
    const late = clamp !== undefined && (stat.mtime > clamp || (stat.mtime === clamp && stat.mtimeNsec > 0))
    const device = type === 'char' || type === 'block'
    return {
      type,
      path,
      linkPath: '',
      mode: stat.mode & 0o7777,
      uid: toContainer(this.options.ids?.uid, stat.uid),
      gid: toContainer(this.options.ids?.gid, stat.gid),
      size: type === 'file' ? stat.size : 0,
      mtime: late ? clamp : stat.mtime,
      mtimeNsec: late ? 0 : stat.mtimeNsec,
      devMajor: device ? sys.devMajor(stat.rdev) : 0,
      devMinor: device ? sys.devMinor(stat.rdev) : 0,
      xattrs: undefined,
      acls: undefined,
      sparse: undefined,
    }
  }

  #entryOf(type: TarType, path: string, dirFd: number, name: string, stat: sys.Stat): TarEntry {
    const entry = this.#statEntry(type, path, stat)
    for (const stored of sys.listxattrAt(dirFd, name)) {
      if (format.isOverrideStat(stored)) {
        if (this.#override && stored === format.OVERRIDE_STAT_CONTAINERS)
          this.#applyOverride(entry, sys.getxattrAt(dirFd, name, stored))
        continue
      }
      const attr = this.#layer ? format.unescapeXattr(stored) : stored
      // labels are the host's policy, not the image's content: docker and podman leave them out as well
      if (attr === undefined || attr === 'security.selinux' || attr.startsWith('security.evm')) continue
      const value = sys.getxattrAt(dirFd, name, stored)
      if (value === undefined) continue
      const isAcl = attr === aclAccess || attr === aclDefault
      const mapped = isAcl ? mapAclIds(value, (id, kind) => toContainer(this.options.ids?.[kind], id)) : value
      if (mapped === undefined) continue
      entry.xattrs ??= new Map()
      entry.xattrs.set(attr, mapped)
      // containers' tools read the attribute, GNU tar and star the text
      const text = isAcl ? formatAclText(mapped) : undefined
      if (text !== undefined)
        entry.acls = { ...entry.acls, [attr === aclAccess ? 'access' : 'default']: text }
    }
    return entry
  }

  #applyOverride(entry: TarEntry, value: Buffer | undefined): void {
    const override = value === undefined ? undefined : format.parseOverrideStat(value)
    if (override === undefined) return
    entry.uid = override.uid
    entry.gid = override.gid
    entry.mode = override.mode
    if (override.type === undefined) return
    entry.type = typeOf(override.type)
    if (entry.type !== 'file') entry.size = 0
    entry.devMajor = sys.devMajor(override.rdev ?? 0)
    entry.devMinor = sys.devMinor(override.rdev ?? 0)
  }
}

const beneath = sys.RESOLVE_BENEATH | sys.RESOLVE_NO_SYMLINKS

function typeOf(mode: number): TarType {
  switch (mode & sys.S_IFMT) {
    case sys.S_IFDIR:
      return 'directory'
    case sys.S_IFLNK:
      return 'symlink'
    case sys.S_IFCHR:
      return 'char'
    case sys.S_IFBLK:
      return 'block'
    case sys.S_IFIFO:
      return 'fifo'
    default:
      return 'file'
  }
}

/** Ranges with data by SEEK_DATA; undefined when the file has no holes worth a map. */
function dataExtents(fd: number, stat: sys.Stat): Extent[] | undefined {
  if (stat.blocks * 512 >= stat.size) return undefined
  const extents: Extent[] = []
  let at = 0
  while (at < stat.size) {
    let start: number
    try {
      start = sys.lseek(fd, at, sys.SEEK_DATA)
    } catch (error) {
      if (error instanceof SysError && error.errno === E.ENXIO) break
      throw error
    }
    const end = Math.min(sys.lseek(fd, start, sys.SEEK_HOLE), stat.size)
    if (start >= end) break
    extents.push({ offset: start, length: end - start })
    at = end
  }
  const only = extents[0]
  if (extents.length === 1 && only !== undefined && only.offset === 0 && only.length === stat.size)
    return undefined
  // an empty part at the end tells readers that do not look at realsize where the file ends
  if (at < stat.size || extents.length === 0) extents.push({ offset: stat.size, length: 0 })
  return extents
}
