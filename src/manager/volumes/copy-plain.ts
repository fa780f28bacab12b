/** Copies plain trees (volumes, a directory of a rootfs): no name in them means anything. */
import * as sys from '../../sys/index.js'
import { Copier, type CopyTotals } from '../copy-tree.js'

const OPEN_DIR = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW

export interface CopyPlainOptions {
  readonly signal?: AbortSignal | undefined
  /** Bytes of file data so far. */
  readonly onBytes?: ((bytes: number) => void) | undefined
}

/**
 * Copies everything below `from`, and owner, mode, xattrs and times of `from` itself, into the empty directory `to`. Does
 * not cross into what is mounted below `from`. Data is shared where the filesystem can (reflink).
 * @throws SysError ENOSPC, EPERM, EIO
 */
export async function copyPlainTree(
  from: number,
  to: number,
  options: CopyPlainOptions = {},
): Promise<CopyTotals> {
  const copier = new Copier(to, options.signal)
  await copyDirectory(copier, from, to, '', sys.statFd(from).mntId, options)
  return copier.totals
}

async function copyDirectory(
  copier: Copier,
  from: number,
  to: number,
  prefix: string,
  mntId: number,
  options: CopyPlainOptions,
): Promise<void> {
  const { names } = sys.listDir(from)
  for (const [index, stat] of sys.statMany(from, names).entries()) {
    const name = names[index] ?? ''
    // Gone since it was listed, or a mount of somebody else's.
    if (stat === undefined || typeof stat === 'number' || stat.mntId !== mntId) continue
    // A socket is nothing without the process that listens on it.
    if (sys.S_ISSOCK(stat.mode)) continue
    if (!sys.S_ISDIR(stat.mode)) {
      await copier.object(from, name, stat, to, prefix + name)
      options.onBytes?.(copier.totals.bytes)
      continue
    }
    copier.totals.entries += 1
    sys.mkdirat(to, name, 0o700)
    using child = sys.openat(from, name, OPEN_DIR)
    using childTarget = sys.openat(to, name, OPEN_DIR)
    await copyDirectory(copier, child.n, childTarget.n, `${prefix}${name}/`, mntId, options)
  }
  copier.metadata(from, '', sys.statFd(from), to, '')
}
