import type { SegmentMetadata } from '../../format/segment-metadata.js'
import { assert, present } from '../../model/assert.js'
import { NOT_CLOSED, type SegmentRow } from '../../model/segment.js'
import type { CompletedSegment } from './changes.js'
import type { SegmentNode } from './tree.js'

/** Where a closed ledger ends, as its own metadata say. */
export interface LedgerEnd {
  readonly lastEntryId: bigint
  readonly lengthBytes: number
}

/** Where a stream goes on behind a segment. */
export interface RowEnd {
  readonly nextSequenceId: bigint
  readonly lastTxid: bigint
  readonly sealedMs: number
}

/** What stands before the first segment that is known. */
export function beginning(createdMs: number): RowEnd {
  return { nextSequenceId: 0n, lastTxid: 0n, sealedMs: createdMs }
}

/** Where the stream goes on behind a row; behind an open one as if nothing had been written to it. */
export function endOfRow(row: SegmentRow): RowEnd {
  return {
    nextSequenceId: row.startSequenceId + row.recordCount,
    lastTxid: row.lastTxid > row.firstTxid ? row.lastTxid : row.firstTxid,
    sealedMs: row.sealedMs ?? row.openedMs,
  }
}

/** The row of a segment in progress. The tree says of it neither sequenceId nor epoch. */
export function openRowOf(incarnation: string, node: SegmentNode, epoch: bigint, before: RowEnd): SegmentRow {
  const { ledgerId, firstTxid } = node.metadata
  return {
    incarnation,
    segment: node.segment,
    state: 'open',
    epoch,
    ledgerId,
    firstTxid,
    startSequenceId: before.nextSequenceId,
    openedMs: node.createdMs,
    ...NOT_CLOSED,
  }
}

/** What closing a segment adds to its row. */
export type ClosedFields = Pick<
  SegmentRow,
  | 'firstTxid'
  | 'startSequenceId'
  | 'lastTxid'
  | 'lastEntryId'
  | 'lastSlot'
  | 'recordCount'
  | 'lengthBytes'
  | 'sealedMs'
>

/**
 * What a completed segment's node says, with its ledger's end: a row counts all entries of the ledger, control records
 * behind the last user record among them (they are copied too), DistributedLog's node ends at that record.
 */
export function closedFields(metadata: SegmentMetadata, end: LedgerEnd | null, before: RowEnd): ClosedFields {
  const { firstTxid, startSequenceId } = metadata
  const done = present(metadata.completion, 'completion of a segment')
  const ledgerEnd = end?.lastEntryId ?? done.lastEntryId
  return {
    firstTxid,
    startSequenceId: startSequenceId >= 0n ? startSequenceId : before.nextSequenceId,
    // Java takes what it was given: a txid that goes back stays visible in the node alone.
    lastTxid: done.lastTxid > firstTxid ? done.lastTxid : firstTxid,
    lastEntryId: ledgerEnd,
    lastSlot: ledgerEnd === done.lastEntryId ? done.lastSlotId : 0n,
    recordCount: BigInt(done.recordCount),
    lengthBytes: end?.lengthBytes ?? 0,
    sealedMs: done.completedMs,
  }
}

/** The row of a completed segment whose hot copy is there. */
export function sealedRowOf(
  incarnation: string,
  node: SegmentNode,
  end: LedgerEnd | null,
  before: RowEnd,
): SegmentRow {
  return {
    ...NOT_CLOSED,
    incarnation,
    segment: node.segment,
    state: 'sealed',
    epoch: 0n,
    ledgerId: node.metadata.ledgerId,
    openedMs: before.sealedMs,
    ...closedFields(node.metadata, end, before),
  }
}

/** The same with what the archive's names say of its object. */
export function archivedFrom(
  cold: SegmentRow,
): Pick<SegmentRow, 'state' | 'contentDigest' | 'object' | 'archivedMs'> {
  const { contentDigest, object, archivedMs } = cold
  return { state: 'archived', contentDigest, object, archivedMs }
}

/** A segment of which nobody has anything but, perhaps, a ledger whose deletion is owed. */
export function emptyRow(
  incarnation: string,
  segment: bigint,
  state: 'gap' | 'trimmed',
  before: RowEnd,
  ledgerId: bigint | null,
): SegmentRow {
  return {
    ...NOT_CLOSED,
    incarnation,
    segment,
    state,
    epoch: 0n,
    ledgerId,
    firstTxid: before.lastTxid,
    lastTxid: before.lastTxid,
    startSequenceId: before.nextSequenceId,
    openedMs: before.sealedMs,
    sealedMs: before.sealedMs,
  }
}

/** What the node of a closed row says. */
export function completedOf(row: SegmentRow): CompletedSegment {
  const { segment, firstTxid, startSequenceId, lastTxid, lastEntryId, lastSlot, recordCount } = row
  assert(recordCount < 2n ** 31n, 'a segment has fewer than 2^31 records')
  return {
    segment,
    ledgerId: present(row.ledgerId, 'ledger of a segment with a node'),
    firstTxid,
    startSequenceId,
    completion: {
      lastTxid,
      completedMs: present(row.sealedMs, 'completion time'),
      recordCount: Number(recordCount),
      lastEntryId,
      lastSlotId: lastSlot,
    },
  }
}
