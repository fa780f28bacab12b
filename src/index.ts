/**
 * The public API: mount a merged view from a Node.js program. The daemon is a process of its own; a program that served
 * its own mount would wait for itself.
 *
 * Paths are strings (UTF-8) or Buffers (any bytes); relative ones start at the working directory.
 */
import { Fd } from './base/fd.js'
import { fromUtf8, toBuffer, toUtf8, type ByteName } from './base/bytes.js'
import { didYouMean, unknownKey, type Keys } from './base/nearest.js'
import {
  absolute,
  LAMINA_DEFAULTS,
  launch,
  mountSpec,
  mountStats,
  OptionError,
  parseOptions,
  refuseUnknown,
  unmount,
  upperOf,
  type Launched,
  type Stats,
} from './daemon/client.js'
import { diffUpper, type ChangeKind } from './format/diff.js'
import type { MountOptions } from './overlay/config.js'
import { openSync } from 'node:fs'

export { MountError, OptionError, type Stats } from './daemon/client.js'
export { SysError } from './base/sys-error.js'
export type { ChangeKind } from './format/diff.js'
export type { MountOptions } from './overlay/config.js'

/** The storage manager: `await Store.open()`, images, layers, containers, volumes. */
export * from './manager/index.js'

export type Path = string | Uint8Array

export interface MountRequest {
  /** Lower layers, the top one first. */
  lower: readonly Path[]
  /** Where changes go; without it the view is read-only. */
  upper?: Path
  /** An empty directory on the same filesystem; needed with `upper`. */
  work?: Path
  mountpoint: Path
  /** Options by name; see README.md, "Options". */
  options?: Partial<MountOptions>
  /** More options, as mount(8) takes them: `ro,noexec`. */
  mountOptions?: string
  /** Leave the mount behind when this process ends; otherwise it is unmounted then, however that end comes. */
  detached?: boolean
  /** A file to which the daemon's standard error is appended. */
  log?: string
}

/** A running mount. `await using mount = await lamina.mount(…)` unmounts at the end of the block. */
export class Mount implements AsyncDisposable {
  private over = false

  /** From {@link mount}. */
  constructor(
    private readonly path: ByteName,
    private readonly daemon: Launched,
  ) {}

  get mountpoint(): string {
    return toUtf8(this.path)
  }

  /** Of the daemon. */
  get pid(): number {
    return this.daemon.pid
  }

  /**
   * Resolves when the daemon has ended, by unmount() or by anybody's umount, with its exit code. A program that has asked for
   * it stays until then; otherwise a mount keeps no program alive.
   */
  get ended(): Promise<number> {
    this.daemon.setRef(true)
    return this.daemon.ended
  }

  stats(): Promise<Stats> {
    return mountStats(this.path)
  }

  /** The changes so far. @throws Error when it is mounted without an upper layer */
  diff(): Change[] {
    return diff(toBuffer(this.path))
  }

  /**
   * Unmounts and waits for the daemon's end. A second time does nothing.
   * @throws SysError EBUSY while something has a file open there; `lazy` and `force` as `lamina umount` has them
   */
  async unmount(how: 'plain' | 'lazy' | 'force' = 'plain'): Promise<void> {
    if (this.over) return
    await unmount(this.path, how)
    this.over = true
    if (how !== 'lazy') await this.ended
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.unmount('lazy')
  }
}

function toBytes(path: Path): ByteName {
  return typeof path === 'string' ? fromUtf8(path) : Buffer.from(path).toString('latin1')
}

/** Mounts, and resolves when the mount is there. @throws MountError, OptionError: one line for people */
export async function mount(request: MountRequest): Promise<Mount> {
  checkRequest(request)
  const cwd = fromUtf8(process.cwd())
  const parsed = parseOptions(request.mountOptions === undefined ? [] : [fromUtf8(request.mountOptions)])
  refuseUnknown(parsed)
  parsed.lower = request.lower.map(toBytes)
  if (request.upper !== undefined) parsed.upper = toBytes(request.upper)
  if (request.work !== undefined) parsed.work = toBytes(request.work)
  Object.assign(parsed.options, request.options)
  const spec = mountSpec(parsed, toBytes(request.mountpoint), cwd, LAMINA_DEFAULTS)
  const daemon = await launch(spec, {
    bound: request.detached !== true,
    ...(request.log === undefined ? {} : { log: request.log }),
  })
  return new Mount(spec.overlay.mountpoint, daemon)
}

const REQUEST: Keys<MountRequest> = {
  lower: true,
  upper: true,
  work: true,
  mountpoint: true,
  options: true,
  mountOptions: true,
  detached: true,
  log: true,
}

/** The values that an option may have, or their type. */
const OPTIONS: Readonly<Record<keyof Required<MountOptions>, string | readonly unknown[]>> = {
  timeout: 'number',
  volatile: 'boolean',
  fsync: 'boolean',
  writeback: 'boolean',
  redirectDir: ['on', 'off', 'follow', 'nofollow'],
  index: [true, false, 'auto'],
  metacopy: 'boolean',
  xino: ['off', 'auto', 'on'],
  ino32: 'boolean',
  uidMapping: 'object',
  gidMapping: 'object',
  squashToRoot: 'boolean',
  squashToUid: 'number',
  squashToGid: 'number',
  xattrPermissions: [0, 1, 2],
  noxattrs: 'boolean',
  userxattr: 'boolean',
  staticNlink: 'boolean',
  noacl: 'boolean',
  whiteout: ['auto', 'char', 'xattr', 'file'],
  io: ['auto', 'cached', 'passthrough'],
  lower: ['checked', 'live', 'frozen'],
  size: 'number',
}

/** What TypeScript would say, for callers without it. @throws OptionError */
function checkRequest(request: MountRequest): void {
  const names = Object.fromEntries(Object.keys(OPTIONS).map(key => [key, true as const]))
  const wrong = unknownKey(request, REQUEST) ?? unknownKey(request.options ?? {}, names)
  if (wrong !== undefined) throw new OptionError(wrong)
  for (const [key, value] of Object.entries(request.options ?? {})) {
    const allowed = OPTIONS[key as keyof MountOptions]
    if (value === undefined) continue
    if (typeof allowed === 'string' ? typeof value === allowed : allowed.includes(value)) continue
    const expected =
      typeof allowed === 'string'
        ? `a ${allowed}`
        : `one of ${allowed.join(', ')}${didYouMean(String(value), allowed.map(String))}`
    throw new OptionError(`option ${key}: ${JSON.stringify(value)}: expected ${expected}`)
  }
}

export interface Change {
  kind: ChangeKind
  /** From the root of the merged view, beginning with `/`; bytes that are not UTF-8 are shown as `\xNN`. */
  path: string
  bytes: Buffer
  /** Of what is there now; absent for `D`. */
  type?: 'directory' | 'file' | 'symlink' | 'device' | 'fifo' | 'socket'
}

/** What an upperdir, or the upperdir of a mountpoint, adds (A), changes (C) and deletes (D). */
export function diff(directory: Path): Change[] {
  const path = absolute(fromUtf8(process.cwd()), toBytes(directory))
  using root = new Fd(openSync(toBuffer(upperOf(path) ?? path), 'r'))
  return Array.from(diffUpper(root), change => ({
    ...change,
    path: toUtf8(change.path),
    bytes: toBuffer(change.path),
  }))
}
