import { connect } from 'node:net'
import { SysError } from '../base/sys-error.js'
import type { Replies, Reply, Request } from './control-protocol.js'
import { isAlive, socketPath, type FoundRecord } from './run-dir.js'

/** Replies are bounded too: a layer list of thousands of long paths fits. */
const REPLY_LIMIT = 16 << 20

/**
 * Asks a daemon. @throws Error when it does not answer in `timeout` milliseconds or is gone; SysError with what it
 * answered.
 */
export async function ask<C extends keyof Replies>(
  found: FoundRecord,
  request: Request & { cmd: C },
  timeout = 10_000,
): Promise<Replies[C]> {
  const path = socketPath(found.directory, found.record.id)
  const line = await patiently(found, () => exchange(path, JSON.stringify(request), timeout))
  const reply = JSON.parse(line) as Reply<C>
  if ('ok' in reply) return reply.ok
  if (reply.errno !== undefined) throw new SysError(reply.errno, request.cmd)
  throw new Error(reply.error)
}

/** Nobody listens there. */
class NotListening extends Error {}

/** How long the next daemon of a mount with a keeper is waited for, milliseconds. */
const SUCCESSION_LIMIT = 10_000

async function patiently(found: FoundRecord, exchanged: () => Promise<string>): Promise<string> {
  const until = Date.now() + SUCCESSION_LIMIT
  for (;;) {
    try {
      return await exchanged()
    } catch (error) {
      const { keeper } = found.record
      const expected = error instanceof NotListening && keeper !== undefined && isAlive(keeper)
      if (!expected || Date.now() > until) throw error
      await new Promise(resolve => setTimeout(resolve, 20))
    }
  }
}

function exchange(path: string, line: string, timeout: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(path)
    const fail = (error: Error): void => {
      socket.destroy()
      reject(error)
    }
    let input = ''
    socket.setEncoding('utf8')
    socket.setTimeout(timeout, () => fail(new Error(`no answer from the daemon in ${timeout / 1000} s`)))
    socket.on('error', (error: NodeJS.ErrnoException) => {
      const Kind = error.code === 'ECONNREFUSED' || error.code === 'ENOENT' ? NotListening : Error
      fail(new Kind(`the daemon does not answer: ${error.message}`))
    })
    socket.on('close', () => fail(new Error('the daemon ended without an answer')))
    socket.on('connect', () => socket.write(`${line}\n`))
    socket.on('data', (chunk: string) => {
      input += chunk
      const end = input.indexOf('\n')
      if (end >= 0) {
        resolve(input.slice(0, end))
        socket.destroy()
      } else if (input.length > REPLY_LIMIT) {
        fail(new Error('the daemon answers without end'))
      }
    })
  })
}
