/** `run`: a command in a container of its own, from create to the exit code. */
import { existsSync, lstatSync, mkdirSync, realpathSync, rmdirSync } from 'node:fs'
import type { ChildProcess } from 'node:child_process'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Claim } from '../claims.js'
import { bootId, isMounted } from '../mount-table.js'
import type { MountSpec } from '../mounts/mount-spec.js'
import { findRuntime } from '../oci-runtime.js'
import { ownNamespaces } from '../rootless/standing.js'
import { runProcess } from '../run-process.js'
import type { Store } from '../store.js'
import { StoreError } from '../store-error.js'
import { specOf, type ProcessSpec } from './container-spec.js'
import { createContainer, removeContainer, type CreateWithMounts } from './create.js'
import { bundleOf } from './process.js'
import { childrenOf, closeLease, ContainerUse, openLease, startTimeOf } from './uses.js'

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

/**
 * Runs the command and returns its exit code, or 128 and the number of the signal that ended it. Signals that this
 * process receives meanwhile are passed on.
 * @throws StoreError; with `remove` nothing is left behind
 */
export async function runContainer(store: Store, options: RunContainer): Promise<number> {
  const mounts = [...(options.mounts ?? []), ...resolver(options)]
  for (const { target } of mounts) refuseSystemTarget(target)
  const lease = { claim: openLease(store), remove: options.remove }
  try {
    return await runLeased(store, { ...options, mounts }, lease)
  } finally {
    closeLease(store, lease.claim)
  }
}

async function runLeased(
  store: Store,
  options: RunContainer,
  lease: { readonly claim: Claim; readonly remove: boolean },
): Promise<number> {
  const use = { lease: lease.claim.id, remove: lease.remove }
  const container = await createContainer(store, { ...options, use })
  try {
    const target = specOf(container).ids === undefined ? undefined : reachable(container.id)
    // After the use has ended.
    using own = new OwnTarget(target)
    void own
    await using use = await ContainerUse.begin(store, container.id, {
      lease,
      ...(target === undefined ? {} : { target }),
    })
    const bundle = bundleOf(store, container, use.rootfs, options.process)
    await using scratch = store.scratch()
    return await withSignals(async started => {
      return await runProcess({
        ...bundle,
        id: `lamina-${container.id.slice(0, 12)}`,
        scratch: scratch.dir,
        stdio: [options.interactive || options.process.terminal ? 'inherit' : 'ignore', 'inherit', 'inherit'],
        onRuntime: process => use.setProcess(process),
        onStart: child => {
          started(child)
          if (findRuntime() !== undefined || child.pid === undefined) return
          const startTime = startTimeOf(child.pid)
          if (startTime === undefined) return
          use.setProcess({ kind: 'namespaces', pid: child.pid, startTime, boot: bootId() })
        },
      })
    })
  } finally {
    if (options.remove) await removeContainer(store, container.id, { force: true, volumes: true })
  }
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

/** With the host's network the host's resolver. By descriptor, as every mount: images have symlinks there. */
function resolver(options: RunContainer): MountSpec[] {
  const target = '/etc/resolv.conf'
  const taken = options.mounts?.some(mount => mount.target === target || mount.target === '/etc') === true
  if (options.process.network === 'none' || taken || !existsSync(target)) return []
  return [
    {
      type: 'bind',
      source: realpathSync(target),
      target,
      readOnly: true,
      propagation: 'rprivate',
      recursive: false,
      createSource: false,
    },
  ]
}

/** These belong to the runtime, which would hide what is mounted there. */
function refuseSystemTarget(target: string): void {
  if (!/^\/(proc|sys|dev)(\/|$)/.test(target)) return
  throw new StoreError('unsupported', `run cannot mount on ${target}`, '/proc, /sys and /dev are its own')
}
