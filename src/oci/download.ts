/** One file of the web, for `ADD URL`. */
import * as sys from '../sys/index.js'
import { Digester, type Digest } from './digest.js'
import { asBuffer, humanBytes, OciError } from './error.js'
import {
  backOff,
  discard,
  isTransient,
  networkError,
  Transport,
  type HttpResponse,
} from './http-transport.js'
import { writeFully } from './tar-split.js'

export interface DownloadedFile {
  readonly digest: Digest
  readonly size: number
  /** Seconds since 1970, as the server says (Last-Modified). */
  readonly modified: number | undefined
}

export interface DownloadOptions {
  /** Bytes; a longer file is an error, as soon as that is known. */
  readonly max: number
  readonly signal?: AbortSignal | undefined
  readonly attempts?: number
}

/**
 * Writes what `url` (http or https, redirects followed) gives into `fd`, an empty file open for writing.
 * @throws OciError `not-found`, `registry` for other answers, `limit`, `truncated`, `network`; SysError ENOSPC …
 */
export async function downloadFile(url: URL, fd: number, options: DownloadOptions): Promise<DownloadedFile> {
  const transport = new Transport({ host: url.host })
  const attempts = options.attempts ?? 3
  try {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await once(transport, url, fd, options)
      } catch (error) {
        const again = isTransient(error) || (error instanceof OciError && error.code === 'truncated')
        if (!again || attempt >= attempts) throw networkError(error, url)
        await backOff(attempt, undefined, options.signal)
      }
    }
  } finally {
    transport.close()
  }
}

async function once(
  transport: Transport,
  url: URL,
  fd: number,
  { max, signal }: DownloadOptions,
): Promise<DownloadedFile> {
  // As it is: an encoding on the way would change what a checksum is about.
  const headers = { accept: '*/*', 'accept-encoding': 'identity' }
  const response = await transport.send({ method: 'GET', url, headers, signal })
  if (response.status !== 200) {
    discard(response)
    const what = response.status === 404 ? 'there is no such file (HTTP 404)' : `HTTP ${response.status}`
    throw new OciError(response.status === 404 ? 'not-found' : 'registry', `${shown(url)}: ${what}`)
  }
  const announced = Number(response.headers['content-length'] ?? NaN)
  const tooLong = (): OciError =>
    new OciError('limit', `${shown(url)} is larger than ${humanBytes(max)}, the most that is downloaded`)
  if (announced > max) {
    response.body.destroy()
    throw tooLong()
  }
  sys.truncateFd(fd, 0)
  const digester = new Digester()
  for await (const chunk of response.body as AsyncIterable<Uint8Array>) {
    signal?.throwIfAborted()
    if (digester.size + chunk.length > max) throw tooLong()
    writeFully(fd, asBuffer(chunk), digester.size)
    digester.update(chunk)
  }
  if (announced >= 0 && digester.size !== announced) {
    throw new OciError('truncated', `${shown(url)} ended after ${digester.size} of ${announced} bytes`)
  }
  return { digest: digester.digest(), size: digester.size, modified: lastModified(response) }
}

/** Without user and password. */
function shown(url: URL): string {
  return `${url.protocol}//${url.host}${url.pathname}`
}

function lastModified(response: HttpResponse): number | undefined {
  const time = Date.parse(response.headers['last-modified'] ?? '')
  return Number.isNaN(time) ? undefined : Math.floor(time / 1000)
}
