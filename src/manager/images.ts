/** Images: a config and a chain of layers, with the names that point to it. */
import {
  configPlatform,
  digestOf,
  familiarReference,
  formatReference,
  OciError,
  parseConfig,
  parseReference,
  repositoryName,
  withDefaultTag,
} from '../oci/index.js'
import type { Digest, ImageConfig, Reference } from '../oci/index.js'
import { treeChanges, type Change } from './changes.js'
import { checkOptions } from './check-options.js'
import { collect, wouldCollect, type Collected } from './collector.js'
import { digestPrefix, shortDigest, type Layers } from './layers.js'
import { openAll } from './stack-roots.js'
import type { StoreContext } from './store-context.js'
import { notFound, StoreError } from './store-error.js'

export interface ImageRecord {
  /** Digest of the config. */
  readonly id: Digest
  readonly chainId: Digest | undefined
  readonly os: string
  readonly architecture: string
  readonly variant: string | undefined
  /** Of all its layers. */
  readonly size: number
  /** What the config says, in milliseconds; absent where it says nothing. */
  readonly created: number | undefined
  readonly added: number
  /** Canonical names, in order. */
  readonly tags: readonly string[]
  /** `registry/repository@digest`. */
  readonly repoDigests: readonly string[]
}

export interface HistoryEntry {
  readonly created: string | undefined
  readonly createdBy: string
  readonly comment: string
  /** Of the layer that the step made; 0 for a step that made none. */
  readonly size: number
  readonly diffId: Digest | undefined
}

export interface Removed extends Collected {
  readonly untagged: readonly string[]
  readonly images: readonly Digest[]
}

export interface StoredManifest {
  readonly digest: Digest
  readonly mediaType: string
  readonly content: Uint8Array
}

interface ImageRow {
  id: Digest
  chain_id: Digest | null
  os: string
  architecture: string
  variant: string | null
  size: number
  created: number | null
  added: number
}

const COLUMNS = 'id, chain_id, os, architecture, variant, size, created, added'

export class Images {
  constructor(
    readonly context: StoreContext,
    readonly layers: Layers,
  ) {}

  // ---- adding

  /**
   * Records an image whose layers are all stored and leased by the caller: image, chains and names in one transaction.
   * @throws OciError for a config that is none, StoreError when a layer is missing
   */
  add(config: Buffer, names: readonly string[] = [], manifest?: StoredManifest): ImageRecord {
    const id = digestOf(config)
    const parsed = parseConfig(config)
    const platform = configPlatform(parsed)
    const { db } = this.context
    db.transaction(() => {
      const chainId = this.layers.linkAll(parsed.rootfs.diff_ids)
      const size = chainId === undefined ? 0 : (this.layers.getChain(chainId)?.size ?? 0)
      db.run(
        `INSERT OR IGNORE INTO images (${COLUMNS}, config) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
        id,
        chainId ?? null,
        platform.os,
        platform.architecture,
        platform.variant ?? null,
        size,
        parseTime(parsed.created) ?? null,
        Date.now(),
        config,
      )
      if (manifest !== undefined) this.addManifest(id, manifest)
      for (const name of names) this.#setTag(name, id, manifest?.digest)
    })
    const record = this.get(id)
    if (record === undefined) throw new Error('the image that was just added is gone')
    return record
  }

  addManifest(image: Digest, manifest: StoredManifest): void {
    this.context.db.run(
      `INSERT INTO manifests (digest, image, media_type, content) VALUES (?, ?, ?, ?)
       ON CONFLICT (digest) DO UPDATE SET image = excluded.image, media_type = excluded.media_type`,
      manifest.digest,
      image,
      manifest.mediaType,
      manifest.content,
    )
  }

  /** Notes that `repository` has the image under a manifest digest. */
  addRepoDigest(repository: string, digest: Digest, image: Digest): void {
    this.context.db.run(
      'INSERT OR REPLACE INTO repo_digests (repository, digest, image) VALUES (?, ?, ?)',
      repository,
      digest,
      image,
    )
  }

  #setTag(name: string, image: Digest, manifest: string | undefined): void {
    this.context.db.run(
      `INSERT INTO tags (name, image, changed, manifest) VALUES (?, ?, ?, ?)
       ON CONFLICT (name) DO UPDATE SET image = excluded.image, changed = excluded.changed, manifest = excluded.manifest`,
      canonicalName(name),
      image,
      Date.now(),
      manifest ?? null,
    )
  }

  /** Notes that the image has gone under this name by a manifest that is stored; a name of another image stays as it is. */
  setTagManifest(name: string, image: Digest, manifest: Digest): void {
    this.context.db.run(
      'UPDATE tags SET manifest = ? WHERE name = ? AND image = ?',
      manifest,
      canonicalName(name),
      image,
    )
  }

  /** Gives an image one more name; a name that another image had moves. */
  tag(ref: string, name: string): ImageRecord {
    const canonical = canonicalName(name)
    this.context.db.transaction(() => {
      const image = this.find(ref)
      this.#setTag(canonical, image.id, this.manifestNamed(ref, image))
    })
    return this.find(canonical)
  }

  // ---- reading

  get(id: string): ImageRecord | undefined {
    const row = this.context.db.get<ImageRow>(`SELECT ${COLUMNS} FROM images WHERE id = ?`, id)
    return row === undefined ? undefined : this.#record(row)
  }

  #record(row: ImageRow): ImageRecord {
    const { db } = this.context
    const tags = db.all<{ name: string }>('SELECT name FROM tags WHERE image = ? ORDER BY name', row.id)
    const digests = db.all<{ repository: string; digest: string }>(
      'SELECT repository, digest FROM repo_digests WHERE image = ? ORDER BY repository',
      row.id,
    )
    return {
      id: row.id,
      chainId: row.chain_id ?? undefined,
      os: row.os,
      architecture: row.architecture,
      variant: row.variant ?? undefined,
      size: row.size,
      created: row.created ?? undefined,
      added: row.added,
      tags: tags.map(tag => tag.name),
      repoDigests: digests.map(entry => `${entry.repository}@${entry.digest}`),
    }
  }

  list(): ImageRecord[] {
    const { db } = this.context
    return db.snapshot(() =>
      db
        .all<ImageRow>(`SELECT ${COLUMNS} FROM images ORDER BY coalesce(created, added) DESC, id`)
        .map(row => this.#record(row)),
    )
  }

  /**
   * By name (`debian`, `host/repo:tag`, `repo@sha256:…`), or by the beginning of the ID.
   * @throws StoreError not-found, ambiguous
   */
  find(ref: string): ImageRecord {
    const byName = this.#findByName(ref)
    if (byName !== undefined) return byName
    const prefix = digestPrefix(ref)
    const rows =
      prefix === undefined
        ? []
        : this.context.db.all<ImageRow>(
            `SELECT ${COLUMNS} FROM images WHERE id >= ? AND id < ?`,
            prefix,
            prefix + 'g',
          )
    const [first, second] = rows
    if (first === undefined) throw notFound('image', ref, "see 'lamina image ls', or 'lamina image pull' it")
    if (second !== undefined) {
      throw new StoreError('ambiguous', `${ref} means ${rows.length} images`, 'give more digits, or a name')
    }
    return this.#record(first)
  }

  /** As find, but absence is no error. */
  lookup(ref: string): ImageRecord | undefined {
    try {
      return this.find(ref)
    } catch (error) {
      if (error instanceof StoreError && error.code === 'not-found') return undefined
      throw error
    }
  }

  #findByName(ref: string): ImageRecord | undefined {
    const { db } = this.context
    let reference: Reference
    try {
      reference = parseReference(ref)
    } catch (error) {
      if (error instanceof OciError) return undefined
      throw error
    }
    if (reference.digest !== undefined) {
      const sql = 'SELECT image FROM repo_digests WHERE repository = ? AND digest = ?'
      const row = db.get<{ image: string }>(sql, repositoryName(reference), reference.digest)
      return row === undefined ? undefined : this.get(row.image)
    }
    const byTag = (name: string): ImageRecord | undefined => {
      const row = db.get<{ image: string }>('SELECT image FROM tags WHERE name = ?', name)
      return row === undefined ? undefined : this.get(row.image)
    }
    const full = formatReference(withDefaultTag(reference))
    // Podman and buildah call what they build localhost/NAME: a short name means that too.
    const short = reference.domain === 'docker.io' && !ref.includes('/') ? `localhost/${ref}` : undefined
    const local = short === undefined ? undefined : formatReference(withDefaultTag(parseReference(short)))
    return byTag(full) ?? (local === undefined ? undefined : byTag(local))
  }

  /** The canonical name by which `ref` found its image, if it is a name. */
  tagNamed(ref: string, image: ImageRecord): string | undefined {
    let reference: Reference
    try {
      reference = parseReference(ref)
    } catch {
      return undefined
    }
    if (reference.digest !== undefined) return undefined
    const candidates = [
      reference,
      { ...reference, domain: 'localhost', path: reference.path.replace(/^library\//, '') },
    ]
    return candidates
      .map(each => formatReference(withDefaultTag(each)))
      .find(name => image.tags.includes(name))
  }

  /** The manifest that `ref` names: of a digest, or of the tag, which may have come by another one than the image's other tags. */
  manifestNamed(ref: string, image: ImageRecord): Digest | undefined {
    const { db } = this.context
    const tag = this.tagNamed(ref, image)
    if (tag !== undefined) {
      const row = db.get<{ manifest: Digest | null }>('SELECT manifest FROM tags WHERE name = ?', tag)
      return row?.manifest ?? undefined
    }
    const digest = ref.split('@')[1]
    if (digest === undefined) return undefined
    const sql = 'SELECT digest FROM manifests WHERE image = ? AND digest = ?'
    return db.get<{ digest: Digest }>(sql, image.id, digest)?.digest
  }

  /** The bytes whose digest is the image's ID. */
  configBytes(id: string): Buffer {
    const row = this.context.db.get<{ config: Uint8Array }>('SELECT config FROM images WHERE id = ?', id)
    if (row === undefined) throw notFound('image', id)
    return Buffer.from(row.config)
  }

  config(id: string): ImageConfig {
    return parseConfig(this.configBytes(id))
  }

  manifests(id: string): StoredManifest[] {
    return this.context.db
      .all<{ digest: Digest; media_type: string; content: Uint8Array }>(
        'SELECT * FROM manifests WHERE image = ?',
        id,
      )
      .map(row => ({ digest: row.digest, mediaType: row.media_type, content: row.content }))
  }

  /** The newest step first. */
  history(ref: string): HistoryEntry[] {
    const image = this.find(ref)
    const config = this.config(image.id)
    const stack = this.layers.chainStack(image.chainId).reverse()
    const steps = config.history ?? config.rootfs.diff_ids.map(() => ({ created_by: '(no history)' }))
    let next = 0
    const entries = steps.map((step): HistoryEntry => {
      const empty = 'empty_layer' in step && step.empty_layer === true
      const layer = empty ? undefined : stack[next++]?.layer
      return {
        created: 'created' in step && typeof step.created === 'string' ? step.created : undefined,
        createdBy: step.created_by ?? '',
        comment: 'comment' in step && typeof step.comment === 'string' ? step.comment : '',
        size: layer?.size ?? 0,
        diffId: layer?.diffId,
      }
    })
    return entries.reverse()
  }

  /** What turns the tree of image A into that of image B. Layers that both share are not read. */
  *diff(a: string, b: string): Generator<Change, void, void> {
    const before = this.layers.stack(this.find(a).chainId).dirs
    const after = this.layers.stack(this.find(b).chainId).dirs
    using old = openAll(before)
    using now = openAll(after)
    yield* treeChanges(old.fds, now.fds)
  }

  // ---- removing

  /**
   * Takes a name away, and the image with its last name. An ID takes the image with all its names, which needs `force`
   * where there are several.
   * @throws StoreError in-use while a container has it
   */
  async remove(ref: string, options: { readonly force?: boolean } = {}): Promise<Removed> {
    checkOptions('images.remove', options, { force: true })
    const { db } = this.context
    let untagged: string[] = []
    let images: Digest[] = []
    const collected = await collect(this.context, () => {
      const image = this.find(ref)
      const tag = this.tagNamed(ref, image)
      untagged = tag === undefined ? [...image.tags] : [tag]
      images = []
      if (tag === undefined && image.tags.length > 1 && options.force !== true) {
        const names = image.tags.map(name => displayName(name)).join(', ')
        throw new StoreError(
          'in-use',
          `image ${shortDigest(image.id)} has ${image.tags.length} names: ${names}`,
          'remove by name, or all with --force',
        )
      }
      if (untagged.length === image.tags.length) {
        this.#refuseIfUsed(image)
        images = [image.id]
        db.run('DELETE FROM images WHERE id = ?', image.id)
      } else {
        for (const name of untagged) db.run('DELETE FROM tags WHERE name = ?', name)
      }
    })
    return { ...collected, untagged, images }
  }

  #refuseIfUsed(image: ImageRecord): void {
    const rows = this.context.db.all<{ name: string }>(
      'SELECT name FROM containers WHERE image = ? LIMIT 4',
      image.id,
    )
    const name = displayName(image.tags[0] ?? shortDigest(image.id))
    if (rows.length > 0) {
      const users = rows.map(row => row.name).join(', ')
      throw new StoreError(
        'in-use',
        `image ${name} is used by container ${users}`,
        'remove the container first',
      )
    }
    if (image.chainId === undefined) return
    const sql = "SELECT target AS name FROM mounts WHERE kind = 'image' AND chain_id = ?"
    const mount = this.context.db.get<{ name: string }>(sql, image.chainId)
    const others = this.context.db.get(
      'SELECT 1 FROM images WHERE chain_id = ? AND id <> ?',
      image.chainId,
      image.id,
    )
    if (mount !== undefined && others === undefined) {
      throw new StoreError(
        'in-use',
        `image ${name} is mounted on ${mount.name}`,
        "unmount it first: 'lamina image umount'",
      )
    }
  }

  /** Removes images without a name; with `all`, every image that no container uses. */
  async prune(options: { readonly all?: boolean; readonly dryRun?: boolean } = {}): Promise<Removed> {
    checkOptions('images.prune', options, { all: true, dryRun: true })
    const { db } = this.context
    let images: Digest[] = []
    let untagged: string[] = []
    const named = options.all === true ? '' : 'AND NOT EXISTS (SELECT 1 FROM tags WHERE image = i.id)'
    const forget = (): void => {
      const rows = db.all<{ id: Digest }>(
        `SELECT id FROM images AS i
         WHERE NOT EXISTS (SELECT 1 FROM containers WHERE image = i.id)
           AND NOT EXISTS (SELECT 1 FROM mounts WHERE kind = 'image' AND chain_id = i.chain_id) ${named}`,
      )
      images = rows.map(row => row.id)
      untagged = images
        .flatMap(id => db.all<{ name: string }>('SELECT name FROM tags WHERE image = ?', id))
        .map(row => row.name)
      for (const id of images) db.run('DELETE FROM images WHERE id = ?', id)
    }
    const collected =
      options.dryRun === true ? wouldCollect(this.context, forget) : await collect(this.context, forget)
    return { ...collected, images, untagged }
  }
}

/**
 * The form in which names are stored: `docker.io/library/debian:latest`.
 * @throws OciError malformed; StoreError for a name with a digest
 */
export function canonicalName(name: string): string {
  const reference = parseReference(name)
  if (reference.digest !== undefined) {
    throw new StoreError('invalid', `'${name}' has a digest: a name that one gives is repository:tag`)
  }
  return formatReference(withDefaultTag(reference))
}

/** As short as a person would write it. */
export function displayName(canonical: string): string {
  try {
    return familiarReference(parseReference(canonical))
  } catch {
    return canonical
  }
}

function parseTime(text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const time = Date.parse(text)
  return Number.isNaN(time) ? undefined : time
}
