/**
 * Volumes as files, and copies of volumes.
 *
 * A backup is a tar, packed with zstd: `lamina-volume.json` (name and labels), the tree below `data/`, and as its last
 * entry `lamina-volume.sha256`, the digest of every byte of the tar before that entry. GNU tar unpacks it too.
 */
import { createHash } from 'node:crypto'
import { fromUtf8 } from '../../base/bytes.js'
import {
  applyTar,
  compress,
  decompress,
  endOfArchive,
  memoryFileEntry,
  tarTree,
  type ByteSource,
} from '../../oci/index.js'
import * as sys from '../../sys/index.js'
import type { Store } from '../store.js'
import { StoreError } from '../store-error.js'
import { copyPlainTree } from './copy-plain.js'
import type { VolumeRecord, VolumeUse } from './volumes.js'

const META = 'lamina-volume.json'
const CHECKSUM = 'lamina-volume.sha256'
const VERSION = 1

interface Meta {
  readonly version: number
  readonly name: string
  readonly anonymous: boolean
  readonly labels: Readonly<Record<string, string>>
}

export interface TransferOptions {
  readonly signal?: AbortSignal | undefined
  /** Bytes of the uncompressed tar so far. */
  readonly onBytes?: ((bytes: number) => void) | undefined
}

export interface BackupOptions extends TransferOptions {
  /** Although a mounted container may be writing: files may then not fit each other. */
  readonly live?: boolean
}

const checksumEntry = (hex: string): Buffer =>
  memoryFileEntry({ path: CHECKSUM, data: `${hex}\n`, mode: 0o444 })

/** The checksum's entry and the end of the archive. */
const TRAILER = checksumEntry('0'.repeat(64)).length + endOfArchive().length

/**
 * The backup of a volume.
 * @throws StoreError in-use while somebody has it mounted, unless `live`
 */
export async function* backupVolume(
  store: Store,
  ref: string,
  options: BackupOptions = {},
): AsyncGenerator<Uint8Array, void, void> {
  await using use = await quietUse(store, ref, options)
  yield* compress(plainBackup(use.volume, options), 'zstd')
}

/** One command's use of a volume that nobody else writes to meanwhile, or that is `live`. */
async function quietUse(store: Store, ref: string, options: BackupOptions): Promise<VolumeUse> {
  const found = store.volumes.find(ref)
  if (options.live !== true && store.volumes.isActive(found)) {
    throw new StoreError(
      'in-use',
      `volume ${found.name} is mounted and may be written to`,
      'unmount its containers, or take it as it is with --live',
    )
  }
  return await store.volumes.use(found.name)
}

async function* plainBackup(
  volume: VolumeRecord,
  options: TransferOptions,
): AsyncGenerator<Uint8Array, void, void> {
  const meta: Meta = {
    version: VERSION,
    name: volume.name,
    anonymous: volume.anonymous,
    labels: volume.labels,
  }
  using root = sys.openat(sys.AT_FDCWD, fromUtf8(volume.mountpoint), sys.O_RDONLY | sys.O_DIRECTORY)
  const hash = createHash('sha256')
  const head = memoryFileEntry({ path: META, data: `${JSON.stringify(meta)}\n` })
  hash.update(head)
  yield head
  let done = head.length
  const tree = tarTree(root.n, {
    contents: 'plain',
    root: true,
    sparse: true,
    prefix: 'data/',
    signal: options.signal,
  })
  for await (const chunk of withoutTail(tree, endOfArchive().length)) {
    hash.update(chunk)
    done += chunk.length
    options.onBytes?.(done)
    yield chunk
  }
  yield checksumEntry(hash.digest('hex'))
  yield endOfArchive()
}

/** All but the last `length` bytes; these are given to `onTail`. */
async function* withoutTail(
  source: ByteSource,
  length: number,
  onTail: (tail: Buffer) => void = () => undefined,
): AsyncGenerator<Uint8Array, void, void> {
  let held = Buffer.alloc(0)
  for await (const chunk of source) {
    const all = Buffer.concat([held, chunk])
    const pass = Math.max(0, all.length - length)
    held = Buffer.from(all.subarray(pass))
    if (pass > 0) yield all.subarray(0, pass)
  }
  onTail(held)
}

/**
 * Makes a volume from a backup. It appears when everything has been read and the checksum agrees, or not at all.
 * @param name the name in the backup otherwise
 * @throws StoreError corrupt, exists; OciError
 */
export async function restoreVolume(
  store: Store,
  source: ByteSource,
  name: string | undefined,
  options: TransferOptions & { readonly what?: string } = {},
): Promise<VolumeRecord> {
  const what = options.what ?? 'the backup'
  const { data } = await decompress(source, { what, limit: false })
  const tar = data[Symbol.asyncIterator]()
  const rest: ByteSource = { [Symbol.asyncIterator]: () => ({ next: () => tar.next() }) }
  try {
    const head = await readHead(rest, what)
    const wanted = name ?? head.meta.name
    const populate = async (to: string): Promise<void> => {
      const hash = createHash('sha256').update(head.entry)
      let tail: Buffer = Buffer.alloc(0)
      const body = withoutTail(chained(head.rest, rest), TRAILER, bytes => (tail = bytes))
      using root = sys.openat(sys.AT_FDCWD, fromUtf8(to), sys.O_RDONLY | sys.O_DIRECTORY)
      sys.mkdirat(root.n, 'data', 0o700)
      await applyTar(root.n, closed(hashing(body, hash)), {
        whiteouts: 'literal',
        what,
        onProgress: options.onBytes,
        signal: options.signal,
      })
      const expected = Buffer.concat([checksumEntry(hash.digest('hex')), endOfArchive()])
      if (!tail.equals(expected)) {
        throw new StoreError('corrupt', `${what} is damaged or cut off: its checksum does not agree`)
      }
      liftData(root.n)
    }
    return await store.volumes.create(
      {
        name: wanted,
        anonymous: name === undefined && head.meta.anonymous,
        labels: head.meta.labels,
        filled: true,
      },
      populate,
    )
  } finally {
    await tar.return?.()
  }
}

/** The tree came as `data/`; the volume is what is in it. */
function liftData(root: number): void {
  using data = sys.openat(root, 'data', sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW)
  const stat = sys.statFd(data.n)
  const others = sys.listDir(root).names.filter(name => name !== 'data')
  if (others.length > 0) throw new StoreError('corrupt', `the backup has '${others[0]}' beside its data`)
  // Aside, so that a child called `data` has room.
  const aside = `.lamina-${process.pid}`
  sys.renameat2(root, 'data', root, aside)
  for (const name of sys.listDir(data.n).names) sys.renameat2(data.n, name, root, name, sys.RENAME_NOREPLACE)
  for (const attr of sys.listxattrAt(data.n, '')) {
    const value = sys.getxattrAt(data.n, '', attr)
    if (value !== undefined) sys.setxattrAt(root, '', attr, value)
  }
  sys.unlinkat(root, aside, sys.AT_REMOVEDIR)
  sys.fchown(root, stat.uid, stat.gid)
  sys.fchmod(root, stat.mode & 0o7777)
  sys.utimensAt(root, '', stat.atime, stat.atimeNsec, stat.mtime, stat.mtimeNsec)
}

interface Head {
  readonly meta: Meta
  /** The bytes of the first entry, and those read beyond it. */
  readonly entry: Buffer
  readonly rest: Buffer
}

/** Reads the first entry, which says what this is. @throws StoreError invalid for any other archive */
async function readHead(source: ByteSource, what: string): Promise<Head> {
  let bytes = Buffer.alloc(0)
  const refuse = (): StoreError =>
    new StoreError('invalid', `${what} is no backup of a volume`, "make one with 'lamina volume backup'")
  for await (const chunk of source) {
    bytes = Buffer.concat([bytes, chunk])
    if (bytes.length < 512) continue
    // One header block and its data; what memoryFileEntry writes has no extensions.
    const size = Number.parseInt(bytes.toString('latin1', 124, 135), 8)
    if (bytes.toString('latin1', 0, META.length + 1) !== `${META}\0` || !(size < 1 << 20)) throw refuse()
    const length = 512 + Math.ceil(size / 512) * 512
    if (bytes.length < length) continue
    const meta = parseMeta(bytes.toString('utf8', 512, 512 + size))
    if (meta === undefined) throw refuse()
    return { meta, entry: bytes.subarray(0, length), rest: bytes.subarray(length) }
  }
  throw refuse()
}

function parseMeta(text: string): Meta | undefined {
  try {
    const meta = JSON.parse(text) as Partial<Meta>
    if (meta.version !== VERSION || typeof meta.name !== 'string') return undefined
    const labels = Object.entries(meta.labels ?? {}).map(([key, value]) => [key, String(value)])
    return {
      version: VERSION,
      name: meta.name,
      anonymous: meta.anonymous === true,
      labels: Object.fromEntries(labels) as Record<string, string>,
    }
  } catch {
    return undefined
  }
}

async function* chained(first: Buffer, rest: ByteSource): AsyncGenerator<Uint8Array, void, void> {
  if (first.length > 0) yield first
  yield* rest
}

async function* hashing(
  source: ByteSource,
  hash: ReturnType<typeof createHash>,
): AsyncGenerator<Uint8Array, void, void> {
  for await (const chunk of source) {
    hash.update(chunk)
    yield chunk
  }
}

/** The archive's end was held back with the checksum. */
async function* closed(source: ByteSource): AsyncGenerator<Uint8Array, void, void> {
  yield* source
  yield endOfArchive()
}

/** A second volume with the same content and labels; data is shared where the filesystem can. */
export async function cloneVolume(
  store: Store,
  from: string,
  to: string,
  options: BackupOptions = {},
): Promise<VolumeRecord> {
  await using use = await quietUse(store, from, options)
  const source = use.volume
  const size = source.options['size']
  const kept = { labels: source.labels, options: size === undefined ? {} : { size } }
  return await store.volumes.create({ name: to, ...kept, filled: true }, async target => {
    const flags = sys.O_RDONLY | sys.O_DIRECTORY
    using fromFd = sys.openat(sys.AT_FDCWD, fromUtf8(source.mountpoint), flags)
    using toFd = sys.openat(sys.AT_FDCWD, fromUtf8(target), flags)
    await copyPlainTree(fromFd.n, toFd.n, { signal: options.signal, onBytes: options.onBytes })
  })
}
