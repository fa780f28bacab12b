/**
 * Following an absolute redirect: a path from the layers' root, as fs/overlayfs/namei.c follows it (ovl_lookup_layer).
 *
 * The path is one of the view that all layers below the redirect make together. So it is followed in each of them in turn, and what a
 * layer says on the way holds for the layers below it: a whiteout or an opaque directory ends the search, and a directory
 * that was itself renamed in that layer has another path further down.
 */
import * as sys from '../sys/index.js'
import type { Stat } from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { hasOpaqueMarker, opaquenessFromXattrs, parseRedirect, type Redirect } from '../format/index.js'
import { DirReal, type Layer, Real } from './layer.js'
import { hasMarker, probe } from './lookup.js'
import type { View } from './view.js'

export interface Walked {
  /** What the last part names in this layer, and where: the directories on the way are passages until somebody owns the end. */
  readonly found?: { readonly dir: DirReal; readonly name: string; readonly stat: Stat }
  /** The path to follow in the layers below; `undefined` where nothing below shows. */
  readonly below: readonly string[] | undefined
}

/** @throws SysError EINVAL for a malformed redirect on the way, EPERM where redirects are not followed */
export function walkPath(view: View, layer: Layer, parts: readonly string[]): Walked {
  const below = layer.index < view.lowers.length
  let path = parts
  let dir = layer.root
  let goOn = true
  let found: Walked['found']
  try {
    for (const [i, part] of parts.entries()) {
      const probed = probe(view, dir, part, below)
      if (probed === 'absent') return { below: goOn ? path : undefined }
      if (probed === 'hidden') return { below: undefined }
      if (i === parts.length - 1) {
        found = { dir, name: part, stat: probed }
        return { found, below: goOn ? path : undefined }
      }
      if (!sys.S_ISDIR(probed.mode)) return { below: undefined }
      const dirfd = view.fds.get(dir)
      const next = new DirReal(layer, dir, part)
      next.passage = true
      const names = below || layer.root.xwhiteouts ? sys.listxattrAt(dirfd, part) : []
      if (names.length > 0) {
        const { opaque, xwhiteouts } = opaquenessFromXattrs(dirfd, part, names)
        next.xwhiteouts = xwhiteouts
        if (opaque) goOn = false
        const redirect = readRedirect(view, dirfd, part, names)
        const rest = parts.slice(i + 1)
        if (redirect !== undefined) {
          const above = path.slice(0, path.length - rest.length - 1)
          path = [...(redirect.absolute ? redirect.parts : [...above, redirect.name]), ...rest]
        }
      }
      if (hasMarker(dir, dirfd, part)) goOn = false
      dir = next
      if (goOn && below && hasOpaqueMarker(view.fds.get(dir))) goOn = false
    }
    return { below: goOn ? path : undefined }
  } finally {
    if (found === undefined) view.fds.dropPassages(new Real(layer, dir, ''))
  }
}

/**
 * What an object says of where it goes on below, a metacopy file as well as a directory. Garbage leads nowhere.
 * @throws SysError EPERM where redirects are not followed, as the kernel; EINVAL for a malformed one
 */
export function readRedirect(
  view: View,
  dirfd: number,
  name: string,
  names: readonly string[],
): Redirect | undefined {
  if (!names.includes(view.prefix + 'redirect')) return undefined
  if (!view.follows.redirect) throw new SysError(E.EPERM, 'redirect', name)
  return recordedRedirect(view, dirfd, name, names)
}

/** The same, whether it is followed or not. */
export function recordedRedirect(
  view: View,
  dirfd: number,
  name: string,
  names: readonly string[],
): Redirect | undefined {
  const attr = view.prefix + 'redirect'
  if (!names.includes(attr)) return undefined
  const value = sys.getxattrAt(dirfd, name, attr)
  const redirect = value === undefined ? undefined : parseRedirect(value)
  if (redirect === undefined) throw new SysError(E.EINVAL, 'redirect', name)
  return redirect
}
