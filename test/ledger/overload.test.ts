import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { present } from '../../src/model/assert.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { failure, Gate, type MemoryStore } from '../helpers/memory-store.js'
import { appendText, newLedger, type Process, World } from '../helpers/protocol.js'

describe('a store with much to do', () => {
  let clock: ManualClock
  let world: World
  let one: Process
  const store = (at: number): MemoryStore => present(one.stores[at], `store ${at}`)
  /** Adds to the third store wait until the gate lets them go. */
  const hold = (): Gate => {
    const gate = new Gate()
    store(2).fault = { before: (call) => (call === 'addEntry' ? gate.wait() : undefined) }
    return gate
  }
  beforeEach(() => {
    clock = new ManualClock()
    // No store is left to replace another.
    world = new World(clock, 3)
    one = world.process()
  })
  afterEach(() => world.end())

  test('a store that gets on with its queue is not hung, however long an entry waits; one that stands still is', async () => {
    const gate = hold()
    const busy = await newLedger(one.context)
    const other = await newLedger(one.context)
    for (let id = 0; id < 20; id += 1) await appendText(busy, `${id}`)
    await appendText(other, 'waits behind them')
    for (let id = 0; id < 10; id += 1) {
      await clock.advance(20_000)
      gate.release()
    }
    assert.equal(other.degraded, false, '200 seconds behind others')
    assert.equal(busy.degraded, false)
    await clock.advance(50_000)
    assert.ok(other.degraded && busy.degraded)
  })

  test('a store that answers what was sent long after an entry has lost that entry', async () => {
    const losing = await newLedger(one.context)
    const gate = new Gate()
    store(2).fault = {
      before: (call, ledgerId) =>
        call === 'addEntry' && ledgerId === losing.ledgerId ? gate.wait() : undefined,
    }
    const other = await newLedger(one.context)
    await appendText(losing, 'lost')
    for (let at = 0; at < 8; at += 1) {
      await clock.advance(8_000)
      await appendText(other, `${at}`)
    }
    assert.ok(losing.degraded)
    assert.equal(other.degraded, false)
  })

  test('backpressure is waited out while the store gets on with what others gave it', async () => {
    const refused = await newLedger(one.context)
    store(2).fault = {
      before: (call, ledgerId) => {
        if (call === 'addEntry' && ledgerId === refused.ledgerId) throw failure('backpressure', 'busy')
      },
    }
    const other = await newLedger(one.context)
    await appendText(refused, 'a')
    for (let at = 0; at < 8; at += 1) {
      await clock.advance(20_000)
      await appendText(other, `${at}`)
    }
    assert.equal(refused.degraded, false, 'it has work to do for others, and does it')
    await clock.advance(50_000)
    assert.ok(refused.degraded)
  })

  test('a store that refuses many ledgers is asked by a few at a time, and all have their turn (invariant 11)', async () => {
    let full = true
    let asked = 0
    store(2).fault = {
      before: (call) => {
        if (call !== 'addEntry') return
        asked += 1
        if (full) throw failure('backpressure', 'too much waits')
      },
    }
    const writers = await Promise.all(Array.from({ length: 100 }, () => newLedger(one.context)))
    for (const writer of writers) for (let id = 0; id < 3; id += 1) await appendText(writer, `${id}`)
    asked = 0
    await clock.advance(2_000)
    assert.ok(asked > 0 && asked <= 16 * 30, `asked ${asked} times in two seconds`)
    full = false
    await clock.advance(2_000)
    for (const writer of writers) {
      assert.equal(store(2).replica.ledger(writer.ledgerId).entries.size, 3)
      assert.equal(writer.degraded, false)
    }
  })

  test('a process that was stopped for a while gives no store up before it has heard what they say', async () => {
    const gate = hold()
    const writer = await newLedger(one.context)
    await appendText(writer, 'a')
    await clock.advance(31_000)
    assert.equal(writer.degraded, false, 'nothing for 30 seconds, but it was looked at once')
    gate.release()
    await clock.advance(60_000)
    assert.equal(writer.degraded, false)
  })
})
