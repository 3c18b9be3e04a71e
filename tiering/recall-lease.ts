import { isStratalogError } from '../src/model/errors.js'
import type { SegmentRow, StreamRow } from '../src/model/segment.js'
import type { Lease } from '../src/ports/coordination.js'
import type { TieringContext } from './context.js'

/** The right to recall segments of a stream. */
export function recallLease(
  context: TieringContext,
  { incarnation }: Pick<StreamRow, 'incarnation'>,
  waitMs: number,
): Promise<Lease> {
  return context.coordination.acquire(`recall/${incarnation}`, { holder: context.logId, waitMs })
}

/**
 * Runs what frees the copies a listed row owes, with the row as it is now, and tells whether it did. Not where the row
 * changed since: a recall that was under way then may be done by now, and its ledger is the segment's hot copy. Nor
 * while one is under way: of a cold row with a time (`recalledUntilMs`) only the lease tells a debt from a recall.
 */
export async function settleOwed(
  context: TieringContext,
  listed: SegmentRow,
  settle: (row: SegmentRow) => Promise<void>,
): Promise<boolean> {
  const recalled = listed.state === 'cold' && listed.recalledUntilMs !== null
  const lease = recalled ? await leaseOrNull(context, listed) : null
  if (recalled && lease === null) return false
  try {
    const row = await context.index.segment(listed.incarnation, listed.segment)
    if (row === null || row.version !== listed.version || row.ledgerId !== listed.ledgerId) return false
    await settle(row)
    return true
  } finally {
    await lease?.release()
  }
}

/** Null: a recall has it. */
async function leaseOrNull(context: TieringContext, row: SegmentRow): Promise<Lease | null> {
  try {
    return await recallLease(context, row, 0)
  } catch (error) {
    if (isStratalogError(error, 'conflict')) return null
    throw error
  }
}
