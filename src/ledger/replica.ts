import { StratalogError } from '../model/errors.js'
import type { Clock } from '../ports/clock.js'
import type { SegmentStore } from '../ports/segment-store.js'
import type { PendingAdd } from './add-queue.js'
import { AddSender } from './add-sender.js'
import { type StoreHealth, StoreProgress } from './store-health.js'

/** How long a store may make no progress with adds before the writer goes on without it. */
export const ADD_TIMEOUT_MS: number = 30_000

/** What a replica tells its ledger. */
export interface ReplicaEvents {
  /** The entry is durable there. */
  stored(replica: Replica, add: PendingAdd): void
  /** An add failed; also told of a replica that is out already. */
  failed(replica: Replica, error: StratalogError): void
}

/**
 * One store at one place of a ledger's ensemble, and what it owes the ledger. A store that replaces another is a new
 * replica at the same place, so that late answers of the old one are told apart.
 */
export class Replica {
  readonly store: SegmentStore
  readonly index: number
  readonly #events: ReplicaEvents
  readonly #clock: Clock
  readonly #health: StoreHealth | undefined
  readonly #progress: StoreProgress
  readonly #sender: AddSender
  readonly #sinceMs: number
  /** Entries it has not answered, in the order they were sent. */
  readonly #owed: PendingAdd[] = []
  #owedBytes = 0
  #lookedHung = false
  #out: StratalogError | null = null

  constructor(
    store: SegmentStore,
    index: number,
    ledgerId: bigint,
    context: { readonly clock: Clock; readonly health?: StoreHealth },
    events: ReplicaEvents,
  ) {
    this.store = store
    this.index = index
    this.#events = events
    this.#clock = context.clock
    this.#health = context.health
    this.#progress = context.health?.progress(store.id) ?? new StoreProgress()
    this.#sinceMs = context.clock.monotonicMs()
    this.#sender = new AddSender(store, ledgerId, context.clock, this.#progress.room, {
      stored: (add) => this.#stored(add),
      failed: (add, error) => this.#failed(add, error),
    })
  }

  /** Why the ledger goes on without it; null while it is part of the ensemble. */
  get out(): StratalogError | null {
    return this.#out
  }

  /** Payload bytes sent to it that it has not answered. */
  get owedBytes(): number {
    return this.#owedBytes
  }

  /** Entries sent to it that it has not answered. */
  get owedEntries(): number {
    return this.#owed.length
  }

  /**
   * Whether it owes an entry and there is no hope that it comes: found by two looks one after the other, for a process
   * that was stopped or busy wakes up with answers it has not heard yet.
   */
  looksHung(): boolean {
    const before = this.#lookedHung
    this.#lookedHung = this.#getsNowhere()
    return before && this.#lookedHung
  }

  /** A store with much to do may take its time: what counts is whether it gets on, with this ledger or another. */
  #getsNowhere(): boolean {
    const oldest = this.#owed[0]
    if (oldest === undefined) return false
    const nowMs = this.#clock.monotonicMs()
    if (this.#sender.holdsBack) return this.#progress.standsStill(this.#sentMs(oldest), nowMs, ADD_TIMEOUT_MS)
    return this.#progress.hung(this.#sentMs(oldest), nowMs, ADD_TIMEOUT_MS)
  }

  /** Sends an entry, and tells the ledger what became of it. */
  send(add: PendingAdd): void {
    this.#owed.push(add)
    this.#owedBytes += add.payloadBytes
    this.#health?.owes(this.store.id, add.payloadBytes)
    add.lend()
    this.#sender.send(add)
  }

  /** Resolves when nothing waits to be sent to it again. */
  idle(): Promise<void> {
    return this.#sender.idle()
  }

  /** The ledger goes on without it. Its answers count no more, also those that are on their way. */
  putOut(error: StratalogError): void {
    if (this.#out !== null) return
    this.#out = error
    this.#sender.stop(error)
    this.#health?.failed(this.store.id, error)
  }

  /** The ledger has ended for another reason than this store. */
  stop(error: StratalogError): void {
    this.#sender.stop(error)
  }

  #stored(add: PendingAdd): void {
    if (!this.#settled(add)) return
    const sentMs = this.#sentMs(add)
    const nowMs = this.#clock.monotonicMs()
    this.#progress.answered(sentMs, nowMs)
    this.#health?.answered(this.store.id, nowMs - sentMs)
    this.#events.stored(this, add)
    add.giveBack()
  }

  #failed(add: PendingAdd, error: unknown): void {
    this.#settled(add)
    this.#events.failed(this, asError(error, this.store))
  }

  /** An entry that was pending when the store came into the ensemble was sent to it then. */
  #sentMs(add: PendingAdd): number {
    return Math.max(add.sentMs, this.#sinceMs)
  }

  /** False: it was given up already, and this answer is late. */
  #settled(add: PendingAdd): boolean {
    // Nearly always the first: stores answer in order.
    const at = this.#owed[0] === add ? 0 : this.#owed.indexOf(add)
    if (at < 0) return false
    if (at === 0) this.#owed.shift()
    else this.#owed.splice(at, 1)
    this.#owedBytes -= add.payloadBytes
    this.#health?.owes(this.store.id, -add.payloadBytes)
    return true
  }
}

/** What a store's failure is called; one that a store must not make is its own sort. */
export function asError(error: unknown, store: SegmentStore): StratalogError {
  if (error instanceof StratalogError) return error
  return new StratalogError('store_unavailable', `segment store ${store.id} failed: ${String(error)}`, {
    cause: error,
    retryable: true,
  })
}
