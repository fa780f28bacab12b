import { E } from '../base/errno.js'
import { Fd } from '../base/fd.js'
import { addon, check } from './addon.js'

/** What name_to_handle_at(2) gives: `type` and `handle` name the object on its filesystem, also after a rename. */
export interface FileHandle {
  type: number
  handle: Buffer
  mountId: number
}

/** Name '' is `dirfd` itself. @returns undefined when the filesystem has no handles */
export function nameToHandle(dirfd: number, name: string, flags = 0): FileHandle | undefined {
  const result = addon.nameToHandle(dirfd, name, flags)
  if (typeof result !== 'number') return { type: result[0], handle: result[1], mountId: result[2] }
  if (result === -E.EOPNOTSUPP) return undefined
  check(result, 'name_to_handle_at', name)
  return undefined
}

/**
 * `mountFd` is any object on the filesystem, not opened with O_PATH. Needs CAP_DAC_READ_SEARCH.
 * @returns undefined when the object is gone (ESTALE)
 */
export function openByHandle(
  mountFd: number,
  type: number,
  handle: Uint8Array,
  flags: number,
): Fd | undefined {
  const rc = addon.openByHandle(mountFd, type, handle, flags)
  if (rc === -E.ESTALE) return undefined
  return new Fd(check(rc, 'open_by_handle_at'))
}

/** 16 bytes (FS_IOC_GETFSUUID, Linux 6.9), or undefined where kernel or filesystem do not tell. */
export function getFsUuid(fd: number): Buffer | undefined {
  const result = addon.getFsUuid(fd)
  if (typeof result !== 'number') return result
  if (result === -E.ENOTTY || result === -E.EOPNOTSUPP || result === -E.EINVAL || result === -E.ENOSYS)
    return undefined
  check(result, 'ioctl')
  return undefined
}
