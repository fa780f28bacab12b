/** `pull`: an image of a registry. */
import { createReadStream, rmSync, statSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import {
  digestHex,
  parseReference,
  repositoryName,
  verifying,
  withDefaultTag,
  formatReference,
  OciError,
} from '../oci/index.js'
import { Registry } from '../oci/registry.js'
import type { Credentials, Descriptor } from '../oci/index.js'
import { installImage, type Download, type InstallOptions, type OpenLayer } from './image-install.js'
import type { ImageRecord } from './images.js'
import type { Store } from './store.js'

export interface RegistryAccess {
  /** Plain HTTP, or TLS that nobody vouches for. Loopback may always be plain HTTP. */
  readonly insecure?: boolean
  /** Absent: from the files of docker and podman. */
  readonly credentials?: Credentials
}

export interface PullOptions extends InstallOptions, RegistryAccess {
  /** The image gets no name: what has it keeps it. */
  readonly keepName?: boolean
}

/**
 * Fetches what the store lacks of an image: several layers at once, each resumed where an earlier attempt broke off,
 * also one of another process.
 * @throws OciError not-found, unauthorized, network, digest; StoreError
 */
export async function pullImage(store: Store, ref: string, options: PullOptions = {}): Promise<ImageRecord> {
  const reference = withDefaultTag(parseReference(ref))
  const registry = await Registry.connect(reference, {
    ...(options.insecure === undefined ? {} : { insecure: options.insecure }),
    ...(options.credentials === undefined ? {} : { credentials: options.credentials }),
    signal: options.signal,
  })
  try {
    const top = await registry.resolve()
    const descriptor = { mediaType: top.mediaType, digest: top.digest, size: top.bytes.length }
    const names =
      reference.tag === undefined || options.keepName === true
        ? []
        : [formatReference({ domain: reference.domain, path: reference.path, tag: reference.tag })]
    const { image, manifest } = await installImage(
      store,
      registry,
      descriptor,
      names,
      { ...options, parallel: options.parallel ?? 3 },
      downloader(store, registry),
    )
    store.db.transaction(() => {
      const repository = repositoryName(reference)
      store.images.addRepoDigest(repository, manifest.digest, image.id)
      store.images.addRepoDigest(repository, top.digest, image.id)
      for (const layer of manifest.manifest.layers) noteSource(store, layer, reference.domain, reference.path)
    })
    return store.images.find(image.id)
  } finally {
    await registry.close()
  }
}

/**
 * Each blob is unpacked as it comes, and kept in a file of its own under partial/ until it is stored: what a broken
 * download has brought is not asked for again, by whichever process goes on. One process at a time has a blob.
 */
function downloader(store: Store, registry: Registry): OpenLayer {
  return async (descriptor, isStored, report, signal): Promise<Download | undefined> => {
    const name = `sha256-${digestHex(descriptor.digest)}`
    const file = join(store.paths.partial, name)
    const claim = await store.claims.wait('partial', name, signal)
    if (isStored()) {
      claim.release()
      return undefined
    }
    const before = sizeOf(file) ?? 0
    return {
      file,
      source: verifying(
        download(registry, descriptor, file, report),
        descriptor,
        `blob ${descriptor.digest}`,
      ),
      stored: () => {
        rmSync(file, { force: true })
        claim.release()
      },
      failed: error => {
        // What is complete and did not unpack would not the next time, nor would a beginning that a power cut has spoiled.
        const size = sizeOf(file) ?? 0
        const wrong = size >= descriptor.size || isWrongContent(error)
        if (wrong || size === 0) rmSync(file, { force: true })
        claim.release()
        return wrong && before > 0
      },
    }
  }
}

function sizeOf(file: string): number | undefined {
  return statSync(file, { throwIfNoEntry: false })?.size
}

/** Not what the layer should be, rather than not all of it. */
function isWrongContent(error: unknown): boolean {
  const codes: readonly string[] = [
    'digest',
    'size',
    'limit',
    'truncated',
    'malformed',
    'unsafe',
    'unsupported',
  ]
  return error instanceof OciError && codes.includes(error.code)
}

/** What `file` has of a blob already, then the rest from the registry, which `file` gets too. */
async function* download(
  registry: Registry,
  descriptor: Descriptor,
  file: string,
  report: (done: number) => void,
): AsyncGenerator<Uint8Array, void, void> {
  const handle = await open(file, 'a+', 0o600)
  try {
    let { size } = await handle.stat()
    if (size > descriptor.size) {
      await handle.truncate(0)
      size = 0
    }
    if (size > 0) {
      for await (const chunk of createReadStream(file, { end: size - 1, highWaterMark: 1 << 20 })) {
        yield chunk as Buffer
      }
    }
    report(size)
    if (size === descriptor.size) return
    for await (const chunk of registry.blob(descriptor, { offset: size, onProgress: done => report(done) })) {
      await handle.appendFile(chunk)
      yield chunk
    }
  } finally {
    await handle.close()
  }
}

/** Remembers that a repository has a blob, for cross-repository mounts. */
export function noteSource(
  store: Store,
  descriptor: Pick<Descriptor, 'digest'>,
  registry: string,
  repository: string,
): void {
  store.db.run(
    `INSERT OR IGNORE INTO blob_sources (digest, registry, repository) SELECT digest, ?, ? FROM blobs WHERE digest = ?`,
    registry,
    repository,
    descriptor.digest,
  )
}
