import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { directoryArchive } from '../../archive/directory/store.js'
import { optionalCalls } from '../../archive/forward.js'
import type { Log } from '../../src/log.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import { LocalControl } from '../../src/serve/control-api.js'
import { withUploadLimit } from '../../tiering/upload-limit.js'
import { faultyArchive } from '../helpers/faulty-archive.js'
import { Freezer, thawingArchive } from '../helpers/thawing-archive.js'
import { fillSegments, readAll, rowsOf, TieredLog } from '../helpers/tiered-log.js'

let place: TieredLog
let freezer: Freezer
beforeEach(() => {
  place = new TieredLog()
  freezer = new Freezer()
})
afterEach(() => place.end())

const open = () =>
  place.open({
    archive: thawingArchive(faultyArchive(directoryArchive(place.archive), place.faults), freezer),
  })
const states = async (log: Log) => (await rowsOf(log, 'a')).map(({ state }) => state).join(' ')
const range = { from: new Dlsn(2n, 0n, 0n), until: new Dlsn(4n, 0n, 0n) }

/** Four cold segments, whose objects a rule of the store has moved since to where they are not read at once. */
async function frozen(): Promise<Log> {
  const log = await open()
  await fillSegments(log, 'a', 4)
  await log.tier.run()
  assert.equal(await states(log), 'cold cold cold cold')
  freezer.freezeSegments()
  return log
}

describe('objects that are not read at once', () => {
  test('a read fails at once, as thawing, and says how to recall it', async () => {
    await using log = await frozen()
    const beganMs = performance.now()
    await assert.rejects(readAll(log, 'a'), (error: unknown) => {
      assert.ok(isStratalogError(error, 'thawing'), String(error))
      assert.match(error.message, /^segment 1 of a can't be read yet: .*class FROZEN/)
      assert.match(error.message, /"stratalog recall a --from 1:0:0 --until 2:0:0 --for 7d"/)
      return true
    })
    assert.ok(performance.now() - beganMs < 5_000, 'it was tried again and again')
    assert.equal(freezer.asked.size, 0, 'a read that asks costs money nobody meant to spend')
  })

  test('recall asks for all of a range, and a pass of the agent brings back what can be read', async () => {
    await using log = await frozen()
    const report = await log.stream('a').recall(range, { for: '1h' })
    assert.deepEqual([report?.segments, report?.done, report?.thawing], [2, 0, 2])
    assert.equal(freezer.asked.size, 2)
    assert.equal(await states(log), 'cold cold cold cold')
    const status = await new LocalControl(log).tierStatus()
    const { thawing } = status.streams[0] ?? {}
    assert.deepEqual([thawing?.segments, thawing?.problem], [2, null])
    assert.ok((thawing?.sinceMs ?? 0) > Date.now() - 60_000)
    assert.ok((thawing?.nextAskMs ?? 0) > Date.now() + 50_000)

    // Not yet: asked again, nothing else.
    await log.tier.run({ until: 'once' })
    assert.equal(await states(log), 'cold cold cold cold')
    assert.deepEqual([...freezer.asked.values()], [2, 2])

    freezer.thawAsked()
    await log.tier.run({ until: 'once' })
    assert.equal(await states(log), 'cold archived archived cold')
    const rows = await rowsOf(log, 'a')
    assert.ok((rows[1]?.recalledUntilMs ?? 0) > Date.now() + 3_000_000)
    assert.equal((await new LocalControl(log).tierStatus()).streams[0]?.thawing, null)
    const texts: string[] = []
    for await (const { payload } of log.stream('a').read(range)) texts.push(Buffer.from(payload).toString())
    assert.deepEqual([texts.length, texts[0], texts.at(-1)], [20, 'a 10', 'a 29'])
  })

  test('what waits survives a restart, and what can be read of a range is brought back at once', async () => {
    {
      await using log = await frozen()
      const second = (await rowsOf(log, 'a'))[1]
      const all = freezer.frozen
      freezer.frozen = (key) => key !== second?.object?.key && all(key)
      const report = await log.stream('a').recall({}, { for: '1h' })
      assert.deepEqual([report?.segments, report?.done, report?.thawing], [4, 1, 3])
      assert.equal(await states(log), 'cold archived cold cold')
    }
    await using log = await open()
    const { thawing } = (await new LocalControl(log).tierStatus()).streams[0] ?? {}
    assert.equal(thawing?.segments, 3)
    freezer.thawAsked()
    await log.tier.run({ until: 'once' })
    assert.equal(await states(log), 'archived archived archived archived')
  })

  test('explain read says what is to be thawed, and asks for nothing', async () => {
    await using log = await frozen()
    const part = { from: new Dlsn(2n, 3n, 0n), until: new Dlsn(4n, 0n, 0n) }
    const before = await log.stream('a').explain(part)
    assert.equal(before.thaws, 1, 'the segment it would have to look into')
    assert.match(before.segments[0]?.note ?? '', /must be thawed: recall it/)
    assert.equal(freezer.asked.size, 0)
    await log.stream('a').recall(range, { for: '1h' })
    const after = await log.stream('a').explain(part)
    assert.equal(after.thaws, 2)
    for (const { note } of after.segments) assert.match(note, /^thawing since \d{4}-/)
  })

  test('what fails for one range is said, asked again later, and ends with evict or trim', async () => {
    await using log = await frozen()
    await log.stream('a').recall(range, { for: '1h' })
    freezer.refuse = () => new StratalogError('access_denied', 'thawing is not allowed to this user')
    const { failed } = await log.tier.run({ until: 'once' })
    assert.deepEqual(failed, [])
    const thawing = async () => (await new LocalControl(log).tierStatus()).streams[0]?.thawing ?? null
    assert.match((await thawing())?.problem ?? '', /not allowed/)
    await log.stream('a').evict({ from: range.from, until: new Dlsn(3n, 0n, 0n) })
    assert.equal((await thawing())?.segments, 1)
    await log.stream('a').trim({ before: new Dlsn(4n, 0n, 0n) })
    await log.tier.run({ until: 'once' })
    assert.equal(await thawing(), null)
  })

  test('invariant 9: the scrub takes what it can not read yet for neither whole nor damaged', async () => {
    await using log = await frozen()
    const { alarms } = await log.archive.scrub()
    assert.deepEqual(alarms, [])
    const found: string[] = []
    for await (const part of log.archive.verify({ deep: true }))
      if (part.type === 'finding') found.push(`${part.finding.problem} ${part.finding.mend}`)
    assert.equal(found.length, 4)
    for (const one of found) assert.match(one, /^unreadable .*recall it/)
  })

  test('every wrapper of a store passes on what the engine may leave out', async () => {
    await using log = await open()
    const inner = await log.parts.archive?.()
    assert.ok(inner)
    const limited = await withUploadLimit(() => Promise.resolve(inner), log.parts.tiering)('')
    for (const store of [inner, limited]) {
      assert.equal(typeof store.thaw, 'function')
      assert.equal((await store.findings?.())?.length, 1)
    }
    assert.deepEqual(Object.keys(optionalCalls({ ...bare(), close: () => Promise.resolve() })), [])
  })
})

/** A store with nothing that may be left out. */
function bare(): Awaited<ReturnType<ReturnType<typeof directoryArchive>['open']>> {
  const none = () => Promise.reject(new Error('not called'))
  return {
    location: '/none',
    capabilities: { putIfAbsent: 'native', checksums: [], listFrom: true, thaw: false },
    putIfAbsent: none,
    head: none,
    readRange: none,
    listFrom: none,
    delete: none,
    close: none,
  }
}
