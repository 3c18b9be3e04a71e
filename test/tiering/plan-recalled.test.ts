import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DAY, HOUR, MiB, NOW, planOf, row } from '../helpers/plan.js'

const evictions = (...args: Parameters<typeof planOf>) =>
  planOf(...args)
    .filter(({ kind }) => kind === 'evict')
    .map(({ segment, dueMs }) => [segment, dueMs])

const old = { sealedMs: NOW - 9 * DAY, archivedMs: NOW - 9 * DAY }

test('what was cold and recalled goes when that is over, whatever the policy says', () => {
  const recalled = row(1, 'archived', { ...old, evictedMs: NOW - DAY, recalledUntilMs: NOW + HOUR })
  for (const hot of [{ for: 0 }, { for: 'forever' as const }, { for: '1y', max: 0 }])
    assert.deepEqual(evictions({ hot, evict: { lag: 0 } }, [recalled]), [[1n, NOW + HOUR]])
})

test('what was hot all the time stays at least so long, and by its policy afterwards', () => {
  const asked = row(1, 'archived', { ...old, recalledUntilMs: NOW + HOUR })
  assert.deepEqual(evictions({ hot: { for: '1d' }, evict: { lag: 0 } }, [asked]), [[1n, NOW + HOUR]])
  const later = { hot: { for: '10d' }, evict: { lag: 0 } }
  assert.deepEqual(evictions(later, [asked]), [[1n, NOW + DAY]])
  assert.deepEqual(evictions({ hot: { for: 'forever' } }, [asked]), [])
})

test('what was recalled counts for no limit before its time', () => {
  const segments = [
    row(1, 'archived', { ...old, evictedMs: NOW - DAY, recalledUntilMs: NOW + HOUR }),
    row(2, 'archived', old),
    row(3, 'archived', old),
  ]
  const policy = { hot: { for: 'forever' as const, max: MiB }, evict: { lag: 0 } }
  assert.deepEqual(evictions(policy, segments), [
    [2n, NOW - 9 * DAY],
    [1n, NOW + HOUR],
  ])
})
