import { historyOfLayers } from '../oci/index.js'
import { displayName } from './images.js'
import type { Store } from './store.js'

/** What `image inspect` shows; names of fields in `config` are those of the OCI image config. */
export function inspectImage(store: Store, ref: string): object {
  const image = store.images.find(ref)
  const config = store.images.config(image.id)
  const steps = historyOfLayers(config)
  const stack = store.layers.chainStack(image.chainId).reverse()
  return {
    id: image.id,
    names: image.tags.map(displayName),
    repoDigests: image.repoDigests,
    platform: [image.os, image.architecture, image.variant].filter(part => part !== undefined).join('/'),
    os: image.os,
    architecture: image.architecture,
    variant: image.variant ?? null,
    created: image.created === undefined ? null : new Date(image.created).toISOString(),
    author: config.author ?? '',
    size: image.size,
    chainId: image.chainId ?? null,
    config: config.config ?? {},
    layers: stack.map((chain, index) => ({
      diffId: chain.diffId,
      chainId: chain.chainId,
      size: chain.layer.size,
      createdBy: steps[index]?.created_by ?? '',
      path: store.layers.tree(chain.layer),
    })),
    manifests: store.images.manifests(image.id).map(({ digest, mediaType }) => ({ digest, mediaType })),
  }
}
