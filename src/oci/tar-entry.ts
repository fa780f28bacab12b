/**
 * What an entry is once everything that stands before its header was applied. Type, size, links and holes are decided on that,
 * never on the header's own fields: Docker and BuildKit write `docs/` as the ustar name of `docs/目录` and the rest in a pax
 * record, and a size of 0 beside the pax `size` that counts (CVE-2025-62518 of other readers).
 *
 * Where two say the same thing: GNU.sparse.name of a sparse file, GNU long name, local pax record, global pax record, header. Go's
 * archive/tar, by which images are made and read, takes them in this order too (but ignores global records; POSIX and GNU tar apply them).
 */
import { toUtf8 } from '../base/bytes.js'
import { OciError } from './error.js'
import * as f from './tar-format.js'
import type { Extent, RawHeader, TarEntry, TarType } from './tar-format.js'

/** What stood before an entry's header. */
export interface Overrides {
  /** GNU 'L' and 'K'. */
  readonly longName: string | undefined
  readonly longLink: string | undefined
  readonly pax: ReadonlyMap<string, Buffer>
}

/** `extents` absent: the map stands in front of the data (pax 1.0). */
export interface SparseMap {
  readonly extents: Extent[] | undefined
  readonly realSize: number
}

export interface ResolvedEntry {
  readonly entry: TarEntry
  /** Bytes that follow the headers, without padding. */
  readonly stored: number
  readonly sparse: SparseMap | undefined
}

/**
 * @param gnuMap of an old GNU sparse file ('S'), read from its header
 * @throws OciError `malformed`, `unsupported`, `limit`
 */
export function resolveEntry(header: RawHeader, over: Overrides, gnuMap?: SparseMap): ResolvedEntry {
  const { pax } = over
  const sparse = gnuMap ?? paxSparse(pax)
  const stored = pax.has('size') ? f.parsePaxNumber(text(pax, 'size'), 'size') : header.size
  if (stored < 0) throw new OciError('malformed', 'tar: an entry has a negative size')
  const entry: TarEntry = {
    type: 'file',
    path: (sparse && named(pax, 'GNU.sparse.name')) || over.longName || named(pax, 'path') || header.name,
    linkPath: over.longLink || named(pax, 'linkpath') || header.linkName,
    mode: header.mode,
    uid: header.uid,
    gid: header.gid,
    size: 0,
    mtime: header.mtime,
    mtimeNsec: 0,
    devMajor: header.devMajor,
    devMinor: header.devMinor,
    xattrs: undefined,
    acls: undefined,
    sparse: undefined,
  }
  const shown = toUtf8(entry.path)
  if (entry.path.includes('\0') || entry.linkPath.includes('\0'))
    throw new OciError('malformed', 'tar: a name has a NUL byte')
  const type = typeOf(header.typeflag, entry.path, stored)
  if (type === undefined)
    throw new OciError('unsupported', `tar: entry '${shown}' has unknown type '${header.typeflag}'`)
  if (sparse !== undefined && type !== 'file')
    throw new OciError('malformed', `tar: entry '${shown}' has a sparse map and is no file`)
  entry.type = type
  for (const [key, value] of pax) applyPax(entry, key, value)
  if (sparse !== undefined) return { entry, stored, sparse }
  if (type === 'file') entry.size = stored
  // Of links, devices, directories and fifos the size field is noise: no data follows. (Go's isHeaderOnlyType.) GNU's dump of a
  // directory lists its files there.
  return { entry, stored: type === 'file' || header.typeflag === 'D' ? stored : 0, sparse: undefined }
}

/** V7 had no directories: a name that ends in a slash is one, unless data follows, which a directory cannot have. */
function typeOf(typeflag: string, path: string, stored: number): TarType | undefined {
  switch (typeflag) {
    case '\0':
      return path.endsWith('/') ? 'directory' : 'file'
    case '0':
    case '7':
      return path.endsWith('/') && stored === 0 ? 'directory' : 'file'
    case '1':
      return 'link'
    case '2':
      return 'symlink'
    case '3':
      return 'char'
    case '4':
      return 'block'
    case '5':
    case 'D':
      return 'directory'
    case '6':
      return 'fifo'
    case 'S':
      return 'file'
    default:
      return undefined
  }
}

function text(pax: ReadonlyMap<string, Buffer>, key: string): string {
  return pax.get(key)?.toString('latin1') ?? ''
}

function named(pax: ReadonlyMap<string, Buffer>, key: string): string | undefined {
  return pax.get(key)?.toString('latin1')
}

/** pax 0.0 and 0.1 (a map in the records) and 1.0. Source: GNU tar manual, "Storing Sparse Files". */
function paxSparse(pax: ReadonlyMap<string, Buffer>): SparseMap | undefined {
  const inFront = text(pax, 'GNU.sparse.major') === '1' && text(pax, 'GNU.sparse.minor') === '0'
  const map = pax.get('GNU.sparse.map')
  if (!inFront && map === undefined) return undefined
  const key = pax.has('GNU.sparse.realsize') ? 'GNU.sparse.realsize' : 'GNU.sparse.size'
  const realSize = f.parsePaxNumber(text(pax, key), key)
  if (inFront || map === undefined) return { extents: undefined, realSize }
  const numbers = map.length === 0 ? [] : map.toString('latin1').split(',')
  if (numbers.length % 2 !== 0) throw new OciError('malformed', 'tar: the map of a sparse file is damaged')
  if (numbers.length > 2 * f.maxSparseExtents)
    throw new OciError('limit', 'tar: a sparse file has too many parts')
  const extents: Extent[] = []
  for (let i = 0; i < numbers.length; i += 2) {
    extents.push({
      offset: f.parsePaxNumber(numbers[i] as string, 'sparse map'),
      length: f.parsePaxNumber(numbers[i + 1] as string, 'sparse map'),
    })
  }
  return { extents, realSize }
}

/** Owner, time and attributes; names and sizes are applied before. */
function applyPax(entry: TarEntry, key: string, value: Buffer): void {
  switch (key) {
    case 'uid':
    case 'gid':
      entry[key] = f.parsePaxNumber(value.toString('latin1'), key)
      return
    case 'mtime':
      ;[entry.mtime, entry.mtimeNsec] = f.parsePaxTime(value.toString('latin1'))
      return
    case 'SCHILY.acl.access':
      entry.acls = { ...entry.acls, access: value.toString('latin1') }
      return
    case 'SCHILY.acl.default':
      entry.acls = { ...entry.acls, default: value.toString('latin1') }
      return
  }
  if (key.startsWith('SCHILY.xattr.')) {
    entry.xattrs ??= new Map()
    // GNU tar escapes these two in names
    const name = key
      .slice('SCHILY.xattr.'.length)
      .replace(/%(3D|25)/g, (_, hex) => (hex === '25' ? '%' : '='))
    entry.xattrs.set(name, Buffer.from(value))
  } else if (key.startsWith('LIBARCHIVE.xattr.')) {
    // bsdtar writes both; this one is base64 with a percent-encoded name
    const name = key
      .slice('LIBARCHIVE.xattr.'.length)
      .replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) => String.fromCharCode(parseInt(hex, 16)))
    entry.xattrs ??= new Map()
    if (!entry.xattrs.has(name)) entry.xattrs.set(name, Buffer.from(value.toString('latin1'), 'base64'))
  }
}
