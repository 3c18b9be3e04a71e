import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { DECOMPRESSED_BYTES_MAX, lz4Compress, lz4Decompress } from '../../src/format/compression.js'
import { hex, readsOrNames, refuses, toHex } from './vectors.js'

describe('compression', () => {
  test('round trip, without a size in front', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 2_000 }), fc.nat(20), (part, times) => {
        const bytes = Buffer.concat(Array.from({ length: times }, () => part))
        const block = lz4Compress(bytes)
        assert.ok(Buffer.from(lz4Decompress(block, bytes.length)).equals(bytes))
      }),
    )
    assert.equal(toHex(lz4Compress(new Uint8Array(0))), '00')
    assert.equal(lz4Decompress(hex('00'), 0).length, 0)
  })

  test('reads a block by hand', () => {
    // one literal "a", 8 more by a match at offset 1, five last literals
    assert.equal(
      toHex(lz4Decompress(hex('146101005062636465 66'.replace(' ', '')), 14)),
      `${'61'.repeat(9)}6263646566`,
    )
  })

  test('a wrong size, nothing, or a huge size is corrupt', () => {
    const block = lz4Compress(Buffer.from('hello stratalog '.repeat(50)))
    for (const size of [0, 799, 801, -1, 1.5, Number.NaN, 2 ** 31, DECOMPRESSED_BYTES_MAX + 1]) {
      refuses('corrupt', () => lz4Decompress(block, size), `${size}`)
    }
    assert.equal(lz4Decompress(block, 800).length, 800)
    refuses('corrupt', () => lz4Decompress(new Uint8Array(0), 0))
    refuses('corrupt', () => lz4Decompress(new Uint8Array(10), DECOMPRESSED_BYTES_MAX))
  })

  test('offsets outside of what was written are corrupt', () => {
    refuses('corrupt', () => lz4Decompress(hex('14610000506263646566'), 14))
    refuses('corrupt', () => lz4Decompress(hex('14610900506263646566'), 14))
  })

  test('garbage is named', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), fc.nat(1_000), (bytes, size) => {
        readsOrNames(() => assert.equal(lz4Decompress(bytes, size).length, size))
      }),
      { numRuns: 2_000 },
    )
  })

  test('does not touch its input', () => {
    const bytes = Buffer.from('abcdabcdabcdabcdabcdabcd')
    const block = lz4Compress(bytes)
    const before = toHex(block)
    lz4Decompress(block, bytes.length)
    assert.equal(toHex(block), before)
    assert.equal(bytes.toString(), 'abcdabcdabcdabcdabcdabcd')
  })
})
