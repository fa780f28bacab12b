/** Read-only mounts of images: `image mount`. Counted, like those of containers. */
import { mkdirSync, rmdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Drivers } from './drivers/choose.js'
import type { ImageRecord, Images } from './images.js'
import type { Layers } from './layers.js'
import { bootId, isMounted } from './mount-table.js'
import type { StoreContext } from './store-context.js'
import { notFound } from './store-error.js'

export interface ImageMount {
  readonly target: string
  readonly chainId: string | undefined
  readonly driver: string
  readonly users: number
}

interface Row {
  target: string
  chain_id: string | null
  driver: string
  users: number
}

export class ImageMounts {
  constructor(
    readonly context: StoreContext,
    readonly layers: Layers,
    readonly images: Images,
    readonly drivers: Drivers,
  ) {}

  /** Shows the image's merged tree, read-only, and returns where. */
  async mount(ref: string, at?: string): Promise<string> {
    const image = this.images.find(ref)
    const driver = await this.drivers.chosen()
    const target = at === undefined ? this.#defaultTarget(image) : resolve(at)
    const key = this.#key(target)
    using claim = await this.context.claims.wait('scratch', key)
    void claim
    const { db } = this.context
    // The row first: it keeps the chain. A crash leaves a row without a mount, which the next mount or check repairs.
    db.transaction(() => {
      if (!isMounted(target)) db.run("DELETE FROM mounts WHERE target = ? AND kind = 'image'", target)
      db.run(
        `INSERT INTO mounts (target, kind, chain_id, driver, users, boot, created) VALUES (?, 'image', ?, ?, 1, ?, ?)
         ON CONFLICT (target) DO UPDATE SET users = users + 1`,
        target,
        image.chainId ?? null,
        driver.name,
        bootId(),
        Date.now(),
      )
    })
    if (isMounted(target)) return target
    try {
      mkdirSync(target, { recursive: true, mode: 0o755 })
      await driver.mountReadOnly(this.layers.stack(image.chainId), target)
      return target
    } catch (error) {
      db.run('DELETE FROM mounts WHERE target = ?', target)
      throw error
    }
  }

  /** Ends one use (`all`: every use) of an image's mount, named by image or path. */
  async unmount(
    ref: string,
    options: { readonly all?: boolean; readonly force?: boolean } = {},
  ): Promise<boolean> {
    const row = this.#find(ref)
    const { db } = this.context
    using claim = await this.context.claims.wait('scratch', this.#key(row.target))
    void claim
    if (row.users > 1 && options.all !== true && isMounted(row.target)) {
      db.run('UPDATE mounts SET users = users - 1 WHERE target = ?', row.target)
      return false
    }
    await this.drivers.named(row.driver).unmount(row.target, { force: options.force === true })
    db.run('DELETE FROM mounts WHERE target = ?', row.target)
    if (row.target.startsWith(this.context.paths.mounts + '/')) rmdirSync(row.target)
    return true
  }

  list(): ImageMount[] {
    return this.context.db
      .all<Row>("SELECT target, chain_id, driver, users FROM mounts WHERE kind = 'image' ORDER BY created")
      .map(row => ({
        target: row.target,
        chainId: row.chain_id ?? undefined,
        driver: row.driver,
        users: row.users,
      }))
  }

  #find(ref: string): Row {
    const sql = "SELECT target, chain_id, driver, users FROM mounts WHERE kind = 'image' AND target = ?"
    const byPath = this.context.db.get<Row>(sql, resolve(ref))
    if (byPath !== undefined) return byPath
    const byImage = this.context.db.get<Row>(sql, this.#defaultTarget(this.images.find(ref)))
    if (byImage !== undefined) return byImage
    throw notFound('image mount', ref, "see 'lamina image mount' without arguments")
  }

  #defaultTarget(image: ImageRecord): string {
    return join(this.context.paths.mounts, image.id.slice(7, 7 + 16))
  }

  /** Orders mount and unmount of one target between processes. */
  #key(target: string): string {
    return 'mount-' + Buffer.from(target).toString('hex').slice(-120)
  }
}
