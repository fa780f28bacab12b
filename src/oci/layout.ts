/**
 * OCI image layouts, as directories and as tar ("oci-archive").
 * Source: OCI image-spec image-layout.md 1.1.
 */
import { createWriteStream } from 'node:fs'
import { mkdir, open, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { annotationImageName, annotationRefName, type Descriptor } from './descriptor.js'
import { digestAlgorithm, digestHex, verifyBytes, verifying, type Digest } from './digest.js'
import { OciError, readAll, type ByteSource } from './error.js'
import { openFileSet, readSmall, type FileSet } from './file-set.js'
import type { ImageSource, SourceImage } from './image-source.js'
import { asString, parseJsonObject } from './json.js'
import {
  buildIndex,
  encodeJson,
  maxManifestSize,
  parseManifest,
  type Index,
  type IndexContent,
  type ManifestContent,
} from './manifest.js'
import { MediaType } from './media-types.js'
import { memoryFileEntry, streamedFile } from './tar-entries.js'
import { endOfArchive } from './tar-writer.js'

export const layoutMarker = encodeJson({ imageLayoutVersion: '1.0.0' })
/** One index.json may name thousands of images, each with annotations. */
const maxIndexSize = 64 << 20

export function blobPath(digest: Digest): string {
  return `blobs/${digestAlgorithm(digest)}/${digestHex(digest)}`
}

/** @throws OciError `not-found` when it is no layout, `malformed`, `unsupported` version */
export async function openLayout(source: string | ByteSource, temp?: string): Promise<ImageSource> {
  const files = await openFileSet(source, temp)
  try {
    return await LayoutSource.open(files)
  } catch (error) {
    await files.close()
    throw error
  }
}

export async function isLayout(files: FileSet): Promise<boolean> {
  return (await files.size('index.json')) !== undefined && (await files.size('oci-layout')) !== undefined
}

/** A layout read through any FileSet, which it closes in the end. */
export class LayoutSource implements ImageSource {
  readonly kind = 'oci-layout'

  private constructor(
    readonly files: FileSet,
    readonly index: Index,
    readonly images: readonly SourceImage[],
  ) {}

  static async open(files: FileSet): Promise<LayoutSource> {
    const marker = parseJsonObject(await readSmall(files, 'oci-layout', 4096), 4096, 'oci-layout')
    const version = asString(marker['imageLayoutVersion'], 'oci-layout: imageLayoutVersion')
    if (!version.startsWith('1.')) throw new OciError('unsupported', `OCI layout of version ${version}`)
    const bytes = await readSmall(files, 'index.json', maxIndexSize)
    const content = readIndexJson(bytes)
    const images = new Map<string, SourceImage>()
    for (const descriptor of content.manifests) {
      const image = images.get(descriptor.digest) ?? { names: [], descriptor }
      const { [annotationImageName]: full, [annotationRefName]: name } = descriptor.annotations ?? {}
      const wanted = full ?? name
      if (wanted !== undefined && !image.names.includes(wanted)) image.names.push(wanted)
      images.set(descriptor.digest, image)
    }
    return new LayoutSource(files, content, [...images.values()])
  }

  async manifest(descriptor: Descriptor): Promise<ManifestContent | IndexContent> {
    const bytes = await readAll(this.blob(descriptor), maxManifestSize, `manifest ${descriptor.digest}`)
    return parseManifest(bytes, descriptor.mediaType || undefined)
  }

  blob(descriptor: Descriptor): ByteSource {
    const path = blobPath(descriptor.digest)
    return verifying(this.files.read(path), descriptor, `blob ${descriptor.digest}`)
  }

  close(): Promise<void> {
    return this.files.close()
  }
}

/** index.json may be larger than what a registry takes, and need not say its media type. */
function readIndexJson(bytes: Buffer): Index {
  const content = parseManifest(bytes, MediaType.ociIndex, maxIndexSize)
  if (content.kind !== 'index') throw new OciError('malformed', 'index.json is not an image index')
  return content.index
}

/** Something to be written under its digest. `open` is called at most once. */
export interface BlobToWrite {
  descriptor: Descriptor
  open(): ByteSource
}

export function memoryBlob(descriptor: Descriptor, bytes: Buffer): BlobToWrite {
  return {
    descriptor,
    async *open() {
      verifyBytes(bytes, descriptor, `blob ${descriptor.digest}`)
      yield bytes
    },
  }
}

/** Entries for index.json: one for each name, as skopeo and docker write them. */
export function namedEntries(descriptor: Descriptor, names: readonly string[]): Descriptor[] {
  if (names.length === 0) return [descriptor]
  return names.map(name => {
    const isFull = name.includes('/')
    const tag = isFull ? (/:([^:/@]+)(?:@.*)?$/.exec(name)?.[1] ?? 'latest') : name
    const annotations = {
      ...descriptor.annotations,
      [annotationRefName]: tag,
      ...(isFull ? { [annotationImageName]: name } : {}),
    }
    return { ...descriptor, annotations }
  })
}

/**
 * A layout as a tar stream: marker, blobs (each once, in the order given), index.json.
 * @param entries of index.json; see `namedEntries`
 */
export async function* layoutArchive(
  entries: readonly Descriptor[],
  blobs: Iterable<BlobToWrite> | AsyncIterable<BlobToWrite>,
): AsyncGenerator<Uint8Array, void, void> {
  yield memoryFileEntry({ path: 'oci-layout', data: layoutMarker })
  const written = new Set<Digest>()
  for await (const blob of blobs) {
    const { digest, size } = blob.descriptor
    if (written.has(digest)) continue
    written.add(digest)
    yield* streamedFile(blobPath(digest), size, verifying(blob.open(), blob.descriptor, `blob ${digest}`))
  }
  yield memoryFileEntry({ path: 'index.json', data: buildIndex([...entries]).bytes })
  yield endOfArchive()
}

/**
 * A layout in a directory, made or added to. Blobs go to a temporary name and are renamed when they were verified;
 * index.json is replaced last, so that a reader sees the old state or the new one.
 */
export class LayoutDirectory {
  private constructor(readonly path: string) {}

  static async open(path: string): Promise<LayoutDirectory> {
    await mkdir(join(path, 'blobs', 'sha256'), { recursive: true })
    try {
      await writeFile(join(path, 'oci-layout'), layoutMarker, { flag: 'wx' })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
    return new LayoutDirectory(path)
  }

  async has(descriptor: Descriptor): Promise<boolean> {
    try {
      return (await stat(join(this.path, blobPath(descriptor.digest)))).size === descriptor.size
    } catch {
      return false
    }
  }

  /** Does nothing when the blob is there. */
  async put(blob: BlobToWrite): Promise<void> {
    const { descriptor } = blob
    if (await this.has(descriptor)) return
    const target = join(this.path, blobPath(descriptor.digest))
    await mkdir(join(this.path, 'blobs', digestAlgorithm(descriptor.digest)), { recursive: true })
    const temporary = `${target}.${process.pid}.${Math.random().toString(36).slice(2)}.tmp`
    try {
      await pipeline(
        verifying(blob.open(), descriptor, `blob ${descriptor.digest}`),
        createWriteStream(temporary, { flags: 'wx', mode: 0o644 }),
      )
      await rename(temporary, target)
    } catch (error) {
      await rm(temporary, { force: true })
      throw error
    }
  }

  /** Entries of the same name are replaced, others stay. */
  async addToIndex(entries: readonly Descriptor[]): Promise<void> {
    const file = join(this.path, 'index.json')
    let old: Descriptor[] = []
    try {
      old = readIndexJson(await readFile(file)).manifests
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    }
    const keyOf = (entry: Descriptor): string =>
      entry.annotations?.[annotationImageName] ?? entry.annotations?.[annotationRefName] ?? entry.digest
    const names = new Set(entries.map(keyOf))
    const merged = [...old.filter(entry => !names.has(keyOf(entry))), ...entries]
    const temporary = `${file}.${process.pid}.tmp`
    const handle = await open(temporary, 'w', 0o644)
    try {
      await handle.writeFile(buildIndex(merged).bytes)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(temporary, file)
  }
}
