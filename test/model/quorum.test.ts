import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { AssertionFailed } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { LedgerMetadata } from '../../src/model/ledger.js'
import { ensembleAt, lastEnsemble } from '../../src/model/ledger.js'
import { quorumOf, writeSet } from '../../src/model/quorum.js'

describe('quorums', () => {
  test('what is not said is filled', () => {
    assert.deepEqual(quorumOf({ copies: 3, ack: 2 }, 3), { ensemble: 3, copies: 3, ack: 2, min: 2 })
    assert.deepEqual(quorumOf({ ensemble: 5, copies: 3, ack: 2, min: 3 }, 5), {
      ensemble: 5,
      copies: 3,
      ack: 2,
      min: 3,
    })
    assert.deepEqual(quorumOf({ copies: 1, ack: 1 }, 9), { ensemble: 1, copies: 1, ack: 1, min: 1 })
  })

  test('what does not fit is config_invalid with the reason', () => {
    const wrong: readonly (readonly [Parameters<typeof quorumOf>[0], number, RegExp])[] = [
      [
        { copies: 3, ack: 2 },
        2,
        /^a quorum of 3 copies, 2 to acknowledge does not fit: it needs 3 .* there are 2/,
      ],
      [{ copies: 2, ack: 2 }, 1, /there is 1/],
      [{ copies: 1, ack: 1 }, 0, /there are 0/],
      [{ copies: 2, ack: 3 }, 3, /ack must not be above copies/],
      [{ ensemble: 2, copies: 3, ack: 2 }, 3, /copies must not be above ensemble/],
      [{ copies: 3, ack: 2, min: 1 }, 3, /min must lie/],
      [
        { ensemble: 4, copies: 3, ack: 2, min: 4 },
        4,
        /^a quorum of 3 copies over 4 stores, 2 to acknowledge, 4 at least.*min must lie/,
      ],
      [{ copies: 0, ack: 0 }, 3, /at least 1/],
      [{ copies: 1.5, ack: 1 }, 3, /copies must be a whole number|ensemble must be a whole number/],
      [{ copies: 3, ack: -1 }, 3, /ack must be a whole number/],
      [{ copies: Number.NaN, ack: 1 }, 3, /whole number/],
    ]
    for (const [asked, stores, why] of wrong) {
      assert.throws(
        () => quorumOf(asked, stores),
        (error) => isStratalogError(error, 'config_invalid') && why.test(error.message),
        JSON.stringify(asked),
      )
    }
  })

  test('entries go round robin over the ensemble, each to `copies` different stores', () => {
    assert.deepEqual(writeSet(0n, 3, 2), [0, 1])
    assert.deepEqual(writeSet(2n, 3, 2), [2, 0])
    assert.deepEqual(writeSet(7n, 5, 3), [2, 3, 4])
    assert.throws(() => writeSet(0n, 2, 3), AssertionFailed)
    assert.throws(() => writeSet(-1n, 3, 2), AssertionFailed)
    const entry = fc.bigInt({ min: 0n, max: 2n ** 63n - 1n })
    const property = fc.property(
      entry,
      fc.integer({ min: 1, max: 20 }),
      fc.nat({ max: 19 }),
      (entryId, ensemble, less) => {
        const copies = Math.max(1, ensemble - less)
        const set = writeSet(entryId, ensemble, copies)
        assert.equal(new Set(set).size, copies)
        assert.ok(set.every((at) => at >= 0 && at < ensemble))
        assert.equal(set[0], Number(entryId % BigInt(ensemble)))
      },
    )
    fc.assert(property)
  })
})

describe('ensembles of a ledger', () => {
  const ensembles = [
    { firstEntryId: 0n, members: ['a', 'b'] },
    { firstEntryId: 10n, members: ['a', 'c'] },
    { firstEntryId: 11n, members: ['d', 'c'] },
  ]
  const metadata = { ensembles } as unknown as LedgerMetadata

  test('an entry is where the last ensemble at or below it says', () => {
    for (const [entryId, at] of [
      [0n, 0],
      [9n, 0],
      [10n, 1],
      [11n, 2],
      [2n ** 62n, 2],
    ] as const) {
      assert.deepEqual(ensembleAt(metadata, entryId), ensembles[at]?.members)
    }
    assert.equal(lastEnsemble(metadata), ensembles[2])
    assert.throws(() => ensembleAt({ ...metadata, ensembles: [] }, 0n), AssertionFailed)
    assert.throws(() => lastEnsemble({ ...metadata, ensembles: [] }), AssertionFailed)
  })
})
