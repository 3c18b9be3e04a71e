import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { describe, test } from 'node:test'
import { bindingOf, ownerOf, putControl, readControls, trimmedBelow } from '../../archive/control-objects.js'
import {
  type ChosenSegment,
  chooseSegments,
  type ListedSegment,
  listIncarnations,
  listSegments,
  segmentRowFromKey,
} from '../../archive/listing.js'
import { contentDigest, restoreDigest } from '../../archive/restore-digest.js'
import { planSegmentObject } from '../../archive/segment-writer.js'
import {
  attemptOf,
  encodeControlKey,
  encodeSegmentKey,
  type SegmentKey,
} from '../../src/format/archive-names.js'
import { present } from '../../src/model/assert.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { isStratalogError } from '../../src/model/errors.js'
import { checkSegmentRow } from '../../src/model/segment.js'
import {
  bodyOf,
  countingRandom,
  INCARNATION,
  keyOf,
  MemoryArchive,
  sampleSegment,
  sourceOf,
} from '../helpers/archive.js'

const random = countingRandom()
const A = 'a'.repeat(64)
const B = 'b'.repeat(64)
const code = (expected: string) => (error: unknown) => isStratalogError(error) && error.code === expected

function segmentKey(patch: Partial<SegmentKey>): SegmentKey {
  return {
    incarnation: INCARNATION,
    segment: 1n,
    lastEntryId: 9n,
    lastSlot: 2n,
    recordCount: 30n,
    startSequenceId: 0n,
    firstTxid: 1n,
    lastTxid: 99n,
    completionMs: 1_700_000_000_000,
    indexBytes: 152,
    contentDigest: A,
    attempt: attemptOf(random.bytes(8)),
    ...patch,
  }
}

async function archiveOf(...keys: string[]): Promise<MemoryArchive> {
  const store = new MemoryArchive()
  for (const key of keys) await store.putIfAbsent(key, bodyOf('x'))
  return store
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = []
  for await (const item of items) found.push(item)
  return found
}

describe('listing', () => {
  test('incarnations are found without listing their objects; foreign keys are told', async () => {
    const incarnations = ['0'.repeat(32), INCARNATION, 'f'.repeat(32)]
    const keys = incarnations.flatMap((incarnation) =>
      Array.from({ length: 50 }, (_, i) =>
        encodeSegmentKey(segmentKey({ incarnation, segment: BigInt(i + 1) })),
      ),
    )
    const foreign: string[] = []
    const store = await archiveOf(...keys, 'readme', 'zoo/animal', '_log/c', 'a')
    let requests = 0
    const counting = new Proxy(store, {
      get: (target, name) => {
        if (name === 'listFrom') requests += 1
        const value: unknown = Reflect.get(target, name)
        return typeof value === 'function' ? value.bind(target) : value
      },
    })
    assert.deepEqual(await all(listIncarnations(counting, (key) => foreign.push(key))), incarnations)
    assert.deepEqual(foreign, ['a', 'readme', 'zoo/animal'])
    assert.ok(requests <= 8, `${requests} requests`)
    assert.equal(store.objects.size, 154)
  })

  test('segments come in order over many pages, from any segment on', async () => {
    const keys = Array.from({ length: 2500 }, (_, i) =>
      encodeSegmentKey(segmentKey({ segment: BigInt(i + 1) })),
    )
    const other = encodeSegmentKey(segmentKey({ incarnation: 'f'.repeat(32) }))
    const foreign: string[] = []
    const prefix = present(keys[0], 'key').slice(0, 26)
    const store = await archiveOf(...keys, other, `${prefix}/sx`)
    const found = await all(listSegments(store, INCARNATION, 0n, (key) => foreign.push(key)))
    assert.deepEqual(
      found.map(({ key }) => key),
      keys,
    )
    assert.deepEqual(foreign, [`${prefix}/sx`])
    const later = await all(listSegments(store, INCARNATION, 2400n))
    assert.deepEqual(
      later.map(({ parsed }) => parsed.segment),
      Array.from({ length: 101 }, (_, i) => BigInt(2400 + i)),
    )
  })

  async function* listed(...keys: SegmentKey[]): AsyncIterable<ListedSegment> {
    const named = keys.map((parsed) => ({ parsed, key: encodeSegmentKey(parsed), sizeBytes: 100 }))
    yield* named.sort((a, b) => (a.key < b.key ? -1 : 1))
  }

  test('twins are one segment, the first of them chosen; other content loses or conflicts', async () => {
    const twins = [1, 2, 3].map((n) => segmentKey({ attempt: attemptOf(Buffer.alloc(8, n)) }))
    const different = segmentKey({ segment: 2n, contentDigest: B })
    const keys = [...twins, segmentKey({ segment: 2n }), different, segmentKey({ segment: 3n })]
    const plain = await all(chooseSegments(listed(...keys)))
    assert.deepEqual(
      plain.map(({ kind, segment }) => `${segment} ${kind}`),
      ['1 chosen', '2 conflict', '3 chosen'],
    )
    const [first, second] = plain as [ChosenSegment, ChosenSegment]
    assert.ok(first.kind === 'chosen' && second.kind === 'conflict')
    assert.deepEqual(first.chosen.parsed, twins[0])
    assert.equal(first.twins.length, 2)
    assert.equal(second.error.code, 'archive_conflict')
    assert.equal(second.attempts.length, 2)
    const committed = await all(chooseSegments(listed(...keys), (segment) => (segment === 2n ? B : null)))
    const chosen = committed[1]
    assert.ok(chosen?.kind === 'chosen')
    assert.equal(chosen.chosen.parsed.attempt, different.attempt)
    assert.equal(chosen.losers.length, 1)
    const gone = await all(chooseSegments(listed(...keys), () => 'c'.repeat(64)))
    assert.ok(gone.every(({ kind }) => kind === 'conflict'))
    assert.deepEqual(await all(chooseSegments(listed())), [])
  })

  test('how many objects a segment has never makes a conflict, only what is in them does', async () => {
    const attempt = (n: number) => attemptOf(Buffer.from(n.toString(16).padStart(16, '0'), 'hex'))
    const twins = Array.from({ length: 1_500 }, (_, n) => segmentKey({ attempt: attempt(n) }))
    const [one] = await all(chooseSegments(listed(...twins)))
    assert.ok(one?.kind === 'chosen')
    assert.deepEqual(one.chosen.parsed, twins[0])
    assert.deepEqual([one.twins.length, one.losers.length, one.unlisted], [999, 0, 500])
    // The first object with other content is seen behind however many equal ones, and a committed one is found.
    const other = segmentKey({ contentDigest: B })
    const [differs] = await all(chooseSegments(listed(...twins, other)))
    assert.equal(differs?.kind, 'conflict')
    const [found] = await all(chooseSegments(listed(...twins, other), () => B))
    assert.ok(found?.kind === 'chosen')
    assert.equal(found.chosen.parsed.attempt, other.attempt)
    const many = Array.from({ length: 1_200 }, (_, n) =>
      segmentKey({ contentDigest: n.toString(16).padStart(64, '0') }),
    )
    const [last] = await all(chooseSegments(listed(...many), () => many.at(-1)?.contentDigest ?? null))
    assert.ok(last?.kind === 'chosen')
    assert.equal(last.losers.length + last.unlisted, 1_199)
  })

  test('a row comes from the name alone, and exactly with the header', async () => {
    const { meta, payloads } = sampleSegment({ entries: 4, recordsPerEntry: 2, payloadBytes: 10 })
    const planned = await planSegmentObject(meta, sourceOf(payloads))
    const parsed = keyOf(planned)
    const one: ListedSegment = { key: encodeSegmentKey(parsed), sizeBytes: planned.sizeBytes, parsed }
    for (const row of [segmentRowFromKey(one), segmentRowFromKey(one, meta)]) {
      checkSegmentRow(row)
      assert.equal(row.state, 'cold')
      assert.deepEqual(row.object, {
        key: one.key,
        sizeBytes: planned.sizeBytes,
        indexBytes: planned.indexBytes,
      })
      assert.equal(row.recordCount, meta.recordCount)
      assert.equal(row.lastTxid, meta.lastTxid)
      assert.equal(row.sealedMs, meta.sealedMs)
    }
    const exact = segmentRowFromKey(one, meta)
    assert.deepEqual(
      [exact.epoch, exact.openedMs, exact.lengthBytes],
      [meta.epoch, meta.openedMs, meta.lengthBytes],
    )
  })
})

describe('control objects', () => {
  test('the highest number names, the largest trim wins, whatever the order they came in', async () => {
    const store = new MemoryArchive()
    const put = (number: bigint, kind: 'name' | 'trim' | 'hold', body: object) =>
      putControl(store, INCARNATION, number, kind, body, random)
    assert.equal(bindingOf(await readControls(store, INCARNATION)), null)
    assert.equal(trimmedBelow(await readControls(store, INCARNATION)), null)
    await put(5n, 'name', {
      name: 'new',
      txidMode: 'ms',
      parent: { incarnation: 'f'.repeat(32), fork: new Dlsn(3n, 4n, 5n) },
    })
    await put(1n, 'name', { name: 'old', txidMode: 'ms', parent: null })
    await put(2n, 'trim', { below: new Dlsn(9n, 0n, 0n) })
    await put(7n, 'trim', { below: '8:0:0' })
    await put(3n, 'hold', { until: 2n ** 60n })
    await store.putIfAbsent(
      `${encodeControlKey({ incarnation: INCARNATION, number: 1n, kind: 'end', attempt: '0'.repeat(13) })}0`,
      bodyOf('{}'),
    )
    const foreign: string[] = []
    const controls = await readControls(store, INCARNATION, (key) => foreign.push(key))
    assert.deepEqual(
      controls.map(({ number }) => number),
      [1n, 2n, 3n, 5n, 7n],
    )
    assert.equal(foreign.length, 1)
    assert.deepEqual(bindingOf(controls), {
      name: 'new',
      txidMode: 'ms',
      parent: { incarnation: 'f'.repeat(32), fork: new Dlsn(3n, 4n, 5n) },
    })
    assert.equal(`${trimmedBelow(controls)}`, '9:0:0')
    assert.equal(controls[2]?.body.until, String(2n ** 60n))
    assert.deepEqual(await readControls(store, 'f'.repeat(32)), [])
  })

  test('of one number the highest attempt wins, whatever its kind sorts like', async () => {
    const store = new MemoryArchive()
    for (const name of ['a', 'b', 'c'])
      await putControl(store, INCARNATION, 1n, 'name', { name, txidMode: 'custom', parent: null }, random)
    const controls = await readControls(store, INCARNATION)
    const last = [...controls].sort((a, b) => (a.attempt < b.attempt ? -1 : 1)).at(-1)
    assert.equal(bindingOf(controls)?.name, last?.body.name)
  })

  test('the owner of an archive', async () => {
    const store = new MemoryArchive()
    assert.equal(await ownerOf(store), null)
    await putControl(store, null, 1n, 'owner', { logId: 'first', epoch: 1n }, random)
    await putControl(store, null, 2n, 'owner', { logId: 'second', epoch: 2n ** 60n }, random)
    assert.deepEqual(await ownerOf(store), { logId: 'second', epoch: 2n ** 60n, number: 2n, mark: null })
  })

  test('what cannot be read is an error and never left out (invariant 8)', async () => {
    const key = encodeControlKey({
      incarnation: INCARNATION,
      number: 1n,
      kind: 'hold',
      attempt: '0'.repeat(13),
    })
    const bodies = [
      ['{"format":2,"kind":"hold"}', 'version_unsupported'],
      ['{"format":1,"kind":"trim"}', 'corrupt'],
      ['{"kind":"hold"}', 'corrupt'],
      ['{"format":1,', 'corrupt'],
      ['null', 'corrupt'],
      ['', 'corrupt'],
      [' '.repeat(300_000), 'corrupt'],
    ] as const
    for (const [body, expected] of bodies) {
      const store = new MemoryArchive()
      await store.putIfAbsent(key, bodyOf(body))
      await assert.rejects(readControls(store, INCARNATION), code(expected), body.slice(0, 40))
    }
    const store = new MemoryArchive()
    await putControl(store, INCARNATION, 1n, 'trim', { below: 'all' }, random)
    await putControl(store, INCARNATION, 2n, 'name', { name: '', txidMode: 'ms' }, random)
    const controls = await readControls(store, INCARNATION)
    assert.throws(() => trimmedBelow(controls), code('corrupt'))
    assert.throws(() => bindingOf(controls), code('corrupt'))
  })
})

describe('digests', () => {
  test('a content digest covers id, length and payload, in order', () => {
    const expected = createHash('sha256')
      .update(Buffer.from('0000000000000005000000026869', 'hex'))
      .digest('hex')
    const one = contentDigest(null)
    one.entry(5n, Buffer.from('hi'))
    assert.equal(one.hex(), expected)
    const raw = contentDigest(null)
    raw.raw(Buffer.from('0000000000000005', 'hex'))
    raw.raw(Buffer.from('000000026869', 'hex'))
    assert.equal(raw.hex(), expected)
  })

  test('a restore digest is that of the lines documented, whatever the order of streams', () => {
    const gaps = [{ gap: 'dropped', from: new Dlsn(13n, 0n, 0n), until: new Dlsn(14n, 0n, 0n) }]
    const one = {
      name: 'audit/login',
      segments: [{ segment: 12n, lastEntryId: 340n, contentDigest: A }],
      gaps,
    }
    const two = { name: 'zoo', segments: [], gaps: [] }
    const lines = [
      '["stratalog-restore",1]',
      '["stream","audit/login"]',
      `["segment","12","340","${A}"]`,
      '["gap","dropped","13:0:0","14:0:0"]',
      '["stream","zoo"]',
      '',
    ]
    const expected = `sha256:${createHash('sha256').update(lines.join('\n')).digest('hex')}`
    assert.equal(restoreDigest([two, one]), expected)
    assert.equal(restoreDigest([one, two]), expected)
    const others = [
      [one],
      [one, { ...two, name: 'zoo2' }],
      [{ ...one, gaps: [] }, two],
      [{ ...one, segments: [{ segment: 12n, lastEntryId: 341n, contentDigest: A }] }, two],
      [{ ...one, segments: [{ segment: 12n, lastEntryId: 340n, contentDigest: B }] }, two],
    ]
    for (const other of others) assert.notEqual(restoreDigest(other), expected)
    assert.throws(() => restoreDigest([one, one]), /twice/)
    assert.throws(
      () => restoreDigest([{ ...one, segments: [...one.segments, ...one.segments] }]),
      /out of order/,
    )
  })
})
