/**
 * overlay2: the kernel's overlayfs over the layer directories, as Docker's driver of that name.
 *
 * redirect_dir and metacopy are off, so that an upper is complete by itself: a commit packs it by walking it, and any
 * other driver can take it over.
 */
import { randomBytes } from 'node:crypto'
import { mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fromUtf8 } from '../../base/bytes.js'
import { E } from '../../base/errno.js'
import { SysError } from '../../base/sys-error.js'
import * as sys from '../../sys/index.js'
import type { Change } from '../changes.js'
import type { Claims } from '../claims.js'
import { removeTree } from '../remove-tree.js'
import { inUserNamespace } from '../rootless/standing.js'
import { causeOf } from '../store-error.js'
import { unmountTarget } from './bind.js'
import type { Availability, Box, Driver, LayerTree, MountRequest, Stack, Usage } from './driver.js'
import { mountFailed } from './mount-error.js'
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

interface OverlayOptions {
  /** Top first; at least one. */
  readonly lower: readonly string[]
  readonly upper?: string
  readonly work?: string
}

export class Overlay2Driver implements Driver {
  readonly name = 'overlay2'

  /** `scratch` is a directory on the store's filesystem: whether that one can hold an upperdir is the question. */
  constructor(
    readonly scratch: string,
    readonly claims: Claims,
  ) {}

  async probe(): Promise<Availability> {
    if (sys.geteuid() !== 0) {
      return { available: false, reason: "mounting the kernel's overlayfs needs root (or a user namespace)" }
    }
    const id = `probe-${randomBytes(6).toString('hex')}`
    // Claimed, so that a command that dies here leaves nothing for long.
    const claim = this.claims.claim('scratch', id)
    const dir = join(this.scratch, id)
    try {
      for (const name of ['lower', 'diff', 'work', 'merged']) mkdirSync(join(dir, name), { recursive: true })
      const target = join(dir, 'merged')
      mountOverlay({ lower: [join(dir, 'lower')], upper: join(dir, 'diff'), work: join(dir, 'work') }, target)
      unmountTarget(target, true)
      return { available: true, reason: "the kernel's overlayfs mounts here" }
    } catch (error) {
      return { available: false, reason: causeOf(error) }
    } finally {
      await removeTree(dir)
      claim.release()
    }
  }

  prepare(box: Box): Promise<void> {
    prepareUpper(box)
    return Promise.resolve()
  }

  async mount(box: Box, request: MountRequest): Promise<void> {
    // The kernel refuses a work directory with leftovers of a crash only in `work/incompat`; `work/work` it empties.
    const lower = box.stack.dirs.length > 0 ? lowersOf(box.stack) : [emptyLower(box.dir)]
    mountOverlay({ lower, upper: upperOf(box), work: workOf(box) }, request.target)
    if (request.readOnly === true) {
      sys.mount(null, fromUtf8(request.target), null, sys.MS_BIND | sys.MS_REMOUNT | sys.MS_RDONLY, null)
    }
    await Promise.resolve()
  }

  mountReadOnly(stack: Stack, target: string): Promise<void> {
    // Without an upperdir the kernel wants two lower ones.
    mountOverlay({ lower: [...lowersOf(stack), emptyLower(this.scratch)] }, target)
    return Promise.resolve()
  }

  unmount(target: string, options?: { readonly force?: boolean }): Promise<void> {
    unmountTarget(target, options?.force === true)
    return Promise.resolve()
  }

  settle(): Promise<void> {
    // The upper's inodes are the ones that were written: what a reader of the upper sees is current.
    return Promise.resolve()
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

function emptyLower(dir: string): string {
  const path = join(dir, 'empty')
  mkdirSync(path, { recursive: true, mode: 0o755 })
  return path
}

/** Where trusted.* cannot be, the kernel keeps its attributes as user.overlay.* (userxattr) and takes no other `off`. */
const FEATURES: readonly (readonly [option: string, value: string])[] = [
  ['redirect_dir', inUserNamespace() ? 'nofollow' : 'off'],
  ['metacopy', 'off'],
  ['index', 'off'],
]

/** A page of options less the rest of them. Source: fs/namespace.c, copy_mount_options. */
const OPTIONS_MAX = 4000

function mountOverlay(options: OverlayOptions, target: string): void {
  try {
    try {
      mountByContext(options, target)
    } catch (error) {
      // Linux before 6.5 has no lowerdir+; before 5.2 no fsopen.
      const older = error instanceof SysError && (error.errno === E.EINVAL || error.errno === E.ENOSYS)
      if (!older) throw error
      mountByString(options, target)
    }
  } catch (error) {
    throw mountFailed('overlay', target, error, hintFor(error, options))
  }
}

/** One option at a time: no limit on the length of all together. */
function mountByContext(options: OverlayOptions, target: string): void {
  using context = sys.fsopen('overlay')
  try {
    sys.fsconfigString(context.n, 'source', 'lamina')
    for (const dir of options.lower) sys.fsconfigString(context.n, 'lowerdir+', fromUtf8(dir))
    if (options.upper !== undefined) sys.fsconfigString(context.n, 'upperdir', fromUtf8(options.upper))
    if (options.work !== undefined) sys.fsconfigString(context.n, 'workdir', fromUtf8(options.work))
    for (const [key, value] of FEATURES) sys.fsconfigString(context.n, key, value)
    if (inUserNamespace()) sys.fsconfigFlag(context.n, 'userxattr')
    sys.fsconfigCreate(context.n)
  } catch (error) {
    throw explained(error, sys.fsLog(context.n))
  }
  using mounted = sys.fsmount(context.n)
  sys.moveMount(mounted.n, '', sys.AT_FDCWD, fromUtf8(target), sys.MOVE_MOUNT_F_EMPTY_PATH)
}

/** What the kernel logged about the context is the better message; the errno stays. */
function explained(error: unknown, log: readonly string[]): unknown {
  const line = log.filter(message => message.startsWith('e ')).at(-1)
  if (line === undefined || !(error instanceof SysError)) return error
  return new SysError(error.errno, line.slice(2))
}

function mountByString(options: OverlayOptions, target: string): void {
  const escape = (path: string): string => fromUtf8(path).replace(/[\\,:]/g, '\\$&')
  const parts = [`lowerdir=${options.lower.map(escape).join(':')}`]
  if (options.upper !== undefined) parts.push(`upperdir=${escape(options.upper)}`)
  if (options.work !== undefined) parts.push(`workdir=${escape(options.work)}`)
  parts.push(
    ...FEATURES.map(([key, value]) => `${key}=${value}`),
    ...(inUserNamespace() ? ['userxattr'] : []),
  )
  const data = parts.join(',')
  if (data.length > OPTIONS_MAX) throw new SysError(E.E2BIG, 'mount', target)
  sys.mount('lamina', fromUtf8(target), 'overlay', 0, data)
}

function hintFor(error: unknown, options: OverlayOptions): string | undefined {
  if (!(error instanceof SysError)) return undefined
  if (error.errno === E.ENODEV) return "this kernel has no overlayfs: use '--storage-driver fuse'"
  if (error.errno === E.E2BIG) return "too many layers for this kernel: use '--storage-driver fuse'"
  if (error.errno === E.EINVAL && options.upper !== undefined) {
    return `the filesystem of ${options.upper} cannot hold an upperdir: use '--storage-driver fuse'`
  }
  const missing = options.lower.find(dir => statSync(dir, { throwIfNoEntry: false }) === undefined)
  return missing === undefined ? undefined : `${missing} is missing: run 'lamina system check'`
}
