import { blockSize, formatPaxTime, type Extent, type TarEntry, type TarType } from './tar-format.js'

/**
 * Encodes entries: ustar where it holds everything, a pax header in front where it does not. Nothing depends on the
 * host: no user names, no access times, no inode numbers.
 */

const typeflags: Readonly<Record<TarType, string>> = {
  file: '0',
  link: '1',
  symlink: '2',
  char: '3',
  block: '4',
  directory: '5',
  fifo: '6',
}

const zeros = Buffer.alloc(blockSize)
const maxOctal8 = 0o7777777
const maxOctal12 = 0o77777777777

/** The bytes that fill a block after `size` bytes. */
export function padding(size: number): Buffer {
  const over = size % blockSize
  return over === 0 ? zeros.subarray(0, 0) : zeros.subarray(over)
}

/** Two zero blocks. */
export function endOfArchive(): Buffer {
  return Buffer.alloc(2 * blockSize)
}

/** Header, with a pax header before it where needed. `dataSize` bytes and `padding(dataSize)` must follow. */
export function encodeHeader(entry: TarEntry, dataSize: number): Buffer {
  const pax = new PaxRecords()
  const mapHeader = entry.sparse === undefined ? undefined : encodeSparseMap(entry.sparse)
  const storedSize = dataSize + (mapHeader?.length ?? 0)
  let name = entry.path
  if (mapHeader !== undefined) {
    pax.add('GNU.sparse.major', '1')
    pax.add('GNU.sparse.minor', '0')
    pax.add('GNU.sparse.name', entry.path)
    pax.add('GNU.sparse.realsize', String(entry.size))
    // what a reader without sparse files will call it; as GNU tar does, without its process id
    const slash = name.lastIndexOf('/') + 1
    name = `${name.slice(0, slash)}GNUSparseFile.0/${name.slice(slash)}`
  }
  const split = splitName(name)
  if (split === undefined) pax.add('path', name)
  if (entry.linkPath.length > 100) pax.add('linkpath', entry.linkPath)
  const mtimeFits = entry.mtime >= 0 && entry.mtime <= maxOctal12
  if (!mtimeFits || entry.mtimeNsec !== 0) pax.add('mtime', formatPaxTime(entry.mtime, entry.mtimeNsec))
  if (entry.uid > maxOctal8) pax.add('uid', String(entry.uid))
  if (entry.gid > maxOctal8) pax.add('gid', String(entry.gid))
  if (storedSize > maxOctal12) pax.add('size', String(storedSize))
  for (const attr of [...(entry.xattrs?.keys() ?? [])].sort()) {
    pax.add(`SCHILY.xattr.${escapeKeyword(attr)}`, entry.xattrs?.get(attr) as Buffer)
  }
  if (entry.acls?.access !== undefined) pax.add('SCHILY.acl.access', entry.acls.access)
  if (entry.acls?.default !== undefined) pax.add('SCHILY.acl.default', entry.acls.default)
  const header = encodeUstar(entry, split ?? [name.slice(0, 100), ''], storedSize)
  const parts = pax.size > 0 ? [...pax.encode(name), header] : [header]
  if (mapHeader !== undefined) parts.push(mapHeader)
  return parts.length === 1 ? header : Buffer.concat(parts)
}

/** As GNU tar does: a `=` would end the keyword. */
function escapeKeyword(attr: string): string {
  return attr.replace(/[%=]/g, char => (char === '%' ? '%25' : '%3D'))
}

class PaxRecords {
  readonly #parts: Buffer[] = []
  size = 0

  /** Strings are latin1 byte strings. */
  add(key: string, value: string | Buffer): void {
    const data = typeof value === 'string' ? Buffer.from(value, 'latin1') : value
    // the length counts its own digits
    const rest = key.length + data.length + 3
    let length = rest + String(rest).length
    if (rest + String(length).length !== length) length = rest + String(length).length
    const record = Buffer.concat([Buffer.from(`${length} ${key}=`, 'latin1'), data, Buffer.from('\n')])
    this.#parts.push(record)
    this.size += record.length
  }

  encode(name: string): Buffer[] {
    const slash = name.lastIndexOf('/', name.length - 2) + 1
    const paxName = `${name.slice(0, slash)}PaxHeaders.0/${name.slice(slash)}`
    const header = encodeUstar(
      { ...blankEntry, path: paxName },
      splitName(paxName) ?? ['PaxHeaders.0/entry', ''],
      this.size,
      'x',
    )
    return [header, ...this.#parts, padding(this.size)]
  }
}

export const blankEntry: TarEntry = {
  type: 'file',
  path: '',
  linkPath: '',
  mode: 0o644,
  uid: 0,
  gid: 0,
  size: 0,
  mtime: 0,
  mtimeNsec: 0,
  devMajor: 0,
  devMinor: 0,
  xattrs: undefined,
  acls: undefined,
  sparse: undefined,
}

/** Name and prefix of ustar; undefined when it does not fit. */
function splitName(name: string): [name: string, prefix: string] | undefined {
  if (name.length <= 100) return [name, '']
  if (name.length > 256) return undefined
  // the slash that parts them is not stored; a directory's last one does not count
  const slash = name.lastIndexOf('/', Math.min(155, name.length - 2))
  if (slash <= 0 || name.length - slash - 1 > 100) return undefined
  return [name.slice(slash + 1), name.slice(0, slash)]
}

function encodeUstar(
  entry: TarEntry,
  [name, prefix]: [name: string, prefix: string],
  size: number,
  typeflag = typeflags[entry.type],
): Buffer {
  const block = Buffer.alloc(blockSize)
  const octal = (value: number, at: number, length: number): void => {
    block.write(value.toString(8).padStart(length - 1, '0'), at, length - 1, 'latin1')
  }
  block.write(name, 0, 100, 'latin1')
  octal(entry.mode & 0o7777, 100, 8)
  octal(entry.uid > maxOctal8 ? 0 : entry.uid, 108, 8)
  octal(entry.gid > maxOctal8 ? 0 : entry.gid, 116, 8)
  octal(size > maxOctal12 ? 0 : size, 124, 12)
  octal(entry.mtime >= 0 && entry.mtime <= maxOctal12 ? entry.mtime : 0, 136, 12)
  block.write(typeflag, 156, 1, 'latin1')
  block.write(entry.linkPath, 157, 100, 'latin1')
  block.write('ustar\x0000', 257, 8, 'latin1')
  const device = entry.type === 'char' || entry.type === 'block'
  octal(device ? entry.devMajor : 0, 329, 8)
  octal(device ? entry.devMinor : 0, 337, 8)
  block.write(prefix, 345, 155, 'latin1')
  block.fill(0x20, 148, 156)
  let sum = 0
  for (const byte of block) sum += byte
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 8, 'latin1')
  return block
}

/** GNU pax 1.0: stands before the data. A file that ends in a hole has an empty part at its end, as GNU tar writes it. */
function encodeSparseMap(extents: readonly Extent[]): Buffer {
  const text = [extents.length, ...extents.flatMap(e => [e.offset, e.length])].map(n => `${n}\n`).join('')
  const bytes = Buffer.from(text)
  return Buffer.concat([bytes, padding(bytes.length)])
}
