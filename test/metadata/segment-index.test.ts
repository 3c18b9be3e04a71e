import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import fc from 'fast-check'
import { LEASES_SQL } from '../../src/metadata/sqlite/coordination.js'
import { SqliteDatabase, type SqlStatement } from '../../src/metadata/sqlite/database.js'
import { LEDGERS_SQL } from '../../src/metadata/sqlite/ledger-metadata.js'
import type { SqliteMetadata } from '../../src/metadata/sqlite/open.js'
import { MIGRATIONS } from '../../src/metadata/sqlite/schema.js'
import { SqliteSegmentIndex } from '../../src/metadata/sqlite/segment-index.js'
import { SEGMENTS_SQL, SegmentTable } from '../../src/metadata/sqlite/segments.js'
import { STREAMS_SQL, StreamTable } from '../../src/metadata/sqlite/streams.js'
import { SUMS_SQL, SumsTable } from '../../src/metadata/sqlite/sums.js'
import { present } from '../../src/model/assert.js'
import { isClosed } from '../../src/model/segment.js'
import type { SegmentIndex } from '../../src/ports/segment-index.js'
import { archiving, openRow, sealedRow, sealing, writableStream } from '../contract/segment-rows.js'
import { openFor, quietLogger, temporaryDirectory } from './helpers.js'
import type { Step } from './plain-index.js'
import { PlainIndex } from './plain-index.js'

/** Opens an index in a fresh directory for the tests of one block. */
function withMetadata(): () => SqliteMetadata {
  const { directory, remove } = temporaryDirectory()
  let metadata: SqliteMetadata | null = null
  before(() => {
    metadata = openFor(join(directory, 'index.db'))
  })
  after(async () => {
    await metadata?.close()
    remove()
  })
  return () => present(metadata, 'metadata')
}

describe('the plans of its queries', () => {
  const { directory, remove } = temporaryDirectory()
  const database = SqliteDatabase.open(join(directory, 'index.db'), { migrations: MIGRATIONS })
  after(() => {
    database.close()
    remove()
  })

  test('every statement finds its rows by an index and sorts nothing', () => {
    let statements = 0
    for (const group of [SEGMENTS_SQL, STREAMS_SQL, SUMS_SQL, LEDGERS_SQL, LEASES_SQL]) {
      for (const [name, sql] of Object.entries<string>(group)) {
        statements += 1
        for (const step of database.explain(sql)) {
          const partial = step === 'SCAN segments USING INDEX segments_owing'
          assert.ok(!/^SCAN|TEMP B-TREE|AUTOMATIC/.test(step) || partial, `${name}: ${step}`)
        }
      }
    }
    assert.ok(statements > 30)
  })

  test('searches use the index made for them', () => {
    const plan = (sql: string) => database.explain(sql).join('; ')
    assert.match(plan(SEGMENTS_SQL.forTxid), /segments_by_txid \(stream=\? AND txid_top>\?\)/)
    assert.match(plan(SEGMENTS_SQL.forTime), /segments_by_time \(stream=\? AND sealed_top>\?\)/)
    assert.match(plan(SEGMENTS_SQL.forSequenceId), /segments_by_sequence_id \(stream=\? AND <expr>>\?\)/)
    assert.match(plan(SEGMENTS_SQL.inState), /segments_by_state \(state=\?\)/)
    assert.match(plan('SELECT * FROM segments WHERE opened_ms > ?'), /^SCAN/)
  })
})

test('a change that raises no top looks at no later row', async () => {
  const { directory, remove } = temporaryDirectory()
  const database = SqliteDatabase.open(join(directory, 'index.db'), { migrations: MIGRATIONS })
  try {
    let raised = 0
    const prepareAll = database.prepareAll.bind(database)
    database.prepareAll = (sql) => {
      const all = { ...prepareAll(sql) }
      const statements: Record<string, SqlStatement> = all
      const { raiseTops } = statements
      if (raiseTops === undefined) return all
      const counted: SqlStatement = {
        get: (...values) => raiseTops.get(...values),
        all: (...values) => raiseTops.all(...values),
        run: (...values) => {
          raised += 1
          return raiseTops.run(...values)
        },
      }
      statements.raiseTops = counted
      return all
    }
    const index = new SqliteSegmentIndex(database, quietLogger())
    const { incarnation } = await writableStream(index, 'long')
    let first = await index.adoptSegment(sealedRow(incarnation, 1n))
    for (let segment = 2n; segment < 10n; segment += 1n)
      await index.adoptSegment(sealedRow(incarnation, segment))
    first = await index.updateSegment(first, archiving(1n))
    first = await index.updateSegment(first, { state: 'cold', evictedMs: 5_000 })
    first = await index.updateSegment(first, { ledgerId: null })
    assert.equal(raised, 0)
    const last = await index.beginSegment(openRow(incarnation, 10n))
    await index.updateSegment(last, sealing(10n))
    assert.equal(raised, 1)
  } finally {
    database.close()
    remove()
  }
})

describe('an index against a plain model of it', () => {
  const metadata = withMetadata()
  const step: fc.Arbitrary<Step> = fc.record({
    kind: fc.constantFrom('begin', 'begin', 'seal', 'seal', 'archive', 'evict', 'trim', 'free', 'remove'),
    at: fc.nat({ max: 7 }),
    sealedMs: fc.nat({ max: 12 }),
    lastTxid: fc.nat({ max: 12 }),
    records: fc.nat({ max: 3 }),
  })

  test('searches, totals and lists agree after any history, also where clocks and txids went back', async () => {
    const { index } = metadata()
    let run = 0
    const property = fc.asyncProperty(fc.array(step, { maxLength: 50, size: 'max' }), async (steps) => {
      run += 1
      const { incarnation } = await writableStream(index, `run-${run}`)
      const plain = new PlainIndex(index, incarnation)
      for (const each of steps) await plain.take(each)
      await compare(index, incarnation, plain)
    })
    await fc.assert(property, { numRuns: 60 })
  })
})

async function compare(index: SegmentIndex, incarnation: string, plain: PlainIndex): Promise<void> {
  assert.deepEqual(await index.listSegments(incarnation, 0n, 1_000), plain.rows)
  assert.deepEqual(await index.totals(incarnation), plain.totals())
  assert.deepEqual(await index.newestSegment(incarnation), plain.rows.at(-1) ?? null)
  assert.deepEqual(
    await index.oldestSegment(incarnation),
    plain.first((row) => row.state !== 'trimmed'),
  )
  for (let at = -1; at <= 13; at++) {
    const txid = plain.first((row) => !isClosed(row.state) || row.lastTxid >= at)
    assert.deepEqual(await index.segmentForTxid(incarnation, BigInt(at)), txid, `txid ${at}`)
    const time = plain.first((row) => !isClosed(row.state) || (row.sealedMs ?? -1) >= at)
    assert.deepEqual(await index.segmentForTime(incarnation, at), time, `time ${at}`)
  }
  for (const { startSequenceId } of plain.rows) {
    for (const sequenceId of [startSequenceId, startSequenceId + 1n, startSequenceId + 3n]) {
      const expected = plain.first(
        (row) =>
          !isClosed(row.state) ||
          (row.recordCount > 0n && row.startSequenceId + row.recordCount > sequenceId),
      )
      assert.deepEqual(
        await index.segmentForSequenceId(incarnation, sequenceId),
        expected,
        `sequenceId ${sequenceId}`,
      )
    }
  }
  const owing = (await index.segmentsOwing(10_000)).filter((row) => row.incarnation === incarnation)
  const owes = plain.rows.filter(
    (row) =>
      (row.state === 'cold' && row.ledgerId !== null) ||
      (row.state === 'trimmed' && (row.ledgerId !== null || row.object !== null)),
  )
  assert.deepEqual(owing, owes)
}

describe('a large index', () => {
  test('100,000 segments: each search and the totals take less than a millisecond', async () => {
    const { directory, remove } = temporaryDirectory()
    const { database, index, incarnation } = await fillFast(join(directory, 'index.db'), 100_000)
    const median = async (call: (n: bigint) => Promise<unknown>) => {
      const times: number[] = []
      for (let i = 0; i < 101; i++) {
        const n = BigInt((i * 7_919) % 100_000) + 1n
        const startMs = performance.now()
        const found = await call(n)
        times.push(performance.now() - startMs)
        assert.ok(found !== null)
      }
      return times.sort((a, b) => a - b)[50] ?? Number.POSITIVE_INFINITY
    }
    const calls: Readonly<Record<string, (n: bigint) => Promise<unknown>>> = {
      segment: (n) => index.segment(incarnation, n),
      newest: () => index.newestSegment(incarnation),
      oldest: () => index.oldestSegment(incarnation),
      txid: (n) => index.segmentForTxid(incarnation, n * 100n),
      sequenceId: (n) => index.segmentForSequenceId(incarnation, n * 10n - 1n),
      time: (n) => index.segmentForTime(incarnation, Number(n) * 1_000),
      totals: () => index.totals(incarnation),
      inState: () => index.segmentsInState(['open', 'recovering'], 10),
      owing: () => index.segmentsOwing(10),
      list: (n) => index.listSegments(incarnation, n, 10),
    }
    for (const [name, call] of Object.entries(calls)) {
      const ms = await median(call)
      assert.ok(ms < 1, `${name} took ${ms.toFixed(3)} ms`)
    }
    assert.equal((await index.segmentForTxid(incarnation, 5_000_000n))?.segment, 50_000n)
    assert.equal((await index.totals(incarnation)).segments, 100_000)
    await index.close()
    database.close()
    remove()
  })
})

describe('what only this engine promises', () => {
  test('a listener that throws is reported', async () => {
    const { directory, remove } = temporaryDirectory()
    const errors: object[] = []
    const metadata = openFor(join(directory, 'index.db'), { logger: quietLogger(errors) })
    const stream = await writableStream(metadata.index, 'a')
    const bug = new Error('a bug of the listener')
    metadata.index.watch(stream.incarnation, () => {
      throw bug
    })
    await metadata.index.updateStream(stream.incarnation, stream.version, { epoch: 2n })
    await new Promise((resolve) => setImmediate(resolve))
    assert.deepEqual(errors, [{ err: bug }])
    await metadata.close()
    remove()
  })

  test('changes made in one go are told once', async () => {
    const { directory, remove } = temporaryDirectory()
    const metadata = openFor(join(directory, 'index.db'))
    const { incarnation } = await writableStream(metadata.index, 'a')
    let calls = 0
    metadata.index.watch(incarnation, () => {
      calls += 1
    })
    await Promise.all(
      [1n, 2n, 3n].map((segment) => metadata.index.adoptSegment(sealedRow(incarnation, segment))),
    )
    await new Promise((resolve) => setImmediate(resolve))
    assert.equal(calls, 1)
    await metadata.close()
    remove()
  })

  test('an index that was rebuilt gives out no id its stores have seen', async () => {
    const { directory, remove } = temporaryDirectory()
    const file = join(directory, 'index.db')
    const metadata = openFor(file)
    await metadata.ledgers.allocateId()
    await metadata.ledgers.reserveThrough(30n)
    assert.equal(await metadata.ledgers.allocateId(), 31n)
    await metadata.ledgers.reserveThrough(5_000n)
    assert.equal(await metadata.ledgers.allocateId(), 5_001n)
    await metadata.ledgers.reserveThrough(17n)
    assert.equal(await metadata.ledgers.allocateId(), 5_002n)
    await metadata.ledgers.reserveThrough(9_000n)
    await metadata.close()
    const again = openFor(file)
    assert.equal(await again.ledgers.allocateId(), 9_001n)
    await again.close()
    remove()
  })

  test('what was acknowledged is there after the process was killed', async () => {
    const { directory, remove } = temporaryDirectory()
    const file = join(directory, 'index.db')
    const module = (path: string) => JSON.stringify(new URL(path, import.meta.url).href)
    const script = `
      const { openFor } = await import(${module('./helpers.js')})
      const { index, ledgers } = openFor(${JSON.stringify(file)})
      for (let n = 0; ; n++) {
        await index.setFact('n', String(n))
        const id = await ledgers.allocateId()
        process.stdout.write(n + ' ' + id + '\\n')
        await new Promise((resolve) => setImmediate(resolve))
      }`
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let said = ''
    child.stdout.on('data', (chunk) => {
      said += String(chunk)
      if (said.split('\n').length > 100) child.kill('SIGKILL')
    })
    await once(child, 'close')
    const [n = '', id = ''] = present(said.split('\n').at(-2), 'last line').split(' ')
    const metadata = openFor(file)
    assert.equal(metadata.created, false)
    assert.ok(Number(await metadata.index.fact('n')) >= Number(n))
    assert.ok((await metadata.ledgers.allocateId()) > BigInt(id))
    await metadata.close()
    remove()
  })
})

/** An index of one stream of `count` cold segments, written in one transaction: one for each would sync each. */
async function fillFast(
  file: string,
  count: number,
): Promise<{ database: SqliteDatabase; index: SegmentIndex; incarnation: string }> {
  const first = openFor(file)
  const { incarnation } = await writableStream(first.index, 'a')
  await first.close()
  const database = SqliteDatabase.open(file, { migrations: MIGRATIONS })
  const sums = new SumsTable(database)
  const streams = new StreamTable(database, sums)
  const segments = new SegmentTable(database, sums)
  database.write('fill', () => {
    const owner = present(streams.byIncarnation(incarnation), 'stream')
    const id = streams.idOf(incarnation)
    for (let segment = 1n; segment <= BigInt(count); segment++) {
      segments.append(
        id,
        owner,
        sealedRow(incarnation, segment, { ...archiving(segment), state: 'cold', ledgerId: null }),
      )
    }
  })
  return { database, index: new SqliteSegmentIndex(database, quietLogger()), incarnation }
}
