import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { putControl } from '../../archive/control-objects.js'
import { holdBody } from '../../archive/decisions.js'
import { encodeHolds } from '../../src/format/holds.js'
import { present } from '../../src/model/assert.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import type { KeptHold } from '../../src/model/hold.js'
import { countingRandom } from '../helpers/archive.js'
import { outage } from '../helpers/faulty-archive.js'
import { fillSegments, readAll, rowsOf, TieredLog } from '../helpers/tiered-log.js'

let place: TieredLog
beforeEach(() => {
  place = new TieredLog()
})
afterEach(() => place.end())

const ids = (holds: readonly { id: string }[]) => holds.map(({ id }) => id)

describe('legal holds (invariant 8)', () => {
  test('what a hold binds survives policy and hand, and goes once it is released', async () => {
    await using log = await place.open({ defaults: { hot: { for: 0 }, evict: { lag: 0 }, keep: { for: 1 } } })
    const a = log.stream('a')
    await fillSegments(log, 'a', 6)
    // Segment 3 holds txids 1200 … 1290.
    const put = await a.hold({ id: 'case-1', from: { txid: 1_250n }, until: { txid: 1_260n } })
    assert.deepEqual([put.told, put.trimmedBelow, put.hold.origin], [true, null, 'stream'])
    await log.tier.run()
    await log.tier.run()
    assert.equal((await a.info()).trimmedBelow?.toString(), '3:0:0')
    assert.equal((await readAll(log, 'a')).texts.length, 40)
    const byHand = await a.trim({ before: new Dlsn(6n, 0n, 0n) })
    assert.deepEqual([byHand.below, byHand.segments, byHand.held?.hold.id], [null, 0, 'case-1'])
    assert.deepEqual(await a.release('case-1'), [])
    await log.tier.run()
    assert.equal((await a.info()).trimmedBelow?.toString(), '7:0:0')
    assert.deepEqual(place.objects(), [])
    assert.deepEqual([place.controls('hold'), place.controls('release')], [1, 1])
  })

  test('overlapping ones, one in the future, one without ends: each binds by itself', async () => {
    await using log = await place.open()
    const a = log.stream('a')
    await fillSegments(log, 'a', 4)
    await a.hold({ id: 'one', from: new Dlsn(2n, 0n, 0n), until: new Dlsn(3n, 5n, 0n) })
    await a.hold({ id: 'two', from: { txid: 1_200n } })
    await a.hold({ id: 'later', from: { time: '2999-01-01' }, until: { time: '2999-02-01' } })
    assert.deepEqual(ids(await a.holds()), ['one', 'two', 'later'])
    assert.equal((await a.trim({ before: 'latest', dryRun: true })).held?.hold.id, 'one')
    assert.deepEqual(ids(await a.release('one')), ['two', 'later'])
    const trimmed = await a.trim({ before: 'latest' })
    assert.deepEqual([trimmed.below?.toString(), trimmed.held?.hold.id], ['3:0:0', 'two'])
    // From a time to come on nothing is held that is there today.
    assert.deepEqual(ids(await a.release('two')), ['later'])
    assert.equal((await a.trim({ before: 'latest' })).held, null)
  })

  test('wrong ones are refused by name', async () => {
    await using log = await place.open()
    const a = log.stream('a')
    await a.append('x')
    const refused = (work: Promise<unknown>, code: Parameters<typeof isStratalogError>[1], why: RegExp) =>
      assert.rejects(work, (error) => isStratalogError(error, code) && why.test((error as Error).message))
    await refused(log.stream('b').hold({ id: 'x' }), 'stream_not_found', /no stream b/)
    await refused(a.hold({ id: '' }), 'invalid_argument', /no id/)
    await refused(a.hold({ id: 'a b' }), 'invalid_argument', /no id/)
    await refused(
      a.hold({ id: 'r', from: { txid: 9n }, until: { txid: 9n } }),
      'invalid_argument',
      /turn from and until round/,
    )
    await refused(a.hold({ id: 'r', from: { sequenceId: 1n } }), 'position_invalid', /DLSN, a txid or a time/)
    await refused(a.hold({ id: 'r', until: 'latest' }), 'position_invalid', /leave an end out/)
    await refused(a.hold({ id: 'r', from: { time: 'soon' } }), 'position_invalid', /not a time/)
    await a.hold({ id: 'r', from: { txid: 9n } })
    // The same again is no news; another range is, and would shorten what is held.
    await a.hold({ id: 'r', from: { txid: 9n } })
    await refused(a.hold({ id: 'r', from: { txid: 10n } }), 'refused', /another id/)
    await refused(a.release('s'), 'not_found', /what stands: r/)
    await a.release('r')
    await refused(a.release('r'), 'not_found', /none stands/)
    // Its id is free again.
    assert.equal((await a.hold({ id: 'r', from: { txid: 10n } })).told, true)
  })

  test('while the archive is down a hold counts at once, and is told when it is back; the index lost in between', async () => {
    let log = await place.open()
    await fillSegments(log, 'a', 3)
    await log.tier.run()
    place.faults.beforePut = outage
    place.faults.list = outage
    const put = await log.stream('a').hold({ id: 'case-1', from: new Dlsn(2n, 0n, 0n), reason: 'court' })
    assert.equal(put.told, false)
    await log.stream('a').hold({ id: 'case-2' })
    await log.stream('a').release('case-2')
    await log.close()
    place.dropIndex()
    delete place.faults.beforePut
    delete place.faults.list
    log = await place.open()
    assert.deepEqual(
      (await log.stream('a').holds()).map(({ id, reason, origin }) => [id, reason, origin]),
      [['case-1', 'court', 'stream']],
    )
    assert.equal(place.controls('hold'), 0)
    await log.tier.run()
    assert.deepEqual([place.controls('hold'), place.controls('release')], [1, 0])
    const trimmed = await log.stream('a').trim({ before: 'latest' })
    assert.deepEqual([trimmed.below?.toString(), trimmed.held?.hold.id], ['2:0:0', 'case-1'])
    // Told once: nothing is put again.
    await log.tier.run()
    assert.equal(place.controls('hold'), 1)
    await log.close()
  })

  test('a released id is not given again before the archive knows of the release', async () => {
    await using log = await place.open()
    await fillSegments(log, 'a', 3)
    await log.tier.run()
    const a = log.stream('a')
    await a.hold({ id: 'case-1' })
    place.faults.list = outage
    await a.release('case-1')
    await assert.rejects(a.hold({ id: 'case-1', from: new Dlsn(3n, 0n, 0n) }), { code: 'refused' })
    delete place.faults.list
    await log.tier.run()
    assert.equal((await a.hold({ id: 'case-1', from: new Dlsn(3n, 0n, 0n) })).told, true)
    assert.equal((await a.trim({ before: 'latest' })).below?.toString(), '3:0:0')
  })

  test('released ones of a log that never had an archive make room for others; standing ones do not', async () => {
    await using log = await place.open({ archive: 'none' })
    await fillSegments(log, 'a', 1)
    const { index } = log.parts.segments
    const { incarnation } = present(await log.streams.find('a'), 'a')
    const holds = (releasedMs: number | null): KeptHold[] =>
      Array.from({ length: 1_000 }, (_, at) => {
        const first = at === 0 ? null : releasedMs
        return { id: `case-${at}`, from: null, until: null, reason: null, atMs: 1, releasedMs: first }
      })
    await index.setFact(`holds/${incarnation}`, encodeHolds(holds(2)))
    await log.stream('a').hold({ id: 'one-more' })
    assert.deepEqual(ids(await log.stream('a').holds()), ['case-0', 'one-more'])
    await index.setFact(`holds/${incarnation}`, encodeHolds(holds(null)))
    await assert.rejects(log.stream('a').hold({ id: 'another' }), { code: 'refused', message: /1000 holds/ })
  })

  test('a hold under the id of a pin, and its release, leave the pin as it is; so does one of another log', async () => {
    await using log = await place.open()
    await fillSegments(log, 'a', 3)
    await log.tier.run()
    const a = log.stream('a')
    const { incarnation } = await a.info()
    const archive = await present(log.parts.archive, 'archive')()
    const body = (more: object) => ({ ...holdBody({ id: 'x', from: null, until: null, ...rest }), ...more })
    const rest = { reason: null, atMs: 1, by: null }
    await putControl(archive, incarnation, 90n, 'pin', body({ by: 'f'.repeat(32) }), countingRandom('pin'))
    await putControl(archive, incarnation, 91n, 'hold', body({}), countingRandom('hold'))
    await a.hold({ id: 'x', from: new Dlsn(3n, 0n, 0n) })
    assert.equal((await a.trim({ before: 'latest' })).below, null)
    await a.release('x')
    assert.deepEqual(
      (await a.holds()).map(({ kind, id }) => `${kind} ${id}`),
      ['pin x'],
    )
    assert.equal((await a.trim({ before: 'latest' })).held?.hold.kind, 'pin')
    assert.equal(place.objects().length, 3)
  })

  for (const lost of [false, true])
    test(`a hold after a trim that died behind its marker has all it was promised${lost ? ', also where the index is lost before the archive hears of it' : ''} (invariants 5, 7, 12)`, async () => {
      let log = await place.open()
      await fillSegments(log, 'a', 4)
      await log.tier.run()
      const { index } = log.parts.tiering
      const update = index.updateStream.bind(index)
      Object.assign(index, {
        updateStream: () => {
          throw new StratalogError('closed', 'killed')
        },
      })
      await assert.rejects(log.stream('a').trim({ before: new Dlsn(4n, 0n, 0n) }), { code: 'closed' })
      Object.assign(index, { updateStream: update })
      assert.equal(place.controls('trim'), 1)
      if (lost) place.faults.list = outage
      const put = await log.stream('a').hold({ id: 'case-1', from: new Dlsn(2n, 0n, 0n) })
      assert.deepEqual([put.trimmedBelow, put.told], [null, !lost])
      await log.close()
      delete place.faults.list
      if (lost) place.dropIndex()
      log = await place.open()
      assert.equal((await readAll(log, 'a')).texts.length, 40)
      await log.tier.run()
      assert.equal(place.controls('trim'), 0)
      assert.equal((await readAll(log, 'a')).texts.length, 40)
      const trimmed = await log.stream('a').trim({ before: new Dlsn(4n, 0n, 0n) })
      assert.equal(trimmed.below?.toString(), '2:0:0')
      await log.close()
    })

  test('an index put back from before a hold learns of it and of its release', async () => {
    const { cpSync, rmSync } = await import('node:fs')
    const { join } = await import('node:path')
    const copy = join(place.root, 'copy.db')
    let log = await place.open()
    await log.stream('a').append('x')
    await log.stream('a').hold({ id: 'old' })
    await log.close()
    cpSync(join(place.directory, 'index.db'), copy)
    log = await place.open()
    await log.stream('a').hold({ id: 'new' })
    await log.stream('a').release('old')
    await log.close()
    place.dropIndex()
    cpSync(copy, join(place.directory, 'index.db'))
    rmSync(copy)
    log = await place.open()
    assert.deepEqual(ids(await log.stream('a').holds()), ['new'])
    await log.close()
  })

  test('an unreadable hold in the archive, or one of a newer format, stops every deletion', async () => {
    await using log = await place.open({ defaults: { hot: { for: 0 }, evict: { lag: 0 } } })
    await fillSegments(log, 'a', 3)
    await log.tier.run()
    await log.stream('a').hold({ id: 'x', from: { time: '2999-01-01' } })
    const objects = place.objects()
    for (const text of ['{', '{"format":2,"kind":"hold"}', '{"format":1,"kind":"hold","id":""}']) {
      place.faults.read = (key, bytes) => (key.includes('-hold-') ? Buffer.from(text) : bytes)
      await assert.rejects(log.stream('a').trim({ before: 'latest' }), (error) => isStratalogError(error))
      assert.deepEqual(place.objects(), objects)
      assert.equal((await log.stream('a').info()).trimmedBelow, null)
    }
    delete place.faults.read
    assert.equal((await log.stream('a').trim({ before: 'latest' })).segments, 3)
    assert.deepEqual(place.objects(), [])
  })

  test('holds in the index that can’t be read stop it too', async () => {
    await using log = await place.open()
    await fillSegments(log, 'a', 2)
    await log.tier.run()
    const { incarnation } = await log.stream('a').info()
    await log.parts.segments.index.setFact(`holds/${incarnation}`, '{"format":1,"holds":[{"id":"x"}]}')
    await assert.rejects(log.stream('a').trim({ before: 'latest' }), (error) =>
      isStratalogError(error, 'corrupt'),
    )
    assert.equal(place.objects().length, 2)
    assert.equal((await rowsOf(log, 'a')).length, 2)
  })
})
