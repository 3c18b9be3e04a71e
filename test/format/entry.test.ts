import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import {
  ENVELOPE_HEADER_BYTES,
  encodeEnvelope,
  openEnvelope,
  writeEnvelopeHeader,
} from '../../src/format/entry.js'
import { controlRecord, decodeRecords } from '../../src/format/record.js'
import { AssertionFailed } from '../../src/model/assert.js'
import { hex, readsOrNames, refuses, survivesDamage, toHex, vector, vectors } from './vectors.js'

const golden = (name: string) => vector(vectors.log_records, name)
const plain = hex(golden('enveloped_entry_[user,recordset(3),user]_NONE'))
const compressed = hex(golden('enveloped_entry_[user,recordset(3),user]_LZ4'))

/** The text in which Java printed what it read: DLSNs of segment 3, entry 4, sequence ids from 100. */
function asJavaPrints(entry: Uint8Array): string {
  return decodeRecords(openEnvelope(entry))
    .map(
      (r) => `3,4,${r.slot} tx=${r.txid} pos=${r.position} seq=${99 + r.position} len=${r.payload.length} | `,
    )
    .join('')
}

describe('enveloped entry', () => {
  test('golden: reads what Java read', () => {
    assert.equal(asJavaPrints(plain), golden('decoded_lssn3_entry4_startSeq100_NONE'))
    assert.equal(asJavaPrints(compressed), golden('decoded_lssn3_entry4_startSeq100_LZ4'))
  })

  test('golden: writes what Java wrote', () => {
    assert.equal(toHex(encodeEnvelope(openEnvelope(plain), 'none')), toHex(plain))
    assert.equal(toHex(encodeEnvelope(controlRecord(1, 1001n), 'none')), golden('enveloped_control_entry'))
    const again = encodeEnvelope(openEnvelope(compressed), 'lz4')
    assert.equal(toHex(again).slice(0, 18), toHex(compressed).slice(0, 18))
    assert.equal(toHex(openEnvelope(again)), toHex(openEnvelope(compressed)))
  })

  test('entries of a live ledger, both ways', () => {
    for (const entry of vectors.live.entries) {
      assert.equal(toHex(encodeEnvelope(openEnvelope(hex(entry)), 'none')), entry)
      assert.equal(decodeRecords(openEnvelope(hex(entry))).length, 1)
    }
    assert.equal(vectors.live.entries.length, 3)
  })

  test('round trip', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 500 }),
        fc.constantFrom('none' as const, 'lz4' as const),
        (bytes, codec) => {
          assert.equal(toHex(openEnvelope(encodeEnvelope(bytes, codec))), toHex(bytes))
        },
      ),
    )
  })

  test('the header alone, at an offset', () => {
    const buffer = Buffer.alloc(ENVELOPE_HEADER_BYTES + 4, 0xaa)
    writeEnvelopeHeader(buffer, 2, 'lz4', 300, 20)
    assert.equal(toHex(buffer), `aaaa01000000010000012c00000014aaaa`)
    assert.throws(() => writeEnvelopeHeader(buffer, 0, 'none', 300, 20), AssertionFailed)
  })

  test('damage and garbage are named', () => {
    survivesDamage(plain, openEnvelope)
    survivesDamage(compressed, (bytes) => decodeRecords(openEnvelope(bytes)))
    const changed = (at: number, value: number) => {
      const entry = Buffer.from(plain)
      entry.writeInt32BE(value, at)
      return entry
    }
    for (const flags of [2, 3, 4, -1, 0x100])
      refuses('version_unsupported', () => openEnvelope(changed(1, flags)))
    refuses('version_unsupported', () => openEnvelope(Buffer.concat([hex('02'), plain.subarray(1)])))
    for (const at of [5, 9]) {
      for (const length of [-1, 0, 197, 199, 2 ** 31 - 1])
        refuses('corrupt', () => openEnvelope(changed(at, length)))
    }
    const huge = Buffer.from(compressed)
    huge.writeInt32BE(64 * 2 ** 20 + 1, 5)
    refuses('corrupt', () => openEnvelope(huge))
    refuses('corrupt', () => openEnvelope(Buffer.concat([plain, new Uint8Array(1)])))
    fc.assert(fc.property(fc.uint8Array(), (garbage) => readsOrNames(() => openEnvelope(garbage))))
  })
})
