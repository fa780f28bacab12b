/** Where a renamed directory, or metacopy file, continues below: writing the redirect attribute as the kernel does. */
import * as sys from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { REDIRECT_MAX } from '../format/index.js'
import type { Inode } from './inode.js'
import type { View } from './view.js'

/**
 * Records where in the lower layers the object continues, before it moves. Within one parent that is the name below; for a
 * move to another parent it is the path from the layers' root.
 * @throws SysError EXDEV where the path is longer than a redirect may be: mv(1) then copies
 */
export function setRedirect(view: View, inode: Inode, sameParent: boolean): void {
  const lower = inode.isDir() ? inode.lowers[0] : inode.data
  if (lower === undefined || lower === null) return
  const beside = inode.parent?.lowers.some(parent => parent === lower.parent) === true
  const value = sameParent && beside ? lower.name : `/${lower.path()}`
  if (value.length > REDIRECT_MAX) throw new SysError(E.EXDEV, 'redirect', inode.name)
  const { dirfd, name } = view.at(inode)
  sys.setxattrAt(dirfd, name, view.prefix + 'redirect', Buffer.from(value, 'latin1'))
}
