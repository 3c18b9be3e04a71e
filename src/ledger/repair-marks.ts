import type { Logger } from '../ports/logger.js'
import type { DamagedCopy } from './context.js'
import type { ReadRepairs } from './repair-queue.js'

/** Ledgers that were asked for and are not asked for again by this process; more than these are left to the auditor. */
const MARKED_MAX = 10_000

/** Asks whoever looks after the copies for those of a ledger that a store lacks. */
export type AskForCopies = (ledgerId: bigint, storeIds: readonly string[]) => Promise<void>

/**
 * What becomes of copies that readers found absent or damaged where others mend them: BookKeeper's autorecovery is
 * asked once for each ledger and bookie. A read never waits for it and never fails of it.
 */
export class RepairMarks {
  readonly #ask: AskForCopies
  readonly #logger: Logger
  readonly #marked = new Set<string>()
  readonly #asking = new Set<Promise<void>>()
  #asked = 0
  #failed = 0
  #dropped = 0

  constructor(ask: AskForCopies, logger: Logger) {
    this.#ask = ask
    this.#logger = logger
  }

  /** What was asked for counts as repaired: who mends it tells nobody. */
  get counts(): ReadRepairs {
    return { repaired: this.#asked, failed: this.#failed, dropped: this.#dropped }
  }

  /** Takes a report; never throws, never waits. */
  damaged({ ledgerId, storeId, reason }: DamagedCopy): void {
    const key = `${ledgerId}/${storeId}`
    if (this.#marked.has(key)) return
    if (this.#marked.size >= MARKED_MAX) {
      this.#dropped += 1
      return
    }
    this.#marked.add(key)
    const fields = { ledger: ledgerId.toString(), store: storeId }
    const asking = this.#ask(ledgerId, [storeId])
      .then(
        () => {
          this.#asked += 1
          this.#logger.warn({ ...fields, err: reason }, 'copies were asked for: a bookie lacks them')
        },
        (error: unknown) => {
          this.#failed += 1
          this.#marked.delete(key)
          this.#logger.warn({ ...fields, err: error }, 'copies that a bookie lacks could not be asked for')
        },
      )
      .finally(() => this.#asking.delete(asking))
    this.#asking.add(asking)
  }

  /** Resolves when nothing is under way. */
  async close(): Promise<void> {
    await Promise.all(this.#asking)
  }
}
