/** The manifest by which an image leaves: the one that it came with, wherever its layers still have those digests. */
import { buildManifest, descriptorOf, MediaType, parseManifest } from '../oci/index.js'
import type { Descriptor, Digest, ManifestContent } from '../oci/index.js'
import type { ImageRecord } from './images.js'
import { keptBlob } from './kept-blobs.js'
import type { Store } from './store.js'

/**
 * The layers by which the image can leave as it came, by diffID: those of the manifest that its name came by, else of the one of
 * which most blobs are kept. Layers that are plain there need nothing.
 * @param named see Images.manifestNamed
 */
export function originalLayers(store: Store, image: ImageRecord, named?: Digest): Map<Digest, Descriptor> {
  const diffIds = store.images.config(image.id).rootfs.diff_ids
  let best = new Map<Digest, Descriptor>()
  let most = -1
  const stored = storedManifests(store, image)
  const own = stored.filter(({ digest }) => digest === named)
  for (const { manifest } of own.length > 0 ? own : stored) {
    const layers = new Map<Digest, Descriptor>()
    for (const [index, descriptor] of manifest.layers.entries()) {
      const diffId = diffIds[index]
      if (diffId !== undefined) layers.set(diffId, descriptor)
    }
    const known = [...layers].filter(
      ([id, { digest }]) => digest === id || keptBlob(store, id, digest) !== undefined,
    ).length
    if (known > most) [best, most] = [layers, known]
  }
  return best
}

function storedManifests(store: Store, image: ImageRecord): ManifestContent[] {
  return store.images.manifests(image.id).flatMap(({ mediaType, content }) => {
    const parsed = parseManifest(Buffer.from(content), mediaType)
    return parsed.kind === 'manifest' ? [parsed] : []
  })
}

/** With `layers`, lowest first; where several manifests have these, the one that is `named`. */
export function manifestOf(
  store: Store,
  image: ImageRecord,
  layers: readonly Descriptor[],
  named?: Digest,
): ManifestContent {
  const stored = storedManifests(store, image)
  stored.sort((a, b) => Number(b.digest === named) - Number(a.digest === named))
  for (const original of stored) {
    const same =
      original.manifest.layers.length === layers.length &&
      original.manifest.layers.every((layer, index) => layer.digest === layers[index]?.digest)
    if (same) return original
  }
  const config = descriptorOf(MediaType.ociConfig, store.images.configBytes(image.id))
  return buildManifest(config, ociTypes(layers))
}

/** One manifest has media types of one family. */
function ociTypes(layers: readonly Descriptor[]): Descriptor[] {
  const types: Record<string, string> = {
    [MediaType.dockerLayer]: MediaType.ociLayer,
    [MediaType.dockerLayerGzip]: MediaType.ociLayerGzip,
    [MediaType.dockerLayerZstd]: MediaType.ociLayerZstd,
  }
  return layers.map(({ mediaType, digest, size }) => ({
    mediaType: types[mediaType] ?? mediaType,
    digest,
    size,
  }))
}
