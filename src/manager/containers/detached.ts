/**
 * Commands that run on after the one that started them: each has a monitor, a process that does what `run` does in the foreground,
 * and writes the output to the container's log. As with any command, what it began ends with it.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import type { Store } from '../store.js'
import { CommandError, StoreError, type StoreErrorCode } from '../store-error.js'
import { specOf } from './container-spec.js'
import type { RunContainer } from './run.js'

/** What a monitor is told, as JSON on descriptor {@link MONITOR_FD}. */
export interface MonitorRequest {
  readonly root: string
  readonly driver: string
  /** A new container, or one that is there. */
  readonly run: RunContainer | { readonly start: string }
}

/** What it answers there, when the command runs or cannot. */
export type MonitorReply =
  | { readonly id: string }
  | {
      readonly error: string
      readonly code: StoreErrorCode
      readonly hint?: string | undefined
      readonly exitCode?: 126 | 127 | undefined
    }

export const MONITOR_FD = 3

const MONITOR = fileURLToPath(new URL('monitor.js', import.meta.url))

/** Runs the command of a new container, or of `start`, in the background. Returns the container's ID when it runs. */
export async function runDetached(
  store: Store,
  run: MonitorRequest['run'],
  signal: AbortSignal,
): Promise<string> {
  refuseTerminal(store, run)
  const request: MonitorRequest = { root: store.root, driver: store.drivers.choice, run }
  const monitor = spawn(process.execPath, [...process.execArgv, MONITOR], {
    cwd: '/',
    detached: true,
    stdio: ['ignore', 'ignore', 'ignore', 'pipe'],
  })
  const end = (): void => void monitor.kill('SIGTERM')
  signal.addEventListener('abort', end)
  try {
    signal.throwIfAborted()
    const said = await exchange(monitor, JSON.stringify(request))
    signal.throwIfAborted()
    if (said === '') {
      throw new StoreError('failed', 'what was to look after the container has died', "see 'lamina ps'")
    }
    const reply = JSON.parse(said) as MonitorReply
    if ('id' in reply) return reply.id
    if (reply.exitCode !== undefined) throw new CommandError(reply.exitCode, reply.error, reply.hint ?? '')
    throw new StoreError(reply.code, reply.error, reply.hint)
  } finally {
    signal.removeEventListener('abort', end)
    monitor.unref()
  }
}

/** Writes the request, and reads until the monitor has closed its end, or has died. */
async function exchange(monitor: ChildProcess, request: string): Promise<string> {
  await once(monitor, 'spawn')
  const channel = monitor.stdio[MONITOR_FD]
  if (!(channel instanceof Socket)) return ''
  // It may have died before it read: then it says nothing.
  channel.on('error', () => undefined)
  channel.end(request)
  return await text(channel).catch(() => '')
}

function refuseTerminal(store: Store, run: MonitorRequest['run']): void {
  const terminal =
    'start' in run ? specOf(store.containers.find(run.start)).process?.terminal : run.process.terminal
  if (terminal !== true) return
  throw new StoreError(
    'invalid',
    'a command in the background has no terminal',
    "'lamina exec -it' gives one to a shell beside it; or 'lamina start -a'",
  )
}
