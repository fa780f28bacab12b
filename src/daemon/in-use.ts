/**
 * Who has an upperdir or workdir already: the kernel's overlayfs, or a daemon of ours. Two mounts that write to one upper each
 * believe in what they remember of it, and lose what the other writes.
 */
import { readFileSync } from 'node:fs'
import * as sys from '../sys/index.js'
import type { ByteName } from '../base/bytes.js'
import { ask } from './control-client.js'
import { readMounts, type MountEntry } from './mountinfo.js'
import { CheckError, identity, quoted, type Place } from './place.js'
import { isServed, objectAt, pidNamespace, readRecords, type FoundRecord } from './run-dir.js'

/** @throws CheckError when one of `places` belongs to a mount of the kernel's overlayfs that can be seen from here */
export function refuseKernelOverlays(...places: readonly Place[]): void {
  for (const entry of readMounts()) {
    if (entry.type !== 'overlay') continue
    const used = usedBy(entry, places)
    if (used === undefined) continue
    throw new CheckError(
      `${used.role} ${quoted(used.path)} is in use by the kernel's overlay mount at ${quoted(entry.mountpoint)}`,
    )
  }
}

/**
 * The kernel tells an overlay's directories as its maker wrote them, whose root may be another than this process's: so a name counts only
 * where it leads to the object whose attributes the overlay's root shows.
 */
function usedBy(entry: MountEntry, places: readonly Place[]): Place | undefined {
  const named = (option: string): ByteName | undefined => {
    const value = entry.superOptions.split(/(?<!\\),/).find(given => given.startsWith(`${option}=/`))
    return value?.slice(option.length + 1).replace(/\\(.)/g, '$1')
  }
  const upper = named('upperdir')
  const stats = [upper, named('workdir')].map(path => (path === undefined ? undefined : statQuietly(path)))
  const used = places.find(({ stat }) => stats.some(named => named && identity(named) === identity(stat)))
  if (used === undefined || upper === undefined) return undefined
  return shows(entry, entry.root === '/' ? upper : `${upper}${entry.root}`) ? used : undefined
}

/** Whether an overlay's root can be the object at `path`. What another mount covers is believed to be. */
function shows(entry: MountEntry, path: ByteName): boolean {
  for (let before = statQuietly(path); before !== undefined;) {
    const shown = statQuietly(entry.mountpoint)
    if (shown?.mntId !== entry.id || timesOf(shown) === timesOf(before)) return true
    const after = statQuietly(path)
    // Otherwise it has changed in between.
    if (after === undefined || timesOf(after) === timesOf(before)) return false
    before = after
  }
  return false
}

/** The attributes that an overlay passes on as they are; no two directories have the same. */
function timesOf(stat: sys.Stat): string {
  const { btime, btimeNsec, ctime, ctimeNsec, mtime, mtimeNsec, mode } = stat
  return [btime, btimeNsec, ctime, ctimeNsec, mtime, mtimeNsec, mode].join(' ')
}

function statQuietly(path: ByteName): sys.Stat | undefined {
  try {
    return sys.statAt(sys.AT_FDCWD, path, 0)
  } catch {
    return undefined
  }
}

/** How long a daemon whose mount is gone already may take to let go of its upperdir, milliseconds. */
const RELEASE_LIMIT = 10_000

/**
 * Every daemon holds a lock on its upperdir and workdir. One whose mount was just detached is about to end (a container that
 * is restarted unmounts and mounts at once), so that is waited for. One whose mount nobody can reach any more, because only daemons
 * are left in its mount namespace, is asked to end. A mount that somebody may use is left alone.
 * @throws CheckError
 */
export async function waitForUpper(used: Place): Promise<void> {
  const until = Date.now() + RELEASE_LIMIT
  let yielding = false
  for (let pause = 1; !isFree(used); pause = Math.min(pause * 2, 20)) {
    const holder = holderOf(used)
    if (holder !== undefined && isServed(holder.record)) {
      const { mountpoint, pid, device } = holder.record
      const by = `${used.role} ${quoted(used.path)} is in use by the mount at ${quoted(mountpoint)} (pid ${pid}`
      if (readMounts().some(entry => entry.device === device)) throw new CheckError(`${by})`)
      if (!yielding && holder.record.pidNamespace === pidNamespace()) {
        try {
          const { user } = await ask(holder, { cmd: 'yield' })
          if (user !== undefined) throw new CheckError(`${by}) in another mount namespace, ${user}`)
          yielding = true
        } catch (error) {
          // It may end before its answer is through: then the lock is free in a moment.
          if (error instanceof CheckError || Date.now() > until) throw error
        }
      }
    }
    if (Date.now() > until) {
      throw new CheckError(`${used.role} ${quoted(used.path)} is in use by another mount (${lockedBy(used)})`)
    }
    await new Promise(resolve => setTimeout(resolve, pause))
  }
}

function holderOf(used: Place): FoundRecord | undefined {
  const id = objectAt(used.path)
  return readRecords().find(({ record }) => id !== undefined && [record.upperId, record.workId].includes(id))
}

function isFree(used: Place): boolean {
  using fd = sys.openat(sys.AT_FDCWD, used.path, sys.O_RDONLY | sys.O_DIRECTORY)
  return sys.flock(fd.n, sys.LOCK_EX | sys.LOCK_NB)
}

/** Who has taken the lock, as far as /proc/locks says: another user's daemon, or one with another run directory. */
function lockedBy({ stat }: Place): string {
  const hex = (number: number): string => number.toString(16).padStart(2, '0')
  const file = `${hex(Math.floor(stat.dev / 0x100000))}:${hex(stat.dev % 0x100000)}:${stat.ino}`
  const line = readFileSync('/proc/locks', 'latin1')
    .split('\n')
    .map(text => text.split(/ +/))
    .find(fields => fields[1] === 'FLOCK' && fields[5] === file)
  const pid = Number(line?.[4] ?? 0)
  return pid > 0 ? `pid ${pid} holds its lock` : 'its lock is held'
}
