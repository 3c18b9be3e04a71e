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
import { Gate } from '../helpers/memory-store.js'
import { quiet } from '../helpers/protocol.js'
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
      const trimmed = 'trimmed 1:0:0 2:0:0'
      assert.deepEqual(await withGaps({ from: { sequenceId: 0n } }), [trimmed, lost, ...names(9, 12)])
      await assert.rejects(read({ from: { sequenceId: 0n } }), code('gap'), 'as for a DLSN')
      const [gone] = await world.segments()
      await world.world.metadata.index.removeSegment(present(gone, 'one'))
      assert.deepEqual(await withGaps({ from: { sequenceId: 0n } }), [trimmed, lost, ...names(9, 12)])
      assert.deepEqual(await withGaps({ after: { sequenceId: 1n } }), [trimmed, lost, ...names(9, 12)])
    })

    test('what is lost behind the end of a read is nothing to it', async () => {
      await holed()
      const [, two, three] = await world.segments()
      const lost = present(two, 'two')
      assert.deepEqual(await read({ until: { sequenceId: lost.startSequenceId } }), [])
      assert.deepEqual(await read({ until: { txid: lost.firstTxid } }), [])
      const { startSequenceId } = present(three, 'three')
      assert.deepEqual(await withGaps({ until: { sequenceId: startSequenceId } }), ['corrupt 2:0:0 3:0:0'])
      await assert.rejects(read({ until: { sequenceId: lost.startSequenceId + 1n } }), code('gap'))
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
})

function big(_: string, value: unknown): unknown {
  return typeof value === 'bigint' ? `${value}n` : value
}
