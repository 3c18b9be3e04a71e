import { decodeLedgerMetadata, encodeLedgerMetadata } from '../../format/ledger-metadata.js'
import { assert } from '../../model/assert.js'
import { StratalogError } from '../../model/errors.js'
import type { LedgerMetadata } from '../../model/ledger.js'
import type { LedgerMetadataStore, VersionedLedgerMetadata } from '../../ports/ledger-metadata.js'
import type { SqliteDatabase, SqlStatement } from './database.js'
import { REBUILD_HINT } from './errors.js'
import { ColumnReader, checkRow, INT64_MAX, limitOf, whole, withChecksum } from './rows.js'

/** Ids are reserved on disk this many at a time; what is left of a block in a crash is never used. */
const ID_BLOCK = 64n
/** 0 is left out: it is too easily taken for "none". */
const FIRST_ID = 1n
const COUNTER = 'ledger'

/** Metadata of ledgers in SQLite, in BookKeeper's serialised form. */
export class SqliteLedgerMetadataStore implements LedgerMetadataStore {
  readonly #database: SqliteDatabase
  readonly #sql: Readonly<Record<LedgersSql, SqlStatement>>
  /** Ids from #next up to #reserved, exclusive, are reserved on disk and not yet given out. */
  #next = 0n
  #reserved = 0n

  constructor(database: SqliteDatabase) {
    this.#database = database
    this.#sql = database.prepareAll(LEDGERS_SQL)
  }

  async allocateId(): Promise<bigint> {
    if (this.#next >= this.#reserved) {
      // The mark is durable before the first id of the block is given out; a crash loses ids, it repeats none.
      const next = this.#database.write('reserve ledger ids', () => {
        const mark = this.#mark()
        this.#setMark(mark + ID_BLOCK)
        return mark
      })
      this.#next = next
      this.#reserved = next + ID_BLOCK
    }
    const id = this.#next
    this.#next += 1n
    return id
  }

  /**
   * Makes sure that no id up to `ledgerId` is ever given out: for a rebuilt index, which has to stay above all
   * ids its stores know of. Durable.
   */
  async reserveThrough(ledgerId: bigint): Promise<void> {
    this.#database.write('reserve ledger ids', () => this.#reserve(ledgerId))
    this.#skip(ledgerId)
  }

  async create(ledgerId: bigint, metadata: LedgerMetadata): Promise<VersionedLedgerMetadata> {
    assert(ledgerId >= 0n && ledgerId < INT64_MAX, `ledger id ${ledgerId}`)
    const bytes = encodeLedgerMetadata(metadata)
    await this.#database.writeSoon('create a ledger', () => {
      if (this.#sql.read.get(ledgerId) !== undefined) {
        throw new StratalogError(
          'ledger_exists',
          `ledger ${ledgerId} has metadata already: allocate another id`,
          {
            expected: null,
            found: ledgerId.toString(),
          },
        )
      }
      this.#sql.insert.run(...withChecksum([ledgerId, 0n, bytes]))
      // An id from elsewhere (a store, a restored ledger) must not be given out again later.
      this.#reserve(ledgerId)
    })
    this.#skip(ledgerId)
    return { ledgerId, metadata, version: 0 }
  }

  async read(ledgerId: bigint): Promise<VersionedLedgerMetadata> {
    return this.#database.read('read a ledger', () => this.#find(ledgerId))
  }

  async compareAndSet(
    ledgerId: bigint,
    expectedVersion: number,
    metadata: LedgerMetadata,
  ): Promise<VersionedLedgerMetadata> {
    const bytes = encodeLedgerMetadata(metadata)
    const version = expectedVersion + 1
    await this.#database.writeSoon('change a ledger', () => {
      const found = this.#find(ledgerId)
      if (found.version !== expectedVersion) throw changedError(ledgerId, expectedVersion, found.version)
      this.#sql.update.run(...withChecksum([ledgerId, whole(version, 'version'), bytes]), ledgerId)
    })
    return { ledgerId, metadata, version }
  }

  async delete(ledgerId: bigint, expectedVersion: number): Promise<void> {
    if (ledgerId < 0n || ledgerId > INT64_MAX) return
    await this.#database.writeSoon('delete a ledger', () => {
      if (this.#sql.read.get(ledgerId) === undefined) return
      const found = this.#find(ledgerId)
      if (found.version !== expectedVersion) throw changedError(ledgerId, expectedVersion, found.version)
      this.#sql.delete.run(ledgerId)
    })
  }

  async list(after: bigint, limit: number): Promise<bigint[]> {
    if (after >= INT64_MAX) return []
    return this.#database.read('list ledgers', () =>
      this.#sql.list
        .all(after < -1n ? -1n : after, limitOf(limit))
        .map((row) => new ColumnReader(row, 'ledger').integer()),
    )
  }

  #find(ledgerId: bigint): VersionedLedgerMetadata {
    const row = ledgerId < 0n || ledgerId > INT64_MAX ? undefined : this.#sql.read.get(ledgerId)
    if (row === undefined) {
      throw new StratalogError('ledger_not_found', `there is no metadata of ledger ${ledgerId}`, {
        found: ledgerId.toString(),
      })
    }
    const what = `ledger ${ledgerId}`
    checkRow(row, what)
    const read = new ColumnReader(row, what)
    read.integer()
    const version = read.number()
    const bytes = row[2]
    if (!(bytes instanceof Uint8Array)) {
      throw new StratalogError('corrupt', `the index has a damaged row: ${what}: no bytes; ${REBUILD_HINT}`)
    }
    return { ledgerId, metadata: decodeLedgerMetadata(bytes), version }
  }

  /** The lowest id that was never reserved. */
  #mark(): bigint {
    const row = this.#sql.counter.get(COUNTER)
    if (row === undefined) return FIRST_ID
    checkRow(row, 'counter of ledger ids')
    return new ColumnReader(row.slice(1), 'counter of ledger ids').integer()
  }

  #setMark(next: bigint): void {
    this.#sql.setCounter.run(...withChecksum([COUNTER, next]))
  }

  #reserve(ledgerId: bigint): void {
    assert(ledgerId < INT64_MAX, `ledger id ${ledgerId}`)
    if (this.#mark() <= ledgerId) this.#setMark(ledgerId + 1n)
  }

  #skip(ledgerId: bigint): void {
    if (this.#next <= ledgerId) this.#next = ledgerId + 1n
  }
}

function changedError(ledgerId: bigint, expected: number, found: number): StratalogError {
  const message = `the metadata of ledger ${ledgerId} was changed by another: read it again`
  return new StratalogError('conflict', message, { expected, found })
}

type LedgersSql = 'insert' | 'read' | 'update' | 'delete' | 'list' | 'counter' | 'setCounter'

/** The statements of this file; tests look at their plans. */
export const LEDGERS_SQL: Readonly<Record<LedgersSql, string>> = {
  insert: 'INSERT INTO ledgers (ledger_id, version, metadata, checksum) VALUES (?, ?, ?, ?)',
  read: 'SELECT ledger_id, version, metadata, checksum FROM ledgers WHERE ledger_id = ?',
  update: 'UPDATE ledgers SET ledger_id = ?, version = ?, metadata = ?, checksum = ? WHERE ledger_id = ?',
  delete: 'DELETE FROM ledgers WHERE ledger_id = ?',
  list: 'SELECT ledger_id FROM ledgers WHERE ledger_id > ? ORDER BY ledger_id LIMIT ?',
  counter: 'SELECT name, next, checksum FROM counters WHERE name = ?',
  setCounter: 'INSERT OR REPLACE INTO counters (name, next, checksum) VALUES (?, ?, ?)',
}
