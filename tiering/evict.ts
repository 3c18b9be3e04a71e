import { trimmedBelow } from '../archive/control-objects.js'
import { deletedMs } from '../archive/decisions.js'
import { refuseRivals } from '../archive/rivals.js'
import { isShared } from '../archive/shared.js'
import { labelledSegment } from '../src/ledger/label.js'
import { deleteLedger } from '../src/ledger/reader.js'
import { assert, present } from '../src/model/assert.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import type { LedgerMetadata } from '../src/model/ledger.js'
import { isClosed, type SegmentRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { Lease } from '../src/ports/coordination.js'
import type { TieringContext } from './context.js'
import { ControlsCache } from './controls-cache.js'
import { settleHolds } from './hold-changes.js'
import { bindsRow, heldError, weighedHolds } from './holds.js'
import { isPaused, tierOrders } from './orders.js'
import { confirmOwner } from './ownership.js'

import { settleOwed } from './recall-lease.js'

/** Rows that owe a deletion and are looked at in one pass. */
const OWING_MAX = 10_000
/** Rows of a stream that are looked at to be forgotten: the oldest. */
const FORGOTTEN_AT_ONCE = 16

/**
 * Frees the hot copy of a segment that is verified in the archive (invariant 4). The object is looked at once more:
 * while the archive does not answer nothing is freed, and a segment whose object is gone becomes `sealed` again, to be
 * copied anew. Then the row becomes `cold` and still names the ledger: readers turn to the archive, and after a crash
 * `settleDebts` finds what is left to delete.
 */
export async function evictSegment(
  context: TieringContext,
  lease: Lease,
  row: SegmentRow,
  signal: AbortSignal,
): Promise<SegmentRow> {
  const object = present(row.object, 'object of an archived segment')
  assert(row.state === 'archived', `segment ${row.segment} is ${row.state}: its hot copy is the only one`)
  const archive = await present(context.archive, 'archive')(row.incarnation)
  // What another log took over is its to trim and to delete: nothing is freed on its strength (decision 0021).
  await confirmOwner(context, archive, signal)
  const found = await archive.head(object.key, signal)
  lease.lost.throwIfAborted()
  if (found === null || found.sizeBytes !== object.sizeBytes) {
    await context.index.updateSegment(row, {
      state: 'sealed',
      object: null,
      archivedMs: null,
      contentDigest: null,
      recalledUntilMs: null,
    })
    throw new StratalogError(
      'object_not_found',
      `${object.key} is not whole in ${archive.location} any more: its hot copy stays and is copied again`,
      {
        expected: object.sizeBytes,
        found: found?.sizeBytes ?? null,
        retryable: true,
      },
    )
  }
  await refuseRivals(archive, row, (await context.index.stream(row.incarnation))?.name ?? null, signal)
  return evictUnasked(context, lease, row)
}

/**
 * The same for an archive that is not asked again. Only for who has asked it, or would have to drop what no archive has
 * (drop.ts).
 */
export async function evictUnasked(
  context: TieringContext,
  lease: Lease,
  row: SegmentRow,
): Promise<SegmentRow> {
  assert(row.state === 'archived', `segment ${row.segment} is ${row.state}: its hot copy is the only one`)
  lease.lost.throwIfAborted()
  const cold = await context.index.updateSegment(row, {
    state: 'cold',
    evictedMs: context.ledger.clock.nowMs(),
    recalledUntilMs: null,
  })
  return releaseLedger(context, cold)
}

/**
 * Deletes the ledger a `cold` or `trimmed` row still names, then forgets it. Idempotent at each step. `refused` where
 * others may have ledgers as well and nothing shows that this one is the row's.
 */
export async function releaseLedger(
  context: Pick<TieringContext, 'ledger' | 'index'>,
  row: SegmentRow,
): Promise<SegmentRow> {
  assert(
    row.state === 'cold' || row.state === 'trimmed' || row.gapReason === 'dropped',
    `segment ${row.segment} is ${row.state} and needs its ledger`,
  )
  if (row.ledgerId === null) return row
  const { ledgerId } = row
  const shared = context.ledger.stores.namedByMetadata === true
  await deleteLedger(context.ledger, ledgerId, (metadata) =>
    shared && !isLedgerOf(row, metadata) ? notItsLedger(row, ledgerId, metadata) : null,
  )
  return context.index.updateSegment(row, { ledgerId: null, recalledUntilMs: null })
}

/**
 * Whether the ledger that is there under the number a row names is the row's. In a cluster a number alone says nothing:
 * numbers begin anew when BookKeeper's metadata are formatted, rows and nodes may be older, and what the number names by
 * then may be another's (invariant 8). Ours are labelled; one that a Java writer made is known by where it ends.
 */
function isLedgerOf(row: SegmentRow, metadata: LedgerMetadata): boolean {
  const label = labelledSegment(metadata)
  if (label !== null) return label.incarnation === row.incarnation && label.segment === row.segment
  const ended =
    metadata.state === 'CLOSED' && row.lastEntryId >= 0n && metadata.lastEntryId === row.lastEntryId
  // A row that was made from the name of an object has its size there.
  return (
    ended && [BigInt(row.lengthBytes), BigInt(row.object?.sizeBytes ?? -1)].includes(metadata.lengthBytes)
  )
}

function notItsLedger(row: SegmentRow, ledgerId: bigint, metadata: LedgerMetadata): StratalogError {
  const { state, lastEntryId, lengthBytes } = metadata
  return new StratalogError(
    'refused',
    `ledger ${ledgerId} is not shown to be that of segment ${row.segment} of ${row.incarnation}, and is not deleted: look at it with "bookkeeper shell ledgermetadata -ledgerid ${ledgerId}"; if it is, delete it there, and if BookKeeper was formatted, the numbers in the index are of before`,
    {
      expected: { state: 'CLOSED', lastEntryId: row.lastEntryId, lengthBytes: row.lengthBytes },
      found: { state, lastEntryId, lengthBytes, label: labelledSegment(metadata) },
    },
  )
}

/**
 * Deletes the object a `trimmed` row still names, then forgets it. Owner, trims, holds and pins are read again before
 * it; `refused` where they forbid it, and unreadable ones forbid it too (invariant 8).
 */
export async function releaseObject(
  context: TieringContext,
  row: SegmentRow,
  signal: AbortSignal,
  controls: ControlsCache = new ControlsCache(context),
): Promise<SegmentRow> {
  assert(row.state === 'trimmed', `segment ${row.segment} is ${row.state} and needs its object`)
  if (row.object === null) return row
  // The object is the stream's this one was cloned from, and lives or goes with that one.
  if (isShared(row)) return context.index.updateSegment(row, { object: null })
  if (context.archive === null) return row
  const archive = await context.archive(row.incarnation)
  await checkDoomed(context, archive, row, signal, controls)
  await archive.delete(row.object.key, signal)
  return context.index.updateSegment(row, { object: null })
}

async function checkDoomed(
  context: TieringContext,
  archive: ArchiveStore,
  row: SegmentRow,
  signal: AbortSignal,
  cache: ControlsCache,
): Promise<void> {
  const stream = present(await context.index.stream(row.incarnation), 'stream of a segment')
  const what = `segment ${row.segment}`
  if (!(await cache.owned(archive)))
    throw new StratalogError(
      'refused',
      `the archive at ${archive.location} is not this log's any more: the object of ${what} of ${stream.name} stays`,
      { expected: context.logId },
    )
  const controls = await cache.fresh(archive, row.incarnation, signal)
  const below = trimmedBelow(controls)
  const trimmed = below !== null && below.segment > row.segment
  if (!trimmed && deletedMs(controls) === null)
    throw new StratalogError(
      'refused',
      `no marker in ${archive.location} says that ${what} of ${stream.name} was trimmed: its object stays; see whether that is the archive it belongs to`,
      { found: below?.toString() ?? null },
    )
  const holds = await weighedHolds(context, stream, controls)
  const hold = holds.find((one) => bindsRow(stream, row, one))
  if (hold !== undefined) throw heldError(stream.name, what, hold)
}

/** Finishes what a crash or an outage left: rows that still owe a deletion. Returns how many are left. */
export async function settleDebts(
  context: TieringContext,
  signal: AbortSignal,
  answered: () => void = () => {},
): Promise<number> {
  await settleHolds(context, signal)
  answered()
  const rows = await context.index.segmentsOwing(OWING_MAX)
  const orders = await tierOrders(context)
  const controls = new ControlsCache(context)
  let left = 0
  for (const row of rows) {
    signal.throwIfAborted()
    if (isPaused(orders, row.incarnation)) continue
    try {
      await settleOwed(context, row, async (owing) => {
        const released = await releaseLedger(context, owing)
        answered()
        if (released.state === 'trimmed')
          await forgetTrimmed(context, await releaseObject(context, released, signal, controls))
      })
    } catch (error) {
      if (!isStratalogError(error)) throw error
      left += 1
      context.ledger.logger.warn(
        { err: error, segment: row.segment.toString() },
        'freeing a segment failed, it is tried again',
      )
    }
  }
  return left
}

/**
 * Drops the rows of trimmed segments that owe nothing. Numbering goes on from the newest closed row, so that one stays:
 * an open one behind it may be found empty and be removed by recovery, and then nothing would be left to count on from.
 */
export async function forgetTrimmed(context: TieringContext, row: SegmentRow): Promise<void> {
  const { index } = context
  const newest = await index.newestSegment(row.incarnation)
  if (newest === null) return
  const anchor = isClosed(newest.state) ? newest.segment : newest.segment - 1n
  for (const old of await index.listSegments(row.incarnation, 0n, FORGOTTEN_AT_ONCE)) {
    const owes = old.ledgerId !== null || old.object !== null
    if (old.state === 'trimmed' && !owes && old.segment < anchor) await index.removeSegment(old)
  }
}
