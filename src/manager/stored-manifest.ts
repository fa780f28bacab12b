/** The manifest by which an image leaves: the one that it came with, wherever its layers still have those digests. */
import { buildManifest, descriptorOf, MediaType, parseManifest } from '../oci/index.js'
import type { Descriptor, ManifestContent } from '../oci/index.js'
import type { ImageRecord } from './images.js'
import type { Store } from './store.js'

/** What the image came or went with, if it was in manifests. */
export function storedManifest(store: Store, image: ImageRecord): ManifestContent | undefined {
  return storedManifests(store, image)[0]
}

function storedManifests(store: Store, image: ImageRecord): ManifestContent[] {
  return store.images.manifests(image.id).flatMap(({ mediaType, content }) => {
    const parsed = parseManifest(Buffer.from(content), mediaType)
    return parsed.kind === 'manifest' ? [parsed] : []
  })
}

/** With `layers`, lowest first. */
export function manifestOf(store: Store, image: ImageRecord, layers: readonly Descriptor[]): ManifestContent {
  for (const original of storedManifests(store, image)) {
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
