/** Where `lamina build` sends what it has made, besides the store: `--output`, `--push`, `--cache-to`, `--cache-from`. */
import { existsSync, mkdirSync } from 'node:fs'
import type { CacheEntry } from '../manager/build/cache-image.js'
import type { RegistryAccess } from '../manager/image-pull.js'
import type { ImageRecord } from '../manager/images.js'
import type { Store } from '../manager/store.js'
import { printable, CliError } from './output.js'

export interface BuildOutput {
  readonly type: 'local' | 'tar' | 'oci' | 'docker' | 'image'
  /** A directory or file; `-` is standard output. Of an image, nothing. */
  readonly dest: string
  readonly names: readonly string[]
  readonly push: boolean
}

interface Transfer extends RegistryAccess {
  readonly signal: AbortSignal
}

const TYPES = ['local', 'tar', 'oci', 'docker', 'image'] as const

/** `DIR`, `-`, or `type=…,dest=…`. */
export function parseOutput(text: string): BuildOutput {
  if (!text.includes('=')) return { type: text === '-' ? 'tar' : 'local', dest: text, names: [], push: false }
  const fields = parseFields('--output', text, ['type', 'dest', 'name', 'push'])
  const asked = fields.get('type')
  const type = TYPES.find(each => each === (asked === 'registry' ? 'image' : asked))
  if (type === undefined) throw new CliError(`--output ${text}: type is ${TYPES.join(', ')} or registry`, 2)
  const dest = fields.get('dest') ?? (type === 'local' || type === 'image' ? '' : '-')
  if (type === 'local' && (dest === '' || dest === '-'))
    throw new CliError(`--output ${text}: a directory is missing: dest=DIR`, 2)
  const names = (fields.get('name') ?? '').split(',').filter(name => name !== '')
  return { type, dest, names, push: asked === 'registry' || fields.get('push') === 'true' }
}

/** `a=b,c=d`; a field may be quoted as a whole, as CSV has it. */
function parseFields(option: string, text: string, known: readonly string[]): Map<string, string> {
  const fields = new Map<string, string>()
  for (const part of text.match(/"(?:[^"]|"")*"|[^,]+/g) ?? []) {
    const field = part.startsWith('"') ? part.slice(1, -1).replaceAll('""', '"') : part
    const equals = field.indexOf('=')
    const name = field.slice(0, equals).toLowerCase()
    if (equals < 1 || !known.includes(name))
      throw new CliError(`${option} ${text}: '${field}' is none of ${known.join('=, ')}=`, 2)
    fields.set(name, field.slice(equals + 1))
  }
  return fields
}

export async function writeOutput(
  store: Store,
  image: ImageRecord,
  output: BuildOutput,
  /** What -t says. */
  tags: readonly string[],
  transfer: Transfer,
): Promise<void> {
  const { signal } = transfer
  const names = output.names.length > 0 ? output.names : tags
  if (output.type === 'image') {
    for (const name of output.names) store.images.tag(image.id, name)
    if (output.push) await push(store, names, transfer)
    return
  }
  if (output.type === 'local') {
    const { exportTree } = await import('../manager/build/export-tree.js')
    mkdirSync(output.dest, { recursive: true })
    const left = await exportTree(store, image.id, output.dest, signal)
    const [first] = left
    if (first !== undefined)
      process.stderr.write(
        `lamina: device nodes are not exported: '${printable(first)}' (${left.length} in all)\n`,
      )
    return
  }
  const { writeOut } = await import('./write-out.js')
  if (output.type === 'tar') {
    const { exportImage } = await import('../manager/image-export.js')
    await writeOut(exportImage(store, image.id, signal), output.dest, 'a tar', { signal })
    return
  }
  const { saveImages } = await import('../manager/image-save.js')
  const format = output.type === 'oci' ? 'oci-archive' : 'docker-archive'
  for (const name of output.names) store.images.tag(image.id, name)
  const refs = names.length > 0 ? names : [image.id]
  await writeOut(saveImages(store, refs, { format, signal }), output.dest, 'an archive', { signal })
}

/** @returns the digest of the manifest */
export async function push(
  store: Store,
  names: readonly string[],
  transfer: Transfer,
): Promise<string | undefined> {
  if (names.length === 0) throw new CliError('there is no name to push to: give one with -t', 2)
  const { pushImage } = await import('../manager/image-push.js')
  let digest: string | undefined
  for (const name of names) digest = await pushImage(store, name, transfer)
  return digest
}

export interface CachePlace {
  readonly type: 'registry' | 'local'
  /** A reference or a directory. */
  readonly where: string
  /** Steps of other stages too. */
  readonly all: boolean
}

/** `REF`, `type=registry,ref=REF`, `type=local,src=DIR` (to: `dest=DIR`, `mode=min|max`). */
export function parseCachePlace(option: '--cache-from' | '--cache-to', text: string): CachePlace {
  if (!text.includes('=')) return { type: 'registry', where: text, all: false }
  const directory = option === '--cache-from' ? 'src' : 'dest'
  const type = /(?:^|,)type=([^,]*)/.exec(text)?.[1]
  if (type !== 'registry' && type !== 'local')
    throw new CliError(`${option} ${text}: type is registry or local`, 2)
  const key = type === 'local' ? directory : 'ref'
  const fields = parseFields(option, text, ['type', key, ...(option === '--cache-to' ? ['mode'] : [])])
  const where = fields.get(key)
  const mode = fields.get('mode') ?? 'min'
  if (where === undefined || where === '') throw new CliError(`${option} ${text}: ${key}= is missing`, 2)
  if (mode !== 'min' && mode !== 'max') throw new CliError(`${option} ${text}: mode is min or max`, 2)
  return { type, where, all: mode === 'max' }
}

/** A place that cannot be read is told, and is no failure: the first build finds none. */
export async function takeCacheFrom(store: Store, { type, where }: CachePlace, transfer: Transfer) {
  const { takeCache } = await import('../manager/build/cache-image.js')
  try {
    if (type === 'local' && !existsSync(where)) throw new CliError(`${where} does not exist`)
    const images =
      type === 'local'
        ? await (await import('../manager/image-install.js')).loadImages(store, where, transfer)
        : [
            await (
              await import('../manager/image-pull.js')
            ).pullImage(store, where, { ...transfer, keepName: true }),
          ]
    for (const image of images) {
      takeCache(store, image)
      if (image.tags.length === 0) await store.images.remove(image.id)
    }
  } catch (error) {
    transfer.signal.throwIfAborted()
    process.stderr.write(
      `lamina: no build cache from ${where}: ${error instanceof Error ? error.message : ''}\n`,
    )
  }
}

export async function sendCacheTo(
  store: Store,
  { type, where, all }: CachePlace,
  entries: readonly CacheEntry[],
  image: ImageRecord,
  transfer: Transfer,
): Promise<void> {
  const { cacheImage } = await import('../manager/build/cache-image.js')
  const own = new Set<string | undefined>(store.layers.chainStack(image.chainId).map(chain => chain.chainId))
  const sent = cacheImage(
    store,
    all ? entries : entries.filter(({ chainId }) => chainId === undefined || own.has(chainId)),
  )
  try {
    if (type === 'local') {
      const { saveToDirectory } = await import('../manager/image-save.js')
      mkdirSync(where, { recursive: true })
      await saveToDirectory(store, [sent.id], where, { signal: transfer.signal })
    } else {
      const { pushImage } = await import('../manager/image-push.js')
      await pushImage(store, sent.id, { ...transfer, to: where })
    }
  } finally {
    await store.images.remove(sent.id)
  }
}
