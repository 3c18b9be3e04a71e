import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { binds, type Hold } from '../../archive/decisions.js'
import { Dlsn } from '../../src/model/dlsn.js'
import type { PolicyInput } from '../../src/model/policy-input.js'
import { isHot, type SegmentRow, type SegmentState } from '../../src/model/segment.js'
import { dueActions, NEVER_MS, type PlanInput, type PlannedAction, plan } from '../../tiering/plan.js'
import { DAY, HOUR, MiB, NOW, policyOf, row } from '../helpers/plan.js'

// A small model of a stream: what carrying out an action does to its rows.

interface World {
  rows: SegmentRow[]
  open: PlanInput['open']
  nowMs: number
}

/** Invariant 5 and what holds promise: whether this segment, the oldest there is, may end now. */
function mayTrim(input: PlanInput, target: SegmentRow): void {
  const { keep } = input.policy.policy
  const stated = input.policy.policy.holds.map((one): Hold => ({ ...one, kind: 'hold', atMs: 0, by: null }))
  // Of a gap nothing is left to be kept: a trim by hand has it so too.
  for (const one of [...input.holds, ...stated])
    assert.ok(
      target.state === 'gap' || !binds(one, target, input.txidMode),
      `segment ${target.segment} is held by ${one.id}`,
    )
  const byEvent = keep.by === 'event' && input.txidMode === 'ms' && target.recordCount > 0n
  const sinceMs = byEvent ? Number(target.lastTxid) : (target.sealedMs ?? 0)
  const expired = keep.forMs !== null && sinceMs + keep.forMs <= (input.steadyMs ?? input.nowMs)
  const kept = input.segments.filter(({ state }) => state !== 'trimmed' && state !== 'gap')
  const openBytes = input.open?.lengthBytes ?? 0
  const bytes = kept.reduce((sum, each) => sum + (each.sealedMs === null ? openBytes : each.lengthBytes), 0)
  assert.ok(expired || (keep.maxBytes !== null && bytes > keep.maxBytes), 'trimmed before its time')
}

function execute(world: World, action: PlannedAction, input?: PlanInput): void {
  const change = (changes: Partial<SegmentRow>) => {
    world.rows = world.rows.map((each) => (each.segment === action.segment ? { ...each, ...changes } : each))
  }
  const target = world.rows.find(({ segment }) => segment === action.segment)
  assert.ok(target, `${action.kind} of a segment that is not there`)
  if (action.kind === 'seal') {
    assert.ok(target.state === 'open' || target.state === 'recovering')
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
    if (input !== undefined) mayTrim({ ...input, segments: world.rows, open: world.open }, target)
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
const edgeArb = fc.oneof(
  fc.constant(null),
  ageArb.map((ms) => ({ timeMs: NOW - ms })),
  ageArb.map((ms) => ({ txid: BigInt(NOW - ms) })),
  fc.integer({ min: 1, max: 9 }).map((segment) => ({ dlsn: new Dlsn(BigInt(segment), 0n, 0n) })),
)
const holdArb: fc.Arbitrary<Hold> = fc.record({
  kind: fc.constantFrom('hold' as const, 'pin' as const),
  id: fc.constantFrom('a', 'b', 'c'),
  from: edgeArb,
  until: edgeArb,
  reason: fc.constant(null),
  atMs: fc.constant(0),
  by: fc.constant(null),
})
// Two of three streams are held nowhere: holds must not hide what happens without them.
const holdsArb = fc.oneof(
  { weight: 2, arbitrary: fc.constant([]) },
  { weight: 1, arbitrary: fc.array(holdArb, { maxLength: 3 }) },
)
const statedArb = fc.oneof(
  { weight: 4, arbitrary: fc.constant([]) },
  {
    weight: 1,
    arbitrary: ageArb.map((ms) => [{ id: 'stated', from: { time: new Date(NOW - ms).toISOString() } }]),
  },
)
const closedArb = fc.record({
  state: fc.constantFrom<SegmentState>('sealed', 'archived', 'cold', 'gap'),
  sealedAgeMs: ageArb,
  archivedAgeMs: ageArb,
  eventAgeMs: ageArb,
  lengthBytes: fc.integer({ min: 0, max: 3 * MiB }),
})
const inputArb: fc.Arbitrary<PlanInput> = fc
  .record({
    policy: fc.tuple(policyArb, statedArb).map(([policy, holds]) => policyOf({ ...policy, holds })),
    holds: holdsArb,
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
  test('the same input gives the same plan, and is left as it was', () => {
    fc.assert(
      fc.property(inputArb, (input) => {
        const before = structuredClone({ segments: input.segments, holds: input.holds.map(({ id }) => id) })
        assert.deepEqual(plan(input), plan({ ...input, segments: [...input.segments] }))
        assert.deepEqual({ segments: input.segments, holds: input.holds.map(({ id }) => id) }, before)
      }),
    )
  })

  test('a hold takes nothing out of a plan but trims: what is held is copied and freed like the rest', () => {
    fc.assert(
      fc.property(inputArb, (input) => {
        const everything: Hold = {
          kind: 'hold',
          id: 'all',
          from: null,
          until: null,
          reason: null,
          atMs: 0,
          by: null,
        }
        const held = plan({ ...input, holds: [everything] })
        const gaps = new Set(input.segments.filter(({ state }) => state === 'gap').map((row) => row.segment))
        for (const { kind, segment, blockedBy } of held)
          if (kind === 'trim' && !gaps.has(segment)) assert.equal(blockedBy, 'hold')
        const keys = new Set(held.map(({ kind, segment }) => `${kind} ${segment}`))
        for (const { kind, segment } of plan(input)) assert.ok(keys.has(`${kind} ${segment}`))
      }),
    )
  })

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
          assert.equal(action.hold !== undefined, action.blockedBy === 'hold')
          if (action.hold !== undefined) assert.ok(action.reason.includes(`held by ${action.hold}`))
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
            for (const action of due) execute(world, action, now())
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
  // What is held keeps all behind it: then the limits are not to be honoured.
  if (plan(input).some(({ kind, blockedBy }) => kind === 'trim' && blockedBy === 'hold')) return
  const counted = kept.filter(({ state }) => state !== 'gap')
  if (keep.maxBytes !== null) assert.ok(sum(counted) <= keep.maxBytes, 'keep.max is not honoured')
  if (keep.forMs !== null && keep.by === 'completion')
    assert.ok((old.sealedMs ?? 0) + keep.forMs > input.nowMs, 'keep.for is not honoured')
}
