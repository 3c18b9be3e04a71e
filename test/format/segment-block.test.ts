import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import {
  BLOCK_HEADER_BYTES,
  type BlockRow,
  decodeBlock,
  encodeBlock,
} from '../../src/format/segment-block.js'
import { seededRandom } from '../helpers/seeded-random.js'

const KIB = 1024
const MIB = 1024 * KIB
const random = seededRandom(7)

/** Text where a part is true, noise where it is not, in the order of the parts. */
function blockOf(sizeBytes: number, parts: readonly boolean[]): Buffer {
  const block = Buffer.from(Uint8Array.from({ length: sizeBytes }, () => random() * 256))
  const partBytes = Math.floor(sizeBytes / parts.length)
  parts.forEach((isText, i) => {
    if (isText) block.fill('{"flight":"LH 400","from":"FRA"}\n', i * partBytes, (i + 1) * partBytes)
  })
  return block
}

/** Whether it is stored compressed; it reads as what it was made of either way. */
function isCompressed(raw: Buffer): boolean {
  const { header, data } = encodeBlock(raw, 3n, 1)
  const again = encodeBlock(raw, 3n, 1)
  assert.deepEqual([again.header, again.data], [header, data], 'both passes make the same block')
  const bytes = Buffer.concat([header, data])
  const row: BlockRow = {
    ...{ firstEntryId: 3n, lastEntryId: 3n, firstSequenceId: 0n, firstTxid: 0n, lastTxid: 0n, offset: 0 },
    ...{ blockBytes: BLOCK_HEADER_BYTES + data.length, rawBytes: raw.length },
  }
  assert.deepEqual(Buffer.from(decodeBlock(bytes, row, 'block')), raw)
  assert.ok(data.length <= raw.length)
  return header[4] === 1
}

describe('a block of a segment object', () => {
  test('is compressed where that saves a twentieth, and stored as it is where it does not', () => {
    for (const sizeBytes of [1, 100, 40 * KIB, 256 * KIB, MIB, 5 * MIB + 1]) {
      assert.equal(isCompressed(blockOf(sizeBytes, [false])), false, `noise of ${sizeBytes} bytes`)
      if (sizeBytes > 1)
        assert.equal(isCompressed(blockOf(sizeBytes, [true])), true, `text of ${sizeBytes} bytes`)
    }
  })

  test('text a quarter from either end is enough to compress the whole', () => {
    assert.equal(isCompressed(blockOf(MIB, [false, true, false, false])), true)
    assert.equal(isCompressed(blockOf(MIB, [false, false, false, true])), true)
    assert.equal(isCompressed(blockOf(MIB, [true, false, true, false])), false, 'not seen by the pieces')
  })

  test('a small block is tried whole', () => {
    assert.equal(isCompressed(blockOf(200 * KIB, [true, false, true, false])), true)
  })
})
