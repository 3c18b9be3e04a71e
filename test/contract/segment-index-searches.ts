import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isStratalogError } from '../../src/model/errors.js'
import type { SegmentIndex } from '../../src/ports/segment-index.js'
import {
  archiving,
  newIncarnation,
  openRow,
  sealedRow,
  sealedSegments,
  sealing,
  writableStream,
} from './segment-rows.js'

/* The part of the suite of `SegmentIndex` that asks; `index` gives the engine of the test that runs. */

/** Lists, ends, and searches by txid, sequenceId and time. */
export function searchTests(index: () => SegmentIndex): void {
  const numberOf = (row: { segment: bigint } | null) => row?.segment ?? null

  test('segments are listed from a number, a page at a time', async () => {
    const { incarnation } = await writableStream(index(), 'a')
    const other = await writableStream(index(), 'b')
    const rows = await sealedSegments(index(), incarnation, 5)
    await sealedSegments(index(), other.incarnation, 3)
    assert.deepEqual(await index().listSegments(incarnation, 0n, 100), rows)
    assert.deepEqual(await index().listSegments(incarnation, 2n, 2), rows.slice(1, 3))
    assert.deepEqual(await index().listSegments(incarnation, 6n, 2), [])
    assert.deepEqual(await index().listSegments(incarnation, 2n ** 64n, 2), [])
    assert.deepEqual(await index().listSegments(incarnation, -5n, 1), rows.slice(0, 1))
    const hot = rows.filter((row) => row.ledgerId !== null)
    assert.deepEqual(await index().listHotSegments(incarnation, 100), hot)
    assert.deepEqual(await index().listHotSegments(incarnation, 1), hot.slice(0, 1))
    assert.equal(await index().segment(incarnation, 2n ** 64n), null)
  })

  test('the oldest is the first that is not trimmed, the newest the last', async () => {
    const { incarnation } = await writableStream(index(), 'a')
    assert.equal(await index().oldestSegment(incarnation), null)
    const rows = await sealedSegments(index(), incarnation, 3)
    assert.equal(numberOf(await index().oldestSegment(incarnation)), 1n)
    for (const row of rows) await index().updateSegment(row, { state: 'trimmed' })
    assert.equal(await index().oldestSegment(incarnation), null)
    assert.equal(numberOf(await index().newestSegment(incarnation)), 3n)
    await index().beginSegment(openRow(incarnation, 4n))
    assert.equal(numberOf(await index().oldestSegment(incarnation)), 4n)
  })

  test('a txid, a sequenceId and a time lead to the first segment that may hold them', async () => {
    const { incarnation } = await writableStream(index(), 'a')
    await sealedSegments(index(), incarnation, 3)
    const txid = async (value: bigint) => numberOf(await index().segmentForTxid(incarnation, value))
    const sequenceId = async (value: bigint) =>
      numberOf(await index().segmentForSequenceId(incarnation, value))
    const time = async (value: number) => numberOf(await index().segmentForTime(incarnation, value))
    const check = async (beyond: bigint | null) => {
      for (const [value, segment] of [
        [-1n, 1n],
        [0n, 1n],
        [109n, 1n],
        [110n, 2n],
        [209n, 2n],
        [309n, 3n],
      ] as const) {
        assert.equal(await txid(value), segment, `txid ${value}`)
      }
      for (const [value, segment] of [
        [-1n, 1n],
        [0n, 1n],
        [9n, 1n],
        [10n, 2n],
        [29n, 3n],
      ] as const) {
        assert.equal(await sequenceId(value), segment, `sequenceId ${value}`)
      }
      for (const [value, segment] of [
        [-1, 1n],
        [0, 1n],
        [1000, 1n],
        [1000.5, 2n],
        [1001, 2n],
        [3000, 3n],
      ] as const) {
        assert.equal(await time(value), segment, `time ${value}`)
      }
      assert.deepEqual([await txid(310n), await sequenceId(30n), await time(3001)], [beyond, beyond, beyond])
      assert.deepEqual(
        [await txid(2n ** 63n), await sequenceId(2n ** 70n), await time(1e300)],
        [beyond, beyond, beyond],
      )
      assert.deepEqual(
        [await txid(-(2n ** 70n)), await sequenceId(-(2n ** 70n)), await time(-1e300)],
        [1n, 1n, 1n],
      )
    }
    await check(null)
    await index().beginSegment(openRow(incarnation, 4n))
    await check(4n)
  })

  test('empty segments hold nothing, and equal txids are found in the first', async () => {
    const { incarnation } = await writableStream(index(), 'a')
    const same = { firstTxid: 7n, lastTxid: 7n }
    await index().adoptSegment(sealedRow(incarnation, 1n, same))
    await index().adoptSegment(
      sealedRow(incarnation, 2n, {
        recordCount: 0n,
        lastTxid: -1n,
        firstTxid: -1n,
        lastEntryId: -1n,
        lastSlot: -1n,
      }),
    )
    await index().adoptSegment(sealedRow(incarnation, 3n, { ...same, startSequenceId: 10n }))
    assert.equal(numberOf(await index().segmentForTxid(incarnation, 7n)), 1n)
    assert.equal(numberOf(await index().segmentForSequenceId(incarnation, 9n)), 1n)
    assert.equal(numberOf(await index().segmentForSequenceId(incarnation, 10n)), 3n)
    assert.equal(await index().segmentForTxid(incarnation, 8n), null)
  })

  test('a clock that went back hides no segment', async () => {
    const { incarnation } = await writableStream(index(), 'a')
    for (const [at, sealedMs] of [5_000, 3_000, 4_000, 6_000].entries()) {
      await index().adoptSegment(sealedRow(incarnation, BigInt(at + 1), { sealedMs }))
    }
    for (const [timeMs, segment] of [
      [2_000, 1n],
      [3_500, 1n],
      [5_000, 1n],
      [5_001, 4n],
    ] as const) {
      assert.equal(numberOf(await index().segmentForTime(incarnation, timeMs)), segment, `time ${timeMs}`)
    }
    const first = await index().segment(incarnation, 1n)
    assert.ok(first)
    const trimmed = await index().updateSegment(first, { state: 'trimmed' })
    await index().removeSegment(await index().updateSegment(trimmed, { ledgerId: null }))
    for (const [timeMs, segment] of [
      [2_000, 2n],
      [3_500, 3n],
      [4_500, 4n],
      [6_001, null],
    ] as const) {
      assert.equal(numberOf(await index().segmentForTime(incarnation, timeMs)), segment, `time ${timeMs}`)
    }
  })

  test('an open segment before closed ones is found first', async () => {
    const { incarnation } = await writableStream(index(), 'a')
    const late = await index().beginSegment(openRow(incarnation, 1n))
    await index().updateSegment(await index().beginSegment(openRow(incarnation, 2n)), sealing(2n))
    assert.equal(numberOf(await index().segmentForTxid(incarnation, 205n)), 1n)
    await index().updateSegment(late, { ...sealing(1n), sealedMs: 9_000 })
    assert.equal(numberOf(await index().segmentForTxid(incarnation, 205n)), 2n)
    assert.equal(numberOf(await index().segmentForTime(incarnation, 2_500)), 1n)
  })
}

/** What recovery and the agent find by, and the totals. */
export function workTests(index: () => SegmentIndex): void {
  test('segments are found by state over all streams', async () => {
    const a = await writableStream(index(), 'a')
    const b = await writableStream(index(), 'b')
    const [first] = await sealedSegments(index(), a.incarnation, 2)
    assert.ok(first)
    await index().updateSegment(first, archiving(1n))
    await index().beginSegment(openRow(b.incarnation, 1n))
    const found = async (states: Parameters<SegmentIndex['segmentsInState']>[0], limit = 100) =>
      (await index().segmentsInState(states, limit))
        .map((row) => `${row.incarnation === a.incarnation ? 'a' : 'b'}${row.segment} ${row.state}`)
        .sort()
    assert.deepEqual(await found(['open', 'recovering', 'sealed']), ['a2 sealed', 'b1 open'])
    assert.deepEqual(await found(['archived', 'archived']), ['a1 archived'])
    assert.deepEqual(await found(['gap', 'cold', 'trimmed']), [])
    assert.deepEqual(await found([]), [])
    assert.equal((await found(['open', 'sealed', 'archived'], 2)).length, 2)
    assert.deepEqual(await found(['open'], 0), [])
  })

  test('segments that owe a deletion are found until they owe nothing', async () => {
    const { incarnation } = await writableStream(index(), 'a')
    const [one, two, three] = await sealedSegments(index(), incarnation, 3)
    assert.ok(one && two && three)
    const owing = async (limit = 10) => (await index().segmentsOwing(limit)).map((row) => row.segment)
    assert.deepEqual(await owing(), [])
    let cold = await index().updateSegment(await index().updateSegment(one, archiving(1n)), { state: 'cold' })
    let trimmed = await index().updateSegment(await index().updateSegment(two, archiving(2n)), {
      state: 'trimmed',
    })
    assert.deepEqual(await owing(), [1n, 2n])
    assert.deepEqual(await owing(1), [1n])
    cold = await index().updateSegment(cold, { ledgerId: null, evictedMs: 5 })
    trimmed = await index().updateSegment(trimmed, { ledgerId: null })
    assert.deepEqual(await owing(), [2n])
    await index().updateSegment(trimmed, { object: null })
    assert.deepEqual(await owing(), [])
    await index().updateSegment(cold, { state: 'trimmed' })
    assert.deepEqual(await owing(), [1n])
  })

  test('a dropped gap owes its hot copy, another one keeps it for whoever may mend it', async () => {
    const { incarnation } = await writableStream(index(), 'a')
    const [one, two] = await sealedSegments(index(), incarnation, 2)
    assert.ok(one && two)
    const owing = async () => (await index().segmentsOwing(10)).map((row) => row.segment)
    const dropped = await index().updateSegment(one, { state: 'gap', gapReason: 'dropped' })
    await index().updateSegment(two, { state: 'gap', gapReason: 'corrupt' })
    assert.equal((await index().segment(incarnation, 1n))?.gapReason, 'dropped')
    assert.equal((await index().segment(incarnation, 2n))?.gapReason, 'corrupt')
    assert.deepEqual(await owing(), [1n])
    await index().updateSegment(dropped, { ledgerId: null })
    assert.deepEqual(await owing(), [])
  })

  test('totals follow every change', async () => {
    const { incarnation } = await writableStream(index(), 'a')
    const none = {
      segments: 0,
      records: 0n,
      hotSegments: 0,
      hotBytes: 0,
      coldSegments: 0,
      coldBytes: 0,
      bothBytes: 0,
    }
    assert.deepEqual(await index().totals(incarnation), none)
    const [one, two] = await sealedSegments(index(), incarnation, 2)
    const open = await index().beginSegment(openRow(incarnation, 3n))
    assert.ok(one && two)
    const hot = { ...none, segments: 3, records: 20n, hotSegments: 3, hotBytes: 2_000 }
    assert.deepEqual(await index().totals(incarnation), hot)
    const archived = await index().updateSegment(one, archiving(1n))
    const both = { ...hot, coldSegments: 1, coldBytes: 1_000, bothBytes: 1_000 }
    assert.deepEqual(await index().totals(incarnation), both)
    const cold = await index().updateSegment(archived, { state: 'cold', ledgerId: null, evictedMs: 7 })
    assert.deepEqual(await index().totals(incarnation), {
      ...both,
      hotSegments: 2,
      hotBytes: 1_000,
      bothBytes: 0,
    })
    const trimmed = await index().updateSegment(cold, { state: 'trimmed' })
    const left = { ...none, segments: 2, records: 10n, hotSegments: 2, hotBytes: 1_000 }
    assert.deepEqual(await index().totals(incarnation), left)
    await index().removeSegment(await index().updateSegment(trimmed, { object: null }))
    assert.deepEqual(await index().totals(incarnation), left)
    await index().removeSegment(open)
    assert.deepEqual(await index().totals(incarnation), { ...left, segments: 1, hotSegments: 1 })
    await index().updateSegment(two, { state: 'gap' })
    assert.deepEqual(await index().totals(incarnation), { ...none, segments: 1, records: 10n })
    await assert.rejects(index().totals(newIncarnation()), (error) =>
      isStratalogError(error, 'stream_not_found'),
    )
  })
}
