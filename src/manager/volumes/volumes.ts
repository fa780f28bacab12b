/**
 * Volumes: data that outlives containers. One is volumes/DIR/_data; DIR never changes, so a rename moves nothing. A
 * volume with driver options is a mount on `_data` that is there while somebody uses it.
 *
 * In use is: a container was created with it (volume_users), or somebody has it mounted (volume_mounts). Making,
 * mounting and removing one volume are ordered between processes by the claim `volume-DIR`.
 */
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import type { Keys } from '../../base/nearest.js'
import { checkOptions } from '../check-options.js'
import type { Claim } from '../claims.js'
import { isUniqueError } from '../database.js'
import { unmountTarget } from '../drivers/bind.js'
import { bootId, detachWithin, isMounted } from '../mount-table.js'
import { removeTree } from '../remove-tree.js'
import type { StoreContext } from '../store-context.js'
import { notFound, StoreError } from '../store-error.js'
import type { VolumeFilter } from './volume-filter.js'
import { makeVolumeDirs, mountVolume, volumeUsage, type VolumeUsage } from './volume-data.js'
import { isUseOver } from './plugin-clients.js'
import { checkVolumeOptions, isMountedVolume } from './volume-options.js'
import {
  alreadyThere,
  checkVolumeName,
  sameOptions,
  toVolume,
  type CreateVolume,
  type VolumeRecord,
  type VolumeRow,
} from './volume-record.js'

export { checkVolumeName, type CreateVolume, type VolumeRecord }

export interface PrunedVolumes {
  readonly names: readonly string[]
  readonly bytes: number
}

const CREATE: Keys<CreateVolume> = {
  name: true,
  anonymous: true,
  options: true,
  labels: true,
  filled: true,
  madeBy: true,
}

export class Volumes {
  constructor(readonly context: StoreContext) {}

  // ---- making

  /**
   * Makes a volume, or finds the one of that name with the same options, as Docker does.
   * @param populate writes its first content, before anybody can see the volume
   * @throws StoreError invalid, unsupported, exists
   */
  async create(
    options: CreateVolume = {},
    populate?: (data: string) => Promise<void>,
  ): Promise<VolumeRecord> {
    checkOptions('volumes.create', options, CREATE)
    const driverOptions = options.options ?? {}
    checkVolumeOptions(driverOptions)
    const name = options.name ?? randomBytes(32).toString('hex')
    checkVolumeName(name)
    const existing = this.lookup(name)
    if (existing !== undefined) {
      if (populate !== undefined) throw alreadyThere(name)
      return sameOptions(existing, driverOptions)
    }
    const { db, claims, paths } = this.context
    const dir = randomBytes(6).toString('hex')
    const claim = claims.claim('volume', dir)
    const home = join(paths.volumes, dir)
    try {
      const content = makeVolumeDirs(home, driverOptions)
      await populate?.(content)
      db.run(
        'INSERT INTO volumes (name, anonymous, options, labels, dir, filled, created, made_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?)',
        name,
        options.anonymous === true ? 1 : 0,
        JSON.stringify(driverOptions),
        JSON.stringify(options.labels ?? {}),
        dir,
        options.filled === true ? 1 : 0,
        Date.now(),
        options.madeBy ?? null,
      )
      claim.release()
      return this.find(name)
    } catch (error) {
      await removeTree(home).then(
        () => claim.release(),
        () => claim.abandon(),
      )
      if (!isUniqueError(error)) throw error
      if (populate !== undefined) throw alreadyThere(name)
      return sameOptions(this.find(name), driverOptions)
    }
  }

  // ---- reading

  lookup(name: string): VolumeRecord | undefined {
    const row = this.context.db.get<VolumeRow>('SELECT * FROM volumes WHERE name = ?', name)
    return row === undefined ? undefined : this.#record(row)
  }

  /** By name, or by the beginning of an anonymous volume's name. @throws StoreError not-found, ambiguous */
  find(ref: string): VolumeRecord {
    const byName = this.lookup(ref)
    if (byName !== undefined) return byName
    const rows = /^[0-9a-f]{4,63}$/.test(ref)
      ? this.context.db.all<VolumeRow>(
          'SELECT * FROM volumes WHERE anonymous = 1 AND name >= ? AND name < ?',
          ref,
          ref + 'g',
        )
      : []
    const [first, second] = rows
    if (first === undefined) throw notFound('volume', ref)
    if (second !== undefined) {
      throw new StoreError('ambiguous', `${ref} means ${rows.length} volumes`, 'give more digits')
    }
    return this.#record(first)
  }

  list(filters: readonly VolumeFilter[] = []): VolumeRecord[] {
    const all = this.context.db.all<VolumeRow>('SELECT * FROM volumes ORDER BY name')
    return all.map(row => this.#record(row)).filter(volume => this.#matches(volume, filters))
  }

  /** Conditions of one kind are alternatives, but labels, which all must hold; as in Docker. */
  #matches(volume: VolumeRecord, filters: readonly VolumeFilter[]): boolean {
    const any = <K extends VolumeFilter['kind']>(
      kind: K,
      test: (filter: Extract<VolumeFilter, { kind: K }>) => boolean,
    ): boolean => {
      const some = filters.filter((f): f is Extract<VolumeFilter, { kind: K }> => f.kind === kind)
      return some.length === 0 || some.some(test)
    }
    return (
      any('name', f => volume.name.includes(f.part)) &&
      any('driver', f => f.name === 'local') &&
      any('dangling', f => f.wanted === (this.users(volume).length === 0)) &&
      filters.every(f => {
        if (f.kind !== 'label') return true
        const value = volume.labels[f.key]
        return (value !== undefined && (f.value === undefined || f.value === value)) !== f.not
      })
    )
  }

  /** Who needs the volume: `container web`, `plugin 3f2a…`. */
  users(volume: VolumeRecord): string[] {
    const { db } = this.context
    const containers = db.all<{ name: string }>(
      'SELECT DISTINCT c.name FROM volume_users AS u JOIN containers AS c ON c.id = u.container WHERE u.volume = ? ORDER BY 1',
      volume.name,
    )
    const others = this.#mounters(volume).filter(user => !user.startsWith('container:'))
    return [
      ...containers.map(row => `container ${row.name}`),
      ...others.map(user => {
        const [kind = '', id = ''] = user.split(':')
        return kind === 'plugin' ? `plugin client ${id.slice(0, 12)}` : `a running command`
      }),
    ]
  }

  /** Whether a mounted container, or a plugin's client, could be writing to it now. */
  isActive(volume: VolumeRecord): boolean {
    return this.#mounters(volume).length > 0
  }

  /** Those who have it mounted, as the kernel agrees. */
  #mounters({ name, mountpoint }: VolumeRecord): string[] {
    const { db } = this.context
    const rows = db.all<{ user: string; client: string | null }>(
      'SELECT user, client FROM volume_mounts WHERE volume = ? AND boot = ?',
      name,
      bootId(),
    )
    return rows
      .filter(({ user, client }) => {
        if (user.startsWith('plugin:')) return client === null || !isUseOver(client, mountpoint)
        if (user.startsWith('command:')) {
          return this.context.claims.isHeld('lease', user.slice('command:'.length))
        }
        if (!user.startsWith('container:')) return true
        const sql = 'SELECT target FROM mounts WHERE container = ?'
        const mount = db.get<{ target: string }>(sql, user.slice('container:'.length))
        return mount !== undefined && isMounted(mount.target)
      })
      .map(row => row.user)
  }

  /** What it takes on disk. One with driver options counts while it is mounted. */
  usage(volume: VolumeRecord): VolumeUsage {
    return volumeUsage(volume)
  }

  // ---- changing

  /** Adds and removes labels. */
  update(ref: string, add: Readonly<Record<string, string>>, remove: readonly string[]): VolumeRecord {
    const { db } = this.context
    return db.transaction(() => {
      const volume = this.find(ref)
      const kept = Object.entries(volume.labels).filter(([key]) => !remove.includes(key))
      const labels = { ...Object.fromEntries(kept), ...add }
      db.run('UPDATE volumes SET labels = ? WHERE name = ?', JSON.stringify(labels), volume.name)
      return this.find(volume.name)
    })
  }

  /** A renamed volume is a named one. Containers that have it keep it. @throws StoreError exists, invalid */
  rename(ref: string, name: string): void {
    checkVolumeName(name)
    const volume = this.find(ref)
    try {
      this.context.db.run('UPDATE volumes SET name = ?, anonymous = 0 WHERE name = ?', name, volume.name)
    } catch (error) {
      if (isUniqueError(error)) throw alreadyThere(name)
      throw error
    }
  }

  markFilled(volume: VolumeRecord): void {
    this.context.db.run('UPDATE volumes SET filled = 1 WHERE name = ?', volume.name)
  }

  // ---- mounting

  /**
   * Makes the volume's data appear and notes that `user` has it. Returns the path of the data.
   * @param client of the plugin (plugin-clients.ts)
   * @throws StoreError not-found; failed with what mount(8) said
   */
  async acquire(name: string, user: string, client?: string): Promise<VolumeRecord> {
    const { db } = this.context
    const volume = this.find(name)
    using claim = await this.context.claims.wait('volume', volume.dir)
    // The row first: it keeps the volume. Whoever waited looks again whether it still is there.
    db.transaction(() => {
      this.find(volume.name)
      const sql = 'INSERT OR REPLACE INTO volume_mounts (volume, user, boot, client) VALUES (?, ?, ?, ?)'
      db.run(sql, volume.name, user, bootId(), client ?? null)
    })
    try {
      await mountVolume(volume, claim.fd.n)
    } catch (error) {
      db.run('DELETE FROM volume_mounts WHERE volume = ? AND user = ?', volume.name, user)
      throw error
    }
    return volume
  }

  /** Ends the use; the last one to go ends the mount. A volume that `user` did not have is no error. */
  async release(name: string, user: string): Promise<void> {
    const { db } = this.context
    const volume = this.lookup(name)
    if (volume === undefined) return
    using claim = await this.context.claims.wait('volume', volume.dir)
    void claim
    db.run('DELETE FROM volume_mounts WHERE volume = ? AND user = ?', volume.name, user)
    if (isMountedVolume(volume.options) && this.#mounters(volume).length === 0) {
      unmountTarget(volume.mountpoint, false)
    }
  }

  /** Acquires for as long as one command runs: a use that ends with its process. */
  async use(name: string): Promise<VolumeUse> {
    const id = randomBytes(8).toString('hex')
    const claim = this.context.claims.claim('lease', id)
    try {
      return new VolumeUse(this, await this.acquire(name, `command:${id}`), claim)
    } catch (error) {
      claim.release()
      throw error
    }
  }

  /** Ends the uses of the plugin's clients that died without saying so, as far as this host sees. */
  async endDeadClients(): Promise<void> {
    const rows = this.context.db.all<{ volume: string; user: string; client: string }>(
      "SELECT volume, user, client FROM volume_mounts WHERE user LIKE 'plugin:%' AND client IS NOT NULL",
    )
    for (const { volume, user, client } of rows) {
      const record = this.lookup(volume)
      if (record === undefined || !isUseOver(client, record.mountpoint)) continue
      await this.release(volume, user).catch((error: unknown) => {
        // The use is over; that somebody works in the mount holds up only its end.
        if (!isTaken(error)) throw error
      })
    }
  }

  /**
   * Ends the uses of the plugin's clients, whether they live or not: a person knows that a client's containers, which may run where
   * this host does not see them, are gone. Returns how many there were.
   */
  async releaseClients(ref: string): Promise<number> {
    const volume = this.find(ref)
    const rows = this.context.db.all<{ user: string }>(
      "SELECT user FROM volume_mounts WHERE volume = ? AND user LIKE 'plugin:%'",
      volume.name,
    )
    for (const { user } of rows) await this.release(volume.name, user)
    return rows.length
  }

  /** In the transaction that gives what this lease has made to a container. */
  keepMade(lease: string): void {
    this.context.db.run('UPDATE volumes SET made_by = NULL WHERE made_by = ?', lease)
  }

  /** In the transaction that removes a container: what only it could name goes with the lease. */
  leave(container: string, lease: string): void {
    const users = 'SELECT volume FROM volume_users WHERE container = ?'
    const sql = `UPDATE volumes SET made_by = ? WHERE anonymous = 1 AND name IN (${users})`
    this.context.db.run(sql, lease, container)
  }

  /** Ends what a command with this lease had in use, and removes what is its own: of a container that never came, or went. */
  async endLease(lease: string): Promise<void> {
    await this.#releaseAll(lease)
    const sql = 'SELECT name FROM volumes WHERE made_by = ?'
    for (const { name } of this.context.db.all<{ name: string }>(sql, lease)) {
      await this.remove(name).catch((error: unknown) => {
        // Another container has taken it by its name, or somebody has removed it.
        if (!isTaken(error)) throw error
      })
    }
    this.keepMade(lease)
  }

  async #releaseAll(lease: string): Promise<void> {
    const user = `command:${lease}`
    const rows = this.context.db.all<{ volume: string }>(
      'SELECT volume FROM volume_mounts WHERE user = ?',
      user,
    )
    for (const { volume } of rows) await this.release(volume, user)
  }

  // ---- removing

  /** @throws StoreError in-use */
  async remove(ref: string): Promise<void> {
    const { db, claims, paths } = this.context
    const volume = this.find(ref)
    const claim = await claims.wait('volume', volume.dir)
    try {
      db.transaction(() => {
        this.#refuseIfUsed(this.find(volume.name))
        db.run('DELETE FROM volume_mounts WHERE volume = ?', volume.name)
        db.run('DELETE FROM volumes WHERE name = ?', volume.name)
      })
    } catch (error) {
      claim.release()
      throw error
    }
    try {
      detachWithin(join(paths.volumes, volume.dir))
      await removeTree(join(paths.volumes, volume.dir))
      claim.release()
    } catch (error) {
      claim.abandon()
      throw error
    }
  }

  #refuseIfUsed(volume: VolumeRecord): void {
    const users = this.users(volume)
    if (users.length === 0) return
    const more = users.length > 3 ? ` and ${users.length - 3} more` : ''
    throw new StoreError(
      'in-use',
      `volume ${volume.name} is used by ${users.slice(0, 3).join(', ')}${more}`,
      users.some(user => user.startsWith('plugin'))
        ? `remove what uses it first; a client that is dead: 'lamina volume release ${volume.name}'`
        : 'remove what uses it first',
    )
  }

  /** Removes anonymous volumes that nothing uses; with `all`, named ones too. */
  async prune(
    options: {
      readonly all?: boolean
      readonly dryRun?: boolean
      readonly filters?: readonly VolumeFilter[]
    } = {},
  ): Promise<PrunedVolumes> {
    checkOptions('volumes.prune', options, { all: true, dryRun: true, filters: true })
    const names: string[] = []
    let bytes = 0
    for (const volume of this.list(options.filters)) {
      if ((!volume.anonymous && options.all !== true) || this.users(volume).length > 0) continue
      const size = this.usage(volume).bytes
      try {
        if (options.dryRun !== true) await this.remove(volume.name)
      } catch (error) {
        // Taken into use, or removed, since we looked.
        if (isTaken(error)) continue
        throw error
      }
      names.push(volume.name)
      bytes += size
    }
    return { names, bytes }
  }

  #record(row: VolumeRow): VolumeRecord {
    return toVolume(row, this.context.paths.volumes)
  }
}

const isTaken = (error: unknown): boolean =>
  error instanceof StoreError && (error.code === 'in-use' || error.code === 'not-found')

export class VolumeUse implements AsyncDisposable {
  constructor(
    readonly volumes: Volumes,
    readonly volume: VolumeRecord,
    readonly claim: Claim,
  ) {}

  async [Symbol.asyncDispose](): Promise<void> {
    await this.volumes.release(this.volume.name, `command:${this.claim.id}`)
    this.claim.release()
  }
}
