import type { EntryWaiter } from '../ledger/writer.js'
import { assert, present } from '../model/assert.js'
import type { StratalogError } from '../model/errors.js'
import type { Policy } from '../model/policy.js'
import type { ProducerRecord } from '../model/producer.js'
import type { Quorum } from '../model/quorum.js'
import { RECORD_HEADER_BYTES } from '../model/record.js'
import type { SegmentRow, StreamRow } from '../model/segment.js'
import { Batch, SegmentPlan, type Waiter } from './batch.js'
import { giveBuffer } from './entry-buffers.js'
import { type KnownProducers, type ProducerChanges, ProducerTable } from './producers.js'
import { asFailure, mayGoOn } from './refusals.js'
import {
  beginSegment,
  endSegment,
  type OpenSegment,
  type SegmentContext,
  type SegmentEnd,
} from './segment-writer.js'
import type { TakenBytes } from './taken-bytes.js'

/**
 * An entry is sent at the latest when it holds this many bytes of records. Stores write what waits together, so entries
 * need not be large; buffers below 128 KiB come from the allocator's heap, larger ones are mapped and faulted in anew
 * each time (measured: 256 KiB reached 0.6 of the plain loop, 96 KiB 0.8; docs/performance.md).
 */
const ENTRY_TARGET_BYTES = 96 * 1024
const THIS_TURN = Promise.resolve()
/** Segments in a row that fail without one acknowledgement before what is pending fails with them. */
const FAILED_SEGMENTS_MAX = 3

/** The segment that is open, with what its writer planned for it. */
interface CurrentSegment extends OpenSegment {
  readonly plan: SegmentPlan
  /** Entries sent so far: the id of the next one. */
  entries: bigint
  /** Why its ledger takes nothing any more; null while it does. */
  failure: StratalogError | null
  /** Hears of its entries, which are acknowledged in the order they were sent. */
  readonly waiter: EntryWaiter
}

/** An entry that was sent and is not acknowledged. */
interface SentBatch {
  readonly batch: Batch
  readonly entryId: bigint
  readonly timeMs: number
  readonly producers: ProducerChanges | null
}

export interface StreamWriterOptions {
  /** Looked at for each record, so that a changed policy counts from the next one on. */
  readonly policy: () => Policy
  readonly quorum: () => Quorum
  /** Record bytes sent and not acknowledged; beyond it batches wait. */
  readonly inFlightBytesMax: number
  /** Record bytes taken and not acknowledged; beyond it appends are refused with `backpressure`. */
  readonly takenBytesMax: number
  /** Counts the same of all streams of the process, which share a bound; absent: this one has only its own. */
  readonly taken?: TakenBytes
  /** How long the next entry is to wait before it is sent; absent: not at all. Asked for each entry. */
  readonly slowMs?: () => number
}

/** What a writer takes over from the history of its stream. */
export interface StreamTail {
  readonly stream: StreamRow
  /** Newest segment, closed; null for none. */
  readonly newest: SegmentRow | null
  readonly nextSegment: bigint
  readonly nextSequenceId: bigint
  readonly lastTxid: bigint
  readonly producers: KnownProducers
}

/**
 * The way of a stream's records into its segments: gathers them into entries, entries into segments. An entry is
 * sent at once when nothing is in flight (a lone record never lingers), else when it is full or the one before it is
 * acknowledged, so entries grow with what is in flight.
 *
 * A ledger that loses its stores ends at its last acknowledged entry, and what was not acknowledged goes again into
 * the next one (docs/decisions/0011-pending-appends-go-again.md). After any other failure everything pending is
 * rejected with the first cause and nothing is taken any more: records after a lost one are never acknowledged by
 * the same writer. Invariants 1 to 3.
 */
export class SegmentPipe {
  readonly producers: ProducerTable
  readonly #context: SegmentContext
  readonly #options: StreamWriterOptions
  readonly #stream: StreamRow
  #newest: SegmentRow | null
  #nextSegment: bigint
  /** The segment records are taken for now; null: the next record begins one. */
  #plan: SegmentPlan | null = null
  /** Entries not sent yet, in order; only the last one still takes records. */
  readonly #queue: Batch[] = []
  /** Entries under way, in order. */
  readonly #sent: SentBatch[] = []
  #open: CurrentSegment | null = null
  #failedSegments = 0
  #acked: SegmentEnd = { lastTxid: -1n, lastSlot: -1n, recordCount: 0n }
  #takenBytes = 0
  #inFlightBytes = 0
  /** Bytes of the last entry sent: what the next one is expected to take. */
  #entryBytes = 0
  #pumpScheduled = false
  /** A segment is being begun or sealed: nothing is sent meanwhile. */
  #turning = false
  #failure: StratalogError | null = null
  /** The entry that is being held back, or was; what ends its wait. */
  #slowed: Batch | null = null
  #slowing: AbortController | null = null
  /** Callers that wait for a seal: what is pending is not held back for them. */
  #sealing = 0

  constructor(context: SegmentContext, options: StreamWriterOptions, tail: StreamTail) {
    this.#context = context
    this.#options = options
    this.#stream = tail.stream
    this.#newest = tail.newest
    this.#nextSegment = tail.nextSegment
    this.producers = new ProducerTable(tail.producers)
  }

  /** Why nothing is taken any more; null while it is. */
  get failure(): StratalogError | null {
    return this.#failure
  }

  /** Record bytes taken and not acknowledged. */
  get takenBytes(): number {
    return this.#takenBytes
  }

  /** The open segment as it is planned with; null: none is open. */
  get openSegment(): { row: SegmentRow; lengthBytes: number; records: bigint } | null {
    if (this.#open === null) return null
    const { row, plan } = this.#open
    return { row, lengthBytes: plan.takenBytes, records: this.#acked.recordCount }
  }

  /** sequenceId behind the last acknowledged record: where readers find the end. */
  get endSequenceId(): bigint {
    if (this.#open !== null) return this.#open.plan.startSequenceId + this.#acked.recordCount
    return this.#newest === null ? 0n : this.#newest.startSequenceId + this.#newest.recordCount
  }

  /** Takes a record that was checked; `sequenceId` is the one it gets. */
  take(
    record: { payload: Uint8Array | string; payloadBytes: number; txid: bigint; sequenceId: bigint },
    producer: ProducerRecord | null,
    waiter: Waiter,
  ): void {
    const { payload, payloadBytes, txid, sequenceId } = record
    const batch = this.#batchFor(payloadBytes, producer, sequenceId)
    batch.add(payload, payloadBytes, txid, waiter)
    if (producer !== null) this.producers.take(producer, batch)
    this.#count(RECORD_HEADER_BYTES + payloadBytes)
    this.#schedulePump()
  }

  /**
   * Seals the open segment with everything taken so far; resolves when it is sealed, at once if there is nothing to
   * seal. Rejects with the writer's failure.
   */
  async roll(): Promise<void> {
    if (this.#failure !== null) throw this.#failure
    // While an ended segment is being begun it is not open yet, and only its entries know of it.
    const plan = this.#plan ?? this.#queue.at(-1)?.plan ?? this.#open?.plan
    if (plan === undefined) return
    plan.ended = true
    this.#plan = null
    this.#sealing += 1
    this.#slowing?.abort()
    await new Promise<void>((resolve) => {
      plan.onSealed.push(resolve)
      this.#schedulePump()
    })
    this.#sealing -= 1
    if (this.#failure !== null) throw this.#failure
  }

  /** Puts the record that ends the stream behind everything taken; the segment has to be sealed then, and is the last. */
  endStream(sequenceId: bigint, lastTxid: bigint): void {
    this.#plan ??= new SegmentPlan(sequenceId)
    const batch = Batch.endOfStream(this.#plan, lastTxid)
    this.#queue.push(batch)
    this.#count(batch.recordBytes)
  }

  /** Gives up: everything pending is rejected. The first failure is the one everybody hears. */
  fail(error: StratalogError): void {
    this.#fail(error)
  }

  #count(takenBytes: number): void {
    this.#takenBytes += takenBytes
    this.#options.taken?.add(takenBytes)
  }

  #batchFor(payloadBytes: number, producer: ProducerRecord | null, sequenceId: bigint): Batch {
    const plan = this.#planFor(sequenceId)
    const last = this.#queue.at(-1)
    if (last?.plan === plan && last.recordBytes < ENTRY_TARGET_BYTES && last.fits(payloadBytes, producer))
      return last
    const batch = new Batch(plan, this.#entryBytes, payloadBytes)
    this.#queue.push(batch)
    return batch
  }

  #planFor(sequenceId: bigint): SegmentPlan {
    if (this.#plan !== null && this.#plan.takenBytes >= this.#options.policy().roll.sizeBytes) {
      this.#plan.ended = true
      this.#plan = null
    }
    this.#plan ??= new SegmentPlan(sequenceId)
    return this.#plan
  }

  /** After this turn's microtasks, so that records appended together share an entry. */
  #schedulePump(): void {
    if (this.#pumpScheduled) return
    this.#pumpScheduled = true
    // As queueMicrotask, which makes an object for tracing each time.
    void THIS_TURN.then(this.#scheduledPump)
  }

  readonly #scheduledPump = (): void => {
    this.#pumpScheduled = false
    this.#pump()
  }

  /** Sends what may be sent, and turns from one segment to the next where the entries do or its ledger failed. */
  #pump(): void {
    while (this.#failure === null && !this.#turning) {
      const head = this.#queue[0]
      const open = this.#open
      const over = open !== null && (open.failure !== null || (open.plan.ended && head?.plan !== open.plan))
      if (over) this.#turn(this.#seal(open))
      else if (head === undefined) return
      else if (open === null) this.#turn(this.#begin(head))
      else if (this.#maySend(head) && !this.#holdsBack(head))
        this.#send(present(this.#queue.shift(), 'head'), open)
      else return
    }
  }

  #maySend(head: Batch): boolean {
    const ledger = present(this.#open, 'segment').ledger
    if (ledger.inFlight === 0) return true
    if (this.#inFlightBytes + head.recordBytes > this.#options.inFlightBytesMax) return false
    return this.#queue.length > 1 || head.plan.ended || head.recordBytes >= ENTRY_TARGET_BYTES
  }

  /**
   * Whether an entry has to wait because its stream is slowed down. Nothing overtakes it, so order stays as it is; it
   * goes on taking records meanwhile, and what may wait is bounded as ever (`takenBytesMax`). Each waits once.
   */
  #holdsBack(head: Batch): boolean {
    if (this.#slowing !== null) return true
    if (this.#slowed === head || this.#sealing > 0) return false
    const delayMs = this.#options.slowMs?.() ?? 0
    if (delayMs <= 0) return false
    const slowing = new AbortController()
    this.#slowed = head
    this.#slowing = slowing
    const over = () => {
      this.#slowing = null
      this.#pump()
    }
    this.#context.ledger.clock.sleep(delayMs, slowing.signal).then(over, over)
    return true
  }

  #turn(work: Promise<void>): void {
    this.#turning = true
    const done = () => {
      this.#turning = false
      this.#pump()
    }
    work.then(done, (error: unknown) => {
      this.#fail(asFailure(error, this.#stream.name))
      done()
    })
  }

  async #begin(head: Batch): Promise<void> {
    this.#context.ledger.room?.look()
    assert(head.firstPosition === 1, 'a segment begins with its first record')
    const newest = this.#newest
    const preceding =
      newest === null || newest.ledgerId === null
        ? null
        : { ledgerId: newest.ledgerId, lastEntryId: newest.lastEntryId, lengthBytes: newest.lengthBytes }
    const start = {
      segment: this.#nextSegment,
      firstTxid: head.firstTxid,
      startSequenceId: head.plan.startSequenceId,
    }
    const { replicaLagBytesMax } = this.#options.policy().limits
    const quorum = this.#options.quorum()
    const open = await beginSegment(this.#context, this.#stream, quorum, start, preceding, replicaLagBytesMax)
    const current: CurrentSegment = {
      ...open,
      plan: head.plan,
      entries: 0n,
      failure: null,
      waiter: {
        acknowledged: (entryId, copies) => this.#entryAcknowledged(current, entryId, copies),
        failed: (error) => this.#ledgerFailed(current, asFailure(error, this.#stream.name)),
        released: giveBuffer,
      },
    }
    this.#open = current
    this.#acked = { lastTxid: -1n, lastSlot: -1n, recordCount: 0n }
    if (this.#failure !== null) open.ledger.abandon(this.#failure)
  }

  async #seal(open: CurrentSegment): Promise<void> {
    const sealed = await endSegment(this.#context, this.#stream, open, () => this.#acked).catch(
      (error: unknown) => {
        const cause = asFailure(error, this.#stream.name)
        throw mayGoOn(cause) ? (open.failure ?? cause) : cause
      },
    )
    this.#open = null
    // Fenced meanwhile: everybody was told, and what is on the stores is another's to number.
    if (this.#failure !== null) return
    if (sealed !== null) {
      this.#newest = sealed
      this.#nextSegment = sealed.segment + 1n
      this.#acknowledgeRecovered(sealed)
    }
    this.producers.beginSegment()
    if (open.failure !== null) this.#sendAgain(open.plan, open.failure)
    for (const tell of open.plan.onSealed.splice(0)) tell()
  }

  /** What recovery kept is in the log, on Qa stores: it must not be written twice, so it is acknowledged there. */
  #acknowledgeRecovered(sealed: SegmentRow): void {
    for (let head = this.#sent[0]; head !== undefined; head = this.#sent[0]) {
      if (head.entryId > sealed.lastEntryId) return
      this.#acknowledged(head, sealed.segment, this.#options.quorum().ack)
    }
  }

  /**
   * Plans anew what a failed segment leaves: records sent and not acknowledged, and those behind them. Only after
   * the ledger was closed: from then on no reader and no recovery finds them in it.
   */
  #sendAgain(failed: SegmentPlan, cause: StratalogError): void {
    this.#failedSegments += 1
    if (this.#failedSegments >= FAILED_SEGMENTS_MAX) {
      this.#fail(cause)
      return
    }
    const waiting = this.#queue.filter(({ plan }) => plan === failed)
    const left = [...this.#sent.splice(0).map(({ batch }) => batch), ...waiting]
    const plan = left[0] === undefined ? null : new SegmentPlan(left[0].firstSequenceId)
    if (plan !== null) {
      plan.ended = failed.ended
      plan.onSealed.push(...failed.onSealed.splice(0))
      this.#queue.splice(0, waiting.length, ...left.map((batch) => batch.replanned(plan)))
    }
    this.producers.sendAgain()
    failed.ended = true
    if (this.#plan === failed) this.#plan = plan
  }

  #send(batch: Batch, open: CurrentSegment): void {
    this.#context.ledger.room?.look()
    const bytes = batch.recordBytes
    const timeMs = this.#context.ledger.clock.nowMs()
    const entryId = open.entries
    const producers = this.producers.changes(batch, open.row.segment, entryId, timeMs)
    // Nothing follows the end of a stream, and nobody asks for its producers any more.
    const control = batch.endsStream
      ? null
      : this.producers.control(producers, entryId, bytes, batch.controlRoomBytes)
    const { buffer, payloadBytes } = batch.finish(control)
    this.#entryBytes = buffer.length
    open.entries += 1n
    this.#sent.push({ batch, entryId, timeMs, producers })
    this.#inFlightBytes += bytes
    open.ledger.appendTo(buffer, payloadBytes, open.waiter)
  }

  #entryAcknowledged(open: CurrentSegment, entryId: bigint, copies: number): void {
    // The writer has failed, and everybody was told so (invariant 3).
    if (this.#failure !== null) return
    const sent = this.#sent[0]
    assert(sent?.entryId === entryId, 'entries are acknowledged in order')
    this.#inFlightBytes -= sent.batch.recordBytes
    this.#acknowledged(sent, open.row.segment, copies)
    this.#schedulePump()
  }

  #acknowledged(sent: SentBatch, segment: bigint, copies: number): void {
    const { batch } = sent
    this.#sent.shift()
    this.#failedSegments = 0
    this.#count(-batch.recordBytes)
    this.#acked = {
      lastTxid: batch.lastTxid,
      lastSlot: BigInt(batch.lastSlot),
      recordCount: BigInt(batch.lastPosition),
    }
    batch.acknowledge(segment, sent.entryId, copies, sent.timeMs)
    this.producers.acknowledged(sent.producers, batch, copies)
  }

  #ledgerFailed(open: CurrentSegment, error: StratalogError): void {
    if (open.failure !== null || this.#failure !== null) return
    open.failure = error
    // All of it was in this ledger, and fails with it.
    this.#inFlightBytes = 0
    if (!mayGoOn(error)) {
      this.#fail(error)
      return
    }
    this.#context.ledger.logger.warn(
      { err: error, stream: this.#stream.name, segment: open.row.segment.toString() },
      'segment ends early, what is pending goes into the next one',
    )
    this.#schedulePump()
  }

  #fail(error: StratalogError): StratalogError {
    if (this.#failure !== null) return this.#failure
    this.#failure = error
    this.#slowing?.abort()
    const plans = new Set(this.#queue.map((batch) => batch.plan))
    if (this.#open !== null) plans.add(this.#open.plan)
    this.#open?.ledger.abandon(error)
    for (const { batch } of this.#sent.splice(0)) batch.fail(error)
    for (const batch of this.#queue.splice(0)) batch.fail(error)
    // None of it is ever going to be durable, and others may have the room.
    this.#count(-this.#takenBytes)
    for (const plan of plans) for (const tell of plan.onSealed.splice(0)) tell()
    return error
  }
}
