/**
 * Where changes are prepared: `WORKDIR/work`, as the kernel's overlayfs has it. Everything in it is either part of a change
 * under way or left over by a crash; it is emptied at every mount. Daemons that follow each other on one mount (keeper=1) have names of
 * their own in it, so that what one leaves is in nobody's way until it is removed (sweep).
 */
import * as sys from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import type { Fd } from '../base/fd.js'
import { makeWhiteout, type OverlayPrefix, type WhiteoutDialect } from '../format/index.js'
import { openBeneath } from './layer.js'

const DIR = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_CLOEXEC

/** What the upper filesystem can do; found out once, when the mount starts. */
export interface UpperFeatures {
  /** O_TMPFILE files that can be linked into place. */
  readonly tmpfile: boolean
  /** rename that leaves a whiteout behind. */
  readonly renameWhiteout: boolean
  readonly renameExchange: boolean
  /** fsync does something: not on a filesystem that is in memory only. */
  readonly durable: boolean
  /** Attributes in the overlay's namespace. */
  readonly xattrs: boolean
  readonly whiteout: WhiteoutDialect
}

export class WorkDir {
  private count = 0
  /** A whiteout whose further links cost no inode (as the kernel does it); '' until it is needed. */
  private sharedWhiteout = ''
  private neutral: boolean | undefined

  constructor(
    /** WORKDIR/work. */
    readonly fd: Fd,
    readonly prefix: OverlayPrefix,
    readonly features: UpperFeatures,
    /** How many daemons the mount had before this one. */
    private readonly generation: number,
  ) {}

  /** Names that begin so are this daemon's. */
  private get own(): string {
    return `#${this.generation.toString(16)}.`
  }

  /** A name that nothing in the directory has. */
  tempName(): string {
    return `${this.own}${(++this.count).toString(16)}`
  }

  /** Whether what is born in it is so under its creator's ids and umask alone. */
  isNeutral(): boolean {
    return (this.neutral ??= inheritance(this.fd.n) === undefined)
  }

  /** Removes what the daemons before this one have left. */
  sweep(): void {
    const { own } = this
    const fd = openBeneath(this.fd.n, '.', DIR)
    try {
      for (const name of sys.listDir(fd).names)
        if (name.startsWith('#') && !name.startsWith(own)) removeTree(fd, name)
    } finally {
      sys.close(fd)
    }
  }

  /**
   * Runs `make` with a fresh name in the directory and, where it or anything after it in `place` fails, removes what it made.
   */
  staged<T>(make: (dirfd: number, name: string) => void, place: (dirfd: number, name: string) => T): T {
    const name = this.tempName()
    try {
      make(this.fd.n, name)
      return place(this.fd.n, name)
    } catch (error) {
      this.discard(name)
      throw error
    }
  }

  /** Removes what stands under a temporary name, whatever it is, if anything. */
  discard(name: string): void {
    try {
      removeTree(this.fd.n, name)
    } catch {
      // It stays until the next mount empties the directory; the caller's own result is what counts.
    }
  }

  /** Puts a whiteout under a temporary name of the directory. */
  stageWhiteout(name: string): void {
    const { whiteout } = this.features
    if (whiteout === 'file') throw new SysError(E.EOPNOTSUPP, 'whiteout', name)
    if (this.sharedWhiteout !== '') {
      try {
        sys.linkat(this.fd.n, this.sharedWhiteout, this.fd.n, name, 0)
        return
      } catch (error) {
        // EMLINK, or a filesystem without hard links: a fresh one follows.
        this.sharedWhiteout = ''
        if (!(error instanceof SysError)) throw error
      }
    }
    makeWhiteout(this.fd.n, name, whiteout, this.prefix)
    const shared = this.tempName()
    try {
      sys.linkat(this.fd.n, name, this.fd.n, shared, 0)
      this.sharedWhiteout = shared
    } catch {
      // No links here: every whiteout is one of its own.
    }
  }

  close(): void {
    if (this.sharedWhiteout !== '') this.discard(this.sharedWhiteout)
    this.fd.close()
  }
}

/** What a directory gives to objects that are born in it: its group if it is setgid, and its default ACL. */
export interface Inheritance {
  readonly gid: number | undefined
  readonly acl: Buffer | undefined
}

export function inheritance(dirfd: number): Inheritance | undefined {
  const stat = sys.statAt(dirfd, '')
  const gid = stat !== undefined && (stat.mode & sys.S_ISGID) !== 0 ? stat.gid : undefined
  const acl = sys.getxattrAt(dirfd, '', 'system.posix_acl_default')
  return gid === undefined && acl === undefined ? undefined : { gid, acl }
}

/** Removes `name` and everything beneath it, without following anything. Absence is fine. */
export function removeTree(dirfd: number, name: string): void {
  try {
    sys.unlinkat(dirfd, name, 0)
    return
  } catch (error) {
    if (!(error instanceof SysError)) throw error
    if (error.errno === E.ENOENT) return
    if (error.errno !== E.EISDIR && error.errno !== E.EPERM) throw error
  }
  emptyDir(dirfd, name)
  sys.unlinkat(dirfd, name, sys.AT_REMOVEDIR)
}

/** Removes everything in a directory. */
export function emptyDir(dirfd: number, name: string): void {
  const fd = openBeneath(dirfd, name, DIR)
  try {
    for (const entry of sys.listDir(fd).names) removeTree(fd, entry)
  } finally {
    sys.close(fd)
  }
}
