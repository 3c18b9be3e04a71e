import type { Clock } from '../src/ports/clock.js'

/** Keeps work to a rate in bytes a second, whoever does it: all of it goes through one of these. */
export class Pace {
  readonly #clock: Clock
  readonly #bytesPerSecond: () => number | null
  readonly #pause: (delayMs: number, signal?: AbortSignal) => Promise<void>
  /** Monotonic time at which all that was taken so far has been worked off. */
  #paidMs = 0

  /**
   * `bytesPerSecond` is asked each time; null: as fast as it goes. `awaited`: somebody may wait for the work, so its
   * pauses keep the process alive; a run by hand would end in the middle of a copy otherwise.
   */
  constructor(clock: Clock, bytesPerSecond: () => number | null, awaited = false) {
    this.#clock = clock
    this.#bytesPerSecond = bytesPerSecond
    this.#pause = (delayMs, signal) =>
      awaited ? clock.sleep(delayMs, signal) : pause(clock, delayMs, signal)
  }

  /** Waits until earlier work is worked off, then takes these bytes. Rejects with `signal.reason` when aborted. */
  async take(sizeBytes: number, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted()
    const rate = this.#bytesPerSecond()
    if (rate === null || sizeBytes === 0) return
    const nowMs = this.#clock.monotonicMs()
    const waitMs = this.#paidMs - nowMs
    this.#paidMs = Math.max(nowMs, this.#paidMs) + (sizeBytes * 1_000) / rate
    if (waitMs > 0) await this.#pause(waitMs, signal)
  }
}

/** Like `Clock.sleep`, but does not keep the process alive: for work in the background that a restart goes on with. */
export function pause(clock: Clock, delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(signal.reason)
      return
    }
    const timer = clock.setTimer(delayMs, () => {
      signal?.removeEventListener('abort', aborted)
      resolve()
    })
    function aborted(): void {
      timer.cancel()
      reject(signal?.reason)
    }
    signal?.addEventListener('abort', aborted, { once: true })
  })
}
