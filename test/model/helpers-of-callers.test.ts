import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { bytes, json, text } from '../../src/model/codec.js'
import { parseCronHours } from '../../src/model/cron.js'
import { errorBody, errorFromBody } from '../../src/model/error-body.js'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import { randomIncarnation } from '../../src/model/incarnation.js'

const isInvalid = (error: unknown) => isStratalogError(error, 'invalid_argument')

describe('incarnations', () => {
  test('are 16 bytes in lower-case hexadecimal, zeros kept', () => {
    const asked: number[] = []
    const random = (fill: number) => ({
      bytes(count: number) {
        asked.push(count)
        return new Uint8Array(count).fill(fill)
      },
    })
    assert.equal(randomIncarnation(random(0x0a)), '0a'.repeat(16))
    assert.equal(randomIncarnation(random(0xff)), 'ff'.repeat(16))
    assert.deepEqual(asked, [16, 16])
  })
})

describe('codecs', () => {
  test('give back what they took', () => {
    const payload = (encoded: Uint8Array | string) =>
      typeof encoded === 'string' ? Buffer.from(encoded) : encoded
    const value = { at: 1, ä: ['\u{1f600}', null] }
    assert.deepEqual(json<typeof value>().decode(payload(json<typeof value>().encode(value))), value)
    assert.equal(text().decode(payload(text().encode('ä\u{1f600}'))), 'ä\u{1f600}')
    assert.equal(text().decode(new Uint8Array(0)), '')
    const raw = new Uint8Array([0, 255])
    assert.equal(bytes().decode(payload(bytes().encode(raw))), raw)
  })

  test('what has no JSON form is refused, and bad JSON is an error of its own', () => {
    for (const value of [undefined, () => 1, Symbol('x')])
      assert.throws(() => json<unknown>().encode(value), isInvalid)
    assert.throws(() => json().decode(Buffer.from('{')), SyntaxError)
  })
})

describe('errors as JSON bodies', () => {
  test('come back with code, message and values', () => {
    const error = new StratalogError('conflict', 'it changed', {
      retryable: true,
      expected: 2n ** 60n,
      found: { at: 1n },
    })
    const body = JSON.parse(JSON.stringify(errorBody(error)))
    const back = errorFromBody(body)
    assert.deepEqual([back.code, back.message, back.retryable], ['conflict', 'it changed', true])
    assert.deepEqual([back.expected, back.found], [String(2n ** 60n), { at: '1' }])
  })

  test('what is not ours is internal, whatever it is', () => {
    assert.deepEqual(errorBody(new Error('x')), { code: 'internal', message: 'x', retryable: false })
    assert.equal(errorBody('text').message, 'text')
    for (const body of [null, undefined, 7, 'x', {}, { code: 'of_the_future' }, { code: 5, message: 5 }]) {
      assert.equal(errorFromBody(body).code, 'internal')
    }
  })
})

describe('cron expressions of windows', () => {
  const hours = (expression: string) => [...parseCronHours(expression).hours].sort((a, b) => a - b)
  test('ranges, lists, steps, names and round the end', () => {
    assert.deepEqual(hours('0 1-5 * * *'), [1, 2, 3, 4, 5])
    assert.deepEqual(hours('* 22-1 * * *'), [0, 1, 22, 23])
    assert.deepEqual(hours('0 1,3,20-23/2 * * *'), [1, 3, 20, 22])
    assert.equal(hours('0 * * * *').length, 24)
    assert.deepEqual([...parseCronHours('0 0 * jan-MAR mon,7').weekdays].sort(), [0, 1])
    assert.deepEqual([...parseCronHours('0 0 * jan-MAR *').months], [1, 2, 3])
  })

  test('anything else is refused', () => {
    const wrong = [
      ...[
        '',
        '* * * *',
        '* * * * * *',
        '5 1 * * *',
        '0 24 * * *',
        '0 -1 * * *',
        '0 1-5/0 * * *',
        '0 x * * *',
      ],
      ...[
        '0 1/2 * * *',
        '0 22-2/2 * * *',
        '0 1 1 * mon',
        '0 1 31 feb *',
        '0 1 0 * *',
        '0 1 * 13 *',
        '0 1 * * 8',
      ],
    ]
    for (const expression of wrong) assert.throws(() => parseCronHours(expression), isInvalid, expression)
  })
})
