/** Ending what runs in a container, and waiting for it. */
import { spawnSync } from 'node:child_process'
import { constants } from 'node:os'
import type { ContainerRecord } from '../containers.js'
import { bootId } from '../mount-table.js'
import type { Store } from '../store.js'
import { StoreError } from '../store-error.js'
import { lastRun } from './run-state.js'
import { busyWith, childrenOf, runningIn, startTimeOf, type RunningProcess } from './uses.js'

/** Milliseconds between two looks; and that a killed one may take to be cleaned up. */
const LOOK = 25
const KILLED = 30_000

/** `TERM`, `SIGTERM`, `15`. @throws StoreError invalid */
export function signalNumber(text: string): number {
  const number = /^\d{1,2}$/.test(text) ? Number(text) : signalNamed(text.toUpperCase())
  if (number !== undefined && number >= 1 && number <= 64) return number
  throw new StoreError('invalid', `'${text}' is not a signal`, 'e.g. TERM, SIGHUP or 9')
}

function signalNamed(name: string): number | undefined {
  const full = name.startsWith('SIG') ? name : `SIG${name}`
  return Object.entries(constants.signals).find(([known]) => known === full)?.[1]
}

/** What `stop` sends: the image's STOPSIGNAL, else SIGTERM. */
function stopSignal(store: Store, container: ContainerRecord): number {
  if (container.image === undefined) return constants.signals.SIGTERM
  const { StopSignal } = store.images.config(container.image).config ?? {}
  if (StopSignal === undefined || StopSignal === '') return constants.signals.SIGTERM
  try {
    return signalNumber(StopSignal)
  } catch {
    // SIGRTMIN+3, which init systems take for a shutdown. Source: signal(7), glibc's SIGRTMIN
    const plus = /^(?:SIG)?RTMIN(?:\+(\d{1,2}))?$/i.exec(StopSignal)
    return plus === null ? constants.signals.SIGTERM : Math.min(64, 34 + Number(plus[1] ?? 0))
  }
}

/** Sends a signal to the container's first process. @throws StoreError invalid where nothing runs */
export function killContainer(store: Store, ref: string, signal: number): void {
  const container = store.containers.find(ref)
  const running = runningIn(store, container.id).find(one => one.kind !== 'starting')
  if (running === undefined) {
    throw new StoreError('invalid', `nothing runs in container ${container.name}`, "see 'lamina ps'")
  }
  send(container, running, signal)
}

function send(container: ContainerRecord, running: RunningProcess, signal: number): void {
  if (running.kind === 'starting') return
  if (running.kind === 'runtime') {
    const [program = '', ...words] = running.command
    const { status, stderr } = spawnSync(program, [...words, 'kill', running.id, String(signal)], {
      encoding: 'utf8',
    })
    if (status === 0 || !isThere(running)) return
    throw new StoreError(
      'failed',
      `cannot signal container ${container.name}: ${stderr.trim().split('\n').at(-1)}`,
    )
  }
  if (running.boot !== bootId() || startTimeOf(running.pid) !== running.startTime) return
  const inside = childrenOf(running.pid)
  // unshare(1) passes on that its child was killed by any signal but this: then it exits with 1.
  for (const pid of signal === constants.signals.SIGKILL ? [running.pid, ...inside] : inside) {
    try {
      process.kill(pid, signal)
    } catch {
      // Gone since we looked.
    }
  }
}

/** It may have ended by itself meanwhile, which is no error. */
function isThere(running: Extract<RunningProcess, { kind: 'runtime' }>): boolean {
  const [program = '', ...words] = running.command
  const { status, stdout } = spawnSync(program, [...words, 'state', running.id], { encoding: 'utf8' })
  return status === 0 && /"status"\s*:\s*"(running|created|paused)"/.test(stdout)
}

/**
 * Asks the command to end, and ends it after `seconds` (never with a negative number). Returns when its mounts are gone too, and with `run --rm` the container. One
 * that does not run is no error.
 * @throws StoreError failed where it does not go
 */
export async function stopContainer(
  store: Store,
  ref: string,
  seconds: number,
  signal?: AbortSignal,
): Promise<void> {
  const container = store.containers.find(ref)
  const isBusy = busyWith(store, container.id)
  let asked = false
  const deadline = seconds < 0 ? Infinity : Date.now() + seconds * 1000
  while (isBusy() && Date.now() < deadline) {
    const running = runningIn(store, container.id).find(one => one.kind !== 'starting')
    if (!asked && running !== undefined) {
      send(container, running, stopSignal(store, container))
      asked = true
    }
    await pause(signal)
  }
  const latest = Date.now() + KILLED
  while (isBusy()) {
    for (const running of runningIn(store, container.id)) send(container, running, constants.signals.SIGKILL)
    if (Date.now() > latest) {
      throw new StoreError(
        'failed',
        `container ${container.name} does not end`,
        'see what its processes wait for',
      )
    }
    await pause(signal)
  }
}

/** Waits until nothing runs in it, and returns its exit code; 0 where nothing ever ran. */
export async function waitForContainer(store: Store, ref: string, signal?: AbortSignal): Promise<number> {
  const container = store.containers.find(ref)
  const isBusy = busyWith(store, container.id)
  while (isBusy()) await pause(signal)
  const run = lastRun(store, container.id)
  return run === undefined ? 0 : (run.code ?? 128 + constants.signals.SIGKILL)
}

async function pause(signal: AbortSignal | undefined): Promise<void> {
  await new Promise(resolve => setTimeout(resolve, LOOK))
  signal?.throwIfAborted()
}
