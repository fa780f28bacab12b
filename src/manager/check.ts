/**
 * `system check`: whether rows, directories and mounts agree, and what to do where they do not.
 *
 * It may run beside other commands: what a live process has claimed is left out, and every finding about a directory
 * is made while holding its claim.
 */
import { createReadStream, existsSync, readdirSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fromUtf8, toUtf8 } from '../base/bytes.js'
import { SysError } from '../base/sys-error.js'
import { chainId, digestAlgorithm, Digester, parseConfig } from '../oci/index.js'
import * as sys from '../sys/index.js'
import type { ClaimKind } from './claims.js'
import { collect } from './collector.js'
import { displayName } from './images.js'
import { dropBlob, keptBlobs } from './kept-blobs.js'
import { shortDigest } from './layers.js'
import { isMounted, mountTable, unmountOne } from './mount-table.js'
import { removeTree } from './remove-tree.js'
import type { Store } from './store.js'
import { causeOf } from './store-error.js'
import { treeFingerprint } from './tree-usage.js'

export interface Problem {
  readonly kind:
    'database' | 'layer' | 'blob' | 'image' | 'container' | 'volume' | 'snapshot' | 'scratch' | 'mount'
  /** What it is about. */
  readonly name: string
  readonly problem: string
  /** What `repair` does, or has done, or why it can do nothing. */
  readonly remedy: string
  readonly repaired: boolean
}

export interface CheckOptions {
  readonly repair?: boolean
  /** Read every file and compare digests; otherwise names, sizes, owners, modes and times are compared. */
  readonly content?: boolean
  readonly signal?: AbortSignal
  readonly onLayer?: (done: number, total: number) => void
}

/** One finding, with what would mend it; no `mend` means a person must. */
interface Finding {
  readonly kind: Problem['kind']
  readonly name: string
  readonly problem: string
  readonly remedy: string
  readonly mend?: () => Promise<unknown> | void
}

export async function checkStore(store: Store, options: CheckOptions = {}): Promise<Problem[]> {
  const problems: Problem[] = []
  for await (const finding of findings(store, options)) {
    const { mend, ...said } = finding
    let repaired = false
    let remedy = said.remedy
    if (options.repair === true && mend !== undefined) {
      try {
        await mend()
        repaired = true
      } catch (error) {
        remedy = `${remedy} (failed: ${causeOf(error)})`
      }
    }
    problems.push({ ...said, remedy, repaired })
  }
  return problems
}

async function* findings(store: Store, options: CheckOptions): AsyncGenerator<Finding, void, void> {
  for (const line of store.db.integrity()) {
    yield {
      kind: 'database',
      name: store.paths.database,
      problem: line,
      remedy: 'restore the file from a backup',
    }
  }
  yield* orphans(store)
  yield* missing(store)
  yield* layerFindings(store, options)
  yield* blobFindings(store, options)
  yield* imageFindings(store)
  yield* mountFindings(store)
}

interface Shelf {
  readonly kind: ClaimKind & Problem['kind']
  readonly dir: string
  /** Names that rows know. */
  readonly known: string
}

function shelves(store: Store): Shelf[] {
  const { paths } = store
  return [
    { kind: 'layer', dir: paths.layers, known: 'SELECT dir AS name FROM layers' },
    { kind: 'snapshot', dir: paths.snapshots, known: 'SELECT dir AS name FROM snapshots' },
    { kind: 'container', dir: paths.containers, known: 'SELECT id AS name FROM containers' },
    { kind: 'volume', dir: paths.volumes, known: 'SELECT dir AS name FROM volumes' },
    { kind: 'scratch', dir: paths.scratch, known: "SELECT '' AS name WHERE 0" },
  ]
}

/** Directories that no row knows and no live process works on. */
function* orphans(store: Store): Generator<Finding, void, void> {
  for (const { kind, dir, known } of shelves(store)) {
    const listed = readdirSync(dir)
    const rows = (): Set<string> => new Set(store.db.all<{ name: string }>(known).map(row => row.name))
    const strangers = listed.filter(name => !rows().has(name) && !isFurniture(kind, name))
    for (const name of strangers) {
      const claim = store.claims.tryClaim(kind, name)
      if (claim === undefined) continue
      // Committed or removed since we looked?
      const settled = rows().has(name) || !existsSync(join(dir, name))
      claim.release()
      if (settled) continue
      yield {
        kind,
        name,
        problem: 'a directory that nothing refers to',
        remedy: 'remove it',
        mend: async () => {
          using held = store.claims.claim(kind, name)
          void held
          if (rows().has(name)) return
          if (kind === 'snapshot') await store.removeSnapshot(join(dir, name))
          else if (kind === 'container') await store.drivers.removeBox(join(dir, name))
          else await removeTree(join(dir, name))
        },
      }
    }
  }
}

/** Directories that drivers share: the empty lower layer. */
function isFurniture(kind: string, name: string): boolean {
  return kind === 'scratch' && name === 'empty'
}

/** Rows whose directory is gone. */
function* missing(store: Store): Generator<Finding, void, void> {
  for (const { kind, dir, known } of shelves(store)) {
    if (kind === 'layer') continue
    for (const { name } of store.db.all<{ name: string }>(known)) {
      if (existsSync(join(dir, name))) continue
      const claim = store.claims.tryClaim(kind, name)
      if (claim === undefined) continue
      claim.release()
      if (!store.db.all<{ name: string }>(known).some(row => row.name === name)) continue
      yield {
        kind,
        name: name.slice(0, 12),
        problem: 'its directory is missing',
        remedy: kind === 'volume' ? 'its data is lost: restore a backup, or remove the volume' : 'forget it',
        ...(kind === 'snapshot'
          ? { mend: () => void store.db.run('DELETE FROM snapshots WHERE dir = ?', name) }
          : kind === 'container'
            ? {
                mend: () =>
                  collect(store, () => {
                    store.db.run('DELETE FROM mounts WHERE container = ?', name)
                    store.db.run('DELETE FROM containers WHERE id = ?', name)
                  }),
              }
            : {}),
      }
    }
  }
}

/** Layers whose files are missing or not what they were. */
async function* layerFindings(store: Store, options: CheckOptions): AsyncGenerator<Finding, void, void> {
  const layers = store.layers.list()
  for (const [index, layer] of layers.entries()) {
    options.signal?.throwIfAborted()
    options.onLayer?.(index, layers.length)
    const problem = await layerProblem(store, layer.diffId, options)
    // Removed by another command while we read it?
    if (problem === undefined || store.layers.get(layer.diffId)?.dir !== layer.dir) continue
    const users = imagesWith(store, layer.diffId)
    const names = users.map(user => user.name).join(', ')
    const busy = users.some(user => user.containers > 0)
    yield {
      kind: 'layer',
      name: shortDigest(layer.diffId),
      problem,
      remedy: busy
        ? `containers stand on it: commit what matters, remove them, then load or pull ${names} again`
        : `remove it${names === '' ? '' : ` and ${names}`}, to be loaded or pulled again`,
      ...(busy
        ? {}
        : {
            mend: () =>
              removeBroken(
                store,
                layer.diffId,
                users.map(user => user.id),
              ),
          }),
    }
  }
}

/** Kept blobs that are missing or not what they were. The layer itself is whole without them. */
async function* blobFindings(store: Store, options: CheckOptions): AsyncGenerator<Finding, void, void> {
  for (const blob of keptBlobs(store)) {
    options.signal?.throwIfAborted()
    const size = statSync(blob.file, { throwIfNoEntry: false })?.size
    let problem = size === undefined ? 'it is missing' : undefined
    if (size !== undefined && size !== blob.size) problem = `it has ${size} bytes, not ${blob.size}`
    if (problem === undefined && options.content === true) {
      const digester = new Digester(digestAlgorithm(blob.digest))
      for await (const chunk of createReadStream(blob.file)) digester.update(chunk as Buffer)
      if (digester.digest() !== blob.digest) problem = 'it was altered'
    }
    // Dropped by another command while we read it?
    if (problem === undefined || !keptBlobs(store).some(({ digest }) => digest === blob.digest)) continue
    yield {
      kind: 'blob',
      name: shortDigest(blob.digest),
      problem,
      remedy: 'forget it: the layer is packed anew when it is needed so',
      mend: () => dropBlob(store, blob.digest),
    }
  }
}

async function layerProblem(
  store: Store,
  diffId: string,
  options: CheckOptions,
): Promise<string | undefined> {
  const layer = store.layers.get(diffId)
  if (layer === undefined) return undefined
  const home = join(store.paths.layers, layer.dir)
  if (!existsSync(join(home, 'diff'))) return 'its directory is missing'
  if (!existsSync(join(home, 'recipe'))) return 'its recipe (the tar headers) is missing'
  if (options.content === true) return await store.layers.verify(layer, options.signal)
  const row = store.db.get<{ fingerprint: string }>(
    'SELECT fingerprint FROM layers WHERE diff_id = ?',
    diffId,
  )
  const { fingerprint } = treeFingerprint(join(home, 'diff'))
  return row === undefined || row.fingerprint === fingerprint
    ? undefined
    : 'names, sizes, modes, owners or times in it were altered'
}

function imagesWith(store: Store, diffId: string): { id: string; name: string; containers: number }[] {
  const rows = store.db.all<{ id: string; name: string | null; containers: number }>(
    `WITH RECURSIVE down (chain_id) AS (
       SELECT chain_id FROM chains WHERE diff_id = ?
       UNION SELECT c.chain_id FROM down JOIN chains AS c ON c.parent = down.chain_id
     )
     SELECT id, (SELECT min(name) FROM tags WHERE image = id) AS name,
       (SELECT count(*) FROM containers WHERE image = images.id) AS containers
     FROM images WHERE chain_id IN (SELECT chain_id FROM down)`,
    diffId,
  )
  return rows.map(row => ({
    id: row.id,
    name: row.name === null ? shortDigest(row.id) : displayName(row.name),
    containers: row.containers,
  }))
}

async function removeBroken(store: Store, diffId: string, images: readonly string[]): Promise<void> {
  const below = `WITH RECURSIVE down (chain_id) AS (
    SELECT chain_id FROM chains WHERE diff_id = ?
    UNION SELECT c.chain_id FROM down JOIN chains AS c ON c.parent = down.chain_id)`
  await collect(store, () => {
    for (const id of images) store.db.run('DELETE FROM images WHERE id = ?', id)
    store.db.run(`${below} DELETE FROM build_cache WHERE chain_id IN (SELECT chain_id FROM down)`, diffId)
    store.db.run(
      `${below} UPDATE chains SET pinned = 0 WHERE chain_id IN (SELECT chain_id FROM down)`,
      diffId,
    )
  })
  if (store.layers.get(diffId) !== undefined) throw new Error('something still uses it')
}

/** Images whose rows contradict their own config. */
function* imageFindings(store: Store): Generator<Finding, void, void> {
  for (const image of store.images.list()) {
    let problem: string | undefined
    try {
      const config = parseConfig(store.images.configBytes(image.id))
      if (chainId(config.rootfs.diff_ids) !== image.chainId)
        problem = 'its layers are not those of its config'
    } catch (error) {
      problem = `its config cannot be read: ${causeOf(error)}`
    }
    if (problem === undefined) continue
    yield {
      kind: 'image',
      name: displayName(image.tags[0] ?? shortDigest(image.id)),
      problem,
      remedy: 'remove it, to be loaded or pulled again',
      mend: () => collect(store, () => void store.db.run('DELETE FROM images WHERE id = ?', image.id)),
    }
  }
}

/** Rows of mounts that are not there, mounts of the store without a row, and mounts whose daemon died. */
function* mountFindings(store: Store): Generator<Finding, void, void> {
  const rows = store.db.all<{ target: string; driver: string }>('SELECT target, driver FROM mounts')
  for (const { target } of rows) {
    if (!isMounted(target)) {
      yield {
        kind: 'mount',
        name: target,
        problem: 'recorded and not mounted',
        remedy: 'forget it',
        mend: () => void store.db.run('DELETE FROM mounts WHERE target = ?', target),
      }
    } else if (isDead(target)) {
      yield {
        kind: 'mount',
        name: target,
        problem: 'its daemon has died',
        remedy: 'unmount it; the next mount starts anew',
        mend: () => {
          unmountOne(fromUtf8(target), true)
          store.db.run('DELETE FROM mounts WHERE target = ?', target)
        },
      }
    }
  }
  const known = new Set(rows.map(row => fromUtf8(row.target)))
  const ours = [store.paths.containers, store.paths.mounts].map(dir => fromUtf8(dir) + '/')
  for (const { target } of mountTable()) {
    const inStore = ours.some(dir => target.startsWith(dir))
    // Volumes and the like are mounted inside the mount of their container.
    const within = [...known].some(other => target === other || target.startsWith(other + '/'))
    if (!inStore || within || claimedByLive(store, target)) continue
    yield {
      kind: 'mount',
      name: toUtf8(target),
      problem: 'mounted in the store, and nothing refers to it',
      remedy: 'unmount it',
      mend: () => unmountOne(target, true),
    }
  }
}

/** A command may be between mount and commit. */
function claimedByLive(store: Store, target: string): boolean {
  const prefix = fromUtf8(store.paths.containers) + '/'
  if (!target.startsWith(prefix)) return false
  const id = target.slice(prefix.length).split('/')[0] ?? ''
  return store.claims.isHeld('container', id)
}

function isDead(target: string): boolean {
  try {
    sys.statAt(sys.AT_FDCWD, fromUtf8(target))
    return false
  } catch (error) {
    return error instanceof SysError
  }
}

/** Downloads that nobody goes on with; returns their number and bytes. */
export function prunePartial(store: Store, dryRun: boolean): { count: number; bytes: number } {
  let count = 0
  let bytes = 0
  for (const name of readdirSync(store.paths.partial)) {
    const claim = store.claims.tryClaim('partial', name)
    if (claim === undefined) continue
    const path = join(store.paths.partial, name)
    const stat = sys.statAt(sys.AT_FDCWD, fromUtf8(path))
    if (stat !== undefined) {
      count += 1
      bytes += stat.blocks * 512
      if (!dryRun) rmSync(path, { force: true })
    }
    claim.release()
  }
  return { count, bytes }
}
