import type { Fd } from '../base/fd.js'
import { fromUtf8 } from '../base/bytes.js'
import * as sys from '../sys/index.js'

/** The open roots of several directories, closed together. */
export class StackRoots implements Disposable {
  constructor(readonly roots: readonly Fd[]) {}

  get fds(): number[] {
    return this.roots.map(fd => fd.n)
  }

  [Symbol.dispose](): void {
    for (const fd of this.roots) fd.close()
  }
}

/** @throws SysError ENOENT for a directory that is missing */
export function openAll(dirs: readonly string[]): StackRoots {
  const roots: Fd[] = []
  try {
    for (const dir of dirs) {
      roots.push(sys.openat(sys.AT_FDCWD, fromUtf8(dir), sys.O_RDONLY | sys.O_DIRECTORY))
    }
  } catch (error) {
    for (const fd of roots) fd.close()
    throw error
  }
  return new StackRoots(roots)
}
