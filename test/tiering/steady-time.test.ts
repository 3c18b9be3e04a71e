import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { openLog } from '../../src/open.js'
import { realClock } from '../../src/system/clock.js'
import { SteadyTime } from '../../tiering/steady-time.js'
import { memoryLogger } from '../helpers/archive.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { DAY, HOUR, planOf, row } from '../helpers/plan.js'

const YEAR = 365 * DAY

describe('a log whose clock jumps ahead by a year', () => {
  test('loses nothing to retention, says what waits, and trims on when the clock is right', async () => {
    const root = mkdtempSync(join(tmpdir(), 'stratalog-jump-'))
    let offMs = 0
    const real = realClock()
    try {
      await using log = await openLog(join(root, 'log'), {
        archive: join(root, 'archive'),
        tiering: 'off',
        control: 'off',
        config: 'none',
        storeFileBytes: 4 * 1024 * 1024,
        defaults: { keep: { for: '30d' }, hot: { for: 0 }, evict: { lag: 0 } },
        system: { logger: memoryLogger(), clock: { ...real, nowMs: () => real.nowMs() + offMs } },
      })
      await log.stream('a').append('old')
      await log.stream('a').seal()
      offMs = YEAR
      const jumped = await log.tier.run()
      assert.deepEqual([jumped.copied, jumped.evicted, jumped.trimmed], [1, 1, 0], 'only what can be undone')
      const trim = (await log.tier.plan('a'))[0]?.actions.find(({ kind }) => kind === 'trim')
      assert.deepEqual([trim?.blockedBy, /clock jumped ahead/.test(trim?.reason ?? '')], ['clock', true])
      const { trims } = await log.policies.test('a', { atMs: Date.now() + 2 * YEAR })
      assert.equal(trims.segments, 0)
      offMs = 0
      assert.equal((await log.stream('a').tail(1)).length, 1)
      assert.equal((await log.tier.run()).trimmed, 0)
      // Within what machines sleep and people set: such a step is believed.
      for (let day = 2; day <= 32; day += 2) {
        offMs = day * DAY
        await log.tier.plan('a')
      }
      assert.equal((await log.tier.run()).trimmed, 1)
    } finally {
      rmSync(root, { recursive: true, force: true })
    }
  })
})

describe('the time that retention goes by', () => {
  test('is that of the clock, also where it is set by hours or the machine slept for a day', async () => {
    const clock = new ManualClock()
    const steady = new SteadyTime(clock, memoryLogger())
    for (const jumpMs of [0, 3 * HOUR, -HOUR, DAY]) {
      clock.jump(jumpMs)
      await clock.advance(1_000)
      assert.equal(steady.nowMs(), clock.nowMs())
    }
  })

  test('goes on from before a jump of a year, until the clock is set right', async () => {
    const clock = new ManualClock()
    const lines: string[] = []
    const steady = new SteadyTime(clock, memoryLogger(lines))
    const rightMs = clock.nowMs()
    clock.jump(YEAR)
    assert.equal(steady.nowMs(), rightMs)
    await clock.advance(HOUR)
    assert.equal(steady.nowMs(), rightMs + HOUR)
    assert.equal(lines.filter((line) => line.includes('jumped ahead')).length, 1, 'said once')
    clock.jump(-YEAR)
    assert.equal(steady.nowMs(), clock.nowMs())
    await clock.advance(2 * DAY)
    assert.equal(steady.nowMs(), clock.nowMs())
  })

  test('believes a clock that stays where it jumped to for a day', async () => {
    const clock = new ManualClock()
    const steady = new SteadyTime(clock, memoryLogger())
    clock.jump(YEAR)
    assert.ok(steady.nowMs() < clock.nowMs())
    await clock.advance(DAY - 1)
    assert.ok(steady.nowMs() < clock.nowMs())
    await clock.advance(1)
    assert.equal(steady.nowMs(), clock.nowMs())
  })

  test('is never ahead of a clock that went back, and a clock that comes back from there is looked at anew', async () => {
    const clock = new ManualClock()
    const steady = new SteadyTime(clock, memoryLogger())
    clock.jump(-YEAR)
    assert.equal(steady.nowMs(), clock.nowMs())
    await clock.advance(HOUR)
    const beforeMs = clock.nowMs()
    clock.jump(YEAR)
    assert.equal(steady.nowMs(), beforeMs)
  })

  test('goes on over processes: a jump between two, and a day of short ones that makes it believed', async () => {
    const clock = new ManualClock()
    const life = (left: string | null): SteadyTime => {
      const steady = new SteadyTime(clock, memoryLogger())
      steady.recall(left)
      return steady
    }
    let left = life(null).left
    const beforeMs = clock.nowMs()
    clock.jump(YEAR)
    for (let hour = 0; hour < 24; hour += 1) {
      const steady = life(left)
      assert.ok(steady.ahead && steady.nowMs() < beforeMs + DAY, `after ${hour} hours`)
      left = steady.left
      await clock.advance(HOUR)
    }
    assert.equal(life(left).nowMs(), clock.nowMs())
    // One that is set right is believed at once, and the next jump is one again.
    clock.jump(-YEAR)
    left = life(left).left
    clock.jump(YEAR)
    assert.ok(life(left).ahead)
  })

  test('keeps history that only the jump made old enough to end', () => {
    const policy = { keep: { for: '30d' } }
    const nowMs = 100 * DAY + YEAR
    const jumped = { nowMs, steadyMs: 100 * DAY }
    const rows = [row(1, 'cold', { sealedMs: 60 * DAY }), row(2, 'cold', { sealedMs: 99 * DAY })]
    const trims = planOf(policy, rows, jumped).filter(({ kind }) => kind === 'trim')
    assert.deepEqual(
      trims.map(({ segment, blockedBy, dueMs }) => [segment, blockedBy, dueMs <= nowMs]),
      [
        [1n, null, true],
        [2n, 'clock', false],
      ],
    )
  })
})
