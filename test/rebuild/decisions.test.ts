import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { type Decision, decodeDecision, encodeDecision } from '../../src/format/control-frame.js'
import { Dlsn } from '../../src/model/dlsn.js'
import type { SegmentRow } from '../../src/model/segment.js'
import type { NewStream, SegmentIndex, SegmentPatch } from '../../src/ports/segment-index.js'
import { catchUp, lastSequence, recordWhatLacks } from '../../src/rebuild/catch-up.js'
import { DecisionWriter, foldDecisions, readDecisions } from '../../src/rebuild/decisions.js'
import { RecordedIndex, SEQUENCE_FACT } from '../../src/rebuild/recorded-index.js'
import { RecordedLedgers } from '../../src/rebuild/recorded-ledgers.js'
import { realClock } from '../../src/system/clock.js'
import { sealedRow } from '../contract/segment-rows.js'
import { countingRandom, INCARNATION, memoryLogger } from '../helpers/archive.js'
import { failure } from '../helpers/memory-store.js'
import { type Process, World } from '../helpers/protocol.js'

const OTHER = 'f'.repeat(32)
const stream = (name: string, incarnation = INCARNATION): NewStream => ({
  incarnation,
  name,
  txidMode: 'custom',
  createdMs: 12,
  parent: { incarnation: OTHER, fork: new Dlsn(1n, 2n, 3n) },
})
const EACH: readonly Decision[] = [
  { kind: 'stream', stream: stream('a') },
  { kind: 'stream', stream: { ...stream('b'), parent: null } },
  { kind: 'stream', stream: { ...stream('c'), parent: { incarnation: OTHER, fork: null } } },
  { kind: 'trim', incarnation: INCARNATION, below: new Dlsn(2n ** 62n, 0n, 0n), tail: null },
  {
    kind: 'trim',
    incarnation: INCARNATION,
    below: new Dlsn(5n, 0n, 0n),
    tail: { nextSequenceId: 2n ** 60n, lastTxid: -1n },
  },
  { kind: 'policy', incarnation: INCARNATION, policy: '{"hot":{}}' },
  { kind: 'policy', incarnation: INCARNATION, policy: null },
  { kind: 'gap', incarnation: INCARNATION, first: 3n, last: 2n ** 61n, reason: 'corrupt' },
  {
    kind: 'hold',
    incarnation: INCARNATION,
    hold: {
      id: 'case-1',
      from: { dlsn: new Dlsn(2n ** 62n, 1n, 2n) },
      until: { txid: 2n ** 61n },
      reason: 'x',
      atMs: 5,
    },
  },
  {
    kind: 'hold',
    incarnation: INCARNATION,
    hold: { id: 'all', from: null, until: { timeMs: -7 }, reason: null, atMs: 5 },
  },
  { kind: 'release', incarnation: INCARNATION, id: 'case-1', atMs: 6 },
  { kind: 'recall', incarnation: INCARNATION, first: 3n, last: 2n ** 61n, untilMs: 9 },
  { kind: 'fact', name: 'archive-owner', value: 'x' },
  { kind: 'ids', through: 2n ** 61n },
  { kind: 'mark', atMs: 1_700_000_000_000 },
  { kind: 'finish', incarnation: INCARNATION, finishedMs: 1_700_000_000_001 },
]
const nonce = Buffer.alloc(8, 7)

/** An index that fails at changes of segments as `before` says. */
function withFaults(index: SegmentIndex, before: (patch: SegmentPatch) => void): SegmentIndex {
  return new Proxy(index, {
    get: (target, name: keyof SegmentIndex) => {
      if (name !== 'updateSegment') return target[name].bind(target)
      return async (row: SegmentRow, patch: SegmentPatch) => {
        before(patch)
        return target.updateSegment(row, patch)
      }
    },
  })
}

describe('control frames (docs/formats/control-frames.md)', () => {
  test('each kind comes back as it was, also above 2^53', () => {
    for (const decision of EACH) {
      const frame = encodeDecision(2n ** 60n, nonce, decision)
      assert.deepEqual(decodeDecision(frame), [{ id: frame.id, sequence: 2n ** 60n, decision }])
      assert.equal(frame.kind, decision.kind)
    }
  })

  test('a frame as released: its bytes never change', () => {
    assert.deepEqual(encodeDecision(10n, nonce, EACH[4] as Decision), {
      id: 'decision/000000000000000a/0707070707070707',
      kind: 'trim',
      body: `{"version":1,"sequence":"10","incarnation":"${INCARNATION}","below":"5:0:0","tail":{"nextSequenceId":"1152921504606846976","lastTxid":"-1"}}`,
    })
  })

  test('those of 0.1.0 are read', () => {
    const body = JSON.stringify({ ...stream('a'), trimmedBelow: '4:0:0' })
    const created = decodeDecision({ id: `stream/${INCARNATION}`, kind: 'stream-created', body })
    assert.deepEqual(
      created.map(({ sequence, decision }) => [sequence, decision]),
      [
        [0n, { kind: 'stream', stream: stream('a') }],
        [0n, { kind: 'trim', incarnation: INCARNATION, below: new Dlsn(4n, 0n, 0n), tail: null }],
      ],
    )
    const policies = [2, 1].map((at) => ({
      id: `policy/${INCARNATION}/170000000000${at}-x`,
      kind: 'policy',
      body: JSON.stringify({ incarnation: INCARNATION, policy: `${at}` }),
    }))
    assert.equal(foldDecisions(policies.flatMap(decodeDecision)).policies.get(INCARNATION), '2')
  })

  test('damaged, newer and unknown ones are errors, never left out (invariant 8); others are none of ours', () => {
    const id = 'decision/0000000000000001/00'
    const bodies = [
      '',
      '{',
      'null',
      '[]',
      '{"version":1}',
      '{"version":1,"sequence":1}',
      '{"version":1,"sequence":"1"}',
    ]
    for (const body of bodies)
      assert.throws(() => decodeDecision({ id, kind: 'trim', body }), { code: 'corrupt' }, body)
    const body = '{"version":2,"sequence":"1"}'
    assert.throws(() => decodeDecision({ id, kind: 'trim', body }), { code: 'version_unsupported' })
    const newer = { id, kind: 'of-a-newer-one', body: '{"version":1,"sequence":"1"}' }
    assert.throws(() => decodeDecision(newer), { code: 'version_unsupported' })
    const hold = { id, kind: 'hold', body: '{"version":1,"sequence":"1"}' }
    assert.throws(() => decodeDecision(hold), { code: 'corrupt' })
    assert.deepEqual(decodeDecision({ id: 'x', kind: 'of-a-newer-one', body: '' }), [])
  })

  test('the newest of a subject counts, of trims the largest, whatever the order they are read in', () => {
    const at = (sequence: bigint, decision: Decision) =>
      decodeDecision(encodeDecision(sequence, Buffer.from([Number(sequence)]), decision))
    const trim = (segment: bigint): Decision => ({
      kind: 'trim',
      incarnation: INCARNATION,
      below: new Dlsn(segment, 0n, 0n),
      tail: null,
    })
    const recorded = [
      ...at(1n, { kind: 'policy', incarnation: INCARNATION, policy: 'old' }),
      ...at(2n, trim(9n)),
      ...at(3n, { kind: 'policy', incarnation: INCARNATION, policy: null }),
      ...at(4n, trim(7n)),
      ...at(5n, { kind: 'ids', through: 5n }),
      ...at(6n, { kind: 'ids', through: 3n }),
      ...at(7n, { kind: 'finish', incarnation: INCARNATION, finishedMs: 70 }),
      ...at(8n, { kind: 'finish', incarnation: INCARNATION, finishedMs: 80 }),
    ]
    for (const order of [recorded, [...recorded].reverse()]) {
      const state = foldDecisions(order)
      assert.equal(state.policies.get(INCARNATION), null)
      assert.equal(state.trims.get(INCARNATION)?.below.segment, 9n)
      assert.equal(state.idsThrough, 5n)
      assert.equal(state.finished.get(INCARNATION), 70, 'what has ended has ended')
      assert.equal(state.sequence, 8n)
    }
  })
})

describe('a recorded index', () => {
  let world: World
  let process: Process
  beforeEach(() => {
    world = new World(realClock(), 3)
    process = world.process()
  })
  afterEach(() => world.end())

  async function recorded(storesMin = 2): Promise<{ index: RecordedIndex; writer: DecisionWriter }> {
    const decided = foldDecisions((await readDecisions(process.context)).recorded)
    const writer = new DecisionWriter(process.context, countingRandom('x'), storesMin, decided.sequence)
    const { index } = world.metadata
    return {
      index: new RecordedIndex({ index, decisions: writer, clock: realClock(), decided }),
      writer,
    }
  }
  const state = async () => foldDecisions((await readDecisions(process.context)).recorded)

  test('an index of 0.1.0 is written down once, what an attempt left half told as well', async () => {
    const plain = world.metadata.index
    const made = await plain.createStream(stream('a'))
    await plain.setPolicyOverride(INCARNATION, '{}')
    const trimmedBelow = new Dlsn(3n, 0n, 0n)
    await plain.updateStream(INCARNATION, made.version, { trimmedBelow, finishedMs: 30 })
    await plain.setFact('archive-owner', 'me')
    const frames = () => world.replicas.map(({ controls }) => controls.size)
    for (let start = 0; start < 2; start += 1) {
      const { index, writer } = await recorded()
      await recordWhatLacks(process.context, index, writer, await state())
      assert.deepEqual(frames(), [5, 5, 5])
    }
    const { streams, finished, trims, policies, facts } = await state()
    assert.deepEqual(streams.get(INCARNATION), stream('a'))
    assert.equal(trims.get(INCARNATION)?.below.segment, 3n)
    assert.equal(finished.get(INCARNATION), 30)
    assert.equal(policies.get(INCARNATION), '{}')
    assert.equal(facts.get('archive-owner'), 'me')
  })

  test('a crash between the decision and the index: the next start brings it forward, twice is once', async () => {
    const { index, writer } = await recorded()
    await index.createStream(stream('a'))
    await writer.write({ kind: 'stream', stream: stream('b', OTHER) })
    await writer.write({ kind: 'policy', incarnation: OTHER, policy: '{"x":1}' })
    await writer.write({ kind: 'trim', incarnation: OTHER, below: new Dlsn(4n, 0n, 0n), tail: null })
    await writer.write({ kind: 'finish', incarnation: OTHER, finishedMs: 40 })
    const plain = world.metadata.index
    assert.equal(await plain.streamByName('b'), null)
    for (let start = 0; start < 2; start += 1) {
      await catchUp(plain, await readDecisions(process.context), memoryLogger())
      const row = await plain.streamByName('b')
      assert.equal(row?.trimmedBelow?.segment, 4n)
      assert.equal(row?.finishedMs, 40)
      assert.equal(row?.version, 2)
      assert.equal(await plain.policyOverride(OTHER), '{"x":1}')
    }
  })

  test('a drop that the index failed to take is one before anything else is done with its segment (5)', async () => {
    const plain = world.metadata.index
    let failing = true
    const flaky = withFaults(plain, (patch) => {
      if (failing && patch.state === 'gap') throw failure('io_failed', 'injected')
    })
    const { writer } = await recorded()
    const decided = await state()
    const index = new RecordedIndex({ index: flaky, decisions: writer, clock: realClock(), decided })
    await index.createStream(stream('a'))
    const sealed = await plain.adoptSegment(sealedRow(INCARNATION, 1n))
    const patch = { state: 'gap', gapReason: 'dropped' } as const
    await assert.rejects(index.updateSegment(sealed, patch), { code: 'io_failed' })
    // Who is about to copy it asks for its row, and is not told that it stays.
    await assert.rejects(index.segment(INCARNATION, 1n), { code: 'io_failed' })
    const archived = { state: 'archived', contentDigest: '0'.repeat(64), archivedMs: 3 } as const
    await assert.rejects(index.updateSegment(sealed, archived), { code: 'io_failed' })
    // Other decisions go on, and leave no note above this one: the next start brings it forward.
    await index.setPolicyOverride(INCARNATION, '{}')
    assert.ok(BigInt((await plain.fact(SEQUENCE_FACT)) ?? '0') < (await state()).sequence)
    failing = false
    assert.equal((await index.segment(INCARNATION, 1n))?.state, 'gap')
    await assert.rejects(index.updateSegment(sealed, archived), { code: 'conflict' })
    assert.equal(await plain.fact(SEQUENCE_FACT), `${(await state()).sequence}`)
  })

  test('of two creations of one name only one is decided', async () => {
    const { index } = await recorded()
    const results = await Promise.allSettled([
      index.createStream(stream('a')),
      index.createStream(stream('a', OTHER)),
    ])
    assert.deepEqual(results.map(({ status }) => status).sort(), ['fulfilled', 'rejected'])
    assert.equal((await state()).streams.size, 1)
  })

  test('nothing changes in the index where too few stores take the decision', async () => {
    const { index } = await recorded(4)
    await assert.rejects(index.createStream(stream('a')), { code: 'not_enough_stores' })
    assert.equal(await index.streamByName('a'), null)
    const { index: enough } = await recorded()
    const row = await enough.createStream(stream('a'))
    const { index: few } = await recorded(4)
    await assert.rejects(few.setPolicyOverride(INCARNATION, '{}'), { code: 'not_enough_stores' })
    assert.equal(await few.policyOverride(INCARNATION), null)
    const below = new Dlsn(2n, 0n, 0n)
    await assert.rejects(few.updateStream(INCARNATION, row.version, { trimmedBelow: below }), {
      code: 'not_enough_stores',
    })
    await assert.rejects(few.updateStream(INCARNATION, row.version, { finishedMs: 9 }), {
      code: 'not_enough_stores',
    })
    assert.equal((await few.stream(INCARNATION))?.finishedMs, null)
    // Epochs are derived: no decision, no stores needed.
    assert.equal((await few.updateStream(INCARNATION, row.version, { epoch: 7n })).epoch, 7n)
  })

  test('a decision that failed on a store that is away never outvotes a later one when it comes back', async () => {
    const [first, second] = [world.process(), world.process()]
    const fail = () => Promise.reject(failure('store_unavailable', 'away'))
    const away = { putControl: fail, listControls: fail }
    const setPolicy = async (of: Process, storesMin: number, policy: string) => {
      const found = await readDecisions(of.context)
      const last = await lastSequence(world.metadata.index, found)
      const writer = new DecisionWriter(of.context, countingRandom(policy), storesMin, last)
      await writer.write({ kind: 'policy', incarnation: INCARNATION, policy })
    }
    // Only the third store takes the first decision; it is away when the second one is made.
    for (const store of first.stores.slice(0, 2)) Object.assign(store, away)
    await assert.rejects(setPolicy(first, 2, 'failed'), { code: 'not_enough_stores' })
    for (const store of second.stores.slice(2)) Object.assign(store, away)
    await setPolicy(second, 2, 'acknowledged')
    assert.equal((await state()).policies.get(INCARNATION), 'acknowledged')
    const sequences = (await readDecisions(process.context)).recorded.map(({ sequence }) => sequence)
    assert.equal(new Set(sequences).size, sequences.length)
  })

  test('a change the index refuses is not decided', async () => {
    const { index } = await recorded()
    const row = await index.createStream(stream('a'))
    const below = new Dlsn(9n, 0n, 0n)
    await assert.rejects(index.updateStream(INCARNATION, row.version + 1, { trimmedBelow: below }), {
      code: 'conflict',
    })
    await assert.rejects(index.updateStream(INCARNATION, row.version + 1, { finishedMs: 9 }), {
      code: 'conflict',
    })
    assert.equal((await state()).trims.size, 0)
    assert.equal((await state()).finished.size, 0)
  })

  test('a trim and an end in one change are both decided', async () => {
    const { index } = await recorded()
    const row = await index.createStream(stream('a'))
    const both = { trimmedBelow: new Dlsn(2n, 0n, 0n), finishedMs: 9 }
    const changed = await index.updateStream(INCARNATION, row.version, both)
    assert.equal(changed.finishedMs, 9)
    const { trims, finished } = await state()
    assert.equal(trims.get(INCARNATION)?.below.segment, 2n)
    assert.equal(finished.get(INCARNATION), 9)
  })

  test('ids are told before they are given out, one frame for thousands, side by side too', async () => {
    const { writer } = await recorded()
    const ledgers = new RecordedLedgers(process.context.metadata, writer, 0n)
    const ids = await Promise.all(Array.from({ length: 200 }, () => ledgers.allocateId()))
    assert.equal(new Set(ids).size, 200)
    assert.equal(world.replicas[0]?.controls.size, 1)
    assert.ok(ids.every((id) => id <= (world.replicas[0] === undefined ? 0n : 2n ** 20n)))
    assert.ok((await state()).idsThrough >= 200n)
  })
})
