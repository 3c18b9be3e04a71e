import { accessSync, closeSync, constants, openSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import Database from 'better-sqlite3'
import { StratalogError } from '../../model/errors.js'
import { fileError, isFailedSync, REBUILD_HINT, sqliteError } from './errors.js'
import { WriteGroup } from './write-group.js'

/** What SQLite gives back: integers are always bigint, so that none loses a digit above 2^53. */
export type SqlValue = bigint | string | Uint8Array | null

/** A row as an array of its columns, in the order of the SELECT. */
export type SqlRow = readonly SqlValue[]

/** A prepared statement. Rows come as arrays, integers as bigint. */
export interface SqlStatement {
  get(...values: SqlValue[]): SqlRow | undefined
  all(...values: SqlValue[]): SqlRow[]
  run(...values: SqlValue[]): { changes: number }
}

/** One step of the schema, run in one transaction together with the version it leads to. */
export type Migration = (database: Database.Database) => void

export interface OpenDatabaseOptions {
  /** The file's version is the number of migrations it has seen. */
  readonly migrations: readonly Migration[]
  /** How long a call waits for another connection's lock. @default 5000 */
  readonly busyTimeoutMs?: number
  /** Files up to this size are checked whole when opened; larger ones where they are read. @default 8 MiB */
  readonly checkBytesMax?: number
  /** Nothing is durable before the file is closed and synced: for one that is thrown away unless it gets whole. */
  readonly building?: boolean
  /**
   * What was changed last may be gone after a power cut, though what is left is as it once was: for a file that can be
   * brought forward from elsewhere, so that no change waits for the disk.
   */
  readonly cache?: boolean
}

/** "strl": tells our files from other programs' databases. */
const APPLICATION_ID = 0x7374726c
const CACHE_KIB = 8 * 1024
const WAL_KEPT_BYTES = 64 * 2 ** 20

/**
 * One SQLite file: opened, checked and brought to the newest schema. Every change is one transaction that is on
 * disk when `write` returns (WAL, synchronous=FULL), but in a cache.
 */
export class SqliteDatabase {
  readonly file: string
  /** Whether there was nothing in the file: no stream, no id, no epoch is known then. */
  readonly created: boolean
  readonly #raw: Database.Database
  readonly #immediately: (body: () => unknown) => unknown
  readonly #group: WriteGroup
  #poison: StratalogError | null = null

  private constructor(file: string, raw: Database.Database, created: boolean) {
    this.file = file
    this.created = created
    this.#raw = raw
    const transaction = raw.transaction((body: () => unknown) => body())
    this.#immediately = transaction.immediate
    // Within a transaction this is a savepoint: what one body of a group did goes, and the others stay.
    this.#group = new WriteGroup((doing, body) => this.write(doing, body), transaction)
  }

  /**
   * Opens `file`, making it if there is none (its directory must be there). Errors: `corrupt`,
   * `version_unsupported`, `access_denied`, `file_not_found`, `directory_in_use`, `disk_full`, `io_failed`.
   */
  static open(file: string, options: OpenDatabaseOptions): SqliteDatabase {
    makePrivateFile(file)
    let raw: Database.Database | null = null
    try {
      raw = new Database(file, { timeout: options.busyTimeoutMs ?? 5_000 })
      // Before the first access: SQLite then keeps what connections share in its own memory. A mapped -shm file
      // kills the process (SIGBUS) where the disk can't back it, and only this process may have the file anyway.
      raw.pragma('locking_mode = EXCLUSIVE')
      // Nothing may be written before the file is known to be ours, sound and not from a newer version.
      const found = inspect(raw, file, options)
      tune(raw, file)
      if (options.cache === true) raw.pragma('synchronous = NORMAL')
      if (options.building === true) raw.pragma('synchronous = OFF')
      migrate(raw, found.version, options.migrations)
      return new SqliteDatabase(file, raw, found.empty)
    } catch (error) {
      raw?.close()
      throw openingError(error, file)
    }
  }

  prepare(sql: string): SqlStatement {
    let statement: Database.Statement<unknown[], SqlRow>
    try {
      statement = this.#raw.prepare<unknown[], SqlRow>(sql).safeIntegers(true)
    } catch (error) {
      // The version says that the tables are ours, yet SQLite doesn't find them: the schema itself is damaged.
      throw damagedSchema(error, this.file) ?? sqliteError(error, this.file, 'use the index')
    }
    return statement.reader ? statement.raw(true) : statement
  }

  /** Prepares a table of statements: once, when the parts of the index are made. */
  prepareAll<Name extends string>(sql: Readonly<Record<Name, string>>): Readonly<Record<Name, SqlStatement>> {
    const entries = Object.entries<string>(sql).map(([name, text]) => [name, this.prepare(text)] as const)
    return Object.fromEntries(entries) as Record<Name, SqlStatement>
  }

  /** Runs `body` as one transaction: all of it durable when this returns, or, if anything throws, none of it. */
  write<T>(doing: string, body: () => T): T {
    if (this.#poison !== null) throw this.#poison
    try {
      return this.#immediately(body) as T
    } catch (error) {
      const mapped = sqliteError(error, this.file, doing)
      // A failed fsync is never repeated: the kernel may have dropped the pages and would report success.
      if (isFailedSync(error) && mapped instanceof StratalogError) this.#poison = mapped
      throw mapped
    }
  }

  /**
   * As `write`, together with whatever else is to be written in this turn: one transaction and one sync for all of
   * them, in the order they came. Resolves or rejects with what became of this one.
   */
  writeSoon<T>(doing: string, body: () => T): Promise<T> {
    return this.#group.add(doing, body)
  }

  /** Runs `body`, which only reads; errors in our words. */
  read<T>(doing: string, body: () => T): T {
    try {
      return body()
    } catch (error) {
      throw sqliteError(error, this.file, doing)
    }
  }

  /** Runs a pragma and gives its first value. For checks and tests. */
  pragma(text: string): unknown {
    return this.#raw.pragma(text, { simple: true })
  }

  /** The plan of a query, a line each. For tests: every query has to use an index. */
  explain(sql: string): string[] {
    const statement = this.#raw.prepare<unknown[], { detail: string }>(`EXPLAIN QUERY PLAN ${sql}`)
    return statement.all(...Array<null>((sql.match(/\?/g) ?? []).length).fill(null)).map((row) => row.detail)
  }

  /** Idempotent. What waits is written first; writes the log back into the file. */
  close(): void {
    this.#group.flush()
    try {
      this.#raw.close()
    } catch (error) {
      throw sqliteError(error, this.file, 'close the index')
    }
  }
}

/**
 * Makes the file for its owner only, for it holds ledgers' passwords; -wal and -shm get the same mode from SQLite.
 * A file that is there is never opened here: closing it would drop the locks this process holds on it.
 */
function makePrivateFile(file: string): void {
  try {
    closeSync(openSync(file, 'wx', 0o600))
  } catch (error) {
    const exists = error instanceof Error && 'code' in error && error.code === 'EEXIST'
    if (!exists) throw fileError(error, file, 'create')
    checkAccess(file)
  }
}

/** SQLite would open a file read-only without a word and fail later, each time in another way. */
function checkAccess(file: string): void {
  for (const path of [file, dirname(file)]) {
    try {
      accessSync(path, constants.R_OK | constants.W_OK)
    } catch (error) {
      throw fileError(error, path, 'write to')
    }
  }
}

/** What a failure to open means. */
function openingError(error: unknown, file: string): unknown {
  const schema = damagedSchema(error, file)
  if (schema !== null) return schema
  if (error instanceof Database.SqliteError && error.code.startsWith('SQLITE_READONLY')) {
    // Access was checked before: SQLite also calls a file read-only whose header has an unknown version.
    return new StratalogError(
      'corrupt',
      `the header of ${file} is damaged: ${error.message}; ${REBUILD_HINT}`,
      {
        cause: error,
      },
    )
  }
  return sqliteError(error, file, 'open the index')
}

/** SQLite's plain "error" is one in a statement of ours, which tests rule out, or in the schema it met. */
function damagedSchema(error: unknown, file: string): StratalogError | null {
  if (!(error instanceof Database.SqliteError) || error.code !== 'SQLITE_ERROR') return null
  return new StratalogError(
    'corrupt',
    `the tables of ${file} are damaged: ${error.message}; ${REBUILD_HINT}`,
    {
      cause: error,
    },
  )
}

function inspect(
  raw: Database.Database,
  file: string,
  options: OpenDatabaseOptions,
): { version: number; empty: boolean } {
  const number = (pragma: string): number => Number(raw.pragma(pragma, { simple: true }))
  const version = number('user_version')
  const known = options.migrations.length
  const empty = raw.prepare('SELECT count(*) FROM sqlite_schema').pluck().get() === 0
  if (empty && version === 0) {
    // SQLite takes the first bytes of a file that was cut off for an empty database, and would write over them.
    if (number('page_count') > 0 || statSync(file).size === 0) return { version, empty }
    throw new StratalogError('corrupt', `${file} is damaged: it was cut off; ${REBUILD_HINT}`, {
      found: statSync(file).size,
    })
  }
  if (number('application_id') !== APPLICATION_ID) {
    throw new StratalogError(
      'corrupt',
      `${file} is not an index of stratalog but another SQLite database, or damaged; ${REBUILD_HINT}`,
      {
        expected: APPLICATION_ID,
        found: number('application_id'),
      },
    )
  }
  if (version > known) {
    throw new StratalogError(
      'version_unsupported',
      `${file} has version ${version} and this stratalog reads versions up to ${known}: nothing was changed; use a newer stratalog`,
      { expected: known, found: version },
    )
  }
  if (version < 1 || empty) {
    throw new StratalogError(
      'corrupt',
      `${file} is damaged: tables and version do not agree; ${REBUILD_HINT}`,
      {
        found: version,
      },
    )
  }
  if (number('page_count') * number('page_size') <= (options.checkBytesMax ?? 8 * 2 ** 20)) {
    // Unlike quick_check this also compares every index with its table: a wrong key there finds wrong rows.
    const verdict = raw.pragma('integrity_check(1)', { simple: true })
    if (verdict !== 'ok') {
      throw new StratalogError('corrupt', `${file} is damaged: ${String(verdict)}; ${REBUILD_HINT}`, {
        found: verdict,
      })
    }
  }
  return { version, empty }
}

function tune(raw: Database.Database, file: string): void {
  const mode = raw.pragma('journal_mode = WAL', { simple: true })
  if (mode !== 'wal') {
    throw new StratalogError(
      'unsupported',
      `${file} can't use a write-ahead log on its file system: move it to a local disk`,
      {
        expected: 'wal',
        found: mode,
      },
    )
  }
  raw.pragma('synchronous = FULL')
  raw.pragma('foreign_keys = ON')
  raw.pragma('trusted_schema = OFF')
  raw.pragma('cell_size_check = ON')
  raw.pragma('temp_store = MEMORY')
  raw.pragma(`cache_size = -${CACHE_KIB}`)
  raw.pragma(`journal_size_limit = ${WAL_KEPT_BYTES}`)
  // Asks for the right to write now rather than at the first append.
  raw.exec('BEGIN IMMEDIATE; CREATE TABLE write_probe (x); ROLLBACK')
}

/** Brings the schema up step by step. A crash between two steps leaves a file of the version in between. */
function migrate(raw: Database.Database, version: number, migrations: readonly Migration[]): void {
  for (const [at, migration] of migrations.entries()) {
    if (at < version) continue
    const step = raw.transaction(() => {
      migration(raw)
      raw.pragma(`application_id = ${APPLICATION_ID}`)
      raw.pragma(`user_version = ${at + 1}`)
    })
    step.immediate()
  }
}
