import { Buffer } from 'node:buffer'
import { openEntry } from '../format/ledger-digest.js'
import { PackagedEntry } from '../format/packaged-entry.js'
import { StratalogError } from '../model/errors.js'
import { ensembleAt, type LedgerMetadata } from '../model/ledger.js'
import { writeSet } from '../model/quorum.js'
import { checked } from './answers.js'
import { ask, type DamagedCopy, type LedgerContext } from './context.js'
import { closedLedger } from './repair.js'

/** What waits for repair; more is left to the scrub. */
const WAITING_MAX = 1_000
const WAITING_BYTES_MAX = 16 * 2 ** 20
/** A store on which a repair failed is left alone for this long: its readers would report every entry of it. */
const REST_MS = 60_000

/** Counts since the log was opened. */
export interface ReadRepairs {
  readonly repaired: number
  readonly failed: number
  /** Not taken, for want of room or because the store rests. */
  readonly dropped: number
}

/**
 * Mends copies that readers found absent or damaged, one at a time and behind their back: a read never waits for it
 * and never fails of it. Each is looked at once more before it is written, because the reader may have been early,
 * and what is written has a right digest (invariant 9). Bounded: what does not fit is found by the scrub.
 */
export class RepairQueue {
  readonly #context: LedgerContext
  readonly #waiting = new Map<string, DamagedCopy>()
  /** Monotonic time until which a store rests. */
  readonly #resting = new Map<string, number>()
  #waitingBytes = 0
  #repaired = 0
  #failed = 0
  #dropped = 0
  #working: Promise<void> | null = null
  #closed = false

  constructor(context: LedgerContext) {
    this.#context = context
  }

  get counts(): ReadRepairs {
    return { repaired: this.#repaired, failed: this.#failed, dropped: this.#dropped }
  }

  /** Takes a report; never throws, never waits. */
  damaged(copy: DamagedCopy): void {
    const key = `${copy.ledgerId}/${copy.entryId}/${copy.storeId}`
    if (this.#closed || this.#waiting.has(key)) return
    const full = this.#waiting.size >= WAITING_MAX || this.#waitingBytes >= WAITING_BYTES_MAX
    if (full || this.#rests(copy.storeId)) {
      this.#dropped += 1
      return
    }
    // The reader's buffer may be a small part of a large one, which would stay in memory with it.
    this.#waiting.set(key, { ...copy, bytes: Buffer.from(copy.bytes) })
    this.#waitingBytes += copy.bytes.byteLength
    this.#working ??= this.#work().finally(() => {
      this.#working = null
    })
  }

  /** Resolves when nothing waits. */
  async settled(): Promise<void> {
    while (this.#working !== null) await this.#working
  }

  /** Takes nothing more and finishes the repair under way. */
  async close(): Promise<void> {
    this.#closed = true
    this.#waiting.clear()
    await this.settled()
  }

  #rests(storeId: string): boolean {
    const untilMs = this.#resting.get(storeId)
    return untilMs !== undefined && this.#context.clock.monotonicMs() < untilMs
  }

  async #work(): Promise<void> {
    // Not in the turn of the reader.
    await Promise.resolve()
    for (let next = this.#next(); next !== null; next = this.#next()) {
      const [key, copy] = next
      await this.#mend(copy)
      this.#waitingBytes -= copy.bytes.byteLength
      this.#waiting.delete(key)
    }
    this.#waitingBytes = 0
  }

  #next(): [string, DamagedCopy] | null {
    for (const entry of this.#waiting) return entry
    return null
  }

  async #mend(copy: DamagedCopy): Promise<void> {
    const { ledgerId, entryId, storeId } = copy
    const fields = {
      ledger: ledgerId.toString(),
      entry: entryId.toString(),
      store: storeId,
      err: copy.reason,
    }
    if (this.#rests(storeId)) {
      this.#dropped += 1
      return
    }
    try {
      if (!(await this.#repair(copy))) return
      this.#repaired += 1
      this.#context.logger.warn(fields, 'a copy that was absent or damaged has been repaired')
    } catch (error) {
      this.#failed += 1
      this.#resting.set(storeId, this.#context.clock.monotonicMs() + REST_MS)
      this.#context.logger.warn(
        { ...fields, err: error },
        'a copy could not be repaired, the scrub tries again',
      )
    }
  }

  /** False where nothing is to be done. */
  async #repair(copy: DamagedCopy): Promise<boolean> {
    const { ledgerId, entryId, storeId, bytes } = copy
    const metadata = await closedLedger(this.#context, ledgerId)
    if (metadata === 'open' || metadata === 'gone' || !holds(metadata, entryId, storeId)) return false
    openEntry(bytes, metadata.digestType, ledgerId, entryId)
    const look = () =>
      checked(
        ask(this.#context, storeId, (store) => store.readEntry(ledgerId, entryId)),
        metadata,
        ledgerId,
        entryId,
      )
    if ((await look()).kind === 'valid') return false
    await ask(this.#context, storeId, (store) =>
      store.addEntry(ledgerId, entryId, new PackagedEntry(bytes), { recovery: true }),
    )
    const after = await look()
    if (after.kind === 'valid') return true
    throw new StratalogError(
      'corrupt',
      `segment store ${storeId} does not give entry ${entryId} of ledger ${ledgerId} back as it was written: check its disk`,
      { cause: after.kind === 'unknown' ? after.error : undefined },
    )
  }
}

function holds(metadata: LedgerMetadata, entryId: bigint, storeId: string): boolean {
  if (entryId > metadata.lastEntryId) return false
  const members = ensembleAt(metadata, entryId)
  return writeSet(entryId, metadata.ensembleSize, metadata.writeQuorum).some((at) => members[at] === storeId)
}
