import { E } from '../base/errno.js'
import { addon, check } from './addon.js'

/*
 * Nothing here follows a symlink. The name '' is the descriptor itself, and O_PATH descriptors work everywhere:
 * with the *xattrat syscalls (Linux 6.13) or through /proc/self/fd.
 */

/** @returns undefined when there is no such attribute, or the filesystem has none */
export function getxattrAt(dirfd: number, name: string, attr: string): Buffer | undefined {
  const value = addon.getxattrAt(dirfd, name, attr)
  if (typeof value !== 'number') return value
  if (value === -E.ENODATA || value === -E.EOPNOTSUPP) return undefined
  check(value, 'getxattr', name)
  return undefined
}

/** Byte names of all attributes, any number; none where the filesystem has no attributes. */
export function listxattrAt(dirfd: number, name: string): string[] {
  const list = addon.listxattrAt(dirfd, name)
  if (typeof list === 'number') {
    if (list !== -E.EOPNOTSUPP) check(list, 'listxattr', name)
    return []
  }
  return list === '' ? [] : list.slice(0, -1).split('\0')
}

/** @param flags XATTR_CREATE (EEXIST), XATTR_REPLACE (ENODATA) */
export function setxattrAt(dirfd: number, name: string, attr: string, value: Uint8Array, flags = 0): void {
  check(addon.setxattrAt(dirfd, name, attr, value, flags), 'setxattr', name)
}

export function removexattrAt(dirfd: number, name: string, attr: string): void {
  check(addon.removexattrAt(dirfd, name, attr), 'removexattr', name)
}

export function fgetxattr(fd: number, attr: string): Buffer | undefined {
  return getxattrAt(fd, '', attr)
}

export function flistxattr(fd: number): string[] {
  return listxattrAt(fd, '')
}

export function fsetxattr(fd: number, attr: string, value: Uint8Array, flags = 0): void {
  setxattrAt(fd, '', attr, value, flags)
}

export function fremovexattr(fd: number, attr: string): void {
  removexattrAt(fd, '', attr)
}
