/** Upper files that have metadata only (metacopy), and where their data is. */
import * as sys from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { OVERLAY_PREFIXES, parseMetacopy } from '../format/index.js'
import type { DirInode, Inode } from './inode.js'
import { Real } from './layer.js'
import { probe, type Resolved } from './lookup.js'
import type { View } from './view.js'

/**
 * Finds the data of an upper file that carries the metacopy attribute; a file without it is left alone.
 * @throws SysError EIO where the data is not to be found, or metacopy is not asked for (as the kernel refuses)
 */
export function followMetacopy(
  view: View,
  parent: DirInode,
  name: string,
  inode: Inode,
  found: Resolved,
): void {
  const attr = OVERLAY_PREFIXES.map(p => p + 'metacopy').find(a => found.upperXattrs.includes(a))
  if (attr === undefined || inode.type !== sys.S_IFREG || parent.upper === null) return
  const value = sys.getxattrAt(view.fds.get(parent.upper), name, attr)
  if (value === undefined) return
  if (parseMetacopy(value) === undefined) throw new SysError(E.EIO, 'metacopy', name)
  inode.metacopy = true
  for (const dir of parent.lowers) {
    const probed = probe(view, dir, name, true)
    if (probed === 'absent') continue
    if (probed === 'hidden' || !sys.S_ISREG(probed.mode)) break
    inode.lower = new Real(dir.layer, dir, name)
    return
  }
  throw new SysError(E.EIO, 'metacopy', name)
}
