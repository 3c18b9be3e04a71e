import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { present } from '../../src/model/assert.js'
import { json } from '../../src/model/codec.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { Position } from '../../src/model/position.js'
import type { Gap, LogRecord } from '../../src/model/record.js'
import type { ReadOptions } from '../../src/stream.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { failure, Gate } from '../helpers/memory-store.js'
import { quiet, watched } from '../helpers/protocol.js'
import { StreamWorld } from '../helpers/stream-world.js'

type Any = LogRecord<Uint8Array | string>

const code = (expected: string) => (error: unknown) => isStratalogError(error) && error.code === expected
const text = (record: { payload: Uint8Array }) => Buffer.from(record.payload).toString()

describe('reading', () => {
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

  describe('positions', () => {
    test('from is inclusive, after and until are exclusive, wherever the position lies', async () => {
      const all = await history()
      const count = all.length
      assert.deepEqual(await read(), names(0, count))
      assert.deepEqual(await read({ from: 'earliest' }), names(0, count))
      assert.deepEqual(await read({ from: 'latest' }), [])
      assert.deepEqual(await read({ until: 'latest' }), names(0, count))
      assert.deepEqual(await read({ until: 'earliest' }), [])
      for (const [at, record] of all.entries()) {
        assert.deepEqual(await read({ from: record.dlsn }), names(at, count), `from ${record.dlsn}`)
        assert.deepEqual(await read({ after: record.dlsn }), names(at + 1, count), `after ${record.dlsn}`)
        assert.deepEqual(await read({ until: record.dlsn }), names(0, at), `until ${record.dlsn}`)
        const { sequenceId } = record
        assert.deepEqual(await read({ from: { sequenceId } }), names(at, count))
        assert.deepEqual(await read({ after: { sequenceId } }), names(at + 1, count))
        assert.deepEqual(await read({ until: { sequenceId } }), names(0, at))
      }
    })

    test('txids: between records, equal ones over entries and segments, before the first, beyond the last', async () => {
      const all = await history()
      for (let txid = 0n; txid <= 80n; txid += 5n) {
        const first = all.findIndex((record) => record.txid >= txid)
        const beyond = all.findIndex((record) => record.txid > txid)
        const from = first < 0 ? all.length : first
        const after = beyond < 0 ? all.length : beyond
        assert.deepEqual(await read({ from: { txid } }), names(from, all.length), `from ${txid}`)
        assert.deepEqual(await read({ after: { txid } }), names(after, all.length), `after ${txid}`)
        assert.deepEqual(await read({ until: { txid } }), names(0, from), `until ${txid}`)
      }
      assert.deepEqual(await read({ after: { txid: 2n ** 63n - 1n } }), [])
    })

    test('time means txid where txids are milliseconds, also as text and Date', async () => {
      const stream = world.stream('clicks')
      const start = Date.UTC(2025, 0, 31)
      for (let hour = 0; hour < 5; hour += 1) {
        await stream.append(`${hour}`, { txid: BigInt(start + hour * 3_600_000) })
      }
      const from = async (time: string | Date | number) => read({ from: { time } }, 'clicks')
      assert.deepEqual(await from('2025-01-31T02:00Z'), ['2', '3', '4'])
      assert.deepEqual(await from(new Date(start + 1)), ['1', '2', '3', '4'])
      assert.deepEqual(await from(start - 1), ['0', '1', '2', '3', '4'])
      assert.deepEqual(await from(-5), ['0', '1', '2', '3', '4'])
      assert.deepEqual(await read({ until: { time: '2025-01-31T02:00Z' } }, 'clicks'), ['0', '1'])
      assert.deepEqual(await read({ after: { time: '2025-01-31T02:00Z' } }, 'clicks'), ['3', '4'])
      await assert.rejects(from('yesterdayish'), code('position_invalid'))
      await assert.rejects(from(Number.NaN), code('position_invalid'))
    })

    test('time means completion of segments where txids are the application’s', async () => {
      await world.create('orders', 'custom')
      const stream = world.stream()
      const sealed: number[] = []
      for (let segment = 0; segment < 3; segment += 1) {
        await stream.append(`${segment}`, { txid: BigInt(segment) })
        clock.jump(60_000)
        await roll()
        sealed.push(clock.nowMs())
      }
      await stream.append('3', { txid: 9n })
      assert.deepEqual(await read({ from: { time: 0 } }), names(0, 4))
      assert.deepEqual(await read({ from: { time: sealed[1] ?? 0 } }), names(1, 4))
      assert.deepEqual(await read({ after: { time: sealed[1] ?? 0 } }), names(2, 4))
      assert.deepEqual(await read({ until: { time: sealed[2] ?? 0 } }), names(0, 2))
      assert.deepEqual(await read({ from: { time: (sealed[2] ?? 0) + 1 } }), names(3, 4))
    })

    test('limits', async () => {
      await history()
      for (const limit of [0, 1, 2, 5, 11, 12]) {
        assert.deepEqual(await read({ limit }), names(0, Math.min(limit, 12)), `limit ${limit}`)
        assert.deepEqual(await read({ limit, from: { sequenceId: 4n } }), names(4, Math.min(4 + limit, 12)))
      }
      for (const limit of [-1, 0.5, Number.NaN])
        await assert.rejects(read({ limit }), code('invalid_argument'))
    })

    test('what can not be a position is refused', async () => {
      const all = await history()
      const last = present(all.at(-1), 'last')
      const from: [Position, string][] = [
        [new Dlsn(0n, 0n, 0n), 'position_out_of_range'],
        [new Dlsn(9n, 0n, 0n), 'position_out_of_range'],
        [new Dlsn(last.dlsn.segment + 1n, 0n, 1n), 'position_out_of_range'],
        [{ txid: -1n }, 'position_invalid'],
        [{ sequenceId: -1n }, 'position_invalid'],
        [{ txid: 5 as unknown as bigint }, 'position_invalid'],
        [{ txid: 2n ** 64n }, 'position_invalid'],
      ]
      for (const [position, expected] of from) {
        await assert.rejects(read({ from: position }), code(expected), JSON.stringify(position, big))
      }
      await assert.rejects(read({ from: 'earliest', after: 'earliest' }), code('invalid_argument'))
      await roll()
      await assert.rejects(read({ from: { sequenceId: 13n } }), code('position_out_of_range'))
      assert.deepEqual(await read({ from: { sequenceId: 12n } }), [], 'the next one is fine')
      assert.deepEqual(await read({ after: last.dlsn }), [])
    })

    test('unknown and empty streams', async () => {
      await assert.rejects(read({}, 'nobody'), code('stream_not_found'))
      await world.create('orders', 'custom')
      for (const from of [
        'earliest',
        'latest',
        { txid: 5n },
        { sequenceId: 0n },
        { time: 0 },
      ] as Position[]) {
        assert.deepEqual(await read({ from }), [])
      }
      await assert.rejects(read({ from: { sequenceId: 1n } }), code('position_out_of_range'))
      assert.deepEqual(await world.stream().tail(5), [])
    })
  })

  test('batches hold the same records, and counts say which tier served them', async () => {
    await history()
    const [first] = await world.segments()
    await world.evict(await world.archive(present(first, 'segment')))
    const records = world.stream().read()
    for (let turn = 0; turn < 2; turn += 1) {
      const found: string[] = []
      for await (const batch of records.batches()) found.push(...batch.map(text))
      assert.deepEqual(found, names(0, 12))
      assert.deepEqual(records.counts, { hot: 7, cold: 5 })
    }
  })

  test('the codec decodes; what it throws reaches the reader', async () => {
    const stream = world.codecStream(json<{ at: number }>())
    await stream.append({ at: 1 })
    for await (const { value } of stream.read()) assert.equal(value.at, 1)
    await world.stream().append('no json')
    await assert.rejects(async () => {
      for await (const _ of stream.read());
    }, SyntaxError)
  })

  test('tail gives the last records that are confirmed', async () => {
    await history()
    const stream = world.stream()
    assert.deepEqual((await stream.tail(3)).map(text), names(9, 12))
    assert.deepEqual((await stream.tail(100)).map(text), names(0, 12))
    assert.deepEqual(await stream.tail(0), [])
    const gate = new Gate()
    for (const store of world.stores) {
      store.fault = { before: (call) => (call === 'addEntry' ? gate.wait() : undefined) }
    }
    const ack = stream.append('pending')
    await quiet()
    assert.deepEqual((await stream.tail(3)).map(text), names(9, 12), 'what is pending does not count')
    gate.open()
    await ack
    assert.deepEqual((await stream.tail(2)).map(text), ['11', 'pending'])
  })

  describe('gaps', () => {
    /** Segment 1 trimmed, segment 2 lost. */
    const holed = async () => {
      const all = await history()
      const { index } = world.world.metadata
      const [one, two] = await world.segments()
      await index.updateSegment(present(two, 'two'), { state: 'gap', ledgerId: null })
      await index.updateSegment(present(one, 'one'), { state: 'trimmed', ledgerId: null })
      const row = await world.row()
      await index.updateStream(row.incarnation, row.version, { trimmedBelow: new Dlsn(2n, 0n, 0n) })
      return all
    }
    const withGaps = async (options: ReadOptions): Promise<string[]> => {
      const found: string[] = []
      for await (const one of world.stream().read({ ...options, onGap: 'yield' })) {
        const gap = one as Partial<Gap>
        found.push(gap.gap === undefined ? text(one as Any) : `${gap.gap} ${gap.from} ${gap.until}`)
      }
      return found
    }

    test('a hole is never passed over in silence; what was trimmed only for who asks for the earliest', async () => {
      await holed()
      const lost = 'corrupt 2:0:0 3:0:0'
      assert.deepEqual(await withGaps({}), [lost, ...names(9, 12)])
      await assert.rejects(read(), code('gap'))
      assert.deepEqual(await withGaps({ from: new Dlsn(1n, 0n, 0n) }), [
        'trimmed 1:0:0 2:0:0',
        lost,
        ...names(9, 12),
      ])
      await assert.rejects(read({ from: new Dlsn(1n, 1n, 0n) }), code('gap'))
      assert.deepEqual(await withGaps({ from: { txid: 0n } }), [lost, ...names(9, 12)])
      assert.deepEqual(await withGaps({ from: { txid: 40n } }), [lost, ...names(9, 12)])
      assert.deepEqual(await withGaps({ from: { sequenceId: 6n } }), [lost, ...names(9, 12)])
      assert.deepEqual(await read({ from: { sequenceId: 9n } }), names(9, 12))
    })

    test('a trim within a segment', async () => {
      const all = await history()
      const row = await world.row()
      const below = present(all[3], 'record').dlsn
      await world.world.metadata.index.updateStream(row.incarnation, row.version, { trimmedBelow: below })
      assert.deepEqual(await read(), names(3, 12))
      assert.deepEqual(await withGaps({ from: Dlsn.first }), [`trimmed 1:0:0 ${below}`, ...names(3, 12)])
      assert.deepEqual(await read({ from: { txid: 0n } }), names(3, 12))
    })
  })

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

function big(_: string, value: unknown): unknown {
  return typeof value === 'bigint' ? `${value}n` : value
}
