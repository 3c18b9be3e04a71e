import { assert } from '../model/assert.js'
import { Dlsn } from '../model/dlsn.js'
import { asBuffer, corrupt, unsupportedVersion } from './bytes.js'

/*
 * DistributedLog's binary form of a DLSN (DLSN.java), big-endian:
 *
 *   0        1                    9                    17                   25
 *   ┌────────┬────────────────────┬────────────────────┬────────────────────┐
 *   │ 0x01   │ segment: int64     │ entry: int64       │ slot: int64        │   version 1
 *   └────────┴────────────────────┴────────────────────┴────────────────────┘
 *
 * Version 0 has 0x00 first and is padded with zeros to 200 bytes: a slip of bits for bytes, kept for
 * compatibility. Its text is standard base64 with padding. Neither sorts as bytes or text.
 */

const VERSION_0_BYTES = 200
const VERSION_1_BYTES = 25

/** The binary form, version 1, of 25 bytes. */
export function encodeDlsn(dlsn: Dlsn): Uint8Array {
  for (const part of [dlsn.segment, dlsn.entry, dlsn.slot]) {
    assert(BigInt.asIntN(64, part) === part, 'the parts of a DLSN are 64-bit numbers')
  }
  const bytes = Buffer.alloc(VERSION_1_BYTES)
  bytes.writeUInt8(1, 0)
  bytes.writeBigInt64BE(dlsn.segment, 1)
  bytes.writeBigInt64BE(dlsn.entry, 9)
  bytes.writeBigInt64BE(dlsn.slot, 17)
  return bytes
}

/** Reads version 1 and version 0. Throws `corrupt` or `version_unsupported`. */
export function decodeDlsn(bytes: Uint8Array): Dlsn {
  const version = bytes[0]
  if (version === undefined) throw corrupt('a DLSN has no bytes')
  if (version > 1) {
    throw unsupportedVersion(`version ${version} of a binary DLSN is not known: versions 0 and 1 are`, {
      found: version,
    })
  }
  const expected = version === 0 ? VERSION_0_BYTES : VERSION_1_BYTES
  if (bytes.length !== expected) {
    throw corrupt(`a binary DLSN of version ${version} has ${bytes.length} bytes in place of ${expected}`, {
      expected,
      found: bytes.length,
    })
  }
  const buffer = asBuffer(bytes)
  return new Dlsn(buffer.readBigInt64BE(1), buffer.readBigInt64BE(9), buffer.readBigInt64BE(17))
}

/** DistributedLog's text form: base64 of the binary form, 36 characters. */
export function dlsnToBase64(dlsn: Dlsn): string {
  return asBuffer(encodeDlsn(dlsn)).toString('base64')
}

/**
 * Reads what {@link dlsnToBase64} or an old DistributedLog wrote. Throws `corrupt` or `version_unsupported`.
 */
export function dlsnFromBase64(text: string): Dlsn {
  // Buffer's own decoder ignores what is no base64; only a text that it would write itself is taken.
  const bytes = Buffer.from(text, 'base64')
  if (bytes.toString('base64') !== text) {
    throw corrupt('a DLSN in base64 has characters that are no base64', { found: text.slice(0, 300) })
  }
  return decodeDlsn(bytes)
}
