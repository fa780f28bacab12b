/**
 * Who we are to a registry: Basic, or a Bearer token from the server that the registry names.
 * Sources: RFC 9110 11.6.1 (WWW-Authenticate); distribution "Token Authentication Specification" and its OAuth2 variant.
 */
import type { Credentials } from './auth-file.js'
import { OciError, readAll } from './error.js'
import { discard, errorText, isLoopback, type Transport } from './http-transport.js'
import { parseJsonObject } from './json.js'

export interface Challenge {
  /** Lower case. */
  scheme: string
  parameters: Record<string, string>
}

/** `Bearer realm="https://…",service="…",scope="…", Basic realm="x"`: several challenges, quoted strings with escapes. */
export function parseChallenges(header: string): Challenge[] {
  const challenges: Challenge[] = []
  const token = /[!#$%&'*+.^_`|~0-9A-Za-z-]+/y
  let at = 0
  const skip = (pattern: RegExp): void => {
    while (at < header.length && pattern.test(header[at] as string)) at++
  }
  const readToken = (): string | undefined => {
    token.lastIndex = at
    const match = token.exec(header)
    if (match === null) return undefined
    at += match[0].length
    return match[0]
  }
  while (at < header.length) {
    skip(/[\s,]/)
    const name = readToken()
    if (name === undefined) break
    const afterName = at
    skip(/\s/)
    const current = challenges.at(-1)
    if (header[at] === '=' && current !== undefined) {
      at++
      skip(/\s/)
      let value = ''
      if (header[at] === '"') {
        at++
        while (at < header.length && header[at] !== '"') {
          if (header[at] === '\\') at++
          value += header[at] ?? ''
          at++
        }
        at++
      } else value = readToken() ?? ''
      current.parameters[name.toLowerCase()] = value
    } else {
      challenges.push({ scheme: name.toLowerCase(), parameters: {} })
      if (at === afterName) skip(/[^,\s]/)
    }
  }
  return challenges
}

interface Token {
  value: string
  /** Date.now() after which it is not used any more. */
  until: number
}

const maxTokenAnswer = 1 << 20

export class RegistryAuth {
  readonly #tokens = new Map<string, Token>()
  #challenge: Challenge | undefined

  constructor(
    readonly transport: Transport,
    readonly host: string,
    readonly credentials: Credentials | undefined,
  ) {}

  /** Remembers what the registry asks for. @returns false when it asks for nothing this client knows */
  learn(header: string | string[] | undefined): boolean {
    const text = Array.isArray(header) ? header.join(', ') : (header ?? '')
    const challenges = parseChallenges(text)
    const challenge =
      challenges.find(c => c.scheme === 'bearer') ?? challenges.find(c => c.scheme === 'basic')
    if (challenge !== undefined) this.#challenge = challenge
    return challenge !== undefined
  }

  /** Forgets a token that was refused. */
  drop(scopes: readonly string[]): void {
    this.#tokens.delete(scopes.join(' '))
  }

  /**
   * The Authorization header for requests in these scopes (`repository:team/app:pull,push`); undefined: send none.
   * @throws OciError `unauthorized`
   */
  async header(scopes: readonly string[], signal?: AbortSignal): Promise<string | undefined> {
    const challenge = this.#challenge
    if (challenge === undefined) return undefined
    if (challenge.scheme === 'basic') {
      if (this.credentials === undefined) {
        throw new OciError(
          'unauthorized',
          `${this.host} wants a user and password: log in with 'lamina login ${this.host}'`,
        )
      }
      return basic(this.credentials)
    }
    const key = scopes.join(' ')
    const cached = this.#tokens.get(key)
    if (cached !== undefined && cached.until > Date.now()) return `Bearer ${cached.value}`
    const token = await this.#fetchToken(challenge, scopes, signal)
    this.#tokens.set(key, token)
    return `Bearer ${token.value}`
  }

  async #fetchToken(challenge: Challenge, scopes: readonly string[], signal?: AbortSignal): Promise<Token> {
    const { realm, service } = challenge.parameters
    let url: URL
    try {
      url = new URL(realm ?? '')
    } catch {
      throw new OciError('registry', `${this.host} names no token server`)
    }
    if (url.protocol !== 'https:' && url.protocol !== 'http:')
      throw new OciError('registry', `${this.host} names a token server at ${url.protocol}`)
    if (url.protocol !== 'https:' && !isLoopback(url.hostname) && this.credentials !== undefined) {
      throw new OciError(
        'unauthorized',
        `${this.host} wants credentials sent to ${url.host} without encryption: refused`,
      )
    }
    const request =
      this.credentials?.identityToken === undefined
        ? this.#getRequest(url, service, scopes)
        : this.#oauthRequest(url, service, scopes, this.credentials.identityToken)
    const response = await this.transport.send({ ...request, signal })
    if (response.status === 401 || response.status === 403) {
      const why = await errorText(response)
      const who =
        this.credentials === undefined
          ? 'it needs a login'
          : 'user or password is wrong, or the access is not granted'
      throw new OciError('unauthorized', `${this.host}: ${who}: ${why}`)
    }
    if (response.status !== 200) {
      throw new OciError('registry', `token server ${url.host}: ${await errorText(response)}`)
    }
    const bytes = await readAll(response.body, maxTokenAnswer, 'token').catch((error: unknown) => {
      discard(response)
      throw error
    })
    const answer = parseJsonObject(bytes, maxTokenAnswer, `answer of ${url.host}`)
    const value = answer['token'] ?? answer['access_token']
    if (typeof value !== 'string' || value === '') throw new OciError('registry', `${url.host} gave no token`)
    // 60 s unless said; a margin for the way and for clocks
    const expires = typeof answer['expires_in'] === 'number' ? answer['expires_in'] : 60
    return { value, until: Date.now() + Math.max(10, expires * 0.9 - 5) * 1000 }
  }

  #getRequest(url: URL, service: string | undefined, scopes: readonly string[]) {
    const target = new URL(url)
    if (service !== undefined) target.searchParams.set('service', service)
    for (const scope of scopes) target.searchParams.append('scope', scope)
    if (this.credentials !== undefined && this.credentials.username !== '') {
      target.searchParams.set('account', this.credentials.username)
    }
    const headers = this.credentials === undefined ? {} : { authorization: basic(this.credentials) }
    return { method: 'GET' as const, url: target, headers }
  }

  #oauthRequest(url: URL, service: string | undefined, scopes: readonly string[], refreshToken: string) {
    const form = new URLSearchParams({
      grant_type: 'refresh_token',
      refresh_token: refreshToken,
      client_id: 'lamina',
      scope: scopes.join(' '),
      ...(service === undefined ? {} : { service }),
    })
    const bytes = Buffer.from(form.toString())
    return {
      method: 'POST' as const,
      url,
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
      body: {
        size: bytes.length,
        async *open() {
          yield bytes
        },
      },
    }
  }
}

function basic({ username, password }: Credentials): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`
}
