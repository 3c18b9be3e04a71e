import { assert } from '../../model/assert.js'
import type { StratalogError } from '../../model/errors.js'
import type { Clock } from '../../ports/clock.js'

/** A LAC that waits for an entry to carry it. */
interface Waiting {
  lac: bigint
  readonly sinceMs: number
  readonly done: Promise<void>
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

/**
 * Publishes LACs that no entry carried within a time. A writer raises its LAC with every entry that is acknowledged, and
 * the next entry carries it anyway: only the last one before a pause needs a message, which costs a bookie as much
 * as an entry.
 */
export class LacPublisher {
  readonly #clock: Clock
  readonly #delayMs: number
  readonly #send: (ledgerId: bigint, lac: bigint) => Promise<void>
  /** By ledger, in the order in which they began to wait. */
  readonly #waiting: Map<bigint, Waiting> = new Map()
  /** Ends the pause before the next messages; null while nobody waits. */
  #pause: AbortController | null = null

  constructor(clock: Clock, delayMs: number, send: (ledgerId: bigint, lac: bigint) => Promise<void>) {
    this.#clock = clock
    this.#delayMs = delayMs
    this.#send = send
  }

  /** Resolves when an entry or a message carried it. */
  publish(ledgerId: bigint, lac: bigint): Promise<void> {
    const waiting = this.#waiting.get(ledgerId)
    if (waiting !== undefined) {
      if (lac > waiting.lac) waiting.lac = lac
      return waiting.done
    }
    let resolve: (() => void) | null = null
    let reject: ((error: unknown) => void) | null = null
    const done = new Promise<void>((onDone, onFailed) => {
      resolve = onDone
      reject = onFailed
    })
    assert(resolve !== null && reject !== null, 'a promise does not call its executor')
    this.#waiting.set(ledgerId, { lac, sinceMs: this.#clock.monotonicMs(), done, resolve, reject })
    this.#arm()
    return done
  }

  /** An entry goes out whose header holds this LAC. */
  carried(ledgerId: bigint, entry: Uint8Array): void {
    if (this.#waiting.size === 0) return
    const waiting = this.#waiting.get(ledgerId)
    if (waiting === undefined) return
    const at = entry.byteOffset + LAC_AT
    const lac = new DataView(entry.buffer, at, 8).getBigInt64(0)
    if (lac < waiting.lac) return
    this.#waiting.delete(ledgerId)
    waiting.resolve()
  }

  /** Nobody publishes any more. */
  stop(error: StratalogError): void {
    this.#pause?.abort(error)
    for (const { reject } of this.#waiting.values()) reject(error)
    this.#waiting.clear()
  }

  #arm(): void {
    if (this.#pause !== null || this.#waiting.size === 0) return
    this.#pause = new AbortController()
    // A sleep, not a timer: who awaits the message keeps the process alive until it is sent.
    this.#clock.sleep(this.#delayMs, this.#pause.signal).then(
      () => {
        this.#pause = null
        this.#sendDue(this.#clock.monotonicMs() - this.#delayMs)
        this.#arm()
      },
      () => {
        this.#pause = null
      },
    )
  }

  #sendDue(sinceMs: number): void {
    for (const [ledgerId, waiting] of this.#waiting) {
      // Timers count whole milliseconds, the clock does not: what began in this one is due.
      if (waiting.sinceMs > sinceMs + 1) break
      this.#waiting.delete(ledgerId)
      this.#send(ledgerId, waiting.lac).then(waiting.resolve, waiting.reject)
    }
  }
}

/** Where an entry's header has the LAC (FORMATS.md §2.2). */
const LAC_AT = 16
