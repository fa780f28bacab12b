import type { Descriptor } from './descriptor.js'
import { OciError, type ByteSource } from './error.js'
import type { IndexContent, ManifestContent } from './manifest.js'
import { choosePlatform, hostPlatform, type Platform } from './platform.js'

/** One image as an archive or a registry names it. */
export interface SourceImage {
  /** As they are written there: full references, or just tags in an OCI layout. May be empty. */
  names: string[]
  /** Of a manifest or an index. */
  descriptor: Descriptor
}

/** Where images come from: a layout, an archive, a registry. Everything it gives is verified against its digest. */
export interface ImageSource {
  readonly kind: 'oci-layout' | 'docker-archive' | 'registry'
  readonly images: readonly SourceImage[]
  /** @throws OciError `not-found`, `digest`, `malformed` */
  manifest(descriptor: Descriptor): Promise<ManifestContent | IndexContent>
  /** The bytes of a config or layer; the iteration throws OciError `digest` or `size` at the end when they are wrong. */
  blob(descriptor: Descriptor): ByteSource
  close(): Promise<void>
}

/**
 * The image manifest for a platform: follows indexes, also nested ones.
 * @throws OciError `not-found` when there is none for it
 */
export async function resolveManifest(
  source: Pick<ImageSource, 'manifest'>,
  descriptor: Descriptor,
  platform: Platform = hostPlatform(),
): Promise<ManifestContent> {
  let content = await source.manifest(descriptor)
  for (let depth = 0; content.kind === 'index'; depth++) {
    if (depth > 4) break
    content = await source.manifest(choosePlatform(content.index.manifests, platform))
  }
  if (content.kind === 'index') throw new OciError('malformed', 'the index refers to indexes without end')
  return content
}
