import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { afterEach, beforeEach, describe, test } from 'node:test'
import fc from 'fast-check'
import { SegmentTally } from '../../archive/segment-tally.js'
import { openEnvelope } from '../../src/format/entry.js'
import { decodeProducers, type ProducersRecord } from '../../src/format/producers.js'
import { controlRecord, type DecodedRecord, decodeRecords, writeRecord } from '../../src/format/record.js'
import type { SegmentObjectMeta } from '../../src/format/segment-object-meta.js'
import { LedgerReader } from '../../src/ledger/reader.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import { PRODUCERS_MAX } from '../../src/model/producer.js'
import { type Ack, ENTRY_BYTES_MAX, type LogRecord, PAYLOAD_BYTES_MAX } from '../../src/model/record.js'
import type { GapReason, SegmentRow } from '../../src/model/segment.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { failure, Gate } from '../helpers/memory-store.js'
import { newLedger, type Outcome, quiet, watched } from '../helpers/protocol.js'
import { StreamWorld, ungoverned } from '../helpers/stream-world.js'

const code = (expected: string) => (error: unknown) => isStratalogError(error) && error.code === expected
const text = (payload: Uint8Array) => Buffer.from(payload).toString()
const place = ({ dlsn, sequenceId, txid }: Ack) => `${dlsn} ${sequenceId} ${txid}`

interface Entry {
  readonly payload: Uint8Array
  readonly records: readonly DecodedRecord[]
  readonly producers: ProducersRecord | null
}

describe('producers', () => {
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
  /** The process is gone without a word; another takes its place. */
  const crash = () => {
    const shared = world.world
    world = new StreamWorld(clock, shared, ungoverned())
    world.policy = { ...world.policy }
  }
  const append = (id: string, sequence: number, value = `${id}/${sequence}`) =>
    world.stream().append(value, { producer: id, sequence: BigInt(sequence) })
  const entriesOf = async (row: SegmentRow): Promise<Entry[]> => {
    const reader = await LedgerReader.open(world.process.context, present(row.ledgerId, 'ledger'))
    const entries: Entry[] = []
    const last = await reader.lastConfirmed()
    for (let id = 0n; id <= last; id += 1n) {
      const [entry] = await reader.readEntries(id, id, 1)
      const { payload } = present(entry, 'entry')
      const records = decodeRecords(openEnvelope(payload))
      const control = records.find((record) => record.control)
      entries.push({
        payload,
        records,
        producers: control === undefined ? null : decodeProducers(control.payload),
      })
    }
    return entries
  }
  /** FORMATS.md §5.13: what Java needs of control records. */
  const checkControlRules = async () => {
    for (const row of await world.segments()) {
      let position = 0
      let txid = -1n
      let users = 0n
      for (const [at, { records, producers }] of (await entriesOf(row)).entries()) {
        assert.deepEqual(
          records.map(({ slot }) => slot),
          records.map((_, slot) => slot),
          'slots are dense',
        )
        assert.equal(
          records[0]?.control,
          false,
          'a user record comes first, in each entry and so in each segment',
        )
        for (const record of records) {
          if (record.control) {
            assert.equal(record.position, position, 'the position of the last user record')
            assert.equal(record.txid, txid, 'the txid of the last user record')
            assert.equal(record, records.at(-1), 'behind the user records')
          } else {
            position += 1
            users += 1n
            assert.equal(record.position, position)
            txid = record.txid
          }
        }
        if (producers !== null && at === 0)
          assert.ok(producers.kind === 'snapshot' || producers.snapshotEntry === -1n)
      }
      if (row.state === 'open') continue
      assert.equal(row.recordCount, users, 'control records are not counted')
      const last = (await entriesOf(row)).at(-1)
      const lastUser = last?.records.findLast((record) => !record.control)
      assert.equal(
        row.lastSlot,
        BigInt(present(lastUser, 'user record').slot),
        'the last DLSN is a user record’s',
      )
      assert.equal(row.lastTxid, lastUser?.txid)
    }
  }

  test('a stream without them has no control record', async () => {
    await world.stream().append('a')
    await world.stream().append('b', { ifTail: 0n })
    const [row] = await world.segments()
    for (const { records } of await entriesOf(present(row, 'row')))
      assert.ok(records.every(({ control }) => !control))
  })

  test('a retry appends nothing and is told where the record is', async () => {
    const first = await append('p', 1)
    const second = await append('p', 2)
    const again = await append('p', 2)
    assert.equal(place(again), place(second))
    assert.equal(again.duplicate, true)
    assert.equal(JSON.parse(JSON.stringify(again)).duplicate, true)
    assert.equal(again.time, second.time)
    const older = await append('p', 1)
    assert.equal(older.duplicate, true)
    assert.ok(older.dlsn.compare(first.dlsn) >= 0, 'an older one is told a place at or behind its own')
    assert.equal((await append('q', 1)).duplicate, false, 'producers have numbers of their own')
    assert.equal((await append('p', 7)).duplicate, false, 'numbers may have holes')
    assert.deepEqual(await texts(), ['p/1', 'p/2', 'q/1', 'p/7'])
    await checkControlRules()
  })

  test('a retry of a record on its way waits for that', async () => {
    await world.stream().append('first')
    const gate = new Gate()
    for (const store of world.stores)
      store.fault = { before: (call) => (call === 'addEntry' ? gate.wait() : undefined) }
    const stream = world.stream()
    const outcomes = [1n, 2n, 2n, 1n].map((sequence) =>
      watched(stream.append(`${sequence}`, { producer: 'p', sequence })),
    )
    await quiet()
    assert.ok(outcomes.every(({ settled }) => !settled))
    gate.open()
    await quiet()
    assert.deepEqual(
      outcomes.map(({ value }) => value?.duplicate),
      [false, false, true, true],
    )
    assert.equal(`${outcomes[2]?.value?.dlsn}`, `${outcomes[1]?.value?.dlsn}`)
    assert.deepEqual(await texts(), ['first', '1', '2'])
  })

  test('duplicates are recognised before txids are checked, and before the tail', async () => {
    const stream = world.stream()
    await stream.append('a', { txid: 100n, producer: 'p', sequence: 1n, ifTail: 'empty' })
    await stream.append('b', { txid: 200n })
    const again = await stream.append('a', { txid: 100n, producer: 'p', sequence: 1n, ifTail: 'empty' })
    assert.ok(again.duplicate)
    assert.equal(again.txid, 100n)
  })

  for (const how of ['closed', 'crashed'] as const) {
    test(`retries are recognised by the next process when the last one ${how}, over rolls too`, async () => {
      world.rollAt(300)
      const done: Ack[] = []
      for (let sequence = 0; sequence < 30; sequence += 1) {
        done.push(await append('p', sequence))
        if (sequence % 3 === 0) await world.stream().append('plain')
        if (sequence % 7 === 0) await append('q', sequence)
      }
      assert.ok((await world.segments()).length > 3)
      if (how === 'closed') await world.hub.close()
      crash()
      const again = await append('p', 29)
      assert.equal(place(again), place(present(done.at(-1), 'ack')))
      assert.ok(again.duplicate)
      assert.ok((await append('q', 28)).duplicate)
      assert.equal((await append('p', 30)).duplicate, false)
      await world.hub.close()
      await checkControlRules()
      assert.equal(new Set((await texts()).filter((value) => value.startsWith('p/'))).size, 31)
    })
  }

  test('a stream that had a snapshot long ago is found by two entries, whatever lies between', async () => {
    await append('p', 1)
    const writer = await world.hub.writer(await world.row())
    for (let round = 0; round < 5; round += 1) {
      await world.stream().append('plain')
      await writer.roll()
    }
    await world.hub.close()
    crash()
    const before = world.stores.map(({ calls }) => calls.get('readEntries') ?? 0)
    assert.ok((await append('p', 1)).duplicate)
    const reads = world.stores.map(({ calls }, at) => (calls.get('readEntries') ?? 0) - (before[at] ?? 0))
    assert.ok(reads.reduce((sum, count) => sum + count, 0) <= 2, `${reads} reads`)
  })

  test('snapshots come again after some megabytes, so that opening reads no more than these', async () => {
    world.rollAt(64 * 2 ** 20)
    await append('p', 0)
    for (let id = 0; id < 20; id += 1) await world.stream().append(Buffer.alloc(900_000))
    await append('p', 1)
    const [row] = await world.segments()
    const entries = await entriesOf(present(row, 'row'))
    const snapshots = entries.filter(({ producers }) => producers?.kind === 'snapshot').length
    assert.equal(snapshots, 3)
    assert.ok(entries.every(({ producers }) => producers !== null))
    crash()
    assert.ok((await append('p', 1)).duplicate)
  })

  test('records of the largest size leave no room for a big snapshot: the segment before is asked', async () => {
    for (let id = 0; id < 100; id += 1) await append(`producer ${id} ${'x'.repeat(100)}`, 1)
    const writer = await world.hub.writer(await world.row())
    for (let round = 0; round < 3; round += 1) {
      await writer.roll()
      const big = await world.stream().append(Buffer.alloc(PAYLOAD_BYTES_MAX), {
        producer: 'big',
        sequence: BigInt(round),
      })
      assert.equal(big.duplicate, false)
    }
    const rows = await world.segments()
    const [entry] = await entriesOf(present(rows.at(-1), 'row'))
    assert.equal(entry?.producers?.kind, 'changes')
    assert.equal(entry?.producers?.snapshotEntry, -1n)
    assert.ok(openEnvelope(present(entry, 'entry').payload).length <= ENTRY_BYTES_MAX)
    crash()
    assert.ok((await append(`producer 7 ${'x'.repeat(100)}`, 1)).duplicate)
    assert.ok((await append('big', 2)).duplicate)
    await checkControlRules()
  })

  test('beyond so many the one that appended least recently is forgotten, in memory as after a crash', async () => {
    const acks: Promise<Ack>[] = []
    const stream = world.stream()
    for (let id = 0; id < PRODUCERS_MAX; id += 1)
      acks.push(stream.append('x', { producer: `p${id}`, sequence: 5n }))
    await Promise.all(acks)
    await append('p0', 6)
    await append('one more', 1)
    assert.ok((await append('p0', 6)).duplicate)
    assert.equal((await append('p1', 5)).duplicate, false, 'p1 was forgotten')
    crash()
    assert.ok((await append('p0', 6)).duplicate)
    assert.ok((await append('p3', 5)).duplicate)
    assert.equal((await append('p2', 5)).duplicate, false, 'p2 was forgotten for p1')
  })

  test('records that go again into the next segment take their producers along (decision 0011)', async () => {
    await append('p', 1)
    let left = 2
    for (const store of world.stores.slice(0, 2)) {
      let mine = 1
      store.fault = {
        before: (call) => {
          if (call !== 'addEntry' || mine === 0) return
          mine -= 1
          left -= 1
          throw failure('io_failed', 'EIO')
        },
      }
    }
    const stream = world.stream()
    const outcomes = [2n, 3n, 3n].map((sequence) =>
      watched(stream.append(`p/${sequence}`, { producer: 'p', sequence })),
    )
    await quiet(20)
    assert.equal(left, 0)
    assert.deepEqual(
      outcomes.map(({ value }) => `${value?.dlsn} ${value?.duplicate}`),
      ['2:0:0 false', '2:0:1 false', '2:0:1 true'],
    )
    crash()
    assert.equal(`${(await append('p', 3)).dlsn}`, '2:0:1')
    assert.deepEqual(await texts(), ['p/1', 'p/2', 'p/3'])
    await checkControlRules()
  })

  test('what goes again is not yet appended: a crash in between forgets it, and its retry is new', async () => {
    world.inFlightBytesMax = 10 * 2 ** 20
    const stream = world.stream()
    await stream.append('first', { producer: 'p', sequence: 0n })
    // Entries of p and of q are under way when the ledger fails; of the next segment the first entry alone arrives.
    const gate = new Gate()
    const failed = new Set<bigint>()
    const old = present((await world.segments())[0]?.ledgerId, 'ledger')
    for (const [at, store] of world.stores.entries()) {
      store.fault = {
        before: async (call, ledgerId, entryId) => {
          if (call !== 'addEntry') return
          if (ledgerId === old) {
            await gate.wait()
            if (at < 2) {
              failed.add(present(entryId, 'entry'))
              throw failure('io_failed', 'EIO')
            }
          } else if (entryId !== 0n) await new Promise(() => {})
        },
      }
    }
    const big = 'x'.repeat(100_000)
    const ofP = watched(stream.append(`p${big}`, { producer: 'p', sequence: 1n }))
    const ofQ = watched(stream.append(`q${big}`, { producer: 'q', sequence: 1n }))
    await quiet(5)
    gate.open()
    await quiet(20)
    assert.ok(failed.size > 0)
    assert.equal(ofP.value?.duplicate, false)
    assert.equal(ofQ.settled, false)
    crash()
    assert.ok((await append('p', 1)).duplicate)
    assert.equal((await append('q', 1)).duplicate, false, 'invariant 1: it was never appended')
  })

  describe('whose history is not at hand', () => {
    test('in the archive: it is read there; an archive that is down refuses producers alone, and forgets none', async () => {
      await append('p', 1)
      await world.hub.close()
      const [row] = await world.segments()
      await world.evict(await world.archive(present(row, 'row')))
      const first = world
      crash()
      // The next process has the same archive.
      world.adoptCold(first)
      world.failing.cold = failure('store_unavailable', 'the archive is down')
      await world.stream().append('plain')
      await assert.rejects(
        append('p', 1),
        (error) => code('store_unavailable')(error) && isStratalogError(error) && error.retryable,
      )
      const writer = await world.hub.writer(await world.row())
      await writer.roll()
      await world.stream().append('plain too')
      world.failing = {}
      await assert.rejects(append('p', 1), code('store_unavailable'), 'asked again in the background')
      await quiet(10)
      assert.ok((await append('p', 1)).duplicate)
      await append('p', 2)
      const second = world
      crash()
      world.adoptCold(second)
      assert.ok((await append('p', 2)).duplicate)
      assert.deepEqual((await world.segments()).map(({ recordCount }) => recordCount).slice(1, 2), [1n])
      await checkControlRulesOfHot()
    })

    test('a segment between that only points back leads to the archive, after a crash', async () => {
      await append('p', 1)
      await world.hub.close()
      const [row] = await world.segments()
      await world.evict(await world.archive(present(row, 'row')))
      const first = world
      crash()
      world.adoptCold(first)
      world.failing.cold = failure('store_unavailable', 'the archive is down')
      await world.stream().append('plain')
      const second = world
      crash()
      world.adoptCold(second)
      assert.ok((await append('p', 1)).duplicate)
    })

    /** Given up for good, as tiering does it. */
    const giveUp = async (row: SegmentRow | undefined, gapReason: GapReason = 'dropped') => {
      const { index } = world.world.metadata
      await index.updateSegment(present(row, 'row'), { state: 'gap', gapReason, ledgerId: null })
    }

    for (const reason of ['dropped', 'corrupt', 'purged'] as const) {
      test(`in a gap (${reason}): what is older counts, what was in it may come again, and nobody is stuck`, async () => {
        await append('p', 1)
        const writer = await world.hub.writer(await world.row())
        await writer.roll()
        await append('p', 2)
        await append('q', 1)
        await world.hub.close()
        await giveUp((await world.segments()).at(-1), reason)
        crash()
        assert.ok(
          (await append('p', 1)).duplicate,
          'nothing that can be read is appended again (invariant 2)',
        )
        assert.equal((await append('p', 2)).duplicate, false, 'its original can be read by nobody')
        assert.equal((await append('q', 1)).duplicate, false)
        assert.ok((await append('q', 1)).duplicate, 'from there on each is known again')
        crash()
        for (const [id, sequence] of [
          ['p', 1],
          ['p', 2],
          ['q', 1],
        ] as const)
          assert.ok((await append(id, sequence)).duplicate, `${id}/${sequence} by the process after that`)
        await checkControlRulesOfHot()
      })
    }

    test('in a gap between segments that only point back: the older one is found all the same', async () => {
      await append('p', 1)
      const writer = await world.hub.writer(await world.row())
      await writer.roll()
      await append('p', 2)
      await world.hub.close()
      const [oldest, between] = await world.segments()
      await world.evict(await world.archive(present(oldest, 'oldest')))
      const first = world
      crash()
      world.adoptCold(first)
      await giveUp(between)
      world.failing.cold = failure('store_unavailable', 'the archive is down')
      await world.stream().append('plain')
      await assert.rejects(append('p', 1), code('store_unavailable'), 'unknown is not missing')
      const second = world
      crash()
      world.adoptCold(second)
      assert.ok((await append('p', 1)).duplicate)
      assert.equal((await append('p', 2)).duplicate, false)
    })

    test('a stream of nothing but gaps begins without producers, and says so once for each writer', async () => {
      await append('p', 1)
      await world.hub.close()
      await giveUp((await world.segments()).at(-1))
      crash()
      const { context } = world.process
      const warned: unknown[] = []
      const warn = context.logger.warn.bind(context.logger)
      context.logger.warn = (fields: unknown, message?: string) => {
        warned.push(fields)
        warn(fields as object, message ?? '')
      }
      assert.equal((await append('p', 1)).duplicate, false)
      await append('p', 2)
      assert.deepEqual(
        warned.map((fields) => (fields as { segments?: unknown }).segments),
        [['1 (dropped)']],
      )
    })

    test('a Java writer took over in between: said so, and not guessed; others go on', async () => {
      await append('p', 1)
      await world.hub.close()
      await javaSegment()
      crash()
      await world.stream().append('plain')
      await assert.rejects(append('p', 1), code('unsupported'))
      await assert.rejects(append('new', 1), code('unsupported'))
      crash()
      await world.stream().append('plain')
      await assert.rejects(append('p', 1), code('unsupported'), 'nor by the process after that')
    })
  })

  /** All rules where the ledger is there. */
  const checkControlRulesOfHot = async () => {
    for (const row of await world.segments()) {
      if (row.ledgerId === null) continue
      for (const { records } of await entriesOf(row)) assert.equal(records[0]?.control, false)
    }
  }

  /** A segment as Java leaves it: a user record, then a control record in an entry of its own. */
  const javaSegment = async () => {
    const { index } = world.world.metadata
    const newest = present(await index.newestSegment((await world.row()).incarnation), 'newest')
    const ledger = await newLedger(world.process.context)
    const user = Buffer.alloc(20 + 4)
    writeRecord(user, 0, 0, 1, newest.lastTxid, Buffer.from('java'))
    for (const records of [Buffer.concat([user, controlRecord(1, newest.lastTxid)])]) {
      const envelope = Buffer.alloc(13)
      envelope.writeUInt8(1, 0)
      envelope.writeInt32BE(records.length, 5)
      envelope.writeInt32BE(records.length, 9)
      await ledger.append(Buffer.concat([Buffer.alloc(36), envelope, records]), 13 + records.length)
    }
    const seal = await ledger.close()
    await index.adoptSegment({
      ...newest,
      segment: newest.segment + 1n,
      startSequenceId: newest.startSequenceId + newest.recordCount,
      recordCount: 1n,
      lastEntryId: seal.lastEntryId,
      lastSlot: 0n,
      lengthBytes: seal.lengthBytes,
      ledgerId: ledger.ledgerId,
      firstTxid: newest.lastTxid,
    })
  }

  test('sessions: run again they append only what is missing', async () => {
    world.rollAt(2_000)
    const values = Array.from({ length: 500 }, (_, id) => `value ${id}`)
    const stream = world.stream()
    const first = await stream.appendAll(values.slice(0, 300), { producer: 'loader' })
    assert.deepEqual([first.count, first.duplicates, first.duplicate], [300, 0, false])
    crash()
    const second = await world.stream().appendAll(values, { producer: 'loader' })
    assert.deepEqual([second.count, second.duplicates, second.duplicate], [500, 300, false])
    const third = await world.stream().appendAll(values, { producer: 'loader' })
    assert.deepEqual([third.count, third.duplicate, third.first], [500, true, null])
    assert.equal(`${third.last}`, `${second.last}`)
    assert.deepEqual(await texts(), values)
    const numbered = await world.stream().appendAll(['450', '900', '901'], {
      producer: 'numbers',
      sequence: (value) => BigInt(String(value)),
    })
    assert.equal(numbered.duplicates, 0)
    const batch = await world.stream().appendBatch(['901', '902'], { producer: 'numbers', sequence: 901n })
    assert.deepEqual([batch.count, batch.duplicate], [2, false])
    assert.deepEqual((await texts()).slice(500), ['450', '900', '901', '902'])
    await checkControlRules()
  })

  test('the archive’s count agrees, and positions are found around control records', async () => {
    world.rollAt(3_000)
    const stream = world.stream()
    for (let id = 0; id < 120; id += 1)
      await stream.append(`${id}`.padEnd(50), {
        txid: BigInt(id * 10),
        producer: `p${id % 3}`,
        sequence: BigInt(id),
      })
    await world.hub.close()
    const rows = await world.segments()
    assert.ok(rows.length > 2)
    for (const row of rows) {
      const tally = new SegmentTally(row as unknown as SegmentObjectMeta, 'a segment')
      for (const [id, { payload }] of (await entriesOf(row)).entries()) tally.add(BigInt(id), payload)
      tally.finish()
    }
    for (const archived of [false, true]) {
      if (archived) for (const row of rows) await world.evict(await world.archive(row))
      for (let id = 0; id < 120; id += 7) {
        for (const from of [
          { sequenceId: BigInt(id) },
          { txid: BigInt(id * 10) },
          { txid: BigInt(id * 10 - 5) },
        ]) {
          if ('txid' in from && (from.txid ?? 0n) < 0n) continue
          for await (const record of world.stream().read({ from, limit: 1 })) {
            assert.equal(record.sequenceId, BigInt(id))
          }
        }
      }
      const records = await all()
      assert.deepEqual(
        records.map(({ sequenceId }) => sequenceId),
        records.map((_, at) => BigInt(at)),
      )
      assert.equal(records.length, 120)
    }
  })

  test('any failures and crashes: what a producer retries until it is acknowledged is there once, in order', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.record({
            kind: fc.constantFrom('send', 'send', 'send', 'crash', 'break', 'roll', 'plain'),
            producer: fc.integer({ min: 0, max: 2 }),
            count: fc.integer({ min: 1, max: 5 }),
            store: fc.integer({ min: 0, max: 2 }),
            turns: fc.integer({ min: 0, max: 5 }),
          }),
          { maxLength: 25 },
        ),
        async (steps) => {
          await world.end()
          world = new StreamWorld(clock)
          world.rollAt(600)
          const acked = [0, 0, 0]
          const under: Outcome<Ack>[] = []
          const send = (producer: number, count: number) => {
            const stream = world.stream()
            const from = acked[producer] ?? 0
            for (let at = 1; at <= count; at += 1) {
              const sequence = from + at
              const outcome = watched(
                stream
                  .append(`p${producer}/${sequence}`.padEnd(30), {
                    producer: `p${producer}`,
                    sequence: BigInt(sequence),
                  })
                  .then((ack) => {
                    acked[producer] = Math.max(acked[producer] ?? 0, sequence)
                    return ack
                  }),
              )
              under.push(outcome)
            }
          }
          const settle = async () => {
            for (let turn = 0; turn < 100 && under.some(({ settled }) => !settled); turn += 1) await quiet(1)
          }
          for (const { kind, producer, count, store, turns } of steps) {
            if (kind === 'send') send(producer, count)
            else if (kind === 'plain') watched(world.stream().append('plain'))
            else if (kind === 'crash') {
              for (const one of world.stores) one.fault = { before: () => new Promise(() => {}) }
              const policy = world.policy
              crash()
              world.policy = policy
              under.length = 0
            } else if (kind === 'roll') {
              const row = await world.row().catch(() => null)
              if (row !== null) watched(world.hub.writer(row).then((writer) => writer.roll()))
            } else {
              let left = count
              present(world.stores[store], 'store').fault = {
                before: (call) => {
                  if (call !== 'addEntry' || left === 0) return
                  left -= 1
                  throw failure('io_failed', 'EIO')
                },
              }
            }
            await quiet(turns)
            // One at a time goes on only from what it knows to be there.
            if (kind === 'send') await settle()
          }
          for (const one of world.stores) one.fault = {}
          for (const producer of [0, 1, 2]) {
            await append(
              `p${producer}`,
              (acked[producer] ?? 0) + 1,
              `p${producer}/${(acked[producer] ?? 0) + 1}`.padEnd(30),
            )
          }
          const found = (await texts()).map((value) => value.trim())
          for (const producer of [0, 1, 2]) {
            const mine = found
              .filter((value) => value.startsWith(`p${producer}/`))
              .map((value) => Number(value.slice(3)))
            const highest = Math.max(...mine)
            assert.deepEqual(
              mine,
              Array.from({ length: highest }, (_, at) => at + 1),
              `p${producer}: each once, in order, none left out (invariants 1, 2)`,
            )
          }
          await checkControlRules()
        },
      ),
      { numRuns: 25 },
    )
  })
})
