import assert from 'node:assert/strict'
import { createDecipheriv } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { describe, test } from 'node:test'
import { contentDigest } from '../../archive/restore-digest.js'
import { crc32c } from '../../src/format/checksum.js'
import {
  dataKeyContext,
  ENVELOPE_BYTES,
  ObjectCipher,
  openSecret,
  sealSecret,
  WRAPPED_KEY_BYTES,
} from '../../src/format/envelope.js'
import { type BlockRow, decodeBlock } from '../../src/format/segment-block.js'
import {
  decodeObjectEnvelope,
  decodeObjectHeader,
  decodeObjectIndex,
  FOOTER_BYTES,
  type ObjectAccess,
} from '../../src/format/segment-object.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import { GOLDEN_KEYS, goldenSealing, goldenSegment } from '../helpers/segment-object-golden.js'

const bytes = readFileSync(join(process.cwd(), 'test', 'golden', 'segment-object-v2.bin'))
const indexBytes = FOOTER_BYTES + bytes.readUInt32BE(bytes.length - FOOTER_BYTES + 8)
const { place, streamKeyId } = goldenSealing()
const corrupt = (error: unknown): boolean => isStratalogError(error, 'corrupt')

/** What opens the object, from its own envelope, as a reader finds it. */
function access(object: Buffer = bytes): ObjectAccess {
  const envelope = present(decodeObjectEnvelope(object.subarray(-indexBytes), 'golden'), 'envelope')
  const context = dataKeyContext(place, envelope.streamKeyId)
  const dataKey = openSecret(GOLDEN_KEYS.wrapping, envelope.wrappedKey, context)
  return { envelope, cipher: new ObjectCipher(present(dataKey, 'data key'), place) }
}

function blockOf(object: Buffer, row: BlockRow): Buffer {
  return object.subarray(row.offset, row.offset + row.blockBytes)
}

describe('the golden object of version 2', () => {
  const { meta, payloads } = goldenSegment()

  test('reads as what it was made of, and its digest is keyed', () => {
    const keys = access()
    assert.equal(keys.envelope.streamKeyId, streamKeyId)
    const { rows, footer } = decodeObjectIndex(bytes.subarray(-indexBytes), bytes.length, 'golden', keys)
    const header = decodeObjectHeader(bytes, 'golden', keys)
    assert.deepEqual({ ...header, ledgerMetadata: null }, { ...meta, ledgerMetadata: null })
    const digest = contentDigest(GOLDEN_KEYS.digest)
    for (const row of rows) digest.raw(decodeBlock(blockOf(bytes, row), row, 'golden', keys))
    const again = contentDigest(GOLDEN_KEYS.digest)
    payloads.forEach((payload, i) => {
      again.entry(BigInt(i), payload)
    })
    assert.equal(footer.contentDigest, '3c45e080e3eca75c28ab5639d2dfba6ca448f0148ff705b4ec893565c2abc5c9')
    assert.equal(digest.hex(), footer.contentDigest)
    assert.equal(again.hex(), footer.contentDigest)
  })

  test('tells nothing of its records', () => {
    assert.equal(bytes.includes('record 1 '), false)
    assert.ok(payloads.some((payload) => Buffer.from(payload).includes('record 1 ')))
  })

  test('is what docs/formats/segment-object.md says, decrypted with nothing but a cipher', () => {
    const tail = bytes.subarray(-indexBytes)
    const envelope = tail.subarray(tail.length - FOOTER_BYTES - ENVELOPE_BYTES, -FOOTER_BYTES)
    const open = (key: Uint8Array, nonce: Uint8Array, bound: Buffer, sealed: Buffer): Buffer => {
      const cipher = createDecipheriv('aes-256-gcm', key, nonce)
      cipher.setAAD(bound)
      cipher.setAuthTag(sealed.subarray(-16))
      return Buffer.concat([cipher.update(sealed.subarray(0, -16)), cipher.final()])
    }
    const named = `${place.incarnation} 7 ${place.attempt} ${place.keyId}`
    const wrapped = envelope.subarray(16, 76)
    assert.equal(wrapped.length, WRAPPED_KEY_BYTES)
    const context = Buffer.from(`stratalog-object 2 ${named} k3v01`)
    const dataKey = open(GOLDEN_KEYS.wrapping, wrapped.subarray(0, 12), context, wrapped.subarray(12))
    assert.deepEqual(
      [...dataKey],
      Array.from({ length: 32 }, (_, i) => i),
    )
    const footer = tail.subarray(-FOOTER_BYTES)
    const rows = open(
      dataKey,
      Buffer.from('000000020000000000000000', 'hex'),
      Buffer.concat([
        Buffer.from(named),
        envelope.subarray(0, 108),
        footer.subarray(0, 12),
        footer.subarray(16, 84),
      ]),
      Buffer.concat([tail.subarray(0, -FOOTER_BYTES - ENVELOPE_BYTES), envelope.subarray(108)]),
    )
    assert.equal(rows.length % 56, 0)
    const [offset, size] = [Number(rows.readBigUInt64BE(40)), rows.readUInt32BE(48)]
    const block = bytes.subarray(offset, offset + size)
    const data = open(
      dataKey,
      Buffer.from('000000010000000000000000', 'hex'),
      Buffer.concat([Buffer.from(named), block.subarray(0, 28)]),
      block.subarray(32),
    )
    assert.equal(data.length, size - 32 - 16)
  })

  test('every byte that is flipped is found, checksums made right or not (invariant 9)', () => {
    const keys = access()
    const { rows } = decodeObjectIndex(bytes.subarray(-indexBytes), bytes.length, 'golden', keys)
    const readWhole = (object: Buffer) => {
      const own = access(object)
      const index = decodeObjectIndex(object.subarray(-indexBytes), object.length, 'flipped', own)
      decodeObjectHeader(object, 'flipped', own)
      for (const row of index.rows) decodeBlock(blockOf(object, row), row, 'flipped', own)
    }
    const named = (error: unknown): boolean =>
      isStratalogError(error, 'corrupt') ||
      isStratalogError(error, 'version_unsupported') ||
      // The wrapped data key itself: `access` above finds that it opens no more.
      /data key/.test(String(error))
    readWhole(bytes)
    const first = present(rows[0], 'row')
    const places = [
      ...Array.from({ length: first.offset }, (_, at) => at),
      ...rows.flatMap(({ offset, blockBytes }) => [
        ...Array.from({ length: 40 }, (_, i) => offset + i),
        ...Array.from({ length: 20 }, (_, i) => offset + blockBytes - 1 - i),
      ]),
      ...Array.from({ length: indexBytes }, (_, i) => bytes.length - indexBytes + i),
    ]
    for (const at of places) {
      const flipped = Buffer.from(bytes)
      flipped.writeUInt8(flipped.readUInt8(at) ^ 0x04, at)
      assert.throws(() => readWhole(flipped), named, `byte ${at}`)
      // Who tampers on purpose makes the checksums right: only the tags tell then.
      const right = withRightChecksums(flipped, rows)
      if (!right.equals(bytes)) assert.throws(() => readWhole(right), named, `byte ${at}, checksums right`)
    }
  })

  test('a block of another place in the object, or of another object, does not open', () => {
    const keys = access()
    const { rows } = decodeObjectIndex(bytes.subarray(-indexBytes), bytes.length, 'golden', keys)
    const [one, other] = [present(rows[0], 'row'), present(rows[1], 'row')]
    const moved = { ...one, offset: other.offset, blockBytes: other.blockBytes, rawBytes: other.rawBytes }
    assert.throws(() => decodeBlock(blockOf(bytes, other), moved, 'swapped', keys), corrupt)
    for (const patch of [{ segment: 8n }, { attempt: '0g1h2i3j4k5l7' }, { incarnation: 'f'.repeat(32) }]) {
      const dataKey = new Uint8Array(32).map((_, i) => i)
      const elsewhere = { ...keys, cipher: new ObjectCipher(dataKey, { ...place, ...patch }) }
      assert.throws(() => decodeBlock(blockOf(bytes, one), one, 'elsewhere', elsewhere), corrupt)
      assert.throws(
        () => decodeObjectIndex(bytes.subarray(-indexBytes), bytes.length, 'elsewhere', elsewhere),
        corrupt,
      )
    }
  })

  test('without its key it is not read as if it were in clear, nor the other way round', () => {
    assert.throws(() => decodeObjectIndex(bytes.subarray(-indexBytes), bytes.length, 'golden'), corrupt)
    const clear = readFileSync(join(process.cwd(), 'test', 'golden', 'segment-object-v1.bin'))
    const clearBytes = FOOTER_BYTES + clear.readUInt32BE(clear.length - FOOTER_BYTES + 8)
    assert.throws(
      () => decodeObjectIndex(clear.subarray(-clearBytes), clear.length, 'clear', access()),
      corrupt,
    )
    assert.throws(() => decodeObjectHeader(clear, 'clear', access()), corrupt)
    assert.throws(() => decodeObjectHeader(bytes, 'golden', null), corrupt)
  })
})

function withRightChecksums(object: Buffer, rows: readonly BlockRow[]): Buffer {
  const fixed = Buffer.from(object)
  const headerBytes = present(rows[0], 'row').offset
  fixed.writeUInt32BE(crc32c(fixed.subarray(0, headerBytes - 4)), headerBytes - 4)
  for (const { offset, blockBytes } of rows) {
    const block = fixed.subarray(offset, offset + blockBytes)
    block.writeUInt32BE(crc32c(block.subarray(32), crc32c(block.subarray(0, 28))), 28)
  }
  const footer = fixed.subarray(-FOOTER_BYTES)
  footer.writeUInt32BE(crc32c(fixed.subarray(-indexBytes, -FOOTER_BYTES)), 12)
  footer.writeUInt32BE(crc32c(footer.subarray(0, 84)), 84)
  return fixed
}

describe('a wrapped secret', () => {
  const key = new Uint8Array(32).fill(1)
  const secret = new Uint8Array(32).fill(2)
  const nonce = new Uint8Array(12).fill(3)

  test('opens with its key for its context, and with nothing else', () => {
    const wrapped = sealSecret(key, nonce, secret, 'here')
    assert.deepEqual(Buffer.from(openSecret(key, wrapped, 'here') ?? []), Buffer.from(secret))
    assert.equal(openSecret(key, wrapped, 'there'), null)
    assert.equal(openSecret(new Uint8Array(32), wrapped, 'here'), null)
    for (let at = 0; at < wrapped.length; at++) {
      const flipped = Uint8Array.from(wrapped)
      flipped[at] = (flipped[at] ?? 0) ^ 1
      assert.equal(openSecret(key, flipped, 'here'), null, `byte ${at}`)
      assert.equal(openSecret(key, wrapped.subarray(0, at), 'here'), null, `cut at ${at}`)
    }
  })

  test('is AES-256-GCM: the vector of NIST with a key of zeros', () => {
    const zeros = new Uint8Array(32)
    const wrapped = sealSecret(zeros, new Uint8Array(12), new Uint8Array(16), '')
    const expected = 'cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919'
    assert.equal(Buffer.from(wrapped).toString('hex'), '00'.repeat(12) + expected)
  })
})
