import type { ClonedStream } from '../tiering/clone.js'
import type { EvictStep } from '../tiering/evict-range.js'
import type { PutHold } from '../tiering/hold-changes.js'
import type { StandingHold } from '../tiering/holds.js'
import type { RecallProgress } from '../tiering/recall.js'
import {
  type AppendAllOptions,
  type AppendBatchOptions,
  type AppendOptions,
  AppendSession,
  type AppendSummary,
  type BatchAck,
  batchOf,
  checkPayload,
  checkTxid,
  conditionsOf,
  sessionConditions,
} from './append/append-session.js'
import type { StreamWriter } from './append/stream-writer.js'
import type { WriterHub } from './append/writer-hub.js'
import { present } from './model/assert.js'
import type { Codec } from './model/codec.js'
import type { LocatedPosition, ReadExplanation } from './model/control-read.js'
import { Dlsn } from './model/dlsn.js'
import { StratalogError } from './model/errors.js'
import { explainText } from './model/explain-text.js'
import type { ResolvedPolicy } from './model/policy.js'
import type { PolicyInput } from './model/policy-input.js'
import type { Position } from './model/position.js'
import type { Ack, Gap, LogRecord } from './model/record.js'
import { isClosed, type SegmentRow, type StreamRow, type TxidMode } from './model/segment.js'
import type { SegmentTotals } from './ports/segment-index.js'
import { type ExplainContext, explainRead } from './read/explain.js'
import { locatePosition } from './read/locate-position.js'
import { type ReadContext, type ReadCounts, type ReadRange, readBatches } from './read/reader.js'
import type {
  CloneOptions,
  EvictReport,
  HoldOptions,
  RangeOptions,
  RecallOptions,
  StreamTiering,
  TrimOptions,
  TrimReport,
} from './stream-tiering.js'

/** What is to be read, and what becomes of gaps. */
export interface ReadOptions extends ReadRange {
  /** `throw` (default): a gap rejects with code `gap`. `yield`: gaps come as elements. */
  readonly onGap?: 'throw' | 'yield'
}

/** Records of a range, one by one, or in the batches they were fetched in. Each iteration reads anew. */
export interface Records<E> extends AsyncIterable<E> {
  batches(): AsyncIterable<E[]>
  /** How many records of the latest iteration came from each tier so far. */
  readonly counts: Readonly<ReadCounts>
}

/** Ends and counts of a stream. */
export interface StreamInfo {
  readonly name: string
  readonly incarnation: string
  readonly txid: TxidMode
  readonly createdMs: number
  readonly trimmedBelow: Dlsn | null
  /** When it was finished, milliseconds since the epoch; null: it was not. */
  readonly finishedMs: number | null
  readonly first: Dlsn | null
  /** Where the open segment ends for readers is only known to them; this is the last of the closed ones or null. */
  readonly newestSegment: bigint | null
  /** sequenceId the next record gets. */
  readonly nextSequenceId: bigint
  readonly lastTxid: bigint | null
  readonly totals: SegmentTotals
}

/** What reading a range would take; `toString()` tells it to people. */
export type Explanation = ReadExplanation & { toString(): string }

/** What stream handles share: the services of their log. */
export interface StreamServices {
  readonly hub: WriterHub
  readonly read: ReadContext
  /** What explanations of reads of a stream go by. */
  explaining(stream: StreamRow): Promise<ExplainContext>
  /** The stream, or null. */
  find(name: string): Promise<StreamRow | null>
  /** The stream, created where the policy allows it. */
  ensure(name: string): Promise<StreamRow>
  /** `stream_not_found` with the nearest names. */
  notFound(name: string): Promise<StratalogError>
  policy(stream: StreamRow): Promise<ResolvedPolicy>
  setPolicy(stream: StreamRow, policy: PolicyInput | null): Promise<void>
  /** Something was appended to a stream that was idle. */
  appended(): void
  /** Holds, trims, recalls and evictions by hand; absent where there is no tiering. */
  readonly tiering?: StreamTiering
}

/**
 * A stream by name: no I/O until a method is called, nothing to close. Made by `log.stream(name)`.
 *
 * @typeParam T what the codec makes of payloads
 */
export class Stream<T = Uint8Array | string> {
  readonly name: string
  readonly #services: StreamServices
  readonly #codec: Codec<T>
  #writer: StreamWriter | null = null
  #opening: Promise<StreamWriter> | null = null
  /** Appends that wait for the writer: none may overtake them. */
  #waiting = 0

  /** @internal */
  constructor(services: StreamServices, name: string, codec: Codec<T>) {
    this.#services = services
    this.name = name
    this.#codec = codec
  }

  /**
   * Appends one record; resolves when it is durable on the policy's `quorum.ack` stores. Records appended without
   * awaiting keep their order. Creates the stream where the policy allows it.
   */
  append(value: T, options: AppendOptions = {}): Promise<Ack> {
    try {
      const payload = checkPayload(this.#codec.encode(value))
      const txid = checkTxid(options.txid)
      const conditions = conditionsOf(options)
      const writer = this.#writer
      if (writer?.works && this.#waiting === 0) return writer.append(payload, txid, conditions)
      // The value is the caller's again when this returns, and the writer is not there yet to copy it.
      // `slice` would not do: that of a Buffer shares the bytes.
      const copied = typeof payload === 'string' ? payload : new Uint8Array(payload)
      this.#waiting += 1
      return this.#opened().then(
        (opened) => {
          this.#waiting -= 1
          return opened.append(copied, txid, conditions)
        },
        (error: unknown) => {
          this.#waiting -= 1
          throw error
        },
      )
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /** The stream's writer, opened once for all appends that wait for it, which then go in the order they came. */
  #opened(): Promise<StreamWriter> {
    if (this.#opening === null) {
      const opening = this.#open()
      this.#opening = opening
      const settled = (writer: StreamWriter | null) => {
        this.#opening = null
        this.#writer = writer
      }
      opening.then(settled, () => settled(null))
    }
    return this.#opening
  }

  async #open(): Promise<StreamWriter> {
    const row = await this.#services.ensure(this.name)
    const writer = await this.#services.hub.writer(row)
    this.#services.appended()
    return writer
  }

  /**
   * Appends some records one behind the other, with no other record in between; none of them if one can't be
   * appended or what the batch depends on does not hold. A crash may keep the first of them: named by a producer the
   * batch can be sent again. At most 8 MiB.
   */
  async appendBatch(values: readonly T[], options: AppendBatchOptions<T> = {}): Promise<BatchAck> {
    const records = batchOf(values, options, (value) => this.#codec.encode(value))
    const session = new AppendSession()
    const writer = await this.#opened()
    for (const { payload, txid, conditions } of records) {
      session.throwIfFailed()
      writer.appendTo(payload, txid, session.take(payload), conditions)
    }
    const { first, last, count, duplicate } = await session.finish()
    return { first, last, count, duplicate }
  }

  /**
   * Appends what an iterable yields, in order, with a bounded number of records under way. Rejects with the first
   * failure, and nothing behind it is appended; what was acknowledged before it stays. With a `producer`, running it
   * again from the beginning appends only what is not there yet.
   */
  async appendAll(
    values: Iterable<T> | AsyncIterable<T>,
    options: AppendAllOptions<T> = {},
  ): Promise<AppendSummary> {
    const { signal, onProgress } = options
    const conditions = sessionConditions(options)
    const writer = await this.#opened()
    const session = new AppendSession(onProgress)
    for await (const value of values) {
      signal?.throwIfAborted()
      session.throwIfFailed()
      const payload = checkPayload(this.#codec.encode(value))
      const txid = options.txid === undefined ? null : checkTxid(options.txid(value))
      writer.appendTo(payload, txid, session.take(payload), conditions(value))
      if (session.full) await session.room(signal)
    }
    return session.finish()
  }

  /**
   * Takes the stream over and gives a token for appends (`fence`): they are refused with `fenced` once anybody has
   * called this again, or another process has become the writer. What was appended before is durable by then.
   */
  async fence(): Promise<bigint> {
    const row = await this.#services.ensure(this.name)
    const writer = await this.#services.hub.renew(row)
    return writer.fence
  }

  /** Ends the stream for ever: what was appended is sealed, later appends fail with `stream_finished`. Idempotent. */
  async finish(): Promise<void> {
    const row = await this.#existing()
    if (row.finishedMs !== null) return
    const writer = await this.#services.hub.writer(row)
    await writer.finish()
  }

  /**
   * Records of a range, hot or cold: you can't tell. Rejects with `stream_not_found` for an unknown stream, and with
   * `ledger_recovering` (retryable) where a segment that a dead process left open can't be recovered yet: it never
   * ends before a record that was acknowledged.
   */
  read(options: ReadOptions & { onGap: 'yield' }): Records<LogRecord<T> | Gap>
  read(options?: ReadOptions): Records<LogRecord<T>>
  read(options: ReadOptions = {}): Records<LogRecord<T> | Gap> {
    const counts: ReadCounts = { hot: 0, cold: 0 }
    const batches = () => this.#batches(options, counts)
    return {
      counts,
      batches,
      async *[Symbol.asyncIterator]() {
        for await (const batch of batches()) yield* batch
      },
    }
  }

  async *#batches(
    options: ReadOptions,
    counts: ReadCounts,
  ): AsyncGenerator<(LogRecord<T> | Gap)[], void, undefined> {
    counts.hot = 0
    counts.cold = 0
    const stream = await this.#existing()
    for await (const batch of readBatches(this.#services.read, stream, options, counts)) {
      if (!Array.isArray(batch)) {
        if (options.onGap !== 'yield') throw gapError(this.name, batch)
        yield [batch]
        continue
      }
      yield this.#decoded(batch)
    }
  }

  /** The same records with what the codec makes of them: they are this reader's own, and copying each takes time. */
  #decoded(batch: LogRecord[]): LogRecord<T>[] {
    const records = batch as LogRecord<unknown>[] as { value: unknown; readonly payload: Uint8Array }[]
    for (const record of records) record.value = this.#codec.decode(record.payload)
    return batch as LogRecord<unknown>[] as LogRecord<T>[]
  }

  /**
   * What reading a range would take, without reading it: records, bytes, and for each segment its tier, where it is and
   * how many requests. Of the archive only what tells where the range begins and ends is fetched.
   *
   * @example
   * ```ts
   * import { openLog } from 'stratalog'
   * await using log = await openLog('./data')
   * const plan = await log.stream('trades').explain({ from: { time: '2025-01-01Z' } })
   * console.log(plan.toString(), plan.requests)
   * ```
   */
  async explain(range: Pick<ReadRange, 'from' | 'after' | 'until' | 'signal'> = {}): Promise<Explanation> {
    const row = await this.#existing()
    const found = await explainRead(await this.#services.explaining(row), row, range)
    return Object.defineProperty(found, 'toString', {
      value: () => explainText(found).join('\n'),
    }) as Explanation
  }

  /**
   * Where the first record at or beyond a position lies: its DLSN, segment, ledger, object and block. Rejects with
   * `position_out_of_range` for a DLSN or sequenceId beyond the end.
   */
  async locate(position: Position): Promise<LocatedPosition> {
    return locatePosition(this.#services.read, await this.#existing(), position)
  }

  /**
   * Ends and counts. Rejects with `stream_not_found`, and with `ledger_recovering` (retryable) while nobody can know
   * where a segment ends that a dead process left open.
   */
  async info(): Promise<StreamInfo> {
    const row = await this.#existing()
    const { index } = this.#services.read
    const newest = await this.#newest(row)
    const [oldest, totals] = await Promise.all([
      index.oldestSegment(row.incarnation),
      index.totals(row.incarnation),
    ])
    const begins = oldest === null ? null : new Dlsn(oldest.segment, 0n, 0n)
    const { trimmedBelow } = row
    const cut = begins !== null && trimmedBelow !== null && begins.compare(trimmedBelow) < 0
    const first = cut ? trimmedBelow : begins
    const writer = this.#services.hub.ready(row.incarnation)
    return {
      name: row.name,
      incarnation: row.incarnation,
      txid: row.txidMode,
      createdMs: row.createdMs,
      trimmedBelow: row.trimmedBelow,
      finishedMs: row.finishedMs,
      first,
      newestSegment: newest?.segment ?? null,
      nextSequenceId: writer?.nextSequenceId ?? endOf(newest),
      lastTxid: writer?.lastTxid ?? (newest === null || !isClosed(newest.state) ? null : newest.lastTxid),
      totals,
    }
  }

  /** The last `count` records. */
  async tail(count: number): Promise<LogRecord<T>[]> {
    const records: LogRecord<T>[] = []
    const row = await this.#existing()
    const newest = await this.#newest(row)
    const end = this.#services.hub.ready(row.incarnation)?.endSequenceId ?? endOf(newest)
    const from = end > BigInt(count) ? { sequenceId: end - BigInt(count) } : 'earliest'
    for await (const record of this.read({ from, limit: count })) records.push(record)
    return records
  }

  /** The policy in force, with the origin of each value. */
  async policy(): Promise<ResolvedPolicy> {
    return this.#services.policy(await this.#existing())
  }

  /** Overrides fields of the policy for this stream; null takes the override back. Creates the stream if need be. */
  async setPolicy(policy: PolicyInput | null): Promise<void> {
    await this.#services.setPolicy(await this.#services.ensure(this.name), policy)
  }

  /** Seals the open segment now; what is appended later begins another. */
  async seal(): Promise<void> {
    const row = await this.#existing()
    const newest = await this.#services.read.index.newestSegment(row.incarnation)
    if (newest !== null && !isClosed(newest.state)) await this.#services.hub.seal(row, newest.segment)
  }

  /**
   * Puts a legal hold: while it stands nothing it binds is trimmed, dropped, collected or deleted, whatever policies
   * say. Resolves once that is sure; `trimmedBelow` says what had ended before. Holds may overlap.
   *
   * @example
   * ```ts
   * import { openLog } from 'stratalog'
   * const log = await openLog('./data')
   * await log.stream('audit').hold({ id: 'case-4711', from: { time: '2026-01-01' }, reason: 'court order' })
   * ```
   */
  async hold(options: HoldOptions): Promise<PutHold> {
    return this.#tiering().hold(await this.#existing(), options)
  }

  /** Ends a hold; returns what still stands. `not_found`, and `refused` for one of the policy or a pin. */
  async release(id: string): Promise<StandingHold[]> {
    return this.#tiering().release(await this.#existing(), id)
  }

  /** Every hold that stands, with who put it: by hand, a policy, or what only the archive knows of. */
  async holds(): Promise<StandingHold[]> {
    return this.#tiering().holds(await this.#existing())
  }

  /**
   * Ends the old end of history in both tiers: readers begin at `below`, and whole segments under it are deleted. What
   * a hold binds stays, and all that lies behind it: `held` says so.
   *
   * @example
   * ```ts
   * import { openLog } from 'stratalog'
   * const log = await openLog('./data')
   * const what = await log.stream('clicks').trim({ before: { time: '2026-01-01' }, dryRun: true })
   * console.log(what.segments, what.held?.hold.id)
   * ```
   */
  async trim(options: TrimOptions): Promise<TrimReport> {
    return this.#tiering().trim(await this.#existing(), options)
  }

  /**
   * Brings the cold segments of a range back into the hot tier for a time; resolves with what was done. Aborted, or
   * after a crash, running it again goes on. They are freed when the time is over, or by `evict`.
   *
   * @example
   * ```ts
   * import { openLog } from 'stratalog'
   * const log = await openLog('./data')
   * await log.stream('audit').recall({ from: { time: '2026-01-01' }, until: { time: '2026-02-01' } }, { for: '7d' })
   * ```
   */
  async recall(range: RangeOptions, options: RecallOptions): Promise<RecallProgress | null> {
    let last: RecallProgress | null = null
    for await (const progress of this.#tiering().recall(await this.#existing(), range, options)) {
      last = progress
      options.onProgress?.(progress)
    }
    return last
  }

  /**
   * Frees the hot copies of a range at once. What is not in the archive yet is sealed, copied and read back first;
   * nothing is freed that is not verified there.
   */
  async evict(
    range: RangeOptions = {},
    options: { readonly signal?: AbortSignal; readonly onStep?: (step: EvictStep) => void } = {},
  ): Promise<EvictReport> {
    const report = { sealed: 0, copied: 0, evicted: 0, freedBytes: 0 }
    for await (const step of this.#tiering().evict(await this.#existing(), range, options.signal)) {
      if (step.kind === 'seal') report.sealed += 1
      else if (step.kind === 'copy') report.copied += 1
      else {
        report.evicted += 1
        report.freedBytes += step.bytes
      }
      options.onStep?.(step)
    }
    return report
  }

  /** Makes a stream that begins with the history of this one and shares its objects; see `Streams.clone`. */
  async clone(name: string, options: CloneOptions = {}): Promise<ClonedStream> {
    return this.#tiering().clone(await this.#existing(), name, options)
  }

  /** The stream as the index has it now. Rejects with `stream_not_found`. @internal */
  row(): Promise<StreamRow> {
    return this.#existing()
  }

  #tiering(): StreamTiering {
    return present(this.#services.tiering, 'tiering of the log')
  }

  /** The newest segment; one whose writer is gone is recovered first: before that nobody knows where it ends. */
  async #newest({ incarnation }: StreamRow): Promise<SegmentRow | null> {
    const { index, recover } = this.#services.read
    const newest = await index.newestSegment(incarnation)
    if (newest === null || isClosed(newest.state) || recover === undefined) return newest
    await recover(newest)
    return index.newestSegment(incarnation)
  }

  async #existing(): Promise<StreamRow> {
    const row = await this.#services.find(this.name)
    if (row === null) throw await this.#services.notFound(this.name)
    return row
  }
}

function endOf(newest: SegmentRow | null): bigint {
  return newest === null ? 0n : newest.startSequenceId + newest.recordCount
}

function gapError(name: string, gap: Gap): StratalogError {
  return new StratalogError(
    'gap',
    `${name} has a gap from ${gap.from} until ${gap.until} (${gap.gap}): read from ${gap.until}, or pass onGap: 'yield'`,
    {
      found: gap,
    },
  )
}
