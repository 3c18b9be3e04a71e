import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { PolicyInput } from '../../src/model/policy-input.js'
import { isClosed, type SegmentRow } from '../../src/model/segment.js'
import { dueActions, NEVER_MS, type PlanInput, type PlannedAction, plan } from '../../tiering/plan.js'
import { windowAt } from '../../tiering/window.js'
import { DAY, HOUR, MiB, policyOf, row } from '../helpers/plan.js'

// A stream lives through days of appends under one policy: every action is carried out when it falls due, while clocks
// are changed for summer and winter, jump by years, and windows open and close.

interface Life {
  readonly policy: ReturnType<typeof policyOf>
  rows: SegmentRow[]
  nowMs: number
  steadyMs: number
}

const WINDOWS = [
  ['0 1-5 * * *', 'Europe/Berlin'],
  ['0 22-5 * * *', 'America/New_York'],
  ['0 2 * * *', 'Australia/Lord_Howe'],
  ['0 * * * sat,sun', 'UTC'],
  // Opens once in four years: as good as never.
  ['0 0 29 2 *', 'UTC'],
] as const
/** Nights before and after clocks are changed in these zones. */
const STARTS = [
  '2026-03-07T20:00Z',
  '2026-03-28T12:00Z',
  '2026-10-03T00:00Z',
  '2026-10-24T12:00Z',
  '2026-11-01T00:00Z',
]

const windowArb = fc.option(fc.constantFrom(...WINDOWS), { nil: null })
const policyArb: fc.Arbitrary<PolicyInput> = fc
  .record({
    window: windowArb,
    after: fc.constantFrom(0, 30 * 60_000, DAY),
    hotFor: fc.constantFrom(0, HOUR, DAY, 'forever' as const),
    hotMax: fc.constantFrom('unlimited', 0, '3 MiB'),
    // Retention shorter than the lag of eviction, and than the wait for a copy, is a contradiction somebody will write.
    lag: fc.constantFrom(0, HOUR, 4 * DAY),
    keepFor: fc.constantFrom('forever' as const, HOUR, 2 * DAY),
    keepMax: fc.constantFrom('unlimited', '2 MiB', '8 MiB'),
  })
  .map(({ window, after, hotFor, hotMax, lag, keepFor, keepMax }) => ({
    copy: { after, window: window === null ? ('always' as const) : { cron: window[0], zone: window[1] } },
    hot: { for: hotFor, max: hotMax },
    evict: { lag },
    keep: { for: keepFor, max: keepMax },
  }))

function inputOf(life: Life): PlanInput {
  const window = windowAt(life.policy.policy.copy.window, life.nowMs)
  return {
    policy: life.policy,
    segments: life.rows,
    open: null,
    nowMs: life.nowMs,
    steadyMs: life.steadyMs,
    holds: [],
    txidMode: 'ms',
    archiveConfigured: true,
    windowOpen: window.open,
    nextWindowMs: window.nextMs,
  }
}

function execute(life: Life, action: PlannedAction): void {
  const { hot, evict, keep } = life.policy.policy
  const target = life.rows.find(({ segment }) => segment === action.segment)
  assert.ok(target !== undefined && isClosed(target.state))
  const change = (changes: Partial<SegmentRow>) => {
    life.rows = life.rows.map((each) => (each === target ? { ...each, ...changes } : each))
  }
  if (action.kind === 'copy') {
    assert.ok(windowAt(life.policy.policy.copy.window, life.nowMs).open, 'copied outside the window')
    change({ state: 'archived', archivedMs: life.nowMs, contentDigest: 'd', object: object() })
  } else if (action.kind === 'evict') {
    // Invariant 4: pressure of hot.max frees what is verified and nothing else.
    assert.equal(target.state, 'archived')
    assert.ok((target.archivedMs ?? 0) + evict.lagMs <= life.nowMs)
    const old = hot.forMs !== null && (target.sealedMs ?? 0) + hot.forMs <= life.nowMs
    const hotBytes = life.rows.reduce((sum, each) => sum + (each.ledgerId === null ? 0 : each.lengthBytes), 0)
    assert.ok(
      old || (hot.maxBytes !== null && hotBytes > hot.maxBytes),
      'freed though it is neither old nor too much',
    )
    change({ state: 'cold', ledgerId: null, evictedMs: life.nowMs })
  } else {
    assert.equal(action.kind, 'trim')
    assert.equal(life.rows[0], target, 'not the oldest')
    const expired = keep.forMs !== null && (target.sealedMs ?? 0) + keep.forMs <= life.steadyMs
    const total = life.rows.reduce((sum, each) => sum + each.lengthBytes, 0)
    assert.ok(expired || (keep.maxBytes !== null && total > keep.maxBytes), 'trimmed before its time')
    life.rows = life.rows.filter((each) => each !== target)
  }
}

const object = () => ({ key: 'k', sizeBytes: 1, indexBytes: 1 })

/** Carries out what is due until nothing is. */
function settle(life: Life): void {
  for (let passes = 0; ; passes += 1) {
    const due = dueActions(plan(inputOf(life)), life.nowMs)
    if (due.length === 0) return
    assert.ok(passes <= 4, 'it does not come to rest')
    for (const action of due) execute(life, action)
  }
}

describe('a stream lives', () => {
  test('through changes of the clock, windows and limits, and is at rest after every pass', () => {
    const stepArb = fc.record({
      waitMs: fc.constantFrom(HOUR / 2, HOUR, 5 * HOUR, DAY),
      jumpMs: fc.oneof(
        { weight: 8, arbitrary: fc.constant(0) },
        { weight: 1, arbitrary: fc.constantFrom(-365 * DAY, 365 * DAY) },
      ),
      appended: fc.boolean(),
      lengthBytes: fc.integer({ min: 1, max: 3 * MiB }),
    })
    fc.assert(
      fc.property(
        policyArb,
        fc.constantFrom(...STARTS),
        fc.array(stepArb, { minLength: 1, maxLength: 30 }),
        (policy, start, steps) => {
          const life: Life = {
            policy: policyOf(policy),
            rows: [],
            nowMs: Date.parse(start),
            steadyMs: Date.parse(start),
          }
          let next = 1
          for (const { waitMs, jumpMs, appended, lengthBytes } of steps) {
            life.nowMs += waitMs + jumpMs
            // As steady-time.ts has it: back at once, ahead not before it is proven.
            life.steadyMs = Math.min(life.steadyMs + waitMs, life.nowMs)
            if (appended) {
              const sealed = { openedMs: life.nowMs - 1, sealedMs: life.nowMs, lengthBytes }
              life.rows.push(row(next, 'sealed', { ...sealed, lastTxid: BigInt(life.nowMs) }))
              next += 1
            }
            settle(life)
            for (const action of plan(inputOf(life))) {
              assert.ok(action.dueMs > life.nowMs && action.dueMs <= NEVER_MS)
              assert.ok(Number.isSafeInteger(action.dueMs))
            }
          }
        },
      ),
      { numRuns: 300 },
    )
  })

  test('what a plan says for a time comes true at that time, if nothing else happens', () => {
    fc.assert(
      fc.property(
        policyArb,
        fc.constantFrom(...STARTS),
        fc.array(fc.nat(3 * MiB), { minLength: 1 }),
        (policy, start, sizes) => {
          const nowMs = Date.parse(start)
          const rows = sizes.slice(0, 6).map((lengthBytes, i) =>
            row(i + 1, 'sealed', {
              sealedMs: nowMs - (6 - i) * HOUR,
              lengthBytes,
              lastTxid: BigInt(nowMs),
            }),
          )
          const life: Life = { policy: policyOf(policy), rows, nowMs, steadyMs: nowMs }
          settle(life)
          // At most as often as there are segments and steps of each, or it would turn in circles.
          for (let turns = 0; ; turns += 1) {
            const [first] = plan(inputOf(life)).filter(
              ({ blockedBy }) => blockedBy === null || blockedBy === 'window',
            )
            if (first === undefined || first.dueMs > nowMs + 400 * DAY) return
            assert.ok(turns <= 4 * rows.length, 'there is always something more to do')
            life.nowMs = first.dueMs
            life.steadyMs = first.dueMs
            const due = dueActions(plan(inputOf(life)), life.nowMs)
            assert.ok(
              due.some(({ kind, segment }) => kind === first.kind && segment === first.segment),
              `${first.kind} ${first.segment} is not due when it was said to be`,
            )
            settle(life)
          }
        },
      ),
      { numRuns: 200 },
    )
  })

  test('a limit of time no number can hold is never, not the past', () => {
    const forever = 2 ** 53 - 2
    const policy = policyOf({ copy: { after: forever }, keep: { for: forever }, hot: { for: forever } })
    const life: Life = { policy, rows: [row(1, 'sealed')], nowMs: 100 * DAY, steadyMs: 100 * DAY }
    for (const { dueMs, blockedBy } of plan(inputOf(life))) {
      assert.equal(blockedBy === null ? dueMs : NEVER_MS, NEVER_MS)
      assert.ok(Number.isSafeInteger(dueMs))
    }
  })
})
