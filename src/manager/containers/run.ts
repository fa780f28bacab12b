/** `run`: a command in a container of its own, from create to the exit code. */
import { existsSync, lstatSync, mkdirSync, rmdirSync } from 'node:fs'
import type { ChildProcess } from 'node:child_process'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ContainerRecord } from '../containers.js'
import { bootId, isMounted } from '../mount-table.js'
import type { MountSpec } from '../mounts/mount-spec.js'
import { findRuntime } from '../oci-runtime.js'
import { ownNamespaces } from '../rootless/standing.js'
import { runProcess } from '../run-process.js'
import type { Store } from '../store.js'
import { StoreError } from '../store-error.js'
import { specOf, type ProcessSpec } from './container-spec.js'
import { createContainer, removeContainer, type CreateWithMounts } from './create.js'
import { etcFiles } from './etc-files.js'
import { bundleOf, NO_PROCESS } from './process.js'
import { noteEnd } from './run-state.js'
import {
  childrenOf,
  claimRun,
  closeLease,
  ContainerUse,
  openLease,
  startTimeOf,
  type UseLease,
} from './uses.js'

export interface RunContainer extends CreateWithMounts {
  readonly image: string
  readonly process: ProcessSpec
  /** Standard input is passed on. */
  readonly interactive: boolean
  /** The container and its anonymous volumes go afterwards. */
  readonly remove: boolean
}

/** What a user sends to a program by its pid; SIGWINCH and SIGCHLD are the terminal's and the runtime's business. */
const FORWARDED = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const

/** Where standard input, output and error of the command lead, and who is told of it. */
export interface RunStreams {
  readonly input: 'inherit' | 'ignore'
  readonly output: 'inherit' | 'pipe'
  /** The container is mounted. `pidFile` appears when its command runs in an OCI runtime. */
  readonly onReady?: (container: ContainerRecord, pidFile: string) => void
  readonly onChild?: (child: ChildProcess) => void
  /** The command runs, without a runtime. */
  readonly onRunning?: () => void
}

/**
 * Runs the command and returns its exit code, or 128 and the number of the signal that ended it. Signals that this
 * process receives meanwhile are passed on.
 * @throws StoreError; with `remove` nothing is left behind
 */
export async function runContainer(
  store: Store,
  options: RunContainer,
  streams: RunStreams = attached(options.interactive || options.process.terminal),
): Promise<number> {
  checkMounts(options.mounts ?? [])
  return await withLease(store, options.remove, async lease => {
    const use = { lease: lease.claim.id, remove: lease.remove }
    const container = await createContainer(store, { ...options, use })
    try {
      return await runIn(store, container, lease, streams)
    } finally {
      if (options.remove) await removeContainer(store, container.id, { force: true, volumes: true })
    }
  })
}

/** Runs a container's command once more, as {@link runContainer}. @throws StoreError in-use where it runs already */
export async function startContainer(store: Store, ref: string, streams: RunStreams): Promise<number> {
  const container = store.containers.find(ref)
  checkMounts(specOf(container).mounts)
  return await withLease(store, false, lease => runIn(store, container, lease, streams))
}

export const attached = (interactive: boolean): RunStreams => ({
  input: interactive ? 'inherit' : 'ignore',
  output: 'inherit',
})

async function withLease<T>(
  store: Store,
  remove: boolean,
  body: (lease: UseLease) => Promise<T>,
): Promise<T> {
  const lease = { claim: openLease(store), remove }
  try {
    return await body(lease)
  } finally {
    closeLease(store, lease.claim)
  }
}

async function runIn(
  store: Store,
  container: ContainerRecord,
  lease: UseLease,
  streams: RunStreams,
): Promise<number> {
  claimRun(store, container, lease)
  const wanted = specOf(container).process ?? NO_PROCESS
  const target = specOf(container).ids === undefined ? undefined : reachable(container.id)
  // After the use has ended.
  using own = new OwnTarget(target)
  void own
  await using use = await ContainerUse.begin(store, container.id, {
    lease,
    mounts: etcFiles(store, container, wanted),
    ...(target === undefined ? {} : { target }),
  })
  const bundle = bundleOf(store, container, use.rootfs, wanted)
  await using scratch = store.scratch()
  const pidFile = join(scratch.dir, 'pid')
  streams.onReady?.(container, pidFile)
  return await withSignals(async started => {
    const code = await runProcess({
      ...bundle,
      id: `lamina-${container.id.slice(0, 12)}`,
      scratch: scratch.dir,
      stdio: [streams.input, streams.output, streams.output],
      pidFile,
      onRuntime: process => use.setProcess(process),
      onStart: child => {
        started(child)
        streams.onChild?.(child)
        if (findRuntime() !== undefined || child.pid === undefined) return
        const startTime = startTimeOf(child.pid)
        if (startTime === undefined) return
        use.setProcess({ kind: 'namespaces', pid: child.pid, startTime, boot: bootId() })
        streams.onRunning?.()
      },
    })
    noteEnd(store, container.id, code)
    return code
  })
}

/** Signals that arrive while `body` runs go to the process that it starts. */
export async function withSignals(
  body: (started: (child: ChildProcess) => void) => Promise<number>,
): Promise<number> {
  let child: ChildProcess | undefined
  const onSignal = (signal: NodeJS.Signals): void => forward(child, signal)
  for (const signal of FORWARDED) process.on(signal, onSignal)
  try {
    return await body(started => (child = started))
  } finally {
    for (const signal of FORWARDED) process.off(signal, onSignal)
  }
}

/** A runtime passes signals on itself; unshare(1) does not, so there they go to what it started. */
function forward(child: ChildProcess | undefined, signal: NodeJS.Signals): void {
  if (child?.pid === undefined) return
  if (findRuntime() !== undefined) child.kill(signal)
  else for (const pid of childrenOf(child.pid)) process.kill(pid, signal)
}

/**
 * Root of another user namespace may not pass the store's directories, nor an ordinary user's runtime directory: its rootfs is
 * mounted beside them.
 */
function reachable(id: string): string {
  const own = ownNamespaces()
  const dir = own === undefined ? '/run/lamina-rootfs' : join(tmpdir(), `lamina-rootfs-${own.uid}`)
  mkdirSync(dir, { recursive: true, mode: 0o711 })
  const stat = lstatSync(dir)
  if (!stat.isDirectory() || stat.uid !== 0) {
    throw new StoreError('failed', `${dir} belongs to somebody else`, 'remove it, or set TMPDIR')
  }
  return join(dir, id)
}

class OwnTarget implements Disposable {
  constructor(readonly path: string | undefined) {}

  [Symbol.dispose](): void {
    if (this.path !== undefined && !isMounted(this.path) && existsSync(this.path)) rmdirSync(this.path)
  }
}

/** These belong to the runtime, which would hide what is mounted there. */
function checkMounts(mounts: readonly MountSpec[]): void {
  const own = mounts.find(({ target }) => /^\/(proc|sys|dev)(\/|$)/.test(target))
  if (own === undefined) return
  throw new StoreError('unsupported', `run cannot mount on ${own.target}`, '/proc, /sys and /dev are its own')
}
