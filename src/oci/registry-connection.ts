/**
 * A connection to one repository of a registry: how it is spoken to, tokens, errors in words. What is asked is in registry.ts and
 * registry-upload.ts. Source: opencontainers/distribution-spec 1.1; docker's registry for what the specification leaves open.
 */
import { findCredentials, type Credentials } from './auth-file.js'
import { OciError } from './error.js'
import {
  discard,
  errorText,
  isCertificateError,
  isLoopback,
  networkError,
  Transport,
  type HttpRequest,
  type HttpResponse,
} from './http-transport.js'
import { RegistryAuth } from './registry-auth.js'
import { registryHost, repositoryName, type Reference } from './reference.js'

export interface RegistryOptions {
  /** Absent: from the files of docker and podman (auth-file.ts). `null`: anonymous. */
  credentials?: Credentials | null | undefined
  /** Plain HTTP, or TLS with a certificate that nobody vouches for. Loopback may always be plain HTTP. */
  insecure?: boolean
  /** Of one request, with back-off. Default 5. */
  retries?: number
  signal?: AbortSignal | undefined
}

/** What the registry calls the access that is needed. */
type Action = 'pull' | 'pull,push'

export class RegistryConnection {
  readonly transport: Transport
  readonly #auth: RegistryAuth
  readonly base: URL
  readonly signal: AbortSignal | undefined

  private constructor(
    readonly reference: Reference,
    base: URL,
    transport: Transport,
    auth: RegistryAuth,
    signal: AbortSignal | undefined,
  ) {
    this.base = base
    this.transport = transport
    this.#auth = auth
    this.signal = signal
  }

  /**
   * Finds out how the registry is spoken to (TLS or not, which authentication).
   * @throws OciError `network`, `registry`
   */
  static async connect(reference: Reference, options: RegistryOptions = {}): Promise<RegistryConnection> {
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
          return new RegistryConnection(reference, base, transport, auth, options.signal)
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
    const authorization = await this.#auth.header([], this.signal)
    const headers = authorization === undefined ? {} : { authorization }
    const response = await this.transport.send({
      method: 'GET',
      url: this.base,
      headers,
      signal: this.signal,
    })
    if (response.status !== 200) return this.fail(response, 'login')
    discard(response)
  }

  url(path: string): URL {
    return new URL(`${this.reference.path}/${path}`, this.base)
  }

  /** Asks with the access `action`, once more with a fresh token when the first one was refused. */
  async ask(
    request: Omit<HttpRequest, 'signal'>,
    action: Action,
    options: { alsoFrom?: string; once?: boolean } = {},
  ): Promise<HttpResponse> {
    const scopes = [`repository:${this.reference.path}:${action}`]
    if (options.alsoFrom !== undefined) scopes.push(`repository:${options.alsoFrom}:pull`)
    for (let attempt = 0; ; attempt++) {
      // a location may be on another host, which is none of the token's business
      const own = request.url.host === this.base.host && request.url.protocol === this.base.protocol
      const authorization = own ? await this.#auth.header(scopes, this.signal) : undefined
      const headers = { ...request.headers, ...(authorization === undefined ? {} : { authorization }) }
      const full = { ...request, headers, signal: this.signal }
      const response =
        options.once === true ? await this.transport.once(full) : await this.transport.send(full)
      if (response.status !== 401 || attempt > 0) return response
      this.#auth.drop(scopes)
      const known = this.#auth.learn(response.headers['www-authenticate'])
      if (!known) return response
      discard(response)
    }
  }

  async fail(response: HttpResponse, what: string): Promise<never> {
    const text = await errorText(response)
    const where = `${what} at ${this.reference.domain}`
    if (response.status === 404) throw new OciError('not-found', `${where}: not found: ${text}`)
    if (response.status === 401 || response.status === 403)
      throw new OciError('unauthorized', `${where}: access denied: ${text}`)
    throw new OciError('registry', `${where}: ${text}`)
  }

  location(response: HttpResponse): URL {
    const { location } = response.headers
    if (location === undefined)
      throw new OciError('registry', `${this.reference.domain} says not where to send the blob`)
    const url = new URL(location, response.url)
    if (this.base.protocol === 'https:' && url.protocol !== 'https:') {
      throw new OciError(
        'registry',
        `${this.reference.domain} wants the blob over plain http at ${url.host}: refused`,
      )
    }
    return url
  }

  close(): void {
    this.transport.close()
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
