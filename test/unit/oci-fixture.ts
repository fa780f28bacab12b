/** Archives made by hand, block by block, so that they can also be wrong. Independent of src/oci's own writer. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as sys from '../../src/sys/index.js'

export interface RawEntry {
  /** latin1 byte string. */
  name: string
  type?: string
  data?: Buffer | string
  linkName?: string
  mode?: number
  uid?: number
  gid?: number
  mtime?: number
  major?: number
  minor?: number
  /** Pax records in front. */
  pax?: Record<string, string | Buffer>
  /** What the size field says, when it is not the data's length. */
  size?: number
  magic?: string
}

function bytes(data: Buffer | string = ''): Buffer {
  return typeof data === 'string' ? Buffer.from(data, 'latin1') : data
}

export function header(entry: RawEntry): Buffer {
  const block = Buffer.alloc(512)
  const data = bytes(entry.data)
  const octal = (value: number, at: number, length: number): void => {
    block.write(`${value.toString(8).padStart(length - 1, '0')}\0`, at, length, 'latin1')
  }
  block.write(entry.name, 0, 100, 'latin1')
  octal(entry.mode ?? 0o644, 100, 8)
  octal(entry.uid ?? 0, 108, 8)
  octal(entry.gid ?? 0, 116, 8)
  octal(entry.size ?? data.length, 124, 12)
  octal(entry.mtime ?? 1_000_000_000, 136, 12)
  block.write(entry.type ?? '0', 156, 1, 'latin1')
  block.write(entry.linkName ?? '', 157, 100, 'latin1')
  block.write(entry.magic ?? 'ustar\x0000', 257, 8, 'latin1')
  octal(entry.major ?? 0, 329, 8)
  octal(entry.minor ?? 0, 337, 8)
  return sealed(block)
}

/** Sets the checksum. */
export function sealed(block: Buffer): Buffer {
  block.fill(' ', 148, 156)
  const sum = block.reduce((total, byte) => total + byte, 0)
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 8, 'latin1')
  return block
}

export function padded(data: Buffer): Buffer {
  return Buffer.concat([data, Buffer.alloc((512 - (data.length % 512)) % 512)])
}

export function pax(records: Record<string, string | Buffer>, type = 'x'): Buffer {
  const parts: Buffer[] = []
  for (const [key, value] of Object.entries(records)) {
    const body = Buffer.concat([Buffer.from(` ${key}=`), bytes(value), Buffer.from('\n')])
    let length = body.length + 1
    while (String(length).length + body.length !== length) length = String(length).length + body.length
    parts.push(Buffer.from(String(length)), body)
  }
  const data = Buffer.concat(parts)
  return Buffer.concat([header({ name: 'PaxHeader', type, size: data.length }), padded(data)])
}

export function entry(raw: RawEntry): Buffer {
  const data = bytes(raw.data)
  return Buffer.concat([...(raw.pax ? [pax(raw.pax)] : []), header(raw), padded(data)])
}

/** With the two zero blocks at the end. */
export function tar(...entries: (RawEntry | Buffer)[]): Buffer {
  return Buffer.concat([...entries.map(e => (Buffer.isBuffer(e) ? e : entry(e))), Buffer.alloc(1024)])
}

/** Chunks of a size, so that blocks and records are cut in all places. */
export async function* chunked(data: Buffer, size = 65_536): AsyncGenerator<Buffer> {
  for (let at = 0; at < data.length; at += size) yield data.subarray(at, at + size)
}

export async function collect(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = []
  for await (const chunk of source) parts.push(Buffer.from(chunk))
  return Buffer.concat(parts)
}

/** A temporary directory with a `root` in it to unpack into, gone with the test. */
export class Place implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), 'lamina-oci-'))
  readonly rootPath = join(this.path, 'root')
  readonly root

  constructor() {
    sys.mkdirat(sys.AT_FDCWD, this.rootPath, 0o755)
    this.root = sys.openat(sys.AT_FDCWD, this.rootPath, sys.O_RDONLY | sys.O_DIRECTORY)
  }

  file(name: string): string {
    return join(this.path, name)
  }

  /** An empty file, open for both. */
  open(name: string) {
    return sys.openat(sys.AT_FDCWD, this.file(name), sys.O_RDWR | sys.O_CREAT | sys.O_TRUNC, 0o600)
  }

  [Symbol.dispose](): void {
    this.root.close()
    rmSync(this.path, { recursive: true, force: true })
  }
}

/** Everything below a directory: path, type, mode, owner, size, link target, device, times and attributes. */
export function listTree(fd: number, prefix = ''): string[] {
  const lines: string[] = []
  for (const name of sys.listDir(fd).names.sort()) {
    const stat = sys.statAt(fd, name)
    if (stat === undefined) continue
    const type = stat.mode & sys.S_IFMT
    const attrs = sys
      .listxattrAt(fd, name)
      .sort()
      .map(attr => `${attr}=${sys.getxattrAt(fd, name, attr)?.toString('hex') ?? ''}`)
    lines.push(
      [
        prefix + name,
        type.toString(8),
        (stat.mode & 0o7777).toString(8),
        `${stat.uid}:${stat.gid}`,
        type === sys.S_IFDIR ? '' : stat.size,
        type === sys.S_IFLNK ? sys.readlinkat(fd, name) : '',
        type === sys.S_IFCHR || type === sys.S_IFBLK ? stat.rdev : '',
        `${stat.mtime}.${stat.mtimeNsec}`,
        type === sys.S_IFDIR ? '' : stat.nlink,
        ...attrs,
      ].join(' '),
    )
    if (type === sys.S_IFDIR) {
      using child = sys.openat(fd, name, sys.O_RDONLY | sys.O_DIRECTORY)
      lines.push(...listTree(child.n, `${prefix}${name}/`))
    }
  }
  return lines
}
