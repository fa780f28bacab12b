/** Blobs on their way into a registry: mounted from another repository, in one PUT, or in chunks of which the lost ones are sent again. */
import type { Descriptor } from './descriptor.js'
import { Digester, verifying, type Digest } from './digest.js'
import { OciError, type ByteSource, type Progress } from './error.js'
import { backOff, discard, errorText, isTransient, memoryBody, type Body } from './http-transport.js'
import type { BlobToWrite } from './layout.js'
import type { RegistryConnection } from './registry-connection.js'

export interface PushBlobOptions {
  /** Repositories of the same registry (`team/base`) that may have the blob: it is then mounted, not sent. */
  mountFrom?: readonly string[]
  /** Bytes per PATCH request; absent: all in one PUT. */
  chunkSize?: number
  onProgress?: Progress | undefined
}

export class BlobUpload {
  constructor(readonly connection: RegistryConnection) {}

  /** @returns undefined when mounted, else where an upload may go */
  async mount(descriptor: Descriptor, from: string): Promise<URL | undefined> {
    const url = this.connection.url('blobs/uploads/')
    url.searchParams.set('mount', descriptor.digest)
    url.searchParams.set('from', from)
    const response = await this.connection.ask({ method: 'POST', url }, 'pull,push', { alsoFrom: from })
    if (response.status === 201) {
      discard(response)
      return undefined
    }
    // no right to read there, or no such repository: then it is sent
    discard(response)
    return response.status === 202 ? this.connection.location(response) : url
  }

  async #startUpload(): Promise<URL> {
    const response = await this.connection.ask(
      { method: 'POST', url: this.connection.url('blobs/uploads/') },
      'pull,push',
    )
    if (response.status !== 202) return this.connection.fail(response, 'upload')
    discard(response)
    return this.connection.location(response)
  }

  async whole(blob: BlobToWrite, options: PushBlobOptions): Promise<void> {
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
        const response = await this.connection.ask({ method: 'PUT', url, headers, body }, 'pull,push', {
          once: true,
        })
        if (response.status !== 201 && response.status !== 204) {
          if (response.status < 500 && response.status !== 429)
            return await this.connection.fail(response, `blob ${descriptor.digest}`)
          const text = await errorText(response)
          throw Object.assign(new Error(text), { code: 'ECONNRESET' })
        }
        discard(response)
        return
      } catch (error) {
        if (!isTransient(error)) throw error
        if (attempt >= this.connection.transport.retries) {
          throw new OciError('network', `sending blob ${descriptor.digest}: ${(error as Error).message}`, {
            cause: error,
          })
        }
        await backOff(attempt, undefined, this.connection.signal)
      }
    }
  }

  /**
   * Sends bytes whose digest is known only at their end (a layer that is compressed on the way), in chunks that are kept
   * until the registry has them.
   */
  async stream(source: ByteSource, options: PushBlobOptions = {}): Promise<{ digest: Digest; size: number }> {
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
    const response = await this.connection.ask({ method: 'PUT', url }, 'pull,push')
    if (response.status !== 201 && response.status !== 204)
      return this.connection.fail(response, `blob ${digest}`)
    discard(response)
    return { digest, size: sent }
  }

  async #patch(url: URL, chunk: Buffer, offset: number): Promise<URL> {
    let start = 0
    for (let attempt = 0; ; attempt++) {
      const rest = chunk.subarray(start)
      try {
        const response = await this.connection.ask(
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
          return this.connection.location(response)
        }
        if (response.status !== 416 && response.status < 500 && response.status !== 429)
          return await this.connection.fail(response, 'upload')
        const text = await errorText(response)
        throw Object.assign(new Error(text), { code: 'ECONNRESET' })
      } catch (error) {
        if (!isTransient(error)) throw error
        if (attempt >= this.connection.transport.retries) {
          throw new OciError('network', `upload: ${(error as Error).message}`, { cause: error })
        }
        await backOff(attempt, undefined, this.connection.signal)
        // how much of it has arrived
        const status = await this.connection.ask({ method: 'GET', url }, 'pull,push')
        discard(status)
        if (status.status !== 204 && status.status !== 202) return this.connection.fail(status, 'upload')
        const end = /^(?:bytes=)?0-(\d+)$/.exec(status.headers['range'] ?? '')?.[1]
        const have = end === undefined || (end === '0' && offset === 0) ? 0 : Number(end) + 1
        if (have < offset || have > offset + chunk.length) {
          throw new OciError('registry', `${this.connection.reference.domain} lost a part of the upload`)
        }
        start = have - offset
        if (status.headers.location !== undefined) url = this.connection.location(status)
        if (start === chunk.length) return url
      }
    }
  }
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
