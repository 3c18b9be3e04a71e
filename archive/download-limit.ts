import type { Clock } from '../src/ports/clock.js'

/** How long one request stands back for appends at most: who waits for its bytes, and who does not. */
const URGENT_MS_MAX = 20
const AHEAD_MS_MAX = 250
/** How often it looks whether they still wait. */
const LOOK_MS = 5
/** How long a rate that was raised may go unnoticed. */
const RATE_LOOK_MS_MAX = 1_000
/** Timers fire late: so much of a limit that went unused may be made up for. */
const LATE_MS = 20

/** Keeps the cold reads of a stream to a rate in bytes a second: all of them go through one of these. */
export class DownloadLimit {
  readonly #clock: Clock
  readonly #bytesPerSecond: () => number | null
  /** Bytes taken and not worked off yet, as of `#sinceMs`. Bytes, not time: a rate that is raised shortens the wait. */
  #owedBytes = 0
  #sinceMs: number

  /** `bytesPerSecond` is asked each time; null: no limit. */
  constructor(clock: Clock, bytesPerSecond: () => number | null) {
    this.#clock = clock
    this.#bytesPerSecond = bytesPerSecond
    this.#sinceMs = clock.monotonicMs()
  }

  /**
   * Waits until what was taken before is worked off, then takes these bytes. Rejects with `signal.reason`, and then has
   * taken nothing: what readers give up must not be paid for by those who read on.
   */
  async take(sizeBytes: number, signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted()
      const rate = this.#bytesPerSecond()
      if (rate === null) return
      const nowMs = this.#clock.monotonicMs()
      const worked = this.#owedBytes - (rate * (nowMs - this.#sinceMs)) / 1_000
      this.#owedBytes = Math.max((-rate * LATE_MS) / 1_000, worked)
      this.#sinceMs = nowMs
      if (this.#owedBytes <= 0) {
        this.#owedBytes += sizeBytes
        return
      }
      // At least a millisecond: a rest smaller than what a timer resolves would be asked for again and again.
      const waitMs = Math.max(1, (this.#owedBytes * 1_000) / rate)
      await this.#clock.sleep(Math.min(waitMs, RATE_LOOK_MS_MAX), signal)
    }
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
