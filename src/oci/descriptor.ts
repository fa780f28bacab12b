import { parseDigest, type Digest } from './digest.js'
import {
  asObject,
  asSize,
  asString,
  asStringMap,
  asStrings,
  optionalString,
  type JsonObject,
} from './json.js'
import { readPlatform, type Platform } from './platform.js'

/** Points at content by digest. Source: OCI image-spec descriptor.md. Unknown fields are kept. */
export interface Descriptor extends JsonObject {
  mediaType: string
  digest: Digest
  /** Bytes. */
  size: number
  annotations?: Record<string, string>
  urls?: string[]
  platform?: Platform
}

export const annotationRefName = 'org.opencontainers.image.ref.name'
/** Full reference; containerd and buildkit write it beside ref.name, which then has only the tag. */
export const annotationImageName = 'io.containerd.image.name'

export function readDescriptor(value: unknown, what: string): Descriptor {
  const object = asObject(value, what)
  const descriptor: Descriptor = {
    ...object,
    mediaType: optionalString(object['mediaType'], `${what}.mediaType`, 255) ?? '',
    digest: parseDigest(object['digest'], `${what}.digest`),
    size: asSize(object['size'], `${what}.size`),
  }
  if (object['annotations'])
    descriptor.annotations = asStringMap(object['annotations'], 1024, `${what}.annotations`)
  else delete descriptor.annotations
  if (object['urls']) descriptor.urls = asStrings(object['urls'], 64, `${what}.urls`, 8192)
  else delete descriptor.urls
  const platform = readPlatform(object['platform'], `${what}.platform`)
  if (platform) descriptor.platform = platform
  else delete descriptor.platform
  return descriptor
}

/** The media type, or an error that names what is missing: for places where the spec demands one. */
export function requireMediaType(descriptor: Descriptor, what: string): string {
  return asString(descriptor.mediaType || undefined, `${what}.mediaType`)
}
