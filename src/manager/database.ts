/**
 * The metadata database: SQLite in WAL mode, shared by every process that uses the store.
 *
 * Rules that keep many processes from waiting on each other:
 * - a transaction is one synchronous function: no await, no file work inside it, so it lasts well under a millisecond;
 * - a transaction that writes begins IMMEDIATE, so it never has to be retried half way;
 * - reads outside a transaction see the last commit and never block a writer (WAL).
 */
import { DatabaseSync, type DatabaseSyncInstance } from '@photostructure/sqlite'
import { chmodSync, existsSync, lstatSync, renameSync, rmSync } from 'node:fs'
import { dirname } from 'node:path'
import { fromUtf8 } from '../base/bytes.js'
import type { Fd } from '../base/fd.js'
import * as sys from '../sys/index.js'
import { isFull } from './reserve.js'
import { MIGRATIONS } from './schema.js'
import { StoreError, causeOf } from './store-error.js'

/** What SQLite takes and gives here. Integers are below 2^53 by construction: sizes, counts, milliseconds. */
export type SqlValue = null | number | string | Uint8Array

type Statement = ReturnType<DatabaseSyncInstance['prepare']>

/** Milliseconds that a writer waits for other writers; transactions are short, so this is reached by a hung disk only. */
const BUSY_TIMEOUT = 60_000

export class Database implements Disposable {
  readonly #db: DatabaseSyncInstance
  readonly #statements = new Map<string, Statement>()
  #depth = 0

  private constructor(readonly path: string) {
    this.#db = new DatabaseSync(path, { timeout: BUSY_TIMEOUT, enableForeignKeyConstraints: true })
  }

  /**
   * Opens the database, making or migrating it under `lockPath`.
   * @throws StoreError when it is newer than this program, damaged, or out of reach
   */
  static open(path: string, lockPath: string): Database {
    try {
      for (const end = Date.now() + BUSY_TIMEOUT; ;) {
        try {
          return Database.#openOnce(path, lockPath)
        } catch (error) {
          // A journal or log that a killed command left is taken care of by the first who opens the file; there are moments in
          // which SQLite tells the second so instead of waiting (sqlite.org/wal.html, "Sometimes Queries Return SQLITE_BUSY").
          if (!isBusy(error) || Date.now() > end) throw error
          Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5)
        }
      }
    } catch (error) {
      if (error instanceof StoreError) throw error
      // SQLite says "disk I/O error" where it cannot have the few pages that opening takes.
      if (isFull(dirname(path))) throw noRoom(path, error)
      throw new StoreError(
        'corrupt',
        `cannot open the store's database ${path}: ${causeOf(error)}`,
        'check the permissions of the directory, or name another one with --root',
        { cause: error },
      )
    }
  }

  static #openOnce(path: string, lockPath: string): Database {
    if (!existsSync(path)) makeDatabase(path, lockPath)
    closeToOthers(path)
    const db = new Database(path)
    try {
      if (db.#version() !== MIGRATIONS.length) db.#migrate(lockPath)
      // synchronous=FULL: what a command reported as done survives a power cut too. One fsync a commit.
      db.#db.exec('PRAGMA synchronous = FULL')
      return db
    } catch (error) {
      db.close()
      throw error
    }
  }

  #version(): number {
    return this.get<{ user_version: number }>('PRAGMA user_version')?.user_version ?? 0
  }

  #migrate(lockPath: string): void {
    using lock = lockFile(lockPath)
    void lock
    this.#db.exec('PRAGMA journal_mode = WAL')
    const found = this.#version()
    if (found > MIGRATIONS.length) {
      throw new StoreError(
        'unsupported',
        `the store's database ${this.path} has schema ${found}, this program knows ${MIGRATIONS.length}`,
        'it was written by a newer Lamina: upgrade this one',
      )
    }
    for (const [index, migration] of MIGRATIONS.entries()) {
      if (index < found) continue
      this.transaction(() => {
        this.#db.exec(`${migration}; PRAGMA user_version = ${index + 1}`)
      })
    }
  }

  all<Row>(sql: string, ...params: SqlValue[]): Row[] {
    return this.#prepare(sql).all(...params) as Row[]
  }

  get<Row>(sql: string, ...params: SqlValue[]): Row | undefined {
    return (this.#prepare(sql).get(...params) ?? undefined) as Row | undefined
  }

  /** Returns the number of rows changed. */
  run(sql: string, ...params: SqlValue[]): number {
    try {
      return this.#prepare(sql).run(...params).changes
    } catch (error) {
      throw this.#explained(error)
    }
  }

  /** SQLite's "database or disk is full" names nothing. */
  #explained(error: unknown): unknown {
    if (!hasSqliteCode(error, 13)) return error
    return noRoom(this.path, error)
  }

  /**
   * Runs `change` as one write transaction; any exception undoes it. `change` must not await. A transaction inside a
   * transaction joins the outer one.
   */
  transaction<T>(change: () => T): T {
    return this.#within('BEGIN IMMEDIATE', change)
  }

  /** Runs `read` on one snapshot: several queries that must agree with each other. */
  snapshot<T>(read: () => T): T {
    return this.#within('BEGIN', read)
  }

  #within<T>(begin: string, body: () => T): T {
    if (this.#depth > 0) return body()
    this.#db.exec(begin)
    this.#depth += 1
    try {
      const result = body()
      if (result instanceof Promise) throw new TypeError('a transaction must be synchronous')
      this.#db.exec('COMMIT')
      return result
    } catch (error) {
      // A failed COMMIT (disk full) has already rolled back in some cases.
      if (this.#db.isTransaction) this.#db.exec('ROLLBACK')
      throw this.#explained(error)
    } finally {
      this.#depth -= 1
    }
  }

  /** What SQLite itself finds wrong with the file: empty when it is sound. */
  integrity(): string[] {
    const rows = this.all<{ integrity_check: string }>('PRAGMA integrity_check')
    const broken = rows.map(row => row.integrity_check).filter(line => line !== 'ok')
    const dangling = this.all<{ table: string; rowid: number; parent: string }>('PRAGMA foreign_key_check')
    return [
      ...broken,
      ...dangling.map(row => `${row.table} row ${row.rowid} points to a missing row of ${row.parent}`),
    ]
  }

  #prepare(sql: string): Statement {
    let statement = this.#statements.get(sql)
    if (statement === undefined) {
      statement = this.#db.prepare(sql)
      this.#statements.set(sql, statement)
    }
    return statement
  }

  close(): void {
    this.#statements.clear()
    if (this.#db.isOpen) this.#db.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

/** Bytes 18 and 19 of a database file: 2 is WAL. Source: sqlite.org/fileformat.html, "File format version numbers". */
const [FORMAT_AT, WAL_FORMAT] = [18, Buffer.from([2, 2])]

/**
 * Makes the file under another name, complete and in WAL mode, so that nobody ever meets one that is being made. Switching a file that
 * others have open to WAL is the one step for which SQLite does not wait: where a command was killed in it, of those that came after one could
 * end with "database is locked".
 */
function makeDatabase(path: string, lockPath: string): void {
  using lock = lockFile(lockPath)
  void lock
  if (existsSync(path)) return
  const unfinished = `${path}.new`
  for (const name of [unfinished, `${unfinished}-journal`]) rmSync(name, { force: true })
  // In memory first: no connection that knows the file by this name may outlive it.
  const memory = new DatabaseSync(':memory:')
  try {
    memory.exec([...MIGRATIONS, `PRAGMA user_version = ${MIGRATIONS.length}`].join(';'))
    memory.exec(`VACUUM INTO '${unfinished.replaceAll("'", "''")}'`)
  } finally {
    memory.close()
  }
  using file = sys.openat(sys.AT_FDCWD, fromUtf8(unfinished), sys.O_RDWR)
  sys.fchmod(file.n, PRIVATE)
  sys.pwriteSync(file.n, WAL_FORMAT, 0, WAL_FORMAT.length, FORMAT_AT)
  sys.fsyncSync(file.n)
  renameSync(unfinished, path)
  using dir = sys.openat(sys.AT_FDCWD, fromUtf8(dirname(path)), sys.O_RDONLY | sys.O_DIRECTORY)
  sys.fsyncSync(dir.n)
}

/** Rows hold what containers were given in `-e`. */
const PRIVATE = 0o600

/** SQLite gives -wal and -shm the mode of the database; those that are there already keep theirs. */
function closeToOthers(path: string): void {
  for (const name of [path, `${path}-wal`, `${path}-shm`]) {
    const stat = lstatSync(name, { throwIfNoEntry: false })
    if (stat?.isFile() === true && (stat.mode & 0o177) !== 0 && stat.uid === sys.geteuid())
      chmodSync(name, PRIVATE)
  }
}

function lockFile(path: string): Fd {
  const lock = sys.openat(sys.AT_FDCWD, fromUtf8(path), sys.O_RDWR | sys.O_CREAT, 0o600)
  sys.flock(lock.n, sys.LOCK_EX)
  return lock
}

function noRoom(path: string, cause: unknown): StoreError {
  return new StoreError(
    'failed',
    `No space left on device: the store's database ${path}`,
    "make room, e.g. by 'lamina system prune'",
    { cause },
  )
}

/** Whether `error` is SQLite refusing a row because another one refers to it (or lacks the one it refers to). */
export function isForeignKeyError(error: unknown): boolean {
  // SQLITE_CONSTRAINT_FOREIGNKEY, SQLITE_CONSTRAINT_TRIGGER (ON DELETE RESTRICT)
  return hasSqliteCode(error, 787) || hasSqliteCode(error, 1811)
}

export function isUniqueError(error: unknown): boolean {
  // SQLITE_CONSTRAINT_UNIQUE, SQLITE_CONSTRAINT_PRIMARYKEY
  return hasSqliteCode(error, 2067) || hasSqliteCode(error, 1555)
}

/** SQLITE_BUSY, of any of its extended codes. */
function isBusy(error: unknown): boolean {
  return (
    error instanceof Error &&
    'errcode' in error &&
    typeof error.errcode === 'number' &&
    (error.errcode & 0xff) === 5
  )
}

function hasSqliteCode(error: unknown, code: number): boolean {
  return error instanceof Error && 'errcode' in error && error.errcode === code
}
