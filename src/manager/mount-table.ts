/** /proc/self/mountinfo, as far as the manager needs it. Source: proc_pid_mountinfo(5). */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fromUtf8, toUtf8 } from '../base/bytes.js'
import type { ByteName } from '../base/bytes.js'
import * as sys from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { ownNamespaces } from './rootless/standing.js'

export interface MountEntry {
  readonly target: ByteName
  readonly type: string
  readonly source: ByteName
  readonly options: string
}

export function mountTable(): MountEntry[] {
  const entries: MountEntry[] = []
  for (const line of readFileSync('/proc/self/mountinfo', 'latin1').split('\n')) {
    const [before, after] = line.split(' - ')
    if (before === undefined || after === undefined) continue
    const target = before.split(' ')[4]
    const [type, source, options] = after.split(' ')
    if (target === undefined || type === undefined) continue
    entries.push({ target: unescape(target), type, source: unescape(source ?? ''), options: options ?? '' })
  }
  return entries
}

/** `\040` and friends. */
function unescape(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)))
}

export function isMounted(target: string): boolean {
  const wanted = fromUtf8(target)
  return mountTable().some(entry => entry.target === wanted)
}

/** A mount whose daemon died answers ENOTCONN to everything. */
export function isAlive(target: string): boolean {
  try {
    using fd = sys.openat(sys.AT_FDCWD, fromUtf8(target), sys.O_PATH)
    // Attributes the kernel may have; this it must ask for.
    sys.fstatfs(fd.n)
    return true
  } catch (error) {
    if (error instanceof SysError && error.errno === E.ENOTCONN) return false
    throw error
  }
}

/** Every mount at or below `dir`, innermost and latest first: the order in which they can be undone. */
export function mountsWithin(dir: string): ByteName[] {
  const root = fromUtf8(dir)
  const inside = mountTable().filter(entry => entry.target === root || entry.target.startsWith(root + '/'))
  return inside.map(entry => entry.target).reverse()
}

/**
 * umount2(2), or fusermount3 for a FUSE mount of an ordinary user.
 * @throws SysError EBUSY, EINVAL (nothing is mounted there), EPERM
 */
export function unmountOne(target: ByteName, detach: boolean): void {
  try {
    sys.umount2(target, sys.UMOUNT_NOFOLLOW | (detach ? sys.MNT_DETACH : 0))
  } catch (error) {
    if (!(error instanceof SysError && error.errno === E.EPERM)) throw error
    if (!mountTable().some(entry => entry.target === target)) throw new SysError(E.EINVAL, 'umount2', target)
    const args = ['-u', '-q', ...(detach ? ['-z'] : []), '--', toUtf8(target)]
    const { status, stderr } = spawnSync('fusermount3', args, { encoding: 'utf8' })
    if (status === 0) return
    throw /busy/i.test(stderr) || !detach ? new SysError(E.EBUSY, 'fusermount3', target) : error
  }
}

/** Detaches whatever a dead command left mounted at or below `dir`, so that the directory can be removed. */
export function detachWithin(dir: string): void {
  for (const target of mountsWithin(dir)) {
    try {
      unmountOne(target, true)
    } catch (error) {
      // Gone with its parent, or never ours to see.
      if (!(error instanceof SysError && (error.errno === E.EINVAL || error.errno === E.ENOENT))) throw error
    }
  }
}

/**
 * Which boot this is: rows about mounts of another one are history. An ordinary user's mounts end with his mount namespace,
 * so there the two together count.
 */
export function bootId(): string {
  const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim()
  const own = ownNamespaces()
  return own === undefined ? boot : `${boot}/${own.id}`
}
