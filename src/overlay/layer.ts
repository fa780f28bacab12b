/**
 * Layers, and the real objects on them.
 *
 * Invariant: nothing below a layer is ever reached by a path from the host's root. Every directory descriptor is
 * opened from its parent's with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS, so a symlink in a layer leads nowhere.
 */
import * as sys from '../sys/index.js'
import type { CopyMethod } from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { WH_PREFIX } from '../format/index.js'
import type { Fd } from '../base/fd.js'
import type { RootFacts } from './root-facts.js'

/** One directory tree. Index 0 is upper; lower layers follow from 1, top first. */
export class Layer {
  readonly root: DirReal
  /** How the last copy of a file's data into upper was done: a reflink is the better way for a small file, too. */
  copiedBy: CopyMethod | undefined
  /** Whether its filesystem can share extents, once that was asked: see io.ts. */
  clones: boolean | undefined
  constructor(
    readonly index: number,
    readonly rootFd: Fd,
    readonly path: string,
    readonly facts: RootFacts,
    readonly readOnly: boolean,
  ) {
    this.root = new DirReal(this, null, '')
  }

  /** Device of the layer's root. */
  get dev(): number {
    return this.facts.dev
  }
}

/** One object on one layer: reached by its name in its real parent. */
export class Real {
  constructor(
    readonly layer: Layer,
    public parent: DirReal | null,
    public name: string,
  ) {}

  /** Path from the layer's root, without a leading slash. */
  path(): string {
    const parts: string[] = []
    let { name, parent } = this
    for (; parent !== null; { name, parent } = parent) parts.push(name)
    return parts.reverse().join('/')
  }
}

/** A real directory. Its descriptor is a cache entry, never a necessity: see {@link DirFds}. */
export class DirReal extends Real {
  /** O_PATH descriptor or -1. Owned by DirFds. */
  fd = -1
  /** The request in which the descriptor was last used; it is not closed within the same one. */
  usedIn = 0
  /** The value of `usedIn` when DirFds last thought of closing it: used since then, it stays for another round. */
  passedIn = 0
  /** Whether `.wh.` marker files may be in here. A complete listing makes it exact. */
  markers = true
  /** How often that was asked of a single name; see lookup.ts. */
  markersAsked = 0
  private looked = false
  /** Whether xattr whiteouts may be in here (opaque=x). */
  xwhiteouts = false
  /** Only on the way to something that a redirect names: no inode's own, so it goes when that something goes. */
  passage = false
  /** Whether an entry may carry an origin (the `impure` attribute); upper directories only. */
  impure = false

  /** Marker files came, perhaps. */
  markersChanged(): void {
    this.markers = true
    this.looked = false
    this.markersAsked = 0
  }

  /** The directory behind `dirfd` is looked through, once. Gives {@link markers}. */
  lookForMarkers(dirfd: number): boolean {
    if (this.markers && !this.looked) {
      this.looked = true
      this.markers = sys.hasPrefix(dirfd, WH_PREFIX) ?? true
    }
    return this.markers
  }
}

const DIR_FLAGS = sys.O_PATH | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC
const BENEATH = sys.RESOLVE_BENEATH | sys.RESOLVE_NO_SYMLINKS
/** How many directories at the end of one way are kept open. */
const MOST_KEPT = 16
/** PATH_MAX without the final NUL. */
const MOST_PATH = 4095

/**
 * The open directory descriptors of all layers: a bounded cache that gives those used lately a second chance (CLOCK).
 * A descriptor obtained in a request stays open until that request ends, so that a rename can hold two of them.
 */
export class DirFds {
  private readonly open: DirReal[] = []
  private hand = 0
  private request = 1

  constructor(private readonly limit: number) {}

  get size(): number {
    return this.open.length
  }

  /** Called once before each request. */
  nextRequest(): void {
    this.request++
  }

  /**
   * The O_PATH descriptor of `dir`, valid until the next request.
   * @throws SysError as openat2(2); ENOENT and ENOTDIR mean that the layer was changed behind the mount.
   */
  get(dir: DirReal): number {
    if (dir.fd < 0 && dir.parent !== null) this.openFrom(dir)
    dir.usedIn = this.request
    return dir.fd >= 0 ? dir.fd : dir.layer.rootFd.n
  }

  /** Opens the way to `dir` from the nearest directory that is open. */
  private openFrom(dir: DirReal): void {
    const closed: DirReal[] = []
    let open = dir
    for (; open.fd < 0 && open.parent !== null; open = open.parent) closed.push(open)
    let from = open.fd >= 0 ? open.fd : open.layer.rootFd.n
    let passing = -1
    for (let next = closed.pop(); next !== undefined; next = closed.pop()) {
      let path = next.name
      // A long way is gone in few steps, and only its end is kept: all of it would drive out all others.
      while (closed.length > MOST_KEPT) {
        const name = closed.at(-1)?.name ?? ''
        if (path.length + 1 + name.length > MOST_PATH) break
        path += '/' + name
        next = closed.pop() ?? next
      }
      const fd = sys.tryOpenat2(from, path, DIR_FLAGS, 0, BENEATH)
      if (passing >= 0) sys.close(passing)
      if (fd < 0) throw new SysError(-fd, 'openat2', next.path())
      if (closed.length < MOST_KEPT) this.adopt(next, fd)
      passing = closed.length < MOST_KEPT ? -1 : fd
      from = fd
    }
  }

  /** Takes over a descriptor that was opened on the way to one that is asked for: it may be closed once that is open. */
  private adopt(dir: DirReal, fd: number): void {
    while (this.open.length >= this.limit && this.evictOne());
    dir.fd = fd
    dir.usedIn = dir.passedIn = this.request - 1
    this.open.push(dir)
  }

  /** Closes the descriptors of those directories above `real` that were opened for its sake alone. */
  dropPassages(real: Real): void {
    for (let dir = real.parent; dir?.passage === true; dir = dir.parent) this.drop(dir)
  }

  /** Closes the descriptor of a directory that went away. */
  drop(dir: DirReal): void {
    if (dir.fd < 0) return
    const at = this.open.indexOf(dir)
    if (at >= 0) this.removeAt(at)
  }

  closeAll(): void {
    while (this.open.length > 0) this.removeAt(this.open.length - 1)
  }

  private removeAt(at: number): void {
    const dir = this.open[at]
    const last = this.open.pop()
    if (dir === undefined || last === undefined) return
    if (at < this.open.length) this.open[at] = last
    sys.close(dir.fd)
    dir.fd = -1
  }

  /** False when all are in use: then the cache grows beyond its limit, and shrinks again later. */
  private evictOne(): boolean {
    for (let looked = 0; looked < 2 * this.open.length; looked++) {
      this.hand = this.hand + 1 < this.open.length ? this.hand + 1 : 0
      const dir = this.open[this.hand]
      if (dir === undefined || dir.usedIn === this.request) continue
      if (dir.usedIn === dir.passedIn) {
        this.removeAt(this.hand)
        return true
      }
      dir.passedIn = dir.usedIn
    }
    return false
  }
}

/**
 * Opens a non-directory, or anything, by name in a real directory; never follows a symlink.
 * @throws SysError as openat2(2); ELOOP where the name became a symlink.
 */
export function openBeneath(dirfd: number, name: string, flags: number): number {
  const fd = sys.tryOpenat2(dirfd, name, flags | sys.O_NOFOLLOW | sys.O_CLOEXEC, 0, BENEATH)
  if (fd >= 0) return fd
  // O_NOATIME is for owners and CAP_FOWNER only: reading then updates atime as it would anywhere.
  if (fd === -E.EPERM && (flags & sys.O_NOATIME) !== 0)
    return openBeneath(dirfd, name, flags & ~sys.O_NOATIME)
  throw new SysError(-fd, 'openat2', name)
}
