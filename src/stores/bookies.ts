import type { PlacementWish, StoreDirectory } from '../ledger/context.js'
import { StratalogError } from '../model/errors.js'
import type { Logger } from '../ports/logger.js'
import type { SegmentStore } from '../ports/segment-store.js'
import { absentStore } from './absent.js'

/** A bookie that is up, as whoever looks after the cluster tells. */
export interface LiveBookie {
  /** What ensembles name. */
  readonly id: string
  readonly host: string
  readonly port: number
  /** Takes no new entries, but for recovery. */
  readonly readOnly: boolean
  readonly rack?: string
}

/** Which bookies there are (BookieRegistry in src/metadata/zookeeper). */
export interface LiveBookies {
  all(): readonly LiveBookie[]
  /** Every bookie that belongs to the cluster, up or not. */
  known(): Promise<readonly string[]>
  changed(listener: () => void): { close(): void }
}

/** What the bookies of a cluster are opened with. */
export interface BookieDirectoryParts {
  readonly bookies: LiveBookies
  /** Makes the client of a bookie; it connects when it is first used. */
  readonly open: (bookie: LiveBookie) => SegmentStore
  /** Writable bookies in an order whose beginnings are good ensembles, or go well with those that stay in one. */
  readonly spread: (bookies: readonly LiveBookie[], staying: readonly LiveBookie[]) => readonly LiveBookie[]
  /** Isolation groups of a bookie; absent: there are none. */
  readonly groupsOf?: (id: string, host: string) => readonly string[]
  /** How far a bookie is from this process, 0 the nearest; absent: nobody said where that is. */
  readonly distance?: (bookie: LiveBookie) => number
  readonly logger: Logger
}

/** Farther than any that is up. */
const FAR = 9

interface OpenBookie {
  readonly at: string
  readonly store: SegmentStore
}

/**
 * The bookies of a cluster as the segment stores of a log. A bookie that is not up is stood in for: its copies are
 * unreachable, not gone (invariant 8), and it counts among the stores that a quorum is checked against.
 */
export class BookieDirectory implements StoreDirectory {
  readonly namedByMetadata: boolean = true
  readonly #parts: BookieDirectoryParts
  readonly #open = new Map<string, OpenBookie>()
  #known: readonly string[]
  readonly #watch: { close(): void }
  /** Clients that are being closed, for bookies that left. */
  readonly #closing = new Set<Promise<void>>()
  #closed = false

  /** Reads once which bookies belong to the cluster. */
  static async open(parts: BookieDirectoryParts): Promise<BookieDirectory> {
    return new BookieDirectory(parts, await parts.bookies.known())
  }

  private constructor(parts: BookieDirectoryParts, known: readonly string[]) {
    this.#parts = parts
    this.#known = known
    this.#watch = parts.bookies.changed(() => this.#changed())
  }

  get(id: string): SegmentStore | null {
    const bookie = this.#parts.bookies.all().find((one) => one.id === id)
    if (bookie !== undefined) return this.#storeOf(bookie)
    return this.#known.includes(id) ? absentBookie(id) : null
  }

  /** Those that belong to the cluster, the absent ones too. */
  all(): readonly SegmentStore[] {
    const up = this.#parts.bookies.all()
    const absent = this.#known.filter((id) => !up.some((bookie) => bookie.id === id))
    return [...up.map((bookie) => this.#storeOf(bookie)), ...absent.map(absentBookie)]
  }

  async writable({ beside = [], group }: PlacementWish = {}): Promise<SegmentStore[]> {
    const { bookies, spread, groupsOf } = this.#parts
    const up = bookies.all()
    const fits = ({ id, host, readOnly }: LiveBookie) =>
      !readOnly && (group === undefined || groupsOf?.(id, host).includes(group) === true)
    const staying = up.filter(({ id }) => beside.includes(id))
    const order = spread(up.filter(fits), staying)
    const kept = group === undefined ? this.#groupsOfAll(staying) : []
    const stays = ({ id, host }: LiveBookie) =>
      groupsOf?.(id, host).some((one) => kept.includes(one)) === true
    // Who recovers a ledger does not know what its writer was to keep to: what its members have in common tells.
    const sorted = kept.length === 0 ? order : [...order.filter(stays), ...order.filter((one) => !stays(one))]
    return sorted.map((bookie) => this.#storeOf(bookie))
  }

  /** Groups that every one of these bookies is in. */
  #groupsOfAll([first, ...others]: readonly LiveBookie[]): readonly string[] {
    const { groupsOf } = this.#parts
    if (first === undefined || groupsOf === undefined) return []
    const all = others.map(({ id, host }) => groupsOf(id, host))
    return groupsOf(first.id, first.host).filter((group) => all.every((groups) => groups.includes(group)))
  }

  get grouped(): boolean {
    return this.#parts.groupsOf !== undefined
  }

  distance(id: string): number {
    const bookie = this.#parts.bookies.all().find((one) => one.id === id)
    // One that is not up has no place: whoever can answer is asked first.
    return bookie === undefined ? FAR : (this.#parts.distance?.(bookie) ?? 0)
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#watch.close()
    for (const { store } of this.#open.values()) this.#end(store)
    this.#open.clear()
    await Promise.all(this.#closing)
  }

  #storeOf(bookie: LiveBookie): SegmentStore {
    if (this.#closed) throw new StratalogError('closed', 'the log is closed')
    const at = `${bookie.host}:${bookie.port}`
    const found = this.#open.get(bookie.id)
    if (found?.at === at) return found.store
    // It came back somewhere else: what is under way there fails, and is taken for unknown.
    if (found !== undefined) this.#end(found.store, leftError(bookie.id))
    const store = this.#parts.open(bookie)
    this.#open.set(bookie.id, { at, store })
    return store
  }

  /** A bookie that left is given up at once: whoever waits for it asks another. One that comes back is connected anew. */
  #changed(): void {
    const up = new Set(this.#parts.bookies.all().map(({ id }) => id))
    for (const [id, { store }] of this.#open) {
      if (up.has(id)) continue
      this.#open.delete(id)
      this.#end(store, leftError(id))
    }
    this.#parts.bookies.known().then(
      (known) => {
        this.#known = known
      },
      (error: unknown) =>
        this.#parts.logger.warn({ err: error }, 'which bookies belong to the cluster could not be read'),
    )
  }

  #end(store: SegmentStore, reason?: StratalogError): void {
    const closing = store
      .close(reason)
      .catch((error: unknown) =>
        this.#parts.logger.warn({ err: error, store: store.id }, 'a bookie could not be left in order'),
      )
      .finally(() => this.#closing.delete(closing))
    this.#closing.add(closing)
  }
}

/** For what is under way at a bookie that left: that one may be back at once, and others may answer. */
function leftError(id: string): StratalogError {
  const why = `bookie ${id} left the cluster, or came back elsewhere: another copy is asked, or it is asked again`
  return new StratalogError('store_unavailable', why, { retryable: true })
}

function absentBookie(id: string): SegmentStore {
  const why = `bookie ${id} is not up: start it, or decommission it if it is lost`
  return absentStore(id, new StratalogError('store_unavailable', why, { retryable: true }), id)
}
