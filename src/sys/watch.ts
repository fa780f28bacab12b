/** Directories that are watched for changes: inotify(7). */
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { addon, check } from './addon.js'

/** What happened to the directory of a watch, or to what is called `name` in it. */
export interface WatchEvent {
  readonly watch: number
  /** IN_* bits. */
  readonly mask: number
  /** '' for the directory itself. */
  readonly name: string
}

export const IN_MODIFY = 0x2
export const IN_ATTRIB = 0x4
export const IN_Q_OVERFLOW = 0x4000
export const IN_IGNORED = 0x8000

/**
 * A descriptor for watches; `changed` is called when there is something to read, and keeps no process alive.
 * @throws SysError EMFILE: the user has too many
 */
export function openWatch(changed: () => void): number {
  return check(addon.watchOpen(changed), 'inotify_init')
}

/**
 * The number of the watch on a directory, the same one for the same directory.
 * @returns undefined where the user may have no more of them (fs.inotify.max_user_watches)
 * @throws SysError EACCES, ENOMEM
 */
export function addWatch(fd: number, dirfd: number): number | undefined {
  const watch = addon.watchAdd(fd, dirfd)
  if (watch === -E.ENOSPC) return undefined
  if (watch < 0) throw new SysError(-watch, 'inotify_add_watch')
  return watch
}

export function removeWatch(fd: number, watch: number): void {
  addon.watchRemove(fd, watch)
}

/** What has happened since; undefined when there is nothing more. */
export function readWatch(fd: number): WatchEvent[] | undefined {
  const flat = addon.watchRead(fd)
  if (flat === undefined) return undefined
  const events: WatchEvent[] = []
  for (let i = 0; i < flat.length; i += 3)
    events.push({ watch: flat[i] as number, mask: flat[i + 1] as number, name: flat[i + 2] as string })
  return events
}
