import type { Clock } from '../../src/ports/clock.js'

/** Requests that answered "too much" at about the same time are one sign, not many. */
const ONE_SIGN_MS = 1_000

interface Waiting {
  readonly enter: () => void
}

/**
 * How many requests are under way at once: halved where the store says that it has too much to do, one more after
 * about as many successes as there are requests under way. Who waits is served in order.
 */
export class ConcurrencyLimit {
  readonly #max: number
  readonly #clock: Clock
  #allowed: number
  #underWay = 0
  #waiting: Waiting[] = []
  #sunkMs = Number.NEGATIVE_INFINITY

  constructor(max: number, clock: Clock) {
    this.#max = max
    this.#clock = clock
    this.#allowed = max
  }

  /** Requests allowed side by side now. */
  get allowed(): number {
    return Math.max(1, Math.floor(this.#allowed))
  }

  /** Runs `work` when it may; rejects with the signal's reason while it waits. */
  async with<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    await this.#enter(signal)
    try {
      return await work()
    } finally {
      this.#underWay -= 1
      this.#admit()
    }
  }

  /** A request was answered as it should be. */
  succeeded(): void {
    this.#allowed = Math.min(this.#max, this.#allowed + 1 / this.#allowed)
    this.#admit()
  }

  /** The store said that it has too much to do. */
  overloaded(): void {
    const nowMs = this.#clock.monotonicMs()
    if (nowMs - this.#sunkMs < ONE_SIGN_MS) return
    this.#sunkMs = nowMs
    this.#allowed = Math.max(1, this.#allowed / 2)
  }

  async #enter(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted()
    if (this.#waiting.length === 0 && this.#underWay < this.allowed) {
      this.#underWay += 1
      return
    }
    await new Promise<void>((resolve, reject) => {
      const abandon = () => {
        this.#waiting = this.#waiting.filter((one) => one !== waiting)
        reject(signal.reason)
      }
      const waiting = {
        enter: () => {
          signal.removeEventListener('abort', abandon)
          resolve()
        },
      }
      this.#waiting.push(waiting)
      signal.addEventListener('abort', abandon, { once: true })
    })
  }

  #admit(): void {
    while (this.#underWay < this.allowed) {
      const next = this.#waiting.shift()
      if (next === undefined) return
      this.#underWay += 1
      next.enter()
    }
  }
}
