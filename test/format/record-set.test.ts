import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { decodeRecordSet, encodeRecordSet, recordSetSize } from '../../src/format/record-set.js'
import { hex, readsOrNames, refuses, survivesDamage, toHex, vector, vectors } from './vectors.js'

const payloads = [Buffer.alloc(40, 'a'), Buffer.from('bb'), Buffer.from('ccc')]
const plain = hex(vector(vectors.log_records, 'recordset_payload_NONE'))
const compressed = hex(vector(vectors.log_records, 'recordset_payload_LZ4'))

describe('record set', () => {
  test('golden, both ways', () => {
    assert.equal(toHex(encodeRecordSet(payloads, 'none')), toHex(plain))
    assert.deepEqual(decodeRecordSet(plain).map(toHex), payloads.map(toHex))
    assert.deepEqual(decodeRecordSet(compressed).map(toHex), payloads.map(toHex))
    assert.deepEqual(recordSetSize(compressed), { count: 3, decompressedBytes: 57 })
    // Any LZ4 block that decodes to the same is as good as Java's; only the header before its length is
    // fixed.
    assert.equal(toHex(encodeRecordSet(payloads, 'lz4')).slice(0, 24), toHex(compressed).slice(0, 24))
  })

  test('round trip', () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array()),
        fc.constantFrom('none' as const, 'lz4' as const),
        (sets, codec) => {
          const set = encodeRecordSet(sets, codec)
          assert.deepEqual(decodeRecordSet(set).map(toHex), sets.map(toHex))
          assert.equal(recordSetSize(set).count, sets.length)
        },
      ),
    )
  })

  test('payloads of an uncompressed set are views', () => {
    const set = encodeRecordSet([Buffer.from('abc')], 'none')
    const [first] = decodeRecordSet(set)
    set[set.length - 1] = 0x7a
    assert.equal(Buffer.from(first ?? []).toString(), 'abz')
  })

  test('damage and garbage are named', () => {
    survivesDamage(plain, decodeRecordSet)
    survivesDamage(compressed, decodeRecordSet)
    const with32 = (at: number, value: number) => {
      const set = Buffer.from(plain)
      set.writeInt32BE(value, at)
      return set
    }
    for (const metadata of [0, 0x1002, 0x1003, 0x2000, 0x1004]) {
      refuses('version_unsupported', () => decodeRecordSet(with32(0, metadata)), metadata.toString(16))
    }
    for (const count of [-1, 2, 4, 2 ** 31 - 1]) refuses('corrupt', () => decodeRecordSet(with32(4, count)))
    for (const at of [8, 12, 16]) {
      for (const length of [-1, 2 ** 31 - 1]) refuses('corrupt', () => decodeRecordSet(with32(at, length)))
    }
    refuses('corrupt', () => decodeRecordSet(Buffer.concat([plain, new Uint8Array(1)])))
    fc.assert(fc.property(fc.uint8Array(), (garbage) => readsOrNames(() => decodeRecordSet(garbage))))
  })
})
