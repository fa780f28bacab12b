/**
 * Which ids an ordinary user's namespace is to have: his own as 0, and his ranges of /etc/subuid and /etc/subgid from 1 on, as
 * Podman has them; his own alone where he has none.
 * Source: subuid(5), newuidmap(1)
 */
import { readFileSync } from 'node:fs'
import { userInfo } from 'node:os'
import type { IdMaps, IdRange } from '../drivers/driver.js'
import { findProgram } from '../oci-runtime.js'

export interface WantedIds {
  readonly maps: IdMaps
  /** newuidmap and newgidmap, which alone may map more than one id. */
  readonly programs?: { readonly uid: string; readonly gid: string }
  /** Why there is one id only, and what to do about it; absent where there are more. */
  readonly alone?: string
}

/** @throws Error EACCES, EIO: a file that is there and cannot be read */
export function wantedIds(): WantedIds {
  const uid = process.geteuid?.() ?? 0
  const gid = process.getegid?.() ?? 0
  const name = loginName()
  const mine = (id: number, more: readonly IdRange[]): IdRange[] => [
    { container: 0, host: id, length: 1 },
    ...more,
  ]
  const single = (alone: string): WantedIds => ({ maps: { uid: mine(uid, []), gid: mine(gid, []) }, alone })
  const ranges = { uid: rangesOf('/etc/subuid', name, uid), gid: rangesOf('/etc/subgid', name, uid) }
  const without = Object.entries({ '/etc/subuid': ranges.uid, '/etc/subgid': ranges.gid })
    .filter(([, found]) => found.length === 0)
    .map(([file]) => file)
  const who = name ?? String(uid)
  if (without.length > 0) {
    return single(
      `${without.join(' and ')} ${without.length > 1 ? 'have' : 'has'} no range for ${who}: ` +
        `'usermod --add-subuids 100000-165535 --add-subgids 100000-165535 ${who}' as root gives him one`,
    )
  }
  const programs = { uid: findProgram('newuidmap'), gid: findProgram('newgidmap') }
  if (programs.uid === undefined || programs.gid === undefined) {
    const missing = programs.uid === undefined ? 'newuidmap' : 'newgidmap'
    return single(`${missing} is not installed: on Debian, 'apt-get install uidmap' as root brings it`)
  }
  return {
    maps: { uid: mine(uid, ranges.uid), gid: mine(gid, ranges.gid) },
    programs: { uid: programs.uid, gid: programs.gid },
  }
}

/** A user of a container, or of a directory service that is out of reach, may have none. */
function loginName(): string | undefined {
  try {
    return userInfo().username
  } catch {
    return undefined
  }
}

/** In the order of the file, one behind the other from 1 on. */
function rangesOf(file: string, name: string | undefined, uid: number): IdRange[] {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
  const ranges: IdRange[] = []
  let next = 1
  for (const line of text.split('\n')) {
    const [owner, start = '', count = ''] = line.trim().split(':')
    if ((owner !== name || name === undefined) && owner !== String(uid)) continue
    const [host, length] = [Number(start), Number(count)]
    if (!/^\d{1,10}$/.test(start) || !/^\d{1,10}$/.test(count) || length === 0) continue
    if (host + length > 2 ** 32 - 1 || next + length > 2 ** 32 - 1) continue
    ranges.push({ container: next, host, length })
    next += length
  }
  return ranges
}

/** `0:1000:1 1:100000:65536`; ranges that the kernel shows as one are written as one. */
export function spelled(ranges: readonly IdRange[]): string {
  const joined: IdRange[] = []
  for (const range of [...ranges].sort((a, b) => a.container - b.container)) {
    const last = joined.at(-1)
    const follows =
      last !== undefined &&
      last.container + last.length === range.container &&
      last.host + last.length === range.host
    if (follows) joined[joined.length - 1] = { ...last, length: last.length + range.length }
    else joined.push(range)
  }
  return joined.map(({ container, host, length }) => `${container}:${host}:${length}`).join(' ')
}

export function sameIds(a: IdMaps, b: IdMaps): boolean {
  return spelled(a.uid) === spelled(b.uid) && spelled(a.gid) === spelled(b.gid)
}
