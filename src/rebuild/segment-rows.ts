import { isKeyTrouble } from '../../archive/keys.js'
import { type ListedSegment, segmentRowFromKey } from '../../archive/listing.js'
import { verifySegmentObject } from '../../archive/segment-verify.js'
import { readSegmentEnd } from '../append/segment-writer.js'
import type { DecidedTrim } from '../format/control-frame.js'
import type { LedgerContext } from '../ledger/context.js'
import { recoverLedger } from '../ledger/recovery.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import { NOT_CLOSED, type SegmentRow } from '../model/segment.js'
import type { ArchiveStore } from '../ports/archive-store.js'
import type { LedgerSeal } from '../ports/segment-store.js'
import type { SegmentLedger } from './segment-plan.js'

/** What a row that has neither copy nor end says. */
const NOTHING: Omit<SegmentRow, 'incarnation' | 'segment' | 'state' | 'startSequenceId' | 'openedMs'> = {
  ...NOT_CLOSED,
  epoch: 0n,
  ledgerId: null,
  firstTxid: 0n,
}

/** The row of a segment whose writer had not closed it: it is recovered before anything is appended. */
export function openRow({ segment, ledger }: SegmentLedger): SegmentRow {
  const { incarnation, segment: number, epoch, openedMs, firstTxid, startSequenceId } = segment
  const { ledgerId } = ledger
  const known = { incarnation, segment: number, epoch, openedMs, firstTxid, startSequenceId, ledgerId }
  return { ...NOTHING, ...known, state: 'open' }
}

/**
 * The row of a hot segment. It is `sealed` also where the archive has an object: nothing proves yet that the object is
 * whole, so the agent reads it back once more before the hot copy may go (invariant 4). Its end comes from where the
 * writer's recovery takes it: the seal, else a recovery of the ledger, and the last entry.
 */
export async function hotRow(
  context: LedgerContext,
  from: SegmentLedger,
  sealedMs: (openedMs: number) => number,
): Promise<SegmentRow> {
  const open = openRow(from)
  const { ledgerId } = from.ledger
  const seal: LedgerSeal = from.end ?? (await recoverLedger(context, ledgerId))
  if (seal.lastEntryId < 0n) {
    throw new StratalogError('entry_missing', `ledger ${ledgerId} holds no entry of segment ${open.segment}`)
  }
  const end = await readSegmentEnd(context, ledgerId, seal.lastEntryId)
  if (end === null) {
    const what = `ledger ${ledgerId} holds no record in ${seal.lastEntryId + 1n} entries of segment ${open.segment}`
    throw new StratalogError('corrupt', what)
  }
  return {
    ...open,
    state: 'sealed',
    lastEntryId: seal.lastEntryId,
    lengthBytes: seal.lengthBytes,
    sealedMs: sealedMs(open.openedMs),
    ...end,
  }
}

/**
 * The row of a segment that only the archive has. One object is taken as it is and checked when it is read; of several
 * with one content the first that reads back whole: which of them was committed is not known any more.
 */
export async function coldRow(
  archive: ArchiveStore,
  chosen: ListedSegment,
  twins: readonly ListedSegment[],
  signal?: AbortSignal,
): Promise<SegmentRow> {
  if (twins.length === 0) return segmentRowFromKey(chosen)
  for (const one of [chosen, ...twins]) {
    try {
      await verifySegmentObject(archive, one.key, one.parsed, signal === undefined ? {} : { signal })
      return segmentRowFromKey(one)
    } catch (error) {
      // Without its key nobody can say which one is whole, and names are all that an index needs.
      if (isKeyTrouble(error)) break
      // A flipped bit in its version makes an object look like that of a later release.
      if (!isStratalogError(error, 'corrupt') && !isStratalogError(error, 'version_unsupported')) throw error
    }
  }
  return segmentRowFromKey(chosen)
}

/** Where a stream goes on. */
export interface StreamEnd {
  readonly nextSequenceId: bigint
  readonly lastTxid: bigint
  readonly sealedMs: number
}

/** A committed hole: its records, if the segments around it tell how many, are not to be had. */
export function gapRow(
  incarnation: string,
  segment: bigint,
  before: StreamEnd,
  nextSequenceId: bigint,
): SegmentRow {
  const recordCount = nextSequenceId > before.nextSequenceId ? nextSequenceId - before.nextSequenceId : 0n
  return {
    ...NOTHING,
    incarnation,
    segment,
    state: 'gap',
    startSequenceId: before.nextSequenceId,
    recordCount,
    firstTxid: before.lastTxid,
    lastTxid: before.lastTxid,
    openedMs: before.sealedMs,
    sealedMs: before.sealedMs,
  }
}

/** What is left of a stream that was trimmed to its end: numbers, sequence ids and txids go on from it. */
export function trimmedRow(
  incarnation: string,
  segment: bigint,
  tail: NonNullable<DecidedTrim['tail']>,
  atMs: number,
): SegmentRow {
  return {
    ...NOTHING,
    incarnation,
    segment,
    state: 'trimmed',
    startSequenceId: tail.nextSequenceId,
    firstTxid: tail.lastTxid,
    lastTxid: tail.lastTxid,
    openedMs: atMs,
    sealedMs: atMs,
  }
}
