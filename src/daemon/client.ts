/**
 * The public face of the daemon room: what the command line, the manager and the API may use of it. Nothing here loads
 * the overlay or the protocol.
 */
import { realpathSync } from 'node:fs'
import { toBuffer, toUtf8, type ByteName } from '../base/bytes.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import { ask } from './control-client.js'
import type { Stats, UnmountHow } from './control-protocol.js'
import { mountAt, readMounts } from './mountinfo.js'
import {
  isServed,
  objectAt,
  readRecords,
  runDirectory,
  type FoundRecord,
  type MountRecord,
} from './run-dir.js'
import type { Finding } from './doctor.js'
import { mainFile } from './launch.js'
import { absolute } from './spec.js'

export { launch, MountError, type Launched, type LaunchOptions } from './launch.js'
export {
  OptionError,
  parseOptions,
  refuseUnknown,
  ACCEPTED_ONLY,
  type ParsedOptions,
  type MountFlag,
} from './options.js'
export {
  absolute,
  mountSpec,
  DROP_IN_DEFAULTS,
  LAMINA_DEFAULTS,
  type Defaults,
  type MountSpec,
} from './spec.js'
export type { Finding, MountRecord, Stats, UnmountHow }
export { runDirectory }

/** Types in /proc/mounts that are ours even when no daemon's record tells so. */
const OUR_TYPES = ['fuse.lamina', 'fuse.fuse-lamina']

export class NoSuchMountError extends Error {
  constructor(mountpoint: ByteName) {
    super(`'${toUtf8(mountpoint)}' is not a Lamina mount of this user; lamina mounts lists them`)
  }
}

/** The running mounts of this user, oldest first. */
export function listMounts(): MountRecord[] {
  return readRecords().map(found => found.record)
}

/**
 * The mountpoint that a path names. It is compared as text first: of a mount whose daemon hangs, nothing can be asked.
 */
function resolveMountpoint(path: ByteName): ByteName {
  const text = normalize(absolute(cwd(), path))
  const known = (candidate: ByteName): boolean =>
    readMounts().some(entry => entry.mountpoint === candidate && entry.type.startsWith('fuse')) ||
    readRecords().some(found => found.record.mountpoint === candidate)
  if (known(text)) return text
  try {
    return realpathSync.native(toBuffer(text), 'latin1')
  } catch {
    return text
  }
}

function cwd(): ByteName {
  return Buffer.from(process.cwd()).toString('latin1')
}

/** Takes `.`, `..` and double slashes out, as text. */
function normalize(path: ByteName): ByteName {
  const parts: string[] = []
  for (const part of path.split('/')) {
    if (part === '..') parts.pop()
    else if (part !== '' && part !== '.') parts.push(part)
  }
  return `/${parts.join('/')}`
}

/** The daemon that serves this mountpoint; of several stacked there, the one on top. */
function findRecord(mountpoint: ByteName): FoundRecord | undefined {
  const records = readRecords().filter(found => found.record.mountpoint === mountpoint)
  const top = mountAt(mountpoint)
  return records.find(found => found.record.device === top?.device) ?? records.at(-1)
}

/** The upperdir behind a mountpoint; undefined when the path is none. @throws Error when it is mounted without one */
export function upperOf(path: ByteName): ByteName | undefined {
  const mountpoint = resolveMountpoint(path)
  const found = findRecord(mountpoint)
  if (found === undefined) return undefined
  if (found.record.upper === undefined) {
    throw new Error(`'${toUtf8(mountpoint)}' is mounted without an upperdir: nothing can differ`)
  }
  const { pid, upper, upperId, upperFd } = found.record
  // Under a mount that hides it, only its daemon still has it.
  const way = [upper, `/proc/${pid}/fd/${upperFd ?? ''}`].find(path => objectAt(path) === upperId)
  if (way !== undefined) return way
  throw new Error(
    `the upperdir '${toUtf8(upper)}' of '${toUtf8(mountpoint)}' cannot be reached from here: ` +
      'it was moved, or something is mounted over it',
  )
}

/** @throws NoSuchMountError; Error when the daemon does not answer */
export async function mountStats(path: ByteName): Promise<Stats> {
  const mountpoint = resolveMountpoint(path)
  const found = findRecord(mountpoint)
  if (found === undefined) throw new NoSuchMountError(mountpoint)
  return ask(found, { cmd: 'stats' })
}

/** What this host can do. */
export async function examineHost(): Promise<Finding[]> {
  return (await import('./doctor.js')).examineHost()
}

/** How long a new daemon may take to serve a mount, milliseconds: it looks at every object that the kernel knows. */
const START_LIMIT = 30_000

/**
 * Lets this version of the program serve a mount in place of the daemon that does, and gives both pids.
 * @throws NoSuchMountError; Error when there is no keeper, or the new daemon does not start: the old program goes on then
 */
export async function restartDaemon(path: ByteName): Promise<{ before: number; now: number }> {
  const mountpoint = resolveMountpoint(path)
  const found = findRecord(mountpoint)
  if (found === undefined) throw new NoSuchMountError(mountpoint)
  const { record } = found
  if (record.keeper === undefined) {
    throw new Error(
      `'${toUtf8(mountpoint)}' has no keeper: its daemon cannot be replaced; mount with -o keeper=1`,
    )
  }
  const main = mainFile()
  // The daemon may be gone before its answer is through.
  await ask(found, { cmd: 'restart', program: process.execPath, main }).catch((error: unknown) => {
    if (error instanceof SysError) throw error
  })
  const until = Date.now() + START_LIMIT
  for (let pause = 5; Date.now() < until; pause = Math.min(pause * 2, 100)) {
    await new Promise(resolve => setTimeout(resolve, pause))
    const now = findRecord(mountpoint)?.record
    if (now === undefined) throw new Error(`'${toUtf8(mountpoint)}' has ended meanwhile`)
    if (now.pid === record.pid) continue
    if (now.program === main) return { before: record.pid, now: now.pid }
    throw new Error(
      `'${toUtf8(mountpoint)}': ${main} does not start; ${now.program ?? 'the one before'} goes on`,
    )
  }
  throw new Error(
    `'${toUtf8(mountpoint)}': no new daemon in ${START_LIMIT / 1000} s; syslog has what its keeper says`,
  )
}

/** How long the daemon may take to end after its mount is gone, milliseconds. */
const END_LIMIT = 10_000
/** The same after `lazy`, where others may go on using it. */
const LAZY_LIMIT = 1_000

/**
 * Unmounts, and returns when the daemon has ended. After `lazy` it may live on, for those who still use the mount.
 * @throws NoSuchMountError; SysError EBUSY, EPERM; Error when the daemon does not end
 */
export async function unmount(path: ByteName, how: UnmountHow = 'plain'): Promise<void> {
  const mountpoint = resolveMountpoint(path)
  const found = findRecord(mountpoint)
  const visible = mountAt(mountpoint)
  const ours =
    visible !== undefined &&
    (found === undefined ? OUR_TYPES.includes(visible.type) : visible.device === found.record.device)
  if (ours) {
    const { unmountHere } = await import('./unmount.js')
    await unmountHere(mountpoint, how)
  } else if (found !== undefined) {
    // Mounted in another mount namespace: only its daemon can reach it.
    try {
      await ask(found, { cmd: 'umount', how })
    } catch (error) {
      // The daemon may end before its answer is through.
      if (error instanceof SysError || !(await hasEnded(found.record, LAZY_LIMIT))) throw error
    }
  } else {
    throw new NoSuchMountError(mountpoint)
  }
  if (found === undefined || (await hasEnded(found.record, how === 'lazy' ? LAZY_LIMIT : END_LIMIT))) return
  if (how === 'lazy') return
  if (how === 'force') {
    // Without privilege the helper can only detach: the connection is ended from its other side.
    await ask(found, { cmd: 'umount', how }).catch(() => undefined)
    if (await hasEnded(found.record, END_LIMIT)) return
  }
  throw new Error(
    `'${toUtf8(mountpoint)}' is unmounted here, but its daemon (pid ${found.record.pid}) goes on: ` +
      'another mount namespace or an open file still uses it',
  )
}

/** Linux tells a process that is no parent nothing about an end, so this asks, at growing intervals. */
async function hasEnded(record: MountRecord, limit: number): Promise<boolean> {
  const until = Date.now() + limit
  for (let pause = 1; isServed(record); pause = Math.min(pause * 2, 50)) {
    if (Date.now() > until) return false
    await new Promise(resolve => setTimeout(resolve, pause))
  }
  return true
}

/** What a person should read about a failed unmount. */
export function explainUnmount(error: unknown, mountpoint: ByteName): Error {
  const path = toUtf8(mountpoint)
  if (error instanceof SysError) {
    if (error.errno === E.EBUSY) {
      return new Error(
        `'${path}' is busy: a process has a file open or its working directory there (fuser -vm '${path}' tells); ` +
          '--lazy detaches it all the same',
      )
    }
    if (error.errno === E.EPERM) return new Error(`no permission to unmount '${path}'`)
    return new Error(`cannot unmount '${path}': ${error.message}`)
  }
  return error instanceof Error ? error : new Error(String(error))
}
