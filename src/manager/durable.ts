/**
 * What a row says to be stored must be there after a power cut as well: SQLite syncs its own file at each commit, so the directory that
 * the row is about is synced before. Without it ext4 and xfs leave files with their names and without their bytes.
 *
 * A large tree costs one syncfs(2): fsync of each of 20,000 files would take minutes. syncfs writes what others have dirty
 * on the same filesystem, too, so a few files are synced one by one.
 */
import { fromUtf8 } from '../base/bytes.js'
import type { Fd } from '../base/fd.js'
import { SysError } from '../base/sys-error.js'
import * as sys from '../sys/index.js'
import type { StoreContext } from './store-context.js'

/** Entries up to which files are synced one by one; all at once, so that they share a commit of the filesystem's journal. */
const FEW = 32

/**
 * Syncs the tree `home`, of about `entries` objects, and its name.
 * @throws SysError EIO, ENOSPC (of writing what was written late)
 */
export async function makeDurable(context: StoreContext, home: string, entries: number): Promise<void> {
  if (context.config.sync === 'none') return
  const open: Fd[] = []
  try {
    if (entries <= FEW && openTree(sys.AT_FDCWD, fromUtf8(home), open)) {
      open.push(openDir(sys.AT_FDCWD, fromUtf8(`${home}/..`)))
      await Promise.all(open.map(async fd => await sys.fsync(fd.n)))
    } else {
      using root = openDir(sys.AT_FDCWD, fromUtf8(home))
      await sys.syncfs(root.n)
    }
  } finally {
    for (const fd of open) fd.close()
  }
}

/** Adds the regular files and directories of a tree. @returns false where one cannot be opened, or where there are many */
function openTree(dirfd: number, name: string, open: Fd[]): boolean {
  try {
    const dir = openDir(dirfd, name)
    open.push(dir)
    const { names } = sys.listDir(dir.n)
    if (open.length + names.length > 4 * FEW) return false
    for (const [index, stat] of sys.statMany(dir.n, names).entries()) {
      const child = names[index] ?? ''
      if (stat === undefined || typeof stat === 'number') return false
      if (sys.S_ISDIR(stat.mode)) {
        if (!openTree(dir.n, child, open)) return false
      } else if (sys.S_ISREG(stat.mode)) {
        open.push(sys.openat(dir.n, child, sys.O_RDONLY | sys.O_NOFOLLOW))
      }
    }
    return true
  } catch (error) {
    // A file of mode 0, without CAP_DAC_OVERRIDE.
    if (error instanceof SysError) return false
    throw error
  }
}

function openDir(dirfd: number, name: string): Fd {
  return sys.openat(dirfd, name, sys.O_RDONLY | sys.O_DIRECTORY)
}
