/** What a container does, or did last. */
import type { Store } from '../store.js'
import { lastRun } from './run-state.js'
import { runningIn } from './uses.js'

export interface ContainerState {
  readonly status: 'created' | 'running' | 'exited'
  /** Milliseconds since 1970. */
  readonly startedAt?: number
  readonly finishedAt?: number
  /** Missing where nobody saw the end. */
  readonly exitCode?: number
}

export function stateOf(store: Store, container: { readonly id: string }): ContainerState {
  const run = lastRun(store, container.id)
  const runs = runningIn(store, container.id).some(one => one.kind !== 'starting')
  if (run === undefined) return { status: runs ? 'running' : 'created' }
  const startedAt = run.started
  if (runs) return { status: 'running', startedAt }
  return {
    status: 'exited',
    startedAt,
    ...(run.finished === null ? {} : { finishedAt: run.finished }),
    ...(run.code === null ? {} : { exitCode: run.code }),
  }
}
