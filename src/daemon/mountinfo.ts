import { readFileSync } from 'node:fs'
import type { ByteName } from '../base/bytes.js'

/** One line of /proc/PID/mountinfo. Source: proc_pid_mountinfo(5) */
export interface MountEntry {
  /** As in statx(2). */
  id: number
  /** `major:minor`. */
  device: string
  /** The directory of that filesystem which is mounted. */
  root: ByteName
  mountpoint: ByteName
  type: string
  source: ByteName
  /** Options of the filesystem, separated by commas, still with the kernel's octal escapes resolved. */
  superOptions: ByteName
}

/**
 * The mounts that a process sees, in mount order: of two on one mountpoint the later is on top.
 * @throws Error EACCES for a process that this one may not look into
 */
export function readMounts(pid: number | 'self' = 'self'): MountEntry[] {
  return parseMountinfo(readFileSync(`/proc/${pid}/mountinfo`, 'latin1'))
}

export function parseMountinfo(text: string): MountEntry[] {
  const entries: MountEntry[] = []
  for (const line of text.split('\n')) {
    // 36 35 98:0 /root /mountpoint rw,noatime shared:1 - type source superoptions
    const [left, right] = line.split(' - ')
    const fields = left?.split(' ') ?? []
    const [type, source, superOptions] = right?.split(' ') ?? []
    if (fields[2] === undefined || fields[4] === undefined || type === undefined) continue
    entries.push({
      id: Number(fields[0]),
      device: fields[2],
      root: unescapeOctal(fields[3] ?? '/'),
      mountpoint: unescapeOctal(fields[4]),
      type,
      source: unescapeOctal(source ?? ''),
      superOptions: unescapeOctal(superOptions ?? ''),
    })
  }
  return entries
}

/** What is on top at this mountpoint. */
export function mountAt(
  mountpoint: ByteName,
  entries: readonly MountEntry[] = readMounts(),
): MountEntry | undefined {
  return entries.findLast(entry => entry.mountpoint === mountpoint)
}

/** The kernel writes space, tab, newline and backslash as `\040` and so on. */
function unescapeOctal(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_all, digits: string) => String.fromCharCode(parseInt(digits, 8)))
}
