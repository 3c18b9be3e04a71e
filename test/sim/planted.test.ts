import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { optionsOf, PLANTED_BUGS, type SimOptions } from './options.js'
import { shrink } from './shrink.js'
import { type SimResult, simulate } from './world.js'

type Bug = (typeof PLANTED_BUGS)[number]

interface Finding {
  readonly seeds: number
  readonly by: readonly number[]
  /** Runs in which the bug can show: most seeds lack the faults for it, and nothing is learnt from those. */
  readonly shape?: (options: SimOptions) => SimOptions
}

/** Seeds within which each bug has to show, and the invariants that may tell of it. */
const FOUND: Readonly<Record<Bug, Finding>> = {
  'recovery-does-not-fence': {
    seeds: 100,
    by: [1, 3],
    // Several processes append to one stream, and the writer that was overtaken comes back to go on.
    shape: (options) => ({
      ...options,
      faults: { pause: 5, 'metadata-partition': 5 },
      clients: 3,
      streams: 1,
      appends: 50,
      safetyMs: 50_000,
    }),
  },
  'error-is-missing': { seeds: 200, by: [1, 3] },
  'torn-tail-is-missing': {
    seeds: 200,
    by: [1],
    shape: (options) => ({ ...options, faults: { ...options.faults, 'power-cut': 3, blackout: 3 } }),
  },
  'acknowledges-before-sync': { seeds: 100, by: [1, 3] },
  'forgets-directory-sync': { seeds: 20, by: [1] },
  'archive-forgets-sync': { seeds: 20, by: [4, 7] },
  'evict-before-verify': {
    seeds: 60,
    by: [4],
    shape: (options) => ({ ...options, archive: true, faults: { ...options.faults, 'archive-damage': 3 } }),
  },
  'evict-after-index-error': {
    seeds: 60,
    by: [4],
    shape: (options) => ({ ...options, archive: true, hotForMs: 4_000, evictLagMs: 0 }),
  },
  'delete-during-copy': {
    seeds: 60,
    by: [8],
    shape: (options) => ({ ...options, archive: true, byHand: 40 }),
  },
  'stale-agent-commits': {
    seeds: 60,
    by: [3],
    shape: (options) => ({ ...options, archive: true, clients: 3 }),
  },
  'restore-by-listing-order': {
    seeds: 60,
    by: [7],
    shape: (options) => ({ ...options, archive: true, restores: true }),
  },
  'absence-is-proof': {
    seeds: 60,
    by: [8],
    shape: (options) => ({ ...options, archive: true, byHand: 40 }),
  },
}

async function find(bug: Bug): Promise<SimResult | null> {
  for (let seed = 1; seed <= FOUND[bug].seeds; seed += 1) {
    const { shape = (options: SimOptions) => options } = FOUND[bug]
    const result = await simulate(shape(optionsOf(seed, bug)))
    if (FOUND[bug].by.includes(result.violations[0]?.invariant ?? -1)) return result
  }
  return null
}

describe('a bug planted in the world', () => {
  for (const bug of PLANTED_BUGS) {
    test(`${bug} is found within ${FOUND[bug].seeds} seeds`, async () => {
      assert.notEqual(await find(bug), null)
    })
  }

  test('a failure shrinks to a smaller run that fails in the same way, again and again', async () => {
    const found = await find('forgets-directory-sync')
    assert.ok(found)
    const small = await shrink(found)
    assert.equal(small.violations[0]?.invariant, found.violations[0]?.invariant)
    assert.ok(Object.keys(small.options.faults).length < Object.keys(found.options.faults).length)
    assert.equal((await simulate(small.options)).hash, small.hash)
  })
})
