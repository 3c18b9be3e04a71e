import type { KeptHold, StreamHold } from '../model/hold.js'
import type { Incarnation, SegmentRow, StreamRow, TxidMode } from '../model/segment.js'

/** What a new stream is told. */
export interface NewStream {
  readonly incarnation: Incarnation
  readonly name: string
  readonly txidMode: TxidMode
  readonly createdMs: number
  readonly parent: StreamRow['parent']
}

/** What a change of a segment row may touch; `state` only along SEGMENT_TRANSITIONS. */
export type SegmentPatch = Partial<Omit<SegmentRow, 'incarnation' | 'segment' | 'epoch' | 'version'>>

/**
 * The row a change is meant for: `conflict` if it has another version by now. The number of a segment that was found
 * empty is used again and its versions begin anew, so the ledger, where it is given, tells that it is another's row.
 */
export type ExpectedSegment = Pick<SegmentRow, 'incarnation' | 'segment' | 'version'> &
  Partial<Pick<SegmentRow, 'ledgerId'>>

/** Why adopted segments are a gap, told with the first of them; `last`: the last one it covers. */
export interface AdoptedGap {
  readonly reason: 'dropped' | 'corrupt' | 'purged'
  readonly last: bigint
}

/** A subscription; ending it twice is fine. */
export interface Watch {
  close(): void
}

/**
 * Maps DLSN, txid and time ranges of streams to segments and their tiers. Each change is one atomic, durable
 * compare-and-set; `conflict` (with what was found) when the row is not as expected. Rows are checked by
 * `checkSegmentRow` before they are written. Segments of a stream are contiguous and ascending.
 */
export interface SegmentIndex {
  /** `stream_exists` if a living stream has the name. */
  createStream(stream: NewStream): Promise<StreamRow>
  /** By its present name; null if there is none. */
  streamByName(name: string): Promise<StreamRow | null>
  stream(incarnation: Incarnation): Promise<StreamRow | null>
  /** By name in code-point order, above `after` ('' for the first), at most `limit`. */
  listStreams(after: string, limit: number): Promise<StreamRow[]>
  /**
   * Sets fields of a stream if it still has `expectedVersion`, else `conflict`. None of them ever goes back but the
   * name: `stream_exists` if a living stream has it.
   */
  updateStream(
    incarnation: Incarnation,
    expectedVersion: number,
    patch: Partial<Pick<StreamRow, 'name' | 'epoch' | 'trimmedBelow' | 'finishedMs'>>,
  ): Promise<StreamRow>

  /**
   * Takes a stream away from everybody at once: finished, fenced, called by its incarnation, and the fact
   * `deleted/<incarnation>` says when. `conflict` as for `updateStream`. Its segments are there until they are removed.
   */
  deleteStream(incarnation: Incarnation, expectedVersion: number, atMs: number): Promise<StreamRow>
  /** Forgets a stream that has no segments left. Idempotent. */
  removeStream(incarnation: Incarnation): Promise<void>

  /**
   * Adds an open segment after the newest. `conflict` unless `row.segment` is the newest + 1 (1 for the first; any
   * for the first of a restored or trimmed stream) and `row.epoch` is the stream's epoch: a fenced writer starts no segment.
   */
  beginSegment(row: SegmentRow): Promise<SegmentRow>
  /**
   * Adds a segment that is closed already (restore, index rebuild), in order. Same conflicts but for the epoch. `gap`,
   * of a row in that state: why, and how far it goes from here; null: that was told with a row before.
   */
  adoptSegment(row: SegmentRow, gap?: AdoptedGap | null): Promise<SegmentRow>
  /** Changes a row if it still has `expectedVersion`, else `conflict`. A state moves only along the table. */
  updateSegment(row: ExpectedSegment, patch: SegmentPatch): Promise<SegmentRow>
  /**
   * Removes the newest segment when recovery found it empty, or a trimmed row that owes nothing any more
   * (no ledger, no object). Anything else is an assertion.
   */
  removeSegment(row: ExpectedSegment): Promise<void>

  segment(incarnation: Incarnation, segment: bigint): Promise<SegmentRow | null>
  /** Ascending from `from`, at most `limit`. */
  listSegments(incarnation: Incarnation, from: bigint, limit: number): Promise<SegmentRow[]>
  /** Those with a hot copy (open ones too), ascending, at most `limit`: what tiering works on, however long history is. */
  listHotSegments(incarnation: Incarnation, limit: number): Promise<SegmentRow[]>
  newestSegment(incarnation: Incarnation): Promise<SegmentRow | null>
  /** Oldest row that is not trimmed. */
  oldestSegment(incarnation: Incarnation): Promise<SegmentRow | null>
  /** The first segment that may hold a record with txid ≥ `txid`: lastTxid ≥ txid, or open. */
  segmentForTxid(incarnation: Incarnation, txid: bigint): Promise<SegmentRow | null>
  /** The first segment whose last record has sequenceId ≥ `sequenceId`, or an open one. */
  segmentForSequenceId(incarnation: Incarnation, sequenceId: bigint): Promise<SegmentRow | null>
  /** The first segment completed at or after `timeMs`, or an open one (streams with custom txids). */
  segmentForTime(incarnation: Incarnation, timeMs: number): Promise<SegmentRow | null>
  /** Rows in any of these states over all streams, at most `limit`; how recovery and the agent find work. */
  segmentsInState(states: readonly SegmentRow['state'][], limit: number): Promise<SegmentRow[]>
  /** Closed rows (`cold`, `trimmed`, `gap` where `dropped`) that still owe the deletion of a ledger or an object. */
  segmentsOwing(limit: number): Promise<SegmentRow[]>
  /** Sums over all segments of a stream, by tier, computed by the engine. */
  totals(incarnation: Incarnation): Promise<SegmentTotals>

  /** Calls `changed` after each change of a stream's row or segments; spurious calls are fine, lost ones are not. */
  watch(incarnation: Incarnation, changed: () => void): Watch

  /** The stream's own policy override as JSON text, null if none. Set: durable. */
  policyOverride(incarnation: Incarnation): Promise<string | null>
  setPolicyOverride(incarnation: Incarnation, policy: string | null): Promise<void>

  /**
   * Holds on a stream in the order they were put, released ones until they are forgotten. `corrupt` where they can't be
   * read: then nothing of the stream is deleted (invariant 8).
   */
  holds(incarnation: Incarnation): Promise<readonly KeptHold[]>
  /** Puts a hold in place of one with its id. Durable. */
  putHold(incarnation: Incarnation, hold: StreamHold): Promise<void>
  /** Marks a hold as released. Durable, idempotent; nothing where there is no such hold. */
  releaseHold(incarnation: Incarnation, id: string, releasedMs: number): Promise<void>
  /** Streams whose holds changed since `holdsTold`: the archive may not know of it yet. */
  streamsOwingHolds(): Promise<readonly Incarnation[]>
  /** The archive knows all there is: released holds are forgotten. */
  holdsTold(incarnation: Incarnation): Promise<void>

  /**
   * Notes that segments are to stay hot until then, where an index made again finds it; the rows say it by themselves.
   * Both ends included.
   */
  recordRecall(
    incarnation: Incarnation,
    range: { readonly first: bigint; readonly last: bigint; readonly untilMs: number },
  ): Promise<void>

  /** A small named fact of the whole log (log id, last scrub …). */
  fact(name: string): Promise<string | null>
  setFact(name: string, value: string): Promise<void>

  close(): Promise<void>
}

/**
 * Bytes are ledger lengths (payload), segments are counts. A segment in both tiers counts in hot, cold and both; hot
 * is what readers may use (`isHot`); a trimmed segment counts nowhere, a gap in `segments` and `records` only.
 */
export interface SegmentTotals {
  readonly segments: number
  readonly records: bigint
  readonly hotSegments: number
  readonly hotBytes: number
  readonly coldSegments: number
  readonly coldBytes: number
  readonly bothBytes: number
}
