/** A regular file that is prepared in the work directory and appears in upper by one link or rename. */
import * as sys from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import type { Fd } from '../base/fd.js'
import type { Inode } from './inode.js'
import type { View } from './view.js'

/** A regular file being built: without a name where the filesystem can do that, else under a temporary one. */
export class TempFile implements Disposable {
  private constructor(
    private readonly view: View,
    readonly fd: Fd,
    /** '' for a file without a name. */
    private name: string,
  ) {}

  static create(view: View, inode: Inode): TempFile {
    const work = view.workdir()
    if (work.features.tmpfile) {
      return new TempFile(view, sys.openat(work.fd.n, '.', sys.O_TMPFILE | sys.O_RDWR, 0o600), '')
    }
    const name = work.tempName()
    const flags = sys.O_CREAT | sys.O_EXCL | sys.O_RDWR | sys.O_NOFOLLOW
    const file = new TempFile(view, sys.openat(work.fd.n, name, flags, 0o600), name)
    if (inode.nameless) file.discard()
    return file
  }

  publish(dirfd: number, name: string): void {
    if (this.name === '') {
      linkFd(this.fd.n, dirfd, name)
    } else {
      renameNoReplace(this.view.workdir().fd.n, this.name, dirfd, name)
      this.name = ''
    }
  }

  /** An O_PATH descriptor of the file, which never had, or no longer has, a name. */
  keepNameless(): Fd {
    this.discard()
    return sys.reopen(this.fd.n, sys.O_PATH)
  }

  private discard(): void {
    if (this.name !== '') this.view.workdir().discard(this.name)
    this.name = ''
  }

  [Symbol.dispose](): void {
    this.discard()
    this.fd.close()
  }
}

/** Links an open file. The descriptor alone needs CAP_DAC_READ_SEARCH before Linux 6.10; /proc needs none. */
export function linkFd(fd: number, dirfd: number, name: string): void {
  try {
    sys.linkat(fd, '', dirfd, name, sys.AT_EMPTY_PATH)
  } catch (error) {
    if (!(error instanceof SysError) || error.errno !== E.ENOENT) throw error
    sys.linkat(sys.AT_FDCWD, `/proc/self/fd/${fd}`, dirfd, name, sys.AT_SYMLINK_FOLLOW)
  }
}

/** Not every filesystem knows RENAME_NOREPLACE; the name is known to be free, so it is a belt, not the trousers. */
export function renameNoReplace(fromFd: number, from: string, toFd: number, to: string): void {
  try {
    sys.renameat2(fromFd, from, toFd, to, sys.RENAME_NOREPLACE)
  } catch (error) {
    if (!(error instanceof SysError) || error.errno !== E.EINVAL) throw error
    sys.renameat2(fromFd, from, toFd, to)
  }
}
