import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { Dlsn } from '../../src/model/dlsn.js'
import { isStratalogError } from '../../src/model/errors.js'
import { parsePosition } from '../../src/model/position.js'
import { checkStreamName, STREAM_NAME_BYTES_MAX } from '../../src/model/stream-name.js'

const INT64_MAX = 2n ** 63n - 1n
const isPosition = (error: unknown) => isStratalogError(error, 'position_invalid')
const int64 = fc.bigInt({ min: 0n, max: INT64_MAX })
const dlsn = fc.tuple(int64, int64, int64).map(([segment, entry, slot]) => new Dlsn(segment, entry, slot))

describe('stream names', () => {
  test('ordinary names and paths are taken as they are', () => {
    for (const name of [
      'a',
      'audit/login',
      'Ä',
      'a.b',
      'a-b_c:d',
      '日本/語',
      'x'.repeat(255),
      'a..b',
      '\u{1f600}',
    ]) {
      assert.equal(checkStreamName(name), name)
    }
  })

  test('each wrong name is refused with its reason', () => {
    const wrong: readonly (readonly [string, RegExp])[] = [
      ['', /empty/],
      ['..', /starts with "\."/],
      ['.', /starts with "\."/],
      ['a/../b', /starts with "\."/],
      ['a/.hidden', /starts with "\."/],
      ['/', /"\/" divides/],
      ['/a', /"\/" divides/],
      ['a/', /"\/" divides/],
      ['a//b', /"\/" divides/],
      ['a\u0000b', /control/],
      ['a\nb', /control/],
      ['a\u0085b', /control/],
      ['a\u2028b', /control/],
      ['a b', /white space/],
      ['a\u00a0b', /white space/],
      ['a\\b', /not allowed/],
      ['<default>', /not allowed/],
      ['a\ud800', /surrogate/],
      ['x'.repeat(256), /256 bytes, 255/],
      ['ä'.repeat(150), /300 bytes/],
    ]
    for (const [name, why] of wrong) {
      assert.throws(
        () => checkStreamName(name),
        (error) => isStratalogError(error, 'stream_name_invalid') && why.test(error.message),
        JSON.stringify(name),
      )
    }
    assert.throws(
      () => checkStreamName(7 as unknown as string),
      (error) => isStratalogError(error, 'stream_name_invalid'),
    )
  })

  test('two spellings of one name are never two names', () => {
    const composed = 'caf\u00e9'
    const decomposed = 'cafe\u0301'
    assert.equal(checkStreamName(composed), composed)
    assert.throws(
      () => checkStreamName(decomposed),
      (error) => isStratalogError(error, 'stream_name_invalid') && error.message.includes(composed),
    )
  })

  test('whatever passes is short, in normal form and stays within its directory', () => {
    const property = fc.property(fc.string({ unit: 'binary', maxLength: 12 }), (name) => {
      try {
        checkStreamName(name)
      } catch (error) {
        assert.ok(isStratalogError(error, 'stream_name_invalid'))
        return
      }
      assert.ok(Buffer.byteLength(name) <= STREAM_NAME_BYTES_MAX && name.length > 0)
      assert.equal(name.normalize('NFC'), name)
      assert.ok(name.split('/').every((part) => part !== '' && !part.startsWith('.')))
      assert.equal(Buffer.from(name, 'utf8').toString('utf8'), name)
    })
    fc.assert(property, { numRuns: 500 })
  })
})

describe('DLSNs', () => {
  test('text reads back, in JSON too', () => {
    const property = fc.property(dlsn, (at) => {
      assert.ok(Dlsn.parse(`${at}`).equals(at))
      assert.equal(JSON.stringify({ at }), `{"at":"${at}"}`)
    })
    fc.assert(property)
    assert.equal(`${Dlsn.first}`, '1:0:0')
  })

  test('anything else is refused', () => {
    const wrong = [
      '',
      '1',
      '1:2',
      '1:2:3:4',
      '1:2:',
      ':2:3',
      '-1:0:0',
      '1:0x10:0',
      ' 1:2:3',
      '1:2:3 ',
      '1.0:2:3',
      'a:b:c',
    ]
    for (const text of [...wrong, '9223372036854775808:0:0', '0:0:99999999999999999999', '1:2:3\n']) {
      assert.throws(() => Dlsn.parse(text), isPosition, text)
    }
    assert.ok(Dlsn.parse(`${INT64_MAX}:${INT64_MAX}:${INT64_MAX}`).slot === INT64_MAX)
  })

  test('are ordered by segment, entry, slot, as numbers', () => {
    const sorted = ['1:0:0', '1:0:1', '1:0:10', '1:2:0', '1:10:0', '2:0:0', '10:0:0'].map(Dlsn.parse)
    const shuffled = [...sorted].reverse().sort((a, b) => a.compare(b))
    assert.deepEqual(shuffled.map(String), sorted.map(String))
    const property = fc.property(dlsn, dlsn, (a, b) => {
      assert.equal(Math.sign(a.compare(b)), -Math.sign(b.compare(a)))
      assert.equal(a.compare(b) === 0, a.equals(b))
      assert.ok(a.compare(a.next()) < 0)
    })
    fc.assert(property)
  })
})

describe('positions', () => {
  const now = Date.UTC(2025, 0, 31)
  test('each form is read', () => {
    assert.equal(parsePosition('earliest', now), 'earliest')
    assert.equal(parsePosition('latest', now), 'latest')
    assert.deepEqual(parsePosition('12:340:7', now), new Dlsn(12n, 340n, 7n))
    assert.deepEqual(parsePosition('txid:0', now), { txid: 0n })
    assert.deepEqual(parsePosition(`txid:${INT64_MAX}`, now), { txid: INT64_MAX })
    assert.deepEqual(parsePosition('seq:17', now), { sequenceId: 17n })
    assert.deepEqual(parsePosition('2025-01-31', now), { time: now })
    assert.deepEqual(parsePosition('-1h', now), { time: now - 3_600_000 })
    assert.deepEqual(parsePosition('now', now), { time: now })
  })

  test('anything else is position_invalid, and says what to write', () => {
    const wrong = [
      '',
      'Earliest',
      '12',
      '12:340',
      'txid:',
      'txid:-1',
      'txid:0x10',
      'seq:1.5',
      '2025-02-30',
      '-5x',
      'newest',
    ]
    for (const text of wrong) assert.throws(() => parsePosition(text, now), isPosition, text)
    assert.throws(() => parsePosition('newest', now), /txid:N/)
    for (const text of ['txid:9223372036854775808', 'seq:9999999999999999999', '1:1:9223372036854775808']) {
      assert.throws(() => parsePosition(text, now), isPosition, text)
    }
  })
})
