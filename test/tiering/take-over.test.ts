import assert from 'node:assert/strict'
import { cpSync, mkdtempSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { directoryArchive } from '../../archive/directory/store.js'
import type { Log } from '../../src/log.js'
import { present } from '../../src/model/assert.js'
import { text } from '../../src/model/codec.js'
import { StratalogError } from '../../src/model/errors.js'
import { openArchive, openLog } from '../../src/open.js'
import type { OpenOptions } from '../../src/options.js'
import { planRestore, restoreArchive } from '../../src/restore.js'
import { silentLogger } from '../../src/system/logger.js'
import { confirmOwner } from '../../tiering/ownership.js'
import { type ArchiveFaults, faultyArchive } from '../helpers/faulty-archive.js'

let root = ''
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'stratalog-take-over-'))
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

function open(directory: string, archive: OpenOptions['archive'] = join(root, 'archive')): Promise<Log> {
  return openLog(join(root, directory), {
    ...(archive === undefined ? {} : { archive }),
    tiering: 'off',
    control: 'off',
    config: 'none',
    storeFileBytes: 4 * 1024 * 1024,
    defaults: { hot: { for: 0 }, evict: { lag: 0 } },
    system: { logger: silentLogger() },
  })
}

async function write(log: Log, value: string, name = 'a') {
  await log.stream(name).append(value)
  await log.stream(name).seal()
  return await log.tier.run()
}

async function records(log: Log, name = 'a'): Promise<string[]> {
  const seen: string[] = []
  for await (const one of log.stream(name, { codec: text() }).read({ onGap: 'yield' }))
    seen.push('gap' in one ? `gap ${one.gap}` : one.value)
  return seen
}

async function restoreInto(directory: string, streams?: readonly string[]): Promise<void> {
  const archive = await openArchive(join(root, 'archive'))
  await using log = await open(directory, 'none')
  await restoreArchive(log, archive, await planRestore(archive, streams === undefined ? {} : { streams }))
}

function dropIndex(directory: string): void {
  for (const name of ['index.db', 'index.db-wal', 'index.db-shm'])
    rmSync(join(root, directory, name), { force: true })
}

describe('taking an archive over (decision 0021)', () => {
  test('what was archived before an archive was taken over is not freed on its strength any more (invariant 4)', async () => {
    const archive = join(root, 'archive')
    await using old = await openLog(join(root, 'old'), {
      archive,
      tiering: 'off',
      control: 'off',
      config: 'none',
      storeFileBytes: 4 * 1024 * 1024,
      defaults: { hot: { for: '10 days' }, evict: { lag: 0 } },
      system: { logger: silentLogger() },
    })
    await write(old, 'one')
    await restoreInto('new')
    {
      await using log = await open('new')
      await log.archive.takeOver()
    }
    await assert.rejects(old.stream('a').evict(), { code: 'refused', message: /belongs to log/ })
    for await (const { state } of old.segments('a')) assert.equal(state, 'archived')
    // Nor is anything collected there, or chosen between two contents.
    await assert.rejects(
      async () => {
        for await (const _ of old.archive.collect({ graceMs: 0 })) assert.fail('nothing is looked at')
      },
      { code: 'refused' },
    )
  })

  test('a restored log goes on in the archive it came from; the old owner notices and commits nothing (invariants 4 and 7)', async () => {
    await using old = await open('old')
    await write(old, 'one')
    await write(old, 'other', 'b')
    await restoreInto('new', ['a'])
    {
      await using log = await open('new')
      const before = await write(log, 'two')
      assert.match(before.failed[0]?.error ?? '', /archive own --take-over/)
      assert.equal((await log.archive.owner()).ours, false)
      assert.deepEqual(await log.archive.takeOver(), { logId: log.logId, epoch: 2n })
      assert.deepEqual(await log.archive.takeOver(), { logId: log.logId, epoch: 2n }, 'twice is once')
      assert.deepEqual((await log.tier.run()).failed, [])
      assert.deepEqual(await records(log), ['one', 'two'])
    }
    // The old one still has the archive open: what it copies now is not committed, and nothing is freed or deleted.
    const report = await write(old, 'late')
    assert.deepEqual([report.copied, report.evicted], [0, 0])
    assert.match(report.failed[0]?.error ?? '', /belongs to log [0-9a-f]{32} \(epoch 2\)/)
    assert.deepEqual(await records(old), ['one', 'late'])
    await old.close()
    // Nor after another start; and what it has in there it can still read.
    await using again = await open('old')
    assert.equal((await again.tier.run()).copied, 0)
    assert.deepEqual(await records(again), ['one', 'late'])

    // The index of the new owner is made again from its own streams: those of the old one in there are not its own.
    dropIndex('new')
    {
      await using log = await open('new')
      const names: string[] = []
      for await (const { name } of log.streams.list()) names.push(name)
      assert.deepEqual(names, ['a'])
      assert.deepEqual(await records(log), ['one', 'two'])
    }
    // Restored from that archive the name is the life that goes on.
    rmSync(join(root, 'new'), { recursive: true })
    await restoreInto('third')
    await using third = await open('third', 'none')
    assert.deepEqual(await records(third), ['one', 'two'])
    assert.deepEqual(await records(third, 'b'), ['other'])
  })

  test('what the old owner has in both tiers stays hot: its objects are another log’s to delete now (invariant 4)', async () => {
    await using old = await open('old')
    await write(old, 'before')
    await old.stream('a').setPolicy({ hot: { for: '1h' } })
    assert.equal((await write(old, 'both')).copied, 1)
    await restoreInto('new')
    {
      await using log = await open('new')
      await log.archive.takeOver()
    }
    await old.stream('a').setPolicy({ hot: { for: 0 } })
    const report = await old.tier.run()
    assert.equal(report.evicted, 0)
    assert.match(report.failed[0]?.error ?? '', /belongs to log [0-9a-f]{32} \(epoch 2\)/)
    const rows: string[] = []
    for await (const { state } of old.segments('a')) rows.push(state)
    assert.deepEqual(rows, ['cold', 'archived'])
  })

  test('two logs over one open archive are told apart', async () => {
    await using log = await open('log')
    await write(log, 'one')
    const archive = await present(log.parts.archive, 'archive')()
    await confirmOwner(log, archive)
    await assert.rejects(confirmOwner({ logId: '0'.repeat(32) }, archive), { code: 'refused' })
  })

  test('killed or cut off at any step it is done by running it again; of two that want it one gets it', async () => {
    {
      await using old = await open('old')
      await write(old, 'one')
    }
    await restoreInto('new')
    cpSync(join(root, 'archive'), join(root, 'kept'), { recursive: true })
    const lost = () => {
      throw new StratalogError('archive_unavailable', 'the answer is lost: injected', { retryable: true })
    }
    for (const when of ['beforePut', 'afterPut'] as const) {
      rmSync(join(root, 'archive'), { recursive: true })
      cpSync(join(root, 'kept'), join(root, 'archive'), { recursive: true })
      cpSync(join(root, 'new'), join(root, when), { recursive: true })
      const faults: ArchiveFaults = { [when]: lost }
      await using log = await open(when, faultyArchive(directoryArchive(join(root, 'archive')), faults))
      await assert.rejects(log.archive.takeOver(), { code: 'archive_unavailable' })
      faults[when] = () => undefined
      assert.equal((await log.archive.takeOver()).epoch, 2n)
    }
    await using rival = await open('rival', 'none')
    await rival.close()
    await using second = await open('rival')
    assert.equal((await second.archive.takeOver()).epoch, 3n)
    await using log = await open('afterPut')
    assert.equal((await log.archive.owner()).ours, false)
    assert.equal((await log.archive.takeOver()).epoch, 4n, 'it may take back what was its own')
  })

  test('nothing to take over, and a log that has an archive elsewhere, are refused', async () => {
    await using log = await open('log')
    await assert.rejects(log.archive.takeOver(), { code: 'archive_missing' })
    await write(log, 'one')
    await using other = await open('other', join(root, 'theirs'))
    await write(other, 'theirs')
    await log.close()
    await using moved = await open('log', join(root, 'theirs'))
    await assert.rejects(moved.archive.takeOver(), { code: 'refused', message: /has an archive of its own/ })
    await using none = await open('none', 'none')
    await assert.rejects(none.archive.owner(), { code: 'archive_missing' })
  })
})

describe('a new archive in place of a lost one (decision 0021)', () => {
  test('what is hot is copied again; what was cold only becomes a gap on explicit order, and stays one (invariants 4, 7 and 8)', async () => {
    {
      await using log = await open('log')
      await write(log, 'cold')
      await log.stream('a').setPolicy({ hot: { for: '1h' } })
      assert.equal((await write(log, 'both')).copied, 1)
      await assert.rejects(log.archive.begin(), { code: 'refused', message: /already/ })
    }
    renameSync(join(root, 'archive'), join(root, 'lost'))
    {
      await using log = await open('log')
      await assert.rejects(log.archive.begin(), { code: 'refused', message: /1 segments with \d+ bytes/ })
      // Nothing was changed: with the archive back everything is as it was. Only the new directory is in its place.
      rmSync(join(root, 'archive'), { recursive: true })
    }
    renameSync(join(root, 'lost'), join(root, 'archive'))
    {
      await using log = await open('log')
      assert.deepEqual(await records(log), ['cold', 'both'])
    }
    renameSync(join(root, 'archive'), join(root, 'lost'))
    {
      await using log = await open('log')
      const begun = await log.archive.begin({ acceptLoss: true })
      assert.deepEqual([begun.copiedAgain, begun.lostSegments], [1, 1])
      assert.deepEqual((await log.tier.run()).failed, [])
      assert.deepEqual(await records(log), ['gap corrupt', 'both'])
    }
    dropIndex('log')
    {
      await using log = await open('log')
      assert.deepEqual(await records(log), ['gap corrupt', 'both'])
      assert.deepEqual((await log.tier.run()).failed, [])
    }
    const archive = await openArchive(join(root, 'archive'))
    const plan = await planRestore(archive)
    assert.deepEqual(
      plan.streams.map(({ name, missing, gaps }) => [name, missing, gaps.map(({ committed }) => committed)]),
      [['a', [], [true]]],
    )
  })

  test('a hot copy whose deletion a crash kept is not deleted with the archive lost, but copied again (invariants 1 and 4)', async () => {
    {
      await using log = await open('log')
      await log.stream('a').setPolicy({ hot: { for: '1h' } })
      await write(log, 'both')
      await log.stream('a').append('open')
      // As a crash right behind the row leaves it: cold, and its ledger still there.
      const { index } = log.parts.segments
      const { incarnation } = present(await log.streams.find('a'), 'a')
      const row = present(await index.segment(incarnation, 1n), 'segment')
      await index.updateSegment(row, { state: 'cold', evictedMs: 1 })
    }
    rmSync(join(root, 'archive'), { recursive: true })
    await using log = await open('log')
    const begun = await log.archive.begin({ acceptLoss: true })
    assert.deepEqual(begun, { copiedAgain: 1, lostSegments: 0, lostBytes: 0 })
    assert.deepEqual(await records(log), ['both', 'open'])
    assert.deepEqual((await log.tier.run()).failed, [])
    const { incarnation } = present(await log.streams.find('a'), 'a')
    assert.equal((await log.parts.segments.index.segment(incarnation, 1n))?.state, 'archived')
  })

  test('cut off on the way it goes on; an archive of somebody else is not taken', async () => {
    {
      await using log = await open('log')
      await write(log, 'cold')
    }
    renameSync(join(root, 'archive'), join(root, 'lost'))
    const faults: ArchiveFaults = {
      head: () => {
        throw new StratalogError('archive_unavailable', 'no answer: injected', { retryable: true })
      },
    }
    await using log = await open('log', faultyArchive(directoryArchive(join(root, 'archive')), faults))
    await assert.rejects(log.archive.begin({ acceptLoss: true }), { code: 'archive_unavailable' })
    delete faults.head
    assert.equal((await log.archive.begin({ acceptLoss: true })).lostSegments, 1)
    await assert.rejects(log.archive.begin({ acceptLoss: true }), { code: 'refused', message: /already/ })
    await using other = await open('other')
    await assert.rejects(other.archive.begin(), { code: 'refused', message: /belongs to log/ })
  })
})
