import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { BlockCache } from '../../archive/block-cache.js'
import { openSegmentObject } from '../../archive/segment-reader.js'
import { SegmentTally } from '../../archive/segment-tally.js'
import { verifySegmentObject } from '../../archive/segment-verify.js'
import {
  type ArchivedEntry,
  type PlannedObject,
  planSegmentObject,
  segmentObjectBody,
} from '../../archive/segment-writer.js'
import { decodeLedgerMetadata, encodeLedgerMetadata } from '../../src/format/ledger-metadata.js'
import type { BlockRow } from '../../src/format/segment-block.js'
import { encodeObjectIndex, type SegmentObjectFooter } from '../../src/format/segment-object.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { ArchivedObject } from '../../src/model/segment.js'
import {
  bytesOf,
  keyOf,
  MemoryArchive,
  nameOf,
  type SampleOptions,
  sampleSegment,
  sourceOf,
} from '../helpers/archive.js'

interface Stored {
  readonly store: MemoryArchive
  readonly planned: PlannedObject
  readonly payloads: Uint8Array[]
  readonly object: ArchivedObject
}

async function stored(options: SampleOptions): Promise<Stored> {
  const { meta, payloads } = sampleSegment(options)
  const planned = await planSegmentObject(meta, sourceOf(payloads))
  const store = new MemoryArchive()
  const key = nameOf(planned)
  await store.putIfAbsent(key, segmentObjectBody(planned, sourceOf(payloads, 7)))
  return {
    store,
    planned,
    payloads,
    object: { key, sizeBytes: planned.sizeBytes, indexBytes: planned.indexBytes },
  }
}

const code = (expected: string) => (error: unknown) => isStratalogError(error) && error.code === expected
const damage = (error: unknown): boolean => code('corrupt')(error) || code('version_unsupported')(error)
const many: SampleOptions = { entries: 60, recordsPerEntry: 4, payloadBytes: 20_000, controlEvery: 5 }

async function readAll(
  from: Awaited<ReturnType<typeof openSegmentObject>>,
  bytesMax = 200_000,
): Promise<Buffer[]> {
  const all: ArchivedEntry[] = []
  for (let next = 0n; ; next = present(all.at(-1), 'entry').entryId + 1n) {
    const got = await from.readEntries(next, bytesMax)
    if (got.length === 0) return all.map(({ payload }) => Buffer.from(payload))
    all.push(...got)
  }
}

describe('writing', () => {
  test('the size is exact before a byte is stored, and each pass gives the same bytes', async () => {
    const { planned, payloads } = await stored(many)
    const body = segmentObjectBody(planned, sourceOf(payloads, 3))
    const first = await bytesOf(body)
    assert.equal(first.length, body.sizeBytes)
    assert.ok(first.equals(await bytesOf(body)))
    assert.ok(planned.rows.length > 2, `${planned.rows.length} blocks`)
  })

  test('bytes that do not compress are stored as they are', async () => {
    const { planned, store, object } = await stored({ ...many, incompressible: true })
    assert.ok(planned.rows.every((row) => row.blockBytes === row.rawBytes + 32))
    await verifySegmentObject(store, object.key, keyOf(planned))
  })

  test('entries that are not the segment of the metadata are corrupt', async () => {
    const { meta, payloads } = sampleSegment({ entries: 5, recordsPerEntry: 2, payloadBytes: 10 })
    const patches = [
      { recordCount: meta.recordCount + 1n },
      { lengthBytes: meta.lengthBytes - 1 },
      { lastEntryId: meta.lastEntryId - 1n },
      { lastSlot: meta.lastSlot + 1n },
      { lastTxid: meta.lastTxid - 1n },
    ]
    for (const patch of patches) {
      await assert.rejects(planSegmentObject({ ...meta, ...patch }, sourceOf(payloads)), code('corrupt'))
    }
    for (const wrong of [
      [],
      payloads.slice(1),
      payloads.slice(0, -1),
      [Buffer.from('junk'), ...payloads.slice(1)],
    ]) {
      await assert.rejects(planSegmentObject(meta, sourceOf(wrong)), code('corrupt'))
    }
    const hole = {
      async *open() {
        yield [
          { entryId: 0n, payload: present(payloads[0], 'payload') },
          { entryId: 2n, payload: present(payloads[2], 'payload') },
        ]
      },
    }
    await assert.rejects(planSegmentObject(meta, hole), code('corrupt'))
  })

  test('a segment may end with control records, and after a recovery by Java its last record may be one', async () => {
    const { meta, payloads } = sampleSegment({
      entries: 6,
      recordsPerEntry: 2,
      payloadBytes: 10,
      controlEvery: 6,
    })
    assert.equal(meta.lastEntryId, 4n)
    assert.equal((await planSegmentObject(meta, sourceOf(payloads))).footer.entryCount, 6)
    const recovered = { ...meta, lastEntryId: 5n, lastSlot: 0n }
    assert.equal((await planSegmentObject(recovered, sourceOf(payloads))).footer.entryCount, 6)
  })

  test('a block without user records has the values of the next one, the last ones those of the end', () => {
    // One block per entry: user, control, user, control; two records in each user entry.
    const { meta, payloads } = sampleSegment({
      entries: 4,
      recordsPerEntry: 2,
      payloadBytes: 10,
      controlEvery: 2,
    })
    const tally = new SegmentTally(meta, 'sample')
    payloads.forEach((payload, i) => {
      tally.add(BigInt(i), payload)
      tally.cut()
    })
    assert.deepEqual(tally.finish(), [
      { firstSequenceId: 500n, firstTxid: 1000n, lastTxid: 1010n },
      { firstSequenceId: 502n, firstTxid: 1020n, lastTxid: 1010n },
      { firstSequenceId: 502n, firstTxid: 1020n, lastTxid: 1030n },
      { firstSequenceId: 504n, firstTxid: 1030n, lastTxid: 1030n },
    ])
  })

  test('a source that changes between the passes is never stored', async () => {
    const { planned, payloads } = await stored({ entries: 3, recordsPerEntry: 1, payloadBytes: 10 })
    const changed = [...payloads]
    const last = Buffer.from(present(changed.pop(), 'payload'))
    last.writeUInt8(0xff, last.length - 1)
    for (const other of [[...changed, last], changed, [...payloads, last]]) {
      await assert.rejects(bytesOf(segmentObjectBody(planned, sourceOf(other))), /stratalog bug/)
    }
  })

  test('the password of a ledger does not reach the archive', async () => {
    const { meta, payloads } = sampleSegment({ entries: 1, recordsPerEntry: 1, payloadBytes: 10 })
    const secret = { ...decodeLedgerMetadata(meta.ledgerMetadata), password: Buffer.from('secret') }
    const leaking = { ...meta, ledgerMetadata: encodeLedgerMetadata(secret) }
    await assert.rejects(planSegmentObject(leaking, sourceOf(payloads)), /password/)
  })
})

describe('reading', () => {
  test('every entry comes back, in few requests', async () => {
    for (const incompressible of [false, true]) {
      const { store, object, payloads, planned } = await stored({ ...many, entries: 200, incompressible })
      store.requests = 0
      const reader = await openSegmentObject(store, object)
      assert.equal(store.requests, 1)
      assert.equal(reader.lastEntryId, 199n)
      assert.deepEqual(
        await readAll(reader),
        payloads.map((payload) => Buffer.from(payload)),
      )
      assert.ok(
        store.requests < planned.rows.length,
        `${store.requests} requests for ${planned.rows.length} blocks`,
      )
      assert.deepEqual((await reader.header()).streamName, 'audit/login')
    }
  })

  test('from any entry, with any limit, at least one entry', async () => {
    const { store, object, payloads } = await stored(many)
    const reader = await openSegmentObject(store, object)
    const query = fc.record({ first: fc.bigInt(0n, 70n), bytesMax: fc.nat(400_000) })
    await fc.assert(
      fc.asyncProperty(query, async ({ first, bytesMax }) => {
        const got = await reader.readEntries(first, bytesMax)
        assert.equal(got.length === 0, first >= 60n)
        got.forEach(({ entryId, payload }, i) => {
          assert.equal(entryId, first + BigInt(i))
          assert.ok(Buffer.from(payload).equals(present(payloads[Number(entryId)], 'payload')))
        })
        const bytes = got.reduce((sum, { payload }) => sum + payload.length, 0)
        assert.ok(got.length <= 1 || bytes <= bytesMax)
      }),
    )
  })

  test('finds entries by txid and by sequenceId', async () => {
    const { store, object, planned } = await stored(many)
    const reader = await openSegmentObject(store, object)
    // Four records in each entry but every fifth; position p has txid 990 + 10 p and sequenceId 499 + p.
    const entryOf = (position: number): bigint =>
      BigInt(Math.floor((position - 1) / 16) * 5 + Math.floor(((position - 1) % 16) / 4))
    const count = Number(planned.meta.recordCount)
    for (let position = 1; position <= count; position += 3) {
      const txid = BigInt(990 + 10 * position)
      assert.equal(await reader.entryForTxid(txid), entryOf(position))
      assert.equal(await reader.entryForTxid(txid - 9n), entryOf(position))
      assert.equal(await reader.entryForSequenceId(BigInt(499 + position)), entryOf(position))
    }
    assert.equal(await reader.entryForTxid(0n), 0n)
    assert.equal(await reader.entryForSequenceId(0n), 0n)
    assert.equal(await reader.entryForTxid(planned.meta.lastTxid + 1n), null)
    assert.equal(await reader.entryForSequenceId(BigInt(500 + count)), null)
  })

  test('many readers of a block make one request, and one that gives up does not end it for the others', async () => {
    const { store, object } = await stored(many)
    const cache = new BlockCache()
    const readers = await Promise.all([1, 2, 3].map(() => openSegmentObject(store, object, cache)))
    store.requests = 0
    const abort = new AbortController()
    const [first, ...others] = readers.map((reader, i) =>
      reader.readEntries(30n, 1, i === 0 ? abort.signal : undefined),
    )
    abort.abort(new Error('enough'))
    await assert.rejects(present(first, 'read'), /enough/)
    for (const other of others) assert.equal((await other)[0]?.entryId, 30n)
    assert.equal(store.requests, 1)
  })

  test('the cache keeps its size, and what failed to load is asked for again', async () => {
    const { store, object, payloads } = await stored({ ...many, entries: 200, incompressible: true })
    const cache = new BlockCache(3 * 2 ** 20)
    const reader = await openSegmentObject(store, object, cache)
    assert.equal((await readAll(reader)).length, payloads.length)
    assert.ok(cache.sizeBytes <= cache.bytesMax, `${cache.sizeBytes} bytes`)
    const bytes = present(store.objects.get(object.key), 'object')
    store.objects.delete(object.key)
    await assert.rejects(reader.readEntries(0n, 1), code('object_not_found'))
    store.objects.set(object.key, bytes)
    assert.equal((await reader.readEntries(0n, 1)).length, 1)
  })

  test('a damaged block is never handed out', async () => {
    const { store, object, planned } = await stored(many)
    const row = present(planned.rows[1], 'row')
    const bytes = present(store.objects.get(object.key), 'object')
    bytes.writeUInt8(bytes.readUInt8(row.offset + 100) ^ 1, row.offset + 100)
    const reader = await openSegmentObject(store, object)
    await assert.rejects(reader.readEntries(row.firstEntryId, 1), code('corrupt'))
    await assert.rejects(readAll(reader), code('corrupt'))
    assert.equal((await reader.readEntries(0n, 1)).length, 1)
  })

  test('an index size that cannot be is refused before a request', async () => {
    const { store, object } = await stored({ entries: 1, recordsPerEntry: 1, payloadBytes: 1 })
    store.requests = 0
    for (const indexBytes of [0, 96, 97, -56, object.sizeBytes, 2 ** 40]) {
      await assert.rejects(openSegmentObject(store, { ...object, indexBytes }), code('corrupt'))
    }
    assert.equal(store.requests, 0)
  })
})

describe('verifying', () => {
  const small: SampleOptions = { entries: 3, recordsPerEntry: 2, payloadBytes: 30, controlEvery: 3 }

  test('passes what was written and tells its progress', async () => {
    const { store, object, planned } = await stored(many)
    const progress: number[] = []
    await verifySegmentObject(store, object.key, keyOf(planned), {
      onProgress: (bytes) => progress.push(bytes),
    })
    assert.equal(progress.at(-1), planned.sizeBytes)
  })

  test('detects any changed byte and any missing end', async () => {
    const { store, object, planned } = await stored(small)
    const whole = present(store.objects.get(object.key), 'object')
    for (let at = 0; at < whole.length; at++) {
      const flipped = Buffer.from(whole)
      flipped.writeUInt8(flipped.readUInt8(at) ^ (1 << (at % 8)), at)
      store.objects.set(object.key, flipped)
      await assert.rejects(verifySegmentObject(store, object.key, keyOf(planned)), damage, `byte ${at}`)
      store.objects.set(object.key, whole.subarray(0, at))
      await assert.rejects(verifySegmentObject(store, object.key, keyOf(planned)), damage, `${at} bytes`)
    }
    store.objects.set(object.key, Buffer.concat([whole, Buffer.alloc(1)]))
    await assert.rejects(verifySegmentObject(store, object.key, keyOf(planned)), damage)
    store.objects.set(object.key, whole)
    await verifySegmentObject(store, object.key, keyOf(planned))
  })

  test('compares each part of the name', async () => {
    const { store, object, planned } = await stored(small)
    const key = keyOf(planned)
    const patches = [
      { incarnation: 'f'.repeat(32) },
      { segment: 8n },
      { lastEntryId: 9n },
      { lastSlot: 9n },
      { recordCount: 9n },
      { startSequenceId: 9n },
      { firstTxid: 9n },
      { lastTxid: 9n },
      { completionMs: 9 },
      { contentDigest: '0'.repeat(64) },
      { indexBytes: key.indexBytes + 56 },
      { indexBytes: 0 },
      { indexBytes: 2 ** 29 },
    ]
    for (const patch of patches) {
      await assert.rejects(
        verifySegmentObject(store, object.key, { ...key, ...patch }),
        code('corrupt'),
        JSON.stringify(Object.keys(patch)),
      )
    }
    await assert.rejects(verifySegmentObject(store, 'absent', key), code('object_not_found'))
  })

  test('detects an index or a footer that was wrong when it was written', async () => {
    const { store, object, planned } = await stored(small)
    const whole = present(store.objects.get(object.key), 'object')
    const check = async (rows: readonly BlockRow[], footer: SegmentObjectFooter): Promise<void> => {
      const end = encodeObjectIndex(rows, footer)
      store.objects.set(object.key, Buffer.concat([whole.subarray(0, whole.length - end.length), end]))
      await verifySegmentObject(store, object.key, keyOf(planned))
    }
    await check(planned.rows, planned.footer)
    const columns = [{ firstSequenceId: 499n }, { firstTxid: 999n }, { lastTxid: 9999n }, { rawBytes: 9999 }]
    for (const column of columns) {
      const rows = planned.rows.map((row) => ({ ...row, ...column }))
      await assert.rejects(check(rows, planned.footer), code('corrupt'), Object.keys(column)[0])
    }
    const { footer } = planned
    const wrong = [
      { entryCount: footer.entryCount + 1 },
      { lengthBytes: footer.lengthBytes + 1 },
      { recordCount: footer.recordCount + 1n },
      { contentDigest: '0'.repeat(64) },
      { headerBytes: footer.headerBytes + 1 },
    ]
    for (const patch of wrong) {
      const found = check(planned.rows, { ...footer, ...patch })
      await assert.rejects(found, code('corrupt'), Object.keys(patch)[0])
    }
  })

  test('stops when it is told to', async () => {
    const { store, object, planned } = await stored(small)
    const signal = AbortSignal.abort(new Error('enough'))
    await assert.rejects(verifySegmentObject(store, object.key, keyOf(planned), { signal }), /enough/)
  })
})
