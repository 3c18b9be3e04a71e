import type { LedgerContext } from '../src/ledger/context.js'
import type { Dlsn } from '../src/model/dlsn.js'
import type { ResolvedPolicy } from '../src/model/policy.js'
import type { Incarnation, SegmentRow, StreamRow } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { Coordination } from '../src/ports/coordination.js'
import type { Random } from '../src/ports/random.js'
import type { SegmentIndex } from '../src/ports/segment-index.js'

/** The open segment of a stream as its writer in this process knows it. */
export interface OpenSegmentState {
  readonly lengthBytes: number
  readonly lastAppendMs: number
}

/** What the writers of this process do for the agent. */
export interface Writers {
  /** Null: no writer of this process has the stream's newest segment open. */
  openSegment(stream: StreamRow): OpenSegmentState | null
  /** Incarnations of the streams that a writer of this process has a segment open of. */
  openStreams(): readonly Incarnation[]
  /**
   * Seals the stream's open segment if it still is that one: through its writer, or by recovery if it has none.
   * `conflict`: a writer of another process has it, and says who that is in `found`.
   */
  seal(stream: StreamRow, segment: bigint): Promise<void>
}

/** The archives that some streams have to themselves (decision 0030). */
export interface OwnArchives {
  /** Where the own archive of a stream is that was bound to one; null: it lies in the log's, or nowhere yet. */
  locationOf(incarnation: Incarnation): Promise<string | null>
  /** Where those are that any stream was ever bound to. */
  locations(): Promise<readonly string[]>
  /** That location; null: it is the archive of the log by another name. */
  other(location: string): Promise<string | null>
  /** Opens the one at a location; null: the log's. */
  open(location: string | null): Promise<ArchiveStore>
  /** Binds a new stream to the archive of another, whose objects it is going to share. */
  bindTo(incarnation: Incarnation, other: Incarnation): Promise<void>
}

/** What the writers of others do, and what is made of it here. */
export interface ForeignStreams {
  /** Whether a writer of others made the stream: then it may be purged by one at any time. */
  isForeign(incarnation: Incarnation): Promise<boolean>
  /**
   * What they delete of completed segments: `aged`, all that are older than `purgeAfterMs`; `truncated`, those of them
   * that the application truncated; `never`, none.
   */
  readonly purge: 'aged' | 'truncated' | 'never'
  readonly purgeAfterMs: number
  /** Whether history ends where an application truncated it; else the archive keeps it. */
  readonly followsTruncation: boolean
  /** Where the stream was truncated, as far as its nodes still say so; null: nowhere. */
  truncatedBelow(incarnation: Incarnation): Promise<Dlsn | null>
}

/** What tiering needs of the world. */
export interface TieringContext {
  readonly logId: string
  readonly ledger: LedgerContext
  readonly index: SegmentIndex
  readonly coordination: Coordination
  readonly random: Random
  /**
   * The archive that a stream's segments lie in (decision 0030); null: none is configured. Rejects with `archive_…`
   * while it does not answer.
   */
  readonly archive: ((incarnation: Incarnation) => Promise<ArchiveStore>) | null
  /** Archives that some streams have to themselves; absent: all lie in one. */
  readonly own?: OwnArchives
  /** Ledgers of others are among ours, as in a cluster: what no row of ours names is not ours to judge. @default false */
  readonly ledgersAreShared?: boolean
  /** Whether policies free hot copies; where others read them and not the archive, only an order does. @default true */
  readonly evictsByPolicy?: boolean
  /** Streams that others write and delete from; absent: there are none. */
  readonly foreign?: ForeignStreams
  readonly writers: Writers
  readonly policy: (stream: StreamRow) => Promise<ResolvedPolicy>
  /** Whether records of this process wait for their stores, so that copies give way; absent: there are no writers. */
  readonly appendsWait?: () => boolean
}

/** Told of each step, for progress and events. */
export interface TieringEvent {
  readonly kind: 'seal' | 'copy' | 'evict' | 'trim' | 'drop'
  /** `stalled`: nothing has answered for a while; it is given up and tried again if that goes on. */
  readonly phase: 'begin' | 'progress' | 'done' | 'failed' | 'stalled'
  readonly stream: string
  readonly segment: bigint
  readonly bytes: number
  readonly error?: Error
  /** The row after the step. */
  readonly row?: SegmentRow
}
