/**
 * Credentials for registries as docker and podman keep them.
 * Sources: docker config.json ("auths", "credHelpers", "credsStore"); containers-auth.json(5); docker-credential-helpers.
 */
import { spawn } from 'node:child_process'
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { OciError } from './error.js'
import { isObject, parseJsonObject, type JsonObject } from './json.js'
import { findProgram } from './program-stream.js'

export interface Credentials {
  username: string
  password: string
  /** An OAuth2 refresh token; then username and password may be empty. */
  identityToken?: string
}

const maxFile = 4 << 20

/** Where credentials are looked for, in this order. */
export function authFiles(env: NodeJS.ProcessEnv = process.env): string[] {
  const explicit = env['REGISTRY_AUTH_FILE']
  if (explicit) return [explicit]
  const files: string[] = []
  const runtime = env['XDG_RUNTIME_DIR']
  if (runtime) files.push(join(runtime, 'containers', 'auth.json'))
  files.push(join(env['XDG_CONFIG_HOME'] || join(homedir(), '.config'), 'containers', 'auth.json'))
  files.push(join(env['DOCKER_CONFIG'] || join(homedir(), '.docker'), 'config.json'))
  return files
}

/** Where `login` writes. */
export function defaultAuthFile(env: NodeJS.ProcessEnv = process.env): string {
  return env['REGISTRY_AUTH_FILE'] || join(env['DOCKER_CONFIG'] || join(homedir(), '.docker'), 'config.json')
}

/**
 * Credentials for a repository: the most specific entry wins (`host/team/app`, `host/team`, `host`).
 * @param repository `registry.example:5000/team/app`
 * @returns undefined when there are none: the registry is asked anonymously
 * @throws OciError `malformed` for a broken file, `unauthorized` when a credential helper fails
 */
export async function findCredentials(
  repository: string,
  env: NodeJS.ProcessEnv = process.env,
): Promise<Credentials | undefined> {
  for (const file of authFiles(env)) {
    const config = await readAuthFile(file)
    if (config === undefined) continue
    const found = await credentialsIn(config, repository, file)
    if (found !== undefined) return found
  }
  return undefined
}

async function readAuthFile(file: string): Promise<JsonObject | undefined> {
  let bytes: Buffer
  try {
    bytes = await readFile(file)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new OciError('malformed', `cannot read ${file}: ${(error as Error).message}`, { cause: error })
  }
  return bytes.length === 0 ? {} : parseJsonObject(bytes, maxFile, file)
}

/** The names under which a registry may be listed. */
function keysFor(repository: string): string[] {
  const parts = repository.split('/')
  const keys: string[] = []
  for (let n = parts.length; n >= 1; n--) keys.push(parts.slice(0, n).join('/'))
  const host = parts[0] as string
  if (host === 'docker.io' || host === 'registry-1.docker.io') keys.push('index.docker.io', 'docker.io')
  return keys
}

/** `https://index.docker.io/v1/` → `index.docker.io`. */
function normalKey(key: string): string {
  return key
    .replace(/^https?:\/\//, '')
    .replace(/\/v[12]\/?$/, '')
    .replace(/\/$/, '')
}

async function credentialsIn(
  config: JsonObject,
  repository: string,
  file: string,
): Promise<Credentials | undefined> {
  const keys = keysFor(repository)
  const helpers = isObject(config['credHelpers']) ? config['credHelpers'] : {}
  const auths = isObject(config['auths']) ? config['auths'] : {}
  for (const key of keys) {
    for (const [listed, helper] of Object.entries(helpers)) {
      if (normalKey(listed) === key && typeof helper === 'string') {
        const found = await askHelper(helper, listed)
        if (found !== undefined) return found
      }
    }
  }
  const store = config['credsStore']
  for (const key of keys) {
    for (const [listed, entry] of Object.entries(auths)) {
      if (normalKey(listed) !== key || !isObject(entry)) continue
      const found = decodeEntry(entry, file, listed)
      if (found !== undefined) return found
      if (typeof store === 'string' && store !== '') {
        const stored = await askHelper(store, listed)
        if (stored !== undefined) return stored
      }
    }
  }
  return undefined
}

function decodeEntry(entry: JsonObject, file: string, key: string): Credentials | undefined {
  const token = entry['identitytoken']
  const auth = entry['auth']
  const { username, password } = entry
  let credentials: Credentials | undefined
  if (typeof auth === 'string' && auth !== '') {
    const text = Buffer.from(auth, 'base64').toString('utf8')
    const colon = text.indexOf(':')
    if (colon === -1)
      throw new OciError('malformed', `${file}: the entry for ${key} is not base64 of user:password`)
    credentials = { username: text.slice(0, colon), password: text.slice(colon + 1).replace(/\0+$/, '') }
  } else if (typeof username === 'string' && typeof password === 'string')
    credentials = { username, password }
  if (typeof token === 'string' && token !== '') {
    return { username: '', password: '', ...credentials, identityToken: token }
  }
  return credentials
}

/** `docker-credential-NAME get`; the protocol is the server's name in, JSON out. */
async function askHelper(name: string, server: string): Promise<Credentials | undefined> {
  if (!/^[\w.-]+$/.test(name))
    throw new OciError('malformed', `'${name}' is not the name of a credential helper`)
  const program = findProgram(`docker-credential-${name}`)
  if (program === undefined) {
    throw new OciError(
      'unauthorized',
      `the credential helper docker-credential-${name} for ${server} is not installed`,
    )
  }
  const { code, output } = await new Promise<{ code: number | null; output: string }>((resolve, reject) => {
    const child = spawn(program, ['get'], { stdio: ['pipe', 'pipe', 'ignore'], timeout: 60_000 })
    let output = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      if (output.length < maxFile) output += text
    })
    child.once('error', reject)
    child.once('close', code => resolve({ code, output }))
    child.stdin.on('error', () => undefined)
    child.stdin.end(`${server}\n`)
  })
  if (code !== 0) {
    if (/credentials not found/i.test(output)) return undefined
    const said = output.trim().split('\n')[0] ?? ''
    throw new OciError(
      'unauthorized',
      `docker-credential-${name} failed for ${server}${said === '' ? '' : `: ${said}`}`,
    )
  }
  const object = parseJsonObject(output, maxFile, `answer of docker-credential-${name}`)
  const username = typeof object['Username'] === 'string' ? object['Username'] : ''
  const secret = typeof object['Secret'] === 'string' ? object['Secret'] : ''
  return username === '<token>'
    ? { username: '', password: '', identityToken: secret }
    : { username, password: secret }
}

/** The key under which docker itself keeps a registry. */
function storedKey(registry: string): string {
  return registry === 'docker.io' ? 'https://index.docker.io/v1/' : registry
}

/** `login`: adds or replaces one entry; the file is private (0600) and replaced at once. Other fields are kept. */
export async function saveCredentials(
  registry: string,
  credentials: Credentials,
  file = defaultAuthFile(),
): Promise<void> {
  await changeAuths(file, auths => {
    const auth = Buffer.from(`${credentials.username}:${credentials.password}`).toString('base64')
    auths[storedKey(registry)] =
      credentials.identityToken === undefined ? { auth } : { auth, identitytoken: credentials.identityToken }
  })
}

/** `logout`. @returns whether there was an entry */
export async function removeCredentials(registry: string, file = defaultAuthFile()): Promise<boolean> {
  let removed = false
  await changeAuths(file, auths => {
    for (const key of Object.keys(auths)) {
      const normal = normalKey(key)
      if (normal === registry || (registry === 'docker.io' && normal === 'index.docker.io')) {
        delete auths[key]
        removed = true
      }
    }
  })
  return removed
}

async function changeAuths(file: string, change: (auths: JsonObject) => void): Promise<void> {
  const config = (await readAuthFile(file)) ?? {}
  const auths = isObject(config['auths']) ? config['auths'] : {}
  change(auths)
  config['auths'] = auths
  await mkdir(dirname(file), { recursive: true, mode: 0o700 })
  const temporary = `${file}.${process.pid}.tmp`
  const handle = await open(temporary, 'wx', 0o600)
  try {
    await handle.writeFile(`${JSON.stringify(config, null, '\t')}\n`)
    await handle.sync()
    await handle.close()
    await rename(temporary, file)
  } catch (error) {
    await handle.close().catch(() => undefined)
    await rm(temporary, { force: true })
    throw error
  }
}
