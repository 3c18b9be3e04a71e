import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { parse } from 'node-cron'
import { checkZone, parseCronHours } from '../../src/model/cron.js'
import { windowAt } from '../../tiering/window.js'

const QUARTER_MS = 15 * 60_000
const NIGHT = '0 1-5 * * *'

function at(cron: string, zone: string, now: string): { open: boolean; next: string | null } {
  const { open, nextMs } = windowAt({ cron, zone }, Date.parse(now))
  return { open, next: nextMs === null ? null : new Date(nextMs).toISOString().slice(0, 16) }
}

describe('copy windows', () => {
  test('no window is always open', () => {
    assert.deepEqual(windowAt(null, 0), { open: true, nextMs: null })
  })

  test('open in every hour that fires, from its first to its last millisecond', () => {
    assert.deepEqual(at(NIGHT, 'UTC', '2026-03-10T00:59:59.999Z'), { open: false, next: '2026-03-10T01:00' })
    assert.deepEqual(at(NIGHT, 'UTC', '2026-03-10T01:00:00Z'), { open: true, next: null })
    assert.deepEqual(at(NIGHT, 'UTC', '2026-03-10T05:59:59.999Z'), { open: true, next: null })
    assert.deepEqual(at(NIGHT, 'UTC', '2026-03-10T06:00:00Z'), { open: false, next: '2026-03-11T01:00' })
    assert.deepEqual(at('0 22-5 * * *', 'UTC', '2026-03-10T23:30:00Z'), { open: true, next: null })
    assert.deepEqual(at('0 22-5 * * *', 'UTC', '2026-03-10T06:00:00Z'), {
      open: false,
      next: '2026-03-10T22:00',
    })
    assert.deepEqual(at('0 * * * sat,sun', 'UTC', '2026-03-10T06:00:00Z'), {
      open: false,
      next: '2026-03-14T00:00',
    })
    assert.deepEqual(at('0 3 1 */3 *', 'UTC', '2026-02-01T04:00:00Z'), {
      open: false,
      next: '2026-04-01T03:00',
    })
  })

  test('zones: winter and summer, half and quarter hours, across the date line', () => {
    assert.equal(at(NIGHT, 'Europe/Berlin', '2026-01-10T12:00:00Z').next, '2026-01-11T00:00')
    assert.equal(at(NIGHT, 'Europe/Berlin', '2026-07-10T12:00:00Z').next, '2026-07-10T23:00')
    assert.equal(at(NIGHT, 'America/New_York', '2026-01-10T12:00:00Z').next, '2026-01-11T06:00')
    assert.equal(at(NIGHT, 'Asia/Kolkata', '2026-01-10T12:00:00Z').next, '2026-01-10T19:30')
    assert.equal(at(NIGHT, 'Asia/Kathmandu', '2026-01-10T12:00:00Z').next, '2026-01-10T19:15')
    assert.equal(at(NIGHT, 'Pacific/Kiritimati', '2026-01-10T12:00:00Z').open, true)
    assert.equal(at('0 0 * * mon', 'Pacific/Auckland', '2026-01-10T12:00:00Z').next, '2026-01-11T11:00')
  })

  test('an hour the clock leaves out does not open, one that comes twice opens twice', () => {
    // Berlin: 2026-03-29 02:00 becomes 03:00; 2026-10-25 03:00 becomes 02:00 again.
    assert.equal(at('0 2 * * *', 'Europe/Berlin', '2026-03-28T12:00:00Z').next, '2026-03-30T00:00')
    assert.deepEqual(at('0 2 * * *', 'Europe/Berlin', '2026-10-25T00:30:00Z'), { open: true, next: null })
    assert.deepEqual(at('0 2 * * *', 'Europe/Berlin', '2026-10-25T01:59:59Z'), { open: true, next: null })
    assert.deepEqual(at('0 2 * * *', 'Europe/Berlin', '2026-10-25T02:00:00Z'), {
      open: false,
      next: '2026-10-26T01:00',
    })
    assert.equal(at('0 3 * * *', 'Europe/Berlin', '2026-03-29T00:59:00Z').next, '2026-03-29T01:00')
    // New York: 2026-03-08 02:00 becomes 03:00; 2026-11-01 02:00 becomes 01:00 again.
    assert.equal(at('0 2 * * *', 'America/New_York', '2026-03-08T05:00:00Z').next, '2026-03-09T06:00')
    assert.equal(at('0 1 * * *', 'America/New_York', '2026-11-01T04:00:00Z').next, '2026-11-01T05:00')
    assert.equal(at('0 1 * * *', 'America/New_York', '2026-11-01T06:30:00Z').open, true)
    // Lord Howe: half an hour. 2026-10-04 02:00 becomes 02:30.
    assert.deepEqual(at('0 2 * * *', 'Australia/Lord_Howe', '2026-10-03T15:29:00Z'), {
      open: false,
      next: '2026-10-03T15:30',
    })
    assert.equal(at('0 2 * * *', 'Australia/Lord_Howe', '2026-10-03T16:00:00Z').open, false)
  })

  test('rare openings are found, fast', () => {
    const startedMs = performance.now()
    assert.equal(at('0 0 29 2 *', 'Europe/Berlin', '2025-01-01T00:00:00Z').next, '2028-02-28T23:00')
    assert.equal(at('0 0 29 2 *', 'UTC', '2096-03-01T00:00:00Z').next, '2104-02-29T00:00')
    assert.ok(performance.now() - startedMs < 10_000)
  })

  test('agrees with looking at every quarter of an hour', () => {
    const field = (max: number) =>
      fc.oneof(
        fc.constant('*'),
        fc.integer({ min: 0, max }).map(String),
        fc.tuple(fc.integer({ min: 0, max }), fc.integer({ min: 0, max })).map(([a, b]) => `${a}-${b}`),
      )
    const cron = fc
      .tuple(field(23), fc.boolean(), field(6))
      .map(([hour, byDay, weekday]) => `0 ${hour} * * ${byDay ? weekday : '*'}`)
    const zone = fc.constantFrom(
      'UTC',
      'Europe/Berlin',
      'America/New_York',
      'Asia/Kolkata',
      'Australia/Lord_Howe',
      'America/St_Johns',
      'Pacific/Chatham',
    )
    // Around the changes of the clock in all of these zones, and anywhere else.
    const changes = [
      '2026-03-08',
      '2026-03-29',
      '2026-04-04',
      '2026-09-27',
      '2026-10-03',
      '2026-10-25',
      '2026-11-01',
      '2026-06-01',
    ]
    const now = fc
      .tuple(fc.constantFrom(...changes), fc.integer({ min: -40 * 4, max: 40 * 4 }))
      .map(([day, quarters]) => Date.parse(day) + quarters * QUARTER_MS + 1)
    fc.assert(
      fc.property(cron, zone, now, (expression, name, nowMs) => {
        const window = { cron: expression, zone: name }
        const found = windowAt(window, nowMs)
        let quarterMs = Math.floor(nowMs / QUARTER_MS) * QUARTER_MS
        while (!windowAt(window, quarterMs).open) quarterMs += QUARTER_MS
        assert.equal(found.open, quarterMs <= nowMs)
        assert.equal(found.nextMs, found.open ? null : quarterMs)
      }),
      { numRuns: 60 },
    )
  })

  test('bad windows are refused', () => {
    assert.throws(() => windowAt({ cron: '0 25 * * *', zone: 'UTC' }, 0), { code: 'invalid_argument' })
    assert.throws(() => windowAt({ cron: NIGHT, zone: 'Mars/Base' }, 0), { code: 'invalid_argument' })
    assert.throws(() => checkZone(''), { code: 'invalid_argument' })
  })
})

describe('cron expressions', () => {
  test('what is refused, and why', () => {
    const cases: [string, RegExp][] = [
      ['', /five fields/],
      ['@daily', /five fields/],
      ['0 1 * *', /five fields/],
      ['0 0 1 * * *', /five fields/],
      ['30 1 * * *', /minute must be 0 or \*/],
      ['*/15 1 * * *', /minute must be 0 or \*/],
      ['60 1 * * *', /"60" does not name a minute/],
      ['0 24 * * *', /"24"/],
      ['0 5/2 * * *', /"5\/2"/],
      ['0 */0 * * *', /"\*\/0"/],
      ['0 1- * * *', /"1-"/],
      ['0 1,,2 * * *', /""/],
      ['0 22-5/2 * * *', /runs round the end/],
      ['0 -1 * * *', /"-1"/],
      ['0 1.5 * * *', /"1.5"/],
      ['0 0 0 * *', /"0" does not name a day of month/],
      ['0 0 L * *', /"L"/],
      ['0 0 * 13 *', /"13"/],
      ['0 0 * * 8', /"8"/],
      ['0 0 * * 1#2', /"1#2"/],
      ['0 0 1 * mon', /both restricted/],
      ['0 0 31 2 *', /never open/],
      ['0 0 31 4,6,9,11 *', /never open/],
    ]
    for (const [expression, pattern] of cases)
      assert.throws(() => parseCronHours(expression), pattern, expression)
  })

  test('means what the scheduler means', () => {
    const within = (min: number, max: number) => fc.integer({ min, max })
    const item = (min: number, max: number, names: string[]) =>
      fc.oneof(
        within(min, max).map(String),
        fc.constantFrom('*', '*/2', '*/5', ...names),
        fc.tuple(within(min, max), within(min, max)).map(([a, b]) => `${a}-${b}`),
        fc
          .tuple(within(min, max), within(min, max), within(1, 5))
          .map(([a, b, step]) => `${Math.min(a, b)}-${Math.max(a, b)}/${step}`),
      )
    const list = (min: number, max: number, names: string[] = []) =>
      fc.array(item(min, max, names), { minLength: 1, maxLength: 3 }).map((items) => items.join(','))
    const sorted = (values: Iterable<unknown>) => [...values].map(Number).sort((a, b) => a - b)
    const expression = fc.tuple(
      fc.constantFrom('0', '*'),
      list(0, 23),
      fc.oneof(fc.constant('*'), list(1, 28)),
      list(1, 12, ['jan', 'DEC', 'mar-may']),
      list(0, 7, ['sun', 'fri-mon', 'Sat']),
    )
    fc.assert(
      fc.property(expression, ([minute, hour, day, month, weekday]) => {
        const text = [minute, hour, day, month, day === '*' ? weekday : '*'].join(' ')
        const ours = parseCronHours(text)
        const theirs = parse(text)
        assert.deepEqual(sorted(ours.hours), sorted(new Set(theirs.hour)))
        assert.deepEqual(sorted(ours.days), sorted(new Set(theirs.dayOfMonth)))
        assert.deepEqual(sorted(ours.months), sorted(new Set(theirs.month)))
        assert.deepEqual(sorted(ours.weekdays), sorted(new Set(theirs.dayOfWeek)))
      }),
      { numRuns: 400 },
    )
  })
})
