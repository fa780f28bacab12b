import type { MountRecord } from './run-dir.js'

/**
 * What is said over a daemon's control socket: one JSON object a line, each request answered by one line, in order.
 */
export type Request =
  | { cmd: 'info' }
  | { cmd: 'stats' }
  /** Answered when the mount is gone from the daemon's namespace; the daemon ends once nobody uses it any more. */
  | { cmd: 'umount'; how: UnmountHow }
  /** The keeper starts that program (Node and its first file) in place of this daemon, which ends at once. */
  | { cmd: 'restart'; program: string; main: string }
  /** Somebody wants the upperdir. The daemon unmounts if nobody can reach the mount any more, and else says who can. */
  | { cmd: 'yield' }

/** `plain` fails with EBUSY while in use; `lazy` is MNT_DETACH; `force` also ends what is in use (MNT_FORCE). */
export type UnmountHow = 'plain' | 'lazy' | 'force'

/** What `lamina stats` shows. Counts are since the mount. */
export interface Stats {
  pid: number
  /** How file contents are read and written, and why so. */
  io: { mode: 'cached' | 'passthrough'; why: string }
  /** Requests by name, e.g. `LOOKUP`, those that the data plane served without JavaScript included. */
  requests: Record<string, number>
  /** Error replies by request name. An absent name is an error of LOOKUP only where it cannot be cached. */
  errors: Record<string, number>
  /** How often a request waited for something slow (a copy-up) and was then run anew. */
  waits: Record<string, number>
  /** Inodes that the kernel holds a reference to, the root included. */
  inodes: number
  /** Names in directories that are read next, looked up before they were asked for; and how many of them were. */
  ahead: { found: number; used: number }
  /** Open descriptors of the daemon. */
  fds: number
  /** Resident memory of the daemon, bytes. */
  memory: number
  /** With a keeper: how often a daemon of this mount has died, and how the last time. */
  deaths?: { count: number; last?: { time: string; cause: string } }
  /** Layers that do not answer at the moment, and since when (milliseconds since 1970). */
  silent: { layers: string[]; since: number }[]
  /** Lower layers that change: how they are looked after, changes of files that were noticed, and with lower=live what is watched and not. */
  lower: {
    mode: string
    noticed: number
    watched?: number
    outside?: { directories: number; why: string }
  }
  replies: number
  /** Replies that nobody waited for any more (the caller was killed). */
  undelivered: number
  /** Frames too broken to answer. */
  dropped: number
  /** Unexpected exceptions, each answered EIO. */
  faults: number
  pending: number
  /** Invalidations sent to the kernel. */
  notifications: number
  /** READ and WRITE, as the native channel served them. */
  dataPlane: Record<string, number>
}

export interface Replies {
  info: MountRecord
  stats: Stats
  umount: Record<string, never>
  restart: Record<string, never>
  /** `user`: who may use the mount, for people. Absent when it is gone. */
  yield: { user?: string }
}

export type Reply<C extends keyof Replies> = { ok: Replies[C] } | { error: string; errno?: number }

/** No request is longer; whoever sends more is cut off. */
export const REQUEST_LIMIT = 4096
