import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { isStratalogError } from '../../src/model/errors.js'
import {
  formatBytes,
  formatDuration,
  formatTime,
  parseBytes,
  parseDuration,
  parseInteger,
  parseTime,
} from '../../src/model/units.js'

const isInvalid = (error: unknown) => isStratalogError(error, 'invalid_argument')
const NOW = Date.UTC(2025, 5, 1, 12)

describe('sizes', () => {
  test('powers of 1000 and of 1024 are told apart', () => {
    const expected: readonly (readonly [string | number, number])[] = [
      ['5GB', 5e9],
      ['5GiB', 5 * 2 ** 30],
      ['64 MiB', 64 * 2 ** 20],
      ['1.5 GiB', 1.5 * 2 ** 30],
      ['1KB', 1_000],
      ['1KiB', 1_024],
      ['2TB', 2e12],
      ['2TiB', 2 * 2 ** 40],
      ['7B', 7],
      ['12', 12],
      [' 12 ', 12],
      [0, 0],
      [4096, 4096],
    ]
    for (const [text, bytes] of expected) assert.equal(parseBytes(text), bytes, String(text))
  })

  test('anything else is refused with a hint', () => {
    const wrong = [
      '',
      ' ',
      '-5GB',
      '5gb',
      '5kB',
      '5 G',
      '5Gi',
      '0x10',
      '1e3',
      '1,5GB',
      '.5GB',
      '5.GB',
      '5 GB x',
      'GB',
      '٥GB',
    ]
    for (const text of wrong) assert.throws(() => parseBytes(text), isInvalid, text)
    for (const number of [-1, Number.NaN, Number.POSITIVE_INFINITY, 1e21]) {
      assert.throws(() => parseBytes(number), isInvalid, String(number))
    }
    assert.throws(() => parseBytes('5gb'), /64 MiB/)
    assert.throws(() => parseBytes('9223372036854775808'), /too large/)
    assert.throws(() => parseBytes('9007199254740992'), /too large/)
    assert.equal(parseBytes('9007199254740991'), Number.MAX_SAFE_INTEGER)
  })

  test('are shown in the unit that fits', () => {
    const expected: readonly (readonly [number, string])[] = [
      [0, '0 B'],
      [1023, '1023 B'],
      [1024, '1.0 KiB'],
      [1_048_575, '1.0 MiB'],
      [102_390, '100 KiB'],
      [1.9 * 2 ** 30, '1.9 GiB'],
      [500 * 2 ** 20, '500 MiB'],
      [3 * 2 ** 50, '3.0 PiB'],
      [2 ** 63, '8192 PiB'],
    ]
    for (const [bytes, text] of expected) assert.equal(formatBytes(bytes), text)
  })
})

describe('durations', () => {
  test('every unit, short and long', () => {
    const expected: readonly (readonly [string | number, number])[] = [
      ['90s', 90_000],
      ['1h', 3_600_000],
      ['7 years', 7 * 31_536_000_000],
      ['1 year', 31_536_000_000],
      ['250ms', 250],
      ['1.5h', 5_400_000],
      ['5m', 300_000],
      ['5 min', 300_000],
      ['2 days', 172_800_000],
      ['1w', 604_800_000],
      ['0', 0],
      [1500, 1_500],
    ]
    for (const [text, ms] of expected) assert.equal(parseDuration(text), ms, String(text))
  })

  test('anything else is refused with a hint', () => {
    for (const text of ['', '-1h', '1H', '1 month', '0x10', '1e3', 'h', '1h30m', '1 h h', 'constructor']) {
      assert.throws(() => parseDuration(text), isInvalid, text)
    }
    assert.throws(() => parseDuration('1 month'), /90s or 7 years/)
    assert.throws(() => parseDuration('999999999 years'), /too long/)
    assert.throws(() => parseDuration(-1), isInvalid)
  })

  test('are shown in two units at most', () => {
    const expected: readonly (readonly [number, string])[] = [
      [0, '0ms'],
      [12.4, '12ms'],
      [999.7, '1.0s'],
      [4_000, '4.0s'],
      [9_999, '9s'],
      [23 * 60_000, '23m'],
      [90_000, '1m30s'],
      [33_840_000, '9h24m'],
      [3_600_000, '1h'],
      [86_400_000 * 400, '1y35d'],
      [Number.POSITIVE_INFINITY, 'Infinity'],
    ]
    for (const [ms, text] of expected) assert.equal(formatDuration(ms), text)
  })
})

describe('whole numbers', () => {
  const max = 2n ** 63n - 1n

  test('are decimal and within bounds', () => {
    assert.equal(parseInteger('0', 'n', 0n, max), 0n)
    assert.equal(parseInteger('9223372036854775807', 'n', 0n, max), max)
    assert.equal(parseInteger('-3', 'n', -5n, 5n), -3n)
    for (const text of ['', ' 1', '1 ', '0x10', '1e3', '1.5', '1n', '+1', '--1', '1_000', '9'.repeat(21)]) {
      assert.throws(() => parseInteger(text, 'a port', 0n, max), isInvalid, text)
    }
    for (const text of ['-1', '9223372036854775808']) {
      assert.throws(() => parseInteger(text, 'a port', 0n, max), /is not a port: it must lie between 0 and/)
    }
  })

  test('every 64-bit number comes back', () => {
    const property = fc.property(fc.bigInt({ min: -(2n ** 63n), max }), (value) => {
      assert.equal(parseInteger(String(value), 'n', -(2n ** 63n), max), value)
    })
    fc.assert(property)
  })
})

describe('times', () => {
  test('ISO dates and times are UTC unless they name a zone', () => {
    const expected: readonly (readonly [string, string])[] = [
      ['2025-01-01', '2025-01-01T00:00:00Z'],
      ['2025-01-01Z', '2025-01-01T00:00:00Z'],
      ['2025-01-01T10:00', '2025-01-01T10:00:00Z'],
      ['2025-01-01 10:00', '2025-01-01T10:00:00Z'],
      ['2025-01-01T10:00:07.123Z', '2025-01-01T10:00:07.123Z'],
      ['2025-01-01T10:00+02:00', '2025-01-01T08:00:00Z'],
      ['2025-01-01T10:00-0330', '2025-01-01T13:30:00Z'],
      ['2024-02-29', '2024-02-29T00:00:00Z'],
    ]
    for (const [text, time] of expected)
      assert.equal(formatTime(parseTime(text, NOW) ?? Number.NaN), time, text)
  })

  test('now and ages count from now', () => {
    assert.equal(parseTime('now', NOW), NOW)
    assert.equal(parseTime('-1h', NOW), NOW - 3_600_000)
    assert.equal(parseTime('-7 days', NOW), NOW - 7 * 86_400_000)
  })

  test('anything else is null', () => {
    const wrong = [
      ...[
        '',
        'yesterday',
        '1h',
        '-h',
        '-5x',
        '-1 month',
        '2025',
        '2025-1-1',
        '2025-13-01',
        '2025-00-10',
        '2025-02-29',
      ],
      ...['2025-02-30', '2025-06-31', '2025-01-32', '2025-01-01T25:00', '2025-01-01T10', '2025-01-01T10:60'],
      ...['2025-01-01T10:00+99:99', '20250101', '2025-01-01T10:00 UTC', '-999999999 years'],
    ]
    for (const text of wrong) assert.equal(parseTime(text, NOW), null, text)
  })

  test('what is shown reads back', () => {
    const property = fc.property(fc.integer({ min: 0, max: 253_402_300_799_999 }), (ms) => {
      assert.equal(parseTime(formatTime(ms), NOW), ms)
    })
    fc.assert(property)
    assert.equal(formatTime(Number.NaN), 'NaN')
    assert.equal(formatTime(1e300), '1e+300')
  })
})
