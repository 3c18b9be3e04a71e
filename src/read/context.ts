import type { Position } from '../model/position.js'
import type { SegmentRow } from '../model/segment.js'
import type { Clock } from '../ports/clock.js'
import type { Logger } from '../ports/logger.js'
import type { SegmentIndex } from '../ports/segment-index.js'
import type { SegmentSource } from './source.js'

/** What is to be read. */
export interface ReadRange {
  /** First position to read, inclusive. Default `earliest`. */
  readonly from?: Position
  /** Read what comes after this position, exclusive. Not together with `from`. */
  readonly after?: Position
  /** Where to stop, exclusive. Default: the end as it is when the reader gets there. */
  readonly until?: Position
  /** At most so many records. */
  readonly limit?: number
  /** Go on with what is appended later, until `until`, `limit` or `signal` ends it. */
  readonly follow?: boolean
  readonly signal?: AbortSignal
}

export interface ReadContext {
  readonly index: SegmentIndex
  readonly clock: Clock
  readonly logger: Logger
  /** The hot copy of a segment. */
  openHot(row: SegmentRow): Promise<SegmentSource>
  /** The copy in the archive. `ahead`: nobody waits for it yet. */
  openCold(row: SegmentRow, signal?: AbortSignal, ahead?: boolean): Promise<SegmentSource>
  /**
   * Resolves once a segment that is not closed is, or is known to have a writer at work: else what its stores tell of
   * its end may lie before what was acknowledged. Rejects with `ledger_recovering` (retryable) where that can't be
   * had now. Absent where other processes write.
   */
  recover?(row: SegmentRow, signal?: AbortSignal): Promise<void>
}

/** What a read has served so far, by tier. */
export interface ReadCounts {
  hot: number
  cold: number
}
