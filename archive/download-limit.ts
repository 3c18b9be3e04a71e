import type { Clock } from '../src/ports/clock.js'

/** How long one request stands back for appends at most: who waits for its bytes, and who does not. */
const URGENT_MS_MAX = 20
const AHEAD_MS_MAX = 250
/** How often it looks whether they still wait. */
const LOOK_MS = 5

/** Keeps the cold reads of a stream to a rate in bytes a second: all of them go through one of these. */
export class DownloadLimit {
  readonly #clock: Clock
  readonly #bytesPerSecond: () => number | null
  /** Monotonic time at which all that was taken so far has been worked off. */
  #paidMs = 0

  /** `bytesPerSecond` is asked each time; null: no limit. */
  constructor(clock: Clock, bytesPerSecond: () => number | null) {
    this.#clock = clock
    this.#bytesPerSecond = bytesPerSecond
  }

  /** Waits until what was taken before is worked off, then takes these bytes. Rejects with `signal.reason`. */
  async take(sizeBytes: number, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted()
    const rate = this.#bytesPerSecond()
    if (rate === null) return
    const nowMs = this.#clock.monotonicMs()
    const waitMs = this.#paidMs - nowMs
    this.#paidMs = Math.max(nowMs, this.#paidMs) + (sizeBytes * 1_000) / rate
    if (waitMs > 0) await this.#clock.sleep(waitMs, signal)
  }
}

/**
 * Lets appends go first: while some wait for their stores, a request to the archive is held back for a moment. Within a
 * bound, so that steady appends slow cold reads down and never stop them.
 */
export class WriterCourtesy {
  stoodBack = 0
  stoodBackMs = 0
  readonly #clock: Clock
  readonly #appendsWait: () => boolean

  constructor(clock: Clock, appendsWait: () => boolean) {
    this.#clock = clock
    this.#appendsWait = appendsWait
  }

  /** Rejects with `signal.reason` when aborted. */
  async standBack(urgent: boolean, signal: AbortSignal): Promise<void> {
    if (!this.#appendsWait()) return
    const beganMs = this.#clock.monotonicMs()
    const untilMs = beganMs + (urgent ? URGENT_MS_MAX : AHEAD_MS_MAX)
    this.stoodBack += 1
    do await this.#clock.sleep(LOOK_MS, signal)
    while (this.#clock.monotonicMs() < untilMs && this.#appendsWait())
    this.stoodBackMs += this.#clock.monotonicMs() - beganMs
  }
}
