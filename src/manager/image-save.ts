/** How images leave the store as archives. */
import { createReadStream, createWriteStream } from 'node:fs'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import {
  compress,
  descriptorOf,
  Digester,
  digesting,
  dockerArchive,
  layerMediaType,
  layoutArchive,
  LayoutDirectory,
  memoryBlob,
  namedEntries,
  parseConfig,
} from '../oci/index.js'
import type { BlobToWrite, ByteSource, Compression, Descriptor, Digest } from '../oci/index.js'
import { displayName, type ImageRecord } from './images.js'
import { noteBlob } from './image-install.js'
import type { LayerRecord } from './layers.js'
import { keptBlob } from './kept-blobs.js'
import { manifestOf, originalLayers } from './stored-manifest.js'
import type { Scratch, Store } from './store.js'

export type ArchiveFormat = 'docker-archive' | 'oci-archive' | 'oci-dir'

export interface SaveOptions {
  readonly format?: ArchiveFormat
  /** Of layers in OCI forms. Default: as they came, where that is kept, else plain, as docker writes them: nothing is packed twice. */
  readonly compression?: Compression
  readonly signal?: AbortSignal
}

interface Saved {
  readonly image: ImageRecord
  /** See Images.manifestNamed. */
  readonly manifest: Digest | undefined
  readonly names: readonly string[]
  readonly layers: readonly LayerRecord[]
}

/** `save` as a stream: a docker-archive or an OCI layout in a tar. */
export async function* saveImages(
  store: Store,
  refs: readonly string[],
  options: SaveOptions = {},
): AsyncGenerator<Uint8Array, void, void> {
  using lease = store.lease()
  if (options.format === 'oci-archive') {
    await using scratch = store.scratch()
    const named = collectImages(store, refs, lease, 'manifest')
    const { entries, blobs } = await layoutParts(store, named, scratch, options)
    yield* layoutArchive(entries, blobs)
    return
  }
  const images = collectImages(store, refs, lease, 'image')
  yield* dockerArchive(
    images.map(({ image, names, layers }) => ({
      names,
      config: store.images.configBytes(image.id),
      layers: layers.map(layer => ({
        diffId: layer.diffId,
        size: layer.tarSize,
        open: () => store.layers.tar(layer),
      })),
    })),
  )
}

/** `save` into a directory: an OCI layout, made or added to. */
export async function saveToDirectory(
  store: Store,
  refs: readonly string[],
  directory: string,
  options: SaveOptions = {},
): Promise<void> {
  using lease = store.lease()
  await using scratch = store.scratch()
  const images = collectImages(store, refs, lease, 'manifest')
  const { entries, blobs } = await layoutParts(store, images, scratch, options)
  const layout = await LayoutDirectory.open(directory)
  for (const blob of blobs) {
    options.signal?.throwIfAborted()
    await layout.put(blob)
  }
  await layout.addToIndex(entries)
}

/** @param each what has one entry in the archive: in a layout a name has the manifest by which it came */
function collectImages(
  store: Store,
  refs: readonly string[],
  lease: ReturnType<Store['lease']>,
  each: 'image' | 'manifest',
): Saved[] {
  const found = new Map<string, { image: ImageRecord; manifest: Digest | undefined; names: Set<string> }>()
  for (const ref of refs) {
    const image = store.images.find(ref)
    if (image.chainId !== undefined) lease.keepChain(image.chainId)
    const manifest = each === 'manifest' ? store.images.manifestNamed(ref, image) : undefined
    const key = `${image.id} ${manifest ?? ''}`
    const entry = found.get(key) ?? { image, manifest, names: new Set<string>() }
    // By ID: without a name, as docker does; by name: that one.
    const tag = store.images.tagNamed(ref, image)
    if (tag !== undefined) entry.names.add(tag)
    found.set(key, entry)
  }
  return [...found.values()].map(({ image, manifest, names }) => {
    const { diff_ids } = parseConfig(store.images.configBytes(image.id)).rootfs
    const byId = new Map(store.layers.chainStack(image.chainId).map(chain => [chain.diffId, chain.layer]))
    const layers = diff_ids.flatMap(id => byId.get(id) ?? [])
    return { image, manifest, names: [...names], layers }
  })
}

async function layoutParts(
  store: Store,
  images: readonly Saved[],
  scratch: Scratch,
  options: SaveOptions,
): Promise<{ entries: Descriptor[]; blobs: BlobToWrite[] }> {
  const entries: Descriptor[] = []
  const blobs: BlobToWrite[] = []
  for (const { image, manifest: named, names, layers } of images) {
    const config = store.images.configBytes(image.id)
    const descriptors: Descriptor[] = []
    const originals = originalLayers(store, image, named)
    for (const layer of layers) {
      const preferred = originals.get(layer.diffId)
      const blob = await layerBlob(store, layer, scratch, { ...options, preferred, otherwise: 'plain' })
      blobs.push(blob)
      descriptors.push(blob.descriptor)
    }
    const manifest = manifestOf(store, image, descriptors, named)
    const platform = {
      os: image.os,
      architecture: image.architecture,
      ...(image.variant === undefined ? {} : { variant: image.variant }),
    }
    const descriptor = { ...descriptorOf(manifest.mediaType, manifest.bytes), platform }
    blobs.push(
      memoryBlob(manifest.manifest.config, config),
      memoryBlob(descriptorOf(manifest.mediaType, manifest.bytes), manifest.bytes),
    )
    entries.push(...namedEntries(descriptor, names))
  }
  return { entries, blobs }
}

interface BlobOptions {
  /** The form in which the image's own manifest has it. */
  readonly preferred: Descriptor | undefined
  /** Asked for; else as it was kept. */
  readonly compression?: Compression | undefined
  readonly otherwise: Compression
  readonly signal?: AbortSignal
}

/**
 * A layer as a blob whose digest and size are known: kept or plain at once, compressed after it was written to scratch.
 */
export async function layerBlob(
  store: Store,
  layer: LayerRecord,
  scratch: Scratch,
  options: BlobOptions,
): Promise<BlobToWrite> {
  const kept = keptForm(store, layer, options)
  if (kept !== undefined) return kept
  const compression = options.compression ?? options.otherwise
  if (compression === 'plain') {
    const descriptor = { mediaType: layerMediaType('plain'), digest: layer.diffId, size: layer.tarSize }
    return { descriptor, open: () => store.layers.tar(layer) }
  }
  const file = join(scratch.dir, `${layer.dir}.${compression}`)
  const digester = new Digester()
  const packed: ByteSource = digesting(compress(store.layers.tar(layer), compression), digester)
  await pipeline(
    packed,
    createWriteStream(file),
    options.signal === undefined ? {} : { signal: options.signal },
  )
  const size = digester.size
  const descriptor = { mediaType: layerMediaType(compression), digest: digester.digest(), size }
  noteBlob(store, descriptor, layer.diffId)
  return { descriptor, open: () => createReadStream(file) }
}

function keptForm(
  store: Store,
  layer: LayerRecord,
  { preferred, compression }: BlobOptions,
): BlobToWrite | undefined {
  if (compression === undefined && preferred?.digest === layer.diffId) {
    return { descriptor: preferred, open: () => store.layers.tar(layer) }
  }
  const own = preferred === undefined ? undefined : keptBlob(store, layer.diffId, preferred.digest)
  const kept = own ?? keptBlob(store, layer.diffId)
  if (kept === undefined) return undefined
  const asked = compression === undefined || kept.descriptor.mediaType.endsWith(compression)
  return asked ? kept : undefined
}

/** What `load` prints for an image. */
export function loadedName(image: ImageRecord): string {
  return image.tags.length > 0 ? image.tags.map(displayName).join(', ') : image.id
}
