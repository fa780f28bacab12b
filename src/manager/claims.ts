/**
 * Claims: which directories of the store are being made or removed right now, and by whom.
 *
 * Before a command makes a directory that has no row yet, or deletes the row of one that it will then remove, it
 * creates the file `claims/KIND-ID` and holds flock(LOCK_EX) on it. The claim goes when the row is committed or the
 * directory is gone. So:
 *
 * - a claim file that is locked: a live process works on KIND-ID; nobody else touches it;
 * - a claim file that is not locked: its process died. Whoever opens the store next finishes the job: a directory
 *   without a row is removed (metadata commits first, directories go after);
 * - no claim file: rows and directories agree.
 *
 * Liveness is the lock and not a pid: the kernel drops the lock with the last descriptor, however the process ends,
 * and a pid of another process, container or boot can never be mistaken for it. A sweep costs one readdir of a
 * directory that is empty almost always.
 */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fromUtf8 } from '../base/bytes.js'
import type { Fd } from '../base/fd.js'
import * as sys from '../sys/index.js'

export const CLAIM_KINDS = [
  'layer',
  'container',
  'volume',
  'snapshot',
  'scratch',
  'partial',
  'blob',
  'lease',
] as const
export type ClaimKind = (typeof CLAIM_KINDS)[number]

export class Claim implements Disposable {
  constructor(
    readonly kind: ClaimKind,
    readonly id: string,
    readonly path: string,
    readonly fd: Fd,
  ) {}

  /** The work is done and rows and directories agree again. */
  release(): void {
    if (this.fd.closed) return
    // Unlinked while locked: nobody can lock this file and find it still in its place.
    unlinkQuietly(this.path)
    this.fd.close()
  }

  /** Gives up without tidying: the next sweep finds the claim and does it. */
  abandon(): void {
    if (!this.fd.closed) this.fd.close()
  }

  [Symbol.dispose](): void {
    this.release()
  }
}

export class Claims {
  constructor(readonly dir: string) {}

  /**
   * The claim on KIND-ID, or `undefined` where a live process has it.
   * @throws SysError ENOSPC, EROFS, EACCES
   */
  tryClaim(kind: ClaimKind, id: string): Claim | undefined {
    const path = join(this.dir, `${kind}-${id}`)
    for (;;) {
      const fd = sys.openat(sys.AT_FDCWD, fromUtf8(path), sys.O_RDWR | sys.O_CREAT | sys.O_NOFOLLOW, 0o600)
      if (!sys.flock(fd.n, sys.LOCK_EX | sys.LOCK_NB)) {
        fd.close()
        return undefined
      }
      // Between our open and our flock its last holder may have released it: then we locked a file without a name.
      if (sys.statFd(fd.n).nlink > 0) return new Claim(kind, id, path, fd)
      fd.close()
    }
  }

  /** A claim on an id that nobody else can know. */
  claim(kind: ClaimKind, id: string): Claim {
    const claim = this.tryClaim(kind, id)
    if (claim === undefined) throw new Error(`${kind} ${id} is claimed by another process`)
    return claim
  }

  /** Waits until KIND-ID can be claimed: two downloads of one blob, say. */
  async wait(kind: ClaimKind, id: string, signal?: AbortSignal): Promise<Claim> {
    for (let delay = 5; ; delay = Math.min(delay * 2, 200)) {
      signal?.throwIfAborted()
      const claim = this.tryClaim(kind, id)
      if (claim !== undefined) return claim
      await new Promise(resolve => setTimeout(resolve, delay))
    }
  }

  /** The claims of dead processes, now held by the caller. */
  *orphaned(): Generator<Claim> {
    for (const name of readdirSync(this.dir)) {
      const dash = name.indexOf('-')
      const kind = CLAIM_KINDS.find(known => known === name.slice(0, dash))
      if (kind === undefined) continue
      const claim = this.tryClaim(kind, name.slice(dash + 1))
      if (claim !== undefined) yield claim
    }
  }
}

function unlinkQuietly(path: string): void {
  try {
    sys.unlinkat(sys.AT_FDCWD, fromUtf8(path), 0)
  } catch {
    // Gone already: a sweep of another process cannot have it (we hold the lock), but a person may.
  }
}
