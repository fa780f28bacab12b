/** What build steps made, by the digest of everything they depended on. */
import type { Digest, ImageConfig } from '../oci/index.js'
import type { StoreContext } from './store-context.js'

export interface CachedStep {
  readonly chainId: Digest | undefined
  readonly config: ImageConfig
}

export class BuildCache {
  constructor(readonly context: StoreContext) {}

  /** Also marks it as used, for prune --filter until=. */
  find(key: string): CachedStep | undefined {
    const { db } = this.context
    const row = db.get<{ chain_id: Digest | null; config: string }>(
      'UPDATE build_cache SET used = ? WHERE key = ? RETURNING chain_id, config',
      Date.now(),
      key,
    )
    if (row === undefined) return undefined
    return { chainId: row.chain_id ?? undefined, config: JSON.parse(row.config) as ImageConfig }
  }

  add(key: string, step: CachedStep, instruction: string): void {
    this.context.db.run(
      `INSERT INTO build_cache (key, chain_id, config, instruction, used) VALUES (?, ?, ?, ?, ?)
       ON CONFLICT (key) DO UPDATE SET chain_id = excluded.chain_id, config = excluded.config, used = excluded.used`,
      key,
      step.chainId ?? null,
      JSON.stringify(step.config),
      instruction,
      Date.now(),
    )
  }

  count(): number {
    return this.context.db.get<{ n: number }>('SELECT count(*) AS n FROM build_cache')?.n ?? 0
  }

  /** To be called within a collection: what the rows kept goes with them. */
  clear(before = Number.MAX_SAFE_INTEGER): number {
    return this.context.db.run('DELETE FROM build_cache WHERE used < ?', before)
  }
}
