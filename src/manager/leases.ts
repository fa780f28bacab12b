/**
 * A lease keeps layers and chains that a running command has found or made, until the image, container or cache entry
 * that will refer to them is committed. Without it, a prune in another process could take a layer between two steps of
 * a load. Its rows are ordinary foreign keys; its life is that of a claim, so a killed command keeps nothing.
 */
import { randomBytes } from 'node:crypto'
import type { Claim, Claims } from './claims.js'
import type { Database } from './database.js'

export class Lease implements Disposable {
  private constructor(
    readonly id: string,
    readonly db: Database,
    readonly claim: Claim,
  ) {}

  static open(db: Database, claims: Claims): Lease {
    const id = randomBytes(8).toString('hex')
    return new Lease(id, db, claims.claim('lease', id))
  }

  /** Whether the layer is stored; from now on it stays. */
  keepLayer(diffId: string): boolean {
    const sql = 'INSERT INTO leases (id, diff_id) SELECT ?, diff_id FROM layers WHERE diff_id = ?'
    return this.db.run(sql, this.id, diffId) > 0
  }

  /** Whether the chain is stored; from now on it and all below it stay. */
  keepChain(chainId: string): boolean {
    const sql = 'INSERT INTO leases (id, chain_id) SELECT ?, chain_id FROM chains WHERE chain_id = ?'
    return this.db.run(sql, this.id, chainId) > 0
  }

  /** To be called in the transaction that commits what was leased for: it saves one of its own. */
  drop(): void {
    dropLease(this.db, this.id)
  }

  [Symbol.dispose](): void {
    if (this.claim.fd.closed) return
    dropLease(this.db, this.id)
    this.claim.release()
  }
}

/** Also for a sweep, which holds the dead command's claim. */
export function dropLease(db: Database, id: string): boolean {
  return db.run('DELETE FROM leases WHERE id = ?', id) > 0
}
