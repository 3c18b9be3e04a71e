import type { Clock } from '../src/ports/clock.js'

/** While appends wait, copies rest this many times as long as they worked. */
const REST_PER_WORK = 4
/** Work between two rests counts at most so much: waiting for a slow archive is none. */
const WORK_MS_MAX = 25
/** One rest at most. A copy goes on however long appends wait, at a fifth of the time at the least. */
const REST_MS_MAX = 100
/** How often a copy that rests looks whether appends still wait. */
const LOOK_MS = 5

/**
 * Lets appends go before copies. Compressing and hashing a block takes the thread that appends need for milliseconds,
 * so writers flat out beside copies flat out were three times as slow as alone. Copies have hours, writers wait now.
 */
export class CopyCourtesy {
  readonly #clock: Clock
  readonly #appendsWait: () => boolean
  /** When what all copies worked so far has been rested for. */
  #restedMs = 0

  constructor(clock: Clock, appendsWait: () => boolean) {
    this.#clock = clock
    this.#appendsWait = appendsWait
  }

  /** One copy's turns: to be awaited between blocks. Rejects with `signal.reason` when aborted. */
  turns(signal?: AbortSignal): () => Promise<void> {
    let sinceMs = this.#clock.monotonicMs()
    return async () => {
      const nowMs = this.#clock.monotonicMs()
      const workedMs = Math.min(nowMs - sinceMs, WORK_MS_MAX)
      this.#restedMs = Math.max(this.#restedMs, nowMs) + workedMs * REST_PER_WORK
      const untilMs = Math.min(this.#restedMs, nowMs + REST_MS_MAX)
      while (this.#appendsWait() && this.#clock.monotonicMs() < untilMs)
        await this.#clock.sleep(Math.min(LOOK_MS, untilMs - this.#clock.monotonicMs()), signal)
      if (!this.#appendsWait()) this.#restedMs = 0
      sinceMs = this.#clock.monotonicMs()
    }
  }
}
