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

/** Whether a recall is at work on what a cold row's ledger shall become; else that ledger is a debt. */
export async function isBeingRecalled(context: TieringContext, row: SegmentRow): Promise<boolean> {
  if (row.state !== 'cold' || row.recalledUntilMs === null) return false
  try {
    await (await recallLease(context, row, 0)).release()
    return false
  } catch (error) {
    if (isStratalogError(error, 'conflict')) return true
    throw error
  }
}
