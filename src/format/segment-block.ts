import { assert } from '../model/assert.js'
import { asBuffer, corrupt } from './bytes.js'
import { crc32c } from './checksum.js'
import { lz4Compress, lz4Decompress } from './compression.js'
import { type ObjectCipher, TAG_BYTES } from './envelope.js'

/*
 * The blocks of a segment object; segment-object.ts has the layout of the whole.
 */

/** A block is cut once its raw bytes reach this: about 1 MiB, whole entries. */
export const BLOCK_BYTES_TARGET: number = 2 ** 20
/** Largest payload of an entry that an object takes; BookKeeper's frames end at 5 MiB. */
export const OBJECT_ENTRY_BYTES_MAX: number = 16 * 2 ** 20
/** Bytes before each payload in a block: entry id and length. */
export const ENTRY_HEADER_BYTES = 12
/** No block holds more raw bytes: the last entry starts below the target. */
export const BLOCK_RAW_BYTES_MAX: number = BLOCK_BYTES_TARGET + ENTRY_HEADER_BYTES + OBJECT_ENTRY_BYTES_MAX
export const BLOCK_HEADER_BYTES = 32
const BLOCK_MAGIC = 0x53424c4b
const CODEC_NONE = 0
const CODEC_LZ4 = 1
const NOT_ENCRYPTED = 0
const AES_256_GCM = 1
const BLOCK_CRC_AT = 28

/** One row of the index. */
export interface BlockRow {
  readonly firstEntryId: bigint
  readonly lastEntryId: bigint
  /** Of the first user record in this block or after it; one above the last where none follows. */
  readonly firstSequenceId: bigint
  /** Of the first user record in this block or after it. */
  readonly firstTxid: bigint
  /** Largest up to the end of this block. */
  readonly lastTxid: bigint
  /** Where the block stands in the object. */
  readonly offset: number
  /** Its bytes there, block header included. */
  readonly blockBytes: number
  /** Its bytes decompressed. */
  readonly rawBytes: number
}

/** What LZ4 leaves of a block that is kept compressed: saving less is not worth taking it apart at each read. */
const COMPRESSED_PART_MAX = 0.95
/** Of a large block, two pieces of this size are tried before the whole. */
const SAMPLE_BYTES = 32 * 1024

/** One block: its header, and its data as stored (`raw` itself when LZ4 does not make it much smaller). */
export function encodeBlock(
  raw: Uint8Array,
  firstEntryId: bigint,
  entryCount: number,
): { header: Uint8Array; data: Uint8Array } {
  assert(raw.length <= BLOCK_RAW_BYTES_MAX, `a block of ${raw.length} bytes`)
  const compressed = mayShrink(raw) ? lz4Compress(raw) : raw
  const smaller = isMuchSmaller(compressed, raw)
  const data = smaller ? compressed : raw
  const header = Buffer.alloc(BLOCK_HEADER_BYTES)
  header.writeUInt32BE(BLOCK_MAGIC, 0)
  header.writeUInt8(smaller ? CODEC_LZ4 : CODEC_NONE, 4)
  header.writeBigInt64BE(firstEntryId, 8)
  header.writeUInt32BE(entryCount, 16)
  header.writeUInt32BE(raw.length, 20)
  header.writeUInt32BE(data.length, 24)
  header.writeUInt32BE(crc32c(data, crc32c(header.subarray(0, BLOCK_CRC_AT))), BLOCK_CRC_AT)
  return { header, data }
}

function isMuchSmaller(compressed: Uint8Array, raw: Uint8Array): boolean {
  return compressed.length <= raw.length * COMPRESSED_PART_MAX
}

/**
 * Whether compressing the whole is worth a try. What was compressed or encrypted before takes LZ4 as long as what is not,
 * for nothing; two pieces, a quarter from either end, tell it for a sixteenth of the work. The same bytes give the same
 * answer, since both passes over a segment must make the same block.
 */
function mayShrink(raw: Uint8Array): boolean {
  if (raw.length < 8 * SAMPLE_BYTES) return true
  return [1, 3].some((quarter) => {
    const from = Math.floor((raw.length * quarter) / 4)
    const piece = raw.subarray(from, from + SAMPLE_BYTES)
    return isMuchSmaller(lz4Compress(piece), piece)
  })
}

/** Bytes of a block of `dataBytes` bytes as it is stored. */
export function storedBlockBytes(dataBytes: number, encrypted: boolean): number {
  return BLOCK_HEADER_BYTES + dataBytes + (encrypted ? TAG_BYTES : 0)
}

/** A block as an encrypted object has it. The same block gives the same bytes. */
export function sealBlock(
  block: { readonly header: Uint8Array; readonly data: Uint8Array },
  cipher: ObjectCipher,
): { header: Uint8Array; data: Uint8Array } {
  const header = Buffer.from(block.header)
  header.writeUInt8(AES_256_GCM, 5)
  header.writeUInt32BE(block.data.length + TAG_BYTES, 24)
  const bound = header.subarray(0, BLOCK_CRC_AT)
  const data = cipher.sealBlock(bound, header.readBigInt64BE(8), block.data)
  header.writeUInt32BE(crc32c(data, crc32c(bound)), BLOCK_CRC_AT)
  return { header, data }
}

/** CRC32C that a block's header states: tells whether two encodings of a block are the same. */
export function blockCrc(blockHeader: Uint8Array): number {
  return asBuffer(blockHeader).readUInt32BE(BLOCK_CRC_AT)
}

/**
 * The raw bytes of the block that index row `row` describes, checked against its checksum, the row and, of an encrypted
 * object, its tag. A view of `bytes` where it is stored as it is.
 */
export function decodeBlock(
  bytes: Uint8Array,
  row: BlockRow,
  where: string,
  access: { readonly cipher: ObjectCipher } | null = null,
): Uint8Array {
  const at = `${where}: block at ${row.offset}`
  const block = asBuffer(bytes)
  if (block.length !== row.blockBytes || block.length < BLOCK_HEADER_BYTES) {
    throw corrupt(`${at} is cut short: read another copy`, { expected: row.blockBytes, found: block.length })
  }
  // The checksum covers every byte of the block, so nothing in it is believed before.
  const sum = crc32c(block.subarray(BLOCK_HEADER_BYTES), crc32c(block.subarray(0, BLOCK_CRC_AT)))
  compareCrc(sum, block.readUInt32BE(BLOCK_CRC_AT), at)
  const codec = block.readUInt8(4)
  const encryption = access === null ? NOT_ENCRYPTED : AES_256_GCM
  const own = block.readUInt8(5) === encryption && block.readUInt16BE(6) === 0
  const known = block.readUInt32BE(0) === BLOCK_MAGIC && codec <= CODEC_LZ4 && own
  if (!known) throw corrupt(`${at} is not a block of such an object: read another copy`)
  const expected = `${row.firstEntryId}+${row.lastEntryId - row.firstEntryId + 1n} ${row.rawBytes} ${row.blockBytes}`
  const stored = BLOCK_HEADER_BYTES + block.readUInt32BE(24)
  const found = `${block.readBigInt64BE(8)}+${block.readUInt32BE(16)} ${block.readUInt32BE(20)} ${stored}`
  if (found !== expected) throw corrupt(`${at} is another one than the index says`, { expected, found })
  const data = access === null ? block.subarray(BLOCK_HEADER_BYTES) : decrypted(block, access.cipher, at)
  if (codec === CODEC_LZ4) return lz4Decompress(data, row.rawBytes)
  if (data.length !== row.rawBytes) throw corrupt(`${at} has another length than it says: read another copy`)
  return data
}

/** Its checksum is right: what does not open now was not damaged by a disk. */
function decrypted(block: Buffer, cipher: ObjectCipher, at: string): Uint8Array {
  const header = block.subarray(0, BLOCK_CRC_AT)
  const data = cipher.openBlock(header, block.readBigInt64BE(8), block.subarray(BLOCK_HEADER_BYTES))
  if (data !== null) return data
  throw corrupt(`${at} was not written into this object: somebody changed it, read another copy`)
}

/**
 * Offsets of the payloads of a raw block, and one past its end: payload i lies in
 * [offsets[i], offsets[i + 1] − 12), and its entry id is the row's first + i.
 */
export function blockPayloadOffsets(raw: Uint8Array, row: BlockRow, where: string): number[] {
  const view = asBuffer(raw)
  const offsets: number[] = []
  let at = 0
  for (let entryId = row.firstEntryId; entryId <= row.lastEntryId; entryId++) {
    const payloadBytes = at + ENTRY_HEADER_BYTES <= view.length ? view.readInt32BE(at + 8) : -1
    if (payloadBytes < 0 || view.readBigInt64BE(at) !== entryId) {
      throw corrupt(
        `${where}: block at ${row.offset} has no entry ${entryId} where it should be: read another copy`,
      )
    }
    offsets.push(at + ENTRY_HEADER_BYTES)
    at += ENTRY_HEADER_BYTES + payloadBytes
  }
  if (at !== view.length) {
    throw corrupt(
      `${where}: block at ${row.offset} does not end with entry ${row.lastEntryId}: read another copy`,
    )
  }
  offsets.push(at + ENTRY_HEADER_BYTES)
  return offsets
}

/** Compares a checksum with what is stated. `corrupt` where they differ. */
export function compareCrc(found: number, expected: number, what: string): void {
  if (found === expected) return
  const hex = (value: number): string => value.toString(16).padStart(8, '0')
  throw corrupt(`${what}: the checksum is wrong: read another copy`, {
    expected: hex(expected),
    found: hex(found),
  })
}
