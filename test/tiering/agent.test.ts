import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { directoryArchive } from '../../archive/directory/store.js'
import type { Log } from '../../src/log.js'
import { present } from '../../src/model/assert.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { StratalogError } from '../../src/model/errors.js'
import type { SegmentRow } from '../../src/model/segment.js'
import { openLog } from '../../src/open.js'
import type { OpenOptions } from '../../src/options.js'
import { silentLogger } from '../../src/system/logger.js'
import { type ArchiveFaults, faultyArchive, outage } from '../helpers/faulty-archive.js'

let root = ''
let faults: ArchiveFaults = {}

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'stratalog-agent-'))
  faults = {}
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

const MIB4 = 4 * 1024 * 1024

function open(options: OpenOptions = {}): Promise<Log> {
  return openLog(join(root, 'log'), {
    archive: faultyArchive(directoryArchive(join(root, 'archive')), faults),
    tiering: 'off',
    control: 'off',
    config: 'none',
    storeFileBytes: MIB4,
    defaults: { hot: { for: 0 }, evict: { lag: 0 }, roll: { size: '16 KiB' } },
    system: { logger: silentLogger() },
    ...options,
  })
}

async function fill(log: Log, name: string, count: number): Promise<void> {
  await log.stream(name).appendAll(Array.from({ length: count }, (_, i) => `${name} ${i} ${'.'.repeat(100)}`))
}

async function rows(log: Log, name: string): Promise<SegmentRow[]> {
  const found: SegmentRow[] = []
  for await (const row of log.segments(name)) found.push(row)
  return found
}

async function check(log: Log, name: string, count: number): Promise<{ hot: number; cold: number }> {
  const read = log.stream(name).read()
  let next = 0
  for await (const record of read) {
    assert.equal(Buffer.from(record.payload).toString(), `${name} ${next} ${'.'.repeat(100)}`)
    next += 1
  }
  assert.equal(next, count)
  return { ...read.counts }
}

function objects(): string[] {
  return readdirSync(join(root, 'archive'), { recursive: true, encoding: 'utf8' }).filter((name) =>
    /\/s[0-9a-v]{13}-/.test(name),
  )
}

describe('tiering agent', () => {
  test('seals by size, copies, verifies, evicts; what is read is the same from both tiers', async () => {
    await using log = await open()
    await fill(log, 'a', 1_000)
    await log.stream('a').seal()
    assert.deepEqual(await check(log, 'a', 1_000), { hot: 1_000, cold: 0 })
    const report = await log.tier.run()
    assert.equal(report.failed.length, 0)
    assert.ok(report.copied > 3 && report.copied === report.evicted)
    assert.ok((await rows(log, 'a')).every((row) => row.state === 'cold' && row.ledgerId === null))
    assert.deepEqual(await check(log, 'a', 1_000), { hot: 0, cold: 1_000 })
    // Settled means settled.
    const again = await log.tier.run()
    assert.deepEqual([again.sealed, again.copied, again.evicted, again.trimmed], [0, 0, 0, 0])
  })

  test('invariant 4: while the archive is down nothing is freed, appends and reads go on, and it recovers without a restart', async () => {
    await using log = await open()
    await fill(log, 'a', 300)
    await log.stream('a').seal()
    faults.beforePut = outage
    const report = await log.tier.run()
    assert.ok(report.failed.length > 0 && report.copied === 0 && report.evicted === 0)
    // It still answers what is asked of it: the second step that it does not take tells.
    assert.equal((await log.tier.status()).archive.archive, 'failing')
    assert.ok((await log.tier.run()).failed.length > 0)
    const status = await log.tier.status()
    assert.equal(status.archive.archive, 'down')
    assert.match(status.archive.lastError ?? '', /does not answer/)
    assert.ok(status.streams[0] !== undefined && status.streams[0].atRiskBytes > 0)
    await log.stream('b').append(`b 0 ${'.'.repeat(100)}`)
    assert.deepEqual(await check(log, 'a', 300), { hot: 300, cold: 0 })
    delete faults.beforePut
    const later = await log.tier.run()
    assert.equal(later.failed.length, 0)
    assert.ok(later.copied > 0)
    assert.equal((await log.tier.status()).archive.archive, 'ok')
    assert.equal((await check(log, 'a', 300)).cold, 300)
  })

  test('invariant 4: an object that reads back with one flipped bit is never committed, the hot copy stays', async () => {
    await using log = await open()
    await fill(log, 'a', 300)
    await log.stream('a').seal()
    faults.read = (key, bytes) => {
      if (key.includes('/s') && bytes.length > 40)
        bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1
      return bytes
    }
    const report = await log.tier.run()
    assert.ok(report.failed.length > 0)
    assert.match(report.failed[0]?.error ?? '', /archive|object|digest|checksum|CRC/i)
    assert.ok(
      (await rows(log, 'a')).every(
        (row) => row.state === 'sealed' && row.ledgerId !== null && row.object === null,
      ),
    )
    delete faults.read
    assert.ok((await log.tier.run()).copied > 0)
    assert.equal((await check(log, 'a', 300)).cold, 300)
  })

  test('invariant 4: an object of ours whose version has a flipped bit is left aside, and copied anew', async () => {
    await using log = await open()
    await fill(log, 'a', 300)
    await log.stream('a').seal()
    const bad = new Set<string>()
    let rots = true
    faults.read = (key, bytes) => {
      if (rots && key.includes('/s')) bad.add(key)
      if (bad.has(key) && Buffer.from(bytes.subarray(0, 8)).toString('latin1') === 'STRATSEG')
        bytes[9] = (bytes[9] ?? 0) ^ 0x10
      return bytes
    }
    assert.match((await log.tier.run()).failed[0]?.error ?? '', /version/)
    assert.ok(bad.size > 0)
    rots = false
    // What it looks like is of no use, and must not keep the segment from being copied for ever.
    const later = await log.tier.run()
    assert.deepEqual([later.failed.length, later.copied > 0], [0, true])
    delete faults.read
    assert.equal((await check(log, 'a', 300)).cold, 300)
  })

  test('a crash after the object is stored and before it is committed leaves a twin, not a loss', async () => {
    {
      await using log = await open()
      await fill(log, 'a', 100)
      await log.stream('a').seal()
      faults.afterPut = (key) => {
        if (key.includes('/s')) outage()
      }
      assert.ok((await log.tier.run()).failed.length > 0)
    }
    delete faults.afterPut
    const orphans = objects().length
    assert.ok(orphans > 0)
    await using log = await open()
    assert.ok((await log.tier.run()).copied > 0)
    // What the first try stored reads back whole, so it is committed instead of written again.
    assert.equal(objects().length, (await rows(log, 'a')).length)
    assert.equal((await check(log, 'a', 100)).cold, 100)
  })

  test('total retention trims whole segments at the old end, in both tiers, and says so in the archive', async () => {
    await using log = await open()
    await fill(log, 'a', 500)
    await log.stream('a').seal()
    await log.tier.run()
    const before = objects().length
    await log.stream('a').setPolicy({ keep: { max: '20 KiB' } })
    const report = await log.tier.run()
    assert.ok(report.trimmed > 0)
    assert.equal(objects().length, before - report.trimmed)
    const left = await rows(log, 'a')
    assert.equal(left.length, before - report.trimmed)
    const info = await log.stream('a').info()
    assert.equal(info.trimmedBelow?.segment, left[0]?.segment)
    assert.ok(
      readdirSync(join(root, 'archive'), { recursive: true, encoding: 'utf8' }).some((name) =>
        name.includes('-trim-'),
      ),
    )
    // Below the trim point is a gap, said and not skipped.
    await assert.rejects(
      async () => {
        for await (const _ of log
          .stream('a')
          .read({ from: (await import('../../src/model/dlsn.js')).Dlsn.first }))
          break
      },
      { code: 'gap' },
    )
    const kept: bigint[] = []
    for await (const record of log.stream('a').read()) kept.push(record.sequenceId)
    assert.equal(kept[0], left[0]?.startSequenceId)
    assert.equal(kept.at(-1), 499n)
  })

  test('everything trimmed: numbering goes on, nothing is given out twice', async () => {
    await using log = await open()
    await fill(log, 'a', 200)
    await log.stream('a').seal()
    const newest = (await rows(log, 'a')).at(-1)?.segment ?? 0n
    await log.stream('a').setPolicy({ keep: { for: '1ms' } })
    await log.tier.run()
    assert.deepEqual(objects(), [])
    await log.stream('a').setPolicy(null)
    const ack = await log.stream('a').append('next')
    assert.ok(ack.dlsn.segment > newest)
    assert.equal(ack.sequenceId, 200n)
  })

  test('a failed deletion is owed and paid later', async () => {
    await using log = await open()
    await fill(log, 'a', 200)
    await log.stream('a').seal()
    await log.tier.run()
    faults.beforeDelete = outage
    await log.stream('a').setPolicy({ keep: { for: '1ms' } })
    assert.ok((await log.tier.run()).failed.length > 0)
    assert.ok(objects().length > 0)
    delete faults.beforeDelete
    await log.tier.run()
    assert.deepEqual(objects(), [])
  })

  test('invariant 4: an object that is gone is copied anew before the hot copy may go', async () => {
    await using log = await open({
      defaults: { hot: { for: '1h' }, evict: { lag: 0 }, roll: { size: '16 KiB' } },
    })
    await fill(log, 'a', 200)
    await log.stream('a').seal()
    await log.tier.run()
    assert.ok((await rows(log, 'a')).every((row) => row.state === 'archived'))
    const [gone = ''] = objects()
    rmSync(join(root, 'archive', gone))
    await log.stream('a').setPolicy({ hot: { for: 0 } })
    const report = await log.tier.run()
    assert.match(report.failed.map(({ error }) => error).join(), /copied again|^$/)
    await log.tier.run()
    assert.ok((await rows(log, 'a')).every((row) => row.state === 'cold'))
    assert.equal((await check(log, 'a', 200)).cold, 200)
  })

  test('invariant 4: while the archive does not answer nothing verified is freed either', async () => {
    await using log = await open({
      defaults: { hot: { for: '1h' }, evict: { lag: 0 }, roll: { size: '16 KiB' } },
    })
    await fill(log, 'a', 200)
    await log.stream('a').seal()
    await log.tier.run()
    faults.head = outage
    await log.stream('a').setPolicy({ hot: { for: 0 } })
    const report = await log.tier.run()
    assert.ok(report.evicted === 0 && report.failed.length > 0)
    assert.ok((await rows(log, 'a')).every((row) => row.ledgerId !== null))
    delete faults.head
    await log.tier.run()
    assert.equal((await check(log, 'a', 200)).cold, 200)
  })

  test('an archive that hangs holds up neither the seals of others nor the close', async () => {
    const log = await open({
      tiering: 'run',
      defaults: { roll: { size: '16 KiB', age: '1s', idle: '1s' }, hot: { for: '1h' }, evict: { lag: 0 } },
    })
    const never = new Promise<void>(() => {})
    faults.putWaits = never
    await fill(log, 'a', 200)
    await log.stream('b').append('x')
    const until = Date.now() + 10_000
    const sealed = async () => (await rows(log, 'b')).every((row) => row.state === 'sealed')
    while (Date.now() < until && !(await sealed())) await new Promise((resolve) => setTimeout(resolve, 50))
    assert.ok(await sealed(), 'b was not sealed while the copy of a hung')
    const began = Date.now()
    await log.close()
    assert.ok(Date.now() - began < 9_000, 'closing waited for the archive')
  })

  test('a listener that throws and a step that fails do not stop the others', async () => {
    await using log = await open()
    log.tier.onEvent(() => {
      throw new Error('listener')
    })
    await fill(log, 'a', 100)
    await fill(log, 'b', 100)
    for (const name of ['a', 'b']) await log.stream(name).seal()
    const victim = (await log.streams.find('a'))?.incarnation
    assert.ok(victim !== undefined)
    let failures = 0
    faults.beforePut = () => {
      failures += 1
      if (failures <= 1) outage()
    }
    assert.ok((await log.tier.run()).failed.length <= 1)
    await log.tier.run()
    assert.equal((await check(log, 'a', 100)).cold + (await check(log, 'b', 100)).cold, 200)
  })

  test('many segments trimmed at once leave one marker', async () => {
    await using log = await open()
    await fill(log, 'a', 1_000)
    await log.stream('a').seal()
    await log.tier.run()
    await log.stream('a').setPolicy({ keep: { for: '1ms' } })
    const report = await log.tier.run()
    assert.ok(report.trimmed > 4)
    const markers = readdirSync(join(root, 'archive'), { recursive: true, encoding: 'utf8' }).filter((name) =>
      name.includes('-trim-'),
    )
    assert.equal(markers.length, 1)
  })

  test('a trim that was cut off before its rows is carried out, and never takes the mark back', async () => {
    await using log = await open()
    await fill(log, 'a', 1_000)
    await log.stream('a').seal()
    await log.tier.run()
    const { index } = log.parts.segments
    const stream = await log.streams.find('a')
    assert.ok(stream !== null)
    const all = await rows(log, 'a')
    // As a crash between the mark and the rows leaves it: the mark lies beyond rows that are still there.
    const mark = new Dlsn(all.at(-1)?.segment ?? 0n, 0n, 0n)
    await index.updateStream(stream.incarnation, stream.version, { trimmedBelow: mark })
    const bytes = all.slice(2).reduce((sum, row) => sum + row.lengthBytes, 0)
    await log.stream('a').setPolicy({ keep: { max: bytes } })
    const report = await log.tier.run()
    assert.equal(report.trimmed, all.length - 1)
    assert.deepEqual((await log.stream('a').info()).trimmedBelow, mark)
    // Invariant 8: without a marker in the archive its objects stay, and are owed.
    assert.equal(objects().length, all.length)
  })

  test('without an archive segments are sealed and kept', async () => {
    await using log = await open({ archive: 'none' })
    await fill(log, 'a', 200)
    await log.stream('a').seal()
    const report = await log.tier.run()
    assert.deepEqual([report.copied, report.evicted, report.trimmed, report.failed.length], [0, 0, 0, 0])
    assert.equal((await check(log, 'a', 200)).hot, 200)
  })

  test('in the background: by itself and by age', async () => {
    await using log = await open({
      tiering: 'run',
      defaults: { roll: { size: '16 KiB', age: '1s' }, hot: { for: 0 }, evict: { lag: 0 } },
    })
    await fill(log, 'a', 200)
    const until = Date.now() + 15_000
    while (Date.now() < until && !(await rows(log, 'a')).every((row) => row.state === 'cold')) {
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
    assert.ok((await rows(log, 'a')).every((row) => row.state === 'cold'))
    assert.equal((await check(log, 'a', 200)).cold, 200)
  })
})

test('a stream of which nothing can be asked holds up no other: those that others purge are copied in time', async () => {
  await using log = await open()
  for (const name of ['a', 'b', 'c']) {
    await fill(log, name, 10)
    await log.stream(name).seal()
  }
  const { index } = log.parts.segments
  const { incarnation } = present(await index.streamByName('a'), 'a')
  const fact = index.fact.bind(index)
  // As in a cluster, where its nodes were damaged since it was listed.
  index.fact = async (name) => {
    if (name === `deleted/${incarnation}`) throw new StratalogError('corrupt', 'a is not readable')
    return fact(name)
  }
  const report = await log.tier.run()
  assert.deepEqual([...new Set(report.failed.map(({ stream }) => stream))], ['a'])
  for (const name of ['b', 'c'])
    assert.deepEqual(
      (await rows(log, name)).map(({ state }) => state),
      ['cold'],
    )
})

test('where a row begins by a guess no trim is told: what the archive has below stays (invariant 8)', async () => {
  await using log = await open()
  for (const _ of [1, 2, 3]) {
    await fill(log, 'a', 10)
    await log.stream('a').seal()
  }
  await log.tier.run()
  const { index } = log.parts.segments
  const stream = present(await index.streamByName('a'), 'a')
  const { incarnation, version } = stream
  // As a row of a cluster whose own nodes are lost: Java's purge left the tree beginning there.
  const trimmedBelow = new Dlsn(3n, 0n, 0n)
  await index.updateStream(incarnation, version, { trimmedBelow })
  await index.setFact(`announced/${incarnation}`, '')
  await fill(log, 'a', 10)
  await log.stream('a').seal()
  await log.tier.run()
  const markers = () =>
    readdirSync(join(root, 'archive'), { recursive: true }).filter((name) => `${name}`.includes('-trim-'))
  assert.deepEqual(markers(), [])
  assert.equal(objects().length, 4)
})
