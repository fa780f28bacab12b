/** `--chown` and `--chmod`, and whose directory WORKDIR makes. */
import type { CopyStep } from '../../oci/index.js'
import { resolveUser } from '../container-user.js'
import type { Override } from '../copy-tree.js'
import { StoreError } from '../store-error.js'
import type { NewDirectory } from './copy-target.js'
import { parseSymbolicMode } from './symbolic-mode.js'

/** What the step says instead of the source. `owners`: without `--chown`, those of the source count. */
export function overrideOf(step: CopyStep, owners: boolean, rootfs: number): Override {
  const owner = step.chown === undefined ? undefined : ownerIds(rootfs, step.chown)
  return { ...(owners ? {} : { uid: 0, gid: 0 }), ...owner, ...modeOf(step.chmod) }
}

/** @throws StoreError invalid */
function modeOf(text: string | undefined): Pick<Override, 'mode' | 'changeMode'> {
  if (text === undefined) return {}
  if (/^[0-7]+$/.test(text) && Number.parseInt(text, 8) <= 0o7777) return { mode: Number.parseInt(text, 8) }
  const changeMode = /^\d/.test(text) ? undefined : parseSymbolicMode(text)
  if (changeMode === undefined) {
    throw new StoreError('invalid', `--chmod=${text} is no mode`, 'e.g. --chmod=0644, or --chmod=u=rwX,go=rX')
  }
  return { changeMode }
}

/** Directories that a copy makes on the way: of the owner and octal mode asked for, else root's and 0755. */
export function newDirectory({ uid = 0, gid = 0, mode = 0o755 }: Override): NewDirectory {
  return { uid, gid, mode: mode & 0o777 }
}

/**
 * As numbers, by the tree's own passwd and group. Without a group, `1000` means group 1000, and a name its own group.
 * @throws StoreError not-found
 */
export function ownerIds(rootfs: number, text: string): { uid: number; gid: number } {
  const [user = '', group] = splitOnce(text)
  // root is root also in a tree without /etc/passwd
  const number = user === 'root' || user === '' ? '0' : user
  const { uid, gid } = resolveUser(
    rootfs,
    group === undefined && /^\d+$/.test(number) ? `${number}:${number}` : `${number}:${rootGroup(group)}`,
  )
  return { uid, gid }
}

/**
 * The user of a stage, whose directory WORKDIR makes. A name that the tree does not have is no error before anything
 * runs as that user: the directory is root's, as in BuildKit.
 */
export function workdirOwner(rootfs: number, user: string | undefined): { uid: number; gid: number } {
  if (user === undefined || user === '') return { uid: 0, gid: 0 }
  try {
    return ownerIds(rootfs, user)
  } catch (error) {
    if (error instanceof StoreError && error.code === 'not-found') return { uid: 0, gid: 0 }
    throw error
  }
}

function splitOnce(text: string): [string, string | undefined] {
  const colon = text.indexOf(':')
  return colon < 0 ? [text, undefined] : [text.slice(0, colon), text.slice(colon + 1)]
}

function rootGroup(group: string | undefined): string {
  return group === 'root' ? '0' : (group ?? '')
}
