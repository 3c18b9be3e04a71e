import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { type ErrorCode, type Log, openArchive, openLog, planRestore, restoreArchive } from 'stratalog'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import { silentLogger } from '../../src/system/logger.js'
import { ArchivedLog, allOf, checkRead, fill, rowsOf } from '../helpers/archived-log.js'
import { seededRandom } from '../helpers/seeded-random.js'

/*
 * Archives that somebody damaged, mixed up or half deleted, as a reader, a check, a restore and the agent meet them.
 * Every one is named by its code, no byte that was not appended reaches a reader (invariant 9), nothing is deleted on
 * the strength of it (invariant 8), and put right again all of it is there.
 */

const SEED = Number(process.env.TEST_SEED ?? Date.now() % 1_000_000)
const FULL = process.env.TEST_FULL === '1'
/** Bytes of an object that are flipped, unless all are. */
const FLIPS = 16
const RECORDS = 60
const COLD = { defaults: { hot: { for: 0 }, evict: { lag: 0 }, roll: { size: '16 KiB' } } } as const
const SYSTEM = { logger: silentLogger() }

let root = ''
let world: ArchivedLog
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'stratalog-bad-archive-'))
  world = new ArchivedLog(root)
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

/** Streams of one cold segment each; their keys. */
async function cold(log: Log, ...names: string[]): Promise<string[]> {
  for (const name of names) await fill(log, name, RECORDS)
  assert.deepEqual((await log.tier.run()).failed, [])
  const rows = await Promise.all(names.map((name) => rowsOf(log, name)))
  return rows.map(([row]) => {
    assert.equal(row?.state, 'cold')
    return present(row.object, 'object').key
  })
}

const code = (wanted: ErrorCode) => (error: unknown) => {
  assert.ok(isStratalogError(error, wanted), String(error))
  return true
}

/** What of a stream a reader gets before an error, if there is one. */
async function readUntilError(log: Log, name: string): Promise<{ texts: string[]; error: unknown }> {
  const texts: string[] = []
  try {
    for await (const { payload } of log.stream(name).read()) texts.push(Buffer.from(payload).toString())
    return { texts, error: null }
  } catch (error) {
    return { texts, error }
  }
}

const appended = (name: string) =>
  Array.from({ length: RECORDS }, (_, i) => `${name} ${i} ${'.'.repeat(100)}`)

async function problems(log: Log): Promise<string[]> {
  const parts = await allOf(log.archive.verify({ deep: true }))
  return parts.flatMap((part) => (part.type === 'finding' ? [part.finding.problem] : []))
}

let restores = 0
async function restored(strict: boolean): Promise<{ gaps: number; texts: string[] }> {
  restores += 1
  const archive = await openArchive(world.archive, SYSTEM)
  await using log = await openLog(join(root, `restored-${restores}`), {
    config: 'none',
    control: 'off',
    tiering: 'off',
    storeFileBytes: 4 * 2 ** 20,
    system: SYSTEM,
  })
  const { gaps } = await restoreArchive(log, archive, await planRestore(archive), { strict })
  return { gaps: gaps.length, texts: (await readUntilError(log, 'a')).texts }
}

describe(`objects that are not what they were (seed ${SEED})`, () => {
  /** Each reader has a log of its own: blocks that were read before are remembered. */
  async function isFound(key: string, bytes: Uint8Array, what: string): Promise<void> {
    const whole = world.bytes(key)
    world.write(key, bytes)
    {
      await using log = await world.open(COLD)
      const { texts, error } = await readUntilError(log, 'a')
      assert.deepEqual(texts, appended('a').slice(0, texts.length), `${what}: only what was appended is read`)
      // Of bytes no reader needs, such as a digest of all of them, a check tells.
      if (error === null) assert.equal(texts.length, RECORDS, what)
      // A byte of the version makes it one that nobody knows.
      else
        assert.ok(
          isStratalogError(error, 'corrupt') || isStratalogError(error, 'version_unsupported'),
          `${what}: ${error}`,
        )
      assert.ok((await problems(log)).length > 0, `${what}: a deep check finds it`)
      const report = await log.tier.run()
      assert.deepEqual([report.evicted, report.trimmed], [0, 0])
    }
    assert.deepEqual(
      world.bytes(key),
      Buffer.from(bytes),
      `${what}: nothing of it is deleted or written over`,
    )
    world.write(key, whole)
  }

  test('flipped at each byte: read as it was or named, found by a deep check', {
    timeout: 3_600_000,
  }, async () => {
    let key = ''
    {
      await using log = await world.open(COLD)
      ;[key = ''] = await cold(log, 'a')
    }
    const whole = world.bytes(key)
    const random = seededRandom(SEED)
    const ends = [0, 1, whole.length - 1]
    const drawn = Array.from({ length: FLIPS - ends.length }, () => Math.floor(random() * whole.length))
    const places = FULL ? Array.from(whole.keys()) : [...ends, ...drawn]
    for (const at of places) {
      const flipped = Buffer.from(whole)
      flipped[at] = (flipped[at] ?? 0) ^ (1 << (at % 8))
      await isFound(key, flipped, `byte ${at} of ${whole.length}`)
    }
    assert.equal((await restored(true)).texts.length, RECORDS)
  })

  test('truncated and extended: named, and a restore has a gap or refuses', async () => {
    let key = ''
    {
      await using log = await world.open(COLD)
      ;[key = ''] = await cold(log, 'a')
    }
    const whole = world.bytes(key)
    const lengths = [0, 1, 32, whole.length >> 1, whole.length - 1]
    for (const length of lengths) {
      await isFound(key, whole.subarray(0, length), `${length} bytes of ${whole.length}`)
      world.write(key, whole.subarray(0, length))
      await assert.rejects(restored(true), {
        code: 'corrupt',
        message: /^a: segment 1 is .*without --strict$/s,
      })
      assert.deepEqual(await restored(false), { gaps: 1, texts: [] })
      world.write(key, whole)
    }
    for (const more of [Buffer.alloc(1), whole.subarray(0, 100), Buffer.alloc(5_000, 7)])
      await isFound(key, Buffer.concat([whole, more]), `${more.length} bytes more`)
    assert.deepEqual(await restored(true), { gaps: 0, texts: appended('a') })
  })

  test('swapped between streams: a reader of one never gets a record of the other', async () => {
    let keys: string[] = []
    {
      await using log = await world.open(COLD)
      keys = await cold(log, 'a', 'b')
    }
    const [one = '', other = ''] = keys
    const [first, second] = [world.bytes(one), world.bytes(other)]
    world.write(one, second)
    world.write(other, first)
    {
      await using log = await world.open(COLD)
      for (const name of ['a', 'b']) {
        const { texts, error } = await readUntilError(log, name)
        assert.deepEqual(texts, [])
        assert.ok(isStratalogError(error, 'corrupt'), String(error))
      }
      // Another size is seen without reading; of one size only the bytes tell.
      const kind = first.length === second.length ? 'damaged' : 'differs'
      assert.deepEqual(await problems(log), [kind, kind])
      const state = await log.archive.scrub()
      assert.equal(state.alarms.length, 2)
    }
    await assert.rejects(restored(true), code('corrupt'))
    world.write(one, first)
    world.write(other, second)
    await using log = await world.open(COLD)
    for (const name of ['a', 'b']) await checkRead(log, name, RECORDS)
    assert.deepEqual(await problems(log), [])
  })
})

describe('archives that can not be restored as they are', () => {
  test('half deleted: what is missing is named, what is there is restored around a gap', async () => {
    {
      await using log = await world.open(COLD)
      await cold(log, 'a')
      await fill(log, 'a', RECORDS)
      await fill(log, 'a', RECORDS)
      assert.deepEqual((await log.tier.run()).failed, [])
    }
    const [, middle = ''] = world.keys()
    const whole = world.bytes(middle)
    world.remove(middle)
    await assert.rejects(restored(true), code('corrupt'))
    assert.equal((await restored(false)).gaps, 1)
    {
      await using log = await world.open(COLD)
      const { error } = await readUntilError(log, 'a')
      assert.ok(
        isStratalogError(error, 'object_not_found') || isStratalogError(error, 'corrupt'),
        String(error),
      )
      assert.ok((await problems(log)).includes('missing'))
      // Nobody concludes from it that history ended there.
      assert.deepEqual((await log.tier.run()).trimmed, 0)
      assert.ok((await rowsOf(log, 'a')).every(({ state }) => state === 'cold'))
    }
    world.write(middle, whole)
    assert.equal((await restored(true)).gaps, 0)
  })

  test('without the objects that say what streams are called: named, and nothing is made up', async () => {
    {
      await using log = await world.open(COLD)
      await cold(log, 'a')
    }
    const named = readdirSync(world.archive, { recursive: true, encoding: 'utf8' }).filter((key) =>
      /-name-/.test(key),
    )
    const [key = ''] = named
    const whole = world.bytes(key)
    world.remove(key)
    const archive = await openArchive(world.archive, SYSTEM)
    const { streams, foreign } = await planRestore(archive)
    assert.equal(streams.length, 0)
    assert.match(foreign.join(), /objects without a name/)
    {
      await using log = await world.open(COLD)
      assert.deepEqual((await log.tier.run()).trimmed, 0)
      for await (const part of log.archive.collect({ graceMs: 0 }))
        if (part.type === 'orphan') assert.notEqual(part.orphan.outcome, 'deleted')
      await checkRead(log, 'a', RECORDS)
    }
    world.write(key, whole)
    assert.equal((await restored(true)).texts.length, RECORDS)
  })

  test('of something else, of nobody, of a later format', async () => {
    const foreign = join(root, 'foreign')
    mkdirSync(join(foreign, 'photos'), { recursive: true })
    writeFileSync(join(foreign, 'photos', '1.jpg'), 'x')
    await assert.rejects(openArchive(foreign, SYSTEM), code('archive_missing'))
    {
      await using log = await world.open({ archive: foreign, ...COLD })
      await fill(log, 'other', 5)
      const { copied, failed } = await log.tier.run()
      assert.equal(copied, 0)
      assert.match(failed.map(({ error }) => error).join(), /is not empty and has no/)
      await checkRead(log, 'other', 5)
    }
    assert.deepEqual(readdirSync(foreign), ['photos'])
    {
      await using log = await world.open(COLD)
      await cold(log, 'a')
    }
    const marker = join(world.archive, 'stratalog-archive.json')
    const before = readFileSync(marker)
    const objects = world.keys()
    for (const [text, wanted] of [
      ['{"format":2}', 'version_unsupported'],
      ['{"format":', 'corrupt'],
      ['{}', 'corrupt'],
    ] as const) {
      writeFileSync(marker, text)
      await assert.rejects(openArchive(world.archive, SYSTEM), code(wanted))
      // The log itself opens, or says why not; nothing of the archive changes.
      const log = await world.open(COLD).catch((error: unknown) => {
        assert.ok(isStratalogError(error, wanted), String(error))
        return null
      })
      if (log !== null) {
        await fill(log, 'b', 5)
        assert.equal((await log.tier.run()).copied, 0)
        await log.close()
      }
      assert.deepEqual(world.keys(), objects)
    }
    writeFileSync(marker, before)
    assert.equal((await restored(true)).texts.length, RECORDS)
  })

  test('with an object of a later version: version_unsupported, not damage; it stays', async () => {
    let key = ''
    {
      await using log = await world.open(COLD)
      ;[key = ''] = await cold(log, 'a')
    }
    const whole = world.bytes(key)
    const newer = Buffer.from(whole)
    // The version follows the magic: docs/formats/segment-object.md.
    const at = present(versionAt(whole), 'the version')
    newer[at] = 99
    world.write(key, newer)
    const failed = await restored(true).catch((error: unknown) => error)
    assert.ok(isStratalogError(failed), String(failed))
    assert.ok(['version_unsupported', 'corrupt'].includes(failed.code), failed.code)
    assert.ok(world.has(key))
    world.write(key, whole)
    assert.equal((await restored(true)).texts.length, RECORDS)
  })
})

/** The place of the version in an object's header. */
function versionAt(bytes: Buffer): number | null {
  for (let at = 4; at < 16; at += 1) if (bytes[at] === 1) return at
  return null
}

describe('two logs on one prefix', () => {
  test('begun at once, one gets it; the other keeps all it has and deletes nothing (invariants 4 and 8)', async () => {
    const other = new ArchivedLog(root)
    await using first = await world.open(COLD)
    await using second = await openLog(join(root, 'second'), {
      archive: other.archive,
      tiering: 'off',
      control: 'off',
      config: 'none',
      storeFileBytes: 4 * 2 ** 20,
      ...COLD,
      system: SYSTEM,
    })
    for (const log of [first, second]) await fill(log, 'a', RECORDS)
    const reports = await Promise.all([first.tier.run(), second.tier.run()])
    const logs = [first, second]
    const won = reports.findIndex(({ copied }) => copied > 0)
    const [winner, loser] = [present(logs[won], 'a winner'), present(logs[1 - won], 'a loser')]
    const lost = present(reports[1 - won], 'report')
    assert.deepEqual([lost.copied, lost.evicted, lost.trimmed], [0, 0, 0])
    assert.match(lost.failed.map(({ error }) => error).join(), /belongs to log/)
    for await (const part of winner.archive.collect({ graceMs: 0 }))
      if (part.type === 'orphan') assert.notEqual(part.orphan.outcome, 'deleted', 'what is not its own')
    await loser.stream('a').setPolicy({ keep: { for: 1 } })
    await loser.tier.run()
    await checkRead(winner, 'a', RECORDS)
    assert.equal(world.keys().length, 1)
    const { texts } = await restored(true)
    assert.deepEqual(texts, appended('a'))
  })
})
