import * as sys from '../sys/index.js'
import { toUtf8, type ByteName } from '../base/bytes.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'

/**
 * What can be wrong with a mount, found out before anything is mounted, and said in one line that names the thing, the
 * cause and the way out.
 */
export class CheckError extends Error {}

export const quoted = (path: ByteName): string =>
  `'${toUtf8(path.length > 200 ? `${path.slice(0, 200)}…` : path)}'`

/** A directory that a mount is made of, as it is now. */
export interface Place {
  role: string
  path: ByteName
  stat: sys.Stat
}

/** @throws CheckError: not there, no directory, not reachable, name too long */
export function place(role: string, path: ByteName): Place {
  let stat: sys.Stat | undefined
  try {
    stat = sys.statAt(sys.AT_FDCWD, path, 0)
  } catch (error) {
    if (!(error instanceof SysError)) throw error
    switch (error.errno) {
      case E.ENAMETOOLONG:
        throw new CheckError(`${role} ${quoted(path)}: name too long (255 bytes a name, 4095 bytes a path)`)
      case E.ENOTCONN:
        throw new CheckError(
          `${role} ${quoted(path)} is a dead FUSE mount (its daemon has ended); umount it first`,
        )
      case E.EACCES:
        throw new CheckError(`no permission to reach ${role} ${quoted(path)}`)
      case E.ENOTDIR:
        throw new CheckError(`${role} ${quoted(path)} is not a directory`)
      default:
        throw new CheckError(`${role} ${quoted(path)}: ${error.message}`)
    }
  }
  if (stat === undefined) throw new CheckError(`${role} ${quoted(path)} does not exist`)
  if (!sys.S_ISDIR(stat.mode)) throw new CheckError(`${role} ${quoted(path)} is not a directory`)
  return { role, path, stat }
}

export const identity = (stat: sys.Stat): string => `${stat.dev}:${stat.inoHi}:${stat.inoLo}`
