/**
 * `RUN --mount=type=cache`: directories of the store that outlive builds. Each is found by the digest of what names it, so
 * that no id leads anywhere; a flock beside it says who uses it. Two builds may want the same one at once: `shared` has it
 * together, `locked` one after the other, `private` each its own.
 * Source: the Dockerfile reference, "RUN --mount=type=cache"; moby/buildkit solver/llbsolver/mounts.
 */
import { createHash } from 'node:crypto'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { fromUtf8 } from '../../base/bytes.js'
import { E } from '../../base/errno.js'
import type { Fd } from '../../base/fd.js'
import { SysError } from '../../base/sys-error.js'
import type { CacheRunMount, CacheSharing } from '../../oci/index.js'
import * as sys from '../../sys/index.js'

export interface WantedCache {
  readonly mount: CacheRunMount
  /** What says which tree it begins with, where it does. */
  readonly base?: string
  /** Lays out a new one in an empty directory. */
  readonly fill: (dir: Fd) => Promise<void>
}

/** Tries between two that find a cache in use, in milliseconds. */
const POLL = { first: 5, most: 200 }

/** The caches of one step; theirs until they are closed. */
export class CacheMounts implements Disposable {
  readonly #locks: Fd[] = []

  constructor(
    /** Where the store keeps them. */
    readonly dir: string,
    /** A directory on the same filesystem, for those that are made. */
    readonly scratch: string,
    readonly signal: AbortSignal | undefined,
    /** Ends what commands have left running that died: a lock goes with its command, not with what that ran. */
    readonly endOrphans: () => Promise<unknown>,
  ) {
    mkdirSync(dir, { recursive: true, mode: 0o700 })
  }

  /** O_PATH descriptors, in the order of `wanted`. Locked in the order of their keys: no two steps wait for each other. */
  async open(wanted: readonly WantedCache[]): Promise<Fd[]> {
    const strictest = new Map<string, CacheSharing>()
    for (const { mount, base } of wanted) {
      const key = keyOf(mount, base)
      const before = strictest.get(key) ?? 'shared'
      strictest.set(key, before === 'locked' || mount.sharing === 'shared' ? before : mount.sharing)
    }
    const names = new Map<string, string>()
    for (const [key, sharing] of [...strictest].sort()) names.set(key, await this.#lock(key, sharing))
    if (wanted.length > 0) await this.endOrphans()
    const opened: Fd[] = []
    try {
      for (const each of wanted) {
        const name = names.get(keyOf(each.mount, each.base)) ?? ''
        opened.push((await this.#find(name)) ?? (await this.#make(name, each)))
      }
      return opened
    } catch (error) {
      for (const fd of opened) fd.close()
      throw error
    }
  }

  /** @returns which directory it is: a private one may be a second or third beside others */
  async #lock(key: string, sharing: CacheSharing): Promise<string> {
    if (sharing === 'private') {
      for (let nth = 0; ; nth += 1) {
        const name = nth === 0 ? key : `${key}.${nth}`
        if (this.#tryLock(name, sys.LOCK_EX)) return name
      }
    }
    for (let delay = POLL.first; ; delay = Math.min(delay * 2, POLL.most)) {
      this.signal?.throwIfAborted()
      if (this.#tryLock(key, sharing === 'locked' ? sys.LOCK_EX : sys.LOCK_SH)) {
        return key
      }
      await wait(delay)
    }
  }

  #tryLock(name: string, kind: number): boolean {
    const path = fromUtf8(join(this.dir, `${name}.lock`))
    const fd = sys.openat(sys.AT_FDCWD, path, sys.O_RDWR | sys.O_CREAT | sys.O_NOFOLLOW, 0o600)
    const locked = sys.flock(fd.n, kind | sys.LOCK_NB)
    if (locked) this.#locks.push(fd)
    else fd.close()
    return locked
  }

  #find(name: string): Promise<Fd | undefined> {
    const path = fromUtf8(join(this.dir, name))
    try {
      const flags = sys.O_PATH | sys.O_DIRECTORY | sys.O_NOFOLLOW
      return Promise.resolve(sys.openat(sys.AT_FDCWD, path, flags))
    } catch (error) {
      if (error instanceof SysError && error.errno === E.ENOENT) return Promise.resolve(undefined)
      return Promise.reject(error as Error)
    }
  }

  /** Whole or not at all, also after kill -9; of two that make it at once, the first one's is taken. */
  async #make(name: string, { mount, fill }: WantedCache): Promise<Fd> {
    const unnamed = join(this.scratch, `cache-${name}`)
    mkdirSync(unnamed, { mode: 0o700 })
    {
      using dir = sys.openat(sys.AT_FDCWD, fromUtf8(unnamed), sys.O_RDONLY | sys.O_DIRECTORY)
      sys.fchmod(dir.n, 0o755)
      await fill(dir)
      const { uid, gid, mode } = mount
      if (uid !== undefined || gid !== undefined) sys.fchown(dir.n, uid ?? 0, gid ?? 0)
      if (mode !== undefined) sys.fchmod(dir.n, mode)
    }
    try {
      sys.renameat2(
        sys.AT_FDCWD,
        fromUtf8(unnamed),
        sys.AT_FDCWD,
        fromUtf8(join(this.dir, name)),
        sys.RENAME_NOREPLACE,
      )
    } catch (error) {
      if (!(error instanceof SysError && error.errno === E.EEXIST)) throw error
    }
    const made = await this.#find(name)
    if (made === undefined) throw new SysError(E.ENOENT, 'openat', name)
    return made
  }

  [Symbol.dispose](): void {
    for (const fd of this.#locks.splice(0)) fd.close()
  }
}

/**
 * One id with other owners, or another tree to begin with, is another cache. Two ids never share a directory, whatever
 * characters they have.
 */
function keyOf({ id, from, source, uid, gid, mode }: CacheRunMount, base: string | undefined): string {
  const owned = uid === undefined && gid === undefined && mode === undefined
  const begins = from === undefined ? [] : [base ?? '', source]
  const more = JSON.stringify([uid ?? 0, gid ?? 0, mode ?? 0o755, ...begins])
  const said = owned && from === undefined ? id : `${id}\0${more}`
  return createHash('sha256').update(said).digest('hex').slice(0, 32)
}
