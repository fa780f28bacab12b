/** ROOT/config.json: what holds for every command on a store. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { StoreError, causeOf } from './store-error.js'

export interface StoreConfig {
  readonly storageDriver?: string
  /** Layers that are loaded or pulled keep their compressed blobs (kept-blobs.ts). */
  readonly keepBlobs?: boolean
  /** Whether a layer is on disk before its row says so (durable.ts); default: filesystem. */
  readonly sync?: SyncPolicy
}

export type SyncPolicy = 'filesystem' | 'none'

/** @throws StoreError invalid */
export function readStoreConfig(root: string): StoreConfig {
  const path = join(root, 'config.json')
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch {
    return {}
  }
  try {
    const config: unknown = JSON.parse(text)
    if (typeof config !== 'object' || config === null) throw new Error('not a JSON object')
    const driver = 'storageDriver' in config ? config.storageDriver : undefined
    if (driver !== undefined && typeof driver !== 'string') throw new Error('storageDriver is not a string')
    const keep = 'keepBlobs' in config ? config.keepBlobs : undefined
    if (keep !== undefined && typeof keep !== 'boolean') throw new Error('keepBlobs is not true or false')
    const sync = 'sync' in config ? config.sync : undefined
    if (sync !== undefined && sync !== 'filesystem' && sync !== 'none')
      throw new Error('sync is not "filesystem" or "none"')
    return {
      ...(driver === undefined ? {} : { storageDriver: driver }),
      ...(keep === undefined ? {} : { keepBlobs: keep }),
      ...(sync === undefined ? {} : { sync }),
    }
  } catch (error) {
    throw new StoreError(
      'invalid',
      `${path} cannot be read: ${causeOf(error)}`,
      'e.g. { "storageDriver": "fuse", "keepBlobs": true }',
    )
  }
}
