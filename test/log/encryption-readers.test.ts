import assert from 'node:assert/strict'
import { readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { decodeSegmentKey } from '../../src/format/archive-names.js'
import type { Log } from '../../src/log.js'
import { present } from '../../src/model/assert.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { isStratalogError } from '../../src/model/errors.js'
import { addRingKey } from '../../src/open/key-ring-file.js'
import { openArchive, openLog } from '../../src/open.js'
import type { OpenOptions } from '../../src/options.js'
import { planRestore, type RestoreReport, restoreArchive } from '../../src/restore.js'
import { silentLogger } from '../../src/system/logger.js'
import { realRandom } from '../../src/system/random.js'
import type { OrphanObject } from '../../tiering/collect.js'
import { MemoryRing } from '../helpers/key-ring.js'
import { fillSegments, readAll, rowsOf, TieredLog } from '../helpers/tiered-log.js'

/*
 * Whatever reads objects, with the ring, without it, with another one, and with one whose key is another key: what can't
 * be decrypted is unread. It is never damaged, never a gap, never collected, and nothing is freed on its strength
 * (invariants 4, 8 and 9).
 */

let place: TieredLog
beforeEach(() => {
  place = new TieredLog()
})
afterEach(() => place.end())

const system = { logger: silentLogger() }
const code = (expected: string) => (error: unknown) => isStratalogError(error) && error.code === expected
const FREED = { hot: { for: 0 }, evict: { lag: 0 } } as const
const ENCRYPTED = { ...FREED, encryption: { ring: 'kms', key: 'k' } } as const
const range = { from: new Dlsn(1n, 0n, 0n), until: new Dlsn(4n, 0n, 0n) }
const TEXTS = Array.from({ length: 30 }, (_, at) => `a ${at}`)

const right = () => new MemoryRing('kms', 'k')
/** A ring of the same names with another key. */
function forged(): MemoryRing {
  const ring = new MemoryRing('kms', 'k')
  ring.secrets.set('k', new Uint8Array(32).fill(99))
  return ring
}
/** No ring, one that is none of this archive's, and one that pretends: and what is said to each. */
const WRONG = [
  { keyRing: undefined, says: 'key_missing' },
  { keyRing: () => new MemoryRing('other', 'k'), says: 'key_missing' },
  { keyRing: forged, says: 'key_wrong' },
] as const

const withRing = (ring: MemoryRing | undefined) => (ring === undefined ? {} : { keyRing: ring })

function openWith(ring: MemoryRing | undefined, more: OpenOptions = {}): Promise<Log> {
  return place.open({ defaults: ENCRYPTED, ...withRing(ring), ...more })
}

const open = (more: OpenOptions = {}) => openWith(right(), more)

/** Three cold segments, encrypted. */
async function cold(): Promise<void> {
  await using log = await open()
  await fillSegments(log, 'a', 3)
  const { evicted, failed } = await log.tier.run()
  assert.deepEqual([evicted, failed], [3, []])
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = []
  for await (const item of items) found.push(item)
  return found
}

const states = async (log: Log) => (await rowsOf(log, 'a')).map(({ state }) => state).join(' ')
const keyOf = async (log: Log, segment: number) =>
  present((await rowsOf(log, 'a'))[segment - 1]?.object, 'object').key

function damage(key: string): void {
  const file = join(place.archive, key)
  const bytes = Buffer.from(readFileSync(file))
  const at = Math.floor(bytes.length / 3)
  bytes[at] = (bytes[at] ?? 0) ^ 8
  rmSync(file)
  writeFileSync(file, bytes)
}

function archiveHolds(text: string): boolean {
  return place.objects().some((key) => readFileSync(join(place.archive, key)).includes(text))
}

async function restore(
  ring: MemoryRing | undefined,
  directory: string,
  until?: Dlsn,
): Promise<{ report: RestoreReport; texts: string[] }> {
  const archive = await openArchive(place.archive, system, withRing(ring))
  try {
    await using log = await openLog(join(place.root, directory), {
      archive: 'none',
      tiering: 'off',
      control: 'off',
      config: 'none',
      storeFileBytes: 4 * 2 ** 20,
      system,
    })
    const plan = await planRestore(archive, until === undefined ? {} : { until })
    const report = await restoreArchive(log, archive, plan)
    return { report, texts: report.gaps.length > 0 ? [] : (await readAll(log, 'a')).texts }
  } finally {
    await archive.close()
  }
}

async function wrongRings(
  work: (ring: MemoryRing | undefined, says: string, at: number) => Promise<void>,
): Promise<void> {
  for (const [at, { keyRing, says }] of WRONG.entries()) await work(keyRing?.(), says, at)
}

describe('a restore of what is encrypted', () => {
  test('stops where its ring is wrong, makes no gap of what it can not read, and goes on with the right one', async () => {
    await cold()
    await wrongRings(async (ring, says) => {
      await assert.rejects(restore(ring, 'back'), code(says))
    })
    const { report, texts } = await restore(right(), 'back')
    assert.deepEqual([texts, report.gaps, report.segments], [TEXTS, [], 3])
    const again = await restore(right(), 'back')
    assert.deepEqual([again.report.resumed, again.report.digest], [3, report.digest])
    const other = await restore(right(), 'other')
    assert.equal(other.report.digest, report.digest)
  })

  test('that ends within a segment needs the ring to be planned, and cuts alike', async () => {
    await cold()
    const until = new Dlsn(2n, 0n, 4n)
    await wrongRings(async (ring, says) => {
      await assert.rejects(restore(ring, 'back', until), code(says))
    })
    const { report, texts } = await restore(right(), 'back', until)
    assert.deepEqual([texts, report.gaps], [TEXTS.slice(0, 14), []])
    assert.equal((await restore(right(), 'back', until)).report.digest, report.digest)
  })

  test('a key that the archive has lost is made up for by a twin under another key, a wrong ring is not', async () => {
    await cold()
    {
      await using log = await open()
      await all(log.keys.reencrypt('a', { newKey: true }))
    }
    const keys = readdirSync(place.archive, { recursive: true, encoding: 'utf8' })
      .filter((name) => name.includes('-key-'))
      .sort()
    assert.equal(keys.length, 2)
    rmSync(join(place.archive, keys[1] ?? ''))
    await wrongRings(async (ring, says) => {
      await assert.rejects(restore(ring, 'back'), code(says))
    })
    assert.deepEqual((await restore(right(), 'back')).texts, TEXTS)
    rmSync(join(place.archive, keys[0] ?? ''))
    await assert.rejects(restore(right(), 'none'), /has no control object of key .*copy of the archive/)
  })

  test('of a damaged object takes what was there in clear before, if it has the content, else makes a gap', async () => {
    {
      await using log = await openWith(undefined, { defaults: FREED })
      await fillSegments(log, 'a', 3)
      await log.tier.run()
    }
    await using log = await open()
    const clear = await keyOf(log, 2)
    await all(log.keys.reencrypt('a'))
    damage(await keyOf(log, 2))
    const { report, texts } = await restore(right(), 'back')
    assert.deepEqual([texts, report.gaps], [TEXTS, []])
    rmSync(join(place.archive, clear))
    const gaps = (await restore(right(), 'gaps')).report.gaps
    assert.deepEqual(
      gaps.map(({ first, last, reason }) => `${first} ${last} ${reason}`),
      ['2 2 corrupt'],
    )
  })
})

describe('an archive of encrypted streams', () => {
  test('is attached with its ring; its owner alone changes keys', async () => {
    await cold()
    const attach = (ring: MemoryRing | undefined, at: number) =>
      openLog(join(place.root, `view${at}`), {
        attach: place.archive,
        control: 'off',
        config: 'none',
        system,
        ...withRing(ring),
      })
    await wrongRings(async (ring, says, at) => {
      await using view = await attach(ring, at)
      assert.equal(await states(view), 'cold cold cold')
      await assert.rejects(readAll(view, 'a'), code(says))
    })
    await using view = await attach(right(), 9)
    assert.deepEqual((await readAll(view, 'a')).texts, TEXTS)
    await assert.rejects(all(view.keys.rotate('a')), /another log owns/)
    await assert.rejects(all(view.keys.reencrypt('a')), /another log owns/)
  })

  test('is verified with its ring; without it nothing in it counts as damaged', async () => {
    await cold()
    const findings = async (log: Log) =>
      (await all(log.archive.verify({ deep: true }))).flatMap((part) =>
        part.type === 'finding' ? [part.finding] : [],
      )
    await wrongRings(async (ring) => {
      await using log = await openWith(ring)
      const found = await findings(log)
      assert.deepEqual(
        found.map(({ problem }) => problem),
        ['unreadable', 'unreadable', 'unreadable'],
      )
      assert.ok(found.every(({ mend }) => mend.includes('key ring')))
    })
    await using log = await open()
    assert.deepEqual(await findings(log), [])
    damage(await keyOf(log, 2))
    assert.deepEqual(
      (await findings(log)).map(({ problem }) => problem),
      ['damaged'],
    )
  })

  test('is scrubbed: mended under its key from a twin and from the hot copy, never without a ring', async () => {
    const hot = { ...ENCRYPTED, evict: { lag: '30d' } } as const
    {
      await using log = await open({ defaults: hot })
      await fillSegments(log, 'a', 3)
      await log.tier.run()
      assert.equal(await states(log), 'archived archived archived')
    }
    await wrongRings(async (ring) => {
      await using log = await openWith(ring, { defaults: hot })
      const { repaired, alarms } = await log.archive.scrub()
      assert.deepEqual([repaired, alarms.map(({ problem }) => problem)], [0, Array(3).fill('unreadable')])
    })
    await using log = await open({ defaults: hot })
    const before = await rowsOf(log, 'a')
    damage(await keyOf(log, 1))
    rmSync(join(place.archive, await keyOf(log, 2)))
    const { repaired, alarms } = await log.archive.scrub()
    assert.deepEqual([repaired, alarms], [2, []])
    const after = await rowsOf(log, 'a')
    assert.deepEqual(
      after.map(({ contentDigest }) => contentDigest),
      before.map(({ contentDigest }) => contentDigest),
    )
    for (const { object } of after) assert.ok(decodeSegmentKey(object?.key ?? '')?.keyId !== undefined)
    for await (const part of log.fsck({ deep: true }))
      assert.ok(part.type !== 'finding' || part.finding.severity === 'waste', 'the damaged object is left')
    // Both the old object and the new one have the content: one that is lost gives way to the other.
    await all(log.keys.reencrypt('a', { newKey: true }))
    rmSync(join(place.archive, await keyOf(log, 3)))
    assert.equal((await log.archive.scrub()).repaired, repaired + 1)
    assert.deepEqual(await readAll(log, 'a').then(({ texts }) => texts), TEXTS)
  })

  test('is recalled and evicted with its ring; without it both leave everything as it was (invariant 4)', async () => {
    await cold()
    await wrongRings(async (ring, says) => {
      await using log = await openWith(ring)
      await assert.rejects(log.stream('a').recall(range, { for: '1h' }), code(says))
      assert.equal(await states(log), 'cold cold cold')
      assert.ok((await rowsOf(log, 'a')).every(({ ledgerId }) => ledgerId === null))
    })
    {
      await using log = await open()
      assert.equal((await log.stream('a').recall(range, { for: '1h' }))?.done, 3)
      const { texts, hot } = await readAll(log, 'a')
      assert.deepEqual([texts, hot], [TEXTS, 30])
      await log.stream('a').evict(range)
      assert.equal(await states(log), 'cold cold cold')
      assert.deepEqual((await readAll(log, 'a')).texts, TEXTS)
      await fillSegments(log, 'b', 1)
    }
    await wrongRings(async (ring) => {
      await using log = await openWith(ring)
      const failed = await log
        .stream('b')
        .evict(range)
        .then(
          () => null,
          (error: unknown) => error,
        )
      // A forged ring makes keys of its own for a stream that has none yet: it is the ring then.
      assert.ok(failed === null || code('key_missing')(failed), String(failed))
      if (failed !== null)
        assert.deepEqual(
          (await rowsOf(log, 'b')).map(({ state }) => state),
          ['sealed'],
        )
    })
  })

  test('has its index made again with its ring, also where a policy of the stream alone names it; without it only its records are not to be had (invariant 12)', async () => {
    const ring = join(place.root, 'keys', 'strata.ring')
    await addRingKey(ring, 'k', { random: realRandom(), nowMs: 1 })
    const plain = () => place.open({ defaults: FREED })
    {
      await using log = await plain()
      await log.streams.create('a')
      await log.stream('a').setPolicy({ encryption: { ring, key: 'k' } })
      await fillSegments(log, 'a', 3)
      assert.equal((await log.tier.run()).evicted, 3)
      // Twins, of which the rebuild takes the first that reads back whole.
      await all(log.keys.reencrypt('a', { newKey: true }))
    }
    place.dropIndex()
    renameSync(ring, `${ring}.away`)
    {
      await using log = await plain()
      assert.equal(await states(log), 'cold cold cold')
      await assert.rejects(readAll(log, 'a'), code('key_missing'))
    }
    place.dropIndex()
    renameSync(`${ring}.away`, ring)
    await using log = await plain()
    assert.equal(await states(log), 'cold cold cold')
    assert.deepEqual((await readAll(log, 'a')).texts, TEXTS)
  })

  test('is read through a disk cache that has nothing in clear and opens nothing without a key', async () => {
    await cold()
    const directory = join(place.directory, 'cache')
    const cached = { diskCacheBytes: 8 * 2 ** 20 }
    for (let pass = 0; pass < 2; pass += 1) {
      await using log = await open(cached)
      assert.deepEqual((await readAll(log, 'a')).texts, TEXTS)
      const reads = present(log.parts.coldReads, 'cold reads')
      // What waits to be written is given up by a close.
      await reads.disk?.settled()
      const { disk } = reads.state
      assert.equal(disk?.hits, pass === 0 ? 0 : 3, 'the second process reads from the cache')
    }
    const files = readdirSync(directory)
    assert.equal(files.length, 3)
    for (const file of files) assert.equal(readFileSync(join(directory, file)).includes('a 1'), false, file)
    await wrongRings(async (ring, says) => {
      await using log = await openWith(ring, cached)
      await assert.rejects(readAll(log, 'a'), code(says))
    })
    assert.deepEqual(readdirSync(directory), files, 'a wrong ring is no damage of the cache')
  })
})

describe('what a reencryption leaves', () => {
  const collect = async (log: Log) => {
    const parts = await all(log.archive.collect({ graceMs: 0 }))
    const orphans: OrphanObject[] = parts.flatMap((part) => (part.type === 'orphan' ? [part.orphan] : []))
    const skipped = parts.flatMap((part) => (part.type === 'end' ? part.tally.skipped : []))
    return { outcomes: orphans.map(({ outcome, reason }) => `${outcome} ${reason}`), skipped }
  }

  /** Three cold segments in clear, written anew under a key. */
  async function reencrypted(): Promise<string[]> {
    {
      await using log = await openWith(undefined, { defaults: FREED })
      await fillSegments(log, 'a', 3)
      await log.tier.run()
    }
    await using log = await open()
    const clear = (await rowsOf(log, 'a')).map(({ object }) => object?.key ?? '')
    await all(log.keys.reencrypt('a'))
    return clear
  }

  test('in clear is collected once both are read and hold one content', async () => {
    await reencrypted()
    assert.ok(archiveHolds('a 1'))
    await wrongRings(async (ring) => {
      await using log = await openWith(ring)
      const { outcomes, skipped } = await collect(log)
      assert.deepEqual([outcomes, skipped.length], [[], 1])
    })
    assert.equal(place.objects().length, 6)
    await using log = await open()
    assert.deepEqual((await collect(log)).outcomes, Array(3).fill('deleted twin'))
    assert.equal(archiveHolds('a 1'), false)
    assert.deepEqual((await readAll(log, 'a')).texts, TEXTS)
    assert.deepEqual((await restore(right(), 'back')).texts, TEXTS)
  })

  test('is kept where the encrypted object is damaged: it may be needed', async () => {
    await reencrypted()
    await using log = await open()
    damage(await keyOf(log, 2))
    assert.deepEqual((await collect(log)).outcomes, ['deleted twin', 'kept unproven', 'deleted twin'])
  })

  test('is no conflict for those who verify, scrub, evict or restore, and stays the segment without an index', async () => {
    await reencrypted()
    {
      await using log = await open()
      for await (const part of log.archive.verify({ deep: true })) assert.notEqual(part.type, 'finding')
      assert.deepEqual((await log.archive.scrub()).alarms, [])
      await log.stream('a').recall(range, { for: '1h' })
      await log.stream('a').evict(range)
      assert.equal(await states(log), 'cold cold cold')
    }
    place.dropIndex()
    await using log = await open()
    for (const { object } of await rowsOf(log, 'a'))
      assert.ok(decodeSegmentKey(object?.key ?? '')?.keyId !== undefined, 'the encrypted one is chosen')
    assert.deepEqual((await readAll(log, 'a')).texts, TEXTS)
  })

  test('is written by who owns the archive and nobody else', async () => {
    await cold()
    {
      const archive = await openArchive(place.archive, system, { keyRing: right() })
      await using other = await openLog(join(place.root, 'other'), {
        archive: place.archive,
        tiering: 'off',
        control: 'off',
        config: 'none',
        storeFileBytes: 4 * 2 ** 20,
        defaults: ENCRYPTED,
        keyRing: right(),
        system,
      })
      await restoreArchive(other, archive, await planRestore(archive))
      await archive.close()
      await other.archive.takeOver()
      assert.equal((await other.tier.run()).copied, 3)
    }
    await using log = await open()
    const before = readdirSync(place.archive, { recursive: true }).length
    await assert.rejects(all(log.keys.reencrypt('a', { newKey: true })), code('refused'))
    await assert.rejects(all(log.keys.rotate('a')), code('refused'))
    assert.equal(readdirSync(place.archive, { recursive: true }).length, before)
    assert.deepEqual((await readAll(log, 'a')).texts, TEXTS)
  })
})
