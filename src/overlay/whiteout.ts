/** Hiding names of the lower layers: a whiteout where upper has nothing, or in the place of what upper has. */
import * as sys from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { makeWhiteout, OPAQUE_HAS_XATTR_WHITEOUTS } from '../format/index.js'
import type { DirInode } from './inode.js'
import { rulesChanged } from './names.js'
import type { View } from './view.js'

/** Puts a whiteout where upper has nothing of that name. The directory has an upper. */
export function whiteOut(view: View, parent: DirInode, name: string): void {
  const dirfd = view.upperFd(parent)
  const work = view.workdir()
  announceWhiteout(view, parent)
  if (work.features.whiteout === 'file') {
    makeWhiteout(dirfd, name, 'file', view.prefix)
    return
  }
  work.staged(
    (_fd, temp) => {
      work.stageWhiteout(temp)
    },
    (fd, temp) => {
      sys.renameat2(fd, temp, dirfd, name)
    },
  )
}

/**
 * Takes an upper object away and leaves a whiteout, by one rename: nobody ever sees what is below. A directory must be
 * empty in the merged view; the whiteouts in it go with it.
 */
export function replaceByWhiteout(view: View, parent: DirInode, name: string, isDir: boolean): void {
  const dirfd = view.upperFd(parent)
  const work = view.workdir()
  announceWhiteout(view, parent)
  if (work.features.whiteout === 'file') {
    makeWhiteout(dirfd, name, 'file', view.prefix)
    takeAway(view, dirfd, name, isDir)
    return
  }
  work.staged(
    (_fd, temp) => {
      work.stageWhiteout(temp)
    },
    (fd, temp) => {
      if (!isDir) {
        sys.renameat2(fd, temp, dirfd, name)
      } else if (work.features.renameExchange) {
        sys.renameat2(fd, temp, dirfd, name, sys.RENAME_EXCHANGE)
        work.discard(temp)
      } else {
        takeAway(view, dirfd, name, true)
        sys.renameat2(fd, temp, dirfd, name)
      }
    },
  )
}

/** Removes an upper object under which nothing shows. A directory may still hold whiteouts: it is moved away first. */
export function takeAway(view: View, dirfd: number, name: string, isDir: boolean): void {
  if (!isDir) {
    sys.unlinkat(dirfd, name, 0)
    return
  }
  try {
    sys.unlinkat(dirfd, name, sys.AT_REMOVEDIR)
  } catch (error) {
    if (!(error instanceof SysError) || error.errno !== E.ENOTEMPTY) throw error
    const work = view.workdir()
    const temp = work.tempName()
    sys.renameat2(dirfd, name, work.fd.n, temp)
    work.discard(temp)
  }
}

/** Readers look for whiteouts of the rarer dialects only where a directory says that there may be some. */
function announceWhiteout(view: View, parent: DirInode): void {
  const { whiteout } = view.workdir().features
  const upper = view.upperOf(parent)
  if (whiteout === 'file' && !upper.markers) {
    upper.markers = true
    rulesChanged(view, parent)
  }
  if (whiteout !== 'xattr' || upper.xwhiteouts) return
  for (const dir of new Set([view.table.root, parent])) {
    const { dirfd, name } = view.at(dir)
    sys.setxattrAt(dirfd, name, view.prefix + 'opaque', Buffer.from(OPAQUE_HAS_XATTR_WHITEOUTS))
    view.upperOf(dir).xwhiteouts = true
  }
}
