import assert from 'node:assert/strict'
import { availableParallelism } from 'node:os'
import { describe, test } from 'node:test'
import { runJobs } from './jobs.js'
import { type PlantedBug, type SimOptions, zooKeeperOptionsOf } from './options.js'
import { simulate } from './world.js'

const SEEDS = 300

interface Finding {
  readonly seeds: number
  /** The invariants that may tell of it. */
  readonly by: readonly number[]
  /** Runs in which the bug can show. */
  readonly shape: (options: SimOptions) => SimOptions
}

/** Several processes append to one stream, whose writer is stopped, cut off, or loses its session. */
const contended = (options: SimOptions): SimOptions => ({
  ...options,
  ...{ clients: 3, streams: 1, appends: 50, safetyMs: 50_000, produced: 0 },
  faults: { pause: 4, 'metadata-partition': 4, 'session-expiry': 4 },
})
/** What was asked of ZooKeeper did not come there, or its answer did not come back. */
const cutOff = (options: SimOptions): SimOptions => ({
  ...contended(options),
  ...{ rollBytes: 1_000 },
  faults: { 'multi-cut': 6, 'metadata-partition': 2, 'metadata-lost-answer': 0.02 },
})

const FOUND: Partial<Readonly<Record<PlantedBug, Finding>>> = {
  // Goes on under another session, and bookies that do not fence let it: either alone is caught by the other.
  'zk-acknowledges-after-expiry': { seeds: 40, by: [1, 3], shape: contended },
  'zk-lost-is-done': { seeds: 40, by: [1, 2, 3], shape: cutOff },
  'zk-blind-retry': { seeds: 40, by: [1, 2, 3], shape: cutOff },
}

describe('the simulator with ZooKeeper', () => {
  test(`${SEEDS} seeds of expiry, lost answers and everything else break no invariant`, async () => {
    const job = { seed: 1, seeds: SEEDS, step: 1, bug: null, trace: 40, shrink: false, zookeeper: true }
    const tally = await runJobs(job, Math.min(2, availableParallelism()))
    assert.equal(tally.seeds, SEEDS)
    assert.equal(tally.violations, 0, 'the failures are printed above')
    for (const kind of [
      'session-expiry',
      'multi-cut',
      'metadata-lost-answer',
      'metadata-partition',
      'pause',
    ] as const)
      assert.ok((tally.faults[kind] ?? 0) > SEEDS / 10, `${kind} fired ${tally.faults[kind]} times`)
    assert.ok((tally.works['ensemble changes'] ?? 0) > 0)
    assert.ok(tally.acked > 10 * SEEDS, `${tally.acked} acknowledged`)
    assert.ok(tally.reads > 20 * SEEDS, `${tally.reads} read`)
  })

  test('the same seed makes the same run', async () => {
    for (let seed = 1; seed <= 3; seed += 1) {
      const first = await simulate(zooKeeperOptionsOf(seed))
      const second = await simulate(zooKeeperOptionsOf(seed))
      assert.deepEqual(second.lines, first.lines)
      assert.equal(second.hash, first.hash, `seed ${seed}`)
    }
  })

  for (const [name, { seeds, by, shape }] of Object.entries(FOUND)) {
    test(`${name} is found within ${seeds} seeds`, async () => {
      const bug = name as PlantedBug
      for (let seed = 1; seed <= seeds; seed += 1) {
        const { violations } = await simulate(shape(zooKeeperOptionsOf(seed, bug)))
        if (by.includes(violations[0]?.invariant ?? -1)) return
      }
      assert.fail('it is not found')
    })
  }
})
