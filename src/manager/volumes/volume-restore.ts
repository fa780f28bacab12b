/** Volumes from backups: see volume-transfer.ts for what those are. */
import { createHash } from 'node:crypto'
import { fromUtf8 } from '../../base/bytes.js'
import { E } from '../../base/errno.js'
import { SysError } from '../../base/sys-error.js'
import { applyTar, decompress, endOfArchive, type ByteSource } from '../../oci/index.js'
import * as sys from '../../sys/index.js'
import { removeEntry } from '../copy-tree.js'
import type { Store } from '../store.js'
import { StoreError } from '../store-error.js'
import {
  checksumEntry,
  META,
  TRAILER,
  VERSION,
  withoutTail,
  type Meta,
  type TransferOptions,
} from './volume-transfer.js'
import type { VolumeRecord } from './volumes.js'

const BENEATH = sys.RESOLVE_BENEATH | sys.RESOLVE_NO_SYMLINKS
/** The first entry names what was deleted, too. */
const MAX_HEAD = 256 << 20

export interface RestoreOptions extends TransferOptions {
  readonly what?: string
  /** Backups of changes (`--since`), each over the one before it. */
  readonly then?: readonly { readonly what: string; readonly open: () => ByteSource }[]
  /** A limit for the new volume. */
  readonly size?: string | undefined
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
  options: RestoreOptions = {},
): Promise<VolumeRecord> {
  const what = options.what ?? 'the backup'
  await using full = await Opened.open(source, what)
  const { meta } = full.head
  if (meta.since !== undefined) {
    throw new StoreError(
      'invalid',
      `${what} holds what changed since a snapshot`,
      "restore the backup of that snapshot, and this with '--then FILE'",
    )
  }
  const upper = options.size !== undefined
  const populate = async (to: string): Promise<void> => {
    using root = sys.openat(sys.AT_FDCWD, fromUtf8(to), sys.O_RDONLY | sys.O_DIRECTORY)
    sys.mkdirat(root.n, 'data', 0o700)
    await full.extract(root.n, options, upper)
    let { snapshot } = meta
    for (const next of options.then ?? []) {
      await using part = await Opened.open(next.open(), next.what)
      const { since, deleted = [] } = part.head.meta
      if (since === undefined || since !== snapshot) {
        const before = 'of the snapshot that the backup before it was made with'
        throw new StoreError('invalid', `${next.what} is not a change ${before}`, 'give them in their order')
      }
      for (const path of deleted)
        removeBeneath(root.n, `data/${Buffer.from(path, 'base64').toString('latin1')}`)
      await part.extract(root.n, options, upper)
      snapshot = part.head.meta.snapshot
    }
    liftData(root.n)
  }
  return await store.volumes.create(
    {
      name: name ?? meta.name,
      anonymous: name === undefined && meta.anonymous,
      labels: meta.labels,
      ...(options.size === undefined ? {} : { options: { size: options.size } }),
      filled: true,
    },
    populate,
  )
}

/** A backup whose first entry has been read. */
class Opened implements AsyncDisposable {
  private constructor(
    readonly head: Head,
    readonly what: string,
    private readonly rest: ByteSource,
    private readonly tar: AsyncIterator<Uint8Array>,
  ) {}

  static async open(source: ByteSource, what: string): Promise<Opened> {
    const { data } = await decompress(source, { what, limit: false })
    const tar = data[Symbol.asyncIterator]()
    const rest: ByteSource = { [Symbol.asyncIterator]: () => ({ next: () => tar.next() }) }
    try {
      return new Opened(await readHead(rest, what), what, rest, tar)
    } catch (error) {
      await tar.return?.()
      throw error
    }
  }

  /**
   * Writes the tree, `data/…`. `upper`: a daemon shows it as the upperdir of a volume with a size.
   * @throws StoreError corrupt where the checksum does not agree
   */
  async extract(root: number, options: TransferOptions, upper: boolean): Promise<void> {
    const { head, what } = this
    const hash = createHash('sha256').update(head.entry)
    let tail: Buffer = Buffer.alloc(0)
    const body = withoutTail(chained(head.rest, this.rest), TRAILER, bytes => (tail = bytes))
    await applyTar(root, closed(hashing(body, hash)), {
      whiteouts: 'literal',
      upper,
      what,
      onProgress: options.onBytes,
      signal: options.signal,
    })
    const expected = Buffer.concat([checksumEntry(hash.digest('hex')), endOfArchive()])
    if (!tail.equals(expected)) {
      throw new StoreError('corrupt', `${what} is damaged or cut off: its checksum does not agree`)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.tar.return?.()
  }
}

/** Removes what a path of the tree leads to, with all in it; no symlink is followed. */
function removeBeneath(root: number, path: string): void {
  const slash = path.lastIndexOf('/')
  try {
    using dir = sys.openat2(root, path.slice(0, slash), sys.O_PATH | sys.O_DIRECTORY, 0, BENEATH)
    removeEntry(dir.n, path.slice(slash + 1))
  } catch (error) {
    if (!(error instanceof SysError && error.errno === E.ENOENT)) throw error
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
    if (bytes.toString('latin1', 0, META.length + 1) !== `${META}\0` || !(size < MAX_HEAD)) throw refuse()
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
      ...(typeof meta.snapshot === 'string' ? { snapshot: meta.snapshot } : {}),
      ...(typeof meta.since === 'string' ? { since: meta.since } : {}),
      ...(Array.isArray(meta.deleted) ? { deleted: meta.deleted.map(String) } : {}),
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
