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
    const minus = shareOf(before)
    const plus = shareOf(after)
    this.#put(stream, {
      newestSegment: newestSegment ?? sums.newestSegment,
      segments: sums.segments + plus.segments - minus.segments,
      records: sums.records + plus.records - minus.records,
      hotSegments: sums.hotSegments + plus.hotSegments - minus.hotSegments,
      hotBytes: sums.hotBytes + plus.hotBytes - minus.hotBytes,
      coldSegments: sums.coldSegments + plus.coldSegments - minus.coldSegments,
      coldBytes: sums.coldBytes + plus.coldBytes - minus.coldBytes,
      bothBytes: sums.bothBytes + plus.bothBytes - minus.bothBytes,
    })
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
