/**
 * Files that have metadata only (metacopy): where their data is, in an upper layer, in a lower one, or in a data-only layer.
 *
 * Source: Documentation/filesystems/overlayfs.rst, "Metadata only copy up" and "Data-only lower layers"; fs/overlayfs/namei.c.
 */
import * as sys from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { OVERLAY_PREFIXES, parseMetacopy, parseRedirect, type Redirect } from '../format/index.js'
import type { DirInode, Inode } from './inode.js'
import { DirReal, Real } from './layer.js'
import { probe, type Resolved } from './lookup.js'
import type { View } from './view.js'

/**
 * Finds the data of a regular file that carries the metacopy attribute; any other inode is left alone.
 * @throws SysError EIO where the data is not to be found
 */
export function followMetacopy(
  view: View,
  parent: DirInode,
  inode: Inode,
  found: Resolved,
  indexed: Real | undefined,
): void {
  if (inode.type !== sys.S_IFREG) return
  if (found.upper === null && indexed !== undefined) {
    // Another name of this lower file was copied up: what lies below under this one has the data, or says where it is.
    const dirfd = indexed.layer.rootFd.n
    if (!isMetacopy(dirfd, indexed.name, sys.listxattrAt(dirfd, indexed.name))) return
    inode.data = found.lower
  }
  const top = found.upper ?? found.lower
  if (top?.parent == null) return
  const dirfd = view.fds.get(top.parent)
  // Lower files carry it only where somebody asked for it: no call is spent on them otherwise.
  const asked = view.options.metacopy || view.dataOnly.length > 0
  const names = found.upper !== null ? found.upperXattrs : asked ? sys.listxattrAt(dirfd, top.name) : []
  if (!isMetacopy(dirfd, top.name, names)) return
  inode.data = new DataSearch(view, parent).from(top, names)
}

/** @throws SysError EIO for a record that no overlay writes */
function isMetacopy(dirfd: number, name: string, names: readonly string[]): boolean {
  const attr = OVERLAY_PREFIXES.map(p => p + 'metacopy').find(a => names.includes(a))
  const value = attr === undefined ? undefined : sys.getxattrAt(dirfd, name, attr)
  if (value === undefined) return false
  if (parseMetacopy(value) === undefined) throw new SysError(E.EIO, 'metacopy', name)
  return true
}

function redirectOf(dirfd: number, name: string, names: readonly string[]): Redirect | undefined {
  const attr = OVERLAY_PREFIXES.map(p => p + 'redirect').find(a => names.includes(a))
  const value = attr === undefined ? undefined : sys.getxattrAt(dirfd, name, attr)
  return value === undefined ? undefined : parseRedirect(value)
}

/** Goes down the layers from a metacopy file to the first regular file that has data. */
class DataSearch {
  constructor(
    private readonly view: View,
    private readonly parent: DirInode,
  ) {}

  from(top: Real, names: readonly string[]): Real {
    let at = top
    let attrs = names
    let path: readonly string[] | undefined
    let name = top.name
    for (;;) {
      const dirfd = at.parent === null ? at.layer.rootFd.n : this.view.fds.get(at.parent)
      const redirect = redirectOf(dirfd, at.name, attrs)
      if (redirect?.absolute === true) path = redirect.parts
      else if (redirect !== undefined) name = redirect.name
      const next = path === undefined ? this.beside(at.layer.index, name) : this.along(at.layer.index, path)
      if (next === undefined) throw new SysError(E.EIO, 'metacopy', top.name)
      if (next.parent === null) return next
      const nextFd = this.view.fds.get(next.parent)
      const isData = next.layer.index > this.view.lowers.length
      attrs = isData ? [] : sys.listxattrAt(nextFd, next.name)
      if (!isMetacopy(nextFd, next.name, attrs)) return next
      at = next
    }
  }

  private beside(after: number, name: string): Real | undefined {
    for (const dir of this.parent.lowers) {
      if (dir.layer.index <= after) continue
      const probed = probe(this.view, dir, name, true)
      if (probed === 'absent') continue
      return probed !== 'hidden' && sys.S_ISREG(probed.mode) ? new Real(dir.layer, dir, name) : undefined
    }
    return undefined
  }

  private along(after: number, path: readonly string[]): Real | undefined {
    for (const layer of [...this.view.lowers, ...this.view.dataOnly]) {
      if (layer.index <= after) continue
      let dir = layer.root
      for (const [i, part] of path.entries()) {
        const stat = sys.statAt(this.view.fds.get(dir), part)
        const isLast = i === path.length - 1
        if (isLast && stat !== undefined && sys.S_ISREG(stat.mode)) return new Real(layer, dir, part)
        if (isLast || stat === undefined || !sys.S_ISDIR(stat.mode)) {
          this.view.fds.dropPassages(new Real(layer, dir, part))
          if (isLast && stat !== undefined) return undefined
          break
        }
        dir = new DirReal(layer, dir, part)
        dir.passage = true
      }
    }
    return undefined
  }
}
