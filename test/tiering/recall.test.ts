import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import type { Log } from '../../src/log.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import type { SegmentRow } from '../../src/model/segment.js'
import { openLog } from '../../src/open.js'
import type { SegmentPatch } from '../../src/ports/segment-index.js'
import { silentLogger } from '../../src/system/logger.js'
import { settleDebts } from '../../tiering/evict.js'
import { outage } from '../helpers/faulty-archive.js'
import { fillSegments, readAll, rowsOf, TieredLog } from '../helpers/tiered-log.js'

let place: TieredLog
beforeEach(() => {
  place = new TieredLog()
})
afterEach(() => place.end())

const HOUR = 3_600_000
const states = async (log: Log) => (await rowsOf(log, 'a')).map(({ state }) => state).join(' ')
const range = { from: new Dlsn(2n, 0n, 0n), until: new Dlsn(4n, 0n, 0n) }

/** A log whose stream `a` has four cold segments. */
async function cold(): Promise<Log> {
  const log = await place.open()
  await fillSegments(log, 'a', 4)
  await log.tier.run()
  assert.equal(await states(log), 'cold cold cold cold')
  return log
}

/** Ledgers on the stores. */
async function ledgers(log: Log): Promise<bigint[]> {
  const found = new Set<bigint>()
  for (const store of log.parts.segments.ledger.stores.all())
    for (const { ledgerId, header } of await store.listLedgers(-1n, 1_000))
      if (header !== null) found.add(ledgerId)
  return [...found]
}

describe('recall', () => {
  test('a range comes back with the same entries, is read from there, and goes when its time is over', async () => {
    await using log = await cold()
    const before = await rowsOf(log, 'a')
    const dry = await log.stream('a').recall(range, { for: '1h', dryRun: true })
    assert.deepEqual([dry?.segments, dry?.done, await states(log)], [2, 0, 'cold cold cold cold'])
    const done = await log.stream('a').recall(range, { for: '1h' })
    assert.deepEqual([done?.segments, done?.done, done?.doneBytes === done?.bytes], [2, 2, true])
    assert.equal(await states(log), 'cold archived archived cold')
    const rows = await rowsOf(log, 'a')
    assert.ok((rows[1]?.recalledUntilMs ?? 0) > Date.now() + HOUR / 2)
    assert.deepEqual(
      rows.map(({ contentDigest, lastEntryId, object, epoch }) => [
        contentDigest,
        lastEntryId,
        object,
        epoch,
      ]),
      before.map(({ contentDigest, lastEntryId, object, epoch }) => [
        contentDigest,
        lastEntryId,
        object,
        epoch,
      ]),
    )
    const read = await readAll(log, 'a')
    assert.deepEqual([read.texts.length, read.hot, read.cold], [40, 20, 20])
    assert.equal(read.texts[15], 'a 15')
    // Policy frees everything at once; what was recalled stays until its time.
    assert.equal((await log.tier.run()).evicted, 0)
    const again = await log.stream('a').recall(range, { for: '1h' })
    assert.deepEqual([again?.segments, again?.kept], [0, 2])
    for (const row of (await rowsOf(log, 'a')).slice(1, 3))
      await log.parts.segments.index.updateSegment(row, { recalledUntilMs: 1 })
    assert.equal((await log.tier.run()).evicted, 2)
    assert.equal(await states(log), 'cold cold cold cold')
    assert.deepEqual(await ledgers(log), [])
    assert.deepEqual(
      (await rowsOf(log, 'a')).map(({ recalledUntilMs }) => recalledUntilMs),
      [null, null, null, null],
    )
  })

  test('a plan from before it does not evict what it keeps', async () => {
    await using log = await place.open({ defaults: { hot: { for: 0 }, evict: { lag: 60_000 } } })
    await fillSegments(log, 'a', 2)
    await log.tier.run()
    await log.stream('a').recall({}, { for: '1h' })
    await log.stream('a').setPolicy({ evict: { lag: 0 } })
    const { index } = log.parts.tiering
    const planned = index.listSegments.bind(index)
    Object.assign(index, {
      listSegments: async (...args: Parameters<typeof planned>) =>
        (await planned(...args)).map((row) => ({ ...row, recalledUntilMs: null })),
    })
    await log.tier.run({ until: 'once' })
    assert.equal(await states(log), 'archived archived')
  })

  test('evict by hand ends it at once', async () => {
    await using log = await cold()
    await log.stream('a').recall({}, { for: '1h' })
    assert.equal(await states(log), 'archived archived archived archived')
    const report = await log.stream('a').evict({ until: new Dlsn(3n, 0n, 0n) })
    assert.deepEqual([report.evicted, report.copied, report.sealed], [2, 0, 0])
    assert.equal(await states(log), 'cold cold archived archived')
  })

  test('wrong ones are refused: reversed, without end, without archive, without room, unknown', async () => {
    await using log = await cold()
    const a = log.stream('a')
    const code = (expected: StratalogError['code']) => (error: unknown) => isStratalogError(error, expected)
    await assert.rejects(
      a.recall({ from: range.until, until: range.from }, { for: 1 }),
      code('invalid_argument'),
    )
    await assert.rejects(a.evict({ from: range.until, until: range.from }), code('invalid_argument'))
    await assert.rejects(a.recall(range, { for: 0 }), code('invalid_argument'))
    await assert.rejects(a.recall(range, { for: 'soon' }), code('invalid_argument'))
    await assert.rejects(log.stream('b').recall(range, { for: 1_000 }), code('stream_not_found'))
    for (const store of log.parts.segments.ledger.stores.all()) {
      const status = store.status.bind(store)
      Object.assign(store, {
        status: async () => ({ ...(await status()), freeBytes: 1_000, totalBytes: 10_000 }),
      })
    }
    await assert.rejects(a.recall(range, { for: '1h' }), code('store_full'))
    assert.equal(await states(log), 'cold cold cold cold')
    assert.deepEqual(await ledgers(log), [])
  })

  test('invariant 9: an object that holds something else is never recalled, and leaves nothing', async () => {
    await using log = await cold()
    const second = (await rowsOf(log, 'a'))[1] as SegmentRow
    await log.parts.segments.index.updateSegment(second, { contentDigest: 'ab'.repeat(32) })
    await assert.rejects(log.stream('a').recall(range, { for: '1h' }), { code: 'corrupt' })
    assert.equal(await states(log), 'cold cold cold cold')
    assert.deepEqual(await ledgers(log), [])
    // And damage is found before it is written.
    await log.parts.segments.index.updateSegment((await rowsOf(log, 'a'))[1] as SegmentRow, {
      contentDigest: second.contentDigest,
    })
    place.faults.read = (_, bytes) => {
      const changed = Uint8Array.from(bytes)
      changed[changed.length >> 1] = (changed[changed.length >> 1] ?? 0) ^ 1
      return changed
    }
    await assert.rejects(log.stream('a').recall(range, { for: '1h' }), { code: 'corrupt' })
    delete place.faults.read
    assert.equal((await log.stream('a').recall(range, { for: '1h' }))?.done, 2)
  })

  test('an archive that goes down on the way, and a caller who leaves: run again it goes on', async () => {
    await using log = await cold()
    let reads = 0
    place.faults.read = (_, bytes) => {
      reads += 1
      return reads > 4 ? outage() : bytes
    }
    await assert.rejects(log.stream('a').recall({}, { for: '1h' }), { code: 'archive_unavailable' })
    delete place.faults.read
    const done = (await states(log)).split(' ').filter((state) => state === 'archived').length
    assert.ok(done > 0 && done < 4, `${done} segments`)
    const abort = new AbortController()
    await assert.rejects(
      log
        .stream('a')
        .recall({}, { for: '1h', signal: abort.signal, onProgress: () => abort.abort(new Error('left')) }),
      /left/,
    )
    const rest = await log.stream('a').recall({}, { for: '1h' })
    assert.ok((rest?.kept ?? 0) >= done)
    assert.equal(await states(log), 'archived archived archived archived')
    assert.equal((await ledgers(log)).length, 4)
  })
})

describe('debts that were listed while a recall was under way', () => {
  test('invariant 1: what it brought back meanwhile is not freed by them', async () => {
    await using log = await cold()
    const { index } = log.parts.tiering
    const update = index.updateSegment.bind(index)
    const owing = index.segmentsOwing.bind(index)
    let listed: SegmentRow[] = []
    Object.assign(index, {
      updateSegment: async (row: SegmentRow, patch: SegmentPatch) => {
        if (patch.state === 'archived') listed = [...listed, ...(await owing(10))]
        return update(row, patch)
      },
      segmentsOwing: async () => listed,
    })
    await log.stream('a').recall(range, { for: '1h' })
    assert.deepEqual(
      listed.map(({ state, segment }) => `${state} ${segment}`),
      ['cold 2', 'cold 3'],
    )
    assert.equal(await settleDebts(log.parts.tiering, new AbortController().signal), 0)
    assert.equal((await ledgers(log)).length, 2)
    const read = await readAll(log, 'a')
    assert.deepEqual([read.texts.length, read.hot], [40, 20])
  })
})

describe('a recall that dies', () => {
  for (const step of [
    'before the row',
    'after the row',
    'before the seal',
    'before the commit',
    'after the commit',
  ] as const) {
    for (const lost of [false, true]) {
      test(`${step}${lost ? ', and the index with it' : ''}: nothing is lost, and it can be run again (invariants 1, 4, 12)`, async () => {
        let log = await cold()
        const killed = () => {
          throw new StratalogError('closed', 'killed')
        }
        const { index } = log.parts.segments
        const update = index.updateSegment.bind(index)
        const dies = { now: false }
        Object.assign(index, {
          updateSegment: async (row: SegmentRow, patch: SegmentPatch) => {
            if (dies.now) killed()
            const names = patch.ledgerId !== undefined && patch.ledgerId !== null
            const commits = patch.state === 'archived'
            if ((names && step === 'before the row') || (commits && step === 'before the commit')) {
              dies.now = true
              killed()
            }
            const done = await update(row, patch)
            if ((names && step === 'after the row') || (commits && step === 'after the commit')) {
              dies.now = true
              killed()
            }
            return done
          },
        })
        if (step === 'before the seal') {
          let reads = 0
          place.faults.read = (_, bytes) => {
            reads += 1
            dies.now = reads > 1
            return reads > 1 ? outage() : bytes
          }
        }
        await assert.rejects(log.stream('a').recall(range, { for: '1h' }))
        delete place.faults.read
        await log.close()
        if (lost) place.dropIndex()
        log = await place.open()
        assert.equal((await readAll(log, 'a')).texts.length, 40)
        await log.tier.run()
        assert.equal((await readAll(log, 'a')).texts.length, 40)
        const done = await log.stream('a').recall(range, { for: '1h' })
        assert.equal((done?.done ?? 0) + (done?.kept ?? 0), 2)
        const rows = await rowsOf(log, 'a')
        assert.deepEqual(
          rows.slice(1, 3).map(({ state, ledgerId }) => [state, ledgerId !== null]),
          [
            ['archived', true],
            ['archived', true],
          ],
        )
        const read = await readAll(log, 'a')
        assert.deepEqual([read.texts.length, read.hot], [40, 20])
        // At most the ledger whose row was never written is left beside the two.
        assert.ok((await ledgers(log)).length <= (step === 'before the row' ? 3 : 2) + (lost ? 1 : 0))
        await log.close()
      })
    }
  }

  test('an index that is made again keeps what was recalled until its time, and its epoch', async () => {
    let log = await cold()
    await log.stream('a').recall(range, { for: '1h' })
    const before = (await rowsOf(log, 'a')).map(({ recalledUntilMs, epoch }) => [recalledUntilMs, epoch])
    await log.close()
    place.dropIndex()
    log = await place.open()
    await log.tier.run()
    assert.equal(await states(log), 'cold archived archived cold')
    const after = (await rowsOf(log, 'a')).map(({ recalledUntilMs, epoch }) => [recalledUntilMs, epoch])
    assert.deepEqual(after.slice(1, 3), before.slice(1, 3))
    await log.close()
  })
})

describe('evict by hand (invariant 4)', () => {
  test('what is missing is done first: the open segment is sealed, copied, read back, then freed', async () => {
    await using log = await place.open()
    await fillSegments(log, 'a', 2)
    await log.stream('a').append('open')
    const steps: string[] = []
    const report = await log
      .stream('a')
      .evict({}, { onStep: ({ kind, segment }) => steps.push(`${kind} ${segment}`) })
    assert.deepEqual(steps, ['copy 1', 'evict 1', 'copy 2', 'evict 2', 'seal 3', 'copy 3', 'evict 3'])
    assert.deepEqual([report.sealed, report.copied, report.evicted], [1, 3, 3])
    assert.equal((await readAll(log, 'a')).cold, 21)
  })

  test('nothing is freed that does not read back, nor without an archive', async () => {
    {
      await using log = await place.open()
      await fillSegments(log, 'a', 2)
      place.faults.read = (key, bytes) => {
        if (!key.includes('/s')) return bytes
        const changed = Uint8Array.from(bytes)
        changed[changed.length >> 1] = (changed[changed.length >> 1] ?? 0) ^ 1
        return changed
      }
      await assert.rejects(log.stream('a').evict(), { code: 'corrupt' })
      assert.equal(await states(log), 'sealed sealed')
      assert.equal((await readAll(log, 'a')).hot, 20)
    }
    const other = new TieredLog()
    try {
      await using log = await openLog(other.directory, {
        tiering: 'off',
        control: 'off',
        config: 'none',
        storeFileBytes: 4 * 2 ** 20,
        system: { logger: silentLogger() },
      })
      await log.stream('a').append('x')
      await assert.rejects(log.stream('a').evict(), { code: 'archive_missing' })
    } finally {
      other.end()
    }
  })
})

test('what a policy keeps out of the archive is not copied there to be evicted', async () => {
  const config = join(place.root, 'config.yaml')
  writeFileSync(config, 'version: 1\npolicies:\n  - match: a\n    archive: none\n')
  await using log = await place.open({ config })
  await fillSegments(log, 'a', 1)
  await assert.rejects(log.stream('a').evict(), { code: 'refused', message: /archive: none/ })
  assert.equal(await states(log), 'sealed')
})

describe('orders to the agent', () => {
  test('a pause keeps the agent from going on with a deletion', async () => {
    await using log = await place.open()
    await fillSegments(log, 'a', 2)
    await log.tier.run()
    place.faults.beforePut = outage
    const { settled } = await log.streams.delete('a')
    assert.equal(settled, false)
    delete place.faults.beforePut
    await log.tier.pause()
    await log.tier.run()
    assert.equal(place.objects().length, 2)
    await log.tier.resume()
    await log.tier.run()
    assert.deepEqual(place.objects(), [])
  })

  test('a pause stops all but seals, survives a restart and a lost index, and ends by itself', async () => {
    let log = await place.open()
    await fillSegments(log, 'a', 1)
    await fillSegments(log, 'b', 1)
    await log.tier.pause({ stream: 'a' })
    await log.tier.run()
    assert.deepEqual([await states(log), (await rowsOf(log, 'b'))[0]?.state], ['sealed', 'cold'])
    await log.tier.pause({ for: '1h' })
    await log.close()
    place.dropIndex()
    log = await place.open()
    const { pauses } = await log.tier.orders()
    assert.deepEqual(
      pauses.map(({ stream, untilMs }) => [stream, untilMs !== null]),
      [
        ['a', false],
        [null, true],
      ],
    )
    await log.stream('b').append('more')
    await log.stream('b').seal()
    await log.tier.run()
    assert.ok((await rowsOf(log, 'b')).some(({ state }) => state === 'sealed'))
    await assert.rejects(log.tier.resume({ stream: 'a' }), { code: 'refused' })
    await assert.rejects(log.tier.pause({ stream: 'c' }), { code: 'stream_not_found' })
    await assert.rejects(log.tier.pause({ untilMs: 5 }), { code: 'invalid_argument' })
    await log.tier.resume()
    await log.tier.run()
    assert.equal(await states(log), 'cold')
    await log.tier.pause({ for: 50 })
    await new Promise((resolve) => setTimeout(resolve, 60))
    assert.deepEqual((await log.tier.orders()).pauses, [])
    await log.close()
  })

  test('an upload limit holds for all copies together, and not for markers and holds', async () => {
    await using log = await place.open()
    const limited = await log.tier.limit({ upload: '1 MiB/s', for: '1h' })
    assert.equal(limited.upload?.bytesPerSecond, 2 ** 20)
    const noise = () => randomBytes(100_000)
    for (const name of ['a', 'b']) {
      for (let i = 0; i < 3; i += 1) await log.stream(name).append(noise())
      await log.stream(name).seal()
    }
    const begun = performance.now()
    await log.tier.run()
    // 600 kB: the last piece goes when the ones before it are worked off.
    assert.ok(performance.now() - begun > 250, `${performance.now() - begun} ms`)
    await assert.rejects(log.tier.limit({ upload: 1_000 }), { code: 'invalid_argument' })
    await assert.rejects(log.tier.limit({ upload: 'fast' }), { code: 'invalid_argument' })
    assert.equal((await log.tier.limit({ upload: null })).upload, null)
  })
})
