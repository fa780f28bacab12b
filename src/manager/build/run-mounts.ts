/**
 * `RUN --mount=type=bind|cache|tmpfs|secret`: what a step sees besides its tree, and what is not in its layer.
 * Source: docs.docker.com/reference/dockerfile, "RUN --mount".
 */
import { createHash } from 'node:crypto'
import { chmodSync, chownSync, copyFileSync, existsSync, mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { resolveWorkdir } from '../config-change.js'
import type { BundleMount } from '../oci-bundle.js'
import { StoreError } from '../store-error.js'

export interface MountSources {
  /** Where cache mounts are kept between builds. */
  readonly caches: string
  /** The build context's directory. */
  readonly context: string | undefined
  /** id to file. */
  readonly secrets: Readonly<Record<string, string>>
  /** The mounted tree of a stage or image. */
  readonly treeOf: (from: string) => Promise<string>
  readonly scratch: string
  readonly workingDir: string | undefined
}

export async function runMount(text: string, sources: MountSources): Promise<BundleMount | undefined> {
  const fields = new Map<string, string>()
  for (const part of text.split(',')) {
    const equals = part.indexOf('=')
    fields.set(equals < 0 ? part : part.slice(0, equals), equals < 0 ? 'true' : part.slice(equals + 1))
  }
  const value = (...names: string[]): string | undefined =>
    names.map(name => fields.get(name)).find(found => found !== undefined)
  const type = value('type') ?? 'bind'
  const asked = value('target', 'dst', 'destination')
  const target = resolveWorkdir(
    sources.workingDir,
    asked ?? (type === 'secret' ? `/run/secrets/${value('id') ?? ''}` : ''),
  )
  if (target === '/') throw new StoreError('invalid', `RUN --mount=${text} has no target`)
  const readOnly = flag(
    value('readonly', 'ro'),
    type === 'bind' && flag(value('rw', 'readwrite'), false) === false,
  )
  switch (type) {
    case 'tmpfs': {
      const size = value('size')
      return {
        type: 'tmpfs',
        source: 'tmpfs',
        target,
        options: ['nosuid', 'nodev', ...(size === undefined ? [] : [`size=${size}`])],
      }
    }
    case 'cache':
      return {
        type: 'bind',
        source: cacheDir(sources.caches, value('id') ?? target, value),
        target,
        options: readOnly ? ['ro'] : [],
      }
    case 'bind': {
      const from = value('from')
      const root = from === undefined ? sources.context : await sources.treeOf(from)
      if (root === undefined)
        throw new StoreError('invalid', `RUN --mount=${text}: this build has no context`)
      const inside = resolveWorkdir('/', value('source', 'src') ?? '/')
      return { type: 'bind', source: join(root, inside), target, options: readOnly ? ['ro'] : [] }
    }
    case 'secret': {
      const id = value('id') ?? target.slice(target.lastIndexOf('/') + 1)
      const file = sources.secrets[id]
      if (file === undefined) {
        if (!flag(value('required'), false)) return undefined
        throw new StoreError(
          'invalid',
          `the build needs the secret '${id}'`,
          `give it with --secret id=${id},src=FILE`,
        )
      }
      const copy = join(
        sources.scratch,
        `secret-${createHash('sha256').update(id).digest('hex').slice(0, 16)}`,
      )
      copyFileSync(file, copy)
      chmodSync(copy, Number.parseInt(value('mode') ?? '400', 8))
      chownSync(copy, Number(value('uid') ?? 0), Number(value('gid') ?? 0))
      return { type: 'bind', source: copy, target, options: ['ro'] }
    }
    default:
      throw new StoreError(
        'unsupported',
        `RUN --mount=type=${type} is not supported`,
        'bind, cache, tmpfs and secret are',
      )
  }
}

/** By id; two ids never share a directory, whatever characters they have. */
function cacheDir(caches: string, id: string, value: (...names: string[]) => string | undefined): string {
  const dir = join(caches, createHash('sha256').update(id).digest('hex').slice(0, 32))
  if (existsSync(dir) && statSync(dir).isDirectory()) return dir
  mkdirSync(dir, { recursive: true })
  chmodSync(dir, Number.parseInt(value('mode') ?? '755', 8))
  chownSync(dir, Number(value('uid') ?? 0), Number(value('gid') ?? 0))
  return dir
}

function flag(text: string | undefined, otherwise: boolean): boolean {
  return text === undefined ? otherwise : text !== 'false' && text !== '0'
}
