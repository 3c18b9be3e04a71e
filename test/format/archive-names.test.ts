import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import {
  ARCHIVE_KEY_BYTES_MAX,
  attemptOf,
  beforeSegment,
  CONTROL_KINDS,
  type ControlKey,
  checkArchiveKey,
  controlPrefix,
  decodeControlKey,
  decodeSegmentKey,
  encodeControlKey,
  encodeSegmentKey,
  incarnationOfPart,
  incarnationPart,
  SEGMENT_KEY_BYTES,
  type SegmentKey,
} from '../../src/format/archive-names.js'
import { decodeBase32, decodeBase32Bytes, encodeBase32, encodeBase32Bytes } from '../../src/format/base32.js'
import { isStratalogError } from '../../src/model/errors.js'

const int64 = fc.bigInt(0n, 2n ** 63n - 1n)
const hex = (digits: number) =>
  fc.uint8Array({ minLength: digits / 2, maxLength: digits / 2 }).map((b) => Buffer.from(b).toString('hex'))
const attempt = fc.uint8Array({ minLength: 8, maxLength: 8 }).map(attemptOf)
const segmentKey: fc.Arbitrary<SegmentKey> = fc.record(
  {
    incarnation: hex(32),
    segment: int64,
    lastEntryId: int64,
    lastSlot: fc.bigInt(0n, 2n ** 20n - 1n),
    recordCount: fc.bigInt(0n, 2n ** 35n - 1n),
    startSequenceId: int64,
    firstTxid: int64,
    lastTxid: int64,
    completionMs: fc.nat(2 ** 50 - 1),
    indexBytes: fc.nat(2 ** 30 - 1),
    contentDigest: hex(64),
    attempt,
  },
  { noNullPrototype: true },
)
const corrupt = (error: unknown): boolean => isStratalogError(error, 'corrupt')

describe('base32', () => {
  test('known values', () => {
    assert.equal(encodeBase32(0n, 3), '000')
    assert.equal(encodeBase32(31n, 1), 'v')
    assert.equal(encodeBase32(32n, 3), '010')
    assert.equal(encodeBase32(2n ** 63n - 1n, 13), '7vvvvvvvvvvvv')
    assert.equal(encodeBase32Bytes(Buffer.alloc(16, 0xff)), '7vvvvvvvvvvvvvvvvvvvvvvvvv')
    assert.equal(encodeBase32Bytes(new Uint8Array(0)), '')
  })

  test('numbers and bytes come back; bytes order is the order of numbers', () => {
    fc.assert(
      fc.property(fc.bigInt(0n, 2n ** 130n - 1n), fc.bigInt(0n, 2n ** 130n - 1n), (a, b) => {
        const [left, right] = [encodeBase32(a, 26), encodeBase32(b, 26)]
        assert.equal(decodeBase32(left), a)
        assert.equal(left < right, a < b)
      }),
    )
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
        assert.deepEqual(Uint8Array.from(decodeBase32Bytes(encodeBase32Bytes(bytes), bytes.length)), bytes)
      }),
    )
  })

  test('what does not fit is never written, what is not base32 never read', () => {
    assert.throws(() => encodeBase32(32n, 1), /does not fit/)
    assert.throws(() => encodeBase32(-1n, 5))
    for (const text of ['', 'w', 'A', '0 0', '-1', '0x1']) assert.throws(() => decodeBase32(text), corrupt)
    assert.throws(() => decodeBase32Bytes('8000000000000000000000000', 16), corrupt)
    assert.throws(() => decodeBase32Bytes('80000000000000000000000000', 16), corrupt)
  })
})

describe('keys of segments', () => {
  test('come back, are 194 bytes and valid keys', () => {
    fc.assert(
      fc.property(segmentKey, (key) => {
        const text = encodeSegmentKey(key)
        assert.equal(text.length, SEGMENT_KEY_BYTES)
        assert.ok(text.length <= ARCHIVE_KEY_BYTES_MAX)
        assert.equal(checkArchiveKey(text), text)
        assert.deepEqual(decodeSegmentKey(text), key)
        assert.equal(decodeControlKey(text), null)
      }),
    )
  })

  test('byte order is the order of incarnations, then segments', () => {
    fc.assert(
      fc.property(segmentKey, segmentKey, fc.boolean(), (a, other, same) => {
        const b = same ? { ...other, incarnation: a.incarnation } : other
        fc.pre(a.incarnation !== b.incarnation || a.segment !== b.segment)
        const before = a.incarnation === b.incarnation ? a.segment < b.segment : a.incarnation < b.incarnation
        assert.equal(encodeSegmentKey(a) < encodeSegmentKey(b), before)
        assert.ok(
          Buffer.compare(Buffer.from(encodeSegmentKey(a)), Buffer.from(encodeSegmentKey(b))) < 0 === before,
        )
      }),
    )
  })

  test('a listing from a segment starts at its keys and not at the one before', () => {
    fc.assert(
      fc.property(segmentKey, fc.bigInt(1n, 2n ** 62n), (key, segment) => {
        const start = beforeSegment(key.incarnation, segment)
        assert.ok(encodeSegmentKey({ ...key, segment }) > start)
        assert.ok(encodeSegmentKey({ ...key, segment: segment - 1n }) < start)
      }),
    )
  })

  test('numbers that do not fit are refused, not cut', () => {
    const [key] = fc.sample(segmentKey, 1)
    assert.ok(key)
    const large = (patch: Partial<SegmentKey>): void => {
      assert.throws(
        () => encodeSegmentKey({ ...key, ...patch }),
        (error) => isStratalogError(error, 'unsupported'),
      )
    }
    large({ lastSlot: 2n ** 20n })
    large({ recordCount: 2n ** 35n })
    large({ segment: 2n ** 63n })
    large({ lastTxid: 2n ** 63n })
    large({ indexBytes: 2 ** 30 })
    large({ completionMs: 2 ** 50 })
    for (const patch of [
      { segment: -1n },
      { lastSlot: -1n },
      { contentDigest: 'ab' },
      { attempt: 'x' },
      { incarnation: 'A'.repeat(32) },
    ]) {
      assert.throws(() => encodeSegmentKey({ ...key, ...patch }), /stratalog bug/)
    }
  })

  test('any other text is no key of a segment', () => {
    const [key] = fc.sample(segmentKey, 1)
    assert.ok(key)
    const text = encodeSegmentKey(key)
    const others = [
      '',
      'a',
      `${text}0`,
      text.slice(1),
      text.replace('/s', '/t'),
      text.toUpperCase(),
      ` ${text}`,
    ]
    for (const other of others) assert.equal(decodeSegmentKey(other), null, other)
    assert.equal(decodeSegmentKey(`8${text.slice(1)}`), null, 'an incarnation above 128 bits')
    assert.equal(decodeSegmentKey(`${text.slice(0, 28)}8${text.slice(29)}`), null, 'a segment above int64')
    fc.assert(
      fc.property(fc.nat(text.length - 1), fc.constantFrom('w', 'z', '_', '~', '.', 'A'), (at, letter) => {
        assert.equal(decodeSegmentKey(text.slice(0, at) + letter + text.slice(at + 1)), null)
      }),
    )
  })
})

describe('keys of control objects', () => {
  const controlKey: fc.Arbitrary<ControlKey> = fc.record(
    {
      incarnation: fc.option(hex(32)),
      number: int64,
      kind: fc.constantFrom(...CONTROL_KINDS),
      attempt,
    },
    { noNullPrototype: true },
  )

  test('come back and stand before the segments of their incarnation', () => {
    fc.assert(
      fc.property(controlKey, segmentKey, (key, segment) => {
        const text = encodeControlKey(key)
        assert.deepEqual(decodeControlKey(text), key)
        assert.equal(checkArchiveKey(text), text)
        assert.ok(text.startsWith(controlPrefix(key.incarnation)))
        assert.equal(decodeSegmentKey(text), null)
        if (key.incarnation === null) return
        assert.ok(text < encodeSegmentKey({ ...segment, incarnation: key.incarnation }))
      }),
    )
  })

  test('unknown kinds and other text are none', () => {
    const text = encodeControlKey({
      incarnation: null,
      number: 1n,
      kind: 'owner',
      attempt: attemptOf(Buffer.alloc(8)),
    })
    assert.equal(text, '_log/c0000000000001-owner-0000000000000')
    for (const other of [
      text.replace('owner', 'other'),
      text.replace('_log', '_lag'),
      text.slice(0, -1),
      `${text}/a`,
    ]) {
      assert.equal(decodeControlKey(other), null, other)
    }
  })
})

test('incarnations come back from the part of a key', () => {
  fc.assert(
    fc.property(hex(32), (incarnation) =>
      assert.equal(incarnationOfPart(incarnationPart(incarnation)), incarnation),
    ),
  )
  for (const part of ['', '_log', '8'.padEnd(26, '0'), 'w'.padEnd(26, '0')])
    assert.equal(incarnationOfPart(part), null)
})
