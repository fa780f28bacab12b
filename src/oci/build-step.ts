/**
 * What an instruction means once its variables are known: one typed step for the builder.
 * Source: the Dockerfile reference; moby/buildkit frontend/dockerfile/instructions/parse.go.
 */
import { isHeredocAlone, parseInstruction, type Heredoc, type Instruction } from './containerfile.js'
import { OciError } from './error.js'
import { parseRunMount, type RunMount } from './run-mount.js'
import {
  expandHeredoc,
  expandWord,
  expandWords,
  splitWords,
  type EscapeChar,
  type Lookup,
} from './shell-words.js'

/** A command as exec form (a vector) or as shell form (a line for SHELL). */
export type Command = { exec: string[] } | { shell: string }

export interface Healthcheck {
  /** As the image config has it: ["NONE"], ["CMD", …] or ["CMD-SHELL", line]. */
  test: string[]
  /** Nanoseconds, as the config has them. */
  interval?: number
  timeout?: number
  startPeriod?: number
  startInterval?: number
  retries?: number
}

export interface CopyStep {
  kind: 'copy' | 'add'
  sources: string[]
  /** Files given in the Containerfile itself. */
  inline: { name: string; content: string }[]
  destination: string
  /** `--from`: a stage's name or number, or an image. */
  from?: string
  chown?: string
  chmod?: string
  link: boolean
  parents: boolean
  exclude: string[]
  checksum?: string
  keepGitDir: boolean
  /** ADD: archives are unpacked. Absent: those of the context are, not what a URL brings. */
  unpack?: boolean
}

export interface RunStep {
  kind: 'run'
  command: Command
  /** A heredoc that names its own interpreter: shown, read-only, as the file `name` in {@link SCRIPTS}. */
  script?: { name: string; content: string }
  mounts: RunMount[]
  network: 'default' | 'host' | 'none'
  security: 'sandbox' | 'insecure'
}

/** Source: moby/buildkit dockerfile2llb, dispatchRun */
export const SCRIPTS = '/dev/pipes'

export type BuildStep =
  | RunStep
  | CopyStep
  | { kind: 'env' | 'label'; pairs: [name: string, value: string][] }
  | { kind: 'arg'; args: { name: string; value: string | undefined }[] }
  | { kind: 'workdir' | 'user' | 'stopsignal' | 'maintainer'; value: string }
  | { kind: 'cmd' | 'entrypoint'; command: Command }
  | { kind: 'expose'; ports: string[] }
  | { kind: 'volume'; paths: string[] }
  | { kind: 'shell'; command: string[] }
  | { kind: 'healthcheck'; healthcheck: Healthcheck }
  | { kind: 'onbuild'; trigger: Instruction; text: string }

function malformed({ line, keyword }: Instruction, message: string): OciError {
  return new OciError('malformed', `line ${line}: ${keyword}: ${message}`)
}

/**
 * @param lookup ENV and ARG as they are before this instruction
 * @throws OciError `malformed`, with the line
 */
export function readStep(instruction: Instruction, lookup: Lookup, escape: EscapeChar = '\\'): BuildStep {
  try {
    return step(instruction, lookup, escape)
  } catch (error) {
    if (error instanceof OciError && !error.message.startsWith('line '))
      throw malformed(instruction, error.message)
    throw error
  }
}

function step(instruction: Instruction, lookup: Lookup, escape: EscapeChar): BuildStep {
  const { keyword, args } = instruction
  const one = (text: string): string => expandWord(text, lookup, escape)
  if (args === '' && keyword !== 'CMD' && keyword !== 'ENTRYPOINT')
    throw malformed(instruction, 'needs an argument')
  switch (keyword) {
    case 'FROM':
      throw malformed(instruction, 'begins a stage and is no step')
    case 'RUN':
      return runStep(instruction, lookup, escape)
    case 'COPY':
    case 'ADD':
      return copyStep(instruction, lookup, escape)
    case 'ENV':
    case 'LABEL': {
      const pairs = nameValues(instruction, escape).map(([name, value]): [string, string] => [
        one(name),
        one(value),
      ])
      if (pairs.some(([name]) => name === '')) throw malformed(instruction, 'a name is empty')
      return { kind: keyword === 'ENV' ? 'env' : 'label', pairs }
    }
    case 'ARG':
      return {
        kind: 'arg',
        args: splitWords(args, escape).map(word => {
          const equals = word.indexOf('=')
          const name = one(equals === -1 ? word : word.slice(0, equals))
          if (name === '') throw malformed(instruction, 'a name is empty')
          return { name, value: equals === -1 ? undefined : one(word.slice(equals + 1)) }
        }),
      }
    case 'WORKDIR':
      return { kind: 'workdir', value: one(args) }
    case 'USER':
      return { kind: 'user', value: one(args) }
    case 'STOPSIGNAL':
      return { kind: 'stopsignal', value: one(args) }
    case 'MAINTAINER':
      return { kind: 'maintainer', value: args }
    case 'CMD':
      return { kind: 'cmd', command: commandOf(instruction) }
    case 'ENTRYPOINT':
      return { kind: 'entrypoint', command: commandOf(instruction) }
    case 'EXPOSE':
      return {
        kind: 'expose',
        ports: expandWords(args, lookup, escape).flatMap(port => exposedPorts(instruction, port)),
      }
    case 'VOLUME': {
      const paths = (instruction.json ?? splitWords(args, escape)).map(one)
      if (paths.some(path => path.trim() === '')) throw malformed(instruction, 'a path is empty')
      return { kind: 'volume', paths }
    }
    case 'SHELL':
      if (instruction.json === undefined || instruction.json.length === 0) {
        throw malformed(instruction, 'needs a JSON array, e.g. ["/bin/bash", "-c"]')
      }
      return { kind: 'shell', command: instruction.json }
    case 'HEALTHCHECK':
      return { kind: 'healthcheck', healthcheck: healthcheck(instruction) }
    case 'ONBUILD': {
      const text = withBodies(args, instruction.heredocs)
      const trigger = parseInstruction(text, escape, instruction.line)
      if (['ONBUILD', 'FROM', 'MAINTAINER'].includes(trigger.keyword)) {
        throw malformed(instruction, `${trigger.keyword} is not allowed as a trigger`)
      }
      return { kind: 'onbuild', trigger, text }
    }
  }
}

/** Flags by name, each known and, unless listed in `many`, once. */
function flagsOf(
  instruction: Instruction,
  known: readonly string[],
  many: readonly string[] = [],
): Map<string, string[]> {
  const flags = new Map<string, string[]>()
  for (const { name, value } of instruction.flags) {
    if (!known.includes(name)) throw malformed(instruction, `there is no flag --${name}`)
    const values = flags.get(name) ?? []
    if (values.length > 0 && !many.includes(name))
      throw malformed(instruction, `flag --${name} is given twice`)
    values.push(value)
    flags.set(name, values)
  }
  return flags
}

function commandOf(instruction: Instruction): Command {
  return instruction.json === undefined ? { shell: instruction.args } : { exec: instruction.json }
}

function runStep(instruction: Instruction, lookup: Lookup, escape: EscapeChar): RunStep {
  const flags = flagsOf(instruction, ['mount', 'network', 'security', 'device'], ['mount', 'device'])
  if (flags.has('device')) throw malformed(instruction, 'flag --device is not supported')
  const choice = <T extends string>(name: string, [usual, ...others]: readonly [T, ...T[]]): T => {
    const value = flags.get(name)?.[0]
    const found = [usual, ...others].find(each => each === (value ?? usual))
    if (found !== undefined) return found
    throw malformed(instruction, `--${name}=${value}: ${[usual, ...others].join(', ')} are`)
  }
  const common = {
    kind: 'run' as const,
    mounts: (flags.get('mount') ?? []).map(value => parseRunMount(value, lookup, escape)),
    network: choice('network', ['default', 'host', 'none']),
    security: choice('security', ['sandbox', 'insecure']),
  }
  const { args, heredocs } = instruction
  const [first] = heredocs
  if (first === undefined) return { ...common, command: commandOf(instruction) }
  if (heredocs.length > 1 || !isHeredocAlone(args)) {
    return { ...common, command: { shell: withBodies(args, heredocs) } }
  }
  // Nothing but a heredoc is the script itself; variables in it are the shell's to expand.
  const { name, content } = first
  if (!content.startsWith('#!')) return { ...common, command: { shell: content } }
  return { ...common, command: { shell: `${SCRIPTS}/${name}` }, script: { name, content } }
}

/** For who reads heredocs itself, as a shell does. Tabs of `<<-` are gone already, which it does not mind. */
function withBodies(line: string, heredocs: readonly Heredoc[]): string {
  return `${line}${heredocs.map(({ name, content }) => `\n${content}${name}`).join('')}`
}

const copyFlags = [
  'from',
  'chown',
  'chmod',
  'link',
  'parents',
  'exclude',
  'checksum',
  'keep-git-dir',
  'unpack',
]

function copyStep(instruction: Instruction, lookup: Lookup, escape: EscapeChar): CopyStep {
  const flags = flagsOf(instruction, copyFlags, ['exclude'])
  const isAdd = instruction.keyword === 'ADD'
  if (isAdd && flags.has('from')) throw malformed(instruction, 'there is no flag --from')
  if (!isAdd && ['checksum', 'keep-git-dir', 'unpack'].some(name => flags.has(name))) {
    throw malformed(instruction, 'flags --checksum, --keep-git-dir and --unpack are ADD’s')
  }
  const text = (name: string): string | undefined => {
    const value = flags.get(name)?.[0]
    return value === undefined ? undefined : expandWord(value, lookup, escape)
  }
  const words = instruction.json ?? splitWords(instruction.args, escape)
  const paths = words.map(word => (/^\d*<</.test(word) ? word : expandWord(word, lookup, escape)))
  const destination = paths.pop()
  if (destination === undefined || paths.length === 0)
    throw malformed(instruction, 'needs a source and a destination')
  const inline = instruction.heredocs.map(heredoc => ({
    name: heredoc.name,
    content: heredoc.expand ? expandHeredoc(heredoc.content, lookup) : heredoc.content,
  }))
  const sources = inline.length > 0 ? paths.filter(path => !/^\d*<</.test(path)) : paths
  const step: CopyStep = {
    kind: isAdd ? 'add' : 'copy',
    sources,
    inline,
    destination,
    link: flag(instruction, flags, 'link'),
    parents: flag(instruction, flags, 'parents'),
    keepGitDir: flag(instruction, flags, 'keep-git-dir'),
    exclude: (flags.get('exclude') ?? []).map(value => expandWord(value, lookup, escape)),
    ...(flags.has('unpack') ? { unpack: flag(instruction, flags, 'unpack') } : {}),
  }
  for (const name of ['from', 'chown', 'chmod', 'checksum'] as const) {
    const value = text(name)
    if (value !== undefined) step[name] = value
  }
  return step
}

function flag(instruction: Instruction, flags: Map<string, string[]>, name: string): boolean {
  const value = flags.get(name)?.[0]
  if (value === undefined || value === 'false') return false
  if (value === '' || value === 'true') return true
  throw malformed(instruction, `flag --${name} is true or false, not '${value}'`)
}

/** `a=b c="d e"`, or the old form with one name and the rest of the line as its value. */
function nameValues(instruction: Instruction, escape: EscapeChar): [name: string, value: string][] {
  const words = splitWords(instruction.args, escape)
  const [first = ''] = words
  if (!first.includes('=')) {
    const value = instruction.args.slice(first.length).trim()
    if (value === '') throw malformed(instruction, `'${first}' has no value`)
    return [[first, value]]
  }
  return words.map(word => {
    const equals = word.indexOf('=')
    if (equals === -1) throw malformed(instruction, `'${word}' is not name=value; quote a value with blanks`)
    return [word.slice(0, equals), word.slice(equals + 1)]
  })
}

/** `80`, `80/udp`, `8000-8005/tcp` as the config has them. */
function exposedPorts(instruction: Instruction, text: string): string[] {
  const match = /^(\d{1,5})(?:-(\d{1,5}))?(?:\/(tcp|udp|sctp))?$/i.exec(text)
  const start = Number(match?.[1])
  const end = match?.[2] === undefined ? start : Number(match[2])
  if (match === null || start > 65_535 || end > 65_535 || end < start)
    throw malformed(instruction, `'${text}' is not a port`)
  const protocol = (match[3] ?? 'tcp').toLowerCase()
  return Array.from({ length: end - start + 1 }, (_, i) => `${start + i}/${protocol}`)
}

const units: Readonly<Record<string, number>> = {
  ns: 1,
  us: 1e3,
  µs: 1e3,
  ms: 1e6,
  s: 1e9,
  m: 60e9,
  h: 3600e9,
}

/** Go's durations: `1m30s`, `500ms`. Gives nanoseconds. */
export function parseDuration(text: string): number | undefined {
  if (!/^(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+$/.test(text)) return text === '0' ? 0 : undefined
  let total = 0
  for (const [, amount, unit] of text.matchAll(/(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)/g)) {
    total += Number(amount) * (units[unit as string] as number)
  }
  return Math.round(total)
}

function healthcheck(instruction: Instruction): Healthcheck {
  const flags = flagsOf(instruction, ['interval', 'timeout', 'start-period', 'start-interval', 'retries'])
  const [kind = ''] = splitWords(instruction.args)
  const rest = instruction.args.slice(kind.length).trim()
  if (kind.toUpperCase() === 'NONE') {
    if (rest !== '' || flags.size > 0) throw malformed(instruction, 'NONE takes no arguments')
    return { test: ['NONE'] }
  }
  if (kind.toUpperCase() !== 'CMD' || rest === '')
    throw malformed(instruction, 'is NONE, or CMD with a command')
  let exec: string[] | undefined
  if (rest.startsWith('[')) {
    try {
      const value: unknown = JSON.parse(rest)
      if (Array.isArray(value) && value.every(element => typeof element === 'string')) exec = value
    } catch {
      // shell form
    }
  }
  const check: Healthcheck = { test: exec === undefined ? ['CMD-SHELL', rest] : ['CMD', ...exec] }
  const durations = [
    ['interval', 'interval'],
    ['timeout', 'timeout'],
    ['start-period', 'startPeriod'],
    ['start-interval', 'startInterval'],
  ] as const
  for (const [name, key] of durations) {
    const text = flags.get(name)?.[0]
    if (text === undefined) continue
    const duration = parseDuration(text)
    // docker refuses less than a millisecond
    if (duration === undefined || (duration !== 0 && duration < 1e6))
      throw malformed(instruction, `--${name}: '${text}' is not a duration`)
    check[key] = duration
  }
  const retries = flags.get('retries')?.[0]
  if (retries !== undefined) {
    if (!/^\d{1,9}$/.test(retries)) throw malformed(instruction, `--retries: '${retries}' is not a number`)
    check.retries = Number(retries)
  }
  return check
}
