/**
 * Compressed blobs that are kept as they came, if that was asked for (`--keep-blobs`, or `"keepBlobs": true` in
 * ROOT/config.json): with them an image leaves with the digest of its manifest also where a registry or an archive does not
 * have its blobs. A blob lies beside its layer's tree, layers/DIR/blob-sha256-HEX, and goes with it; `kept` of its row is 1.
 */
import { createReadStream, createWriteStream, linkSync, renameSync, rmSync, statSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { fromUtf8 } from '../base/bytes.js'
import type { BlobToWrite, ByteSource, Descriptor, Digest } from '../oci/index.js'
import * as sys from '../sys/index.js'
import type { LayerRecord } from './layers.js'
import type { Store } from './store.js'
import type { StoreContext } from './store-context.js'
import { StoreError, causeOf } from './store-error.js'

export interface BlobToKeep {
  readonly descriptor: Descriptor
  /** A file that has the blob once it was read to its end; without one it is copied as it is read. */
  readonly file?: string
}

interface KeptRow {
  digest: Digest
  diff_id: Digest
  dir: string
  media_type: string
  size: number
}

const KEPT = `SELECT b.digest, b.diff_id, l.dir, b.media_type, b.size
  FROM blobs AS b JOIN layers AS l USING (diff_id) WHERE b.kept = 1`

export function blobFile(context: StoreContext, dir: string, digest: string): string {
  return join(context.paths.layers, dir, `blob-${digest.replace(':', '-')}`)
}

/** Passes `source` on and writes it to `file`, which is made. */
export async function* copying(source: ByteSource, file: string): AsyncGenerator<Uint8Array, void, void> {
  const handle = await open(file, 'wx', 0o600)
  try {
    for await (const chunk of source) {
      try {
        await handle.appendFile(chunk)
      } catch (error) {
        throw new StoreError('failed', `cannot keep a compressed layer: ${causeOf(error)}`, undefined, {
          cause: error,
        })
      }
      yield chunk
    }
  } finally {
    await handle.close()
  }
}

/**
 * Puts the blob of a layer that is being made into its directory `home`. To be called when all of it has been read, and before
 * the layer is committed. @returns bytes on disk
 */
export function placeBlob(home: string, digest: Digest, file: string): number {
  const target = join(home, `blob-${digest.replace(':', '-')}`)
  linkSync(file, target)
  return statSync(target).blocks * 512
}

/** The row of a blob whose file is in its place. In the transaction that commits the layer, or with a claim on the blob. */
export function noteKept(context: StoreContext, descriptor: Descriptor, diffId: Digest): void {
  context.db.run(
    `INSERT INTO blobs (digest, diff_id, media_type, size, kept) VALUES (?, ?, ?, ?, 1)
     ON CONFLICT (digest) DO UPDATE SET kept = 1`,
    descriptor.digest,
    diffId,
    descriptor.mediaType,
    descriptor.size,
  )
}

/** Keeps the blob of a layer that is stored, and leased. Does nothing where it is kept. @throws OciError, SysError */
export async function keepBlob(
  store: Store,
  layer: LayerRecord,
  descriptor: Descriptor,
  source: () => ByteSource,
): Promise<void> {
  if (keptBlob(store, layer.diffId, descriptor.digest) !== undefined) return
  await using scratch = store.scratch()
  const file = join(scratch.dir, 'blob')
  await pipeline(source(), createWriteStream(file, { flags: 'wx', mode: 0o600 }))
  if (store.config.sync !== 'none') {
    using kept = sys.openat(sys.AT_FDCWD, fromUtf8(file), sys.O_RDONLY)
    await sys.fsync(kept.n)
  }
  const { blocks } = statSync(file)
  const claim = await store.claims.wait('blob', claimId(layer.dir, descriptor.digest))
  // A command that dies or fails between the two leaves the claim: the next one looks whether there is a row.
  try {
    renameSync(file, blobFile(store, layer.dir, descriptor.digest))
    store.db.transaction(() => {
      if (keptBlob(store, layer.diffId, descriptor.digest) !== undefined) return
      noteKept(store, descriptor, layer.diffId)
      store.db.run('UPDATE layers SET disk = disk + ? WHERE diff_id = ?', blocks * 512, layer.diffId)
    })
  } catch (error) {
    claim.abandon()
    throw error
  }
  claim.release()
}

const claimId = (dir: string, digest: string): string => `${dir}-${digest.replace(':', '-')}`

/** Of a dead command: the file goes unless there is a row. @returns whether something was removed */
export function finishBlob(context: StoreContext, id: string): boolean {
  const [dir = '', algorithm = '', hex = ''] = id.split('-')
  const digest = `${algorithm}:${hex}`
  if (context.db.get('SELECT 1 FROM blobs WHERE kept = 1 AND digest = ?', digest) !== undefined) return false
  const file = blobFile(context, dir, digest)
  if (statSync(file, { throwIfNoEntry: false }) === undefined) return false
  rmSync(file)
  return true
}

/** A kept form of a layer; `digest` absent: any. */
export function keptBlob(context: StoreContext, diffId: Digest, digest?: Digest): BlobToWrite | undefined {
  const row = context.db.get<KeptRow>(
    `${KEPT} AND b.diff_id = ? AND (? IS NULL OR b.digest = ?)`,
    diffId,
    digest ?? null,
    digest ?? null,
  )
  if (row === undefined) return undefined
  const file = blobFile(context, row.dir, row.digest)
  return {
    descriptor: { mediaType: row.media_type, digest: row.digest, size: row.size },
    open: () => createReadStream(file, { highWaterMark: 1 << 20 }),
  }
}

export function keptBlobs(context: StoreContext): readonly (KeptRow & { readonly file: string })[] {
  return context.db.all<KeptRow>(KEPT).map(row => ({ ...row, file: blobFile(context, row.dir, row.digest) }))
}

/** Forgets a kept blob; the layer stays. @returns the bytes freed */
export async function dropBlob(store: Store, digest: Digest): Promise<number> {
  const row = keptBlobs(store).find(each => each.digest === digest)
  if (row === undefined) return 0
  const claim = await store.claims.wait('blob', claimId(row.dir, digest))
  try {
    const bytes = (statSync(row.file, { throwIfNoEntry: false })?.blocks ?? 0) * 512
    store.db.transaction(() => {
      store.db.run('UPDATE blobs SET kept = 0 WHERE digest = ?', digest)
      store.db.run('UPDATE layers SET disk = max(0, disk - ?) WHERE diff_id = ?', bytes, row.diff_id)
    })
    rmSync(row.file, { force: true })
    claim.release()
    return bytes
  } catch (error) {
    claim.abandon()
    throw error
  }
}
