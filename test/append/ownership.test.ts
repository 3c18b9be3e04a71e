import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { isStratalogError } from '../../src/model/errors.js'
import type { Ack } from '../../src/model/record.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { failure, Gate, type StoreCall } from '../helpers/memory-store.js'
import { type Outcome, quiet, watched } from '../helpers/protocol.js'
import { StreamWorld, ungoverned } from '../helpers/stream-world.js'

const code = (expected: string) => (error: unknown) => isStratalogError(error) && error.code === expected
const text = (payload: Uint8Array) => Buffer.from(payload).toString()

describe('ownership', () => {
  let clock: ManualClock
  let world: StreamWorld
  let leases: ReturnType<typeof ungoverned>
  beforeEach(() => {
    clock = new ManualClock()
    leases = ungoverned()
    world = new StreamWorld(clock, undefined, leases)
  })
  afterEach(() => world.end())

  const texts = async () => {
    const found: string[] = []
    for await (const { payload } of world.stream().read()) found.push(text(payload))
    return found
  }
  const hold = (call: StoreCall): Gate => {
    const gate = new Gate()
    for (const store of world.stores)
      store.fault = { before: (one) => (one === call ? gate.wait() : undefined) }
    return gate
  }
  /** New ledgers are made, and their writer hears of it once the gate opens. */
  const holdBegin = (): Gate => {
    const gate = new Gate()
    const { index } = world.world.metadata
    const begin = index.beginSegment.bind(index)
    index.beginSegment = async (row) => {
      const begun = await begin(row)
      await gate.wait()
      return begun
    }
    return gate
  }
  /** A process that takes the stream over, whatever the first one believes. */
  const second = () => new StreamWorld(clock, world.world, ungoverned())
  /** Whatever was acknowledged is there, in order; nothing that came from the first after it was fenced is. */
  const checkOnce = async (outcomes: readonly { value: string; outcome: Outcome<Ack> }[]) => {
    const found = await texts()
    assert.equal(new Set(found).size, found.length, 'nothing twice (invariant 2)')
    for (const { value, outcome } of outcomes) {
      assert.ok(outcome.settled, `${value} was answered`)
      if (outcome.value !== undefined) assert.ok(found.includes(value), `${value} (invariant 1)`)
    }
    const segments = await world.segments()
    for (const [at, row] of segments.entries()) {
      const before = segments[at - 1]
      if (before !== undefined)
        assert.ok(row.epoch >= before.epoch, 'epochs of segments never go back (invariant 3)')
    }
  }

  test('two processes take a stream from each other: of each epoch only its own appends are there', async () => {
    const outcomes: { value: string; outcome: Outcome<Ack> }[] = []
    await world.stream().append('first')
    const processes = [world]
    for (let turn = 0; turn < 6; turn += 1) {
      const next = second()
      processes.push(next)
      for (const [at, one] of processes.entries()) {
        const value = `${turn}/${at}`
        outcomes.push({ value, outcome: watched(one.stream().append(value)) })
        await quiet(turn)
      }
      await quiet(10)
    }
    await quiet(20)
    await checkOnce(outcomes)
    const last = outcomes.at(-1)
    assert.ok(last?.outcome.value !== undefined, 'the last one owns it')
    for (const one of processes.slice(0, -1)) {
      await assert.rejects(one.stream().append('late'), code('fenced'))
    }
  })

  for (const [moment, call] of [
    ['begun', null],
    ['written', 'addEntry'],
    ['sealed', 'sealLedger'],
  ] as const) {
    test(`the lease is lost while a segment is being ${moment}: fenced, and the next owner goes on`, async () => {
      const stream = world.stream()
      await stream.append('kept')
      const writer = await world.hub.writer(await world.row())
      if (moment === 'begun') await writer.roll()
      const gate = call === null ? holdBegin() : hold(call)
      const outcomes = ['b', 'c'].map((value) => ({ value, outcome: watched(stream.append(value)) }))
      if (moment === 'sealed') {
        await quiet()
        watched(writer.roll())
      }
      await quiet(5)
      outcomes.push({ value: 'd', outcome: watched(stream.append('d')) })
      leases.lose()
      await quiet(5)
      gate.open()
      await quiet(20)
      for (const { outcome } of outcomes.slice(-1))
        assert.ok(code('fenced')(outcome.error), String(outcome.error))
      const other = second()
      const ack = await other.stream().append('next')
      assert.equal(ack.sequenceId, BigInt((await texts()).length - 1))
      await checkOnce(outcomes)
      await assert.rejects(stream.append('late'), code('fenced'))
      await other.hub.close()
    })
  }

  test('the lease is lost while records go again into the next segment', async () => {
    const stream = world.stream()
    await stream.append('kept')
    for (const at of [0, 1]) {
      const store = world.stores[at]
      let left = 1
      if (store === undefined) continue
      store.fault = {
        before: (call) => {
          if (call === 'openLedger') leases.lose()
          if (call !== 'addEntry' || left === 0) return
          left -= 1
          throw failure('io_failed', 'EIO')
        },
      }
    }
    const outcomes = ['b', 'c'].map((value) => ({ value, outcome: watched(stream.append(value)) }))
    await quiet(20)
    for (const { outcome } of outcomes) assert.ok(code('fenced')(outcome.error), String(outcome.error))
    for (const store of world.stores) store.fault = {}
    const other = second()
    await other.stream().append('next')
    await checkOnce(outcomes)
    assert.deepEqual(await texts(), ['kept', 'next'])
    await other.hub.close()
  })

  test('a lease that another holds is not taken: conflict names the holder', async () => {
    const shared = new StreamWorld(clock, world.world)
    await shared.stream('own').append('a')
    const other = new StreamWorld(clock, world.world)
    await assert.rejects(other.stream('own').append('b'), code('conflict'))
    await shared.hub.close()
    assert.equal((await other.stream('own').append('b')).sequenceId, 1n)
    await other.hub.close()
  })

  describe('tokens', () => {
    test('appends with the token of one who was fenced are refused, with the tail; others go on', async () => {
      const [one, two] = [world.stream(), world.stream()]
      const fence = await one.fence()
      await one.append('a', { fence })
      const pending = watched(one.append('b', { fence }))
      const later = await two.fence()
      assert.ok(later > fence)
      assert.ok(pending.value !== undefined, 'what was taken before is durable by then')
      await two.append('c', { fence: later })
      await assert.rejects(
        one.append('d', { fence }),
        (error) =>
          code('fenced')(error) &&
          isStratalogError(error) &&
          error.expected === fence &&
          error.found === later &&
          error.details.tail === '2',
      )
      await one.append('e')
      await assert.rejects(one.append('f', { fence: 5 as unknown as bigint }), code('invalid_argument'))
      assert.deepEqual(await texts(), ['a', 'b', 'c', 'e'])
    })

    test('a session ends when its handle is fenced, with or without a token', async () => {
      const [one, two] = [world.stream(), world.stream()]
      async function* values(): AsyncGenerator<string> {
        for (let id = 0; id < 100; id += 1) {
          await quiet(1)
          if (id === 50) await two.fence()
          yield `${id}`
        }
      }
      await assert.rejects(one.appendAll(values()), code('fenced'))
      assert.deepEqual(
        await texts(),
        Array.from({ length: 50 }, (_, id) => `${id}`),
      )
    })

    test('a process that was fenced gets the stream back only by asking for it', async () => {
      const stream = world.stream()
      const fence = await stream.fence()
      await stream.append('a', { fence })
      const other = second()
      await other.stream().append('b')
      await quiet()
      await assert.rejects(stream.append('c', { fence }), code('fenced'))
      await assert.rejects(stream.append('c'), code('fenced'))
      const again = await stream.fence()
      await stream.append('d', { fence: again, ifTail: 1n })
      await assert.rejects(other.stream().append('e'), code('fenced'))
      assert.deepEqual(await texts(), ['a', 'b', 'd'])
    })
  })

  describe('ifTail', () => {
    test('appends where the stream ends as expected, else says where it ends', async () => {
      const stream = world.stream()
      await stream.append('a', { ifTail: 'empty' })
      await assert.rejects(
        stream.append('x', { ifTail: 'empty' }),
        (error) =>
          code('conflict')(error) &&
          isStratalogError(error) &&
          error.expected === 'empty' &&
          error.found === 0n,
      )
      await stream.append('b', { ifTail: 0n })
      await assert.rejects(
        stream.append('x', { ifTail: 7n }),
        (error) => isStratalogError(error, 'conflict') && error.expected === 7n && error.found === 1n,
      )
      await assert.rejects(stream.append('x', { ifTail: 1 as unknown as bigint }), code('invalid_argument'))
      assert.equal((await stream.append('c')).sequenceId, 2n, 'a refusal harms nobody')
      assert.deepEqual(await texts(), ['a', 'b', 'c'])
    })

    test('of many that expect one tail exactly one is taken, whatever else is on its way', async () => {
      const stream = world.stream()
      await stream.append('first')
      const outcomes = await Promise.allSettled(
        Array.from({ length: 20 }, (_, id) => world.stream().append(`${id}`, { ifTail: 0n })),
      )
      assert.equal(outcomes.filter(({ status }) => status === 'fulfilled').length, 1)
      assert.equal((await texts()).length, 2)
    })

    test('a batch is taken as a whole or not at all', async () => {
      const stream = world.stream()
      const ack = await stream.appendBatch(['a', 'b', 'c'], { ifTail: 'empty' })
      assert.deepEqual(
        [`${ack.first}`, `${ack.last}`, ack.count, ack.duplicate],
        ['1:0:0', '1:0:2', 3, false],
      )
      await assert.rejects(stream.appendBatch(['x', 'y'], { ifTail: 1n }), code('conflict'))
      await assert.rejects(
        stream.appendBatch(['9', '8'], { txid: (value) => BigInt(String(value)) }),
        code('txid_not_monotonic'),
      )
      await assert.rejects(stream.appendBatch(['x', 5 as unknown as string]), code('invalid_argument'))
      await assert.rejects(stream.appendBatch(['x', 'y'.repeat(2 ** 21)]), code('record_too_large'))
      const many = Array.from({ length: 20 }, () => Buffer.alloc(500_000))
      await assert.rejects(stream.appendBatch(many), code('invalid_argument'))
      world.takenBytesMax = 1_000_000
      await stream.appendBatch(many.slice(0, 5), { ifTail: 2n })
      assert.equal((await texts()).length, 8)
      assert.deepEqual(await stream.appendBatch([]), { first: null, last: null, count: 0, duplicate: false })
    })
  })

  describe('finish', () => {
    test('ends a stream for ever: sealed, refused, also after a restart; others go on', async () => {
      const stream = world.stream()
      await stream.append('a', { producer: 'p', sequence: 1n })
      const pending = watched(stream.append('b'))
      await stream.finish()
      assert.ok(pending.value !== undefined)
      await stream.finish()
      await assert.rejects(stream.append('c'), code('stream_finished'))
      await assert.rejects(stream.append('a', { producer: 'p', sequence: 1n }), code('stream_finished'))
      await world.hub.close()
      const next = second()
      await assert.rejects(next.stream().append('c'), code('stream_finished'))
      await assert.rejects(next.stream().fence(), code('stream_finished'))
      await next.stream('other').append('x')
      assert.ok((await stream.info()).finishedMs !== null)
      assert.deepEqual(await texts(), ['a', 'b'])
      assert.deepEqual(
        (await world.segments()).map(({ state }) => state),
        ['sealed'],
      )
      await next.hub.close()
    })

    test('followers end normally, those that wait and those that come', async () => {
      const stream = world.stream()
      await stream.append('a')
      const follow = async () => {
        const found: string[] = []
        for await (const { payload } of world.stream().read({ follow: true })) found.push(text(payload))
        return found
      }
      const waiting = watched(follow())
      await quiet(5)
      assert.equal(waiting.settled, false)
      await stream.append('b')
      await stream.finish()
      for (let turn = 0; turn < 20 && !waiting.settled; turn += 1) await quiet()
      assert.deepEqual(waiting.value, ['a', 'b'])
      assert.deepEqual(await follow(), ['a', 'b'])
    })

    test('a stream without records can be finished; a trim meanwhile does not stop it', async () => {
      await world.create('orders')
      const { incarnation } = await world.row()
      const { index } = world.world.metadata
      const update = index.updateStream.bind(index)
      let trims = 0
      index.updateStream = async (id, version, patch) => {
        if (patch.finishedMs !== undefined && trims === 0) {
          trims += 1
          const { Dlsn } = await import('../../src/model/dlsn.js')
          await update(incarnation, version, { trimmedBelow: Dlsn.first })
        }
        return update(id, version, patch)
      }
      await world.stream().finish()
      assert.equal(trims, 1)
      assert.ok((await world.row()).finishedMs !== null)
    })

    test('a writer that was fenced finishes nothing (invariant 3)', async () => {
      const stream = world.stream()
      await stream.append('a')
      const other = second()
      await other.stream().append('b')
      await assert.rejects(stream.finish(), code('fenced'))
      assert.equal((await world.row()).finishedMs, null)
      await other.stream().append('c')
      await other.hub.close()
      // Also where it has nothing to seal: only the epoch says so.
      const next = second()
      await next.stream().append('d')
      await next.stream().seal()
      const last = second()
      await last.stream().fence()
      await assert.rejects(next.stream().finish(), code('fenced'))
      assert.equal((await world.row()).finishedMs, null)
      await last.hub.close()
    })
  })
})
