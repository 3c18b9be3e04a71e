import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, afterEach, beforeEach, describe, test } from 'node:test'
import { putControl } from '../../archive/control-objects.js'
import { holdBody } from '../../archive/decisions.js'
import { decodeSegmentKey } from '../../src/format/archive-names.js'
import type { Log } from '../../src/log.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import type { SegmentRow } from '../../src/model/segment.js'
import { ColdScrub, coldScrubStatus } from '../../tiering/cold-scrub.js'
import { dropSegment, freeableRows } from '../../tiering/drop.js'
import { countingRandom } from '../helpers/archive.js'
import { ArchivedLog, allOf, checkRead, fill, rowsOf } from '../helpers/archived-log.js'
import { outage } from '../helpers/faulty-archive.js'

let root = ''
let world: ArchivedLog
const COLD = { defaults: { hot: { for: 0 }, evict: { lag: 0 }, roll: { size: '16 KiB' } } } as const

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'stratalog-cold-'))
  world = new ArchivedLog(root)
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

async function archived(log: Log, name = 'a', count = 400): Promise<SegmentRow[]> {
  await fill(log, name, count)
  await log.tier.run()
  return rowsOf(log, name)
}

function keyOf(row: SegmentRow | undefined): string {
  return present(row?.object, 'object').key
}

function flip(key: string): void {
  const bytes = Buffer.from(world.bytes(key))
  const at = Math.floor(bytes.length / 3)
  bytes[at] = (bytes[at] ?? 0) ^ 8
  world.write(key, bytes)
}

// The scrub's own pauses do not keep a process alive, and in these tests nothing else does.
const alive = setInterval(() => undefined, 1_000)
after(() => clearInterval(alive))

describe('scrub of the archive', () => {
  // Invariant 9: repaired where another copy is good.
  test('a bad object with a good hot copy is copied anew, a bad one with a good twin gives way to it', async () => {
    await using log = await world.open()
    const [first, second, third] = await archived(log)
    flip(keyOf(first))
    const twin = world.twin(keyOf(second))
    flip(keyOf(second))
    world.remove(keyOf(third))
    const state = await log.archive.scrub()
    assert.deepEqual([state.repaired, state.alarms.length, state.idle], [3, 0, true])
    const now = await rowsOf(log, 'a')
    assert.notEqual(keyOf(now[0]), keyOf(first))
    assert.equal(keyOf(now[1]), twin)
    assert.ok(now.every((row) => row.state === 'archived'))
    assert.deepEqual(
      now.map((row) => row.contentDigest),
      [first, second, third]
        .map((row) => row?.contentDigest)
        .concat(now.slice(3).map((row) => row.contentDigest)),
    )
    for await (const part of log.archive.verify({ deep: true })) assert.notEqual(part.type, 'finding')
    const again = await log.archive.scrub()
    assert.equal(again.repaired, 3)
  })

  test('a cold segment without a good copy is an alarm, and stays as it is until it is mended', async () => {
    await using log = await world.open(COLD)
    const rows = await archived(log)
    const key = keyOf(rows[0])
    const whole = world.bytes(key)
    flip(key)
    world.remove(keyOf(rows[1]))
    const state = await log.archive.scrub()
    assert.deepEqual(
      state.alarms.map(({ segment, problem }) => [segment, problem]),
      [
        [1n, 'damaged'],
        [2n, 'missing'],
      ],
    )
    assert.deepEqual(await rowsOf(log, 'a'), rows)
    world.write(key, whole)
    const again = await log.archive.scrub()
    assert.deepEqual(
      again.alarms.map(({ segment, foundMs }) => [segment, foundMs]),
      [[2n, present(state.alarms[1], 'alarm').foundMs]],
    )
    assert.deepEqual(coldScrubStatus(again), { percent: 100, repaired: 0, alarms: 1 })
    const events = log.parts.agent.events.since(0).filter(({ type }) => type === 'scrub')
    assert.deepEqual(
      events.map((event) => event.type === 'scrub' && [event.kind, event.stream, event.segment]),
      [
        ['alarm', 'a', 1n],
        ['alarm', 'a', 2n],
        ['alarm', 'a', 2n],
      ],
    )
  })

  // Invariants 4 and 9: an archive that is down can't be asked, but what is known to be bad there is no second copy.
  test('what it found to be bad keeps its hot copy, also where room is made without asking the archive', async () => {
    await using log = await world.open()
    const rows = await archived(log)
    const bad = present(rows[0], 'row')
    await world.rival(log, bad)
    const state = await log.archive.scrub()
    assert.deepEqual(
      state.alarms.map(({ segment, problem }) => [segment, problem]),
      [[1n, 'conflict']],
    )
    const { tiering } = log.parts
    const stream = present(await tiering.index.streamByName('a'), 'stream')
    const freeable = await freeableRows(tiering, stream)
    assert.deepEqual(
      freeable.map(({ segment }) => segment),
      rows.flatMap(({ segment, state: now }) => (segment > 1n && now === 'archived' ? [segment] : [])),
    )
    assert.equal(await dropSegment(tiering, { stream, row: bad, bytesEach: 1 }), null)
    assert.equal((await rowsOf(log, 'a'))[0]?.state, 'archived')
  })

  // Invariant 8: what can't be read is not missing.
  test('it stops while the archive is down, concludes nothing, and goes on where it was', async () => {
    await using log = await world.open()
    const rows = await archived(log)
    const scrub = new ColdScrub(log.parts.tiering)
    const signal = new AbortController().signal
    await scrub.beginNow()
    await scrub.step(signal)
    world.faults.head = outage
    world.faults.list = outage
    world.faults.read = outage
    const { failed } = await scrub.step(signal)
    assert.ok(isStratalogError(failed[0], 'archive_unavailable'))
    const stopped = await scrub.state()
    assert.deepEqual([stopped.segment, stopped.alarms.length], [1n, 0])
    await scrub.close()
    delete world.faults.head
    delete world.faults.list
    delete world.faults.read
    // Another process goes on at the position that was written down.
    flip(keyOf(rows[0]))
    const next = new ColdScrub(log.parts.tiering)
    for (let step = 0; step < 50 && !(await next.state()).idle; step += 1) await next.step(signal)
    const done = await next.state()
    assert.deepEqual([done.idle, done.repaired, done.alarms.length], [true, 0, 0])
    assert.deepEqual(await rowsOf(log, 'a'), rows)
  })

  test('one object that alone can not be read is an alarm and does not hold the others up', async () => {
    await using log = await world.open(COLD)
    const rows = await archived(log)
    world.faults.head = (key) => {
      if (key === keyOf(rows[0])) outage()
    }
    flip(keyOf(rows[1]))
    const state = await log.archive.scrub()
    assert.deepEqual(
      state.alarms.map(({ problem }) => problem),
      ['unreadable', 'damaged'],
    )
  })

  test('a crash between giving up a bad object and the new one leaves a segment the agent copies', async () => {
    {
      await using log = await world.open()
      const [row] = await archived(log)
      flip(keyOf(row))
      world.faults.beforePut = (key) => {
        if (key.includes('/s')) outage()
      }
      await log.archive.scrub().catch(() => undefined)
      assert.equal((await rowsOf(log, 'a'))[0]?.state, 'sealed')
    }
    delete world.faults.beforePut
    await using log = await world.open()
    await log.tier.run()
    const [row] = await rowsOf(log, 'a')
    assert.equal(row?.state, 'archived')
    await checkRead(log, 'a', 400)
    for await (const part of log.archive.verify({ deep: true })) assert.notEqual(part.type, 'finding')
  })

  test('what another agent holds is tried again, not passed over', async () => {
    await using log = await world.open()
    const [row] = await archived(log)
    flip(keyOf(row))
    const { tiering } = log.parts
    const busy = {
      ...tiering,
      coordination: { ...tiering.coordination, acquire: async () => Promise.reject(conflict()) },
    }
    const scrub = new ColdScrub(busy)
    await scrub.beginNow()
    const { failed } = await scrub.step(new AbortController().signal)
    assert.ok(isStratalogError(failed[0], 'timeout'))
    assert.equal((await scrub.state()).segment, 0n)
  })
})

function conflict(): Error {
  return new StratalogError('conflict', 'another has it')
}

describe('two contents of one segment', () => {
  test('are an alarm, are in verify, and stop the eviction of the segment until an operator decides', async () => {
    let rival = ''
    {
      await using log = await world.open()
      const [row] = await archived(log)
      rival = await world.rival(log, present(row, 'row'))
      const { alarms } = await log.archive.scrub()
      assert.deepEqual(
        alarms.map(({ problem }) => problem),
        ['conflict'],
      )
      const parts = await allOf(log.archive.verify({ deep: true }))
      assert.deepEqual(
        parts.flatMap((part) => (part.type === 'finding' ? [part.finding.problem] : [])),
        ['conflict'],
      )
    }
    await using log = await world.open(COLD)
    const report = await log.tier.run()
    assert.ok(report.failed.some(({ kind, error }) => kind === 'evict' && /archive resolve/.test(error)))
    const [row, ...others] = await rowsOf(log, 'a')
    assert.equal(row?.state, 'archived')
    // It holds up no other segment.
    assert.ok(others.length > 0 && others.every(({ state }) => state === 'cold'))
    const attempt = (key: string) => present(decodeSegmentKey(key), 'key').attempt
    // The hot copy is what was acknowledged: the other one can't be chosen over it.
    await assert.rejects(log.archive.resolve('a', 1n, attempt(rival)), (e) => isStratalogError(e, 'refused'))
    await assert.rejects(log.archive.resolve('a', 1n, 'nobody'), (e) => isStratalogError(e, 'not_found'))
    await assert.rejects(log.archive.resolve('a', 99n, 'nobody'), (e) => isStratalogError(e, 'not_found'))
    const { deleted } = await log.archive.resolve('a', 1n, attempt(keyOf(row)))
    assert.deepEqual(deleted, [rival])
    assert.ok(!world.has(rival))
    await log.tier.run()
    assert.ok((await rowsOf(log, 'a')).every(({ state }) => state === 'cold'))
    await checkRead(log, 'a', 400)
  })

  test('of a cold segment either can be chosen, unless a hold stands over it', async () => {
    await using log = await world.open(COLD)
    const [row] = await archived(log)
    const committed = keyOf(row)
    const rival = await world.rival(log, present(row, 'row'))
    const attempt = present(decodeSegmentKey(rival), 'key').attempt
    const archive = await present(log.parts.archive, 'archive')()
    const incarnation = present(row, 'row').incarnation
    const hold = { id: 'h', from: null, until: null, reason: null, atMs: 1, by: null }
    await putControl(archive, incarnation, 70n, 'hold', holdBody(hold), countingRandom())
    await assert.rejects(log.archive.resolve('a', 1n, attempt), (e) => isStratalogError(e, 'refused'))
    await putControl(archive, incarnation, 71n, 'release', { id: 'h' }, countingRandom())
    const { chosen } = await log.archive.resolve('a', 1n, attempt)
    assert.equal(chosen, rival)
    assert.ok(!world.has(committed))
    for await (const part of log.archive.verify({ deep: true })) assert.notEqual(part.type, 'finding')
    let last = ''
    for await (const record of log.stream('a').read({ until: { txid: 2n ** 62n } })) {
      last = Buffer.from(record.payload).toString()
      if (last.endsWith('!')) break
    }
    assert.ok(last.endsWith('!'))
  })
})
