import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { FAULT_KINDS, optionsOf } from './options.js'
import { count, describe as described, emptyTally } from './report.js'
import { simulate } from './world.js'

const SEEDS = 120

describe('the simulator', () => {
  test(`${SEEDS} seeds break none of the invariants 1–6 and 8–11, and every kind of fault fires`, async () => {
    const tally = emptyTally()
    for (let seed = 1; seed <= SEEDS; seed += 1) {
      const result = await simulate(optionsOf(seed))
      assert.deepEqual(result.violations, [], described(result, 40))
      count(tally, result)
    }
    for (const kind of FAULT_KINDS) assert.ok((tally.faults[kind] ?? 0) > 0, `${kind} never fired`)
    // A world in which nothing happens breaks nothing.
    assert.ok(tally.acked > 10 * SEEDS, `${tally.acked} acknowledged`)
    assert.ok(tally.reads > 20 * SEEDS, `${tally.reads} read`)
    assert.ok(
      tally.evictions > SEEDS && tally.trims > SEEDS / 4,
      `${tally.evictions} evicted, ${tally.trims} trimmed`,
    )
  })

  test('the same seed makes the same run, and another one another', async () => {
    for (let seed = 1; seed <= 5; seed += 1) {
      const first = await simulate(optionsOf(seed))
      const second = await simulate(optionsOf(seed))
      assert.equal(second.hash, first.hash, `seed ${seed}`)
      assert.deepEqual(second.lines, first.lines)
      assert.notEqual((await simulate(optionsOf(seed + 1_000))).hash, first.hash)
    }
  })
})
