import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { putControl } from '../../archive/control-objects.js'
import { chooseSegments, type ListedSegment, listSegments } from '../../archive/listing.js'
import {
  deadSummaries,
  isSummarized,
  listSummarized,
  putSummary,
  type SummarizedListing,
} from '../../archive/summaries.js'
import { attemptOf, decodeSegmentKey, encodeSegmentKey } from '../../src/format/archive-names.js'
import {
  decodeSummaryKey,
  encodeSummaryKey,
  SUMMARY_SEGMENTS,
  summaryPrefix,
  summaryStart,
} from '../../src/format/summary-object.js'
import { present } from '../../src/model/assert.js'
import { StratalogError } from '../../src/model/errors.js'
import { bodyOf, countingRandom, INCARNATION, MemoryArchive } from '../helpers/archive.js'

const random = countingRandom()
const DIGESTS = ['a', 'b'].map((digit) => digit.repeat(64))

function segmentOf(segment: bigint, digest = 0): ListedSegment {
  const key = encodeSegmentKey({
    incarnation: INCARNATION,
    segment,
    lastEntryId: 9n,
    lastSlot: 2n,
    recordCount: 30n,
    startSequenceId: segment * 30n,
    firstTxid: segment,
    lastTxid: segment + 5n,
    completionMs: 1_700_000_000_000,
    indexBytes: 152,
    contentDigest: present(DIGESTS[digest], 'digest'),
    attempt: attemptOf(random.bytes(8)),
  })
  return { key, sizeBytes: 1, parsed: present(decodeSegmentKey(key), 'key') }
}

/** An archive of so many segments, a summary for each whole thousand; what was committed. */
async function archiveOf(count: number): Promise<{ store: MemoryArchive; segments: ListedSegment[] }> {
  const store = new MemoryArchive()
  const segments = Array.from({ length: count }, (_, i) => segmentOf(BigInt(i + 1)))
  for (const { key } of segments) await store.putIfAbsent(key, bodyOf('x'))
  for (let at = 0; at + SUMMARY_SEGMENTS <= count; at += SUMMARY_SEGMENTS)
    assert.equal(await putSummary(store, segments.slice(at, at + SUMMARY_SEGMENTS), random), true)
  return { store, segments }
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = []
  for await (const item of items) found.push(item)
  return found
}

const keysOf = async (items: AsyncIterable<ListedSegment>) => (await all(items)).map(({ key }) => key)

function through(store: MemoryArchive, options: SummarizedListing = {}): Promise<string[]> {
  return keysOf(listSummarized(store, INCARNATION, options))
}

const summariesIn = (store: MemoryArchive) =>
  [...store.objects.keys()].filter((key) => key.startsWith(summaryPrefix(INCARNATION))).sort()

const thing = fc.oneof(
  fc.record({ kind: fc.constant('lost' as const), at: fc.nat(3_299) }),
  fc.record({ kind: fc.constant('twin' as const), at: fc.nat(3_299) }),
  fc.record({ kind: fc.constant('loser' as const), at: fc.nat(3_299) }),
  fc.record({ kind: fc.constant('trimmed' as const), at: fc.nat(3_299) }),
  fc.record({ kind: fc.constant('foreign' as const), at: fc.nat(3_299) }),
  fc.record({ kind: fc.constant('damaged' as const), at: fc.nat(2) }),
)

describe('listing through summaries', () => {
  test('gives exactly what the listing gives, whatever was lost, added, trimmed or damaged', async () => {
    const { store, segments } = await archiveOf(3_300)
    const objects = new Map(store.objects)
    await fc.assert(
      fc.asyncProperty(fc.array(thing, { maxLength: 6 }), fc.bigInt(0n, 3_400n), async (things, from) => {
        store.objects.clear()
        for (const [key, bytes] of objects) store.objects.set(key, bytes)
        for (const one of things) await happen(store, segments, one)
        const told: string[][] = [[], []]
        const plain = await all(
          listSegments(store, INCARNATION, from, (key) => present(told[0], 'told').push(key)),
        )
        const foreign = (key: string) => present(told[1], 'told').push(key)
        assert.deepEqual(await all(listSummarized(store, INCARNATION, { from, foreign })), plain)
        assert.deepEqual(told[1], told[0])
      }),
      { numRuns: 25 },
    )
  })

  async function happen(
    store: MemoryArchive,
    segments: readonly ListedSegment[],
    { kind, at }: { kind: string; at: number },
  ): Promise<void> {
    const { key, parsed } = present(segments[at], 'segment')
    if (kind === 'lost') store.objects.delete(key)
    else if (kind === 'trimmed') for (const one of segments.slice(0, at)) store.objects.delete(one.key)
    else if (kind === 'foreign') await store.putIfAbsent(`${key.slice(0, 40)}x`, bodyOf('x')).catch(() => {})
    else if (kind === 'damaged') store.objects.set(present(summariesIn(store)[at], 'one'), Buffer.from('no'))
    else await store.putIfAbsent(segmentOf(parsed.segment, kind === 'twin' ? 0 : 1).key, bodyOf('x'))
  }

  test('who only looks asks for no name of a thousand that is there from its first on', async () => {
    const { store, segments } = await archiveOf(5_200)
    const lists = counting(store, 'listFrom')
    const keys = segments.map(({ key }) => key)
    assert.deepEqual(await through(lists.store, { check: 'first' }), keys)
    // One of them is of decisions: whether anything was encrypted since.
    assert.ok(lists.calls() <= 6, `${lists.calls()} listings`)
    assert.deepEqual(await through(store, { check: 'first', from: 2_500n }), keys.slice(2_499))
  })

  test('the first page is asked for once, with summaries and without', async () => {
    const { store, segments } = await archiveOf(3_300)
    const keys = segments.map(({ key }) => key)
    const pages = async () => {
      const lists = counting(store, 'listFrom')
      assert.deepEqual(await through(lists.store), keys)
      return lists.calls()
    }
    // Four ranges, of which the full ones have a second page that shows their end, and a page of summaries.
    const summarized = await pages()
    for (const key of summariesIn(store)) store.objects.delete(key)
    // Four pages; that there are no summaries is known from one.
    assert.deepEqual({ summarized, plain: await pages() }, { summarized: 8, plain: 5 })
  })

  test('an object in clear that a summary names gives way to the encrypted one that was written since', async () => {
    const { store, segments } = await archiveOf(2_200)
    const { parsed } = present(segments[6], 'segment 7')
    const sealed = { ...parsed, keyId: '00001', contentDigest: present(DIGESTS[1], 'digest') }
    await store.putIfAbsent(encodeSegmentKey(sealed), bodyOf('x'))
    await putControl(store, INCARNATION, 1n, 'key', {}, random)
    const choose = async (listed: AsyncIterable<ListedSegment>) =>
      (await all(chooseSegments(listed))).map((one) => one.kind === 'chosen' && one.chosen.key)
    const chosen = await choose(listSegments(store, INCARNATION))
    assert.equal(chosen[6], encodeSegmentKey(sealed))
    assert.deepEqual(await choose(listSummarized(store, INCARNATION, { check: 'first' })), chosen)
  })

  test('a trim within a thousand, which deletes from its old end on, has it listed', async () => {
    const { store, segments } = await archiveOf(3_300)
    for (const { key } of segments.slice(0, 1_400)) store.objects.delete(key)
    assert.deepEqual(
      await through(store, { check: 'first' }),
      segments.slice(1_400).map(({ key }) => key),
    )
    const dead = await all(deadSummaries(store, INCARNATION, 1_401n))
    assert.deepEqual(
      dead.map(({ key }) => decodeSummaryKey(key)?.firstSegment),
      [1n],
    )
  })

  test('twins and losers are chosen among as without summaries', async () => {
    const { store, segments } = await archiveOf(2_200)
    await store.putIfAbsent(segmentOf(7n).key, bodyOf('x'))
    await store.putIfAbsent(segmentOf(1_500n, 1).key, bodyOf('x'))
    const committed = (segment: bigint) => segments[Number(segment) - 1]?.parsed.contentDigest ?? null
    const choose = (listed: AsyncIterable<ListedSegment>) => all(chooseSegments(listed, committed))
    assert.deepEqual(
      await choose(listSummarized(store, INCARNATION)),
      await choose(listSegments(store, INCARNATION)),
    )
  })

  test('an archive that does not answer is an error, never an end', async () => {
    const { store } = await archiveOf(2_200)
    for (const failing of ['listFrom', 'readRange', 'head'] as const) {
      const broken = counting(store, failing, 2)
      const error = new StratalogError('archive_unavailable', 'away', { retryable: true })
      broken.fail(error)
      await assert.rejects(through(broken.store, { check: 'first' }), error, failing)
    }
  })

  test('one is written once; a damaged one is written again', async () => {
    const { store, segments } = await archiveOf(1_000)
    assert.equal(await putSummary(store, segments, random), false)
    assert.equal(await isSummarized(store, INCARNATION, 1n), true)
    assert.equal(await isSummarized(store, INCARNATION, 1_001n), false)
    const [key = ''] = summariesIn(store)
    const bytes = Buffer.from(present(store.objects.get(key), 'summary'))
    bytes.writeUInt8(bytes.readUInt8(5_000) ^ 1, 5_000)
    store.objects.set(key, bytes)
    assert.equal(await isSummarized(store, INCARNATION, 1n), false)
    assert.equal(await putSummary(store, segments, random), true)
    assert.equal(summariesIn(store).length, 2)
  })

  test('keys of summaries are no keys of segments and sort between controls and them', () => {
    const key = encodeSummaryKey({ incarnation: INCARNATION, firstSegment: 1_001n, attempt: '0'.repeat(13) })
    assert.equal(decodeSegmentKey(key), null)
    assert.deepEqual([1n, 1_000n, 1_001n, 2_000n].map(summaryStart), [1n, 1n, 1_001n, 1_001n])
    for (const bad of [key.slice(0, -1), `${key}x`, key.replace('/m', '/n'), key.replace('v9-', 'va-')])
      assert.equal(decodeSummaryKey(bad), null, bad)
  })
})

/** Counts calls of one method, and lets the later ones fail. */
function counting(
  store: MemoryArchive,
  name: 'listFrom' | 'readRange' | 'head',
  failFrom = 1,
): { store: MemoryArchive; calls: () => number; fail: (error: Error) => void } {
  let calls = 0
  let failure: Error | null = null
  const proxy = new Proxy(store, {
    get: (target, property) => {
      const value: unknown = Reflect.get(target, property)
      if (typeof value !== 'function') return value
      if (property !== name) return value.bind(target)
      return (...args: unknown[]) => {
        calls += 1
        if (failure !== null && calls >= failFrom) return Promise.reject(failure)
        return value.apply(target, args)
      }
    },
  })
  return {
    store: proxy,
    calls: () => calls,
    fail: (error) => {
      failure = error
    },
  }
}
