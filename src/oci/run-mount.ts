/**
 * `RUN --mount=…`: the fields of one flag, checked, as the builder carries them out.
 * Source: moby/buildkit frontend/dockerfile/instructions/commands_runmount.go; the Dockerfile reference, "RUN --mount".
 */
import { OciError } from './error.js'
import { expandWord, type EscapeChar, type Lookup } from './shell-words.js'

/** Of cache, secret and ssh mounts: what the file is made with. */
interface Ownership {
  readonly uid?: number
  readonly gid?: number
  /** Permission bits. */
  readonly mode?: number
}

export interface BindRunMount {
  readonly type: 'bind'
  /** A stage, an image or a named context; the build context otherwise. */
  readonly from?: string
  /** Within what `from` says; never leads out of it. */
  readonly source: string
  readonly target: string
  readonly readOnly: boolean
}

export type CacheSharing = 'shared' | 'private' | 'locked'

export interface CacheRunMount extends Ownership {
  readonly type: 'cache'
  readonly id: string
  readonly from?: string
  readonly source: string
  readonly target: string
  readonly readOnly: boolean
  readonly sharing: CacheSharing
}

export interface TmpfsRunMount {
  readonly type: 'tmpfs'
  readonly target: string
  /** As it is written: `64m`. */
  readonly size?: string
  readonly readOnly: boolean
}

export interface SecretRunMount extends Ownership {
  readonly type: 'secret'
  readonly id: string
  /** Absent where the secret is a variable only. */
  readonly target?: string
  /** The variable that holds it. */
  readonly env?: string
  readonly required: boolean
}

export interface SshRunMount extends Ownership {
  readonly type: 'ssh'
  readonly id: string
  readonly target?: string
  readonly required: boolean
}

export type RunMount = BindRunMount | CacheRunMount | TmpfsRunMount | SecretRunMount | SshRunMount

const TYPES = ['bind', 'cache', 'tmpfs', 'secret', 'ssh'] as const
type MountType = (typeof TYPES)[number]
const SHARING: readonly CacheSharing[] = ['shared', 'private', 'locked']

/** Each field under its first name, with the types that take it. */
const FIELDS: Readonly<
  Record<string, { readonly names: readonly string[]; readonly types: readonly MountType[] }>
> = {
  type: { names: ['type'], types: TYPES },
  from: { names: ['from'], types: ['bind', 'cache'] },
  source: { names: ['source', 'src'], types: ['bind', 'cache', 'secret'] },
  target: { names: ['target', 'dst', 'destination'], types: TYPES },
  readonly: { names: ['readonly', 'ro'], types: ['bind', 'cache', 'tmpfs'] },
  readwrite: { names: ['readwrite', 'rw'], types: ['bind', 'cache', 'tmpfs'] },
  id: { names: ['id'], types: ['cache', 'secret', 'ssh'] },
  sharing: { names: ['sharing'], types: ['cache'] },
  required: { names: ['required'], types: ['secret', 'ssh'] },
  size: { names: ['size'], types: ['tmpfs'] },
  mode: { names: ['mode'], types: ['cache', 'secret', 'ssh'] },
  uid: { names: ['uid'], types: ['cache', 'secret', 'ssh'] },
  gid: { names: ['gid'], types: ['cache', 'secret', 'ssh'] },
  env: { names: ['env'], types: ['secret'] },
}

/** These may stand without a value. */
const SWITCHES: ReadonlySet<string> = new Set(['readonly', 'readwrite', 'required'])

function wrong(text: string, why: string): OciError {
  return new OciError('malformed', `--mount=${text}: ${why}`)
}

/**
 * Fields as a line of CSV has them: one that begins with a quote goes to the next one, and a doubled quote is a quote.
 * Source: RFC 4180
 */
function csvFields(text: string): string[] {
  const fields: string[] = []
  for (let at = 0; at <= text.length; at += 1) {
    if (text[at] !== '"') {
      const comma = text.indexOf(',', at)
      const end = comma < 0 ? text.length : comma
      fields.push(text.slice(at, end))
      at = end
      continue
    }
    const quoted = /^"((?:[^"]|"")*)"(?=,|$)/.exec(text.slice(at))
    if (quoted === null) throw wrong(text, 'a quote has no end')
    fields.push((quoted[1] ?? '').replaceAll('""', '"'))
    at += quoted[0].length
  }
  return fields
}

/** The stage, image or context that a mount is taken from, as its flag says it: known before any variable is. */
export function mountFrom(text: string): string | undefined {
  return csvFields(text)
    .map(field => /^from=(.*)$/is.exec(field)?.[1])
    .findLast(from => from !== undefined && from !== '')
}

/** @throws OciError malformed, naming the flag and what is wrong in it */
export function parseRunMount(text: string, lookup: Lookup, escape: EscapeChar = '\\'): RunMount {
  const given = new Map<string, string>()
  for (const field of csvFields(text)) {
    const equals = field.indexOf('=')
    const key = (equals < 0 ? field : field.slice(0, equals)).toLowerCase()
    const name = Object.keys(FIELDS).find(each => FIELDS[each]?.names.includes(key))
    if (name === undefined) throw wrong(text, `there is no field '${key}'`)
    if (equals < 0 && !SWITCHES.has(name)) throw wrong(text, `'${key}' needs a value`)
    const value = field.slice(equals + 1)
    if (name === 'from' && /\$./.test(value)) {
      throw wrong(text, "'from' takes no variable: name a stage FROM it, and mount from that")
    }
    given.set(name, equals < 0 ? 'true' : expandWord(value, lookup, escape))
  }
  const type = TYPES.find(each => each === (given.get('type') ?? 'bind').toLowerCase())
  if (type === undefined)
    throw wrong(text, `there is no type '${given.get('type')}': ${TYPES.join(', ')} are`)
  for (const name of given.keys()) {
    if (FIELDS[name]?.types.includes(type) !== true) throw wrong(text, `'${name}' is none of type=${type}`)
  }
  return mountOf(type, new Fields(text, given))
}

function mountOf(type: MountType, fields: Fields): RunMount {
  const from = fields.text('from')
  const source = fields.text('source') ?? ''
  const target = fields.text('target')
  const id = fields.text('id')
  const given = from === undefined ? {} : { from }
  switch (type) {
    case 'bind':
      return { type, ...given, source, target: fields.target(), readOnly: fields.readOnly(true) }
    case 'tmpfs': {
      const size = fields.text('size')
      const limit = size === undefined ? {} : { size }
      return { type, target: fields.target(), ...limit, readOnly: fields.readOnly(false) }
    }
    case 'cache': {
      const sharing = SHARING.find(each => each === (fields.text('sharing') ?? 'shared').toLowerCase())
      if (sharing === undefined) throw fields.wrong(`sharing is ${SHARING.join(', ')}`)
      return {
        type,
        id: id ?? cleaned(fields.target()),
        ...given,
        source,
        target: fields.target(),
        readOnly: fields.readOnly(false),
        sharing,
        ...fields.ownership(),
      }
    }
    case 'secret': {
      if (source !== '' && id !== undefined) throw fields.wrong("'source' and 'id' are the same: give one")
      const name = id ?? (source === '' ? lastPart(fields.target()) : source)
      if (name === '') throw fields.wrong("'id' or 'target' must say which secret")
      const env = fields.text('env')
      const place = target ?? (env === undefined ? `/run/secrets/${lastPart(name)}` : undefined)
      return {
        type,
        id: name,
        ...(place === undefined ? {} : { target: place }),
        ...(env === undefined ? {} : { env }),
        required: fields.flag('required', false),
        ...fields.ownership(),
      }
    }
    case 'ssh': {
      const place = target === undefined ? {} : { target }
      const required = fields.flag('required', false)
      return { type, id: id ?? 'default', ...place, required, ...fields.ownership() }
    }
  }
}

class Fields {
  constructor(
    readonly flagText: string,
    readonly given: ReadonlyMap<string, string>,
  ) {}

  wrong(why: string): OciError {
    return wrong(this.flagText, why)
  }

  /** `undefined` also where it is empty. */
  text(name: string): string | undefined {
    return this.given.get(name) || undefined
  }

  /** Relative to the working directory, which is meant where nothing is said. */
  target(): string {
    return this.text('target') ?? ''
  }

  /** Source: Go's strconv.ParseBool */
  flag(name: string, otherwise: boolean): boolean {
    const value = this.given.get(name)
    if (value === undefined) return otherwise
    if (/^(1|t|true)$/i.test(value)) return true
    if (/^(0|f|false)$/i.test(value)) return false
    throw this.wrong(`'${name}' is true or false, not '${value}'`)
  }

  /** What is said last holds. */
  readOnly(otherwise: boolean): boolean {
    const last = [...this.given.keys()].findLast(name => name === 'readonly' || name === 'readwrite')
    if (last === undefined) return otherwise
    return last === 'readonly' ? this.flag(last, otherwise) : !this.flag(last, otherwise)
  }

  ownership(): Ownership {
    const uid = this.#number('uid', 10, 0xffff_fffe)
    const gid = this.#number('gid', 10, 0xffff_fffe)
    const mode = this.#number('mode', 8, 0o7777)
    return {
      ...(uid === undefined ? {} : { uid }),
      ...(gid === undefined ? {} : { gid }),
      ...(mode === undefined ? {} : { mode }),
    }
  }

  #number(name: string, radix: 8 | 10, most: number): number | undefined {
    const value = this.given.get(name)
    if (value === undefined) return undefined
    const number = Number.parseInt(value, radix)
    const digits = radix === 8 ? /^[0-7]+$/ : /^\d+$/
    if (!digits.test(value) || number > most) {
      throw this.wrong(`'${name}' is ${radix === 8 ? 'an octal mode' : 'a number'}, not '${value}'`)
    }
    return number
  }
}

const lastPart = (path: string): string => path.slice(path.lastIndexOf('/') + 1)

/** `/a//b/` is the cache `/a/b`. */
function cleaned(path: string): string {
  const parts = path.split('/').filter(part => part !== '' && part !== '.')
  return `${path.startsWith('/') ? '/' : ''}${parts.join('/')}`
}
