/** The process beside a detached container (detached.ts). It ends with the container. */
import type { ChildProcess } from 'node:child_process'
import { existsSync, readFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import * as sys from '../../sys/index.js'
import type { ContainerRecord } from '../containers.js'
import { Store } from '../store.js'
import { causeOf, CommandError, StoreError } from '../store-error.js'
import { MONITOR_FD, type MonitorReply, type MonitorRequest } from './detached.js'
import { OutputLog } from './output-log.js'
import { runContainer, startContainer, type RunStreams } from './run.js'

/** Bytes of standard error that are remembered to say why a command did not start. */
const REMEMBERED = 1000

class Monitor {
  #answered = false
  #log: OutputLog | undefined
  #complaint = ''
  #container: ContainerRecord | undefined
  #pidFile = ''

  constructor(readonly store: Store) {}

  async run(request: MonitorRequest['run']): Promise<void> {
    const streams: RunStreams = {
      input: 'ignore',
      output: 'pipe',
      onReady: (container, pidFile) => {
        this.#container = container
        this.#pidFile = pidFile
        process.title = `lamina-monitor ${container.name}`
        this.#log = new OutputLog(join(this.store.paths.containers, container.id))
      },
      onChild: child => this.#attend(child),
      onRunning: () => this.#runs(),
    }
    if ('start' in request) await startContainer(this.store, request.start, streams)
    else await runContainer(this.store, request, streams)
  }

  #attend(child: ChildProcess): void {
    for (const stream of ['stdout', 'stderr'] as const) {
      child[stream]?.on('data', (chunk: Buffer) => {
        if (stream === 'stderr' && !this.#answered)
          this.#complaint = (this.#complaint + chunk.toString()).slice(-REMEMBERED)
        this.#log?.write(stream, chunk)
      })
    }
    const look = setInterval(() => {
      if (this.#answered) clearInterval(look)
      else if (existsSync(this.#pidFile)) this.#runs()
    }, 10)
    child.once('error', () => clearInterval(look))
    child.once('close', () => {
      clearInterval(look)
      if (existsSync(this.#pidFile)) this.#runs()
      else
        this.fail(
          new StoreError('failed', `container ${this.#container?.name ?? ''} did not start`, this.#said()),
        )
    })
  }

  #runs(): void {
    this.answer({ id: this.#container?.id ?? '' })
  }

  #said(): string {
    const lines = this.#complaint.split('\n').filter(line => line.trim() !== '')
    return lines.at(-1) ?? `see 'lamina logs ${this.#container?.name ?? ''}'`
  }

  answer(reply: MonitorReply): void {
    if (this.#answered) return
    this.#answered = true
    try {
      writeSync(MONITOR_FD, JSON.stringify(reply))
    } catch {
      // Whoever asked has gone.
    }
    sys.close(MONITOR_FD)
  }

  fail(error: unknown): void {
    this.answer({
      error: causeOf(error),
      code: error instanceof StoreError ? error.code : 'failed',
      ...(error instanceof StoreError ? { hint: error.hint } : {}),
      ...(error instanceof CommandError ? { exitCode: error.exitCode } : {}),
    })
  }
}

const { root, driver, run } = JSON.parse(readFileSync(MONITOR_FD, 'utf8')) as MonitorRequest
using store = await Store.open({ root, driver })
const monitor = new Monitor(store)
try {
  await monitor.run(run)
} catch (error) {
  monitor.fail(error)
  process.exitCode = 1
}
