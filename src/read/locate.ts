import { Dlsn } from '../model/dlsn.js'
import { StratalogError } from '../model/errors.js'
import type { Position } from '../model/position.js'
import { TXID_MAX } from '../model/record.js'
import type { SegmentRow, StreamRow } from '../model/segment.js'
import { parseTime } from '../model/units.js'
import type { SegmentIndex } from '../ports/segment-index.js'
import type { SegmentSource } from './source.js'
import { userRecords } from './source.js'

/** How a located position finds its bytes: where to begin, and what to skip in the first entry. */
export interface Located {
  readonly dlsn: Dlsn
  /** Null: beyond everything there is now. */
  readonly row: SegmentRow | null
}

export interface LocateContext {
  readonly index: SegmentIndex
  readonly nowMs: () => number
  readonly openSource: (row: SegmentRow) => Promise<SegmentSource>
}

/**
 * Turns any position into the least DLSN at or beyond it. With `after`, into the least DLSN beyond the record (or,
 * for a txid or time, beyond every record) at that position.
 */
export async function locate(context: LocateContext, stream: StreamRow, position: Position, after: boolean): Promise<Dlsn> {
  if (position === 'earliest') return earliest(context, stream)
  if (position === 'latest') return end(context, stream)
  if (position instanceof Dlsn) return after ? position.next() : position
  if ('sequenceId' in position) return bySequenceId(context, stream, bounded(position.sequenceId + (after ? 1n : 0n), 'sequenceId'))
  if ('txid' in position) return byTxid(context, stream, bounded(position.txid, 'txid') + (after ? 1n : 0n))
  const timeMs = timeOf(position.time, context.nowMs())
  if (stream.txidMode === 'ms') return byTxid(context, stream, BigInt(Math.max(0, timeMs)) + (after ? 1n : 0n))
  return byTime(context, stream, timeMs + (after ? 1 : 0))
}

/** Milliseconds since the epoch of a `time` position. */
export function timeOf(time: string | Date | number, nowMs: number): number {
  const ms = typeof time === 'number' ? time : time instanceof Date ? time.getTime() : parseTime(time, nowMs)
  if (ms === null || !Number.isSafeInteger(ms)) {
    throw new StratalogError('position_invalid', `${JSON.stringify(time)} is not a time: write an ISO 8601 date or time, as 2025-01-31T10:00Z`, { found: time })
  }
  return ms
}

function bounded(value: bigint, what: string): bigint {
  if (typeof value === 'bigint' && value >= 0n && value <= TXID_MAX) return value
  throw new StratalogError('position_invalid', `${what} ${String(value)} is out of range: it must be a bigint in 0 … 2^63−1`, { found: value })
}

async function earliest(context: LocateContext, stream: StreamRow): Promise<Dlsn> {
  const oldest = await context.index.oldestSegment(stream.incarnation)
  const start = oldest === null ? await end(context, stream) : new Dlsn(oldest.segment, 0n, 0n)
  return stream.trimmedBelow !== null && start.compare(stream.trimmedBelow) < 0 ? stream.trimmedBelow : start
}

/** Beyond the last record a reader may see now. */
async function end(context: LocateContext, stream: StreamRow): Promise<Dlsn> {
  const newest = await context.index.newestSegment(stream.incarnation)
  if (newest === null) return Dlsn.first
  if (newest.state !== 'open' && newest.state !== 'recovering') return new Dlsn(newest.segment + 1n, 0n, 0n)
  const source = await context.openSource(newest)
  return new Dlsn(newest.segment, (await source.lastEntry()) + 1n, 0n)
}

async function byTxid(context: LocateContext, stream: StreamRow, txid: bigint): Promise<Dlsn> {
  const row = await context.index.segmentForTxid(stream.incarnation, txid)
  return within(context, stream, row, (source) => source.entryForTxid(txid), (record) => record.txid >= txid)
}

async function bySequenceId(context: LocateContext, stream: StreamRow, sequenceId: bigint): Promise<Dlsn> {
  const row = await context.index.segmentForSequenceId(stream.incarnation, sequenceId)
  const position = sequenceId - (row?.startSequenceId ?? 0n) + 1n
  return within(context, stream, row, (source) => source.entryForPosition(position), (record) => BigInt(record.position) >= position)
}

async function byTime(context: LocateContext, stream: StreamRow, timeMs: number): Promise<Dlsn> {
  const row = await context.index.segmentForTime(stream.incarnation, timeMs)
  return row === null ? end(context, stream) : new Dlsn(row.segment, 0n, 0n)
}

async function within(
  context: LocateContext,
  stream: StreamRow,
  row: SegmentRow | null,
  find: (source: SegmentSource) => Promise<bigint | null>,
  reached: (record: { txid: bigint; position: number }) => boolean,
): Promise<Dlsn> {
  if (row === null) return end(context, stream)
  const source = await context.openSource(row)
  const entryId = await find(source)
  if (entryId === null) {
    // Nothing there reaches it yet: the position is beyond this segment's visible end.
    return new Dlsn(row.segment, (await source.lastEntry()) + 1n, 0n)
  }
  const [entry] = await source.readEntries(entryId, entryId, 1)
  const record = entry === undefined ? undefined : userRecords(entry.payload).find(reached)
  return new Dlsn(row.segment, entryId, BigInt(record?.slot ?? 0))
}
