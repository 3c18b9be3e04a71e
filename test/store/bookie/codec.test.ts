import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { isStratalogError } from '../../../src/model/errors.js'
import { FrameReader } from '../../../src/store/bookie/frames.js'
import { HEAD_BYTES_MAX, rareFrame, writeAddHead, writeRead } from '../../../src/store/bookie/requests.js'
import { decodeResponse } from '../../../src/store/bookie/responses.js'
import { Fields, idBytes, varintBytes, writeId, writeVarint } from '../../../src/store/bookie/varints.js'
import { framed } from '../../helpers/fake-bookie.js'

const int64 = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })
const edges = fc.constantFrom(
  -1n,
  0n,
  127n,
  128n,
  2n ** 49n - 1n,
  2n ** 49n,
  2n ** 53n,
  2n ** 56n,
  2n ** 63n - 1n,
)
const ids = fc.oneof(int64, edges)
const KEY = Buffer.alloc(20, 9)

/** The answer to an add, made by hand: transaction, ledger, entry. */
function addAnswer(txnId: number, ledgerId: bigint, entryId: bigint, status = 0): Buffer {
  const buffer = Buffer.alloc(100)
  let at = 0
  const byte = (value: number): void => {
    buffer[at] = value
    at += 1
  }
  for (const value of [0x0a, 5 + varintBytes(txnId), 0x08, 3, 0x10, 2, 0x18]) byte(value)
  at = writeVarint(buffer, at, txnId)
  byte(0x10)
  at = writeVarint(buffer, at, status)
  at = writeVarint(buffer, at, 101 * 8 + 2)
  byte(1 + varintBytes(status) + 2 + idBytes(ledgerId) + idBytes(entryId))
  byte(0x08)
  at = writeVarint(buffer, at, status)
  byte(0x10)
  at = writeId(buffer, at, ledgerId)
  byte(0x18)
  return buffer.subarray(0, writeId(buffer, at, entryId))
}

describe('the wire of bookies', () => {
  test('ids are written and read back, in as many bytes as was said', () => {
    fc.assert(
      fc.property(ids, (id) => {
        const buffer = Buffer.alloc(20)
        const end = writeId(buffer, 3, id)
        assert.equal(end - 3, idBytes(id))
        const fields = new Fields(buffer, 3, end)
        assert.equal(fields.id(), id)
        assert.equal(fields.at, end)
      }),
    )
  })

  test('the bytes in front of an add and of a read fit where they go, and the length is right', () => {
    fc.assert(
      fc.property(
        ids,
        ids,
        fc.nat({ max: 2 ** 31 }),
        fc.boolean(),
        fc.nat({ max: 5_000_000 }),
        (ledgerId, entryId, txnId, recovery, bodyBytes) => {
          const buffer = Buffer.alloc(HEAD_BYTES_MAX)
          const head = writeAddHead(buffer, 0, txnId, {
            ledgerId,
            entryId,
            masterKey: KEY,
            bodyBytes,
            recovery,
          })
          assert.ok(head <= HEAD_BYTES_MAX)
          assert.equal(buffer.readInt32BE(0), head - 4 + bodyBytes)
          const longPoll = { previousLac: entryId, timeoutMs: txnId }
          const read = { ledgerId, entryId, ...(recovery ? { fence: KEY } : { longPoll }) }
          const end = writeRead(buffer, 0, txnId, read)
          assert.ok(end <= HEAD_BYTES_MAX)
          assert.equal(buffer.readInt32BE(0), end - 4)
        },
      ),
    )
  })

  test('an answer is decoded whole; unknown fields mean nothing', () => {
    fc.assert(
      fc.property(fc.nat(), ids, ids, fc.constantFrom(0, 504), (txnId, ledgerId, entryId, status) => {
        const unknown = Buffer.from([0x98, 0x06, 0x01, 0xa2, 0x0c, 0x02, 1, 2, 0x39, 1, 2, 3, 4, 5, 6, 7, 8])
        const bytes = Buffer.concat([addAnswer(txnId, ledgerId, entryId, status), unknown.subarray(3)])
        const { operation, ...answer } = decodeResponse(bytes, 0, bytes.length)
        assert.equal(operation, 'add')
        assert.deepEqual(
          [answer.txnId, answer.ledgerId, answer.entryId, answer.status],
          [txnId, ledgerId, entryId, status],
        )
      }),
    )
  })

  test('whatever bytes come, decoding ends with an answer or with `corrupt` and reads nothing beyond them', () => {
    const mutated = fc
      .tuple(fc.nat(), ids, fc.array(fc.tuple(fc.nat(), fc.nat({ max: 255 })), { maxLength: 4 }), fc.nat())
      .map(([txnId, id, changes, cut]) => {
        const bytes = Buffer.from(addAnswer(txnId, id, id))
        for (const [at, value] of changes) bytes[at % bytes.length] = value
        return bytes.subarray(0, bytes.length - (cut % 5))
      })
    const anything = fc.oneof(
      fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
      mutated,
    )
    fc.assert(
      fc.property(anything, (bytes) => {
        // Between bytes that would be read as the rest of a number.
        const around = Buffer.concat([Buffer.alloc(8, 0x81), bytes, Buffer.alloc(8, 0x81)])
        try {
          const { operation } = decodeResponse(around, 8, 8 + bytes.length)
          assert.equal(typeof operation, 'string')
        } catch (error) {
          assert.ok(isStratalogError(error, 'corrupt'), String(error))
        }
      }),
      { numRuns: 3_000 },
    )
  })

  test('frames come out whole and in order, however their bytes are cut', () => {
    const frames = fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 12 })
    fc.assert(
      fc.property(
        frames,
        fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 8 }),
        (sent, cuts) => {
          const bytes = Buffer.concat(sent.map(framed))
          const reader = new FrameReader(300)
          const found: Buffer[] = []
          for (let at = 0, n = 0; at < bytes.length; n += 1) {
            const size = cuts[n % cuts.length] ?? 1
            // The socket fills this again: only what is a frame's own may be kept.
            const piece = Buffer.from(bytes.subarray(at, at + size))
            reader.push(piece, (buffer, from, to, own) => {
              const frame = buffer.subarray(from, to)
              found.push(own ? frame : Buffer.from(frame))
            })
            piece.fill(0xee)
            at += size
          }
          assert.deepEqual(
            found,
            sent.map((one) => Buffer.from(one)),
          )
          assert.ok(reader.between)
        },
      ),
    )
  })

  test('a length that no frame has is refused, also when it comes in pieces', () => {
    for (const length of [-1, 301, 2 ** 31 - 1]) {
      const bytes = Buffer.alloc(4)
      bytes.writeInt32BE(length)
      for (const pieces of [[bytes], [bytes.subarray(0, 1), bytes.subarray(1)]]) {
        const reader = new FrameReader(300)
        const push = (): void => {
          for (const piece of pieces) reader.push(piece, () => {})
        }
        assert.throws(push, (error) => isStratalogError(error, 'corrupt'))
      }
    }
  })

  test('START_TLS is the bytes that a bookie takes (FORMATS.md §1.6)', () => {
    const expected = Buffer.from([0, 0, 0, 11, 0x0a, 6, 8, 3, 0x10, 9, 0x18, 1, 0xd2, 6, 0])
    assert.deepEqual(rareFrame(1, { operation: 'startTls' }), expected)
  })
})
