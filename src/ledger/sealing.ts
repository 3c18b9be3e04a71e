import type { LedgerMetadata } from '../model/ledger.js'
import type { LedgerSeal } from '../ports/segment-store.js'
import { type LedgerContext, member } from './context.js'
import { allMembers } from './ensembles.js'

/** How long closing waits for stores to record the seal. */
const SEAL_WAIT_MS = 2_000

/**
 * Tells every store that may hold entries of a closed ledger where it ends, each when it is `ready`. The metadata is
 * the truth: a store that can't be told is only logged.
 */
export async function sealOnStores(
  context: LedgerContext,
  ledgerId: bigint,
  metadata: LedgerMetadata,
  seal: LedgerSeal,
  ready: (id: string) => Promise<void> = async () => {},
): Promise<void> {
  const tell = async (id: string): Promise<void> => {
    try {
      await ready(id)
      await member(context, id).sealLedger(ledgerId, seal)
    } catch (error) {
      context.logger.warn(
        { err: error, ledger: ledgerId.toString(), store: id },
        'seal not recorded on a store',
      )
    }
  }
  const told = Promise.all(allMembers(metadata.ensembles).map(tell))
  // A store that hangs must not hold up the next segment. It is told all the same, whenever it comes back.
  await new Promise<void>((resolve) => {
    const timer = context.clock.setTimer(SEAL_WAIT_MS, resolve)
    void told.then(() => {
      timer.cancel()
      resolve()
    })
  })
}
