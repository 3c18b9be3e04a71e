import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { afterEach, beforeEach, describe, test } from 'node:test'
import type { ErrorCode, Log, OpenOptions, PolicyInput } from 'stratalog'
import { present } from '../../src/model/assert.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { isStratalogError } from '../../src/model/errors.js'
import { realClock } from '../../src/system/clock.js'
import { silentLogger } from '../../src/system/logger.js'
import { fillSegments, readAll, rowsOf, TieredLog } from '../helpers/tiered-log.js'

/*
 * What people ask of tiering that can't be meant, or can be meant only in part. Each is named by its code before
 * anything is done; what is there stays (invariants 1 and 8), and what was in force stays in force.
 */

const YEAR_MS = 365 * 86_400_000

let place: TieredLog
beforeEach(() => {
  place = new TieredLog()
})
afterEach(() => place.end())

const named = (code: ErrorCode, why: RegExp) => (error: unknown) => {
  assert.ok(isStratalogError(error, code), String(error))
  assert.match(error.message, why)
  return true
}

const everything = Array.from({ length: 30 }, (_, i) => `a ${i}`)

async function unharmed(log: Log): Promise<void> {
  assert.deepEqual((await readAll(log, 'a')).texts, everything)
}

describe('policies that can not be', () => {
  const REFUSED: readonly (readonly [PolicyInput, ErrorCode, RegExp])[] = [
    [{ quorum: { copies: 2, ack: 3 } }, 'config_invalid', /quorum\.ack 3 .* is above quorum\.copies 2/],
    [
      { quorum: { ensemble: 2, copies: 3 } },
      'config_invalid',
      /quorum\.copies 3 .* above quorum\.ensemble 2/,
    ],
    [{ quorum: { copies: 2, ack: 2, min: 3 } }, 'config_invalid', /quorum\.min 3/],
    [{ keep: { for: 0 } }, 'invalid_argument', /keep\.for: 0 is too small/],
    [{ keep: { for: '-1h' } }, 'invalid_argument', /not a duration/],
    [{ copy: { window: { cron: '0 0 31 2 *' } } }, 'invalid_argument', /would never open/],
    [
      { copy: { window: { cron: '0 0 30 2 *', zone: 'Asia/Tokyo' } } },
      'invalid_argument',
      /would never open/,
    ],
    [{ copy: { window: { cron: '61 * * * *' } } }, 'invalid_argument', /"61" does not name a minute/],
    [{ copy: { window: { cron: '* * * * *', zone: 'Mars/Base' } } }, 'invalid_argument', /not a time zone/],
    [{ holds: [{ id: 'x', from: '5:0:0', until: '3:0:0' }] }, 'invalid_argument', /ends before it begins/],
    [{ holds: [{ id: 'x' }, { id: 'x', from: '2:0:0' }] }, 'invalid_argument', /is given twice/],
  ]

  test('are refused whole: nothing is deleted by a part of them, and what was in force stays', async () => {
    await using log = await place.open({ defaults: { hot: { for: '10 days' } } })
    await fillSegments(log, 'a', 3)
    await log.tier.run()
    const before = await log.stream('a').policy()
    for (const [policy, code, why] of REFUSED) {
      // The other half of it would delete everything.
      const whole = { keep: { for: 1 }, ...policy }
      await assert.rejects(log.stream('a').setPolicy(whole), named(code, why), JSON.stringify(policy))
      assert.deepEqual(await log.stream('a').policy(), before)
    }
    assert.deepEqual((await log.tier.run()).failed, [])
    await unharmed(log)
    assert.equal(place.controls('trim'), 0)
  })

  test('are refused as defaults, too, before a log is made of them', async () => {
    for (const [policy, , why] of REFUSED) {
      const opening = place.open({ defaults: policy })
      await assert.rejects(opening, (error) => isStratalogError(error) && why.test(error.message))
    }
    assert.ok(!existsSync(place.archive))
  })
})

describe('policies that work against themselves', () => {
  const conflictsOf = async (log: Log, policy: PolicyInput) => {
    await log.stream('a').setPolicy(policy)
    const { conflicts } = await log.policies.test('a', { atMs: Date.now() + 86_400_000 })
    return conflicts.map(({ found }) => found).join('\n')
  }

  test('retention that is shorter than the eviction lag: said, nothing is freed unverified, nothing goes early', async () => {
    await using log = await place.open()
    await fillSegments(log, 'a', 3)
    const said = await conflictsOf(log, { keep: { for: '1h' }, evict: { lag: '2h' } })
    assert.match(said, /keep\.for 1h is not longer than evict\.lag 2h/)
    const report = await log.tier.run()
    assert.deepEqual([report.copied, report.evicted, report.trimmed, report.failed], [3, 0, 0, []])
    await unharmed(log)
  })

  test('retention that ends before a copy is due: said; what it ends is ended by a marker, not lost', async () => {
    await using log = await place.open()
    await fillSegments(log, 'a', 3)
    assert.match(await conflictsOf(log, { keep: { for: 1 }, copy: { after: '1h' } }), /copy\.after 1h/)
    const report = await log.tier.run()
    assert.deepEqual([report.trimmed > 0, report.failed], [true, []])
    assert.equal((await log.stream('a').info()).trimmedBelow?.toString(), '4:0:0')
    assert.equal(place.controls('trim'), 1, 'the archive knows that it was ended on purpose')
    assert.equal((await readAll(log, 'a')).texts.length, 0)
    const ack = await log.stream('a').append('goes on')
    assert.equal(ack.sequenceId, 30n, 'no number is given out again')
  })

  test('a window that opens once in years: what is hot stays, whatever hot.for says', async () => {
    await using log = await place.open()
    await fillSegments(log, 'a', 3)
    assert.match(await conflictsOf(log, { copy: { window: { cron: '0 0 29 2 *' } } }), /copy\.window/)
    const report = await log.tier.run()
    assert.deepEqual([report.copied, report.evicted, report.trimmed], [0, 0, 0])
    await unharmed(log)
  })
})

describe('holds that overlap', () => {
  test('each binds by itself: retention passes only once the last is released, in any order (invariant 8)', async () => {
    for (const order of [
      [0, 1, 2],
      [2, 0, 1],
      [1, 2, 0],
    ]) {
      const other = new TieredLog()
      try {
        await using log = await other.open()
        await fillSegments(log, 'a', 3)
        const a = log.stream('a')
        // Where each begins to bind: what lies before it may go once the others are released.
        const holds = [
          { id: 'all', at: 0 },
          { id: 'first', at: 0 },
          { id: 'middle', at: 10 },
        ]
        const standing = new Set(holds)
        await a.hold({ id: 'all' })
        await a.hold({ id: 'first', until: new Dlsn(2n, 5n, 0n) })
        await a.hold({ id: 'middle', from: { txid: 1_150n }, until: { txid: 1_250n } })
        await a.setPolicy({ keep: { for: 1 } })
        for (const at of order) {
          await log.tier.run()
          const from = Math.min(...[...standing].map((hold) => hold.at))
          assert.deepEqual((await readAll(log, 'a')).texts, everything.slice(from))
          // A stream that is held is not deleted either.
          await assert.rejects(log.streams.delete('a'), named('refused', /hold/))
          const hold = present(holds[at], 'hold')
          await a.release(hold.id)
          standing.delete(hold)
        }
        await log.tier.run()
        assert.equal((await readAll(log, 'a')).texts.length, 0)
      } finally {
        other.end()
      }
    }
  })
})

describe('clocks that jump by a year', () => {
  let offMs = 0
  const real = realClock()
  const options: OpenOptions = {
    defaults: { keep: { for: '30d' }, hot: { for: 0 }, evict: { lag: 0 } },
    system: { logger: silentLogger(), clock: { ...real, nowMs: () => real.nowMs() + offMs } },
  }
  beforeEach(() => {
    offMs = 0
  })

  for (const [what, jumpMs] of [
    ['ahead', YEAR_MS],
    ['back', -YEAR_MS],
  ] as const) {
    test(`${what} while it is open and between two starts: nothing is trimmed, positions only grow`, async () => {
      {
        await using log = await place.open(options)
        await fillSegments(log, 'a', 3)
        await log.tier.run()
        offMs = jumpMs
        assert.deepEqual([(await log.tier.run()).trimmed, (await log.tier.run()).failed], [0, []])
        await unharmed(log)
      }
      {
        await using log = await place.open(options)
        assert.deepEqual([(await log.tier.run()).trimmed, (await log.tier.run()).failed], [0, []])
        await unharmed(log)
        const last = (await log.stream('a').tail(1))[0]
        const ack = await log.stream('a').append('a 30')
        assert.ok(last !== undefined && ack.txid >= last.txid && ack.sequenceId === 30n)
        offMs = 0
        const next = await log.stream('a').append('a 31')
        assert.ok(next.txid >= ack.txid)
      }
      place.dropIndex()
      await using log = await place.open(options)
      assert.equal((await log.tier.run()).trimmed, 0)
      assert.equal((await readAll(log, 'a')).texts.length, 32)
      assert.ok((await rowsOf(log, 'a')).every(({ state }) => state !== 'trimmed'))
    })
  }
})
