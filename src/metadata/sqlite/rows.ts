import { crc32c } from '../../format/checksum.js'
import { assert } from '../../model/assert.js'
import { Dlsn } from '../../model/dlsn.js'
import { StratalogError } from '../../model/errors.js'
import type { GapReason, SegmentRow, SegmentState, StreamRow, TxidMode } from '../../model/segment.js'
import { SEGMENT_TRANSITIONS } from '../../model/segment.js'
import type { SqlRow, SqlValue } from './database.js'
import { REBUILD_HINT } from './errors.js'

/* How rows of the tables become rows of the model and back. Nothing here touches the database. */

/** Largest integer SQLite stores. */
export const INT64_MAX: bigint = 2n ** 63n - 1n
export const INT64_MIN: bigint = -(2n ** 63n)

/** CRC32C over columns as text; what the `checksum` column holds. */
export function rowChecksum(values: SqlRow): bigint {
  let text = ''
  for (const value of values) {
    if (value === null) text += '~\n'
    else if (value instanceof Uint8Array) text += `${Buffer.from(value).toString('base64')}\n`
    else text += `${value}\n`
  }
  return BigInt(crc32c(Buffer.from(text)))
}

/** The columns with their checksum behind them. */
export function withChecksum(values: SqlRow): SqlValue[] {
  return [...values, rowChecksum(values)]
}

/** Checks a row whose last column is the checksum of the others. Throws `corrupt`. */
export function checkRow(row: SqlRow, what: string): void {
  const found = row.at(-1)
  const expected = rowChecksum(row.slice(0, -1))
  if (found !== expected) {
    throw new StratalogError(
      'corrupt',
      `the index has a damaged row: ${what} does not match its checksum; ${REBUILD_HINT}`,
      {
        expected,
        found,
      },
    )
  }
}

/** A whole number on its way in. */
export function whole(value: number, name: string): bigint {
  assert(Number.isSafeInteger(value), `${name} is not a whole number: ${value}`)
  return BigInt(value)
}

/** A 64-bit number on its way in. */
export function int64(value: bigint, name: string): bigint {
  assert(value >= INT64_MIN && value <= INT64_MAX, `${name} is beyond 64 bits: ${value}`)
  return value
}

/** How many rows at most, as SQL wants it: a negative limit would mean all. */
export function limitOf(limit: number): bigint {
  assert(Number.isSafeInteger(limit) && limit >= 0, `a limit of ${limit}`)
  return BigInt(limit)
}

/** A time on its way into a search, which any number may be; times are whole milliseconds. */
export function searchTime(timeMs: number): bigint {
  if (Number.isNaN(timeMs))
    throw new StratalogError('invalid_argument', 'the time to look for is not a number')
  if (timeMs >= 2 ** 63) return INT64_MAX
  return timeMs <= -(2 ** 63) ? INT64_MIN : BigInt(Math.ceil(timeMs))
}

/** Columns of `segments` in the order of {@link segmentToSql}; the incarnation is looked up, and checked with them. */
export const SEGMENT_COLUMNS: readonly string[] = [
  'segment',
  'state',
  'epoch',
  'ledger_id',
  'first_txid',
  'start_sequence_id',
  'opened_ms',
  'last_txid',
  'last_entry_id',
  'last_slot',
  'record_count',
  'length_bytes',
  'sealed_ms',
  'content_digest',
  'object_key',
  'object_size_bytes',
  'object_index_bytes',
  'archived_ms',
  'evicted_ms',
  'version',
  'gap_reason',
  'recalled_until_ms',
]

/** A segment's columns, without incarnation and checksum. */
export function segmentToSql(row: SegmentRow): SqlValue[] {
  const ms = (value: number | null, name: string) => (value === null ? null : whole(value, name))
  int64(row.startSequenceId + row.recordCount, 'end of sequenceIds')
  return [
    int64(row.segment, 'segment'),
    row.state,
    int64(row.epoch, 'epoch'),
    row.ledgerId === null ? null : int64(row.ledgerId, 'ledgerId'),
    int64(row.firstTxid, 'firstTxid'),
    int64(row.startSequenceId, 'startSequenceId'),
    whole(row.openedMs, 'openedMs'),
    int64(row.lastTxid, 'lastTxid'),
    int64(row.lastEntryId, 'lastEntryId'),
    int64(row.lastSlot, 'lastSlot'),
    int64(row.recordCount, 'recordCount'),
    whole(row.lengthBytes, 'lengthBytes'),
    ms(row.sealedMs, 'sealedMs'),
    row.contentDigest,
    row.object?.key ?? null,
    row.object === null ? null : whole(row.object.sizeBytes, 'sizeBytes'),
    row.object === null ? null : whole(row.object.indexBytes, 'indexBytes'),
    ms(row.archivedMs, 'archivedMs'),
    ms(row.evictedMs, 'evictedMs'),
    whole(row.version, 'version'),
    row.gapReason ?? null,
    ms(row.recalledUntilMs, 'recalledUntilMs'),
  ]
}

/** A row of (incarnation, SEGMENT_COLUMNS…, checksum). Throws `corrupt`. */
export function segmentFromSql(sql: SqlRow): SegmentRow {
  const what = `segment ${String(sql[1])} of ${String(sql[0])}`
  checkRow(sql, what)
  const read = new ColumnReader(sql, what)
  const incarnation = read.text()
  const segment = read.integer()
  const state = read.text()
  if (!Object.hasOwn(SEGMENT_TRANSITIONS, state)) throw read.damaged(`state ${state}`)
  const row = {
    incarnation,
    segment,
    state: state as SegmentState,
    epoch: read.integer(),
    ledgerId: read.integerOrNull(),
    firstTxid: read.integer(),
    startSequenceId: read.integer(),
    openedMs: read.number(),
    lastTxid: read.integer(),
    lastEntryId: read.integer(),
    lastSlot: read.integer(),
    recordCount: read.integer(),
    lengthBytes: read.number(),
    sealedMs: read.numberOrNull(),
    contentDigest: read.textOrNull(),
  }
  const key = read.textOrNull()
  const sizeBytes = read.numberOrNull()
  const indexBytes = read.numberOrNull()
  const object = key === null ? null : { key, sizeBytes: sizeBytes ?? 0, indexBytes: indexBytes ?? 0 }
  const rest = {
    object,
    archivedMs: read.numberOrNull(),
    evictedMs: read.numberOrNull(),
    version: read.number(),
  }
  const gapReason = read.textOrNull()
  const recalledUntilMs = read.numberOrNull()
  if (gapReason === null) return { ...row, ...rest, recalledUntilMs }
  if (!isGapReason(gapReason)) throw read.damaged(`gap reason ${gapReason}`)
  return { ...row, ...rest, recalledUntilMs, gapReason }
}

function isGapReason(text: string): text is GapReason {
  return text === 'dropped' || text === 'corrupt' || text === 'purged'
}

/** Columns of `streams` in the order of {@link streamToSql}. */
export const STREAM_COLUMNS: readonly string[] = [
  'incarnation',
  'name',
  'txid_mode',
  'created_ms',
  'parent_incarnation',
  'fork_segment',
  'fork_entry',
  'fork_slot',
  'epoch',
  'trimmed_segment',
  'trimmed_entry',
  'trimmed_slot',
  'version',
  'finished_ms',
  'parent_shares',
]

/** A stream's columns, without checksum. */
export function streamToSql(row: StreamRow): SqlValue[] {
  return [
    row.incarnation,
    row.name,
    row.txidMode,
    whole(row.createdMs, 'createdMs'),
    row.parent?.incarnation ?? null,
    ...dlsnToSql(row.parent?.fork ?? null),
    int64(row.epoch, 'epoch'),
    ...dlsnToSql(row.trimmedBelow),
    whole(row.version, 'version'),
    row.finishedMs === null ? null : whole(row.finishedMs, 'finishedMs'),
    row.parent?.shares === true ? 1n : null,
  ]
}

/** A row of (STREAM_COLUMNS…, checksum). Throws `corrupt`. */
export function streamFromSql(sql: SqlRow): StreamRow {
  const what = `stream ${String(sql[1])}`
  checkRow(sql, what)
  const read = new ColumnReader(sql, what)
  const incarnation = read.text()
  const name = read.text()
  const mode = read.text()
  if (mode !== 'ms' && mode !== 'custom') throw read.damaged(`txid mode ${mode}`)
  const txidMode: TxidMode = mode
  const createdMs = read.number()
  const parentIncarnation = read.textOrNull()
  const fork = read.dlsnOrNull()
  const epoch = read.integer()
  const trimmedBelow = read.dlsnOrNull()
  const version = read.number()
  const finishedMs = read.numberOrNull()
  const shares = read.integerOrNull() === null ? {} : { shares: true as const }
  const parent = parentIncarnation === null ? null : { incarnation: parentIncarnation, fork, ...shares }
  return { incarnation, name, txidMode, createdMs, parent, epoch, trimmedBelow, finishedMs, version }
}

function dlsnToSql(dlsn: Dlsn | null): SqlValue[] {
  if (dlsn === null) return [null, null, null]
  return [int64(dlsn.segment, 'segment'), int64(dlsn.entry, 'entry'), int64(dlsn.slot, 'slot')]
}

/** Takes the columns of a row one after another, each as what it must be. */
export class ColumnReader {
  readonly #row: SqlRow
  readonly #what: string
  #at = 0

  constructor(row: SqlRow, what: string) {
    this.#row = row
    this.#what = what
  }

  integerOrNull(): bigint | null {
    const value = this.#row[this.#at++] ?? null
    if (value !== null && typeof value !== 'bigint') throw this.damaged('no integer')
    return value
  }

  integer(): bigint {
    return this.integerOrNull() ?? this.#absent()
  }

  numberOrNull(): number | null {
    const value = this.integerOrNull()
    return value === null ? null : Number(value)
  }

  number(): number {
    return Number(this.integer())
  }

  textOrNull(): string | null {
    const value = this.#row[this.#at++] ?? null
    if (value !== null && typeof value !== 'string') throw this.damaged('no text')
    return value
  }

  text(): string {
    return this.textOrNull() ?? this.#absent()
  }

  dlsnOrNull(): Dlsn | null {
    const segment = this.integerOrNull()
    const entry = this.integerOrNull()
    const slot = this.integerOrNull()
    return segment === null || entry === null || slot === null ? null : new Dlsn(segment, entry, slot)
  }

  damaged(why: string): StratalogError {
    return new StratalogError(
      'corrupt',
      `the index has a damaged row: ${this.#what}, column ${this.#at}: ${why}; ${REBUILD_HINT}`,
    )
  }

  #absent(): never {
    throw this.damaged('no value')
  }
}
