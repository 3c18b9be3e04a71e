import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import {
  BlockBudget,
  type EntrySource,
  planSegmentObject,
  releasePlanned,
  segmentObjectBody,
} from '../../archive/segment-writer.js'
import { bytesOf, sampleSegment, sourceOf } from '../helpers/archive.js'

const { meta, payloads } = sampleSegment({
  entries: 40,
  recordsPerEntry: 4,
  payloadBytes: 40_000,
  incompressible: true,
})
const BLOCK_BYTES = 1_300_000

describe('blocks that are kept between the two passes', () => {
  test('the object is the same whatever there is room for, and is read as often as it takes', async () => {
    const plain = await planSegmentObject(meta, sourceOf(payloads))
    const expected = await bytesOf(segmentObjectBody(plain, sourceOf(payloads)))
    assert.equal(plain.kept.length, 0)
    const kept = new Set<number>()
    for (let room = 0; room <= plain.rows.length + 1; room += 1) {
      const budget = new BlockBudget(room * BLOCK_BYTES)
      const planned = await planSegmentObject(meta, sourceOf(payloads), undefined, budget)
      kept.add(planned.kept.length)
      const body = segmentObjectBody(planned, sourceOf(payloads))
      for (let attempt = 0; attempt < 2; attempt += 1) assert.deepEqual(await bytesOf(body), expected)
      releasePlanned(planned, budget)
      assert.ok(budget.take(room * BLOCK_BYTES), 'all of it came back')
    }
    assert.ok(kept.size > 3, 'none, some and all were kept')
  })

  test('the second reading begins behind what was kept', async () => {
    const froms: (bigint | undefined)[] = []
    const source: EntrySource = {
      open: (from) => {
        froms.push(from)
        return sourceOf(payloads).open(from)
      },
    }
    const planned = await planSegmentObject(meta, source, undefined, new BlockBudget(2 * BLOCK_BYTES))
    await bytesOf(segmentObjectBody(planned, source))
    assert.deepEqual(froms, [0n, planned.rows[planned.kept.length]?.firstEntryId])
    assert.ok((froms[1] ?? 0n) > 0n)
  })

  test('a segment that is not what it should be gives back what was kept', async () => {
    const budget = new BlockBudget(100 * BLOCK_BYTES)
    const wrong = { ...meta, recordCount: meta.recordCount + 1n }
    await assert.rejects(planSegmentObject(wrong, sourceOf(payloads), undefined, budget), { code: 'corrupt' })
    assert.ok(budget.take(100 * BLOCK_BYTES))
  })
})
