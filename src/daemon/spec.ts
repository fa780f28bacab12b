import type { OverlayConfig } from '../overlay/config.js'
import {
  OptionError,
  type MountFlag,
  type ParsedOptions,
  type Patience,
  type Propagation,
} from './options.js'

/** Everything the daemon is told about one mount. Strings are byte names, paths are absolute. */
export interface MountSpec {
  overlay: OverlayConfig
  /** What /proc/mounts shows as source. */
  source: string
  /** The type in /proc/mounts is `fuse.` and this. */
  subtype: string
  flags: MountFlag[]
  /** Whether the view is nosuid where a layer's mount is. */
  nosuidOfLayers: boolean
  propagation?: Propagation
  /** Undefined: yes as root, no otherwise. */
  allowOther?: boolean
  /** Refuse a mountpoint that shows a Lamina mount already. */
  exclusive: boolean
  debug: boolean
  /** Whether a keeper starts the daemon again when it dies. */
  keeper: boolean
  /** Seconds after which a daemon that takes no request is replaced, or the mount aborted; 0 never. */
  watchdog: number
  watchdogAction: 'replace' | 'abort'
  /** Which layers may fall silent and hold up nobody who does not need them. */
  patience: Patience
  /** Undefined: the own one, on /dev/fuse. */
  transport?: 'fuse-native'
}

/** Seconds. Longer than a disk takes to wake up, shorter than a person waits. */
const WATCHDOG = 60

/** How the two programs differ where an option says nothing. */
export interface Defaults {
  source: string
  subtype: string
  flags: readonly MountFlag[]
  nosuidOfLayers: boolean
  exclusive: boolean
  keeper: boolean
}

/**
 * `lamina mount`: what the kernel's overlayfs does, except that reading does not write access times, and that what layers hold, whoever made
 * those, gains nothing by the view: devices are not opened unless `dev` asks for it, and setuid files of a nosuid mount stay that unless `suid` does.
 */
export const LAMINA_DEFAULTS: Defaults = {
  source: 'lamina',
  subtype: 'lamina',
  flags: ['noatime', 'nodev'],
  nosuidOfLayers: true,
  exclusive: true,
  keeper: false,
}

/** `fuse-lamina`: what fuse-overlayfs 1.10 was seen to do (`nodev` even as root). */
export const DROP_IN_DEFAULTS: Defaults = {
  source: 'fuse-lamina',
  subtype: 'fuse-lamina',
  flags: ['noatime', 'nodev'],
  nosuidOfLayers: false,
  exclusive: false,
  keeper: false,
}

/** A path made absolute without touching it: `..` is left to the kernel, which knows the symlinks. */
export function absolute(cwd: string, path: string): string {
  return path.startsWith('/') ? path : `${cwd === '/' ? '' : cwd}/${path}`
}

/** @throws OptionError when what was parsed is no mount: no layer, an upperdir without workdir. */
export function mountSpec(
  parsed: ParsedOptions,
  mountpoint: string,
  cwd: string,
  defaults: Defaults,
): MountSpec {
  if (parsed.lower.length === 0) throw new OptionError('no lowerdir given: -o lowerdir=DIR[:DIR…]')
  if (parsed.upper !== undefined && parsed.work === undefined) {
    throw new OptionError('upperdir needs a workdir on the same filesystem: -o workdir=DIR')
  }
  checkSize(parsed)
  checkLive(parsed)
  for (const path of [
    ...parsed.lower,
    ...parsed.dataOnly,
    parsed.upper ?? '/',
    parsed.work ?? '/',
    mountpoint,
  ]) {
    if (path === '') throw new OptionError('an empty path is no directory')
    if (path.includes('\0')) throw new OptionError('a path cannot contain a NUL byte')
  }
  const flags = new Set(parsed.flags)
  // Who asks for access times of one kind does not mean the program's default of none.
  const timed = (['relatime', 'strictatime', 'nodiratime'] as const).some(flag => flags.has(flag))
  for (const flag of defaults.flags) {
    if (!parsed.namedFlags.has(flag) && !(flag === 'noatime' && timed)) flags.add(flag)
  }
  // As for the kernel's overlayfs: what cannot be written is mounted read-only.
  if (parsed.upper === undefined) flags.add('ro')
  const overlay: OverlayConfig = {
    lower: parsed.lower.map(path => absolute(cwd, path)),
    mountpoint: absolute(cwd, mountpoint),
    options: parsed.options,
    accessTimes: flags.has('noatime') ? 'noatime' : flags.has('strictatime') ? 'strictatime' : 'relatime',
  }
  if (flags.has('nodiratime')) overlay.nodiratime = true
  if (parsed.dataOnly.length > 0) overlay.dataOnly = parsed.dataOnly.map(path => absolute(cwd, path))
  if (parsed.upper !== undefined && parsed.work !== undefined) {
    overlay.upper = absolute(cwd, parsed.upper)
    overlay.work = absolute(cwd, parsed.work)
  }
  const spec: MountSpec = {
    overlay,
    source: parsed.fsname ?? defaults.source,
    subtype: parsed.subtype ?? defaults.subtype,
    flags: [...flags],
    nosuidOfLayers: defaults.nosuidOfLayers && !parsed.namedFlags.has('nosuid'),
    exclusive: defaults.exclusive,
    debug: parsed.debug,
    keeper: parsed.keeper ?? defaults.keeper,
    watchdog: parsed.watchdog ?? WATCHDOG,
    watchdogAction: parsed.watchdogAction ?? 'replace',
    patience: parsed.patience ?? 'remote',
  }
  if (parsed.propagation !== undefined) spec.propagation = parsed.propagation
  if (parsed.allowOther !== undefined) spec.allowOther = parsed.allowOther
  return spec
}

/** A limit is kept where the daemon sees every write when it is made. */
function checkSize({ options, upper, keeper }: ParsedOptions): void {
  if (options.size === undefined) return
  if (upper === undefined) throw new OptionError('size= limits an upperdir, and there is none')
  if (options.io === 'passthrough')
    throw new OptionError('size= does not go with io=passthrough: leave one out')
  if (options.writeback) throw new OptionError('size= does not go with writeback=1: leave one out')
  if (keeper === true) throw new OptionError('size= does not go with keeper=1: leave one out')
  if (options.index === true) throw new OptionError('size= does not go with index=on: leave one out')
}

/** What changes in a lower layer while no daemon watches it is not yet all seen by the next one. */
function checkLive({ options, keeper }: ParsedOptions): void {
  if (options.lower === 'live' && keeper === true)
    throw new OptionError('lower=live does not go with keeper=1: leave one out')
}

/** As one line of JSON. JSON has no Infinity, which is the usual timeout: it travels as null. */
export function encodeSpec(spec: MountSpec): string {
  return JSON.stringify(spec)
}

export function decodeSpec(line: string): MountSpec {
  const spec = JSON.parse(line) as MountSpec
  const options = spec.overlay.options as { timeout: number | null }
  options.timeout ??= Infinity
  return spec
}
