import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, test } from 'node:test'
import type { Log } from '../../src/log.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import type { Position } from '../../src/model/position.js'
import type { SegmentRow } from '../../src/model/segment.js'
import type { SegmentPatch } from '../../src/ports/segment-index.js'
import { fillSegments, readAll, rowsOf, TieredLog } from '../helpers/tiered-log.js'

let place: TieredLog
beforeEach(() => {
  place = new TieredLog()
})
afterEach(() => place.end())

/** Segments of `a` that are not trimmed. */
async function left(log: Log): Promise<bigint[]> {
  const rows = await rowsOf(log, 'a')
  return rows.filter(({ state }) => state !== 'trimmed').map(({ segment }) => segment)
}

describe('trim by hand', () => {
  for (const [what, before, first, segments] of [
    ['a DLSN at a border', new Dlsn(3n, 0n, 0n), 20, [3n, 4n]],
    // Record 25 has txid 1250: segment 3 stays for what is above.
    ['a txid in a segment', { txid: 1_250n }, 25, [3n, 4n]],
    ['a time, where txids are times', { time: 1_251 }, 26, [3n, 4n]],
    ['a sequence id', { sequenceId: 9n }, 9, [1n, 2n, 3n, 4n]],
    ['the end', 'latest', 40, []],
  ] as readonly (readonly [string, Position, number, readonly bigint[]])[]) {
    test(`before ${what}: readers begin there, whole segments below are gone`, async () => {
      let log = await place.open()
      await fillSegments(log, 'a', 4)
      await log.tier.run()
      const dry = await log.stream('a').trim({ before, dryRun: true })
      assert.deepEqual(await left(log), [1n, 2n, 3n, 4n])
      const report = await log.stream('a').trim({ before })
      assert.deepEqual({ ...report, below: `${report.below}` }, { ...dry, below: `${dry.below}` })
      assert.deepEqual(await left(log), segments)
      assert.equal(place.objects().length, segments.length)
      const all = Array.from({ length: 40 }, (_, i) => `a ${i}`)
      assert.deepEqual((await readAll(log, 'a')).texts, all.slice(first))
      const info = await log.stream('a').info()
      assert.equal(info.trimmedBelow?.toString(), report.below?.toString())
      if (segments.length > 0) assert.deepEqual(info.first, report.below)
      // The same again, or less, changes nothing; and an index that is made again begins where history does.
      assert.equal((await log.stream('a').trim({ before })).below, null)
      assert.equal((await log.stream('a').trim({ before: new Dlsn(1n, 0n, 1n) })).below, null)
      await log.close()
      place.dropIndex()
      log = await place.open()
      assert.deepEqual((await readAll(log, 'a')).texts, all.slice(first))
      await log.stream('a').append('a 40', { txid: 5_000n })
      assert.equal((await readAll(log, 'a')).texts.at(-1), 'a 40')
      await log.close()
    })
  }

  test('by space, and in the open segment: sealed first where that is asked', async () => {
    await using log = await place.open()
    await fillSegments(log, 'a', 3)
    const a = log.stream('a')
    const sizes = (await rowsOf(log, 'a')).map(({ lengthBytes }) => lengthBytes)
    const keepBytes = (sizes[1] ?? 0) + (sizes[2] ?? 0)
    assert.equal((await a.trim({ before: { keepBytes } })).segments, 1)
    assert.equal((await a.trim({ before: { keepBytes } })).below, null)
    await assert.rejects(a.trim({ before: { keepBytes: -1 } }), (e) =>
      isStratalogError(e, 'invalid_argument'),
    )
    await a.append('open', { txid: 9_000n })
    const open = await a.trim({ before: 'latest' })
    assert.deepEqual([open.below?.toString(), open.segments], ['4:1:0', 2])
    assert.deepEqual((await readAll(log, 'a')).texts, [])
    await a.append('after', { txid: 9_001n })
    assert.deepEqual((await readAll(log, 'a')).texts, ['after'])
    const sealed = await a.trim({ before: 'latest', seal: true })
    assert.deepEqual([sealed.below?.toString(), sealed.segments], ['5:0:0', 1])
    assert.deepEqual(await left(log), [])
    await a.append('next', { txid: 9_002n })
    assert.deepEqual((await readAll(log, 'a')).texts, ['next'])
  })

  test('beyond the end, of an unknown or an empty stream', async () => {
    await using log = await place.open()
    await fillSegments(log, 'a', 1)
    const code = (expected: StratalogError['code']) => (error: unknown) => isStratalogError(error, expected)
    await assert.rejects(
      log.stream('a').trim({ before: new Dlsn(9n, 0n, 0n) }),
      code('position_out_of_range'),
    )
    await assert.rejects(log.stream('b').trim({ before: 'latest' }), code('stream_not_found'))
    await log.streams.create('c')
    const nothing = await log.stream('c').trim({ before: 'latest' })
    assert.deepEqual([nothing.below, nothing.segments], [null, 0])
  })
})

describe('a trim by hand that dies (invariants 5, 8, 12)', () => {
  const steps = ['marker', 'stream', 'first row', 'last row', 'ledger', 'object'] as const
  for (const step of steps) {
    for (const when of ['before', 'after'] as const) {
      test(`${when} the ${step}: no policy has to ask again, nothing above is touched`, async () => {
        let log = await place.open({ defaults: { hot: { for: '1h' }, evict: { lag: 0 } } })
        await fillSegments(log, 'a', 4)
        await log.tier.run()
        const { index } = log.parts.segments
        let dead = false
        let rows = 0
        const at = async <T>(here: boolean, work: () => Promise<T>): Promise<T> => {
          if (dead || (here && when === 'before')) {
            dead = true
            throw new StratalogError('closed', 'killed')
          }
          const done = await work()
          if (here) {
            dead = true
            throw new StratalogError('closed', 'killed')
          }
          return done
        }
        const [stream, segment] = [index.updateStream.bind(index), index.updateSegment.bind(index)]
        Object.assign(index, {
          updateStream: (...args: Parameters<typeof stream>) => at(step === 'stream', () => stream(...args)),
          updateSegment: (row: SegmentRow, patch: SegmentPatch) => {
            if (patch.state === 'trimmed') rows += 1
            const first = patch.state === 'trimmed' && rows === 1 && step === 'first row'
            const last = patch.state === 'trimmed' && rows === 3 && step === 'last row'
            const ledger = patch.ledgerId === null && step === 'ledger'
            return at(first || last || ledger, () => segment(row, patch))
          },
        })
        const dies = (here: boolean) => {
          if (!here && !dead) return
          dead = true
          throw new StratalogError('closed', 'killed')
        }
        place.faults.beforePut = (key) =>
          dies(key.includes('-trim-') && step === 'marker' && when === 'before')
        place.faults.afterPut = (key) => dies(key.includes('-trim-') && step === 'marker')
        let deletes = 0
        place.faults.beforeDelete = () => {
          deletes += 1
          dies(step === 'object' && deletes > (when === 'before' ? 0 : 1))
        }
        const before = new Dlsn(4n, 0n, 0n)
        await assert.rejects(log.stream('a').trim({ before }), { code: 'closed' })
        for (const name of ['beforePut', 'afterPut', 'beforeDelete'] as const) delete place.faults[name]
        await log.close()
        log = await place.open({ defaults: { hot: { for: '1h' }, evict: { lag: 0 } } })
        await log.tier.run()
        const decided = !(step === 'marker' || (step === 'stream' && when === 'before'))
        if (decided) assert.deepEqual([await left(log), place.objects().length], [[4n], 1])
        // Not decided: said to have failed, and asked again it is done.
        else {
          assert.equal((await readAll(log, 'a')).texts.length, 40)
          assert.equal((await log.stream('a').trim({ before })).segments, 3)
        }
        await log.tier.run()
        assert.deepEqual([await left(log), place.objects().length], [[4n], 1])
        assert.deepEqual((await readAll(log, 'a')).texts[0], 'a 30')
        await log.close()
      })
    }
  }
})
