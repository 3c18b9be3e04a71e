import { present } from './assert.js'

/** Ledger entry digests of BookKeeper (FORMATS.md §2.2). DistributedLog's rule is CRC32; embedded ledgers use CRC32C. */
export type DigestType = 'CRC32' | 'HMAC' | 'CRC32C' | 'DUMMY'

export type LedgerState = 'OPEN' | 'IN_RECOVERY' | 'CLOSED'

/** From `firstEntryId` on entries are striped over these stores. Always `ensembleSize` members. */
export interface Ensemble {
  readonly firstEntryId: bigint
  readonly members: readonly string[]
}

/** A ledger's metadata as BookKeeper keeps it (FORMATS.md §3.5). */
export interface LedgerMetadata {
  /** Version of the serialised form it was read in; it is written back in the same. */
  readonly formatVersion: 1 | 2 | 3
  readonly ensembleSize: number
  readonly writeQuorum: number
  readonly ackQuorum: number
  readonly state: LedgerState
  /** Sum of payload bytes; 0 unless CLOSED. */
  readonly lengthBytes: bigint
  /** −1 unless CLOSED, and for an empty ledger. */
  readonly lastEntryId: bigint
  /** Sorted by firstEntryId, the first is 0. */
  readonly ensembles: readonly Ensemble[]
  readonly digestType: DigestType
  readonly password: Uint8Array | null
  readonly ctimeMs: bigint | null
  readonly customMetadata: ReadonlyMap<string, Uint8Array>
  readonly cToken: bigint
}

/** The stores entry `entryId` is striped over: the last ensemble that begins at or below it. */
export function ensembleAt(metadata: Pick<LedgerMetadata, 'ensembles'>, entryId: bigint): readonly string[] {
  let found = present(metadata.ensembles[0], 'first ensemble')
  for (const ensemble of metadata.ensembles) if (ensemble.firstEntryId <= entryId) found = ensemble
  return found.members
}

export function lastEnsemble(metadata: LedgerMetadata): Ensemble {
  return present(metadata.ensembles.at(-1), 'last ensemble')
}
