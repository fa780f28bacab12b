/** Whole trees of chains, made once and shared: directories under snapshots/ with a row each. */
import { randomBytes } from 'node:crypto'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { DriverName, Stack } from './drivers/driver.js'
import { makeDurable } from './durable.js'
import type { StoreContext } from './store-context.js'

export class SnapshotKeeper {
  constructor(readonly context: StoreContext) {}

  /**
   * The directory that `driver` keeps for the stack; `make` fills a new one. Two processes may make it at once: the
   * first row wins and the other's work is removed. The caller holds the chain (a mount, a container, a lease).
   */
  async get(driver: DriverName, stack: Stack, make: (dir: string) => Promise<void>): Promise<string> {
    const { db, claims, paths } = this.context
    const chain = stack.chainId
    const found = chain === undefined ? undefined : this.find(driver, chain)
    if (found !== undefined) return found
    const id = randomBytes(6).toString('hex')
    const claim = claims.claim('snapshot', id)
    const dir = join(paths.snapshots, id)
    try {
      mkdirSync(dir, { mode: 0o700 })
      await make(dir)
      await makeDurable(this.context, dir, Infinity)
      const inserted =
        chain !== undefined &&
        db.run(
          'INSERT OR IGNORE INTO snapshots (driver, chain_id, dir, created) VALUES (?, ?, ?, ?)',
          driver,
          chain,
          id,
          Date.now(),
        ) > 0
      if (inserted) return dir
      const winner = chain === undefined ? undefined : this.find(driver, chain)
      if (winner === undefined) return dir
      await this.context.removeSnapshot(dir)
      return winner
    } catch (error) {
      await this.context.removeSnapshot(dir)
      throw error
    } finally {
      claim.release()
    }
  }

  find(driver: DriverName, chainId: string): string | undefined {
    const row = this.context.db.get<{ dir: string }>(
      'SELECT dir FROM snapshots WHERE driver = ? AND chain_id = ?',
      driver,
      chainId,
    )
    return row === undefined ? undefined : join(this.context.paths.snapshots, row.dir)
  }
}
