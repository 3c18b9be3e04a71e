import type { LedgerContext } from '../src/ledger/context.js'
import type { UnrepairableEntry } from '../src/ledger/share-report.js'
import type { SegmentIndex } from '../src/ports/segment-index.js'

const OWING_MAX = 10_000

/**
 * Whether a ledger is deleted, or about to be: its segment is cold or trimmed. The row says so before the first copy
 * goes, so copies that are absent where this is false are missing, and those of a ledger that was given up are not.
 */
export async function isGivenUp(
  parts: { readonly ledger: LedgerContext; readonly index: SegmentIndex },
  ledgerId: bigint,
): Promise<boolean> {
  const [known] = await parts.ledger.metadata.list(ledgerId - 1n, 1)
  if (known !== ledgerId) return true
  const owing = await parts.index.segmentsOwing(OWING_MAX)
  return owing.some((row) => row.ledgerId === ledgerId)
}

/** Says plainly what has no valid copy left; nothing else is done about it. */
export function logUnrepairable(
  parts: { readonly ledger: LedgerContext },
  entries: readonly UnrepairableEntry[],
): void {
  for (const { ledgerId, entryId, storeId, reason } of entries) {
    parts.ledger.logger.error(
      { ledger: ledgerId.toString(), entry: entryId.toString(), store: storeId, reason },
      'an entry has no valid copy left on any store or in the archive',
    )
  }
}
