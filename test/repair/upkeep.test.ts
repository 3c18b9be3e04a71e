import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, test } from 'node:test'
import type { LedgerContext } from '../../src/ledger/context.js'
import { RepairQueue } from '../../src/ledger/repair-queue.js'
import { membersOf } from '../../src/ledger/shares.js'
import { BUILT_IN_POLICY } from '../../src/model/policy.js'
import type { StreamRow } from '../../src/model/segment.js'
import type { SegmentIndex } from '../../src/ports/segment-index.js'
import { Pace } from '../../tiering/pace.js'
import { Scrub } from '../../tiering/scrub.js'
import { changeStoreFacts, readStoreFacts, withWork } from '../../tiering/store-facts.js'
import { Upkeep } from '../../tiering/upkeep.js'
import { ManualClock } from '../helpers/manual-clock.js'
import type { MemoryStore } from '../helpers/memory-store.js'
import { appendText, newLedger, QUORUM_322, quiet, World, watched } from '../helpers/protocol.js'

/** Invariants 9 and 11: what is looked at in the background is bounded in its rate, and goes on where it was. */

const MIB = 2 ** 20
let clock: ManualClock
let world: World
let context: LedgerContext
let stores: readonly MemoryStore[]
beforeEach(() => {
  clock = new ManualClock()
  world = new World(clock, 4)
  const process = world.process()
  context = process.context
  stores = process.stores
})
afterEach(() => world.end())

async function closed(sizeBytes: number): Promise<bigint> {
  const writer = await newLedger(context)
  await appendText(writer, 'x'.repeat(sizeBytes))
  await quiet(10)
  await writer.close()
  return writer.ledgerId
}

/** The index, with one stream that is said to have so much hot. */
function indexWith(hotBytes: number, owing: readonly bigint[] = []): SegmentIndex {
  const index = world.metadata.index
  const stream = { incarnation: 'a', name: 'a' } as StreamRow
  return Object.assign(Object.create(index) as SegmentIndex, {
    fact: index.fact.bind(index),
    setFact: index.setFact.bind(index),
    listStreams: async (after: string) => (after === '' ? [stream] : []),
    totals: async () => ({ hotBytes }),
    segmentsOwing: async () => owing.map((ledgerId) => ({ ledgerId })),
  })
}

const policy = (fullPassMs: number) => async () => ({
  policy: { ...BUILT_IN_POLICY, quorum: QUORUM_322, scrub: { fullPassMs } },
})

describe('the scrub', () => {
  test('keeps to the rate that follows from what there is and how long a pass may take', async () => {
    for (let ledger = 0; ledger < 4; ledger += 1) await closed(MIB)
    // 80 MiB three times in 100 s, planned for four fifths of them: 3 MiB a second for 12 MiB.
    const scrub = new Scrub({
      ledger: context,
      index: indexWith(80 * MIB),
      cold: null,
      policy: policy(100_000),
    })
    const startMs = clock.monotonicMs()
    for (let step = 0; step < 5; step += 1) {
      const stepped = watched(scrub.step(new AbortController().signal))
      while (!stepped.settled) await clock.advance(100)
      assert.equal(stepped.error, undefined)
    }
    const state = await scrub.state()
    assert.equal(state.idle, true)
    const seconds = (clock.monotonicMs() - startMs) / 1_000
    assert.ok(seconds > 3 && seconds < 5, `12 MiB took ${seconds} s`)
    assert.equal(state.passEndsMs, (state.passStartedMs ?? 0) + 100_000)
  })

  test('stops when told, and another process goes on with the ledger after the last one done', async () => {
    const ledgers = [await closed(MIB), await closed(MIB), await closed(MIB)]
    const parts = { ledger: context, index: indexWith(MIB), cold: null, policy: policy(1_000_000) }
    const first = new Scrub(parts)
    const stepped = watched(first.step(new AbortController().signal))
    while (!stepped.settled) await clock.advance(1_000)
    const timers = clock.pending
    const stop = new AbortController()
    const under = watched(first.step(stop.signal))
    await quiet()
    assert.equal(under.settled, false, 'it waits for its budget')
    stop.abort(new Error('closed'))
    await quiet()
    assert.match(String(under.error), /closed/)
    await first.close()
    assert.equal(clock.pending, timers, 'no timer is left behind')
    const second = new Scrub(parts)
    assert.equal((await second.state()).after, ledgers[0])
    const before = stores.map((store) => store.calls.get('readEntries') ?? 0)
    const next = watched(second.step(new AbortController().signal))
    while (!next.settled) await clock.advance(1_000)
    assert.equal((await second.state()).after, ledgers[1])
    assert.deepEqual(
      stores.map((store, at) => (store.calls.get('readEntries') ?? 0) - (before[at] ?? 0)).sort(),
      [0, 1, 1, 1],
      'each copy of one ledger was read once',
    )
  })

  test('an unrepairable entry stays named until its ledger is good or gone', async () => {
    const ledgerId = await closed(10)
    for (const replica of world.replicas)
      if (replica.ledger(ledgerId).entries.size > 0) replica.damage(ledgerId, 0n)
    const scrub = new Scrub({ ledger: context, index: indexWith(MIB), cold: null, policy: policy(10_000) })
    const pass = async () => {
      for (let step = 0; step < 2; step += 1) {
        const stepped = watched(scrub.step(new AbortController().signal))
        while (!stepped.settled) await clock.advance(1_000)
        assert.equal(stepped.error, undefined)
      }
      await clock.advance(10_000)
      return (await scrub.state()).unrepairable.map((entry) => `${entry.ledgerId} ${entry.entryId}`)
    }
    const named = Array.from({ length: 3 }, () => `${ledgerId} 0`)
    assert.deepEqual(await pass(), named)
    assert.deepEqual(await pass(), named)
    // One disk gives its bytes right again: the others are mended from it.
    const replica = world.replicas.find((one) => one.ledger(ledgerId).entries.size > 0)
    replica?.damage(ledgerId, 0n)
    assert.deepEqual(await pass(), [])
    assert.equal((await scrub.state()).repaired, 2)
  })
})

test('what is being deleted is neither mended nor called lost (invariant 8)', async () => {
  const [evicted, kept] = [await closed(10), await closed(10)]
  for (const replica of world.replicas) replica.ledgers.delete(evicted)
  const scrub = new Scrub({
    ledger: context,
    index: indexWith(MIB, [evicted]),
    cold: null,
    policy: policy(10_000),
  })
  for (let step = 0; step < 3; step += 1) {
    const stepped = watched(scrub.step(new AbortController().signal))
    while (!stepped.settled) await clock.advance(1_000)
  }
  const state = await scrub.state()
  assert.deepEqual([state.idle, state.after, state.unrepairable.length, state.repaired], [true, kept, 0, 0])
  assert.ok(world.replicas.every((replica) => !replica.ledgers.has(evicted)))
})

describe('a pace', () => {
  test('is one for all who share it, and follows a change', async () => {
    let rate: number | null = 1_000
    const pace = new Pace(clock, () => rate)
    const taken = Array.from({ length: 3 }, () => watched(pace.take(1_000)))
    await quiet()
    assert.deepEqual(
      taken.map(({ settled }) => settled),
      [true, false, false],
    )
    await clock.advance(1_000)
    assert.deepEqual(
      taken.map(({ settled }) => settled),
      [true, true, false],
    )
    rate = null
    await pace.take(10 ** 12)
  })
})

describe('a store whose copies go elsewhere', () => {
  test('the agent takes closed ledgers now and open ones when they close, then forgets the work (invariant 1)', async () => {
    const shut = await closed(100)
    const from = membersOf((await context.metadata.read(shut)).metadata)[0] ?? assert.fail()
    const open = await newLedger(context)
    await appendText(open, 'one')
    const { index } = world.metadata
    const work = {
      kind: 'drain' as const,
      from,
      to: null,
      location: 'memory',
      startedMs: 0,
      bytesPerSecond: null,
    }
    let noted: string | null = null
    const keeper = {
      read: async () => noted,
      write: async (text: string) => {
        noted = text
      },
    }
    await changeStoreFacts(keeper, (facts) => ({ ...withWork(facts, from, work), out: [from] }))
    const upkeep = new Upkeep({
      ledger: context,
      index,
      keeper,
      archive: null,
      policy: policy(100_000),
      repairs: new RepairQueue(context),
    })
    const members = async (id: bigint) => membersOf((await context.metadata.read(id)).metadata)
    upkeep.follow()
    for (let turn = 0; turn < 20; turn += 1) await clock.advance(10)
    assert.equal((await members(shut)).includes(from), false)
    assert.equal((await members(open.ledgerId)).includes(from), true, 'what is open is left to its writer')
    await appendText(open, 'two')
    await open.close()
    for (let turn = 0; turn < 40; turn += 1) await clock.advance(500)
    assert.equal((await members(open.ledgerId)).includes(from), false)
    assert.deepEqual((await readStoreFacts(keeper)).works, [])
    await upkeep.close()
  })
})
