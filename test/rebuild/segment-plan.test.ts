import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { ChosenSegment, ListedSegment } from '../../archive/listing.js'
import type { LedgerSeal } from '../../src/ports/segment-store.js'
import { type FoundLedger, metadataOf } from '../../src/rebuild/found-ledgers.js'
import {
  candidatesOf,
  chooseLedger,
  type PlannedSegment,
  planSegments,
} from '../../src/rebuild/segment-plan.js'
import { INCARNATION } from '../helpers/archive.js'

interface Given {
  readonly id: number
  readonly segment: number
  readonly epoch?: number
  /** Last entry of the seal; absent: unsealed. */
  readonly seal?: number
  /** Entries on each store. */
  readonly entries?: readonly number[]
  readonly preceding?: { readonly id: number; readonly last: number }
  readonly striped?: boolean
}

const sealOf = (last: number): LedgerSeal => ({ lastEntryId: BigInt(last), lengthBytes: last + 1 })

function ledger(given: Given): FoundLedger {
  const entries = given.entries ?? [3, 3, 3]
  const members = ['s0', 's1', 's2']
  const { preceding } = given
  return {
    ledgerId: BigInt(given.id),
    header: {
      ledgerId: BigInt(given.id),
      digestType: 'CRC32C',
      ensembleSize: 3,
      writeQuorum: given.striped ? 2 : 3,
      ackQuorum: 2,
      members,
      firstEntryId: 0n,
      segment: {
        incarnation: INCARNATION,
        stream: 'a',
        segment: BigInt(given.segment),
        epoch: BigInt(given.epoch ?? 1),
        openedMs: 1,
        firstTxid: 0n,
        startSequenceId: 0n,
      },
      preceding: preceding ? { ledgerId: BigInt(preceding.id), ...sealOf(preceding.last) } : null,
    },
    ensembles: [{ firstEntryId: 0n, members }],
    seal: given.seal === undefined ? null : sealOf(given.seal),
    copies: new Map(entries.flatMap((count, at) => (count < 0 ? [] : [[`s${at}`, count] as const]))),
  }
}

function object(segment: number, lastEntryId = 2): ChosenSegment {
  const parsed = { segment: BigInt(segment), lastEntryId: BigInt(lastEntryId) }
  const chosen = { key: `k${segment}`, sizeBytes: 1, parsed } as unknown as ListedSegment
  return { kind: 'chosen', segment: BigInt(segment), chosen, twins: [], losers: [], unlisted: 0 }
}

async function plan(
  ledgers: readonly Given[],
  objects: readonly ChosenSegment[] = [],
  first = 1n,
): Promise<string[]> {
  async function* listed() {
    yield* objects
  }
  const planned: PlannedSegment[] = []
  for await (const one of planSegments(first, candidatesOf(ledgers.map(ledger)), listed())) planned.push(one)
  return planned.map((one) => {
    if (one.kind !== 'hot') return `${one.segment} ${one.kind}`
    const open = one.from.end === null ? (one.newest ? ' open' : ' to recover') : ''
    return `${one.segment} hot ${one.from.ledger.ledgerId}${open}${one.object === null ? '' : ' both'}`
  })
}

describe('which ledger is a segment', () => {
  const chosen = (...given: Given[]) =>
    chooseLedger([...candidatesOf(given.map(ledger)).values()][0] ?? [])?.ledger.ledgerId ?? null

  test('a closed one over what a crash left beside it; the one with entries; the later writer’s', () => {
    assert.equal(chosen({ id: 1, segment: 1, seal: 2 }, { id: 2, segment: 1, entries: [0, 0, 0] }), 1n)
    assert.equal(chosen({ id: 1, segment: 1 }, { id: 2, segment: 1, entries: [0, 0, 0] }), 1n)
    assert.equal(chosen({ id: 1, segment: 1 }, { id: 2, segment: 1, epoch: 2 }), 2n)
    assert.equal(chosen({ id: 1, segment: 1, epoch: 3 }, { id: 2, segment: 1, epoch: 2 }), 1n)
  })

  test('never one that recovery found empty, nor an interrupted restore’s', () => {
    assert.equal(chosen({ id: 1, segment: 1, seal: -1 }), null)
    assert.equal(chosen({ id: 1, segment: 1, seal: -1 }, { id: 2, segment: 1 }), 2n)
    assert.equal(chosen({ id: 1, segment: 1, epoch: 0 }), null)
    assert.equal(chosen({ id: 1, segment: 1, epoch: 0 }, { id: 2, segment: 1, epoch: 0, seal: 2 }), 2n)
  })

  test('the end of a ledger is told by the next one where its stores were never told', () => {
    const found = candidatesOf(
      [
        { id: 1, segment: 1 },
        { id: 2, segment: 2, preceding: { id: 1, last: 2 } },
      ].map(ledger),
    )
    assert.deepEqual(found.get(1n)?.[0]?.end, sealOf(2))
    assert.equal(found.get(2n)?.[0]?.end, null)
  })
})

describe('the segments of a stream', () => {
  test('hot, cold and both in order; the newest without an end is open, others are recovered first', async () => {
    assert.deepEqual(
      await plan(
        [
          { id: 3, segment: 3, seal: 2 },
          { id: 4, segment: 4 },
          { id: 5, segment: 5 },
        ],
        [object(1), object(2), object(3)],
      ),
      ['1 cold', '2 cold', '3 hot 3 both', '4 hot 4 to recover', '5 hot 5 open'],
    )
  })

  test('a hole is named at both ends, in the middle and with nothing guessed into it (invariant 8)', async () => {
    assert.deepEqual(await plan([{ id: 5, segment: 5, seal: 2 }], [object(3)]), [
      '1 missing',
      '2 missing',
      '3 cold',
      '4 missing',
      '5 hot 5',
    ])
    await assert.rejects(plan([{ id: 1, segment: 2_000_000_000, seal: 2 }]), { code: 'corrupt' })
  })

  test('what lies below a trim is not brought back', async () => {
    assert.deepEqual(await plan([{ id: 2, segment: 2, seal: 2 }], [object(1), object(3)], 3n), ['3 cold'])
    assert.deepEqual(await plan([{ id: 2, segment: 2, seal: 2 }], [], 3n), [])
  })

  test('a hot copy whose deletion was cut short gives way to the archive', async () => {
    const partly = { id: 1, segment: 1, seal: 2 }
    assert.deepEqual(await plan([{ ...partly, entries: [-1, 3, 3] }], [object(1)]), ['1 hot 1 both'])
    assert.deepEqual(await plan([{ ...partly, entries: [-1, 1, 2] }], [object(1)]), ['1 cold'])
    const striped = { ...partly, striped: true }
    assert.deepEqual(await plan([{ ...striped, entries: [2, 2, 2] }], [object(1)]), ['1 hot 1 both'])
    assert.deepEqual(await plan([{ ...striped, entries: [-1, 2, 2] }], [object(1)]), ['1 cold'])
    // Without an object it is all there is.
    assert.deepEqual(await plan([{ ...partly, entries: [-1, -1, 2] }]), ['1 hot 1'])
  })

  test('objects of one segment with different content are never chosen between', async () => {
    const conflict = { kind: 'conflict', segment: 1n, attempts: [], error: new Error('two') }
    const objects = [conflict as unknown as ChosenSegment, object(2)]
    assert.deepEqual(await plan([], objects), ['1 missing', '2 cold'])
    assert.deepEqual(await plan([{ id: 1, segment: 1, seal: 2 }], objects), ['1 hot 1', '2 cold'])
  })

  test('an empty ledger in the middle is nobody’s segment; at the end recovery decides', async () => {
    const empty = { id: 1, segment: 1, entries: [0, 0, 0] }
    assert.deepEqual(await plan([empty, { id: 2, segment: 2, seal: 2 }]), ['1 missing', '2 hot 2'])
    assert.deepEqual(await plan([empty]), ['1 hot 1 open'])
  })
})

test('metadata of a ledger: never OPEN, replacements included, none without a header', () => {
  const one = ledger({ id: 1, segment: 1 })
  assert.equal(metadataOf(one, null)?.state, 'IN_RECOVERY')
  const closed = metadataOf(one, sealOf(2))
  assert.deepEqual([closed?.state, closed?.lastEntryId, closed?.lengthBytes], ['CLOSED', 2n, 3n])
  assert.equal(metadataOf({ ...one, header: null }, null), null)
})
