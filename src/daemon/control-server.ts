import { createServer, type Server, type Socket } from 'node:net'
import type { Fd } from '../base/fd.js'
import { debug } from '../base/log.js'
import { SysError } from '../base/sys-error.js'
import { REQUEST_LIMIT, type Replies, type Request, type UnmountHow } from './control-protocol.js'

const log = debug('daemon')

/** What the daemon does when asked. */
export interface Controlled {
  info: () => Replies['info']
  stats: () => Replies['stats']
  /** @throws SysError EBUSY, EPERM */
  umount: (how: UnmountHow) => Promise<void>
  /** @throws Error without a keeper */
  restart: (program: string, main: string) => void
  yield: () => Promise<Replies['yield']>
}

/** Clients at a time; more are turned away by closing. */
const CLIENT_LIMIT = 32
/** A client that says nothing is closed after this many milliseconds. */
const IDLE_LIMIT = 60_000

/** Answers on a socket that listens (in a directory that only its owner can enter). The server keeps no process alive. */
export function serveControl(listening: Fd, controlled: Controlled): Server {
  const server = createServer(socket => serveClient(socket, controlled))
  server.maxConnections = CLIENT_LIMIT
  server.on('error', error => log?.(`control: ${error.message}`))
  return server.listen({ fd: listening.release() }).unref()
}

function serveClient(socket: Socket, controlled: Controlled): void {
  let input = ''
  let busy = Promise.resolve()
  socket.unref()
  socket.setEncoding('utf8')
  socket.setTimeout(IDLE_LIMIT, () => socket.destroy())
  socket.on('error', () => socket.destroy())
  socket.on('data', (chunk: string) => {
    input += chunk
    for (let end = input.indexOf('\n'); end >= 0; end = input.indexOf('\n')) {
      const line = input.slice(0, end)
      input = input.slice(end + 1)
      busy = busy.then(async () => {
        const reply = await answer(line, controlled)
        if (!socket.destroyed) socket.write(`${JSON.stringify(reply)}\n`)
      })
    }
    if (input.length > REQUEST_LIMIT) socket.destroy()
  })
}

async function answer(line: string, controlled: Controlled): Promise<object> {
  try {
    if (line.length > REQUEST_LIMIT) return { error: 'request too long' }
    const request = parseRequest(line)
    switch (request?.cmd) {
      case 'info':
        return { ok: controlled.info() }
      case 'stats':
        return { ok: controlled.stats() }
      case 'umount':
        await controlled.umount(request.how)
        return { ok: {} }
      case 'restart':
        controlled.restart(request.program, request.main)
        return { ok: {} }
      case 'yield':
        return { ok: await controlled.yield() }
      case undefined:
        return { error: 'not a request' }
    }
  } catch (error) {
    if (error instanceof SysError) return { error: error.message, errno: error.errno }
    return { error: error instanceof Error ? error.message : String(error) }
  }
}

function parseRequest(line: string): Request | undefined {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    return undefined
  }
  if (typeof value !== 'object' || value === null || !('cmd' in value)) return undefined
  const cmd = value.cmd
  if (cmd === 'info' || cmd === 'stats' || cmd === 'yield') return { cmd }
  if (cmd === 'restart') {
    const program = 'program' in value ? value.program : undefined
    const main = 'main' in value ? value.main : undefined
    const absolute = (path: unknown): path is string =>
      typeof path === 'string' && path.startsWith('/') && !path.includes('\0')
    return absolute(program) && absolute(main) ? { cmd, program, main } : undefined
  }
  const how = 'how' in value ? value.how : 'plain'
  if (cmd === 'umount' && (how === 'plain' || how === 'lazy' || how === 'force')) return { cmd, how }
  return undefined
}
