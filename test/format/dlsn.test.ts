import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { decodeDlsn, dlsnFromBase64, dlsnToBase64, encodeDlsn } from '../../src/format/dlsn.js'
import { AssertionFailed } from '../../src/model/assert.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { hex, readsOrNames, refuses, survivesDamage, toHex, vectors } from './vectors.js'

const int64 = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })

describe('DLSN', () => {
  test('golden, both ways', () => {
    let seen = 0
    for (const [name, value] of Object.entries(vectors.dlsn)) {
      if (typeof value === 'string') continue
      const [segment = 0n, entry = 0n, slot = 0n] = name.split(',').map(BigInt)
      const dlsn = new Dlsn(segment, entry, slot)
      assert.equal(toHex(encodeDlsn(dlsn)), value.v1_hex)
      assert.equal(dlsnToBase64(dlsn), value.v1_base64)
      assert.ok(decodeDlsn(hex(value.v1_hex)).equals(dlsn))
      assert.ok(dlsnFromBase64(value.v1_base64).equals(dlsn))
      seen++
    }
    assert.equal(seen, 5)
  })

  test('version 0 has exactly 200 bytes', () => {
    const base64 = vectors.dlsn['3,4,5_v0_base64']
    assert.ok(typeof base64 === 'string')
    const bytes = Buffer.from(base64, 'base64')
    assert.equal(bytes.length, 200)
    assert.equal(dlsnFromBase64(base64).toString(), '3:4:5')
    refuses('corrupt', () => decodeDlsn(bytes.subarray(0, 25)))
    refuses('corrupt', () => decodeDlsn(Buffer.concat([bytes, new Uint8Array(1)])))
  })

  test('round trip', () => {
    fc.assert(
      fc.property(int64, int64, int64, (segment, entry, slot) => {
        const dlsn = new Dlsn(segment, entry, slot)
        assert.ok(decodeDlsn(encodeDlsn(dlsn)).equals(dlsn))
        assert.ok(dlsnFromBase64(dlsnToBase64(dlsn)).equals(dlsn))
      }),
    )
  })

  test('damage is named', () => {
    survivesDamage(encodeDlsn(new Dlsn(3n, 4n, 5n)), decodeDlsn)
    refuses('version_unsupported', () => decodeDlsn(Uint8Array.from({ length: 25 }, () => 2)))
    refuses('corrupt', () => decodeDlsn(Buffer.concat([encodeDlsn(Dlsn.first), new Uint8Array(1)])))
    const text = dlsnToBase64(new Dlsn(3n, 4n, 5n))
    for (const bad of ['', `${text} `, `-${text.slice(1)}`, text.slice(0, -1), `${text}${text}`]) {
      refuses('corrupt', () => dlsnFromBase64(bad), bad)
    }
    fc.assert(fc.property(fc.string(), (bad) => readsOrNames(() => dlsnFromBase64(bad))))
  })

  test('a part beyond 64 bits is a bug of the caller', () => {
    assert.throws(() => encodeDlsn(new Dlsn(2n ** 63n, 0n, 0n)), AssertionFailed)
  })
})
