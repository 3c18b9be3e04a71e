import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import process from 'node:process'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { openEntry } from '../../src/format/ledger-digest.js'
import { deleteLedger, LedgerReader } from '../../src/ledger/reader.js'
import type { LedgerWriter } from '../../src/ledger/writer.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { failure, type MemoryReplica, type MemoryStore } from '../helpers/memory-store.js'
import {
  appendText,
  newLedger,
  type Process,
  QUORUM_322,
  quiet,
  World,
  watched,
} from '../helpers/protocol.js'

const code = (expected: string) => (error: unknown) => isStratalogError(error) && error.code === expected

describe('ledger reader', () => {
  let clock: ManualClock
  let world: World
  let one: Process
  let two: Process
  beforeEach(() => {
    clock = new ManualClock()
    world = new World(clock, 5)
    one = world.process()
    two = world.process()
  })
  afterEach(() => world.end())
  const replica = (at: number): MemoryReplica => present(world.replicas[at], `replica ${at}`)
  const store = (at: number): MemoryStore => present(two.stores[at], `store ${at}`)
  const open = (writer: LedgerWriter) => LedgerReader.open(two.context, writer.ledgerId)
  const filled = async (count: number, quorum = QUORUM_322): Promise<LedgerWriter> => {
    const writer = await newLedger(one.context, quorum)
    await Promise.all(Array.from({ length: count }, (_, id) => appendText(writer, `entry ${id}`)))
    await quiet()
    return writer
  }
  const all = async (reader: LedgerReader, last: bigint): Promise<string[]> => {
    const found: string[] = []
    for (let next = 0n; next <= last; next = BigInt(found.length)) {
      const entries = await reader.readEntries(next, last, 50)
      assert.ok(entries.length > 0)
      for (const entry of entries) {
        assert.equal(entry.entryId, BigInt(found.length))
        found.push(Buffer.from(entry.payload).toString())
      }
    }
    return found
  }
  const expected = (count: number) => Array.from({ length: count }, (_, id) => `entry ${id}`)

  for (const [name, quorum] of [
    ['E = Qw', QUORUM_322],
    ['E > Qw', { ensemble: 5, copies: 3, ack: 2, min: 3 }],
  ] as const) {
    test(`${name}: falls over to other replicas where one fails, is damaged or lacks entries`, async () => {
      const writer = await filled(20, quorum)
      replica(0).damage(writer.ledgerId, 3n)
      replica(1).forget(writer.ledgerId, 4n)
      replica(2).tear(writer.ledgerId, 15n)
      store(1).fault = {
        before: (call, _, entryId) => {
          if ((call === 'readEntry' || call === 'readEntries') && entryId === 7n)
            throw failure('io_failed', 'EIO')
        },
      }
      const reader = await open(writer)
      assert.equal(await reader.lastConfirmed(), 19n)
      assert.deepEqual(await all(reader, 19n), expected(20))
      await writer.close()
      assert.deepEqual(await all(await open(writer), 19n), expected(20))
    })

    test(`${name}: unknown outranks missing; entry_missing only where all deny`, async () => {
      const writer = await filled(3, quorum)
      const reader = await open(writer)
      for (const at of [0, 1, 2, 3, 4]) replica(at).forget(writer.ledgerId, 2n)
      await assert.rejects(reader.readEntries(2n, 2n, 100), code('entry_missing'))
      store(2).fault = {
        before: (call) => {
          if (call === 'readEntry') throw failure('io_failed', 'EIO')
        },
      }
      await assert.rejects(reader.readEntries(2n, 2n, 100), code('io_failed'))
      store(2).fault = {}
      replica(2).tear(writer.ledgerId, 2n)
      await assert.rejects(reader.readEntries(2n, 2n, 100), code('store_unavailable'), 'suspect is no denial')
    })
  }

  test('all copies damaged is corrupt, a store that may come back outranks that', async () => {
    const writer = await filled(1)
    for (const at of [0, 1, 2]) replica(at).damage(writer.ledgerId, 0n)
    const reader = await open(writer)
    await assert.rejects(reader.readEntries(0n, 0n, 100), code('corrupt'))
    store(2).state = 'unreachable'
    await assert.rejects(reader.readEntries(0n, 0n, 100), code('store_unavailable'))
  })

  test('an entry of another place never passes for the one asked for', async () => {
    const writer = await filled(2)
    for (const at of [0, 1]) {
      const { entries } = replica(at).ledger(writer.ledgerId)
      entries.set(0n, present(entries.get(1n), 'entry'))
    }
    assert.deepEqual(await all(await open(writer), 1n), expected(2))
  })

  test('a deleted ledger is ledger_not_found, at opening and in between', async () => {
    const writer = await filled(3)
    const reader = await open(writer)
    await writer.close()
    await deleteLedger(one.context, writer.ledgerId)
    await deleteLedger(one.context, writer.ledgerId)
    await assert.rejects(open(writer), code('ledger_not_found'))
    await assert.rejects(reader.readEntries(0n, 2n, 100), code('ledger_not_found'))
    await assert.rejects(reader.lastConfirmed(), code('ledger_not_found'))
    await assert.rejects(reader.waitAbove(2n), code('ledger_not_found'))
  })

  test('deleting says where it could not, and works the next time', async () => {
    const writer = await filled(1)
    store(1).state = 'unreachable'
    await assert.rejects(deleteLedger(two.context, writer.ledgerId), code('store_unavailable'))
    assert.equal(
      (await two.context.metadata.read(writer.ledgerId)).ledgerId,
      writer.ledgerId,
      'it is not orphaned',
    )
    store(1).state = 'writable'
    await deleteLedger(two.context, writer.ledgerId)
    assert.equal(replica(1).ledger(writer.ledgerId).deleted, true)
    await assert.rejects(open(writer), code('ledger_not_found'))
  })

  test('deleting reaches the stores of every ensemble; one that never counted does not hold it up', async () => {
    const writer = await filled(3)
    present(one.stores[1], 'store').fault = {
      before: (call) => {
        if (call === 'addEntry') throw failure('io_failed', 'EIO')
      },
    }
    await appendText(writer, 'entry 3')
    await quiet()
    await writer.close()
    assert.deepEqual(writer.members, ['s0', 's3', 's2'])
    store(4).state = 'unreachable'
    await deleteLedger(two.context, writer.ledgerId)
    for (const at of [0, 1, 2, 3])
      assert.equal(replica(at).ledger(writer.ledgerId).deleted, true, `store ${at}`)
  })

  test('a store that hangs does not hold up a deletion for ever', async () => {
    const writer = await filled(1)
    store(0).fault = { before: () => new Promise(() => {}) }
    const deleted = watched(deleteLedger(two.context, writer.ledgerId))
    await clock.advance(21_000)
    assert.ok(code('store_unavailable')(deleted.error))
  })

  test('the last confirmed entry needs enough stores, not all of them', async () => {
    const writer = await filled(4)
    const reader = await open(writer)
    store(0).fault = { before: () => new Promise(() => {}) }
    assert.equal(await reader.lastConfirmed(), 3n, 'a store that hangs is not waited for')
    store(0).fault = {}
    store(0).state = 'unreachable'
    assert.equal(await reader.lastConfirmed(), 3n)
    store(1).state = 'unreachable'
    await assert.rejects(reader.lastConfirmed(), code('store_unavailable'))
  })

  test('a store that hangs costs one short wait, then others serve', async () => {
    const writer = await filled(10)
    const reader = await open(writer)
    const preferred = store(Number(writer.ledgerId % 3n))
    preferred.fault = { before: () => new Promise(() => {}) }
    const first = watched(reader.readEntries(0n, 9n, 1))
    await clock.advance(600)
    assert.equal(first.value?.length, 1)
    const rest = await reader.readEntries(1n, 9n, 1 << 20)
    assert.equal(rest.length, 9, 'without waiting again, as one run')
  })

  test('catch-up reads are spread over the replicas', async () => {
    const writer = await filled(1_024)
    const reader = await open(writer)
    for (let next = 0n; next < 1_024n; next += 32n) await reader.readEntries(next, next + 31n, 1 << 20)
    for (const at of [0, 1, 2]) {
      const reads = store(at).calls.get('readEntries') ?? 0
      assert.ok(reads >= 8, `store ${at} served ${reads} of 32 reads`)
    }
  })

  for (const [name, quorum] of [
    ['E = Qw', QUORUM_322],
    ['E > Qw', { ensemble: 5, copies: 3, ack: 2, min: 3 }],
  ] as const) {
    test(`${name}: a replica that is late is overtaken by the next one, and its read is aborted`, async () => {
      const writer = await filled(4, quorum)
      const reader = await open(writer)
      const preferred = store(quorum === QUORUM_322 ? Number(writer.ledgerId % 3n) : 0)
      preferred.fault = { before: () => new Promise(() => {}) }
      const read = watched(reader.readEntries(0n, 0n, 1 << 20))
      await quiet()
      assert.equal(read.settled, false)
      await clock.advance(500)
      assert.equal(Buffer.from(present(read.value?.[0], 'entry').payload).toString(), 'entry 0')
      assert.equal(clock.pending, 1, 'only the watchdog of the writer is left, no timer of the read')
    })

    test(`${name}: the delay follows the answers: a slow disk is not hedged for ever`, async () => {
      const writer = await filled(64, quorum)
      const reader = await open(writer)
      const asked = () =>
        two.stores.reduce(
          (sum, { calls }) => sum + (calls.get('readEntries') ?? 0) + (calls.get('readEntry') ?? 0),
          0,
        )
      for (const at of [0, 1, 2, 3, 4]) store(at).fault = { before: () => clock.sleep(110) }
      const readOne = async (id: bigint) => {
        const read = watched(reader.readEntries(id, id, 1))
        await clock.advance(2_000)
        assert.equal(read.value?.length, 1)
      }
      const before = asked()
      await readOne(0n)
      assert.ok(asked() - before > 1, 'at first another one is asked')
      for (let id = 1n; id < 20n; id += 1n) await readOne(id)
      const learned = asked()
      await readOne(20n)
      assert.equal(asked() - learned, 1)
    })
  }

  describe('damaged copies', () => {
    const noted = () => two.damaged.map(({ storeId, entryId }) => `${storeId}:${entryId}`).sort()

    for (const [name, quorum] of [
      ['E = Qw', QUORUM_322],
      ['E > Qw', { ensemble: 5, copies: 3, ack: 2, min: 3 }],
    ] as const) {
      test(`${name}: of a closed ledger are told, with a good one (invariant 9)`, async () => {
        const writer = await filled(10, quorum)
        await writer.close()
        const { ledgerId } = writer
        // Entry e is first asked of store e mod 5, or, in runs, of the store that ledger and stretch make the first.
        const first = (id: number) => (quorum === QUORUM_322 ? Number(ledgerId % 3n) : id % 5)
        replica(first(2)).forget(ledgerId, 2n)
        replica(first(5)).damage(ledgerId, 5n)
        replica(first(9)).tear(ledgerId, 9n)
        const reader = await open(writer)
        assert.deepEqual(await all(reader, 9n), expected(10))
        await quiet()
        assert.deepEqual(noted(), [2, 5, 9].map((id) => `s${first(id)}:${id}`).sort())
        for (const { entryId, bytes, ledgerId: of } of two.damaged) {
          assert.equal(of, ledgerId)
          const entry = openEntry(bytes, 'CRC32C', ledgerId, entryId)
          assert.equal(Buffer.from(entry.payload).toString(), `entry ${entryId}`)
        }
      })

      test(`${name}: a store that can't be reached, hangs or fails says nothing about its copy`, async () => {
        const writer = await filled(10, quorum)
        await writer.close()
        store(0).state = 'unreachable'
        store(1).fault = {
          before: () => {
            throw failure('io_failed', 'EIO')
          },
        }
        const reader = await open(writer)
        assert.deepEqual(await all(reader, 9n), expected(10))
        store(0).state = 'writable'
        store(0).fault = { before: () => new Promise(() => {}) }
        const again = watched(all(await open(writer), 9n))
        await clock.advance(30_000)
        assert.deepEqual(again.value, expected(10))
        assert.deepEqual(noted(), [])
      })
    }

    test("an open ledger is none of a repairer's business: its writer may still send the copy", async () => {
      const writer = await filled(3)
      replica(Number(writer.ledgerId % 3n)).forget(writer.ledgerId, 1n)
      assert.deepEqual(await all(await open(writer), 2n), expected(3))
      await quiet()
      assert.deepEqual(noted(), [])
    })

    test('a receiver that throws does not spoil the read', async () => {
      const writer = await filled(3)
      await writer.close()
      replica(Number(writer.ledgerId % 3n)).forget(writer.ledgerId, 0n)
      const context = {
        ...two.context,
        damaged: () => {
          throw new Error('a bug of the receiver')
        },
      }
      assert.deepEqual(await all(await LedgerReader.open(context, writer.ledgerId), 2n), expected(3))
      await quiet()
      assert.ok(world.log.includes('a damaged copy was not noted'))
    })
  })

  describe('waiting', () => {
    test('ends when an entry is confirmed, also where a store was left behind', async () => {
      for (const left of [0, 1, 2]) {
        const writer = await filled(1)
        present(one.stores[left], 'store').state = 'poisoned'
        present(one.stores[left], 'store').fault = {
          before: (call) => {
            if (call === 'addEntry' || call === 'writeLac') throw failure('store_poisoned', 'poisoned')
          },
        }
        const reader = await open(writer)
        const waiting = watched(reader.waitAbove(0n))
        await quiet()
        assert.equal(waiting.settled, false)
        await appendText(writer, 'more')
        await quiet()
        assert.equal(waiting.settled, true, `with store ${left} behind`)
        assert.equal(waiting.error, undefined)
        present(one.stores[left], 'store').state = 'writable'
        present(one.stores[left], 'store').fault = {}
      }
    })

    test('ends after a while, and leaves no timers and waiters behind', async () => {
      const writer = await filled(1)
      await clock.advance(60_000)
      const waiting = watched((await open(writer)).waitAbove(0n))
      await clock.advance(9_000)
      assert.equal(waiting.settled, false)
      await clock.advance(2_000)
      assert.equal(waiting.settled, true)
      await quiet()
      assert.equal(clock.pending, 0)
      for (const at of [0, 1, 2]) assert.equal(replica(at).ledger(writer.ledgerId).waiters.size, 0)
    })

    test('does not spin on a ledger that is closed: stores answer at once there', async () => {
      const writer = await filled(1)
      await writer.close()
      const abort = new AbortController()
      const waiting = watched((await open(writer)).waitAbove(0n, abort.signal))
      await quiet()
      assert.equal(waiting.settled, false)
      abort.abort(new Error('enough'))
      await quiet()
      assert.match(String(waiting.error), /enough/)
    })

    test('survives stores that can not be asked, also all of them for a moment', async () => {
      const writer = await filled(1)
      const reader = await open(writer)
      for (const at of [0, 1, 2]) store(at).state = 'unreachable'
      const waiting = watched(reader.waitAbove(0n))
      await quiet()
      assert.equal(waiting.settled, false, 'or the caller would spin')
      await clock.advance(1_500)
      assert.equal(waiting.settled, true)
      assert.equal(waiting.error, undefined)
    })

    test('an aborted signal rejects with its reason', async () => {
      const writer = await filled(1)
      const reader = await open(writer)
      const abort = new AbortController()
      const waiting = watched(reader.waitAbove(0n, abort.signal))
      await quiet()
      abort.abort(new Error('enough'))
      await quiet()
      assert.match(String(waiting.error), /enough/)
      await assert.rejects(reader.waitAbove(0n, abort.signal), /enough/)
      await assert.rejects(reader.readEntries(0n, 0n, 1, abort.signal), /enough/)
    })
  })

  test('a ledger on many stores is followed and read without warnings of listeners', async () => {
    const wide = new World(clock, 14)
    const warnings: Error[] = []
    const warned = (warning: Error) => warnings.push(warning)
    process.on('warning', warned)
    try {
      const { context, stores } = wide.process()
      const writer = await newLedger(context, { ensemble: 14, copies: 14, ack: 8, min: 8 })
      await appendText(writer, 'one')
      const reader = await LedgerReader.open(context, writer.ledgerId)
      const stop = new AbortController()
      const waiting = watched(reader.waitAbove(0n, stop.signal))
      await quiet()
      stop.abort(new Error('enough'))
      await quiet()
      assert.equal(waiting.settled, true)
      // None answers, so that each is asked in its turn.
      for (const store of stores)
        store.fault = {
          before: (call) => (call === 'readEntries' ? new Promise<void>(() => undefined) : undefined),
        }
      const giveUp = new AbortController()
      const reading = watched(reader.readEntries(0n, 0n, 1, giveUp.signal))
      for (let asked = 0; asked < stores.length; asked += 1) {
        await clock.advance(1_000)
        await quiet()
      }
      giveUp.abort(new Error('enough'))
      await quiet()
      assert.equal(reading.settled, true)
      assert.deepEqual(warnings, [])
    } finally {
      process.off('warning', warned)
      await wide.end()
    }
  })
})
