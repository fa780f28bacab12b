/**
 * What is on the tape: tar headers, pax records, sparse maps. Names are latin1 strings (one char = one byte).
 * Sources: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Basic Tar Format" and
 * "Sparse Formats"; star(5) for SCHILY.*; libarchive tar(5).
 *
 * Why not a library: tar-stream decodes pax records as UTF-8 (which destroys binary SCHILY.xattr values and non-UTF-8
 * names), knows no sparse files, hides the header bytes that an exact export needs, and makes one stream per entry.
 */
import { OciError } from './error.js'

export const blockSize = 512
/** Bytes of one pax header or GNU long name. Go's archive/tar stops at 1 MiB, which is also room for 16 xattrs of 64 KiB. */
export const maxMetaSize = 4 << 20
/** Data ranges of one sparse file. */
export const maxSparseExtents = 1 << 20

export type TarType = 'file' | 'link' | 'symlink' | 'char' | 'block' | 'directory' | 'fifo'

/** A range of a sparse file that has data; the rest is holes. */
export interface Extent {
  offset: number
  length: number
}

export interface TarEntry {
  type: TarType
  /** As it is in the archive: unchecked, may be absolute or hold `..`. */
  path: string
  /** Target of a link or symlink, as it is in the archive. */
  linkPath: string
  /** Permission bits with setuid, setgid and sticky. */
  mode: number
  uid: number
  gid: number
  /** Length of the file as it will be on disk. */
  size: number
  /** Seconds since 1970, may be negative, and nanoseconds 0..999999999. */
  mtime: number
  mtimeNsec: number
  devMajor: number
  devMinor: number
  /** Binary values; includes system.posix_acl_* made from SCHILY.acl.*. Undefined when there are none. */
  xattrs: Map<string, Buffer> | undefined
  /** SCHILY.acl.access and .default: text ACLs as GNU tar and star write them. */
  acls: { access?: string; default?: string } | undefined
  /** Data ranges in order, for a sparse file. */
  sparse: Extent[] | undefined
}

/** Fields of one 512 byte header, before pax records are applied. */
export interface RawHeader {
  typeflag: string
  name: string
  linkName: string
  mode: number
  uid: number
  gid: number
  size: number
  mtime: number
  devMajor: number
  devMinor: number
  gnu: boolean
}

function malformed(message: string): OciError {
  return new OciError('malformed', `tar: ${message}`)
}

/** Sum of all bytes with the checksum field taken as spaces; some old tars summed signed chars. */
function checksums(block: Buffer): [unsigned: number, signed: number] {
  let unsigned = 8 * 32
  let signed = unsigned
  for (let i = 0; i < blockSize; i++) {
    if (i === 148) i = 156
    const byte = block[i] as number
    unsigned += byte
    signed += byte < 128 ? byte : byte - 256
  }
  return [unsigned, signed]
}

/** NUL terminated bytes as latin1. */
function text(block: Buffer, start: number, length: number): string {
  let end = start
  const limit = start + length
  while (end < limit && block[end] !== 0) end++
  return block.toString('latin1', start, end)
}

/** Octal with blanks around, or base-256 (GNU) when the top bit is set. */
function number(block: Buffer, start: number, length: number, field: string): number {
  if (isBase256(block, start)) {
    const value = Number(base256(block, start, length))
    if (!Number.isSafeInteger(value)) throw malformed(`${field} is out of range`)
    return value
  }
  let i = start
  const end = start + length
  while (i < end && (block[i] === 0x20 || block[i] === 0)) i++
  let value = 0
  for (; i < end; i++) {
    const byte = block[i] as number
    if (byte === 0 || byte === 0x20) break
    if (byte < 0x30 || byte > 0x37) throw malformed(`${field} is not an octal number`)
    value = value * 8 + (byte - 0x30)
  }
  return value
}

function isBase256(block: Buffer, start: number): boolean {
  return (block[start] as number) >= 0x80
}

/** Two's complement in the 7 bits of the first byte and all of the others. */
function base256(block: Buffer, start: number, length: number): bigint {
  const first = block[start] as number
  let value = BigInt((first & 0x40) === 0 ? first & 0x3f : (first & 0x3f) - 0x40)
  for (let i = start + 1; i < start + length; i++) value = value * 256n + BigInt(block[i] as number)
  return value
}

/** Beyond what is kept exactly: the last time that is. Filesystems end long before. */
function clampTime(seconds: number): number {
  return Math.max(-Number.MAX_SAFE_INTEGER, Math.min(Number.MAX_SAFE_INTEGER, seconds))
}

function time(block: Buffer, start: number, length: number): number {
  if (isBase256(block, start)) return clampTime(Number(base256(block, start, length)))
  return number(block, start, length, 'mtime')
}

/**
 * Go before 1.8 (Docker before 1.13) wrote a ustar prefix into GNU headers, where access and change time are.
 * Source: Go's archive/tar/reader.go, which tells them apart like this.
 */
function prefixOfOldGo(block: Buffer): string {
  try {
    for (const at of [345, 357]) if (block[at] !== 0) number(block, at, 12, 'time')
    return ''
  } catch {
    const prefix = text(block, 345, 155)
    return /^[\x01-\x7f]*$/.test(prefix) ? prefix : ''
  }
}

export function isZeroBlock(block: Buffer): boolean {
  for (let i = 0; i < blockSize; i++) if (block[i] !== 0) return false
  return true
}

/** What the header says, or undefined: in what is no tar at all, this is rarely a number. */
function checksumField(block: Buffer): number | undefined {
  try {
    return number(block, 148, 8, 'checksum')
  } catch {
    return undefined
  }
}

/** The first block of an archive of whatever age: V7 archives have no magic word, only a checksum. */
export function isTarHeader(block: Buffer): boolean {
  if (block.length < blockSize || isZeroBlock(block)) return false
  try {
    parseHeader(block)
    return true
  } catch {
    return false
  }
}

/** @throws OciError `malformed` when the checksum or a field is wrong */
export function parseHeader(block: Buffer): RawHeader {
  const [unsigned, signed] = checksums(block)
  const sum = checksumField(block)
  if (sum !== unsigned && sum !== signed)
    throw malformed('header checksum does not match (not a tar archive, or damaged)')
  const magic = block.toString('latin1', 257, 265)
  const gnu = magic === 'ustar  \0'
  const posix = magic.startsWith('ustar\0')
  const star = block.toString('latin1', 508, 512) === 'tar\0'
  const prefix = posix ? text(block, 345, star ? 131 : 155) : gnu ? prefixOfOldGo(block) : ''
  const name = text(block, 0, 100)
  const typeflag = block.toString('latin1', 156, 157)
  const device = typeflag === '3' || typeflag === '4'
  return {
    typeflag,
    name: prefix === '' ? name : `${prefix}/${name}`,
    linkName: text(block, 157, 100),
    mode: number(block, 100, 8, 'mode') & 0o7777,
    uid: number(block, 108, 8, 'uid'),
    gid: number(block, 116, 8, 'gid'),
    size: number(block, 124, 12, 'size'),
    mtime: time(block, 136, 12),
    // some writers leave rubbish here for other types
    devMajor: device && (gnu || posix) ? number(block, 329, 8, 'devmajor') : 0,
    devMinor: device && (gnu || posix) ? number(block, 337, 8, 'devminor') : 0,
    gnu,
  }
}

/** Old GNU sparse header ('S'): four extents, then perhaps more in extension blocks. */
export function parseGnuSparseHeader(block: Buffer): {
  extents: Extent[]
  extended: boolean
  realSize: number
} {
  const extents: Extent[] = []
  readGnuExtents(block, 386, 4, extents)
  return { extents, extended: block[482] !== 0, realSize: number(block, 483, 12, 'sparse size') }
}

export function parseGnuSparseExtension(block: Buffer, extents: Extent[]): boolean {
  readGnuExtents(block, 0, 21, extents)
  if (extents.length > maxSparseExtents) throw malformed('a sparse file has too many parts')
  return block[504] !== 0
}

function readGnuExtents(block: Buffer, start: number, count: number, into: Extent[]): void {
  for (let i = 0; i < count; i++) {
    const at = start + i * 24
    if (block[at] === 0 && block[at + 12] === 0) return
    into.push({
      offset: number(block, at, 12, 'sparse offset'),
      length: number(block, at + 12, 12, 'sparse length'),
    })
  }
}

/** Sorted, not overlapping, within the file. Gives the sum of lengths. Empty parts (GNU's end mark) are dropped in place. */
export function checkExtents(extents: Extent[], realSize: number): number {
  let end = 0
  let total = 0
  for (const { offset, length } of extents) {
    if (offset < end || length < 0 || !Number.isSafeInteger(offset + length) || offset + length > realSize) {
      throw malformed('the map of a sparse file is out of order or beyond its end')
    }
    end = offset + length
    total += length
  }
  for (let i = extents.length - 1; i >= 0; i--) if (extents[i]?.length === 0) extents.splice(i, 1)
  return total
}

/** Records of a pax header in order, values as bytes. Source: POSIX pax, `"%d %s=%s\n"`. */
export function parsePax(data: Buffer): [key: string, value: Buffer][] {
  const records: [string, Buffer][] = []
  let at = 0
  while (at < data.length) {
    // GNU tar tolerates NUL padding after the last record
    if (data[at] === 0 && data.subarray(at).every(byte => byte === 0)) break
    const space = data.indexOf(0x20, at)
    const digits = space === -1 ? '' : data.toString('latin1', at, space)
    const length = Number(digits)
    if (!/^\d{1,8}$/.test(digits) || at + length > data.length || space + 2 > at + length) {
      throw malformed('a pax record has a wrong length')
    }
    const end = at + length
    const equals = data.indexOf(0x3d, space + 1)
    if (data[end - 1] !== 0x0a || equals === -1 || equals >= end) throw malformed('a pax record has no value')
    records.push([data.toString('latin1', space + 1, equals), data.subarray(equals + 1, end - 1)])
    at = end
  }
  return records
}

/** `-1.25` → [-2, 750000000]; digits beyond nanoseconds are cut off, and so are times beyond what is kept exactly. */
export function parsePaxTime(value: string): [seconds: number, nsec: number] {
  const match = /^([+-]?)(\d+)(?:\.(\d*))?$/.exec(value)
  if (match === null) throw malformed(`'${value.slice(0, 40)}' is not a time`)
  const seconds = clampTime(Number(match[2]))
  const nsec = Number((match[3] ?? '').slice(0, 9).padEnd(9, '0'))
  if (match[1] !== '-') return [seconds, nsec]
  return nsec === 0 ? [-seconds || 0, 0] : [-seconds - 1, 1_000_000_000 - nsec]
}

export function formatPaxTime(seconds: number, nsec: number): string {
  let sign = ''
  if (seconds < 0) {
    sign = '-'
    if (nsec > 0) {
      seconds = -seconds - 1
      nsec = 1_000_000_000 - nsec
    } else seconds = -seconds
  }
  const fraction = nsec === 0 ? '' : `.${String(nsec).padStart(9, '0').replace(/0+$/, '')}`
  return `${sign}${seconds}${fraction}`
}

export function parsePaxNumber(value: string, key: string): number {
  const n = Number(value)
  if (!/^-?\d+$/.test(value) || !Number.isSafeInteger(n))
    throw malformed(`pax ${key} '${value.slice(0, 40)}' is not a number`)
  return n
}
