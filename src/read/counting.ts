import { openEnvelope } from '../format/entry.js'
import { decodeRecords } from '../format/record.js'
import type { Dlsn } from '../model/dlsn.js'
import { isClosed, type SegmentRow, type StreamRow } from '../model/segment.js'
import type { ReadContext } from './context.js'
import { openSource } from './open-source.js'
import type { SegmentSource } from './source.js'

/** The last entry that a reader may see of a segment. */
export async function endOfStream(read: ReadContext, row: SegmentRow): Promise<bigint> {
  return isClosed(row.state) ? row.lastEntryId : (await read.openHot(row)).lastEntry()
}

/**
 * How many records of the stream lie before a position: the sequenceId of the first one at or beyond it. Reads one
 * entry at most.
 */
export async function recordsBefore(read: ReadContext, stream: StreamRow, at: Dlsn): Promise<bigint> {
  const [row] = await read.index.listSegments(stream.incarnation, at.segment, 1)
  if (row === undefined) {
    const newest = await read.index.newestSegment(stream.incarnation)
    return newest === null ? 0n : newest.startSequenceId + newest.recordCount
  }
  if (row.segment > at.segment || (at.entry === 0n && at.slot === 0n)) return row.startSequenceId
  if (isClosed(row.state) && at.entry > row.lastEntryId) return row.startSequenceId + row.recordCount
  if (row.state === 'trimmed' || row.state === 'gap') return row.startSequenceId
  const source = await openSource(read, row, null)
  try {
    return row.startSequenceId + BigInt(await positionBefore(source, at))
  } finally {
    source.close?.()
  }
}

/** Records of the segment before a position in it. Positions count from 1, so that of the one before is their number. */
async function positionBefore(source: SegmentSource, at: Dlsn): Promise<number> {
  // A control record carries the position of the last user record before it (FORMATS.md §5.13).
  const entry = at.slot === 0n ? at.entry - 1n : at.entry
  const [found] = await source.readEntries(entry, entry, 1)
  const records = found === undefined ? [] : decodeRecords(openEnvelope(found.payload))
  const before = records.findLast((one) => !one.endOfStream && (at.slot === 0n || BigInt(one.slot) < at.slot))
  return before?.position ?? 0
}
