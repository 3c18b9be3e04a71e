import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { afterEach, beforeEach, describe, test } from 'node:test'
import fc from 'fast-check'
import { recoverLedger } from '../../src/ledger/recovery.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { Ack, LogRecord } from '../../src/model/record.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { failure, Gate } from '../helpers/memory-store.js'
import { type Outcome, quiet, watched } from '../helpers/protocol.js'
import { StreamWorld } from '../helpers/stream-world.js'

const code = (expected: string) => (error: unknown) => isStratalogError(error) && error.code === expected
const text = (payload: Uint8Array) => Buffer.from(payload).toString()

describe('appends across a failed segment', () => {
  let clock: ManualClock
  let world: StreamWorld
  beforeEach(() => {
    clock = new ManualClock()
    world = new StreamWorld(clock)
  })
  afterEach(() => world.end())

  const all = async (): Promise<LogRecord<Uint8Array | string>[]> => {
    const records: LogRecord<Uint8Array | string>[] = []
    for await (const record of world.stream().read()) records.push(record)
    return records
  }
  const texts = async () => (await all()).map(({ payload }) => text(payload))
  /** The next `count` adds of a store fail as a disk does; later ones are fine. */
  const breaks = (at: number, count = 1) => {
    let left = count
    present(world.stores[at], 'store').fault = {
      before: (call) => {
        if (call === 'addEntry' && left > 0) {
          left -= 1
          throw failure('io_failed', 'EIO')
        }
      },
    }
  }
  const checkAcks = (acks: readonly Ack[], records: readonly LogRecord<unknown>[]) => {
    const places = new Map(records.map((record) => [`${record.dlsn}`, record]))
    for (const ack of acks) {
      const record = present(places.get(`${ack.dlsn}`), `record at ${ack.dlsn}`)
      assert.equal(record.sequenceId, ack.sequenceId)
      assert.equal(record.txid, ack.txid)
    }
    assert.deepEqual(
      records.map(({ sequenceId }) => sequenceId),
      records.map((_, at) => BigInt(at)),
      'dense (invariant 2)',
    )
  }

  test('what was pending goes into the next segment, once, and is acknowledged there', async () => {
    const stream = world.stream()
    await stream.append('kept')
    // Entry 1 reaches the third store alone: recovery could find it there, and must not (invariant 2).
    breaks(0)
    breaks(1)
    const acks = await Promise.all(['b', 'c', 'd'].map((value) => stream.append(value)))
    assert.deepEqual(
      acks.map(({ dlsn, sequenceId }) => `${dlsn} ${sequenceId}`),
      ['2:0:0 1', '2:0:1 2', '2:0:2 3'],
    )
    const [first, second] = await world.segments()
    assert.equal(first?.state, 'sealed')
    assert.equal(first?.lastEntryId, 0n)
    assert.equal(first?.recordCount, 1n)
    assert.equal(second?.startSequenceId, 1n)
    assert.deepEqual(await texts(), ['kept', 'b', 'c', 'd'])
    // Whoever recovers the old ledger finds it closed, and nothing above its end.
    const seal = await recoverLedger(world.process.context, present(first?.ledgerId, 'ledger'))
    assert.equal(seal.lastEntryId, 0n)
    checkAcks(acks, await all())
  })

  test('a segment that fails before its first acknowledgement leaves no trace in the numbers', async () => {
    breaks(0)
    breaks(1)
    const stream = world.stream()
    const acks = await Promise.all(['a', 'b'].map((value) => stream.append(value)))
    assert.deepEqual(
      acks.map(({ dlsn }) => `${dlsn}`),
      ['1:0:0', '1:0:1'],
    )
    assert.equal((await world.segments()).length, 1)
    assert.deepEqual(await texts(), ['a', 'b'])
  })

  test('many entries in flight and batches behind them keep their order; rolls planned meanwhile are kept', async () => {
    world.rollAt(400_000)
    const stream = world.stream()
    await stream.append('first')
    const gate = new Gate()
    for (const store of world.stores) {
      store.fault = { before: (call) => (call === 'addEntry' ? gate.wait() : undefined) }
    }
    const values = Array.from({ length: 60 }, (_, id) => `${id}`.padEnd(20_000, '.'))
    const acks = values.map((value) => stream.append(value))
    const rolled = watched((await world.hub.writer(await world.row())).roll())
    await quiet()
    breaks(0)
    breaks(2)
    gate.open()
    // Those that waited at the gate pass; what is sent next breaks.
    const done = await Promise.all([...acks, stream.append('last')])
    await quiet(8)
    assert.ok(rolled.settled)
    assert.deepEqual(await texts(), ['first', ...values, 'last'])
    checkAcks(done, await all())
    assert.ok((await world.segments()).length >= 4)
  })

  test('after several failed segments in a row they fail, definitely, as not_enough_stores', async () => {
    const stream = world.stream()
    await stream.append('kept')
    breaks(0, 1_000)
    breaks(1, 1_000)
    const outcomes = ['b', 'c'].map((value) => watched(stream.append(value)))
    await quiet(20)
    for (const { error } of outcomes) {
      assert.ok(code('not_enough_stores')(error), String(error))
      assert.ok(isStratalogError(error) && error.retryable)
    }
    for (const store of world.stores) store.fault = {}
    assert.equal((await stream.append('d')).sequenceId, 1n)
    assert.deepEqual(await texts(), ['kept', 'd'])
  })

  test('with too few stores left for a new segment they fail at once', async () => {
    const stream = world.stream()
    await stream.append('kept')
    for (const store of world.stores.slice(0, 2)) store.state = 'unreachable'
    const outcome = watched(stream.append('b'))
    await quiet(10)
    assert.ok(code('not_enough_stores')(outcome.error))
    for (const store of world.stores) store.state = 'writable'
    assert.equal((await stream.append('c')).sequenceId, 1n)
  })

  test('somebody else recovers the ledger first: fenced, and what recovery kept is there once (invariant 3)', async () => {
    const stream = world.stream()
    await stream.append('kept')
    const [row] = await world.segments()
    const other = new StreamWorld(clock, world.world)
    breaks(0)
    breaks(1)
    // The other process recovers the ledger just before this one closes it.
    const { metadata } = world.process.context
    const set = metadata.compareAndSet.bind(metadata)
    let recovered: Promise<unknown> | null = null
    metadata.compareAndSet = async (...args) => {
      if (args[2].state === 'CLOSED' && recovered === null) {
        recovered = recoverLedger(other.process.context, present(row?.ledgerId, 'ledger'))
        await recovered
      }
      return set(...args)
    }
    const pending = watched(stream.append('b'))
    await quiet(20)
    assert.notEqual(recovered, null)
    assert.ok(
      code('fenced')(pending.error),
      JSON.stringify([pending.settled, pending.value, String(pending.error)]),
    )
    await assert.rejects(stream.append('late'), code('fenced'))
    await world.hub.close()
    assert.equal((await other.stream().append('c')).sequenceId, 2n, 'recovery kept b')
    assert.deepEqual(await texts(), ['kept', 'b', 'c'])
    await other.hub.close()
  })

  test('closing whose outcome is unknown: recovery decides, and what it kept is acknowledged there', async () => {
    const stream = world.stream()
    await stream.append('kept')
    breaks(0)
    breaks(1)
    // The first compare-and-set that closes the ledger is lost.
    const { metadata } = world.process.context
    const set = metadata.compareAndSet.bind(metadata)
    let lost = 0
    metadata.compareAndSet = async (...args) => {
      if (args[2].state === 'CLOSED' && lost === 0) {
        lost += 1
        throw failure('io_failed', 'the connection went away')
      }
      return set(...args)
    }
    const ack = await stream.append('b')
    assert.equal(lost, 1)
    assert.equal(`${ack.dlsn}`, '1:1:0', 'recovery found it on the third store')
    assert.equal((await stream.append('c')).sequenceId, 2n)
    assert.deepEqual(await texts(), ['kept', 'b', 'c'])
    checkAcks([ack], await all())
  })

  test('and if another took the stream over by then, nothing is acknowledged (invariant 3)', async () => {
    const stream = world.stream()
    await stream.append('kept')
    breaks(0)
    breaks(1)
    const { metadata } = world.process.context
    const set = metadata.compareAndSet.bind(metadata)
    let lost = 0
    metadata.compareAndSet = async (...args) => {
      if (args[2].state !== 'CLOSED' || lost > 0) return set(...args)
      lost += 1
      const { incarnation, version, epoch } = await world.row()
      await world.world.metadata.index.updateStream(incarnation, version, { epoch: epoch + 1n })
      throw failure('io_failed', 'the connection went away')
    }
    const outcomes = ['b', 'c'].map((value) => watched(stream.append(value)))
    await quiet(20)
    assert.equal(lost, 1)
    for (const { error } of outcomes) assert.ok(code('fenced')(error), String(error))
  })

  test('the same with the answer lost: the ledger is closed, the records go on', async () => {
    const stream = world.stream()
    await stream.append('kept')
    breaks(0)
    breaks(1)
    const { metadata } = world.process.context
    const set = metadata.compareAndSet.bind(metadata)
    let lost = 0
    metadata.compareAndSet = async (...args) => {
      const done = await set(...args)
      if (args[2].state === 'CLOSED' && lost === 0) {
        lost += 1
        throw failure('io_failed', 'the connection went away')
      }
      return done
    }
    const ack = await stream.append('b')
    assert.equal(`${ack.dlsn} ${ack.sequenceId}`, '2:0:0 1')
    assert.deepEqual(await texts(), ['kept', 'b'])
  })

  test('random failures of stores: acknowledged once, in order, dense (invariants 1, 2)', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.record({
            appends: fc.integer({ min: 0, max: 6 }),
            bytes: fc.integer({ min: 1, max: 60_000 }),
            breaks: fc.array(fc.integer({ min: 0, max: 2 }), { maxLength: 2 }),
            count: fc.integer({ min: 1, max: 3 }),
            roll: fc.boolean(),
            turns: fc.integer({ min: 0, max: 6 }),
          }),
          { maxLength: 12 },
        ),
        async (steps) => {
          const before = world
          world = new StreamWorld(clock)
          await before.end()
          world.rollAt(200_000)
          const stream = world.stream()
          const outcomes: { value: string; outcome: Outcome<Ack> }[] = []
          for (const step of steps) {
            for (const at of step.breaks) breaks(at, step.count)
            for (let id = 0; id < step.appends; id += 1) {
              const value = `${outcomes.length}`.padEnd(step.bytes, '.')
              outcomes.push({ value, outcome: watched(stream.append(value)) })
            }
            if (step.roll && outcomes.length > 0) {
              const row = await world.row().catch(() => null)
              if (row !== null) watched((await world.hub.writer(row)).roll())
            }
            await quiet(step.turns)
          }
          for (let turn = 0; turn < 60 && outcomes.some(({ outcome }) => !outcome.settled); turn += 1)
            await quiet()
          assert.ok(outcomes.every(({ outcome }) => outcome.settled))
          if (outcomes.length === 0) return
          const records = await all().catch((error: unknown) => {
            if (code('stream_not_found')(error)) return []
            throw error
          })
          const found = records.map(({ payload }) => text(payload))
          const acked = outcomes.filter(({ outcome }) => outcome.value !== undefined)
          assert.deepEqual(
            found.filter((value) => acked.some((one) => one.value === value)),
            acked.map(({ value }) => value),
          )
          assert.equal(new Set(found).size, found.length, 'nothing twice')
          checkAcks(
            acked.map(({ outcome }) => present(outcome.value, 'ack')),
            records,
          )
        },
      ),
      { numRuns: 60 },
    )
  })
})
