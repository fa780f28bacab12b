/** What this process is, as far as user namespaces matter: which ids it has, and whether the namespace is the user's own. */
import { readFileSync, readlinkSync } from 'node:fs'
import * as sys from '../../sys/index.js'
import type { IdMaps, IdRange } from '../drivers/driver.js'

/** Set by lamina-userns in everything that it starts: `UID:USER:MOUNT:ID`, the user outside, the namespaces' inode numbers, and what tells them from later ones with these. */
export const USERNS_VARIABLE = 'LAMINA_USERNS'

/** What {@link USERNS_VARIABLE} says. */
export interface Entered extends Namespaces {
  readonly uid: number
  readonly id: string
}

/** The namespaces of one process, by inode number. */
export interface Namespaces {
  readonly user: number
  readonly mount: number
}

/** The ids that a process's namespace has. Source: user_namespaces(7), "Defining user and group ID mappings" */
export function idMapsOf(pid: number | 'self' = 'self'): IdMaps {
  const read = (name: string): IdRange[] =>
    readFileSync(`/proc/${pid}/${name}`, 'latin1')
      .split('\n')
      .filter(line => line.trim() !== '')
      .map(line => {
        const [container = 0, host = 0, length = 0] = line.trim().split(/\s+/).map(Number)
        return { container, host, length }
      })
  return { uid: read('uid_map'), gid: read('gid_map') }
}

let own: IdMaps | undefined

/** Of this process, which stays in its namespace. */
export function ownIds(): IdMaps {
  own ??= idMapsOf()
  return own
}

/** The initial namespace maps everything onto itself. */
export function inUserNamespace(): boolean {
  const [first, second] = ownIds().uid
  return !(first?.container === 0 && first.host === 0 && first.length === 2 ** 32 - 1 && second === undefined)
}

/** Whether files can have one owner only: no other id exists here. */
export function hasOneId(): boolean {
  const { uid, gid } = ownIds()
  return [uid, gid].some(ranges => ranges.reduce((sum, { length }) => sum + length, 0) <= 1)
}

/** @throws Error ENOENT, EACCES: the process is gone, or not ours to look at */
export function namespacesOf(pid: number | 'self'): Namespaces {
  const inode = (name: string): number =>
    Number(/\d+/.exec(readlinkSync(`/proc/${pid}/ns/${name}`))?.[0] ?? 0)
  return { user: inode('user'), mount: inode('mnt') }
}

/** What {@link USERNS_VARIABLE} says, if it is about the namespaces in which `pid` is. */
export function entered(pid: number | 'self', value: string | undefined): Entered | undefined {
  const match = /^(\d+):(\d+):(\d+):(\w+)$/.exec(value ?? '')
  if (match === null) return undefined
  const [uid = 0, user = 0, mount = 0] = match.slice(1, 4).map(Number)
  const is = namespacesOf(pid)
  return is.user === user && is.mount === mount ? { uid, user, mount, id: match[4] ?? '' } : undefined
}

/** The user's own namespaces, where this process is in them. */
export function ownNamespaces(): Entered | undefined {
  return inUserNamespace() ? entered('self', process.env[USERNS_VARIABLE]) : undefined
}

/** Without CAP_SYS_ADMIN of any kind: an ordinary user outside his namespace. */
export function isOrdinary(): boolean {
  return sys.geteuid() !== 0
}
