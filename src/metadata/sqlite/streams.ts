import { assert } from '../../model/assert.js'
import { StratalogError } from '../../model/errors.js'
import type { Incarnation, StreamRow } from '../../model/segment.js'
import type { NewStream } from '../../ports/segment-index.js'
import type { SqliteDatabase, SqlRow, SqlStatement } from './database.js'
import {
  ColumnReader,
  checkRow,
  limitOf,
  STREAM_COLUMNS,
  streamFromSql,
  streamToSql,
  withChecksum,
} from './rows.js'
import type { SumsTable } from './sums.js'

/** What may change in a stream's row. */
export type StreamPatch = Partial<Pick<StreamRow, 'name' | 'epoch' | 'trimmedBelow' | 'finishedMs'>>

/** The tables `streams`, `policies` and `facts`. Calls that change something belong into a transaction. */
export class StreamTable {
  readonly #sums: SumsTable
  readonly #sql: Readonly<Record<StreamsSql, SqlStatement>>

  constructor(database: SqliteDatabase, sums: SumsTable) {
    this.#sums = sums
    this.#sql = database.prepareAll(STREAMS_SQL)
  }

  create(stream: NewStream): StreamRow {
    this.#refuseTaken(stream.name)
    const same = this.byIncarnation(stream.incarnation)
    if (same !== null) {
      throw new StratalogError(
        'conflict',
        `the incarnation ${stream.incarnation} is that of stream ${same.name}: draw a new one`,
        {
          expected: null,
          found: same.name,
        },
      )
    }
    const row: StreamRow = { ...stream, epoch: 0n, trimmedBelow: null, finishedMs: null, version: 0 }
    this.#sql.insert.run(...withChecksum(streamToSql(row)))
    this.#sums.create(this.idOf(stream.incarnation))
    return row
  }

  #refuseTaken(name: string): void {
    const named = this.byName(name)
    if (named === null) return
    throw new StratalogError('stream_exists', `there is a stream ${name} already: choose another name`, {
      found: named.incarnation,
    })
  }

  byName(name: string): StreamRow | null {
    const found = this.#sql.byName.get(name)
    return found === undefined ? null : streamFromSql(found)
  }

  byIncarnation(incarnation: Incarnation): StreamRow | null {
    const found = this.#sql.byIncarnation.get(incarnation)
    return found === undefined ? null : streamFromSql(found)
  }

  /** The number rows of other tables know the stream by; null if there is no such stream. */
  findId(incarnation: Incarnation): bigint | null {
    const found = this.#sql.id.get(incarnation)
    return found === undefined ? null : new ColumnReader(found, `stream ${incarnation}`).integer()
  }

  /** {@link findId}, or `stream_not_found`. */
  idOf(incarnation: Incarnation): bigint {
    const id = this.findId(incarnation)
    if (id === null) throw unknownStream(incarnation)
    return id
  }

  list(after: string, limit: number): StreamRow[] {
    return this.#sql.list.all(after, limitOf(limit)).map(streamFromSql)
  }

  update(incarnation: Incarnation, expectedVersion: number, patch: StreamPatch): StreamRow {
    const before = this.byIncarnation(incarnation)
    if (before === null) throw unknownStream(incarnation)
    if (before.version !== expectedVersion) {
      throw new StratalogError(
        'conflict',
        `stream ${before.name} was changed by another: read it again and decide anew`,
        {
          expected: expectedVersion,
          found: before.version,
          details: { epoch: before.epoch.toString() },
        },
      )
    }
    if (patch.name !== undefined && patch.name !== before.name) this.#refuseTaken(patch.name)
    const after: StreamRow = { ...before, ...patch, version: before.version + 1 }
    const { trimmedBelow } = after
    assert(after.epoch >= before.epoch, `the epoch of ${before.name} goes back to ${after.epoch}`)
    assert(
      before.trimmedBelow === null ||
        (trimmedBelow !== null && trimmedBelow.compare(before.trimmedBelow) >= 0),
      `the trim point of ${before.name} goes back to ${trimmedBelow}`,
    )
    assert(
      before.finishedMs === null || after.finishedMs === before.finishedMs,
      `${before.name} is finished, and for ever`,
    )
    this.#sql.update.run(...withChecksum(streamToSql(after)), incarnation)
    return after
  }

  /** With what hangs on it; its segments are gone before. */
  remove(stream: bigint): void {
    this.#sql.deletePolicy.run(stream)
    this.#sql.deleteSums.run(stream)
    this.#sql.deleteStream.run(stream)
  }

  policy(incarnation: Incarnation): string | null {
    return this.#text(this.#sql.policy.get(incarnation), `policy of stream ${incarnation}`)
  }

  setPolicy(incarnation: Incarnation, policy: string | null): void {
    const stream = this.idOf(incarnation)
    if (policy === null) this.#sql.deletePolicy.run(stream)
    else this.#sql.setPolicy.run(...withChecksum([stream, policy]))
  }

  fact(name: string): string | null {
    return this.#text(this.#sql.fact.get(name), `fact ${name}`)
  }

  setFact(name: string, value: string): void {
    this.#sql.setFact.run(...withChecksum([name, value]))
  }

  #text(row: SqlRow | undefined, what: string): string | null {
    if (row === undefined) return null
    checkRow(row, what)
    return new ColumnReader(row.slice(1), what).text()
  }
}

function unknownStream(incarnation: Incarnation): StratalogError {
  return new StratalogError('stream_not_found', `there is no stream with incarnation ${incarnation}`, {
    found: incarnation,
  })
}

const COLUMNS = [...STREAM_COLUMNS, 'checksum'].join(', ')

type StreamsSql =
  | 'insert'
  | 'byName'
  | 'byIncarnation'
  | 'id'
  | 'list'
  | 'update'
  | 'policy'
  | 'setPolicy'
  | 'deletePolicy'
  | 'deleteSums'
  | 'deleteStream'
  | 'fact'
  | 'setFact'

/** The statements of this file; tests look at their plans. Text is compared byte by byte, which is by code point. */
export const STREAMS_SQL: Readonly<Record<StreamsSql, string>> = {
  insert: `INSERT INTO streams (${COLUMNS}) VALUES (${Array(STREAM_COLUMNS.length + 1)
    .fill('?')
    .join(', ')})`,
  byName: `SELECT ${COLUMNS} FROM streams WHERE name = ?`,
  byIncarnation: `SELECT ${COLUMNS} FROM streams WHERE incarnation = ?`,
  id: 'SELECT id FROM streams WHERE incarnation = ?',
  list: `SELECT ${COLUMNS} FROM streams WHERE name > ? ORDER BY name LIMIT ?`,
  update: `UPDATE streams SET ${[...STREAM_COLUMNS, 'checksum'].map((c) => `${c} = ?`).join(', ')} WHERE incarnation = ?`,
  policy:
    'SELECT stream, policy, checksum FROM policies WHERE stream = (SELECT id FROM streams WHERE incarnation = ?)',
  setPolicy: 'INSERT OR REPLACE INTO policies (stream, policy, checksum) VALUES (?, ?, ?)',
  deletePolicy: 'DELETE FROM policies WHERE stream = ?',
  deleteSums: 'DELETE FROM sums WHERE stream = ?',
  deleteStream: 'DELETE FROM streams WHERE id = ?',
  fact: 'SELECT name, value, checksum FROM facts WHERE name = ?',
  setFact: 'INSERT OR REPLACE INTO facts (name, value, checksum) VALUES (?, ?, ?)',
}
