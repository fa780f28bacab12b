/**
 * Uses of a container's rootfs that end with the command they belong to. The command holds the claim on a lease; its row
 * in `container_uses` says what to undo. A command that was killed leaves both, and the next one ends what it began:
 * the process, the mount, and for `run --rm` the container.
 */
import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { Claim } from '../claims.js'
import type { ContainerRecord } from '../containers.js'
import { bootId } from '../mount-table.js'
import type { BindMount } from '../mounts/mount-spec.js'
import type { Store } from '../store.js'
import { StoreError } from '../store-error.js'
import { removeContainer } from './create.js'
import { noteEnd, noteStart } from './run-state.js'

/** What runs in a container, as whoever has only the row can reach it. */
export type RunningProcess =
  /** Not there yet: its command prepares it. */
  | { readonly kind: 'starting' }
  /** In an OCI runtime: the words that start it, and its name for the container. */
  | { readonly kind: 'runtime'; readonly command: readonly string[]; readonly id: string }
  /** In namespaces of our own: the process that keeps them. Pids are used again: the start time tells. */
  | { readonly kind: 'namespaces'; readonly pid: number; readonly startTime: number; readonly boot: string }

/** The claim on a lease that a command keeps, and what becomes of the container with it. */
export interface UseLease {
  readonly claim: Claim
  readonly remove: boolean
}

export interface UseOptions {
  readonly target?: string
  readonly lease?: UseLease
  /** Beside those that the container was made with. */
  readonly mounts?: readonly BindMount[]
}

/** A claim for {@link UseOptions}. */
export function openLease(store: Store): Claim {
  return store.claims.claim('lease', randomBytes(8).toString('hex'))
}

/**
 * Makes the lease's command the one that runs the container: there is one at a time.
 * @throws StoreError in-use
 */
export function claimRun(store: Store, container: ContainerRecord, lease: UseLease): void {
  const { db } = store
  db.transaction(() => {
    store.containers.find(container.id)
    if (runningIn(store, container.id).length > 0) {
      throw new StoreError(
        'in-use',
        `container ${container.name} is running`,
        `'lamina exec' runs one more command in it, 'lamina stop' ends it`,
      )
    }
    const insert =
      'INSERT OR IGNORE INTO container_uses (lease, container, remove, counted) VALUES (?, ?, ?, 0)'
    db.run(insert, lease.claim.id, container.id, lease.remove ? 1 : 0)
    const starting: RunningProcess = { kind: 'starting' }
    const sql = 'UPDATE container_uses SET process = ? WHERE lease = ?'
    db.run(sql, JSON.stringify(starting), lease.claim.id)
  })
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
        ...(options.mounts === undefined ? {} : { mounts: options.mounts }),
      })
      return new ContainerUse(store, container, claim, own, rootfs, remove)
    } catch (error) {
      if (own) claim.release()
      throw error
    }
  }

  /** Says what runs, before it runs where that can be. */
  setProcess(process: RunningProcess): void {
    const { db } = this.store
    db.transaction(() => {
      const sql = 'UPDATE container_uses SET process = ? WHERE lease = ?'
      db.run(sql, JSON.stringify(process), this.claim.id)
      noteStart(this.store, this.container)
    })
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
  if (row.process !== null) {
    endProcess(JSON.parse(row.process) as RunningProcess)
    noteEnd(store, row.container, 128 + 9)
  }
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
    .filter(row => store.claims.isHeld('lease', row.lease))
    .map(row => JSON.parse(row.process ?? '') as RunningProcess)
}

/**
 * A question to ask again and again: whether a command that lives is not done with the container. It runs something in it, or it
 * goes on to remove it, and what went with it, when its row is gone already.
 */
export function busyWith(store: Store, container: string): () => boolean {
  const seen = new Set<string>()
  const sql = 'SELECT lease FROM container_uses WHERE container = ? AND (process IS NOT NULL OR remove = 1)'
  return () => {
    for (const { lease } of store.db.all<{ lease: string }>(sql, container)) seen.add(lease)
    return [...seen].some(lease => store.claims.isHeld('lease', lease))
  }
}

/** Ends it at once. What is gone already is no error. */
export function endProcess(process: RunningProcess): void {
  if (process.kind === 'starting') return
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
