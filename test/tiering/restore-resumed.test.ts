import assert from 'node:assert/strict'
import { cpSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { putControl } from '../../archive/control-objects.js'
import { decodeSegmentKey, encodeSegmentKey } from '../../src/format/archive-names.js'
import type { Log } from '../../src/log.js'
import { present } from '../../src/model/assert.js'
import { text } from '../../src/model/codec.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { openArchive, openLog } from '../../src/open.js'
import type { OpenOptions } from '../../src/options.js'
import type { ArchiveStore } from '../../src/ports/archive-store.js'
import { planRestore, type RestoreSelection, restoreArchive } from '../../src/restore.js'
import { silentLogger } from '../../src/system/logger.js'
import { countingRandom } from '../helpers/archive.js'
import { fillSegments } from '../helpers/tiered-log.js'

let root = ''
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'stratalog-resumed-'))
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

const PER_SEGMENT = 4

function open(directory: string, archive?: string): Promise<Log> {
  const options: OpenOptions = {
    tiering: 'off',
    control: 'off',
    config: 'none',
    storeFileBytes: 4 * 1024 * 1024,
    defaults: { hot: { for: 0 }, evict: { lag: 0 } },
    system: { logger: silentLogger() },
    ...(archive === undefined ? {} : { archive: join(root, archive) }),
  }
  return openLog(join(root, directory), options)
}

/** A stream `a` of so many segments with four records each, in the archive. */
async function archived(segments: number): Promise<void> {
  await using log = await open('log', 'archive')
  await fillSegments(log, 'a', segments, PER_SEGMENT)
  assert.deepEqual((await log.tier.run()).failed, [])
}

async function records(log: Log, name = 'a'): Promise<string[]> {
  const found: string[] = []
  for await (const one of log.stream(name, { codec: text() }).read({ onGap: 'yield' }))
    found.push('gap' in one ? `gap ${one.gap} ${one.from} ${one.until}` : one.value)
  return found
}

const archive = () => openArchive(join(root, 'archive'))
const values = (count: number) => Array.from({ length: count }, (_, at) => `a ${at}`)

async function restore(into: string, selection: RestoreSelection = {}, strict = false): Promise<string[]> {
  const from = await archive()
  await using log = await open(into)
  await restoreArchive(log, from, await planRestore(from, selection), { strict })
  return await records(log)
}

/** Restores so many segments and is interrupted. */
async function begun(into: string, segments: number): Promise<void> {
  const from = await archive()
  const stop = new AbortController()
  await using log = await open(into)
  const onProgress = ({ streamDone }: { streamDone: number }) => {
    if (streamDone === segments) stop.abort(new Error('stop'))
  }
  const options = { signal: stop.signal, onProgress }
  await assert.rejects(restoreArchive(log, from, await planRestore(from), options), /stop/)
}

function objects(segment: bigint): string[] {
  return readdirSync(join(root, 'archive'), { recursive: true, encoding: 'utf8' })
    .filter((name) => decodeSegmentKey(name)?.segment === segment)
    .map((name) => join(root, 'archive', name))
}

const keyOf = (file: string) =>
  present(decodeSegmentKey(`${basename(dirname(file))}/${basename(file)}`), 'a key of a segment')

/** An archive in which something happens just before a segment's object is read for the first time. */
function before(store: ArchiveStore, segment: bigint, happens: () => Promise<void> | void): ArchiveStore {
  let happened = false
  return Object.create(store, {
    readRange: {
      value: async (key: string, offset: number, lengthBytes: number, signal?: AbortSignal) => {
        if (!happened && decodeSegmentKey(key)?.segment === segment) {
          happened = true
          await happens()
        }
        return store.readRange(key, offset, lengthBytes, signal)
      },
    },
    listFrom: { value: store.listFrom.bind(store) },
  }) as ArchiveStore
}

describe('a restore that was interrupted (invariants 1 and 7)', () => {
  test('nothing is appended to half a stream: its positions are taken in the archive; resumed it is whole and goes on', async () => {
    await archived(3)
    for (const done of [1, 2]) {
      const into = `into${done}`
      await begun(into, done)
      {
        await using log = await open(into)
        await assert.rejects(log.stream('a').append('mine'), {
          code: 'refused',
          message: new RegExp(`restored up to segment ${done} of 3: run the same "stratalog restore" again`),
        })
        await assert.rejects(log.stream('a').finish(), { code: 'refused' })
        assert.deepEqual(await records(log), values(done * PER_SEGMENT), 'what is there is read')
      }
      assert.deepEqual(await restore(into), values(3 * PER_SEGMENT))
      await using log = await open(into)
      const ack = await log.stream('a').append('mine')
      assert.deepEqual([ack.dlsn.segment, ack.sequenceId], [4n, 12n])
    }
  })

  test('a restored part goes on where it was cut, and one of a trimmed stream behind the trim', async () => {
    await archived(3)
    for (const [at, until] of [new Dlsn(2n, 0n, 0n), new Dlsn(2n, 0n, 1n), new Dlsn(1n, 0n, 0n)].entries()) {
      await restore(`part${at}`, { until })
      await using log = await open(`part${at}`)
      await log.stream('a').append('mine')
    }
    {
      await using log = await open('log', 'archive')
      await log.stream('a').trim({ before: new Dlsn(4n, 0n, 0n) })
    }
    assert.deepEqual(await restore('nothing'), [])
    await using log = await open('nothing')
    assert.equal((await log.stream('a').append('mine')).dlsn.segment, 4n)
  })

  test('one whose source was trimmed beyond what is restored says so, and adopts nothing', async () => {
    await archived(4)
    await begun('into', 1)
    {
      await using log = await open('log', 'archive')
      await log.stream('a').trim({ before: new Dlsn(4n, 0n, 0n) })
    }
    await assert.rejects(restore('into'), { code: 'conflict', message: /trimmed up to 4:0:0/ })
    await using log = await open('into')
    assert.deepEqual(await records(log), values(PER_SEGMENT))
  })

  test('one that is done and was trimmed since is not taken for what the archive has', async () => {
    await archived(3)
    await restore('into')
    {
      await using log = await open('into')
      await log.stream('a').trim({ before: new Dlsn(3n, 0n, 0n) })
    }
    await assert.rejects(restore('into'), { code: 'refused', message: /trimmed up to 3:0:0.*--as a=NAME/ })
  })

  test('one that went on is not ended because its source did', async () => {
    await archived(2)
    await restore('into')
    {
      await using log = await open('into')
      await log.stream('a').append('mine')
    }
    {
      await using log = await open('log', 'archive')
      await log.stream('a').finish()
      assert.deepEqual((await log.tier.run()).failed, [])
    }
    assert.deepEqual(await restore('into'), [...values(2 * PER_SEGMENT), 'mine'])
    await using log = await open('into')
    await log.stream('a').append('more')
  })
})

describe('restore from an archive that is in use (invariants 7 and 8)', () => {
  test('an object that was rewritten meanwhile is read under its new name: it is no gap', async () => {
    await archived(3)
    const store = before(await archive(), 2n, () => {
      const [victim] = objects(2n)
      const file = present(victim, 'an object')
      cpSync(file, join(root, 'archive', encodeSegmentKey({ ...keyOf(file), attempt: 'fvvvvvvvvvvvv' })))
      rmSync(file)
    })
    await using log = await open('into')
    const report = await restoreArchive(log, store, await planRestore(store), { strict: true })
    assert.deepEqual([report.gaps, await records(log)], [[], values(3 * PER_SEGMENT)])
  })

  test('what is stored or trimmed while it is listed is not missing', async () => {
    await archived(4)
    const plain = await archive()
    const { incarnation } = present((await planRestore(plain)).streams[0], 'a stream')
    const during = (happens: (segment: bigint | undefined) => boolean, then = async () => {}) => {
      let listings = 0
      const listFrom: ArchiveStore['listFrom'] = async (prefix, ...rest) => {
        const first = prefix.endsWith('/s') && listings++ === 0
        if (first) await then()
        const page = await plain.listFrom(prefix, ...rest)
        return first ? page.filter(({ key }) => !happens(decodeSegmentKey(key)?.segment)) : page
      }
      return Object.create(plain, {
        listFrom: { value: listFrom },
        readRange: { value: plain.readRange.bind(plain) },
      }) as ArchiveStore
    }
    const late = await planRestore(during((segment) => segment === 2n))
    assert.deepEqual([late.streams[0]?.gaps, late.segments], [[], 4])
    const trimmed = during(
      () => false,
      async () => {
        await putControl(plain, incarnation, 90n, 'trim', { below: '3:0:0' }, countingRandom())
        for (const file of [...objects(1n), ...objects(2n)]) rmSync(file)
      },
    )
    const [stream] = (await planRestore(trimmed)).streams
    assert.deepEqual([stream?.gaps, `${stream?.trimmedBelow}`], [[], '3:0:0'])
  })

  test('a stream that is trimmed or deleted meanwhile is not restored with gaps', async () => {
    await archived(3)
    for (const kind of ['trim', 'delete'] as const) {
      cpSync(join(root, 'archive'), join(root, 'kept'), { recursive: true })
      const plain = await archive()
      const [source] = (await planRestore(plain)).streams
      const store = before(plain, 2n, async () => {
        const body = kind === 'trim' ? { below: '3:0:0' } : { atMs: 1 }
        const { incarnation } = present(source, 'a stream')
        await putControl(plain, incarnation, 90n, kind, body, countingRandom())
        for (const file of objects(2n)) rmSync(file)
      })
      await using log = await open(kind)
      await assert.rejects(restoreArchive(log, store, await planRestore(store)), {
        code: 'conflict',
        message: kind === 'trim' ? /was trimmed up to 3:0:0 while/ : /was deleted while/,
      })
      assert.deepEqual(await records(log), values(PER_SEGMENT))
      rmSync(join(root, 'archive'), { recursive: true })
      cpSync(join(root, 'kept'), join(root, 'archive'), { recursive: true })
      rmSync(join(root, 'kept'), { recursive: true })
    }
  })
})

describe('where a restore ends (invariant 7)', () => {
  test('no gap reaches behind a DLSN, whether the archive states it or it is found, and strict ones stop at none', async () => {
    await archived(6)
    const store = await archive()
    const { incarnation } = present((await planRestore(store)).streams[0], 'a stream')
    for (const segment of [3n, 4n, 6n]) for (const file of objects(segment)) rmSync(file)
    const gap = { first: '6', last: '6', reason: 'dropped', atMs: 1 }
    await putControl(store, incarnation, 90n, 'gap', gap, countingRandom())
    for (const [until, gaps] of [
      ['1:0:0', []],
      ['3:0:0', []],
      ['3:1:0', ['3-3']],
      ['4:0:0', ['3-3']],
      ['5:0:0', ['3-4']],
      ['6:0:0', ['3-4']],
      ['7:0:0', ['3-4', '6-6']],
      ['99:0:0', ['3-4', '6-6']],
    ] as const) {
      const plan = await planRestore(store, { until: Dlsn.parse(until) })
      const [stream] = plan.streams
      assert.deepEqual(
        stream?.gaps.map(({ first, last }) => `${first}-${last}`),
        gaps,
        until,
      )
      const strict = restore(`s${until.replaceAll(':', '-')}`, { until: Dlsn.parse(until) }, true)
      if (stream?.missing.length === 0) await strict
      else await assert.rejects(strict, { code: 'corrupt' })
    }
  })

  test('objects that differ behind the end are nobody’s to decide', async () => {
    await archived(3)
    const [file] = objects(3n)
    const key = keyOf(present(file, 'an object'))
    const other = { ...key, contentDigest: 'f'.repeat(64), attempt: 'fvvvvvvvvvvvv' }
    writeFileSync(join(root, 'archive', encodeSegmentKey(other)), 'another')
    for (const until of [new Dlsn(3n, 0n, 0n), { time: Number(key.firstTxid) }])
      assert.deepEqual((await planRestore(await archive(), { until })).streams[0]?.gaps, [])
    assert.equal((await planRestore(await archive())).streams[0]?.gaps.length, 1)
  })
})

describe('what was decided about a stream comes along (invariants 5 and 7)', () => {
  test('its own policy and its holds, from archive to archive; what was withdrawn does not', async () => {
    {
      await using log = await open('log', 'archive')
      await fillSegments(log, 'a', 2, PER_SEGMENT)
      await fillSegments(log, 'b', 1, PER_SEGMENT)
      await log.stream('a').setPolicy({ keep: { for: '100 years' } })
      await log.stream('b').setPolicy({ keep: { for: '1 year' } })
      await log.stream('a').hold({ id: 'case-1', until: new Dlsn(2n, 0n, 0n), reason: 'a case' })
      await log.stream('a').hold({ id: 'case-2' })
      assert.deepEqual((await log.tier.run()).failed, [])
      await log.stream('a').release('case-2')
      await log.stream('b').setPolicy(null)
      assert.deepEqual((await log.tier.run()).failed, [])
      const names = readdirSync(join(root, 'archive'), { recursive: true })
      assert.deepEqual((await log.tier.run()).failed, [])
      assert.deepEqual(readdirSync(join(root, 'archive'), { recursive: true }), names, 'told once')
    }
    const check = async (log: Log) => {
      const keep = async (name: string) => (await log.policyOf(name)).resolved.policy.keep.forMs
      assert.deepEqual([await keep('a'), await keep('b')], [100 * 365 * 86_400_000, null])
      const holds = await log.stream('a').holds()
      assert.deepEqual(
        holds.map(({ id, reason }) => [id, reason]),
        [['case-1', 'a case']],
      )
    }
    await restore('one')
    {
      await using log = await open('one', 'second')
      await check(log)
      // Held: only what lies behind the hold could go, and nothing before it may.
      const report = await log.stream('a').trim({ before: new Dlsn(3n, 0n, 0n) })
      assert.equal(report.below, null)
      assert.deepEqual((await log.tier.run()).failed, [])
    }
    const second = await openArchive(join(root, 'second'))
    {
      await using log = await open('two')
      await restoreArchive(log, second, await planRestore(second))
      await check(log)
      // Released here it stays released, though the restore is run again.
      await log.stream('a').release('case-1')
      await restoreArchive(log, second, await planRestore(second))
      assert.deepEqual(await log.stream('a').holds(), [])
    }
  })
})
