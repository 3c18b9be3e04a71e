import { ENVELOPE_HEADER_BYTES, writeEnvelopeHeader } from '../format/entry.js'
import { entryHeaderBytes } from '../format/ledger-digest.js'
import { producersBytes } from '../format/producers.js'
import { endOfStreamRecord, FLAG_CONTROL, writeRecordHeader } from '../format/record.js'
import { assert } from '../model/assert.js'
import { Dlsn } from '../model/dlsn.js'
import type { ProducerRecord } from '../model/producer.js'
import { type Ack, ENTRY_BYTES_MAX, RECORD_HEADER_BYTES, TXID_MAX } from '../model/record.js'
import { giveBuffer, takeBuffer } from './entry-buffers.js'

/** Bytes in front of the records: the ledger's header with the longest digest there is, then the envelope's header. */
const RESERVED_BYTES = entryHeaderBytes('CRC32') + ENVELOPE_HEADER_BYTES
/** Room a new batch has beyond what is known to come. */
const SPARE_BYTES = 1_024
const BUFFER_BYTES_MAX = RESERVED_BYTES + ENTRY_BYTES_MAX
/** Kept free behind the records for a control record that names no producer. */
const CONTROL_BYTES = RECORD_HEADER_BYTES + producersBytes(0, 0)

/** Who waits for one record of a batch. */
export interface Waiter {
  resolve(ack: Ack): void
  reject(error: Error): void
}

/** A retry that waits for the entry that holds its record. */
export interface LateWaiter {
  readonly id: string
  readonly waiter: Waiter
}

/** The last record of a producer in a batch. */
interface LastOfProducer {
  readonly sequence: bigint
  readonly slot: number
}

const NO_PRODUCERS: ReadonlyMap<string, LastOfProducer> = new Map()

/**
 * A segment as records are taken for it, before and while it is open: positions count within it, and whether it is
 * full is decided when a record is taken, not when it is written.
 */
export class SegmentPlan {
  readonly startSequenceId: bigint
  records = 0
  takenBytes = 0
  /** Once ended no record is taken for it any more. */
  ended = false
  /** Told when the segment is sealed or failed. */
  readonly onSealed: (() => void)[] = []

  constructor(startSequenceId: bigint) {
    this.startSequenceId = startSequenceId
  }
}

/**
 * The records of one entry on their way in, written once, straight into the buffer that goes to the disks: room for
 * the ledger header, digest and envelope is left in front. Starts small and grows, so that idle streams cost little.
 */
export class Batch {
  readonly plan: SegmentPlan
  /** Position of the first record in its segment, from 1. */
  readonly firstPosition: number
  /** Retries of records in this batch; shared with the batch that takes its place. */
  readonly late: LateWaiter[]
  #waiters: Waiter[] = []
  #txids: bigint[] = []
  #buffer: Buffer
  #end = RESERVED_BYTES
  /** By producer its last record here. Null for most batches. */
  #producers: Map<string, LastOfProducer> | null = null
  #controlBytes = CONTROL_BYTES
  /** Set for the entry that ends the stream: the last txid before it. */
  #endsAfterTxid: bigint | null = null

  /**
   * `expectedBytes`: what the batch before this one took; a stream under load need not grow each buffer anew.
   * `firstBytes`: payload of the record that is added first.
   */
  constructor(plan: SegmentPlan, expectedBytes = 0, firstBytes = 0, late: LateWaiter[] = []) {
    this.late = late
    const wanted = Math.max(expectedBytes, RESERVED_BYTES + RECORD_HEADER_BYTES + firstBytes)
    this.#buffer = takeBuffer(Math.min(wanted + SPARE_BYTES, BUFFER_BYTES_MAX))
    this.plan = plan
    this.firstPosition = plan.records + 1
  }

  /**
   * The entry that ends a stream: one record that counts as none and is everybody's last (FORMATS.md §5.5).
   * `lastTxid`: that of the last record before it.
   */
  static endOfStream(plan: SegmentPlan, lastTxid: bigint): Batch {
    const record = endOfStreamRecord(plan.records)
    const batch = new Batch(plan, 0, record.length)
    batch.#reserve(record.length)
    batch.#buffer.set(record, batch.#end)
    batch.#end += record.length
    batch.#endsAfterTxid = lastTxid
    return batch
  }

  /** Records of users. */
  get count(): number {
    return this.#waiters.length
  }

  get endsStream(): boolean {
    return this.#endsAfterTxid !== null
  }

  /** Slot of the last record, whoever's it is. */
  get lastSlot(): number {
    return this.endsStream ? 0 : this.count - 1
  }

  /** Bytes of records, headers included. */
  get recordBytes(): number {
    return this.#end - RESERVED_BYTES
  }

  /** Position of the last record in its segment. */
  get lastPosition(): number {
    return this.firstPosition + this.count - 1
  }

  /** sequenceId of the first record. */
  get firstSequenceId(): bigint {
    return this.plan.startSequenceId + BigInt(this.firstPosition - 1)
  }

  get firstTxid(): bigint {
    return this.#txids[0] ?? this.#endsAfterTxid ?? 0n
  }

  get lastTxid(): bigint {
    return this.endsStream ? TXID_MAX : (this.#txids.at(-1) ?? 0n)
  }

  /** Bytes left in the entry for the payload of a control record. */
  get controlRoomBytes(): number {
    return ENTRY_BYTES_MAX - this.recordBytes - RECORD_HEADER_BYTES
  }

  get producers(): ReadonlyMap<string, LastOfProducer> {
    return this.#producers ?? NO_PRODUCERS
  }

  txidAt(slot: number): bigint {
    return this.#txids[slot] ?? 0n
  }

  /** Whether a record of that payload still fits into the entry (DistributedLog's bound), with its producer. */
  fits(payloadBytes: number, producer: ProducerRecord | null = null): boolean {
    const controlBytes = this.#controlBytes + (producer === null ? 0 : this.#bytesOf(producer))
    return this.recordBytes + RECORD_HEADER_BYTES + payloadBytes + controlBytes <= ENTRY_BYTES_MAX
  }

  /** The record added last is this one of a producer. */
  addProducer(record: ProducerRecord): void {
    this.#controlBytes += this.#bytesOf(record)
    this.#producers ??= new Map()
    this.#producers.set(record.id, { sequence: record.sequence, slot: this.#waiters.length - 1 })
  }

  /** What the control record takes more for a producer that has no record here yet. */
  #bytesOf({ id }: ProducerRecord): number {
    if (this.#producers?.has(id)) return 0
    return producersBytes(1, Buffer.byteLength(id)) - producersBytes(0, 0)
  }

  /** Copies a record in; the payload is the caller's again on return. */
  add(payload: Uint8Array | string, payloadBytes: number, txid: bigint, waiter: Waiter): void {
    assert(this.fits(payloadBytes), 'record does not fit into its entry')
    this.#reserve(RECORD_HEADER_BYTES + payloadBytes)
    const position = this.firstPosition + this.#waiters.length
    const at = writeRecordHeader(this.#buffer, this.#end, 0, position, txid, payloadBytes)
    if (typeof payload === 'string') this.#buffer.write(payload, at, payloadBytes, 'utf8')
    else this.#buffer.set(payload, at)
    this.#end = at + payloadBytes
    this.plan.records += 1
    this.plan.takenBytes += RECORD_HEADER_BYTES + payloadBytes
    if (this.#waiters.length === 0) {
      // Most batches of many slow streams hold one record: an empty array that is pushed to takes room for seventeen.
      this.#txids = [txid]
      this.#waiters = [waiter]
    } else {
      this.#txids.push(txid)
      this.#waiters.push(waiter)
    }
  }

  /**
   * The entry's buffer with its payload closed by the envelope's header; nothing may be added after this. A control
   * record stands behind the user records and repeats the last one's position and txid (FORMATS.md §5.13), so that
   * counts and searches don't notice it.
   */
  finish(control: Uint8Array | null = null): { buffer: Buffer; payloadBytes: number } {
    let end = this.#end
    if (control !== null) {
      this.#reserve(RECORD_HEADER_BYTES + control.length)
      const { lastPosition, lastTxid } = this
      const at = writeRecordHeader(this.#buffer, end, FLAG_CONTROL, lastPosition, lastTxid, control.length)
      this.#buffer.set(control, at)
      end = at + control.length
    }
    const recordBytes = end - RESERVED_BYTES
    assert(recordBytes <= ENTRY_BYTES_MAX, 'an entry is larger than it may be')
    writeEnvelopeHeader(
      this.#buffer,
      RESERVED_BYTES - ENVELOPE_HEADER_BYTES,
      'none',
      recordBytes,
      recordBytes,
    )
    return { buffer: this.#buffer.subarray(0, end), payloadBytes: recordBytes + ENVELOPE_HEADER_BYTES }
  }

  /**
   * The same records with the same waiters for another segment, their positions counted anew. The bytes are copied:
   * a store that was slow may still write the ones it was given, and what it writes has to match its checksum.
   */
  replanned(plan: SegmentPlan): Batch {
    if (this.#endsAfterTxid !== null) return Batch.endOfStream(plan, this.#endsAfterTxid)
    const again = new Batch(plan, this.recordBytes, 0, this.late)
    again.#reserve(this.recordBytes)
    this.#buffer.copy(again.#buffer, RESERVED_BYTES, RESERVED_BYTES, this.#end)
    again.#end = this.#end
    let at = RESERVED_BYTES
    for (const [slot, txid] of this.#txids.entries()) {
      const payloadBytes = this.#buffer.readInt32BE(at + RECORD_HEADER_BYTES - 4)
      const position = again.firstPosition + slot
      at = writeRecordHeader(again.#buffer, at, 0, position, txid, payloadBytes) + payloadBytes
    }
    assert(at === this.#end, 'the records of a batch fill it')
    again.#txids = [...this.#txids]
    again.#waiters = [...this.#waiters]
    again.#producers = this.#producers
    again.#controlBytes = this.#controlBytes
    plan.records += this.count
    plan.takenBytes += this.recordBytes
    return again
  }

  /** Tells every waiter its position. */
  acknowledge(segment: bigint, entryId: bigint, copies: number, timeMs: number): void {
    const sequenceId = this.firstSequenceId
    for (let slot = 0; slot < this.#waiters.length; slot += 1) {
      const txid = this.#txids[slot] ?? 0n
      this.#waiters[slot]?.resolve(new RecordAck(segment, entryId, slot, sequenceId, txid, timeMs, copies))
    }
  }

  fail(error: Error): void {
    for (const waiter of this.#waiters) waiter.reject(error)
    for (const { waiter } of this.late.splice(0)) waiter.reject(error)
  }

  #reserve(bytes: number): void {
    const needed = this.#end + bytes
    if (needed <= this.#buffer.length) return
    const grown = takeBuffer(Math.min(Math.max(needed, this.#buffer.length * 4), BUFFER_BYTES_MAX))
    this.#buffer.copy(grown, 0, 0, this.#end)
    // Only the last one goes to the stores.
    giveBuffer(this.#buffer)
    this.#buffer = grown
  }
}

/** An acknowledgement that makes its bigints only when somebody looks: there are hundreds of thousands a second. */
export class RecordAck implements Ack {
  readonly txid: bigint
  readonly time: number
  readonly copies: number
  readonly duplicate: boolean
  readonly #segment: bigint
  readonly #entryId: bigint
  readonly #slot: number
  readonly #batchSequenceId: bigint

  constructor(
    segment: bigint,
    entryId: bigint,
    slot: number,
    batchSequenceId: bigint,
    txid: bigint,
    time: number,
    copies: number,
    duplicate = false,
  ) {
    this.duplicate = duplicate
    this.#segment = segment
    this.#entryId = entryId
    this.#slot = slot
    this.#batchSequenceId = batchSequenceId
    this.txid = txid
    this.time = time
    this.copies = copies
  }

  get dlsn(): Dlsn {
    return new Dlsn(this.#segment, this.#entryId, BigInt(this.#slot))
  }

  get sequenceId(): bigint {
    return this.#batchSequenceId + BigInt(this.#slot)
  }

  toJSON(): Record<string, unknown> {
    return {
      dlsn: this.dlsn.toString(),
      sequenceId: this.sequenceId.toString(),
      txid: this.txid.toString(),
      time: this.time,
      copies: this.copies,
      duplicate: this.duplicate,
    }
  }
}
