import { isStratalogError } from '../model/errors.js'
import type { LedgerMetadata } from '../model/ledger.js'
import type { LedgerContext } from './context.js'
import { type FillOptions, fillShare } from './share-filler.js'
import { emptyReport, type ShareReport } from './share-report.js'
import { membersOf } from './shares.js'

/** What became of one ledger. */
export interface LedgerRepair extends ShareReport {
  /** `closed`: looked at. `open`: left to its writer or its recovery. `gone`: deleted. */
  readonly state: 'closed' | 'open' | 'gone'
}

/** The metadata of a ledger that repair may touch, or why it may not. */
export async function closedLedger(
  context: LedgerContext,
  ledgerId: bigint,
): Promise<LedgerMetadata | 'open' | 'gone'> {
  try {
    const { metadata } = await context.metadata.read(ledgerId)
    return metadata.state === 'CLOSED' ? metadata : 'open'
  } catch (error) {
    if (isStratalogError(error, 'ledger_not_found')) return 'gone'
    throw error
  }
}

/**
 * Looks at every copy of a closed ledger and mends those that are absent or damaged, from their peers or from the
 * archive (invariants 1 and 9). Open and recovering ledgers are not touched: what is absent there may never have
 * been acknowledged. A store that can't be reached is not damaged: nothing is done about it. Idempotent, also after
 * a crash at any point: an entry is either still bad or good.
 */
export async function repairLedger(
  context: LedgerContext,
  ledgerId: bigint,
  options: FillOptions = {},
): Promise<LedgerRepair> {
  const metadata = await closedLedger(context, ledgerId)
  if (metadata === 'open' || metadata === 'gone') return { state: metadata, ...emptyReport() }
  const total = emptyReport()
  for (const member of membersOf(metadata)) {
    options.signal?.throwIfAborted()
    const report = await fillShare(context, { ledgerId, metadata, member, target: member }, options)
    total.checkedEntries += report.checkedEntries
    total.checkedBytes += report.checkedBytes
    total.repairedEntries += report.repairedEntries
    total.repairedBytes += report.repairedBytes
    total.unrepairableEntries += report.unrepairableEntries
    total.waitingEntries += report.waitingEntries
    total.unrepairable.push(...report.unrepairable)
    total.unreachable.push(...report.unreachable)
  }
  return { state: 'closed', ...total }
}
