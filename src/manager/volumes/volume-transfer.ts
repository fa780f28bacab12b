/**
 * Volumes as files, and copies of volumes.
 *
 * A backup is a tar, packed with zstd: `lamina-volume.json` (name and labels), the tree below `data/`, and as its last
 * entry `lamina-volume.sha256`, the digest of every byte of the tar before that entry. GNU tar unpacks it too.
 */
import { createHash } from 'node:crypto'
import { fromUtf8 } from '../../base/bytes.js'
import { compress, endOfArchive, memoryFileEntry, tarTree, type ByteSource } from '../../oci/index.js'
import * as sys from '../../sys/index.js'
import type { Store } from '../store.js'
import { StoreError } from '../store-error.js'
import { copyPlainTree } from './copy-plain.js'
import { freezeVolume } from './freeze.js'
import { findSnapshot, takeSnapshot } from './snapshots.js'
import { treeChange } from './tree-change.js'
import type { VolumeRecord, VolumeUse } from './volumes.js'

export const META = 'lamina-volume.json'
const CHECKSUM = 'lamina-volume.sha256'
export const VERSION = 1

export interface Meta {
  readonly version: number
  readonly name: string
  readonly anonymous: boolean
  readonly labels: Readonly<Record<string, string>>
  /** ID of the snapshot that this is a backup of. */
  readonly snapshot?: string
  /** ID of the snapshot that this is a change of: it is restored over a backup of that one. */
  readonly since?: string
  /** With `since`: what went, paths of the volume as base64. */
  readonly deleted?: readonly string[]
}

export interface TransferOptions {
  readonly signal?: AbortSignal | undefined
  /** Bytes of the uncompressed tar so far. */
  readonly onBytes?: ((bytes: number) => void) | undefined
}

export interface BackupOptions extends TransferOptions {
  /** Although a mounted container may be writing: files may then not fit each other. */
  readonly live?: boolean
  /** While nothing can write to the filesystem that the volume is. @throws StoreError unsupported where that cannot be */
  readonly freeze?: boolean
  /** Only what changed since this snapshot. */
  readonly since?: string | undefined
  /** First take a snapshot of this name, and back up that. */
  readonly snapshot?: string | undefined
  /** Not packed. */
  readonly plain?: boolean
}

export const checksumEntry = (hex: string): Buffer =>
  memoryFileEntry({ path: CHECKSUM, data: `${hex}\n`, mode: 0o444 })

/** The checksum's entry and the end of the archive. */
export const TRAILER = checksumEntry('0'.repeat(64)).length + endOfArchive().length

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
  const { volume } = use
  let tree = volume.mountpoint
  const ids: Partial<Pick<Meta, 'snapshot' | 'since'>>[] = []
  const since = options.since === undefined ? undefined : findSnapshot(store, volume, options.since)
  if (since !== undefined) ids.push({ since: since.id })
  if (options.snapshot !== undefined) {
    const taken = await takeSnapshot(store, volume, options.snapshot, options)
    tree = taken.tree
    ids.push({ snapshot: taken.id })
  }
  // What was copied into a snapshot stands still by itself.
  const freeze = options.freeze === true && options.snapshot === undefined
  await using frozen = freeze ? await freezeVolume(store, volume) : undefined
  void frozen
  const change = since === undefined ? undefined : treeChange(since.tree, tree)
  const meta: Meta = {
    version: VERSION,
    name: volume.name,
    anonymous: volume.anonymous,
    labels: volume.labels,
    ...Object.assign({}, ...ids),
    ...(change === undefined
      ? {}
      : { deleted: change.deleted.map(path => Buffer.from(path, 'latin1').toString('base64')) }),
  }
  const tar = plainBackup(tree, meta, change?.changed, options)
  if (options.plain === true) yield* tar
  else yield* compress(tar, 'zstd')
}

/** One command's use of a volume that nobody else writes to meanwhile, or that is `live`. */
export async function quietUse(store: Store, ref: string, options: BackupOptions): Promise<VolumeUse> {
  const found = store.volumes.find(ref)
  if (options.live !== true && options.freeze !== true && store.volumes.isActive(found)) {
    throw new StoreError(
      'in-use',
      `volume ${found.name} is mounted and may be written to`,
      'unmount its containers, stop its writers with --freeze, or take it as it is with --live',
    )
  }
  return await store.volumes.use(found.name)
}

async function* plainBackup(
  tree: string,
  meta: Meta,
  changed: ReadonlySet<string> | undefined,
  options: TransferOptions,
): AsyncGenerator<Uint8Array, void, void> {
  using root = sys.openat(sys.AT_FDCWD, fromUtf8(tree), sys.O_RDONLY | sys.O_DIRECTORY)
  const hash = createHash('sha256')
  const head = memoryFileEntry({ path: META, data: `${JSON.stringify(meta)}\n` })
  hash.update(head)
  yield head
  let done = head.length
  const entries = tarTree(root.n, {
    contents: 'plain',
    root: true,
    sparse: true,
    prefix: 'data/',
    ...(changed === undefined ? {} : { exclude: path => !changed.has(path) }),
    signal: options.signal,
  })
  for await (const chunk of withoutTail(entries, endOfArchive().length)) {
    hash.update(chunk)
    done += chunk.length
    options.onBytes?.(done)
    yield chunk
  }
  yield checksumEntry(hash.digest('hex'))
  yield endOfArchive()
}

/** All but the last `length` bytes; these are given to `onTail`. */
export async function* withoutTail(
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
