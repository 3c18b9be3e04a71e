import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { checkPolicyInput, decodePolicyOverride, encodePolicyOverride } from '../../src/config/code.js'
import { resolveConfig } from '../../src/config/resolve.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { type ErrorCode, isStratalogError } from '../../src/model/errors.js'
import type { PolicyInput } from '../../src/model/policy-input.js'

function refuses(code: ErrorCode, run: () => unknown, pattern: RegExp): void {
  assert.throws(run, (error) => {
    assert.ok(isStratalogError(error, code), String(error))
    assert.match(error.message, pattern)
    return true
  })
}
const check = (input: unknown) => () => checkPolicyInput(input, 'setPolicy')

describe('policies from programs', () => {
  test('every key, camelCase, numbers as bytes and milliseconds', () => {
    const input: PolicyInput = {
      create: 'refuse',
      quorum: { ensemble: 5, copies: 3, ack: 2, min: 2, group: 'gold' },
      roll: { size: 1 << 20, age: 60_000, idle: '5s' },
      copy: { after: '1m', window: { cron: '0 1 * * *', zone: 'America/New_York' } },
      hot: { for: '1h', max: '1 GiB' },
      evict: { lag: 0 },
      keep: { for: '7 years', max: 'unlimited', by: 'event' },
      archiveDown: 'drop',
      storage: { class: 'X', kmsKey: 'k', tags: { fullTeam: 'a b' } },
      limits: { upload: '1 MiB/s', coldRead: '2 MiB/s', replicaLag: '1 GiB' },
      scrub: { fullPass: '3d' },
      encryption: { ring: 'r', key: 'k' },
      holds: [{ id: 'x', from: { time: '2026-01-01' }, until: '12:3:4' }],
    }
    assert.deepEqual(checkPolicyInput(input), input)
    const { policy, origins } = resolveConfig({ code: input }).policyFor('a')
    assert.deepEqual(policy, {
      create: 'refuse',
      quorum: { ensemble: 5, copies: 3, ack: 2, min: 2, group: 'gold' },
      roll: { sizeBytes: 1 << 20, ageMs: 60_000, idleMs: 5_000 },
      copy: { afterMs: 60_000, window: { cron: '0 1 * * *', zone: 'America/New_York' } },
      hot: { forMs: 3_600_000, maxBytes: 2 ** 30 },
      evict: { lagMs: 0 },
      keep: { forMs: 7 * 31_536_000_000, maxBytes: null, by: 'event' },
      archiveDown: 'drop',
      scrub: { fullPassMs: 3 * 86_400_000 },
      archive: null,
      storage: { class: 'X', kmsKey: 'k', tags: { fullTeam: 'a b' } },
      holds: [
        {
          id: 'x',
          from: { timeMs: Date.UTC(2026, 0, 1) },
          until: { dlsn: new Dlsn(12n, 3n, 4n) },
          reason: null,
        },
      ],
      limits: {
        uploadBytesPerSecond: 2 ** 20,
        coldReadBytesPerSecond: 2 ** 21,
        replicaLagBytesMax: 2 ** 30,
      },
      encryption: { ring: 'r', key: 'k' },
    })
    assert.equal(origins['archive-down'], 'code')
    assert.equal(resolveConfig({}).policyFor('a', input).policy.archiveDown, 'drop')
  })

  test('unknown keys are refused in the spelling of the caller', () => {
    refuses(
      'invalid_argument',
      check({ archivDown: 'hold' }),
      /^setPolicy: unknown key "archivDown": did you mean "archiveDown"\?/,
    )
    refuses('invalid_argument', check({ 'archive-down': 'hold' }), /did you mean "archiveDown"\?/)
    refuses(
      'invalid_argument',
      check({ hot: { fro: 1 } }),
      /unknown key "fro": did you mean "for"\? \(in hot\)/,
    )
    refuses('invalid_argument', check({ match: 'a' }), /unknown key "match"/)
    refuses(
      'invalid_argument',
      () => resolveConfig({ code: { archiv: 'x' } as never }),
      /options: unknown key "archiv": did you mean "archive"\?/,
    )
    refuses(
      'invalid_argument',
      () => resolveConfig({}).policyFor('a', { rol: 1 } as never),
      /stream override: unknown key "rol"/,
    )
  })

  test('what is no plain value is refused', () => {
    refuses('invalid_argument', check(null), /give an object/)
    refuses('invalid_argument', check([]), /give an object/)
    refuses('invalid_argument', check('keep'), /give an object/)
    refuses('invalid_argument', check({ hot: { for: Number.NaN } }), /for is NaN/)
    refuses('invalid_argument', check({ hot: { max: Number.POSITIVE_INFINITY } }), /max is Infinity/)
    refuses('invalid_argument', check({ hot: { for: 10n } }), /plain values/)
    refuses('invalid_argument', check({ roll: () => 1 }), /roll is a function/)
    const circular: Record<string, unknown> = {}
    circular.roll = circular
    refuses('invalid_argument', check(circular), /plain values/)
    refuses('invalid_argument', check({ roll: null }), /roll: null is not a group of keys/)
    refuses(
      'invalid_argument',
      check({ roll: { size: -5 }, hot: { for: '1 fortnight' } }),
      /2 problems[\s\S]*roll\.size[\s\S]*hot\.for/,
    )
  })

  test('undefined means not said; the copy is frozen and independent', () => {
    assert.deepEqual(checkPolicyInput({ hot: undefined, keep: { for: undefined, max: 5 } }), {
      keep: { max: 5 },
    })
    const hot = { for: '1h' }
    const copy = checkPolicyInput({ hot })
    hot.for = '2h'
    assert.deepEqual(copy, { hot: { for: '1h' } })
    assert.ok(Object.isFrozen(copy) && Object.isFrozen(copy.hot))
  })

  test('overrides are stored as JSON and checked when read', () => {
    const input: PolicyInput = { hot: { for: '1h' }, keep: { for: '7 years' } }
    assert.deepEqual(decodePolicyOverride(encodePolicyOverride(input), 'trades'), input)
    refuses('invalid_argument', () => encodePolicyOverride({ hot: { for: 'x' } }), /hot\.for/)
    refuses(
      'config_invalid',
      () => decodePolicyOverride('{', 'trades'),
      /stream override of trades is not JSON: set it again/,
    )
    refuses(
      'config_invalid',
      () => decodePolicyOverride('{"hott":{}}', 'trades'),
      /trades: unknown key "hott".*set it again/,
    )
    refuses('config_invalid', () => decodePolicyOverride('[]', 'trades'), /give an object/)
  })
})
