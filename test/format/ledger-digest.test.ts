import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { crc32c } from '../../src/format/checksum.js'
import {
  digestBytes,
  encodeLacPacket,
  entryHeaderBytes,
  macKey,
  masterKey,
  openEntry,
  openLacPacket,
  packageEntry,
  packageEntryInPlace,
  readEntryHeader,
} from '../../src/format/ledger-digest.js'
import { PackagedEntry } from '../../src/format/packaged-entry.js'
import { AssertionFailed } from '../../src/model/assert.js'
import type { DigestType } from '../../src/model/ledger.js'
import { hex, refuses, survivesDamage, toHex, vector, vectors } from './vectors.js'

const TYPES: readonly DigestType[] = ['CRC32', 'HMAC', 'CRC32C', 'DUMMY']
const KEY = macKey('secret')
const PAYLOAD = Buffer.from('hello stratalog')
const int64 = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })

describe('ledger digest', () => {
  test('golden keys', () => {
    assert.equal(toHex(masterKey('')), vector(vectors.master_keys, 'empty'))
    assert.equal(toHex(masterKey('secret')), vector(vectors.master_keys, 'secret'))
    assert.equal(toHex(macKey('secret')), vector(vectors.master_keys, 'mac_key_secret'))
    assert.equal(toHex(macKey('')), vector(vectors.master_keys, 'mac_key_empty'))
  })

  for (const type of TYPES) {
    test(`golden entry and LAC packet, both ways: ${type}`, () => {
      const entry = vector(vectors.digest[type], 'entry')
      const lac = vector(vectors.digest[type], 'explicit_lac_6')
      assert.equal(toHex(packageEntry(PAYLOAD, type, 12345n, 7n, 6n, 120n, KEY)), entry)
      const opened = openEntry(hex(entry), type, 12345n, 7n, KEY)
      assert.deepEqual(
        { ...opened, payload: toHex(opened.payload) },
        { ledgerId: 12345n, entryId: 7n, lac: 6n, lengthBytes: 120n, payload: toHex(PAYLOAD) },
      )
      assert.equal(openEntry(hex(entry), type, 12345n, null, KEY).entryId, 7n)
      assert.equal(toHex(encodeLacPacket(type, 12345n, 6n, KEY)), lac)
      assert.equal(openLacPacket(hex(lac), type, 12345n, KEY), 6n)
      assert.equal(entryHeaderBytes(type), 32 + digestBytes(type))
    })

    test(`round trip in place: ${type}`, () => {
      fc.assert(
        fc.property(int64, int64, int64, int64, fc.uint8Array(), (ledger, entry, lac, length, payload) => {
          const buffer = Buffer.alloc(entryHeaderBytes(type) + payload.length, 0xaa)
          buffer.set(payload, entryHeaderBytes(type))
          packageEntryInPlace(buffer, type, ledger, entry, lac, length, KEY)
          assert.equal(toHex(packageEntry(payload, type, ledger, entry, lac, length, KEY)), toHex(buffer))
          const opened = openEntry(Uint8Array.from(buffer), type, ledger, entry, KEY)
          assert.deepEqual(
            [opened.lac, opened.lengthBytes, toHex(opened.payload)],
            [lac, length, toHex(payload)],
          )
          assert.equal(openLacPacket(encodeLacPacket(type, ledger, lac, KEY), type, ledger, KEY), lac)
        }),
      )
    })

    test(`another ledger or entry is refused: ${type}`, () => {
      const entry = packageEntry(PAYLOAD, type, 12345n, 7n, 6n, 120n, KEY)
      refuses('corrupt', () => openEntry(entry, type, 12346n, 7n, KEY))
      refuses('corrupt', () => openEntry(entry, type, 12345n, 8n, KEY))
      refuses('corrupt', () => openEntry(entry, type, 12346n, null, KEY))
      refuses('corrupt', () => openLacPacket(encodeLacPacket(type, 12345n, 6n, KEY), type, 1n, KEY))
    })
  }

  test('both checksums of an entry from one reading of its payload', () => {
    fc.assert(
      fc.property(
        int64,
        int64,
        int64,
        int64,
        fc.uint8Array(),
        (ledgerId, entryId, lac, lengthBytes, payload) => {
          const buffer = Buffer.alloc(entryHeaderBytes('CRC32C') + payload.length, 0xaa)
          buffer.set(payload, entryHeaderBytes('CRC32C'))
          const { bytes, crc32c: whole } = PackagedEntry.inPlace(buffer, {
            ledgerId,
            entryId,
            lac,
            lengthBytes,
          })
          assert.equal(
            toHex(bytes),
            toHex(packageEntry(payload, 'CRC32C', ledgerId, entryId, lac, lengthBytes)),
          )
          assert.equal(whole, crc32c(bytes))
        },
      ),
    )
    const small = Buffer.alloc(35)
    const header = { ledgerId: 1n, entryId: 1n, lac: 0n, lengthBytes: 0n }
    assert.throws(() => PackagedEntry.inPlace(small, header), AssertionFailed)
  })

  test('every changed bit and every cut of an entry is found', () => {
    for (const type of ['CRC32', 'HMAC', 'CRC32C'] as const) {
      const entry = packageEntry(PAYLOAD, type, 12345n, 7n, 6n, 120n, KEY)
      const lac = encodeLacPacket(type, 12345n, 6n, KEY)
      survivesDamage(entry, (bytes) => openEntry(bytes, type, 12345n, 7n, KEY))
      survivesDamage(lac, (bytes) => openLacPacket(bytes, type, 12345n, KEY))
      for (let bit = 0; bit < entry.length * 8; bit++) {
        const damaged = Buffer.from(entry)
        damaged.writeUInt8(damaged.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3)
        refuses('corrupt', () => openEntry(damaged, type, 12345n, 7n, KEY), `${type} bit ${bit}`)
      }
      refuses('corrupt', () => openLacPacket(Buffer.concat([lac, new Uint8Array(1)]), type, 12345n, KEY))
    }
    refuses('corrupt', () => openEntry(new Uint8Array(31), 'DUMMY', 1n, 1n))
  })

  test('another password does not open an entry, and HMAC without a key is a bug', () => {
    const entry = packageEntry(PAYLOAD, 'HMAC', 12345n, 7n, 6n, 120n, KEY)
    refuses('corrupt', () => openEntry(entry, 'HMAC', 12345n, 7n, macKey('other')))
    assert.throws(() => openEntry(entry, 'HMAC', 12345n, 7n), AssertionFailed)
    assert.throws(() => packageEntry(PAYLOAD, 'HMAC', 1n, 1n, 0n, 0n), AssertionFailed)
  })

  test('a header is read without a digest', () => {
    const entry = packageEntry(PAYLOAD, 'DUMMY', 1n, 2n, -1n, 15n)
    assert.deepEqual(readEntryHeader(entry), { ledgerId: 1n, entryId: 2n, lac: -1n, lengthBytes: 15n })
    refuses('corrupt', () => readEntryHeader(entry.subarray(0, 31)))
    assert.throws(() => packageEntryInPlace(Buffer.alloc(35), 'CRC32C', 1n, 1n, 0n, 0n), AssertionFailed)
  })
})
