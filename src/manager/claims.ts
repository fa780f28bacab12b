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
import { randomBytes } from 'node:crypto'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fromUtf8 } from '../base/bytes.js'
import { E } from '../base/errno.js'
import type { Fd } from '../base/fd.js'
import { SysError } from '../base/sys-error.js'
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

/** How a file is called before it is a claim. */
const UNNAMED = 'new-'

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
      const there = openQuietly(path)
      const fd = there ?? this.#bornLocked(path)
      if (fd === undefined) continue
      if (there !== undefined && !sys.flock(fd.n, sys.LOCK_EX | sys.LOCK_NB)) {
        fd.close()
        return undefined
      }
      // Between our open and our flock its last holder may have released it: then we locked a file without that name.
      if (isAt(path, fd)) return new Claim(kind, id, path, fd)
      fd.close()
    }
  }

  /**
   * A claim file that is locked before it has its name. Made under that name it would lie there unlocked for a moment, and a
   * command that opens the store just then would take it for a dead process's. @returns `undefined` where there is one now
   */
  #bornLocked(path: string): Fd | undefined {
    const unnamed = join(this.dir, `${UNNAMED}${randomBytes(8).toString('hex')}`)
    const fd = sys.openat(sys.AT_FDCWD, fromUtf8(unnamed), sys.O_RDWR | sys.O_CREAT | sys.O_EXCL, 0o600)
    let ours = false
    try {
      // A sweep may have this one for a moment; then it is removed, and the caller's next round makes another.
      ours = sys.flock(fd.n, sys.LOCK_EX | sys.LOCK_NB) && linkQuietly(unnamed, path)
      return ours ? fd : undefined
    } finally {
      unlinkQuietly(unnamed)
      if (!ours) fd.close()
    }
  }

  /** A claim on an id that nobody else can know. */
  claim(kind: ClaimKind, id: string): Claim {
    const claim = this.tryClaim(kind, id)
    if (claim === undefined) throw new Error(`${kind} ${id} is claimed by another process`)
    return claim
  }

  /** Whether a live process has the claim. Nothing is changed: what a dead one left stays for the sweep. */
  isHeld(kind: ClaimKind, id: string): boolean {
    const path = fromUtf8(join(this.dir, `${kind}-${id}`))
    try {
      using fd = sys.openat(sys.AT_FDCWD, path, sys.O_RDWR | sys.O_NOFOLLOW)
      return !sys.flock(fd.n, sys.LOCK_EX | sys.LOCK_NB)
    } catch (error) {
      if (error instanceof SysError && error.errno === E.ENOENT) return false
      throw error
    }
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
      if (kind === undefined && !name.startsWith(UNNAMED)) continue
      const path = join(this.dir, name)
      const fd = openQuietly(path)
      if (fd === undefined) continue
      const dead = sys.flock(fd.n, sys.LOCK_EX | sys.LOCK_NB) && isAt(path, fd)
      if (dead && kind !== undefined) {
        yield new Claim(kind, name.slice(dash + 1), path, fd)
      } else {
        if (dead) unlinkQuietly(path)
        fd.close()
      }
    }
  }
}

/** `undefined` where there is none. */
function openQuietly(path: string): Fd | undefined {
  try {
    return sys.openat(sys.AT_FDCWD, fromUtf8(path), sys.O_RDWR | sys.O_NOFOLLOW)
  } catch (error) {
    if (error instanceof SysError && error.errno === E.ENOENT) return undefined
    throw error
  }
}

/** @returns false where there is one already, or where a sweep took `from` away */
function linkQuietly(from: string, to: string): boolean {
  try {
    sys.linkat(sys.AT_FDCWD, fromUtf8(from), sys.AT_FDCWD, fromUtf8(to), 0)
    return true
  } catch (error) {
    if (error instanceof SysError && (error.errno === E.EEXIST || error.errno === E.ENOENT)) return false
    throw error
  }
}

function isAt(path: string, fd: Fd): boolean {
  const named = sys.statAt(sys.AT_FDCWD, fromUtf8(path))
  const held = sys.statFd(fd.n)
  return named !== undefined && named.ino === held.ino && named.dev === held.dev
}

function unlinkQuietly(path: string): void {
  try {
    sys.unlinkat(sys.AT_FDCWD, fromUtf8(path), 0)
  } catch {
    // Gone already: a sweep of another process cannot have it (we hold the lock), but a person may.
  }
}
