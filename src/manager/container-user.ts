/** `USER name`, `uid:gid`, `name:group` as numbers, by the image's own /etc/passwd and /etc/group. */
import { fromUtf8 } from '../base/bytes.js'
import type { IdMaps, IdRange } from './drivers/driver.js'
import { ownIds } from './rootless/standing.js'
import { spelled } from './rootless/subordinate-ids.js'
import { readInRoot } from './read-in-root.js'
import { StoreError } from './store-error.js'

export interface ContainerUser {
  readonly uid: number
  readonly gid: number
  /** Supplementary groups. */
  readonly groups: readonly number[]
  /** From passwd; `/` where it says nothing. */
  readonly home: string
}

const MAX_FILE = 4 << 20

/**
 * @param text '' is root
 * @param ids of the user namespace in which the user is to be
 * @throws StoreError not-found for a name that the image does not have; unsupported for an id that the namespace does not have
 */
export function resolveUser(rootfs: number, text: string, ids: IdMaps = ownIds()): ContainerUser {
  const colon = text.indexOf(':')
  const name = colon < 0 ? text : text.slice(0, colon)
  const groupName = colon < 0 ? '' : text.slice(colon + 1)
  const passwd = table(rootfs, 'etc/passwd')
  const groups = table(rootfs, 'etc/group')
  const wanted = name === '' ? '0' : name
  const entry = passwd.find(fields => fields[0] === wanted) ?? passwd.find(fields => fields[2] === wanted)
  if (entry === undefined && !/^\d+$/.test(wanted)) {
    throw new StoreError(
      'not-found',
      `the image has no user '${wanted}'`,
      'use a number, or add it to /etc/passwd first',
    )
  }
  const uid = Number(entry?.[2] ?? wanted)
  const gid = groupName === '' ? Number(entry?.[3] ?? 0) : groupId(groups, groupName)
  const login = entry?.[0]
  const supplementary = groupName !== '' || login === undefined ? [] : membership(groups, login)
  refuseUnmapped('user', uid, ids.uid)
  refuseUnmapped('group', gid, ids.gid)
  const known = supplementary.filter(id => id !== gid && isMapped(id, ids.gid))
  // The primary one too: a setgid program must not shed it (CVE-2022-36109).
  return { uid, gid, groups: [gid, ...known], home: entry?.[5] || '/' }
}

function isMapped(id: number, ranges: readonly IdRange[]): boolean {
  return ranges.some(({ container, length }) => id >= container && id < container + length)
}

function refuseUnmapped(what: string, id: number, ranges: readonly IdRange[]): void {
  if (isMapped(id, ranges)) return
  throw new StoreError(
    'unsupported',
    `${what} ${id} is none of the ids of this user namespace (${spelled(ranges)})`,
    'an ordinary user gets more by ranges in /etc/subuid and /etc/subgid',
  )
}

function groupId(groups: readonly string[][], name: string): number {
  const entry = groups.find(fields => fields[0] === name)
  if (entry !== undefined) return Number(entry[2])
  if (/^\d+$/.test(name)) return Number(name)
  throw new StoreError(
    'not-found',
    `the image has no group '${name}'`,
    'use a number, or add it to /etc/group first',
  )
}

function membership(groups: readonly string[][], login: string): number[] {
  return groups
    .filter(fields => (fields[3] ?? '').split(',').includes(login))
    .map(fields => Number(fields[2]))
}

/** The lines of a colon-separated file in the tree; an image may well have none. */
function table(rootfs: number, path: string): string[][] {
  const file = readInRoot(rootfs, fromUtf8(path), MAX_FILE)
  if (file.kind !== 'file') return []
  const lines = file.bytes.toString('utf8').split('\n')
  return lines.filter(line => line !== '' && !line.startsWith('#')).map(line => line.split(':'))
}
