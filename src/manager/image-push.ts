/** `push`: an image to a registry. Only what the registry lacks is packed and sent. */
import { formatReference, memoryBlob, parseReference, repositoryName, withDefaultTag } from '../oci/index.js'
import { Registry } from '../oci/registry.js'
import type { Compression, Descriptor, Digest, ManifestContent } from '../oci/index.js'
import type { TransferEvent } from './image-install.js'
import { noteSource, type RegistryAccess } from './image-pull.js'
import { layerBlob } from './image-save.js'
import type { ImageRecord } from './images.js'
import { keptBlob } from './kept-blobs.js'
import { manifestOf, originalLayers } from './stored-manifest.js'
import { inParallel } from './in-parallel.js'
import { shortDigest, type LayerRecord } from './layers.js'
import type { Scratch, Store } from './store.js'

export interface PushOptions extends RegistryAccess {
  /** Where to; the image's own name otherwise. */
  readonly to?: string
  /** Of layers that the registry does not have. Default: as they came, where that is kept, else gzip, which every client reads. */
  readonly compression?: Compression
  readonly signal?: AbortSignal
  readonly onProgress?: (event: TransferEvent) => void
  /** Layers at once. */
  readonly parallel?: number
}

interface KnownBlob {
  digest: Digest
  media_type: string
  size: number
}

/**
 * @returns the digest of the manifest, as the registry has it now
 * @throws OciError unauthorized, network; StoreError not-found
 */
export async function pushImage(store: Store, ref: string, options: PushOptions = {}): Promise<Digest> {
  const image = store.images.find(ref)
  const target = withDefaultTag(parseReference(options.to ?? store.images.tagNamed(ref, image) ?? ref))
  const registry = await Registry.connect(target, {
    ...(options.insecure === undefined ? {} : { insecure: options.insecure }),
    ...(options.credentials === undefined ? {} : { credentials: options.credentials }),
    signal: options.signal,
  })
  try {
    using lease = store.lease()
    if (image.chainId !== undefined) lease.keepChain(image.chainId)
    await using scratch = store.scratch()
    const named = store.images.manifestNamed(ref, image)
    const pushed = await pushLayers(store, image, named, registry, scratch, options)
    const manifest = await pushManifest(store, image, named, registry, pushed)
    store.db.transaction(() => {
      for (const descriptor of pushed.values()) {
        noteSource(store, descriptor, target.domain, target.path)
      }
      store.images.addManifest(image.id, {
        digest: manifest.digest,
        mediaType: manifest.mediaType,
        content: manifest.bytes,
      })
      store.images.addRepoDigest(repositoryName(target), manifest.digest, image.id)
      if (target.digest === undefined)
        store.images.setTagManifest(formatReference(target), image.id, manifest.digest)
    })
    return manifest.digest
  } finally {
    await registry.close()
  }
}

async function pushLayers(
  store: Store,
  image: ImageRecord,
  named: Digest | undefined,
  registry: Registry,
  scratch: Scratch,
  options: PushOptions,
): Promise<Map<Digest, Descriptor>> {
  const layers = new Map(store.layers.chainStack(image.chainId).map(chain => [chain.diffId, chain.layer]))
  const wanted = originalLayers(store, image, named)
  const pushed = new Map<Digest, Descriptor>()
  await inParallel([...layers.values()], options.parallel ?? 3, options.signal, async (layer, signal) => {
    const more = { ...options, signal }
    const known = await findThere(store, layer, wanted.get(layer.diffId), registry, more)
    pushed.set(
      layer.diffId,
      known ?? (await sendLayer(store, layer, wanted.get(layer.diffId), registry, scratch, more)),
    )
  })
  return pushed
}

/** Thrown instead of sending bytes that we do not have: the blob was packed by somebody else. */
class NotHere extends Error {}

/** A form of the layer that the registry has already, here or in another of its repositories. */
async function findThere(
  store: Store,
  layer: LayerRecord,
  preferred: Descriptor | undefined,
  registry: Registry,
  options: PushOptions,
): Promise<Descriptor | undefined> {
  const rows = store.db.all<KnownBlob>(
    'SELECT digest, media_type, size FROM blobs WHERE diff_id = ?',
    layer.diffId,
  )
  // Kept to leave as it came: another form that is there already would be another manifest.
  const keepsForm =
    options.compression === undefined &&
    preferred !== undefined &&
    keptBlob(store, layer.diffId, preferred.digest) !== undefined
  const candidates: Descriptor[] = rows
    .filter(row => !keepsForm || row.digest === preferred.digest)
    .map(row => ({ mediaType: row.media_type, digest: row.digest, size: row.size }))
  candidates.sort((a, b) => Number(b.digest === preferred?.digest) - Number(a.digest === preferred?.digest))
  const id = shortDigest(layer.diffId)
  for (const descriptor of candidates) {
    const sources = store.db.all<{ repository: string }>(
      'SELECT repository FROM blob_sources WHERE digest = ? AND registry = ?',
      descriptor.digest,
      registry.reference.domain,
    )
    try {
      const blob = {
        descriptor,
        open: (): never => {
          throw new NotHere()
        },
      }
      if (sources.length === 0 && !(await registry.hasBlob(descriptor))) continue
      const result = await registry.pushBlob(blob, { mountFrom: sources.map(row => row.repository) })
      options.onProgress?.({
        id,
        label: id,
        done: layer.tarSize,
        total: layer.tarSize,
        status: result === 'mounted' ? 'mounted from another repository' : 'already there',
      })
      return layerDescriptor(descriptor, preferred)
    } catch (error) {
      if (!(error instanceof NotHere)) throw error
    }
  }
  return undefined
}

/** Annotations and the like belong to the manifest's own descriptor. */
function layerDescriptor(descriptor: Descriptor, preferred: Descriptor | undefined): Descriptor {
  return preferred?.digest === descriptor.digest ? preferred : descriptor
}

async function sendLayer(
  store: Store,
  layer: LayerRecord,
  preferred: Descriptor | undefined,
  registry: Registry,
  scratch: Scratch,
  options: PushOptions,
): Promise<Descriptor> {
  const id = shortDigest(layer.diffId)
  const report = (done: number, total: number | undefined, status?: string): void =>
    options.onProgress?.({ id, label: id, done, total, ...(status === undefined ? {} : { status }) })
  report(0, undefined, 'packing')
  const blob = await layerBlob(store, layer, scratch, {
    preferred,
    compression: options.compression,
    otherwise: 'gzip',
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  })
  const result = await registry.pushBlob(blob, { onProgress: (done, total) => report(done, total) })
  report(blob.descriptor.size, blob.descriptor.size, result === 'pushed' ? 'pushed' : 'already there')
  return layerDescriptor(blob.descriptor, preferred)
}

async function pushManifest(
  store: Store,
  image: ImageRecord,
  named: Digest | undefined,
  registry: Registry,
  pushed: ReadonlyMap<Digest, Descriptor>,
): Promise<ManifestContent> {
  const config = store.images.configBytes(image.id)
  const diffIds = store.images.config(image.id).rootfs.diff_ids
  const layers = diffIds.flatMap(diffId => pushed.get(diffId) ?? [])
  const manifest = manifestOf(store, image, layers, named)
  await registry.pushBlob(memoryBlob(manifest.manifest.config, config))
  await registry.pushManifest(manifest)
  return manifest
}
