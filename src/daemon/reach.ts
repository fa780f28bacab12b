/**
 * Who can reach a mount: the processes whose mount namespace has it, daemons left out. A daemon started in a container engine's
 * namespace keeps that namespace, and with it its own mount, after all others in there have gone (the pause process of a rootless
 * engine was killed, a unit with PrivateMounts= has ended): then nobody can use the mount, nor unmount it.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import * as sys from '../sys/index.js'
import { Fd } from '../base/fd.js'
import { SysError } from '../base/sys-error.js'
import { readMounts } from './mountinfo.js'
import { readRecords } from './run-dir.js'

/**
 * Who may use the mount on `device` of this process's namespace, for people; undefined when there is nobody. What cannot be
 * found out counts as somebody. Who has come in otherwise (a descriptor, nsenter from outside) is found by umount(2): EBUSY.
 */
export function reachedBy(device: string): string | undefined {
  const own = readlinkSync('/proc/self/ns/mnt')
  const apart = isApart()
  const daemons = new Set([process.pid, ...daemonsNow()])
  /** Namespaces that do not have it. */
  const without = new Set<string>()
  for (const pid of readdirSync('/proc').map(Number)) {
    if (!(pid > 0) || daemons.has(pid) || daemons.has(parentOf(pid))) continue
    try {
      const namespace = readlinkSync(`/proc/${pid}/ns/mnt`)
      if (!without.has(namespace)) {
        const mounts = readMounts(pid)
        if (mounts.some(entry => entry.device === device)) return `used by ${nameOf(pid)}`
        if (mounts.some(({ type, root }) => type === 'nsfs' && root === own))
          return 'kept by a bind mount of it'
        without.add(namespace)
      }
      if (holds(pid, own)) return `kept open by ${nameOf(pid)}`
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code !== 'EACCES' && code !== 'EPERM') continue // it has ended
      // The first process is where everything began, with others, which are looked into.
      if (!apart && pid !== 1) return `perhaps used by ${nameOf(pid)}, into which it may not look`
    }
  }
  return undefined
}

/** Those of other mounts in the same namespace keep it as this one does. */
function daemonsNow(): number[] {
  return readRecords().flatMap(({ record: { pid, keeper } }) =>
    keeper === undefined ? [pid] : [pid, keeper.pid],
  )
}

/** The kernel's first user namespace. Source: linux/proc_ns.h, PROC_USER_INIT_INO */
const FIRST_USER_NAMESPACE = 0xeffffffd

/**
 * Whether processes that this one may not look into are outside, where mounts in here do not show: its mount namespace was made in a user
 * namespace that is not the first, and it may look into everybody in that one.
 */
function isApart(): boolean {
  if (!sys.hasCapability(sys.CAP_SYS_ADMIN)) return false
  try {
    using mounts = sys.openat(sys.AT_FDCWD, '/proc/self/ns/mnt', sys.O_RDONLY)
    const owner = sys.ioctlNumber(mounts.n, sys.NS_GET_USERNS, 0)
    if (owner < 0) return false
    using users = new Fd(owner)
    return sys.statFd(users.n).ino !== FIRST_USER_NAMESPACE
  } catch (error) {
    if (error instanceof SysError) return false
    throw error
  }
}

/** Whether a process has a descriptor of that namespace. */
function holds(pid: number, namespace: string): boolean {
  return readdirSync(`/proc/${pid}/fd`).some(fd => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`) === namespace
    } catch {
      return false // closed meanwhile
    }
  })
}

/** Field 4 of /proc/PID/stat; 0 when it has ended. */
function parentOf(pid: number): number {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1])
  } catch {
    return 0
  }
}

/** `pid 12 (sleep)`; empty when it has ended. */
function nameOf(pid: number): string {
  try {
    return `pid ${pid} (${readFileSync(`/proc/${pid}/comm`, 'latin1').trimEnd()})`
  } catch {
    return ''
  }
}
