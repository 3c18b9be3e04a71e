import { readSegmentEnd } from '../append/segment-writer.js'
import type { LedgerContext } from '../ledger/context.js'
import { isStratalogError } from '../model/errors.js'
import type { SegmentLedger } from './segment-plan.js'

/**
 * The candidates without closed ledgers of control records alone. A writer that died before its first record leaves
 * one: recovery removed its row, and its number was used again or is the next. So only those are looked at that share
 * their number with another or are the newest; one that stands alone between others is where records ought to be, and
 * is named as a loss. What can't be read stays a candidate: unknown is not empty.
 */
export async function withoutEmpty(
  context: LedgerContext,
  candidates: ReadonlyMap<bigint, readonly SegmentLedger[]>,
): Promise<ReadonlyMap<bigint, readonly SegmentLedger[]>> {
  const newest = [...candidates.keys()].reduce((a, b) => (a > b ? a : b), 0n)
  const left = new Map<bigint, readonly SegmentLedger[]>()
  for (const [segment, of] of candidates) {
    const kept: SegmentLedger[] = []
    const looked = of.length > 1 || segment === newest
    for (const one of of) if (!looked || !(await isEmpty(context, one))) kept.push(one)
    if (kept.length > 0) left.set(segment, kept)
  }
  return left
}

async function isEmpty(context: LedgerContext, { ledger, end }: SegmentLedger): Promise<boolean> {
  if (end === null || end.lastEntryId < 0n) return false
  try {
    return (await readSegmentEnd(context, ledger.ledgerId, end.lastEntryId)) === null
  } catch (error) {
    if (!isStratalogError(error)) throw error
    return false
  }
}
