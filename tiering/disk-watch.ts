import { roomWanted } from '../src/ledger/store-room.js'
import type { Clock } from '../src/ports/clock.js'
import type { Logger } from '../src/ports/logger.js'
import type { SegmentStore, StoreStatus } from '../src/ports/segment-store.js'

/** A look counts for this long. */
const LOOK_MS = 1_000
/** Samples a forecast goes by: one each so often, so many of them. */
const SAMPLE_MS = 10_000
const SAMPLES_MAX = 60
/** A rate is told from samples that lie this far apart: stores take space a file at a time. */
const RATE_MS_MIN = 20_000
const GIB = 2 ** 30

/** Room left above what appends need: below it writers are slowed, or data is dropped, while the archive is down. */
const SLOW_SHARE = 0.2
const SLOW_BYTES_MAX = 64 * GIB
const DROP_SHARE = 0.1
const DROP_BYTES_MAX = 32 * GIB

/** What is to be expected of a store. */
export interface StoreForecast {
  readonly id: string
  readonly location: string
  readonly freeBytes: number
  readonly totalBytes: number
  /** What its disk loses a second, measured; below zero it gains. Null: not measured long enough. */
  readonly bytesPerSecond: number | null
  /** Until appends are refused for want of room; null: not measured, or not in sight. */
  readonly fullInMs: number | null
}

interface Sample {
  readonly atMs: number
  readonly freeBytes: number
}

/**
 * Looks at the room on the disks now and then: how fast it goes, and how much is left before writers are slowed, data
 * is dropped, appends are refused. Advice only; what does not answer says nothing.
 */
export class DiskWatch {
  readonly #stores: { all(): readonly SegmentStore[] }
  readonly #clock: Clock
  readonly #logger: Logger
  #statuses: readonly StoreStatus[] = []
  readonly #samples = new Map<string, Sample[]>()
  #lookedMs = Number.NEGATIVE_INFINITY
  #looking: Promise<void> | null = null

  constructor(stores: { all(): readonly SegmentStore[] }, clock: Clock, logger: Logger) {
    this.#stores = stores
    this.#clock = clock
    this.#logger = logger
  }

  /** Looks again if the last look is old; never rejects. Stores that hang hold up this look alone. */
  look(): Promise<void> {
    if (this.#clock.monotonicMs() - this.#lookedMs < LOOK_MS) return Promise.resolve()
    this.#looking ??= this.#look().finally(() => {
      this.#looking = null
    })
    return this.#looking
  }

  /** Whether room has been looked at, and not too long ago to be gone by. */
  get known(): boolean {
    return this.#clock.monotonicMs() - this.#lookedMs < 10 * LOOK_MS
  }

  /** 1 while there is room enough, 0 where appends are about to be refused: for ledgers on `storesNeeded` stores. */
  slowRoom(storesNeeded: number): number {
    const shares = this.#statuses.map((status) => roomAbove(status) / slowBelow(status))
    return Math.max(0, Math.min(1, nthBest(shares, storesNeeded) ?? 1))
  }

  /** Bytes that are to be freed on the store that is `storesNeeded`-th in room; 0: none are. */
  shortBytes(storesNeeded: number): number {
    const lacking = this.#statuses.map((status) => roomAbove(status) - dropBelow(status))
    return Math.max(0, -(nthBest(lacking, storesNeeded) ?? 0))
  }

  forecasts(): StoreForecast[] {
    return this.#statuses.map((status) => {
      const { id, location, freeBytes, totalBytes } = status
      const bytesPerSecond = this.#rateOf(id)
      const fullInMs =
        bytesPerSecond === null || bytesPerSecond <= 0
          ? null
          : Math.round((Math.max(0, roomAbove(status)) / bytesPerSecond) * 1_000)
      return { id, location, freeBytes, totalBytes, bytesPerSecond, fullInMs }
    })
  }

  async #look(): Promise<void> {
    const statuses = await Promise.all(
      this.#stores.all().map((store) =>
        store.status().catch((error: unknown) => {
          this.#logger.debug({ err: error, store: store.id }, 'a store does not say how much room it has')
          return null
        }),
      ),
    )
    this.#lookedMs = this.#clock.monotonicMs()
    // A store that can't be written has no room to give or take.
    this.#statuses = statuses.filter(
      (one) => one?.state === 'writable' || one?.state === 'full',
    ) as StoreStatus[]
    for (const { id, freeBytes } of this.#statuses) this.#sample(id, freeBytes)
  }

  #sample(id: string, freeBytes: number): void {
    const samples = this.#samples.get(id) ?? []
    const last = samples.at(-1)
    if (last !== undefined && this.#lookedMs - last.atMs < SAMPLE_MS) return
    this.#samples.set(id, [...samples.slice(1 - SAMPLES_MAX), { atMs: this.#lookedMs, freeBytes }])
  }

  #rateOf(id: string): number | null {
    const samples = this.#samples.get(id) ?? []
    const [first] = samples
    const last = samples.at(-1)
    if (first === undefined || last === undefined || last.atMs - first.atMs < RATE_MS_MIN) return null
    return ((first.freeBytes - last.freeBytes) * 1_000) / (last.atMs - first.atMs)
  }
}

/** Free bytes above those that appends need; a full store has none. */
function roomAbove(status: StoreStatus): number {
  return status.state === 'full' ? 0 : status.freeBytes - roomWanted(status)
}

function slowBelow({ totalBytes }: StoreStatus): number {
  return Math.max(1, Math.min(SLOW_BYTES_MAX, SLOW_SHARE * totalBytes))
}

function dropBelow({ totalBytes }: StoreStatus): number {
  return Math.min(DROP_BYTES_MAX, DROP_SHARE * totalBytes)
}

/**
 * The value that `count` stores reach at least, or all there are: a log goes on without a store that is lost, and the
 * others must not fill up because of it. Null: there are none.
 */
function nthBest(values: readonly number[], count: number): number | null {
  const place = Math.min(values.length, Math.max(1, count)) - 1
  return [...values].sort((a, b) => b - a)[place] ?? null
}
