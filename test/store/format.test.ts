import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { crc32c } from '../../src/format/checksum.js'
import { isStratalogError } from '../../src/model/errors.js'
import { EntryIndex, type EntryPlace, findRow } from '../../src/store/local/entry-index.js'
import {
  decodeFrameHeader,
  decodeGroupHeader,
  encodeFrameHeader,
  encodeGroupHeader,
  FRAME_HEADER_BYTES,
  frameSeed,
  GROUP_HEADER_BYTES,
  lacOf,
  PAGE_BYTES,
  pageEnd,
} from '../../src/store/local/frame.js'
import { type FrameToWrite, frameBytes, GroupEncoder } from '../../src/store/local/group.js'
import { decodeSuperblock, encodeSuperblock, type Superblock } from '../../src/store/local/superblock.js'

const STORE_ID = '00112233445566778899aabbccddeeff'
const GROUP = {
  generation: 7n,
  groupNumber: 3,
  cleanEnd: false,
  groupBytes: 5_000,
  durableOffset: 4_711,
  previousGeneration: 6n,
  previousOffset: 123_456,
}

function flipped(bytes: Buffer, bit: number): Buffer {
  const copy = Buffer.from(bytes)
  copy[bit >> 3] = (copy[bit >> 3] ?? 0) ^ (1 << (bit & 7))
  return copy
}

describe('frames', () => {
  const frame = {
    kind: 'entry',
    bodyBytes: 77,
    bodyCrc32c: 0xfedcba98,
    ledgerId: 2n ** 63n - 1n,
    entryId: 41n,
    bornGeneration: 5n,
  } as const
  const seed = frameSeed(STORE_ID, 7n)
  const bytes = Buffer.alloc(FRAME_HEADER_BYTES + 10)
  encodeFrameHeader(bytes, 10, seed, frame)
  const alone = bytes.subarray(10)

  test('a header reads back', () => {
    assert.deepEqual(decodeFrameHeader(bytes, 10, seed), frame)
  })
  test('no header parses in another generation or another store', () => {
    assert.equal(decodeFrameHeader(alone, 0, frameSeed(STORE_ID, 8n)), null)
    assert.equal(decodeFrameHeader(alone, 0, frameSeed('f'.repeat(32), 7n)), null)
  })
  test('seeds of generations differ', () => {
    const seeds = new Set(Array.from({ length: 100_000 }, (_, at) => frameSeed(STORE_ID, BigInt(at))))
    assert.equal(seeds.size, 100_000)
  })
  test('every flipped bit of a header is found', () => {
    for (let bit = 0; bit < FRAME_HEADER_BYTES * 8; bit += 1) {
      assert.equal(decodeFrameHeader(flipped(alone, bit), 0, seed), null, `bit ${bit}`)
    }
  })
  test('zeros and short ends are no header', () => {
    assert.equal(decodeFrameHeader(Buffer.alloc(100), 0, seed), null)
    for (let end = 0; end < FRAME_HEADER_BYTES; end += 1) {
      assert.equal(decodeFrameHeader(alone.subarray(0, end), 0, seed), null)
    }
  })
  test('a kind of a later version is seen as valid and unknown', () => {
    const later = Buffer.from(alone)
    later[4] = 200
    later.writeUInt32BE(crc32c(later.subarray(4, FRAME_HEADER_BYTES), seed), 0)
    assert.equal(decodeFrameHeader(later, 0, seed)?.kind, null)
  })
  test('a group header reads back, and every flipped bit of it is found', () => {
    const group = Buffer.alloc(GROUP_HEADER_BYTES)
    for (const cleanEnd of [true, false]) {
      encodeGroupHeader(group, 0, seed, { ...GROUP, cleanEnd })
      assert.deepEqual(decodeGroupHeader(group, 0, seed, 7n), { ...GROUP, cleanEnd })
    }
    assert.equal(decodeGroupHeader(group, 0, seed, 8n), null)
    for (let bit = 0; bit < GROUP_HEADER_BYTES * 8; bit += 1) {
      assert.equal(decodeGroupHeader(flipped(group, bit), 0, seed, 7n), null, `bit ${bit}`)
    }
  })
  test('a packaged entry says its LAC, a short one says none', () => {
    const entry = Buffer.alloc(24)
    entry.writeBigInt64BE(-1n, 16)
    assert.equal(lacOf(entry), -1n)
    entry.writeBigInt64BE(2n ** 40n, 16)
    assert.equal(lacOf(entry), 2n ** 40n)
    assert.equal(lacOf(Buffer.alloc(23)), -1n)
  })
})

describe('groups', () => {
  const sizes = fc.array(fc.oneof(fc.integer({ min: 0, max: 40 }), fc.integer({ min: 2_000, max: 9_000 })), {
    maxLength: 60,
  })
  test('consist of whole pages in which every frame stands where it is said to', () => {
    const encoder = new GroupEncoder()
    const seed = frameSeed(STORE_ID, 7n)
    fc.assert(
      fc.property(sizes, (bodies) => {
        const frames: FrameToWrite[] = bodies.map((size, at) => {
          const body = Buffer.alloc(size, at)
          return {
            kind: 'entry',
            ledgerId: 1n,
            entryId: BigInt(at),
            bornGeneration: null,
            body,
            bodyCrc32c: crc32c(body),
          }
        })
        const { chunks, groupBytes, frameOffsets } = encoder.encode(frames, seed, GROUP)
        const bytes = Buffer.concat(chunks)
        assert.equal(bytes.byteLength, pageEnd(groupBytes))
        assert.equal(bytes.byteLength % PAGE_BYTES, 0)
        assert.equal(
          groupBytes,
          GROUP_HEADER_BYTES + frames.reduce((sum, frame) => sum + frameBytes(frame), 0),
        )
        assert.deepEqual(decodeGroupHeader(bytes, 0, seed, 7n), { ...GROUP, groupBytes })
        for (const [at, frame] of frames.entries()) {
          const offset = frameOffsets[at] ?? -1
          const header = decodeFrameHeader(bytes, offset, seed)
          assert.equal(header?.entryId, frame.entryId)
          assert.equal(header?.bornGeneration, 7n)
          const body = bytes.subarray(offset + FRAME_HEADER_BYTES, offset + frameBytes(frame))
          assert.deepEqual(body, Buffer.from(frame.body))
        }
      }),
      { numRuns: 50 },
    )
  })
})

describe('superblock', () => {
  const superblock: Superblock = {
    storeId: STORE_ID,
    logId: 'f'.repeat(32),
    createdMs: 1_700_000_000_000,
    generation: 12n,
    files: [3n, 4n, 5n, 9n, 12n],
    rewritten: [
      { generation: 5n, rank: 2n },
      { generation: 9n, rank: 4n },
    ],
    ends: [{ generation: 3n, end: 65_536 }],
    uncleanGeneration: 5n,
    corruptGeneration: 0n,
  }
  const code = (bytes: Uint8Array): string => {
    try {
      decodeSuperblock(bytes, 'superblock')
      return 'none'
    } catch (error) {
      return isStratalogError(error) ? error.code : String(error)
    }
  }
  const sealed = (line: string): Buffer =>
    Buffer.from(
      `${line}\ncrc32c ${crc32c(Buffer.from(`${line}\n`))
        .toString(16)
        .padStart(8, '0')}\n`,
    )

  test('reads back', () => {
    assert.deepEqual(decodeSuperblock(encodeSuperblock(superblock), 'x'), superblock)
    const empty = { ...superblock, generation: 0n, files: [], rewritten: [], ends: [] }
    assert.deepEqual(decodeSuperblock(encodeSuperblock(empty), 'x'), empty)
  })
  test('any set of files reads back', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.bigInt({ min: 1n, max: 300n })), (files) => {
        const sorted = files.sort((a, b) => (a < b ? -1 : 1))
        const written = { ...superblock, generation: 300n, files: sorted, rewritten: [], ends: [] }
        assert.deepEqual(decodeSuperblock(encodeSuperblock(written), 'x'), written)
      }),
    )
  })
  test('every flipped bit and every truncation is damage', () => {
    const bytes = Buffer.from(encodeSuperblock(superblock))
    for (let bit = 0; bit < bytes.byteLength * 8; bit += 1)
      assert.equal(code(flipped(bytes, bit)), 'corrupt', `${bit}`)
    for (let end = 0; end < bytes.byteLength; end += 1) assert.equal(code(bytes.subarray(0, end)), 'corrupt')
    assert.equal(code(Buffer.concat([bytes, bytes])), 'corrupt')
  })
  test('a later format is named, not called damage', () => {
    assert.equal(code(sealed('{"format":3}')), 'version_unsupported')
  })
  test('fields that do not fit are damage', () => {
    const good = JSON.parse(Buffer.from(encodeSuperblock(superblock)).toString().split('\n')[0] ?? '')
    const changes = [{ storeId: 'x' }, { files: ['5-3'] }, { files: ['1-2', '2-3'] }, { files: ['1-13'] }]
    const more = [{ generation: '-1' }, { generation: 12 }, { files: null }, { files: ['1-9999999999'] }]
    for (const change of [...changes, ...more]) {
      assert.equal(code(sealed(JSON.stringify({ ...good, ...change }))), 'corrupt', JSON.stringify(change))
    }
    assert.equal(code(sealed('null')), 'corrupt')
    assert.equal(code(sealed('{')), 'corrupt')
    assert.equal(code(sealed('{}')), 'corrupt')
  })
})

describe('entry index', () => {
  const operation = fc.oneof(
    { weight: 20, arbitrary: fc.record({ set: fc.integer({ min: 0, max: 200 }), bytes: fc.nat(1_000) }) },
    { weight: 1, arbitrary: fc.record({ removeAbove: fc.integer({ min: -1, max: 200 }) }) },
  )
  test('agrees with a map, whatever comes in whatever order', () => {
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 300 }), (operations) => {
        const index = new EntryIndex()
        const model = new Map<number, EntryPlace>()
        for (const one of operations) {
          if ('set' in one) {
            const place = { offset: one.bytes * 3, bodyBytes: one.bytes }
            assert.deepEqual(index.set(one.set, place), model.get(one.set) ?? null)
            model.set(one.set, place)
          } else {
            const removed: EntryPlace[] = []
            index.removeAbove(one.removeAbove, (place) => removed.push(place))
            const gone = [...model.keys()].filter((id) => id > one.removeAbove)
            assert.equal(removed.length, gone.length)
            for (const id of gone) model.delete(id)
          }
        }
        const ids = [...model.keys()].sort((a, b) => a - b)
        assert.equal(index.count, ids.length)
        assert.equal(index.lastId, ids.at(-1) ?? -1)
        for (const [at, id] of ids.entries()) {
          assert.equal(index.idAt(at), id)
          assert.equal(findRow(index, id), at)
          assert.deepEqual(index.placeAt(at), model.get(id))
        }
        assert.equal(findRow(index, 201), -1)
      }),
    )
  })
})
