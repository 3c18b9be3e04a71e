import { present } from '../../src/model/assert.js'
import { ensembleAt, type LedgerMetadata } from '../../src/model/ledger.js'
import { writeSet } from '../../src/model/quorum.js'
import type { Trace } from './trace.js'

/**
 * Which stores promised to have made which entries durable, against what the ledgers' metadata say. A copy too few is
 * found when it happens: to see it by a loss takes that loss to hit one entry of one store in the right moment.
 */
export class Copies {
  readonly #trace: Trace
  readonly #metadata = new Map<bigint, LedgerMetadata>()
  /** Ledger/entry → the stores that promised it. What they lost since is another matter. */
  readonly #promised = new Map<string, Set<string>>()
  /** Entries of a ledger with acknowledged records. */
  readonly #acked = new Map<bigint, Set<bigint>>()
  /** Ledgers whose segment is in the archive or trimmed: what is left of them is to be deleted. */
  readonly #freed = new Set<bigint>()

  constructor(trace: Trace) {
    this.#trace = trace
  }

  promised(storeId: string, ledgerId: bigint, entryId: bigint): void {
    const key = `${ledgerId}/${entryId}`
    this.#promised.set(key, (this.#promised.get(key) ?? new Set()).add(storeId))
  }

  acked(ledgerId: bigint, entryId: bigint): void {
    this.#acked.set(ledgerId, (this.#acked.get(ledgerId) ?? new Set()).add(entryId))
    this.#check(ledgerId, entryId, 'was acknowledged')
  }

  /** Metadata were created or changed: a new ensemble must not begin below what is acknowledged on an old one. */
  changed(ledgerId: bigint, metadata: LedgerMetadata): void {
    this.#metadata.set(ledgerId, metadata)
    for (const entryId of this.#acked.get(ledgerId) ?? [])
      this.#check(ledgerId, entryId, 'was acknowledged before')
    if (metadata.state !== 'CLOSED') return
    for (let entryId = 0n; entryId <= metadata.lastEntryId; entryId += 1n)
      this.#check(ledgerId, entryId, 'is below the end')
  }

  /**
   * The copies of a ledger may go from here on. Its metadata may then name a store that never had any: the one that took
   * a lost store's place, so that the deletion need not wait for the lost one (decision 0012).
   */
  freed(ledgerId: bigint): void {
    this.#freed.add(ledgerId)
  }

  /** Invariant 1: what counts is on Qa stores of its write set, so the loss of Qa − 1 leaves one. */
  #check(ledgerId: bigint, entryId: bigint, why: string): void {
    const metadata = this.#metadata.get(ledgerId)
    if (metadata === undefined || this.#freed.has(ledgerId)) return
    const { ensembleSize, writeQuorum, ackQuorum } = metadata
    const members = ensembleAt(metadata, entryId)
    const holders = writeSet(entryId, ensembleSize, writeQuorum).map((at) => present(members[at], 'a member'))
    const promised = this.#promised.get(`${ledgerId}/${entryId}`)
    const copies = holders.filter((id) => promised?.has(id)).length
    if (copies < ackQuorum)
      this.#trace.violate(1, `entry ${entryId} of ledger ${ledgerId} ${why} and has ${copies} copies`)
  }
}
