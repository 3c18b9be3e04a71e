import { assert } from '../model/assert.js'
import { Dlsn } from '../model/dlsn.js'
import { PRODUCER_ID_BYTES_MAX, PRODUCERS_MAX, type ProducerState } from '../model/producer.js'
import { asBuffer, corrupt, unsupportedVersion } from './bytes.js'

/*
 * Payload of the control record that carries a stream's producers (docs/formats/producers.md), big-endian:
 *
 *   0        4         5      6                       14            16
 *   ┌────────┬─────────┬──────┬───────────────────────┬─────────────┬───────────┐
 *   │ "SLPR" │ version │ kind │ snapshot entry: int64 │ count: u16  │ producers │
 *   └────────┴─────────┴──────┴───────────────────────┴─────────────┴───────────┘
 *
 *   a producer:
 *   ┌──────────────┬──────────┬─────────────────┬────────────────┬──────────────┬────────────┐
 *   │ id bytes: u8 │ id UTF-8 │ sequence: int64 │ segment: int64 │ entry: int64 │ slot: int32 │ …
 *   └──────────────┴──────────┴─────────────────┴────────────────┴──────────────┴────────────┘
 *                             … sequenceId: int64 │ txid: int64 │ time in ms: int64
 *
 * It has no checksum: the entry it stands in has one.
 */

/**
 * What one such record says. `snapshot`: all producers as of its entry. `changes`: those with records in its entry;
 * the others stand in the snapshot of entry `snapshotEntry` and in the changes since, or, with −1n, in the segment
 * before and the changes from the first entry on.
 */
export interface ProducersRecord {
  readonly kind: 'snapshot' | 'changes'
  readonly snapshotEntry: bigint
  /** In the order of their last records. */
  readonly producers: readonly ProducerState[]
}

const MAGIC = Buffer.from('SLPR', 'ascii')
const VERSION = 1
const KINDS = ['snapshot', 'changes'] as const
const HEADER_BYTES = 16
const FIXED_BYTES = 1 + 8 + 8 + 8 + 4 + 8 + 8 + 8

/** Bytes of the payload for producers whose ids take so many bytes together. */
export function producersBytes(count: number, idBytes: number): number {
  return HEADER_BYTES + count * FIXED_BYTES + idBytes
}

/** The payload of the control record. */
export function encodeProducers(record: ProducersRecord): Buffer {
  const { producers } = record
  assert(producers.length <= PRODUCERS_MAX, 'a stream has more producers than it may')
  const ids = producers.map(({ id }) => Buffer.from(id, 'utf8'))
  const idBytes = ids.reduce((sum, id) => sum + id.length, 0)
  const payload = Buffer.allocUnsafe(producersBytes(producers.length, idBytes))
  MAGIC.copy(payload)
  payload.writeUInt8(VERSION, 4)
  payload.writeUInt8(KINDS.indexOf(record.kind), 5)
  payload.writeBigInt64BE(record.snapshotEntry, 6)
  payload.writeUInt16BE(producers.length, 14)
  let at = HEADER_BYTES
  for (const [index, state] of producers.entries()) {
    const id = ids[index] ?? MAGIC
    assert(id.length > 0 && id.length <= PRODUCER_ID_BYTES_MAX, 'the id of a producer has 1 to 128 bytes')
    at = payload.writeUInt8(id.length, at)
    at += id.copy(payload, at)
    at = payload.writeBigInt64BE(state.sequence, at)
    at = payload.writeBigInt64BE(state.dlsn.segment, at)
    at = payload.writeBigInt64BE(state.dlsn.entry, at)
    at = payload.writeInt32BE(Number(state.dlsn.slot), at)
    at = payload.writeBigInt64BE(state.sequenceId, at)
    at = payload.writeBigInt64BE(state.txid, at)
    at = payload.writeBigInt64BE(BigInt(state.timeMs), at)
  }
  return payload
}

/** Null for a control record of another kind, as Java's. Throws `corrupt` or `version_unsupported`. */
export function decodeProducers(payload: Uint8Array): ProducersRecord | null {
  const bytes = asBuffer(payload)
  if (bytes.length < MAGIC.length || !bytes.subarray(0, MAGIC.length).equals(MAGIC)) return null
  if (bytes.length < HEADER_BYTES) throw corrupt('a record of producers is shorter than its header')
  const version = bytes.readUInt8(4)
  const kind = KINDS[bytes.readUInt8(5)]
  if (version !== VERSION || kind === undefined) {
    throw unsupportedVersion(`a record of producers has version ${version} and kind ${bytes.readUInt8(5)}`, {
      expected: VERSION,
      found: version,
    })
  }
  const count = bytes.readUInt16BE(14)
  const producers: ProducerState[] = []
  let at = HEADER_BYTES
  while (producers.length < count) {
    const idBytes = at < bytes.length ? bytes.readUInt8(at) : 0
    const end = at + FIXED_BYTES + idBytes
    if (idBytes === 0 || end > bytes.length) throw corrupt('a record of producers ends within a producer')
    producers.push(decodeProducer(bytes.subarray(at + 1, end), idBytes))
    at = end
  }
  if (at !== bytes.length) throw corrupt('a record of producers has bytes after its last one')
  return { kind, snapshotEntry: bytes.readBigInt64BE(6), producers }
}

function decodeProducer(bytes: Buffer, idBytes: number): ProducerState {
  const int64 = (index: number) => bytes.readBigInt64BE(idBytes + index)
  const [segment, entry, slot] = [int64(8), int64(16), bytes.readInt32BE(idBytes + 24)]
  return {
    id: bytes.toString('utf8', 0, idBytes),
    sequence: int64(0),
    dlsn: new Dlsn(segment, entry, BigInt(slot)),
    sequenceId: int64(28),
    txid: int64(36),
    timeMs: Number(int64(44)),
  }
}
