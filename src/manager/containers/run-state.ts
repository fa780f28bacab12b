/** When a command ran in a container and how it ended: rows of `container_runs`. */
import type { Store } from '../store.js'

/** How long a removed container's row stays, in milliseconds. */
const KEPT = 3_600_000

export interface RunTimes {
  readonly started: number
  /** `null` while it runs, and where nobody saw the end. */
  readonly finished: number | null
  readonly code: number | null
}

export function noteStart({ db }: Pick<Store, 'db'>, container: string): void {
  const gone = 'container NOT IN (SELECT id FROM containers) AND (finished IS NULL OR finished < ?)'
  db.run(`DELETE FROM container_runs WHERE ${gone}`, Date.now() - KEPT)
  db.run(
    'INSERT OR REPLACE INTO container_runs (container, started, finished, code) VALUES (?, ?, NULL, NULL)',
    container,
    Date.now(),
  )
}

/** Of a run that has begun. */
export function noteEnd({ db }: Pick<Store, 'db'>, container: string, code: number): void {
  const sql = 'UPDATE container_runs SET finished = ?, code = ? WHERE container = ? AND finished IS NULL'
  db.run(sql, Date.now(), code, container)
}

export function lastRun({ db }: Pick<Store, 'db'>, container: string): RunTimes | undefined {
  return db.get<RunTimes & object>(
    'SELECT started, finished, code FROM container_runs WHERE container = ?',
    container,
  )
}
