import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { resolveConfig } from '../../src/config/resolve.js'
import type { ResolvedPolicy } from '../../src/model/policy.js'
import type { PolicyInput } from '../../src/model/policy-input.js'
import { isHot, type SegmentRow, type SegmentState } from '../../src/model/segment.js'
import {
  dueActions,
  NEVER_MS,
  nextDueMs,
  type PlanInput,
  type PlannedAction,
  plan,
} from '../../tiering/plan.js'

const MINUTE = 60_000
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR
const MiB = 2 ** 20
const NOW = 100 * DAY

const policyOf = (code: PolicyInput): ResolvedPolicy => resolveConfig({ code }).policyFor('a')

function row(segment: number, state: SegmentState, changes: Partial<SegmentRow> = {}): SegmentRow {
  const closed = state !== 'open' && state !== 'recovering'
  const copied = state === 'archived' || state === 'cold'
  return {
    incarnation: 'a'.repeat(32),
    segment: BigInt(segment),
    state,
    epoch: 1n,
    ledgerId: state === 'cold' || state === 'gap' || state === 'trimmed' ? null : BigInt(segment),
    firstTxid: 0n,
    startSequenceId: 0n,
    openedMs: NOW - HOUR,
    lastTxid: closed ? 0n : -1n,
    lastEntryId: closed ? 0n : -1n,
    lastSlot: 0n,
    recordCount: closed ? 1n : 0n,
    lengthBytes: closed ? MiB : 0,
    sealedMs: closed ? NOW - HOUR : null,
    contentDigest: copied ? 'd' : null,
    object: copied ? { key: 'k', sizeBytes: 1, indexBytes: 1 } : null,
    archivedMs: copied ? NOW - HOUR : null,
    evictedMs: null,
    version: 1,
    ...changes,
  }
}

function planOf(
  policy: PolicyInput,
  segments: readonly SegmentRow[],
  changes: Partial<PlanInput> = {},
): PlannedAction[] {
  return plan({
    policy: policyOf(policy),
    segments,
    open: null,
    nowMs: NOW,
    txidMode: 'ms',
    archiveConfigured: true,
    windowOpen: true,
    nextWindowMs: null,
    ...changes,
  })
}
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
      nextWindowMs: null,
    })
    assert.equal(
      action?.reason,
      'age 30m ≥ 30m: roll.age 1h (built-in) cut to half of hot.for 1h (stream override)',
    )
    assert.deepEqual([action?.field, action?.origin, action?.dueMs], ['hot.for', 'stream override', NOW])
  })

  test('not when it is empty, has no writer here, or is recovering', () => {
    assert.deepEqual(seal({}, 0, open({ lengthBytes: 0 })), [])
    assert.deepEqual(seal({}, 0, null), [])
    assert.deepEqual(planOf({}, [row(1, 'recovering')], { open: open() }), [])
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

// A small model of a stream: what carrying out an action does to its rows.

interface World {
  rows: SegmentRow[]
  open: PlanInput['open']
  nowMs: number
}

function execute(world: World, action: PlannedAction): void {
  const change = (changes: Partial<SegmentRow>) => {
    world.rows = world.rows.map((each) => (each.segment === action.segment ? { ...each, ...changes } : each))
  }
  const target = world.rows.find(({ segment }) => segment === action.segment)
  assert.ok(target, `${action.kind} of a segment that is not there`)
  if (action.kind === 'seal') {
    assert.equal(target.state, 'open')
    change({
      state: 'sealed',
      sealedMs: world.nowMs,
      lengthBytes: world.open?.lengthBytes ?? 0,
      recordCount: 1n,
      lastTxid: BigInt(world.nowMs),
    })
    world.open = null
  } else if (action.kind === 'copy') {
    assert.equal(target.state, 'sealed')
    change({
      state: 'archived',
      archivedMs: world.nowMs,
      contentDigest: 'd',
      object: { key: 'k', sizeBytes: 1, indexBytes: 1 },
    })
  } else if (action.kind === 'evict') {
    // Invariant 4.
    assert.equal(target.state, 'archived')
    change({ state: 'cold', ledgerId: null, evictedMs: world.nowMs })
  } else {
    // Invariant 5: the oldest there is, and closed.
    assert.equal(world.rows.find(({ state }) => state !== 'trimmed')?.segment, action.segment)
    assert.ok(target.state !== 'open' && target.state !== 'recovering')
    change({ state: 'trimmed', ledgerId: null, object: null })
  }
}

const ageArb = fc.integer({ min: 0, max: 48 }).map((hours) => hours * HOUR)
const policyArb: fc.Arbitrary<PolicyInput> = fc.record({
  roll: fc.record({
    size: fc.constantFrom('1 MiB', '4 MiB'),
    age: fc.constantFrom('10m', '1h'),
    idle: fc.constantFrom('5m', '1d'),
  }),
  copy: fc.record({ after: fc.constantFrom(0, HOUR, DAY) }),
  hot: fc.record({
    for: fc.constantFrom('forever' as const, 0, HOUR, DAY),
    max: fc.constantFrom('unlimited' as const, 0, '2 MiB', '5 MiB'),
  }),
  evict: fc.record({ lag: fc.constantFrom(0, HOUR, DAY) }),
  keep: fc.record({
    for: fc.constantFrom('forever' as const, HOUR, 30 * HOUR),
    max: fc.constantFrom('unlimited' as const, '1 MiB', '6 MiB'),
    by: fc.constantFrom('completion' as const, 'event' as const),
  }),
})
const closedArb = fc.record({
  state: fc.constantFrom<SegmentState>('sealed', 'archived', 'cold', 'gap'),
  sealedAgeMs: ageArb,
  archivedAgeMs: ageArb,
  eventAgeMs: ageArb,
  lengthBytes: fc.integer({ min: 0, max: 3 * MiB }),
})
const inputArb: fc.Arbitrary<PlanInput> = fc
  .record({
    policy: policyArb.map(policyOf),
    closed: fc.array(closedArb, { maxLength: 8 }),
    last: fc.constantFrom<SegmentState | null>('open', 'recovering', null),
    open: fc.option(
      fc.record({
        lengthBytes: fc.integer({ min: 0, max: 5 * MiB }),
        lastAppendMs: ageArb.map((ms) => NOW - ms),
      }),
    ),
    archiveConfigured: fc.boolean(),
    windowOpen: fc.boolean(),
    txidMode: fc.constantFrom('ms' as const, 'custom' as const),
  })
  .map(({ closed, last, open, windowOpen, ...rest }) => {
    const segments = closed.map((each, i) =>
      row(i + 1, each.state, {
        sealedMs: NOW - each.sealedAgeMs,
        lengthBytes: each.lengthBytes,
        lastTxid: BigInt(NOW - each.eventAgeMs),
        ...(each.state === 'archived' || each.state === 'cold'
          ? { archivedMs: NOW - Math.min(each.archivedAgeMs, each.sealedAgeMs) }
          : {}),
      }),
    )
    if (last !== null) segments.push(row(closed.length + 1, last))
    return {
      ...rest,
      segments,
      open: last === 'open' ? open : null,
      nowMs: NOW,
      windowOpen,
      nextWindowMs: windowOpen ? null : NOW + 7 * HOUR,
    }
  })

describe('properties', () => {
  test('only what may be done is due; one action of a kind for a segment; in order of time', () => {
    fc.assert(
      fc.property(inputArb, (input) => {
        const actions = plan(input)
        const keys = actions.map(({ kind, segment }) => `${kind} ${segment}`)
        assert.equal(new Set(keys).size, keys.length)
        actions.forEach((action, i) => {
          assert.ok(action.dueMs >= (actions[i - 1]?.dueMs ?? 0), 'not in order of time')
          assert.ok(action.blockedBy === null || action.dueMs > input.nowMs, 'blocked and due')
          assert.ok(Number.isSafeInteger(action.dueMs))
          assert.equal(action.origin, input.policy.origins[action.field])
          const target = input.segments.find(({ segment }) => segment === action.segment)
          if (action.kind === 'evict' && action.blockedBy === null) {
            assert.equal(target?.state, 'archived')
            assert.ok(
              action.dueMs >= (target?.archivedMs ?? 0) + input.policy.policy.evict.lagMs,
              'evicted within the lag',
            )
          }
          if (action.kind === 'trim') assert.ok(target?.state !== 'open' && target?.state !== 'recovering')
          if (action.kind === 'copy' && !input.windowOpen) assert.notEqual(action.blockedBy, null)
          if (!input.archiveConfigured) assert.ok(action.kind === 'seal' || action.kind === 'trim')
        })
        const trims = actions.filter(({ kind }) => kind === 'trim').map(({ segment }) => segment)
        assert.deepEqual(
          trims,
          trims.map((_, i) => BigInt(i + 1)),
          'trims are the old end, in order',
        )
      }),
    )
  })

  test('time makes nothing undue but what a trim overtakes', () => {
    fc.assert(
      fc.property(inputArb, fc.integer({ min: 0, max: 72 * HOUR }), (input, laterMs) => {
        const later = plan({ ...input, nowMs: NOW + laterMs })
        const key = ({ kind, segment }: PlannedAction) => `${kind} ${segment}`
        const dueLater = new Set(dueActions(later, NOW + laterMs).map(key))
        for (const action of dueActions(plan(input), NOW)) {
          assert.ok(
            dueLater.has(key(action)) || dueLater.has(`trim ${action.segment}`),
            `${key(action)} is no longer due`,
          )
        }
      }),
    )
  })

  test('what is planned for a time is due at that time', () => {
    fc.assert(
      fc.property(inputArb, (input) => {
        for (const action of plan(input)) {
          if (action.blockedBy !== null || action.dueMs <= NOW || action.dueMs === NEVER_MS) continue
          const then = dueActions(plan({ ...input, nowMs: action.dueMs }), action.dueMs)
          assert.ok(
            then.some(({ kind, segment }) => kind === action.kind && segment === action.segment),
            `${action.kind} ${action.segment}`,
          )
        }
      }),
    )
  })

  test('carrying out what is due comes to rest, within the limits, whatever the order of passes', () => {
    fc.assert(
      fc.property(inputArb, fc.array(ageArb, { minLength: 1, maxLength: 4 }), (input, waits) => {
        const world: World = { rows: [...input.segments], open: input.open, nowMs: NOW }
        const now = (): PlanInput => ({
          ...input,
          windowOpen: true,
          nextWindowMs: null,
          segments: world.rows,
          open: world.open,
          nowMs: world.nowMs,
        })
        for (const waitMs of waits) {
          world.nowMs += waitMs
          let passes = 0
          for (
            let due = dueActions(plan(now()), world.nowMs);
            due.length > 0;
            due = dueActions(plan(now()), world.nowMs)
          ) {
            passes += 1
            assert.ok(passes <= 4, 'seal, copy, evict, trim: a segment goes at most these steps')
            for (const action of due) execute(world, action)
          }
          atRest(now(), world)
        }
      }),
    )
  })
})

/** What must hold when nothing is due. */
function atRest(input: PlanInput, world: World): void {
  const { hot, evict, keep, copy } = input.policy.policy
  const kept = world.rows.filter(({ state }) => state !== 'trimmed')
  const openBytes = kept.at(-1)?.state === 'open' ? (world.open?.lengthBytes ?? 0) : 0
  const sum = (rows: SegmentRow[]) => rows.reduce((bytes, each) => bytes + each.lengthBytes, openBytes)
  const free = kept.filter(
    ({ state, archivedMs, ledgerId }) =>
      state === 'archived' && ledgerId !== null && (archivedMs ?? 0) + evict.lagMs <= input.nowMs,
  )
  if (input.archiveConfigured) {
    const hotRows = kept.filter((each) => isHot(each) && each.state !== 'open' && each.state !== 'recovering')
    if (hot.maxBytes !== null && sum(hotRows) > hot.maxBytes) {
      // Above the target only by what is not verified, or verified too lately, to be freed.
      const frozen = hotRows.filter((each) => !free.includes(each))
      assert.ok(
        sum(frozen) > hot.maxBytes || frozen.some(({ state }) => state === 'archived'),
        'hot.max is not honoured',
      )
    }
    if (hot.forMs !== null)
      for (const each of free)
        assert.ok((each.sealedMs ?? 0) + hot.forMs > input.nowMs, 'hot.for is not honoured')
    for (const each of kept)
      assert.ok(each.state !== 'sealed' || (each.sealedMs ?? 0) + copy.afterMs > input.nowMs, 'not copied')
  }
  const old = kept[0]
  if (old === undefined || old.state === 'open' || old.state === 'recovering') return
  const counted = kept.filter(({ state }) => state !== 'gap')
  if (keep.maxBytes !== null) assert.ok(sum(counted) <= keep.maxBytes, 'keep.max is not honoured')
  if (keep.forMs !== null && keep.by === 'completion')
    assert.ok((old.sealedMs ?? 0) + keep.forMs > input.nowMs, 'keep.for is not honoured')
}
