/** New images from what is at hand: a root filesystem's tar, a container's writable layer, an upperdir. */
import {
  encodeJson,
  hostPlatform,
  type ByteSource,
  type Digest,
  type ImageConfig,
  type Platform,
  type RunConfig,
} from '../oci/index.js'
import { applyChange } from './config-change.js'
import type { ImageRecord } from './images.js'
import { packTree, sourceDateEpoch } from './layer-tar.js'
import type { LayerRecord } from './layers.js'
import type { Lease } from './leases.js'
import type { Store } from './store.js'

export interface NewImageOptions {
  readonly name?: string
  readonly author?: string
  readonly comment?: string
  /** Dockerfile instructions that change the config: `CMD ["sh"]`, `ENV A=b`. */
  readonly changes?: readonly string[]
  readonly platform?: Platform
  readonly signal?: AbortSignal
  readonly onBytes?: (bytes: number) => void
}

/** The time that a new image carries; SOURCE_DATE_EPOCH makes it reproducible. */
export function creationTime(): string {
  const epoch = sourceDateEpoch()
  return new Date(epoch === undefined ? Date.now() : epoch * 1000).toISOString()
}

/** An image config with no layers. */
export function emptyConfig(platform: Platform = hostPlatform()): ImageConfig {
  return {
    created: creationTime(),
    architecture: platform.architecture,
    os: platform.os,
    ...(platform.variant === undefined ? {} : { variant: platform.variant }),
    config: {},
    rootfs: { type: 'layers', diff_ids: [] },
    history: [],
  }
}

/** `config` with one more layer and the step that made it; keys in one order, so that equal input gives equal bytes. */
export function withLayer(
  config: ImageConfig,
  diffId: Digest,
  createdBy: string,
  comment?: string,
): ImageConfig {
  return {
    ...config,
    created: creationTime(),
    rootfs: { ...config.rootfs, diff_ids: [...config.rootfs.diff_ids, diffId] },
    history: [...fullHistory(config), historyStep(createdBy, comment)],
  }
}

export function historyStep(
  createdBy: string,
  comment?: string,
  emptyLayer = false,
): Record<string, unknown> {
  return {
    created: creationTime(),
    created_by: createdBy,
    ...(comment === undefined || comment === '' ? {} : { comment }),
    ...(emptyLayer ? { empty_layer: true } : {}),
  }
}

/** A history that has an entry for every layer: tools pair them by position. */
function fullHistory(config: ImageConfig): NonNullable<ImageConfig['history']> {
  const history = config.history ?? []
  const layers = history.filter(step => step.empty_layer !== true).length
  const lacking = Math.max(0, config.rootfs.diff_ids.length - layers)
  return [...history, ...Array.from({ length: lacking }, () => ({ created_by: '(unknown)' }))]
}

/** `docker import`: one plain root filesystem becomes an image of one layer. */
export async function importRootfs(
  store: Store,
  source: ByteSource,
  options: NewImageOptions = {},
): Promise<ImageRecord> {
  using lease = store.lease()
  const layer = await store.layers.add(source, lease, { ...transferOptions(options), trusted: true })
  const base = withChanges(emptyConfig(options.platform), options.changes ?? [])
  const config = withLayer(base, layer.diffId, 'lamina image import', options.comment)
  return record(store, config, options, lease)
}

/**
 * `commit`: the changes of a container become one layer on top of its image's.
 * @throws StoreError, OciError; nothing is left behind
 */
export async function commitContainer(
  store: Store,
  ref: string,
  options: NewImageOptions = {},
): Promise<ImageRecord> {
  const container = store.containers.find(ref)
  using lease = store.lease()
  const layer = await commitLayer(store, ref, lease, options)
  const base =
    container.image === undefined
      ? chainConfig(store, container.chainId)
      : store.images.config(container.image)
  const changed = withChanges(base, options.changes ?? [])
  return record(store, withLayer(changed, layer.diffId, 'lamina commit', options.comment), options, lease)
}

/** The changes of a container as a stored layer, without an image. */
export async function commitLayer(
  store: Store,
  ref: string,
  lease: Lease,
  options: NewImageOptions = {},
): Promise<LayerRecord> {
  const container = store.containers.find(ref)
  await store.containers.settle(container)
  const driver = store.containers.driverOf(container)
  await using tree = await driver.layerTree(store.containers.boxOf(container), options.signal)
  return await store.layers.add(packTree(tree.dir, store.ownership, options.signal), lease, {
    ...transferOptions(options),
    trusted: true,
  })
}

/** Any upperdir (of `lamina mount`, the kernel's overlayfs, fuse-overlayfs) as a layer on top of an image, or of nothing. */
export async function commitUpper(
  store: Store,
  upperdir: string,
  base: string | undefined,
  options: NewImageOptions = {},
): Promise<ImageRecord> {
  using lease = store.lease()
  const image = base === undefined ? undefined : store.images.find(base)
  const layer = await store.layers.add(packTree(upperdir, store.ownership, options.signal), lease, {
    ...transferOptions(options),
    trusted: true,
  })
  const config = image === undefined ? emptyConfig(options.platform) : store.images.config(image.id)
  const changed = withChanges(config, options.changes ?? [])
  return record(store, withLayer(changed, layer.diffId, 'lamina commit', options.comment), options, lease)
}

function transferOptions(options: NewImageOptions): {
  signal?: AbortSignal
  onBytes?: (bytes: number) => void
} {
  return {
    ...(options.signal === undefined ? {} : { signal: options.signal }),
    ...(options.onBytes === undefined ? {} : { onBytes: options.onBytes }),
  }
}

/** A config for a container that stands on bare layers. */
function chainConfig(store: Store, chainId: Digest | undefined): ImageConfig {
  const stack = store.layers.chainStack(chainId).reverse()
  const config = emptyConfig()
  return stack.reduce((sum, chain) => withLayer(sum, chain.diffId, 'lamina layer create'), config)
}

function withChanges(config: ImageConfig, changes: readonly string[]): ImageConfig {
  if (changes.length === 0) return config
  const run: RunConfig = { ...config.config }
  for (const change of changes) applyChange(run, change)
  return { ...config, config: run }
}

/** The config as an image of the store, which takes over what was leased for it. */
export function record(
  store: Store,
  config: ImageConfig,
  options: Pick<NewImageOptions, 'name' | 'author'>,
  lease?: Lease,
): ImageRecord {
  const finished = options.author === undefined ? config : { ...config, author: options.author }
  return store.db.transaction(() => {
    lease?.drop()
    return store.images.add(encodeJson(finished), options.name === undefined ? [] : [options.name])
  })
}
