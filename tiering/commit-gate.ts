import type { Clock, Timer } from '../src/ports/clock.js'

/** A copy that is ready to be committed waits so long for others at most. */
const WAIT_MS_MAX = 25
/** The copy of a larger segment took so long itself that waiting gains nothing. */
const SMALL_BYTES_MAX = 4 * 1024 * 1024

interface Waiting {
  readonly pass: () => void
}

/**
 * Lets copies of small segments be committed together. A commit is a sync that the whole process waits for, and takes as
 * long as it takes to copy a hundred kilobytes: of a thousand small segments it was a quarter of the time. So one that
 * is ready waits until as many are as are still being copied, and then all of them go on in one turn.
 *
 * Nobody waits for a copy that waits for something else than its own work: where nothing is being copied, or one other
 * is, there is no wait at all.
 */
export class CommitGate {
  readonly #clock: Clock
  /** Copies that are being stored or read back. */
  #copying = 0
  #waiting: Waiting[] = []
  #timer: Timer | null = null

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Counts `work` among what may be waited for, until it calls `ready` or ends. */
  async during<T>(work: (ready: () => void) => Promise<T>): Promise<T> {
    let counted = true
    const ready = () => {
      if (!counted) return
      counted = false
      this.#copying -= 1
      this.#openWhenMany()
    }
    this.#copying += 1
    try {
      return await work(ready)
    } finally {
      ready()
    }
  }

  /** Resolves when the commit of a copied segment of so many bytes may begin. Rejects with the signal's reason. */
  async pass(lengthBytes: number, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted()
    await new Promise<void>((resolve, reject) => {
      const abandon = () => {
        this.#waiting = this.#waiting.filter((one) => one !== waiting)
        reject(signal.reason)
      }
      const pass = () => {
        signal.removeEventListener('abort', abandon)
        resolve()
      }
      const waiting = { pass }
      signal.addEventListener('abort', abandon, { once: true })
      this.#waiting.push(waiting)
      // A large one takes those along that wait.
      if (lengthBytes > SMALL_BYTES_MAX) this.#open()
      else this.#openWhenMany()
    })
  }

  #openWhenMany(): void {
    if (this.#waiting.length >= this.#copying) this.#open()
    else if (this.#waiting.length > 0) this.#timer ??= this.#clock.setTimer(WAIT_MS_MAX, () => this.#open())
  }

  #open(): void {
    this.#timer?.cancel()
    this.#timer = null
    for (const { pass } of this.#waiting.splice(0)) pass()
  }
}
