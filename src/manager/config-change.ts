/**
 * Instructions that change the config and no files: of a Containerfile, of `commit --change` and `import --change`.
 * Source: docs.docker.com/reference/dockerfile; moby builder/dockerfile/dispatchers.go.
 */
import type { RunConfig } from '../oci/index.js'
import { StoreError } from './store-error.js'

export const CONFIG_INSTRUCTIONS = [
  'CMD',
  'ENTRYPOINT',
  'ENV',
  'EXPOSE',
  'HEALTHCHECK',
  'LABEL',
  'MAINTAINER',
  'ONBUILD',
  'SHELL',
  'STOPSIGNAL',
  'USER',
  'VOLUME',
  'WORKDIR',
] as const
export type ConfigInstruction = (typeof CONFIG_INSTRUCTIONS)[number]

export function isConfigInstruction(keyword: string): keyword is ConfigInstruction {
  return CONFIG_INSTRUCTIONS.some(known => known === keyword)
}

/** Applies one line such as `ENV A=b`. @throws StoreError invalid */
export function applyChange(config: RunConfig, line: string): void {
  const match = /^\s*([A-Za-z]+)\s+(.*)$/s.exec(line)
  const keyword = (match?.[1] ?? line.trim()).toUpperCase()
  if (!isConfigInstruction(keyword)) {
    throw new StoreError(
      'invalid',
      `'${line}' changes no config`,
      `known are ${CONFIG_INSTRUCTIONS.join(', ')}`,
    )
  }
  applyConfigInstruction(config, keyword, (match?.[2] ?? '').trim())
}

/** Applies an instruction whose variables are expanded already. */
export function applyConfigInstruction(config: RunConfig, keyword: ConfigInstruction, text: string): void {
  if (text === '') throw new StoreError('invalid', `${keyword} needs an argument`)
  switch (keyword) {
    case 'CMD':
      config.Cmd = commandOf(config, text)
      return
    case 'ENTRYPOINT':
      config.Entrypoint = commandOf(config, text)
      // What the base image's CMD was an argument of is gone. Source: dispatchers.go, dispatchEntrypoint.
      delete config.Cmd
      return
    case 'ENV':
      for (const [name, value] of pairs(text, keyword))
        config.Env = withVariable(config.Env ?? [], name, value)
      return
    case 'LABEL':
      config.Labels = { ...config.Labels, ...Object.fromEntries(pairs(text, keyword)) }
      return
    case 'MAINTAINER':
      config.Labels = { ...config.Labels, maintainer: text }
      return
    case 'EXPOSE':
      for (const port of words(text)) config.ExposedPorts = { ...config.ExposedPorts, ...ports(port) }
      return
    case 'VOLUME':
      for (const path of jsonArray(text) ?? words(text)) config.Volumes = { ...config.Volumes, [path]: {} }
      return
    case 'USER':
      config.User = unquote(text)
      return
    case 'WORKDIR':
      config.WorkingDir = resolveWorkdir(config.WorkingDir, unquote(text))
      return
    case 'STOPSIGNAL':
      config.StopSignal = stopSignal(unquote(text))
      return
    case 'SHELL': {
      const shell = jsonArray(text)
      if (shell === undefined || shell.length === 0) {
        throw new StoreError('invalid', `SHELL ${text} is no JSON array`, 'e.g. SHELL ["/bin/bash", "-c"]')
      }
      config.Shell = shell
      return
    }
    case 'ONBUILD':
      if (/^(ONBUILD|FROM|MAINTAINER)\b/i.test(text)) {
        throw new StoreError('invalid', `ONBUILD may not trigger ${text.split(/\s/)[0] ?? ''}`)
      }
      config.OnBuild = [...(config.OnBuild ?? []), text]
      return
    case 'HEALTHCHECK':
      config.Healthcheck = healthcheck(text)
      return
  }
}

export const DEFAULT_SHELL = ['/bin/sh', '-c']

/** JSON form as it is; shell form through the image's shell. */
function commandOf(config: RunConfig, text: string): string[] {
  return jsonArray(text) ?? [...(config.Shell ?? DEFAULT_SHELL), text]
}

/** `["a", "b"]`, or `undefined` for anything else: docker takes that as shell form. */
export function jsonArray(text: string): string[] | undefined {
  if (!text.startsWith('[')) return undefined
  try {
    const value: unknown = JSON.parse(text)
    if (Array.isArray(value) && value.every(item => typeof item === 'string')) return value
  } catch {
    // Shell form that begins with a bracket.
  }
  return undefined
}

/** Splits at white space outside quotes; quotes and backslashes are taken away. */
export function words(text: string): string[] {
  const found: string[] = []
  let word: string | undefined
  let quote = ''
  for (let i = 0; i < text.length; i += 1) {
    const c = text.charAt(i)
    if (quote !== '') {
      if (c === quote) quote = ''
      else if (c === '\\' && quote === '"' && i + 1 < text.length) word = (word ?? '') + text.charAt((i += 1))
      else word = (word ?? '') + c
    } else if (c === '"' || c === "'") {
      quote = c
      word ??= ''
    } else if (c === '\\' && i + 1 < text.length) {
      word = (word ?? '') + text.charAt((i += 1))
    } else if (/\s/.test(c)) {
      if (word !== undefined) found.push(word)
      word = undefined
    } else {
      word = (word ?? '') + c
    }
  }
  if (word !== undefined) found.push(word)
  return found
}

function unquote(text: string): string {
  return words(text).join(' ')
}

/** `A=b C="d e"`, or the old form `A b c`. */
function pairs(text: string, keyword: string): [string, string][] {
  const first = words(text)[0] ?? ''
  if (!first.includes('=')) {
    const match = /^(\S+)\s+(.+)$/s.exec(text)
    if (match === null)
      throw new StoreError('invalid', `${keyword} ${text} has no value`, `write ${keyword} ${text}=VALUE`)
    return [[match[1] ?? '', match[2] ?? '']]
  }
  return words(text).map((word): [string, string] => {
    const equals = word.indexOf('=')
    if (equals < 1) throw new StoreError('invalid', `${keyword}: '${word}' is not NAME=VALUE`)
    return [word.slice(0, equals), word.slice(equals + 1)]
  })
}

export function withVariable(env: readonly string[], name: string, value: string): string[] {
  const index = env.findIndex(entry => entry.startsWith(`${name}=`))
  return index < 0
    ? [...env, `${name}=${value}`]
    : env.map((entry, i) => (i === index ? `${name}=${value}` : entry))
}

/** `80`, `80/udp`, `8000-8002`. */
function ports(text: string): Record<string, object> {
  const match = /^(\d+)(?:-(\d+))?(?:\/(tcp|udp|sctp))?$/i.exec(text)
  const from = Number(match?.[1])
  const to = Number(match?.[2] ?? match?.[1])
  if (match === null || from > to || to > 65535) {
    throw new StoreError('invalid', `EXPOSE ${text} is no port`, 'e.g. EXPOSE 80 443/tcp 8000-8010/udp')
  }
  const protocol = (match[3] ?? 'tcp').toLowerCase()
  return Object.fromEntries(Array.from({ length: to - from + 1 }, (_, i) => [`${from + i}/${protocol}`, {}]))
}

export function resolveWorkdir(current: string | undefined, wanted: string): string {
  const path = wanted.startsWith('/') ? wanted : `${current ?? '/'}/${wanted}`
  const parts: string[] = []
  for (const part of path.split('/')) {
    if (part === '..') parts.pop()
    else if (part !== '' && part !== '.') parts.push(part)
  }
  return '/' + parts.join('/')
}

function stopSignal(text: string): string {
  if (/^\d+$/.test(text) || /^(SIG)?[A-Z][A-Z0-9+-]*$/.test(text)) return text
  throw new StoreError('invalid', `STOPSIGNAL ${text} is no signal`, 'e.g. STOPSIGNAL SIGTERM, or a number')
}

/** Durations in nanoseconds, as docker's config has them. */
function healthcheck(text: string): Record<string, unknown> {
  if (/^NONE$/i.test(text)) return { Test: ['NONE'] }
  const result: Record<string, unknown> = {}
  const keys: Record<string, string> = {
    interval: 'Interval',
    timeout: 'Timeout',
    'start-period': 'StartPeriod',
    'start-interval': 'StartInterval',
  }
  let rest = text
  for (;;) {
    const option = /^--([a-z-]+)=(\S+)\s+/.exec(rest)
    if (option === null) break
    const [all, name = '', value = ''] = option
    rest = rest.slice(all.length)
    const key = keys[name]
    if (key !== undefined) result[key] = nanoseconds(value)
    else if (name === 'retries' && /^\d+$/.test(value)) result['Retries'] = Number(value)
    else throw new StoreError('invalid', `HEALTHCHECK: --${name}=${value} is not understood`)
  }
  const match = /^CMD\s+(.+)$/is.exec(rest)
  if (match === null)
    throw new StoreError(
      'invalid',
      `HEALTHCHECK ${text} has no CMD`,
      'HEALTHCHECK [options] CMD command, or NONE',
    )
  const command = match[1] ?? ''
  const array = jsonArray(command)
  return { Test: array === undefined ? ['CMD-SHELL', command] : ['CMD', ...array], ...result }
}

/** Go's durations: `1m30s`, `500ms`. */
function nanoseconds(text: string): number {
  const units: Record<string, number> = { ns: 1, us: 1e3, µs: 1e3, ms: 1e6, s: 1e9, m: 6e10, h: 3.6e12 }
  let total = 0
  const rest = text.replace(/(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)/g, (_, n: string, unit: string) => {
    total += Number(n) * (units[unit] ?? 0)
    return ''
  })
  if (rest !== '' || text === '') throw new StoreError('invalid', `${text} is no duration`, 'e.g. 30s, 1m30s')
  return total
}
