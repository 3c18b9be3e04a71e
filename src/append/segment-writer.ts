import { openEnvelope } from '../format/entry.js'
import { decodeRecords } from '../format/record.js'
import type { LedgerContext } from '../ledger/context.js'
import { LedgerReader } from '../ledger/reader.js'
import { recoverLedger } from '../ledger/recovery.js'
import { LedgerWriter } from '../ledger/writer.js'
import { present } from '../model/assert.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import type { Quorum } from '../model/quorum.js'
import { isClosed, NOT_CLOSED, type SegmentRow, type StreamRow } from '../model/segment.js'
import type { SegmentIndex } from '../ports/segment-index.js'
import type { LedgerSeal } from '../ports/segment-store.js'
import { asFailure, mayGoOn } from './refusals.js'

/** Races with other recoverers of one segment; each round one of them advances its row. */
const RECOVERY_ROUNDS_MAX = 8

/** Entries of a closed segment, in order. */
export interface EntryReader {
  readEntries(
    first: bigint,
    last: bigint,
    bytesMax: number,
  ): Promise<readonly { readonly payload: Uint8Array }[]>
}

/** What opening, sealing and recovering segments needs. */
export interface SegmentContext {
  readonly ledger: LedgerContext
  readonly index: SegmentIndex
  /** The copy of a segment in the archive; absent where there is none to ask. */
  readonly openCold?: (row: SegmentRow) => Promise<EntryReader>
  /**
   * A stream that ends gets a record that says so, as DistributedLog's readers wait for one. Absent where readers ask
   * the stream's row.
   */
  readonly endRecords?: boolean
}

/** What a new segment builds on. */
export interface SegmentStart {
  readonly segment: bigint
  readonly firstTxid: bigint
  readonly startSequenceId: bigint
}

/** An open segment with the writer of its ledger. */
export interface OpenSegment {
  readonly row: SegmentRow
  readonly ledger: LedgerWriter
}

/**
 * Begins a segment: its ledger, then its row. The row is durable before the first entry is sent, so whatever is
 * acknowledged is found. A crash between the two leaves an empty ledger nobody refers to; it stays (invariant 8: a
 * ledger is not deleted because a row is missing).
 */
export async function beginSegment(
  context: SegmentContext,
  stream: StreamRow,
  quorum: Quorum,
  start: SegmentStart,
  preceding: (LedgerSeal & { ledgerId: bigint }) | null,
  replicaLagBytesMax: number | null = null,
): Promise<OpenSegment> {
  const openedMs = context.ledger.clock.nowMs()
  const ledger = await LedgerWriter.create(context.ledger, {
    quorum,
    segment: {
      incarnation: stream.incarnation,
      stream: stream.name,
      epoch: stream.epoch,
      openedMs,
      ...start,
    },
    preceding,
    replicaLagBytesMax,
  })
  const row = await context.index.beginSegment({
    incarnation: stream.incarnation,
    state: 'open',
    epoch: stream.epoch,
    ledgerId: ledger.ledgerId,
    ...NOT_CLOSED,
    ...start,
    openedMs,
  })
  return { row, ledger }
}

/** What the writer knows of its last acknowledged record. */
export interface SegmentEnd {
  readonly lastTxid: bigint
  readonly lastSlot: bigint
  readonly recordCount: bigint
}

/**
 * Closes the ledger at its last acknowledged entry, also where it failed, then the row. A crash between the two leaves
 * an open row over a closed ledger: recovery finds the ledger CLOSED and finishes the row. Null where nothing was ever acknowledged: the segment is gone.
 */
export async function sealSegment(
  context: SegmentContext,
  open: OpenSegment,
  end: () => SegmentEnd,
): Promise<SegmentRow | null> {
  const seal = await open.ledger.close({ evenFailed: true })
  if (seal.lastEntryId < 0n) {
    await context.index.removeSegment(open.row)
    return null
  }
  return context.index.updateSegment(open.row, {
    state: 'sealed',
    lastEntryId: seal.lastEntryId,
    lengthBytes: seal.lengthBytes,
    sealedMs: context.ledger.clock.nowMs(),
    // Asked only now: the last acknowledgements came while the ledger drained.
    ...end(),
  })
}

/**
 * Ends a segment at its LAC by our own compare-and-set. Where nobody can say whether that was done, recovery finds
 * out where the ledger ends; it may keep entries that were sent and never acknowledged. `fenced` where the stream is
 * another's by then. Null as for `sealSegment`.
 */
export async function endSegment(
  context: SegmentContext,
  stream: StreamRow,
  open: OpenSegment,
  end: () => SegmentEnd,
): Promise<SegmentRow | null> {
  try {
    return await sealSegment(context, open, end)
  } catch (error) {
    const cause = asFailure(error, stream.name)
    if (!mayGoOn(cause)) throw cause
    const { segment } = open.row
    context.ledger.logger.warn(
      { err: error, stream: stream.name, segment: segment.toString() },
      'segment could not be sealed by its writer, recovering it',
    )
    const recovered = await recoverSegment(context, open.row)
    await checkOwner(context, stream)
    return recovered
  }
}

/** Recovery of one ledger comes to one result, whoever runs it: only the epoch tells whether the stream is still ours. */
async function checkOwner(context: SegmentContext, stream: StreamRow): Promise<void> {
  const row = await context.index.stream(stream.incarnation)
  if (row?.epoch === stream.epoch) return
  throw new StratalogError('fenced', `another writer took over ${stream.name}`, {
    expected: stream.epoch,
    found: row?.epoch,
  })
}

/**
 * Closes a segment whose writer is gone and learns from its last entry what the writer knew. Idempotent, and several
 * at once come to the same: each step finds what the one before it left. Null where it held no acknowledged record.
 * Rejects with `ledger_recovering` while too few stores answer; the segment then stays `recovering`.
 */
export async function recoverSegment(context: SegmentContext, found: SegmentRow): Promise<SegmentRow | null> {
  let row = found
  for (let round = 1; ; round += 1) {
    try {
      return await recoverRow(context, row)
    } catch (error) {
      if (!isStratalogError(error, 'conflict') || round >= RECOVERY_ROUNDS_MAX) throw error
      const fresh = await context.index.segment(row.incarnation, row.segment)
      // Another found it empty and removed it; its number may be that of a later segment by now.
      if (fresh === null || (fresh.ledgerId !== null && fresh.ledgerId !== found.ledgerId)) return null
      if (isClosed(fresh.state)) return fresh
      row = fresh
    }
  }
}

async function recoverRow(context: SegmentContext, found: SegmentRow): Promise<SegmentRow | null> {
  let row = found
  if (row.state === 'open') row = await context.index.updateSegment(row, { state: 'recovering' })
  const ledgerId = present(row.ledgerId, 'ledger of a segment in recovery')
  const seal = await recoverLedger(context.ledger, ledgerId)
  if (seal.lastEntryId < 0n) {
    await context.index.removeSegment(row)
    return null
  }
  const end = await readSegmentEnd(context.ledger, ledgerId, seal.lastEntryId)
  if (end === null) {
    await context.index.removeSegment(row)
    return null
  }
  return context.index.updateSegment(row, {
    state: 'sealed',
    lastEntryId: seal.lastEntryId,
    lengthBytes: seal.lengthBytes,
    sealedMs: context.ledger.clock.nowMs(),
    ...end,
  })
}

/**
 * The last user record's position counts the segment's records (FORMATS.md §5.5). A Java writer's ledger ends with
 * entries of control records alone, and one that was killed early may have nothing else: null then.
 */
export async function readSegmentEnd(
  context: LedgerContext,
  ledgerId: bigint,
  lastEntryId: bigint,
): Promise<SegmentEnd | null> {
  const reader = await LedgerReader.open(context, ledgerId)
  for (let entryId = lastEntryId; entryId >= 0n; entryId -= 1n) {
    const [entry] = await reader.readEntries(entryId, entryId, 1)
    const records = decodeRecords(openEnvelope(present(entry, 'an entry').payload))
    const last = records.findLast((record) => !record.control)
    if (last === undefined) continue
    // The slot is one of the last entry, whatever that holds.
    const lastSlot = entryId === lastEntryId ? BigInt(last.slot) : 0n
    return { lastTxid: last.txid, lastSlot, recordCount: BigInt(last.position) }
  }
  return null
}
