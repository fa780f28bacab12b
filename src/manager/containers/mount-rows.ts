/**
 * Who has a container mounted: rows of `mounts`, which count, and of `container_uses`, which end with their command. The rows
 * come before the mount: one that nothing refers to would be nobody's to undo. A mount of 0 users is one whose command died.
 */
import type { Database } from '../database.js'
import { bootId } from '../mount-table.js'
import type { ContainerRecord, LeasedUse } from './container-record.js'

export interface MountRow {
  readonly target: string
  readonly users: number
}

export class MountRows {
  constructor(readonly db: Database) {}

  of(container: ContainerRecord): MountRow[] {
    return this.db.all<MountRow>('SELECT target, users FROM mounts WHERE container = ?', container.id)
  }

  /** Instead of what an earlier command has left. */
  begin(container: ContainerRecord, target: string, use: LeasedUse | undefined): void {
    this.db.transaction(() => {
      this.db.run('DELETE FROM mounts WHERE container = ?', container.id)
      this.#insert(container, target)
      this.reserve(container.id, use)
    })
  }

  #insert(container: ContainerRecord, target: string): void {
    this.db.run(
      `INSERT OR IGNORE INTO mounts (target, kind, container, chain_id, driver, users, boot, created)
       VALUES (?, 'container', ?, ?, ?, 0, ?, ?)`,
      target,
      container.id,
      container.chainId ?? null,
      container.driver,
      bootId(),
      Date.now(),
    )
  }

  /** A use that has no part in a mount yet. */
  reserve(container: string, use: LeasedUse | undefined): void {
    if (use === undefined) return
    const sql = 'INSERT OR IGNORE INTO container_uses (lease, container, remove, counted) VALUES (?, ?, ?, 0)'
    this.db.run(sql, use.lease, container, use.remove ? 1 : 0)
  }

  /** One user more. A mount without a row is one of a store that an older program has used. */
  count(container: ContainerRecord, target: string, use: LeasedUse | undefined): void {
    this.db.transaction(() => {
      this.#insert(container, target)
      this.db.run('UPDATE mounts SET users = users + 1 WHERE target = ?', target)
      this.reserve(container.id, use)
      if (use !== undefined) this.db.run('UPDATE container_uses SET counted = 1 WHERE lease = ?', use.lease)
    })
  }

  /** One user less. */
  uncount(target: string, lease: string | undefined): void {
    this.db.transaction(() => {
      if (this.isCounted(lease)) this.db.run('UPDATE mounts SET users = users - 1 WHERE target = ?', target)
      this.endUse(lease)
    })
  }

  /** Whether it is one of the users; who has no lease is. */
  isCounted(lease: string | undefined): boolean {
    if (lease === undefined) return true
    const sql = 'SELECT 1 FROM container_uses WHERE lease = ? AND counted = 1'
    return this.db.get(sql, lease) !== undefined
  }

  /** One that takes the container with it lasts as long as the container. */
  endUse(lease: string | undefined): void {
    if (lease === undefined) return
    this.db.run('DELETE FROM container_uses WHERE lease = ? AND remove = 0', lease)
    this.db.run('UPDATE container_uses SET counted = 0, process = NULL WHERE lease = ?', lease)
  }

  forget(target: string): void {
    this.db.run('DELETE FROM mounts WHERE target = ?', target)
  }
}
