import {
  changeStoreFacts,
  readStoreFacts,
  type StoreFacts,
  type StoreFactsKeeper,
  type StoreWork,
  withWork,
  withWorks,
} from '../../tiering/store-facts.js'
import type { LedgerContext } from '../ledger/context.js'
import { ledgersOn, type StoreHoldings } from '../ledger/holdings.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import type { StoreStatus } from '../ports/segment-store.js'
import { readDecisions, spreadDecisions } from '../rebuild/decisions.js'
import type { LocalDirectory, OpenPlace } from './directory.js'

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

export interface ReplaceRequest {
  /** A directory, or the id of the store (or its beginning). */
  readonly store: string
  /** Where the new store is to be; null: in the same directory. */
  readonly with: string | null
  /** Most that is copied in a second; null: as fast as it goes. */
  readonly bytesPerSecond: number | null
}

export type DrainRequest = Omit<ReplaceRequest, 'with'>

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
  /** The command before, whatever became of it. */
  #last: Promise<unknown> = Promise.resolve()

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
    await changeStoreFacts(this.#parts.keeper, (facts) => {
      const works = facts.works.flatMap((work) => adopted(work, places, facts))
      const replaced = works.flatMap(({ kind, from, to }) =>
        kind === 'replace' && to !== null ? [from] : [],
      )
      return {
        ...facts,
        works,
        retired: [...new Set([...facts.retired, ...replaced])],
        places: places.map((place) => ({
          directory: place.directory,
          at: place.at,
          id: place.absent ? this.#rememberedAt(place, facts) : place.store.id,
        })),
      }
    })
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
   * Makes a new store in the place of one that is lost, durable and remembered before anything is copied to it; for a
   * configured directory that never had one, just makes it. What is copied then is the agent's work. Idempotent: run
   * again after a crash it goes on. Rejects with `refused` where the store is there, where the directory is not empty,
   * and `not_found` for an unknown one.
   */
  beginReplace(request: ReplaceRequest): Promise<Begun> {
    return this.#inTurn(() => this.#beginReplace(request))
  }

  async #beginReplace({ store: name, with: other, bytesPerSecond }: ReplaceRequest): Promise<Begun> {
    const { directory, keeper } = this.#parts
    const place = await this.#place(name)
    const facts = await readStoreFacts(keeper)
    const before = facts.works.filter((one) => one.kind === 'replace' && one.location === place.directory)
    const going = before.filter((one) => one.to === place.store.id)
    const [latest] = going.slice(-1)
    if (latest !== undefined && (await isUsable(place))) {
      for (const work of going) await this.#setRate(work, bytesPerSecond)
      return { from: latest.from, to: latest.to, location: place.directory }
    }
    const at = other ?? place.at
    if (!place.absent) await checkMayGo(place, at)
    const lost = await this.#lostHere(place, facts, before)
    const work = (from: string, to: string | null) => ({
      ...this.#work('replace', from, place.directory, bytesPerSecond),
      to,
    })
    // Before the store is made: whoever finds a new store in this place knows what it is for.
    await changeStoreFacts(keeper, (now) => withWorks(now, lost, (from) => work(from, null)))
    const store = await directory.settle(place.directory, at).catch(async (error: unknown) => {
      // What is refused leaves everything as it was; after any other failure the store may have been made.
      const was = (from: string) => facts.works.find((one) => one.from === from) ?? null
      if (isStratalogError(error)) await changeStoreFacts(keeper, (now) => withWorks(now, lost, was))
      throw error
    })
    const changed = await changeStoreFacts(keeper, (now) => ({
      // One that came back instead has nobody's place to take.
      ...withWorks(now, lost, (from) => (from === store.id ? null : work(from, store.id))),
      places: [
        ...now.places.filter((one) => one.directory !== place.directory),
        { directory: place.directory, at, id: store.id },
      ],
      retired: [...new Set([...now.retired, ...lost.filter((from) => from !== store.id)])],
    }))
    directory.retire(changed.retired)
    await this.#tellDecisions()
    return { from: lost.findLast((from) => from !== store.id) ?? null, to: store.id, location: at }
  }

  /**
   * A new store gets what was decided at once, not only when the log is opened the next time: until then it would be
   * one store fewer that an index can be made again from (invariant 12).
   */
  async #tellDecisions(): Promise<void> {
    const { ledger } = this.#parts
    await spreadDecisions(ledger, await readDecisions(ledger))
  }

  /**
   * Takes a store out of use: no new ledger is placed on it, and what it holds is copied to others by the agent; from
   * its peers where it is not there any more. `refused` where too few stores would be left for the quorums.
   */
  beginDrain(request: DrainRequest): Promise<Begun> {
    return this.#inTurn(() => this.#beginDrain(request))
  }

  async #beginDrain(request: DrainRequest): Promise<Begun> {
    const { directory, keeper } = this.#parts
    const { id, location } = await this.#drained(request.store)
    const left = (await directory.writable()).filter((other) => other.id !== id)
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

  /**
   * The stores whose copies belong here: those that an unfinished replacement names, and the one that was in this
   * place last. A successor that is lost in its turn may hold what was already moved to it. None: there never was one.
   */
  async #lostHere(
    place: OpenPlace,
    facts: StoreFacts,
    before: readonly StoreWork[],
  ): Promise<readonly string[]> {
    const last = place.absent ? this.#rememberedAt(place, facts) : place.store.id
    const named = [...before.map(({ from }) => from), ...(last === null ? [] : [last])]
    if (named.length > 0) return [...new Set(named)]
    const there = new Set(this.#parts.directory.all().map(({ id }) => id))
    const working = new Set(facts.works.map(({ from }) => from))
    const lost = [...(await ledgersOn(this.#parts.ledger)).keys()].filter(
      (id) => !there.has(id) && !working.has(id),
    )
    if (lost.length <= 1) return lost
    throw refused(
      `${lost.length} stores are lost (${lost.join(', ')}) and nothing says which of them was in ${place.directory}: bring back all but one first`,
      { found: lost },
    )
  }

  /** The store that was last seen in a place; one that is in another place now is not lost, its disk was moved. */
  #rememberedAt(place: Pick<OpenPlace, 'directory'>, facts: StoreFacts): string | null {
    const id = facts.places.find((one) => one.directory === place.directory)?.id ?? null
    if (id === null || facts.retired.includes(id)) return null
    const elsewhere = this.#parts.directory.places().some(({ store, absent }) => store.id === id && !absent)
    return elsewhere ? null : id
  }

  /** One command at a time: two that make or take out a store would each decide without what the other is changing. */
  #inTurn<T>(command: () => Promise<T>): Promise<T> {
    const done = this.#last.then(command, command)
    this.#last = done
    // Whoever gave the command hears of it.
    done.catch(() => undefined)
    return done
  }
}

/** A replacement that was cut short, with the store that was made for it; none where its place holds another one. */
function adopted(work: StoreWork, places: readonly OpenPlace[], facts: StoreFacts): readonly StoreWork[] {
  const place = places.find((one) => one.directory === work.location && !one.absent)
  if (work.kind !== 'replace' || work.to !== null || place === undefined) return [work]
  const { id } = place.store
  // One that was known before came back, or was put there by hand: nothing is to be copied to it.
  const known = id === work.from || facts.places.some((one) => one.id === id)
  return known ? [] : [{ ...work, to: id }]
}

async function isUsable({ store, absent }: OpenPlace): Promise<boolean> {
  if (absent) return false
  const { state } = await store.status()
  return state === 'writable' || state === 'full'
}

/** A store that works is drained, not replaced; one whose files are in the way is never written over (invariant 8). */
async function checkMayGo(place: OpenPlace, at: string): Promise<void> {
  const status = await place.store.status()
  if (await isUsable(place)) {
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
