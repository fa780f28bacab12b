/**
 * The store: the library's front door (`import { Store } from 'laminafs'`). It opens the database, finishes what dead
 * commands left, and hands out the parts.
 */
import { randomBytes } from 'node:crypto'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import * as sys from '../sys/index.js'
import { checkOptions } from './check-options.js'
import { BuildCache } from './build-cache.js'
import { endNoted } from './build/step-process.js'
import { Claims, type Claim, type ClaimKind } from './claims.js'
import { Containers } from './containers.js'
import { endDeadUse } from './containers/uses.js'
import { Database } from './database.js'
import { removeBtrfsSnapshot } from './drivers/btrfs.js'
import { Drivers, type DriverChoice } from './drivers/choose.js'
import { ImageMounts } from './image-mounts.js'
import { Images } from './images.js'
import { finishBlob } from './kept-blobs.js'
import { Layers } from './layers.js'
import { dropLease, Lease } from './leases.js'
import { bootId, detachWithin } from './mount-table.js'
import { RootfsMounts } from './mounts/rootfs-mounts.js'
import { StorePaths, storeRoot } from './paths.js'
import { removeTree } from './remove-tree.js'
import { Reserve } from './reserve.js'
import { isOrdinary } from './rootless/standing.js'
import { storeOwnership, type Ownership } from './rootless/store-ids.js'
import { notEntered } from './rootless/user-namespace.js'
import { readStoreConfig, type StoreConfig } from './store-config.js'
import type { StoreContext } from './store-context.js'
import { causeOf } from './store-error.js'
import { Volumes } from './volumes/volumes.js'

export interface StoreOptions {
  /** Default: LAMINA_ROOT, /var/lib/lamina, or ~/.local/share/lamina. */
  readonly root?: string
  /** Default: LAMINA_STORAGE_DRIVER, `storageDriver` of ROOT/config.json, or auto. */
  readonly driver?: DriverChoice
}

export class Store implements Disposable, StoreContext {
  readonly layers: Layers
  readonly images: Images
  readonly containers: Containers
  readonly imageMounts: ImageMounts
  readonly buildCache: BuildCache
  readonly drivers: Drivers
  readonly volumes: Volumes

  private constructor(
    readonly paths: StorePaths,
    readonly db: Database,
    readonly claims: Claims,
    readonly ownership: Ownership,
    choice: DriverChoice,
    readonly config: StoreConfig,
    private readonly reserve: Reserve,
  ) {
    this.layers = new Layers(this)
    this.buildCache = new BuildCache(this)
    this.drivers = new Drivers(this, this.layers, choice)
    this.images = new Images(this, this.layers)
    this.volumes = new Volumes(this)
    const rootfsMounts = new RootfsMounts(this.volumes)
    this.containers = new Containers(this, this.layers, this.images, this.drivers, rootfsMounts)
    this.imageMounts = new ImageMounts(this, this.layers, this.images, this.drivers)
  }

  /**
   * Opens the store, making it where there is none, and sweeps what dead processes left.
   * @throws StoreError; unsupported for an ordinary user outside his user namespace (rootless/user-namespace.ts)
   */
  static async open(options: StoreOptions = {}): Promise<Store> {
    checkOptions('Store.open', options, { root: true, driver: true })
    if (isOrdinary()) throw notEntered('a store')
    const paths = new StorePaths(storeRoot(options.root))
    paths.make()
    // A deep stack is walked with a descriptor a layer; the usual soft limit of 1024 is for select(2).
    const { soft, hard } = sys.getrlimitNofile()
    if (soft < hard) sys.setrlimitNofile(hard, hard)
    const config = readStoreConfig(paths.root)
    const ownership = storeOwnership(paths.root)
    const reserve = new Reserve(paths.root)
    reserve.atOpen()
    const db = Database.open(paths.database, paths.migrationLock)
    const claims = new Claims(paths.claims)
    const choice = options.driver ?? driverOf(config)
    const store = new Store(paths, db, claims, ownership, choice, config, reserve)
    try {
      await store.sweep()
      return store
    } catch (error) {
      store.close()
      throw error
    }
  }

  get root(): string {
    return this.paths.root
  }

  /** A lease for what the caller is about to find or make. */
  lease(): Lease {
    return Lease.open(this.db, this.claims)
  }

  /** A directory of one's own, removed when disposed, or by the next sweep. */
  scratch(): Scratch {
    const id = randomBytes(6).toString('hex')
    const claim = this.claims.claim('scratch', id)
    const dir = join(this.paths.scratch, id)
    mkdirSync(dir, { mode: 0o700 })
    return new Scratch(dir, claim)
  }

  /** Finishes the work of commands that died: see claims.ts. Returns what was removed. */
  async sweep(): Promise<string[]> {
    const done: string[] = []
    this.db.run('DELETE FROM mounts WHERE boot <> ?', bootId())
    for (const claim of this.claims.orphaned()) {
      try {
        if (await this.#finish(claim)) done.push(`${claim.kind} ${claim.id}`)
        claim.release()
      } catch (error) {
        // Still mounted somewhere else, or no permission: the claim stays for the next one, who may have better luck.
        claim.abandon()
        process.emitWarning(`cannot clean up ${claim.kind} ${claim.id}: ${causeOf(error)}`, 'LaminaWarning')
      }
    }
    return done
  }

  async #finish(claim: Claim): Promise<boolean> {
    const { kind, id } = claim
    switch (kind) {
      case 'layer':
        if (this.db.get('SELECT 1 FROM layers WHERE dir = ?', id) !== undefined) return false
        await removeTree(join(this.paths.layers, id))
        return true
      case 'snapshot':
        if (this.db.get('SELECT 1 FROM snapshots WHERE dir = ?', id) !== undefined) return false
        await this.removeSnapshot(join(this.paths.snapshots, id))
        return true
      case 'container':
        if (this.db.get('SELECT 1 FROM containers WHERE id = ?', id) !== undefined) {
          await this.containers.forgetUnmounted(id)
          return false
        }
        await this.drivers.removeBox(join(this.paths.containers, id))
        return true
      case 'volume':
        if (this.db.get('SELECT 1 FROM volumes WHERE dir = ?', id) !== undefined) return false
        detachWithin(join(this.paths.volumes, id))
        await removeTree(join(this.paths.volumes, id))
        return true
      case 'scratch':
        endNoted(join(this.paths.scratch, id))
        detachWithin(join(this.paths.scratch, id))
        await removeTree(join(this.paths.scratch, id))
        return true
      case 'lease': {
        const ended = await endDeadUse(this, id)
        await this.volumes.endLease(id)
        return dropLease(this.db, id) || ended
      }
      case 'blob':
        return finishBlob(this, id)
      case 'partial':
        // The download stays: that is what it can be resumed from.
        return false
    }
  }

  async removeSnapshot(path: string): Promise<void> {
    detachWithin(path)
    await removeBtrfsSnapshot(path)
  }

  close(): void {
    this.db.close()
    this.reserve.atClose()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

/** A scratch directory and the claim on it. */
export class Scratch implements AsyncDisposable {
  constructor(
    readonly dir: string,
    readonly claim: Claim,
  ) {}

  make(name: string): string {
    const path = join(this.dir, name)
    mkdirSync(path, { recursive: true, mode: 0o755 })
    return path
  }

  async [Symbol.asyncDispose](): Promise<void> {
    detachWithin(this.dir)
    try {
      await removeTree(this.dir)
      this.claim.release()
    } catch (error) {
      this.claim.abandon()
      throw error
    }
  }
}

function driverOf(config: StoreConfig): DriverChoice {
  const fromEnvironment = process.env['LAMINA_STORAGE_DRIVER']
  if (fromEnvironment !== undefined && fromEnvironment !== '') return fromEnvironment
  return config.storageDriver ?? 'auto'
}

export type { ClaimKind }
