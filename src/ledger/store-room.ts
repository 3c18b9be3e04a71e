import { StratalogError } from '../model/errors.js'
import type { Clock } from '../ports/clock.js'
import type { Logger } from '../ports/logger.js'
import type { SegmentStore, StoreStatus } from '../ports/segment-store.js'

/** How often stores are asked how much room they have, while there are appends. */
const LOOK_MS = 1_000
/** A store has room while so much of its disk is free: more than what is on its way and what comes until the next look. */
const ROOM_BYTES = 256 * 2 ** 20
/** Of a small disk only this share has to be free. */
const ROOM_SHARE = 1 / 20

/**
 * Whether the disks have room for what is appended, looked at before anything is taken: a record that is refused while
 * its disks are nearly full is known not to be in the log, and what was taken before still finds room. A store that
 * is full all at once fails its ledgers instead. Advice only: nothing is acknowledged or lost by it (invariant 10).
 */
export class StoreRoom {
  readonly #stores: { all(): readonly SegmentStore[] }
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #statuses = new Map<string, StoreStatus>()
  /** Stores that have not answered the last look. */
  readonly #asked = new Set<string>()
  #lookedMs = Number.NEGATIVE_INFINITY
  #tight = false

  constructor(stores: { all(): readonly SegmentStore[] }, clock: Clock, logger: Logger) {
    this.#stores = stores
    this.#clock = clock
    this.#logger = logger
  }

  /** Looks again if the last look is old. The answers count from when they come. */
  look(): void {
    const nowMs = this.#clock.monotonicMs()
    if (nowMs - this.#lookedMs < LOOK_MS) return
    this.#lookedMs = nowMs
    for (const store of this.#stores.all()) void this.#ask(store)
  }

  /** Why nothing is taken for ledgers on at least `min` stores, asked only if need be; null: enough have room. */
  refusal(min: () => number): StratalogError | null {
    if (!this.#tight) return null
    this.look()
    const storesMin = min()
    const known = this.#stores.all().flatMap(({ id }) => this.#statuses.get(id) ?? [])
    const tight = known.filter(isTight)
    const roomy = known.filter((status) => status.state === 'writable' && !isTight(status)).length
    // With too few stores for another reason room would not help: whoever begins a ledger then says what is wrong.
    if (roomy >= storesMin || roomy + tight.length < storesMin) return null
    const where = tight.map(
      ({ location, freeBytes }) => `${location} (${Math.round(freeBytes / 2 ** 20)} MiB free)`,
    )
    return new StratalogError(
      'store_full',
      `too few disks have room: ${where.join(', ')}; nothing is appended until there is more, and what was taken is written; free disk space or let segments go to the archive`,
      { retryable: true, expected: storesMin, found: roomy },
    )
  }

  async #ask(store: SegmentStore): Promise<void> {
    const { id } = store
    if (this.#asked.has(id)) {
      // One that does not answer says nothing about its room, and is not asked twice.
      this.#note(id, null)
      return
    }
    this.#asked.add(id)
    try {
      this.#note(id, await store.status())
    } catch (error) {
      this.#logger.debug({ err: error, store: id }, 'a store does not say how much room it has')
      this.#note(id, null)
    } finally {
      this.#asked.delete(id)
    }
  }

  #note(id: string, status: StoreStatus | null): void {
    if (status === null) this.#statuses.delete(id)
    else this.#statuses.set(id, status)
    this.#tight = [...this.#statuses.values()].some(isTight)
  }
}

function isTight({ state, freeBytes, totalBytes }: StoreStatus): boolean {
  if (state === 'full') return true
  return state === 'writable' && freeBytes < roomWanted({ totalBytes })
}

/** Free bytes below which a disk takes no more appends. */
export function roomWanted({ totalBytes }: Pick<StoreStatus, 'totalBytes'>): number {
  return Math.min(ROOM_BYTES, ROOM_SHARE * totalBytes)
}
