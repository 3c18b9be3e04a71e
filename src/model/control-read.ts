/**
 * What a read would take and where a position lies: the answers of `stream.explain` and `stream.locate`, ready for JSON,
 * and the verbs of the control API. Types only.
 */

/** Where records of a segment come from. `cached`: its object's blocks are all here already. */
export type ReadTier = 'hot' | 'both' | 'cold' | 'cached' | 'open' | 'trimmed' | 'gap'

/** One segment of a read. */
export interface ExplainedSegment {
  readonly segment: string
  readonly tier: ReadTier
  /** Archive and key, or the hot ledger; empty for what is not there any more. */
  readonly where: string
  /** The bytes read of it, as offsets in the object or ledger; of the ledger they are estimated. */
  readonly fromBytes: number
  readonly untilBytes: number
  readonly ofBytes: number
  readonly records: string
  /** Bytes of the entries in the range, decompressed. */
  readonly wantedBytes: number
  /** Bytes asked of the archive or the hot stores. */
  readonly fetchedBytes: number
  /** Requests to the archive. */
  readonly indexRequests: number
  readonly blockRequests: number
  /** There where its object can't be read at once: since when that is waited for, null for nobody asked. */
  readonly thaw?: { readonly sinceMs: number | null }
  readonly note: string
}

/** What holds a cold read back. */
export interface ReadBound {
  /** Requests to the archive under way at a time. */
  readonly connections: number
  /** Measured lately; 0: nothing was read from the archive yet. */
  readonly bytesPerSecond: number
  /** The policy's `limits.cold-read`; null: none. */
  readonly coldReadBytesPerSecond: number | null
}

/** What reading a range would take. */
export interface ReadExplanation {
  readonly stream: string
  readonly from: string
  /** Exclusive. */
  readonly until: string
  readonly records: string
  /** False where segments are gone or not closed, so that records can't be counted from their numbers. */
  readonly exact: boolean
  readonly wantedBytes: number
  readonly fetchedBytes: number
  readonly requests: number
  /** The first of them, at most 1,000. */
  readonly segments: readonly ExplainedSegment[]
  /** How many more there are; they are in the sums. */
  readonly more: number
  readonly gaps: number
  /** Objects that must be thawed before they can be read. */
  readonly thaws: number
  /** Requests to the archive before the first record. */
  readonly firstRecordRequests: number
  /** Null: no archive takes part. */
  readonly bound: ReadBound | null
}

/** Where the first record at or beyond a position lies. */
export interface LocatedPosition {
  readonly stream: string
  readonly dlsn: string
  /** Null: the position is the end of the stream, and no record is there yet. */
  readonly segment: string | null
  readonly state: string | null
  readonly ledgerId: string | null
  readonly object: string | null
  /** In the object. */
  readonly block: { readonly number: number; readonly offset: number; readonly sizeBytes: number } | null
  readonly record: { readonly sequenceId: string; readonly txid: string } | null
}

/** A range as the command line writes it. */
export interface ExplainRequest {
  readonly from?: string
  readonly after?: string
  readonly until?: string
}

/** Verbs about reads. */
export interface ReadApi {
  explainRead(name: string, request: ExplainRequest): Promise<ReadExplanation>
  /** Any position: DLSN, txid, sequenceId or time. */
  locatePosition(name: string, position: string): Promise<LocatedPosition>
}
