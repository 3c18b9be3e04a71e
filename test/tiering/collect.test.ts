import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { putControl } from '../../archive/control-objects.js'
import { holdBody } from '../../archive/decisions.js'
import { decodeSegmentKey, encodeSegmentKey } from '../../src/format/archive-names.js'
import { encodeBase32 } from '../../src/format/base32.js'
import { encodeSummaryKey } from '../../src/format/summary-object.js'
import type { Log } from '../../src/log.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { OrphanObject } from '../../tiering/collect.js'
import { settleDebts } from '../../tiering/evict.js'
import { collectOrphanLedgers } from '../../tiering/orphan-ledgers.js'
import { countingRandom } from '../helpers/archive.js'
import { ArchivedLog, allOf, checkRead, fill, rowsOf } from '../helpers/archived-log.js'
import { outage } from '../helpers/faulty-archive.js'

let root = ''
let world: ArchivedLog
const random = countingRandom()

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'stratalog-collect-'))
  world = new ArchivedLog(root)
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

async function archived(log: Log, name = 'a', count = 600): Promise<string[]> {
  await fill(log, name, count)
  await log.tier.run()
  return (await rowsOf(log, name)).map((row) => present(row.object, 'object').key)
}

async function orphans(log: Log, graceMs = 0): Promise<OrphanObject[]> {
  const parts = await allOf(log.archive.orphans({ graceMs }))
  return parts.flatMap((part) => (part.type === 'orphan' ? [part.orphan] : []))
}

async function collect(log: Log, graceMs = 0): Promise<OrphanObject[]> {
  const parts = await allOf(log.archive.collect({ graceMs }))
  return parts.flatMap((part) => (part.type === 'orphan' ? [part.orphan] : []))
}

const outcomes = (found: readonly OrphanObject[]) =>
  found.map(({ outcome, reason }) => `${outcome} ${reason}`)

async function put(
  log: Log,
  kind: 'hold' | 'pin' | 'trim' | 'delete' | 'owner',
  body: object,
  number = 50n,
): Promise<void> {
  const archive = await present(log.parts.archive, 'archive')()
  const [row] = await rowsOf(log, 'a')
  const incarnation = kind === 'owner' ? null : present(row, 'row').incarnation
  await putControl(archive, incarnation, number, kind, body, random)
}

describe('orphans of the archive', () => {
  test('a twin goes once it is old enough; without the order nothing is deleted', async () => {
    await using log = await world.open()
    const [key = ''] = await archived(log)
    const twin = world.twin(key)
    assert.deepEqual(outcomes(await orphans(log, 60_000)), ['waiting twin'])
    assert.deepEqual(outcomes(await orphans(log)), ['due twin'])
    assert.ok(world.has(twin))
    assert.deepEqual(outcomes(await collect(log, 60_000)), ['waiting twin'])
    assert.deepEqual(outcomes(await collect(log)), ['deleted twin'])
    assert.ok(!world.has(twin) && world.has(key))
    assert.deepEqual(await orphans(log), [])
    await checkRead(log, 'a', 600)
  })

  test('the first look begins the waiting, also over a restart', async () => {
    let twin = ''
    {
      await using log = await world.open()
      const [key = ''] = await archived(log)
      twin = world.twin(key)
      await orphans(log, 60_000)
    }
    await new Promise((resolve) => setTimeout(resolve, 30))
    await using log = await world.open()
    assert.deepEqual(outcomes(await orphans(log, 25)), ['due twin'])
    assert.ok(world.has(twin))
  })

  test('a twin is kept while the committed object is damaged, short or gone', async () => {
    await using log = await world.open()
    const [key = ''] = await archived(log)
    const twin = world.twin(key)
    const whole = world.bytes(key)
    const bad = Buffer.from(whole)
    bad[500] = (bad[500] ?? 0) ^ 1
    for (const damage of [
      () => world.write(key, bad),
      () => world.write(key, whole.subarray(0, 900)),
      () => world.remove(key),
    ]) {
      damage()
      assert.deepEqual(outcomes(await collect(log)), ['kept unproven'])
      assert.ok(world.has(twin))
    }
  })

  test('an attempt that is not whole goes, one with another content that is whole stays', async () => {
    await using log = await world.open()
    const [key = ''] = await archived(log)
    const parsed = present(decodeSegmentKey(key), 'key')
    const torn = encodeSegmentKey({ ...parsed, contentDigest: '1'.repeat(64) })
    world.write(torn, world.bytes(key))
    const [row] = await rowsOf(log, 'a')
    const rival = await world.rival(log, present(row, 'row'))
    assert.deepEqual(outcomes(await collect(log)).sort(), ['deleted unfinished', 'kept conflict'])
    assert.ok(!world.has(torn) && world.has(rival))
  })

  test('what a sealed segment left in the archive is for its next copy', async () => {
    world.faults.afterPut = (key) => {
      if (key.includes('/s')) outage()
    }
    await using log = await world.open()
    await fill(log, 'a', 100)
    await log.tier.run({ until: 'once' })
    assert.equal(world.keys().length, 1)
    assert.deepEqual(outcomes(await collect(log)), ['kept not-copied-yet'])
    delete world.faults.afterPut
    await log.tier.run()
    assert.equal(world.keys().length, 1)
    assert.deepEqual(await orphans(log), [])
  })

  // Invariant 8: that the index knows nothing of a stream says nothing about it.
  test('objects of a stream the index does not know, and segments it has no row of, are kept', async () => {
    await using log = await world.open()
    const [key = ''] = await archived(log)
    const parsed = present(decodeSegmentKey(key), 'key')
    const unknown = encodeSegmentKey({ ...parsed, incarnation: 'f'.repeat(32) })
    const above = encodeSegmentKey({ ...parsed, segment: 900n })
    world.write(unknown, world.bytes(key))
    world.write(above, world.bytes(key))
    assert.deepEqual(outcomes(await collect(log)).sort(), ['kept no-row', 'kept unknown-stream'])
    assert.ok(world.has(unknown) && world.has(above))
  })

  test('holds and pins keep everything of their segments, and a damaged one everything of the stream', async () => {
    await using log = await world.open()
    const [key = ''] = await archived(log)
    const twin = world.twin(key)
    const hold = { id: 'case', from: null, until: null, reason: null, atMs: 1, by: null }
    await put(log, 'pin', holdBody({ ...hold, by: 'e'.repeat(32) }))
    assert.deepEqual(outcomes(await collect(log)), ['kept held'])
    await put(log, 'hold', { id: 'case' }, 51n)
    const parts = await allOf(log.archive.collect({ graceMs: 0 }))
    const end = parts.at(-1)
    assert.ok(end?.type === 'end' && end.tally.skipped.length === 1 && end.tally.deleted === 0)
    assert.ok(world.has(twin))
  })

  test('a hold of which the archive was not told, and one of a policy, keep as much (invariant 8)', async () => {
    {
      await using log = await world.open()
      const [key = ''] = await archived(log)
      const twin = world.twin(key)
      const [row] = await rowsOf(log, 'a')
      const rival = await world.rival(log, present(row, 'row'))
      world.faults.list = outage
      assert.equal((await log.stream('a').hold({ id: 'case' })).told, false)
      delete world.faults.list
      assert.deepEqual(outcomes(await collect(log)), ['kept held', 'kept held'])
      assert.ok(world.has(twin) && world.has(rival))
      const attempt = present(decodeSegmentKey(key), 'key').attempt
      await assert.rejects(log.archive.resolve('a', 1n, attempt), /hold case stands over segment 1/)
      await log.stream('a').release('case')
    }
    const defaults = { hot: { for: '10 days' }, holds: [{ id: 'audit' }] }
    await using log = await world.open({ defaults })
    assert.deepEqual(outcomes(await collect(log)), ['kept held', 'kept held'])
  })

  test('what lies below a trim that index and archive both state is deleted, not what one of them states', async () => {
    await using log = await world.open()
    const keys = await archived(log)
    const [first = '', second = ''] = keys
    const twin = world.twin(first)
    const later = world.twin(second)
    await put(log, 'trim', { below: '2:0:0' })
    assert.deepEqual(outcomes(await orphans(log)), ['due twin', 'due twin'])
    const { tiering } = log.parts
    const [row] = await rowsOf(log, 'a')
    const stream = present(await tiering.index.streamByName('a'), 'a')
    // The index trims it as the agent does, and a crash left the row and a twin.
    const { Dlsn } = await import('../../src/model/dlsn.js')
    await tiering.index.updateStream(stream.incarnation, stream.version, {
      trimmedBelow: new Dlsn(2n, 0n, 0n),
    })
    await tiering.index.updateSegment(present(row, 'row'), { state: 'trimmed' })
    assert.deepEqual(outcomes(await orphans(log)).sort(), ['due trimmed', 'due twin', 'kept owed'])
    await settleDebts(tiering, new AbortController().signal)
    assert.deepEqual(outcomes(await collect(log)).sort(), ['deleted trimmed', 'deleted twin'])
    assert.ok(!world.has(twin) && !world.has(later) && !world.has(first) && world.has(second))
  })

  test('objects of a stream that was deleted on purpose go, once the index has let go of it', async () => {
    await using log = await world.open()
    const [key = ''] = await archived(log)
    const parsed = present(decodeSegmentKey(key), 'key')
    const incarnation = 'd'.repeat(32)
    const left = encodeSegmentKey({ ...parsed, incarnation })
    world.write(left, world.bytes(key))
    const archive = await present(log.parts.archive, 'archive')()
    await putControl(archive, incarnation, 1n, 'delete', { atMs: 5 }, random)
    assert.deepEqual(outcomes(await collect(log)), ['deleted deleted'])
    // The stream that lives is not touched by a delete of its own that the index knows nothing of.
    await put(log, 'delete', { atMs: 5 })
    assert.deepEqual(await collect(log), [])
    assert.ok(world.has(key))
  })

  test("another log's archive is not collected", async () => {
    await using log = await world.open()
    const [key = ''] = await archived(log)
    const twin = world.twin(key)
    await put(log, 'owner', { logId: '9'.repeat(32), epoch: '2' }, 2n)
    await assert.rejects(collect(log), (error) => isStratalogError(error, 'refused'))
    assert.ok(world.has(twin))
  })

  test('an outage in the middle deletes nothing more; a hold put between two deletes is seen', async () => {
    await using log = await world.open()
    const [first = '', second = ''] = await archived(log)
    const twins = [world.twin(first), world.twin(second)]
    const hold = { id: 'case', from: null, until: null, reason: null, atMs: 1, by: null }
    let deletes = 0
    world.faults.beforeDelete = () => {
      deletes += 1
    }
    const archive = await present(log.parts.archive, 'archive')()
    const [row] = await rowsOf(log, 'a')
    for await (const part of log.archive.collect({ graceMs: 0 })) {
      if (part.type !== 'orphan' || part.orphan.outcome !== 'deleted') continue
      await putControl(archive, present(row, 'row').incarnation, 60n, 'hold', holdBody(hold), random)
    }
    assert.equal(deletes, 1)
    assert.deepEqual(
      twins.map((key) => world.has(key)),
      [false, true],
    )
    world.faults.list = outage
    await assert.rejects(collect(log), (error) => isStratalogError(error, 'archive_unavailable'))
  })

  test('files that interrupted uploads left a day ago are removed with the rest, younger ones are not', async () => {
    await using log = await world.open()
    await archived(log)
    const name = (ms: number) => `tmp/${encodeBase32(BigInt(ms), 10)}-${'0'.repeat(26)}`
    const day = 24 * 60 * 60 * 1_000
    const directory = readdirSync(world.archive).find((one) => one.includes('tmp')) ?? ''
    const place = (ms: number) => join(world.archive, name(ms).replace('tmp', directory))
    writeFileSync(place(Date.now() - 2 * day), 'old')
    writeFileSync(place(Date.now() - 1_000), 'young')
    const end = (await allOf(log.archive.collect())).at(-1)
    assert.ok(end?.type === 'end' && end.tally.leftovers === 1)
    assert.equal(readdirSync(join(world.archive, directory)).length, 1)
  })

  test('a summary of nothing but trimmed segments goes, once the archive says that they are', async () => {
    await using log = await world.open()
    await archived(log)
    const [row] = await rowsOf(log, 'a')
    const { incarnation } = present(row, 'row')
    const summaries = [1n, 1_001n].map((firstSegment) =>
      encodeSummaryKey({ incarnation, firstSegment, attempt: '0'.repeat(13) }),
    )
    for (const key of summaries) world.write(key, Buffer.from('not even readable'))
    const deleted = async () => {
      const end = (await allOf(log.archive.collect())).at(-1)
      return end?.type === 'end' && end.tally.summaries
    }
    assert.equal(await deleted(), 0, 'nothing is trimmed')
    await put(log, 'trim', { below: '1500:0:0' })
    await allOf(log.archive.orphans())
    assert.ok(
      summaries.every((key) => world.has(key)),
      'who only looks deletes nothing',
    )
    assert.equal(await deleted(), 1)
    assert.deepEqual(
      summaries.map((key) => world.has(key)),
      [false, true],
    )
  })

  test('a stream that another agent is at work on is skipped', async () => {
    await using log = await world.open()
    const [key = ''] = await archived(log)
    const twin = world.twin(key)
    const [row] = await rowsOf(log, 'a')
    const { coordination } = log.parts.tiering
    const lease = await coordination.acquire(`tiering/${row?.incarnation}`, { holder: 'x', waitMs: 0 })
    const parts = await allOf(log.archive.collect({ graceMs: 0 }))
    const end = parts.at(-1)
    assert.ok(end?.type === 'end' && end.tally.skipped.length === 1)
    assert.ok(world.has(twin))
    await lease.release()
  })
})

describe('ledgers that no row names', () => {
  test('an empty one goes after its time; one with entries nobody knows of stays', async () => {
    await using log = await world.open()
    await fill(log, 'a', 50)
    const { ledger } = log.parts.segments
    const [row] = await rowsOf(log, 'a')
    const { metadata } = await ledger.metadata.read(present(row?.ledgerId, 'ledger'))
    const empty = await ledger.metadata.allocateId()
    const begun = { ...metadata, state: 'OPEN', lastEntryId: -1n, lengthBytes: 0n, ctimeMs: 1n } as const
    await ledger.metadata.create(empty, begun)
    const full = await ledger.metadata.allocateId()
    await ledger.metadata.create(full, { ...metadata, ctimeMs: 1n })
    // Begun a moment ago: its row may come in the next, whatever grace was asked for.
    const young = await ledger.metadata.allocateId()
    await ledger.metadata.create(young, { ...begun, ctimeMs: BigInt(Date.now()) })
    const ledgers = async (graceMs: number, order: 'orphans' | 'collect') =>
      (await allOf(log.archive[order]({ graceMs }))).flatMap((part) =>
        part.type === 'ledger' ? [`${part.orphan.outcome} ${part.orphan.ledgerId}`] : [],
      )
    assert.deepEqual(await ledgers(60_000, 'collect'), [
      `waiting ${empty}`,
      `waiting ${full}`,
      `waiting ${young}`,
    ])
    assert.deepEqual(await ledgers(0, 'orphans'), [`due ${empty}`, `due ${full}`, `waiting ${young}`])
    assert.deepEqual(await ledgers(0, 'collect'), [`deleted ${empty}`, `waiting ${young}`, `kept ${full}`])
    assert.deepEqual(await ledgers(0, 'orphans'), [`due ${full}`, `waiting ${young}`])
    await checkRead(log, 'a', 50)
  })

  test('one that goes on behind the end of its segment stays, one that the segment covers goes (invariant 1)', async () => {
    await using log = await world.open()
    await fill(log, 'a', 50)
    await log.stream('a').append('one more')
    await log.stream('a').seal()
    const { tiering } = log.parts
    const [first, second] = await rowsOf(log, 'a')
    const longer = present(first, 'row')
    const { index, ledger } = tiering
    // An index that chose another ledger for the segment, which ends one entry before.
    const other = present(present(second, 'row').ledgerId, 'ledger')
    const chosen = (lastEntryId: bigint) => {
      const row = { ...longer, ledgerId: other, lastEntryId }
      const rows = { segment: index.segment.bind(index), hot: index.listHotSegments.bind(index) }
      return {
        ...tiering,
        index: new Proxy(index, {
          get: (target, name) => {
            if (name === 'segment')
              return async (...args: Parameters<typeof rows.segment>) =>
                args[1] === longer.segment ? row : rows.segment(...args)
            if (name === 'listHotSegments')
              return async (...args: Parameters<typeof rows.hot>) =>
                (await rows.hot(...args)).filter(({ segment }) => segment !== longer.segment)
            const value = Reflect.get(target, name) as unknown
            return typeof value === 'function' ? value.bind(target) : value
          },
        }),
      }
    }
    const id = present(longer.ledgerId, 'ledger')
    // Not begun a moment ago.
    const { metadata, version } = await ledger.metadata.read(id)
    await ledger.metadata.compareAndSet(id, version, { ...metadata, ctimeMs: 1n })
    const options = { graceMs: 0, collect: true, signal: new AbortController().signal }
    const kept = await collectOrphanLedgers(chosen(longer.lastEntryId - 1n), options)
    assert.deepEqual([kept.kept.map(({ ledgerId }) => ledgerId), kept.deleted], [[id], []])
    const gone = await collectOrphanLedgers(chosen(longer.lastEntryId), options)
    assert.deepEqual(
      gone.deleted.map(({ ledgerId }) => ledgerId),
      [id],
    )
  })
})
