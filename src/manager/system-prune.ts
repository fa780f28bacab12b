import { prunePartial } from './check.js'
import { collect, wouldCollect } from './collector.js'
import { dropBlob, keptBlobs } from './kept-blobs.js'
import type { Digest } from '../oci/index.js'
import type { Store } from './store.js'

export interface PruneOptions {
  /** Also images that have a name and that no container uses. */
  readonly all?: boolean
  /** Also the compressed blobs that were kept beside their layers. */
  readonly blobs?: boolean
  readonly dryRun?: boolean
}

export interface Pruned {
  readonly images: readonly Digest[]
  readonly untagged: readonly string[]
  readonly layers: readonly string[]
  readonly buildSteps: number
  readonly downloads: number
  /** Kept ones. */
  readonly blobs: number
  /** Bytes freed, or that would be. */
  readonly bytes: number
}

/** Everything that nothing uses: images, build cache, layers, begun downloads, what a crash left. One transaction. */
export async function pruneSystem(store: Store, options: PruneOptions = {}): Promise<Pruned> {
  const { db } = store
  const dryRun = options.dryRun === true
  const named = options.all === true ? '' : 'AND NOT EXISTS (SELECT 1 FROM tags WHERE image = i.id)'
  let images: Digest[] = []
  let untagged: string[] = []
  let buildSteps = 0
  const forget = (): void => {
    const rows = db.all<{ id: Digest }>(
      `SELECT id FROM images AS i
       WHERE NOT EXISTS (SELECT 1 FROM containers WHERE image = i.id)
         AND NOT EXISTS (SELECT 1 FROM mounts WHERE kind = 'image' AND chain_id = i.chain_id) ${named}`,
    )
    images = rows.map(row => row.id)
    untagged = images.flatMap(id =>
      db.all<{ name: string }>('SELECT name FROM tags WHERE image = ?', id).map(row => row.name),
    )
    for (const id of images) db.run('DELETE FROM images WHERE id = ?', id)
    buildSteps = store.buildCache.clear()
  }
  const collected = dryRun ? wouldCollect(store, forget) : await collect(store, forget)
  const partial = prunePartial(store, dryRun)
  const blobs = options.blobs === true ? keptBlobs(store) : []
  let blobBytes = 0
  for (const { digest, size } of blobs) blobBytes += dryRun ? size : await dropBlob(store, digest)
  if (!dryRun) await store.sweep()
  return {
    images,
    untagged,
    layers: collected.layers,
    buildSteps,
    downloads: partial.count,
    blobs: blobs.length,
    bytes: collected.bytes + partial.bytes + blobBytes,
  }
}
