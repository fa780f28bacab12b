/**
 * A client of the OCI distribution API for one repository.
 * Source: opencontainers/distribution-spec 1.1; docker's registry for what the specification leaves open.
 */
import { open as openFile } from 'node:fs/promises'
import { findCredentials, type Credentials } from './auth-file.js'
import type { Descriptor } from './descriptor.js'
import { digestAlgorithm, Digester, isDigest, verifyBytes, verifying, type Digest } from './digest.js'
import { OciError, readAll, type ByteSource, type Progress } from './error.js'
import {
  backOff,
  discard,
  errorText,
  isCertificateError,
  isLoopback,
  isTransient,
  networkError,
  Transport,
  type Body,
  type HttpRequest,
  type HttpResponse,
} from './http-transport.js'
import type { ImageSource, SourceImage } from './image-source.js'
import { asArray, asStrings, parseJsonObject } from './json.js'
import type { BlobToWrite } from './layout.js'
import { maxManifestSize, parseManifest, type IndexContent, type ManifestContent } from './manifest.js'
import { isForeignLayerType, manifestAccept } from './media-types.js'
import { RegistryAuth } from './registry-auth.js'
import {
  formatReference,
  referenceTarget,
  registryHost,
  repositoryName,
  type Reference,
} from './reference.js'

export interface RegistryOptions {
  /** Absent: from the files of docker and podman (auth-file.ts). `null`: anonymous. */
  credentials?: Credentials | null | undefined
  /** Plain HTTP, or TLS with a certificate that nobody vouches for. Loopback may always be plain HTTP. */
  insecure?: boolean
  /** Of one request, with back-off. Default 5. */
  retries?: number
  signal?: AbortSignal | undefined
}

export interface PullBlobOptions {
  onProgress?: Progress | undefined
  /** Begin here, e.g. after what an earlier attempt has left. Then nothing is verified: the caller has the beginning. */
  offset?: number
}

export interface PushBlobOptions {
  /** Repositories of the same registry (`team/base`) that may have the blob: it is then mounted, not sent. */
  mountFrom?: readonly string[]
  /** Bytes per PATCH request; absent: all in one PUT. */
  chunkSize?: number
  onProgress?: Progress | undefined
}

export type PushResult = 'exists' | 'mounted' | 'pushed'

/** What the registry calls the access that is needed. */
type Action = 'pull' | 'pull,push'

export class Registry implements ImageSource {
  readonly kind = 'registry'
  readonly images: readonly SourceImage[] = []
  readonly #transport: Transport
  readonly #auth: RegistryAuth
  readonly #base: URL
  readonly #signal: AbortSignal | undefined

  private constructor(
    readonly reference: Reference,
    base: URL,
    transport: Transport,
    auth: RegistryAuth,
    signal: AbortSignal | undefined,
  ) {
    this.#base = base
    this.#transport = transport
    this.#auth = auth
    this.#signal = signal
  }

  /**
   * Finds out how the registry is spoken to (TLS or not, which authentication).
   * @throws OciError `network`, `registry`
   */
  static async connect(reference: Reference, options: RegistryOptions = {}): Promise<Registry> {
    const host = registryHost(reference.domain)
    const credentials =
      options.credentials === undefined
        ? await findCredentials(repositoryName(reference))
        : (options.credentials ?? undefined)
    const hostname = new URL(`http://${host}`).hostname
    const mayBePlain = options.insecure === true || isLoopback(hostname)
    const transport = new Transport({
      host,
      skipVerify: options.insecure === true,
      ...(options.retries === undefined ? {} : { retries: options.retries }),
    })
    const auth = new RegistryAuth(transport, reference.domain, credentials)
    try {
      let failure: unknown
      for (const scheme of mayBePlain ? ['https', 'http'] : ['https']) {
        const base = new URL(`${scheme}://${host}/v2/`)
        try {
          // on the way to plain HTTP, TLS gets one attempt
          const request: HttpRequest = { method: 'GET', url: base, signal: options.signal }
          const response =
            scheme === 'https' && mayBePlain ? await transport.once(request) : await transport.send(request)
          await checkPing(response, auth, reference.domain)
          return new Registry(reference, base, transport, auth, options.signal)
        } catch (error) {
          if (error instanceof OciError && error.code === 'unauthorized') throw error
          if (isCertificateError(error)) throw networkError(error, base)
          failure ??= error
          if (scheme === 'http') failure = error
        }
      }
      throw failure
    } catch (error) {
      transport.close()
      throw error
    }
  }

  /** Whether the registry accepts us at all. @throws OciError `unauthorized` */
  async ping(): Promise<void> {
    const authorization = await this.#auth.header([], this.#signal)
    const headers = authorization === undefined ? {} : { authorization }
    const response = await this.#transport.send({
      method: 'GET',
      url: this.#base,
      headers,
      signal: this.#signal,
    })
    if (response.status !== 200) return this.#fail(response, 'login')
    discard(response)
  }

  get repository(): string {
    return repositoryName(this.reference)
  }

  #url(path: string): URL {
    return new URL(`${this.reference.path}/${path}`, this.#base)
  }

  /** Asks with the access `action`, once more with a fresh token when the first one was refused. */
  async #ask(
    request: Omit<HttpRequest, 'signal'>,
    action: Action,
    options: { alsoFrom?: string; once?: boolean } = {},
  ): Promise<HttpResponse> {
    const scopes = [`repository:${this.reference.path}:${action}`]
    if (options.alsoFrom !== undefined) scopes.push(`repository:${options.alsoFrom}:pull`)
    for (let attempt = 0; ; attempt++) {
      // a location may be on another host, which is none of the token's business
      const own = request.url.host === this.#base.host && request.url.protocol === this.#base.protocol
      const authorization = own ? await this.#auth.header(scopes, this.#signal) : undefined
      const headers = { ...request.headers, ...(authorization === undefined ? {} : { authorization }) }
      const full = { ...request, headers, signal: this.#signal }
      const response =
        options.once === true ? await this.#transport.once(full) : await this.#transport.send(full)
      if (response.status !== 401 || attempt > 0) return response
      this.#auth.drop(scopes)
      const known = this.#auth.learn(response.headers['www-authenticate'])
      if (!known) return response
      discard(response)
    }
  }

  async #fail(response: HttpResponse, what: string): Promise<never> {
    const text = await errorText(response)
    const where = `${what} at ${this.reference.domain}`
    if (response.status === 404) throw new OciError('not-found', `${where}: not found: ${text}`)
    if (response.status === 401 || response.status === 403)
      throw new OciError('unauthorized', `${where}: access denied: ${text}`)
    throw new OciError('registry', `${where}: ${text}`)
  }

  // Pull

  /** The manifest or index that the reference names; `descriptor.digest` is to be kept for later. */
  async resolve(target = referenceTarget(this.reference)): Promise<ManifestContent | IndexContent> {
    const what = `manifest ${formatReference({ ...this.reference })}`
    const response = await this.#ask(
      {
        method: 'GET',
        url: this.#url(`manifests/${target}`),
        headers: { accept: manifestAccept.join(', ') },
      },
      'pull',
    )
    if (response.status !== 200) return this.#fail(response, what)
    const bytes = await readAll(response.body, maxManifestSize, what)
    if (isDigest(target)) verifyBytes(bytes, { digest: target }, what)
    const stated = response.headers['docker-content-digest']
    if (!isDigest(target) && isDigest(stated)) verifyBytes(bytes, { digest: stated }, what)
    const mediaType = response.headers['content-type']?.split(';')[0]?.trim()
    return parseManifest(bytes, mediaType)
  }

  /** Digest, size and type of what a tag names, without its content. undefined when there is no such tag. */
  async head(target = referenceTarget(this.reference)): Promise<Descriptor | undefined> {
    const response = await this.#ask(
      {
        method: 'HEAD',
        url: this.#url(`manifests/${target}`),
        headers: { accept: manifestAccept.join(', ') },
      },
      'pull',
    )
    discard(response)
    if (response.status === 404) return undefined
    if (response.status !== 200) return this.#fail(response, `manifest ${target}`)
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
        if (failures > this.#transport.retries) {
          throw new OciError(
            'network',
            `blob ${digest}: ${(error as Error).message} after ${at} of ${size} bytes`,
            {
              cause: error,
            },
          )
        }
        await backOff(failures - 1, undefined, this.#signal)
      }
    }
  }

  async #openBlob(descriptor: Descriptor, offset: number): Promise<HttpResponse> {
    const headers: Record<string, string> = { 'accept-encoding': 'identity' }
    if (offset > 0) headers['range'] = `bytes=${offset}-`
    let response = await this.#ask(
      { method: 'GET', url: this.#url(`blobs/${descriptor.digest}`), headers },
      'pull',
    )
    if (response.status === 404 && isForeignLayerType(descriptor.mediaType)) {
      for (const text of descriptor.urls ?? []) {
        const url = new URL(text)
        if (url.protocol !== 'https:') continue
        discard(response)
        response = await this.#transport.send({ method: 'GET', url, headers, signal: this.#signal })
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
    if (response.status !== 200) return this.#fail(response, `blob ${descriptor.digest}`)
    return response
  }

  /**
   * A blob into a file, continuing what an earlier, broken attempt left there; the result is verified, a file that
   * turns out wrong is emptied.
   */
  async downloadBlob(descriptor: Descriptor, file: string, onProgress?: Progress): Promise<void> {
    const handle = await openFile(file, 'a+', 0o600)
    try {
      const digester = new Digester(digestAlgorithm(descriptor.digest))
      if ((await handle.stat()).size > descriptor.size) await handle.truncate(0)
      const buffer = Buffer.allocUnsafe(1 << 20)
      for (;;) {
        const { bytesRead } = await handle.read(buffer, 0, buffer.length, digester.size)
        if (bytesRead === 0) break
        digester.update(buffer.subarray(0, bytesRead))
      }
      if (digester.size < descriptor.size || descriptor.size === 0) {
        const bytes = this.#blobBytes(descriptor, { offset: digester.size, onProgress })
        for await (const chunk of bytes) {
          digester.update(chunk)
          if (digester.size > descriptor.size) break
          await handle.appendFile(chunk)
        }
      }
      const actual = digester.digest()
      if (digester.size !== descriptor.size || actual !== descriptor.digest) {
        await handle.truncate(0)
        throw new OciError(
          'digest',
          `blob ${descriptor.digest}: got ${digester.size} bytes with digest ${actual}`,
        )
      }
    } finally {
      await handle.close()
    }
  }

  // Push

  async hasBlob(descriptor: Descriptor): Promise<boolean> {
    const response = await this.#ask(
      { method: 'HEAD', url: this.#url(`blobs/${descriptor.digest}`) },
      'pull,push',
    )
    discard(response)
    if (response.status === 404) return false
    if (response.status !== 200) return this.#fail(response, `blob ${descriptor.digest}`)
    return true
  }

  /** Sends a blob unless the registry has it, or can take it from another of its repositories. */
  async pushBlob(blob: BlobToWrite, options: PushBlobOptions = {}): Promise<PushResult> {
    const { descriptor } = blob
    if (await this.hasBlob(descriptor)) return 'exists'
    for (const from of options.mountFrom ?? []) {
      if (from === this.reference.path) continue
      const location = await this.#mount(descriptor, from)
      if (location === undefined) return 'mounted'
      // the registry opened an upload instead; it is left to expire and the next one asked
    }
    if (options.chunkSize !== undefined) {
      const sent = await this.pushStream(blob.open(), options)
      if (sent.digest !== descriptor.digest) {
        throw new OciError('digest', `blob ${descriptor.digest} turned out to be ${sent.digest}`)
      }
    } else await this.#pushWhole(blob, options)
    return 'pushed'
  }

  /** @returns undefined when mounted, else where an upload may go */
  async #mount(descriptor: Descriptor, from: string): Promise<URL | undefined> {
    const url = this.#url('blobs/uploads/')
    url.searchParams.set('mount', descriptor.digest)
    url.searchParams.set('from', from)
    const response = await this.#ask({ method: 'POST', url }, 'pull,push', { alsoFrom: from })
    if (response.status === 201) {
      discard(response)
      return undefined
    }
    // no right to read there, or no such repository: then it is sent
    discard(response)
    return response.status === 202 ? this.#location(response) : url
  }

  #location(response: HttpResponse): URL {
    const { location } = response.headers
    if (location === undefined)
      throw new OciError('registry', `${this.reference.domain} says not where to send the blob`)
    const url = new URL(location, response.url)
    if (this.#base.protocol === 'https:' && url.protocol !== 'https:') {
      throw new OciError(
        'registry',
        `${this.reference.domain} wants the blob over plain http at ${url.host}: refused`,
      )
    }
    return url
  }

  async #startUpload(): Promise<URL> {
    const response = await this.#ask({ method: 'POST', url: this.#url('blobs/uploads/') }, 'pull,push')
    if (response.status !== 202) return this.#fail(response, 'upload')
    discard(response)
    return this.#location(response)
  }

  async #pushWhole(blob: BlobToWrite, options: PushBlobOptions): Promise<void> {
    const { descriptor } = blob
    for (let attempt = 0; ; attempt++) {
      try {
        const url = await this.#startUpload()
        url.searchParams.set('digest', descriptor.digest)
        const body: Body = {
          size: descriptor.size,
          open: () =>
            counted(
              verifying(blob.open(), descriptor, `blob ${descriptor.digest}`),
              descriptor.size,
              options.onProgress,
            ),
        }
        const headers = { 'content-type': 'application/octet-stream' }
        const response = await this.#ask({ method: 'PUT', url, headers, body }, 'pull,push', { once: true })
        if (response.status !== 201 && response.status !== 204) {
          if (response.status < 500 && response.status !== 429)
            return await this.#fail(response, `blob ${descriptor.digest}`)
          const text = await errorText(response)
          throw Object.assign(new Error(text), { code: 'ECONNRESET' })
        }
        discard(response)
        return
      } catch (error) {
        if (!isTransient(error)) throw error
        if (attempt >= this.#transport.retries) {
          throw new OciError('network', `sending blob ${descriptor.digest}: ${(error as Error).message}`, {
            cause: error,
          })
        }
        await backOff(attempt, undefined, this.#signal)
      }
    }
  }

  /**
   * Sends bytes whose digest is known only at their end (a layer that is compressed on the way), in chunks that are kept
   * until the registry has them.
   */
  async pushStream(
    source: ByteSource,
    options: PushBlobOptions = {},
  ): Promise<{ digest: Digest; size: number }> {
    const chunkSize = options.chunkSize ?? 8 << 20
    const digester = new Digester()
    let url = await this.#startUpload()
    let sent = 0
    const send = async (chunk: Buffer): Promise<void> => {
      url = await this.#patch(url, chunk, sent)
      sent += chunk.length
      options.onProgress?.(sent, undefined)
    }
    let parts: Buffer[] = []
    let gathered = 0
    for await (const chunk of source) {
      digester.update(chunk)
      parts.push(Buffer.from(chunk))
      gathered += chunk.length
      if (gathered >= chunkSize) {
        await send(Buffer.concat(parts))
        parts = []
        gathered = 0
      }
    }
    if (gathered > 0) await send(Buffer.concat(parts))
    const digest = digester.digest()
    url.searchParams.set('digest', digest)
    const response = await this.#ask({ method: 'PUT', url }, 'pull,push')
    if (response.status !== 201 && response.status !== 204) return this.#fail(response, `blob ${digest}`)
    discard(response)
    return { digest, size: sent }
  }

  async #patch(url: URL, chunk: Buffer, offset: number): Promise<URL> {
    let start = 0
    for (let attempt = 0; ; attempt++) {
      const rest = chunk.subarray(start)
      try {
        const response = await this.#ask(
          {
            method: 'PATCH',
            url,
            headers: {
              'content-type': 'application/octet-stream',
              'content-range': `${offset + start}-${offset + chunk.length - 1}`,
            },
            body: memoryBody(rest),
          },
          'pull,push',
          { once: true },
        )
        if (response.status === 202 || response.status === 204) {
          discard(response)
          return this.#location(response)
        }
        if (response.status !== 416 && response.status < 500 && response.status !== 429)
          return await this.#fail(response, 'upload')
        const text = await errorText(response)
        throw Object.assign(new Error(text), { code: 'ECONNRESET' })
      } catch (error) {
        if (!isTransient(error)) throw error
        if (attempt >= this.#transport.retries) {
          throw new OciError('network', `upload: ${(error as Error).message}`, { cause: error })
        }
        await backOff(attempt, undefined, this.#signal)
        // how much of it has arrived
        const status = await this.#ask({ method: 'GET', url }, 'pull,push')
        discard(status)
        if (status.status !== 204 && status.status !== 202) return this.#fail(status, 'upload')
        const end = /^(?:bytes=)?0-(\d+)$/.exec(status.headers['range'] ?? '')?.[1]
        const have = end === undefined || (end === '0' && offset === 0) ? 0 : Number(end) + 1
        if (have < offset || have > offset + chunk.length) {
          throw new OciError('registry', `${this.reference.domain} lost a part of the upload`)
        }
        start = have - offset
        if (status.headers.location !== undefined) url = this.#location(status)
        if (start === chunk.length) return url
      }
    }
  }

  /**
   * Makes a manifest or index known under a tag or its digest. Its blobs must be there.
   * @returns the digest
   */
  async pushManifest(
    content: { bytes: Buffer; mediaType: string; digest: Digest },
    target: string = this.reference.tag ?? content.digest,
  ): Promise<Digest> {
    const response = await this.#ask(
      {
        method: 'PUT',
        url: this.#url(`manifests/${target}`),
        headers: { 'content-type': content.mediaType },
        body: memoryBody(content.bytes),
      },
      'pull,push',
    )
    if (response.status !== 201 && response.status !== 200) return this.#fail(response, `manifest ${target}`)
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
    let url: URL | undefined = this.#url('tags/list?n=1000')
    for (let page = 0; url !== undefined && page < 1000; page++) {
      const response: HttpResponse = await this.#ask({ method: 'GET', url }, 'pull')
      if (response.status !== 200) return this.#fail(response, `tags of ${this.repository}`)
      const object = parseJsonObject(await readAll(response.body, 16 << 20, 'tag list'), 16 << 20, 'tag list')
      tags.push(...asStrings(asArray(object['tags'], 1 << 20, 'tags'), 1 << 20, 'tags', 256))
      const next = /<([^>]+)>\s*;\s*rel="?next"?/i.exec(String(response.headers['link'] ?? ''))?.[1]
      const following: URL | undefined = next === undefined ? undefined : new URL(next, url)
      url = following?.host === this.#base.host ? following : undefined
    }
    return tags
  }

  async close(): Promise<void> {
    this.#transport.close()
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

async function checkPing(response: HttpResponse, auth: RegistryAuth, domain: string): Promise<void> {
  discard(response)
  if (response.status === 200) return
  if (response.status === 401 && auth.learn(response.headers['www-authenticate'])) return
  if (response.status === 401)
    throw new OciError('unauthorized', `${domain} wants a kind of login that is not known here`)
  throw new OciError('registry', `${domain} is not a registry: HTTP ${response.status} for /v2/`)
}

async function* counted(
  source: ByteSource,
  total: number,
  onProgress?: Progress,
): AsyncGenerator<Uint8Array, void, void> {
  let done = 0
  for await (const chunk of source) {
    yield chunk
    done += chunk.length
    onProgress?.(done, total)
  }
}

function memoryBody(bytes: Buffer): Body {
  return {
    size: bytes.length,
    async *open() {
      yield bytes
    },
  }
}
