/**
 * What `docker save` and `podman save` write: a tar with manifest.json, configs and uncompressed layers.
 * Source: moby image/tarexport; containers/image docker/internal/tarfile.
 */
import { configPlatform, maxConfigSize, parseConfig } from './config.js'
import { detectCompression, peek } from './compression.js'
import type { Descriptor } from './descriptor.js'
import { Digester, digestHex, digestOf, verifying, type Digest } from './digest.js'
import { OciError, type ByteSource } from './error.js'
import { readSmall, type FileSet } from './file-set.js'
import type { ImageSource, SourceImage } from './image-source.js'
import { asArray, asObject, asString, asStrings, parseJsonObject } from './json.js'
import { buildManifest, encodeJson, maxLayers, type IndexContent, type ManifestContent } from './manifest.js'
import { layerMediaType, MediaType } from './media-types.js'
import { memoryFileEntry, streamedFile } from './tar-entries.js'
import { endOfArchive } from './tar-writer.js'

const maxManifestJson = 16 << 20
const maxImages = 10_000

export async function isDockerArchive(files: FileSet): Promise<boolean> {
  return (await files.size('manifest.json')) !== undefined
}

/** Presents each image as a manifest, made here: its layers' digests are those of the files in the archive. */
export class DockerArchiveSource implements ImageSource {
  readonly kind = 'docker-archive'

  private constructor(
    readonly files: FileSet,
    readonly images: readonly SourceImage[],
    readonly manifests: ReadonlyMap<Digest, ManifestContent>,
    readonly paths: ReadonlyMap<Digest, string>,
  ) {}

  static async open(files: FileSet): Promise<DockerArchiveSource> {
    // an array, where the JSON reader wants an object
    const text = (await readSmall(files, 'manifest.json', maxManifestJson)).toString('utf8')
    const items = asArray(
      parseJsonObject(`{"items":${text}}`, maxManifestJson + 16, 'manifest.json')['items'],
      maxImages,
      'manifest.json',
    )
    const tagsOf = await readRepositories(files)
    const images: SourceImage[] = []
    const manifests = new Map<Digest, ManifestContent>()
    const paths = new Map<Digest, string>()
    const known = new Map<string, Descriptor>()
    for (const [i, item] of items.entries()) {
      const what = `manifest.json[${i}]`
      const object = asObject(item, what)
      const configPath = asString(object['Config'], `${what}.Config`)
      const layerPaths = asStrings(object['Layers'], maxLayers, `${what}.Layers`, 4096)
      const configBytes = await readSmall(files, normal(configPath), maxConfigSize)
      const config = parseConfig(configBytes)
      if (config.rootfs.diff_ids.length !== layerPaths.length) {
        throw new OciError(
          'malformed',
          `${what}: the config has ${config.rootfs.diff_ids.length} layers, the archive ${layerPaths.length}`,
        )
      }
      const layers: Descriptor[] = []
      for (const [j, layerPath] of layerPaths.entries()) {
        const path = normal(layerPath)
        const diffId = config.rootfs.diff_ids[j] as Digest
        const descriptor = known.get(`${path}\n${diffId}`) ?? (await layerDescriptor(files, path, diffId))
        known.set(`${path}\n${diffId}`, descriptor)
        paths.set(descriptor.digest, path)
        layers.push(descriptor)
      }
      const configDescriptor = {
        mediaType: MediaType.dockerConfig,
        digest: digestOf(configBytes),
        size: configBytes.length,
      }
      paths.set(configDescriptor.digest, normal(configPath))
      const manifest = buildManifest(configDescriptor, layers, 'docker')
      manifests.set(manifest.digest, manifest)
      const names = asStrings(object['RepoTags'], 10_000, `${what}.RepoTags`, 4096)
      images.push({
        names: names.length > 0 ? names : tagsOf(layerPaths),
        descriptor: {
          mediaType: manifest.mediaType,
          digest: manifest.digest,
          size: manifest.bytes.length,
          platform: configPlatform(config),
        },
      })
    }
    return new DockerArchiveSource(files, images, manifests, paths)
  }

  async manifest(descriptor: Descriptor): Promise<ManifestContent | IndexContent> {
    const manifest = this.manifests.get(descriptor.digest)
    if (manifest === undefined)
      throw new OciError('not-found', `the archive has no image ${descriptor.digest}`)
    return manifest
  }

  async *blob(descriptor: Descriptor): AsyncGenerator<Uint8Array, void, void> {
    const path = this.paths.get(descriptor.digest)
    if (path === undefined) throw new OciError('not-found', `the archive has no blob ${descriptor.digest}`)
    yield* verifying(this.files.read(path), descriptor, `'${path}' in the archive`)
  }

  close(): Promise<void> {
    return this.files.close()
  }
}

function normal(path: string): string {
  if (path.startsWith('/') || path.split('/').includes('..')) {
    throw new OciError('unsafe', `manifest.json refers to '${path}', out of the archive`)
  }
  return path.replace(/^(?:\.\/)+/, '')
}

/** A plain layer is known by its diffID; of a compressed one the digest must be computed. */
async function layerDescriptor(files: FileSet, path: string, diffId: Digest): Promise<Descriptor> {
  const size = await files.size(path)
  if (size === undefined) throw new OciError('not-found', `the archive has no layer '${path}'`)
  const { head, source } = await peek(files.read(path), 4)
  const compression = detectCompression(head)
  if (compression === 'plain') {
    for await (const chunk of source) {
      void chunk
      break
    }
    return { mediaType: layerMediaType('plain', 'docker'), digest: diffId, size }
  }
  if (compression === 'bzip2' || compression === 'xz') {
    throw new OciError('unsupported', `layer '${path}' is packed with ${compression}`)
  }
  const digester = new Digester()
  for await (const chunk of source) digester.update(chunk)
  return { mediaType: layerMediaType(compression, 'docker'), digest: digester.digest(), size: digester.size }
}

/** `repositories` of docker before 1.10: name → tag → id of the top layer's directory. Used where RepoTags is empty. */
async function readRepositories(files: FileSet): Promise<(layers: readonly string[]) => string[]> {
  if ((await files.size('repositories')) === undefined) return () => []
  const object = parseJsonObject(
    await readSmall(files, 'repositories', maxManifestJson),
    maxManifestJson,
    'repositories',
  )
  return layers => {
    const top = layers
      .at(-1)
      ?.split('/')[0]
      ?.replace(/\.tar$/, '')
    const names: string[] = []
    for (const [name, tags] of Object.entries(object)) {
      for (const [tag, id] of Object.entries(asObject(tags, 'repositories')))
        if (id === top) names.push(`${name}:${tag}`)
    }
    return names
  }
}

export interface DockerArchiveImage {
  /** `docker.io/library/debian:12` or `debian:12`. */
  names: readonly string[]
  /** Bytes of the image config, as they are in the store. */
  config: Buffer
  layers: readonly DockerArchiveLayer[]
}

export interface DockerArchiveLayer {
  diffId: Digest
  /** Bytes of the uncompressed tar. */
  size: number
  /** The uncompressed tar; called at most once for each diffID of the archive. */
  open(): ByteSource
}

/** A docker-archive as a tar stream; the same images give the same bytes. */
export async function* dockerArchive(
  images: readonly DockerArchiveImage[],
): AsyncGenerator<Uint8Array, void, void> {
  const written = new Set<string>()
  const items: object[] = []
  const repositories: Record<string, Record<string, string>> = {}
  for (const image of images) {
    const diffIds = parseConfig(image.config).rootfs.diff_ids
    if (
      diffIds.length !== image.layers.length ||
      image.layers.some((layer, i) => layer.diffId !== diffIds[i])
    ) {
      throw new OciError('malformed', 'the layers are not those of the image config')
    }
    for (const layer of image.layers) {
      const path = `${digestHex(layer.diffId)}.tar`
      if (written.has(path)) continue
      written.add(path)
      const source = verifying(
        layer.open(),
        { digest: layer.diffId, size: layer.size },
        `layer ${layer.diffId}`,
      )
      yield* streamedFile(path, layer.size, source)
    }
    const configPath = `${digestHex(digestOf(image.config))}.json`
    if (!written.has(configPath)) {
      written.add(configPath)
      yield memoryFileEntry({ path: configPath, data: image.config })
    }
    items.push({
      Config: configPath,
      RepoTags: image.names.length > 0 ? image.names : null,
      Layers: image.layers.map(layer => `${digestHex(layer.diffId)}.tar`),
    })
    const top = image.layers.at(-1)
    for (const name of image.names) {
      const colon = name.lastIndexOf(':')
      if (top === undefined || colon <= name.lastIndexOf('/')) continue
      ;(repositories[name.slice(0, colon)] ??= {})[name.slice(colon + 1)] = digestHex(top.diffId)
    }
  }
  if (Object.keys(repositories).length > 0) {
    yield memoryFileEntry({ path: 'repositories', data: encodeJson(repositories) })
  }
  yield memoryFileEntry({ path: 'manifest.json', data: encodeJson(items) })
  yield endOfArchive()
}
