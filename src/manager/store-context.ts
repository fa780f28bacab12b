import type { Claims } from './claims.js'
import type { Database } from './database.js'
import type { StorePaths } from './paths.js'
import type { Ownership } from './rootless/store-ids.js'
import type { StoreConfig } from './store-config.js'

/** What every part of the manager is given: the store's state, and nothing of the other parts. */
export interface StoreContext {
  readonly paths: StorePaths
  readonly db: Database
  readonly claims: Claims
  /** How owners of files in layers are kept. */
  readonly ownership: Ownership
  readonly config: StoreConfig
  /** Removes a tree that a driver made under snapshots/; a btrfs subvolume needs more than unlink. */
  removeSnapshot(path: string): Promise<void>
}
