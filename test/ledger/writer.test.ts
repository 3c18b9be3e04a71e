import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { openEntry } from '../../src/format/ledger-digest.js'
import { recoverLedger } from '../../src/ledger/recovery.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { failure, Gate, type MemoryStore } from '../helpers/memory-store.js'
import {
  appendText,
  newLedger,
  type Outcome,
  type Process,
  QUORUM_322,
  quiet,
  World,
  watched,
} from '../helpers/protocol.js'

const code = (expected: string) => (error: unknown) => isStratalogError(error) && error.code === expected

describe('ledger writer', () => {
  let clock: ManualClock
  let world: World
  let one: Process
  const store = (at: number): MemoryStore => present(one.stores[at], `store ${at}`)
  /** Adds to these stores wait until their gate is opened. */
  const hold = (...indexes: number[]): Gate[] =>
    indexes.map((at) => {
      const gate = new Gate()
      store(at).fault = { before: (call) => (call === 'addEntry' ? gate.wait() : undefined) }
      return gate
    })
  /** Leaves no store to replace another: the ledger goes on without, or fails. */
  const noSpare = (): void => {
    for (const at of [3, 4]) store(at).state = 'full'
  }
  beforeEach(() => {
    clock = new ManualClock()
    world = new World(clock, 5)
    one = world.process()
  })
  afterEach(() => world.end())

  test('acknowledges at Qa, in entry order, whatever order answers come in', async () => {
    const [a, b] = hold(0, 1, 2)
    assert.ok(a && b)
    const writer = await newLedger(one.context)
    const order: bigint[] = []
    const acks = ['x', 'y', 'z'].map((text) =>
      appendText(writer, text).then((ack) => {
        order.push(ack.entryId)
        return ack
      }),
    )
    await quiet()
    for (const gate of [a, b]) gate.release(2)
    for (const gate of [a, b]) gate.release(1)
    await quiet()
    assert.deepEqual(order, [])
    assert.equal(writer.lac, -1n)
    assert.equal(writer.inFlight, 3)
    a.release(0)
    await quiet()
    assert.deepEqual(order, [], 'one copy is not enough')
    b.release(0)
    const all = await Promise.all(acks)
    assert.deepEqual(order, [0n, 1n, 2n])
    assert.deepEqual(
      all.map(({ copies }) => copies),
      [2, 2, 2],
    )
    assert.equal(writer.lengthBytes, 3)
  })

  test('each store holds the packaged entry: ids, length, digest, payload, a LAC below the entry', async () => {
    const writer = await newLedger(one.context)
    const texts = ['', 'a', 'grüße', 'x'.repeat(100_000)]
    for (const text of texts) await appendText(writer, text)
    await writer.close()
    let length = 0
    for (const [id, text] of texts.entries()) {
      length += Buffer.byteLength(text)
      for (const at of [0, 1, 2]) {
        const bytes = present(store(at).replica.ledger(writer.ledgerId).entries.get(BigInt(id)), 'entry')
        const entry = openEntry(bytes, 'CRC32C', writer.ledgerId, BigInt(id))
        assert.equal(Buffer.from(entry.payload).toString(), text)
        assert.equal(entry.lengthBytes, BigInt(length))
        assert.equal(entry.lac, BigInt(id) - 1n)
      }
    }
    const { metadata } = await one.context.metadata.read(writer.ledgerId)
    assert.equal(metadata.state, 'CLOSED')
    assert.equal(metadata.lastEntryId, 3n)
    assert.equal(metadata.lengthBytes, BigInt(length))
    for (const at of [0, 1, 2]) {
      const { seal } = store(at).replica.ledger(writer.ledgerId)
      assert.deepEqual(seal, { lastEntryId: 3n, lengthBytes: length })
    }
    assert.equal(clock.pending, 1, 'only the watchdog is left, and ends by itself')
    await clock.advance(60_000)
    assert.equal(clock.pending, 0)
  })

  test('the LAC only grows, and is published before the acknowledgement resolves', async () => {
    const seen: bigint[] = []
    store(0).fault = {
      before: (call, ledgerId) => {
        if (call === 'writeLac') seen.push(store(0).replica.ledger(ledgerId).explicitLac)
      },
    }
    const writer = await newLedger(one.context)
    const known = () =>
      [0, 1, 2].map((at) => present(world.replicas[at], 'replica').ledger(writer.ledgerId).lac)
    await Promise.all(
      Array.from({ length: 20 }, (_, id) =>
        appendText(writer, `${id}`).then(({ entryId }) => {
          for (const lac of known()) assert.ok(lac >= entryId, `entry ${entryId} at a LAC of ${lac}`)
        }),
      ),
    )
    assert.deepEqual(
      seen,
      [...seen].sort((a, b) => (a < b ? -1 : 1)),
    )
  })

  test('entries are striped over the ensemble round robin', async () => {
    const quorum = { ensemble: 5, copies: 3, ack: 2, min: 3 }
    const writer = await newLedger(one.context, quorum)
    await Promise.all(Array.from({ length: 10 }, (_, id) => appendText(writer, `${id}`)))
    await writer.close()
    for (const at of [0, 1, 2, 3, 4]) {
      const held = [...store(at).replica.ledger(writer.ledgerId).entries.keys()].map(Number)
      const expected = Array.from({ length: 10 }, (_, id) => id).filter((id) =>
        [0, 1, 2].some((i) => (id + i) % 5 === at),
      )
      assert.deepEqual(
        held.sort((x, y) => x - y),
        expected,
      )
    }
  })

  test('a store that fails is left out and the ledger goes on with the others', async () => {
    noSpare()
    const writer = await newLedger(one.context)
    await appendText(writer, 'a')
    store(1).fault = {
      before: (call) => {
        if (call === 'addEntry') throw failure('io_failed', 'broken disk')
      },
    }
    for (const text of ['b', 'c']) assert.equal((await appendText(writer, text)).copies, 2)
    assert.ok(writer.degraded)
    store(1).fault = {}
    await appendText(writer, 'd')
    const { entries } = store(1).replica.ledger(writer.ledgerId)
    assert.deepEqual([...entries.keys()], [0n], 'nothing is sent to it any more: its copy has no holes')
    assert.deepEqual(await writer.close(), { lastEntryId: 3n, lengthBytes: 4 })
  })

  test('too few stores: all pending fail, nothing is acknowledged later, nothing is taken any more', async () => {
    noSpare()
    const [a, b, c] = hold(0, 1, 2)
    assert.ok(a && b && c)
    const writer = await newLedger(one.context)
    const outcomes = ['x', 'y'].map((text) => watched(appendText(writer, text)))
    await quiet()
    a.open()
    await quiet()
    store(1).state = 'unreachable'
    store(1).fault = {}
    store(2).fault = {
      before: (call) => {
        if (call === 'addEntry') throw failure('store_full', 'full')
      },
    }
    const third = watched(appendText(writer, 'z'))
    await quiet()
    for (const outcome of [...outcomes, third]) assert.ok(code('not_enough_stores')(outcome.error))
    for (const gate of [b, c]) gate.open()
    await quiet()
    for (const outcome of outcomes) assert.equal(outcome.value, undefined)
    assert.equal(writer.lac, -1n)
    await assert.rejects(appendText(writer, 'late'), code('not_enough_stores'))
    await assert.rejects(writer.close(), code('not_enough_stores'))
  })

  test('with striping, stores of different write sets may fail as long as each set has Qa', async () => {
    const writer = await newLedger(one.context, { ensemble: 5, copies: 2, ack: 1, min: 2 })
    for (const at of [0, 2]) store(at).state = 'unreachable'
    for (let id = 0; id < 10; id += 1) await appendText(writer, `${id}`)
    store(1).state = 'unreachable'
    const rest = Array.from({ length: 5 }, (_, id) => watched(appendText(writer, `more ${id}`)))
    await quiet()
    assert.ok(rest.every(({ settled }) => settled))
    assert.ok(code('not_enough_stores')(rest.at(-1)?.error))
    assert.equal((await recoverLedger(world.process().context, writer.ledgerId)).lastEntryId >= 9n, true)
  })

  test('fenced by a second opener while writing: no pending add is acknowledged, invariant 3', async () => {
    const gates = hold(0, 1, 2)
    const writer = await newLedger(one.context)
    const first = watched(appendText(writer, 'a'))
    await quiet()
    for (const gate of gates.slice(0, 2)) gate.release()
    await quiet()
    assert.equal(first.value?.entryId, 0n)
    const pending = ['b', 'c', 'd'].map((text) => watched(appendText(writer, text)))
    await quiet()
    // Entry 1 is on one store when the other opener comes.
    gates[0]?.release()
    await quiet()
    const two = world.process()
    const seal = await recoverLedger(two.context, writer.ledgerId)
    assert.equal(seal.lastEntryId, 1n)
    for (const gate of gates) gate.open()
    await quiet()
    for (const outcome of pending) assert.ok(code('fenced')(outcome.error), String(outcome.error))
    await assert.rejects(appendText(writer, 'e'), code('fenced'))
    await assert.rejects(writer.close(), code('fenced'))
    const { metadata } = await one.context.metadata.read(writer.ledgerId)
    assert.equal(metadata.lastEntryId, 1n)
    assert.equal(metadata.lengthBytes, 2n)
  })

  test('one fenced answer is enough, also where Qa others would still take the add', async () => {
    const writer = await newLedger(one.context)
    await world.process().stores[2]?.fence(writer.ledgerId)
    const [a, b] = hold(0, 1)
    const outcome = watched(appendText(writer, 'a'))
    await quiet()
    for (const gate of [a, b]) gate?.open()
    await quiet()
    assert.ok(code('fenced')(outcome.error))
    assert.equal(writer.lac, -1n)
  })

  test('closing loses the race for the metadata: fenced, the other close stands', async () => {
    const writer = await newLedger(one.context)
    await appendText(writer, 'a')
    const two = world.process()
    const current = await two.context.metadata.read(writer.ledgerId)
    const other = { ...current.metadata, state: 'IN_RECOVERY' as const }
    await two.context.metadata.compareAndSet(writer.ledgerId, current.version, other)
    await assert.rejects(writer.close(), code('fenced'))
    assert.equal((await two.context.metadata.read(writer.ledgerId)).metadata.state, 'IN_RECOVERY')
    assert.deepEqual(await recoverLedger(two.context, writer.ledgerId), { lastEntryId: 0n, lengthBytes: 1 })
  })

  test('closing waits for what is pending and takes nothing more', async () => {
    const gates = hold(0, 1, 2)
    const writer = await newLedger(one.context)
    const added = watched(appendText(writer, 'a'))
    const closed = watched(writer.close())
    await quiet()
    assert.equal(closed.settled, false)
    await assert.rejects(appendText(writer, 'b'), code('closed'))
    for (const gate of gates) gate.open()
    await quiet()
    assert.equal(added.value?.entryId, 0n)
    assert.deepEqual(closed.value, { lastEntryId: 0n, lengthBytes: 1 })
  })

  test('an empty ledger closes at −1', async () => {
    const writer = await newLedger(one.context)
    assert.deepEqual(await writer.close(), { lastEntryId: -1n, lengthBytes: 0 })
  })

  test('a store that hangs is left after a while, and the head of the queue goes on', async () => {
    noSpare()
    const writer = await newLedger(one.context, { ...QUORUM_322, ack: 3, min: 3 })
    hold(2)
    const stuck = watched(appendText(writer, 'a'))
    await clock.advance(20_000)
    assert.equal(stuck.settled, false)
    await clock.advance(30_000)
    assert.ok(code('not_enough_stores')(stuck.error))
    // With Qa below Qw nobody even waits.
    const other = await newLedger(one.context)
    assert.equal((await appendText(other, 'a')).copies, 2)
  })

  test('a store that hangs on the header or the seal holds up neither adds nor close for long', async () => {
    noSpare()
    const gate = new Gate()
    store(1).fault = {
      before: (call) => (call === 'openLedger' || call === 'sealLedger' ? gate.wait() : undefined),
    }
    const writer = await newLedger(one.context)
    await appendText(writer, 'a')
    const closed = watched(writer.close())
    await clock.advance(5_000)
    assert.deepEqual(closed.value, { lastEntryId: 0n, lengthBytes: 1 })
    gate.open()
    await quiet()
    const late = store(1).replica.ledger(writer.ledgerId).seal
    assert.deepEqual(late, { lastEntryId: 0n, lengthBytes: 1 }, 'it is told when it comes back')
  })

  test('a store that stays far behind is left: what is held for it is bounded (invariant 11)', async () => {
    noSpare()
    const writer = await newLedger(one.context)
    const [gate] = hold(2)
    const megabyte = 'x'.repeat(2 ** 20)
    for (let id = 0; id < 80; id += 1) await appendText(writer, megabyte)
    assert.ok(writer.degraded)
    assert.ok(gate !== undefined && gate.held <= 66, `${gate?.held} megabytes wait for it`)
    assert.equal((await writer.close()).lastEntryId, 79n)
  })

  test('limits.replica-lag: it is left as far behind as the policy says, and its place is taken', async () => {
    const [asked, builtIn] = [
      await newLedger(one.context, QUORUM_322, 4 * 2 ** 20),
      await newLedger(one.context, QUORUM_322, 2 ** 40),
    ]
    hold(2)
    const megabyte = 'x'.repeat(2 ** 20)
    for (let id = 0; id < 4; id += 1) await appendText(asked, megabyte)
    assert.ok(asked.members.includes('s2'), 'as far as it may be')
    for (let id = 0; id < 4; id += 1) await appendText(asked, megabyte)
    for (let id = 0; id < 8; id += 1) await appendText(builtIn, megabyte)
    await quiet()
    assert.equal(asked.members.includes('s2'), false)
    assert.equal(builtIn.members.includes('s2'), true, 'another ledger has limits of its own')
    for (let id = 8; id < 70; id += 1) await appendText(builtIn, megabyte)
    await quiet()
    assert.equal(builtIn.members.includes('s2'), false, 'memory bounds it whatever the policy says')
  })

  test('what many ledgers hold for one store is bounded too, open and closed ones (invariant 11)', async () => {
    const gates = hold(2)
    const [open, closing] = [await newLedger(one.context), await newLedger(one.context)]
    await Promise.all([appendText(open, 'a'), appendText(closing, 'b')])
    // As if others had sent it.
    for (const { id } of one.stores) one.health.owes(id, 300 * 2 ** 20)
    await appendText(open, 'c')
    assert.equal(open.degraded, false, 'all are equally far behind')
    one.health.owes('s2', 300 * 2 ** 20)
    await appendText(open, 'd')
    await quiet()
    assert.equal(open.members.includes('s2'), false)
    const closed = watched(closing.close())
    await quiet()
    assert.deepEqual(closed.value, { lastEntryId: 0n, lengthBytes: 1 }, 'not waited for')
    for (const gate of gates) gate.open()
    await quiet()
    assert.equal(one.health.owedBytes('s2'), 600 * 2 ** 20, 'what was given up or answered is owed no more')
  })

  test('backpressure is no failure: it waits, resends in entry order, and all stores end up with all', async () => {
    const writer = await newLedger(one.context, { ...QUORUM_322, ack: 3, min: 3 })
    let room = 2
    const taken: bigint[] = []
    store(1).fault = {
      before: (call, _, entryId) => {
        if (call !== 'addEntry' || entryId === null) return
        if (room === 0) throw failure('backpressure', 'too much waits')
        room -= 1
        taken.push(entryId)
      },
    }
    const adds = Array.from({ length: 6 }, (_, id) => watched(appendText(writer, `${id}`)))
    await quiet()
    const later = watched(appendText(writer, 'later'))
    await clock.advance(8_000)
    assert.deepEqual(taken, [0n, 1n])
    assert.ok(adds[1]?.settled && !adds[2]?.settled && !later.settled)
    room = 1
    await clock.advance(500)
    assert.deepEqual(taken, [0n, 1n, 2n])
    room = 100
    const closed = watched(writer.close())
    await clock.advance(500)
    assert.deepEqual(taken, [0n, 1n, 2n, 3n, 4n, 5n, 6n])
    for (const add of [...adds, later]) assert.equal(add.value?.copies, 3)
    assert.deepEqual(closed.value?.lastEntryId, 6n)
    for (const at of [0, 1, 2]) assert.equal(store(at).replica.ledger(writer.ledgerId).entries.size, 7)
    assert.equal(writer.degraded, false)
  })

  test('a store under backpressure gets its copies before the seal, also after the others closed', async () => {
    const writer = await newLedger(one.context)
    let full = true
    store(2).fault = {
      before: (call) => {
        if (call === 'addEntry' && full) throw failure('backpressure', 'too much waits')
      },
    }
    for (let id = 0; id < 3; id += 1) assert.equal((await appendText(writer, `${id}`)).copies, 2)
    const closed = watched(writer.close())
    await clock.advance(3_000)
    assert.equal(closed.value?.lastEntryId, 2n)
    assert.equal(store(2).replica.ledger(writer.ledgerId).seal, null)
    full = false
    await clock.advance(1_000)
    assert.equal(store(2).replica.ledger(writer.ledgerId).entries.size, 3)
    assert.deepEqual(store(2).replica.ledger(writer.ledgerId).seal, { lastEntryId: 2n, lengthBytes: 3 })
    assert.equal(writer.degraded, false)
  })

  test('backpressure for ever: the store is put out by time, or by how much waits, and the ledger goes on', async () => {
    noSpare()
    store(2).fault = {
      before: (call) => {
        if (call === 'addEntry') throw failure('backpressure', 'too much waits')
      },
    }
    const slow = await newLedger(one.context)
    assert.equal((await appendText(slow, 'a')).copies, 2)
    await clock.advance(20_000)
    assert.equal(slow.degraded, false)
    await clock.advance(20_000)
    assert.ok(slow.degraded)
    assert.equal((await appendText(slow, 'b')).copies, 2)
    assert.equal((await slow.close()).lastEntryId, 1n)
    const fast = await newLedger(one.context)
    const megabyte = 'x'.repeat(2 ** 20)
    for (let id = 0; id < 80; id += 1) await appendText(fast, megabyte)
    assert.ok(fast.degraded)
    assert.equal((await fast.close()).lastEntryId, 79n)
    // Where every copy is needed the ledger fails, with a reason.
    const all = await newLedger(one.context, { ...QUORUM_322, ack: 3, min: 3 })
    const needed = watched(appendText(all, 'a'))
    await clock.advance(60_000)
    assert.ok(code('not_enough_stores')(needed.error))
    assert.equal(clock.pending, 0, 'nothing is tried any more')
  })

  test('the ensemble is as small as the writable stores, never below min', async () => {
    for (const at of [0, 1, 2]) store(at).state = 'full'
    const writer = await newLedger(one.context)
    assert.deepEqual(writer.members, ['s3', 's4'])
    assert.equal((await appendText(writer, 'a')).copies, 2)
    store(3).state = 'poisoned'
    await assert.rejects(newLedger(one.context), (error: unknown) => {
      assert.ok(code('not_enough_stores')(error) && error instanceof Error)
      assert.match(error.message, /2 writable stores are needed and 1 can be written.*made it full/)
      return true
    })
  })

  test('too few stores are said so, also where one does not even say how it is', async () => {
    for (const at of [0, 1, 2, 3]) store(at).state = 'poisoned'
    store(2).status = () => new Promise(() => {})
    const created = watched(newLedger(one.context))
    await clock.advance(25_000)
    assert.ok(isStratalogError(created.error, 'not_enough_stores'))
    assert.match(created.error.message, /memory:s0: the test made it poisoned/)
  })

  test('abandoning rejects what is pending with its cause and closes nothing', async () => {
    hold(0, 1, 2)
    const writer = await newLedger(one.context)
    const outcomes: Outcome<unknown>[] = [watched(appendText(writer, 'a')), watched(appendText(writer, 'b'))]
    writer.abandon(failure('lease_lost', 'gone'))
    await quiet()
    for (const { error } of outcomes) assert.ok(code('lease_lost')(error))
    assert.equal((await one.context.metadata.read(writer.ledgerId)).metadata.state, 'OPEN')
  })
})
