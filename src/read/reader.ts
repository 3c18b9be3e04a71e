import { setMaxListeners } from 'node:events'
import { present } from '../model/assert.js'
import { Dlsn } from '../model/dlsn.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import type { Gap, LogRecord } from '../model/record.js'
import { isClosed, isHot, type SegmentRow, type StreamRow } from '../model/segment.js'
import { SegmentAhead } from './ahead.js'
import { type Bounds, resolveBounds } from './bounds.js'
import { Changed } from './changed.js'
import type { ReadContext, ReadCounts, ReadRange } from './context.js'
import { openSource } from './open-source.js'
import { type SegmentSource, type SourceEntry, userRecords } from './source.js'

/** Bytes of entries fetched at a time, and held while the consumer works on the ones before. */
const FETCH_BYTES = 1024 * 1024
/** A tier that fails is tried again this often before the reader gives up on the segment. */
const SOURCE_ATTEMPTS_MAX = 4

export type { ReadContext, ReadCounts, ReadRange } from './context.js'

/** Made once: it only ends requests that nobody waits for. */
const READER_ENDED = new Error('the reader has ended')

/**
 * Reads records of a stream in order across tiers (DESIGN.md §3). A segment that changes tier while it is read goes
 * on at the same position from the other tier (invariant 2). Yields batches as they are fetched; a gap is an element
 * of its own.
 */
export async function* readBatches(
  context: ReadContext,
  stream: StreamRow,
  range: ReadRange,
  counts: ReadCounts,
): AsyncGenerator<LogRecord[] | Gap, void, undefined> {
  const { signal } = range
  try {
    const bounds = await resolveBounds(context, stream, range)
    if (bounds.left === 0) return
    yield* new SegmentWalk(context, stream.incarnation, bounds, range.follow ?? false, signal, counts).run()
  } catch (error) {
    // An aborted signal ends a `follow` normally; elsewhere it is the caller's reason that rejects.
    if (signal?.aborted) {
      if (range.follow) return
      throw signal.reason
    }
    throw error
  }
}

class SegmentWalk {
  readonly #context: ReadContext
  readonly #incarnation: string
  readonly #bounds: Bounds
  readonly #follow: boolean
  readonly #signal: AbortSignal | undefined
  readonly #counts: ReadCounts
  /** Next record to read. */
  #at: Dlsn
  #first = true
  /** Ends what is under way when nobody reads on: aborted with the reader's signal, and when the walk ends. */
  readonly #stop = new AbortController()
  readonly #ahead: SegmentAhead

  constructor(
    context: ReadContext,
    incarnation: string,
    bounds: Bounds,
    follow: boolean,
    signal: AbortSignal | undefined,
    counts: ReadCounts,
  ) {
    this.#context = context
    this.#incarnation = incarnation
    this.#bounds = bounds
    this.#follow = follow
    this.#signal = signal
    this.#counts = counts
    // Everything that is read ahead listens to it, which is more than Node.js takes for a leak.
    setMaxListeners(0, this.#stop.signal)
    this.#at = bounds.from
    this.#ahead = new SegmentAhead({
      index: context.index,
      incarnation,
      open: (row) => openSource(context, row, null, this.#stop.signal, true),
      wanted: (row) => this.#wanted(row),
    })
  }

  async *run(): AsyncGenerator<LogRecord[] | Gap, void, undefined> {
    const relay = () => this.#stop.abort(this.#signal?.reason)
    this.#signal?.addEventListener('abort', relay, { once: true })
    try {
      yield* this.#walk()
    } finally {
      this.#signal?.removeEventListener('abort', relay)
      // Whoever leaves the loop early leaves requests behind: they end with it.
      this.#stop.abort(READER_ENDED)
      this.#ahead.close()
    }
  }

  async *#walk(): AsyncGenerator<LogRecord[] | Gap, void, undefined> {
    while (!this.#done()) {
      this.#signal?.throwIfAborted()
      const changed = this.#armWatch()
      try {
        // Before the rows: a stream that was finished by then gets no segment any more that could be missed.
        const finished = this.#follow && (await this.#finished())
        const row = await this.#currentRow()
        if (row === null) {
          if (!this.#follow || finished) return
          await changed.wait()
        } else if (isLost(row) && this.#isBeyond(row)) {
          // What is gone there was never asked for.
          return
        } else if (
          isLost(row) ||
          row.segment > this.#at.segment ||
          this.#at.compare(await this.#trimmed()) < 0
        ) {
          yield* this.#skipTo(row)
        } else if (!(yield* this.#segment(row, changed))) return
      } finally {
        changed.close()
      }
    }
  }

  #done(): boolean {
    const { until, left } = this.#bounds
    return left <= 0 || (until !== null && this.#at.compare(until) >= 0)
  }

  /** The row the position lies in, or the next one; null: beyond everything there is. */
  async #currentRow(): Promise<SegmentRow | null> {
    const [row] = await this.#context.index.listSegments(this.#incarnation, this.#at.segment, 1)
    return row ?? null
  }

  async #finished(): Promise<boolean> {
    const stream = await this.#context.index.stream(this.#incarnation)
    return stream !== null && stream.finishedMs !== null
  }

  async #trimmed(): Promise<Dlsn> {
    const stream = await this.#context.index.stream(this.#incarnation)
    if (stream === null)
      throw new StratalogError('stream_not_found', 'the stream was deleted while it was read')
    return stream.trimmedBelow ?? new Dlsn(0n, 0n, 0n)
  }

  /** Moves on to what is there, with a gap where the caller asked for what is not. */
  async *#skipTo(row: SegmentRow): AsyncGenerator<Gap, void, undefined> {
    // What lies below a gap and has no row any more was trimmed: the gap's reason is not its own.
    const forgotten = row.state === 'gap' && row.segment > this.#at.segment
    const isGap = row.state === 'gap' && !forgotten
    const lost = isLost(row) && !forgotten
    const whole = this.#at.entry === 0n && this.#at.slot === 0n
    const trimmed = await this.#trimmed()
    let until = lost ? new Dlsn(row.segment + 1n, 0n, 0n) : new Dlsn(row.segment, 0n, 0n)
    if (until.compare(trimmed) < 0) until = trimmed
    const next = await this.#context.index.listSegments(this.#incarnation, until.segment, 1)
    // Above everything there is: the position lies in a number that is not written yet, nothing is lost.
    const beyond = !lost && row.segment > this.#at.segment && this.#at.compare(trimmed) >= 0
    // What is trimmed is history that ended: who asks for the earliest there is wants what is left. A hole is told of.
    if (!beyond && (isGap || this.#bounds.explicit || !this.#first)) {
      yield {
        gap: isGap ? (row.gapReason ?? 'corrupt') : 'trimmed',
        from: this.#at,
        until,
        // In the middle of a segment nobody knows any more how many records there were before.
        firstSequenceId: isGap && whole ? row.startSequenceId : null,
        lastSequenceId: next[0] === undefined ? null : next[0].startSequenceId - 1n,
      }
    }
    this.#first = false
    this.#at = until
  }

  /** Reads on in one segment; false: the read ends here. */
  async *#segment(row: SegmentRow, changed: Changed): AsyncGenerator<LogRecord[], boolean, undefined> {
    let avoid: 'hot' | 'cold' | null = null
    for (let attempt = 1; ; attempt += 1) {
      let source: SegmentSource | null = null
      try {
        source = await (this.#ahead.take(row) ?? openSource(this.#context, row, avoid, this.#stop.signal))
        const last: bigint = isClosed(row.state) ? row.lastEntryId : await source.lastEntry()
        const served = yield* this.#entries(row, source, last)
        if (served === 'ended') return false
        if (isClosed(row.state)) {
          this.#at = new Dlsn(row.segment + 1n, 0n, 0n)
          return true
        }
        return await this.#openSegmentEnd(row, source, last, changed)
      } catch (error) {
        this.#signal?.throwIfAborted()
        const fresh = await this.#context.index.segment(this.#incarnation, row.segment)
        const moved = fresh === null || fresh.version !== row.version
        if (moved) return true
        // The same row and a failure: the other tier may still have it.
        const tier: 'hot' | 'cold' = isHot(row) && avoid !== 'hot' ? 'hot' : 'cold'
        if (attempt >= SOURCE_ATTEMPTS_MAX || !mayRetry(error) || (row.object === null && !retryable(error)))
          throw error
        this.#context.logger.warn(
          { err: error, segment: row.segment.toString(), tier },
          'reading a segment failed, trying again',
        )
        avoid = tier
        await this.#context.clock.sleep(10 * 2 ** attempt, this.#signal)
      } finally {
        source?.close?.()
      }
    }
  }

  /** Whether the read goes on as far as to that segment, as far as is known. */
  #wanted(row: SegmentRow): boolean {
    // How many records come before it is not known here: a read with a limit fetches nothing of what may be beyond.
    return this.#bounds.left === Number.POSITIVE_INFINITY && !this.#isBeyond(row)
  }

  /** Whether all of a segment lies behind the end of the read, as far as is known. */
  #isBeyond(row: SegmentRow): boolean {
    const { until, untilTxid, untilSequenceId } = this.#bounds
    if (until !== null && until.compare(new Dlsn(row.segment, 0n, 0n)) <= 0) return true
    if (untilTxid !== null && row.firstTxid >= untilTxid) return true
    return untilSequenceId !== null && row.startSequenceId >= untilSequenceId
  }

  /** At the visible end of an open segment: whether it was sealed meanwhile, and waiting if the reader follows. */
  async #openSegmentEnd(
    row: SegmentRow,
    source: SegmentSource,
    last: bigint,
    changed: Changed,
  ): Promise<boolean> {
    await this.#recover(row)
    const fresh = await this.#context.index.segment(this.#incarnation, row.segment)
    if (fresh === null || fresh.version !== row.version) return true
    if (!this.#follow) return false
    // Another replica may know less than what was read already.
    const seen = this.#at.entry - 1n > last ? this.#at.entry - 1n : last
    await changed.orElse((signal) => source.waitAbove(seen, signal))
    return true
  }

  /**
   * A segment whose writer is gone is recovered before a read may end there. A follower waits for it: it is not at
   * its end, whatever there is to come.
   */
  async #recover(row: SegmentRow): Promise<void> {
    try {
      await this.#context.recover?.(row, this.#signal)
    } catch (error) {
      if (!this.#follow || !isStratalogError(error, 'ledger_recovering')) throw error
      this.#context.logger.debug(
        { err: error, segment: row.segment.toString() },
        'a follower waits for a recovery',
      )
    }
  }

  async *#entries(
    row: SegmentRow,
    source: SegmentSource,
    last: bigint,
  ): AsyncGenerator<LogRecord[], 'ended' | 'drained', undefined> {
    const until = this.#bounds.until
    const end = until !== null && until.segment === row.segment && until.entry < last ? until.entry : last
    // The little that a whole fetch would leave over is not worth another one.
    const fetchBytes = row.lengthBytes <= 1.25 * FETCH_BYTES ? 1.25 * FETCH_BYTES : FETCH_BYTES
    const { signal } = this.#stop
    let next: Promise<readonly SourceEntry[]> | null = null
    let failed = false
    try {
      while (this.#at.entry <= end) {
        this.#signal?.throwIfAborted()
        const fetching = next ?? source.readEntries(this.#at.entry, end, fetchBytes, signal)
        next = null
        const entries: readonly SourceEntry[] = await fetching
        const following: bigint = present(entries.at(-1), 'an entry').entryId + 1n
        // The next fetch runs while the consumer works on this one. From an archive the first record comes first: what
        // is fetched ahead of it would be asked for before anybody has seen that the read goes on.
        const early = this.#first && source.tier === 'cold'
        next =
          following <= end && this.#bounds.left > 0 && !early
            ? source.readEntries(following, end, fetchBytes, signal)
            : null
        next?.catch(() => {})
        if (!early) this.#ahead.top(row.segment, source.roomBeyond?.(following) ?? 0)
        const batch = this.#decode(row, entries)
        this.#at = new Dlsn(row.segment, following, 0n)
        this.#first = false
        this.#counts[source.tier] += batch.records.length
        if (batch.records.length > 0) yield batch.records
        if (batch.ended || this.#bounds.left <= 0) return 'ended'
        if (early) this.#ahead.top(row.segment, source.roomBeyond?.(following) ?? 0)
      }
    } catch (error) {
      failed = true
      throw error
    } finally {
      // Left while the next fetch runs: nobody reads on, so it ends. After a failure another copy may be tried.
      if (!failed && next !== null) this.#stop.abort(READER_ENDED)
      await next?.catch(() => {})
    }
    return until !== null && this.#at.compare(until) >= 0 ? 'ended' : 'drained'
  }

  #decode(row: SegmentRow, entries: readonly SourceEntry[]): { records: LogRecord[]; ended: boolean } {
    const records: LogRecord[] = []
    const { until, untilTxid, untilSequenceId, fromTxid, fromSequenceId } = this.#bounds
    const before = row.startSequenceId - 1n
    for (const entry of entries) {
      for (const record of userRecords(entry.payload)) {
        const slot = BigInt(record.slot)
        if (entry.entryId === this.#at.entry && slot < this.#at.slot) continue
        const dlsn = new Dlsn(row.segment, entry.entryId, slot)
        const sequenceId = before + BigInt(record.position)
        const beyond =
          (until !== null && dlsn.compare(until) >= 0) ||
          (untilTxid !== null && record.txid >= untilTxid) ||
          (untilSequenceId !== null && sequenceId >= untilSequenceId)
        if (beyond || this.#bounds.left <= 0) return { records, ended: true }
        if (
          (fromTxid !== null && record.txid < fromTxid) ||
          (fromSequenceId !== null && sequenceId < fromSequenceId)
        )
          continue
        records.push({ dlsn, txid: record.txid, sequenceId, value: record.payload, payload: record.payload })
        this.#bounds.left -= 1
      }
    }
    return { records, ended: false }
  }

  /** Armed before the row is looked at, so that no change between the look and the wait is missed. */
  #armWatch(): Changed {
    return this.#follow ? new Changed(this.#context.index, this.#incarnation, this.#signal) : Changed.never()
  }
}

function isLost(row: SegmentRow): boolean {
  return row.state === 'trimmed' || row.state === 'gap'
}

function retryable(error: unknown): boolean {
  return isStratalogError(error) && error.retryable
}

/** Bugs of ours and refusals are not retried; what a disk or an archive says is. */
function mayRetry(error: unknown): boolean {
  return (
    isStratalogError(error) &&
    !isStratalogError(error, 'internal') &&
    // It takes hours: whoever reads is told at once.
    !isStratalogError(error, 'thawing') &&
    !isStratalogError(error, 'version_unsupported')
  )
}
