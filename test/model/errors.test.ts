import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { AssertionFailed, assert as assertOurs, present, unreachable } from '../../src/model/assert.js'
import { ERROR_CODES, isStratalogError, StratalogError } from '../../src/model/errors.js'
import {
  ENTRY_BYTES_MAX,
  PAYLOAD_BYTES_MAX,
  RECORD_BYTES_MAX,
  RECORD_HEADER_BYTES,
  TXID_MAX,
} from '../../src/model/record.js'

describe('errors', () => {
  test('carry code, cause, and what was expected and found', () => {
    const cause = new Error('below')
    const error = new StratalogError('conflict', 'it changed', {
      cause,
      retryable: true,
      expected: 1,
      found: 2,
      details: { at: 'here' },
    })
    assert.ok(error instanceof Error)
    assert.equal(error.name, 'StratalogError')
    assert.equal(error.cause, cause)
    assert.deepEqual([error.code, error.retryable, error.expected, error.found], ['conflict', true, 1, 2])
    assert.deepEqual(error.details, { at: 'here' })
    const plain = new StratalogError('closed', 'x')
    assert.equal('cause' in plain, false)
    assert.deepEqual([plain.retryable, plain.details], [false, {}])
  })

  test('are told by code', () => {
    const error = new StratalogError('gap', 'x')
    assert.equal(isStratalogError(error), true)
    assert.equal(isStratalogError(error, 'gap'), true)
    assert.equal(isStratalogError(error, 'closed'), false)
    for (const other of [new Error('gap'), { code: 'gap' }, null, undefined, 'gap']) {
      assert.equal(isStratalogError(other), false)
    }
  })

  test('become JSON whatever they carry, bigints as decimal strings', () => {
    const big = 2n ** 63n - 1n
    const json = (details: ConstructorParameters<typeof StratalogError>[2]) =>
      JSON.parse(JSON.stringify(new StratalogError('conflict', 'm', details)))
    const head = { code: 'conflict', message: 'm', retryable: false }
    assert.deepEqual(json({}), head)
    assert.deepEqual(json({ expected: big, found: 0n }), { ...head, expected: String(big), found: '0' })
    assert.deepEqual(json({ found: { version: 3, epoch: big, list: [1n] } }).found, {
      version: 3,
      epoch: String(big),
      list: ['1'],
    })
    assert.deepEqual(json({ expected: null, found: '' }), { ...head, expected: null, found: '' })
    const circular: Record<string, unknown> = {}
    circular.self = circular
    assert.equal(json({ found: circular }).found, '[object Object]')
  })

  test('codes are distinct and spelled alike', () => {
    assert.equal(new Set(ERROR_CODES).size, ERROR_CODES.length)
    for (const code of ERROR_CODES) assert.match(code, /^[a-z]+(_[a-z]+)*$/)
  })
})

describe('assertions', () => {
  test('throw for what is false, and never a StratalogError', () => {
    assertOurs(true, 'fine')
    for (const value of [false, 0, '', null, undefined]) {
      assert.throws(
        () => assertOurs(value, 'it is so'),
        (error) => error instanceof AssertionFailed && /it is so/.test(error.message),
      )
    }
    assert.equal(isStratalogError(new AssertionFailed('x')), false)
    assert.throws(() => unreachable('x' as never, 'state'), /unexpected state: x/)
  })

  test('present takes everything but null and undefined', () => {
    for (const value of [0, '', false, 0n]) assert.equal(present(value, 'it'), value)
    for (const value of [null, undefined])
      assert.throws(() => present(value, 'the ledger'), /the ledger is absent/)
  })
})

describe('limits of records', () => {
  test('are those of DistributedLog', () => {
    assert.equal(RECORD_BYTES_MAX, 1024 * 1024 - 8 * 1024)
    assert.equal(ENTRY_BYTES_MAX, 1024 * 1024 - 4 * 1024)
    assert.equal(PAYLOAD_BYTES_MAX, RECORD_BYTES_MAX - RECORD_HEADER_BYTES)
    assert.equal(TXID_MAX, 9_223_372_036_854_775_807n)
  })
})
