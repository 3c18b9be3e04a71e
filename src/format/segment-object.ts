import { assert } from '../model/assert.js'
import { asBuffer, corrupt, unsupportedVersion } from './bytes.js'
import { crc32c } from './checksum.js'
import {
  decodeEnvelope,
  ENVELOPE_BYTES,
  encodeEnvelope,
  headerHash,
  type ObjectCipher,
  type ObjectEnvelope,
  type ObjectSeal,
  TAG_BYTES,
} from './envelope.js'
import {
  BLOCK_HEADER_BYTES,
  BLOCK_RAW_BYTES_MAX,
  type BlockRow,
  compareCrc,
  ENTRY_HEADER_BYTES,
  storedBlockBytes,
} from './segment-block.js'
import { decodeHeaderJson, encodeHeaderJson, type SegmentObjectMeta } from './segment-object-meta.js'

/*
 * A segment as one object of an archive, versions 1 and 2. docs/formats/segment-object.md describes every byte.
 * Big-endian. Version 2 is version 1 encrypted (envelope.ts); what is not encrypted is written as version 1.
 *
 *   ┌────────┬─────────┬─────────┬─────┬───────┬────────┐
 *   │ header │ block 0 │ block 1 │  …  │ index │ footer │
 *   └────────┴─────────┴─────────┴─────┴───────┴────────┘
 *
 *   header   magic "STRATSEG" · version u32 · headerBytes u32 · jsonBytes u32 · ledgerMetadataBytes u32
 *            · json · ledgerMetadata · crc32c u32 (of all before it)
 *   block    magic "SBLK" · codec u8 · encryption u8 · 0 0 · firstEntryId i64 · entryCount u32 · rawBytes u32
 *            · storedBytes u32 · crc32c u32 (of the 28 bytes before it, then the data) · data
 *            data decrypted (version 2: the last 16 bytes are their tag), decompressed:
 *            { entryId i64 · payloadBytes i32 · payload }*
 *   index    one row of 56 bytes per block: firstEntryId i64 · lastEntryId i64 · firstSequenceId i64 · firstTxid i64
 *            · lastTxid i64 · offset u64 · blockBytes u32 (block header included) · rawBytes u32
 *            version 2: the rows are encrypted, and the envelope of 124 bytes follows them
 *   footer   indexOffset u64 · indexBytes u32 · indexCrc32c u32 · blockCount u32 · headerBytes u32 · entryCount u64
 *            · lengthBytes u64 · recordCount u64 · contentDigest 32 bytes · version u32 · crc32c u32 (of the 84 bytes
 *            before it) · magic "STRATEND"
 */

/** The newest version read. Written are 1, and 2 for what is encrypted. */
export const SEGMENT_OBJECT_VERSION = 2
const PLAIN_VERSION = 1
const ENCRYPTED_VERSION = 2
export const HEADER_PREFIX_BYTES = 24
export const HEADER_BYTES_MAX: number = 2 * 2 ** 20
export const INDEX_ROW_BYTES = 56
export const FOOTER_BYTES = 96
/** Blocks of one object: what bounds an index before it is read. */
export const BLOCK_COUNT_MAX = 1_000_000

const HEADER_MAGIC = 'STRATSEG'
const FOOTER_MAGIC = 'STRATEND'
const FOOTER_VERSION_AT = 80
const FOOTER_CRC_AT = 84

/** What the footer says of the object. */
export interface SegmentObjectFooter {
  readonly headerBytes: number
  readonly entryCount: number
  readonly lengthBytes: number
  readonly recordCount: bigint
  /** SHA-256, of an encrypted object HMAC-SHA-256; lower-case hex. */
  readonly contentDigest: string
}

/** What an object is decrypted with. */
export interface ObjectAccess {
  readonly cipher: ObjectCipher
  readonly envelope: ObjectEnvelope
}

/** The header's bytes. They are not encrypted; those of an encrypted object are authenticated by its index. */
export function encodeObjectHeader(meta: SegmentObjectMeta, encrypted = false): Uint8Array {
  const json = encodeHeaderJson(meta)
  const headerBytes = HEADER_PREFIX_BYTES + json.length + meta.ledgerMetadata.length + 4
  assert(headerBytes <= HEADER_BYTES_MAX, `an object header of ${headerBytes} bytes`)
  const header = Buffer.alloc(headerBytes)
  header.write(HEADER_MAGIC, 0, 'latin1')
  header.writeUInt32BE(encrypted ? ENCRYPTED_VERSION : PLAIN_VERSION, 8)
  header.writeUInt32BE(headerBytes, 12)
  header.writeUInt32BE(json.length, 16)
  header.writeUInt32BE(meta.ledgerMetadata.length, 20)
  header.set(json, HEADER_PREFIX_BYTES)
  header.set(meta.ledgerMetadata, HEADER_PREFIX_BYTES + json.length)
  header.writeUInt32BE(crc32c(header.subarray(0, headerBytes - 4)), headerBytes - 4)
  return header
}

/** Size of the header, from at least its first 24 bytes. `where` names the object in errors. */
export function objectHeaderBytes(bytes: Uint8Array, where: string): number {
  const header = asBuffer(bytes)
  if (header.length < HEADER_PREFIX_BYTES || header.toString('latin1', 0, 8) !== HEADER_MAGIC) {
    throw corrupt(`${where} does not begin as a segment object: read another copy`, {
      expected: HEADER_MAGIC,
    })
  }
  checkVersion(header.readUInt32BE(8), where)
  const headerBytes = header.readUInt32BE(12)
  const needed = HEADER_PREFIX_BYTES + header.readUInt32BE(16) + header.readUInt32BE(20) + 4
  if (headerBytes > HEADER_BYTES_MAX || headerBytes !== needed) {
    throw corrupt(`${where}: the header's lengths contradict each other: read another copy`, {
      expected: needed,
      found: headerBytes,
    })
  }
  return headerBytes
}

/**
 * Reads the header from the object's first bytes; more may follow it. `access`: as the index gave it; null for an
 * object that is not encrypted. Without it a header is read as it stands, whoever wrote it.
 */
export function decodeObjectHeader(
  bytes: Uint8Array,
  where: string,
  access?: ObjectAccess | null,
): SegmentObjectMeta {
  const headerBytes = objectHeaderBytes(bytes, where)
  const header = asBuffer(bytes).subarray(0, headerBytes)
  if (header.length < headerBytes) throw corrupt(`${where} ends within its header: read another copy`)
  if (access !== undefined) checkHeaderIsOf(access, header, where)
  compareCrc(
    crc32c(header.subarray(0, headerBytes - 4)),
    header.readUInt32BE(headerBytes - 4),
    `${where}: header`,
  )
  const jsonEnd = HEADER_PREFIX_BYTES + header.readUInt32BE(16)
  const ledgerMetadata = Uint8Array.from(header.subarray(jsonEnd, headerBytes - 4))
  return { ...decodeHeaderJson(header.subarray(HEADER_PREFIX_BYTES, jsonEnd), where), ledgerMetadata }
}

function checkHeaderIsOf(access: ObjectAccess | null, header: Buffer, where: string): void {
  const version = header.readUInt32BE(8)
  const expected = access === null ? PLAIN_VERSION : ENCRYPTED_VERSION
  const same = access === null || asBuffer(headerHash(header)).equals(access.envelope.headerHash)
  if (version === expected && same) return
  throw corrupt(`${where}: the header is not the one that was written with this object: read another copy`, {
    expected,
    found: version,
  })
}

/** Bytes of index and footer of an object with so many blocks; of an encrypted one with its envelope. */
export function objectIndexBytes(blockCount: number, encrypted = false): number {
  return blockCount * INDEX_ROW_BYTES + (encrypted ? ENVELOPE_BYTES : 0) + FOOTER_BYTES
}

/** Whether an object of that size can have an index of that size: looked at before memory is taken for it. */
export function isIndexSize(indexBytes: number, sizeBytes: number, encrypted: boolean): boolean {
  const rows = (indexBytes - objectIndexBytes(0, encrypted)) / INDEX_ROW_BYTES
  return Number.isInteger(rows) && rows >= 1 && rows <= BLOCK_COUNT_MAX && indexBytes < sizeBytes
}

/** Index and footer: the end of the object. With `seal` encrypted, and bound to the header. */
export function encodeObjectIndex(
  rows: readonly BlockRow[],
  footer: SegmentObjectFooter,
  sealed: { readonly seal: ObjectSeal; readonly header: Uint8Array } | null = null,
): Uint8Array {
  assert(rows.length > 0 && rows.length <= BLOCK_COUNT_MAX, `an object of ${rows.length} blocks`)
  const bytes = Buffer.alloc(objectIndexBytes(rows.length, sealed !== null))
  rows.forEach((row, i) => {
    writeRow(bytes, i * INDEX_ROW_BYTES, row)
  })
  const indexBytes = bytes.length - FOOTER_BYTES
  const last = rows[rows.length - 1]
  const end = bytes.subarray(indexBytes)
  end.writeBigUInt64BE(BigInt(last === undefined ? 0 : last.offset + last.blockBytes), 0)
  end.writeUInt32BE(indexBytes, 8)
  end.writeUInt32BE(rows.length, 16)
  end.writeUInt32BE(footer.headerBytes, 20)
  end.writeBigUInt64BE(BigInt(footer.entryCount), 24)
  end.writeBigUInt64BE(BigInt(footer.lengthBytes), 32)
  end.writeBigUInt64BE(footer.recordCount, 40)
  end.write(footer.contentDigest, 48, 'hex')
  end.writeUInt32BE(sealed === null ? PLAIN_VERSION : ENCRYPTED_VERSION, FOOTER_VERSION_AT)
  if (sealed !== null) sealRows(bytes, end, sealed.seal, sealed.header)
  end.writeUInt32BE(crc32c(bytes.subarray(0, indexBytes)), 12)
  end.writeUInt32BE(crc32c(end.subarray(0, FOOTER_CRC_AT)), FOOTER_CRC_AT)
  end.write(FOOTER_MAGIC, 88, 'latin1')
  return bytes
}

/** Encrypts the rows where they stand; their tag ends the envelope behind them. */
function sealRows(bytes: Buffer, end: Buffer, seal: ObjectSeal, header: Uint8Array): void {
  const rowBytes = bytes.length - FOOTER_BYTES - ENVELOPE_BYTES
  const { streamKeyId, wrappedKey } = seal
  const envelope = { streamKeyId, wrappedKey, headerHash: headerHash(header) }
  const open = encodeEnvelope({ ...envelope, indexTag: new Uint8Array(TAG_BYTES) })
  const sealed = seal.cipher.sealIndex(bytes.subarray(0, rowBytes), open, end)
  bytes.set(sealed.subarray(0, rowBytes), 0)
  bytes.set(encodeEnvelope({ ...envelope, indexTag: sealed.subarray(rowBytes) }), rowBytes)
}

function writeRow(bytes: Buffer, at: number, row: BlockRow): void {
  bytes.writeBigInt64BE(row.firstEntryId, at)
  bytes.writeBigInt64BE(row.lastEntryId, at + 8)
  bytes.writeBigInt64BE(row.firstSequenceId, at + 16)
  bytes.writeBigInt64BE(row.firstTxid, at + 24)
  bytes.writeBigInt64BE(row.lastTxid, at + 32)
  bytes.writeBigUInt64BE(BigInt(row.offset), at + 40)
  bytes.writeUInt32BE(row.blockBytes, at + 48)
  bytes.writeUInt32BE(row.rawBytes, at + 52)
}

/** The envelope of an encrypted object, from its index and footer; null for one that is not encrypted. */
export function decodeObjectEnvelope(bytes: Uint8Array, where: string): ObjectEnvelope | null {
  const { buffer, end } = checkedEnd(bytes, where)
  if (end.readUInt32BE(FOOTER_VERSION_AT) === PLAIN_VERSION) return null
  // Before a key is asked for: a damaged id must not pass for a key that is missing.
  const index = buffer.subarray(0, buffer.length - FOOTER_BYTES)
  compareCrc(crc32c(index), end.readUInt32BE(12), `${where}: index`)
  const from = buffer.length - FOOTER_BYTES - ENVELOPE_BYTES
  const envelope = from < 0 ? null : decodeEnvelope(buffer.subarray(from, from + ENVELOPE_BYTES))
  if (envelope !== null) return envelope
  throw unsupportedVersion(`${where} is encrypted in a way this stratalog does not know: use a newer one`)
}

/**
 * Reads the end of an object of `sizeBytes` bytes: exactly its index and footer. `access`: what it is decrypted with,
 * null for one that is not encrypted.
 */
export function decodeObjectIndex(
  bytes: Uint8Array,
  sizeBytes: number,
  where: string,
  access: ObjectAccess | null = null,
): { rows: BlockRow[]; footer: SegmentObjectFooter } {
  const { buffer, end } = checkedEnd(bytes, where)
  const encrypted = end.readUInt32BE(FOOTER_VERSION_AT) === ENCRYPTED_VERSION
  if (encrypted !== (access !== null)) {
    throw corrupt(`${where} is ${encrypted ? '' : 'not '}encrypted, unlike its name says: read another copy`)
  }
  const indexBytes = buffer.length - FOOTER_BYTES
  const rowBytes = indexBytes - (encrypted ? ENVELOPE_BYTES : 0)
  const blockCount = end.readUInt32BE(16)
  const indexOffset = Number(end.readBigUInt64BE(0))
  const expected = {
    indexBytes,
    indexOffset: sizeBytes - buffer.length,
    blockCount: rowBytes / INDEX_ROW_BYTES,
  }
  const found = { indexBytes: end.readUInt32BE(8), indexOffset, blockCount }
  if (JSON.stringify(found) !== JSON.stringify(expected) || blockCount < 1 || blockCount > BLOCK_COUNT_MAX) {
    throw corrupt(`${where}: the footer does not fit an object of ${sizeBytes} bytes: read another copy`, {
      expected,
      found,
    })
  }
  const at = `${where}: index at ${indexOffset}`
  compareCrc(crc32c(buffer.subarray(0, indexBytes)), end.readUInt32BE(12), at)
  const plain = access === null ? buffer : decryptedRows(buffer.subarray(0, indexBytes), end, access, at)
  const footer = {
    headerBytes: end.readUInt32BE(20),
    entryCount: Number(end.readBigUInt64BE(24)),
    lengthBytes: Number(end.readBigUInt64BE(32)),
    recordCount: end.readBigUInt64BE(40),
    contentDigest: end.toString('hex', 48, FOOTER_VERSION_AT),
  }
  const rows = Array.from({ length: blockCount }, (_, i) => readRow(plain, i * INDEX_ROW_BYTES))
  checkRows(rows, footer, indexOffset, encrypted, where)
  return { rows, footer }
}

/** Magic, version and checksum of the footer, before anything in it is believed. */
function checkedEnd(bytes: Uint8Array, where: string): { buffer: Buffer; end: Buffer } {
  const buffer = asBuffer(bytes)
  const indexBytes = buffer.length - FOOTER_BYTES
  const end = buffer.subarray(Math.max(0, indexBytes))
  if (indexBytes < INDEX_ROW_BYTES || end.toString('latin1', 88) !== FOOTER_MAGIC) {
    throw corrupt(`${where} does not end as a segment object: read another copy`, { expected: FOOTER_MAGIC })
  }
  checkVersion(end.readUInt32BE(FOOTER_VERSION_AT), where)
  compareCrc(crc32c(end.subarray(0, FOOTER_CRC_AT)), end.readUInt32BE(FOOTER_CRC_AT), `${where}: footer`)
  return { buffer, end }
}

function decryptedRows(index: Buffer, end: Buffer, { cipher, envelope }: ObjectAccess, at: string): Buffer {
  const rowBytes = index.length - ENVELOPE_BYTES
  const sealed = Buffer.concat([index.subarray(0, rowBytes), envelope.indexTag])
  const rows = cipher.openIndex(sealed, index.subarray(rowBytes), end)
  if (rows !== null) return asBuffer(rows)
  throw corrupt(
    `${at} was not written into this object: somebody changed it or the footer, read another copy`,
  )
}

function readRow(bytes: Buffer, at: number): BlockRow {
  return {
    firstEntryId: bytes.readBigInt64BE(at),
    lastEntryId: bytes.readBigInt64BE(at + 8),
    firstSequenceId: bytes.readBigInt64BE(at + 16),
    firstTxid: bytes.readBigInt64BE(at + 24),
    lastTxid: bytes.readBigInt64BE(at + 32),
    offset: Number(bytes.readBigUInt64BE(at + 40)),
    blockBytes: bytes.readUInt32BE(at + 48),
    rawBytes: bytes.readUInt32BE(at + 52),
  }
}

/** The blocks must fill the object from header to index, and their entries follow one another from 0. */
function checkRows(
  rows: readonly BlockRow[],
  footer: SegmentObjectFooter,
  indexOffset: number,
  encrypted: boolean,
  where: string,
): void {
  let offset = footer.headerBytes
  let entryId = 0n
  for (const row of rows) {
    const entries = row.lastEntryId - row.firstEntryId + 1n
    const fits =
      row.offset === offset &&
      row.firstEntryId === entryId &&
      entries > 0n &&
      entries * BigInt(ENTRY_HEADER_BYTES) <= BigInt(row.rawBytes) &&
      row.rawBytes <= BLOCK_RAW_BYTES_MAX &&
      row.blockBytes > BLOCK_HEADER_BYTES &&
      row.blockBytes <= storedBlockBytes(row.rawBytes, encrypted)
    if (!fits)
      throw corrupt(`${where}: the index row of entry ${row.firstEntryId} can't be right: read another copy`)
    offset += row.blockBytes
    entryId += entries
  }
  if (
    footer.headerBytes > HEADER_BYTES_MAX ||
    offset !== indexOffset ||
    entryId !== BigInt(footer.entryCount)
  ) {
    throw corrupt(`${where}: the index does not cover the object: read another copy`, {
      expected: indexOffset,
      found: offset,
    })
  }
}

function checkVersion(version: number, where: string): void {
  if (version === PLAIN_VERSION || version === ENCRYPTED_VERSION) return
  throw unsupportedVersion(
    `${where} is a segment object of version ${version}; this stratalog reads up to ${SEGMENT_OBJECT_VERSION}: use a newer one`,
    { expected: SEGMENT_OBJECT_VERSION, found: version },
  )
}
