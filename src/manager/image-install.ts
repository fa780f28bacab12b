/** How an image comes into the store, from an archive or a registry alike. */
import {
  digestOf,
  formatReference,
  isConfigType,
  isLayerType,
  maxConfigSize,
  OciError,
  openImageArchive,
  parseConfig,
  parseReference,
  readAll,
  resolveManifest,
  withDefaultTag,
} from '../oci/index.js'
import type {
  ByteSource,
  Descriptor,
  Digest,
  ImageSource,
  Manifest,
  ManifestContent,
  Platform,
  SourceImage,
} from '../oci/index.js'
import type { ImageRecord } from './images.js'
import { inParallel } from './in-parallel.js'
import { keepBlob } from './kept-blobs.js'
import { shortDigest } from './layers.js'
import type { Lease } from './leases.js'
import type { Store } from './store.js'

/** Told as layers move; `id` is the layer's, `status` ends it. */
export interface TransferEvent {
  readonly id: string
  readonly label: string
  readonly done: number
  readonly total: number | undefined
  readonly status?: string
}

export interface InstallOptions {
  readonly platform?: Platform
  readonly signal?: AbortSignal
  readonly onProgress?: (event: TransferEvent) => void
  /** Layers at once. */
  readonly parallel?: number
  /** Compressed layers are kept as they came, so that the image can leave as it came; default: what the store's config says. */
  readonly keepBlobs?: boolean
}

/** What a registry's download hands over: the bytes, and what to do once they are in the store. */
export interface Download {
  readonly source: ByteSource
  /** Has the whole blob once the source was read to its end. */
  readonly file: string
  stored(): void
  /** It was cut short, and is to be resumed; or its bytes are wrong. @returns whether to begin anew may help */
  failed(error: unknown): boolean
}

/**
 * Where a layer's bytes come from; a registry's downloads can be resumed, so it has its own. `undefined`: another
 * process has stored the layer while we waited for it.
 */
export type OpenLayer = (
  descriptor: Descriptor,
  isStored: () => boolean,
  report: (done: number, status?: string) => void,
  signal: AbortSignal | undefined,
) => Promise<Download | undefined>

/**
 * Stores one image of `source` under `names`. Layers that are stored already are not read.
 * @throws OciError, SysError, StoreError; nothing is left behind but layers that other images share
 */
export async function installImage(
  store: Store,
  source: ImageSource,
  descriptor: Descriptor,
  names: readonly string[],
  options: InstallOptions,
  openLayer?: OpenLayer,
): Promise<{ readonly image: ImageRecord; readonly manifest: ManifestContent }> {
  const manifest = await resolveManifest(source, descriptor, options.platform)
  const { config: configDescriptor, layers } = manifest.manifest
  refuseArtifact(manifest.manifest, names[0] ?? descriptor.digest)
  if (configDescriptor.size > maxConfigSize)
    throw new OciError(
      'limit',
      `the image config has ${configDescriptor.size} bytes, at most ${maxConfigSize} are read`,
    )
  const config = await readAll(source.blob(configDescriptor), maxConfigSize, 'image config')
  const diffIds = readDiffIds(config, configDescriptor)
  if (diffIds.length !== layers.length) {
    throw new OciError(
      'malformed',
      `the image has ${layers.length} layers, its config names ${diffIds.length}`,
    )
  }
  using lease = store.lease()
  const seen = new Set<Digest>()
  const jobs = layers.flatMap((layer, index) => {
    const diffId = diffIds[index]
    if (diffId === undefined || seen.has(diffId)) return []
    seen.add(diffId)
    return [{ layer, diffId }]
  })
  await inParallel(jobs, options.parallel ?? 2, options.signal, async (job, signal) => {
    await installLayer(store, source, job.layer, job.diffId, lease, { ...options, signal }, openLayer)
  })
  const kept =
    source.kind === 'docker-archive'
      ? undefined
      : { digest: manifest.digest, mediaType: manifest.mediaType, content: manifest.bytes }
  const image = store.db.transaction(() => {
    lease.drop()
    return store.images.add(config, names, kept)
  })
  return { image, manifest }
}

/** Attestations, signatures, charts and the like lie in registries as images do: with other media types. */
function refuseArtifact({ config, layers }: Manifest, name: string): void {
  const other = [
    ...(config.mediaType === '' || isConfigType(config.mediaType) ? [] : [config]),
    ...layers.filter(({ mediaType }) => mediaType !== '' && !isLayerType(mediaType)),
  ]
  // What it is made of says more than its config, which is often empty.
  const [what] = other.reverse()
  if (what !== undefined)
    throw new OciError(
      'unsupported',
      `${name} is not an image: it has data of type ${printable(what.mediaType)}`,
    )
  const encrypted = layers.find(({ mediaType }) => mediaType.endsWith('+encrypted'))
  if (encrypted !== undefined) throw new OciError('unsupported', `the layers of ${name} are encrypted`)
}

/** A media type is what somebody wrote there. */
const printable = (text: string): string => text.replace(/[^\x20-\x7e]/g, '?').slice(0, 100)

function readDiffIds(config: Buffer, descriptor: Descriptor): Digest[] {
  const actual = digestOf(config)
  if (descriptor.digest.startsWith('sha256:') && actual !== descriptor.digest) {
    throw new OciError('digest', `the image config has digest ${actual}, expected ${descriptor.digest}`)
  }
  return parseConfig(config).rootfs.diff_ids
}

async function installLayer(
  store: Store,
  source: ImageSource,
  descriptor: Descriptor,
  diffId: Digest,
  lease: Lease,
  options: InstallOptions,
  openLayer: OpenLayer | undefined,
): Promise<void> {
  // What was not packed is written again from the layer itself.
  const keep = (options.keepBlobs ?? store.config.keepBlobs ?? false) && descriptor.digest !== diffId
  const id = shortDigest(diffId)
  const total = descriptor.size
  const report = (done: number, status?: string): void =>
    options.onProgress?.({ id, label: id, done, total, ...(status === undefined ? {} : { status }) })
  if (lease.keepLayer(diffId)) {
    const layer = keep ? store.layers.get(diffId) : undefined
    if (layer !== undefined) await keepBlob(store, layer, descriptor, () => source.blob(descriptor))
    report(total, 'already exists')
    noteBlob(store, descriptor, diffId)
    return
  }
  report(0)
  const signal = options.signal === undefined ? {} : { signal: options.signal }
  const what = `layer ${id}`
  if (openLayer === undefined) {
    const onBytes = (done: number): void => report(done)
    const kept = keep ? { descriptor } : undefined
    await store.layers.add(source.blob(descriptor), lease, { diffId, what, onBytes, keep: kept, ...signal })
  } else {
    for (let attempt = 1; ; attempt += 1) {
      const download = await openLayer(descriptor, () => lease.keepLayer(diffId), report, options.signal)
      if (download === undefined) break
      const kept = keep ? { descriptor, file: download.file } : undefined
      try {
        await store.layers.add(download.source, lease, { diffId, what, keep: kept, ...signal })
      } catch (error) {
        if (download.failed(error) && attempt === 1) continue
        throw error
      }
      download.stored()
      break
    }
  }
  noteBlob(store, descriptor, diffId)
  report(total, 'done')
}

/** Remembers a compressed form of a layer, so that a push need not make and send it again. */
export function noteBlob(store: Store, descriptor: Descriptor, diffId: Digest): void {
  if (descriptor.digest === diffId) return
  store.db.run(
    `INSERT INTO blobs (digest, diff_id, media_type, size) SELECT ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM layers WHERE diff_id = ?)
     ON CONFLICT (digest) DO NOTHING`,
    descriptor.digest,
    diffId,
    descriptor.mediaType,
    descriptor.size,
    diffId,
  )
}

export interface LoadOptions extends InstallOptions {
  /** For images that have no full name in the archive. */
  readonly name?: string
}

/**
 * `load`: every image of what `save` of any tool wrote: an OCI layout or docker-archive, as directory, tar (plain, gzip,
 * zstd) or stream.
 */
export async function loadImages(
  store: Store,
  from: string | ByteSource,
  options: LoadOptions = {},
): Promise<ImageRecord[]> {
  await using scratch = store.scratch()
  const source = await openImageArchive(from, scratch.dir)
  try {
    if (source.images.length === 0) throw new OciError('not-found', 'the archive has no images')
    const loaded: ImageRecord[] = []
    for (const entry of source.images) {
      const names = namesOf(entry, options.name, source.images.length)
      const { image } = await installImage(store, source, entry.descriptor, names, options)
      if (!loaded.some(other => other.id === image.id)) loaded.push(image)
    }
    return loaded.map(image => store.images.find(image.id))
  } finally {
    await source.close()
  }
}

/** Full names as they are; a bare tag, which OCI layouts have, becomes the tag of the name that was asked for. */
function namesOf(entry: SourceImage, asked: string | undefined, images: number): string[] {
  const names = entry.names.flatMap(name => {
    const isBareTag = !/[/:]/.test(name)
    if (!isBareTag) return [formatReference(withDefaultTag(parseReference(name)))]
    return asked === undefined ? [] : [formatReference({ ...parseReference(asked), tag: name })]
  })
  if (asked === undefined || (images > 1 && names.length > 0)) return names
  const wanted = parseReference(asked)
  return wanted.tag === undefined && names.length > 0 ? names : [formatReference(withDefaultTag(wanted))]
}
