import type { StreamWriter } from './append/stream-writer.js'
import type { WriterHub } from './append/writer-hub.js'
import type { Codec } from './model/codec.js'
import { Dlsn } from './model/dlsn.js'
import { StratalogError } from './model/errors.js'
import type { ResolvedPolicy } from './model/policy.js'
import type { PolicyInput } from './model/policy-input.js'
import type { Ack, Gap, LogRecord } from './model/record.js'
import { isClosed, type SegmentRow, type StreamRow, type TxidMode } from './model/segment.js'
import type { SegmentTotals } from './ports/segment-index.js'
import { type ReadContext, type ReadCounts, type ReadRange, readBatches } from './read/reader.js'

/** Records an `appendAll` session has under way at most. */
const SESSION_RECORDS_MAX = 8_192
/** Payload bytes an `appendAll` session has under way at most. */
const SESSION_BYTES_MAX = 8 * 1024 * 1024

export interface AppendOptions {
  /** A position of your own, not below the last one. Default: max(last, now in milliseconds). */
  readonly txid?: bigint
}

export interface AppendAllOptions<T> {
  /** The txid of each value; not below the one before. */
  readonly txid?: (value: T) => bigint
  readonly signal?: AbortSignal
  /** Called now and then with what is durable so far. */
  readonly onProgress?: (done: { count: number; bytes: number }) => void
}

/** What an `appendAll` session wrote; `first` and `last` are null for no record. */
export interface AppendSummary {
  readonly first: Dlsn | null
  readonly last: Dlsn | null
  readonly count: number
  readonly bytes: number
  readonly duplicate: boolean
}

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
  readonly first: Dlsn | null
  /** Where the open segment ends for readers is only known to them; this is the last of the closed ones or null. */
  readonly newestSegment: bigint | null
  /** sequenceId the next record gets. */
  readonly nextSequenceId: bigint
  readonly lastTxid: bigint | null
  readonly totals: SegmentTotals
}

/** What stream handles share: the services of their log. */
export interface StreamServices {
  readonly hub: WriterHub
  readonly read: ReadContext
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
      const writer = this.#writer
      const works = writer !== null && (writer.failure === null || writer.failure.code === 'fenced')
      if (works && this.#waiting === 0) return writer.append(payload, txid)
      // The value is the caller's again when this returns, and the writer is not there yet to copy it.
      // `slice` would not do: that of a Buffer shares the bytes.
      const copied = typeof payload === 'string' ? payload : new Uint8Array(payload)
      this.#waiting += 1
      return this.#opened().then(
        (opened) => {
          this.#waiting -= 1
          return opened.append(copied, txid)
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
   * Appends what an iterable yields, in order, with a bounded number of records under way. Rejects with the first
   * failure; what was acknowledged before it stays.
   */
  async appendAll(
    values: Iterable<T> | AsyncIterable<T>,
    options: AppendAllOptions<T> = {},
  ): Promise<AppendSummary> {
    const { signal, onProgress } = options
    const writer = await this.#opened()
    const session = new AppendSession(onProgress)
    for await (const value of values) {
      signal?.throwIfAborted()
      session.throwIfFailed()
      const payload = checkPayload(this.#codec.encode(value))
      writer.appendTo(
        payload,
        options.txid === undefined ? null : checkTxid(options.txid(value)),
        session.take(payload),
      )
      if (session.full) await session.room()
    }
    return session.finish()
  }

  /** Records of a range, hot or cold: you can't tell. Rejects with `stream_not_found` for an unknown stream. */
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
      yield batch.map((record) => ({ ...record, value: this.#codec.decode(record.payload) }))
    }
  }

  /** Ends and counts. Rejects with `stream_not_found`. */
  async info(): Promise<StreamInfo> {
    const row = await this.#existing()
    const { index } = this.#services.read
    const [oldest, newest, totals] = await Promise.all([
      index.oldestSegment(row.incarnation),
      index.newestSegment(row.incarnation),
      index.totals(row.incarnation),
    ])
    const first = oldest === null ? null : new Dlsn(oldest.segment, 0n, 0n)
    const writer = this.#services.hub.ready(row.incarnation)
    return {
      name: row.name,
      incarnation: row.incarnation,
      txid: row.txidMode,
      createdMs: row.createdMs,
      trimmedBelow: row.trimmedBelow,
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
    const { hub, read } = this.#services
    const end =
      hub.ready(row.incarnation)?.endSequenceId ?? endOf(await read.index.newestSegment(row.incarnation))
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

  async #existing(): Promise<StreamRow> {
    const row = await this.#services.find(this.name)
    if (row === null) throw await this.#services.notFound(this.name)
    return row
  }
}

/** Counts what one `appendAll` has under way and remembers its first failure. */
class AppendSession {
  readonly #onProgress: AppendAllOptions<unknown>['onProgress']
  #count = 0
  #done = 0
  #underWayBytes = 0
  #doneBytes = 0
  #first: Ack | null = null
  #last: Ack | null = null
  #failure: Error | null = null
  #wake: (() => void) | null = null

  constructor(onProgress: AppendAllOptions<unknown>['onProgress']) {
    this.#onProgress = onProgress
  }

  take(payload: Uint8Array | string): { resolve(ack: Ack): void; reject(error: Error): void } {
    const bytes = typeof payload === 'string' ? Buffer.byteLength(payload) : payload.byteLength
    this.#count += 1
    this.#underWayBytes += bytes
    return {
      resolve: (ack) => {
        this.#done += 1
        this.#underWayBytes -= bytes
        this.#doneBytes += bytes
        this.#first ??= ack
        this.#last = ack
        this.#wakeUp()
      },
      reject: (error) => {
        this.#done += 1
        this.#underWayBytes -= bytes
        this.#failure ??= error
        this.#wakeUp()
      },
    }
  }

  get full(): boolean {
    return this.#count - this.#done >= SESSION_RECORDS_MAX || this.#underWayBytes >= SESSION_BYTES_MAX
  }

  throwIfFailed(): void {
    if (this.#failure !== null) throw this.#failure
  }

  async room(): Promise<void> {
    // Half of the window at a time: a wake-up for each record would cost more than the record.
    while (
      this.#failure === null &&
      (this.#count - this.#done > SESSION_RECORDS_MAX / 2 || this.#underWayBytes > SESSION_BYTES_MAX / 2)
    ) {
      await this.#nextAck()
    }
    this.#onProgress?.({ count: this.#done, bytes: this.#doneBytes })
    this.throwIfFailed()
  }

  async finish(): Promise<AppendSummary> {
    while (this.#done < this.#count) await this.#nextAck()
    this.throwIfFailed()
    this.#onProgress?.({ count: this.#done, bytes: this.#doneBytes })
    return {
      first: this.#first?.dlsn ?? null,
      last: this.#last?.dlsn ?? null,
      count: this.#count,
      bytes: this.#doneBytes,
      duplicate: false,
    }
  }

  #nextAck(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve
    })
  }

  #wakeUp(): void {
    this.#wake?.()
    this.#wake = null
  }
}

function checkPayload(payload: Uint8Array | string): Uint8Array | string {
  if (typeof payload === 'string' || payload instanceof Uint8Array) return payload
  const what = payload === null ? 'null' : `a ${typeof payload}`
  throw new StratalogError(
    'invalid_argument',
    `${what} can't be appended: give text or bytes, or use a codec, as json()`,
  )
}

function checkTxid(txid: bigint | undefined): bigint | null {
  if (txid === undefined) return null
  if (typeof txid !== 'bigint') {
    throw new StratalogError(
      'txid_out_of_range',
      `txid ${String(txid)} is a ${typeof txid}: use a bigint, as ${String(txid)}n`,
      { found: txid },
    )
  }
  return txid
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
