import { assert } from '../model/assert.js'
import { RECORD_HEADER_BYTES, TXID_MAX } from '../model/record.js'
import { corrupt } from './bytes.js'
import { DECOMPRESSED_BYTES_MAX } from './compression.js'
import { decodeRecordSet, recordSetSize } from './record-set.js'

/*
 * DistributedLog's log record (LogRecord.java), big-endian:
 *
 *   0                   8                   16                      20
 *   ┌───────────────────┬───────────────────┬───────────────────────┬─────────┐
 *   │ metadata: int64   │ txid: int64       │ payload length: int32 │ payload │
 *   └───────────────────┴───────────────────┴───────────────────────┴─────────┘
 *
 *   metadata:  63      48 47                        16 15             0
 *              ┌─────────┬────────────────────────────┬───────────────┐
 *              │ 0       │ position in the segment    │ flags         │
 *              └─────────┴────────────────────────────┴───────────────┘
 *
 * The position counts user records of the segment, this one included; 0 where a writer does not count. An
 * entry is records back to back. Each takes one slot in order, a record set as many as it has records.
 */

/** The record is the log's own and no user sees it. It takes a slot. */
export const FLAG_CONTROL: number = 0x1
/** The stream ends here. */
export const FLAG_END_OF_STREAM: number = 0x2
/** The payload is a record set (`record-set.ts`). */
export const FLAG_RECORD_SET: number = 0x4

/**
 * Most records of one entry, record sets expanded: far above any writer's, and a bound for what garbage
 * costs.
 */
export const RECORDS_PER_ENTRY_MAX: number = 2 ** 20

const POSITION_MAX = 2 ** 32 - 1
const FLAGS_MAX = 0xffff

/** One record of an entry, or of a record set in it. */
export interface DecodedRecord {
  readonly flags: number
  readonly control: boolean
  readonly endOfStream: boolean
  /** Count of the segment's user records up to this one. */
  readonly position: number
  readonly txid: bigint
  readonly slot: number
  /** A view of the bytes that were decoded; of a compressed record set, of its decompressed bytes. */
  readonly payload: Uint8Array
}

/** Bytes of a record with a payload of that size. */
export function recordBytes(payloadBytes: number): number {
  return RECORD_HEADER_BYTES + payloadBytes
}

// A txid goes through these eight bytes and is written as two 32-bit halves: faster than Buffer's bigint
// writer, which computes with bigints.
const txidBytes = new DataView(new ArrayBuffer(8))

/** Writes the 20 bytes before a payload; returns the offset where the payload goes. */
export function writeRecordHeader(
  target: Buffer,
  offset: number,
  flags: number,
  position: number,
  txid: bigint,
  payloadBytes: number,
): number {
  assert(flags >= 0 && flags <= FLAGS_MAX, 'the flags of a record have 16 bits')
  assert(position >= 0 && position <= POSITION_MAX, 'the position of a record has 32 bits')
  assert(offset + RECORD_HEADER_BYTES <= target.length, 'a record is written beyond its buffer')
  txidBytes.setBigInt64(0, txid)
  target.writeUInt32BE(position >>> 16, offset)
  target.writeInt32BE((position << 16) | flags, offset + 4)
  target.writeInt32BE(txidBytes.getInt32(0), offset + 8)
  target.writeInt32BE(txidBytes.getInt32(4), offset + 12)
  target.writeInt32BE(payloadBytes, offset + 16)
  return offset + RECORD_HEADER_BYTES
}

/** Writes a record; returns the offset after it. */
export function writeRecord(
  target: Buffer,
  offset: number,
  flags: number,
  position: number,
  txid: bigint,
  payload: Uint8Array,
): number {
  const end = offset + RECORD_HEADER_BYTES + payload.length
  assert(end <= target.length, 'a record is written beyond its buffer')
  target.set(payload, writeRecordHeader(target, offset, flags, position, txid, payload.length))
  return end
}

const CONTROL_PAYLOAD = Buffer.from('control', 'ascii')
const END_OF_STREAM_PAYLOAD = Buffer.from('endOfStream', 'ascii')

/**
 * The bytes of a control record. `position` and `txid` are those of the last user record: any other value
 * spoils DistributedLog's counts or its search by txid (FORMATS.md §5.13).
 */
export function controlRecord(
  position: number,
  txid: bigint,
  payload: Uint8Array = CONTROL_PAYLOAD,
): Uint8Array {
  const record = Buffer.allocUnsafe(recordBytes(payload.length))
  writeRecord(record, 0, FLAG_CONTROL, position, txid, payload)
  return record
}

/** The bytes of the record that ends a stream. `position` is that of the last user record. */
export function endOfStreamRecord(position: number): Uint8Array {
  const record = Buffer.allocUnsafe(recordBytes(END_OF_STREAM_PAYLOAD.length))
  writeRecord(record, 0, FLAG_END_OF_STREAM, position, TXID_MAX, END_OF_STREAM_PAYLOAD)
  return record
}

/**
 * The records of an entry, its envelope opened (`entry.ts`), with record sets expanded; the first takes slot
 * `firstSlot`. Throws `corrupt` or `version_unsupported` for bytes that do not parse to the last one.
 */
export function decodeRecords(bytes: Uint8Array, firstSlot = 0): DecodedRecord[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const records: DecodedRecord[] = []
  const budget: ExpansionBudget = { bytes: DECOMPRESSED_BYTES_MAX }
  let at = 0
  while (at < bytes.length) {
    if (at + RECORD_HEADER_BYTES > bytes.length) {
      throw corrupt(`an entry ends within the header of a record at byte ${at}: read another copy`)
    }
    const flags = view.getUint16(at + 6)
    // Bits 16 to 47; the sixteen above are nobody's, and Java ignores them too.
    const position = view.getUint16(at + 2) * 0x10000 + view.getUint16(at + 4)
    const txid = view.getBigInt64(at + 8)
    const payloadBytes = view.getInt32(at + 16)
    const begin = at + RECORD_HEADER_BYTES
    const end = begin + payloadBytes
    if (payloadBytes < 0 || end > bytes.length) {
      throw corrupt(`the record at byte ${at} of an entry is longer than the entry: read another copy`, {
        expected: bytes.length - begin,
        found: payloadBytes,
      })
    }
    const payload = bytes.subarray(begin, end)
    if ((flags & FLAG_RECORD_SET) !== 0) {
      expandRecordSet(records, payload, position, txid, firstSlot, budget)
    } else {
      records.push({
        flags,
        control: (flags & FLAG_CONTROL) !== 0,
        endOfStream: (flags & FLAG_END_OF_STREAM) !== 0,
        position,
        txid,
        slot: firstSlot + records.length,
        payload,
      })
    }
    if (records.length > RECORDS_PER_ENTRY_MAX) throw tooManyRecords()
    at = end
  }
  return records
}

interface ExpansionBudget {
  bytes: number
}

function expandRecordSet(
  records: DecodedRecord[],
  set: Uint8Array,
  position: number,
  txid: bigint,
  firstSlot: number,
  budget: ExpansionBudget,
): void {
  // Many small sets that decompress to much would add up; the sum is what memory is bounded by (invariant
  // 11).
  const { count, decompressedBytes } = recordSetSize(set)
  budget.bytes -= decompressedBytes
  if (budget.bytes < 0) throw corrupt('the record sets of an entry decompress to more than 64 MiB')
  if (records.length + count > RECORDS_PER_ENTRY_MAX) throw tooManyRecords()
  let inner = position
  for (const payload of decodeRecordSet(set)) {
    const slot = firstSlot + records.length
    records.push({ flags: 0, control: false, endOfStream: false, position: inner, txid, slot, payload })
    inner++
  }
}

function tooManyRecords(): Error {
  return corrupt(`an entry has more than ${RECORDS_PER_ENTRY_MAX} records: no writer makes such an entry`)
}
