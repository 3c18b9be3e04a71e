import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { resolveConfig } from '../../src/config/resolve.js'
import type { PolicyInput } from '../../src/model/policy-input.js'
import type { SegmentRow } from '../../src/model/segment.js'
import {
  dueActions,
  NEVER_MS,
  nextDueMs,
  type PlanInput,
  type PlannedAction,
  plan,
} from '../../tiering/plan.js'
import { DAY, HOUR, MINUTE, MiB, NOW, planOf, row } from '../helpers/plan.js'

const brief = (actions: readonly PlannedAction[]) =>
  actions.map(
    ({ kind, segment, dueMs, blockedBy }) =>
      `${kind} ${segment} ${(dueMs - NOW) / MINUTE}m${blockedBy === null ? '' : ` ${blockedBy}`}`,
  )

describe('seal', () => {
  const open = (changes: Partial<PlanInput['open'] & object> = {}) => ({
    lengthBytes: MiB,
    lastAppendMs: NOW,
    ...changes,
  })
  const seal = (policy: PolicyInput, opened: number, state: PlanInput['open']) =>
    planOf(policy, [row(1, 'open', { openedMs: opened })], { open: state }).filter(
      ({ kind }) => kind === 'seal',
    )

  test('by size, age and idle, with the reason', () => {
    const policy = { roll: { size: '4 MiB', age: '10m', idle: '5m' } }
    const [bySize] = seal(policy, NOW - MINUTE, open({ lengthBytes: 4 * MiB }))
    assert.equal(bySize?.reason, '4.0 MiB ≥ roll.size 4.0 MiB')
    assert.equal(bySize?.dueMs, NOW)
    const [byAge] = seal(policy, NOW - 10 * MINUTE, open())
    assert.equal(byAge?.reason, 'age 10m ≥ roll.age 10m')
    assert.equal(byAge?.origin, 'code')
    const [byIdle] = seal(policy, NOW - 6 * MINUTE, open({ lastAppendMs: NOW - 5 * MINUTE }))
    assert.deepEqual([byIdle?.field, byIdle?.reason], ['roll.idle', 'idle 5m ≥ roll.idle 5m'])
    const [later] = seal(policy, NOW - 6 * MINUTE, open())
    assert.deepEqual([later?.dueMs, later?.reason], [NOW + 4 * MINUTE, 'age 6m of roll.age 10m'])
  })

  test('hot.for cuts the age short, with both origins in the reason', () => {
    const policy = resolveConfig({ code: { roll: { idle: '1d' } } }).policyFor('a', { hot: { for: '1h' } })
    const [action] = plan({
      policy,
      segments: [row(1, 'open', { openedMs: NOW - 30 * MINUTE })],
      open: open(),
      nowMs: NOW,
      txidMode: 'ms',
      archiveConfigured: false,
      windowOpen: true,
      holds: [],
      nextWindowMs: null,
    })
    assert.equal(
      action?.reason,
      'age 30m ≥ 30m: roll.age 1h (built-in) cut to half of hot.for 1h (stream override)',
    )
    assert.deepEqual([action?.field, action?.origin, action?.dueMs], ['hot.for', 'stream override', NOW])
  })

  test('not when it is empty or has no writer here', () => {
    assert.deepEqual(seal({}, 0, open({ lengthBytes: 0 })), [])
    assert.deepEqual(seal({}, 0, null), [])
  })

  test('one whose recovery was begun is recovered, whoever began it', () => {
    const [action] = planOf({}, [row(1, 'recovering')])
    assert.deepEqual([action?.kind, action?.blockedBy], ['seal', null])
    assert.ok(action !== undefined && action.dueMs <= NOW)
    assert.match(action.reason, /recover/)
  })

  test('the outlook of an open segment is blocked, step by step', () => {
    const actions = planOf(
      { roll: { age: '10m' }, hot: { for: '1h' }, evict: { lag: '4h' } },
      [row(1, 'open', { openedMs: NOW })],
      { open: open() },
    )
    assert.deepEqual(brief(actions), ['seal 1 10m', 'copy 1 10m seal', 'evict 1 250m verify'])
  })
})

describe('copy', () => {
  test('after its delay, with the origin', () => {
    const sealed = row(1, 'sealed', { sealedMs: NOW - 20 * MINUTE })
    const [due] = planOf({ copy: { after: '20m' } }, [sealed])
    assert.deepEqual([due?.kind, due?.dueMs, due?.field, due?.blockedBy], ['copy', NOW, 'copy.after', null])
    assert.equal(due?.reason, 'sealed 20m ≥ copy.after 20m')
    assert.equal(planOf({ copy: { after: '30m' } }, [sealed])[0]?.dueMs, NOW + 10 * MINUTE)
  })

  test('waits for the window', () => {
    const sealed = row(1, 'sealed')
    const [waits] = planOf({}, [sealed], { windowOpen: false, nextWindowMs: NOW + 5 * HOUR })
    assert.deepEqual(
      [waits?.dueMs, waits?.blockedBy, waits?.field],
      [NOW + 5 * HOUR, 'window', 'copy.window'],
    )
    const [never] = planOf({}, [sealed], { windowOpen: false, nextWindowMs: null })
    assert.equal(never?.dueMs, NEVER_MS)
    assert.equal(nextDueMs([...(never ? [never] : [])]), null)
  })

  test('waits for the archive', () => {
    const actions = planOf({}, [row(1, 'sealed')], { archiveAnswers: false })
    assert.equal(actions[0]?.blockedBy, 'archive')
    assert.deepEqual(dueActions(actions, NOW), [])
    assert.equal(nextDueMs(actions), null)
  })

  test('without an archive there is nothing but seal and trim', () => {
    const actions = planOf(
      { hot: { for: 0, max: 1 }, evict: { lag: 0 }, keep: { for: '30m' } },
      [row(1, 'sealed'), row(2, 'archived')],
      {
        archiveConfigured: false,
      },
    )
    assert.deepEqual(new Set(actions.map(({ kind }) => kind)), new Set(['trim']))
    assert.deepEqual(planOf({}, [row(1, 'sealed')], { archiveConfigured: false }), [])
  })
})

describe('evict', () => {
  const archived = (segment: number, sealedMs: number, archivedMs: number) =>
    row(segment, 'archived', { sealedMs, archivedMs })

  test('both the hot time and the lag must be over; the reason names the later one', () => {
    const policy = { hot: { for: '2h' }, evict: { lag: '1h' } }
    const [byHot] = planOf(policy, [archived(1, NOW - 2 * HOUR, NOW - 2 * HOUR)])
    assert.deepEqual([byHot?.dueMs, byHot?.field, byHot?.reason], [NOW, 'hot.for', 'age 2h ≥ hot.for 2h'])
    const [byLag] = planOf(policy, [archived(1, NOW - 2 * HOUR, NOW - 30 * MINUTE)])
    assert.deepEqual([byLag?.dueMs, byLag?.field], [NOW + 30 * MINUTE, 'evict.lag'])
    assert.match(byLag?.reason ?? '', /verified 30m of evict.lag 1h, age 2h ≥ hot.for 2h/)
  })

  test('invariant 4: nearly full disks free what is verified before its time, no sooner than the lag, and nothing else', () => {
    const policy = { hot: { for: 'forever' }, evict: { lag: '1h' } } as const
    const rows = [
      archived(1, NOW - 3 * HOUR, NOW - 2 * HOUR),
      row(2, 'sealed'),
      archived(3, NOW - 3 * HOUR, NOW - MINUTE),
      archived(4, NOW - 3 * HOUR, NOW - 2 * HOUR),
    ]
    const evicts = planOf(policy, rows, { pressedBytes: 2 * MiB }).filter(({ kind }) => kind === 'evict')
    assert.deepEqual(brief(evicts), ['evict 1 -60m', 'evict 3 59m'])
    assert.match(evicts[0]?.reason ?? '', /disks are nearly full, hot.for is given up/)
    assert.deepEqual(evicts[0]?.field, 'evict.lag')
  })

  test('while the archive is down nothing is due but seals, and each says so', () => {
    const policy = { hot: { for: '1m' }, evict: { lag: 0 }, keep: { for: '30m' }, copy: { after: 0 } }
    const rows = [archived(1, NOW - HOUR, NOW - HOUR), row(2, 'sealed', { sealedMs: NOW - 5 * MINUTE })]
    const actions = planOf(policy, rows, { archiveAnswers: false })
    assert.deepEqual(
      actions.filter(({ dueMs }) => dueMs <= NOW),
      [],
    )
    assert.deepEqual(
      actions.map(({ kind, segment, blockedBy }) => `${kind} ${segment} ${blockedBy}`).sort(),
      ['copy 2 archive', 'evict 1 archive', 'evict 2 verify', 'trim 1 archive', 'trim 2 null'],
    )
  })

  test('hot.max frees the oldest until the stream is below, and no more', () => {
    const policy = { hot: { for: 'forever', max: '3 MiB' }, evict: { lag: 0 } } as const
    const rows = [1, 2, 3, 4, 5].map((segment) => archived(segment, NOW - HOUR, NOW - HOUR))
    assert.deepEqual(brief(planOf(policy, rows)), ['evict 1 -60m', 'evict 2 -60m'])
    assert.equal(planOf(policy, rows)[0]?.reason, 'hot 5.0 MiB > hot.max 3.0 MiB')
    const open = { lengthBytes: MiB / 2, lastAppendMs: NOW }
    const withOpen = planOf(policy, [...rows, row(6, 'open', { openedMs: NOW })], { open })
    assert.deepEqual(
      withOpen
        .filter(({ kind, blockedBy }) => kind === 'evict' && blockedBy === null)
        .map(({ segment }) => segment),
      [1n, 2n, 3n],
    )
    assert.deepEqual(planOf(policy, rows.slice(0, 3)), [])
  })

  test('what is not verified is an outlook only, and does not count as freed', () => {
    const policy = { hot: { for: 'forever', max: '1 MiB' }, evict: { lag: '1h' } } as const
    const rows = [row(1, 'sealed'), archived(2, NOW - 2 * HOUR, NOW - 2 * HOUR), row(3, 'sealed')]
    assert.deepEqual(brief(planOf(policy, rows).filter(({ kind }) => kind === 'evict')), [
      'evict 2 -60m',
      'evict 1 60m verify',
    ])
  })

  test('hot: forever frees nothing; a row without a ledger owes nothing', () => {
    assert.deepEqual(planOf({ hot: { for: 'forever' } }, [archived(1, 0, 0)]), [])
    assert.deepEqual(planOf({ hot: { for: 0 } }, [row(1, 'archived', { ledgerId: null, archivedMs: 0 })]), [])
    assert.deepEqual(planOf({ hot: { for: 0 } }, [row(1, 'cold')]), [])
    // Cold with a ledger owes its deletion, which is no eviction any more.
    assert.deepEqual(planOf({ hot: { for: 0 } }, [row(1, 'cold', { ledgerId: 1n, archivedMs: 0 })]), [])
  })
})

describe('trim', () => {
  const cold = (segment: number, changes: Partial<SegmentRow> = {}) => row(segment, 'cold', changes)

  test('by completion time, whole segments, oldest first', () => {
    const rows = [cold(1, { sealedMs: NOW - 3 * DAY }), cold(2, { sealedMs: NOW - DAY }), cold(3)]
    const actions = planOf({ keep: { for: '2d' } }, rows)
    assert.deepEqual(
      actions.map(({ segment, dueMs }) => [segment, dueMs - NOW]),
      [
        [1n, -DAY],
        [2n, DAY],
        [3n, 2 * DAY - HOUR],
      ],
    )
    assert.equal(actions[0]?.reason, 'age 3d ≥ keep.for 2d')
  })

  test('never out of order, whatever the times say', () => {
    const rows = [cold(1, { sealedMs: NOW - HOUR }), cold(2, { sealedMs: NOW - 9 * DAY })]
    const actions = planOf({ keep: { for: '2d' } }, rows)
    assert.deepEqual(
      actions.map(({ segment, dueMs }) => [segment, dueMs - NOW]),
      [
        [1n, 2 * DAY - HOUR],
        [2n, 2 * DAY - HOUR],
      ],
    )
    assert.match(actions[1]?.reason ?? '', /after segment 1/)
  })

  test('by event time, only where txids are times', () => {
    const rows = [cold(1, { lastTxid: BigInt(NOW - 3 * DAY) })]
    const keep = { keep: { for: '2d', by: 'event' } } as const
    assert.equal(planOf(keep, rows)[0]?.dueMs, NOW - DAY)
    assert.match(planOf(keep, rows)[0]?.reason ?? '', /event age 3d/)
    const small = [cold(1, { lastTxid: 17n })]
    assert.ok(
      (planOf(keep, small, { txidMode: 'custom' })[0]?.dueMs ?? 0) > NOW,
      'custom txids are not times',
    )
    assert.ok(
      (planOf(keep, [cold(1, { recordCount: 0n, lastTxid: 0n })])[0]?.dueMs ?? 0) > NOW,
      'no record, no event',
    )
    assert.equal(planOf(keep, [cold(1, { lastTxid: 2n ** 63n - 2n })])[0]?.dueMs, NEVER_MS)
  })

  test('by size, counting the open segment and what is not listed', () => {
    const keep = { keep: { max: '2 MiB' } }
    const rows = [cold(1), row(2, 'archived'), row(3, 'sealed')]
    const trims = (changes: Partial<PlanInput> = {}, all = rows) =>
      planOf(keep, all, changes)
        .filter(({ kind }) => kind === 'trim')
        .map(({ segment }) => segment)
    assert.deepEqual(trims(), [1n])
    assert.deepEqual(trims({ unlistedBytes: MiB }), [1n, 2n])
    assert.deepEqual(trims({}, [row(1, 'gap', { lengthBytes: 9 * MiB }), cold(2)]), [], 'a gap has no bytes')
    assert.deepEqual(trims({ open: { lengthBytes: 1, lastAppendMs: NOW } }, [...rows, row(4, 'open')]), [
      1n,
      2n,
    ])
    assert.equal(
      planOf(keep, rows)[0]?.kind === 'trim' ||
        planOf(keep, rows).some(({ reason }) => reason === '3.0 MiB > keep.max 2.0 MiB'),
      true,
    )
  })

  test('stops at a hole, at an open segment and at one that recovers; passes over gaps', () => {
    const keep = { keep: { for: '30m' } }
    const trims = (rows: SegmentRow[]) =>
      planOf(keep, rows)
        .filter(({ kind }) => kind === 'trim')
        .map(({ segment }) => segment)
    assert.deepEqual(trims([cold(1), cold(3)]), [1n])
    assert.deepEqual(trims([row(1, 'recovering'), cold(2)]), [])
    assert.deepEqual(trims([cold(1), row(2, 'gap'), cold(3), row(4, 'open')]), [1n, 2n, 3n])
    assert.deepEqual(trims([row(1, 'trimmed'), cold(2)]), [2n])
  })

  test('what is trimmed first is neither copied nor evicted', () => {
    const policy = { keep: { for: '30m' }, hot: { for: 0 }, evict: { lag: 0 } }
    assert.deepEqual(brief(planOf(policy, [row(1, 'archived'), row(2, 'sealed')])), [
      'copy 2 -60m',
      'evict 1 -60m',
      'trim 1 -30m',
      'trim 2 -30m',
    ])
    const late = planOf({ keep: { for: '30m' }, copy: { after: '2h' } }, [row(1, 'sealed')])
    assert.deepEqual(brief(late), ['trim 1 -30m'])
  })
})

test('rows out of order are a bug', () => {
  assert.throws(() => planOf({}, [row(2, 'cold'), row(1, 'cold')]), /ascending/)
})
