import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { StratalogError } from '../../src/model/errors.js'
import { foreignChecks } from '../../src/open/foreign-doctor.js'
import { openLog } from '../../src/open.js'
import { silentLogger } from '../../src/system/logger.js'
import { HOUR, NOW, planOf, row } from '../helpers/plan.js'

const copyOf = (policy: Parameters<typeof planOf>[0], ageMs: number, over: Parameters<typeof planOf>[2]) => {
  const sealed = row(1, 'sealed', { sealedMs: NOW - ageMs })
  return planOf(policy, [sealed], over).find(({ kind }) => kind === 'copy')
}

/** Invariant 1 for what others delete: it is copied while it is there. */
describe('what others purge after a time', () => {
  const purged = { purgedAfterMs: 72 * HOUR }
  const late = { copy: { after: '7d' } } as const

  test('is copied when half of the time is over, though the policy would wait', () => {
    const before = copyOf(late, 35 * HOUR, purged)
    assert.deepEqual([before?.dueMs, before?.blockedBy], [NOW + HOUR, null])
    assert.match(`${before?.reason}`, /ahead of the purge/)
    const after = copyOf(late, 37 * HOUR, purged)
    assert.ok((after?.dueMs ?? NOW + 1) <= NOW)
    assert.ok((copyOf(late, 37 * HOUR, {})?.dueMs ?? 0) > NOW)
  })

  test('is copied then outside of the window, too; before, it waits for the window', () => {
    const closed = { ...purged, windowOpen: false }
    const soon = copyOf({}, HOUR, { ...closed, nextWindowMs: NOW + 2 * HOUR })
    assert.deepEqual([soon?.dueMs, soon?.blockedBy], [NOW + 2 * HOUR, 'window'])
    const never = copyOf({}, 36 * HOUR, { ...closed, nextWindowMs: null })
    assert.deepEqual([never?.dueMs, never?.blockedBy], [NOW, null])
  })

  test('is copied when the policy says, where that is sooner', () => {
    const sooner = copyOf({ copy: { after: '2h' } }, HOUR, purged)
    assert.equal(sooner?.dueMs, NOW + HOUR)
    assert.doesNotMatch(sooner.reason, /purge/)
  })
})

test('the doctor names a stream that can not be asked, and what it finds of the others', async () => {
  const root = mkdtempSync(join(tmpdir(), 'stratalog-foreign-'))
  try {
    await using log = await openLog(join(root, 'log'), {
      ...{ tiering: 'off', control: 'off', config: 'none', archive: 'none' },
      system: { logger: silentLogger() },
    })
    for (const name of ['a', 'b', 'c']) {
      await log.stream(name).append('one')
      await log.stream(name).seal()
    }
    const unread = (await log.streams.find('b'))?.incarnation
    const checks = await foreignChecks({
      ...log.parts.tiering,
      foreign: {
        isForeign: async (incarnation) => {
          if (incarnation === unread) throw new StratalogError('corrupt', 'nodes are damaged')
          return true
        },
        ...({ purge: 'aged', purgeAfterMs: 0, followsTruncation: false } as const),
        truncatedBelow: () => Promise.resolve(null),
      },
    })
    const bad = checks.filter(({ state }) => state === 'bad').map(({ text }) => text)
    assert.equal(bad.length, 3)
    assert.match(bad[0] ?? '', /^segment 1 of a /)
    assert.match(bad[1] ?? '', /^b can't be looked at: nodes are damaged/)
    assert.match(bad[2] ?? '', /^segment 1 of c /)
  } finally {
    rmSync(root, { recursive: true, force: true })
  }
})
