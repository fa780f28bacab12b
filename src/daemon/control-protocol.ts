import type { MountRecord } from './run-dir.js'

/**
 * What is said over a daemon's control socket: one JSON object a line, each request answered by one line, in order.
 */
export type Request =
  | { cmd: 'info' }
  | { cmd: 'stats' }
  /** Answered when the mount is gone from the daemon's namespace; the daemon ends once nobody uses it any more. */
  | { cmd: 'umount'; how: UnmountHow }

/** `plain` fails with EBUSY while in use; `lazy` is MNT_DETACH; `force` also ends what is in use (MNT_FORCE). */
export type UnmountHow = 'plain' | 'lazy' | 'force'

export interface Stats {
  /** Requests by name, e.g. `LOOKUP`; only those that were seen. */
  requests: Record<string, number>
  /** Everything else that is counted, e.g. bytes read. */
  counters: Record<string, number>
}

export interface Replies {
  info: MountRecord
  stats: Stats
  umount: Record<string, never>
}

export type Reply<C extends keyof Replies> = { ok: Replies[C] } | { error: string; errno?: number }

/** No request is longer; whoever sends more is cut off. */
export const REQUEST_LIMIT = 4096
