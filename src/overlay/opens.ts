/**
 * Open files in the mode io=passthrough: which of them the kernel reads and writes on the backing file itself.
 *
 * The kernel's rules (fs/fuse/iomode.c): all passthrough handles of one inode have the same backing file, and an inode has either
 * cached or passthrough handles at any time; a reply that breaks this makes open(2) fail with EIO. So the first handle decides for
 * all that are open together with it. A lower file of a writable mount is never opened in passthrough: a later copy-up would
 * have to give it another backing file, and descriptors from before would not see what is written after.
 */
import * as sys from '../sys/index.js'
import { Fd } from '../base/fd.js'
import type { OpenReply } from '../fuse/filesystem.js'
import { ensureUpper } from './copy-up.js'
import type { Inode } from './inode.js'
import { openReal } from './io.js'
import type { View } from './view.js'

const FOPEN_KEEP_CACHE = 1 << 1
const FOPEN_PASSTHROUGH = 1 << 7

/** The handle given to the kernel says in which mode it is; there is nothing else to remember by handle. */
const CACHED = 1
const PASSTHROUGH = 2

interface OpenState {
  cached: number
  passthrough: number
  /** The backing file's id, while passthrough handles are open. */
  backingId: number
}

export class Opens {
  private readonly open = new Map<Inode, OpenState>()
  /** Inodes whose page cache may be older than the backing file, because the kernel wrote past it. */
  private readonly stale = new WeakSet<Inode>()
  /** Why passthrough is not used, once the kernel has refused it. */
  refused: string | undefined

  constructor(private readonly view: View) {}

  /** Answers OPEN. @throws Again while a file opened for writing is copied up; SysError */
  openFile(inode: Inode, flags: number): OpenReply {
    const state = this.open.get(inode) ?? { cached: 0, passthrough: 0, backingId: 0 }
    if (state.passthrough > 0) return this.passthrough(inode, state)
    const writes = (flags & sys.O_ACCMODE) !== sys.O_RDONLY
    if (state.cached === 0) {
      if (writes) ensureUpper(this.view, inode, (flags & sys.O_TRUNC) === 0 ? Infinity : 0)
      if (this.eligible(inode) && this.begin(inode, state)) return this.passthrough(inode, state)
    }
    return this.cached(inode, state)
  }

  /** Answers CREATE for a file that nobody else can have open yet. `fd` stays the caller's. */
  created(inode: Inode, fd: number): OpenReply {
    const state: OpenState = { cached: 0, passthrough: 0, backingId: 0 }
    if (this.refused === undefined) {
      const id = this.view.kernel.openBacking(fd)
      if (id !== undefined) {
        state.backingId = id
        return this.passthrough(inode, state)
      }
    }
    return this.cached(inode, state)
  }

  release(inode: Inode, fh: number): void {
    const state = this.open.get(inode)
    if (state === undefined) return
    if (fh === PASSTHROUGH) state.passthrough--
    else state.cached--
    if (state.passthrough === 0 && state.backingId !== 0) {
      this.view.kernel.closeBacking(state.backingId)
      state.backingId = 0
    }
    if (state.cached <= 0 && state.passthrough <= 0) this.open.delete(inode)
  }

  private eligible(inode: Inode): boolean {
    if (this.refused !== undefined || inode.type !== sys.S_IFREG || inode.data !== null) return false
    return this.view.upper === null || inode.upper !== null || inode.orphan !== null
  }

  private begin(inode: Inode, state: OpenState): boolean {
    const flags = this.view.upper === null ? sys.O_RDONLY | sys.O_NOATIME : sys.O_RDWR
    using file = new Fd(openReal(this.view, inode, flags))
    // The kernel writes on the backing file with the daemon's rights, which would leave setuid and setgid standing.
    if ((sys.statFd(file.n).mode & (sys.S_ISUID | sys.S_ISGID)) !== 0) return false
    const id = this.view.kernel.openBacking(file.n)
    if (id === undefined) {
      // Missing privilege, or a backing filesystem that is stacked itself: true of the whole mount.
      this.refused = 'the kernel refuses the backing file'
      return false
    }
    state.backingId = id
    return true
  }

  private passthrough(inode: Inode, state: OpenState): OpenReply {
    state.passthrough++
    this.open.set(inode, state)
    this.stale.add(inode)
    return { fh: PASSTHROUGH, flags: FOPEN_PASSTHROUGH, backingId: state.backingId }
  }

  private cached(inode: Inode, state: OpenState): OpenReply {
    state.cached++
    this.open.set(inode, state)
    const keep = !this.stale.delete(inode)
    return { fh: CACHED, flags: keep ? FOPEN_KEEP_CACHE : 0 }
  }
}
