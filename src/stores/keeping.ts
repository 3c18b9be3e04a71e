import type { LedgerContext } from '../ledger/context.js'
import { ledgersOn } from '../ledger/holdings.js'
import { StratalogError } from '../model/errors.js'
import type { Begun, StoreAdmin, StoreLine } from './admin.js'

/** Which stores there are, and what can be done about one of them. */
export type StoreKeeping = Pick<StoreAdmin, 'keeper' | 'list' | 'beginReplace' | 'beginDrain'>

/** The bookies of a cluster: their copies are BookKeeper's to move. */
export function bookieKeeping(ledger: LedgerContext, keeper: StoreKeeping['keeper']): StoreKeeping {
  return {
    keeper,
    list: async () => {
      const { stores } = ledger
      const holdings = await ledgersOn(ledger)
      const lines = stores.all().map(async (store): Promise<StoreLine> => {
        const held = holdings.get(store.id) ?? { ledgers: 0, missingCopies: null }
        return { ...(await store.status()), role: 'in use', ...held }
      })
      return { stores: await Promise.all(lines), works: [] }
    },
    beginReplace: ({ store }) => refused(store),
    beginDrain: ({ store }) => refused(store),
  }
}

function refused(store: string): Promise<Begun> {
  return Promise.reject(
    new StratalogError(
      'refused',
      `the copies on bookie ${store} are BookKeeper's to move: "stratalog store list" shows how many ledgers name it; stop it, then run "bookkeeper shell decommissionbookie -bookieid ${store}"`,
      { found: store },
    ),
  )
}
