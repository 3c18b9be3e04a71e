import { Dlsn } from '../model/dlsn.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import type { Position } from '../model/position.js'
import { TXID_MAX } from '../model/record.js'
import { isClosed, isHot, type SegmentRow, type StreamRow } from '../model/segment.js'
import { parseTime } from '../model/units.js'
import type { SegmentIndex } from '../ports/segment-index.js'
import type { SegmentSource } from './source.js'
import { userRecords } from './source.js'

/** A segment that changes while a position is looked up in it is looked at again, this often at most. */
const LOOK_ATTEMPTS_MAX = 8
/** Objects of one segment that are tried in turn where they are damaged or gone. */
const OBJECT_ATTEMPTS_MAX = 3

export interface LocateContext {
  readonly index: SegmentIndex
  readonly nowMs: () => number
  /** A tier's copy; `avoid` names one that just failed. */
  readonly openSource: (row: SegmentRow, avoid: 'hot' | null) => Promise<SegmentSource>
  /** See `ReadContext`. */
  readonly recover: (row: SegmentRow) => Promise<void>
  /** Ends what is looked up in a segment. */
  readonly signal?: AbortSignal | undefined
}

/**
 * Turns any position into the least DLSN at or beyond it. With `after`, into the least DLSN beyond the record (or,
 * for a txid or time, beyond every record) at that position.
 */
export async function locate(
  context: LocateContext,
  stream: StreamRow,
  position: Position,
  after: boolean,
): Promise<Dlsn> {
  if (position === 'earliest') return earliest(context, stream)
  if (position === 'latest') return end(context, stream)
  if (position instanceof Dlsn) return after ? position.next() : position
  if ('sequenceId' in position)
    return bySequenceId(context, stream, bounded(position.sequenceId + (after ? 1n : 0n), 'sequenceId'))
  if ('txid' in position) return byTxid(context, stream, bounded(position.txid, 'txid') + (after ? 1n : 0n))
  const timeMs = timeOf(position.time, context.nowMs())
  if (stream.txidMode === 'ms')
    return byTxid(context, stream, BigInt(Math.max(0, timeMs)) + (after ? 1n : 0n))
  return byTime(context, stream, timeMs + (after ? 1 : 0))
}

/** Milliseconds since the epoch of a `time` position. */
export function timeOf(time: string | Date | number, nowMs: number): number {
  const ms = typeof time === 'number' ? time : time instanceof Date ? time.getTime() : parseTime(time, nowMs)
  if (ms === null || !Number.isSafeInteger(ms)) {
    throw new StratalogError(
      'position_invalid',
      `${JSON.stringify(time)} is not a time: write an ISO 8601 date or time, as 2025-01-31T10:00Z`,
      { found: time },
    )
  }
  return ms
}

function bounded(value: bigint, what: string): bigint {
  if (typeof value === 'bigint' && value >= 0n && value <= TXID_MAX) return value
  throw new StratalogError(
    'position_invalid',
    `${what} ${String(value)} is out of range: it must be a bigint in 0 … 2^63−1`,
    { found: value },
  )
}

async function earliest(context: LocateContext, stream: StreamRow): Promise<Dlsn> {
  const oldest = await context.index.oldestSegment(stream.incarnation)
  const start = oldest === null ? await end(context, stream) : new Dlsn(oldest.segment, 0n, 0n)
  return stream.trimmedBelow !== null && start.compare(stream.trimmedBelow) < 0 ? stream.trimmedBelow : start
}

/** Beyond the last record a reader may see now. */
function end(context: LocateContext, stream: StreamRow): Promise<Dlsn> {
  const newest = async () => {
    const row = await context.index.newestSegment(stream.incarnation)
    if (row === null || isClosed(row.state)) return row
    // What a dead writer left open ends where recovery finds it to end, not at what its stores tell before.
    await context.recover(row)
    return context.index.newestSegment(stream.incarnation)
  }
  return inSegment(context, newest, Dlsn.first, async (row, open) => {
    if (isClosed(row.state)) return new Dlsn(row.segment + 1n, 0n, 0n)
    return new Dlsn(row.segment, (await (await open()).lastEntry()) + 1n, 0n)
  })
}

function byTxid(context: LocateContext, stream: StreamRow, txid: bigint): Promise<Dlsn> {
  const pick = () => context.index.segmentForTxid(stream.incarnation, txid)
  return within(context, stream, pick, {
    find: (source) => source.entryForTxid(txid, context.signal),
    reached: (record) => record.txid >= txid,
  })
}

function bySequenceId(context: LocateContext, stream: StreamRow, sequenceId: bigint): Promise<Dlsn> {
  const pick = () => context.index.segmentForSequenceId(stream.incarnation, sequenceId)
  const position = (row: SegmentRow) => sequenceId - row.startSequenceId + 1n
  return within(context, stream, pick, {
    find: (source, row) => source.entryForPosition(position(row), context.signal),
    reached: (record, row) => BigInt(record.position) >= position(row),
  })
}

async function byTime(context: LocateContext, stream: StreamRow, timeMs: number): Promise<Dlsn> {
  const row = await context.index.segmentForTime(stream.incarnation, timeMs)
  return row === null ? end(context, stream) : new Dlsn(row.segment, 0n, 0n)
}

interface Wanted {
  /** The first entry with a record that reaches what is wanted. */
  readonly find: (source: SegmentSource, row: SegmentRow) => Promise<bigint | null>
  readonly reached: (record: { txid: bigint; position: number }, row: SegmentRow) => boolean
}

async function within(
  context: LocateContext,
  stream: StreamRow,
  pick: () => Promise<SegmentRow | null>,
  wanted: Wanted,
): Promise<Dlsn> {
  const found = await inSegment(context, pick, null, async (row, open) => {
    // Nothing can be looked up there. The reader passes over it, with a gap.
    if (row.state === 'trimmed' || row.state === 'gap') return new Dlsn(row.segment, 0n, 0n)
    const source = await open()
    // Before the search: what is appended while it runs may be what is wanted, and must not be passed over.
    const last = await source.lastEntry()
    const entryId = await wanted.find(source, row)
    if (entryId === null) return new Dlsn(row.segment, last + 1n, 0n)
    const [entry] = await source.readEntries(entryId, entryId, 1, context.signal)
    const records = entry === undefined ? [] : userRecords(entry.payload)
    const record = records.find((one) => wanted.reached(one, row))
    return new Dlsn(row.segment, entryId, BigInt(record?.slot ?? 0))
  })
  return found ?? end(context, stream)
}

/**
 * Looks something up in the segment that `pick` finds. A segment may change tier meanwhile: then it is looked up anew;
 * where the hot copy fails, the archive is asked, and where an object is damaged or gone, its twins.
 */
async function inSegment<None>(
  context: LocateContext,
  pick: () => Promise<SegmentRow | null>,
  none: None,
  look: (row: SegmentRow, open: () => Promise<SegmentSource>) => Promise<Dlsn>,
): Promise<Dlsn | None> {
  let avoid: 'hot' | null = null
  for (let attempt = 1; ; attempt += 1) {
    const row = await pick()
    if (row === null) return none
    try {
      return await look(row, () => context.openSource(row, avoid))
    } catch (error) {
      context.signal?.throwIfAborted()
      const fresh = await context.index.segment(row.incarnation, row.segment)
      const moved = fresh === null || fresh.version !== row.version
      const otherTier = avoid === null && isHot(row) && row.object !== null
      // Whoever opens objects leaves one that failed aside for a while: opened anew it is another one.
      const twin = attempt < OBJECT_ATTEMPTS_MAX && row.object !== null && unreadable(error)
      if (attempt >= LOOK_ATTEMPTS_MAX || !(moved || otherTier || twin)) throw error
      avoid = moved ? null : 'hot'
    }
  }
}

function unreadable(error: unknown): boolean {
  return isStratalogError(error, 'corrupt') || isStratalogError(error, 'object_not_found')
}
