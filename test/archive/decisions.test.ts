import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { ControlObject } from '../../archive/control-objects.js'
import { binds, deletedMs, endOf, gapsOf, holdBody, standingHolds } from '../../archive/decisions.js'
import type { ControlKind } from '../../src/format/archive-names.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { isStratalogError } from '../../src/model/errors.js'

let number = 0n
function control(kind: ControlKind, body: object): ControlObject {
  number += 1n
  const text = JSON.stringify(body, (_, value: unknown) => (typeof value === 'bigint' ? `${value}` : value))
  const parsed = JSON.parse(text) as Record<string, unknown>
  return {
    incarnation: '0'.repeat(32),
    number,
    kind,
    attempt: '0'.repeat(13),
    key: `${kind}-${number}`,
    body: parsed,
  }
}

const hold = (id: string, more: Partial<Parameters<typeof holdBody>[0]> = {}) =>
  control('hold', holdBody({ id, from: null, until: null, reason: null, atMs: 5, by: null, ...more }))
const segment = { segment: 5n, firstTxid: 500n, lastTxid: 599n, openedMs: 450, sealedMs: 650 }

test('a hold stands until a later release names it, and can be set again', () => {
  assert.deepEqual(standingHolds([hold('a'), control('release', { id: 'a' })]), [])
  const again = standingHolds([hold('a'), control('release', { id: 'a' }), hold('a', { reason: 'case' })])
  assert.deepEqual(
    again.map(({ id, reason }) => [id, reason]),
    [['a', 'case']],
  )
  assert.deepEqual(standingHolds([control('release', { id: 'a' }), hold('a')]).length, 1)
})

test('several of one id stand beside one another; a release ends those of its kind (invariant 8)', () => {
  const until = { dlsn: new Dlsn(2n, 0n, 0n) }
  const pin = control('pin', holdBody({ id: 'a', from: null, until: null, reason: null, atMs: 6, by: 'f' }))
  const both = [hold('a'), hold('b'), pin, hold('a', { until })]
  const seen = (controls: Parameters<typeof standingHolds>[0]) =>
    standingHolds(controls).map(({ kind, id, until: end }) => `${kind} ${id}${end === null ? '' : ' short'}`)
  assert.deepEqual(seen(both), ['hold a', 'hold b', 'pin a', 'hold a short'])
  assert.deepEqual(seen([...both, control('release', { id: 'a', of: 'hold' })]), ['hold b', 'pin a'])
  assert.deepEqual(seen([...both, control('release', { id: 'a', of: 'pin' })]), [
    'hold a',
    'hold b',
    'hold a short',
  ])
  assert.deepEqual(seen([...both, control('release', { id: 'a' })]), ['hold b'])
  assert.throws(() => seen([...both, control('release', { id: 'a', of: 'all' })]), { code: 'corrupt' })
})

test('a hold binds every segment its range touches, and what is not known (invariant 8)', () => {
  const bound = (more: Parameters<typeof hold>[1], mode: 'ms' | 'custom' = 'ms', of = segment) => {
    const [one] = standingHolds([hold('a', more)])
    assert.ok(one)
    return binds(one, of, mode)
  }
  assert.equal(bound({}), true)
  assert.equal(bound({ from: { dlsn: new Dlsn(6n, 0n, 0n) } }), false)
  assert.equal(bound({ from: { dlsn: new Dlsn(5n, 9n, 0n) } }), true)
  assert.equal(bound({ until: { dlsn: new Dlsn(5n, 0n, 0n) } }), false)
  assert.equal(bound({ until: { dlsn: new Dlsn(5n, 0n, 1n) } }), true)
  assert.equal(bound({ from: { txid: 599n } }), true)
  assert.equal(bound({ from: { txid: 600n } }), false)
  assert.equal(bound({ until: { txid: 500n } }), false)
  assert.equal(bound({ from: { timeMs: 600 } }), false)
  assert.equal(bound({ from: { timeMs: 600 } }, 'custom'), true)
  assert.equal(bound({ until: { timeMs: 450 } }, 'custom'), false)
  assert.equal(bound({ until: { timeMs: 450 } }, 'custom', { ...segment, openedMs: null as never }), true)
  assert.equal(bound({ from: { txid: 600n } }, 'ms', { ...segment, sealedMs: null as never }), true)
})

test('gaps, the end and the deletion of a stream', () => {
  const gap = { first: 3n, last: 4n, reason: 'dropped' as const, atMs: 9 }
  assert.deepEqual(gapsOf([control('gap', gap)]), [gap])
  assert.equal(endOf([]), null)
  const end = { atMs: 9, nextSequenceId: 100n, lastTxid: -1n }
  assert.deepEqual(endOf([control('end', end)]), end)
  assert.equal(deletedMs([]), null)
  assert.equal(deletedMs([control('delete', { atMs: 9 })]), 9)
})

test('a decision that does not parse is damage, never left out (invariant 8)', () => {
  const corrupt = (work: () => unknown) =>
    assert.throws(
      work,
      (error: Error) => isStratalogError(error, 'corrupt') && error.message.includes('damaged'),
    )
  corrupt(() => standingHolds([control('hold', { id: 'a', from: { dlsn: 'x' }, atMs: 1 })]))
  corrupt(() => standingHolds([control('release', {})]))
  corrupt(() => gapsOf([control('gap', { first: '4', last: '3', reason: 'dropped', atMs: 1 })]))
  corrupt(() => gapsOf([control('gap', { first: '3', last: '3', reason: 'lost', atMs: 1 })]))
  corrupt(() => endOf([control('end', { atMs: 1 })]))
})
