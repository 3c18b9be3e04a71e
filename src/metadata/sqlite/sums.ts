import { present } from '../../model/assert.js'
import type { SegmentRow } from '../../model/segment.js'
import { isHot } from '../../model/segment.js'
import type { SegmentTotals } from '../../ports/segment-index.js'
import type { SqliteDatabase, SqlStatement } from './database.js'
import { ColumnReader, checkRow, whole, withChecksum } from './rows.js'

/** What a stream's segments add up to, and the newest number there ever was (rows of trimmed ones go away). */
export interface Sums extends SegmentTotals {
  readonly newestSegment: bigint | null
}

const NOTHING: SegmentTotals = {
  segments: 0,
  records: 0n,
  hotSegments: 0,
  hotBytes: 0,
  coldSegments: 0,
  coldBytes: 0,
  bothBytes: 0,
}

/**
 * The table `sums`: a row per stream that is changed in the transaction that changes a segment, so that totals of
 * a stream of a million segments are one look-up.
 */
export class SumsTable {
  readonly #sql: Readonly<Record<SumsSql, SqlStatement>>

  constructor(database: SqliteDatabase) {
    this.#sql = database.prepareAll(SUMS_SQL)
  }

  create(stream: bigint): void {
    this.#put(stream, { ...NOTHING, newestSegment: null })
  }

  of(stream: bigint): Sums {
    const row = present(this.#sql.read.get(stream), `sums of stream ${stream}`)
    checkRow(row, `sums of stream ${stream}`)
    const read = new ColumnReader(row.slice(1), `sums of stream ${stream}`)
    return {
      newestSegment: read.integerOrNull(),
      segments: read.number(),
      records: read.integer(),
      hotSegments: read.number(),
      hotBytes: read.number(),
      coldSegments: read.number(),
      coldBytes: read.number(),
      bothBytes: read.number(),
    }
  }

  /** Takes in that a segment changed; null before: it is new, null after: its row is gone. */
  change(stream: bigint, before: SegmentRow | null, after: SegmentRow | null, newestSegment?: bigint): void {
    const sums = this.of(stream)
    const changed = withShare(withShare(sums, shareOf(before), -1), shareOf(after), 1)
    this.#put(stream, { ...changed, newestSegment: newestSegment ?? sums.newestSegment })
  }

  /** Takes in segments that were added, ascending: a rebuild adds a thousand at a time. */
  added(stream: bigint, rows: readonly SegmentRow[]): void {
    const sums = this.of(stream)
    const changed = rows.reduce<SegmentTotals>((sum, row) => withShare(sum, shareOf(row), 1), sums)
    this.#put(stream, { ...changed, newestSegment: rows.at(-1)?.segment ?? sums.newestSegment })
  }

  #put(stream: bigint, sums: Sums): void {
    this.#sql.write.run(
      ...withChecksum([
        stream,
        sums.newestSegment,
        whole(sums.segments, 'segments'),
        sums.records,
        whole(sums.hotSegments, 'hotSegments'),
        whole(sums.hotBytes, 'hotBytes'),
        whole(sums.coldSegments, 'coldSegments'),
        whole(sums.coldBytes, 'coldBytes'),
        whole(sums.bothBytes, 'bothBytes'),
      ]),
    )
  }
}

function withShare(sums: SegmentTotals, share: SegmentTotals, times: 1 | -1): SegmentTotals {
  return {
    segments: sums.segments + times * share.segments,
    records: sums.records + BigInt(times) * share.records,
    hotSegments: sums.hotSegments + times * share.hotSegments,
    hotBytes: sums.hotBytes + times * share.hotBytes,
    coldSegments: sums.coldSegments + times * share.coldSegments,
    coldBytes: sums.coldBytes + times * share.coldBytes,
    bothBytes: sums.bothBytes + times * share.bothBytes,
  }
}

/** What one segment adds to the totals. A trimmed one is no part of the history and adds nothing. */
function shareOf(row: SegmentRow | null): SegmentTotals {
  if (row === null || row.state === 'trimmed') return NOTHING
  const hot = isHot(row)
  const cold = row.state === 'archived' || row.state === 'cold'
  return {
    segments: 1,
    records: row.recordCount > 0n ? row.recordCount : 0n,
    hotSegments: hot ? 1 : 0,
    hotBytes: hot ? row.lengthBytes : 0,
    coldSegments: cold ? 1 : 0,
    coldBytes: cold ? row.lengthBytes : 0,
    bothBytes: hot && cold ? row.lengthBytes : 0,
  }
}

const COLUMNS =
  'stream, newest_segment, segments, records, hot_segments, hot_bytes, cold_segments, cold_bytes, both_bytes, checksum'

type SumsSql = 'read' | 'write'

/** The statements of this file; tests look at their plans. */
export const SUMS_SQL: Readonly<Record<SumsSql, string>> = {
  read: `SELECT ${COLUMNS} FROM sums WHERE stream = ?`,
  write: `INSERT OR REPLACE INTO sums (${COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
}
