import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { decodeProducers, encodeProducers, producersBytes } from '../../src/format/producers.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { isStratalogError } from '../../src/model/errors.js'
import { checkProducer, type ProducerState } from '../../src/model/producer.js'

const code = (expected: string) => (error: unknown) => isStratalogError(error) && error.code === expected
const int64 = fc.bigInt({ min: 0n, max: 2n ** 63n - 1n })
const state: fc.Arbitrary<ProducerState> = fc
  .record({
    id: fc
      .string({ minLength: 1, maxLength: 40, unit: 'grapheme' })
      .filter((id) => Buffer.byteLength(id) <= 128),
    sequence: int64,
    segment: int64,
    entry: int64,
    slot: fc.integer({ min: 0, max: 2 ** 20 }),
    sequenceId: int64,
    txid: int64,
    timeMs: fc.maxSafeNat(),
  })
  .map(({ segment, entry, slot, ...rest }) => ({ ...rest, dlsn: new Dlsn(segment, entry, BigInt(slot)) }))

describe('records of producers', () => {
  test('come back as they were, in as many bytes as was said', () => {
    fc.assert(
      fc.property(
        fc.constantFrom('snapshot' as const, 'changes' as const),
        fc.bigInt({ min: -1n, max: 2n ** 62n }),
        fc.array(state, { maxLength: 20 }),
        (kind, snapshotEntry, producers) => {
          const payload = encodeProducers({ kind, snapshotEntry, producers })
          const idBytes = producers.reduce((sum, { id }) => sum + Buffer.byteLength(id), 0)
          assert.equal(payload.length, producersBytes(producers.length, idBytes))
          assert.deepEqual(decodeProducers(payload), { kind, snapshotEntry, producers })
        },
      ),
    )
  })

  test('the bytes are those of docs/formats/producers.md', () => {
    const at = { dlsn: new Dlsn(2n, 3n, 4n), sequenceId: 5n, txid: 6n, timeMs: 7 }
    const payload = encodeProducers({
      kind: 'changes',
      snapshotEntry: 1n,
      producers: [{ id: 'p1', sequence: 9n, ...at }],
    })
    assert.equal(
      payload.toString('hex'),
      '534c5052' +
        '01' +
        '01' +
        '0000000000000001' +
        '0001' +
        '027031' +
        '0000000000000009' +
        '0000000000000002' +
        '0000000000000003' +
        '00000004' +
        '0000000000000005' +
        '0000000000000006' +
        '0000000000000007',
    )
  })

  test('control records of others are none; what is damaged or newer is said so', () => {
    for (const text of ['control', 'keepalive', '', 'SLP'])
      assert.equal(decodeProducers(Buffer.from(text)), null)
    const producers = [{ id: 'p', sequence: 1n, dlsn: Dlsn.first, sequenceId: 0n, txid: 0n, timeMs: 0 }]
    const good = encodeProducers({ kind: 'snapshot', snapshotEntry: 0n, producers })
    for (let length = 4; length < good.length; length += 1) {
      assert.throws(() => decodeProducers(good.subarray(0, length)), code('corrupt'), `${length} bytes`)
    }
    assert.throws(() => decodeProducers(Buffer.concat([good, Buffer.alloc(1)])), code('corrupt'))
    const newer = Buffer.from(good)
    newer.writeUInt8(2, 4)
    assert.throws(() => decodeProducers(newer), code('version_unsupported'))
    const unknown = Buffer.from(good)
    unknown.writeUInt8(9, 5)
    assert.throws(() => decodeProducers(unknown), code('version_unsupported'))
  })

  test('names and numbers of producers are checked', () => {
    assert.deepEqual(checkProducer('loader-1', 0n), { id: 'loader-1', sequence: 0n })
    for (const id of ['', 'x'.repeat(129), 'é'.repeat(65), '\uD800', 7, null])
      assert.throws(() => checkProducer(id, 0n), code('invalid_argument'))
    for (const sequence of [-1n, 2n ** 63n, 1, undefined])
      assert.throws(() => checkProducer('p', sequence), code('invalid_argument'))
  })
})
