/**
 * The build cache on its way to another store: an image whose layers are those that steps made, and whose config says
 * which step's key leads to which stack. So it goes through registries and archives like any other.
 */
import { encodeJson, parseConfig, type Digest, type ImageConfig } from '../../oci/index.js'
import type { CachedStep } from '../build-cache.js'
import { emptyConfig } from '../image-create.js'
import type { ImageRecord } from '../images.js'
import type { Store } from '../store.js'
import { StoreError } from '../store-error.js'

const LABEL = 'io.lamina.buildcache.v1'
/** Steps of one cache at most. */
const MAX_STEPS = 4096

export interface CacheEntry extends CachedStep {
  readonly key: string
  readonly instruction: string
}

interface Written {
  readonly key: string
  readonly instruction: string
  readonly diffIds: readonly Digest[]
  readonly config: ImageConfig
}

/** Makes the image, without a name; the caller sends it somewhere and removes it. */
export function cacheImage(store: Store, entries: readonly CacheEntry[]): ImageRecord {
  const steps: Written[] = entries.map(({ key, instruction, chainId, config }) => ({
    key,
    instruction,
    config,
    diffIds: store.layers
      .chainStack(chainId)
      .map(chain => chain.diffId)
      .reverse(),
  }))
  const layers = [...new Set(steps.flatMap(step => step.diffIds))]
  const base = emptyConfig()
  const config: ImageConfig = {
    ...base,
    config: { Labels: { [LABEL]: JSON.stringify(steps) } },
    rootfs: { ...base.rootfs, diff_ids: layers },
  }
  return store.images.add(encodeJson(config))
}

/**
 * What an image brings becomes steps of this store's cache.
 * @returns how many
 * @throws StoreError invalid for an image that carries no cache
 */
export function takeCache(store: Store, image: ImageRecord): number {
  const { config, rootfs } = store.images.config(image.id)
  const text = config?.Labels?.[LABEL]
  if (text === undefined)
    throw new StoreError('invalid', 'the image carries no build cache', 'lamina build --cache-to makes one')
  const known = new Set<string>(rootfs.diff_ids)
  const steps = readSteps(text).filter(step => step.diffIds.every(id => known.has(id)))
  store.db.transaction(() => {
    for (const { key, instruction, diffIds, config } of steps)
      store.buildCache.add(key, { chainId: store.layers.linkAll(diffIds), config }, instruction)
  })
  return steps.length
}

/** Nothing in it is trusted but what is of the right shape. */
function readSteps(text: string): Written[] {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    value = undefined
  }
  if (!Array.isArray(value) || value.length > MAX_STEPS)
    throw new StoreError('invalid', 'the build cache of the image cannot be read')
  return value.filter(isStep)
}

function isStep(value: unknown): value is Written {
  const step = value as Partial<Record<keyof Written, unknown>> | null
  return (
    typeof step === 'object' &&
    step !== null &&
    typeof step.key === 'string' &&
    /^sha256:[0-9a-f]{64}$/.test(step.key) &&
    typeof step.instruction === 'string' &&
    Array.isArray(step.diffIds) &&
    step.diffIds.every(id => typeof id === 'string') &&
    isConfigOf(step.config, step.diffIds as string[])
  )
}

/** The config that a step leaves, whose layers are the step's. */
function isConfigOf(value: unknown, diffIds: readonly string[]): boolean {
  try {
    return parseConfig(encodeJson(value as object)).rootfs.diff_ids.join() === diffIds.join()
  } catch {
    return false
  }
}
