import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { rmSync } from 'node:fs'
import { after, before, describe, test } from 'node:test'
import { chooseSegments, listSegments, segmentRowFromKey } from '../../archive/listing.js'
import { encodeSegmentKey, segmentPrefix } from '../../src/format/archive-names.js'
import { decodeFrontier } from '../../src/metadata/distributedlog/frontier.js'
import { createCluster } from '../../src/metadata/zookeeper/cluster.js'
import { ZkLedgerMetadataStore } from '../../src/metadata/zookeeper/ledger-metadata.js'
import { present } from '../../src/model/assert.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { NOT_CLOSED, type SegmentRow } from '../../src/model/segment.js'
import type { ArchivedKey } from '../../src/ports/archive-store.js'
import type { SegmentPatch } from '../../src/ports/segment-index.js'
import { sampleMetadata } from '../contract/ledger-metadata.js'
import { openRow, sealing, writableStream } from '../contract/segment-rows.js'
import { countingRandom, MemoryArchive } from '../helpers/archive.js'
import { NAMESPACE, type Process, World } from './helpers.js'

/** The history of one stream: so many segments are what is promised. */
const SEGMENTS = 100_000
/** How many of them go through all of their life here; the others were there before. `TEST_FULL=1`: every one. */
const LIVED = process.env.TEST_FULL === '1' ? SEGMENTS : 300
/** Sizes are compared from the moment on in which a stream has everything that it ever has. */
const SETTLED = 10
const LOOKS = 300
const OBJECT = { key: 'key', sizeBytes: 700, indexBytes: 60 }

const digestOf = (segment: bigint) => createHash('sha256').update(`${segment}`).digest('hex')

/** An archive that has nothing but names, in order: a hundred thousand of them are not sorted at every page. */
class Names extends MemoryArchive {
  readonly incarnation: string
  readonly keys: string[] = []

  constructor(incarnation: string) {
    super()
    this.incarnation = incarnation
  }

  /** The name of the next segment, as the copy that `sealing` tells of has it. */
  add(): { readonly contentDigest: string; readonly object: NonNullable<SegmentRow['object']> } {
    const segment = BigInt(this.keys.length + 1)
    const { state: _, sealedMs, lengthBytes: __, ...sealed } = sealing(segment)
    const contentDigest = digestOf(segment)
    const key = encodeSegmentKey({
      firstTxid: 0n,
      startSequenceId: 0n,
      lastTxid: 0n,
      recordCount: 0n,
      lastEntryId: 0n,
      lastSlot: 0n,
      ...sealed,
      incarnation: this.incarnation,
      segment,
      completionMs: sealedMs ?? 0,
      indexBytes: 60,
      contentDigest,
      attempt: '0'.repeat(13),
    })
    this.keys.push(key)
    return { contentDigest, object: { key, sizeBytes: 700, indexBytes: 60 } }
  }

  override async listFrom(prefix: string, after: string, limit: number): Promise<ArchivedKey[]> {
    assert.equal(prefix, segmentPrefix(this.incarnation))
    let [low, high] = [0, this.keys.length]
    while (low < high) {
      const middle = (low + high) >> 1
      if ((this.keys[middle] ?? '') > after) high = middle
      else low = middle + 1
    }
    return this.keys.slice(low, low + limit).map((key) => ({ key, sizeBytes: 700 }))
  }
}

describe(`a stream with ${SEGMENTS} archived segments`, () => {
  let world: World
  let names: Names
  let first: Process & { file: string }
  let incarnation = ''

  const open = (file?: string) => {
    const coldRows = async function* (of: string, from: bigint): AsyncGenerator<SegmentRow> {
      if (of !== names.incarnation) return
      for await (const found of chooseSegments(listSegments(names, of, from)))
        if (found.kind === 'chosen') yield segmentRowFromKey(found.chosen)
    }
    return world.process({ coldRows }, file)
  }
  const sizes = () => {
    const nodes = [...world.server.dump().values()]
    return { nodes: nodes.length, bytes: nodes.reduce((sum, { data }) => sum + data.length, 0) }
  }

  before(async () => {
    world = new World()
    await world.bind()
    const zk = await world.server.open()
    await createCluster(zk, '/ledgers', '5cc77fa7-87f4-46dd-83e6-7d324500c8d4')
    await zk.close()
    names = new Names('')
    first = await open()
    // What was there before these lives came from an archive, as in a stream that was restored.
    const parent = LIVED === SEGMENTS ? null : { incarnation: 'ef'.repeat(16), fork: null }
    ;({ incarnation } = await writableStream(first.index, 's1', { txidMode: 'custom', parent }))
    names = new Names(incarnation)
    let newest: SegmentPatch = {}
    for (let left = SEGMENTS - LIVED; left > 0; left -= 1) newest = names.add()
    if (LIVED === SEGMENTS) return
    const segment = BigInt(SEGMENTS - LIVED)
    await first.index.adoptSegment({
      ...openRow(incarnation, segment),
      ...NOT_CLOSED,
      ...sealing(segment),
      ...newest,
      state: 'cold',
      ledgerId: null,
      archivedMs: 1,
      evictedMs: 2,
    })
  })
  after(() => world.remove())

  test('takes as much of ZooKeeper as one with ten: no node and no byte more for a segment that is cold', async () => {
    const { index, zk } = first
    const ledgers = new ZkLedgerMetadataStore(zk, { ledgersPath: '/ledgers', random: countingRandom() })
    let settled = sizes()
    for (let lived = 1; lived <= LIVED; lived += 1) {
      const segment = BigInt(SEGMENTS - LIVED + lived)
      const ledgerId = await ledgers.allocateId()
      await ledgers.create(ledgerId, sampleMetadata())
      const begun = await index.beginSegment(
        openRow(incarnation, segment, { ledgerId, firstTxid: segment * 100n }),
      )
      const sealed = await index.updateSegment(begun, sealing(segment))
      const copy = names.add()
      const archived = await index.updateSegment(sealed, { state: 'archived', archivedMs: 1, ...copy })
      const cold = await index.updateSegment(archived, { state: 'cold', evictedMs: 2 })
      await ledgers.delete(ledgerId, 0)
      await index.updateSegment(cold, { ledgerId: null })
      if (lived === SETTLED) settled = sizes()
    }
    const now = sizes()
    assert.equal(now.nodes, settled.nodes)
    // Numbers get longer: those of segments, txids and entries in a dozen places, by five digits at most.
    const digits = 5 * 12
    assert.ok(Math.abs(now.bytes - settled.bytes) <= digits, `${settled.bytes} bytes became ${now.bytes}`)
  })

  test('has every row again from names when the cache is gone, finds each at once, and opens at once with it', async (context) => {
    await first.stop()
    const { bytes } = sizes()
    for (const part of ['', '-wal', '-shm']) rmSync(`${first.file}${part}`, { force: true })
    const made = await timed(() => open())
    const { index } = made.value
    assert.equal((await index.totals(incarnation)).segments, SEGMENTS)
    const times: number[] = []
    for (let look = 0; look < LOOKS; look += 1) {
      const segment = BigInt(((look * 7_919) % SEGMENTS) + 1)
      const ways = [
        () => index.segment(incarnation, segment),
        () => index.segmentForTxid(incarnation, segment * 100n + 3n),
        () => index.segmentForSequenceId(incarnation, (segment - 1n) * 10n + 4n),
        () => index.segmentForTime(incarnation, Number(segment) * 1_000),
      ]
      const found = await timed(() => present(ways[look % ways.length], 'a way')())
      assert.equal(found.value?.segment, segment)
      assert.equal(found.value?.state, 'cold')
      assert.equal(found.value?.contentDigest, digestOf(segment))
      times.push(found.ms)
    }
    const begun = await timed(() => index.listSegments(incarnation, 1n, 1_000))
    assert.equal(begun.value.at(-1)?.segment, 1_000n)
    const { file } = made.value
    await made.value.stop()
    const opened = await timed(() => open(file))
    assert.equal((await opened.value.index.newestSegment(incarnation))?.segment, BigInt(SEGMENTS))
    // Nothing of it is written to ZooKeeper.
    assert.equal(sizes().bytes, bytes)
    // Far above what they take (in milliseconds: 3,000, 0.1 and 10), far below what a walk through all rows would.
    const [slowest = 0] = times.sort((a, b) => b - a).slice(LOOKS / 20)
    const took = `made ${made.ms}, look-up ${slowest}, opened ${opened.ms} ms`
    assert.ok(made.ms < 60_000 && slowest < 25 && opened.ms < 2_000, took)
    context.diagnostic(took)
  })
})

test('gaps and segments that were trimmed leave nothing behind in the frontier, and hold nothing up', async () => {
  const world = new World()
  try {
    await world.bind()
    const { index } = await world.process()
    const { incarnation } = await writableStream(index, 's1')
    const size = () => [...world.server.dump().values()].reduce((sum, { data }) => sum + data.length, 0)
    const path = `/stratalog/v1/${encodeURIComponent(NAMESPACE)}/s1`
    const frontier = () => decodeFrontier(present(world.server.dump().get(path), path).data, path)
    let before = 0
    for (let segment = 1n; segment <= 60n; segment += 1n) {
      const begun = await index.beginSegment(openRow(incarnation, segment, { firstTxid: segment * 100n }))
      const sealed = await index.updateSegment(begun, sealing(segment))
      const odd = segment % 2n === 1n
      // Every other one is dropped; the ones between are trimmed without ever having been copied.
      const gone = odd ? await index.updateSegment(sealed, { state: 'gap', gapReason: 'dropped' }) : sealed
      if (odd) await index.updateSegment(gone, { ledgerId: null })
      if (segment % 10n !== 0n) continue
      const stream = present(await index.stream(incarnation), 'stream')
      const trimmedBelow = new Dlsn(segment, 0n, 0n)
      await index.updateStream(incarnation, stream.version, { trimmedBelow })
      for (const row of await index.listSegments(incarnation, 0n, 99)) {
        if (row.segment >= segment) break
        const trimmed = await index.updateSegment(row, { state: 'trimmed' })
        await index.removeSegment(
          row.ledgerId === null ? trimmed : await index.updateSegment(trimmed, { ledgerId: null }),
        )
      }
      assert.deepEqual(frontier().gaps, [])
      if (segment === 10n) before = size()
    }
    assert.ok(size() - before < 40, `${before} bytes became ${size()}`)
    const newest = present(await index.newestSegment(incarnation), 'newest')
    await index.updateSegment(newest, {
      state: 'archived',
      archivedMs: 1,
      contentDigest: digestOf(60n),
      object: OBJECT,
    })
    // What is archived above what was trimmed counts (invariant 5).
    assert.equal(frontier().archivedThrough, 60n)
  } finally {
    await world.remove()
  }
})

async function timed<T>(work: () => Promise<T>): Promise<{ readonly value: T; readonly ms: number }> {
  const start = performance.now()
  const value = await work()
  return { value, ms: performance.now() - start }
}
