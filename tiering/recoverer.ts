import { type ErrorCode, isStratalogError, StratalogError } from '../src/model/errors.js'
import { isClosed, type SegmentRow } from '../src/model/segment.js'
import type { Clock } from '../src/ports/clock.js'
import type { Logger } from '../src/ports/logger.js'
import type { SegmentIndex } from '../src/ports/segment-index.js'
import { PassLoop, type PassOutcome, raced } from './pass-loop.js'

/** The writers of this process, as far as recovery needs them (WriterHub in src/append). */
interface RecoveringWriters {
  /** The stream's writer if it is open and well: its open segment is not to be recovered. */
  ready(incarnation: string): object | null
  /** Fences and closes a segment that no writer of this process has. */
  recover(row: SegmentRow): Promise<void>
}

/** Segments recovered side by side. */
const RECOVERIES_MAX = 8
/** Segments that may be open when a log is opened. */
const OPEN_SEGMENTS_MAX = 1_000_000
/** A recovery that failed for a reader is tried again in the background after this long, then later each time. */
const RETRY_MS = 500

/** Failures that no waiting mends: a reader is told of them as they are. */
const LASTING: readonly ErrorCode[] = [
  'corrupt',
  'entry_missing',
  'ledger_not_found',
  'version_unsupported',
  'closed',
  'internal',
]

/** What recovers segments, and what tells which there are. */
export interface RecovererParts {
  readonly hub: RecoveringWriters
  readonly index: SegmentIndex
  readonly clock: Clock
  readonly logger: Logger
}

/**
 * Closes segments whose writers are gone: all of them when the log is opened, before anything is appended; those
 * that could not be recovered then, in the background with pauses that grow; and the one at whose end a reader
 * stands, because until then nobody knows where it ends, and what was acknowledged in it may lie beyond what the
 * stores tell of it (invariants 1 and 2).
 */
export class SegmentRecoverer {
  readonly #parts: RecovererParts
  readonly #loop: PassLoop<PassOutcome>
  /** What could not be recovered yet, by its name: a few segments a stream at most. */
  readonly #waiting = new Map<string, SegmentRow>()

  constructor(parts: RecovererParts) {
    this.#parts = parts
    this.#loop = new PassLoop(parts.clock, parts.logger, (signal) => this.#pass(signal))
  }

  /** Recovers what earlier processes left open; what can't be recovered yet is tried again until `close`. */
  async recoverAll(): Promise<{ recovered: number; waiting: number }> {
    const rows = await this.#parts.index.segmentsInState(['open', 'recovering'], OPEN_SEGMENTS_MAX)
    const failed = await this.#recoverEach(rows)
    return { recovered: rows.length - failed.length, waiting: failed.length }
  }

  /**
   * Resolves once the segment is closed or its writer is at work in this process: what stores tell of its end is then
   * all that was acknowledged. Rejects with `ledger_recovering` while it can't be recovered. `signal` ends the wait.
   */
  async recover(row: SegmentRow, signal?: AbortSignal): Promise<void> {
    if (isClosed(row.state) || this.#parts.hub.ready(row.incarnation) !== null) return
    try {
      await raced(this.#parts.hub.recover(row), signal)
    } catch (error) {
      signal?.throwIfAborted()
      this.#tryAgain(row)
      throw stillRecovering(row, error)
    }
  }

  /** Ends what it does in the background. */
  close(): Promise<void> {
    return this.#loop.close()
  }

  async #pass(signal: AbortSignal): Promise<PassOutcome> {
    return { failed: await this.#recoverEach([...this.#waiting.values()], signal), nextDueMs: null }
  }

  /** One segment that can't be recovered, for whatever reason, must not keep the others from their readers. */
  async #recoverEach(rows: readonly SegmentRow[], signal?: AbortSignal): Promise<unknown[]> {
    const failed: unknown[] = []
    const queue = [...rows]
    const work = async () => {
      for (let row = queue.shift(); row !== undefined; row = queue.shift()) {
        try {
          signal?.throwIfAborted()
          await this.#parts.hub.recover(row)
          this.#waiting.delete(nameOf(row))
        } catch (error) {
          signal?.throwIfAborted()
          failed.push(error)
          const fields = { err: error, segment: row.segment.toString(), incarnation: row.incarnation }
          this.#parts.logger.warn(fields, 'segment could not be recovered yet')
          this.#tryAgain(row)
        }
      }
    }
    await Promise.all(Array.from({ length: RECOVERIES_MAX }, work))
    return failed
  }

  #tryAgain(row: SegmentRow): void {
    this.#waiting.set(nameOf(row), row)
    if (this.#loop.following) this.#loop.wake(RETRY_MS)
    else this.#loop.follow(RETRY_MS)
  }
}

function nameOf({ incarnation, segment }: SegmentRow): string {
  return `${incarnation}/${segment}`
}

function stillRecovering(row: SegmentRow, error: unknown): unknown {
  if (!isStratalogError(error) || error.code === 'ledger_recovering' || LASTING.includes(error.code)) {
    return error
  }
  return new StratalogError(
    'ledger_recovering',
    `segment ${row.segment} was left open by its writer and can't be recovered yet, so nobody knows where it ends: ${error.message}. It is tried again; so may the read be`,
    { cause: error, retryable: true },
  )
}
