import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, test } from 'node:test'
import fc from 'fast-check'
import { putControl, readControls, trimmedBelow } from '../../archive/control-objects.js'
import { holdBody, standingHolds } from '../../archive/decisions.js'
import { directoryArchive } from '../../archive/directory/store.js'
import type { Log } from '../../src/log.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import type { ArchiveStore } from '../../src/ports/archive-store.js'
import { realDisk } from '../../src/system/disk.js'
import { silentLogger } from '../../src/system/logger.js'
import { nextNumber } from '../../tiering/announce.js'
import { archiveContext, countingRandom } from '../helpers/archive.js'
import { fillSegments, readAll, rowsOf, TieredLog } from '../helpers/tiered-log.js'

let place: TieredLog
beforeEach(() => {
  place = new TieredLog()
})
afterEach(() => place.end())

const below = new Dlsn(4n, 0n, 0n)

/** The archive as another process sees it. */
function otherProcess(): Promise<ArchiveStore> {
  return directoryArchive(place.archive).open(archiveContext(realDisk(), 1, silentLogger(), true))
}

/** Puts a pin on segment 2 as the log that clones the stream does, and returns where history began just after. */
async function pin(store: ArchiveStore, incarnation: string): Promise<Dlsn | null> {
  const controls = await readControls(store, incarnation)
  const body = holdBody({
    id: 'clone',
    from: { dlsn: new Dlsn(2n, 0n, 0n) },
    until: { dlsn: new Dlsn(3n, 0n, 0n) },
    reason: null,
    atMs: 1,
    by: 'f'.repeat(32),
  })
  await putControl(store, incarnation, nextNumber(controls), 'pin', body, countingRandom('pin'))
  return trimmedBelow(await readControls(store, incarnation))
}

async function filled(): Promise<Log> {
  const log = await place.open()
  await fillSegments(log, 'a', 4)
  await log.tier.run()
  return log
}

describe('a trim and a pin of another process at once (decision 0020, invariants 5 and 8)', () => {
  test('whatever comes between which requests: what the pin was promised is there, and marked as such', async () => {
    // Counts the trim's requests first, so that the pin can be put before each of them.
    let seen = 0
    let at = -1
    let put: () => Promise<void> = async () => {}
    const each = async () => {
      seen += 1
      if (seen === at) await put()
    }
    const run = async (request: number) => {
      const log = await filled()
      const store = await otherProcess()
      const { incarnation } = await log.stream('a').info()
      const { archive } = log.parts.tiering
      assert.ok(archive)
      const real = await archive(incarnation)
      const watched: ArchiveStore = {
        ...real,
        location: real.location,
        capabilities: real.capabilities,
        putIfAbsent: async (...args) => {
          await each()
          return real.putIfAbsent(...args)
        },
        head: (...args) => real.head(...args),
        readRange: async (...args) => {
          await each()
          return real.readRange(...args)
        },
        listFrom: async (...args) => {
          await each()
          return real.listFrom(...args)
        },
        delete: async (...args) => {
          await each()
          return real.delete(...args)
        },
        close: () => real.close(),
      }
      Object.assign(log.parts.tiering, { archive: async () => watched })
      let promised: Dlsn | null | undefined
      seen = 0
      at = request
      put = async () => {
        promised = await pin(store, incarnation)
      }
      const outcome = await log
        .stream('a')
        .trim({ before: below })
        .then(
          () => 'done',
          (error: unknown) => (isStratalogError(error) ? error.code : String(error)),
        )
      at = -1
      // A later pass finishes what was left, and is bound by the same.
      await log.tier.run()
      const controls = await readControls(store, incarnation)
      const rows = (await rowsOf(log, 'a')).filter(({ state }) => state !== 'trimmed')
      const first = rows[0]?.segment ?? 0n
      const marked = trimmedBelow(controls)?.segment ?? 1n
      if (promised !== undefined && (promised === null || promised.segment <= 2n)) {
        assert.ok(first <= 2n, `before request ${request}: segment 2 was promised and is gone (${outcome})`)
        assert.ok(marked <= 2n, `before request ${request}: the archive says that segment 2 was trimmed`)
        assert.equal((await log.stream('a').info()).trimmedBelow?.segment ?? 1n, marked)
      }
      // Invariant 5: from where history begins on nothing is missing.
      assert.deepEqual(
        rows.map(({ segment }) => segment),
        Array.from({ length: rows.length }, (_, i) => first + BigInt(i)),
      )
      assert.equal((await readAll(log, 'a')).texts.length, rows.length * 10)
      const requests = seen
      await store.close()
      await log.close()
      place.end()
      place = new TieredLog()
      return { requests, promised }
    }
    const { requests } = await run(-1)
    assert.ok(requests > 8, `${requests} requests`)
    const met = new Set<string>()
    for (let request = 1; request <= requests; request += 1) {
      const { promised } = await run(request)
      if (promised !== undefined) met.add(promised === null || promised.segment <= 2n ? 'in time' : 'late')
    }
    assert.deepEqual([...met].sort(), ['in time', 'late'])
  })

  test('a marker that a crash left is taken back when a hold binds what it would have ended', async () => {
    let log = await filled()
    const { incarnation } = await log.stream('a').info()
    const { index } = log.parts.segments
    const update = index.updateStream.bind(index)
    Object.assign(index, {
      updateStream: () => Promise.reject(new StratalogError('closed', 'killed')),
    })
    await assert.rejects(log.stream('a').trim({ before: below }), { code: 'closed' })
    Object.assign(index, { updateStream: update })
    await log.close()
    log = await place.open()
    const store = await otherProcess()
    assert.equal(trimmedBelow(await readControls(store, incarnation))?.toString(), '4:0:0')
    await log.stream('a').hold({ id: 'case-1', from: new Dlsn(2n, 0n, 0n) })
    const trimmed = await log.stream('a').trim({ before: below })
    assert.equal(trimmed.below?.toString(), '2:0:0')
    assert.equal(trimmedBelow(await readControls(store, incarnation))?.toString(), '2:0:0')
    assert.equal((await readAll(log, 'a')).texts.length, 30)
    await store.close()
    await log.close()
  })

  test('a hold put while a trim is deciding waits, and is told what ended', async () => {
    await using log = await filled()
    let release = () => {}
    const hangs = new Promise<void>((resolve) => {
      release = resolve
    })
    let met = () => {}
    const atMarker = new Promise<void>((resolve) => {
      met = resolve
    })
    place.faults.beforePut = (key) => {
      if (key.includes('-trim-')) met()
    }
    place.faults.putWaits = hangs
    const trim = log.stream('a').trim({ before: below })
    await atMarker
    const hold = log.stream('a').hold({ id: 'case-1' })
    release()
    delete place.faults.putWaits
    assert.equal((await trim).segments, 3)
    assert.equal((await hold).trimmedBelow?.toString(), '4:0:0')
  })

  test('an object of what is held late stays, owed until the release; of an archive that is another’s too', async () => {
    await using log = await filled()
    const { incarnation } = await log.stream('a').info()
    place.faults.beforeDelete = () => {
      throw new StratalogError('archive_unavailable', 'injected', { retryable: true })
    }
    await assert.rejects(log.stream('a').trim({ before: below }), { code: 'archive_unavailable' })
    delete place.faults.beforeDelete
    const store = await otherProcess()
    assert.equal((await pin(store, incarnation))?.toString(), '4:0:0')
    await log.tier.run()
    // Segments 1 and 3 are gone, the object of 2 is not.
    assert.equal(place.objects().length, 2)
    const controls = await readControls(store, incarnation)
    const body = { id: 'clone', atMs: 2 }
    await putControl(store, incarnation, nextNumber(controls), 'release', body, countingRandom('release'))
    assert.equal(standingHolds(await readControls(store, incarnation)).length, 0)
    Object.assign(log.parts.tiering, { logId: 'e'.repeat(32) })
    await log.tier.run()
    assert.equal(place.objects().length, 2)
    Object.assign(log.parts.tiering, { logId: log.logId })
    await log.tier.run()
    assert.equal(place.objects().length, 1)
    await store.close()
  })
})

test('properties: whatever is held, put and released in any order, no held record is ever trimmed (invariant 8)', async () => {
  const segments = 6
  const dlsn = fc.record({ segment: fc.integer({ min: 1, max: segments + 1 }), entry: fc.nat(9) })
  const step = fc.oneof(
    fc.record({
      kind: fc.constant('hold' as const),
      id: fc.nat(3),
      from: dlsn,
      length: fc.integer({ min: 1, max: 30 }),
    }),
    fc.record({ kind: fc.constant('release' as const), id: fc.nat(3) }),
    fc.record({ kind: fc.constant('trim' as const), at: dlsn }),
    fc.record({ kind: fc.constant('keep' as const), bytes: fc.nat(3_000) }),
    fc.record({ kind: fc.constant('run' as const) }),
    fc.record({ kind: fc.constant('reopen' as const), lost: fc.boolean() }),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 3, maxLength: 10 }), async (steps) => {
      const own = new TieredLog()
      let log = await own.open()
      try {
        await fillSegments(log, 'a', segments)
        await log.tier.run()
        // Of each hold that stands the records that were there when it was put: txids, ten a segment.
        const held = new Map<string, Set<string>>()
        for (const one of steps) {
          const a = log.stream('a')
          if (one.kind === 'hold') {
            const first = (one.from.segment - 1) * 10 + one.from.entry
            const range = { from: { txid: txidAt(first) }, until: { txid: txidAt(first + one.length) } }
            const there = new Set<string>()
            for await (const { txid, payload } of a.read())
              if (txid >= range.from.txid && txid < range.until.txid)
                there.add(Buffer.from(payload).toString())
            const put = await a.hold({ id: `h${one.id}`, ...range }).catch((error: unknown) => {
              assert.ok(isStratalogError(error, 'refused'), String(error))
            })
            if (put !== undefined) held.set(`h${one.id}`, there)
          } else if (one.kind === 'release') {
            await a
              .release(`h${one.id}`)
              .catch((error: unknown) => assert.ok(isStratalogError(error, 'not_found')))
            held.delete(`h${one.id}`)
          } else if (one.kind === 'trim') {
            const before = new Dlsn(BigInt(one.at.segment), BigInt(one.at.entry), 0n)
            await a
              .trim({ before })
              .catch((error: unknown) =>
                assert.ok(isStratalogError(error, 'position_out_of_range'), String(error)),
              )
          } else if (one.kind === 'keep') await a.trim({ before: { keepBytes: one.bytes } })
          else if (one.kind === 'run') await log.tier.run()
          else {
            await log.close()
            if (one.lost) own.dropIndex()
            log = await own.open()
          }
          const left = new Set((await readAll(log, 'a')).texts)
          for (const [id, records] of held)
            for (const record of records) assert.ok(left.has(record), `${record} of ${id} after ${one.kind}`)
        }
      } finally {
        await log.close()
        own.end()
      }
    }),
    { numRuns: 8 },
  )
})

const txidAt = (record: number): bigint => BigInt(1_000 + 10 * record)
