import assert from 'node:assert/strict'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import type { Log } from '../../src/log.js'
import { verifyArchive } from '../../src/log-archive.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { openArchive, openLog } from '../../src/open.js'
import { planRestore, restoreArchive } from '../../src/restore.js'
import { silentLogger } from '../../src/system/logger.js'
import { allOf } from '../helpers/archived-log.js'
import { fillSegments, readAll, rowsOf, TieredLog } from '../helpers/tiered-log.js'

let tiered: TieredLog
beforeEach(() => {
  tiered = new TieredLog()
})
afterEach(() => tiered.end())

/** What `fillSegments` put into the first records of a stream. */
function texts(name: string, count: number): string[] {
  return Array.from({ length: count }, (_, at) => `${name} ${at}`)
}

/** A sealed segment of records with the txids that come by themselves. */
async function own(log: Log, name: string, count: number): Promise<void> {
  await log.stream(name).appendAll(texts(name, count))
  await log.stream(name).seal()
}

async function names(log: Log): Promise<string[]> {
  return (await allOf(log.streams.list())).map(({ name }) => name)
}

/** Positions, sequence ids, txids and payloads. */
async function records(log: Log, name: string): Promise<string[]> {
  const found: string[] = []
  for await (const { dlsn, sequenceId, txid, payload } of log.stream(name).read())
    found.push(`${dlsn} ${sequenceId} ${txid} ${Buffer.from(payload).toString()}`)
  return found
}

/** Nothing is wrong with the log, its archive, or the archive alone. */
async function checkSound(log: Log): Promise<void> {
  for await (const part of verifyArchive(await openArchive(tiered.archive), { deep: true }))
    assert.notEqual(
      part.type,
      'finding',
      JSON.stringify(part, (_, v) => (typeof v === 'bigint' ? `${v}` : v)),
    )
  for await (const part of log.fsck({ deep: true })) {
    if (part.type === 'finding') assert.notEqual(part.finding.severity, 'damage', part.finding.text)
  }
  for await (const part of log.archive.verify({ deep: true }))
    assert.notEqual(
      part.type,
      'finding',
      JSON.stringify(part, (_, v) => (typeof v === 'bigint' ? `${v}` : v)),
    )
}

const restored = { tiering: 'off', control: 'off', config: 'none', storeFileBytes: 4 * 2 ** 20 } as const

/** A log of its own with everything the archive has. */
async function restoredFrom(tiered: TieredLog, name: string): Promise<Log> {
  const archive = await openArchive(tiered.archive)
  const plan = await planRestore(archive)
  const log = await openLog(join(tiered.root, name), { ...restored, system: { logger: silentLogger() } })
  const report = await restoreArchive(log, archive, plan)
  assert.equal(report.digest, plan.digest)
  return log
}

describe('clone', () => {
  test('it shares the objects up to its fork, with equal positions, and goes on by itself', async () => {
    await using log = await tiered.open()
    await fillSegments(log, 'a', 3)
    await log.tier.run()
    const objects = tiered.objects()
    const cloned = await log.streams.clone('a', 'b')
    assert.deepEqual(tiered.objects(), objects)
    assert.equal(cloned.fork.toString(), '4:0:0')
    assert.deepEqual([cloned.sharedSegments, cloned.records, cloned.told], [3, 30n, true])
    assert.deepEqual(await records(log, 'b'), await records(log, 'a'))
    await log.stream('a').append('only in a')
    await log.stream('b').append('only in b')
    await log.stream('b').seal()
    assert.deepEqual((await readAll(log, 'a')).texts.slice(30), ['only in a'])
    assert.deepEqual((await readAll(log, 'b')).texts, [...texts('a', 30), 'only in b'])
    const rows = await rowsOf(log, 'b')
    assert.deepEqual(
      rows.map(({ segment, state }) => `${segment} ${state}`),
      ['1 cold', '2 cold', '3 cold', '4 sealed'],
    )
    assert.deepEqual((await log.tier.run()).failed, [])
    assert.equal(tiered.objects().length, objects.length + 1)
    await checkSound(log)
  })

  test('what is hot or open is sealed and copied first; an unknown or taken name and no history are refused', async () => {
    await using log = await tiered.open({ defaults: { hot: { for: '10 days' } } })
    await fillSegments(log, 'a', 2)
    await log.stream('a').append('still open')
    await log.streams.clone('a', 'b')
    assert.equal(tiered.objects().length, 3)
    assert.deepEqual(await records(log, 'b'), await records(log, 'a'))
    await log.stream('a').append('goes on')
    await assert.rejects(log.streams.clone('a', 'b'), { code: 'stream_exists' })
    await assert.rejects(log.streams.clone('nobody', 'c'), { code: 'stream_not_found' })
    await assert.rejects(log.streams.clone('a', 'c//d'), { code: 'stream_name_invalid' })
    await assert.rejects(log.streams.clone('a', 'c', { until: 'earliest' }), {
      code: 'position_out_of_range',
    })
    const beyond = { until: new Dlsn(9n, 1n, 0n) }
    await assert.rejects(log.streams.clone('a', 'c', beyond), { code: 'position_out_of_range' })
    await log.streams.create('empty')
    await assert.rejects(log.streams.clone('empty', 'c'), { code: 'position_out_of_range' })
    assert.deepEqual(await names(log), ['a', 'b', 'empty'])
    assert.equal(tiered.controls('pin'), 1)
  })

  test('until any position: between segments nothing is copied, within one its first part is its own', async () => {
    await using log = await tiered.open()
    await fillSegments(log, 'a', 3)
    await log.tier.run()
    const all = await allOf(log.stream('a').read())
    for (const at of [1, 9, 10, 11, 15, 20, 29]) {
      const position = all[at]?.dlsn ?? Dlsn.parse('0:0:0')
      const cloned = await log.streams.clone('a', `b${at}`, { until: position })
      assert.equal(cloned.records, BigInt(at))
      assert.equal(cloned.sharedSegments, Math.floor(at / 10))
      assert.deepEqual((await readAll(log, `b${at}`)).texts, texts('a', at))
      await log.stream(`b${at}`).append('next')
      const last = (await allOf(log.stream(`b${at}`).read())).at(-1)
      assert.equal(last?.sequenceId, BigInt(at))
    }
    const cloned = await log.stream('a').clone('by-txid', { until: { txid: 1_100n } })
    assert.equal(cloned.fork.toString(), '2:0:0')
    assert.deepEqual((await log.tier.run()).failed, [])
    await checkSound(log)
  })

  test('trim and delete of the parent are refused while the clone shares; those of the clone delete nothing shared', async () => {
    await using log = await tiered.open()
    await fillSegments(log, 'a', 4)
    await log.tier.run()
    await log.streams.clone('a', 'b', { until: new Dlsn(4n, 0n, 0n) })
    const objects = tiered.objects()
    const held = await log.stream('a').trim({ before: 'latest' })
    assert.equal(held.segments, 0)
    assert.match(held.held?.hold.id ?? '', /^clone-/)
    await assert.rejects(log.streams.delete('a'), { code: 'refused' })
    assert.equal((await log.stream('b').trim({ before: new Dlsn(3n, 0n, 0n) })).segments, 2)
    assert.deepEqual(tiered.objects(), objects)
    assert.deepEqual((await readAll(log, 'a')).texts, texts('a', 40))
    assert.deepEqual((await readAll(log, 'b')).texts, texts('a', 30).slice(20))
    await checkSound(log)
    await log.stream('b').append('own')
    // A hold of the pin's id is another's: only who put it releases it.
    await log.stream('a').hold({ id: held.held?.hold.id ?? '' })
    await log.tier.run()
    await log.streams.delete('b')
    assert.deepEqual(tiered.objects(), objects)
    await log.tier.run()
    assert.equal(tiered.controls('release'), 1)
    assert.equal((await log.stream('a').trim({ before: 'latest' })).segments, 0)
    await log.stream('a').release(held.held?.hold.id ?? '')
    assert.equal((await log.stream('a').trim({ before: 'latest' })).segments, 4)
    assert.deepEqual(tiered.objects(), [])
  })

  test('a clone that is trimmed past what it shared lets its parent go', async () => {
    await using log = await tiered.open()
    await fillSegments(log, 'a', 2)
    await log.tier.run()
    await log.streams.clone('a', 'b')
    await log.stream('b').append('own')
    await log.stream('b').trim({ before: 'latest', seal: true })
    assert.equal(tiered.controls('release'), 0)
    await log.tier.run()
    assert.equal(tiered.controls('release'), 1)
    await log.streams.delete('a')
    assert.equal(tiered.objects().length, 0)
    await log.stream('b').append('goes on')
    assert.deepEqual((await readAll(log, 'b')).texts, ['goes on'])
    assert.equal((await allOf(log.stream('b').read()))[0]?.sequenceId, 21n)
  })

  test('clones of clones stand on each other, whoever goes first', async () => {
    await using log = await tiered.open()
    await fillSegments(log, 'a', 2)
    await log.tier.run()
    await log.streams.clone('a', 'b')
    await own(log, 'b', 10)
    await log.tier.run()
    await log.streams.clone('b', 'c')
    await log.stream('c').append('of c')
    const expected = [...texts('a', 20), ...texts('b', 10), 'of c']
    assert.deepEqual((await readAll(log, 'c')).texts, expected)
    await assert.rejects(log.streams.delete('a'), { code: 'refused' })
    await assert.rejects(log.streams.delete('b'), { code: 'refused' })
    await log.stream('b').trim({ before: 'latest' })
    await log.tier.run()
    assert.deepEqual((await readAll(log, 'c')).texts, expected)
    await checkSound(log)
    const other = await restoredFrom(tiered, 'other')
    assert.deepEqual((await readAll(other, 'c')).texts, expected.slice(0, -1))
    await other.close()
    await log.streams.delete('c')
    await log.streams.delete('b')
    await log.streams.delete('a')
    assert.deepEqual(tiered.objects(), [])
  })

  test('restored from the archive alone it is whole, and twice the same (invariant 7)', async () => {
    const log = await tiered.open()
    await fillSegments(log, 'a', 3)
    await log.tier.run()
    const position = (await allOf(log.stream('a').read()))[25]?.dlsn ?? Dlsn.parse('0:0:0')
    await log.streams.clone('a', 'b', { until: position })
    await own(log, 'b', 10)
    await own(log, 'b', 10)
    // A clone that holds nothing of its own is known by its name alone.
    await log.streams.clone('b', 'c', { until: new Dlsn(3n, 0n, 0n) })
    await log.tier.run()
    await log.stream('b').trim({ before: new Dlsn(2n, 0n, 0n) })
    const before = Object.fromEntries(
      await Promise.all(['a', 'b', 'c'].map(async (name) => [name, await records(log, name)])),
    )
    await log.close()
    for (const name of ['one', 'two']) {
      await using other = await restoredFrom(tiered, name)
      assert.deepEqual(await names(other), ['a', 'b', 'c'])
      for (const stream of ['a', 'b', 'c']) assert.deepEqual(await records(other, stream), before[stream])
    }
  })

  test('an index made again has it, with what it shares (invariant 12)', async () => {
    await using first = await tiered.open()
    await fillSegments(first, 'a', 3)
    await first.tier.run()
    await first.streams.clone('a', 'b', { until: new Dlsn(3n, 0n, 0n) })
    await first.stream('b').append('own')
    const before = [await records(first, 'a'), await records(first, 'b')]
    await first.close()
    tiered.dropIndex()
    await using log = await tiered.open()
    assert.deepEqual([await records(log, 'a'), await records(log, 'b')], before)
    await log.stream('b').append('more')
    assert.deepEqual((await log.tier.run()).failed, [])
    await checkSound(log)
    await assert.rejects(log.streams.delete('a'), { code: 'refused' })
    await log.streams.delete('b')
    await log.tier.run()
    await log.streams.delete('a')
    assert.deepEqual(tiered.objects(), [])
  })

  test('whoever is attached to the archive sees it', async () => {
    await using log = await tiered.open()
    await fillSegments(log, 'a', 2)
    await log.tier.run()
    await log.streams.clone('a', 'b')
    const expected = await records(log, 'b')
    await using other = await openLog(join(tiered.root, 'attached'), {
      tiering: 'off',
      control: 'off',
      config: 'none',
      attach: tiered.archive,
      system: { logger: silentLogger() },
    })
    assert.deepEqual(await records(other, 'b'), expected)
    await assert.rejects(other.streams.clone('a', 'c'), { code: 'refused' })
  })

  test('a recalled segment is evicted again; one whose shared object is gone meanwhile gets one of its own', async () => {
    await using log = await tiered.open()
    await fillSegments(log, 'a', 2)
    await log.tier.run()
    await log.streams.clone('a', 'b')
    await log.stream('b').recall({}, { for: '1h' })
    assert.equal((await readAll(log, 'b')).hot, 20)
    assert.equal((await log.stream('b').evict()).evicted, 2)
    assert.equal((await readAll(log, 'b')).cold, 20)
    assert.equal(tiered.objects().length, 2)
    await log.stream('b').recall({}, { for: '1h' })
    for (const key of tiered.objects()) rmSync(join(tiered.archive, key))
    // Its hot copy is all there is now: it becomes an object of its own.
    for (let segment = 1; segment <= 2; segment += 1)
      await assert.rejects(log.stream('b').evict(), { code: 'object_not_found' })
    await log.stream('b').evict()
    assert.equal((await readAll(log, 'b')).cold, 20)
    await log.streams.delete('b')
    assert.deepEqual(tiered.objects(), [])
  })
})
