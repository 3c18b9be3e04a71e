import assert from 'node:assert/strict'
import { availableParallelism } from 'node:os'
import process from 'node:process'
import { describe, test } from 'node:test'
import { runJobs } from './jobs.js'
import { FAULT_KINDS, optionsOf } from './options.js'
import { STEPS, type Step } from './steps.js'
import { WORK_KINDS, type Work } from './trace.js'
import { simulate } from './world.js'

/** Two minutes of two cores (docs/simulator.md); a machine that somebody waits at runs a few of them. */
const SEEDS = Number(process.env.TEST_SEEDS ?? (process.env.CI === undefined ? 300 : 1_200))

/** From so many seeds on everything there is has to happen. */
const MANY = 2_000
/** What one run in a hundred does, or fewer. */
const RARE: readonly Work[] = [
  'recalls',
  'objects collected',
  'objects mended',
  'segments dropped',
  'gaps read',
  'records again after a trim',
  'records again after a gap',
]
/** Fewer seeds than that may come by none of the deaths at a step. */
const SOME = 1_000
/** Steps that most runs come by. */
const OFTEN: readonly Step[] = ['copy', 'verify', 'commit', 'check', 'evict']

describe('the simulator', () => {
  test(`${SEEDS} seeds break no invariant, and every kind of fault fires`, async () => {
    const job = { seed: 1, seeds: SEEDS, step: 1, bug: null, trace: 40, shrink: false }
    const tally = await runJobs(job, Math.min(2, availableParallelism()))
    assert.equal(tally.seeds, SEEDS)
    assert.equal(tally.violations, 0, 'the failures are printed above')
    for (const kind of FAULT_KINDS) assert.ok((tally.faults[kind] ?? 0) > 0, `${kind} never fired`)
    for (const work of WORK_KINDS)
      assert.ok(
        (tally.works[work] ?? 0) > 0 || (RARE.includes(work) && SEEDS < MANY),
        `there were no ${work}`,
      )
    // A few hundred seeds don't come by each point of tiering at which a process may die.
    for (const step of SEEDS < SOME ? [] : SEEDS < MANY ? OFTEN : STEPS)
      for (const side of ['before', 'after'])
        assert.ok((tally.deaths[`${side} ${step}`] ?? 0) > 0, `nobody died ${side} ${step}`)
    // A world in which nothing happens breaks nothing.
    assert.ok(tally.acked > 10 * SEEDS, `${tally.acked} acknowledged`)
    assert.ok(tally.reads > 20 * SEEDS, `${tally.reads} read`)
    assert.ok(tally.duplicates > SEEDS / 30, `${tally.duplicates} retries found their record`)
    assert.ok(tally.conditional > SEEDS / 2, `${tally.conditional} appends named the end of the stream`)
    assert.ok(
      tally.evictions > SEEDS / 2 && tally.trims > SEEDS / 8,
      `${tally.evictions} evicted, ${tally.trims} trimmed`,
    )
  })

  test('no run has objects rot whose hot copies the want of room takes away', () => {
    const drawn = Array.from({ length: 3_000 }, (_, seed) => optionsOf(seed).faults)
    const rots = drawn.filter((faults) => faults['archive-rot'] !== undefined)
    assert.ok(rots.length > 20, `${rots.length} of them have objects rot`)
    for (const faults of rots)
      for (const kind of ['disk-short', 'disk-full'] as const) assert.equal(faults[kind], undefined)
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
