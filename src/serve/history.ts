import { rememberedHolds } from '../../tiering/drop.js'
import type { Log } from '../log.js'
import type { HistoryDto, HistoryTier } from '../model/control-status.js'
import { isStratalogError } from '../model/errors.js'
import { TXID_MAX } from '../model/record.js'
import type { SegmentRow, StreamRow } from '../model/segment.js'

/** Pieces a history is told in: as many look-ups, however long it is. */
const PIECES = 60
/** Gaps that are named. */
const GAPS_MAX = 10_000
const TIERS: Readonly<Record<SegmentRow['state'], HistoryTier>> = {
  open: 'open',
  recovering: 'open',
  sealed: 'hot',
  archived: 'both',
  cold: 'cold',
  trimmed: 'none',
  gap: 'gap',
}

/** Where the history of a stream lies, told by the segments of times at equal distances. */
export async function historyDto(log: Log, stream: StreamRow): Promise<HistoryDto> {
  const { index, ledger } = log.parts.segments
  const untilMs = ledger.clock.nowMs()
  const oldest = await index.oldestSegment(stream.incarnation)
  const fromMs = Math.min(untilMs, oldest === null ? untilMs : beginsMs(stream, oldest))
  const pieces: HistoryTier[] = []
  for (let at = 0; at < PIECES && oldest !== null; at += 1) {
    const row = await rowAt(log, stream, fromMs + ((untilMs - fromMs) * at) / PIECES)
    // Time that went on without an append belongs to what was there last.
    pieces.push(row === null ? (pieces.at(-1) ?? 'none') : TIERS[row.state])
  }
  // The last piece is what is newest, though time went on without an append.
  const newest = await index.newestSegment(stream.incarnation)
  if (newest !== null && pieces.length > 0) pieces[pieces.length - 1] = TIERS[newest.state]
  const rows = await index.segmentsInState(['gap'], GAPS_MAX)
  const gaps = rows.filter(({ incarnation }) => incarnation === stream.incarnation)
  return {
    stream: stream.name,
    fromMs,
    untilMs,
    pieces,
    gaps: gapsOf(stream, gaps),
    holds: await holdsOf(log, stream),
  }
}

/** Where txids are times they say when it begins; else the segment's own times do. */
function beginsMs(stream: StreamRow, row: SegmentRow): number {
  return stream.txidMode === 'ms' && row.firstTxid >= 0n ? Number(row.firstTxid) : row.openedMs
}

function endsMs(stream: StreamRow, row: SegmentRow): number {
  return stream.txidMode === 'ms' && row.lastTxid >= 0n && row.lastTxid < TXID_MAX
    ? Number(row.lastTxid)
    : (row.sealedMs ?? row.openedMs)
}

function rowAt(log: Log, { incarnation, txidMode }: StreamRow, atMs: number): Promise<SegmentRow | null> {
  const { index } = log.parts.segments
  return txidMode === 'ms'
    ? index.segmentForTxid(incarnation, BigInt(Math.max(0, Math.floor(atMs))))
    : index.segmentForTime(incarnation, Math.floor(atMs))
}

function gapsOf(stream: StreamRow, rows: readonly SegmentRow[]): HistoryDto['gaps'] {
  const gaps: {
    first: bigint
    last: bigint
    reason: string
    records: bigint
    fromMs: number
    untilMs: number
  }[] = []
  for (const row of rows) {
    const { segment, recordCount, gapReason: reason = 'corrupt' } = row
    const before = gaps.at(-1)
    const [fromMs, untilMs] = [beginsMs(stream, row), endsMs(stream, row)]
    if (before !== undefined && before.last + 1n === segment && before.reason === reason)
      Object.assign(before, { last: segment, records: before.records + recordCount, untilMs })
    else gaps.push({ first: segment, last: segment, reason, records: recordCount, fromMs, untilMs })
  }
  return gaps.map((gap) => ({
    ...gap,
    first: `${gap.first}`,
    last: `${gap.last}`,
    records: `${gap.records}`,
  }))
}

/** What is known to be held without asking the archive; where nothing is known nothing is marked. */
async function holdsOf(log: Log, stream: StreamRow): Promise<HistoryDto['holds']> {
  try {
    const holds = await rememberedHolds(log.parts.segments, stream)
    const timeOf = (edge: (typeof holds)[number]['from']) => {
      if (edge === null || 'dlsn' in edge) return null
      if ('timeMs' in edge) return edge.timeMs
      return stream.txidMode === 'ms' ? Number(edge.txid) : null
    }
    return holds.map(({ id, from, until }) => ({ id, fromMs: timeOf(from), untilMs: timeOf(until) }))
  } catch (error) {
    if (!isStratalogError(error, 'archive_unavailable')) throw error
    return []
  }
}
