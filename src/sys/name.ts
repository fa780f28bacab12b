import { SysError } from '../base/sys-error.js'
import { addon, check } from './addon.js'

/** `mode` is subject to the umask, unless the parent has a default ACL. */
export function mkdirat(dirfd: number, name: string, mode: number): void {
  check(addon.mkdirat(dirfd, name, mode), 'mkdirat', name)
}

/** `mode` has the type bits; `rdev` is of makedev(). */
export function mknodat(dirfd: number, name: string, mode: number, rdev: number): void {
  check(addon.mknodat(dirfd, name, mode, rdev), 'mknodat', name)
}

export function symlinkat(target: string, dirfd: number, name: string): void {
  check(addon.symlinkat(target, dirfd, name), 'symlinkat', name)
}

/** Does not follow `oldName` unless flags has AT_SYMLINK_FOLLOW. */
export function linkat(oldFd: number, oldName: string, newFd: number, newName: string, flags = 0): void {
  check(addon.linkat(oldFd, oldName, newFd, newName, flags), 'linkat', newName)
}

/** Gives an open file a name, one made with O_TMPFILE too. Needs no capability where /proc is mounted. */
export function linkFd(fd: number, dirfd: number, name: string): void {
  check(addon.linkFd(fd, dirfd, name), 'linkat', name)
}

export function unlinkat(dirfd: number, name: string, flags = 0): void {
  check(addon.unlinkat(dirfd, name, flags), 'unlinkat', name)
}

export function renameat2(oldFd: number, oldName: string, newFd: number, newName: string, flags = 0): void {
  check(addon.renameat2(oldFd, oldName, newFd, newName, flags), 'renameat2', oldName)
}

/** The target as a byte string, of any length. Name '' is `dirfd` itself, opened with O_PATH | O_NOFOLLOW. */
export function readlinkat(dirfd: number, name: string): string {
  const target = addon.readlinkat(dirfd, name)
  if (typeof target === 'number') throw new SysError(-target, 'readlinkat', name)
  return target
}
