/**
 * Files that have metadata only (metacopy): where their data is, in an upper layer, in a lower one, or in a data-only layer.
 *
 * Source: Documentation/filesystems/overlayfs.rst, "Metadata only copy up" and "Data-only lower layers"; fs/overlayfs/namei.c.
 */
import * as sys from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { parseMetacopy } from '../format/index.js'
import type { DirInode, Inode } from './inode.js'
import { Real } from './layer.js'
import { probe, type Resolved } from './lookup.js'
import { readRedirect, recordedRedirect, walkPath } from './path-walk.js'
import type { View } from './view.js'

/**
 * Finds the data of a regular file that carries the metacopy attribute; any other inode is left alone.
 *
 * Where such files are not followed, one of a lower layer still leads to the data-only layers, since nothing else does, and there is
 * nothing in them that is not meant to be found so (as the kernel's userxattr, since 6.16).
 * @throws SysError EIO where the data is not to be found, EPERM where it is not followed
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
    if (!isMetacopy(view, dirfd, indexed.name, sys.listxattrAt(dirfd, indexed.name))) return
    if (!view.follows.metacopy) throw new SysError(E.EPERM, 'metacopy', indexed.name)
    inode.data = found.lower
  }
  const top = found.upper ?? found.lower
  if (top?.parent == null) return
  const dirfd = view.fds.get(top.parent)
  // Lower files carry it only where somebody asked for it: no call is spent on them otherwise.
  const asked = view.options.metacopy || view.dataOnly.length > 0
  const names = found.upper !== null ? found.upperXattrs : asked ? sys.listxattrAt(dirfd, top.name) : []
  if (!isMetacopy(view, dirfd, top.name, names)) return
  if (view.follows.metacopy) inode.data = new DataSearch(view, parent).from(top, names)
  else if (found.upper === null) inode.data = onlyData(view, top, dirfd, names)
  else throw new SysError(E.EPERM, 'metacopy', top.name)
}

/** @throws SysError EIO for a record that no overlay writes */
function isMetacopy(view: View, dirfd: number, name: string, names: readonly string[]): boolean {
  const attr = view.prefix + 'metacopy'
  const value = names.includes(attr) ? sys.getxattrAt(dirfd, name, attr) : undefined
  if (value === undefined) return false
  if (parseMetacopy(value) === undefined) throw new SysError(E.EIO, 'metacopy', name)
  return true
}

/** Straight from a lower file to a data-only layer. */
function onlyData(view: View, top: Real, dirfd: number, names: readonly string[]): Real {
  const redirect = recordedRedirect(view, dirfd, top.name, names)
  const found = redirect?.absolute === true ? along(view, view.lowers.length, redirect.parts).data : undefined
  if (found === undefined) throw new SysError(E.EIO, 'metacopy', top.name)
  return found
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
    let deepest = 0
    for (;;) {
      const dirfd = at.parent === null ? at.layer.rootFd.n : this.view.fds.get(at.parent)
      const redirect = readRedirect(this.view, dirfd, at.name, attrs)
      if (redirect?.absolute === true) path = redirect.parts
      else if (redirect !== undefined && path !== undefined) path = [...path.slice(0, -1), redirect.name]
      else if (redirect !== undefined) name = redirect.name
      let next: Real | undefined
      if (path === undefined) next = this.beside(at.layer.index, name)
      else ({ data: next, path, deepest } = along(this.view, Math.max(deepest, at.layer.index), path))
      this.view.fds.dropPassages(at)
      if (next === undefined) throw new SysError(E.EIO, 'metacopy', top.name)
      if (next.parent === null) return next
      const nextFd = this.view.fds.get(next.parent)
      const isData = next.layer.index > this.view.lowers.length
      attrs = isData ? [] : sys.listxattrAt(nextFd, next.name)
      if (!isMetacopy(this.view, nextFd, next.name, attrs)) return next
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
}

/** The first file at a path below layer `after`; `path` and `deepest`: where to go on below that. */
function along(view: View, after: number, from: readonly string[]): Found {
  const { lowers, dataOnly } = view
  let path = from
  let deepest = after
  for (const layer of [...lowers, ...dataOnly]) {
    if (layer.index <= deepest) continue
    const { found, below } = walkPath(view, layer, path)
    // What an upper layer hides is not hidden in data-only ones: their files are reached in no other way.
    if (below === undefined) deepest = Math.max(deepest, lowers.length)
    path = below ?? path
    if (found === undefined) continue
    const data = new Real(layer, found.dir, found.name)
    if (sys.S_ISREG(found.stat.mode)) return { data, path, deepest: Math.max(deepest, layer.index) }
    view.fds.dropPassages(data)
    break
  }
  return { data: undefined, path, deepest }
}

interface Found {
  readonly data: Real | undefined
  readonly path: readonly string[]
  readonly deepest: number
}
