/**
 * Docker's volume plugin protocol over a Unix socket: `docker volume create -d lamina`, `docker run -v` and Podman's
 * volume plugins use the volumes of a store. An error is HTTP 500 with an `Err`, which the user sees: dockerd takes one with
 * HTTP 200 as well, Podman does not look at it then.
 * Source: docs.docker.com/engine/extend/plugins_volume; docker/go-plugins-helpers sdk/encoder.go; dockerd 20.10 and Podman 4.3 as seen
 */
import { mkdirSync, rmSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server } from 'node:http'
import { connect } from 'node:net'
import { dirname } from 'node:path'
import type { Store } from '../manager/store.js'
import { StoreError } from '../manager/store-error.js'
import { clientOf } from '../manager/volumes/plugin-clients.js'
import type { VolumeRecord } from '../manager/volumes/volumes.js'

const CONTENT_TYPE = 'application/vnd.docker.plugins.v1.2+json'
/** A request is a name, an ID and options. */
const MAX_BODY = 1 << 20

interface Body {
  readonly Name?: unknown
  readonly ID?: unknown
  readonly Opts?: unknown
}

/** `client`: who asks. */
type Call = (store: Store, body: Body, client: string | undefined) => Promise<object> | object

const CALLS: Readonly<Record<string, Call>> = {
  '/Plugin.Activate': () => ({ Implements: ['VolumeDriver'] }),
  '/VolumeDriver.Capabilities': () => ({ Capabilities: { Scope: 'local' } }),
  '/VolumeDriver.Create': async (store, body) => {
    await store.volumes.create({ name: nameOf(body), options: optionsOf(body) })
    return {}
  },
  '/VolumeDriver.Get': (store, body) => ({ Volume: describe(find(store, body)) }),
  '/VolumeDriver.List': async store => {
    await store.volumes.endDeadClients()
    return { Volumes: store.volumes.list().map(describe) }
  },
  '/VolumeDriver.Mount': async (store, body, client) => {
    // What a client that died had in a mount of the volume is not to be found by the next one.
    await store.volumes.endDeadClients()
    const { mountpoint } = await store.volumes.acquire(find(store, body).name, userOf(body), client)
    return { Mountpoint: mountpoint }
  },
  '/VolumeDriver.Unmount': async (store, body) => {
    await store.volumes.release(find(store, body).name, userOf(body))
    return {}
  },
  '/VolumeDriver.Path': (store, body) => ({ Mountpoint: find(store, body).mountpoint }),
  '/VolumeDriver.Remove': async (store, body) => {
    await store.volumes.remove(find(store, body).name)
    return {}
  },
}

function nameOf(body: Body): string {
  if (typeof body.Name === 'string' && body.Name !== '') return body.Name
  throw new StoreError('invalid', 'the request has no volume name')
}

/** By its whole name: a beginning of another one is for people. */
function find(store: Store, body: Body): VolumeRecord {
  const volume = store.volumes.lookup(nameOf(body))
  // The words that dockerd and Podman look for.
  if (volume === undefined) throw new StoreError('not-found', 'no such volume')
  return volume
}

/** Who mounts: the same ID unmounts. */
function userOf(body: Body): string {
  return `plugin:${typeof body.ID === 'string' && body.ID !== '' ? body.ID : 'unnamed'}`
}

function optionsOf(body: Body): Record<string, string> {
  const { Opts } = body
  if (typeof Opts !== 'object' || Opts === null) return {}
  return Object.fromEntries(Object.entries(Opts).map(([key, value]) => [key, String(value)]))
}

function describe(volume: VolumeRecord): object {
  return {
    Name: volume.name,
    Mountpoint: volume.mountpoint,
    CreatedAt: new Date(volume.created).toISOString(),
    Status: {},
  }
}

/**
 * Serves until `signal` aborts. A socket file that nobody answers on is replaced.
 * @throws StoreError in-use where another server answers
 */
export async function serveDockerVolumes(
  store: Store,
  socket: string,
  signal: AbortSignal,
  onListening: () => void = () => undefined,
): Promise<void> {
  await removeDeadSocket(socket)
  mkdirSync(dirname(socket), { recursive: true, mode: 0o755 })
  const server = createServer((request, response) => {
    void answer(store, request).then(({ status, body }) => {
      response.writeHead(status, { 'Content-Type': CONTENT_TYPE }).end(JSON.stringify(body))
    })
  })
  await listen(server, socket)
  onListening()
  try {
    await new Promise<void>(resolve => {
      if (signal.aborted) resolve()
      else signal.addEventListener('abort', () => resolve(), { once: true })
    })
  } finally {
    server.closeIdleConnections()
    await new Promise(resolve => server.close(resolve))
    rmSync(socket, { force: true })
  }
}

/** Who may connect may mount: root, or whoever started this. The socket is made at once, and with its mode. */
async function listen(server: Server, socket: string): Promise<void> {
  const before = process.umask(0o177)
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject).listen(socket, () => {
        server.off('error', reject)
        resolve()
      })
      process.umask(before)
    })
  } finally {
    process.umask(before)
  }
}

async function removeDeadSocket(socket: string): Promise<void> {
  const answered = await new Promise<boolean>(resolve => {
    const probe = connect(socket)
    probe.once('connect', () => {
      probe.destroy()
      resolve(true)
    })
    probe.once('error', () => resolve(false))
  })
  if (answered) {
    throw new StoreError(
      'in-use',
      `another server answers on ${socket}`,
      'end it, or name another socket with --socket',
    )
  }
  rmSync(socket, { force: true })
}

/** Never rejects: what goes wrong is part of the answer. */
async function answer(store: Store, request: IncomingMessage): Promise<{ status: number; body: object }> {
  try {
    const call = CALLS[request.url ?? '']
    if (call === undefined || request.method !== 'POST') {
      const what = `${request.method ?? ''} ${request.url ?? ''}`
      return { status: 404, body: { Err: `${what} is not a call of a volume plugin` } }
    }
    const client = clientOf(request.socket)
    return { status: 200, body: { ...(await call(store, await bodyOf(request), client)), Err: '' } }
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error)
    const hint = error instanceof StoreError && error.hint !== undefined ? `: ${error.hint}` : ''
    return { status: 500, body: { Err: message + hint } }
  }
}

async function bodyOf(request: IncomingMessage): Promise<Body> {
  const parts: Buffer[] = []
  let size = 0
  for await (const part of request as AsyncIterable<Buffer>) {
    size += part.length
    if (size > MAX_BODY) throw new StoreError('invalid', 'the request is too large')
    parts.push(part)
  }
  const text = Buffer.concat(parts).toString('utf8').trim()
  if (text === '') return {}
  let body: unknown
  try {
    body = JSON.parse(text)
  } catch {
    throw new StoreError('invalid', 'the request is not JSON')
  }
  return typeof body === 'object' && body !== null ? body : {}
}
