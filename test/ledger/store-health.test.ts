import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { failure, type MemoryStore } from '../helpers/memory-store.js'
import { appendText, newLedger, type Process, QUORUM_322, quiet, World } from '../helpers/protocol.js'

describe('store health', () => {
  let clock: ManualClock
  let world: World
  let one: Process
  const store = (at: number): MemoryStore => present(one.stores[at], `store ${at}`)
  const fit = () => one.health.sorted(one.stores).fit.map(({ id }) => id)
  const fail = (at: number) => one.health.failed(`s${at}`, failure('io_failed', 'EIO'))
  const slow = (at: number, latencyMs: number): void => {
    for (let add = 0; add < 64; add += 1) {
      for (const { id } of one.stores) one.health.answered(id, id === `s${at}` ? latencyMs : 3)
    }
  }
  beforeEach(() => {
    clock = new ManualClock()
    world = new World(clock, 5)
    one = world.process()
  })
  afterEach(() => world.end())

  test('a store that failed is left out of new ledgers for a while, then it is back', async () => {
    store(1).fault = {
      before: (call) => {
        if (call === 'addEntry') throw failure('io_failed', 'EIO')
      },
    }
    await appendText(await newLedger(one.context), 'a')
    await quiet()
    assert.deepEqual((await newLedger(one.context)).members, ['s0', 's2', 's3'])
    await clock.advance(5_000)
    assert.deepEqual((await newLedger(one.context)).members, ['s0', 's1', 's2'])
  })

  test('it is never left out where entries would get fewer copies, but an ensemble may be narrower', async () => {
    for (const at of [0, 1, 2]) fail(at)
    assert.deepEqual((await newLedger(one.context)).members, ['s3', 's4', 's0'])
    const wide = { ensemble: 5, copies: 2, ack: 1, min: 1 }
    assert.deepEqual((await newLedger(one.context, wide)).members, ['s3', 's4'])
    assert.equal((await newLedger(one.context, { ...QUORUM_322, ensemble: 5 })).members.length, 3)
  })

  test('too few stores are told of as such also where one of them does not say how it is', async () => {
    store(0).status = () => new Promise(() => {})
    const stores = {
      get: (id: string) => one.context.stores.get(id),
      all: () => one.stores,
      writable: async () => [],
    }
    const refused = assert.rejects(newLedger({ ...one.context, stores }), (error) =>
      isStratalogError(error, 'not_enough_stores'),
    )
    await quiet()
    await clock.advance(20_000)
    await refused
  })

  test('one that fails as soon as it is back rests longer each time, to a bound; one that worked begins anew', async () => {
    const rests: number[] = []
    for (let turn = 0; turn < 9; turn += 1) {
      fail(0)
      const from = clock.monotonicMs()
      while (!fit().includes('s0')) await clock.advance(1_000)
      rests.push((clock.monotonicMs() - from) / 1_000)
    }
    assert.deepEqual(rests, [5, 10, 20, 40, 80, 160, 300, 300, 300])
    await clock.advance(300_000)
    fail(0)
    await clock.advance(5_000)
    assert.ok(fit().includes('s0'))
  })

  test('one outage that many ledgers notice counts once', async () => {
    for (let ledger = 0; ledger < 100; ledger += 1) fail(0)
    await clock.advance(5_000)
    assert.ok(fit().includes('s0'))
  })

  test('a store that is slow against its peers rests, and is judged anew when it is back', async () => {
    slow(2, 400)
    assert.deepEqual(fit(), ['s0', 's1', 's3', 's4'])
    await clock.advance(5_000)
    slow(2, 3)
    assert.equal(fit().length, 5)
    slow(2, 19)
    assert.equal(fit().length, 5, 'slower, but not so that it matters')
  })

  test('where all are slow none is', () => {
    for (let add = 0; add < 640; add += 1) for (const { id } of one.stores) one.health.answered(id, 800)
    assert.equal(fit().length, 5)
  })

  test('a replacement is taken from those that are well', async () => {
    fail(3)
    const writer = await newLedger(one.context)
    store(0).fault = {
      before: (call) => {
        if (call === 'addEntry') throw failure('io_failed', 'EIO')
      },
    }
    await appendText(writer, 'a')
    await quiet()
    assert.deepEqual(writer.members, ['s4', 's1', 's2'])
  })
})
