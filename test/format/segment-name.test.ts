import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { completedName, inProgressName, parseSegmentName } from '../../src/format/segment-name.js'
import { AssertionFailed } from '../../src/model/assert.js'
import { readsOrNames, refuses } from './vectors.js'

describe('segment names', () => {
  test('as a live tree has them', () => {
    assert.equal(inProgressName(4n), 'inprogress_000000000000000004')
    assert.equal(completedName(1n), 'logrecs_000000000000000001')
  })

  test('round trip', () => {
    fc.assert(
      fc.property(fc.bigInt(0n, 2n ** 63n - 1n), (segment) => {
        assert.deepEqual(parseSegmentName(inProgressName(segment)), {
          kind: 'inprogress',
          nameVersion: 1,
          segment,
        })
        assert.deepEqual(parseSegmentName(completedName(segment)), {
          kind: 'completed',
          nameVersion: 1,
          segment,
        })
      }),
    )
    assert.throws(() => completedName(-1n), AssertionFailed)
  })

  test('version 0 is read', () => {
    const old = { kind: 'completed', nameVersion: 0, firstTxid: 1001n, lastTxid: 1999n }
    assert.deepEqual(parseSegmentName('inprogress_3e9'), {
      kind: 'inprogress',
      nameVersion: 0,
      firstTxid: 1001n,
    })
    assert.deepEqual(parseSegmentName('inprogress_7fffffffffffffff'), {
      kind: 'inprogress',
      nameVersion: 0,
      firstTxid: 2n ** 63n - 1n,
    })
    assert.deepEqual(parseSegmentName('logrecs_000000000000001001_000000000000001999'), old)
    assert.deepEqual(parseSegmentName('logrecs_1001_1999_3_12345_0'), old)
    const long = 'logrecs_000000000000001001_000000000000001999_000000000000000003_v1l12345_0000'
    assert.deepEqual(parseSegmentName(long), old)
  })

  test('other names are refused', () => {
    for (const bad of [
      '',
      'allocation',
      'inprogress_',
      'inprogress_xyz',
      'inprogress_00000000000000000a4',
      'inprogress_ffffffffffffffff',
      'logrecs_',
      'logrecs_3e9',
      'logrecs_9223372036854775808',
      'logrecs_1_2_3',
      'logrecs_1_2_3_4',
      'logrecs_1_2_3_4_5_6',
      ' logrecs_1',
      'logrecs_1\n',
      `logrecs_${'1'.repeat(1_000_000)}`,
    ]) {
      refuses('corrupt', () => parseSegmentName(bad), bad.slice(0, 100))
    }
    fc.assert(fc.property(fc.string(), (name) => readsOrNames(() => parseSegmentName(`inprogress_${name}`))))
  })
})
