import { assert, present } from '../../model/assert.js'
import { StratalogError } from '../../model/errors.js'
import type { SegmentRow, SegmentState, StreamRow } from '../../model/segment.js'
import { canTransition, checkSegmentRow, isClosed, SEGMENT_TRANSITIONS } from '../../model/segment.js'
import type { ExpectedSegment, SegmentPatch } from '../../ports/segment-index.js'
import type { SqliteDatabase, SqlRow, SqlStatement, SqlValue } from './database.js'
import {
  ColumnReader,
  INT64_MAX,
  INT64_MIN,
  limitOf,
  rowChecksum,
  SEGMENT_COLUMNS,
  searchTime,
  segmentFromSql,
  segmentToSql,
  whole,
} from './rows.js'
import type { SumsTable } from './sums.js'

const OPEN_STATES: readonly SegmentState[] = ['open', 'recovering']
const UNTRIMMED_STATES = (Object.keys(SEGMENT_TRANSITIONS) as SegmentState[]).filter(
  (state) => state !== 'trimmed',
)

/** The table `segments`. Calls that change something belong into a transaction. `stream` is the stream's number. */
export class SegmentTable {
  readonly #sums: SumsTable
  readonly #sql: Readonly<Record<SegmentsSql, SqlStatement>>

  constructor(database: SqliteDatabase, sums: SumsTable) {
    this.#sums = sums
    this.#sql = database.prepareAll(SEGMENTS_SQL)
  }

  /** Adds `row` behind the newest segment, or `conflict`. */
  append(stream: bigint, owner: StreamRow, row: SegmentRow): SegmentRow {
    const [added] = this.appendAll(stream, owner, [row])
    return present(added, 'the row that was added')
  }

  /** Adds rows one behind the other: what each stands on is known from the one before it. */
  appendAll(stream: bigint, owner: StreamRow, rows: readonly SegmentRow[]): SegmentRow[] {
    let { newestSegment } = this.#sums.of(stream)
    let tops: Tops | null = null
    const added: SegmentRow[] = []
    for (const row of rows) {
      const expected = newestSegment === null ? 1n : newestSegment + 1n
      // What a stream was restored from, or what was trimmed from it, lies before its first row.
      const anyFirst = newestSegment === null && (owner.parent !== null || owner.trimmedBelow !== null)
      if (row.segment !== expected && !anyFirst) throw outOfTurn(owner, expected, row)
      const one = { ...row, version: 0 }
      checkSegmentRow(one)
      tops = tops === null ? this.#topsOf(stream, one) : topsWith(tops, one)
      this.#sql.insert.run(...checked(one), stream, tops.txid, tops.sealed)
      newestSegment = one.segment
      added.push(one)
    }
    this.#sums.added(stream, added)
    return added
  }

  update(stream: bigint, expected: ExpectedSegment, patch: SegmentPatch): SegmentRow {
    const before = this.#expect(stream, expected)
    const after: SegmentRow = { ...before, ...patch, version: before.version + 1 }
    assert(
      after.state === before.state || canTransition(before.state, after.state),
      `segment ${before.segment} of ${before.incarnation} can't go from ${before.state} to ${after.state}`,
    )
    checkSegmentRow(after)
    const tops = this.#topsOf(stream, after)
    this.#sql.update.run(...checked(after), tops.txid, tops.sealed, stream, after.segment)
    // Later rows carry the tops of earlier ones. Looking through them takes long behind an old segment of a long
    // stream, and only a segment that raises its own tops (one that closes) can raise theirs.
    const last = this.#topsOf(stream, before)
    if (tops.txid > last.txid || tops.sealed > last.sealed) {
      this.#sql.raiseTops.run(tops.txid, tops.sealed, stream, after.segment, tops.txid, tops.sealed)
    }
    this.#sums.change(stream, before, after)
    return after
  }

  remove(stream: bigint, expected: ExpectedSegment): void {
    const before = this.#expect(stream, expected)
    const { newestSegment } = this.#sums.of(stream)
    const owesNothing = before.ledgerId === null && before.object === null
    const trimmed = before.state === 'trimmed' && owesNothing
    const empty = before.segment === newestSegment && before.recordCount <= 0n && before.object === null
    assert(
      trimmed || (empty && before.state !== 'trimmed'),
      `segment ${before.segment} of ${before.incarnation} (${before.state}, ${before.recordCount} records) is removed`,
    )
    this.#sql.delete.run(stream, before.segment)
    // The number of an empty segment is used again; that of a trimmed one never: its DLSNs were given out.
    this.#sums.change(stream, before, null, trimmed ? undefined : before.segment - 1n)
  }

  get(stream: bigint, segment: bigint): SegmentRow | null {
    if (segment > INT64_MAX || segment < 0n) return null
    return one(this.#sql.get.get(stream, segment))
  }

  list(stream: bigint, from: bigint, limit: number): SegmentRow[] {
    if (from > INT64_MAX) return []
    return this.#sql.list.all(stream, from < 0n ? 0n : from, limitOf(limit)).map(segmentFromSql)
  }

  listHot(stream: bigint, limit: number): SegmentRow[] {
    return this.#sql.listHot.all(stream, limitOf(limit)).map(segmentFromSql)
  }

  newest(stream: bigint): SegmentRow | null {
    return one(this.#sql.newest.get(stream))
  }

  oldest(stream: bigint): SegmentRow | null {
    return this.#found(stream, this.#firstIn(stream, UNTRIMMED_STATES))
  }

  forTxid(stream: bigint, txid: bigint): SegmentRow | null {
    if (txid > INT64_MAX) return this.#found(stream, this.#firstIn(stream, OPEN_STATES))
    const least = txid < INT64_MIN ? INT64_MIN : txid
    return this.#closedOrOpen(stream, this.#sql.forTxid.get(stream, stream, least, least))
  }

  forSequenceId(stream: bigint, sequenceId: bigint): SegmentRow | null {
    if (sequenceId > INT64_MAX) return this.#found(stream, this.#firstIn(stream, OPEN_STATES))
    const least = sequenceId < 0n ? 0n : sequenceId
    return this.#closedOrOpen(stream, this.#sql.forSequenceId.get(stream, least))
  }

  forTime(stream: bigint, timeMs: number): SegmentRow | null {
    const least = searchTime(timeMs)
    return this.#closedOrOpen(stream, this.#sql.forTime.get(stream, stream, least, least))
  }

  inState(states: readonly SegmentState[], limit: number): SegmentRow[] {
    const rows: SegmentRow[] = []
    for (const state of new Set(states)) {
      if (rows.length >= limit) break
      for (const row of this.#sql.inState.all(state, limitOf(limit - rows.length)))
        rows.push(segmentFromSql(row))
    }
    return rows
  }

  owing(limit: number): SegmentRow[] {
    return this.#sql.owing.all(limitOf(limit)).map(segmentFromSql)
  }

  #expect(stream: bigint, expected: ExpectedSegment): SegmentRow {
    const found = this.get(stream, expected.segment)
    // The number of an empty segment is used again, and versions begin anew: the ledger tells the lives apart.
    const another = expected.ledgerId !== undefined && found?.ledgerId !== expected.ledgerId
    if (found === null || found.version !== expected.version || another) {
      const became = found === null ? 'is gone' : `was changed by another and is ${found.state}`
      throw new StratalogError(
        'conflict',
        `segment ${expected.segment} of ${expected.incarnation} ${became}: read it again and decide anew`,
        {
          expected: expected.version,
          found: found === null ? null : found.version,
          details: { state: found === null ? null : found.state },
        },
      )
    }
    return found
  }

  /** The largest last txid and completion time up to `row`, itself included if it is closed. */
  #topsOf(stream: bigint, row: SegmentRow): Tops {
    const before = this.#sql.topsBefore.get(stream, row.segment)
    const read = new ColumnReader(before ?? [-1n, -1n], `segment ${row.segment} of ${row.incarnation}`)
    return topsWith({ txid: read.integer(), sealed: read.integer() }, row)
  }

  /** The number of the stream's first segment in one of the states: one step down an index for each. */
  #firstIn(stream: bigint, states: readonly SegmentState[]): bigint | null {
    let first: bigint | null = null
    for (const state of states) {
      const row = this.#sql.firstInState.get(state, stream)
      if (row === undefined) continue
      const segment = new ColumnReader(row, `segments of stream ${stream}`).integer()
      if (first === null || segment < first) first = segment
    }
    return first
  }

  #found(stream: bigint, segment: bigint | null): SegmentRow | null {
    return segment === null ? null : this.get(stream, segment)
  }

  /** What a search found among the closed segments, unless an open one lies before it. */
  #closedOrOpen(stream: bigint, found: SqlRow | undefined): SegmentRow | null {
    const closed = one(found)
    const open = this.#firstIn(stream, OPEN_STATES)
    if (closed !== null && (open === null || closed.segment <= open)) return closed
    return this.#found(stream, open)
  }
}

/** The largest last txid and completion time of a segment and all before it. */
interface Tops {
  readonly txid: bigint
  readonly sealed: bigint
}

function topsWith(before: Tops, row: SegmentRow): Tops {
  if (!isClosed(row.state)) return before
  const sealedMs = whole(present(row.sealedMs, 'completion time'), 'sealedMs')
  return { txid: larger(before.txid, row.lastTxid), sealed: larger(before.sealed, sealedMs) }
}

function outOfTurn(owner: StreamRow, expected: bigint, row: SegmentRow): StratalogError {
  return new StratalogError(
    'conflict',
    `the next segment of ${owner.name} is ${expected}, not ${row.segment}: read the newest again`,
    { expected: expected.toString(), found: row.segment.toString() },
  )
}

function larger(one: bigint, other: bigint): bigint {
  if (one > other) return one
  return other
}

function one(row: SqlRow | undefined): SegmentRow | null {
  return row === undefined ? null : segmentFromSql(row)
}

/** The columns of a row with a checksum that covers its incarnation too. */
function checked(row: SegmentRow): SqlValue[] {
  assert(!isClosed(row.state) || row.sealedMs !== null, 'a closed row has a completion time')
  assert(row.object === null || row.object.key !== '', 'an object has a key')
  const columns = segmentToSql(row)
  return [...columns, rowChecksum([row.incarnation, ...columns])]
}

const STORED = [...SEGMENT_COLUMNS, 'checksum']
const ROW = `(SELECT incarnation FROM streams WHERE streams.id = segments.stream), ${STORED.join(', ')}`

type SegmentsSql =
  | 'insert'
  | 'update'
  | 'raiseTops'
  | 'topsBefore'
  | 'delete'
  | 'get'
  | 'list'
  | 'listHot'
  | 'newest'
  | 'firstInState'
  | 'forTxid'
  | 'forTime'
  | 'forSequenceId'
  | 'inState'
  | 'owing'

/**
 * The statements of this file; tests look at their plans. A search by a top finds the first row that reached it
 * and goes on from there to the first whose own value does: the same row, unless rows before it were removed.
 */
export const SEGMENTS_SQL: Readonly<Record<SegmentsSql, string>> = {
  insert: `INSERT INTO segments (${STORED.join(', ')}, stream, txid_top, sealed_top)
    VALUES (${Array(STORED.length + 3)
      .fill('?')
      .join(', ')})`,
  update: `UPDATE segments SET ${STORED.map((column) => `${column} = ?`).join(', ')}, txid_top = ?, sealed_top = ?
    WHERE stream = ? AND segment = ?`,
  raiseTops: `UPDATE segments SET txid_top = max(txid_top, ?), sealed_top = max(sealed_top, ?)
    WHERE stream = ? AND segment > ? AND (txid_top < ? OR sealed_top < ?)`,
  topsBefore: `SELECT txid_top, sealed_top FROM segments WHERE stream = ? AND segment < ?
    ORDER BY segment DESC LIMIT 1`,
  delete: 'DELETE FROM segments WHERE stream = ? AND segment = ?',
  get: `SELECT ${ROW} FROM segments WHERE stream = ? AND segment = ?`,
  list: `SELECT ${ROW} FROM segments WHERE stream = ? AND segment >= ? ORDER BY segment LIMIT ?`,
  listHot: `SELECT ${ROW} FROM segments INDEXED BY segments_hot
    WHERE stream = ? AND ledger_id IS NOT NULL ORDER BY segment LIMIT ?`,
  newest: `SELECT ${ROW} FROM segments WHERE stream = ? ORDER BY segment DESC LIMIT 1`,
  firstInState: 'SELECT segment FROM segments WHERE state = ? AND stream = ? ORDER BY segment LIMIT 1',
  forTxid: `SELECT ${ROW} FROM segments WHERE stream = ? AND segment >= (
      SELECT segment FROM segments WHERE stream = ? AND txid_top >= ? ORDER BY txid_top, segment LIMIT 1
    ) AND last_txid >= ? ORDER BY segment LIMIT 1`,
  forTime: `SELECT ${ROW} FROM segments WHERE stream = ? AND segment >= (
      SELECT segment FROM segments WHERE stream = ? AND sealed_top >= ? ORDER BY sealed_top, segment LIMIT 1
    ) AND sealed_ms >= ? ORDER BY segment LIMIT 1`,
  forSequenceId: `SELECT ${ROW} FROM segments
    WHERE stream = ? AND start_sequence_id + record_count > ? AND record_count > 0 AND state NOT IN ('open', 'recovering')
    ORDER BY start_sequence_id + record_count, segment LIMIT 1`,
  inState: `SELECT ${ROW} FROM segments WHERE state = ? ORDER BY stream, segment LIMIT ?`,
  owing: `SELECT ${ROW} FROM segments INDEXED BY segments_owing
    WHERE (state = 'cold' AND ledger_id IS NOT NULL)
      OR (state = 'gap' AND gap_reason = 'dropped' AND ledger_id IS NOT NULL)
      OR (state = 'trimmed' AND (ledger_id IS NOT NULL OR object_key IS NOT NULL))
    ORDER BY stream, segment LIMIT ?`,
}
