import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { readControls } from '../../archive/control-objects.js'
import { type ArchiveKeys, keysOf } from '../../archive/keys.js'
import { chooseSegments, listSegments } from '../../archive/listing.js'
import { openSegmentObject } from '../../archive/segment-reader.js'
import { verifySegmentObject } from '../../archive/segment-verify.js'
import { type PlannedObject, planSegmentObject, segmentObjectBody } from '../../archive/segment-writer.js'
import { currentKeyOf } from '../../archive/stream-keys.js'
import { attemptOf, decodeSegmentKey, encodeSegmentKey } from '../../src/format/archive-names.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { ArchivedObject } from '../../src/model/segment.js'
import {
  bytesOf,
  countingRandom,
  INCARNATION,
  keyOf,
  MemoryArchive,
  sampleSegment,
  sourceOf,
} from '../helpers/archive.js'
import { keysWith, MemoryRing } from '../helpers/key-ring.js'

const OTHER = 'f'.repeat(32)
const sample = sampleSegment({ entries: 60, recordsPerEntry: 4, payloadBytes: 20_000, controlEvery: 5 })
const random = countingRandom('attempts')
const code = (expected: string) => (error: unknown) => isStratalogError(error) && error.code === expected

interface Written {
  readonly planned: PlannedObject
  readonly object: ArchivedObject
}

async function write(
  store: MemoryArchive,
  keys: ArchiveKeys | null,
  key = 'one',
  incarnation = INCARNATION,
): Promise<Written> {
  const attempt = attemptOf(random.bytes(8))
  const sealing = keys === null ? null : await keys.seal(incarnation, 7n, attempt, { ring: 'ring', key })
  const meta = { ...sample.meta, incarnation }
  const planned = await planSegmentObject(meta, sourceOf(sample.payloads), undefined, undefined, sealing)
  const name = encodeSegmentKey(keyOf(planned, random))
  const body = segmentObjectBody(planned, sourceOf(sample.payloads, 7))
  // An upload that is tried again sends the same bytes: no nonce serves twice.
  assert.ok((await bytesOf(body)).equals(await bytesOf(body)))
  await store.putIfAbsent(name, body)
  return { planned, object: { key: name, sizeBytes: planned.sizeBytes, indexBytes: planned.indexBytes } }
}

async function readAll(store: MemoryArchive, object: ArchivedObject): Promise<Buffer[]> {
  const reader = await openSegmentObject(store, object)
  const all: Buffer[] = []
  while (BigInt(all.length) <= reader.lastEntryId)
    for (const { payload } of await reader.readEntries(BigInt(all.length), 100_000))
      all.push(Buffer.from(payload))
  assert.equal((await reader.header()).streamName, 'audit/login')
  return all
}

const verify = (store: MemoryArchive, { key }: ArchivedObject) =>
  verifySegmentObject(store, key, present(decodeSegmentKey(key), 'key'))
const wanted = sample.payloads.map((payload) => Buffer.from(payload))

describe('an encrypted object', () => {
  test('is verified and read with its ring, through the store alone', async () => {
    const store = new MemoryArchive()
    const ring = new MemoryRing('ring', 'one')
    const { planned, object } = await write(store, keysWith(store, ring))
    assert.ok(planned.rows.length > 2, `${planned.rows.length} blocks`)
    await verify(store, object)
    assert.deepEqual(await readAll(store, object), wanted)
    assert.equal(object.key.length, 200)
    for (const bytes of store.objects.values()) assert.equal(bytes.includes('record 1 '), false)
    // Keys that are known are not asked for again.
    const { unwraps } = ring
    await readAll(store, object)
    assert.equal(ring.unwraps, unwraps)
  })

  test('of equal content has an equal digest in its stream, another one in another stream or in clear', async () => {
    const store = new MemoryArchive()
    const keys = keysWith(store, new MemoryRing('ring', 'one'))
    const [one, again] = [await write(store, keys), await write(store, keys)]
    const elsewhere = await write(store, keys, 'one', OTHER)
    const clear = await write(store, null)
    assert.equal(one.planned.contentDigest, again.planned.contentDigest)
    assert.notEqual(one.planned.sealing?.wrappedKey, again.planned.sealing?.wrappedKey)
    const digests = [one, elsewhere, clear].map(({ planned }) => planned.contentDigest)
    assert.equal(new Set(digests).size, 3)
    // Only digests of one key are compared: no conflict, and the encrypted one is the segment.
    for await (const choice of chooseSegments(listSegments(store, INCARNATION))) {
      assert.ok(choice.kind === 'chosen')
      assert.equal(choice.chosen.parsed.contentDigest, one.planned.contentDigest)
      assert.deepEqual([choice.twins.length, choice.losers.length], [1, 1])
    }
    const forged = { ...present(decodeSegmentKey(one.object.key), 'key'), contentDigest: 'a'.repeat(64) }
    store.objects.set(encodeSegmentKey(forged), Buffer.alloc(1))
    const kinds = []
    for await (const choice of chooseSegments(listSegments(store, INCARNATION))) kinds.push(choice.kind)
    assert.deepEqual(kinds, ['conflict'])
  })

  test('without a ring, with another ring or another key is named, never taken for damaged (invariant 8)', async () => {
    const store = new MemoryArchive()
    const { object } = await write(store, keysWith(store, new MemoryRing('ring', 'one')))
    const copy = (): MemoryArchive => {
      const other = new MemoryArchive()
      for (const [key, bytes] of store.objects) other.objects.set(key, bytes)
      return other
    }
    for (const [ring, expected] of [
      [null, 'key_missing'],
      [new MemoryRing('another', 'one'), 'key_missing'],
      [new MemoryRing('ring', 'two'), 'key_missing'],
    ] as const) {
      const other = copy()
      if (ring !== null) keysWith(other, ring)
      await assert.rejects(verify(other, object), code(expected))
      await assert.rejects(readAll(other, object), code(expected))
    }
    const wrong = new MemoryRing('ring', 'one')
    wrong.secrets.set('one', new Uint8Array(32).fill(99))
    const other = copy()
    keysWith(other, wrong)
    await assert.rejects(verify(other, object), code('key_wrong'))
    // The control object of its key is gone: said so, and there again it is read.
    const control = [...other.objects.keys()].find((key) => key.includes('-key-')) ?? ''
    const body = present(other.objects.get(control), 'control object')
    other.objects.delete(control)
    const keys = keysWith(other, new MemoryRing('ring', 'one'))
    await assert.rejects(readAll(other, object), code('key_missing'))
    other.objects.set(control, body)
    assert.deepEqual(await readAll(other, object), wanted)
    assert.equal(keysOf(other), keys)
  })

  test('given to another segment, stream or attempt, in whole or in parts, does not open', async () => {
    const store = new MemoryArchive()
    const keys = keysWith(store, new MemoryRing('ring', 'one'))
    const [one, again, elsewhere] = [
      await write(store, keys),
      await write(store, keys),
      await write(store, keys, 'one', OTHER),
    ]
    const bytesAt = ({ object }: Written) => present(store.objects.get(object.key), 'object')
    const [mine, twin, theirs] = [Buffer.from(bytesAt(one)), bytesAt(again), bytesAt(elsewhere)]
    for (const [others, why] of [
      [twin, 'corrupt'],
      // Its envelope names a key that this stream has not: nobody can tell that from a control object that is gone.
      [theirs, 'key_missing'],
    ] as const) {
      store.objects.set(one.object.key, others)
      await assert.rejects(verify(store, one.object), code(why))
      await assert.rejects(readAll(store, one.object), code(why))
      const row = present(one.planned.rows[1], 'row')
      const mixed = Buffer.from(mine)
      mixed.set(others.subarray(row.offset, row.offset + row.blockBytes), row.offset)
      store.objects.set(one.object.key, mixed)
      await assert.rejects(verify(store, one.object), code('corrupt'))
      await assert.rejects(readAll(store, one.object), code('corrupt'))
    }
    // An object in clear under the name of an encrypted one, and the other way round.
    const clear = await write(store, null)
    store.objects.set(one.object.key, bytesAt(clear))
    await assert.rejects(verify(store, one.object), code('corrupt'))
    store.objects.set(clear.object.key, mine)
    await assert.rejects(verify(store, clear.object), code('corrupt'))
    store.objects.set(one.object.key, mine)
    await verify(store, one.object)
  })

  test('cut, longer or changed anywhere does not pass for verified (invariants 4 and 9)', async () => {
    const store = new MemoryArchive()
    const { object } = await write(store, keysWith(store, new MemoryRing('ring', 'one')))
    const bytes = present(store.objects.get(object.key), 'object')
    for (const sizeBytes of [0, 1, 100, bytes.length - 300, bytes.length - 1]) {
      store.objects.set(object.key, bytes.subarray(0, sizeBytes))
      await assert.rejects(verify(store, object), code('corrupt'), `${sizeBytes}`)
    }
    store.objects.set(object.key, Buffer.concat([bytes, Buffer.alloc(16)]))
    await assert.rejects(verify(store, object), code('corrupt'))
    const tail = object.indexBytes
    const places = [
      ...Array.from({ length: 60 }, (_, i) => Math.floor((i * (bytes.length - tail)) / 60)),
      // Every byte of the envelope and the footer: none of them may pass for a key that is missing.
      ...Array.from({ length: 124 + 84 }, (_, i) => bytes.length - 96 - 124 + i),
    ]
    for (const at of places.filter((at) => at < bytes.length - 16 || at >= bytes.length - 12)) {
      const flipped = Buffer.from(bytes)
      flipped.writeUInt8(flipped.readUInt8(at) ^ 0x20, at)
      store.objects.set(object.key, flipped)
      await assert.rejects(verify(store, object), code('corrupt'), `byte ${at}`)
    }
  })
})

describe('the keys of a stream', () => {
  test('are wrapped again without being changed, and need the new key alone from then on', async () => {
    const store = new MemoryArchive()
    const ring = new MemoryRing('ring', 'one', 'two')
    const keys = keysWith(store, ring)
    const { object } = await write(store, keys)
    assert.equal(await keys.rotate(INCARNATION, { ring: 'ring', key: 'two' }), 1)
    assert.equal(await keys.rotate(INCARNATION, { ring: 'ring', key: 'two' }), 0)
    const one = present(ring.secrets.get('one'), 'key')
    ring.secrets.delete('one')
    keysWith(store, ring)
    assert.deepEqual(await readAll(store, object), wanted)
    // The other way round too: old wraps stay until somebody takes the old key away.
    ring.secrets.set('one', one)
    ring.secrets.delete('two')
    keysWith(store, ring)
    assert.deepEqual(await readAll(store, object), wanted)
  })

  test('a policy that names another key of the ring wraps them by it before the next object', async () => {
    const store = new MemoryArchive()
    const ring = new MemoryRing('ring', 'one', 'two')
    const keys = keysWith(store, ring)
    const first = await write(store, keys, 'one')
    const second = await write(store, keys, 'two')
    assert.equal(first.planned.contentDigest, second.planned.contentDigest)
    const [key, ...more] = await keys.describe(INCARNATION)
    assert.deepEqual(
      key?.wraps.map(({ ringKey }) => ringKey),
      ['one', 'two'],
    )
    assert.deepEqual(more, [])
  })

  test('a new key is for new objects; digests stay, and both keys read', async () => {
    const store = new MemoryArchive()
    const keys = keysWith(store, new MemoryRing('ring', 'one'))
    const before = await write(store, keys)
    const id = await keys.renew(INCARNATION, { ring: 'ring', key: 'one' })
    const after = await write(store, keys)
    assert.equal(after.planned.sealing?.streamKeyId, id)
    assert.notEqual(before.planned.sealing?.streamKeyId, id)
    assert.equal(before.planned.contentDigest, after.planned.contentDigest)
    for (const { object } of [before, after]) assert.deepEqual(await readAll(store, object), wanted)
  })

  test('of two agents that make the first key at once one wins for both', async () => {
    const store = new MemoryArchive()
    const ring = new MemoryRing('ring', 'one')
    const [one, two] = [keysWith(store, ring), keysWith(store, ring)]
    const written = await Promise.all([write(store, one), write(store, two)])
    const after = [await write(store, keysWith(store, ring)), await write(store, keysWith(store, ring))]
    const current = present(currentKeyOf(await one.describe(INCARNATION)), 'key')
    for (const { planned } of after) assert.equal(planned.sealing?.place.keyId, current.digestId)
    for (const { object } of [...written, ...after]) assert.deepEqual(await readAll(store, object), wanted)
  })

  test('nothing is written where the ring of the policy is not to be had', async () => {
    const store = new MemoryArchive()
    const keys = keysWith(store, new MemoryRing('ring', 'one'))
    await assert.rejects(keys.seal(INCARNATION, 1n, 'a', { ring: 'none', key: 'one' }), code('key_missing'))
    await assert.rejects(keys.seal(INCARNATION, 1n, 'a', { ring: 'ring', key: 'no' }), code('key_missing'))
    await assert.rejects(
      keys.seal(INCARNATION, 1n, 'a', { ring: 'ring', key: 'No key' }),
      code('invalid_argument'),
    )
    assert.equal(store.objects.size, 0)
  })

  test('no control object has a key in it, and a damaged one is named', async () => {
    const store = new MemoryArchive()
    const ring = new MemoryRing('ring', 'one')
    const { object } = await write(store, keysWith(store, ring))
    const [control] = (await readControls(store, INCARNATION)).filter(({ kind }) => kind === 'key')
    const { key: name, body } = present(control, 'control object')
    assert.equal(Buffer.from(String(body.wrapped), 'base64').length, 64 + 28)
    for (const [field, value] of [
      ['id', 'zzzzz'],
      ['digestId', 7],
      ['ring', ''],
      ['ringKey', null],
      ['wrapped', '!'],
      ['atMs', 'now'],
    ] as const) {
      store.objects.set(name, Buffer.from(JSON.stringify({ ...body, [field]: value })))
      keysWith(store, ring)
      await assert.rejects(readAll(store, object), code('corrupt'), field)
    }
    // Wrapped for another stream: it does not open for this one.
    const theirs = await keysWith(store, ring).seal(OTHER, 1n, 'a', { ring: 'ring', key: 'one' })
    const [stolen] = (await readControls(store, OTHER)).filter(({ kind }) => kind === 'key')
    assert.ok(theirs.place.incarnation === OTHER)
    store.objects.set(
      name,
      Buffer.from(JSON.stringify({ ...body, wrapped: present(stolen, 'key').body.wrapped })),
    )
    keysWith(store, ring)
    await assert.rejects(readAll(store, object), code('key_wrong'))
  })
})
