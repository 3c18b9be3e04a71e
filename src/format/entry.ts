import { assert } from '../model/assert.js'
import { asBuffer, corrupt, unsupportedVersion } from './bytes.js'
import type { Codec } from './compression.js'
import { DECOMPRESSED_BYTES_MAX, lz4Compress, lz4Decompress } from './compression.js'

/*
 * The envelope of an entry's records (EnvelopedEntry.java): what a ledger entry's payload is in segments of
 * metadata version 4 and above. Below that the records stand there bare. Big-endian:
 *
 *   0       1               5                    9                  13
 *   ┌───────┬───────────────┬────────────────────┬──────────────────┬─────────┐
 *   │ 0x01  │ flags: int32  │ decompressed int32 │ compressed int32 │ data    │
 *   └───────┴───────────────┴────────────────────┴──────────────────┴─────────┘
 *     version  & 3 = codec: 0 none, 1 LZ4 (raw block)                 records back to back (`record.ts`)
 *
 * Without compression both lengths are equal.
 */

/** Bytes before the records of an enveloped entry. */
export const ENVELOPE_HEADER_BYTES: number = 13

const VERSION = 1
const CODEC_NONE = 0
const CODEC_LZ4 = 1

/** Writes the 13 bytes before an entry's data, which the caller writes itself. */
export function writeEnvelopeHeader(
  target: Buffer,
  offset: number,
  codec: Codec,
  decompressedBytes: number,
  compressedBytes: number,
): void {
  assert(decompressedBytes <= DECOMPRESSED_BYTES_MAX, 'an entry has at most 64 MiB')
  assert(codec !== 'none' || decompressedBytes === compressedBytes, 'an uncompressed entry has one length')
  target.writeUInt8(VERSION, offset)
  target.writeInt32BE(codec === 'lz4' ? CODEC_LZ4 : CODEC_NONE, offset + 1)
  target.writeInt32BE(decompressedBytes, offset + 5)
  target.writeInt32BE(compressedBytes, offset + 9)
}

/** The payload of the entry that holds these records. */
export function encodeEnvelope(records: Uint8Array, codec: Codec): Uint8Array {
  const data = codec === 'lz4' ? lz4Compress(records) : records
  const entry = Buffer.allocUnsafe(ENVELOPE_HEADER_BYTES + data.length)
  writeEnvelopeHeader(entry, 0, codec, records.length, data.length)
  entry.set(data, ENVELOPE_HEADER_BYTES)
  return entry
}

/** The records' bytes: a view where they are not compressed. Throws `corrupt` or `version_unsupported`. */
export function openEnvelope(entryPayload: Uint8Array): Uint8Array {
  if (entryPayload.length < ENVELOPE_HEADER_BYTES) {
    throw corrupt('an entry is shorter than the header of its envelope: read another copy', {
      expected: ENVELOPE_HEADER_BYTES,
      found: entryPayload.length,
    })
  }
  const entry = asBuffer(entryPayload)
  const version = entry.readUInt8(0)
  const codec = entry.readInt32BE(1)
  // Java takes a codec it does not know for none and hands out compressed bytes as records; that is refused
  // here.
  if (version !== VERSION || (codec !== CODEC_NONE && codec !== CODEC_LZ4)) {
    throw unsupportedVersion(`an entry of version ${version} with flags ${codec} is not known`, {
      expected: VERSION,
      found: version,
    })
  }
  const decompressedBytes = entry.readInt32BE(5)
  const compressedBytes = entry.readInt32BE(9)
  const data = entryPayload.subarray(ENVELOPE_HEADER_BYTES)
  if (compressedBytes !== data.length || (codec === CODEC_NONE && decompressedBytes !== data.length)) {
    throw corrupt('an entry has another length than its envelope says: read another copy', {
      expected: compressedBytes,
      found: data.length,
    })
  }
  if (decompressedBytes < 0 || decompressedBytes > DECOMPRESSED_BYTES_MAX) {
    throw corrupt(`an entry claims ${decompressedBytes} bytes: 64 MiB is the most there is`)
  }
  return codec === CODEC_NONE ? data : lz4Decompress(data, decompressedBytes)
}
