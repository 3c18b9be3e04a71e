/**
 * Where this is kept, as one text, so that each change of it is whole and durable. Not in the index: the stores have to
 * be found before an index can be made from them.
 */
export interface StoreFactsKeeper {
  read(): Promise<string | null>
  write(text: string): Promise<void>
}

/** A place the configuration names, and which store is there. */
export interface StorePlace {
  /** The directory as it is configured. */
  readonly directory: string
  /** Where the store is; another directory where an operator said so (`store replace --with`). */
  readonly at: string
  /** The store's id, once one was seen there. */
  readonly id: string | null
}

/** A store whose copies are to be elsewhere. Kept until no ledger names it any more. */
export interface StoreWork {
  readonly kind: 'replace' | 'drain'
  readonly from: string
  /** The store that takes its place; null: any others (drain), or not made yet (replace). */
  readonly to: string | null
  /** Where `from` was, for people. */
  readonly location: string
  readonly startedMs: number
  /** Most bytes a second that are copied; null: as fast as it goes. */
  readonly bytesPerSecond: number | null
}

/** What the log remembers of its stores beyond what they say themselves. */
export interface StoreFacts {
  readonly places: readonly StorePlace[]
  /** Stores that were replaced: one that comes back is not taken for its successor. */
  readonly retired: readonly string[]
  /** Stores that take no new ledgers. */
  readonly out: readonly string[]
  readonly works: readonly StoreWork[]
}

const NONE: StoreFacts = { places: [], retired: [], out: [], works: [] }

/** Reads what is remembered. */
export async function readStoreFacts(keeper: StoreFactsKeeper): Promise<StoreFacts> {
  const text = await keeper.read()
  return text === null ? NONE : { ...NONE, ...(JSON.parse(text) as Partial<StoreFacts>) }
}

/** Changes under way, one after the other for each keeper. */
const changing = new WeakMap<StoreFactsKeeper, Promise<unknown>>()

/** Changes it in one durable step, from what the step before left. */
export function changeStoreFacts(
  keeper: StoreFactsKeeper,
  change: (facts: StoreFacts) => StoreFacts,
): Promise<StoreFacts> {
  const before = changing.get(keeper) ?? Promise.resolve()
  const changed = before.then(() => changeNow(keeper, change))
  changing.set(
    keeper,
    changed.catch(() => null),
  )
  return changed
}

async function changeNow(
  keeper: StoreFactsKeeper,
  change: (facts: StoreFacts) => StoreFacts,
): Promise<StoreFacts> {
  const before = await readStoreFacts(keeper)
  const after = change(before)
  if (JSON.stringify(after) !== JSON.stringify(before)) await keeper.write(JSON.stringify(after))
  return after
}

/** The works of several stores changed, or taken away where `work` gives none. */
export function withWorks(
  facts: StoreFacts,
  stores: readonly string[],
  work: (from: string) => StoreWork | null,
): StoreFacts {
  return stores.reduce((changed, from) => withWork(changed, from, work(from)), facts)
}

/** The works with one of them changed, or taken away. */
export function withWork(facts: StoreFacts, from: string, work: StoreWork | null): StoreFacts {
  const others = facts.works.filter((one) => one.from !== from)
  return { ...facts, works: work === null ? others : [...others, work] }
}
