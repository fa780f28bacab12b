import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { REQUEST_LIMIT } from '../../../src/daemon/control-protocol.js'
import { listenAt } from '../../../src/sys/index.js'
import { type Controlled, serveControl } from '../../../src/daemon/control-server.js'
import type { Target } from './target.js'

/** What somebody writes to the control socket. Each line is answered by one, and the next client finds a server. */
export async function control(): Promise<Target> {
  const directory = mkdtempSync(join(tmpdir(), 'lamina-control-'))
  const path = join(directory, 'socket')
  const faults: string[] = []
  const controlled: Controlled = {
    info: () => ({ id: 'x' }) as ReturnType<Controlled['info']>,
    stats: () => ({ pid: 1 }) as ReturnType<Controlled['stats']>,
    umount: how => {
      if (!['plain', 'lazy', 'force'].includes(how)) faults.push(`umount ${String(how)}`)
      return Promise.resolve()
    },
    restart: (program, main) => {
      for (const each of [program, main])
        if (typeof each !== 'string' || !each.startsWith('/') || each.includes('\0'))
          faults.push(`restart ${each}`)
    },
    yield: () => Promise.resolve({}),
  }
  const server = serveControl(listenAt(path), controlled)
  const lines = [
    { cmd: 'info' },
    { cmd: 'yield' },
    { cmd: 'stats' },
    { cmd: 'umount', how: 'lazy' },
    { cmd: 'umount' },
    { cmd: 'restart', program: '/usr/bin/node', main: '/main.js' },
    [{ cmd: ['info'] }, null, 'x'],
  ].map(each => `${JSON.stringify(each)}\n`)
  return {
    seeds: [...lines, lines.join(''), `${'x'.repeat(REQUEST_LIMIT)}\n`].map(each => Buffer.from(each)),
    covers: ['/src/daemon/control'],
    run(input) {
      return new Promise((resolve, reject) => {
        const client = connect(path)
        let answer = ''
        client.setEncoding('utf8')
        client.on('data', (chunk: string) => (answer += chunk))
        const half = input.length >> 1
        client.write(input.subarray(0, half))
        client.end(input.subarray(half))
        client.on('error', () => undefined)
        client.on('close', () => {
          const asked = input.toString('utf8').split('\n')
          const tooLong = asked.some(line => line.length > REQUEST_LIMIT)
          const answers = answer.split('\n').slice(0, -1)
          try {
            for (const line of answers) JSON.parse(line)
          } catch {
            faults.push(`no JSON: ${answer}`)
          }
          if (!tooLong && answers.length !== asked.length - 1)
            faults.push(`${answers.length} answers to ${asked.length - 1} lines`)
          const fault = faults.pop()
          if (fault === undefined) resolve()
          else reject(new TypeError(fault))
        })
      })
    },
    close() {
      server.close()
      rmSync(directory, { recursive: true, force: true })
    },
  }
}
