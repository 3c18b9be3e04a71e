import type { SegmentIndex } from '../src/ports/segment-index.js'

/** Where all of this is kept: one fact, so that each change of it is whole. */
const FACT = 'stores'

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
export async function readStoreFacts(index: SegmentIndex): Promise<StoreFacts> {
  const text = await index.fact(FACT)
  return text === null ? NONE : { ...NONE, ...(JSON.parse(text) as Partial<StoreFacts>) }
}

/** Changes under way, one after the other for each index. */
const changing = new WeakMap<SegmentIndex, Promise<unknown>>()

/** Changes it in one durable step, from what the step before left. */
export function changeStoreFacts(
  index: SegmentIndex,
  change: (facts: StoreFacts) => StoreFacts,
): Promise<StoreFacts> {
  const before = changing.get(index) ?? Promise.resolve()
  const changed = before.then(() => changeNow(index, change))
  changing.set(
    index,
    changed.catch(() => null),
  )
  return changed
}

async function changeNow(
  index: SegmentIndex,
  change: (facts: StoreFacts) => StoreFacts,
): Promise<StoreFacts> {
  const before = await readStoreFacts(index)
  const after = change(before)
  if (JSON.stringify(after) !== JSON.stringify(before)) await index.setFact(FACT, JSON.stringify(after))
  return after
}

/** The works with one of them changed, or taken away. */
export function withWork(facts: StoreFacts, from: string, work: StoreWork | null): StoreFacts {
  const others = facts.works.filter((one) => one.from !== from)
  return { ...facts, works: work === null ? others : [...others, work] }
}
