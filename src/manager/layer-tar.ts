/** A layer's directory and its tar, in both directions: the store's use of src/oci. */
import { join } from 'node:path'
import { fromUtf8 } from '../base/bytes.js'
import { applyLayer, recordTarSplit, replayTarSplit, tarTree } from '../oci/index.js'
import type { AnyCompression, ByteSource, Digest, Expected } from '../oci/index.js'
import * as sys from '../sys/index.js'
import { layerDialect, overlayPrefix } from './layer-form.js'
import { inUserNamespace } from './rootless/standing.js'
import type { Ownership } from './rootless/store-ids.js'

export interface UnpackOptions {
  /** What the uncompressed tar must hash to. */
  readonly diffId?: Digest | undefined
  /** What the bytes as they come must be. */
  readonly blob?: Expected | undefined
  readonly signal?: AbortSignal | undefined
  /** Bytes of the source read so far. */
  readonly onBytes?: ((bytes: number) => void) | undefined
  /** The user's own archive: no limit on how much a small file may expand to. */
  readonly trusted?: boolean
  readonly what?: string
}

export interface Unpacked {
  readonly diffId: Digest
  /** Bytes of the uncompressed tar. */
  readonly tarSize: number
  readonly recipeSize: number
  readonly compression: AnyCompression
  readonly blob: { readonly digest: Digest; readonly size: number }
  readonly warnings: readonly string[]
}

/** Unpacks `source` into HOME/diff and writes HOME/recipe. */
export async function unpackLayer(
  source: ByteSource,
  home: string,
  ownership: Ownership,
  options: UnpackOptions,
): Promise<Unpacked> {
  using root = sys.openat(sys.AT_FDCWD, fromUtf8(join(home, 'diff')), sys.O_RDONLY | sys.O_DIRECTORY)
  const recipePath = fromUtf8(join(home, 'recipe'))
  using recipe = sys.openat(sys.AT_FDCWD, recipePath, sys.O_RDWR | sys.O_CREAT | sys.O_EXCL, 0o600)
  const { onBytes } = options
  const result = await applyLayer(root.n, onBytes === undefined ? source : counting(source, onBytes), {
    whiteouts: 'overlay',
    dialect: layerDialect(),
    xattrPrefix: overlayPrefix(),
    ownership,
    // Docker and Podman do so too: a container's devices are its runtime's. The layer still goes out with them.
    devices: inUserNamespace() ? 'skip' : 'refuse',
    record: recordTarSplit(recipe.n),
    diffId: options.diffId,
    blob: options.blob,
    signal: options.signal,
    ...(options.trusted === true ? { expansion: false as const } : {}),
    ...(options.what === undefined ? {} : { what: options.what }),
  })
  tell(result.diffId, result.warnings)
  return {
    diffId: result.diffId,
    tarSize: result.size,
    recipeSize: sys.statFd(recipe.n).blocks * 512,
    compression: result.compression,
    blob: { digest: result.blobDigest, size: result.blobSize },
    warnings: result.warnings,
  }
}

/** What is missing in a layer should be known when something in a container then misses it. */
function tell(diffId: Digest, warnings: readonly string[]): void {
  const [first] = warnings
  if (first === undefined) return
  const more = warnings.length > 1 ? ` (and ${warnings.length - 1} more)` : ''
  process.emitWarning(`layer ${diffId.slice(7, 19)}: ${first}${more}`, 'LaminaWarning')
}

/** The tar that the layer came as, byte for byte; fails at its end where the files were altered. */
export async function* readLayerTar(home: string): AsyncGenerator<Uint8Array, void, void> {
  using root = sys.openat(sys.AT_FDCWD, fromUtf8(join(home, 'diff')), sys.O_RDONLY | sys.O_DIRECTORY)
  using recipe = sys.openat(sys.AT_FDCWD, fromUtf8(join(home, 'recipe')), sys.O_RDONLY)
  yield* replayTarSplit(recipe.n, root.n)
}

/**
 * A new tar of a directory in overlay form: reproducible, whiteouts as `.wh.` entries.
 * `ownership`: of the store. Only where owners are kept in an attribute, which nobody can set through the daemon, is it believed.
 */
export async function* packTree(
  dir: string,
  ownership: Ownership = 'chown',
  signal?: AbortSignal,
): AsyncGenerator<Uint8Array, void, void> {
  using root = sys.openat(sys.AT_FDCWD, fromUtf8(dir), sys.O_RDONLY | sys.O_DIRECTORY)
  yield* tarTree(root.n, {
    contents: 'layer',
    overrideStat: ownership === 'xattr',
    xattrPrefix: overlayPrefix(),
    clampMtime: sourceDateEpoch(),
    signal,
  })
}

async function* counting(
  source: ByteSource,
  onBytes: (bytes: number) => void,
): AsyncGenerator<Uint8Array, void, void> {
  let bytes = 0
  for await (const chunk of source) {
    bytes += chunk.length
    onBytes(bytes)
    yield chunk
  }
}

/** Seconds; later times in a new layer become this one. Source: reproducible-builds.org/specs/source-date-epoch. */
export function sourceDateEpoch(): number | undefined {
  const text = process.env['SOURCE_DATE_EPOCH']
  return text !== undefined && /^\d{1,12}$/.test(text) ? Number(text) : undefined
}
