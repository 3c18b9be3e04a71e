import { assert } from '../model/assert.js'
import { asBuffer, corrupt, unsupportedVersion } from './bytes.js'
import type { Codec } from './compression.js'
import { DECOMPRESSED_BYTES_MAX, lz4Compress, lz4Decompress } from './compression.js'

/*
 * Several records in one: the payload of a log record flagged as record set (EnvelopedRecordSetWriter.java),
 * big-endian:
 *
 *   0                4               8                   12                16
 *   ┌────────────────┬───────────────┬───────────────────┬─────────────────┬──────┐
 *   │ metadata int32 │ count int32   │ decompressed int32│ compressed int32│ data │
 *   └────────────────┴───────────────┴───────────────────┴─────────────────┴──────┘
 *     0x1000 (version) | codec (0 none, 1 LZ4)                               compressed bytes
 *
 *   data, decompressed:  ┌──────────────┬─────────┐
 *                        │ length int32 │ payload │  × count
 *                        └──────────────┴─────────┘
 */

/** Bytes before the data of a record set. */
export const RECORD_SET_HEADER_BYTES: number = 16

const VERSION = 0x1000
const VERSION_MASK = 0xf000
const CODEC_MASK = 0x3
const LENGTH_BYTES = 4

/** The payload of the record that holds these payloads. */
export function encodeRecordSet(payloads: readonly Uint8Array[], codec: Codec): Uint8Array {
  let plainBytes = 0
  for (const payload of payloads) plainBytes += LENGTH_BYTES + payload.length
  assert(plainBytes <= DECOMPRESSED_BYTES_MAX, 'a record set has at most 64 MiB')
  const set = Buffer.allocUnsafe(RECORD_SET_HEADER_BYTES + plainBytes)
  let at = RECORD_SET_HEADER_BYTES
  for (const payload of payloads) {
    set.writeInt32BE(payload.length, at)
    set.set(payload, at + LENGTH_BYTES)
    at += LENGTH_BYTES + payload.length
  }
  if (codec === 'none') {
    writeHeader(set, codec, payloads.length, plainBytes, plainBytes)
    return set
  }
  const compressed = lz4Compress(set.subarray(RECORD_SET_HEADER_BYTES))
  const out = Buffer.allocUnsafe(RECORD_SET_HEADER_BYTES + compressed.length)
  writeHeader(out, codec, payloads.length, plainBytes, compressed.length)
  out.set(compressed, RECORD_SET_HEADER_BYTES)
  return out
}

/**
 * The payloads of a record set; views, where it is not compressed. Throws `corrupt` or `version_unsupported`.
 */
export function decodeRecordSet(payload: Uint8Array): Uint8Array[] {
  const { data, count } = openRecordSet(payload)
  const payloads: Uint8Array[] = []
  let at = 0
  while (payloads.length < count) {
    if (at + LENGTH_BYTES > data.length) throw corrupt('a record set ends within a record: read another copy')
    const length = data.readInt32BE(at)
    at += LENGTH_BYTES
    if (length < 0 || at + length > data.length) {
      throw corrupt('a record of a record set is longer than the set: read another copy', {
        expected: data.length - at,
        found: length,
      })
    }
    payloads.push(data.subarray(at, at + length))
    at += length
  }
  if (at !== data.length) throw corrupt('a record set has bytes after its last record: read another copy')
  return payloads
}

/**
 * How many records a record set claims, and how many bytes they take once decompressed: what a caller who
 * bounds its memory wants to know before {@link decodeRecordSet}.
 */
export function recordSetSize(payload: Uint8Array): { count: number; decompressedBytes: number } {
  const { count, decompressedBytes } = readHeader(payload)
  return { count, decompressedBytes }
}

function writeHeader(
  target: Buffer,
  codec: Codec,
  count: number,
  decompressedBytes: number,
  compressedBytes: number,
): void {
  target.writeInt32BE(VERSION | (codec === 'lz4' ? 1 : 0), 0)
  target.writeInt32BE(count, 4)
  target.writeInt32BE(decompressedBytes, 8)
  target.writeInt32BE(compressedBytes, 12)
}

interface Header {
  readonly codec: Codec
  readonly count: number
  readonly decompressedBytes: number
}

function readHeader(payload: Uint8Array): Header {
  if (payload.length < RECORD_SET_HEADER_BYTES) throw corrupt('a record set is shorter than its header')
  const set = asBuffer(payload)
  const metadata = set.readInt32BE(0)
  const codec = metadata & CODEC_MASK
  if ((metadata & ~CODEC_MASK) !== VERSION || codec > 1) {
    throw unsupportedVersion(
      `a record set of version ${(metadata & VERSION_MASK) >> 12} with codec ${codec} is not known`,
      { expected: VERSION, found: metadata },
    )
  }
  const count = set.readInt32BE(4)
  const decompressedBytes = set.readInt32BE(8)
  const compressedBytes = set.readInt32BE(12)
  const dataBytes = set.length - RECORD_SET_HEADER_BYTES
  if (compressedBytes !== dataBytes || (codec === 0 && decompressedBytes !== dataBytes)) {
    throw corrupt('a record set has another length than its header says: read another copy', {
      expected: compressedBytes,
      found: dataBytes,
    })
  }
  if (decompressedBytes < 0 || decompressedBytes > DECOMPRESSED_BYTES_MAX) {
    throw corrupt(`a record set claims ${decompressedBytes} bytes: 64 MiB is the most there is`)
  }
  // Each record takes at least its length field, so a huge count is refused before anything is allocated for
  // it.
  if (count < 0 || count * LENGTH_BYTES > decompressedBytes) {
    throw corrupt(`a record set of ${decompressedBytes} bytes can't hold ${count} records: read another copy`)
  }
  return { codec: codec === 1 ? 'lz4' : 'none', count, decompressedBytes }
}

function openRecordSet(payload: Uint8Array): { data: Buffer; count: number } {
  const { codec, count, decompressedBytes } = readHeader(payload)
  const data = asBuffer(payload).subarray(RECORD_SET_HEADER_BYTES)
  return { data: codec === 'none' ? data : asBuffer(lz4Decompress(data, decompressedBytes)), count }
}
