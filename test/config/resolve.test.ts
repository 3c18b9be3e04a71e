import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { parseEnvironment } from '../../src/config/env.js'
import { parseConfig } from '../../src/config/file.js'
import { checkPattern, matcher } from '../../src/config/pattern.js'
import { resolveConfig } from '../../src/config/resolve.js'
import { isStratalogError } from '../../src/model/errors.js'
import { BUILT_IN_POLICY } from '../../src/model/policy.js'

const GiB = 2 ** 30
const HOUR = 3_600_000
const example = () =>
  parseConfig(readFileSync(join(process.cwd(), 'config/examples/production.yaml'), 'utf8'), 'stratalog.yaml')
const yaml = (...lines: string[]) => parseConfig(['version: 1', ...lines].join('\n'), 'stratalog.yaml')

describe('resolving', () => {
  test('without any configuration everything is built in', () => {
    const config = resolveConfig({})
    const { policy, origins } = config.policyFor('a')
    assert.deepEqual(policy, BUILT_IN_POLICY)
    assert.ok(Object.values(origins).every((origin) => origin === 'built-in'))
    assert.equal(Object.keys(origins).length, 29)
    assert.deepEqual(config.archive, { value: null, origin: 'built-in', layer: 'built-in' })
    assert.equal(config.stores.value, null)
    assert.deepEqual(config.losers('a'), [])
  })

  test('the example of the documentation, with origins', () => {
    const config = resolveConfig({ file: example() })
    const clicks = config.policyFor('clicks/web')
    assert.equal(clicks.policy.roll.sizeBytes, GiB / 4)
    assert.equal(clicks.origins['roll.size'], 'stratalog.yaml:29  policies[1]')
    assert.equal(clicks.policy.archiveDown, 'drop')
    assert.equal(clicks.origins['archive-down'], 'stratalog.yaml:33  policies[1]')
    assert.equal(clicks.policy.evict.lagMs, 4 * HOUR)
    assert.equal(clicks.origins['evict.lag'], 'stratalog.yaml:12  defaults')
    assert.equal(clicks.origins['quorum.copies'], 'stratalog.yaml:6  quorum')
    assert.equal(clicks.origins['quorum.min'], 'built-in')
    assert.deepEqual(clicks.policy.copy.window, { cron: '0 1-5 * * *', zone: 'Europe/Berlin' })

    const audit = config.policyFor('audit/eu/login')
    assert.deepEqual(audit.policy.keep, { forMs: null, maxBytes: null, by: 'completion' })
    assert.equal(audit.origins['keep.for'], 'stratalog.yaml:20  policies[0]')
    assert.equal(audit.policy.hot.maxBytes, 50 * GiB, 'a field the policy leaves out comes from the defaults')
    assert.equal(config.policyFor('clicks/eu/web').policy.archiveDown, 'hold', '* stays within a part')

    assert.equal(config.policyFor('sensors/t1').policy.archive, '/mnt/nas/strata')
    assert.equal(clicks.policy.archive, null)
    assert.equal(config.archive.value, 's3://acme-logs/prod')
    assert.deepEqual(
      config.ownArchives.map(({ value }) => value),
      ['/mnt/nas/strata'],
    )
    const MiB = 2 ** 20
    assert.deepEqual(clicks.policy.limits, {
      uploadBytesPerSecond: 80 * MiB,
      coldReadBytesPerSecond: 200 * MiB,
      replicaLagBytesMax: null,
    })
    assert.deepEqual(audit.policy.storage, { class: 'GLACIER_IR', kmsKey: 'alias/audit', tags: {} })
    assert.deepEqual(audit.policy.holds, [
      {
        id: 'case-4711',
        from: { timeMs: Date.UTC(2026, 0, 1) },
        until: { timeMs: Date.UTC(2026, 3, 1) },
        reason: null,
      },
    ])
    assert.match(audit.origins.holds, /^stratalog\.yaml:\d+ {2}policies\[0\]$/)
  })

  test('streams that match the same patterns share a policy, and an override is nobody else’s', () => {
    const config = resolveConfig({
      code: {
        hot: { for: '1h' },
        policies: [
          { match: 'a/**', hot: { for: '2h' } },
          { match: '**/b', keep: { for: '9h' } },
        ],
      },
    })
    assert.equal(config.policyFor('x'), config.policyFor('y'))
    assert.equal(config.policyFor('a/x'), config.policyFor('a/y'))
    const hours = (name: string) => {
      const { hot, keep } = config.policyFor(name).policy
      return [hot.forMs, keep.forMs].map((ms) => (ms === null ? null : ms / 3_600_000))
    }
    assert.deepEqual(['x', 'a/x', 'x/b', 'a/b'].map(hours), [
      [1, null],
      [2, null],
      [1, 9],
      [2, 9],
    ])
    const overridden = config.policyFor('a/x', { hot: { for: '5h' } })
    assert.equal(overridden.policy.hot.forMs, 5 * 3_600_000)
    assert.deepEqual(hours('a/x'), [2, null])
  })

  test('keep: forever is not undone by a limit from further away, a stream can lift every limit', () => {
    const file = yaml(
      'defaults:',
      '  { hot: { for: 1h, max: 1 GiB }, keep: { for: 1d, max: 1 GiB }, copy: { window: { cron: "0 1 * * *" } } }',
      'policies:',
      '  - match: a',
      '    keep: forever',
      '  - match: b',
      '    keep: { for: forever }',
      '    hot: { for: forever, max: unlimited }',
      '    copy: { window: always }',
    )
    const config = resolveConfig({ file })
    assert.deepEqual(config.policyFor('a').policy.keep, { forMs: null, maxBytes: null, by: 'completion' })
    assert.deepEqual(config.policyFor('b').policy.keep, { forMs: null, maxBytes: GiB, by: 'completion' })
    assert.deepEqual(config.policyFor('b').policy.hot, { forMs: null, maxBytes: null })
    assert.equal(config.policyFor('b').policy.copy.window, null)
    assert.deepEqual(config.policyFor('c').policy.copy.window, { cron: '0 1 * * *', zone: 'UTC' })
    assert.equal(config.policyFor('c', { keep: 'forever' }).policy.keep.maxBytes, null)
  })

  test('nearest wins: override, matching policy, code, environment, file; losers are named', () => {
    const file = yaml(
      'defaults: { roll: { age: 1h } }',
      'policies:',
      '  - { match: a, roll: { age: 2h } }',
      '  - { match: "*", roll: { age: 3h } }',
    )
    const env = parseEnvironment({ STRATALOG_ROLL__AGE: '4h' }, ':')
    const code = { roll: { age: '5h' } }
    const hours = (
      config: ReturnType<typeof resolveConfig>,
      name: string,
      override?: { roll: { age: string } },
    ) => {
      const { policy, origins } = config.policyFor(name, override)
      return [policy.roll.ageMs / HOUR, origins['roll.age']]
    }
    const all = resolveConfig({ file, env, code })
    assert.deepEqual(hours(all, 'a', { roll: { age: '6h' } }), [6, 'stream override'])
    assert.deepEqual(hours(all, 'a'), [2, 'stratalog.yaml:4  policies[0]'])
    assert.deepEqual(hours(all, 'b'), [3, 'stratalog.yaml:5  policies[1]'])
    assert.deepEqual(hours(all, 'b/c'), [5, 'code'])
    assert.deepEqual(hours(resolveConfig({ file, env }), 'b/c'), [4, 'env STRATALOG_ROLL__AGE'])
    assert.deepEqual(hours(resolveConfig({ file }), 'b/c'), [1, 'stratalog.yaml:2  defaults'])

    const losers = all.losers('a', { roll: { age: '6h' } })
    assert.ok(losers.every((loser) => loser.field === 'roll.age' && loser.by === 'stream override'))
    assert.deepEqual(
      losers.map(({ value }) => Number(value) / HOUR),
      [2, 3, 5, 4, 1],
    )
  })

  test('archive and stores: nearest wins and is named', () => {
    const file = yaml('archive: s3://b/p', 'stores: [/a, /b]')
    const env = parseEnvironment({ STRATALOG_ARCHIVE: '/mnt/x', STRATALOG_STORES: '/c:/d:/e' }, ':')
    assert.deepEqual(resolveConfig({ file }).archive, {
      value: 's3://b/p',
      origin: 'stratalog.yaml:2',
      layer: 'file',
    })
    assert.deepEqual(resolveConfig({ file, env }).archive, {
      value: '/mnt/x',
      origin: 'env STRATALOG_ARCHIVE',
      layer: 'environment',
    })
    assert.deepEqual(resolveConfig({ file, env }).stores.value, ['/c', '/d', '/e'])
    assert.deepEqual(resolveConfig({ file, env, code: { archive: null } }).archive, {
      value: null,
      origin: 'code',
      layer: 'code',
    })
    assert.equal(resolveConfig({ file, code: { stores: ['/z'] } }).stores.origin, 'code')
  })

  test('policies from code come before those of the file', () => {
    const file = yaml('policies: [{ match: a, evict: { lag: 1h } }]')
    const config = resolveConfig({ file, code: { policies: [{ match: '*', evict: { lag: '2h' } }] } })
    assert.equal(config.policyFor('a').policy.evict.lagMs, 2 * HOUR)
    assert.equal(config.policyFor('a').origins['evict.lag'], 'code  policies[0]')
  })

  test('quorums that do not fit name both places', () => {
    const bad = (...lines: string[]) => {
      assert.throws(
        () => resolveConfig({ file: yaml(...lines) }),
        (error) => {
          assert.ok(isStratalogError(error, 'config_invalid'))
          assert.match(
            error.message,
            /quorum\.\w+ \d+ \(.*\) is above quorum\.\w+ \d+ \(.*\): set both in one place/,
          )
          return true
        },
      )
    }
    bad('quorum: { copies: 1 }')
    bad('quorum: { copies: 3, ack: 2, min: 1 }')
    bad('quorum: { ensemble: 2 }')
    bad('quorum: { min: 4 }')
    bad('policies: [{ match: a, quorum: { ack: 4 } }]')
    const config = resolveConfig({ file: yaml('quorum: { copies: 2 }') })
    assert.throws(
      () => config.policyFor('a', { quorum: { ack: 3 } }),
      /quorum.ack 3 \(stream override\) is above quorum.copies 2/,
    )
  })

  test('what the top level says of the quorum is further away than defaults', () => {
    const config = resolveConfig({
      file: yaml('quorum: { copies: 3, ack: 3 }', 'defaults: { quorum: { ack: 1 } }'),
    })
    assert.equal(config.policyFor('a').policy.quorum.ack, 1)
    assert.equal(config.policyFor('a').policy.quorum.copies, 3)
    assert.deepEqual(
      config.losers('a').map(({ field, value }) => [field, value]),
      [['quorum.ack', 3]],
    )
  })
})

describe('the environment', () => {
  const refuses = (env: Record<string, string>, pattern: RegExp) =>
    assert.throws(
      () => parseEnvironment(env, ':'),
      (error) => {
        assert.ok(isStratalogError(error, 'config_invalid'))
        assert.match(error.message, pattern)
        return true
      },
    )

  test('values of every kind', () => {
    const env = parseEnvironment(
      {
        PATH: '/bin',
        STRATALOG_DIR: 'x',
        STRATALOG_LOG: 'debug',
        STRATALOG_QUORUM__COPIES: '1',
        STRATALOG_QUORUM__ACK: '1',
        STRATALOG_ARCHIVE_DOWN: 'backpressure',
        STRATALOG_KEEP__MAX: '5 TiB',
        STRATALOG_COPY__WINDOW__CRON: '0 1-5 * * *',
        STRATALOG_COPY__WINDOW__ZONE: 'Asia/Kolkata',
        STRATALOG_CREATE: 'refuse',
      },
      ':',
    )
    const { policy, origins } = resolveConfig({ env }).policyFor('a')
    assert.equal(policy.quorum.copies, 1)
    assert.equal(policy.archiveDown, 'backpressure')
    assert.equal(policy.keep.maxBytes, 5 * 2 ** 40)
    assert.deepEqual(policy.copy.window, { cron: '0 1-5 * * *', zone: 'Asia/Kolkata' })
    assert.equal(policy.create, 'refuse')
    assert.equal(origins['archive-down'], 'env STRATALOG_ARCHIVE_DOWN')
    assert.equal(
      resolveConfig({ env: parseEnvironment({ STRATALOG_KEEP: 'forever' }, ':') }).policyFor('a').origins[
        'keep.max'
      ],
      'env STRATALOG_KEEP',
    )
  })

  test('misspelt, empty and unfit ones are refused, all at once', () => {
    refuses(
      { STRATALOG_ROL__AGE: '1h' },
      /STRATALOG_ROL__AGE: unknown variable: did you mean "STRATALOG_ROLL__AGE"\?/,
    )
    refuses({ STRATALOG_ROLL_AGE: '1h' }, /did you mean "STRATALOG_ROLL__AGE"\?/)
    refuses({ STRATALOG_DIRR: '1h' }, /did you mean "STRATALOG_DIR"\?/)
    refuses({ STRATALOG_HOT: '1h' }, /group of settings: set one of STRATALOG_HOT__FOR, STRATALOG_HOT__MAX/)
    refuses({ STRATALOG_POLICIES: 'x' }, /unknown variable/)
    refuses({ STRATALOG_ROLL__AGE: '' }, /STRATALOG_ROLL__AGE: it is empty/)
    refuses({ STRATALOG_ROLL__AGE: 'soon' }, /STRATALOG_ROLL__AGE: roll\.age: "soon" is not a duration/)
    refuses(
      { STRATALOG_QUORUM__COPIES: '0x3', STRATALOG_ROLL__SIZE: 'x' },
      /2 problems[\s\S]*COPIES[\s\S]*SIZE/,
    )
    refuses(
      { STRATALOG_KEEP: 'forever', STRATALOG_KEEP__FOR: '1d' },
      /STRATALOG_KEEP__FOR: .*STRATALOG_KEEP: unset one/,
    )
    refuses(
      { STRATALOG_COPY__WINDOW__ZONE: 'UTC' },
      /STRATALOG_COPY__WINDOW__ZONE: copy\.window needs the key "cron"/,
    )
    refuses({ STRATALOG_STORES: '/a::/b' }, /STRATALOG_STORES: stores\[1\]: "" is not a directory/)
  })
})

describe('patterns', () => {
  test('* within a part, ** across parts', () => {
    const cases: [string, string, boolean][] = [
      ['a/*', 'a/b', true],
      ['a/*', 'a/b/c', false],
      ['a/*', 'a', false],
      ['a/**', 'a/b/c', true],
      ['a/**', 'a', true],
      ['a/**', 'ab', false],
      ['**', 'a/b', true],
      ['*', 'a', true],
      ['*', 'a/b', false],
      ['a/**/z', 'a/b/c/z', true],
      ['a/**/z', 'a/z', true],
      ['x-*-y', 'x-1-y', true],
      ['x-*-y', 'x-1/2-y', false],
      ['a.b', 'axb', false],
      ['a+', 'aa', false],
      ['@a', '@a', true],
    ]
    for (const [pattern, name, expected] of cases)
      assert.equal(matcher(pattern)(name), expected, `${pattern} ${name}`)
  })

  test('what would quietly match nothing is refused', () => {
    for (const pattern of [
      '',
      '/a',
      'a/',
      'a//b',
      'a b',
      '{a,b}',
      'a?',
      '[ab]',
      '!a',
      '(a)',
      'a**',
      '**a/b',
      'a\\b',
      '.a',
      'a|b',
    ]) {
      assert.throws(() => checkPattern(pattern), { name: 'StratalogError' }, pattern)
    }
    assert.throws(() => checkPattern('*a*a*a*a*a*a*a*'), /limit/)
  })

  test('a pattern without stars matches its own name and no other', () => {
    const part = fc.stringMatching(/^[a-zA-Z0-9_$^&~#@+=%;:,'"-][a-zA-Z0-9_$^&~#@+=%;:,.'"-]{0,5}$/)
    const name = fc.array(part, { minLength: 1, maxLength: 3 }).map((parts) => parts.join('/'))
    fc.assert(
      fc.property(name, name, (a, b) => {
        assert.ok(matcher(a)(a), a)
        assert.equal(matcher(a)(b), a === b)
        assert.ok(matcher('**')(a))
        assert.equal(matcher('*')(a), !a.includes('/'))
      }),
      { numRuns: 300 },
    )
  })
})
