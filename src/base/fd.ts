import { closeSync } from 'node:fs'
import { E } from './errno.js'
import { SysError } from './sys-error.js'

/** Closes a descriptor once; 0 or -errno. src/sys puts the addon's close(2) here. */
type CloseCall = (fd: number) => number

let closeCall: CloseCall = fd => {
  try {
    closeSync(fd)
    return 0
  } catch (error) {
    return (error as NodeJS.ErrnoException).errno ?? -E.EIO
  }
}

export function setCloseCall(call: CloseCall): void {
  closeCall = call
}

/**
 * An owned file descriptor. Whoever holds the Fd closes it, mostly with `using`; one that is dropped unclosed is a
 * bug, and no finaliser hides it.
 */
export class Fd implements Disposable {
  #fd: number

  constructor(fd: number) {
    if (!Number.isInteger(fd) || fd < 0) throw new TypeError(`not a file descriptor: ${fd}`)
    this.#fd = fd
  }

  /** The number, for one syscall. @throws SysError EBADF when closed or released */
  get n(): number {
    if (this.#fd < 0) throw new SysError(E.EBADF, 'fd')
    return this.#fd
  }

  get closed(): boolean {
    return this.#fd < 0
  }

  /**
   * Closes; a second time does nothing. Never retried: Linux has freed the descriptor also when close(2) fails.
   * @throws SysError EIO, ENOSPC, EDQUOT: what was written before is lost (network filesystems); EBADF: somebody else
   * closed it, a bug
   */
  close(): void {
    const errno = this.#close()
    if (errno !== 0) throw new SysError(errno, 'close')
  }

  /** As close(), but a late write error does not hide the error that may be unwinding. */
  [Symbol.dispose](): void {
    const errno = this.#close()
    if (errno === E.EBADF) throw new SysError(errno, 'close')
  }

  /** Gives the number away; this object no longer closes it. */
  release(): number {
    const fd = this.n
    this.#fd = -1
    return fd
  }

  #close(): number {
    const fd = this.#fd
    if (fd < 0) return 0
    this.#fd = -1
    const rc = closeCall(fd)
    return rc === 0 || rc === -E.EINTR ? 0 : -rc
  }
}
