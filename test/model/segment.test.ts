import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { AssertionFailed } from '../../src/model/assert.js'
import type { SegmentRow, SegmentState } from '../../src/model/segment.js'
import {
  canTransition,
  checkSegmentRow,
  isClosed,
  isHot,
  SEGMENT_TRANSITIONS,
} from '../../src/model/segment.js'
import { archiving, openRow, sealedRow } from '../contract/segment-rows.js'

const STATES: readonly SegmentState[] = ['open', 'recovering', 'sealed', 'archived', 'cold', 'trimmed', 'gap']
const ARCHIVED = sealedRow('i', 1n, archiving(1n))
const COLD: SegmentRow = { ...ARCHIVED, state: 'cold' }

describe('states of a segment', () => {
  test('the whole table, pair by pair', () => {
    const allowed = new Set([
      ...[
        'open sealed',
        'open recovering',
        'recovering sealed',
        'sealed archived',
        'sealed trimmed',
        'sealed gap',
      ],
      ...['archived cold', 'archived sealed', 'archived trimmed', 'archived gap'],
      ...['cold archived', 'cold trimmed', 'cold gap', 'gap trimmed'],
    ])
    assert.deepEqual(Object.keys(SEGMENT_TRANSITIONS).sort(), [...STATES].sort())
    for (const from of STATES) {
      for (const to of STATES)
        assert.equal(canTransition(from, to), allowed.has(`${from} ${to}`), `${from} → ${to}`)
    }
  })

  test('none leads back but between archived and sealed or cold, and every closed one ends trimmed', () => {
    const reach = (from: SegmentState, seen: Set<SegmentState> = new Set()): Set<SegmentState> => {
      for (const next of SEGMENT_TRANSITIONS[from]) {
        if (seen.has(next)) continue
        seen.add(next)
        reach(next, seen)
      }
      return seen
    }
    for (const state of STATES) {
      const again = state === 'archived' || state === 'sealed' || state === 'cold'
      assert.equal(reach(state).has(state), again, `${state} leads back to itself`)
      if (state !== 'trimmed') assert.ok(reach(state).has('trimmed'), `${state} never ends`)
    }
  })

  test('open and recovering are not closed', () => {
    assert.deepEqual(
      STATES.filter((state) => !isClosed(state)),
      ['open', 'recovering'],
    )
  })

  test('readers use the hot copy only while it is promised', () => {
    const hot = STATES.filter((state) => isHot({ ...ARCHIVED, state }))
    assert.deepEqual(hot, ['open', 'recovering', 'sealed', 'archived'])
    for (const state of STATES) assert.equal(isHot({ ...ARCHIVED, state, ledgerId: null }), false)
  })
})

describe('what must hold of a row', () => {
  test('sound rows pass', () => {
    const sound: readonly SegmentRow[] = [
      openRow('i', 1n),
      openRow('i', 1n, { state: 'recovering' }),
      sealedRow('i', 1n),
      sealedRow('i', 1n, { recordCount: 0n, lastTxid: -1n }),
      ARCHIVED,
      COLD,
      { ...COLD, ledgerId: null },
      { ...COLD, state: 'trimmed', ledgerId: null, object: null },
      { ...sealedRow('i', 1n), state: 'gap', ledgerId: null },
    ]
    for (const row of sound) checkSegmentRow(row)
  })

  test('each broken one is an assertion that names it', () => {
    const broken: readonly (readonly [Partial<SegmentRow> & { base?: SegmentRow }, RegExp])[] = [
      [{ segment: 0n }, /start at 1/],
      [{ base: openRow('i', 1n), ledgerId: null }, /without a ledger/],
      [{ base: openRow('i', 1n), object: ARCHIVED.object }, /has an object/],
      [{ sealedMs: null }, /completion time/],
      [{ firstTxid: 9n, lastTxid: 8n }, /txids go back/],
      [{ ledgerId: null }, /without a hot copy/],
      [{ base: ARCHIVED, object: null }, /verified object/],
      [{ base: ARCHIVED, archivedMs: null }, /verified object/],
      [{ base: ARCHIVED, contentDigest: null }, /digest/],
      [{ base: ARCHIVED, ledgerId: null }, /without a hot copy/],
      [{ base: COLD, object: null, ledgerId: null }, /verified object/],
      [{ base: COLD, contentDigest: null }, /digest/],
    ]
    for (const [{ base, ...change }, why] of broken) {
      const row = { ...(base ?? sealedRow('i', 1n)), ...change }
      assert.throws(
        () => checkSegmentRow(row),
        (error) => error instanceof AssertionFailed && why.test(error.message),
        String(why),
      )
    }
  })
})
