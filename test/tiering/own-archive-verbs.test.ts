import assert from 'node:assert/strict'
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { bindingFact, LOG_ARCHIVE, ownArchiveOf } from '../../archive/bindings.js'
import type { Log } from '../../src/log.js'
import { present } from '../../src/model/assert.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { openArchive, openLog } from '../../src/open.js'
import type { ArchiveStore } from '../../src/ports/archive-store.js'
import { foldDecisions } from '../../src/rebuild/decisions.js'
import { emptyReport } from '../../src/rebuild/report.js'
import { streamSources } from '../../src/rebuild/stream-sources.js'
import { planRestore, restoreArchive } from '../../src/restore.js'
import { LocalControl } from '../../src/serve/control-api.js'
import { silentLogger } from '../../src/system/logger.js'
import { allOf } from '../helpers/archived-log.js'
import { OwnArchiveLog, statesOf, valuesOf } from '../helpers/own-archive-log.js'

let own: OwnArchiveLog

beforeEach(() => {
  own = new OwnArchiveLog()
})
afterEach(() => own.end())

const CONTROL = (kind: string) => new RegExp(`/c[0-9a-v]{13}-${kind}-`)

/** One stream in each archive, two segments each, all cold. */
async function two(log: Log): Promise<void> {
  for (const name of ['private/a', 'b']) {
    await own.fill(log, name, `${name} 1`)
    await own.fill(log, name, `${name} 2`)
  }
}

describe('verbs on streams that have an archive to themselves', () => {
  test('holds, trims and deletes are told to that archive, and only there is anything deleted (invariant 5)', async () => {
    await using log = await own.open()
    await two(log)
    const stream = log.stream('private/a')
    await stream.hold({ id: 'case-1' })
    assert.deepEqual(
      [own.keys('private', CONTROL('hold')).length, own.keys('archive', CONTROL('hold')).length],
      [1, 0],
    )
    await stream.trim({ before: new Dlsn(2n, 0n, 0n) })
    await log.tier.run()
    assert.equal(own.keys('private').length, 2)
    await stream.release('case-1')
    await stream.trim({ before: new Dlsn(2n, 0n, 0n) })
    await log.tier.run()
    assert.deepEqual([own.keys('private').length, own.keys('archive').length], [1, 2])
    assert.deepEqual(await valuesOf(log, 'private/a'), ['private/a 2'])
    await log.streams.delete('private/a')
    await log.tier.run()
    await log.tier.run()
    assert.equal(own.keys('private', CONTROL('delete')).length, 1)
    assert.deepEqual([own.keys('private').length, own.keys('archive').length], [0, 2])
    assert.deepEqual(await valuesOf(log, 'b'), ['b 1', 'b 2'])
  })

  test('cold segments are recalled from it', async () => {
    await using log = await own.open()
    await two(log)
    await log.stream('private/a').recall({}, { for: '1h' })
    assert.deepEqual(await statesOf(log, 'private/a'), ['archived', 'archived'])
    assert.deepEqual(await valuesOf(log, 'private/a'), ['private/a 1', 'private/a 2'])
  })

  test('a clone lies where its parent does, whatever its policy says, also in an index that is made again', async () => {
    {
      await using log = await own.open()
      await two(log)
      await log.streams.clone('private/a', 'c')
      await log.streams.clone('b', 'private/b')
      for (const name of ['c', 'private/b']) await own.fill(log, name, 'more')
      assert.deepEqual([own.keys('private').length, own.keys('archive').length], [3, 3])
      const { incarnation } = await log.stream('private/b').info()
      assert.equal(await log.parts.segments.index.fact(bindingFact(incarnation)), LOG_ARCHIVE)
    }
    own.dropIndex()
    await using log = await own.open()
    assert.deepEqual(await valuesOf(log, 'c'), ['private/a 1', 'private/a 2', 'more'])
    assert.deepEqual(await valuesOf(log, 'private/b'), ['b 1', 'b 2', 'more'])
  })

  test('ls, verify, orphans, fsck and the scrub go through all archives, or the one that is named', async () => {
    await using log = await own.open()
    await two(log)
    const places = { archive: join(own.root, 'private') }
    const names = async (options: object) =>
      new Set((await allOf(log.archive.objects(options))).map(({ stream }) => stream))
    assert.deepEqual(await names({}), new Set(['private/a', 'b']))
    assert.deepEqual(await names(places), new Set(['private/a']))
    assert.deepEqual(await names({ archive: join(own.root, 'archive') }), new Set(['b']))
    await assert.rejects(names({ archive: join(own.root, 'nowhere') }), {
      code: 'refused',
      message: /there is .*archive, .*private/,
    })
    const looked = async (options: object) => (await allOf(log.archive.verify(options))).at(-1)
    assert.deepEqual(await looked({ deep: true }).then(tally), [2, 4, 0])
    assert.deepEqual(await looked({ ...places, deep: true }).then(tally), [1, 2, 0])
    const orphans = (await allOf(log.archive.orphans({ graceMs: 0 }))).at(-1)
    assert.ok(orphans?.type === 'end')
    assert.deepEqual([orphans.tally.objects, orphans.tally.due, orphans.tally.skipped], [4, 0, []])
    const checked = (await allOf(log.fsck({ deep: true }))).at(-1)
    assert.ok(checked?.type === 'end')
    assert.deepEqual([checked.tally.objects, checked.tally.damage, checked.tally.waste], [4, 0, 0])
    const [object = ''] = own.keys('private')
    rmSync(join(own.root, 'private', object))
    const { alarms } = await log.archive.scrub()
    assert.deepEqual(
      alarms.map(({ stream, problem }) => `${stream} ${problem}`),
      ['private/a missing'],
    )
  })

  test('what a stream has in an archive it does not lie in is named and never collected (invariant 8)', async () => {
    await using log = await own.open()
    await two(log)
    const { incarnation } = await log.stream('private/a').info()
    const real = await present(log.parts.tiering.own, 'archives').open(join(own.root, 'private'))
    const other = await present(log.parts.tiering.own, 'archives').open(null)
    // Somebody copied an object into the archive of the log.
    const [found] = await real
      .listFrom('', '', 100)
      .then((all) => all.filter(({ key }) => key.includes('/s')))
    const { key, sizeBytes } = present(found, 'an object')
    const bytes = await real.readRange(key, 0, sizeBytes)
    await other.putIfAbsent(key, {
      sizeBytes,
      async *open() {
        yield bytes
      },
    })
    const end = (await allOf(log.archive.collect({ graceMs: 0 }))).at(-1)
    assert.ok(end?.type === 'end')
    assert.deepEqual(
      end.tally.skipped.map(({ stream }) => stream),
      [incarnation],
    )
    assert.equal((await other.head(key))?.sizeBytes, sizeBytes)
    const listed = await allOf(log.archive.objects({ archive: other.location }))
    assert.deepEqual(listed.map(({ stream, committed }) => `${stream} ${committed}`).sort(), [
      'b true',
      'b true',
      'private/a false',
    ])
  })

  test('each archive alone restores its streams, and no other (invariant 7)', async () => {
    {
      await using log = await own.open()
      await two(log)
    }
    for (const [place, name] of [
      ['private', 'private/a'],
      ['archive', 'b'],
    ] as const) {
      await using archive = await openedFrom(join(own.root, place))
      const plan = await planRestore(archive.store)
      assert.deepEqual(
        plan.streams.map((one) => one.name),
        [name],
      )
      await using into = await openLog(join(own.root, `restored-${place}`), {
        tiering: 'off',
        control: 'off',
        config: 'none',
        storeFileBytes: 4 * 2 ** 20,
        system: { logger: silentLogger() },
      })
      await restoreArchive(into, archive.store, plan)
      assert.deepEqual(await valuesOf(into, name), [`${name} 1`, `${name} 2`])
    }
  })

  test('bindings whose decisions are lost are found in the archives that policies name', async () => {
    {
      await using log = await own.open()
      await two(log)
    }
    await using log = await openedFrom(join(own.root, 'archive'))
    await using found = await openedFrom(join(own.root, 'private'))
    const location = join(own.root, 'private')
    const archives = { log: log.store, own: new Map([[location, found.store]]) }
    const sources = await streamSources(foldDecisions([]), [], archives, emptyReport())
    assert.deepEqual(
      sources.map(({ stream, own: place }) => [stream.name, place]),
      [
        ['b', null],
        ['private/a', location],
      ],
    )
  })

  test('the status says how each archive is, and which streams stay although their policy names another', async () => {
    {
      await using log = await own.open()
      await two(log)
    }
    own.configure('policies: [{ match: "**", archive: ../other }]')
    await using log = await own.open()
    const control = new LocalControl(log)
    const { archive, streams } = await control.tierStatus()
    assert.deepEqual(
      archive.own.map(({ location, state, streams: count }) => [location, state, count]),
      [[join(own.root, 'private'), 'ok', 1]],
    )
    assert.deepEqual(
      streams.map(({ stream, stays }) => [stream.name, stays?.at, stays?.named]),
      [
        ['b', join(own.root, 'archive'), join(own.root, 'other')],
        ['private/a', join(own.root, 'private'), join(own.root, 'other')],
      ],
    )
    const { conflicts } = await log.policies.test('b', { atMs: 0 })
    assert.ok(conflicts.some(({ found }) => found.includes('b has its history in')))
    await log.stream('new').append('x')
    await log.stream('new').seal()
    assert.deepEqual((await control.tierPlan('new')).own, { new: join(own.root, 'other') })
    const { segments } = await log.stream('private/a').explain()
    assert.ok(segments.every(({ where }) => where.startsWith(join(own.root, 'private'))))
  })

  test('a new archive for a lost one is begun for what was in the lost one alone', async () => {
    {
      await using log = await own.open()
      await two(log)
    }
    rmSync(join(own.root, 'archive'), { recursive: true })
    await using log = await own.open()
    const begun = await log.archive.begin({ acceptLoss: true })
    assert.deepEqual([begun.lostSegments, begun.copiedAgain], [2, 0])
    assert.deepEqual(await valuesOf(log, 'private/a'), ['private/a 1', 'private/a 2'])
    assert.deepEqual(await statesOf(log, 'b'), ['gap', 'gap'])
  })

  test('a fact about a binding that can not be understood binds nothing else', async () => {
    await using log = await own.open()
    await two(log)
    const { incarnation } = await log.stream('b').info()
    assert.equal(await ownArchiveOf(log.parts.segments.index, incarnation), null)
    writeFileSync(join(own.root, 'a-file'), 'no archive')
    own.configure('policies: [{ match: c, archive: ../a-file }]')
    await log.policies.reload()
    await log.stream('c').append('1')
    await log.stream('c').seal()
    const { failed } = await log.tier.run()
    assert.equal(failed.length > 0, true)
    assert.deepEqual(await statesOf(log, 'c'), ['sealed'])
    await own.fill(log, 'b', '3')
    assert.deepEqual(await statesOf(log, 'b'), ['cold', 'cold', 'cold'])
  })
})

/** Streams, objects and findings of a check. */
function tally(end: unknown): number[] {
  const { streams, tally: found } = end as { streams: number; tally: { objects: number; findings: number } }
  return [streams, found.objects, found.findings]
}

async function openedFrom(location: string): Promise<{ store: ArchiveStore } & AsyncDisposable> {
  const store = await openArchive(location, { logger: silentLogger() })
  return { store, [Symbol.asyncDispose]: () => store.close() }
}
