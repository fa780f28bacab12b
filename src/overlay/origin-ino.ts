/**
 * st_ino across copy-up and remount: an upper object that carries an origin shows the number of the lower object it names.
 * An origin that lies can only choose a number: nothing is read or written through it.
 */
import * as sys from '../sys/index.js'
import { SysError } from '../base/sys-error.js'
import { decodeOrigin, encodeOrigin, type Origin } from '../format/index.js'
import type { DirInode } from './inode.js'
import type { Layer } from './layer.js'
import type { Resolved } from './lookup.js'
import type { View } from './view.js'

const NO_UUID = Buffer.alloc(16)
const uuids = new WeakMap<Layer, Buffer>()

function uuidOf(layer: Layer): Buffer {
  let uuid = uuids.get(layer)
  if (uuid === undefined) {
    uuid = sys.getFsUuid(layer.rootFd.n) ?? NO_UUID
    uuids.set(layer, uuid)
  }
  return uuid
}

/** The origin record of a lower object; empty ("unknown") where its filesystem gives no handles, as the kernel writes it. */
export function originRecord(layer: Layer, dirfd: number, name: string): Buffer {
  const handle = sys.nameToHandle(dirfd, name, 0)
  if (handle === undefined) return Buffer.alloc(0)
  return encodeOrigin({ type: handle.type, handle: handle.handle, uuid: uuidOf(layer), upper: false })
}

/** The number of the lower object that an upper one was copied from; `undefined` where that cannot be told. */
export function originIno(view: View, parent: DirInode, name: string, found: Resolved): number | undefined {
  if (found.upper === null || parent.upper === null) return undefined
  const attr = view.prefix + 'origin'
  if (!found.upperXattrs.includes(attr)) return undefined
  const record = sys.getxattrAt(view.fds.get(parent.upper), name, attr)
  const origin = record === undefined ? undefined : decodeOrigin(record)
  if (origin === undefined || origin.upper) return undefined
  return inoBesides(view, parent, name, origin) ?? inoByHandle(view, origin)
}

/** Most objects were never renamed: the origin is the lower object of the same name. No privilege is needed to see that. */
function inoBesides(view: View, parent: DirInode, name: string, origin: Origin): number | undefined {
  for (const dir of parent.lowers) {
    const dirfd = view.fds.get(dir)
    const stat = sys.statAt(dirfd, name)
    if (stat === undefined) continue
    const handle = sys.nameToHandle(dirfd, name, 0)
    return handle?.type === origin.type && handle.handle.equals(origin.handle)
      ? view.inos.shown(stat)
      : undefined
  }
  return undefined
}

function inoByHandle(view: View, origin: Origin): number | undefined {
  for (const layer of view.lowers) {
    if (!uuidOf(layer).equals(origin.uuid)) continue
    try {
      using fd = sys.openByHandle(layer.rootFd.n, origin.type, origin.handle, sys.O_PATH | sys.O_NOFOLLOW)
      const stat = fd === undefined ? undefined : sys.statAt(fd.n, '')
      if (stat !== undefined) return view.inos.shown(stat)
    } catch (error) {
      // EPERM without CAP_DAC_READ_SEARCH: the object shows its upper number after a remount. See FORMAT.md.
      if (!(error instanceof SysError) || sys.silentFilesystem(error) !== undefined) throw error
      return undefined
    }
  }
  return undefined
}
