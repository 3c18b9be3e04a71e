import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { openWriter } from '../../src/append/open-writer.js'
import type { StreamWriter } from '../../src/append/stream-writer.js'
import { TakenBytes } from '../../src/append/taken-bytes.js'
import { LedgerReader } from '../../src/ledger/reader.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import { type Ack, ENTRY_BYTES_MAX, type LogRecord, PAYLOAD_BYTES_MAX } from '../../src/model/record.js'
import { userRecords } from '../../src/read/source.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { failure, Gate } from '../helpers/memory-store.js'
import { quiet, watched } from '../helpers/protocol.js'
import { StreamWorld } from '../helpers/stream-world.js'

const code = (expected: string) => (error: unknown) => isStratalogError(error) && error.code === expected
const text = (payload: Uint8Array) => Buffer.from(payload).toString()

describe('appending', () => {
  let clock: ManualClock
  let world: StreamWorld
  beforeEach(() => {
    clock = new ManualClock()
    world = new StreamWorld(clock)
  })
  afterEach(() => world.end())

  /** All adds wait until the gate opens. */
  const hold = (): Gate => {
    const gate = new Gate()
    for (const store of world.stores) {
      store.fault = { before: (call) => (call === 'addEntry' ? gate.wait() : undefined) }
    }
    return gate
  }
  const writerOf = async (name = 'orders'): Promise<StreamWriter> => world.hub.writer(await world.row(name))
  const all = async (name = 'orders'): Promise<LogRecord<Uint8Array | string>[]> => {
    const records: LogRecord<Uint8Array | string>[] = []
    for await (const record of world.stream(name).read()) records.push(record)
    return records
  }
  /** Records per entry of each segment, oldest first. */
  const shape = async (name = 'orders'): Promise<number[][]> => {
    const found: number[][] = []
    for (const row of await world.segments(name)) {
      const reader = await LedgerReader.open(world.process.context, present(row.ledgerId, 'ledger'))
      const last = await reader.lastConfirmed()
      const counts: number[] = []
      for (let id = 0n; id <= last; id += 1n) {
        const [entry] = await reader.readEntries(id, id, 1)
        counts.push(userRecords(present(entry, 'entry').payload).length)
      }
      found.push(counts)
    }
    return found
  }
  const checkDense = (acks: readonly Ack[], records: readonly LogRecord<unknown>[]) => {
    assert.deepEqual(
      records.map(({ sequenceId }) => sequenceId),
      records.map((_, at) => BigInt(at)),
    )
    assert.deepEqual(
      acks.map(({ dlsn, sequenceId, txid }) => `${dlsn} ${sequenceId} ${txid}`),
      records.map(({ dlsn, sequenceId, txid }) => `${dlsn} ${sequenceId} ${txid}`),
    )
  }

  describe('batches', () => {
    test('a lone append is sent at once; those of one turn share an entry', async () => {
      const stream = world.stream()
      await stream.append('alone')
      await Promise.all(['a', 'b', 'c'].map((value) => stream.append(value)))
      await stream.append('alone again')
      assert.deepEqual(await shape(), [[1, 3, 1]])
    })

    test('what comes while an entry is in flight is gathered, and sent when it is acknowledged', async () => {
      const stream = world.stream()
      await stream.append('first')
      const gate = hold()
      const acks = [stream.append('x')]
      await quiet()
      for (let id = 0; id < 5; id += 1) {
        acks.push(stream.append(`${id}`))
        await quiet()
      }
      assert.equal(gate.held, 3, 'one entry at three stores')
      gate.open()
      await Promise.all(acks)
      assert.deepEqual(await shape(), [[1, 1, 5]])
    })

    test('full entries are sent while others are in flight, within the bound of bytes in flight', async () => {
      world.inFlightBytesMax = 1024 * 1024
      const stream = world.stream()
      await stream.append('first')
      const gate = hold()
      const acks = Array.from({ length: 40 }, () => stream.append(Buffer.alloc(100_000)))
      await quiet()
      assert.equal(gate.held, 10 * 3, 'ten entries of 100,020 bytes stay below a mebibyte, on three stores')
      gate.open()
      await Promise.all(acks)
      const [counts] = await shape()
      assert.equal(
        counts?.reduce((sum, count) => sum + count, 0),
        41,
      )
    })

    test('entries stay within their bound, with records of exactly the largest size', async () => {
      const stream = world.stream()
      await stream.append('first')
      const gate = hold()
      const sizes = [PAYLOAD_BYTES_MAX, 1, PAYLOAD_BYTES_MAX, 200_000, 900_000, PAYLOAD_BYTES_MAX, 0]
      const acks = sizes.map((size) => stream.append(Buffer.alloc(size, size % 256)))
      gate.open()
      await Promise.all(acks)
      for (const { ledgers } of world.world.replicas) {
        for (const { entries } of ledgers.values()) {
          for (const bytes of entries.values()) assert.ok(bytes.length <= ENTRY_BYTES_MAX + 36 + 13)
        }
      }
      const records = await all()
      assert.deepEqual(
        records.slice(1).map(({ payload }) => payload.length),
        sizes,
      )
      for (const { payload } of records.slice(1)) {
        assert.ok(payload.every((byte) => byte === payload.length % 256))
      }
      await assert.rejects(stream.append(Buffer.alloc(PAYLOAD_BYTES_MAX + 1)), code('record_too_large'))
      await assert.rejects(stream.append('é'.repeat(PAYLOAD_BYTES_MAX / 2 + 1)), code('record_too_large'))
      assert.equal((await stream.append('next')).sequenceId, BigInt(sizes.length + 1), 'refused without harm')
    })

    test('empty payloads and any text come back as they were', async () => {
      const stream = world.stream()
      const values = ['', 'grüße', '日本語', '🦆🦆', 'a\u0000b', '\uD800 alone']
      await Promise.all(values.map((value) => stream.append(value)))
      await stream.append(new Uint8Array(0))
      assert.deepEqual(
        (await all()).map(({ payload }) => text(payload)),
        [...values.slice(0, -1), '\uFFFD alone', ''],
      )
    })

    test('the payload is the caller’s again at once, also before the writer is open', async () => {
      const stream = world.stream()
      const buffer = Buffer.from('one')
      const acks = [stream.append(buffer)]
      buffer.fill('x')
      await Promise.all(acks)
      buffer.set(Buffer.from('two'))
      acks.push(stream.append(buffer))
      buffer.fill('x')
      await Promise.all(acks)
      assert.deepEqual(
        (await all()).map(({ payload }) => text(payload)),
        ['one', 'two'],
      )
    })

    test('beyond what may wait appends are refused with backpressure, and work again afterwards', async () => {
      world.takenBytesMax = 100_000
      const stream = world.stream()
      await stream.append('first')
      const gate = hold()
      const outcomes = Array.from({ length: 5 }, () => watched(stream.append(Buffer.alloc(40_000))))
      await quiet()
      assert.ok(outcomes.slice(0, 2).every(({ settled }) => !settled))
      assert.ok(outcomes.slice(2).every(({ error }) => code('backpressure')(error)))
      gate.open()
      await quiet()
      assert.ok(outcomes.slice(0, 2).every(({ value }) => value !== undefined))
      assert.equal((await stream.append('more')).sequenceId, 3n)
    })

    test('all streams together have a bound, and one that has nothing under way goes on (invariant 11)', async () => {
      const taken = new TakenBytes(100_000)
      world.taken = taken
      const names = ['a', 'b', 'c', 'd']
      for (const name of names) await world.stream(name).append('first')
      assert.equal(taken.bytes, 0)
      const gate = hold()
      const append = (name: string, bytes = 40_000) => watched(world.stream(name).append(Buffer.alloc(bytes)))
      const first = names.map((name) => append(name))
      const more = names.map((name) => append(name, 1))
      await quiet()
      // Each had nothing under way, so each took one, and not another byte.
      assert.ok(first.every(({ settled }) => !settled))
      assert.ok(more.every(({ error }) => code('backpressure')(error)))
      assert.match(String(more[0]?.error), /all streams together/)
      gate.open()
      await quiet()
      assert.ok(first.every(({ value }) => value !== undefined))
      assert.equal(taken.bytes, 0)
      // What a writer gave up is no longer waited for: others have the room.
      for (const store of world.stores) {
        store.fault = {
          before: (call) => {
            if (call === 'addEntry') throw failure('fenced', 'another writer took over')
            return undefined
          },
        }
      }
      const fenced = [append('a'), append('a')]
      await quiet()
      assert.ok(fenced.every(({ error }) => code('fenced')(error)))
      assert.equal(taken.bytes, 0)
    })
  })

  describe('numbers', () => {
    test('acknowledgements say where readers find the record, dense over rolls by size', async () => {
      world.rollAt(500)
      const stream = world.stream()
      const acks: Ack[] = []
      for (let id = 0; id < 30; id += 1) {
        const some = Array.from({ length: (id % 5) + 1 }, (_, at) => stream.append(`record ${id}/${at}`))
        acks.push(...(await Promise.all(some)))
      }
      const records = await all()
      checkDense(acks, records)
      const rows = await world.segments()
      assert.ok(rows.length > 3, `${rows.length} segments`)
      let next = 0n
      for (const row of rows) {
        assert.equal(row.startSequenceId, next)
        if (row.state === 'sealed') next += row.recordCount
        assert.equal(row.firstTxid, records[Number(row.startSequenceId)]?.txid)
        const last = records[Number(next) - 1]
        if (row.state === 'sealed') {
          assert.equal(row.lastTxid, last?.txid)
          assert.equal(`${row.segment}:${row.lastEntryId}:${row.lastSlot}`, last?.dlsn.toString())
        }
      }
      assert.deepEqual(JSON.parse(JSON.stringify(acks[0])), {
        dlsn: '1:0:0',
        sequenceId: '0',
        txid: clock.nowMs().toString(),
        time: clock.nowMs(),
        copies: 2,
        duplicate: false,
      })
    })

    test('it rolls while appends keep coming, without a pause in the numbers', async () => {
      world.rollAt(2_000)
      const stream = world.stream()
      const acks: Promise<Ack>[] = []
      for (let id = 0; id < 500; id += 1) {
        acks.push(stream.append(`record ${id} ${'x'.repeat(id % 50)}`))
        if (id % 7 === 0) await quiet(1)
        if (id % 100 === 50) acks.push((await writerOf()).roll().then(() => stream.append('after a roll')))
      }
      const done = await Promise.all(acks)
      const order = [...done].sort((a, b) => (a.sequenceId < b.sequenceId ? -1 : 1))
      checkDense(order, await all())
      assert.ok((await world.segments()).length > 10)
    })

    test('acknowledgements resolve in order, over segments too', async () => {
      world.rollAt(300)
      const stream = world.stream()
      const order: bigint[] = []
      const appends = Array.from({ length: 100 }, (_, id) =>
        stream.append(`${id}`).then(({ sequenceId }) => order.push(sequenceId)),
      )
      await Promise.all(appends)
      assert.deepEqual(
        order,
        Array.from({ length: 100 }, (_, id) => BigInt(id)),
      )
    })

    test('without a txid the clock counts, but never goes back; a lower one is refused without harm', async () => {
      const stream = world.stream()
      const start = clock.nowMs()
      assert.equal((await stream.append('a')).txid, BigInt(start))
      clock.jump(-5_000)
      assert.equal((await stream.append('b')).txid, BigInt(start))
      const far = BigInt(start) + 1_000_000n
      assert.equal((await stream.append('c', { txid: far })).txid, far)
      await assert.rejects(stream.append('d', { txid: far - 1n }), code('txid_not_monotonic'))
      await assert.rejects(stream.append('d', { txid: -1n }), code('txid_out_of_range'))
      await assert.rejects(stream.append('d', { txid: 2n ** 63n - 1n }), code('txid_out_of_range'))
      await assert.rejects(stream.append('d', { txid: 5 as unknown as bigint }), code('txid_out_of_range'))
      assert.equal((await stream.append('e', { txid: far })).sequenceId, 3n, 'equal ones are fine')
      assert.equal((await stream.append('f')).txid, far)
      assert.deepEqual(
        (await all()).map(({ payload }) => text(payload)),
        ['a', 'b', 'c', 'e', 'f'],
      )
    })

    test('what is no payload is refused without harm', async () => {
      const stream = world.stream()
      for (const bad of [undefined, null, 42, {}, [1]]) {
        await assert.rejects(stream.append(bad as unknown as string), code('invalid_argument'))
      }
      assert.equal((await stream.append('fine')).sequenceId, 0n)
      await assert.rejects(stream.append(42 as unknown as string), code('invalid_argument'))
      assert.equal((await stream.append('fine')).sequenceId, 1n)
    })

    test('appends issued before the writer is open keep their order, whoever issues them in between', async () => {
      const stream = world.stream()
      const acks: Promise<Ack>[] = []
      const append = (value: string) => acks.push(stream.append(value))
      let issued = 0
      for (let id = 0; id < 50; id += 1) append(`${issued++}`)
      // Each microtask while it opens issues one more: none may overtake those before it.
      for (let turn = 0; turn < 300; turn += 1) {
        await Promise.resolve()
        append(`${issued++}`)
        queueMicrotask(() => append(`${issued++}`))
      }
      await quiet()
      await Promise.all(acks)
      assert.deepEqual(
        (await all()).map(({ payload }) => text(payload)),
        Array.from({ length: issued }, (_, id) => `${id}`),
      )
    })
  })

  describe('ends', () => {
    test('closing seals everything taken, and nothing is taken afterwards', async () => {
      const stream = world.stream()
      const gate = hold()
      const acks = ['a', 'b', 'c'].map((value) => stream.append(value))
      await quiet(6)
      const closed = watched(world.hub.close())
      await quiet()
      assert.equal(closed.settled, false)
      await assert.rejects(stream.append('late'), code('closed'))
      gate.open()
      await Promise.all(acks)
      await quiet()
      assert.equal(closed.settled, true)
      const [row] = await world.segments()
      assert.equal(row?.state, 'sealed')
      assert.equal(row?.recordCount, 3n)
    })

    test('a roll right after another, or a close, waits for the segment that is on its way', async () => {
      const stream = world.stream()
      await stream.append('first')
      const writer = await writerOf()
      await writer.roll()
      const gate = hold()
      const ack = watched(writer.append('x', null))
      const rolls = [watched(writer.roll()), watched(writer.roll())]
      await quiet()
      const third = watched(writer.roll())
      const closed = watched(writer.close())
      await quiet()
      for (const one of [...rolls, third, closed]) assert.equal(one.settled, false)
      gate.open()
      await quiet()
      for (const one of [ack, ...rolls, third, closed]) assert.ok(one.settled && one.error === undefined)
      assert.deepEqual(
        (await world.segments()).map(({ state }) => state),
        ['sealed', 'sealed'],
      )
    })

    test('rolling with nothing open does nothing', async () => {
      await world.stream().append('a')
      const writer = await writerOf()
      await writer.roll()
      await writer.roll()
      await writer.roll()
      assert.equal((await world.segments()).length, 1)
    })

    test('a failure rejects all that is pending once; the hub opens anew and continues the numbers', async () => {
      const stream = world.stream()
      await stream.append('kept')
      for (const store of world.stores.slice(0, 2)) {
        store.fault = {
          before: (call) => {
            if (call === 'addEntry') throw failure('io_failed', 'EIO')
          },
        }
      }
      const outcomes = ['b', 'c'].map((value) => watched(stream.append(value)))
      await quiet()
      for (const { error } of outcomes) assert.ok(code('not_enough_stores')(error))
      for (const store of world.stores) store.fault = {}
      // The third store has the lost entry: recovery may find it, and then counts it.
      const acks = await Promise.all(['d', 'e', 'f'].map((value) => stream.append(value)))
      const records = await all()
      assert.deepEqual(
        records.map(({ sequenceId }) => sequenceId),
        records.map((_, at) => BigInt(at)),
      )
      assert.deepEqual(
        records.slice(-3).map(({ dlsn }) => `${dlsn}`),
        acks.map(({ dlsn }) => `${dlsn}`),
      )
      assert.deepEqual(
        records.slice(-3).map(({ payload }) => text(payload)),
        ['d', 'e', 'f'],
      )
      assert.equal(text(present(records[0], 'record').payload), 'kept')
      assert.equal((await world.segments())[0]?.state, 'sealed')
    })

    test('no store at all: appends fail, and work when stores are back', async () => {
      const stream = world.stream()
      for (const store of world.stores) store.state = 'full'
      const outcomes = ['a', 'b'].map((value) => watched(stream.append(value)))
      await quiet()
      for (const { error } of outcomes) assert.ok(code('not_enough_stores')(error))
      for (const store of world.stores) store.state = 'writable'
      const acks = await Promise.all(['c', 'd'].map((value) => stream.append(value)))
      assert.deepEqual(
        acks.map(({ sequenceId }) => sequenceId),
        [0n, 1n],
      )
    })

    test('an empty segment that was left behind is removed and its number used again', async () => {
      const stream = world.stream()
      const gate = hold()
      const lost = watched(stream.append('lost'))
      await quiet(6)
      // Fenced with its first entry on the way: the segment stays as it is.
      const writer = await writerOf()
      for (const store of world.stores) await store.fence(present(writer.openSegment?.row.ledgerId, 'ledger'))
      gate.open()
      await quiet()
      assert.ok(code('fenced')(lost.error))
      await world.hub.close()
      const [left] = await world.segments()
      assert.equal(left?.state, 'open')
      const other = new StreamWorld(clock, world.world)
      assert.equal(`${(await other.stream().append('kept')).dlsn}`, '1:0:0')
      await other.hub.close()
      const [row, ...more] = await world.segments()
      assert.deepEqual(more, [])
      assert.notEqual(row?.ledgerId, left?.ledgerId)
    })

    test('another process takes over: the first writer’s appends fail as fenced, for good', async () => {
      const stream = world.stream()
      await stream.append('a')
      const gate = hold()
      const pending = watched(stream.append('pending'))
      await quiet()
      const row = await world.row()
      // The second process: its own way to the stores, and no lease in the first one's memory.
      const other = new StreamWorld(clock, world.world)
      const lease = { name: 'w', epoch: 2n, lost: new AbortController().signal, release: async () => {} }
      const segments = { ledger: other.process.context, index: world.world.metadata.index }
      const options = {
        policy: () => world.policy,
        quorum: () => ({ ensemble: 3, copies: 3, ack: 2, min: 2 }),
        inFlightBytesMax: 1_000_000,
        takenBytesMax: 1_000_000,
      }
      const coordination = { acquire: async () => lease, close: async () => {} }
      const second = await openWriter(segments, coordination, row, options)
      const ack = await second.append('b', null)
      assert.equal(`${ack.dlsn} ${ack.sequenceId}`, '2:0:0 1')
      gate.open()
      await quiet()
      assert.ok(code('fenced')(pending.error), String(pending.error))
      await assert.rejects(stream.append('late'), code('fenced'))
      await assert.rejects(stream.append('later'), code('fenced'))
      await second.append('c', null)
      await second.close()
      assert.deepEqual(
        (await all()).map(({ payload }) => text(payload)),
        ['a', 'b', 'c'],
      )
    })

    test('a writer whose epoch is old begins no segment: fenced', async () => {
      const stream = world.stream()
      await stream.append('a')
      await (await writerOf()).roll()
      const row = await world.row()
      await world.world.metadata.index.updateStream(row.incarnation, row.version, { epoch: row.epoch + 1n })
      await assert.rejects(stream.append('b'), code('fenced'))
      await assert.rejects(stream.append('c'), code('fenced'))
      assert.equal((await world.segments()).length, 1)
    })

    test('the agent may seal while writers come and go: nothing is fenced, nothing lost', async () => {
      const stream = world.stream()
      const acks: Promise<Ack>[] = []
      for (let round = 0; round < 40; round += 1) {
        acks.push(stream.append(`${round}`))
        const row = await world.row().catch(() => null)
        if (row !== null) {
          const newest = await world.world.metadata.index.newestSegment(row.incarnation)
          if (newest !== null) await world.hub.seal(row, newest.segment)
        }
        if (round % 3 === 0) await quiet(1)
      }
      const done = await Promise.all(acks)
      checkDense(done, await all())
    })

    test('recovery by the agent and by a new writer at once', async () => {
      const stream = world.stream()
      await stream.append('a')
      const row = await world.row()
      // The writer is given up as a crash does it.
      for (const store of world.stores) {
        store.fault = {
          before: (call) => {
            if (call === 'addEntry') throw failure('io_failed', 'EIO')
          },
        }
      }
      await assert.rejects(stream.append('lost'))
      for (const store of world.stores) store.fault = {}
      const [ack] = await Promise.all([
        stream.append('b'),
        world.hub.seal(row, 1n),
        world.hub.seal(row, 1n),
        stream.append('c'),
        world.hub.seal(row, 1n),
      ])
      assert.equal(ack.sequenceId, 1n)
      assert.equal((await stream.append('d')).sequenceId, 3n)
      assert.equal((await all()).length, 4)
    })
  })
})
