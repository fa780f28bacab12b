import { annotationRefName, readDescriptor, type Descriptor } from './descriptor.js'
import { digestOf, type Digest } from './digest.js'
import { OciError } from './error.js'
import { asArray, asSize, asStringMap, optionalString, parseJsonObject, type JsonObject } from './json.js'
import { isIndexType, isManifestType, MediaType } from './media-types.js'

/** Bytes. Registries commonly refuse more than 4 MiB. Source: distribution-spec, "Pushing Manifests". */
export const maxManifestSize = 4 << 20
/** Docker stops at 127; overlayfs at 500. */
export const maxLayers = 4096
const maxIndexEntries = 16_384

/** An image manifest, OCI 1.0/1.1 or docker v2 schema 2: the fields are the same. Unknown fields are kept. */
export interface Manifest extends JsonObject {
  schemaVersion: 2
  mediaType?: string
  artifactType?: string
  config: Descriptor
  layers: Descriptor[]
  annotations?: Record<string, string>
}

/** An OCI image index or a docker manifest list. */
export interface Index extends JsonObject {
  schemaVersion: 2
  mediaType?: string
  manifests: Descriptor[]
  annotations?: Record<string, string>
}

/** Parsed content together with the bytes that its digest is of. */
export interface ManifestContent {
  kind: 'manifest'
  mediaType: string
  digest: Digest
  bytes: Buffer
  manifest: Manifest
}
export interface IndexContent {
  kind: 'index'
  mediaType: string
  digest: Digest
  bytes: Buffer
  index: Index
}

/**
 * Reads a manifest or an index, told apart by `mediaType` (of the descriptor or the HTTP header), by the mediaType
 * field inside, or by shape. The two must not contradict each other (CVE-2021-41190: one digest, two meanings).
 * @throws OciError `malformed`, `limit`, `unsupported` (docker schema 1)
 */
export function parseManifest(
  bytes: Buffer,
  mediaType?: string,
  max = maxManifestSize,
): ManifestContent | IndexContent {
  const object = parseJsonObject(bytes, max, 'manifest')
  if (asSize(object['schemaVersion'], 'manifest.schemaVersion') === 1) {
    throw new OciError(
      'unsupported',
      'the image has a docker schema 1 manifest (before 2016); push it again with a newer tool',
    )
  }
  if (object['schemaVersion'] !== 2) throw new OciError('malformed', 'manifest.schemaVersion is not 2')
  const inner = optionalString(object['mediaType'], 'manifest.mediaType', 255)
  const known = (type: string | undefined) =>
    type !== undefined && (isIndexType(type) || isManifestType(type))
  if (known(mediaType) && inner !== undefined && inner !== mediaType) {
    throw new OciError('malformed', `manifest says it is ${inner} but was announced as ${mediaType}`)
  }
  if ('manifests' in object && ('layers' in object || 'config' in object)) {
    throw new OciError('malformed', 'manifest has both layers and manifests')
  }
  const shape = 'manifests' in object ? MediaType.ociIndex : MediaType.ociManifest
  const type = (known(mediaType) ? mediaType : undefined) ?? inner ?? shape
  if (isIndexType(type) && !('manifests' in object))
    throw new OciError('malformed', 'the index has no manifests')
  const digest = digestOf(bytes)
  if (isIndexType(type)) return { kind: 'index', mediaType: type, digest, bytes, index: readIndex(object) }
  if (isManifestType(type))
    return { kind: 'manifest', mediaType: type, digest, bytes, manifest: readManifest(object) }
  throw new OciError('unsupported', `manifest of type ${type} is not an image`)
}

function readManifest(object: JsonObject): Manifest {
  const layers = asArray(object['layers'], maxLayers, 'manifest.layers')
  const manifest: Manifest = {
    ...object,
    schemaVersion: 2,
    config: readDescriptor(object['config'], 'manifest.config'),
    layers: layers.map((layer, i) => readDescriptor(layer, `manifest.layers[${i}]`)),
  }
  if (object['annotations'])
    manifest.annotations = asStringMap(object['annotations'], 1024, 'manifest.annotations')
  else delete manifest.annotations
  return manifest
}

function readIndex(object: JsonObject): Index {
  const manifests = asArray(object['manifests'], maxIndexEntries, 'index.manifests')
  const index: Index = {
    ...object,
    schemaVersion: 2,
    manifests: manifests.map((entry, i) => readDescriptor(entry, `index.manifests[${i}]`)),
  }
  if (object['annotations']) index.annotations = asStringMap(object['annotations'], 1024, 'index.annotations')
  else delete index.annotations
  return index
}

/** The bytes of JSON as this project writes it: no white space, keys in the order given. Same value, same digest. */
export function encodeJson(value: object): Buffer {
  return Buffer.from(JSON.stringify(value))
}

export function descriptorOf(
  mediaType: string,
  bytes: Uint8Array,
  more: Partial<Descriptor> = {},
): Descriptor {
  return { mediaType, digest: digestOf(bytes), size: bytes.length, ...more }
}

/** A new OCI or docker image manifest. */
export function buildManifest(
  config: Descriptor,
  layers: Descriptor[],
  dialect: 'oci' | 'docker' = 'oci',
  annotations?: Record<string, string>,
): ManifestContent {
  const mediaType = dialect === 'oci' ? MediaType.ociManifest : MediaType.dockerManifest
  const manifest: Manifest = {
    schemaVersion: 2,
    mediaType,
    config,
    layers,
    ...(annotations ? { annotations } : {}),
  }
  const bytes = encodeJson(manifest)
  return { kind: 'manifest', mediaType, digest: digestOf(bytes), bytes, manifest }
}

export function buildIndex(manifests: Descriptor[], dialect: 'oci' | 'docker' = 'oci'): IndexContent {
  const mediaType = dialect === 'oci' ? MediaType.ociIndex : MediaType.dockerIndex
  const index: Index = { schemaVersion: 2, mediaType, manifests }
  const bytes = encodeJson(index)
  return { kind: 'index', mediaType, digest: digestOf(bytes), bytes, index }
}

/** The name that an entry of index.json carries, if any. */
export function refName(descriptor: Descriptor): string | undefined {
  return descriptor.annotations?.[annotationRefName]
}
