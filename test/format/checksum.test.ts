import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { crc32 as zlibCrc32 } from 'node:zlib'
import fc from 'fast-check'
import { crc32, crc32c, crc32cJoined, crc32cOfFew } from '../../src/format/checksum.js'

describe('checksum', () => {
  test('known values', () => {
    const digits = Buffer.from('123456789')
    assert.equal(crc32c(digits), 0xe3069283)
    assert.equal(crc32(digits), 0xcbf43926)
    assert.equal(crc32c(new Uint8Array(0)), 0)
    assert.equal(crc32(new Uint8Array(0)), 0)
    // RFC 3720, appendix B.4
    assert.equal(crc32c(new Uint8Array(32)), 0x8a9136aa)
    assert.equal(crc32c(new Uint8Array(32).fill(0xff)), 0x62a8ab43)
  })

  test('a seed continues a checksum', () => {
    fc.assert(
      fc.property(fc.uint8Array(), fc.uint8Array(), (a, b) => {
        const both = Buffer.concat([a, b])
        assert.equal(crc32c(b, crc32c(a)), crc32c(both))
        assert.equal(crc32(b, crc32(a)), crc32(both))
      }),
    )
  })

  test('of a few bytes by table, and of two pieces joined, as in one', () => {
    fc.assert(
      fc.property(fc.uint8Array(), fc.uint8Array(), fc.nat(), (a, b, seed) => {
        const both = Buffer.concat([a, b])
        assert.equal(crc32cOfFew(both, a.length, both.length, seed), crc32c(b, seed))
        assert.equal(crc32cJoined(crc32c(a), crc32c(b), b.length), crc32c(both))
      }),
    )
    const long = Buffer.alloc(1_100_000, 'a long entry')
    for (const bytes of [0, 1, 36, 65_536, 100_001, 1_099_999]) {
      const [first, second] = [long.subarray(0, -bytes || undefined), long.subarray(long.length - bytes)]
      assert.equal(crc32cJoined(crc32c(first), crc32c(second), bytes), crc32c(long), `${bytes} bytes`)
    }
  })

  test('takes views as what they show, and is zlib’s CRC-32', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 2, maxLength: 300 }), fc.nat(1), (bytes, from) => {
        const view = bytes.subarray(from)
        assert.equal(crc32c(view), crc32c(Uint8Array.from(view)))
        assert.equal(crc32(view), zlibCrc32(Buffer.from(view)))
        assert.ok(crc32c(view) >= 0 && Number.isInteger(crc32c(view)))
      }),
    )
  })
})
