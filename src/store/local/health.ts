import { StratalogError } from '../../model/errors.js'
import type { Clock } from '../../ports/clock.js'
import type { Logger } from '../../ports/logger.js'

const PROBE_MS = 1_000

/**
 * Whether the store takes writes. Poisoned is for ever: after a failed write or sync nobody knows what the
 * disk holds, and a second sync may report success for pages it dropped. Full clears itself (invariant 10).
 */
export class StoreHealth {
  readonly #directory: string
  readonly #clock: Clock
  readonly #logger: Logger
  #poisoned: StratalogError | null = null
  #full: StratalogError | null = null
  #probeMs = 0
  #closed = false

  constructor(directory: string, clock: Clock, logger: Logger) {
    this.#directory = directory
    this.#clock = clock
    this.#logger = logger
  }

  get poisoned(): StratalogError | null {
    return this.#poisoned
  }

  get full(): StratalogError | null {
    return this.#full
  }

  get closed(): boolean {
    return this.#closed
  }

  /** Throws if nothing is accepted any more. */
  checkOpen(): void {
    if (this.#closed) throw this.closedError()
  }

  checkWritable(): void {
    this.checkOpen()
    if (this.#poisoned !== null) throw this.#poisoned
  }

  /** Whether it is time to try for space again. */
  mayProbe(): boolean {
    return this.#clock.monotonicMs() >= this.#probeMs
  }

  /** Throws `store_full` while it is not yet time to try again. */
  checkSpace(): void {
    if (this.#full !== null && !this.mayProbe()) throw this.#full
  }

  closedError(): StratalogError {
    return new StratalogError('closed', `the store in ${this.#directory} is closed`)
  }

  close(): void {
    this.#closed = true
  }

  poison(cause: unknown): StratalogError {
    if (this.#poisoned === null) {
      const why = cause instanceof Error ? cause.message : String(cause)
      this.#poisoned = new StratalogError(
        'store_poisoned',
        `the store in ${this.#directory} takes no more writes: ${why}; what was durable stays readable; ` +
          'check the disk, then restart, or replace the store',
        { cause },
      )
      this.#logger.error({ error: cause, directory: this.#directory }, 'store poisoned')
    }
    return this.#poisoned
  }

  /** Notes that there is no space, until the next attempt at the earliest {@link PROBE_MS} later. */
  noteFull(cause: unknown): StratalogError {
    if (this.#full === null) {
      this.#logger.warn({ error: cause, directory: this.#directory }, 'store full')
    }
    this.#full = new StratalogError(
      'store_full',
      `the store in ${this.#directory} has no space for another file: free disk space or delete ledgers; ` +
        'it goes on by itself',
      { cause, retryable: true },
    )
    this.#probeMs = this.#clock.monotonicMs() + PROBE_MS
    return this.#full
  }

  noteSpace(): void {
    if (this.#full !== null) this.#logger.info({ directory: this.#directory }, 'store has space again')
    this.#full = null
  }
}
