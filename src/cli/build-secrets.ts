/** `--secret`, `--ssh` and `--allow` of `lamina build`. Source: docker buildx build's options of these names. */
import { existsSync, statSync } from 'node:fs'
import { resolve } from 'node:path'
import { ENTITLEMENTS, type Entitlement } from '../manager/build/run-instruction.js'
import type { SecretSource } from '../manager/build/run-mounts.js'
import type { SshSource } from '../manager/build/ssh-agents.js'
import { CliError } from './output.js'

type Environment = Readonly<Record<string, string | undefined>>

/** `id=x,src=FILE`, `id=x,env=VAR`; `id=x` alone is the variable x, or else the file x. */
export function secretSources(words: readonly string[], env: Environment): Record<string, SecretSource> {
  return Object.fromEntries(words.map(word => secretSource(word, env)))
}

function secretSource(word: string, env: Environment): [id: string, source: SecretSource] {
  const usage = (why: string): CliError =>
    new CliError(`--secret ${word}: ${why}; say id=NAME,src=FILE or id=NAME,env=VARIABLE`, 2)
  const fields = new Map<string, string>()
  for (const part of word.split(',')) {
    const equals = part.indexOf('=')
    const key = part.slice(0, Math.max(0, equals)).toLowerCase()
    if (!['type', 'id', 'src', 'source', 'env'].includes(key)) throw usage(`'${part}' is no field of it`)
    fields.set(key === 'source' ? 'src' : key, part.slice(equals + 1))
  }
  const id = fields.get('id') ?? ''
  if (id === '') throw usage('there is no id')
  const type = fields.get('type')
  if (type !== undefined && type !== 'file' && type !== 'env') throw usage('type is file or env')
  const src = fields.get('src')
  const variable = fields.get('env') ?? (type === 'env' ? (src ?? id) : undefined)
  const implied = type === undefined && src === undefined && env[id] !== undefined ? id : undefined
  const name = variable ?? implied
  if (name !== undefined) {
    const value = env[name]
    if (value === undefined) throw new CliError(`--secret ${word}: the variable ${name} is not set`)
    return [id, { value }]
  }
  const file = resolve(src ?? id)
  if (!existsSync(file)) throw new CliError(`--secret ${word}: cannot read ${file}`)
  return [id, { file }]
}

/** `default` or `ID`: the agent of SSH_AUTH_SOCK; `ID=SOCKET`; `ID=KEY[,KEY]`. */
export function sshSources(words: readonly string[], env: Environment): Record<string, SshSource> {
  return Object.fromEntries(words.map(word => sshSource(word, env)))
}

function sshSource(word: string, env: Environment): [id: string, source: SshSource] {
  const equals = word.indexOf('=')
  const id = equals < 0 ? word : word.slice(0, equals)
  if (id === '') throw new CliError(`--ssh ${word}: say default, ID=SOCKET or ID=KEY`, 2)
  const paths = equals < 0 ? [env['SSH_AUTH_SOCK'] ?? ''] : word.slice(equals + 1).split(',')
  if (paths.includes('')) {
    throw new CliError(`--ssh ${word}: there is no agent: SSH_AUTH_SOCK is not set`)
  }
  const files = paths.map(path => resolve(path))
  const missing = files.find(path => !existsSync(path))
  if (missing !== undefined) throw new CliError(`--ssh ${word}: cannot read ${missing}`)
  const sockets = files.filter(path => statSync(path).isSocket())
  const [socket] = sockets
  if (socket === undefined) return [id, { keys: files }]
  if (files.length > 1) throw new CliError(`--ssh ${word}: a socket of an agent stands alone`, 2)
  return [id, { socket }]
}

export function entitlements(words: readonly string[]): Entitlement[] {
  return words.map(word => {
    const known = ENTITLEMENTS.find(each => each === word)
    if (known !== undefined) return known
    throw new CliError(`--allow ${word}: ${ENTITLEMENTS.join(' and ')} can be allowed`, 2)
  })
}
