import type { PassReport } from '../../tiering/agent.js'
import type { TieringEvent } from '../../tiering/context.js'
import { NEVER_MS, type PlannedAction } from '../../tiering/plan.js'
import type {
  AckDto,
  GapDto,
  PlannedDto,
  ReadRecord,
  SegmentDto,
  StreamDto,
  StreamInfoDto,
  TierReportDto,
  TierRunPart,
  TotalsDto,
} from '../model/control-api.js'
import type { Ack, Gap, LogRecord } from '../model/record.js'
import type { SegmentRow, StreamRow } from '../model/segment.js'
import type { SegmentTotals } from '../ports/segment-index.js'
import type { StreamInfo } from '../stream.js'

const text = (value: bigint | null): string | null => value?.toString() ?? null

export function totalsDto(totals: SegmentTotals): TotalsDto {
  return { ...totals, records: totals.records.toString() }
}

export function streamDto(row: StreamRow, totals: SegmentTotals): StreamDto {
  const { name, incarnation, txidMode, createdMs, trimmedBelow, finishedMs } = row
  return {
    name,
    incarnation,
    txid: txidMode,
    createdMs,
    trimmedBelow: trimmedBelow?.toString() ?? null,
    finishedMs,
    totals: totalsDto(totals),
  }
}

export function streamInfoDto(info: StreamInfo): StreamInfoDto {
  const {
    name,
    incarnation,
    txid,
    createdMs,
    trimmedBelow,
    finishedMs,
    first,
    newestSegment,
    nextSequenceId,
    lastTxid,
    totals,
  } = info
  return {
    name,
    incarnation,
    txid,
    createdMs,
    trimmedBelow: trimmedBelow?.toString() ?? null,
    finishedMs,
    totals: totalsDto(totals),
    first: first?.toString() ?? null,
    newestSegment: text(newestSegment),
    nextSequenceId: nextSequenceId.toString(),
    // Before the first record the writer's last txid is below any there can be.
    lastTxid: lastTxid === null || lastTxid < 0n ? null : lastTxid.toString(),
  }
}

export function ackDto(ack: Ack): AckDto {
  const { dlsn, sequenceId, txid, time, copies, duplicate } = ack
  return {
    dlsn: dlsn.toString(),
    sequenceId: sequenceId.toString(),
    txid: txid.toString(),
    timeMs: time,
    copies,
    duplicate,
  }
}

export function recordDto(record: LogRecord<unknown>): ReadRecord {
  return {
    dlsn: record.dlsn.toString(),
    txid: record.txid.toString(),
    sequenceId: record.sequenceId.toString(),
    payload: record.payload,
  }
}

export function gapDto(gap: Gap): GapDto {
  return {
    gap: gap.gap,
    from: gap.from.toString(),
    until: gap.until.toString(),
    firstSequenceId: text(gap.firstSequenceId),
    lastSequenceId: text(gap.lastSequenceId),
  }
}

export function segmentDto(row: SegmentRow): SegmentDto {
  return {
    segment: row.segment.toString(),
    state: row.state,
    epoch: row.epoch.toString(),
    ledgerId: text(row.ledgerId),
    firstTxid: row.firstTxid.toString(),
    lastTxid: row.lastTxid.toString(),
    startSequenceId: row.startSequenceId.toString(),
    lastEntryId: row.lastEntryId.toString(),
    recordCount: row.recordCount.toString(),
    lengthBytes: row.lengthBytes,
    openedMs: row.openedMs,
    sealedMs: row.sealedMs,
    archivedMs: row.archivedMs,
    evictedMs: row.evictedMs,
    recalledUntilMs: row.recalledUntilMs,
    contentDigest: row.contentDigest,
    object: row.object === null ? null : { key: row.object.key, sizeBytes: row.object.sizeBytes },
  }
}

export function plannedDto(stream: string, action: PlannedAction): PlannedDto {
  const { kind, segment, dueMs, reason, field, origin, bytes, blockedBy } = action
  return {
    kind,
    stream,
    segment: segment.toString(),
    dueMs,
    never: dueMs >= NEVER_MS,
    reason,
    field,
    origin,
    bytes,
    blockedBy,
  }
}

export function stepPart(event: TieringEvent): TierRunPart {
  const { kind, phase, stream, segment, bytes, error } = event
  return {
    type: 'step',
    kind,
    phase,
    stream,
    segment: segment.toString(),
    bytes,
    error: error?.message ?? null,
  }
}

export function reportDto(report: PassReport): TierReportDto {
  return { ...report, failed: [...report.failed] }
}
