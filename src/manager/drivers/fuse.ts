/**
 * fuse: Lamina's own overlay daemon, one process a mount, started as `lamina mount` would start it. Works on any backing
 * filesystem, keeps size limits, and shows writes through descriptors opened before a copy-up.
 */
import { spawn } from 'node:child_process'
import { accessSync, constants, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { fromUtf8 } from '../../base/bytes.js'
import { formatOverrideStat, OVERRIDE_STAT_CONTAINERS } from '../../format/index.js'
import * as sys from '../../sys/index.js'
import type { Change } from '../changes.js'
import { isMounted } from '../mount-table.js'
import { hasOneId } from '../rootless/standing.js'
import type { Ownership } from '../rootless/store-ids.js'
import { StoreError } from '../store-error.js'
import { unmountTarget } from './bind.js'
import type { Availability, Box, Driver, IdRange, LayerTree, MountRequest, Stack, Usage } from './driver.js'
import {
  prepareUpper,
  removeBox,
  upperChanges,
  upperOf,
  upperTree,
  upperUsage,
  workOf,
  lowersOf,
} from './overlay-box.js'

/** bin/lamina.js, seen from dist/src/manager/drivers. */
const PROGRAM = fileURLToPath(new URL('../../../../bin/lamina.js', import.meta.url))

export class FuseDriver implements Driver {
  readonly name = 'fuse'

  constructor(
    readonly scratch: string,
    readonly ownership: Ownership,
  ) {}

  probe(): Promise<Availability> {
    try {
      accessSync('/dev/fuse', constants.R_OK | constants.W_OK)
      return Promise.resolve({ available: true, reason: '/dev/fuse can be opened' })
    } catch {
      return Promise.resolve({
        available: false,
        reason: '/dev/fuse is missing or not ours to open (modprobe fuse; mode 0666)',
      })
    }
  }

  prepare(box: Box): Promise<void> {
    prepareUpper(box)
    return Promise.resolve()
  }

  async mount(box: Box, request: MountRequest): Promise<void> {
    const lower = box.stack.dirs.length > 0 ? lowersOf(box.stack) : [emptyLower(box.dir)]
    const options = [`upperdir=${escapePath(upperOf(box))}`, `workdir=${escapePath(workOf(box))}`]
    // What a container may do with devices is its runtime's to say; an image's alone are never opened.
    options.push('redirect_dir=off', 'metacopy=off', 'dev')
    // Nor are setuid programs the host's: the layers are the store's own, on whatever mount it lies (`/home` often is nosuid).
    options.push('suid')
    if (request.readOnly === true) options.push('ro')
    if (request.size !== undefined) options.push(`size=${request.size}`)
    if (request.ids !== undefined) {
      options.push(`uidmapping=${triples(request.ids.uid)}`, `gidmapping=${triples(request.ids.gid)}`)
    }
    options.push(...ownerOptions(this.ownership, lower))
    await startDaemon(lower, options, request.target, request.hold)
  }

  async mountReadOnly(stack: Stack, target: string): Promise<void> {
    const lower = stack.dirs.length > 0 ? lowersOf(stack) : [emptyLower(this.scratch)]
    await startDaemon(lower, ownerOptions(this.ownership, lower), target)
  }

  /** The daemon ends by itself once the kernel has let go of the mount. */
  unmount(target: string, options?: { readonly force?: boolean }): Promise<void> {
    unmountTarget(target, options?.force === true)
    return Promise.resolve()
  }

  async settle(target: string): Promise<void> {
    using fd = sys.openat(sys.AT_FDCWD, fromUtf8(target), sys.O_RDONLY | sys.O_DIRECTORY)
    await sys.syncfs(fd.n)
  }

  changes(box: Box): Generator<Change, void, void> {
    return upperChanges(box)
  }

  layerTree(box: Box): Promise<LayerTree> {
    return Promise.resolve(upperTree(box))
  }

  usage(box: Box): Promise<Usage> {
    return Promise.resolve(upperUsage(box))
  }

  remove(box: Pick<Box, 'dir'>): Promise<void> {
    return removeBox(box)
  }
}

function triples(ranges: readonly IdRange[]): string {
  return ranges.map(range => `${range.container}:${range.host}:${range.length}`).join(':')
}

/**
 * Owners that are kept in an attribute are shown by the daemon; but where there is one id, the kernel knows no other owner, and
 * lets nobody write to what has one: there all is root's to see, and keeps its owner in the attribute.
 */
function ownerOptions(ownership: Ownership, lower: readonly string[]): string[] {
  if (ownership === 'chown') return []
  for (const dir of lower) markKept(dir)
  return ['xattr_permissions=2', ...(hasOneId() ? ['squash_to_root'] : [])]
}

/** The daemon believes the attribute only in layers whose root has it, which not every archive has an entry for. */
function markKept(dir: string): void {
  using root = sys.openat(sys.AT_FDCWD, fromUtf8(dir), sys.O_RDONLY | sys.O_DIRECTORY)
  if (sys.getxattrAt(root.n, '', OVERRIDE_STAT_CONTAINERS) !== undefined) return
  const mode = sys.statFd(root.n).mode & 0o7777
  sys.setxattrAt(root.n, '', OVERRIDE_STAT_CONTAINERS, formatOverrideStat({ uid: 0, gid: 0, mode }))
}

function emptyLower(dir: string): string {
  const path = join(dir, 'empty')
  mkdirSync(path, { recursive: true, mode: 0o755 })
  return path
}

export function escapePath(path: string): string {
  return path.replace(/[\\,:]/g, '\\$&')
}

/**
 * Returns when the mount is there; the daemon goes on without us. What fails leaves nothing mounted.
 * @param hold stays open until then, also when this process dies
 */
export async function startDaemon(
  lower: readonly string[],
  options: string[],
  target: string,
  hold?: number,
): Promise<void> {
  const list = [`lowerdir=${lower.map(escapePath).join(':')}`, ...options].join(',')
  const child = spawn(process.execPath, [PROGRAM, 'mount', '-o', list, target], {
    stdio: ['ignore', 'ignore', 'pipe', ...(hold === undefined ? [] : [hold])],
    detached: true,
    cwd: '/',
  })
  let said = ''
  child.stderr?.setEncoding('utf8').on('data', (chunk: string) => (said += chunk))
  // Not 'close': the daemon must not keep us waiting by holding our pipe.
  const code = await new Promise<number | string>((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (status, signal) => resolve(status ?? signal ?? 'unknown'))
  })
  if (code === 0) {
    child.stderr?.destroy()
    return
  }
  await new Promise(resolve => setImmediate(resolve))
  // It was killed after the daemon had mounted, and before it could say so.
  if (isMounted(target)) unmountTarget(target, true)
  const line = said.trim().split('\n').at(-1) ?? ''
  const cause = line === '' ? `the daemon ended with ${code}` : line.replace(/^lamina: /, '')
  throw new StoreError('failed', `cannot mount the overlay on ${target}: ${cause}`)
}
