import { isStratalogError, StratalogError } from '../model/errors.js'
import type { Ack } from '../model/record.js'
import type { SegmentRow, StreamRow } from '../model/segment.js'
import type { Lease } from '../ports/coordination.js'
import type { Waiter } from './batch.js'
import { loadProducers } from './load-producers.js'
import {
  type AppendConditions,
  asFailure,
  finishedError,
  refuseBytes,
  refuseFence,
  refuseRecord,
  refuseTail,
} from './refusals.js'
import { SegmentPipe, type StreamTail, type StreamWriterOptions } from './segment-pipe.js'
import type { SegmentContext } from './segment-writer.js'

/** How often the row of a stream is marked anew when another changed it meanwhile. */
const FINISH_ROUNDS_MAX = 8

/**
 * The one writer of a stream: decides record by record what is taken, numbers it, and hands it on to the stream's
 * segments. What is taken is acknowledged in order or fails with everything behind it (`SegmentPipe`).
 */
export class StreamWriter {
  readonly #context: SegmentContext
  readonly #options: StreamWriterOptions
  readonly #lease: Lease
  readonly #pipe: SegmentPipe
  #stream: StreamRow
  /** Where the producers were to be learnt from. */
  readonly #inherited: SegmentRow | null
  #learning = false
  #nextSequenceId: bigint
  #lastTxid: bigint
  #lastAppendMs: number
  #finished = false
  #finishing: Promise<void> | null = null
  #closing: Promise<void> | null = null
  #closedFor: StratalogError | null = null

  constructor(context: SegmentContext, options: StreamWriterOptions, lease: Lease, tail: StreamTail) {
    this.#context = context
    this.#options = options
    this.#lease = lease
    this.#stream = tail.stream
    this.#inherited = tail.newest
    this.#nextSequenceId = tail.nextSequenceId
    this.#lastTxid = tail.lastTxid
    this.#lastAppendMs = context.ledger.clock.nowMs()
    this.#pipe = new SegmentPipe(context, options, tail)
    const lost = () =>
      this.#pipe.fail(new StratalogError('fenced', `another writer took over ${tail.stream.name}`))
    lease.lost.addEventListener('abort', lost, { once: true })
    if (lease.lost.aborted) lost()
  }

  /** Why this writer takes nothing any more; null while it works. */
  get failure(): StratalogError | null {
    return this.#pipe.failure
  }

  /** Whether it takes records, or says for good why not. */
  get works(): boolean {
    return (this.failure === null || this.failure.code === 'fenced') && this.#closing === null
  }

  /** The writer's epoch: what appends may name so that they are taken only while it is this one that takes them. */
  get fence(): bigint {
    return this.#stream.epoch
  }

  /** The open segment as it is planned with; null: none is open. */
  get openSegment(): { row: SegmentRow; lengthBytes: number; lastAppendMs: number; records: bigint } | null {
    const open = this.#pipe.openSegment
    return open === null ? null : { ...open, lastAppendMs: this.#lastAppendMs }
  }

  /** sequenceId the next record will get. */
  get nextSequenceId(): bigint {
    return this.#nextSequenceId
  }

  /** sequenceId behind the last acknowledged record: where readers find the end. */
  get endSequenceId(): bigint {
    return this.#pipe.endSequenceId
  }

  get lastTxid(): bigint {
    return this.#lastTxid
  }

  /**
   * Takes a record; resolves once it is durable on Qa stores, in append order. The payload is copied before this
   * returns. `txid` null: max(last, now).
   */
  append(
    payload: Uint8Array | string,
    txid: bigint | null,
    conditions: AppendConditions | null = null,
  ): Promise<Ack> {
    return new Promise((resolve, reject) => this.appendTo(payload, txid, { resolve, reject }, conditions))
  }

  /**
   * As `append`, for callers that bring their own waiter. Never throws. Records taken in one turn follow each other
   * without another's in between.
   */
  appendTo(
    payload: Uint8Array | string,
    txid: bigint | null,
    waiter: Waiter,
    conditions: AppendConditions | null = null,
  ): void {
    const payloadBytes = typeof payload === 'string' ? Buffer.byteLength(payload, 'utf8') : payload.byteLength
    const nowMs = this.#context.ledger.clock.nowMs()
    if (conditions !== null && this.#answered(conditions, waiter)) return
    const id = txid ?? max(this.#lastTxid, BigInt(nowMs))
    const refused = this.#refuse(payloadBytes, id, conditions)
    if (refused !== null) {
      waiter.reject(refused)
      return
    }
    const producer = conditions?.producer ?? null
    const record = { payload, payloadBytes, txid: id, sequenceId: this.#nextSequenceId }
    this.#nextSequenceId += 1n
    this.#lastTxid = id
    this.#lastAppendMs = nowMs
    this.#pipe.take(record, producer, waiter)
  }

  /** Whether what the append depends on has decided it already: it was refused, or appended before. */
  #answered(conditions: AppendConditions, waiter: Waiter): boolean {
    const { producer, fence, ifTail, togetherBytes } = conditions
    const { name, epoch } = this.#stream
    const tail = this.#nextSequenceId === 0n ? 'empty' : this.#nextSequenceId - 1n
    let refused = this.#refuseAll()
    if (fence !== null && fence !== epoch) refused ??= refuseFence(name, fence, epoch, tail)
    // What comes together with a retry follows it unasked, so there has to be room before the retry is answered.
    if (togetherBytes !== null && togetherBytes > 0) refused ??= this.#refuseRoom(togetherBytes)
    if (refused === null && producer !== null) {
      const look = this.#pipe.producers.look(producer, this.#options.quorum().ack, waiter)
      if (look === 'seen') return true
      if (look !== 'new') refused = look
      if (this.#pipe.producers.unknown !== null) this.#learn()
    }
    // A retry is answered before the tail is looked at: the record itself has moved it.
    if (ifTail !== null && ifTail !== tail) refused ??= refuseTail(name, ifTail, tail)
    if (refused !== null) waiter.reject(refused)
    return refused !== null
  }

  /** Asks the history for its producers again, in the background: who retries may find them known. */
  #learn(): void {
    if (this.#learning || this.#pipe.producers.unknown?.retryable !== true) return
    this.#learning = true
    const learn = async () => {
      const { incarnation } = this.#stream
      const row = this.#inherited && (await this.#context.index.segment(incarnation, this.#inherited.segment))
      this.#pipe.producers.learn(await loadProducers(this.#context, row))
    }
    const done = () => {
      this.#learning = false
    }
    learn().then(done, done)
  }

  /**
   * Seals the open segment with everything taken so far; resolves when it is sealed, at once if there is nothing to
   * seal. Rejects with the writer's failure.
   */
  roll(): Promise<void> {
    return this.#pipe.roll()
  }

  /**
   * Ends the stream for ever: takes nothing more, seals what was taken, then says so in the stream's row and lets the
   * stream go. A crash before that leaves the stream as it was, unless its last record says that it ended. Those that come while it is under way get its outcome.
   */
  finish(): Promise<void> {
    this.#finishing ??= this.#finish().finally(() => {
      this.#finishing = null
    })
    return this.#finishing
  }

  async #finish(): Promise<void> {
    if (this.#stream.finishedMs !== null) return
    const refused = this.#refuseAll()
    if (refused !== null) throw refused
    this.#finished = true
    try {
      if (this.#context.endRecords) this.#pipe.endStream(this.#nextSequenceId, max(this.#lastTxid, 0n))
      await this.roll()
      this.#stream = await this.#markFinished()
    } catch (error) {
      this.#finished = false
      // The mark, or the record that ends the stream, may be there all the same, and behind it nothing may be
      // acknowledged: the next writer looks.
      if (this.#context.endRecords || !isStratalogError(error, 'conflict'))
        this.#pipe.fail(asFailure(error, this.#stream.name))
      throw error
    }
    await this.#letGo()
  }

  /** Nothing is written any more: others need not wait for this process to end. */
  async #letGo(): Promise<void> {
    try {
      await this.#lease.release()
    } catch (error) {
      // The stream is finished all the same, and the lease ends with its session at the latest.
      const { name } = this.#stream
      this.#context.ledger.logger.warn(
        { err: error, stream: name },
        'writer of a finished stream keeps its lease',
      )
    }
  }

  async #markFinished(): Promise<StreamRow> {
    const { incarnation, epoch, name } = this.#stream
    const finishedMs = this.#context.ledger.clock.nowMs()
    for (let round = 1; ; round += 1) {
      const row = await this.#context.index.stream(incarnation)
      // Others change the row too, as a trim does; only a higher epoch says that the stream is not ours any more.
      if (row?.epoch !== epoch) throw new StratalogError('fenced', `another writer took over ${name}`)
      // The index may have read it out of the last segment already.
      if (row.finishedMs !== null) return row
      try {
        return await this.#context.index.updateStream(incarnation, row.version, { finishedMs })
      } catch (error) {
        if (!isStratalogError(error, 'conflict') || round >= FINISH_ROUNDS_MAX) throw error
      }
    }
  }

  /**
   * Seals what is open and gives the stream up; nothing is taken from here on. Idempotent. `reason`: what appends
   * that come later are refused with.
   */
  close(reason: StratalogError | null = null): Promise<void> {
    if (this.#closing === null) this.#closedFor = reason
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    try {
      await this.roll()
    } catch (error) {
      // Whoever appended was told; what is on the stores is recovered at the next start.
      this.#context.ledger.logger.warn(
        { err: error, stream: this.#stream.name },
        'segment left open, it is recovered at the next start',
      )
    }
    await this.#lease.release()
  }

  /** Why nothing is taken at all. */
  #refuseAll(): StratalogError | null {
    const { name, finishedMs } = this.#stream
    if (this.#pipe.failure !== null) return this.#pipe.failure
    if (this.#finished) return finishedError(name, finishedMs)
    if (this.#closing === null) return null
    return this.#closedFor ?? new StratalogError('closed', `the writer of ${name} is closed`)
  }

  #refuse(payloadBytes: number, txid: bigint, conditions: AppendConditions | null): StratalogError | null {
    const refused = this.#refuseAll() ?? refuseRecord(this.#stream.name, payloadBytes, txid, this.#lastTxid)
    if (refused !== null) return refused
    // It came with records that were taken: there was room for all of them.
    if (conditions?.togetherBytes === 0) return null
    return this.#refuseRoom(conditions?.togetherBytes ?? payloadBytes)
  }

  /** Nearly full disks, or more than may wait for them (invariants 10, 11). */
  #refuseRoom(bytes: number): StratalogError | null {
    const full = this.#context.ledger.room?.refusal(() => this.#options.quorum().min)
    if (full) return full
    const { takenBytes } = this.#pipe
    const { takenBytesMax, taken } = this.#options
    // What has nothing under way always may: other streams that don't get on must not keep it waiting for ever.
    if (takenBytes === 0) return null
    if (takenBytes + bytes > takenBytesMax) return refuseBytes(this.#stream.name, takenBytes, takenBytesMax)
    if (taken === undefined || taken.bytes + bytes <= taken.bytesMax) return null
    return refuseBytes('all streams together', taken.bytes, taken.bytesMax)
  }
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b
}
