import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { DecodedRecord } from '../../src/format/record.js'
import {
  controlRecord,
  decodeRecords,
  endOfStreamRecord,
  FLAG_CONTROL,
  FLAG_RECORD_SET,
  RECORDS_PER_ENTRY_MAX,
  recordBytes,
  writeRecord,
  writeRecordHeader,
} from '../../src/format/record.js'
import { encodeRecordSet } from '../../src/format/record-set.js'
import { AssertionFailed } from '../../src/model/assert.js'
import { hex, readsOrNames, refuses, survivesDamage, toHex, vector, vectors } from './vectors.js'

const golden = (name: string) => vector(vectors.log_records, name)

function record(flags: number, position: number, txid: bigint, payload: Uint8Array): Buffer {
  const buffer = Buffer.alloc(recordBytes(payload.length))
  assert.equal(writeRecord(buffer, 0, flags, position, txid, payload), buffer.length)
  return buffer
}

function only(bytes: Uint8Array): DecodedRecord {
  const records = decodeRecords(bytes)
  assert.equal(records.length, 1)
  assert.ok(records[0] !== undefined)
  return records[0]
}

describe('log record', () => {
  test('golden user records, both ways', () => {
    const text = Buffer.from('hello stratalog')
    assert.equal(toHex(record(0, 1, 1001n, text)), golden('user_txid1001_pos1'))
    assert.equal(toHex(record(0, 65536, 5n, new Uint8Array(0))), golden('empty_payload_txid5_pos65536'))
    const read = only(hex(golden('user_txid1001_pos1')))
    assert.deepEqual(
      { ...read, payload: Buffer.from(read.payload).toString() },
      {
        flags: 0,
        control: false,
        endOfStream: false,
        position: 1,
        txid: 1001n,
        slot: 0,
        payload: 'hello stratalog',
      },
    )
    const empty = only(hex(golden('empty_payload_txid5_pos65536')))
    assert.deepEqual([empty.position, empty.txid, empty.payload.length], [65536, 5n, 0])
  })

  test('golden control and end of stream records, both ways', () => {
    assert.equal(toHex(controlRecord(1, 1001n)), golden('control_txid1001_pos1'))
    assert.equal(toHex(endOfStreamRecord(2)), golden('eos_pos2'))
    const control = only(hex(golden('control_txid1001_pos1')))
    assert.deepEqual([control.control, control.endOfStream, control.position], [true, false, 1])
    const end = only(hex(golden('eos_pos2')))
    assert.deepEqual([end.control, end.endOfStream, end.txid], [false, true, 2n ** 63n - 1n])
    assert.equal(Buffer.from(only(controlRecord(3, 9n, Buffer.from('mine'))).payload).toString(), 'mine')
  })

  test('round trip, slots dense', () => {
    const one = fc.record(
      {
        flags: fc.constantFrom(0, 1, 2),
        position: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
        txid: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
        payload: fc.uint8Array({ maxLength: 40 }),
      },
      { noNullPrototype: true },
    )
    fc.assert(
      fc.property(fc.array(one), fc.nat(1_000), (records, firstSlot) => {
        const bytes = Buffer.concat(records.map((r) => record(r.flags, r.position, r.txid, r.payload)))
        const read = decodeRecords(Uint8Array.from(bytes), firstSlot)
        assert.deepEqual(
          read.map(({ flags, position, txid, payload }) => ({ flags, position, txid, payload })),
          records,
        )
        assert.deepEqual(
          read.map(({ slot }) => slot),
          records.map((_, index) => firstSlot + index),
        )
      }),
    )
  })

  test('writes at an offset and leaves the rest alone', () => {
    const buffer = Buffer.alloc(60, 0xaa)
    assert.equal(writeRecordHeader(buffer, 5, 1, 7, -1n, 3), 25)
    assert.equal(toHex(buffer.subarray(0, 25)), `${'aa'.repeat(5)}0000000000070001ffffffffffffffff00000003`)
    assert.equal(toHex(buffer.subarray(25)), 'aa'.repeat(35))
    assert.equal(writeRecord(buffer, 30, 0, 1, 1n, Buffer.from('0123456789')), 60)
    assert.throws(() => writeRecord(buffer, 31, 0, 1, 1n, Buffer.from('0123456789')), AssertionFailed)
    assert.throws(() => writeRecordHeader(buffer, 41, 0, 1, 1n, 0), AssertionFailed)
    assert.throws(() => writeRecordHeader(buffer, 0, 0, 2 ** 32, 1n, 0), AssertionFailed)
    assert.throws(() => writeRecordHeader(buffer, 0, 0x10000, 1, 1n, 0), AssertionFailed)
  })

  test('a record set takes as many slots as it has records', () => {
    for (const codec of ['none', 'lz4'] as const) {
      const set = encodeRecordSet([Buffer.from('a'), Buffer.from('bb'), new Uint8Array(0)], codec)
      const bytes = Buffer.concat([
        record(0, 1, 10n, Buffer.from('x')),
        record(FLAG_RECORD_SET, 2, 11n, set),
        record(FLAG_RECORD_SET, 5, 12n, encodeRecordSet([], codec)),
        record(FLAG_CONTROL, 4, 11n, Buffer.from('control')),
        record(0, 5, 13n, Buffer.from('y')),
      ])
      assert.deepEqual(
        decodeRecords(bytes).map((r) => `${r.slot}/${r.position}/${r.txid}/${r.flags}/${r.payload}`),
        ['0/1/10/0/x', '1/2/11/0/a', '2/3/11/0/bb', '3/4/11/0/', '4/4/11/1/control', '5/5/13/0/y'],
      )
    }
  })

  test('the upper sixteen bits of the metadata are ignored', () => {
    const bytes = record(0, 77, 5n, Buffer.from('x'))
    bytes.writeUInt16BE(0xffff, 0)
    assert.equal(only(bytes).position, 77)
  })

  test('damage and garbage are named', () => {
    const bytes = hex(golden('user_txid1001_pos1'))
    // A prefix of one record is never whole; the empty one is an entry without records.
    for (let length = 1; length < bytes.length; length++) {
      refuses('corrupt', () => decodeRecords(bytes.subarray(0, length)), `${length}`)
    }
    assert.deepEqual(decodeRecords(new Uint8Array(0)), [])
    refuses('corrupt', () => decodeRecords(Buffer.concat([bytes, new Uint8Array(1)])))
    const negative = Buffer.from(bytes)
    negative.writeInt32BE(-1, 16)
    refuses('corrupt', () => decodeRecords(negative))
    for (const name of ['recordset_record_txid1002_pos2_NONE', 'recordset_record_txid1002_pos2_LZ4']) {
      survivesDamage(hex(golden(name)), decodeRecords, 1)
    }
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (garbage) => readsOrNames(() => decodeRecords(garbage))),
    )
  })

  test('what would expand to too much is refused before it does', () => {
    const many = encodeRecordSet(
      Array.from({ length: 2 ** 18 }, () => new Uint8Array(0)),
      'lz4',
    )
    const bomb = record(FLAG_RECORD_SET, 1, 1n, many)
    assert.equal(decodeRecords(bomb).length, 2 ** 18)
    const copies = RECORDS_PER_ENTRY_MAX / 2 ** 18
    refuses('corrupt', () => decodeRecords(Buffer.concat(Array.from({ length: copies + 1 }, () => bomb))))
    const wide = record(FLAG_RECORD_SET, 1, 1n, encodeRecordSet([new Uint8Array(2 ** 24)], 'lz4'))
    refuses('corrupt', () => decodeRecords(Buffer.concat([wide, wide, wide, wide])))
  })
})
