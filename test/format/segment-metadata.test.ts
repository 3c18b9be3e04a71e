import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { SegmentMetadata, SegmentMetadataVersion } from '../../src/format/segment-metadata.js'
import {
  decodeSegmentMetadata,
  encodeSegmentMetadata,
  isEnveloped,
} from '../../src/format/segment-metadata.js'
import { AssertionFailed } from '../../src/model/assert.js'
import { StratalogError } from '../../src/model/errors.js'
import { readsOrNames, refuses, vector, vectors } from './vectors.js'

const VERSIONS: readonly SegmentMetadataVersion[] = [1, 2, 3, 4, 5]

/** What the vector of that name says, by its inputs. */
function expected(name: string, version: SegmentMetadataVersion): SegmentMetadata {
  const partially = name.includes('partially')
  const inProgress = name.endsWith('inprogress')
  return {
    version,
    ledgerId: 12345n,
    firstTxid: 1001n,
    segment: version === 1 ? null : 3n,
    truncation: partially ? 'partially_truncated' : name.endsWith('_truncated') ? 'truncated' : 'active',
    spareStatusBits: 0,
    regionId: 0,
    minActiveEntryId: partially ? 50n : 0n,
    minActiveSlotId: partially ? 2n : 0n,
    startSequenceId: version === 5 && !inProgress ? 1000n : -1n,
    completion: inProgress
      ? null
      : {
          lastTxid: 1999n,
          completedMs: 1700000000000,
          recordCount: 500,
          lastEntryId: version === 1 ? -1n : 77n,
          lastSlotId: version === 1 ? -1n : 4n,
        },
  }
}

describe('segment metadata', () => {
  for (const [name, text] of Object.entries(vectors.log_segment_metadata)) {
    test(`golden ${name}, both ways`, () => {
      const version = VERSIONS.find((candidate) => name.startsWith(`VERSION_V${candidate}_`))
      assert.ok(version !== undefined)
      assert.deepEqual(decodeSegmentMetadata(text), expected(name, version))
      assert.equal(encodeSegmentMetadata(expected(name, version)), text)
    })
  }

  test('nodes of a live tree, both ways', () => {
    for (const text of vectors.live.segment_metadata) {
      assert.equal(encodeSegmentMetadata(decodeSegmentMetadata(text)), text)
    }
    const states = vectors.live.segment_metadata.map((text) => {
      const { truncation, completion } = decodeSegmentMetadata(text)
      return `${truncation} ${completion?.recordCount ?? '-'}`
    })
    assert.deepEqual(states, ['active 3', 'truncated 3', 'partially_truncated 3', 'active -', 'active 1'])
  })

  test('round trip', () => {
    const int64 = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })
    const id = fc.bigInt({ min: 0n, max: 2n ** 63n - 1n })
    const completion = fc.record(
      {
        lastTxid: int64,
        completedMs: fc.maxSafeNat(),
        recordCount: fc.nat(),
        lastEntryId: id,
        lastSlotId: id,
      },
      { noNullPrototype: true },
    )
    fc.assert(
      fc.property(
        fc.record(
          {
            version: fc.constantFrom<3 | 4 | 5>(3, 4, 5),
            ledgerId: id,
            firstTxid: int64,
            segment: id,
            truncation: fc.constantFrom('active', 'partially_truncated', 'truncated'),
            spareStatusBits: fc.nat(63),
            regionId: fc.nat(15),
            minActiveEntryId: id,
            minActiveSlotId: id,
            startSequenceId: int64,
            completion: fc.option(completion),
          },
          { noNullPrototype: true },
        ),
        (metadata) => {
          const back = {
            ...metadata,
            startSequenceId: metadata.version === 5 ? metadata.startSequenceId : -1n,
          }
          assert.deepEqual(decodeSegmentMetadata(encodeSegmentMetadata(metadata)), back)
        },
      ),
    )
  })

  test('only version 4 and above have envelopes', () => {
    assert.deepEqual(VERSIONS.map(isEnveloped), [false, false, false, true, true])
  })

  test('what is no segment is refused', () => {
    const good = vector(vectors.log_segment_metadata, 'VERSION_V5_SEQUENCE_ID_completed')
    for (const version of [0, 6, 255]) {
      refuses('version_unsupported', () => decodeSegmentMetadata(`${version};12345;1001;3;0;0;-1`))
    }
    refuses('version_unsupported', () => decodeSegmentMetadata(`${5 + (3 << 8)};12345;1001;3;0;0;-1`))
    for (const bad of [
      '',
      ';',
      '5',
      '5;;;;;;',
      `${good};`,
      `${good};1`,
      `${good}\n`,
      ` ${good}`,
      good.replace('12345', '0x12'),
      good.replace('12345', '-1'),
      good.replace('12345', '9223372036854775808'),
      good.replace('12345', '1e5'),
      good.replace('1700000000000', '9007199254740992'),
      good.replace(';3;', ';-3;'),
      good.replace('2147483648005', '-4294967291'),
      good.replace('2147483648005', '2147483648004'),
      `${1 + (1 << 8)};12345;1001`,
      '5;'.repeat(100_000),
    ]) {
      refuses('corrupt', () => decodeSegmentMetadata(bad), bad.slice(0, 100))
    }
    // A cut may leave a shorter number, which no text can tell; every other cut is refused.
    for (let length = 0; length < good.length - 3; length++) {
      assert.throws(() => decodeSegmentMetadata(good.slice(0, length)), StratalogError, `${length}`)
    }
    fc.assert(fc.property(fc.string(), (garbage) => readsOrNames(() => decodeSegmentMetadata(garbage))))
  })

  test('what a version can not say is a bug of the caller', () => {
    const five = decodeSegmentMetadata('5;12345;1001;3;0;0;-1')
    for (const bad of [
      { ...five, segment: null },
      { ...five, regionId: 16 },
      { ...five, ledgerId: 2n ** 63n },
      { ...five, version: 1 as const, truncation: 'truncated' as const },
      { ...five, version: 2 as const, truncation: 'partially_truncated' as const },
    ]) {
      assert.throws(() => encodeSegmentMetadata(bad), AssertionFailed)
    }
  })
})
