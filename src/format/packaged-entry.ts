import { assert } from '../model/assert.js'
import { crc32c, crc32cJoined, crc32cOfFew } from './checksum.js'
import { type EntryHeader, entryHeaderBytes, packageEntryInPlace, writeEntryHeader } from './ledger-digest.js'

const HEADER_BYTES = entryHeaderBytes('CRC32C')

/**
 * A packaged ledger entry (header, digest, payload) on its way to several stores. They share the bytes and the
 * checksum over them, so that neither is computed once per copy.
 */
export class PackagedEntry {
  readonly bytes: Uint8Array
  #crc32c: number | null = null

  constructor(bytes: Uint8Array, crc: number | null = null) {
    this.bytes = bytes
    this.#crc32c = crc
  }

  /** Packages an entry with the CRC32 digest of DistributedLog's ledgers as `packageEntryInPlace` does. */
  static inPlaceWithCrc32(buffer: Buffer, header: EntryHeader): PackagedEntry {
    const { ledgerId, entryId, lac, lengthBytes } = header
    packageEntryInPlace(buffer, 'CRC32', ledgerId, entryId, lac, lengthBytes)
    return new PackagedEntry(buffer)
  }

  /**
   * Packages an entry with a CRC32C digest as `packageEntryInPlace` does. The payload is read once for both checksums,
   * the digest and the one over all bytes.
   */
  static inPlace(buffer: Buffer, header: EntryHeader): PackagedEntry {
    assert(buffer.length >= HEADER_BYTES, 'an entry is packaged in a buffer without room for its header')
    const payload = crc32c(buffer.subarray(HEADER_BYTES))
    const payloadBytes = buffer.length - HEADER_BYTES
    const at = writeEntryHeader(buffer, header)
    buffer.writeUInt32BE(crc32cJoined(crc32cOfFew(buffer, 0, at), payload, payloadBytes), at)
    return new PackagedEntry(
      buffer,
      crc32cJoined(crc32cOfFew(buffer, 0, HEADER_BYTES), payload, payloadBytes),
    )
  }

  /** CRC32C over all bytes; unsigned. */
  get crc32c(): number {
    this.#crc32c ??= crc32c(this.bytes)
    return this.#crc32c
  }
}
