import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { addon, check } from './addon.js'

/** The ids this thread creates files as. Only asCreator() changes them, so they are read once. */
let [fsuid, fsgid] = addon.fsIds()

/**
 * Runs `fn` so that what it creates belongs to uid:gid and is masked with `mask`: this thread's fsuid and fsgid, and the
 * process's umask. All effective capabilities are kept, so permissions are still the daemon's. Everything is put back
 * afterwards, also when `fn` throws. Where the ids are right already it costs one or two umask(2); a change of both ids
 * and back costs five changes of credentials, 5 to 10 microseconds.
 *
 * `fn` must be synchronous: other requests would run under these ids. It may call asCreator() itself.
 * @throws SysError EINVAL: an id is not mapped in this user namespace, or CAP_SETUID or CAP_SETGID is missing
 */
export function asCreator<T>(uid: number, gid: number, mask: number, fn: () => T): T {
  const switched = uid !== fsuid || gid !== fsgid
  return switched ? withIds(uid, gid, mask, fn) : withMask(mask, fn)
}

function withMask<T>(mask: number, fn: () => T): T {
  const oldMask = addon.umask(mask)
  try {
    const result = fn()
    if (result instanceof Promise) throw new TypeError('asCreator: the function must be synchronous')
    return result
  } finally {
    if (oldMask !== mask) addon.umask(oldMask)
  }
}

function withIds<T>(uid: number, gid: number, mask: number, fn: () => T): T {
  const oldUid = fsuid
  const oldGid = fsgid
  check(addon.becomeCreator(uid, gid), 'setfsuid')
  fsuid = uid
  fsgid = gid
  try {
    return withMask(mask, fn)
  } finally {
    const rc = addon.becomeCreator(oldUid, oldGid)
    // Cannot fail: these ids and capabilities were this thread's own. If it does, going on would create files for the
    // wrong user.
    check(rc, 'setfsuid')
    fsuid = oldUid
    fsgid = oldGid
  }
}

/** Sets the process's umask; gives the old one. */
export function umask(mask: number): number {
  return addon.umask(mask)
}

export function geteuid(): number {
  return addon.geteuid()
}

/** Whether this thread has a capability (CAP_*) in its effective set. */
export function hasCapability(capability: number): boolean {
  const sets = addon.capabilities()
  if (typeof sets === 'number') throw new SysError(-sets, 'capget')
  return Math.floor(sets[0] / 2 ** capability) % 2 === 1
}

const RLIMIT_NOFILE = 7

/** Infinity for "no limit". */
export function getrlimitNofile(): { soft: number; hard: number } {
  const limits = addon.getrlimit(RLIMIT_NOFILE)
  if (typeof limits === 'number') throw new SysError(-limits, 'getrlimit')
  return { soft: limits[0], hard: limits[1] }
}

/** @throws SysError EPERM: above the hard limit, without CAP_SYS_RESOURCE; EINVAL: soft above hard */
export function setrlimitNofile(soft: number, hard: number): void {
  check(addon.setrlimit(RLIMIT_NOFILE, soft, hard), 'setrlimit')
}

/** Raises the soft limit of open files to the hard one, as far as allowed; gives what is in force. */
export function raiseNofile(): number {
  const { soft, hard } = getrlimitNofile()
  const rc = addon.setrlimit(RLIMIT_NOFILE, hard, hard)
  if (rc === -E.EPERM) return soft
  check(rc, 'setrlimit')
  return hard
}
