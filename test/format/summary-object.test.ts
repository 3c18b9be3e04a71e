import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { describe, test } from 'node:test'
import { gunzipSync } from 'node:zlib'
import { crc32c } from '../../src/format/checksum.js'
import {
  decodeSummary,
  encodeSummary,
  SUMMARY_BYTES_MAX,
  SUMMARY_SEGMENTS,
} from '../../src/format/summary-object.js'
import { isStratalogError } from '../../src/model/errors.js'
import { goldenSummary } from '../helpers/summary-golden.js'

const KEY = { incarnation: '0123456789abcdef0123456789abcdef', firstSegment: 2_001n, attempt: '0'.repeat(13) }
const named = (error: unknown): boolean =>
  isStratalogError(error, 'corrupt') || isStratalogError(error, 'version_unsupported')

describe('the golden summary of version 1', () => {
  const file = join(process.cwd(), 'test', 'golden', 'summary-object-v1.bin.gz')
  const bytes = gunzipSync(readFileSync(file))

  test('reads as what it was made of, and is made of it again', () => {
    assert.deepEqual(decodeSummary(bytes, KEY, 'golden'), goldenSummary())
    assert.deepEqual(Buffer.from(encodeSummary(goldenSummary())), bytes)
    assert.ok(bytes.length <= SUMMARY_BYTES_MAX)
  })

  test('a flipped bit anywhere, a missing or an added byte is refused (invariant 9)', () => {
    // Every byte of the header, of some rows and of the end; in between one byte in a hundred.
    for (let at = 0; at < bytes.length; at += at < 500 || at > bytes.length - 300 ? 1 : 97) {
      const bad = Buffer.from(bytes)
      bad.writeUInt8(bad.readUInt8(at) ^ (1 << (at % 8)), at)
      assert.throws(() => decodeSummary(bad, KEY, 'bad'), named, `byte ${at}`)
    }
    for (const bad of [bytes.subarray(0, -1), Buffer.concat([bytes, Buffer.alloc(1)]), Buffer.alloc(0)])
      assert.throws(() => decodeSummary(bad, KEY, 'bad'), named)
  })

  /** The same bytes with a change and a right checksum: what only a wrong writer makes. */
  function resealed(change: (summary: Buffer) => void): Buffer {
    const summary = Buffer.from(bytes)
    change(summary)
    summary.writeUInt32BE(crc32c(summary.subarray(0, -4)), summary.length - 4)
    return summary
  }

  test('one of another thousand, stream or version is refused by name', () => {
    const cases: [string, (summary: Buffer) => void][] = [
      ['version_unsupported', (summary) => summary.writeUInt32BE(2, 8)],
      ['corrupt', (summary) => summary.writeUInt32BE(SUMMARY_SEGMENTS - 1, 12)],
      ['corrupt', (summary) => summary.writeUInt8(0xff, 16)],
      ['corrupt', (summary) => summary.writeBigUInt64BE(1n, 32)],
      ['corrupt', (summary) => summary.writeUInt8(255, 40)],
      ['corrupt', (summary) => summary.write('t', 41)],
    ]
    for (const [code, change] of cases)
      assert.throws(() => decodeSummary(resealed(change), KEY, 'bad'), { code })
  })
})
