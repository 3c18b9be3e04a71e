import type { PackagedEntry } from '../format/packaged-entry.js'
import { assert } from '../model/assert.js'
import type { StratalogError } from '../model/errors.js'
import { ENSEMBLE_MAX } from '../model/quorum.js'

/** What an acknowledged entry says. */
export interface EntryAck {
  readonly entryId: bigint
  /** Stores that had it durably when it was acknowledged. */
  readonly copies: number
}

/**
 * Who waits for an entry; told once, in entry order, in the turn in which it is decided. Appends nothing in that turn:
 * the ledger is in the middle of its queue.
 */
export interface EntryWaiter {
  acknowledged(entryId: bigint, copies: number): void
  failed(error: StratalogError): void
  /**
   * The entry is acknowledged and every store it was sent to has it: its bytes are the caller's again. Never called where
   * a store failed or was given up, which may read them still.
   */
  released?(bytes: Uint8Array): void
}

/** An entry that was sent and is not acknowledged. */
export class PendingAdd {
  readonly entryId: bigint
  readonly entry: PackagedEntry
  readonly payloadBytes: number
  readonly sentMs: number
  readonly waiter: EntryWaiter
  /** A bit for each ensemble index whose store, a member of the entry's ensemble, has it durably. */
  #stored = 0
  #copies = 0
  /** Who needs the bytes: the queue, and each store that it was sent to. */
  #users = 1

  constructor(
    entryId: bigint,
    entry: PackagedEntry,
    payloadBytes: number,
    sentMs: number,
    waiter: EntryWaiter,
  ) {
    this.entryId = entryId
    this.entry = entry
    this.payloadBytes = payloadBytes
    this.sentMs = sentMs
    this.waiter = waiter
  }

  /** Stores of its ensemble that have it durably. */
  get copies(): number {
    return this.#copies
  }

  /** It is sent to a store. */
  lend(): void {
    this.#users += 1
  }

  /** A store has it durably, or it is acknowledged. */
  giveBack(): void {
    this.#users -= 1
    assert(this.#users >= 0, `entry ${this.entryId} is given back too often`)
    if (this.#users === 0) this.waiter.released?.(this.entry.bytes)
  }

  /** The store at that place of the ensemble has it. */
  stored(index: number): void {
    this.#set(index, true)
  }

  /** Another store has come to that place of the ensemble. */
  replaced(index: number): void {
    this.#set(index, false)
  }

  #set(index: number, stored: boolean): void {
    assert(index < ENSEMBLE_MAX, `place ${index} of an ensemble`)
    const bit = 1 << index
    if (((this.#stored & bit) !== 0) === stored) return
    this.#stored ^= bit
    this.#copies += stored ? 1 : -1
  }
}

/**
 * The entries of one ledger that wait for their copies, in entry order, and where the ledger stands: what was pushed
 * and what is confirmed. Acknowledgements leave from the head only (FORMATS.md §4.2).
 */
export class AddQueue {
  readonly #adds: PendingAdd[] = []
  #drained: (() => void)[] = []
  #lac = -1n
  #confirmedBytes = 0
  #pushedBytes = 0

  /** Last add confirmed; −1n: none. */
  get lac(): bigint {
    return this.#lac
  }

  /** Id of the entry that is pushed next. */
  get nextEntryId(): bigint {
    return this.#lac + BigInt(this.#adds.length) + 1n
  }

  /** Payload bytes up to the LAC. */
  get confirmedBytes(): number {
    return this.#confirmedBytes
  }

  /** Payload bytes up to the last entry that was pushed. */
  get pushedBytes(): number {
    return this.#pushedBytes
  }

  /** Payload bytes behind the LAC. */
  get inFlightBytes(): number {
    return this.#pushedBytes - this.#confirmedBytes
  }

  /** In entry order. */
  get pending(): readonly PendingAdd[] {
    return this.#adds
  }

  /** Takes the next entry. */
  push(add: PendingAdd): void {
    assert(add.entryId === this.nextEntryId, 'entries are pushed in order')
    this.#pushedBytes += add.payloadBytes
    this.#adds.push(add)
  }

  /**
   * Confirms what has enough copies and nothing incomplete before it. `confirmed` is called once with the LAC raised
   * and before anybody hears of it: whoever was told of a record can read it.
   */
  confirm(copiesMin: number, confirmed: () => void): void {
    let count = 0
    for (const add of this.#adds) {
      if (add.copies < copiesMin) break
      this.#lac = add.entryId
      this.#confirmedBytes += add.payloadBytes
      count += 1
    }
    if (count === 0) return
    const done = this.#adds.splice(0, count)
    confirmed()
    for (const add of done) {
      add.waiter.acknowledged(add.entryId, add.copies)
      add.giveBack()
    }
    this.#checkDrained()
  }

  /** Fails what is pending: it is no part of the ledger any more. */
  fail(error: StratalogError): void {
    for (const { waiter } of this.#adds.splice(0)) waiter.failed(error)
    this.#checkDrained()
  }

  /** Resolves when nothing is pending. */
  drained(): Promise<void> {
    return new Promise((resolve) => {
      this.#drained.push(resolve)
      this.#checkDrained()
    })
  }

  #checkDrained(): void {
    if (this.#adds.length > 0) return
    for (const resolve of this.#drained.splice(0)) resolve()
  }
}
