/**
 * The ioctls that mean something on an overlay: file flags and project ids (lsattr, chattr), as fs/overlayfs/inode.c passes them
 * on. Everything else, FITRIM among it, is ENOTTY, as on the kernel's overlay.
 */
import * as sys from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { Fd } from '../base/fd.js'
import { ensureUpper } from './copy-up.js'
import type { Inode } from './inode.js'
import { openDir, openReal } from './io.js'
import type { View } from './view.js'

/** Bytes of the argument: `long` by its number, `int` by what filesystems read and write. */
const FLAGS_SIZE = 4
/** struct fsxattr. */
const FSXATTR_SIZE = 28

/** @throws SysError ENOTTY, EROFS, EPERM, EOPNOTSUPP; Again while a file is copied up */
export function ioctl(
  view: View,
  inode: Inode,
  command: number,
  input: Buffer,
): { result: number; output: Buffer } {
  switch (command) {
    case sys.FS_IOC_GETFLAGS:
      return { result: 0, output: pass(view, inode, command, Buffer.alloc(FLAGS_SIZE)) }
    case sys.FS_IOC_FSGETXATTR:
      return { result: 0, output: pass(view, inode, command, Buffer.alloc(FSXATTR_SIZE)) }
    case sys.FS_IOC_SETFLAGS:
    case sys.FS_IOC_FSSETXATTR: {
      const size = command === sys.FS_IOC_SETFLAGS ? FLAGS_SIZE : FSXATTR_SIZE
      if (input.length < size) throw new SysError(E.EINVAL, 'ioctl', inode.name)
      ensureUpper(view, inode)
      pass(view, inode, command, Buffer.from(input.subarray(0, size)))
      view.attrChanged(inode) // ctime has moved, which the kernel does not know
      return { result: 0, output: Buffer.alloc(0) }
    }
    default:
      throw new SysError(E.ENOTTY, 'ioctl', inode.name)
  }
}

function pass(view: View, inode: Inode, command: number, argument: Buffer): Buffer {
  // Opening a fifo or a device would be more than asking about it.
  if (inode.type !== sys.S_IFREG && !inode.isDir()) throw new SysError(E.ENOTTY, 'ioctl', inode.name)
  using fd = new Fd(inode.isDir() ? openDir(view, inode) : openReal(view, inode, sys.O_RDONLY))
  // A kernel that takes a long writes eight bytes: room for them is there.
  const room = Buffer.alloc(Math.max(argument.length, 8))
  argument.copy(room)
  const result = sys.ioctlNumber(fd.n, command, room)
  if (result < 0) throw new SysError(-result, 'ioctl', inode.name)
  return room.subarray(0, argument.length)
}
