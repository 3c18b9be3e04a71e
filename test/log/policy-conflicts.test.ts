import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { parseConfig } from '../../src/config/file.js'
import { resolveConfig } from '../../src/config/resolve.js'
import type { PolicyInput } from '../../src/model/policy-input.js'
import { type PolicyFacts, policyConflicts } from '../../src/policy-conflicts.js'

const MiB = 2 ** 20
const GiB = 2 ** 30
/** A Tuesday, noon. */
const NOON = Date.UTC(2026, 10, 24, 12)

function factsOf(code: PolicyInput, changes: Partial<PolicyFacts> = {}): PolicyFacts {
  return {
    policy: resolveConfig({ code }).policyFor('a'),
    nowMs: NOON,
    archive: true,
    txidMode: 'ms',
    hotBytes: 0,
    bytesPerSecond: 0,
    disks: [],
    ...changes,
  }
}

const conflictsOf = (code: PolicyInput, changes: Partial<PolicyFacts> = {}) =>
  policyConflicts(factsOf(code, changes)).map(({ found, consequence }) => `${found} → ${consequence}`)

function finds(code: PolicyInput, pattern: RegExp, changes: Partial<PolicyFacts> = {}): void {
  const found = conflictsOf(code, changes)
  assert.equal(found.length, 1, found.join('\n'))
  assert.match(found[0] ?? '', pattern)
}

describe('conflicts of a policy', () => {
  test('what is built in has none, nor has the example of the documentation without a stream', () => {
    assert.deepEqual(conflictsOf({}), [])
    const archived = conflictsOf({
      keep: { for: '90d' },
      hot: { for: '24h', max: '50 GiB' },
      evict: { lag: '4h' },
    })
    assert.deepEqual(archived, [])
  })

  test('a window that opens after hot.max is reached: when, and how full the disks are by then', () => {
    const night = { copy: { window: { cron: '0 1-5 * * *', zone: 'UTC' } }, hot: { max: '400 GiB' } }
    const disks = [1, 2, 3].map((n) => ({
      location: `/disk${n}`,
      totalBytes: 1000 * GiB,
      freeBytes: 500 * GiB,
    }))
    const growing = { hotBytes: 240 * GiB, bytesPerSecond: 5.1 * MiB, disks }
    // 160 GiB at 5.1 MiB/s are 8 h 55 min; 13 h at that rate are 233 GiB on each of three disks.
    finds(
      night,
      /copy\.window opens 2026-11-25T01:00Z, hot\.max 400 GiB is reached at about 2026-11-24T20:55Z at today's 5\.1 MiB\/s → segments stay hot past the target until 2026-11-25T01:00Z, disks at 73 % by then/,
      growing,
    )
    assert.deepEqual(conflictsOf(night, { ...growing, hotBytes: GiB }), [], 'it does not come so far')
    assert.deepEqual(conflictsOf(night, { ...growing, nowMs: Date.UTC(2026, 10, 25, 2) }), [], 'it is open')
    const full = disks.map((disk) => ({ ...disk, freeBytes: 10 * GiB }))
    finds({ copy: night.copy }, /the disks are full before/, { ...growing, disks: full })
  })

  test('a window that opens on February 29 alone', () => {
    finds(
      { copy: { window: { cron: '0 0 29 2 *' } } },
      /copy\.window opens next at 2028-02-29T00:00Z → until then/,
    )
  })

  test('retention shorter than the way to the archive, the lag of eviction, or what stays hot', () => {
    const hot = { for: 'forever' } as const
    finds(
      { hot, keep: { for: '1h' }, copy: { after: '1h' } },
      /keep\.for 1h is not longer than copy\.after 1h → .*nothing reaches/,
    )
    // Sealed at noon on Tuesday, and not before Saturday to be copied.
    const weekend = { copy: { window: { cron: '0 * * * sat' } }, evict: { lag: 0 }, hot: { for: 0 } }
    finds({ ...weekend, keep: { for: '3d' } }, /keep\.for 3d ends before copy\.window opens/)
    assert.deepEqual(conflictsOf({ ...weekend, keep: { for: '5d' } }), [])
    finds(
      { hot: { for: 0 }, evict: { lag: '2d' }, keep: { for: '1d' } },
      /keep\.for 1d is not longer than evict\.lag 2d/,
      {
        policy: resolveConfig({
          file: parseConfig(
            'version: 1\ndefaults: { evict: { lag: 2d }, keep: { for: 1d } }\n',
            'stratalog.yaml',
          ),
        }).policyFor('a'),
      },
    )
    finds({ hot: { for: '3d' }, keep: { for: '2d' } }, /keep\.for 2d is not longer than hot\.for 3d/)
  })

  test('limits of size that cross', () => {
    finds({ hot: { max: '32 MiB' } }, /hot\.max 32 MiB is below roll\.size 64 MiB/)
    finds({ hot: { max: '2 GiB' }, keep: { max: '1 GiB' } }, /keep\.max 1 GiB is below hot\.max 2 GiB/)
  })

  test('times that cut each other short', () => {
    finds(
      { hot: { for: '2h' }, roll: { age: '2h' }, evict: { lag: 0 } },
      /roll\.age 2h is more than half of hot\.for 2h → segments are sealed after 1h/,
    )
    finds({ hot: { for: '3h' } }, /evict\.lag 4h is longer than hot\.for 3h/)
  })

  test('an upload limit below what the stream grows by, in the hours the window is open', () => {
    const limits = { upload: '4 MiB/s' }
    finds(
      { limits },
      /limits\.upload 4\.0 MiB\/s copies 338 GiB a day, the stream grows by 422 GiB → 84\.4 GiB more each day/,
      {
        bytesPerSecond: 5 * MiB,
      },
    )
    assert.deepEqual(conflictsOf({ limits }, { bytesPerSecond: 3 * MiB }), [])
    finds(
      { limits, copy: { window: { cron: '0 1-5 * * *' } } },
      /copies 70\.3 GiB a day in the 35 h a week that copy\.window is open, the stream grows by 253 GiB/,
      { bytesPerSecond: 3 * MiB, disks: [] },
    )
  })

  test('holds: overlapping, with drop, with limits', () => {
    const at = (time: string) => ({ time })
    const holds = [
      { id: 'a', from: at('2026-01-01'), until: at('2026-03-01') },
      { id: 'b', from: at('2026-02-01'), until: at('2026-04-01') },
      { id: 'c', from: at('2026-04-01') },
      { id: 'd', until: 'txid:5' },
    ]
    const overlapping = conflictsOf({ holds }).filter((text) => text.includes('overlap'))
    assert.deepEqual(
      overlapping.map((text) => /holds (\w) .* and (\w) /.exec(text)?.slice(1).join()),
      ['a,b', 'a,d', 'b,d', 'c,d'],
      'positions of different kinds are not told apart without the records',
    )
    const [one] = holds
    assert.ok(one)
    finds({ holds: [one], archiveDown: 'drop' }, /archive-down is drop, and a must stay/)
    finds({ holds: [one], keep: { max: '1 GiB' } }, /keep\.max 1 GiB is set, and a must stay/)
    finds({ holds: [one], keep: { for: '90d' } }, /keep\.for 90d is set, and a must stay/)
  })

  test('what has no effect where it stands', () => {
    finds({ copy: { window: { cron: '0 1 * * *' } } }, /there is no archive, and copy\.window is set/, {
      archive: false,
    })
    finds({ keep: { for: '90d', by: 'event' } }, /txids are no times/, { txidMode: 'custom' })
    finds({ encryption: { ring: './ring' } }, /objects are stored in clear/)
    finds({ limits: { replicaLag: '1 GiB' } }, /replica-lag is above 64\.0 MiB/)
  })
})
