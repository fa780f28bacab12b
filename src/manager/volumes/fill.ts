/**
 * What a new volume takes from the image's directory that it is mounted on: content, owner, mode.
 *
 * The copy is made beside the data and becomes complete by one rename; its entries then move in one by one. After a
 * crash the next mount goes on where this one ended, and never takes away what somebody wrote meanwhile.
 */
import { join } from 'node:path'
import { fromUtf8 } from '../../base/bytes.js'
import { E } from '../../base/errno.js'
import type { Fd } from '../../base/fd.js'
import { SysError } from '../../base/sys-error.js'
import * as sys from '../../sys/index.js'
import { removeTree } from '../remove-tree.js'
import { copyPlainTree } from './copy-plain.js'
import { isMountedVolume } from './volume-options.js'
import type { Volumes } from './volumes.js'

const PARTIAL = '.lamina-fill.partial'
const READY = '.lamina-fill'
/** What a filesystem or this file made. */
const NOT_CONTENT: readonly string[] = ['lost+found', PARTIAL, READY]

const openDir = (path: string): Fd => sys.openat(sys.AT_FDCWD, fromUtf8(path), sys.O_RDONLY | sys.O_DIRECTORY)

/** `from`: a directory of the rootfs, O_PATH will do. The volume is mounted. Fills it if it is new and empty. */
export async function fillVolume(volumes: Volumes, name: string, from: number): Promise<void> {
  const { claims, paths } = volumes.context
  using claim = await claims.wait('volume', volumes.find(name).dir)
  void claim
  const volume = volumes.find(name)
  if (volume.filled) return
  using data = openDir(volume.mountpoint)
  // One filesystem with the data: entries can be renamed.
  const base = isMountedVolume(volume.options) ? volume.mountpoint : join(paths.volumes, volume.dir)
  using source = sys.openat(from, '.', sys.O_RDONLY | sys.O_DIRECTORY)
  if (sys.statAt(sys.AT_FDCWD, fromUtf8(join(base, READY))) === undefined) {
    if (!isEmpty(data)) return
    if (isEmpty(source)) {
      // What mount options say of owner and mode is said by whoever made the volume.
      if (volume.options['type'] === undefined) copyOwner(source, data)
      return
    }
    await copyBeside(base, source)
  }
  await moveIn(base, data)
  copyOwner(source, data)
  volumes.markFilled(volume)
}

function isEmpty(dir: Fd): boolean {
  return sys.listDir(dir.n).names.every(name => NOT_CONTENT.includes(name))
}

async function copyBeside(base: string, source: Fd): Promise<void> {
  await removeTree(join(base, PARTIAL))
  using parent = openDir(base)
  sys.mkdirat(parent.n, PARTIAL, 0o700)
  {
    using to = sys.openat(parent.n, PARTIAL, sys.O_RDONLY | sys.O_DIRECTORY)
    await copyPlainTree(source.n, to.n)
  }
  sys.renameat2(parent.n, PARTIAL, parent.n, READY)
}

async function moveIn(base: string, data: Fd): Promise<void> {
  {
    using ready = openDir(join(base, READY))
    for (const name of sys.listDir(ready.n).names) {
      try {
        sys.renameat2(ready.n, name, data.n, name, sys.RENAME_NOREPLACE)
      } catch (error) {
        // Another container has made one of its own meanwhile: that one stays.
        if (!(error instanceof SysError && error.errno === E.EEXIST)) throw error
      }
    }
  }
  await removeTree(join(base, READY))
}

function copyOwner(from: Fd, to: Fd): void {
  const stat = sys.statFd(from.n)
  sys.fchown(to.n, stat.uid, stat.gid)
  sys.fchmod(to.n, stat.mode & 0o7777)
  sys.utimensAt(to.n, '', stat.atime, stat.atimeNsec, stat.mtime, stat.mtimeNsec)
}
