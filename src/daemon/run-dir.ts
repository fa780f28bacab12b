import {
  type BigIntStats,
  chmodSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { toBuffer, type ByteName } from '../base/bytes.js'
import type { IoMode } from '../overlay/config.js'
import { mountAt } from './mountinfo.js'

/**
 * Where running daemons are found: for each mount `ID.json`, this record, and `ID.sock`, its control socket.
 *
 * Root: /run/lamina. Others: $XDG_RUNTIME_DIR/lamina, /run/user/UID/lamina, or /tmp/lamina-UID. LAMINA_RUN overrides. The directory is its
 * owner's alone (0700): whoever can open a control socket can unmount.
 */
export interface MountRecord {
  id: string
  pid: number
  /** The pid namespace in which `pid` means the daemon, as its inode number: a container may share the run directory. */
  pidNamespace: number
  /** Field 22 of /proc/PID/stat, so that a reused pid is not taken for the daemon. */
  startTime: number
  /** Who starts the daemon again when it dies; `pid` may then be of one that is dead. */
  keeper?: { pid: number; startTime: number }
  /** The file that Node runs for the daemon. */
  program?: string
  mountpoint: ByteName
  /** `major:minor` of the mounted filesystem, as in mountinfo. */
  device: string
  source: ByteName
  subtype: string
  lower: ByteName[]
  dataOnly: ByteName[]
  upper?: ByteName
  work?: ByteName
  /** Which objects these are ({@link objectAt}): a path may lead elsewhere by now, or into the mount itself. */
  upperId?: string
  workId?: string
  /** Upper's descriptor in the process `pid`. */
  upperFd?: number
  readOnly: boolean
  /** The mode in force, never `auto`. */
  io: IoMode
  /** ISO 8601. */
  since: string
}

/** Which object is open there. */
export function objectOf(fd: number): string {
  return objectId(fstatSync(fd, { bigint: true }))
}

/** Which object a path leads to; undefined when it leads nowhere, or may not be looked at. */
export function objectAt(path: ByteName): string | undefined {
  try {
    return objectId(statSync(toBuffer(path), { bigint: true }))
  } catch {
    return undefined
  }
}

const objectId = ({ dev, ino }: BigIntStats): string => `${dev}:${ino}`

/** Candidates, best first. */
function candidates(): string[] {
  const own = process.env['LAMINA_RUN']
  if (own !== undefined && own !== '') return [own]
  const uid = process.geteuid?.() ?? 0
  const found: string[] = []
  if (uid === 0) found.push('/run/lamina')
  const runtime = process.env['XDG_RUNTIME_DIR']
  if (runtime?.startsWith('/') === true) found.push(join(runtime, 'lamina'))
  // The same place for a shell that does not say it (su, cron).
  else if (uid !== 0 && isOurs(`/run/user/${uid}`)) found.push(`/run/user/${uid}/lamina`)
  found.push(`/tmp/lamina-${uid}`)
  return found
}

/** Ours alone, and not somebody else's trap in /tmp. */
function isOurs(directory: string): boolean {
  const stat = lstatSync(directory, { throwIfNoEntry: false })
  return (
    stat !== undefined && stat.isDirectory() && stat.uid === process.geteuid?.() && (stat.mode & 0o022) === 0
  )
}

/** The directory to write to, made when it is not there. @throws when there is none that is ours */
export function runDirectory(): string {
  let last: unknown
  for (const directory of candidates()) {
    if (Buffer.byteLength(directory) > DIRECTORY_LIMIT) {
      last = new Error(`${directory} is too long for a socket's path (${DIRECTORY_LIMIT} bytes)`)
      continue
    }
    try {
      mkdirSync(directory, { recursive: true, mode: 0o700 })
      if (isOurs(directory)) {
        chmodSync(directory, 0o700)
        return directory
      }
    } catch (error) {
      last = error
    }
  }
  const because = last instanceof Error ? `: ${last.message}` : ' that belongs to this user alone'
  throw new Error(`no directory for control sockets${because}; name one in LAMINA_RUN`)
}

/** sun_path holds 108 bytes with its NUL; ID.sock takes up to 24 of them. */
const DIRECTORY_LIMIT = 107 - 24

export function socketPath(directory: string, id: string): string {
  return join(directory, `${id}.sock`)
}

export function writeRecord(directory: string, record: MountRecord): void {
  const path = join(directory, `${record.id}.json`)
  writeFileSync(`${path}.new`, JSON.stringify(record), { mode: 0o600 })
  renameSync(`${path}.new`, path)
}

export function removeRecord(directory: string, id: string): void {
  for (const ending of ['json', 'json.new', 'sock'])
    rmSync(join(directory, `${id}.${ending}`), { force: true })
}

export interface FoundRecord {
  directory: string
  record: MountRecord
}

/**
 * The records of daemons that are alive, oldest first. Those of dead ones are removed. Of another pid namespace's nothing can be
 * told by pid: they are left alone, and shown where their mount can be seen.
 */
export function readRecords(): FoundRecord[] {
  const found: FoundRecord[] = []
  for (const directory of candidates()) {
    if (!isOurs(directory)) continue
    for (const name of readdirSync(directory)) {
      if (!name.endsWith('.json')) continue
      const record = readRecord(join(directory, name))
      if (record === undefined) continue
      if (record.pidNamespace !== pidNamespace()) {
        if (mountAt(record.mountpoint)?.device === record.device) found.push({ directory, record })
      } else if (isServed(record)) found.push({ directory, record })
      else removeRecord(directory, record.id)
    }
  }
  return found.sort((a, b) => a.record.since.localeCompare(b.record.since))
}

function readRecord(path: string): MountRecord | undefined {
  try {
    const record = JSON.parse(readFileSync(path, 'utf8')) as MountRecord
    return typeof record.pid === 'number' && path.endsWith(`/${record.id}.json`) ? record : undefined
  } catch {
    return undefined // removed meanwhile, or not ours to understand
  }
}

/** Whether somebody serves the mount, or will in a moment. */
export function isServed(record: MountRecord): boolean {
  return isAlive(record) || (record.keeper !== undefined && isAlive(record.keeper))
}

export function isAlive(process_: { pid: number; startTime: number }): boolean {
  const now = startTimeOf(process_.pid)
  return now !== undefined && now === process_.startTime
}

/** The inode number of this process's pid namespace; 0 without /proc. */
export function pidNamespace(): number {
  try {
    return Number(/\d+/.exec(readlinkSync('/proc/self/ns/pid'))?.[0] ?? 0)
  } catch {
    return 0
  }
}

/** When a process started (clock ticks since boot); undefined when it has ended, a zombie included. */
export function startTimeOf(pid: number): number | undefined {
  let stat: string
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
  } catch {
    return undefined
  }
  // The name in parentheses may hold anything, so count from its end: state is field 3, starttime field 22.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  if (fields[0] === 'Z' || fields[0] === 'X') return undefined
  return Number(fields[19])
}
