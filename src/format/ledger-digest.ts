import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import { assert, present, unreachable } from '../model/assert.js'
import type { DigestType } from '../model/ledger.js'
import { asBuffer, corrupt } from './bytes.js'
import { crc32, crc32c, crc32cOfFew } from './checksum.js'

/*
 * A ledger entry as it is stored and sent (BookKeeper's DigestManager.java), big-endian:
 *
 *   0              8              16             24             32         32 + n
 *   ┌──────────────┬──────────────┬──────────────┬──────────────┬──────────┬─────────┐
 *   │ ledger int64 │ entry int64  │ LAC int64    │ length int64 │ digest n │ payload │
 *   └──────────────┴──────────────┴──────────────┴──────────────┴──────────┴─────────┘
 *
 * The digest covers the 32 bytes and the payload: CRC32 as int64 (n = 8), CRC32C as int32 (4), HMAC-SHA-1
 * (20), DUMMY nothing (0). LAC is the writer's when it packaged the entry; length is the payload bytes of the
 * ledger up to and with this entry. Copies of one entry may differ in LAC and digest: recovery packages anew.
 *
 * A LAC packet (explicit last add confirmed) is `ledger int64 · LAC int64 · digest`, over these 16 bytes.
 */

const FIELDS_BYTES = 32
const LAC_FIELDS_BYTES = 16
const NOTHING = new Uint8Array(0)

/** Bytes of a digest. */
export function digestBytes(type: DigestType): number {
  switch (type) {
    case 'CRC32':
      return 8
    case 'HMAC':
      return 20
    case 'CRC32C':
      return 4
    case 'DUMMY':
      return 0
    default:
      return unreachable(type, 'digest type')
  }
}

/** Bytes before the payload of an entry. */
export function entryHeaderBytes(type: DigestType): number {
  return FIELDS_BYTES + digestBytes(type)
}

/** The ledger's key that goes along with adds and fences: SHA-1 of "ledger" and the password, 20 bytes. */
export function masterKey(password: string): Uint8Array {
  return createHash('sha1').update('ledger').update(password, 'utf8').digest()
}

/** The key of HMAC digests: SHA-1 of "mac" and the password, 20 bytes. */
export function macKey(password: string | Uint8Array): Uint8Array {
  return createHash('sha1').update('mac').update(password).digest()
}

/** What stands before an entry's digest. */
export interface EntryHeader {
  readonly ledgerId: bigint
  readonly entryId: bigint
  /** The writer's last add confirmed when it packaged the entry. */
  readonly lac: bigint
  /** Payload bytes of the ledger up to and with this entry. */
  readonly lengthBytes: bigint
}

/** An entry whose digest was checked. */
export interface OpenedEntry extends EntryHeader {
  /** A view of the entry's bytes. */
  readonly payload: Uint8Array
}

/**
 * Packages the entry whose payload already stands in `buffer` from `entryHeaderBytes(type)` to the end:
 * writes the header and the digest in front of it. Nothing is copied. HMAC wants its key.
 */
export function packageEntryInPlace(
  buffer: Buffer,
  type: DigestType,
  ledgerId: bigint,
  entryId: bigint,
  lac: bigint,
  lengthBytes: bigint,
  key?: Uint8Array,
): void {
  const headerBytes = entryHeaderBytes(type)
  assert(buffer.length >= headerBytes, 'an entry is packaged in a buffer without room for its header')
  writeEntryHeader(buffer, { ledgerId, entryId, lac, lengthBytes })
  writeDigest(buffer, FIELDS_BYTES, type, buffer.subarray(headerBytes), key)
}

/** Writes what stands before an entry's digest; returns where that goes. */
export function writeEntryHeader(buffer: Buffer, header: EntryHeader): number {
  buffer.writeBigInt64BE(header.ledgerId, 0)
  buffer.writeBigInt64BE(header.entryId, 8)
  buffer.writeBigInt64BE(header.lac, 16)
  buffer.writeBigInt64BE(header.lengthBytes, 24)
  return FIELDS_BYTES
}

/** Packages a bare payload, which is copied. */
export function packageEntry(
  payload: Uint8Array,
  type: DigestType,
  ledgerId: bigint,
  entryId: bigint,
  lac: bigint,
  lengthBytes: bigint,
  key?: Uint8Array,
): Buffer {
  const headerBytes = entryHeaderBytes(type)
  const buffer = Buffer.allocUnsafe(headerBytes + payload.length)
  buffer.set(payload, headerBytes)
  packageEntryInPlace(buffer, type, ledgerId, entryId, lac, lengthBytes, key)
  return buffer
}

/** The header, not verified: for who verifies later. Throws `corrupt` where there are no 32 bytes. */
export function readEntryHeader(bytes: Uint8Array): EntryHeader {
  if (bytes.length < FIELDS_BYTES) throw tooShort('an entry', FIELDS_BYTES, bytes.length)
  const buffer = asBuffer(bytes)
  return {
    ledgerId: buffer.readBigInt64BE(0),
    entryId: buffer.readBigInt64BE(8),
    lac: buffer.readBigInt64BE(16),
    lengthBytes: buffer.readBigInt64BE(24),
  }
}

/**
 * Verifies the digest, then the ledger id, then the entry id (unless null: reads of "the last entry"), as
 * BookKeeper does. Throws `corrupt`: the next copy may be good.
 */
export function openEntry(
  bytes: Uint8Array,
  type: DigestType,
  ledgerId: bigint,
  entryId: bigint | null,
  key?: Uint8Array,
): OpenedEntry {
  const headerBytes = entryHeaderBytes(type)
  if (bytes.length < headerBytes) throw tooShort('an entry', headerBytes, bytes.length)
  const buffer = asBuffer(bytes)
  const payload = bytes.subarray(headerBytes)
  // Readers come through here for each entry: words are made only for an error.
  const what = () => `entry ${entryId ?? '(last)'} of ledger ${ledgerId}`
  checkDigest(buffer, FIELDS_BYTES, type, payload, what, key)
  const found = buffer.readBigInt64BE(0)
  if (found !== ledgerId) throw otherThanAsked(what(), 'ledger', ledgerId, found)
  const foundEntry = buffer.readBigInt64BE(8)
  if (entryId !== null && foundEntry !== entryId) {
    throw otherThanAsked(what(), 'entry', entryId, foundEntry)
  }
  const lac = buffer.readBigInt64BE(16)
  return { ledgerId, entryId: foundEntry, lac, lengthBytes: buffer.readBigInt64BE(24), payload }
}

/** The packet that publishes a LAC which no entry carried yet. */
export function encodeLacPacket(
  type: DigestType,
  ledgerId: bigint,
  lac: bigint,
  key?: Uint8Array,
): Uint8Array {
  const buffer = Buffer.allocUnsafe(LAC_FIELDS_BYTES + digestBytes(type))
  buffer.writeBigInt64BE(ledgerId, 0)
  buffer.writeBigInt64BE(lac, 8)
  writeDigest(buffer, LAC_FIELDS_BYTES, type, NOTHING, key)
  return buffer
}

/** The LAC of a packet, its digest and ledger id verified. Throws `corrupt`. */
export function openLacPacket(
  bytes: Uint8Array,
  type: DigestType,
  ledgerId: bigint,
  key?: Uint8Array,
): bigint {
  const expected = LAC_FIELDS_BYTES + digestBytes(type)
  const what = () => `the LAC of ledger ${ledgerId}`
  if (bytes.length !== expected) throw tooShort('a LAC packet', expected, bytes.length)
  const buffer = asBuffer(bytes)
  checkDigest(buffer, LAC_FIELDS_BYTES, type, NOTHING, what, key)
  const found = buffer.readBigInt64BE(0)
  if (found !== ledgerId) throw otherThanAsked(what(), 'ledger', ledgerId, found)
  return buffer.readBigInt64BE(8)
}

/** Writes the digest of `buffer[0, at)` and the payload to `at`. */
function writeDigest(
  buffer: Buffer,
  at: number,
  type: DigestType,
  payload: Uint8Array,
  key?: Uint8Array,
): void {
  switch (type) {
    case 'CRC32':
      buffer.writeUInt32BE(0, at)
      buffer.writeUInt32BE(crc32(payload, crc32(buffer.subarray(0, at))), at + 4)
      return
    case 'CRC32C':
      buffer.writeUInt32BE(crc32c(payload, crc32cOfFew(buffer, 0, at)), at)
      return
    case 'HMAC':
      buffer.set(hmac(buffer.subarray(0, at), payload, key), at)
      return
    case 'DUMMY':
      return
    default:
      unreachable(type, 'digest type')
  }
}

/** Throws `corrupt` unless the digest at `at` is that of `buffer[0, at)` and the payload. */
function checkDigest(
  buffer: Buffer,
  at: number,
  type: DigestType,
  payload: Uint8Array,
  what: () => string,
  key?: Uint8Array,
): void {
  const fields = buffer.subarray(0, at)
  if (type === 'DUMMY') return
  if (type === 'HMAC') {
    const stored = buffer.subarray(at, at + digestBytes(type))
    // Constant time, and no digest in the error: here it is a secret of who has the password.
    if (!timingSafeEqual(stored, hmac(fields, payload, key))) throw wrongDigest(what(), type)
    return
  }
  const wide = type === 'CRC32'
  const expected = wide ? crc32(payload, crc32(fields)) : crc32c(payload, crc32c(fields))
  const found = wide ? Number(buffer.readBigUInt64BE(at)) : buffer.readUInt32BE(at)
  if (found !== expected) throw wrongDigest(what(), type, expected, found)
}

function hmac(fields: Uint8Array, payload: Uint8Array, key?: Uint8Array): Buffer {
  return createHmac('sha1', present(key, 'the key of an HMAC digest')).update(fields).update(payload).digest()
}

function wrongDigest(what: string, type: DigestType, expected?: number, found?: number): Error {
  return corrupt(`${what} does not match its ${type} digest: read another copy`, { expected, found })
}

function otherThanAsked(what: string, which: string, expected: bigint, found: bigint): Error {
  return corrupt(`${what} was asked for and ${which} ${found} is there: read another copy`, {
    expected,
    found,
  })
}

function tooShort(what: string, expected: number, found: number): Error {
  return corrupt(`${what} has ${found} bytes where its header takes ${expected}: read another copy`, {
    expected,
    found,
  })
}
