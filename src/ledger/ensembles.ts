import { assert, present } from '../model/assert.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import { type Ensemble, type LedgerMetadata, lastEnsemble } from '../model/ledger.js'
import type { VersionedLedgerMetadata } from '../ports/ledger-metadata.js'
import type { LedgerContext } from './context.js'

/** Compare-and-set races of a writer with those who mend earlier ensembles of its ledger. */
const ROUNDS_MAX = 8

/** Every store that some entry of the ledger may be on, each once. */
export function allMembers(ensembles: readonly Ensemble[]): string[] {
  return [...new Set(ensembles.flatMap(({ members }) => members))]
}

/** BookKeeper's rule (FORMATS.md §4.3): the last ensemble is replaced where it has no entry yet, else another begins. */
export function withEnsemble(ensembles: readonly Ensemble[], next: Ensemble): Ensemble[] {
  const last = present(ensembles.at(-1), 'last ensemble')
  assert(next.firstEntryId >= last.firstEntryId, `an ensemble at ${next.firstEntryId} is behind the last one`)
  assert(new Set(next.members).size === next.members.length, `a store is twice in ${next.members.join(', ')}`)
  const before = last.firstEntryId === next.firstEntryId ? ensembles.slice(0, -1) : ensembles
  return [...before, next]
}

/**
 * Changes the metadata of a ledger that this process writes. Whoever takes the ledger over changes its state first:
 * from then on this rejects with `fenced` (invariant 3). While it is open nobody else ends or moves its last ensemble,
 * so what was changed otherwise is taken over. An answer that was lost is settled by looking. Any other rejection
 * means that nothing was changed, or that nobody can tell.
 */
export async function changeOwnLedger(
  context: LedgerContext,
  current: VersionedLedgerMetadata,
  change: (metadata: LedgerMetadata) => LedgerMetadata,
): Promise<VersionedLedgerMetadata> {
  let base = current
  let doubtful = false
  for (let round = 1; ; round += 1) {
    const wanted = { ...change(base.metadata), cToken: 0n }
    try {
      return await context.metadata.compareAndSet(base.ledgerId, base.version, wanted)
    } catch (error) {
      const conflict = isStratalogError(error, 'conflict')
      doubtful ||= !conflict
      const found = await context.metadata.read(base.ledgerId)
      if (doubtful && sameOutcome(found.metadata, wanted)) return found
      if (found.metadata.state !== 'OPEN') {
        throw new StratalogError('fenced', `ledger ${base.ledgerId} was taken over by another opener`, {
          cause: error,
        })
      }
      if (!conflict || round >= ROUNDS_MAX) throw error
      base = found
    }
  }
}

function sameOutcome(found: LedgerMetadata, wanted: LedgerMetadata): boolean {
  return (
    found.state === wanted.state &&
    found.lastEntryId === wanted.lastEntryId &&
    found.lengthBytes === wanted.lengthBytes &&
    lastEnsemble(found).firstEntryId === lastEnsemble(wanted).firstEntryId &&
    lastEnsemble(found).members.join() === lastEnsemble(wanted).members.join()
  )
}
