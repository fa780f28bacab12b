import { OciError } from './error.js'

/** One range of a user namespace, as in /proc/PID/uid_map: `size` ids from `container` are `host` and following. */
export interface IdRange {
  container: number
  host: number
  size: number
}

/** How ids in archives (container) relate to ids on disk (host). */
export interface IdMap {
  uid: readonly IdRange[]
  gid: readonly IdRange[]
}

/** Largest id that chown(2) takes; the next one means "leave it". */
const maxId = 0xfffffffe

function checked(id: number, what: string): number {
  if (!Number.isInteger(id) || id < 0 || id > maxId)
    throw new OciError('malformed', `${what} ${id} is not a possible id`)
  return id
}

/**
 * The id on disk of an id in an archive.
 * @throws OciError `unsupported` when no range has it, saying what a rootless user can do about it
 */
export function toHost(ranges: readonly IdRange[] | undefined, id: number, what: 'uid' | 'gid'): number {
  checked(id, what)
  if (ranges === undefined) return id
  for (const { container, host, size } of ranges)
    if (id >= container && id < container + size) return host + id - container
  throw new OciError(
    'unsupported',
    `${what} ${id} is not mapped in this user namespace; extend /etc/sub${what} so that it reaches ${id}`,
  )
}

/** The id in an archive of an id on disk; 65534 (nobody) for one that no range has, as the kernel shows it. */
export function toContainer(ranges: readonly IdRange[] | undefined, id: number): number {
  if (ranges === undefined) return id
  for (const { container, host, size } of ranges)
    if (id >= host && id < host + size) return container + id - host
  return 65534
}
