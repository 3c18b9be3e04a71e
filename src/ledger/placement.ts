import { StratalogError } from '../model/errors.js'
import type { Quorum } from '../model/quorum.js'
import type { SegmentStore } from '../ports/segment-store.js'
import { ask, type LedgerContext, type PlacementWish } from './context.js'

/**
 * The stores of a new ledger: at most `quorum.ensemble`, at least `quorum.min`. Those that rest (StoreHealth) are left
 * out as long as every entry still gets all its copies: a slow copy is better than none. Else `not_enough_stores`.
 * `config_invalid`: a group is asked for, and the stores are in none.
 */
export async function placeLedger(context: LedgerContext, quorum: Quorum): Promise<SegmentStore[]> {
  const { group } = quorum
  if (group !== undefined && context.stores.grouped !== true) throw noGroups(group)
  const writable = await context.stores.writable(group === undefined ? {} : { group })
  if (writable.length < quorum.min) throw await notEnoughStores(context, quorum, writable.length)
  const { fit, resting } = sorted(context, writable)
  const size = Math.min(quorum.ensemble, Math.max(quorum.copies, fit.length))
  return [...fit, ...resting].slice(0, size)
}

/** Whether any store is configured that is not `taken`. */
export function mayHaveSpare(context: LedgerContext, taken: ReadonlySet<string>): boolean {
  return context.stores.all().some((store) => !taken.has(store.id))
}

/** Writable stores that are not `taken`, best first, at most `count`. */
export async function spareStores(
  context: LedgerContext,
  taken: ReadonlySet<string>,
  count: number,
  wish: PlacementWish = {},
): Promise<SegmentStore[]> {
  if (!mayHaveSpare(context, taken)) return []
  const writable = await context.stores.writable(wish)
  const { fit, resting } = sorted(
    context,
    writable.filter((store) => !taken.has(store.id)),
  )
  return [...fit, ...resting].slice(0, count)
}

function sorted(
  context: LedgerContext,
  stores: readonly SegmentStore[],
): { readonly fit: readonly SegmentStore[]; readonly resting: readonly SegmentStore[] } {
  return context.health?.sorted(stores) ?? { fit: stores, resting: [] }
}

function noGroups(group: string): StratalogError {
  return new StratalogError(
    'config_invalid',
    `the policy asks for stores of the group ${group} (quorum.group), and the stores of this log are in no groups: name them in bookkeeper.groups-file, or write quorum: { group: any }`,
    { expected: group, found: null },
  )
}

async function notEnoughStores(
  context: LedgerContext,
  quorum: Quorum,
  writable: number,
): Promise<StratalogError> {
  // A store whose disk hangs must not keep an append from hearing that it failed.
  const statusOf = ({ id }: SegmentStore) => ask(context, id, (store) => store.status()).catch(() => null)
  const states = await Promise.all(context.stores.all().map(statusOf))
  const why = states.flatMap((status) =>
    status === null || status.state === 'writable'
      ? []
      : [`${status.location}: ${status.reason ?? status.state}`],
  )
  const inGroup = quorum.group === undefined ? '' : ` in the group ${quorum.group} (quorum.group)`
  return new StratalogError(
    'not_enough_stores',
    `${quorum.min} writable stores${inGroup} are needed and ${writable} can be written${why.length > 0 ? ` (${why.join('; ')})` : ''}: see "stratalog tier status"`,
    { retryable: true, expected: quorum.min, found: writable },
  )
}
