import type { LedgerMetadata } from '../model/ledger.js'

/** A ledger's metadata with the version a compare-and-set must name. */
export interface VersionedLedgerMetadata {
  readonly ledgerId: bigint
  readonly metadata: LedgerMetadata
  readonly version: number
}

/**
 * Where ledgers' metadata live: SQLite, or BookKeeper's tree in ZooKeeper. Every write is atomic and durable when
 * its promise resolves. A lost connection means *unknown*: re-read, never resend blindly.
 */
export interface LedgerMetadataStore {
  /** An id that was never given out before and never will be again, whatever becomes of it. */
  allocateId(): Promise<bigint>
  /** `ledger_exists` if the id has metadata. */
  create(ledgerId: bigint, metadata: LedgerMetadata): Promise<VersionedLedgerMetadata>
  /** `ledger_not_found`. */
  read(ledgerId: bigint): Promise<VersionedLedgerMetadata>
  /** Replaces what has version `expectedVersion`; `conflict` if it changed, `ledger_not_found` if it is gone. */
  compareAndSet(
    ledgerId: bigint,
    expectedVersion: number,
    metadata: LedgerMetadata,
  ): Promise<VersionedLedgerMetadata>
  /**
   * Deletes what has version `expectedVersion`; one that is gone is fine, `conflict` if it changed: whoever decided that a
   * ledger may go decided it of what was read.
   */
  delete(ledgerId: bigint, expectedVersion: number): Promise<void>
  /** Ids above `after`, ascending, at most `limit`. */
  list(after: bigint, limit: number): Promise<bigint[]>
}
