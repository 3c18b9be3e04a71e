import {
  changeStoreFacts,
  readStoreFacts,
  type StoreFacts,
  type StoreFactsKeeper,
  type StoreWork,
  withWork,
} from '../tiering/store-facts.js'
import type { LedgerContext } from './ledger/context.js'
import { ledgersOn, type StoreHoldings } from './ledger/holdings.js'
import { isStratalogError, StratalogError } from './model/errors.js'
import type { StoreStatus } from './ports/segment-store.js'
import type { LocalDirectory, OpenPlace } from './store-directory.js'

/** Characters of an id that are enough to name a store, where only one begins so. */
const ID_PREFIX_MIN = 4

/** A store as `store list` shows it. */
export interface StoreLine extends StoreStatus, StoreHoldings {
  /**
   * - `in use`: takes new ledgers.
   * - `out`: drained, or being drained: takes no new ledgers.
   * - `lost`: ledgers name it and no configured directory is known to be its.
   */
  readonly role: 'in use' | 'out' | 'lost'
}

/** What a command began. */
export interface Begun {
  /** The store whose copies go elsewhere; null: a new store has nobody's place to take. */
  readonly from: string | null
  readonly to: string | null
  readonly location: string
}

export interface StoreAdminParts {
  readonly keeper: StoreFactsKeeper
  readonly ledger: LedgerContext
  readonly directory: LocalDirectory
  /** Stores that the largest quorum of any stream needs. */
  readonly storesNeeded: () => Promise<number>
}

/** Which stores there are, and what becomes of one that is lost or no longer wanted. */
export class StoreAdmin {
  /** Where it notes what it began. */
  readonly keeper: StoreFactsKeeper
  readonly #parts: StoreAdminParts

  constructor(parts: StoreAdminParts) {
    this.keeper = parts.keeper
    this.#parts = parts
  }

  /**
   * Remembers which store is where, so that one that is absent later can still be named; and finds the store that a
   * `replace` had made when it was cut short.
   */
  async remember(): Promise<void> {
    const places = this.#parts.directory.places()
    await changeStoreFacts(this.#parts.keeper, (facts) => ({
      ...facts,
      places: places.map((place) => ({
        directory: place.directory,
        at: place.at,
        id: place.absent
          ? (facts.places.find((one) => one.directory === place.directory)?.id ?? null)
          : place.store.id,
      })),
      works: facts.works.flatMap((work) => {
        const place = places.find((one) => one.directory === work.location && !one.absent)
        if (work.kind !== 'replace' || work.to !== null || place === undefined) return [work]
        // Back again, or made and not yet noted.
        return place.store.id === work.from ? [] : [{ ...work, to: place.store.id }]
      }),
    }))
  }

  /** Every store, those that are only named by ledgers too, and what is being done about them. */
  async list(): Promise<{ stores: StoreLine[]; works: readonly StoreWork[] }> {
    const { directory, keeper, ledger } = this.#parts
    const facts = await readStoreFacts(keeper)
    const holdings = await ledgersOn(ledger)
    const none: StoreHoldings = { ledgers: 0, missingCopies: 0 }
    const stores: StoreLine[] = []
    for (const { store, directory: place } of [...directory.places()].sort((a, b) =>
      a.directory < b.directory ? -1 : 1,
    )) {
      const status = await store.status()
      const role = facts.out.includes(store.id) ? 'out' : 'in use'
      stores.push({
        ...status,
        location: status.location || place,
        role,
        ...(holdings.get(store.id) ?? none),
      })
    }
    const known = new Set(stores.map(({ id }) => id))
    for (const [id, held] of holdings)
      if (!known.has(id)) stores.push({ ...lostStatus(id), role: 'lost', ...held })
    return { stores, works: facts.works }
  }

  /**
   * Makes a new store in the place of one that is lost, durable and remembered before anything is copied to it. What
   * is copied then is the agent's work. Idempotent: run again after a crash it goes on. Rejects with `refused` where
   * the store is there, where the directory is not empty, and `not_found` for an unknown one.
   */
  async beginReplace(request: {
    readonly store: string
    readonly with: string | null
    readonly bytesPerSecond: number | null
  }): Promise<Begun> {
    const { directory, keeper } = this.#parts
    const place = await this.#place(request.store)
    const facts = await readStoreFacts(keeper)
    const begun = facts.works.find((work) => work.kind === 'replace' && work.location === place.directory)
    if (begun !== undefined && begun.to !== null && !place.absent) {
      await this.#setRate(begun, request.bytesPerSecond)
      return { from: begun.from, to: begun.to, location: place.directory }
    }
    const at = request.with ?? place.at
    if (!place.absent) await checkMayGo(place, at)
    const from = begun?.from ?? (await this.#lostIdOf(place, facts))
    if (from !== null) {
      // Before the store is made: whoever finds a new store in this place knows what it is for.
      const work = this.#work('replace', from, place.directory, request.bytesPerSecond)
      await changeStoreFacts(keeper, (now) => withWork(now, from, work))
    }
    const store = await directory.settle(place.directory, at).catch(async (error: unknown) => {
      // What is refused leaves nothing behind; after any other failure the store may have been made.
      if (begun === undefined && isStratalogError(error))
        await changeStoreFacts(keeper, (now) => withWork(now, from ?? '', null))
      throw error
    })
    const returned = store.id === from
    await changeStoreFacts(keeper, (now) => {
      const places = [
        ...now.places.filter((one) => one.directory !== place.directory),
        { directory: place.directory, at, id: store.id },
      ]
      if (from === null || returned) return { ...withWork(now, from ?? '', null), places }
      const work = { ...this.#work('replace', from, place.directory, request.bytesPerSecond), to: store.id }
      return { ...withWork(now, from, work), places, retired: [...new Set([...now.retired, from])] }
    })
    return { from: returned ? null : from, to: store.id, location: at }
  }

  /**
   * Takes a store out of use: no new ledger is placed on it, and what it holds is copied to others by the agent; from
   * its peers where it is not there any more. `refused` where too few stores would be left for the quorums.
   */
  async beginDrain(request: {
    readonly store: string
    readonly bytesPerSecond: number | null
  }): Promise<Begun> {
    const { directory, keeper } = this.#parts
    const { id, location } = await this.#drained(request.store)
    const facts = await readStoreFacts(keeper)
    const left: string[] = []
    for (const other of directory.places()) {
      if (other.store.id === id || facts.out.includes(other.store.id)) continue
      if ((await other.store.status()).state === 'writable') left.push(other.at)
    }
    const needed = await this.#parts.storesNeeded()
    if (left.length < needed) {
      throw refused(
        `without ${location} there ${left.length === 1 ? 'is' : 'are'} ${left.length} writable of the ${needed} stores that quorums need: add a directory under "stores", then stratalog store replace THAT_DIRECTORY, or lower quorum.copies`,
        { expected: needed, found: left.length },
      )
    }
    const work = this.#work('drain', id, location, request.bytesPerSecond)
    const now = await changeStoreFacts(keeper, (before) => ({
      ...withWork(before, id, work),
      out: [...new Set([...before.out, id])],
    }))
    directory.takeOut(now.out)
    return { from: id, to: null, location }
  }

  /** What is to be drained: the store of a place, or one that only ledgers name. */
  async #drained(name: string): Promise<{ readonly id: string; readonly location: string }> {
    const there = new Set(this.#parts.directory.places().map(({ store }) => store.id))
    const lost = [...(await ledgersOn(this.#parts.ledger)).keys()].filter((id) => !there.has(id))
    const named = lost.filter((id) => id === name || (name.length >= ID_PREFIX_MIN && id.startsWith(name)))
    if (named.length === 1 && named[0] !== undefined)
      return { id: named[0], location: `lost store ${named[0]}` }
    const { store, at } = await this.#place(name)
    return { id: store.id, location: at }
  }

  #work(kind: StoreWork['kind'], from: string, location: string, bytesPerSecond: number | null): StoreWork {
    const startedMs = this.#parts.ledger.clock.nowMs()
    return { kind, from, to: null, location, startedMs, bytesPerSecond }
  }

  async #setRate(work: StoreWork, bytesPerSecond: number | null): Promise<void> {
    if (work.bytesPerSecond === bytesPerSecond) return
    await changeStoreFacts(this.#parts.keeper, (now) => withWork(now, work.from, { ...work, bytesPerSecond }))
  }

  /** A place by its directory, or by the id (or the beginning of the id) of its store. */
  async #place(name: string): Promise<OpenPlace> {
    const places = this.#parts.directory.places()
    const byPath = places.find(({ directory, at }) => directory === name || at === name)
    if (byPath !== undefined) return byPath
    const byId = places.filter(
      ({ store }) => store.id === name || (name.length >= ID_PREFIX_MIN && store.id.startsWith(name)),
    )
    const [only] = byId
    if (only !== undefined && byId.length === 1) return only
    const known = places.map(({ at, store }) => `${store.id} ${at}`).join(', ')
    const why = byId.length > 1 ? 'several stores begin so' : 'no store has that id or directory'
    throw new StratalogError(
      'not_found',
      `"${name}": ${why}; there are ${known}: see "stratalog store list"`,
      {
        found: name,
      },
    )
  }

  /** Which store was there: as remembered, else the one that ledgers name and nobody has. Null: none ever was. */
  async #lostIdOf(place: OpenPlace, facts: StoreFacts): Promise<string | null> {
    const remembered = facts.places.find((one) => one.directory === place.directory)?.id ?? null
    if (remembered !== null && !facts.retired.includes(remembered)) return remembered
    if (!place.absent) return place.store.id
    const there = new Set(this.#parts.directory.all().map(({ id }) => id))
    const working = new Set(facts.works.map(({ from }) => from))
    const lost = [...(await ledgersOn(this.#parts.ledger)).keys()].filter(
      (id) => !there.has(id) && !working.has(id),
    )
    if (lost.length <= 1) return lost[0] ?? null
    throw refused(
      `${lost.length} stores are lost (${lost.join(', ')}) and nothing says which of them was in ${place.directory}: bring back all but one first`,
      { found: lost },
    )
  }
}

/** A store that works is drained, not replaced; one whose files are in the way is never written over (invariant 8). */
async function checkMayGo(place: OpenPlace, at: string): Promise<void> {
  const status = await place.store.status()
  if (status.state === 'writable' || status.state === 'full') {
    throw refused(
      `the store in ${place.at} works (${status.state}): stratalog store drain ${place.directory} takes it out of use`,
      { found: status.state },
    )
  }
  if (at !== place.at) return
  throw refused(
    `the store in ${place.at} is ${status.state} and its directory is in use by this process: stratalog store replace ${place.directory} --with ANOTHER_DIRECTORY, or restart the application with an empty directory there`,
    { found: status.state },
  )
}

function lostStatus(id: string): StoreStatus {
  return {
    id,
    location: '?',
    state: 'unreachable',
    reason: 'ledgers name it, and it is in none of the configured directories',
    usedBytes: 0,
    freeBytes: 0,
    totalBytes: 0,
    device: '?',
    pendingBytes: 0,
    corruptBytes: 0,
  }
}

function refused(message: string, details: { expected?: unknown; found?: unknown } = {}): StratalogError {
  return new StratalogError('refused', message, details)
}
