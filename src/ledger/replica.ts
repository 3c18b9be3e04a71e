import type { PackagedEntry } from '../format/packaged-entry.js'
import type { StratalogError } from '../model/errors.js'
import type { Clock } from '../ports/clock.js'
import type { SegmentStore } from '../ports/segment-store.js'
import { AddSender } from './add-sender.js'
import type { StoreHealth } from './store-health.js'

/** How long a store may take for an add before the writer goes on without it. */
export const ADD_TIMEOUT_MS: number = 30_000

/**
 * One store at one place of a ledger's ensemble, and what it owes the ledger. A store that replaces another is a new
 * replica at the same place, so that late answers of the old one are told apart.
 */
export class Replica {
  readonly store: SegmentStore
  readonly index: number
  readonly #sender: AddSender
  readonly #clock: Clock
  readonly #health: StoreHealth | undefined
  /** Entries it has not answered, with the time they were sent; the oldest is the first. */
  readonly #unanswered = new Map<bigint, number>()
  #owedBytes = 0
  #out: StratalogError | null = null

  constructor(
    store: SegmentStore,
    index: number,
    ledgerId: bigint,
    clock: Clock,
    health: StoreHealth | undefined,
  ) {
    this.store = store
    this.index = index
    this.#clock = clock
    this.#health = health
    this.#sender = new AddSender(store, ledgerId, clock, ADD_TIMEOUT_MS)
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
    return this.#unanswered.size
  }

  /** How long the oldest entry has waited for its answer; 0: none waits. */
  waitedMs(): number {
    for (const sentMs of this.#unanswered.values()) return this.#clock.monotonicMs() - sentMs
    return 0
  }

  /** Settles as AddSender's `send`. */
  async send(entryId: bigint, entry: PackagedEntry, payloadBytes: number): Promise<void> {
    const sentMs = this.#clock.monotonicMs()
    this.#unanswered.set(entryId, sentMs)
    this.#owedBytes += payloadBytes
    try {
      await this.#sender.send(entryId, entry)
      this.#health?.answered(this.store.id, this.#clock.monotonicMs() - sentMs)
    } finally {
      this.#unanswered.delete(entryId)
      this.#owedBytes -= payloadBytes
    }
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
}
