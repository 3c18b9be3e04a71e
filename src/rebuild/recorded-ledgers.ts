import type { LedgerMetadata } from '../model/ledger.js'
import type { LedgerMetadataStore, VersionedLedgerMetadata } from '../ports/ledger-metadata.js'
import type { DecisionWriter } from './decisions.js'

/** Ids that one decision covers: a rebuilt index leaves so many out at most. */
const IDS_AHEAD = 65_536n

/**
 * Ledger metadata that can be found again: ids are given out only up to what the stores were told, so that a rebuilt
 * index never gives one out twice, also where its ledger is long deleted.
 */
export class RecordedLedgers implements LedgerMetadataStore {
  readonly #ledgers: LedgerMetadataStore
  readonly #decisions: DecisionWriter
  #through: bigint
  #extending: Promise<void> | null = null

  /** `through`: the highest id that decisions allow so far. */
  constructor(ledgers: LedgerMetadataStore, decisions: DecisionWriter, through: bigint) {
    this.#ledgers = ledgers
    this.#decisions = decisions
    this.#through = through
  }

  async allocateId(): Promise<bigint> {
    const id = await this.#ledgers.allocateId()
    while (id > this.#through) {
      this.#extending ??= this.#extend(id + IDS_AHEAD).finally(() => {
        this.#extending = null
      })
      await this.#extending
    }
    return id
  }

  async #extend(through: bigint): Promise<void> {
    await this.#decisions.write({ kind: 'ids', through })
    this.#through = through
  }

  create(ledgerId: bigint, metadata: LedgerMetadata): Promise<VersionedLedgerMetadata> {
    return this.#ledgers.create(ledgerId, metadata)
  }

  read(ledgerId: bigint): Promise<VersionedLedgerMetadata> {
    return this.#ledgers.read(ledgerId)
  }

  compareAndSet(
    ledgerId: bigint,
    expectedVersion: number,
    metadata: LedgerMetadata,
  ): Promise<VersionedLedgerMetadata> {
    return this.#ledgers.compareAndSet(ledgerId, expectedVersion, metadata)
  }

  delete(ledgerId: bigint, expectedVersion: number): Promise<void> {
    return this.#ledgers.delete(ledgerId, expectedVersion)
  }

  list(after: bigint, limit: number): Promise<bigint[]> {
    return this.#ledgers.list(after, limit)
  }
}
