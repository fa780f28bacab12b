/**
 * Open files in the mode io=passthrough: which of them the kernel reads and writes on the backing file itself.
 *
 * The kernel's rules (fs/fuse/iomode.c): all passthrough handles of one inode have the same backing file, and an inode has either
 * cached or passthrough handles at any time; a reply that breaks this makes open(2) fail with EIO. So the first handle decides for
 * all that are open together with it. A lower file of a writable mount is never opened in passthrough: a later copy-up would
 * have to give it another backing file, and descriptors from before would not see what is written after.
 *
 * setuid and setgid: a passthrough write is made with the credentials of the daemon, less CAP_FSETID (native/channel-methods.cc), so
 * that it takes these bits as the write of an ordinary user does. Root's would not: so a file that has them is not opened in
 * passthrough. One that gets them while it is open keeps them until something is written, whoever writes; and as such a
 * write is not seen here, a program that is about to be run is looked at once more (checkSetuid).
 */
import * as sys from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { Fd } from '../base/fd.js'
import type { OpenReply } from '../fuse/filesystem.js'
import { ensureUpper } from './copy-up.js'
import type { Inode } from './inode.js'
import { openReal } from './io.js'
import type { OpenFacts } from './journal.js'
import type { View } from './view.js'

const FOPEN_KEEP_CACHE = 1 << 1
const FOPEN_PASSTHROUGH = 1 << 7

/** Among the flags of OPEN when a program is run (FMODE_EXEC of linux/fs.h). */
const EXEC = 0x20
const SUGID = sys.S_ISUID | sys.S_ISGID

/** The handle given to the kernel says in which mode it is; there is nothing else to remember by handle. */
const CACHED = 1
const PASSTHROUGH = 2
const PASSTHROUGH_WRITER = 3

interface OpenState {
  cached: number
  passthrough: number
  /** Those of the passthrough handles that may write. */
  writers: number
  /** The backing file's id, while passthrough handles are open. */
  backingId: number
}

export class Opens {
  private readonly open = new Map<Inode, OpenState>()
  /** Inodes whose page cache may be older than the backing file, because the kernel wrote past it. */
  private readonly stale = new WeakSet<Inode>()
  /** Bits given to a file while it could be written past the daemon: the kernel may believe in them after a write took them. */
  private readonly suspects = new WeakMap<Inode, number>()
  /** Why passthrough is not used, once the kernel has refused it. */
  refused: string | undefined
  /** Inodes whose page cache is known to be true; null where all are that are not stale: no daemon came before. */
  private readonly trusted: WeakSet<Inode> | null

  /** `before`: what a predecessor left open, by its handles in the kernel, and whose bits it suspected. */
  constructor(
    private readonly view: View,
    before: {
      readonly opens: ReadonlyMap<Inode, OpenFacts>
      readonly suspects: ReadonlyMap<Inode, number>
    } | null,
  ) {
    this.trusted = before === null ? null : new WeakSet()
    for (const [inode, facts] of before?.opens ?? []) this.open.set(inode, { ...facts })
    for (const [inode, bits] of before?.suspects ?? []) this.suspects.set(inode, bits)
  }

  /** Answers OPEN. @throws Again while a file opened for writing is copied up; SysError */
  openFile(inode: Inode, flags: number): OpenReply {
    const state = this.open.get(inode) ?? { cached: 0, passthrough: 0, writers: 0, backingId: 0 }
    if ((flags & EXEC) !== 0) this.checkSetuid(inode, state)
    const writes = (flags & sys.O_ACCMODE) !== sys.O_RDONLY
    this.compare(inode)
    if (state.passthrough > 0) return this.passthrough(inode, state, writes)
    if (state.cached === 0) {
      if (writes) ensureUpper(this.view, inode, (flags & sys.O_TRUNC) === 0 ? Infinity : 0)
      // The backing file is one for all: who leaves access times alone reads through the daemon.
      const through = (flags & sys.O_NOATIME) === 0 && this.eligible(inode)
      if (through && this.begin(inode, state)) return this.passthrough(inode, state, writes)
    }
    return this.cached(inode, state)
  }

  /** Answers CREATE for a file that nobody else can have open yet. `fd` stays the caller's. */
  created(inode: Inode, fd: number, mode: number): OpenReply {
    const state: OpenState = { cached: 0, passthrough: 0, writers: 0, backingId: 0 }
    if (this.refused === undefined && (mode & SUGID) === 0) {
      const id = this.view.kernel.openBacking(fd)
      if (id !== undefined) {
        state.backingId = id
        return this.passthrough(inode, state, true)
      }
    }
    return this.cached(inode, state)
  }

  release(inode: Inode, fh: number): void {
    const state = this.open.get(inode)
    if (state === undefined) return
    if (fh === CACHED) state.cached--
    else state.passthrough--
    if (fh === PASSTHROUGH_WRITER) state.writers--
    if (state.cached <= 0 && state.passthrough <= 0) this.open.delete(inode)
    // First noted, then closed: no successor may answer an OPEN with an id that is gone.
    this.view.journal?.opens(inode, state, -fh)
    if (state.passthrough === 0 && state.backingId !== 0) {
      this.view.kernel.closeBacking(state.backingId)
      state.backingId = 0
    }
  }

  /** After a chmod. */
  modeGiven(inode: Inode, mode: number): void {
    const bits = mode & SUGID
    if (bits !== 0 && (this.open.get(inode)?.writers ?? 0) > 0) this.suspect(inode, bits)
    else if (this.suspects.has(inode)) this.suspect(inode, undefined)
  }

  private suspect(inode: Inode, bits: number | undefined): void {
    if (bits === undefined) this.suspects.delete(inode)
    else this.suspects.set(inode, bits)
    this.view.journal?.suspects(inode, bits)
  }

  /**
   * Before a program is run whose setuid a write may have taken without the kernel knowing: it looks at the mode it knows.
   * @throws SysError ETXTBSY while somebody may write to it, as without passthrough; ESTALE until the kernel has asked for the
   * mode, which it does at once: after ESTALE it walks the path anew
   */
  private checkSetuid(inode: Inode, state: OpenState): void {
    const bits = this.suspects.get(inode)
    if (bits === undefined) return
    if (state.writers > 0) throw new SysError(E.ETXTBSY, 'open', inode.name)
    const fallen = (this.view.stat(inode).mode & bits) !== bits
    if (fallen && !this.view.toBeTold.has(inode)) {
      this.suspect(inode, 0)
      this.view.toBeTold.add(inode)
      this.view.attrChanged(inode)
    }
    if (this.view.toBeTold.has(inode)) throw new SysError(E.ESTALE, 'open', inode.name)
    this.suspect(inode, undefined)
  }

  /** @throws Again until the kernel has let go of what a lower file was before */
  private compare(inode: Inode): void {
    if (inode.type === sys.S_IFREG && inode.upper === null && inode.orphan === null)
      this.view.changes.attributes(inode, this.view.stat(inode))
  }

  private eligible(inode: Inode): boolean {
    if (this.refused !== undefined || inode.type !== sys.S_IFREG || inode.data !== null) return false
    return this.view.upper === null || inode.upper !== null || inode.orphan !== null
  }

  private begin(inode: Inode, state: OpenState): boolean {
    const flags = this.view.upper === null ? sys.O_RDONLY | sys.O_NOATIME : sys.O_RDWR
    using file = new Fd(openReal(this.view, inode, flags))
    if ((sys.statFd(file.n).mode & SUGID) !== 0) return false
    const id = this.view.kernel.openBacking(file.n)
    if (id === undefined) {
      // Missing privilege, or a backing filesystem that is stacked itself: true of the whole mount.
      this.refused = 'the kernel refuses the backing file'
      return false
    }
    state.backingId = id
    return true
  }

  private passthrough(inode: Inode, state: OpenState, writes: boolean): OpenReply {
    state.passthrough++
    if (writes) state.writers++
    this.open.set(inode, state)
    this.stale.add(inode)
    const fh = writes ? PASSTHROUGH_WRITER : PASSTHROUGH
    this.view.journal?.opens(inode, state, fh)
    return {
      fh,
      flags: FOPEN_PASSTHROUGH,
      backingId: state.backingId,
    }
  }

  private cached(inode: Inode, state: OpenState): OpenReply {
    state.cached++
    this.open.set(inode, state)
    this.view.journal?.opens(inode, state, CACHED)
    const keep = !this.stale.delete(inode) && this.trusted?.has(inode) !== false
    this.trusted?.add(inode)
    return { fh: CACHED, flags: keep ? FOPEN_KEEP_CACHE : 0 }
  }
}
