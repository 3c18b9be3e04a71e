import { isStratalogError } from '../model/errors.js'
import type { LedgerMetadata } from '../model/ledger.js'
import type { SegmentStore } from '../ports/segment-store.js'
import type { LedgerContext } from './context.js'
import { membersOf, shareEntries } from './shares.js'

const PAGE = 1_000

/** What ledgers say a store is to hold, against what it says it holds. */
export interface StoreHoldings {
  /** Ledgers that name it. */
  readonly ledgers: number
  /** Entries of closed ledgers it is to hold and does not know; null: it can't be asked. */
  readonly missingCopies: number | null
}

type Count = { -readonly [K in keyof StoreHoldings]: StoreHoldings[K] }

/** For each store that any ledger names. In bounded memory: two ascending lists are walked side by side. */
export async function ledgersOn(context: LedgerContext): Promise<ReadonlyMap<string, StoreHoldings>> {
  const counts = new Map<string, Count>()
  for (let after = -1n; ; ) {
    const ids = await context.metadata.list(after, PAGE)
    const last = ids.at(-1)
    if (last === undefined) return counts
    const held = new Map<string, ReadonlyMap<bigint, number> | null>()
    for (const store of context.stores.all()) held.set(store.id, await entriesOf(store, after, last))
    for (const ledgerId of ids) {
      const metadata = await metadataOf(context, ledgerId)
      if (metadata === null) continue
      for (const id of membersOf(metadata)) {
        const count = counts.get(id) ?? { ledgers: 0, missingCopies: 0 }
        counts.set(id, count)
        count.ledgers += 1
        if (metadata.state !== 'CLOSED') continue
        const known = held.get(id)
        if (known === null) count.missingCopies = null
        else if (count.missingCopies !== null)
          count.missingCopies += Math.max(0, Number(shareEntries(metadata, id)) - (known?.get(ledgerId) ?? 0))
      }
    }
    after = last
  }
}

/** Entries of each ledger in (after, last] on a store; null where it can't be asked. */
async function entriesOf(
  store: SegmentStore,
  after: bigint,
  last: bigint,
): Promise<ReadonlyMap<bigint, number> | null> {
  const entries = new Map<bigint, number>()
  try {
    for (let from = after; ; ) {
      const page = await store.listLedgers(from, PAGE)
      for (const { ledgerId, entries: count } of page) if (ledgerId <= last) entries.set(ledgerId, count)
      const end = page.at(-1)?.ledgerId
      if (end === undefined || end >= last) return entries
      from = end
    }
  } catch (error) {
    if (isStratalogError(error)) return null
    throw error
  }
}

/** Null: deleted since it was listed. */
async function metadataOf(context: LedgerContext, ledgerId: bigint): Promise<LedgerMetadata | null> {
  try {
    return (await context.metadata.read(ledgerId)).metadata
  } catch (error) {
    if (isStratalogError(error, 'ledger_not_found')) return null
    throw error
  }
}
