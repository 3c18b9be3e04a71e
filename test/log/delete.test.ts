import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { putControl } from '../../archive/control-objects.js'
import { holdBody } from '../../archive/decisions.js'
import { directoryArchive } from '../../archive/directory/store.js'
import type { Log } from '../../src/log.js'
import { text } from '../../src/model/codec.js'
import { StratalogError } from '../../src/model/errors.js'
import { openArchive } from '../../src/open.js'
import { planRestore } from '../../src/restore.js'
import { countingRandom } from '../helpers/archive.js'
import { type ArchiveFaults, faultyArchive } from '../helpers/faulty-archive.js'
import { Lives } from '../rebuild/helpers.js'

let lives: Lives
let archive = ''
beforeEach(() => {
  lives = new Lives()
  archive = join(lives.root, 'archive')
  lives.options = { archive, defaults: { hot: { for: 0 }, evict: { lag: 0 } } }
})
afterEach(() => lives.end())

/** Cold, in both tiers, hot only, and open: of each a segment. */
async function write(log: Log, name: string): Promise<void> {
  const stream = log.stream(name)
  await stream.append('cold')
  await stream.seal()
  assert.deepEqual((await log.tier.run()).failed, [])
  await stream.setPolicy({ hot: { for: '1h' } })
  await stream.append('both')
  await stream.seal()
  assert.deepEqual((await log.tier.run()).failed, [])
  await stream.append('hot')
  await stream.seal()
  await stream.append('open')
}

async function streams(log: Log): Promise<string[]> {
  const found: string[] = []
  for await (const { name } of log.streams.list()) found.push(name)
  return found
}

async function values(log: Log, name: string): Promise<string[]> {
  const found: string[] = []
  for await (const { value } of log.stream(name, { codec: text() }).read()) found.push(value)
  return found
}

const objects = () =>
  readdirSync(archive, { recursive: true, encoding: 'utf8' }).filter((name) => /\/s[0-9a-v]{13}-/.test(name))
const restorable = async () => (await planRestore(await openArchive(archive))).streams.map(({ name }) => name)

describe('deleting a stream', () => {
  test('it is gone in both tiers, its name is free, and neither a rebuild nor a restore brings it back', async () => {
    const before = await lives.life(async (log) => {
      await write(log, 'a')
      await write(log, 'keep')
      return (await log.stream('a').info()).incarnation
    })
    const copy = lives.copyAs('copy')
    await lives.life(async (log) => {
      assert.deepEqual(await log.streams.delete('a'), { incarnation: before, settled: true })
      assert.deepEqual(await streams(log), ['keep'])
      await assert.rejects(log.stream('a').info(), { code: 'stream_not_found' })
      await assert.rejects(log.streams.delete('a'), { code: 'stream_not_found' })
      await log.stream('a').append('another')
      assert.notEqual((await log.stream('a').info()).incarnation, before)
    })
    assert.equal(objects().length, 2, 'those of the other stream')
    assert.deepEqual(await restorable(), ['keep'])
    // Who looks for it finds that it was deleted, under the name it had.
    const { left } = await planRestore(await openArchive(archive), { streams: ['a'] })
    assert.deepEqual(
      left.map(({ name, incarnation }) => [name, incarnation]),
      [['a', before]],
    )
    lives.dropIndex()
    await lives.life(async (log) => {
      assert.deepEqual(await streams(log), ['a', 'keep'])
      assert.deepEqual(await values(log, 'a'), ['another'])
      assert.deepEqual(await values(log, 'keep'), ['cold', 'both', 'hot', 'open'])
    })
    assert.notEqual(copy, '')
  })

  test('held or pinned, or with an archive that does not answer, it is refused and nothing is gone (invariant 8)', async () => {
    const faults: ArchiveFaults = {}
    lives.options = { ...lives.options, archive: faultyArchive(directoryArchive(archive), faults) }
    await lives.life(async (log) => {
      await write(log, 'a')
      const { incarnation } = await log.stream('a').info()
      const range = { from: null, until: null, reason: null, atMs: 1 }
      const store = await openArchive(archive)
      const hold = holdBody({ id: 'case-1', by: null, ...range })
      await putControl(store, incarnation, 50n, 'hold', hold, countingRandom('a'))
      await assert.rejects(log.streams.delete('a'), { code: 'refused', message: /hold case-1/ })
      await putControl(store, incarnation, 51n, 'release', { id: 'case-1', atMs: 2 }, countingRandom('b'))
      faults.list = () => {
        throw new StratalogError('archive_unavailable', 'no answer: injected', { retryable: true })
      }
      await assert.rejects(log.streams.delete('a'), { code: 'archive_unavailable' })
      delete faults.list
      assert.deepEqual(await values(log, 'a'), ['cold', 'both', 'hot', 'open'])
      assert.equal((await log.streams.delete('a')).settled, true)
    })
    assert.deepEqual(objects(), [])
  })

  test('cut off at each step it is gone on from, by the agent and after a start', async () => {
    const faults: ArchiveFaults = {}
    lives.options = { ...lives.options, archive: faultyArchive(directoryArchive(archive), faults) }
    const fail = () => {
      throw new StratalogError('archive_unavailable', 'no answer: injected', { retryable: true })
    }
    for (const [at, step] of (['beforePut', 'afterPut', 'beforeDelete'] as const).entries()) {
      await lives.life(async (log) => {
        await write(log, `s${at}`)
        faults[step] = fail
        const { settled, incarnation } = await log.streams.delete(`s${at}`)
        assert.equal(settled, false)
        assert.deepEqual(await streams(log), [incarnation], 'what is left of it')
        // The marker is there, nobody heard of it: the next start finds it.
        if (step === 'afterPut') return
        assert.notEqual((await log.tier.run()).failed.length, 0)
        delete faults[step]
        assert.deepEqual((await log.tier.run()).failed, [])
        assert.deepEqual(await streams(log), [])
      })
      delete faults[step]
      await lives.life(async (log) => {
        assert.deepEqual((await log.tier.run()).failed, [])
        assert.deepEqual(await streams(log), [])
      })
      assert.deepEqual(objects(), [])
    }
  })

  test('decided on the stores before the index was lost, the archive hears of it all the same (invariants 7 and 12)', async () => {
    await lives.life((log) => write(log, 'a'))
    await lives.life(async (log) => {
      await write(log, 'keep')
      const { index } = log.parts.segments
      const stream = await log.stream('a').row()
      // As far as a crash right behind the decision lets it come.
      await index.deleteStream(stream.incarnation, stream.version, 1)
    })
    lives.dropIndex()
    await lives.life(async (log) => {
      assert.deepEqual(await streams(log), ['keep'])
      assert.deepEqual((await log.tier.run()).failed, [])
      assert.deepEqual(await restorable(), ['keep'])
      for await (const part of log.archive.collect({ graceMs: 0 }))
        if (part.type === 'orphan') assert.equal(part.orphan.outcome, 'deleted', part.orphan.why)
      assert.deepEqual(await values(log, 'keep'), ['cold', 'both', 'hot', 'open'])
    })
  })

  test('decided on the stores and unknown to the index it is carried out at the next start', async () => {
    await lives.life((log) => write(log, 'a'))
    const before = lives.copyAs('before')
    await lives.life(async (log) => {
      const { parts } = log
      const row = await log.streams.find('a')
      assert.ok(row !== null)
      await parts.segments.index.deleteStream(row.incarnation, row.version, 5)
    })
    lives.putBack(before)
    await lives.life(async (log) => {
      assert.equal(await log.streams.find('a'), null)
      assert.deepEqual((await log.tier.run()).failed, [])
      assert.deepEqual(await streams(log), [])
    })
    assert.deepEqual(objects(), [])
  })

  test('without an archive no stream goes that has objects in one, hot copies or not (invariant 8)', async () => {
    await lives.life(async (log) => {
      await log.stream('a').append('both')
      await log.stream('a').setPolicy({ hot: { for: '1h' } })
      await log.stream('a').seal()
      assert.deepEqual((await log.tier.run()).failed, [])
    })
    await lives.life(
      async (log) => {
        await assert.rejects(log.streams.delete('a'), { code: 'archive_missing' })
        assert.deepEqual(await values(log, 'a'), ['both'])
        assert.deepEqual((await log.tier.run()).failed, [])
      },
      { archive: 'none' },
    )
  })
})
