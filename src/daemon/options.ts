import { toUtf8 } from '../base/bytes.js'
import { didYouMean } from '../base/nearest.js'
import { DEFAULT_OPTIONS, type IdMap, type MountOptions } from '../overlay/config.js'
import { splitList, splitOptions, unescape } from './option-string.js'

/**
 * The options of one mount, from `-o` strings as mount(8), the kernel's overlayfs and fuse-overlayfs write them.
 *
 * Everything here is byte names (latin1). Nothing is looked up on disk: paths come out as they went in.
 * Source of the list: fuse-overlayfs(1), Documentation/filesystems/overlayfs.rst, mount(8), mount.fuse3(8).
 */

/** A wrong option. The message is one line that names the option. */
export class OptionError extends Error {}

/** Flags of the mount itself, as /proc/mounts spells them. The absence of one is its opposite. */
export type MountFlag =
  | 'ro'
  | 'nosuid'
  | 'nodev'
  | 'noexec'
  | 'noatime'
  | 'nodiratime'
  | 'relatime'
  | 'strictatime'
  | 'sync'
  | 'dirsync'
  | 'lazytime'

export const PROPAGATIONS = [
  'private',
  'rprivate',
  'shared',
  'rshared',
  'slave',
  'rslave',
  'unbindable',
  'runbindable',
] as const
export type Propagation = (typeof PROPAGATIONS)[number]

/** Which layers are waited for only so long: none, lower ones that a server has, lower ones on disks too, upper as well. */
export const PATIENCE = ['off', 'remote', 'lower', 'all'] as const
export type Patience = (typeof PATIENCE)[number]

export interface ParsedOptions {
  lower: string[]
  dataOnly: string[]
  upper?: string
  work?: string
  options: MountOptions
  flags: Set<MountFlag>
  /** Flags that were named, either way: the others take the program's default. */
  namedFlags: Set<MountFlag>
  propagation?: Propagation
  /** Undefined: not asked for either way. */
  allowOther?: boolean
  /** The source that /proc/mounts shows. */
  fsname?: string
  /** The type that /proc/mounts shows is `fuse.` and this. */
  subtype?: string
  debug: boolean
  keeper?: boolean
  watchdog?: number
  watchdogAction?: 'replace' | 'abort'
  /** Undefined: what is best for this mount. */
  patience?: Patience | undefined
  /** Options that are not known, as they were written. */
  unknown: string[]
}

/** Options that are taken and change nothing, each with the reason. A trailing `=` takes any value. */
export const ACCEPTED_ONLY: Readonly<Record<string, string>> = {
  'threaded=': 'the daemon decides which requests go to threads',
  'fast_ino=': 'inode numbers are always computed the fast way',
  'context=': 'the label of a FUSE mount is the job of the security policy',
  'fscontext=': 'as context=',
  'defcontext=': 'as context=',
  'rootcontext=': 'as context=',
  'plugins=': 'there are no plugins; layers come ready on disk',
  default_permissions: 'always on: the kernel checks mode and ACL bits',
  allow_root: 'root is not kept out of the layers, and needs no way in through the mount',
  splice_read: 'how bytes move is chosen by io=',
  splice_write: 'as splice_read',
  splice_move: 'as splice_read',
  no_splice_read: 'as splice_read',
  no_splice_write: 'as splice_read',
  no_splice_move: 'as splice_read',
  kernel_cache: 'always on: only this daemon changes the view',
  'max_write=': 'the largest size the kernel offers is used',
  'max_read=': 'as max_write',
  clone_fd: 'one descriptor serves the connection',
  'max_threads=': 'as threaded',
  'max_idle_threads=': 'as threaded',
  nonempty: 'mounting over a directory that is not empty is always allowed',
  'uuid=': 'the uuid of an overlay belongs to the kernel',
  'nfs_export=': 'nodeids are not file handles; export the mount by fsid=',
  override_creds: 'the credentials of the daemon are always used on the layers',
  nooverride_creds: 'as override_creds',
  defaults: 'mount(8)',
  auto: 'mount(8)',
  noauto: 'mount(8)',
  user: 'mount(8)',
  nouser: 'mount(8)',
  users: 'mount(8)',
  owner: 'mount(8)',
  group: 'mount(8)',
  nofail: 'mount(8)',
  _netdev: 'mount(8)',
  'comment=': 'mount(8)',
}

const FLAG_WORDS: Readonly<Record<string, readonly [MountFlag, boolean]>> = {
  ro: ['ro', true],
  rw: ['ro', false],
  nosuid: ['nosuid', true],
  suid: ['nosuid', false],
  nodev: ['nodev', true],
  dev: ['nodev', false],
  noexec: ['noexec', true],
  exec: ['noexec', false],
  noatime: ['noatime', true],
  atime: ['noatime', false],
  nodiratime: ['nodiratime', true],
  diratime: ['nodiratime', false],
  relatime: ['relatime', true],
  norelatime: ['relatime', false],
  strictatime: ['strictatime', true],
  nostrictatime: ['strictatime', false],
  sync: ['sync', true],
  async: ['sync', false],
  dirsync: ['dirsync', true],
  lazytime: ['lazytime', true],
  nolazytime: ['lazytime', false],
}

type Apply = (into: ParsedOptions, value: string, name: string) => void

/** Options with a value, or with an optional one (`noacl`, `noacl=1`). */
const VALUED: Readonly<Record<string, Apply>> = {
  lowerdir: (into, value) => {
    const layers = splitList(value)
    into.lower = layers.lower
    into.dataOnly = layers.dataOnly
  },
  'lowerdir+': (into, value) => void into.lower.push(unescape(value)),
  'datadir+': (into, value) => void into.dataOnly.push(unescape(value)),
  upperdir: (into, value) => void (into.upper = unescape(value)),
  workdir: (into, value) => void (into.work = unescape(value)),
  fsname: (into, value) => void (into.fsname = unescape(value)),
  subtype: (into, value) => void (into.subtype = unescape(value)),
  uidmapping: (into, value, name) => void (into.options.uidMapping = idMaps(name, value)),
  gidmapping: (into, value, name) => void (into.options.gidMapping = idMaps(name, value)),
  squash_to_uid: (into, value, name) => void (into.options.squashToUid = id(name, value)),
  squash_to_gid: (into, value, name) => void (into.options.squashToGid = id(name, value)),
  timeout: (into, value, name) => void (into.options.timeout = seconds(name, value)),
  xattr_permissions: (into, value, name) => {
    into.options.xattrPermissions = Number(oneOf(name, value, ['0', '1', '2'])) as 0 | 1 | 2
  },
  fsync: (into, value, name) => void (into.options.fsync = bool(name, value)),
  writeback: (into, value, name) => void (into.options.writeback = bool(name, value)),
  redirect_dir: (into, value, name) => {
    into.options.redirectDir = oneOf(name, value, ['on', 'off', 'follow', 'nofollow'])
  },
  index: (into, value, name) => void (into.options.index = value === 'auto' ? 'auto' : bool(name, value)),
  metacopy: (into, value, name) => void (into.options.metacopy = bool(name, value)),
  xino: (into, value, name) => void (into.options.xino = oneOf(name, value, ['off', 'auto', 'on'])),
  whiteout: (into, value, name) => {
    into.options.whiteout = oneOf(name, value, ['auto', 'char', 'xattr', 'file'])
  },
  size: (into, value, name) => void (into.options.size = bytes(name, value)),
  io: (into, value, name) => void (into.options.io = oneOf(name, value, ['auto', 'cached', 'passthrough'])),
  lower: (into, value, name) => {
    into.options.lower = oneOf(name, value, ['checked', 'live', 'frozen'])
  },
  keeper: (into, value, name) => void (into.keeper = bool(name, value)),
  watchdog: (into, value, name) => void (into.watchdog = seconds(name, value)),
  watchdog_action: (into, value, name) => {
    into.watchdogAction = oneOf(name, value, ['replace', 'abort'])
  },
  patience: (into, value, name) => {
    into.patience = value === 'auto' ? undefined : oneOf(name, value, PATIENCE)
  },
  verity: (_into, value) => {
    if (value !== 'off')
      throw new OptionError(`verity=${value}: digests of lower files are not checked; use verity=off`)
  },
}

/** Options that may stand alone, meaning 1. */
const SWITCHES: Readonly<Record<string, (options: MountOptions, on: boolean) => void>> = {
  volatile: (options, on) => void (options.volatile = on),
  noxattrs: (options, on) => void (options.noxattrs = on),
  static_nlink: (options, on) => void (options.staticNlink = on),
  noacl: (options, on) => void (options.noacl = on),
  ino32_t: (options, on) => void (options.ino32 = on),
  userxattr: (options, on) => void (options.userxattr = on),
  squash_to_root: (options, on) => void (options.squashToRoot = on),
}

/** Parses `-o` strings in order; of two values for one option the later holds. @throws OptionError */
export function parseOptions(strings: readonly string[]): ParsedOptions {
  const into: ParsedOptions = {
    lower: [],
    dataOnly: [],
    options: { ...DEFAULT_OPTIONS },
    flags: new Set(),
    namedFlags: new Set(),
    debug: false,
    unknown: [],
  }
  for (const string of strings) {
    for (const word of splitOptions(string)) if (!applyOption(into, word)) into.unknown.push(word)
  }
  return into
}

function applyOption(into: ParsedOptions, word: string): boolean {
  const equals = word.indexOf('=')
  const name = equals < 0 ? word : word.slice(0, equals)
  const value = equals < 0 ? undefined : word.slice(equals + 1)

  if (value === undefined) {
    const flag = FLAG_WORDS[name]
    if (flag !== undefined) {
      if (flag[1]) into.flags.add(flag[0])
      else into.flags.delete(flag[0])
      into.namedFlags.add(flag[0])
      return true
    }
    const propagation = PROPAGATIONS.find(p => p === name)
    if (propagation !== undefined) {
      into.propagation = propagation
      return true
    }
    if (name === 'debug') return (into.debug = true)
    if (name === 'allow_other') return (into.allowOther = true)
    if (/^x[-.]/i.test(name)) return true
  }
  const asSwitch = SWITCHES[name]
  if (asSwitch !== undefined) {
    asSwitch(into.options, value === undefined || bool(name, value))
    return true
  }
  const valued = VALUED[name]
  if (valued !== undefined) {
    if (value === undefined) throw new OptionError(`option ${name} needs a value: ${name}=…`)
    valued(into, value, name)
    return true
  }
  return ACCEPTED_ONLY[name] !== undefined || ACCEPTED_ONLY[`${name}=`] !== undefined || /^x[-.]/i.test(name)
}

/** For programs that take no unknown option. @throws OptionError for the first one, with what it may have been meant to be */
export function refuseUnknown({ unknown }: ParsedOptions): void {
  const [word] = unknown
  if (word === undefined) return
  const [name = ''] = word.split('=')
  const known = [
    ...Object.keys(FLAG_WORDS),
    ...Object.keys(VALUED),
    ...Object.keys(SWITCHES),
    ...PROPAGATIONS,
    ...Object.keys(ACCEPTED_ONLY).map(each => each.replace(/=$/, '')),
    'debug',
    'allow_other',
  ]
  // One line, whatever is in it.
  const shown = toUtf8(word).replace(/[\x00-\x1f\x7f-\x9f]/g, '?')
  throw new OptionError(`unknown option: ${shown}${didYouMean(name, known)}`)
}

function wrong(name: string, value: string, expected: string): OptionError {
  return new OptionError(`option ${name}=${value}: expected ${expected}`)
}

function bool(name: string, value: string): boolean {
  if (value === '1' || value === 'on' || value === 'yes' || value === 'true') return true
  if (value === '0' || value === 'off' || value === 'no' || value === 'false') return false
  throw wrong(name, value, '0 or 1')
}

function oneOf<T extends string>(name: string, value: string, allowed: readonly T[]): T {
  const found = allowed.find(a => a === value)
  if (found === undefined)
    throw wrong(name, value, `one of ${allowed.join(', ')}${didYouMean(value, allowed)}`)
  return found
}

function seconds(name: string, value: string): number {
  if (!/^\d+(\.\d*)?$/.test(value)) throw wrong(name, value, 'seconds, 0 or more')
  return Number(value)
}

const UNITS: Readonly<Record<string, number>> = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 }

function bytes(name: string, value: string): number {
  const [, digits = '', unit = ''] = /^(\d+)([kmgt]?)$/.exec(value.toLowerCase()) ?? []
  const size = digits === '' ? NaN : Number(digits) * (UNITS[unit] ?? NaN)
  if (!Number.isSafeInteger(size) || size === 0) throw wrong(name, value, 'bytes, or 64k, 512m, 2g')
  return size
}

/** (uid_t)-1 is "no change" in chown(2), never an owner. */
const ID_LIMIT = 0xffffffff

function id(name: string, value: string): number {
  const n = /^\d{1,10}$/.test(value) ? Number(value) : ID_LIMIT
  if (n >= ID_LIMIT) throw wrong(name, value, 'an id below 4294967295')
  return n
}

/** `disk:shown:length[:disk:shown:length…]`, possibly with a colon in front. */
function idMaps(name: string, value: string): IdMap[] {
  const parts = value.replace(/^:/, '').split(':')
  const maps: IdMap[] = []
  for (let i = 0; i < parts.length; i += 3) {
    const [disk, shown, length] = [parts[i], parts[i + 1], parts[i + 2]]
    if (disk === undefined || shown === undefined || length === undefined) {
      throw wrong(name, value, 'triples on-disk:presented:length')
    }
    const map = { disk: id(name, disk), shown: id(name, shown), length: id(name, length) }
    if (map.length === 0 || map.disk + map.length > ID_LIMIT + 1 || map.shown + map.length > ID_LIMIT + 1) {
      throw wrong(name, value, 'lengths of 1 or more that end below 2^32')
    }
    maps.push(map)
  }
  return maps
}
