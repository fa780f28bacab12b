/**
 * Which ids a store's files are written with. In a user namespace the same file has another owner with other ranges, so the
 * store notes those that it was made with (`userns.json`), and is refused with others.
 *
 * A namespace with one id can give files to nobody else: there owners are kept in an attribute (user.containers.override_stat),
 * and the store stays so, also when the user gets ranges later.
 */
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fromUtf8 } from '../../base/bytes.js'
import * as sys from '../../sys/index.js'
import type { IdMaps, IdRange } from '../drivers/driver.js'
import { StoreError, causeOf } from '../store-error.js'
import { hasOneId, inUserNamespace, namespacesOf, ownIds } from './standing.js'
import { spelled } from './subordinate-ids.js'

/** Whether an object's owner is its real one, or kept in an attribute. */
export type Ownership = 'chown' | 'xattr'

interface StoreIds {
  readonly ownership: Ownership
  readonly ids: IdMaps
  /** The namespaces from which it was opened last: their holder's state file, and the mount namespace's inode number. */
  readonly holder?: { readonly file: string; readonly mount: number }
}

/**
 * How this store keeps owners; noted where it is new.
 * @throws StoreError unsupported: made with other ids, or open in other namespaces now
 */
export function storeOwnership(root: string): Ownership {
  const path = join(root, 'userns.json')
  const noted = readIds(path)
  if (!inUserNamespace()) {
    if (noted === undefined) return 'chown'
    throw new StoreError(
      'unsupported',
      `the store ${root} belongs to the user namespace of uid ${noted.ids.uid[0]?.host ?? '?'}`,
      'use it as that user',
    )
  }
  const ids = ownIds()
  const ownership = noted?.ownership ?? (hasOneId() ? 'xattr' : 'chown')
  if (noted !== undefined) {
    refuseOtherIds(root, path, noted, ids)
    refuseOtherNamespace(root, noted)
  }
  const file = stateFile()
  const now: StoreIds = {
    ownership,
    ids: noted !== undefined && ownership === 'xattr' ? noted.ids : ids,
    ...(file === undefined ? {} : { holder: { file, mount: namespacesOf('self').mount } }),
  }
  const text = JSON.stringify(now)
  if (text !== JSON.stringify(noted)) {
    const temporary = `${path}.${process.pid}`
    writeFileSync(temporary, text, { mode: 0o600 })
    renameSync(temporary, path)
  }
  return ownership
}

/** Of the holder whose namespaces this process is in. */
function stateFile(): string | undefined {
  const run = process.env['LAMINA_RUN']
  return run === undefined || run === '' ? undefined : join(run, 'userns')
}

function readIds(path: string): StoreIds | undefined {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new StoreError('failed', `cannot read ${path}: ${causeOf(error)}`, 'use the store as its own user')
  }
  try {
    const noted = JSON.parse(text) as StoreIds
    if (!Array.isArray(noted.ids.uid) || !Array.isArray(noted.ids.gid)) throw new Error('it names no ids')
    if (noted.ownership !== 'chown' && noted.ownership !== 'xattr') throw new Error('it names no ownership')
    return noted
  } catch (error) {
    throw new StoreError('corrupt', `${path} cannot be read: ${causeOf(error)}`, 'restore it from a backup')
  }
}

/** More ids than before are no harm, as long as those of before mean the same. */
function refuseOtherIds(root: string, path: string, noted: StoreIds, ids: IdMaps): void {
  // All on disk is the user's own, whatever else he has.
  const wanted = (ranges: readonly IdRange[]): readonly IdRange[] =>
    noted.ownership === 'xattr' ? ranges.filter(({ container }) => container === 0) : ranges
  for (const kind of ['uid', 'gid'] as const) {
    const lost = wanted(noted.ids[kind]).find(range => !includes(ids[kind], range))
    if (lost === undefined) continue
    throw new StoreError(
      'unsupported',
      `the store ${root} was made with the ${kind}s ${spelled(noted.ids[kind])}, this user namespace has ${spelled(ids[kind])}`,
      `give the user range ${lost.host}:${lost.length} back in /etc/sub${kind} (and install newuidmap), or use another --root; ` +
        `for a store whose files were moved to the new ids remove ${path}`,
    )
  }
}

function includes(ranges: readonly IdRange[], { container, host, length }: IdRange): boolean {
  let [at, left] = [container, length]
  while (left > 0) {
    const range = ranges.find(each => at >= each.container && at < each.container + each.length)
    if (range === undefined || range.host + (at - range.container) !== host + (at - container)) return false
    const step = Math.min(left, range.container + range.length - at)
    at += step
    left -= step
  }
  return true
}

/** Mounts of one mount namespace are not seen in another: what is in use there would seem free here. */
function refuseOtherNamespace(root: string, { holder }: StoreIds): void {
  if (holder === undefined || holder.mount === namespacesOf('self').mount) return
  let pid: number
  try {
    const text = readFileSync(holder.file, 'latin1')
    using state = sys.openat(sys.AT_FDCWD, fromUtf8(holder.file), sys.O_RDONLY | sys.O_NOFOLLOW)
    if (sys.flock(state.n, sys.LOCK_SH | sys.LOCK_NB)) return
    const fields = text.split(' ').map(Number)
    if (fields[2] !== holder.mount) return
    pid = fields[0] ?? 0
  } catch {
    return
  }
  throw new StoreError(
    'in-use',
    `the store ${root} is in use in the namespace of process ${pid} (${holder.file})`,
    `set LAMINA_RUN to ${holder.file.replace(/\/[^/]*$/, '')} to use that one, or end the process`,
  )
}
