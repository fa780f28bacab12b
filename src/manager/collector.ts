/**
 * Removes what nothing refers to: chains, then layers, then (after the commit) their directories.
 */
import { join } from 'node:path'
import type { Claim } from './claims.js'
import { removeTree } from './remove-tree.js'
import type { StoreContext } from './store-context.js'

export interface Collected {
  /** diffIDs whose directories are gone. */
  readonly layers: readonly string[]
  /** Bytes of their files. */
  readonly bytes: number
}

interface Doomed {
  readonly kind: 'layer' | 'snapshot'
  readonly dir: string
}

const UNUSED_CHAINS = `
  SELECT chain_id FROM chains AS c
  WHERE pinned = 0
    AND NOT EXISTS (SELECT 1 FROM chains      WHERE parent   = c.chain_id)
    AND NOT EXISTS (SELECT 1 FROM images      WHERE chain_id = c.chain_id)
    AND NOT EXISTS (SELECT 1 FROM containers  WHERE chain_id = c.chain_id)
    AND NOT EXISTS (SELECT 1 FROM build_cache WHERE chain_id = c.chain_id)
    AND NOT EXISTS (SELECT 1 FROM mounts      WHERE chain_id = c.chain_id)
    AND NOT EXISTS (SELECT 1 FROM leases      WHERE chain_id = c.chain_id)`

const UNUSED_LAYERS = `
  SELECT diff_id, dir, size FROM layers AS l
  WHERE NOT EXISTS (SELECT 1 FROM chains WHERE diff_id = l.diff_id)
    AND NOT EXISTS (SELECT 1 FROM leases WHERE diff_id = l.diff_id)`

/** What {@link collect} would remove if `forget` were carried out; nothing is changed. */
export function wouldCollect(context: StoreContext, forget: () => void = () => undefined): Collected {
  class Undo extends Error {}
  let found: Collected = { layers: [], bytes: 0 }
  try {
    context.db.transaction(() => {
      forget()
      deleteUnusedChains(context)
      const rows = context.db.all<{ diff_id: string; size: number }>(UNUSED_LAYERS)
      found = { layers: rows.map(row => row.diff_id), bytes: rows.reduce((sum, row) => sum + row.size, 0) }
      throw new Undo()
    })
  } catch (error) {
    if (!(error instanceof Undo)) throw error
  }
  return found
}

/**
 * Runs `forget` (which deletes the rows that are to go: an image, a container, a pin) and the collection that follows
 * from it as one transaction; then removes the directories.
 */
export async function collect(
  context: StoreContext,
  forget: () => void = () => undefined,
): Promise<Collected> {
  const claims: Claim[] = []
  let collected: Collected = { layers: [], bytes: 0 }
  try {
    const doomed = context.db.transaction(() => {
      forget()
      const snapshots = deleteUnusedChains(context)
      const rows = context.db.all<{ diff_id: string; dir: string; size: number }>(UNUSED_LAYERS)
      for (const row of rows) context.db.run('DELETE FROM layers WHERE diff_id = ?', row.diff_id)
      collected = {
        layers: rows.map(row => row.diff_id),
        bytes: rows.reduce((sum, row) => sum + row.size, 0),
      }
      const list: Doomed[] = [...snapshots, ...rows.map(row => ({ kind: 'layer' as const, dir: row.dir }))]
      // Before the commit: a crash after it leaves claims that the next sweep follows.
      for (const { kind, dir } of list) {
        const claim = context.claims.tryClaim(kind, dir)
        if (claim !== undefined) claims.push(claim)
      }
      return list
    })
    for (const { kind, dir } of doomed) await removeDirectory(context, kind, dir)
  } catch (error) {
    // Rows are as they were, or gone with directories left: then the claims must outlive us for the next sweep.
    for (const claim of claims) claim.abandon()
    throw error
  }
  for (const claim of claims) claim.release()
  return collected
}

export async function removeDirectory(
  context: StoreContext,
  kind: 'layer' | 'snapshot',
  dir: string,
): Promise<void> {
  if (kind === 'layer') await removeTree(join(context.paths.layers, dir))
  else await context.removeSnapshot(join(context.paths.snapshots, dir))
}

/** Leaves first, until none is left; returns the trees that drivers kept for them. */
function deleteUnusedChains(context: StoreContext): Doomed[] {
  const snapshots: Doomed[] = []
  for (;;) {
    const chains = context.db.all<{ chain_id: string }>(UNUSED_CHAINS)
    if (chains.length === 0) return snapshots
    for (const { chain_id } of chains) {
      for (const row of context.db.all<{ dir: string }>(
        'SELECT dir FROM snapshots WHERE chain_id = ?',
        chain_id,
      )) {
        snapshots.push({ kind: 'snapshot', dir: row.dir })
      }
      context.db.run('DELETE FROM chains WHERE chain_id = ?', chain_id)
    }
  }
}
