/**
 * Proxies as $HTTPS_PROXY, $HTTP_PROXY and $NO_PROXY name them, in the reading of curl and Go's net/http: lower case
 * wins, loopback is never proxied, an entry of $NO_PROXY is a host, a domain with everything below it, an address, or *.
 */
import * as http from 'node:http'
import * as https from 'node:https'
import type { Duplex } from 'node:stream'
import { connect, type ConnectionOptions } from 'node:tls'
import { OciError } from './error.js'

export function proxyFor(url: URL, env: NodeJS.ProcessEnv = process.env): URL | undefined {
  const { hostname } = url
  if (hostname === 'localhost' || hostname === '[::1]' || /^127(?:\.\d{1,3}){3}$/.test(hostname))
    return undefined
  const name = url.protocol === 'https:' ? 'https_proxy' : 'http_proxy'
  const text = env[name] || env[name.toUpperCase()] || env['all_proxy'] || env['ALL_PROXY']
  if (!text || isExcluded(url, env['no_proxy'] || env['NO_PROXY'] || '')) return undefined
  let proxy: URL
  try {
    proxy = new URL(/^[a-z][a-z0-9]*:\/\//i.test(text) ? text : `http://${text}`)
  } catch {
    throw new OciError('malformed', `${name} is '${text}', which is no address`)
  }
  if (proxy.protocol !== 'http:' && proxy.protocol !== 'https:') {
    throw new OciError('unsupported', `${name}: a proxy of kind ${proxy.protocol} is not supported`)
  }
  return proxy
}

function isExcluded(url: URL, list: string): boolean {
  const host = url.hostname.toLowerCase()
  const port = url.port || (url.protocol === 'https:' ? '443' : '80')
  return list.split(',').some(entry => {
    const [name = '', wantedPort] = entry
      .trim()
      .toLowerCase()
      .replace(/^\*?\./, '')
      .split(':')
    if (name === '*') return true
    if (name === '' || (wantedPort !== undefined && wantedPort !== port)) return false
    return host === name || host.endsWith(`.${name}`)
  })
}

export function proxyAuthorization(proxy: URL): Record<string, string> {
  if (proxy.username === '') return {}
  const login = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`
  return { 'proxy-authorization': `Basic ${Buffer.from(login).toString('base64')}` }
}

type Connected = (error: Error | null, socket: Duplex) => void

/** TLS to the registry through a CONNECT tunnel: the proxy sees the host's name and nothing more. */
export class TunnelAgent extends https.Agent {
  constructor(
    readonly proxy: URL,
    options: https.AgentOptions,
  ) {
    super(options)
  }

  /** What http.Agent calls for a new connection; the socket comes later, through `done`. */
  override createConnection(options: https.RequestOptions, done?: Connected): undefined {
    const failed = (error: Error): void => (done as ((error: Error) => void) | undefined)?.(error)
    const host = options.host ?? ''
    const target = `${host}:${options.port ?? 443}`
    const request = (this.proxy.protocol === 'https:' ? https : http).request({
      host: this.proxy.hostname,
      port: this.proxy.port || (this.proxy.protocol === 'https:' ? 443 : 80),
      method: 'CONNECT',
      path: target,
      headers: { host: target, ...proxyAuthorization(this.proxy) },
      agent: false,
    })
    request.once('connect', (response, socket) => {
      if (response.statusCode === 200) {
        const { path: _path, socketPath: _socketPath, ...rest } = options
        const tls = { ...rest, socket, servername: options.servername ?? host } as ConnectionOptions
        done?.(null, connect(tls))
      } else {
        socket.destroy()
        failed(
          new OciError(
            'network',
            `proxy ${this.proxy.host} refuses ${target}: HTTP ${response.statusCode ?? 0}`,
          ),
        )
      }
    })
    request.once('error', failed)
    request.end()
    return undefined
  }
}
