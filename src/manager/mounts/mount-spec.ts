/**
 * What `-v`, `--mount` and `--tmpfs` say, in one form. Syntax and defaults are Docker's.
 * Source: moby volume/mounts/linux_parser.go; docker/cli opts/mount.go
 */
import { isAbsolute, normalize } from 'node:path'
import { didYouMean } from '../../base/nearest.js'
import { StoreError } from '../store-error.js'
import { parseSize } from './size.js'

export const PROPAGATIONS = ['rprivate', 'private', 'rshared', 'shared', 'rslave', 'slave'] as const
export type Propagation = (typeof PROPAGATIONS)[number]

export interface VolumeMount {
  readonly type: 'volume'
  /** `undefined`: an anonymous one. */
  readonly name: string | undefined
  /** Absolute, normal, not `/`. */
  readonly target: string
  readonly readOnly: boolean
  /** A directory or file in the volume, instead of all of it. */
  readonly subpath?: string
  /** A new volume stays empty, whatever the image has at the target. */
  readonly noCopy: boolean
  /** Of a volume that is made for this mount. */
  readonly options: Readonly<Record<string, string>>
  readonly labels: Readonly<Record<string, string>>
}

export interface BindMount {
  readonly type: 'bind'
  /** Absolute. */
  readonly source: string
  readonly target: string
  readonly readOnly: boolean
  readonly propagation: Propagation
  /** What is mounted below the source comes too. */
  readonly recursive: boolean
  /** `-v` makes a missing source, as a directory; `--mount` does not. */
  readonly createSource: boolean
}

export interface TmpfsMount {
  readonly type: 'tmpfs'
  readonly target: string
  readonly readOnly: boolean
  /** As mount(8) takes them: flags (`exec`) and the filesystem's own (`size=…`, in the user's words). */
  readonly options: readonly string[]
}

export type MountSpec = VolumeMount | BindMount | TmpfsMount

function invalid(what: string, problem: string, hint?: string): StoreError {
  return new StoreError('invalid', `${what}: ${problem}`, hint)
}

function checkTarget(target: string, what: string): string {
  if (!isAbsolute(target)) throw invalid(what, `the target '${target}' is not an absolute path`)
  const normal = normalize(target).replace(/(.)\/+$/, '$1')
  if (normal === '/') throw invalid(what, "the target cannot be '/'")
  return normal
}

// ---- -v

/** `[NAME|/host:]/path[:option,…]`. @throws StoreError invalid */
export function parseVolumeFlag(text: string): VolumeMount | BindMount {
  const what = `-v ${text}`
  const parts = text.split(':')
  if (parts.length > 3 || parts.some(part => part === '')) {
    throw invalid(what, 'not understood', 'NAME:/path[:ro], /host:/path[:ro], or /path')
  }
  if (parts.length === 1) {
    return volumeOf(undefined, checkTarget(text, what), [], what)
  }
  const [source = '', second = '', third] = parts
  const options = third?.split(',') ?? []
  const target = checkTarget(second, what)
  if (!isAbsolute(source)) return volumeOf(source, target, options, what)
  const { readOnly, rest } = takeMode(options, what)
  let propagation: Propagation | undefined
  let recursive = true
  for (const option of rest) {
    const found = PROPAGATIONS.find(each => each === option)
    if (option === 'bind') recursive = false
    else if (option === 'rbind') recursive = true
    else if (found === undefined)
      throw unknownOption(what, option, ['ro', 'rw', 'bind', 'rbind', ...PROPAGATIONS])
    else if (propagation !== undefined) throw invalid(what, 'two propagations')
    else propagation = found
  }
  return {
    type: 'bind',
    source: normalize(source).replace(/(.)\/+$/, '$1'),
    target,
    readOnly,
    propagation: propagation ?? 'rprivate',
    recursive,
    createSource: true,
  }
}

function volumeOf(name: string | undefined, target: string, options: string[], what: string): VolumeMount {
  if (name !== undefined && !/^[a-zA-Z0-9][a-zA-Z0-9_.-]+$/.test(name)) {
    throw invalid(what, `'${name}' is not a volume name`, 'a directory of the host begins with /')
  }
  const { readOnly, rest } = takeMode(options, what)
  for (const option of rest) {
    if (option !== 'nocopy') throw unknownOption(what, option, ['ro', 'rw', 'nocopy'])
  }
  const noCopy = rest.includes('nocopy')
  return { type: 'volume', name, target, readOnly, noCopy, options: {}, labels: {} }
}

function takeMode(options: readonly string[], what: string): { readOnly: boolean; rest: string[] } {
  const modes = options.filter(option => option === 'ro' || option === 'rw')
  if (modes.length > 1) throw invalid(what, 'ro and rw may be said once')
  for (const option of options) {
    if (option === 'z' || option === 'Z') {
      throw invalid(
        what,
        `'${option}' relabels for SELinux, which is not done here`,
        "leave it out, use 'chcon'",
      )
    }
  }
  return { readOnly: modes[0] === 'ro', rest: options.filter(option => option !== 'ro' && option !== 'rw') }
}

function unknownOption(what: string, option: string, known: readonly string[]): StoreError {
  const meant = didYouMean(option, known)
  return invalid(what, `'${option}' is not an option here${meant}`, `known are ${known.join(', ')}`)
}

// ---- --tmpfs

/** `/path[:size=64m,mode=1777,…]`. @throws StoreError invalid */
export function parseTmpfsFlag(text: string): TmpfsMount {
  const what = `--tmpfs ${text}`
  const colon = text.indexOf(':')
  const target = checkTarget(colon < 0 ? text : text.slice(0, colon), what)
  const words =
    colon < 0
      ? []
      : text
          .slice(colon + 1)
          .split(',')
          .filter(word => word !== '')
  const readOnly = words.lastIndexOf('ro') > words.lastIndexOf('rw')
  const options = words.filter(word => word !== 'ro' && word !== 'rw')
  for (const option of options) checkTmpfsOption(option, what)
  return { type: 'tmpfs', target, readOnly, options }
}

export const TMPFS_FLAGS = [
  'exec',
  'noexec',
  'suid',
  'nosuid',
  'dev',
  'nodev',
  'atime',
  'noatime',
  'diratime',
  'nodiratime',
  'relatime',
  'norelatime',
  'strictatime',
] as const
const TMPFS_VALUES = ['size', 'mode', 'uid', 'gid', 'nr_inodes', 'nr_blocks', 'mpol']

function checkTmpfsOption(option: string, what: string): void {
  if (TMPFS_FLAGS.some(flag => flag === option)) return
  const equals = option.indexOf('=')
  const key = equals < 0 ? option : option.slice(0, equals)
  const value = equals < 0 ? '' : option.slice(equals + 1)
  if (!TMPFS_VALUES.includes(key) || value === '') {
    throw unknownOption(what, option, [...TMPFS_FLAGS, ...TMPFS_VALUES.map(each => `${each}=`)])
  }
  if (key === 'mode' && !/^[0-7]{1,5}$/.test(value)) throw invalid(what, `mode '${value}' is not octal`)
  if ((key === 'uid' || key === 'gid') && !/^\d+$/.test(value))
    throw invalid(what, `${key} '${value}' is no number`)
  if (key === 'size' && !/^\d+%$/.test(value)) parseSize(value, what)
}

// ---- --mount

const TYPES = ['volume', 'bind', 'tmpfs'] as const
/** Which type each key belongs to; the others are for all. */
const KEY_TYPES: Readonly<Record<string, (typeof TYPES)[number]>> = {
  'volume-subpath': 'volume',
  'volume-nocopy': 'volume',
  'volume-opt': 'volume',
  'volume-label': 'volume',
  'volume-driver': 'volume',
  'bind-propagation': 'bind',
  'bind-nonrecursive': 'bind',
  'bind-recursive': 'bind',
  'tmpfs-size': 'tmpfs',
  'tmpfs-mode': 'tmpfs',
}

/** `type=volume|bind|tmpfs,source=…,target=…,…`. @throws StoreError invalid */
export function parseMountFlag(text: string): MountSpec {
  const what = `--mount ${text}`
  const values = new Map<string, string>()
  const options: Record<string, string> = {}
  const labels: Record<string, string> = {}
  for (const field of csvFields(text, what)) {
    const equals = field.indexOf('=')
    const key = (equals < 0 ? field : field.slice(0, equals)).toLowerCase()
    const value = equals < 0 ? undefined : field.slice(equals + 1)
    const name = ALIASES[key] ?? key
    if (name === 'volume-opt' || name === 'volume-label') {
      const [option = '', ...rest] = (value ?? '').split('=')
      if (option === '') throw invalid(what, `${name} needs KEY=VALUE`)
      ;(name === 'volume-opt' ? options : labels)[option] = rest.join('=')
      values.set(name, '')
    } else if (name === 'readonly' || name === 'volume-nocopy' || name === 'bind-nonrecursive') {
      values.set(name, String(boolean(value, key, what)))
    } else if (value === undefined || value === '') {
      throw invalid(what, `'${key}' needs a value`)
    } else if (!['type', 'source', 'target'].includes(name) && KEY_TYPES[name] === undefined) {
      throw invalid(
        what,
        `'${key}' is not a key${didYouMean(key, [...Object.keys(ALIASES), ...Object.values(ALIASES), 'type', ...Object.keys(KEY_TYPES)])}`,
        `known are type, source, target, readonly, ${Object.keys(KEY_TYPES).join(', ')}`,
      )
    } else {
      values.set(name, value)
    }
  }
  const type = TYPES.find(each => each === (values.get('type') ?? 'volume'))
  if (type === undefined) {
    const given = values.get('type') ?? ''
    throw invalid(what, `type '${given}'${didYouMean(given, TYPES)}`, `types are ${TYPES.join(', ')}`)
  }
  for (const key of values.keys()) {
    const owner = KEY_TYPES[key]
    if (owner !== undefined && owner !== type) throw invalid(what, `'${key}' does not go with type=${type}`)
  }
  const given = values.get('target')
  if (given === undefined) throw invalid(what, "'target' is missing")
  const target = checkTarget(given, what)
  const readOnly = values.get('readonly') === 'true'
  const source = values.get('source')
  switch (type) {
    case 'volume':
      return volumeMount(values, { source, target, readOnly, options, labels }, what)
    case 'bind':
      return bindMount(values, { source, target, readOnly }, what)
    case 'tmpfs':
      if (source !== undefined) throw invalid(what, "a tmpfs has no 'source'")
      return tmpfsMount(values, target, readOnly, what)
  }
}

const ALIASES: Readonly<Record<string, string>> = {
  src: 'source',
  dst: 'target',
  destination: 'target',
  ro: 'readonly',
}

interface Common {
  readonly source: string | undefined
  readonly target: string
  readonly readOnly: boolean
}

function volumeMount(
  values: ReadonlyMap<string, string>,
  common: Common & Pick<VolumeMount, 'options' | 'labels'>,
  what: string,
): VolumeMount {
  const driver = values.get('volume-driver') ?? 'local'
  if (driver !== 'local') throw invalid(what, `volume driver '${driver}'`, "there is 'local' only")
  const subpath = values.get('volume-subpath')
  if (subpath !== undefined && (isAbsolute(subpath) || subpath.split('/').includes('..'))) {
    throw invalid(what, `volume-subpath '${subpath}' is not a path inside the volume`)
  }
  const base = volumeOf(common.source, common.target, common.readOnly ? ['ro'] : [], what)
  return {
    ...base,
    noCopy: values.get('volume-nocopy') === 'true',
    options: common.options,
    labels: common.labels,
    ...(subpath === undefined ? {} : { subpath }),
  }
}

function bindMount(values: ReadonlyMap<string, string>, common: Common, what: string): BindMount {
  if (common.source === undefined) throw invalid(what, "a bind mount needs a 'source'")
  if (!isAbsolute(common.source)) throw invalid(what, `the source '${common.source}' is not an absolute path`)
  const asked = values.get('bind-propagation')
  const propagation = PROPAGATIONS.find(each => each === (asked ?? 'rprivate'))
  if (propagation === undefined)
    throw invalid(
      what,
      `bind-propagation '${asked}'${didYouMean(asked ?? '', PROPAGATIONS)}`,
      PROPAGATIONS.join(', '),
    )
  const mode = values.get('bind-recursive') ?? 'enabled'
  if (mode !== 'enabled' && mode !== 'disabled') {
    throw invalid(
      what,
      `bind-recursive '${mode}'`,
      "'enabled' (read-only then means submounts too) or 'disabled'",
    )
  }
  const recursive = mode === 'enabled' && values.get('bind-nonrecursive') !== 'true'
  return {
    type: 'bind',
    source: normalize(common.source).replace(/(.)\/+$/, '$1'),
    target: common.target,
    readOnly: common.readOnly,
    propagation,
    recursive,
    createSource: false,
  }
}

function tmpfsMount(
  values: ReadonlyMap<string, string>,
  target: string,
  readOnly: boolean,
  what: string,
): TmpfsMount {
  const options: string[] = []
  const size = values.get('tmpfs-size')
  if (size !== undefined) options.push(`size=${parseSize(size, what)}`)
  const mode = values.get('tmpfs-mode')
  if (mode !== undefined) options.push(`mode=${mode}`)
  for (const option of options) checkTmpfsOption(option, what)
  return { type: 'tmpfs', target, readOnly, options }
}

function boolean(value: string | undefined, key: string, what: string): boolean {
  if (value === undefined || /^(true|1)$/i.test(value)) return true
  if (/^(false|0)$/i.test(value)) return false
  throw invalid(what, `'${key}' is true or false, not '${value}'`)
}

/** One line of RFC 4180: a field in double quotes may hold commas. */
function csvFields(text: string, what: string): string[] {
  const fields: string[] = []
  let rest = text
  for (;;) {
    const match = /^(?:"((?:[^"]|"")*)"|([^",]*))(,|$)/.exec(rest)
    if (match === null) throw invalid(what, 'a quote is out of place')
    fields.push(match[1]?.replaceAll('""', '"') ?? match[2] ?? '')
    rest = rest.slice(match[0].length)
    if (match[3] === '') return fields
  }
}
