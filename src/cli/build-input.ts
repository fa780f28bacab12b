/** What `lamina build` reads: a directory, an archive or a Containerfile on standard input, named contexts. */
import { existsSync, mkdirSync, readFileSync, statSync } from 'node:fs'
import { fromUtf8 } from '../base/bytes.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import type { NamedContext } from '../manager/build/sources.js'
import type { Store } from '../manager/store.js'
import {
  applyTar,
  decompress,
  detectCompression,
  isTarHeader,
  peek,
  parseDockerignore,
} from '../oci/index.js'
import * as sys from '../sys/index.js'
import { CliError } from './output.js'

export interface BuildInput {
  /** Of the Containerfile. */
  readonly text: string
  readonly context?: string
  /** Text of .dockerignore. */
  readonly ignore?: string
  /** The context's owners are those of an archive. */
  readonly contextOwners?: boolean
}

const NAMES = ['Containerfile', 'Dockerfile']
const IGNORE = ['.containerignore', '.dockerignore']
/** Of a Containerfile, and of .dockerignore. */
const MAX_TEXT = 16 << 20

/** @param scratch makes a directory that goes with the build */
export async function readInput(
  context: string,
  file: string | undefined,
  scratch: () => string,
  signal: AbortSignal,
): Promise<BuildInput> {
  if (context === '-') return await readStandardInput(file, scratch, signal)
  if (/^(https?|git|ssh):\/\/|^git@[^/]+:|^github\.com\//i.test(context)) {
    throw new CliError(
      `${context} is not fetched: clone or download it, or pipe its archive: curl … | lamina build -`,
    )
  }
  if (statSync(context, { throwIfNoEntry: false })?.isDirectory() !== true) {
    throw new CliError(`the build context ${context} is no directory`)
  }
  using root = sys.openat(sys.AT_FDCWD, fromUtf8(context), sys.O_RDONLY | sys.O_DIRECTORY)
  const inside = (name: string): string | undefined => readInside(root.n, name)
  // What -f names is the caller's word; what the context has is whoever made the context's.
  const name = file ?? NAMES.find(each => inside(each) !== undefined)
  if (name === undefined || (file !== undefined && file !== '-' && !existsSync(file))) {
    const where = file === undefined ? `in ${context}` : `at ${file}`
    throw new CliError(`no Containerfile or Dockerfile ${where}: name one with -f`)
  }
  const text = file === undefined ? (inside(name) ?? '') : readFileSync(file === '-' ? 0 : file, 'utf8')
  const beside = `${name}.dockerignore`
  const own =
    file === undefined ? inside(beside) : existsSync(beside) ? readFileSync(beside, 'utf8') : undefined
  const ignore = own ?? IGNORE.map(inside).find(each => each !== undefined)
  return { text, context, ...(ignore === undefined ? {} : { ignore }) }
}

async function readStandardInput(
  file: string | undefined,
  scratch: () => string,
  signal: AbortSignal,
): Promise<BuildInput> {
  if (process.stdin.isTTY) throw new CliError('no Containerfile: pipe one to standard input', 2)
  const { head, source } = await peek(process.stdin, 512)
  if (detectCompression(head) === 'plain' && !isTarHeader(head)) {
    if (file !== undefined)
      throw new CliError('standard input is no archive, in which -f could name a file', 2)
    return { text: await wholeText(source) }
  }
  const context = scratch()
  mkdirSync(context, { recursive: true, mode: 0o700 })
  using root = sys.openat(sys.AT_FDCWD, fromUtf8(context), sys.O_RDONLY | sys.O_DIRECTORY)
  const what = 'the build context'
  const { data } = await decompress(source, { what })
  await applyTar(root.n, data, { whiteouts: 'literal', devices: 'skip', what, signal })
  if (file === '-')
    throw new CliError('standard input is the context, and cannot be the Containerfile too', 2)
  const names = file === undefined ? NAMES : [file]
  for (const name of names) {
    const text = readInside(root.n, name)
    if (text === undefined) continue
    const ignore = [`${name}.dockerignore`, ...IGNORE]
      .map(each => readInside(root.n, each))
      .find(each => each !== undefined)
    return { text, context, contextOwners: true, ...(ignore === undefined ? {} : { ignore }) }
  }
  throw new CliError(`no ${names.join(' or ')} in the archive: name one with -f`)
}

/** A file of a context that a stranger packed: symlinks stay inside. */
function readInside(root: number, name: string): string | undefined {
  const flags = sys.O_RDONLY | sys.O_NONBLOCK
  try {
    using fd = sys.openat2(root, fromUtf8(name), flags, 0, sys.RESOLVE_IN_ROOT | sys.RESOLVE_NO_MAGICLINKS)
    const stat = sys.statFd(fd.n)
    if (!sys.S_ISREG(stat.mode)) return undefined
    if (stat.size > MAX_TEXT) throw new CliError(`${name} of the context is larger than 16 MiB`)
    const bytes = Buffer.alloc(stat.size)
    return bytes.toString('utf8', 0, sys.preadSync(fd.n, bytes, 0, bytes.length, 0))
  } catch (error) {
    const absent: readonly number[] = [E.ENOENT, E.ENOTDIR, E.ELOOP]
    if (error instanceof SysError && absent.includes(error.errno)) return undefined
    throw error
  }
}

async function wholeText(source: AsyncIterable<Uint8Array>): Promise<string> {
  const chunks: Uint8Array[] = []
  let size = 0
  for await (const chunk of source) {
    chunks.push(chunk)
    size += chunk.length
    if (size > MAX_TEXT) throw new CliError('the Containerfile on standard input is larger than 16 MiB')
  }
  return Buffer.concat(chunks).toString('utf8')
}

/** `NAME=DIR`, `NAME=docker-image://REF`, `NAME=oci-layout://PATH`. */
export async function readNamedContexts(
  words: readonly string[],
  store: Store,
  platform: string | undefined,
  signal: AbortSignal,
): Promise<Record<string, NamedContext>> {
  const found: Record<string, NamedContext> = {}
  for (const word of words) {
    const equals = word.indexOf('=')
    const [name, value] = [word.slice(0, equals), word.slice(equals + 1)]
    if (equals < 1 || value === '') throw new CliError(`--build-context ${word} is not NAME=DIR`, 2)
    found[name] = await namedContext(word, value, store, platform, signal)
  }
  return found
}

async function namedContext(
  word: string,
  value: string,
  store: Store,
  platform: string | undefined,
  signal: AbortSignal,
): Promise<NamedContext> {
  const scheme = /^([a-z-]+):\/\//.exec(value)?.[1]
  if (scheme === 'docker-image') return { image: value.slice('docker-image://'.length) }
  if (scheme === 'oci-layout') {
    const { loadImages } = await import('../manager/image-install.js')
    const { parsePlatform } = await import('../oci/platform.js')
    const path = value.slice('oci-layout://'.length)
    const [first, second] = await loadImages(store, path, {
      signal,
      ...(platform === undefined ? {} : { platform: parsePlatform(platform) }),
    })
    if (first === undefined || second !== undefined)
      throw new CliError(`--build-context ${word}: the layout has several images: give one of one image`)
    return { image: first.id }
  }
  if (scheme !== undefined || /^git@/.test(value))
    throw new CliError(
      `--build-context ${word}: a directory, docker-image:// or oci-layout:// is what it takes`,
      2,
    )
  if (statSync(value, { throwIfNoEntry: false })?.isDirectory() !== true)
    throw new CliError(`--build-context ${word}: ${value} is no directory`)
  using root = sys.openat(sys.AT_FDCWD, fromUtf8(value), sys.O_RDONLY | sys.O_DIRECTORY)
  const ignore = IGNORE.map(name => readInside(root.n, name)).find(each => each !== undefined)
  return { dir: value, ...(ignore === undefined ? {} : { ignore: parseDockerignore(ignore) }) }
}
