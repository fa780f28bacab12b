/**
 * Layers, stored once by diffID, and chains, the stacks that they form.
 *
 * A layer is one directory tree in overlay form plus what it takes to write its tar again byte for byte. A chain is a
 * layer on top of a parent chain; images, containers and the build cache refer to chains.
 */
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { Digester, nextChainId, type Digest } from '../oci/index.js'
import type { ByteSource, Expected } from '../oci/index.js'
import { layerChanges, type Change } from './changes.js'
import { collect, type Collected } from './collector.js'
import type { Stack } from './drivers/driver.js'
import { makeDurable } from './durable.js'
import { copying, noteKept, placeBlob, type BlobToKeep } from './kept-blobs.js'
import { packTree, readLayerTar, unpackLayer, type Unpacked } from './layer-tar.js'
import type { Lease } from './leases.js'
import { removeTree } from './remove-tree.js'
import { openAll } from './stack-roots.js'
import type { StoreContext } from './store-context.js'
import { causeOf, notFound, StoreError } from './store-error.js'
import { treeFingerprint, type TreeUsage } from './tree-usage.js'

/** One stored layer. Sizes in bytes, times in milliseconds. */
export interface LayerRecord {
  readonly diffId: Digest
  /** Directory name under layers/. */
  readonly dir: string
  /** What its files hold; hard links once. */
  readonly size: number
  /** What it takes on disk. */
  readonly disk: number
  readonly entries: number
  readonly tarSize: number
  readonly created: number
  /** Chains that have it. */
  readonly chains: number
}

export interface ChainRecord {
  readonly chainId: Digest
  readonly diffId: Digest
  readonly parent: Digest | undefined
  readonly depth: number
  /** Of the whole stack. */
  readonly size: number
  readonly pinned: boolean
  readonly created: number
  readonly layer: LayerRecord
}

interface LayerRow {
  diff_id: Digest
  dir: string
  size: number
  disk: number
  entries: number
  tar_size: number
  created: number
  chains: number
}

interface ChainRow {
  chain_id: Digest
  diff_id: Digest
  parent: Digest | null
  depth: number
  chain_size: number
  pinned: number
  chain_created: number
}

const LAYER_COLUMNS = `l.diff_id, l.dir, l.size, l.disk, l.entries, l.tar_size, l.created,
  (SELECT count(*) FROM chains WHERE diff_id = l.diff_id) AS chains`
const CHAIN_COLUMNS = `c.chain_id, c.parent, c.depth, c.size AS chain_size, c.pinned, c.created AS chain_created`

export interface AddLayerOptions {
  /** What the uncompressed tar must hash to. */
  readonly diffId?: Digest
  /** Digest and size of the bytes as they come. */
  readonly blob?: Expected
  /** The user's own archive: no limit on how much a small file may expand to. */
  readonly trusted?: boolean
  /** The bytes as they come are kept, too. */
  readonly keep?: BlobToKeep | undefined
  /** Named in errors. */
  readonly what?: string
  readonly signal?: AbortSignal
  /** Bytes of the source read so far. */
  readonly onBytes?: (bytes: number) => void
}

export class Layers {
  constructor(readonly context: StoreContext) {}

  // ---- adding

  /**
   * Stores the layer whose tar (plain, gzip or zstd) is `source`, unless it is stored already. `lease` keeps it until
   * something refers to it.
   * @throws OciError for a bad archive, SysError ENOSPC …; nothing is left behind
   */
  async add(source: ByteSource, lease: Lease, options: AddLayerOptions = {}): Promise<LayerRecord> {
    const { db, claims, paths } = this.context
    const dir = randomBytes(6).toString('hex')
    const claim = claims.claim('layer', dir)
    const home = join(paths.layers, dir)
    let diffId: Digest
    try {
      mkdirSync(join(home, 'diff'), { recursive: true, mode: 0o755 })
      const { keep } = options
      const copy = join(home, 'blob')
      const copied = keep !== undefined && keep.file === undefined
      const unpacked = await unpackLayer(
        copied ? copying(source, copy) : source,
        home,
        this.context.ownership,
        options,
      )
      const blobSize = keep === undefined ? 0 : placeBlob(home, keep.descriptor.digest, keep.file ?? copy)
      if (copied) rmSync(copy)
      const usage = treeFingerprint(join(home, 'diff'))
      await makeDurable(this.context, home, usage.entries)
      const stored = db.transaction(() => {
        const known = this.get(unpacked.diffId)
        if (known === undefined) this.#insert(unpacked, dir, usage, blobSize)
        if (known === undefined && keep !== undefined)
          noteKept(this.context, keep.descriptor, unpacked.diffId)
        lease.keepLayer(unpacked.diffId)
        return known === undefined
      })
      diffId = unpacked.diffId
      // Another process was faster, or the caller did not know the diffID: its copy serves us too.
      if (!stored) await removeTree(home)
      claim.release()
    } catch (error) {
      await removeTree(home).then(
        () => claim.release(),
        () => claim.abandon(),
      )
      throw error
    }
    const record = this.get(diffId)
    if (record === undefined) throw new Error(`layer ${diffId} vanished although it is leased`)
    return record
  }

  #insert(
    unpacked: Unpacked,
    dir: string,
    usage: TreeUsage & { readonly fingerprint: string },
    blobSize: number,
  ): void {
    this.context.db.run(
      `INSERT INTO layers (diff_id, dir, size, disk, entries, tar_size, fingerprint, created)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
      unpacked.diffId,
      dir,
      usage.size,
      usage.bytes + unpacked.recipeSize + blobSize,
      usage.entries,
      unpacked.tarSize,
      usage.fingerprint,
      Date.now(),
    )
  }

  /** Stores the directory tree `dir` (in overlay form: whiteouts and opaque directories are kept as such). */
  async addTree(dir: string, lease: Lease, options: AddLayerOptions = {}): Promise<LayerRecord> {
    return await this.add(packTree(dir, this.context.ownership, options.signal), lease, options)
  }

  /**
   * The chain of `diffId` on top of `parent`, made if there is none. To be called in the transaction that refers to it,
   * or with a lease that keeps it.
   */
  link(diffId: Digest, parent: Digest | undefined, lease?: Lease): Digest {
    const { db } = this.context
    const chainId = nextChainId(parent, diffId)
    db.transaction(() => {
      const below = parent === undefined ? undefined : this.#mustGetChain(parent)
      const layer = this.#mustGet(diffId)
      db.run(
        `INSERT OR IGNORE INTO chains (chain_id, diff_id, parent, depth, size, created) VALUES (?, ?, ?, ?, ?, ?)`,
        chainId,
        diffId,
        parent ?? null,
        (below?.depth ?? 0) + 1,
        (below?.size ?? 0) + layer.size,
        Date.now(),
      )
      lease?.keepChain(chainId)
    })
    return chainId
  }

  /** The chain of a whole stack, lowest first; `undefined` for an empty one. All layers must be stored. */
  linkAll(diffIds: readonly Digest[]): Digest | undefined {
    let chain: Digest | undefined
    for (const diffId of diffIds) chain = this.link(diffId, chain)
    return chain
  }

  /** Keeps (or no longer keeps) a chain that nothing refers to. */
  pin(chainId: Digest, pinned = true): void {
    this.context.db.run('UPDATE chains SET pinned = ? WHERE chain_id = ?', pinned ? 1 : 0, chainId)
  }

  // ---- reading

  get(diffId: string): LayerRecord | undefined {
    const row = this.context.db.get<LayerRow>(
      `SELECT ${LAYER_COLUMNS} FROM layers AS l WHERE l.diff_id = ?`,
      diffId,
    )
    return row === undefined ? undefined : toLayer(row)
  }

  #mustGet(diffId: string): LayerRecord {
    const layer = this.get(diffId)
    if (layer === undefined)
      throw new StoreError('corrupt', `layer ${diffId} is not stored`, "run 'lamina system check'")
    return layer
  }

  getChain(chainId: string): ChainRecord | undefined {
    const row = this.context.db.get<LayerRow & ChainRow>(
      `SELECT ${CHAIN_COLUMNS}, ${LAYER_COLUMNS} FROM chains AS c JOIN layers AS l USING (diff_id) WHERE c.chain_id = ?`,
      chainId,
    )
    return row === undefined ? undefined : toChain(row)
  }

  #mustGetChain(chainId: string): ChainRecord {
    const chain = this.getChain(chainId)
    if (chain === undefined)
      throw new StoreError('corrupt', `chain ${chainId} is not stored`, "run 'lamina system check'")
    return chain
  }

  list(): LayerRecord[] {
    const sql = `SELECT ${LAYER_COLUMNS} FROM layers AS l ORDER BY l.created, l.diff_id`
    return this.context.db.all<LayerRow>(sql).map(toLayer)
  }

  listChains(): ChainRecord[] {
    const sql = `SELECT ${CHAIN_COLUMNS}, ${LAYER_COLUMNS} FROM chains AS c JOIN layers AS l USING (diff_id)
      ORDER BY c.depth, c.created, c.chain_id`
    return this.context.db.all<LayerRow & ChainRow>(sql).map(toChain)
  }

  /**
   * The chain that a person means: a chainID, or the diffID of a layer that one chain has; whole or the beginning of
   * the hex digits, with or without `sha256:`.
   * @throws StoreError not-found, ambiguous
   */
  find(ref: string): ChainRecord {
    const prefix = digestPrefix(ref)
    if (prefix === undefined) throw notFound('layer', ref)
    const sql = `SELECT ${CHAIN_COLUMNS}, ${LAYER_COLUMNS} FROM chains AS c JOIN layers AS l USING (diff_id)`
    const match = (column: string): ChainRecord[] =>
      this.context.db
        .all<LayerRow & ChainRow>(`${sql} WHERE ${column} >= ? AND ${column} < ?`, prefix, prefix + 'g')
        .map(toChain)
    const chains = match('c.chain_id')
    const found = chains.length > 0 ? chains : match('c.diff_id')
    const [first, second] = found
    if (first === undefined) throw notFound('layer', ref)
    if (second !== undefined) {
      const names = found.slice(0, 4).map(chain => shortDigest(chain.chainId))
      throw new StoreError(
        'ambiguous',
        `${ref} means ${found.length} layers: ${names.join(', ')}`,
        'name one by its chainID',
      )
    }
    return first
  }

  /** A chain and all below it, top first. */
  chainStack(chainId: Digest | undefined): ChainRecord[] {
    const stack: ChainRecord[] = []
    for (let next = chainId; next !== undefined;) {
      const chain = this.#mustGetChain(next)
      stack.push(chain)
      next = chain.parent
    }
    return stack
  }

  /** What a driver mounts for a chain. */
  stack(chainId: Digest | undefined): Stack {
    const dirs = this.chainStack(chainId).map(chain => this.tree(chain.layer))
    return { chainId, dirs }
  }

  parentStack(chainId: string): Stack {
    return this.stack(this.#mustGetChain(chainId).parent)
  }

  /** The tree of a layer, in overlay form. */
  tree(layer: LayerRecord): string {
    return this.context.paths.layerTree(layer.dir)
  }

  /** The layer's tar, uncompressed, with the digest that it came with. */
  tar(layer: LayerRecord): ByteSource {
    return readLayerTar(join(this.context.paths.layers, layer.dir))
  }

  /** What the top layer of a chain changes in those below it. */
  *changes(chain: ChainRecord): Generator<Change, void, void> {
    using roots = openAll(this.stack(chain.chainId).dirs)
    const [upper = -1, ...below] = roots.fds
    yield* layerChanges(upper, below)
  }

  /** Who needs a chain: images, containers, chains on top, build steps, mounts, running commands. */
  users(chain: ChainRecord): string[] {
    const { db } = this.context
    const names = (what: string, sql: string): string[] =>
      db.all<{ name: string }>(sql, chain.chainId).map(row => `${what} ${row.name}`)
    return [
      ...names(
        'image',
        'SELECT coalesce((SELECT min(name) FROM tags WHERE image = id), substr(id, 8, 12)) AS name FROM images WHERE chain_id = ?',
      ),
      ...names('container', 'SELECT name FROM containers WHERE chain_id = ?'),
      ...names('layer', 'SELECT substr(chain_id, 8, 12) AS name FROM chains WHERE parent = ?'),
      ...names('build step', 'SELECT instruction AS name FROM build_cache WHERE chain_id = ?'),
      ...names('mount', 'SELECT target AS name FROM mounts WHERE chain_id = ?'),
      ...names('running command', 'SELECT id AS name FROM leases WHERE chain_id = ?'),
    ]
  }

  // ---- removing

  /**
   * Removes a chain that nothing uses, and its layer's files if no other chain has them.
   * @throws StoreError in-use
   */
  async remove(ref: string): Promise<Collected> {
    const { db } = this.context
    const chain = this.find(ref)
    return await collect(this.context, () => {
      const users = this.users(chain)
      if (users.length > 0) {
        const more = users.length > 3 ? ` and ${users.length - 3} more` : ''
        throw new StoreError(
          'in-use',
          `layer ${shortDigest(chain.chainId)} is used by ${users.slice(0, 3).join(', ')}${more}`,
          'remove what uses it first',
        )
      }
      db.run('UPDATE chains SET pinned = 0 WHERE chain_id = ?', chain.chainId)
    })
  }

  /**
   * Whether the layer's files still are what its diffID says.
   * @returns what is wrong, or `undefined`
   */
  async verify(layer: LayerRecord, signal?: AbortSignal): Promise<string | undefined> {
    if (!existsSync(this.tree(layer))) return 'its directory is missing'
    const digester = new Digester()
    try {
      for await (const chunk of this.tar(layer)) {
        signal?.throwIfAborted()
        digester.update(chunk)
      }
    } catch (error) {
      if (signal?.aborted === true) throw error
      return causeOf(error)
    }
    if (digester.digest() !== layer.diffId) return 'its files were altered'
    // The tar's headers come from the recipe: what they say of names, modes, owners and times must be true as well.
    const sql = 'SELECT fingerprint FROM layers WHERE diff_id = ?'
    const recorded = this.context.db.get<{ fingerprint: string }>(sql, layer.diffId)?.fingerprint
    const { fingerprint } = treeFingerprint(this.tree(layer))
    return recorded === fingerprint ? undefined : 'names, modes, owners or times in it were altered'
  }
}

function toLayer(row: LayerRow): LayerRecord {
  return {
    diffId: row.diff_id,
    dir: row.dir,
    size: row.size,
    disk: row.disk,
    entries: row.entries,
    tarSize: row.tar_size,
    created: row.created,
    chains: row.chains,
  }
}

function toChain(row: LayerRow & ChainRow): ChainRecord {
  return {
    chainId: row.chain_id,
    diffId: row.diff_id,
    parent: row.parent ?? undefined,
    depth: row.depth,
    size: row.chain_size,
    pinned: row.pinned === 1,
    created: row.chain_created,
    layer: toLayer(row),
  }
}

/** `sha256:` and the hex digits that a person gave, or `undefined` for anything else. */
export function digestPrefix(ref: string): string | undefined {
  const hex = ref.startsWith('sha256:') ? ref.slice(7) : ref
  return /^[0-9a-f]{2,64}$/.test(hex) ? `sha256:${hex}` : undefined
}

/** Twelve hex digits, as every tool shows them. */
export function shortDigest(digest: string): string {
  return digest.slice(digest.indexOf(':') + 1).slice(0, 12)
}
