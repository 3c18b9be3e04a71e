import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import fc from 'fast-check'
import { directoryArchive } from '../../archive/directory/store.js'
import type { Log } from '../../src/log.js'
import { present } from '../../src/model/assert.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import type { Position } from '../../src/model/position.js'
import { openLog } from '../../src/open.js'
import type { OpenOptions } from '../../src/options.js'
import type { ArchiveEngine, ArchiveStore } from '../../src/ports/archive-store.js'
import type { Explanation, ReadOptions } from '../../src/stream.js'
import { silentLogger } from '../../src/system/logger.js'
import { bodyOf } from '../helpers/archive.js'

/** What is asked of the archive, and what it answers. */
class Watched {
  reads: { readonly key: string; readonly signal: AbortSignal | undefined }[] = []
  before: (key: string, signal: AbortSignal | undefined) => Promise<void> | void = () => undefined

  engine(inner: ArchiveEngine): ArchiveEngine {
    return {
      apiVersion: 1,
      name: 'watched',
      open: async (context) => {
        const store = await inner.open(context)
        const readRange: ArchiveStore['readRange'] = async (key, offset, length, signal) => {
          // The archive's own object is looked at once a process.
          if (!key.startsWith('_log/')) {
            this.reads.push({ key, signal })
            await this.before(key, signal)
          }
          return store.readRange(key, offset, length, signal)
        }
        return new Proxy(store, {
          get: (target, name) => {
            if (name === 'readRange') return readRange
            const value: unknown = Reflect.get(target, name, target)
            return typeof value === 'function' ? value.bind(target) : value
          },
        })
      },
    }
  }
}

const RECORDS = 600
const text = (number: number) => `${number} ${'.'.repeat(900)}`

describe('reading the archive', () => {
  let root = ''
  let watched: Watched
  let log: Log
  beforeEach(async () => {
    root = mkdtempSync(join(tmpdir(), 'stratalog-cold-'))
    watched = new Watched()
    log = await open()
  })
  afterEach(async () => {
    await log.close()
    rmSync(root, { recursive: true, force: true })
  })

  function open(options: OpenOptions = {}): Promise<Log> {
    return openLog(join(root, 'log'), {
      archive: watched.engine(directoryArchive(join(root, 'archive'))),
      tiering: 'off',
      control: 'off',
      config: 'none',
      storeFileBytes: 4 * 2 ** 20,
      defaults: { hot: { for: 0 }, evict: { lag: 0 }, roll: { size: '64 KiB' } },
      system: { logger: silentLogger() },
      ...options,
    })
  }

  /** Some ten small segments in the archive only; txids are 1000 + 10 × number. */
  async function history(): Promise<void> {
    await log.streams.create('a', { txid: 'custom' })
    const numbers = Array.from({ length: RECORDS }, (_, i) => i)
    for (let at = 0; at < RECORDS; at += 60) {
      await log.stream('a').appendAll(
        numbers.slice(at, at + 60).map((number) => text(number)),
        { txid: (value) => BigInt(1_000 + 10 * Number.parseInt(String(value), 10)) },
      )
      await log.stream('a').seal()
    }
    const report = await log.tier.run({ until: 'settled' })
    assert.deepEqual(report.failed, [])
    watched.reads = []
  }

  async function numbers(options: ReadOptions = {}): Promise<number[]> {
    const found: number[] = []
    for await (const record of log.stream('a').read(options))
      found.push(Number.parseInt(Buffer.from(record.payload).toString(), 10))
    return found
  }

  const from = (first: number, until: number) =>
    Array.from({ length: Math.max(0, until - first) }, (_, i) => first + i)

  test('two requests to the first record of a cold range, by whatever position', async () => {
    await history()
    const positions: (Position | undefined)[] = [
      undefined,
      { txid: 3_005n },
      { sequenceId: 201n },
      { time: 0 },
      new Dlsn(4n, 0n, 0n),
    ]
    for (const position of positions) {
      await log.close()
      log = await open()
      watched.reads = []
      let count = 0
      for await (const _ of log.stream('a').read(position === undefined ? {} : { from: position })) {
        count = watched.reads.length
        break
      }
      assert.ok(count > 0 && count <= 2, `${count} requests for ${JSON.stringify(position, big)}`)
    }
  })

  test('segments that come next are begun while one is read; each block is asked for once', async () => {
    await history()
    // The archive is far: without reading ahead each segment would be waited for twice.
    watched.before = () => new Promise((resolve) => setTimeout(resolve, 20))
    const found: number[] = []
    let asked = 0
    for await (const record of log.stream('a').read()) {
      found.push(Number.parseInt(Buffer.from(record.payload).toString(), 10))
      if (found.length !== 130) continue
      // In the third segment: a reader that takes its time finds the next ones there.
      await new Promise((resolve) => setTimeout(resolve, 200))
      asked = new Set(watched.reads.map(({ key }) => key)).size
    }
    assert.deepEqual(found, from(0, RECORDS))
    const keys = new Set(watched.reads.map(({ key }) => key))
    assert.ok(keys.size >= 10, `${keys.size} objects`)
    assert.ok(asked >= 6, `${asked} objects were begun while the third was read`)
    assert.equal(watched.reads.length, 2 * keys.size, 'index and block of each')
  })

  test('a bounded read fetches nothing of what lies behind its end', async () => {
    await history()
    const rows: string[] = []
    for await (const row of log.segments('a')) rows.push(present(row.object, 'object').key)
    assert.deepEqual(await numbers({ until: new Dlsn(3n, 0n, 0n) }), from(0, 120))
    assert.deepEqual(await numbers({ until: { txid: 1_000n + 1_200n } }), from(0, 120))
    assert.deepEqual(await numbers({ until: { sequenceId: 120n } }), from(0, 120))
    assert.deepEqual(await numbers({ limit: 100 }), from(0, 100))
    const asked = new Set(watched.reads.map(({ key }) => key))
    assert.deepEqual(
      rows.filter((key) => asked.has(key)),
      rows.slice(0, 3).filter((key) => asked.has(key)),
    )
  })

  test('whoever leaves the loop, or aborts, ends the requests under way', async () => {
    await history()
    const hung: AbortSignal[] = []
    const near = new Set<string>()
    for await (const row of log.segments('a'))
      if (row.segment <= 2n) near.add(present(row.object, 'object').key)
    for (const way of ['break', 'abort'] as const) {
      await log.close()
      log = await open()
      hung.length = 0
      watched.reads = []
      watched.before = (key, signal) => {
        if (near.has(key)) return
        hung.push(present(signal, 'a signal'))
        return new Promise((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason)))
      }
      const abort = new AbortController()
      let count = 0
      const reading = (async () => {
        for await (const _ of log.stream('a').read({ signal: abort.signal })) {
          count += 1
          if (count === 60) await new Promise((resolve) => setTimeout(resolve, 100))
          if (way === 'break' && count === 61) break
          if (way === 'abort' && count === 61) abort.abort(new Error('enough'))
        }
      })()
      if (way === 'abort') await assert.rejects(reading, /enough/)
      else await reading
      await new Promise((resolve) => setTimeout(resolve, 20))
      assert.ok(hung.length > 0, 'something was fetched ahead')
      assert.ok(
        hung.every((signal) => signal.aborted),
        `${way}: every request ended`,
      )
      watched.before = () => undefined
    }
    assert.deepEqual(await numbers(), from(0, RECORDS), 'and nothing is left of them')
  })

  test('property: random ranges with an archive that fails now and then, in order, once each (invariant 2)', async () => {
    await history()
    let fail = 0
    watched.before = () => {
      fail += 1
      if (fail % 7 === 3) throw new StratalogError('archive_unavailable', 'SlowDown', { retryable: true })
    }
    const range = fc.tuple(fc.nat(RECORDS), fc.nat(RECORDS), fc.option(fc.nat(RECORDS), { nil: undefined }))
    await fc.assert(
      fc.asyncProperty(range, fc.boolean(), async ([one, two, limit], cold) => {
        if (cold) {
          await log.close()
          log = await open()
        }
        const [first, until] = one < two ? [one, two] : [two, one]
        const options = {
          from: { sequenceId: BigInt(first) },
          until: { txid: BigInt(1_000 + 10 * until) },
          ...(limit === undefined ? {} : { limit }),
        }
        for (let attempt = 0; ; attempt += 1) {
          try {
            assert.deepEqual(await numbers(options), from(first, Math.min(until, first + (limit ?? RECORDS))))
            return
          } catch (error) {
            // Looking a position up is not tried again by itself; whoever reads gets a retryable error.
            if (attempt > 5 || !isStratalogError(error, 'archive_unavailable')) throw error
          }
        }
      }),
      { numRuns: 25 },
    )
  })

  test('segments that are evicted while they are read ahead are read from the archive, once each', async () => {
    await log.streams.create('a', { txid: 'custom' })
    for (let at = 0; at < RECORDS; at += 60) {
      await log.stream('a').appendAll(from(at, at + 60).map(text), {
        txid: (value) => BigInt(Number.parseInt(String(value), 10)),
      })
      await log.stream('a').seal()
    }
    const found: number[] = []
    const records = log.stream('a').read()
    for await (const record of records) {
      found.push(Number.parseInt(Buffer.from(record.payload).toString(), 10))
      if (found.length === 70) await log.tier.run({ until: 'settled' })
    }
    assert.deepEqual(found, from(0, RECORDS))
    assert.ok(records.counts.hot >= 60 && records.counts.cold > 300, JSON.stringify(records.counts))
  })

  test('the disk cache serves what was read before, also in the next process; a directory has none by itself', async () => {
    await history()
    await numbers()
    assert.equal(existsSync(join(root, 'log', 'cache')), false)
    await log.close()
    log = await open({ diskCacheBytes: 8 * 2 ** 20 })
    await numbers()
    // Closing gives up what still waits to be written: one block of each segment is there before.
    const kept = () => readdirSync(join(root, 'log', 'cache')).filter((name) => name.endsWith('.blk'))
    for (let tries = 0; kept().length < RECORDS / 60 && tries < 1_000; tries++)
      await new Promise((resolve) => setTimeout(resolve, 10))
    assert.equal(kept().length, RECORDS / 60)
    await log.close()
    log = await open({ diskCacheBytes: 8 * 2 ** 20 })
    watched.reads = []
    assert.deepEqual(await numbers(), from(0, RECORDS))
    assert.ok(watched.reads.length <= 12, `${watched.reads.length} requests: the indexes`)
    await log.close()
    rmSync(join(root, 'log', 'cache'), { recursive: true })
    log = await open({ diskCacheBytes: 8 * 2 ** 20 })
    assert.deepEqual(await numbers(), from(0, RECORDS))
    await assert.rejects(open({ diskCacheBytes: 5 }), (error) => isStratalogError(error, 'invalid_argument'))
  })

  test('invariant 9: a damaged or absent object is read from its twin; without one it is an error, never a gap in silence', async () => {
    await history()
    const rows = []
    for await (const row of log.segments('a')) rows.push(row)
    const archive = present(log.parts.archive, 'archive')
    const store = await archive()
    const path = (key: string) => join(root, 'archive', ...key.split('/'))
    const damaged = [rows[1], rows[3], rows[5]].map((row) => present(row?.object, 'object').key)
    for (const key of damaged) {
      const bytes = readFileSync(path(key))
      // The same content under another attempt.
      await store.putIfAbsent(`${key.slice(0, -13)}${'0'.repeat(13)}`, bodyOf(bytes))
    }
    const flip = (key: string, at: number) => {
      const bytes = readFileSync(path(key))
      bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at)
      writeFileSync(path(key), bytes)
    }
    const [block, index, gone] = damaged.map((key) => key) as [string, string, string]
    flip(block, Math.floor(readFileSync(path(block)).length / 2))
    flip(index, readFileSync(path(index)).length - 100)
    rmSync(path(gone))
    assert.deepEqual(await numbers(), from(0, RECORDS))
    await log.close()
    log = await open()
    rmSync(path(`${gone.slice(0, -13)}${'0'.repeat(13)}`))
    const found: number[] = []
    await assert.rejects(
      (async () => {
        for await (const record of log.stream('a').read())
          found.push(Number.parseInt(Buffer.from(record.payload).toString(), 10))
      })(),
      (error) => isStratalogError(error, 'object_not_found'),
    )
    assert.deepEqual(found, from(0, 300), 'everything before it')
  })

  test('a position is looked up in the twin of a damaged object, and looking it up ends with its reader', async () => {
    await history()
    const rows = []
    for await (const row of log.segments('a')) rows.push(row)
    const { key } = present(rows[4]?.object, 'object')
    const path = join(root, 'archive', ...key.split('/'))
    const bytes = readFileSync(path)
    const store = await present(log.parts.archive, 'archive')()
    await store.putIfAbsent(`${key.slice(0, -13)}${'0'.repeat(13)}`, bodyOf(bytes))
    for (const at of [Math.floor(bytes.length / 2), bytes.length - 100]) {
      const damaged = Buffer.from(bytes)
      damaged.writeUInt8(damaged.readUInt8(at) ^ 1, at)
      writeFileSync(path, damaged)
      await log.close()
      log = await open()
      assert.deepEqual(await numbers({ from: { txid: 1_000n + 10n * 250n }, limit: 1 }), [250])
      await log.close()
      log = await open()
      assert.equal((await log.stream('a').locate({ sequenceId: 251n })).record?.sequenceId, '251')
    }
    await log.close()
    log = await open()
    const asked: AbortSignal[] = []
    watched.before = (_, signal) => {
      asked.push(present(signal, 'signal'))
      // The index of the object comes, its block does not.
      if (asked.length === 1) return
      return new Promise((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason)))
    }
    const abort = new AbortController()
    const reading = numbers({ from: { txid: 1_000n + 10n * 30n }, signal: abort.signal })
    const deadline = setTimeout(() => abort.abort(new Error('too late')), 5_000)
    while (asked.length < 2) await new Promise((resolve) => setTimeout(resolve, 5))
    abort.abort(new Error('enough'))
    await assert.rejects(reading, /enough/)
    clearTimeout(deadline)
    assert.ok(asked.at(-1)?.aborted)
    watched.before = () => undefined
  })

  describe('explain and locate', () => {
    const explain = (options: ReadOptions = {}): Promise<Explanation> => log.stream('a').explain(options)

    test('counts exactly, names each segment with its tier, and asks the archive for the ends only', async () => {
      await history()
      const whole = await explain()
      assert.equal(whole.records, String(RECORDS))
      assert.equal(watched.reads.length, 0, 'the whole of a history needs no look at the archive')
      assert.ok(whole.segments.every((one) => one.tier === 'cold' && one.indexRequests === 1))
      await fc.assert(
        fc.asyncProperty(fc.nat(RECORDS), fc.nat(RECORDS), async (one, two) => {
          const [first, until] = one < two ? [one, two] : [two, one]
          const plan = await explain({
            from: { sequenceId: BigInt(first) },
            until: { sequenceId: BigInt(until) },
          })
          assert.deepEqual([plan.records, plan.exact], [String(until - first), true])
        }),
        { numRuns: 30 },
      )
      const part = await explain({ from: { sequenceId: 100n }, until: { sequenceId: 200n } })
      assert.deepEqual(
        part.segments.map((one) => one.segment),
        ['2', '3', '4'],
      )
      const lines = part.toString().split('\n')
      assert.match(lines[0] ?? '', /^100 records \(exact\) {2}DLSN 2:\d+:\d+ … 4:\d+:\d+ \(excl\.\) {2}/)
      assert.match(lines[1] ?? '', /^ +SEG {2}TIER +WHERE +RANGE +REQUESTS +NOTE$/)
      assert.match(
        lines[2] ?? '',
        /^ +2 {2}cached +\S+\/[0-9a-v]{8}…\/…-[0-9a-v]{13} +\d+\.\d–\d+\.\d of \d+\.\d KiB /,
      )
      assert.ok(
        lines.every((line) => line.length <= 120),
        'fits a screen',
      )
      assert.match(part.toString(), /requests? · first record .* · no gap, no thaw/)
      assert.match(part.toString(), /bound: the archive \(16 connections, .*\); limits.cold-read is not set/)
    })

    test('explaining takes nothing of the memory that readers share', async () => {
      await history()
      const cold = present(log.parts.coldReads, 'cold reads')
      const row = async () =>
        present(
          (await log.parts.segments.index.listSegments((await log.stream('a').info()).incarnation, 3n, 1))[0],
          'row',
        )
      const store = await present(log.parts.archive, 'archive')()
      const reader = await cold.open(store, present((await row()).object, 'object'))
      const room = reader.roomBeyond(0n)
      for (let part = 0n; part < 10n; part += 1n)
        await explain({ from: { sequenceId: 60n * part + 5n }, until: { sequenceId: 60n * part + 20n } })
      assert.equal(reader.roomBeyond(0n), room)
      reader.close()
    })

    test('what it foretells is what a read then asks for', async () => {
      await history()
      await log.close()
      log = await open()
      const plan = await explain({ until: new Dlsn(8n, 0n, 0n) })
      watched.reads = []
      await numbers({ until: new Dlsn(8n, 0n, 0n) })
      assert.equal(watched.reads.length, plan.requests)
      const again = await explain({ until: new Dlsn(8n, 0n, 0n) })
      assert.ok(again.segments.every((one) => one.tier === 'cached'))
      assert.deepEqual([again.requests, again.fetchedBytes], [0, 0])
    })

    test('open, hot and both; gaps and what is out of range', async () => {
      await log.stream('a').appendAll(from(0, 30).map(text))
      const open = await explain()
      assert.deepEqual([open.records, open.segments[0]?.tier, open.bound], ['30', 'open', null])
      assert.ok(open.wantedBytes > 30 * 900)
      await log.stream('a').seal()
      assert.equal((await explain()).segments[0]?.tier, 'hot')
      const { incarnation } = await log.stream('a').info()
      await assert.rejects(explain({ from: new Dlsn(9n, 0n, 0n) }), (error) =>
        isStratalogError(error, 'position_out_of_range'),
      )
      const { index } = log.parts.segments
      const [row] = await index.listSegments(incarnation, 1n, 1)
      await log.stream('a').append('last')
      await index.updateSegment(present(row, 'row'), { state: 'gap', ledgerId: null })
      const gap = await explain()
      assert.deepEqual([gap.gaps, gap.exact], [1, false])
      assert.match(gap.toString(), /^1 record \(.*\n.*1 segment is not to be had/s)
    })

    test('locate names segment, object and block; the end has no record yet', async () => {
      await history()
      const found = await log.stream('a').locate({ txid: 1_000n + 10n * 333n })
      assert.deepEqual(found.record, { sequenceId: '333', txid: '4330' })
      assert.equal(found.segment, '6')
      assert.equal(found.block?.number, 0)
      assert.match(found.object ?? '', /\/s/)
      assert.deepEqual(await numbers({ from: Dlsn.parse(found.dlsn), limit: 1 }), [333])
      // Hot as well: an archive that does not answer costs only the number of the block.
      await log.stream('a').recall({}, { for: '1h' })
      await log.close()
      log = await open()
      watched.before = () => {
        throw new StratalogError('archive_unavailable', 'SlowDown', { retryable: true })
      }
      const away = await log.stream('a').locate({ txid: 1_000n + 10n * 333n })
      assert.deepEqual([away.record, away.block, away.object], [found.record, null, found.object])
      watched.before = () => undefined
      const end = await log.stream('a').locate('latest')
      assert.deepEqual([end.segment, end.record], [null, null])
    })
  })
})

const big = (_: string, value: unknown) => (typeof value === 'bigint' ? String(value) : value)
