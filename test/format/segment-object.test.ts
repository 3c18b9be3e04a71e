import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { describe, test } from 'node:test'
import { crc32c } from '../../src/format/checksum.js'
import { blockPayloadOffsets, decodeBlock } from '../../src/format/segment-block.js'
import {
  decodeObjectHeader,
  decodeObjectIndex,
  encodeObjectHeader,
  FOOTER_BYTES,
} from '../../src/format/segment-object.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import { sampleSegment } from '../helpers/archive.js'
import { goldenSegment } from '../helpers/segment-object-golden.js'

const named = (error: unknown): boolean =>
  isStratalogError(error, 'corrupt') || isStratalogError(error, 'version_unsupported')

describe('the golden object of version 1', () => {
  const bytes = readFileSync(join(process.cwd(), 'test', 'golden', 'segment-object-v1.bin'))
  const { meta, payloads } = goldenSegment()
  const indexBytes = FOOTER_BYTES + bytes.readUInt32BE(bytes.length - FOOTER_BYTES + 8)

  test('reads as what it was made of', () => {
    const { rows, footer } = decodeObjectIndex(bytes.subarray(-indexBytes), bytes.length, 'golden')
    const header = decodeObjectHeader(bytes, 'golden')
    assert.deepEqual({ ...header, ledgerMetadata: null }, { ...meta, ledgerMetadata: null })
    assert.deepEqual(Buffer.from(header.ledgerMetadata), Buffer.from(meta.ledgerMetadata))
    assert.equal(footer.entryCount, payloads.length)
    assert.equal(footer.lengthBytes, meta.lengthBytes)
    assert.equal(footer.recordCount, meta.recordCount)
    assert.equal(footer.contentDigest, 'd5e66932b217ade09cc95af49f8be70022bb9f61be9e46f9cfdf7225ccce56b7')
    const found: Buffer[] = []
    for (const row of rows) {
      const raw = decodeBlock(bytes.subarray(row.offset, row.offset + row.blockBytes), row, 'golden')
      const offsets = blockPayloadOffsets(raw, row, 'golden')
      for (let i = 0; i + 1 < offsets.length; i++) {
        found.push(Buffer.from(raw.subarray(offsets[i], present(offsets[i + 1], 'offset') - 12)))
      }
    }
    assert.deepEqual(
      found,
      payloads.map((payload) => Buffer.from(payload)),
    )
  })

  test('an object of a newer version is refused as such', () => {
    const tail = Buffer.from(bytes.subarray(-indexBytes))
    tail.writeUInt32BE(3, tail.length - 16)
    const newer = (error: unknown): boolean =>
      isStratalogError(error, 'version_unsupported') && error.found === 3
    assert.throws(() => decodeObjectIndex(tail, bytes.length, 'newer'), newer)
    const head = Buffer.from(bytes.subarray(0, 1000))
    head.writeUInt32BE(3, 8)
    assert.throws(() => decodeObjectHeader(head, 'newer'), newer)
  })

  test('a cut or changed index is named, whatever is cut or changed', () => {
    const tail = bytes.subarray(-indexBytes)
    for (let length = 0; length < tail.length; length++) {
      assert.throws(() => decodeObjectIndex(tail.subarray(tail.length - length), bytes.length, 'cut'), named)
      assert.throws(() => decodeObjectIndex(tail.subarray(0, length), bytes.length, 'cut'), named)
    }
    for (let at = 0; at < tail.length; at++) {
      const flipped = Buffer.from(tail)
      flipped.writeUInt8(flipped.readUInt8(at) ^ 0x10, at)
      assert.throws(() => decodeObjectIndex(flipped, bytes.length, 'flipped'), named, `byte ${at}`)
    }
    assert.throws(() => decodeObjectIndex(tail, bytes.length + 1, 'longer'), named)
  })

  test('a footer that lies with a right checksum takes no memory and is refused', () => {
    for (const [at, value] of [
      [8, 0xffff_ffff],
      [16, 0xffff_ffff],
      [16, 0],
      [20, 0xffff_ffff],
      [28, 0xffff_ffff],
    ] as const) {
      const tail = Buffer.from(bytes.subarray(-indexBytes))
      const footer = tail.subarray(-FOOTER_BYTES)
      footer.writeUInt32BE(value, at)
      footer.writeUInt32BE(crc32c(footer.subarray(0, 84)), 84)
      assert.throws(() => decodeObjectIndex(tail, bytes.length, 'lying'), named, `${value} at ${at}`)
    }
  })
})

describe('the header', () => {
  const { meta } = sampleSegment({ entries: 1, recordsPerEntry: 1, payloadBytes: 10 })

  test('comes back, odd names included', () => {
    for (const streamName of ['a', 'a/"b"', 'Ünïcode/💾', '\u2029'.repeat(3)]) {
      const header = decodeObjectHeader(
        encodeObjectHeader({ ...meta, streamName, lastTxid: 2n ** 63n - 1n }),
        'x',
      )
      assert.equal(header.streamName, streamName)
      assert.equal(header.lastTxid, 2n ** 63n - 1n)
    }
  })

  test('is damaged when any byte differs or is missing', () => {
    const bytes = Buffer.from(encodeObjectHeader(meta))
    for (let at = 0; at < bytes.length; at++) {
      assert.throws(() => decodeObjectHeader(bytes.subarray(0, at), 'cut'), named)
      const flipped = Buffer.from(bytes)
      flipped.writeUInt8(flipped.readUInt8(at) ^ 0x01, at)
      assert.throws(() => decodeObjectHeader(flipped, 'flipped'), named, `byte ${at}`)
    }
  })

  test('holds no value that cannot be', () => {
    const right = Buffer.from(encodeObjectHeader(meta)).toString('latin1')
    const lies: [string, string][] = [
      ['"segment":"7"', '"segment":"x"'],
      ['"segment":"7"', '"segment": 7 '],
      ['"txidMode":"custom"', '"txidMode":"costum"'],
      ['"digestType":"CRC32C"', '"digestType":"CRC32X"'],
      ['{"incarnation"', '{ incarnation"'],
    ]
    for (const [from, to] of lies) {
      assert.ok(right.includes(from), from)
      const bytes = Buffer.from(right.replace(from, to.padEnd(from.length).slice(0, from.length)), 'latin1')
      bytes.writeUInt32BE(crc32c(bytes.subarray(0, -4)), bytes.length - 4)
      assert.throws(
        () => decodeObjectHeader(bytes, 'lying'),
        (error) => isStratalogError(error, 'corrupt'),
        to,
      )
    }
  })
})
