import type { PackagedEntry } from '../format/packaged-entry.js'
import type { StratalogError } from '../model/errors.js'

/** What an acknowledged entry says. */
export interface EntryAck {
  readonly entryId: bigint
  /** Stores that had it durably when it was acknowledged. */
  readonly copies: number
}

/** An entry that was sent and is not acknowledged. */
export interface PendingAdd {
  readonly entryId: bigint
  readonly entry: PackagedEntry
  readonly payloadBytes: number
  /** Ensemble indexes whose store, a member of the entry's ensemble, has it durably. */
  readonly copies: Set<number>
}

interface QueuedAdd extends PendingAdd {
  readonly resolve: (ack: EntryAck) => void
  readonly reject: (error: StratalogError) => void
}

/**
 * The entries of one ledger that wait for their copies, in entry order, and where the ledger stands: what was pushed
 * and what is confirmed. Acknowledgements leave from the head only (FORMATS.md §4.2).
 */
export class AddQueue {
  readonly #adds: QueuedAdd[] = []
  #drained: (() => void)[] = []
  #lac = -1n
  #confirmedBytes = 0
  #pushedBytes = 0

  /** Last add confirmed; −1n: none. */
  get lac(): bigint {
    return this.#lac
  }

  /** Payload bytes up to the LAC. */
  get confirmedBytes(): number {
    return this.#confirmedBytes
  }

  /** Payload bytes behind the LAC. */
  get inFlightBytes(): number {
    return this.#pushedBytes - this.#confirmedBytes
  }

  /** In entry order. */
  get pending(): readonly PendingAdd[] {
    return this.#adds
  }

  /**
   * Takes the next entry. `pack` gets its id and the ledger's payload bytes up to and with it; `acked` settles when it
   * is acknowledged or the ledger has failed.
   */
  push(
    payloadBytes: number,
    pack: (entryId: bigint, lengthBytes: number) => PackagedEntry,
  ): { readonly add: PendingAdd; readonly acked: Promise<EntryAck> } {
    const entryId = this.#lac + BigInt(this.#adds.length) + 1n
    this.#pushedBytes += payloadBytes
    const entry = pack(entryId, this.#pushedBytes)
    const add = { entryId, entry, payloadBytes, copies: new Set<number>() }
    const acked = new Promise<EntryAck>((resolve, reject) => this.#adds.push({ ...add, resolve, reject }))
    return { add, acked }
  }

  /**
   * Confirms what has enough copies and nothing incomplete before it. `confirmed` is called once with the LAC raised
   * and before any caller hears of it: whoever was told of a record can read it.
   */
  confirm(copiesMin: number, confirmed: () => void): void {
    const done: QueuedAdd[] = []
    for (
      let head = this.#adds[0];
      head !== undefined && head.copies.size >= copiesMin;
      head = this.#adds[0]
    ) {
      this.#adds.shift()
      this.#lac = head.entryId
      this.#confirmedBytes += head.payloadBytes
      done.push(head)
    }
    if (done.length === 0) return
    confirmed()
    for (const add of done) add.resolve({ entryId: add.entryId, copies: add.copies.size })
    this.#checkDrained()
  }

  /** Rejects what is pending: it is no part of the ledger any more. */
  fail(error: StratalogError): void {
    for (const add of this.#adds.splice(0)) add.reject(error)
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
