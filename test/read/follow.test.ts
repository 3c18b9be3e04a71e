import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { present } from '../../src/model/assert.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { LogRecord } from '../../src/model/record.js'
import type { ReadOptions } from '../../src/stream.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { failure, Gate } from '../helpers/memory-store.js'
import { quiet, watched } from '../helpers/protocol.js'
import { StreamWorld } from '../helpers/stream-world.js'

type Any = LogRecord<Uint8Array | string>

const code = (expected: string) => (error: unknown) => isStratalogError(error) && error.code === expected
const text = (record: { payload: Uint8Array }) => Buffer.from(record.payload).toString()

describe('reading while things change', () => {
  let clock: ManualClock
  let world: StreamWorld
  beforeEach(() => {
    clock = new ManualClock()
    world = new StreamWorld(clock)
  })
  afterEach(() => world.end())

  const read = async (options: ReadOptions = {}, name = 'orders'): Promise<string[]> => {
    const found: string[] = []
    for await (const record of world.stream(name).read(options)) found.push(text(record))
    return found
  }
  const roll = async (): Promise<void> => (await world.hub.writer(await world.row())).roll()
  /** Three segments of entries with these txids; record names are their sequence ids. The last segment stays open. */
  const history = async (
    segments: readonly (readonly (readonly bigint[])[])[] = [
      [[10n, 20n], [20n], [20n, 30n]],
      [[30n], [30n, 40n, 50n]],
      [[50n, 60n], [70n]],
    ],
  ): Promise<Any[]> => {
    await world.create('orders', 'custom')
    const stream = world.stream()
    let next = 0
    for (const [at, entries] of segments.entries()) {
      for (const txids of entries) {
        await Promise.all(txids.map((txid) => stream.append(`${next++}`, { txid })))
      }
      if (at < segments.length - 1) await roll()
    }
    const all: Any[] = []
    for await (const record of stream.read()) all.push(record)
    assert.equal(all.length, next)
    return all
  }
  const names = (from: number, until: number) =>
    Array.from({ length: Math.max(0, until - from) }, (_, id) => `${from + id}`)

  describe('following', () => {
    /** Follows until `count` records came or `ms` passed, then stops. */
    const follow = (options: ReadOptions = {}) => {
      const abort = new AbortController()
      const found: string[] = []
      const ended = watched(
        (async () => {
          for await (const record of world
            .stream()
            .read({ ...options, follow: true, signal: abort.signal })) {
            found.push(text(record))
          }
        })(),
      )
      const stop = async () => {
        abort.abort(new Error('enough'))
        await quiet(6)
        assert.ok(ended.settled, 'it ends when told to')
        assert.equal(ended.error, undefined, String(ended.error))
      }
      return { found, ended, stop }
    }
    const settle = () => quiet(10)

    test('sees what is appended later, over rolls, and ends normally on abort', async () => {
      const stream = world.stream()
      await stream.append('0')
      const reader = follow()
      await settle()
      assert.deepEqual(reader.found, ['0'])
      for (let id = 1; id < 40; id += 1) {
        await stream.append(`${id}`)
        if (id % 5 === 0) await roll()
        if (id % 3 === 0) {
          await settle()
          assert.deepEqual(reader.found, names(0, id + 1), `after record ${id}`)
        }
      }
      await settle()
      await reader.stop()
      assert.deepEqual(reader.found, names(0, 40))
      await clock.advance(120_000)
      assert.equal(clock.pending, 0, 'no timer is left')
    })

    test('from the start of a stream without any record, and across an empty segment that is removed', async () => {
      await world.create('orders', 'custom')
      const reader = follow()
      await settle()
      for (const store of world.stores) {
        store.fault = {
          before: (call) => {
            if (call === 'addEntry') throw failure('io_failed', 'EIO')
          },
        }
      }
      await assert.rejects(world.stream().append('lost', { txid: 1n }))
      await settle()
      for (const store of world.stores) store.fault = {}
      await world.stream().append('0', { txid: 1n })
      await settle()
      assert.deepEqual(reader.found, ['0'])
      await reader.stop()
    })

    test('limit, until and positions beyond the end', async () => {
      await history()
      const stream = world.stream()
      const readers = [
        follow({ from: 'latest' }),
        follow({ from: { txid: 75n } }),
        follow({ from: { sequenceId: 14n } }),
        follow({ after: { sequenceId: 11n }, limit: 2 }),
        follow({ from: 'latest', until: { sequenceId: 14n } }),
        follow({ from: 'latest', until: { txid: 80n } }),
        follow({ after: { txid: 75n } }),
      ]
      await settle()
      for (const txid of [72n, 74n, 75n, 76n, 80n]) {
        await stream.append(`${txid}`, { txid })
        await settle()
      }
      const all = ['72', '74', '75', '76', '80']
      assert.deepEqual(
        readers.map(({ found }) => found),
        [
          all,
          ['75', '76', '80'],
          ['75', '76', '80'],
          ['72', '74'],
          ['72', '74'],
          all.slice(0, 4),
          ['76', '80'],
        ],
      )
      for (const at of [3, 4, 5]) assert.ok(readers[at]?.ended.settled)
      for (const reader of readers) await reader.stop()
    })

    test('goes on while segments are sealed, archived and evicted under it', async () => {
      world.rollAt(100)
      const stream = world.stream()
      await world.create('orders')
      const reader = follow()
      for (let id = 0; id < 60; id += 1) {
        await stream.append(`${id}`)
        const rows = await world.segments()
        const sealed = rows.find(({ state }) => state === 'sealed')
        const archived = rows.find(({ state }) => state === 'archived')
        if (archived !== undefined && id % 4 === 1) await world.evict(archived)
        else if (sealed !== undefined && id % 2 === 0) await world.archive(sealed)
        if (id % 7 === 0) await settle()
      }
      await settle()
      await reader.stop()
      assert.deepEqual(reader.found, names(0, 60))
    })

    test('survives the loss and return of stores', async () => {
      const stream = world.stream()
      await stream.append('0')
      const reader = follow()
      await settle()
      present(world.stores[0], 'store').state = 'unreachable'
      await stream.append('1')
      await settle()
      assert.deepEqual(reader.found, ['0', '1'])
      present(world.stores[0], 'store').state = 'writable'
      await stream.append('2')
      await settle()
      assert.deepEqual(reader.found, ['0', '1', '2'])
      await reader.stop()
    })

    test('a seal that reaches one store first does not make it spin', async () => {
      const stream = world.stream()
      await stream.append('0')
      const reader = follow()
      await settle()
      const gate = new Gate()
      for (const store of world.stores.slice(1)) {
        store.fault = { before: (call) => (call === 'sealLedger' ? gate.wait() : undefined) }
      }
      const looks = () => world.stores.reduce((sum, store) => sum + (store.calls.get('readLac') ?? 0), 0)
      const rolled = roll()
      await settle()
      const before = looks()
      await quiet(200)
      assert.ok(looks() - before <= 6, `${looks() - before} looks`)
      gate.open()
      await rolled
      await stream.append('1')
      await settle()
      assert.deepEqual(reader.found, ['0', '1'])
      await reader.stop()
    })

    test('many wake-ups leave nothing behind on the signal of the caller', async () => {
      const stream = world.stream()
      await stream.append('0')
      const abort = new AbortController()
      let listeners = 0
      const { signal } = abort
      const add = signal.addEventListener.bind(signal)
      const remove = signal.removeEventListener.bind(signal)
      signal.addEventListener = (...args: Parameters<typeof add>) => {
        listeners += 1
        add(...args)
      }
      signal.removeEventListener = (...args: Parameters<typeof remove>) => {
        listeners -= 1
        remove(...args)
      }
      const found: string[] = []
      const ended = watched(
        (async () => {
          for await (const record of stream.read({ follow: true, signal })) found.push(text(record))
        })(),
      )
      for (let id = 1; id < 100; id += 1) {
        await stream.append(`${id}`)
        await quiet(1)
      }
      await settle()
      assert.equal(found.length, 100)
      assert.ok(listeners <= 3, `${listeners} listeners`)
      abort.abort()
      await settle()
      assert.ok(ended.settled && ended.error === undefined)
    })

    test('without follow an aborted signal rejects with its reason', async () => {
      await history()
      const signal = AbortSignal.abort(new Error('enough'))
      await assert.rejects(read({ signal }), /enough/)
      const abort = new AbortController()
      await assert.rejects(async () => {
        for await (const _ of world.stream().read({ signal: abort.signal }))
          abort.abort(new Error('in between'))
      }, /in between/)
      assert.deepEqual(await read({ follow: true, signal }), [])
    })

    test('who stops iterating leaves nothing behind', async () => {
      await history()
      for await (const record of world.stream().read({ follow: true })) if (text(record) === '11') break
      await clock.advance(60_000)
      assert.equal(clock.pending, 0)
    })
  })

  describe('tiers', () => {
    test('a segment that is evicted between two fetches goes on from the archive', async () => {
      const stream = world.stream()
      const payload = Buffer.alloc(400_000)
      for (let id = 0; id < 12; id += 1) {
        payload.write(`${id}`.padStart(4))
        await stream.append(payload)
      }
      await roll()
      const found: number[] = []
      for await (const batch of stream.read().batches()) {
        found.push(...batch.map((record) => Number(text(record).slice(0, 4))))
        const [row] = await world.segments()
        if (row?.state === 'sealed') await world.evict(await world.archive(row))
      }
      assert.deepEqual(
        found,
        Array.from({ length: 12 }, (_, id) => id),
      )
    })

    test('where one tier fails the other serves; where both do, the error is told', async () => {
      const all = await history()
      const [first] = await world.segments()
      await world.archive(present(first, 'segment'))
      await roll()
      const hot = failure('io_failed', 'hot is broken')
      const broken = async () => {
        const outcome = watched(read({ until: new Dlsn(2n, 0n, 0n) }))
        await clock.advance(10_000)
        return outcome
      }
      world.failing = { hot }
      assert.deepEqual((await broken()).value, names(0, 5))
      const located = watched(read({ from: { txid: 20n }, until: new Dlsn(2n, 0n, 0n) }))
      await clock.advance(10_000)
      assert.deepEqual(located.value, names(1, 5))
      world.failing = { hot, cold: failure('archive_unavailable', 'cold is broken') }
      assert.match(String((await broken()).error), /is broken/)
      world.failing = {}
      assert.equal((await read()).length, all.length)
    })

    test('a store that is away for a moment is tried again; what stays broken is told', async () => {
      await history()
      for (const store of world.stores) store.state = 'unreachable'
      const back = watched(read())
      await quiet()
      for (const store of world.stores) store.state = 'writable'
      await clock.advance(1_000)
      assert.deepEqual(back.value, names(0, 12))
      for (const store of world.stores) store.state = 'unreachable'
      const gone = watched(read())
      await clock.advance(60_000)
      assert.ok(code('store_unavailable')(gone.error))
      for (const store of world.stores) store.state = 'writable'
    })

    test('what is appended while a position is looked up is not passed over', async () => {
      await history([[[10n], [20n], [30n]]])
      const late = world.stores[0]
      let appended: Promise<unknown> | null = null
      // In the middle of the search for 35 a record with 40 comes in.
      for (const store of world.stores) {
        store.fault = {
          after: async (call) => {
            if (call !== 'readEntries' || appended !== null) return
            appended = world.stream().append('40', { txid: 40n })
            await appended
          },
        }
      }
      const abort = new AbortController()
      const found: string[] = []
      const ended = watched(
        (async () => {
          const range = { from: { txid: 35n }, follow: true, signal: abort.signal }
          for await (const record of world.stream().read(range)) found.push(text(record))
        })(),
      )
      await quiet(10)
      abort.abort()
      await quiet()
      assert.ok(ended.settled && late !== undefined)
      assert.deepEqual(found, ['40'])
    })
  })
})
