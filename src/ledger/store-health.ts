import { StratalogError } from '../model/errors.js'
import type { Clock } from '../ports/clock.js'
import type { Logger } from '../ports/logger.js'
import type { SegmentStore } from '../ports/segment-store.js'
import { RoomLine } from './room-line.js'

/** How long a store is left out of new ensembles: doubled each time it fails soon after it came back. */
const REST_MS = 5_000
const REST_MS_MAX = 300_000
/** A store is compared with its peers each time it has answered this many adds. */
const SAMPLES = 64
/** Slow is who takes this many times as long as the typical peer, and so long that it matters. */
const SLOW_FACTOR = 4
const SLOW_MS_MIN = 20
/** Weight of one answer in the running mean. */
const WEIGHT = 1 / 16

/** How far a store has come with the adds that were sent to it, by whatever ledger, and who waits for room there. */
export class StoreProgress {
  readonly room: RoomLine = new RoomLine()
  /** When it last made an entry durable. */
  #answeredMs = Number.NEGATIVE_INFINITY
  /** When the latest of these was sent. */
  #reachedMs = Number.NEGATIVE_INFINITY

  /** It made an entry durable. */
  answered(sentMs: number, nowMs: number): void {
    this.#answeredMs = nowMs
    if (sentMs > this.#reachedMs) this.#reachedMs = sentMs
  }

  /** Whether it has done nothing for as long, in which an entry waited for it. */
  standsStill(sentMs: number, nowMs: number, timeoutMs: number): boolean {
    return nowMs - sentMs >= timeoutMs && nowMs - this.#answeredMs >= timeoutMs
  }

  /**
   * Whether an entry that it was given won't come any more: it stands still, or has passed over it for what was sent as
   * much later. An entry that waits its turn in a long queue is not hung.
   */
  hung(sentMs: number, nowMs: number, timeoutMs: number): boolean {
    if (nowMs - sentMs < timeoutMs) return false
    return this.standsStill(sentMs, nowMs, timeoutMs) || this.#reachedMs - sentMs >= timeoutMs
  }
}

interface Condition {
  readonly progress: StoreProgress
  latencyMs: number
  samples: number
  restMs: number
  restUntilMs: number
  owedBytes: number
}

/**
 * What writers learn about stores while they use them: which ones fail, hang, lag or are slow against their peers.
 * Such a store rests: new ensembles and replacements prefer others, and after a while it is tried again. It is advice
 * about order only, shared by all ledgers of a process; nothing is acknowledged or lost by it.
 */
export class StoreHealth {
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #conditions = new Map<string, Condition>()

  constructor(clock: Clock, logger: Logger) {
    this.#clock = clock
    this.#logger = logger
  }

  /** A ledger had to go on without the store. */
  failed(id: string, reason: StratalogError): void {
    const condition = this.#condition(id)
    const nowMs = this.#clock.monotonicMs()
    // All ledgers on a store notice one outage: it counts once.
    if (nowMs < condition.restUntilMs) return
    // One that worked for as long as it had rested begins anew.
    const relapsed = nowMs < condition.restUntilMs + condition.restMs
    condition.restMs = relapsed ? Math.min(REST_MS_MAX, 2 * condition.restMs) : REST_MS
    condition.restUntilMs = nowMs + condition.restMs
    // What it was like before says nothing about what it is like when it is back.
    condition.samples = 0
    this.#logger.info(
      { err: reason, store: id, restMs: condition.restMs },
      'a store rests: new ledgers prefer others',
    )
  }

  /** What all ledgers of the process know of a store's progress. */
  progress(id: string): StoreProgress {
    return this.#condition(id).progress
  }

  /** The store made an entry durable. */
  answered(id: string, latencyMs: number): void {
    const condition = this.#condition(id)
    const weight = Math.max(WEIGHT, 1 / (condition.samples + 1))
    condition.latencyMs += (latencyMs - condition.latencyMs) * weight
    condition.samples += 1
    if (condition.samples % SAMPLES === 0) this.#compare(id, condition)
  }

  /** A ledger sent so many bytes to the store, or, below 0, need not hold them any more. */
  owes(id: string, bytes: number): void {
    this.#condition(id).owedBytes += bytes
  }

  /** Payload bytes that all ledgers together, closed ones too, sent to the store and it has not answered. */
  owedBytes(id: string): number {
    return this.#conditions.get(id)?.owedBytes ?? 0
  }

  /** The stores in their order, but those that rest apart, the one that comes back first at the head. */
  sorted(stores: readonly SegmentStore[]): { fit: SegmentStore[]; resting: SegmentStore[] } {
    const nowMs = this.#clock.monotonicMs()
    const until = (store: SegmentStore) => this.#conditions.get(store.id)?.restUntilMs ?? 0
    return {
      fit: stores.filter((store) => until(store) <= nowMs),
      resting: stores.filter((store) => until(store) > nowMs).sort((a, b) => until(a) - until(b)),
    }
  }

  #compare(id: string, condition: Condition): void {
    const peers = [...this.#conditions]
      .flatMap(([other, { latencyMs, samples }]) => (other !== id && samples >= SAMPLES ? [latencyMs] : []))
      .sort((a, b) => a - b)
    const typicalMs = peers[Math.floor(peers.length / 2)]
    if (typicalMs === undefined) return
    if (condition.latencyMs < SLOW_MS_MIN || condition.latencyMs < SLOW_FACTOR * typicalMs) return
    const took = `${Math.round(condition.latencyMs)} ms for an entry, others ${Math.round(typicalMs)} ms`
    this.failed(id, new StratalogError('timeout', `segment store ${id} takes ${took}`, { retryable: true }))
  }

  #condition(id: string): Condition {
    let condition = this.#conditions.get(id)
    if (condition === undefined) {
      condition = {
        progress: new StoreProgress(),
        latencyMs: 0,
        samples: 0,
        restMs: 0,
        restUntilMs: Number.NEGATIVE_INFINITY,
        owedBytes: 0,
      }
      this.#conditions.set(id, condition)
    }
    return condition
  }
}
