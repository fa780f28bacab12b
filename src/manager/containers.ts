/**
 * Containers, as far as storage goes: one writable layer on a chain, mounted and unmounted any number of times.
 *
 * Mounting, unmounting and removing one container are ordered between processes by the claim `container-ID`. What is
 * mounted is asked of the kernel; the row only counts who wants it.
 */
import { randomBytes } from 'node:crypto'
import { mkdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Keys } from '../base/nearest.js'
import type { Digest } from '../oci/index.js'
import type { Change } from './changes.js'
import { checkOptions } from './check-options.js'
import { collect } from './collector.js'
import type { Claim } from './claims.js'
import {
  checkContainerName,
  toContainer,
  type ContainerRecord,
  type ContainerRow,
  type CreateContainer,
  type MountContainer,
  type UnmountContainer,
} from './containers/container-record.js'
import { specOf } from './containers/container-spec.js'
import { MountRows } from './containers/mount-rows.js'
import { randomName } from './containers/random-name.js'
import { isUniqueError } from './database.js'
import type { Drivers } from './drivers/choose.js'
import type { Box, Driver, Usage } from './drivers/driver.js'
import type { Images } from './images.js'
import type { Layers } from './layers.js'
import { Lease } from './leases.js'
import { isAlive, isMounted } from './mount-table.js'
import type { RootfsMounts } from './mounts/rootfs-mounts.js'
import type { StoreContext } from './store-context.js'
import { notFound, StoreError } from './store-error.js'

export type { ContainerRecord, CreateContainer, MountContainer }

const CREATE: Keys<CreateContainer> = {
  name: true,
  image: true,
  chain: true,
  labels: true,
  spec: true,
  volumes: true,
  madeBy: true,
  use: true,
}
const MOUNT: Keys<MountContainer> = { target: true, readOnly: true, use: true, mounts: true }
const UNMOUNT: Keys<UnmountContainer> = { all: true, force: true, lease: true }

export class Containers {
  readonly #rows: MountRows

  constructor(
    readonly context: StoreContext,
    readonly layers: Layers,
    readonly images: Images,
    readonly drivers: Drivers,
    readonly rootfsMounts: RootfsMounts,
  ) {
    this.#rows = new MountRows(context.db)
  }

  /** @throws StoreError exists, not-found, invalid */
  async create(options: CreateContainer = {}): Promise<ContainerRecord> {
    checkOptions('containers.create', options, CREATE)
    const { db, claims, paths } = this.context
    const driver = await this.#driverFor(options)
    if (options.name !== undefined) checkContainerName(options.name)
    const id = randomBytes(32).toString('hex')
    const claim = claims.claim('container', id)
    const dir = join(paths.containers, id)
    try {
      // The box first, the row after: a row exists exactly when the box is complete.
      using lease = Lease.open(db, claims)
      const image = options.image === undefined ? undefined : this.images.find(options.image)
      const chainId = image === undefined ? options.chain : image.chainId
      if (chainId !== undefined && !lease.keepChain(chainId)) throw notFound('layer', chainId)
      mkdirSync(dir, { mode: 0o700 })
      await driver.prepare({ dir, stack: this.layers.stack(chainId) })
      const name = this.#insert(id, options, image?.id, chainId, driver)
      claim.release()
      return this.find(name)
    } catch (error) {
      await this.drivers.removeBox(dir).then(
        () => claim.release(),
        () => claim.abandon(),
      )
      throw error
    }
  }

  /** A limit and other ids are the daemon's work. */
  async #driverFor(options: CreateContainer): Promise<Driver> {
    const spec = specOf(options)
    const asked = spec.size === undefined ? spec.ids && '--uidmap' : '--storage-opt size='
    if (asked === undefined) return await this.drivers.chosen()
    const { choice } = this.drivers
    if (choice !== 'auto' && choice !== 'fuse') {
      throw new StoreError(
        'unsupported',
        `storage driver ${choice} cannot do ${asked}`,
        "only fuse can: '--storage-driver fuse'",
      )
    }
    return this.drivers.named('fuse')
  }

  #insert(
    id: string,
    options: CreateContainer,
    image: Digest | undefined,
    chainId: Digest | undefined,
    driver: Driver,
  ): string {
    for (;;) {
      const name = options.name ?? randomName()
      try {
        this.context.db.transaction(() => {
          this.#insertRows(id, name, options, image, chainId, driver)
        })
        return name
      } catch (error) {
        if (!isUniqueError(error)) throw error
        if (options.name === undefined) continue
        throw new StoreError(
          'exists',
          `a container is already called ${name}`,
          `remove or rename it, or choose another name`,
        )
      }
    }
  }

  /** The container and what it uses appear at once: nothing in between could be pruned, or be left behind. */
  #insertRows(
    id: string,
    name: string,
    options: CreateContainer,
    image: Digest | undefined,
    chainId: Digest | undefined,
    driver: Driver,
  ): void {
    const { db } = this.context
    db.run(
      'INSERT INTO containers (id, name, image, chain_id, driver, labels, spec, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?)',
      id,
      name,
      image ?? null,
      chainId ?? null,
      driver.name,
      JSON.stringify(options.labels ?? {}),
      JSON.stringify(options.spec ?? {}),
      Date.now(),
    )
    for (const { target, volume } of options.volumes ?? []) this.rootfsMounts.addUser(id, target, volume)
    if (options.madeBy !== undefined) this.rootfsMounts.volumes.keepMade(options.madeBy)
    this.#rows.reserve(id, options.use)
  }

  /** By name, or by the beginning of the ID. @throws StoreError not-found, ambiguous */
  find(ref: string): ContainerRecord {
    const byName = this.context.db.get<ContainerRow>('SELECT * FROM containers WHERE name = ?', ref)
    if (byName !== undefined) return toContainer(byName)
    const rows = /^[0-9a-f]{2,64}$/.test(ref)
      ? this.context.db.all<ContainerRow>('SELECT * FROM containers WHERE id >= ? AND id < ?', ref, ref + 'g')
      : []
    const [first, second] = rows
    if (first === undefined) throw notFound('container', ref)
    if (second !== undefined) {
      throw new StoreError(
        'ambiguous',
        `${ref} means ${rows.length} containers`,
        'give more digits, or the name',
      )
    }
    return toContainer(first)
  }

  list(): ContainerRecord[] {
    return this.context.db.all<ContainerRow>('SELECT * FROM containers ORDER BY created, id').map(toContainer)
  }

  driverOf(container: ContainerRecord): Driver {
    return this.drivers.named(container.driver)
  }

  boxOf(container: ContainerRecord): Box {
    return {
      dir: join(this.context.paths.containers, container.id),
      stack: this.layers.stack(container.chainId),
    }
  }

  /** Where the container is mounted now, as the kernel has it. */
  mountpoint(container: ContainerRecord): string | undefined {
    return this.#rows.of(container).find(row => isMounted(row.target))?.target
  }

  /** Mounts the container's root filesystem, or joins those who use it. Returns the path. */
  async mount(ref: string, options: MountContainer = {}): Promise<string> {
    checkOptions('containers.mount', options, MOUNT)
    const container = this.find(ref)
    using claim = await this.#claim(container)
    const box = this.boxOf(container)
    const driver = this.driverOf(container)
    const existing = this.#rows.of(container)[0]
    const target = resolve(options.target ?? existing?.target ?? join(box.dir, 'merged'))
    if (isMounted(target)) {
      if (isAlive(target)) {
        this.#rows.count(container, target, options.use)
        await this.rootfsMounts.assemble(container, target, options.mounts).catch((error: unknown) => {
          this.#rows.uncount(target, options.use?.lease)
          throw error
        })
        return target
      }
      await driver.unmount(target, { force: true })
    }
    if (existing !== undefined && existing.target !== target && isMounted(existing.target)) {
      throw new StoreError(
        'in-use',
        `container ${container.name} is mounted on ${existing.target}`,
        `use that, or unmount it first with 'lamina container umount ${container.name}'`,
      )
    }
    mkdirSync(target, { recursive: true, mode: 0o755 })
    this.#rows.begin(container, target, options.use)
    const { size, ids } = specOf(container)
    try {
      await driver.mount(box, {
        target,
        hold: claim.fd.n,
        ...(size === undefined ? {} : { size }),
        ...(ids === undefined ? {} : { ids }),
        ...(options.readOnly === undefined ? {} : { readOnly: options.readOnly }),
      })
      this.#rows.count(container, target, options.use)
      await this.rootfsMounts.assemble(container, target, options.mounts)
    } catch (error) {
      if (isMounted(target)) {
        this.rootfsMounts.dismantle(target)
        await driver.unmount(target, { force: true })
      }
      this.#rows.forget(target)
      this.#rows.endUse(options.use?.lease)
      await this.rootfsMounts.releaseVolumes(container)
      throw error
    }
    return target
  }

  /**
   * Ends one use of the mount, and the mount with the last one; `all` ends every use, `force` detaches it although
   * processes are in it. Returns whether it is unmounted now.
   */
  async unmount(ref: string, options: UnmountContainer = {}): Promise<boolean> {
    checkOptions('containers.unmount', options, UNMOUNT)
    const container = this.find(ref)
    using claim = await this.#claim(container)
    void claim
    return await this.#unmount(container, options)
  }

  async #unmount(container: ContainerRecord, options: UnmountContainer): Promise<boolean> {
    for (const row of this.#rows.of(container)) {
      const own = this.#rows.isCounted(options.lease) ? 1 : 0
      if (row.users > own && options.all !== true && isMounted(row.target)) {
        this.#rows.uncount(row.target, options.lease)
        return false
      }
      let force = options.force === true
      if (isMounted(row.target)) {
        if (isAlive(row.target)) {
          if (!force) this.rootfsMounts.checkIdle(container, row.target)
          this.rootfsMounts.dismantle(row.target)
        } else {
          // Nobody can use it, and what is mounted in it cannot be reached.
          force = true
        }
      }
      try {
        await this.driverOf(container).unmount(row.target, { force })
      } catch (error) {
        // Taken into use since we looked: as it was.
        if (isMounted(row.target)) await this.rootfsMounts.assemble(container, row.target)
        throw error
      }
      this.#rows.forget(row.target)
    }
    await this.rootfsMounts.releaseVolumes(container)
    this.#rows.endUse(options.lease)
    return true
  }

  /** What a command that died in the middle of a mount or unmount has left; the caller holds the container's claim. */
  async forgetUnmounted(id: string): Promise<void> {
    const container = this.find(id)
    for (const { target } of this.#rows.of(container)) if (!isMounted(target)) this.#rows.forget(target)
    if (this.mountpoint(container) === undefined) await this.rootfsMounts.releaseVolumes(container)
  }

  /** What the container changed in its image, after what is in flight has reached the disk. */
  async *changes(ref: string): AsyncGenerator<Change, void, void> {
    const container = this.find(ref)
    await this.settle(container)
    yield* this.driverOf(container).changes(this.boxOf(container))
  }

  async settle(container: ContainerRecord): Promise<void> {
    const target = this.mountpoint(container)
    if (target !== undefined) await this.driverOf(container).settle(target)
  }

  async usage(container: ContainerRecord): Promise<Usage> {
    return await this.driverOf(container).usage(this.boxOf(container))
  }

  /** @throws StoreError exists */
  rename(ref: string, name: string): void {
    checkContainerName(name)
    const container = this.find(ref)
    try {
      this.context.db.run('UPDATE containers SET name = ? WHERE id = ?', name, container.id)
    } catch (error) {
      if (isUniqueError(error)) throw new StoreError('exists', `a container is already called ${name}`)
      throw error
    }
  }

  /**
   * Removes the container and its writable layer; its anonymous volumes are the `lease`'s then, to be removed.
   * @throws StoreError in-use while it is mounted, unless forced
   */
  async remove(
    ref: string,
    options: { readonly force?: boolean; readonly lease?: string | undefined } = {},
  ): Promise<void> {
    const container = this.find(ref)
    using claim = await this.#claim(container)
    const target = this.mountpoint(container)
    if (target !== undefined && options.force !== true) {
      throw new StoreError(
        'in-use',
        `container ${container.name} is mounted on ${target}`,
        `unmount it first, or remove it with --force`,
      )
    }
    await this.#unmount(container, { all: true, force: options.force === true })
    try {
      await collect(this.context, () => {
        if (options.force !== true) this.#refuseIfStarting(container)
        if (options.lease !== undefined) this.rootfsMounts.volumes.leave(container.id, options.lease)
        this.context.db.run('DELETE FROM mounts WHERE container = ?', container.id)
        this.context.db.run('DELETE FROM containers WHERE id = ?', container.id)
      })
      await this.driverOf(container).remove({ dir: join(this.context.paths.containers, container.id) })
    } catch (error) {
      claim.abandon()
      throw error
    }
  }

  /** A command has said that it will run something in it, and has not mounted it yet. */
  #refuseIfStarting(container: ContainerRecord): void {
    const { db, claims } = this.context
    const sql = 'SELECT lease FROM container_uses WHERE container = ? AND process IS NOT NULL'
    const rows = db.all<{ lease: string }>(sql, container.id)
    if (!rows.some(row => claims.isHeld('lease', row.lease))) return
    throw new StoreError('in-use', `container ${container.name} is being started`, 'wait, or use --force')
  }

  /** One at a time; and whoever waited looks again whether the container still is there. */
  async #claim(container: ContainerRecord): Promise<Claim> {
    const claim = await this.context.claims.wait('container', container.id)
    if (this.context.db.get('SELECT 1 FROM containers WHERE id = ?', container.id) !== undefined) return claim
    claim.release()
    throw notFound('container', container.name)
  }
}
