/**
 * HTTP as registries need it: bodies as streams, redirects that do not carry credentials elsewhere, retries with
 * back-off for what passes by itself. node:http rather than fetch: an upload needs its Content-Length, a registry on
 * 127.0.0.1 plain HTTP, a private registry its own certificates.
 */
import { readdirSync, readFileSync } from 'node:fs'
import * as http from 'node:http'
import * as https from 'node:https'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { rootCertificates } from 'node:tls'
import { OciError, readAll, type ByteSource } from './error.js'
import { proxyAuthorization, proxyFor, TunnelAgent } from './http-proxy.js'

/** Milliseconds without a byte after which a connection counts as dead. */
const idleTimeout = 60_000
const maxRedirects = 8
const userAgent = 'lamina (OCI distribution client)'

export interface Body {
  size: number
  /** Called again for every attempt. */
  open(): ByteSource
}

export interface HttpRequest {
  method: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  url: URL
  headers?: Record<string, string>
  body?: Body
  signal?: AbortSignal | undefined
}

export interface HttpResponse {
  status: number
  headers: http.IncomingHttpHeaders
  /** Where it came from after redirects. */
  url: URL
  /** Must be read to its end or dropped with `discard`. */
  body: Readable
}

export interface TransportOptions {
  /** Accept certificates that nobody vouches for. */
  skipVerify?: boolean
  /** Host and port, for certificates in /etc/docker/certs.d and /etc/containers/certs.d. */
  host: string
  retries?: number
}

/** Answers worth asking again for. Source: distribution-spec; docker's and containers/image's clients. */
const retryStatus = new Set([408, 425, 429, 500, 502, 503, 504])
const retryCodes = new Set([
  'ECONNRESET',
  'ETIMEDOUT',
  'EPIPE',
  'EAI_AGAIN',
  'ENETUNREACH',
  'EHOSTUNREACH',
  'ERR_STREAM_PREMATURE_CLOSE',
])

export function isLoopback(hostname: string): boolean {
  return hostname === 'localhost' || hostname === '[::1]' || /^127(?:\.\d{1,3}){3}$/.test(hostname)
}

/** Whether an error is of the kind that a second attempt may not meet. */
export function isTransient(error: unknown): boolean {
  const code = (error as { code?: unknown } | undefined)?.code
  return typeof code === 'string' && retryCodes.has(code)
}

/** Reads a body to its end without keeping it, so that the connection can be used again. */
export function discard(response: HttpResponse): void {
  response.body.resume()
}

/** Waits 0.5, 1, 2, … seconds with some jitter, or as long as the server asks (at most a minute). */
export async function backOff(
  attempt: number,
  retryAfter: string | undefined,
  signal?: AbortSignal,
): Promise<void> {
  const asked = Number(retryAfter)
  const wait =
    Number.isFinite(asked) && asked > 0 ? asked * 1000 : 500 * 2 ** attempt * (0.75 + Math.random() / 2)
  await sleep(Math.min(wait, 60_000), undefined, signal === undefined ? {} : { signal })
}

export class Transport {
  readonly #http = new http.Agent({ keepAlive: true, maxSockets: 8 })
  readonly #tls: https.AgentOptions
  readonly #https: https.Agent
  /** By proxy. */
  readonly #tunnels = new Map<string, TunnelAgent>()
  readonly retries: number

  constructor(options: TransportOptions) {
    this.retries = options.retries ?? 5
    this.#tls = {
      keepAlive: true,
      maxSockets: 8,
      rejectUnauthorized: options.skipVerify !== true,
      ...certificatesFor(options.host),
    }
    this.#https = new https.Agent(this.#tls)
  }

  close(): void {
    this.#http.destroy()
    this.#https.destroy()
    for (const agent of this.#tunnels.values()) agent.destroy()
  }

  /** With retries, for requests that may be repeated. */
  async send(request: HttpRequest): Promise<HttpResponse> {
    for (let attempt = 0; ; attempt++) {
      let retryAfter: string | undefined
      try {
        const response = await this.once(request)
        if (!retryStatus.has(response.status) || attempt >= this.retries) return response
        retryAfter = response.headers['retry-after']
        discard(response)
      } catch (error) {
        if (!isTransient(error) || attempt >= this.retries) throw networkError(error, request.url)
      }
      await backOff(attempt, retryAfter, request.signal)
    }
  }

  /** One attempt, following redirects. */
  async once(request: HttpRequest): Promise<HttpResponse> {
    let { url } = request
    let headers = { 'user-agent': userAgent, ...request.headers }
    let { method, body } = request
    for (let hops = 0; ; hops++) {
      request.signal?.throwIfAborted()
      const response = await this.#exchange({
        method,
        url,
        headers,
        signal: request.signal,
        ...(body ? { body } : {}),
      })
      const location = response.headers.location
      if (![301, 302, 303, 307, 308].includes(response.status) || location === undefined) return response
      discard(response)
      if (hops >= maxRedirects) throw new OciError('registry', `${url.host} redirects without end`)
      const next = URL.canParse(location, url.href) ? new URL(location, url) : undefined
      if (next === undefined) throw new OciError('registry', `${url.host} redirects to what is no URL`)
      if (next.protocol !== 'https:' && next.protocol !== 'http:')
        throw new OciError('registry', `${url.host} redirects to ${next.protocol}`)
      if (url.protocol === 'https:' && next.protocol === 'http:' && !isLoopback(next.hostname)) {
        throw new OciError(
          'registry',
          `${url.host} redirects from https to plain http on ${next.host}: refused`,
        )
      }
      if (next.host !== url.host || next.protocol !== url.protocol) {
        // another host must not learn what was meant for this one
        const { authorization: _a, cookie: _c, ...rest } = headers as Record<string, string>
        headers = { 'user-agent': userAgent, ...rest }
      }
      if (
        response.status === 303 ||
        ((response.status === 301 || response.status === 302) && method === 'POST')
      ) {
        method = method === 'HEAD' ? 'HEAD' : 'GET'
        body = undefined
      }
      url = next
    }
  }

  #secureAgent(proxy: URL | undefined): https.Agent {
    if (proxy === undefined) return this.#https
    let agent = this.#tunnels.get(proxy.href)
    if (agent === undefined) {
      agent = new TunnelAgent(proxy, this.#tls)
      this.#tunnels.set(proxy.href, agent)
    }
    return agent
  }

  async #exchange(request: HttpRequest): Promise<HttpResponse> {
    const { url, method, body, signal } = request
    const secure = url.protocol === 'https:'
    const length = body?.size ?? (method === 'POST' || method === 'PUT' || method === 'PATCH' ? 0 : undefined)
    const proxy = proxyFor(url)
    const options: https.RequestOptions = {
      method,
      agent: secure ? this.#secureAgent(proxy) : this.#http,
      headers: { ...request.headers, ...(length === undefined ? {} : { 'content-length': String(length) }) },
      timeout: idleTimeout,
      ...(signal === undefined ? {} : { signal }),
    }
    const req = secure ? https.request(url, options) : http.request(url, throughProxy(options, url, proxy))
    req.on('timeout', () => {
      req.destroy(
        Object.assign(new Error(`no answer from ${url.host} for ${idleTimeout / 1000} s`), {
          code: 'ETIMEDOUT',
        }),
      )
    })
    const res = await new Promise<http.IncomingMessage>((resolve, reject) => {
      req.once('response', resolve)
      req.once('error', reject)
      if (body === undefined) req.end()
      // An answer before the end of the body (401, 413) closes the connection under us, and the answer counts; but a body
      // that cannot be read is what went wrong, and pipeline() ends the request then without an 'error'.
      else pipeline(body.open(), req).catch(reject)
    })
    return { status: res.statusCode ?? 0, headers: res.headers, url, body: res }
  }
}

/** Of plain HTTP a proxy wants the whole URL. */
function throughProxy(options: https.RequestOptions, url: URL, proxy: URL | undefined): http.RequestOptions {
  if (proxy === undefined) return options
  return {
    ...options,
    host: proxy.hostname,
    port: proxy.port || 80,
    path: url.href,
    headers: { ...(options.headers as Record<string, string>), host: url.host, ...proxyAuthorization(proxy) },
  }
}

function certificateCode(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | undefined)?.code ?? ''
  return /CERT|SELF_SIGNED|UNABLE_TO_VERIFY/.test(code)
}

/** The certificate of the other side was not accepted: plain HTTP is then no way out. */
export function isCertificateError(error: unknown): boolean {
  return certificateCode(error) || (error instanceof OciError && certificateCode(error.cause))
}

export function networkError(error: unknown, url: URL): unknown {
  if (error instanceof OciError || (error as Error).name === 'AbortError') return error
  const { code, message } = error as NodeJS.ErrnoException
  if (code === undefined) return error
  const hint = certificateCode(error)
    ? '; put its CA into /etc/docker/certs.d or ask for an insecure registry'
    : ''
  return new OciError('network', `${url.host}: ${message || code}${hint}`, { cause: error })
}

/** `ca.crt`, `client.cert` and `client.key`, as docker and podman keep them for a host. */
function certificatesFor(host: string): { ca?: string[]; cert?: string; key?: string } {
  for (const directory of ['/etc/containers/certs.d', '/etc/docker/certs.d']) {
    const path = join(directory, host)
    let names: string[]
    try {
      names = readdirSync(path)
    } catch {
      continue
    }
    const read = (name: string): string => readFileSync(join(path, name), 'utf8')
    const ca = names.filter(name => name.endsWith('.crt')).map(read)
    const certName = names.find(name => name.endsWith('.cert'))
    const keyName = names.find(name => name.endsWith('.key'))
    return {
      // given CAs replace the built-in ones in Node, so both are given
      ...(ca.length === 0 ? {} : { ca: [...rootCertificates, ...ca] }),
      ...(certName !== undefined && keyName !== undefined
        ? { cert: read(certName), key: read(keyName) }
        : {}),
    }
  }
  return {}
}

/** The registry's own words: `{"errors": [{"code", "message"}]}`. Source: distribution-spec, "Error Codes". */
export async function errorText(response: HttpResponse): Promise<string> {
  let text = ''
  try {
    text = (await readAll(response.body, 256 * 1024, 'error message')).toString('utf8')
    const { errors } = JSON.parse(text) as { errors?: { code?: string; message?: string }[] }
    const first = errors?.[0]
    if (first !== undefined) return oneLine(`${first.message ?? ''} (${first.code ?? response.status})`)
  } catch {
    // not JSON
  }
  const line = oneLine(
    text
      .replace(/<[^>]*>/g, ' ')
      .trim()
      .split('\n')[0] ?? '',
  )
  return line === '' ? `HTTP ${response.status}` : `${line} (HTTP ${response.status})`
}

/** What the other side says is shown on a terminal: no line breaks, no escape sequences, no novel. */
function oneLine(text: string): string {
  return text
    .replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, ' ')
    .trim()
    .slice(0, 300)
}

/** A body that can be sent again. */
export function memoryBody(bytes: Buffer): Body {
  return {
    size: bytes.length,
    async *open() {
      yield bytes
    },
  }
}
