/** A client of the OCI distribution API for one repository. */
import type { Credentials } from './auth-file.js'
import type { Descriptor } from './descriptor.js'
import { isDigest, verifyBytes, verifying, type Digest } from './digest.js'
import { OciError, readAll, type ByteSource, type Progress } from './error.js'
import { backOff, discard, isTransient, memoryBody, type HttpResponse } from './http-transport.js'
import type { ImageSource, SourceImage } from './image-source.js'
import { asArray, asStrings, parseJsonObject } from './json.js'
import type { BlobToWrite } from './layout.js'
import { maxManifestSize, parseManifest, type IndexContent, type ManifestContent } from './manifest.js'
import { isForeignLayerType, manifestAccept } from './media-types.js'
import { formatReference, referenceTarget, repositoryName, type Reference } from './reference.js'
import { RegistryConnection, type RegistryOptions } from './registry-connection.js'
import { BlobUpload, type PushBlobOptions } from './registry-upload.js'

export interface PullBlobOptions {
  onProgress?: Progress | undefined
  /** Begin here, e.g. after what an earlier attempt has left. Then nothing is verified: the caller has the beginning. */
  offset?: number
}

export type PushResult = 'exists' | 'mounted' | 'pushed'

export class Registry implements ImageSource {
  readonly kind = 'registry'
  readonly images: readonly SourceImage[] = []
  readonly #connection: RegistryConnection
  readonly #upload: BlobUpload

  private constructor(connection: RegistryConnection) {
    this.#connection = connection
    this.#upload = new BlobUpload(connection)
  }

  /** @throws OciError `network`, `registry`, `unauthorized` */
  static async connect(reference: Reference, options: RegistryOptions = {}): Promise<Registry> {
    return new Registry(await RegistryConnection.connect(reference, options))
  }

  get reference(): Reference {
    return this.#connection.reference
  }

  get repository(): string {
    return repositoryName(this.reference)
  }

  /** Whether the registry accepts us at all. @throws OciError `unauthorized` */
  async ping(): Promise<void> {
    await this.#connection.ping()
  }

  // Pull

  /** The manifest or index that the reference names; `descriptor.digest` is to be kept for later. */
  async resolve(target = referenceTarget(this.reference)): Promise<ManifestContent | IndexContent> {
    const what = `manifest ${formatReference({ ...this.reference })}`
    const response = await this.#connection.ask(
      {
        method: 'GET',
        url: this.#connection.url(`manifests/${target}`),
        headers: { accept: manifestAccept.join(', ') },
      },
      'pull',
    )
    if (response.status !== 200) return this.#connection.fail(response, what)
    const bytes = await readAll(response.body, maxManifestSize, what)
    if (isDigest(target)) verifyBytes(bytes, { digest: target }, what)
    const stated = response.headers['docker-content-digest']
    if (!isDigest(target) && isDigest(stated)) verifyBytes(bytes, { digest: stated }, what)
    const mediaType = response.headers['content-type']?.split(';')[0]?.trim()
    try {
      return parseManifest(bytes, mediaType)
    } catch (error) {
      if (!(error instanceof OciError) || error.message.includes(this.reference.domain)) throw error
      throw new OciError(error.code, `${what}: ${error.message}`, { cause: error })
    }
  }

  /** Digest, size and type of what a tag names, without its content. undefined when there is no such tag. */
  async head(target = referenceTarget(this.reference)): Promise<Descriptor | undefined> {
    const response = await this.#connection.ask(
      {
        method: 'HEAD',
        url: this.#connection.url(`manifests/${target}`),
        headers: { accept: manifestAccept.join(', ') },
      },
      'pull',
    )
    discard(response)
    if (response.status === 404) return undefined
    if (response.status !== 200) return this.#connection.fail(response, `manifest ${target}`)
    const digest = response.headers['docker-content-digest'] ?? (isDigest(target) ? target : undefined)
    const mediaType = response.headers['content-type']?.split(';')[0]?.trim() ?? ''
    if (!isDigest(digest)) {
      const content = await this.resolve(target)
      return { mediaType: content.mediaType, digest: content.digest, size: content.bytes.length }
    }
    return { mediaType, digest, size: Number(response.headers['content-length'] ?? 0) }
  }

  async manifest(descriptor: Descriptor): Promise<ManifestContent | IndexContent> {
    const content = await this.resolve(descriptor.digest)
    verifyBytes(content.bytes, descriptor, `manifest ${descriptor.digest}`)
    return parseManifest(content.bytes, descriptor.mediaType || content.mediaType)
  }

  /**
   * A blob; a connection that breaks is taken up where it broke. Verified at the end unless `offset` is given.
   * @throws OciError `not-found`, `digest`, `size`, `network`, `unauthorized`
   */
  blob(descriptor: Descriptor, options: PullBlobOptions = {}): ByteSource {
    const bytes = this.#blobBytes(descriptor, options)
    return options.offset ? bytes : verifying(bytes, descriptor, `blob ${descriptor.digest}`)
  }

  async *#blobBytes(
    descriptor: Descriptor,
    options: PullBlobOptions,
  ): AsyncGenerator<Uint8Array, void, void> {
    const { digest, size } = descriptor
    let at = options.offset ?? 0
    let failures = 0
    while (at < size || size === 0) {
      const before = at
      try {
        const response = await this.#openBlob(descriptor, at)
        // a server that cannot seek begins at the beginning
        let skip = response.status === 206 ? 0 : at
        for await (const chunk of response.body as AsyncIterable<Buffer>) {
          if (skip >= chunk.length) {
            skip -= chunk.length
            continue
          }
          const part = skip > 0 ? chunk.subarray(skip) : chunk
          skip = 0
          at += part.length
          yield part
          options.onProgress?.(at, size)
        }
        if (at >= size) return
        throw Object.assign(new Error('connection closed early'), { code: 'ECONNRESET' })
      } catch (error) {
        if (!isTransient(error)) throw error
        failures = at > before ? 1 : failures + 1
        if (failures > this.#connection.transport.retries) {
          throw new OciError(
            'network',
            `blob ${digest}: ${(error as Error).message} after ${at} of ${size} bytes`,
            {
              cause: error,
            },
          )
        }
        await backOff(failures - 1, undefined, this.#connection.signal)
      }
    }
  }

  async #openBlob(descriptor: Descriptor, offset: number): Promise<HttpResponse> {
    const headers: Record<string, string> = { 'accept-encoding': 'identity' }
    if (offset > 0) headers['range'] = `bytes=${offset}-`
    let response = await this.#connection.ask(
      { method: 'GET', url: this.#connection.url(`blobs/${descriptor.digest}`), headers },
      'pull',
    )
    if (response.status === 416 && offset > 0) {
      // A server that cannot, or will not, begin in the middle.
      discard(response)
      response = await this.#connection.ask(
        {
          method: 'GET',
          url: this.#connection.url(`blobs/${descriptor.digest}`),
          headers: { 'accept-encoding': 'identity' },
        },
        'pull',
      )
    }
    if (response.status === 404 && isForeignLayerType(descriptor.mediaType)) {
      for (const text of descriptor.urls ?? []) {
        const url = URL.canParse(text) ? new URL(text) : undefined
        if (url?.protocol !== 'https:') continue
        discard(response)
        response = await this.#connection.transport.send({
          method: 'GET',
          url,
          headers,
          signal: this.#connection.signal,
        })
        if (response.status === 200 || response.status === 206) break
      }
    }
    if (response.status === 206) {
      const start = /^bytes (\d+)-/.exec(response.headers['content-range'] ?? '')?.[1]
      if (start !== undefined && Number(start) !== offset) {
        discard(response)
        throw new OciError('registry', `${this.reference.domain} answered with another range than asked for`)
      }
      return response
    }
    if (response.status !== 200) return this.#connection.fail(response, `blob ${descriptor.digest}`)
    return response
  }

  // Push

  async hasBlob(descriptor: Descriptor): Promise<boolean> {
    const response = await this.#connection.ask(
      { method: 'HEAD', url: this.#connection.url(`blobs/${descriptor.digest}`) },
      'pull,push',
    )
    discard(response)
    if (response.status === 404) return false
    if (response.status !== 200) return this.#connection.fail(response, `blob ${descriptor.digest}`)
    return true
  }

  /** Sends a blob unless the registry has it, or can take it from another of its repositories. */
  async pushBlob(blob: BlobToWrite, options: PushBlobOptions = {}): Promise<PushResult> {
    const { descriptor } = blob
    if (await this.hasBlob(descriptor)) return 'exists'
    for (const from of options.mountFrom ?? []) {
      if (from === this.reference.path) continue
      const location = await this.#upload.mount(descriptor, from)
      if (location === undefined) return 'mounted'
      // the registry opened an upload instead; it is left to expire and the next one asked
    }
    if (options.chunkSize !== undefined) {
      const sent = await this.#upload.stream(blob.open(), options)
      if (sent.digest !== descriptor.digest) {
        throw new OciError('digest', `blob ${descriptor.digest} turned out to be ${sent.digest}`)
      }
    } else await this.#upload.whole(blob, options)
    return 'pushed'
  }

  /** Sends bytes whose digest is known only at their end. */
  async pushStream(
    source: ByteSource,
    options: PushBlobOptions = {},
  ): Promise<{ digest: Digest; size: number }> {
    return await this.#upload.stream(source, options)
  }

  /**
   * Makes a manifest or index known under a tag or its digest. Its blobs must be there.
   * @returns the digest
   */
  async pushManifest(
    content: { bytes: Buffer; mediaType: string; digest: Digest },
    target: string = this.reference.tag ?? content.digest,
  ): Promise<Digest> {
    const response = await this.#connection.ask(
      {
        method: 'PUT',
        url: this.#connection.url(`manifests/${target}`),
        headers: { 'content-type': content.mediaType },
        body: memoryBody(content.bytes),
      },
      'pull,push',
    )
    if (response.status !== 201 && response.status !== 200)
      return this.#connection.fail(response, `manifest ${target}`)
    discard(response)
    const stated = response.headers['docker-content-digest']
    if (isDigest(stated) && stated !== content.digest) {
      throw new OciError(
        'digest',
        `${this.reference.domain} stored the manifest as ${stated}, not ${content.digest}`,
      )
    }
    return content.digest
  }

  /** All tags, page by page. */
  async tags(): Promise<string[]> {
    const tags: string[] = []
    let url: URL | undefined = this.#connection.url('tags/list?n=1000')
    for (let page = 0; url !== undefined && page < 1000; page++) {
      const response: HttpResponse = await this.#connection.ask({ method: 'GET', url }, 'pull')
      if (response.status !== 200) return this.#connection.fail(response, `tags of ${this.repository}`)
      const object = parseJsonObject(await readAll(response.body, 16 << 20, 'tag list'), 16 << 20, 'tag list')
      tags.push(...asStrings(asArray(object['tags'], 1 << 20, 'tags'), 1 << 20, 'tags', 256))
      const next = /<([^>]+)>\s*;\s*rel="?next"?/i.exec(String(response.headers['link'] ?? ''))?.[1]
      const following: URL | undefined = next === undefined ? undefined : new URL(next, url)
      url = following?.host === this.#connection.base.host ? following : undefined
    }
    return tags
  }

  async close(): Promise<void> {
    this.#connection.close()
  }
}

/** Checks user and password for `lamina login`. @throws OciError `unauthorized` */
export async function checkLogin(
  registry: string,
  credentials: Credentials,
  options: Omit<RegistryOptions, 'credentials'> = {},
): Promise<void> {
  const client = await Registry.connect({ domain: registry, path: '' }, { ...options, credentials })
  try {
    await client.ping()
  } finally {
    await client.close()
  }
}
