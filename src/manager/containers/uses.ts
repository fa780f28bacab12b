/**
 * Uses of a container's rootfs that end with the command they belong to. The command holds the claim on a lease; its row
 * in `container_uses` says what to undo. A command that was killed leaves both, and the next one ends what it began:
 * the process, the mount, and for `run --rm` the container.
 */
import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { Claim } from '../claims.js'
import { bootId } from '../mount-table.js'
import type { Store } from '../store.js'
import { StoreError } from '../store-error.js'
import { removeContainer } from './create.js'

/** What runs in a container, as whoever has only the row can reach it. */
export type RunningProcess =
  /** In an OCI runtime: the words that start it, and its name for the container. */
  | { readonly kind: 'runtime'; readonly command: readonly string[]; readonly id: string }
  /** In namespaces of our own: the process that keeps them. Pids are used again: the start time tells. */
  | { readonly kind: 'namespaces'; readonly pid: number; readonly startTime: number; readonly boot: string }

export interface UseOptions {
  readonly target?: string
  /** The claim on a lease that the caller keeps, and what becomes of the container with it. */
  readonly lease?: { readonly claim: Claim; readonly remove: boolean }
}

/** A claim for {@link UseOptions}. */
export function openLease(store: Store): Claim {
  return store.claims.claim('lease', randomBytes(8).toString('hex'))
}

export class ContainerUse implements AsyncDisposable {
  private constructor(
    readonly store: Store,
    readonly container: string,
    readonly claim: Claim,
    readonly ownsClaim: boolean,
    readonly rootfs: string,
    readonly force: boolean,
  ) {}

  /** Mounts the container, with all that belongs in it. */
  static async begin(store: Store, container: string, options: UseOptions = {}): Promise<ContainerUse> {
    const { claim, remove } = options.lease ?? { claim: openLease(store), remove: false }
    const own = options.lease === undefined
    try {
      const rootfs = await store.containers.mount(container, {
        use: { lease: claim.id, remove },
        ...(options.target === undefined ? {} : { target: options.target }),
      })
      return new ContainerUse(store, container, claim, own, rootfs, remove)
    } catch (error) {
      if (own) claim.release()
      throw error
    }
  }

  /** Says what runs, before it runs where that can be. */
  setProcess(process: RunningProcess): void {
    const sql = 'UPDATE container_uses SET process = ? WHERE lease = ?'
    this.store.db.run(sql, JSON.stringify(process), this.claim.id)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.store.containers.unmount(this.container, { lease: this.claim.id, force: this.force })
    } catch (error) {
      // Removed by somebody else meanwhile.
      if (!(error instanceof StoreError && error.code === 'not-found')) {
        if (this.ownsClaim) this.claim.abandon()
        throw error
      }
    }
    if (this.ownsClaim) this.claim.release()
  }
}

interface UseRow {
  lease: string
  container: string
  remove: number
  process: string | null
}

/** The use of a dead command, whose claim the caller holds. Returns whether there was one. */
export async function endDeadUse(store: Store, lease: string): Promise<boolean> {
  const row = store.db.get<UseRow>('SELECT * FROM container_uses WHERE lease = ?', lease)
  if (row === undefined) return false
  if (row.process !== null) endProcess(JSON.parse(row.process) as RunningProcess)
  if (row.remove === 1) await removeContainer(store, row.container, { force: true, volumes: true })
  else await store.containers.unmount(row.container, { lease, force: true })
  return true
}

/** What the holder of a lease has done with its container: with nothing left, the claim goes; else a sweep finishes. */
export function closeLease(store: Store, claim: Claim): void {
  store.db.run('DELETE FROM container_uses WHERE lease = ? AND remove = 0 AND counted = 0', claim.id)
  const left = store.db.get('SELECT 1 FROM container_uses WHERE lease = ?', claim.id) !== undefined
  if (left) claim.abandon()
  else claim.release()
}

/** The processes of commands that live. */
export function runningIn(store: Store, container: string): RunningProcess[] {
  const sql = 'SELECT * FROM container_uses WHERE container = ? AND process IS NOT NULL'
  return store.db
    .all<UseRow>(sql, container)
    .filter(row => isHeld(store, row.lease))
    .map(row => JSON.parse(row.process ?? '') as RunningProcess)
}

function isHeld(store: Store, lease: string): boolean {
  const claim = store.claims.tryClaim('lease', lease)
  // Unlocked, its command is dead: left as it is for the sweep.
  claim?.abandon()
  return claim === undefined
}

/** Ends it at once. What is gone already is no error. */
export function endProcess(process: RunningProcess): void {
  if (process.kind === 'runtime') {
    const [program = '', ...args] = process.command
    spawnSync(program, [...args, 'delete', '--force', process.id], { stdio: 'ignore' })
    return
  }
  if (process.boot !== bootId() || startTimeOf(process.pid) !== process.startTime) return
  for (const pid of [...childrenOf(process.pid), process.pid]) {
    try {
      globalThis.process.kill(pid, 'SIGKILL')
    } catch {
      // Gone since we looked.
    }
  }
}

/** In clock ticks since the boot; `undefined` for a process that is no more. Source: proc_pid_stat(5), field 22 */
export function startTimeOf(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19])
  } catch {
    return undefined
  }
}

export function childrenOf(pid: number): number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').split(' ').filter(Boolean).map(Number)
  } catch {
    return []
  }
}
