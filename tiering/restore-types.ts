import type { DatedBinding } from '../archive/control-objects.js'
import type { Hold, StreamEnd } from '../archive/decisions.js'
import type { ListedSegment } from '../archive/listing.js'
import type { SegmentKey } from '../src/format/archive-names.js'
import type { LedgerContext } from '../src/ledger/context.js'
import type { Dlsn } from '../src/model/dlsn.js'
import type { Quorum } from '../src/model/quorum.js'
import type { Incarnation } from '../src/model/segment.js'
import type { Coordination } from '../src/ports/coordination.js'
import type { Random } from '../src/ports/random.js'
import type { SegmentIndex } from '../src/ports/segment-index.js'

/** Where a restore ends, exclusive. A time means txids where they are times, else completion of segments. */
export type RestoreUntil = { readonly timeMs: number } | { readonly dlsn: Dlsn }

/** What of an archive is to be restored; without any of it everything as it is now. */
export interface RestoreWishes {
  /** Whether a stream of that name in the archive is wanted. */
  readonly wanted?: (name: string) => boolean
  readonly until?: RestoreUntil | null
  /** What a stream of that name is to be called. */
  readonly rename?: (name: string) => string
  /** This life and no other, also one that was deleted or written over by a later one of its name. */
  readonly incarnation?: Incarnation
  readonly signal?: AbortSignal
}

/** One segment of the plan. */
export interface RestorableSegment extends ListedSegment {
  /**
   * Other objects with the same content, for when this one is damaged. The names of some, from before the stream was
   * encrypted, can't tell: what is read from them is compared.
   */
  readonly twins: readonly ListedSegment[]
  /** What is restored of it: what its name says, or less where the restore ends within it. */
  readonly restored: SegmentKey
  /** Where the restore ends within it; null: it is restored whole. */
  readonly cut: RestoreUntil | null
}

/** Segments that are not to be had, both ends included. */
export interface RestoreGap {
  readonly first: bigint
  readonly last: bigint
  readonly reason: 'dropped' | 'corrupt' | 'purged'
  /** For people. */
  readonly why: string
  /** The archive says so itself; else it is found here, and a strict restore stops at it. */
  readonly committed: boolean
}

/** One stream as the archive has it. */
export interface RestorableStream {
  readonly incarnation: Incarnation
  readonly binding: DatedBinding
  /** What it is called once it is restored. */
  readonly name: string
  /** Where the stream begins because it was trimmed; null if it never was, and begins with segment 1. */
  readonly trimmedBelow: Dlsn | null
  /** Ascending; empty for a stream that was named and never archived. Together with `gaps` without a hole. */
  readonly segments: readonly RestorableSegment[]
  /** Ascending, none touching another of its reason. */
  readonly gaps: readonly RestoreGap[]
  readonly records: bigint
  readonly objectBytes: number
  /** Segments the archive should have between where the stream begins and its last and has not; at most 1,000. */
  readonly missing: readonly bigint[]
  /** Behind the last that is restored: where the restored stream leaves its parent. */
  readonly fork: Dlsn
  /** How it ended for ever; null: it goes on. */
  readonly end: StreamEnd | null
  /** Its own policy as JSON text; null: it has none. */
  readonly policy: string | null
  /** The holds that stand over it: they stand over what is restored as well. */
  readonly holds: readonly Hold[]
  /** When it was deleted on purpose; null: it was not. */
  readonly deletedMs: number | null
  /** Records of an ended stream behind its last segment in the archive: they never got there. */
  readonly lostAtEnd: bigint
}

/** A life of a stream that is not restored. */
export interface LeftOut {
  readonly incarnation: Incarnation
  readonly name: string
  /** For people. */
  readonly why: string
}

/** What a restore would do. */
export interface RestorePlan {
  readonly location: string
  readonly streams: readonly RestorableStream[]
  readonly records: bigint
  readonly segments: number
  readonly objectBytes: number
  readonly until: RestoreUntil | null
  /** Streams of the archive that are not restored though they were asked for. */
  readonly left: readonly LeftOut[]
  /** Keys nobody here understands: left alone. */
  readonly foreign: readonly string[]
  /** The log the archive belongs to; null: nobody says. */
  readonly owner: { readonly logId: string; readonly epoch: bigint } | null
  /**
   * Digest of everything above, from the names alone but for segments that the restore ends in; what was restored
   * must have the same, unless objects turn out to be damaged.
   */
  readonly digest: string
}

/** How far a restore is, after each segment. */
export interface RestoreProgress {
  readonly stream: string
  readonly segment: bigint
  readonly doneRecords: bigint
  readonly doneObjectBytes: number
  /** Segments of this stream that are done, gaps included, and how many there are. */
  readonly streamDone: number
  readonly streamSegments: number
}

/** What a restore has made. */
export interface RestoreReport {
  readonly streams: number
  readonly segments: number
  /** Segments that were there already from an earlier, interrupted run. */
  readonly resumed: number
  readonly records: bigint
  /** Gaps the restored streams have, those the archive had among them. */
  readonly gaps: readonly (RestoreGap & { readonly stream: string })[]
  /** Digest of what the log now holds, read back from its stores. */
  readonly digest: string
}

/** How a planned restore is carried out. */
export interface RestoreOptions {
  readonly signal?: AbortSignal
  /** Rejects at the first segment that is missing or damaged; else it becomes a committed gap. @default false */
  readonly strict?: boolean
  readonly onProgress?: (progress: RestoreProgress) => void
}

/** Where a restore writes to: an open log's parts, or the simulator's. */
export interface RestoreTarget {
  readonly ledger: LedgerContext
  readonly index: SegmentIndex
  readonly random: Random
  readonly quorum: (stream: string) => Quorum
  /** Throws where a policy that a stream had of its own does not go together with the configuration here. */
  readonly checkPolicy?: (stream: string, policy: string) => void
  /**
   * Where others write and tier the same streams: each is restored under the leases of its writer and of its agent.
   * Absent: the log is this process's alone.
   */
  readonly coordination?: Coordination
  /** Readers wait for a record that ends a stream, see `SegmentContext`. */
  readonly endRecords?: boolean
}
