import { StratalogError } from '../../model/errors.js'
import type { Clock } from '../../ports/clock.js'

const WAITERS_MAX = 65_536

interface Waiter {
  readonly above: bigint
  readonly settle: (lac: bigint) => void
  readonly fail: (error: unknown) => void
}

/** Long polls: who waits for the LAC of which ledger. */
export class LacWaiters {
  readonly #clock: Clock
  readonly #byLedger = new Map<bigint, Set<Waiter>>()
  #count = 0

  constructor(clock: Clock) {
    this.#clock = clock
  }

  get count(): number {
    return this.#count
  }

  /** Resolves with the LAC once it is above `above`, or after `timeoutMs` with what `known` says then. */
  wait(
    ledgerId: bigint,
    above: bigint,
    timeoutMs: number,
    signal: AbortSignal | undefined,
    known: () => bigint,
  ): Promise<bigint> {
    if (this.#count >= WAITERS_MAX) {
      const message = `${WAITERS_MAX} readers already wait on this store: poll less`
      return Promise.reject(new StratalogError('backpressure', message, { retryable: true }))
    }
    return new Promise((resolve, reject) => {
      const stop = new AbortController()
      const done = (): void => {
        stop.abort()
        signal?.removeEventListener('abort', aborted)
        this.#remove(ledgerId, waiter)
      }
      const waiter: Waiter = {
        above,
        settle: (lac) => {
          done()
          resolve(lac)
        },
        fail: (error) => {
          done()
          reject(error)
        },
      }
      const aborted = (): void => waiter.fail(signal?.reason)
      // A sleep and not a timer: whoever awaits the answer must keep the process alive.
      this.#clock.sleep(timeoutMs, stop.signal).then(
        () => waiter.settle(known()),
        (error: unknown) => {
          if (!stop.signal.aborted) waiter.fail(error)
        },
      )
      signal?.addEventListener('abort', aborted, { once: true })
      const waiters = this.#byLedger.get(ledgerId) ?? new Set()
      this.#byLedger.set(ledgerId, waiters.add(waiter))
      this.#count += 1
    })
  }

  /** The LAC advanced. */
  advanced(ledgerId: bigint, lac: bigint): void {
    for (const waiter of [...(this.#byLedger.get(ledgerId) ?? [])]) if (lac > waiter.above) waiter.settle(lac)
  }

  /** No later LAC will come. */
  ended(ledgerId: bigint, lac: bigint): void {
    for (const waiter of [...(this.#byLedger.get(ledgerId) ?? [])]) waiter.settle(lac)
  }

  failAll(error: StratalogError): void {
    for (const waiters of [...this.#byLedger.values()]) for (const waiter of [...waiters]) waiter.fail(error)
  }

  #remove(ledgerId: bigint, waiter: Waiter): void {
    const waiters = this.#byLedger.get(ledgerId)
    if (!waiters?.delete(waiter)) return
    this.#count -= 1
    if (waiters.size === 0) this.#byLedger.delete(ledgerId)
  }
}
