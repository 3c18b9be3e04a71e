import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { Policy } from '../../src/model/policy.js'
import { BUILT_IN_POLICY, effectiveRollAge, rollDue } from '../../src/model/policy.js'

function policy(roll: Partial<Policy['roll']>, hotForMs: number | null = null): Policy {
  return {
    ...BUILT_IN_POLICY,
    roll: { ...BUILT_IN_POLICY.roll, ...roll },
    hot: { forMs: hotForMs, maxBytes: null },
  }
}

describe('when a segment rolls', () => {
  test('the age is the lesser of roll.age and half of hot.for, at least a second', () => {
    assert.deepEqual(effectiveRollAge(BUILT_IN_POLICY), { ms: 3_600_000, field: 'roll.age' })
    assert.deepEqual(effectiveRollAge(policy({ ageMs: 60_000 }, 40_000)), { ms: 20_000, field: 'hot.for' })
    assert.deepEqual(effectiveRollAge(policy({ ageMs: 60_000 }, 120_000)), { ms: 60_000, field: 'roll.age' })
    assert.deepEqual(effectiveRollAge(policy({ ageMs: 60_000 }, null)), { ms: 60_000, field: 'roll.age' })
    assert.deepEqual(effectiveRollAge(policy({ ageMs: 60_000 }, 500)), { ms: 1_000, field: 'hot.for' })
    assert.deepEqual(effectiveRollAge(policy({ ageMs: 0 }, null)), { ms: 1_000, field: 'roll.age' })
    assert.deepEqual(effectiveRollAge(policy({ ageMs: 60_000 }, 0)), { ms: 1_000, field: 'hot.for' })
  })

  const rolling = policy({ sizeBytes: 1_000, ageMs: 60_000, idleMs: 10_000 })

  test('size makes it due now, from the very byte', () => {
    const segment = { openedMs: 100, lastAppendMs: 100 }
    assert.deepEqual(rollDue(rolling, { ...segment, lengthBytes: 1_000 }, 500), {
      dueMs: 500,
      field: 'roll.size',
    })
    assert.deepEqual(rollDue(rolling, { ...segment, lengthBytes: 999 }, 500), {
      dueMs: 10_100,
      field: 'roll.idle',
    })
  })

  test('else the earlier of age and idleness', () => {
    const at = (openedMs: number, lastAppendMs: number) =>
      rollDue(rolling, { openedMs, lastAppendMs, lengthBytes: 1 }, 0)
    assert.deepEqual(at(0, 20_000), { dueMs: 30_000, field: 'roll.idle' })
    assert.deepEqual(at(0, 55_000), { dueMs: 60_000, field: 'roll.age' })
    assert.deepEqual(at(0, 50_000), { dueMs: 60_000, field: 'roll.age' })
    const shortHot = policy({ sizeBytes: 1_000, ageMs: 60_000, idleMs: 10_000 }, 8_000)
    assert.deepEqual(rollDue(shortHot, { openedMs: 0, lastAppendMs: 0, lengthBytes: 1 }, 0), {
      dueMs: 4_000,
      field: 'hot.for',
    })
  })

  test('it is never due later than its age allows, and never later for having grown', () => {
    const ms = fc.nat({ max: 10_000_000 })
    const property = fc.property(
      ms,
      ms,
      ms,
      ms,
      fc.option(ms),
      (ageMs, idleMs, openedMs, sinceMs, hotForMs) => {
        const asked = policy({ ageMs, idleMs, sizeBytes: 10 }, hotForMs)
        const lastAppendMs = openedMs + sinceMs
        const due = rollDue(asked, { openedMs, lastAppendMs, lengthBytes: 9 }, lastAppendMs)
        assert.ok(due.dueMs <= openedMs + Math.max(1_000, ageMs))
        assert.ok(due.dueMs <= lastAppendMs + idleMs)
        const full = rollDue(asked, { openedMs, lastAppendMs, lengthBytes: 10 }, lastAppendMs)
        assert.deepEqual(full, { dueMs: lastAppendMs, field: 'roll.size' })
      },
    )
    fc.assert(property)
  })
})
