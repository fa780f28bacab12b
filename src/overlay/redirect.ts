/** Where a renamed directory, or metacopy file, continues below: writing the redirect attribute as the kernel does. */
import * as sys from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { parseRedirect, REDIRECT_MAX, type Redirect } from '../format/index.js'
import type { Inode } from './inode.js'
import type { Real } from './layer.js'
import type { View } from './view.js'

/**
 * Records where in the lower layers the object continues, before it moves: its name there, or for a move to another directory its
 * path in the view that the lower layers make, which is not always its path in the layer that it is found in: a layer in
 * between may have renamed a directory, too. One that is recorded already stays, as what is below does not move.
 * @throws SysError EXDEV where the path is longer than a redirect may be: mv(1) then copies
 * Source: fs/overlayfs/dir.c (ovl_set_redirect, ovl_need_absolute_redirect)
 */
export function setRedirect(view: View, inode: Inode, sameParent: boolean): void {
  const lower = inode.isDir() ? inode.lowers[0] : inode.data
  if (lower === undefined || lower === null) return
  const absolute = !sameParent || (!inode.isDir() && hasOtherNames(view, inode, lower))
  const recorded = recordedRedirect(view, inode)
  if (recorded !== undefined && (recorded.absolute || !absolute)) return
  const value = absolute ? lowerPath(view, inode) : inode.name
  if (value.length > REDIRECT_MAX) throw new SysError(E.EXDEV, 'redirect', inode.name)
  const { dirfd, name } = view.at(inode)
  sys.setxattrAt(dirfd, name, view.prefix + 'redirect', Buffer.from(value, 'latin1'))
}

/** The names of one file may be in several directories: no name alone leads to the data of all. */
function hasOtherNames(view: View, inode: Inode, data: Real): boolean {
  if (inode.aliases !== null) return true
  if (data.parent === null) return false
  return (sys.statAt(view.fds.get(data.parent), data.name)?.nlink ?? 1) > 1
}

function recordedRedirect(view: View, inode: Inode): Redirect | undefined {
  if (inode.upper === null && inode.orphan === null) return undefined
  const { dirfd, name } = view.at(inode)
  const value = sys.getxattrAt(dirfd, name, view.prefix + 'redirect')
  return value === undefined ? undefined : parseRedirect(value)
}

/** Where the layers below upper have what is now at this place of the view. */
function lowerPath(view: View, inode: Inode): string {
  let path = ''
  for (let at = inode; at.parent !== null; at = at.parent) {
    const recorded = recordedRedirect(view, at)
    if (recorded?.absolute === true) return `/${recorded.parts.join('/')}${path}`
    path = `/${recorded?.name ?? at.name}${path}`
  }
  return path
}
