import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { parseEnvironment } from '../../src/config/env.js'
import { parseConfig } from '../../src/config/file.js'
import { resolveConfig } from '../../src/config/resolve.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { isStratalogError } from '../../src/model/errors.js'

// Storage, holds, limits, encryption, archives of their own, caches: how they are read, joined and refused.

const yaml = (...lines: string[]) => parseConfig(['version: 1', ...lines].join('\n'), 'stratalog.yaml')
const resolved = (...lines: string[]) => resolveConfig({ file: yaml(...lines) })

function refuses(line: string, pattern: RegExp): void {
  assert.throws(
    () => resolved(`defaults: { ${line} }`),
    (error) => {
      assert.ok(isStratalogError(error, 'config_invalid'), String(error))
      assert.match(error.message, pattern)
      return true
    },
  )
}

describe('holds', () => {
  test('positions of every kind, with and without ends', () => {
    const { policy } = resolved(
      'defaults:',
      '  holds:',
      '    - { id: a, from: "12:340:7", until: txid:99, reason: a case }',
      '    - { id: b, from: { txid: 5 }, until: { txid: "9223372036854775806" } }',
      '    - { id: c, from: 2026-01-01, until: 2026-01-01T10:00+02:00 }',
      '    - { id: d }',
    ).policyFor('x')
    assert.deepEqual(policy.holds, [
      { id: 'a', from: { dlsn: new Dlsn(12n, 340n, 7n) }, until: { txid: 99n }, reason: 'a case' },
      { id: 'b', from: { txid: 5n }, until: { txid: 2n ** 63n - 2n }, reason: null },
      {
        id: 'c',
        from: { timeMs: Date.UTC(2026, 0, 1) },
        until: { timeMs: Date.UTC(2026, 0, 1, 8) },
        reason: null,
      },
      { id: 'd', from: null, until: null, reason: null },
    ])
  })

  test('add up over all places, the nearer one of an id wins, and every place is named', () => {
    const config = resolved(
      'defaults:',
      '  holds: [{ id: case-1, reason: far }]',
      'policies:',
      '  - match: a/*',
      '    holds: [{ id: case-2 }, { id: case-1, reason: near }]',
      '  - match: "**"',
      '    holds: [{ id: case-3 }]',
    )
    const ids = (name: string) => config.policyFor(name).policy.holds.map(({ id, reason }) => [id, reason])
    assert.deepEqual(ids('a/b'), [
      ['case-2', null],
      ['case-1', 'near'],
      ['case-3', null],
    ])
    assert.deepEqual(ids('b'), [
      ['case-3', null],
      ['case-1', 'far'],
    ])
    assert.equal(
      config.policyFor('a/b').origins.holds,
      'stratalog.yaml:6  policies[0], stratalog.yaml:8  policies[1]',
    )
    const override = config.policyFor('b', { holds: [] })
    assert.equal(override.policy.holds.length, 2, 'an empty list takes nothing away')
    assert.deepEqual(
      config.losers('a/b').filter(({ field }) => field === 'holds'),
      [],
    )
  })

  test('what is no position, no range or no name of its own is refused', () => {
    refuses('holds: [{ id: a }, { id: a }]', /the hold "a" is given twice/)
    refuses(
      'holds: [{ id: a, from: { time: yesterday } }]',
      /from "yesterday" is not a position: write a DLSN in quotes/,
    )
    refuses('holds: [{ id: a, until: -7d }]', /"-7d" is not a position/)
    refuses('holds: [{ id: a, from: { txid: -1 } }]', /txid/)
    refuses('holds: [{ id: a, from: { time: 2026-02-30 } }]', /is not a position/)
    refuses('holds: [{ id: a, from: 2026-02-01, until: 2026-01-01 }]', /ends before it begins/)
    refuses('holds: [{ id: a, from: "2:0:0", until: "2:0:0" }]', /ends before it begins/)
    refuses('holds: [{ id: a, from: { txid: 9 }, until: { txid: 8 } }]', /ends before it begins/)
    refuses('holds: [{ from: 2026-01-01 }]', /needs the key "id"/)
    refuses('holds: [{ id: a, form: 2026-01-01 }]', /unknown key "form": did you mean "from"/)
    refuses('holds: { id: a }', /a list of holds/)
  })
})

describe('storage, limits and encryption', () => {
  test('are decided field by field, and words undo what is further away', () => {
    const config = resolved(
      'defaults:',
      '  storage: { class: GLACIER_IR, kms-key: alias/a, tags: { team: audit, cost-centre: "12" } }',
      '  limits: { upload: 80 MiB/s, cold-read: 1.5 GB/s, replica-lag: 1 GiB }',
      '  encryption: { ring: ./ring, key: main }',
      'policies:',
      '  - match: near',
      '    storage: { class: default, tags: {} }',
      '    limits: { upload: unlimited, replica-lag: unlimited }',
      '    encryption: none',
      '  - match: other',
      '    encryption: { key: second }',
    )
    const far = config.policyFor('far').policy
    assert.deepEqual(far.storage, {
      class: 'GLACIER_IR',
      kmsKey: 'alias/a',
      tags: { team: 'audit', 'cost-centre': '12' },
    })
    assert.deepEqual(far.limits, {
      uploadBytesPerSecond: 80 * 2 ** 20,
      coldReadBytesPerSecond: 1.5e9,
      replicaLagBytesMax: 2 ** 30,
    })
    assert.deepEqual(far.encryption, { ring: './ring', key: 'main' })
    const near = config.policyFor('near').policy
    assert.deepEqual(near.storage, { class: null, kmsKey: 'alias/a', tags: {} })
    assert.deepEqual(near.limits, {
      uploadBytesPerSecond: null,
      coldReadBytesPerSecond: 1.5e9,
      replicaLagBytesMax: null,
    })
    assert.equal(near.encryption, null)
    assert.deepEqual(config.policyFor('other').policy.encryption, { ring: './ring', key: 'second' })
    assert.equal(config.policyFor('other').origins['encryption.ring'], 'stratalog.yaml:5  defaults')
  })

  test('a key without a ring is refused, wherever the two come from; a ring alone encrypts nothing', () => {
    refuses('encryption: { key: main }', /encryption\.key "main" \(stratalog\.yaml:2 defaults\) has no ring/)
    assert.equal(resolved('defaults: { encryption: { ring: r } }').policyFor('a').policy.encryption, null)
    const config = resolved('defaults: { encryption: { ring: r, key: k } }')
    assert.throws(
      () => resolveConfig({ file: yaml() }).policyFor('a', { encryption: { key: 'k' } }),
      /stream override.* has no ring/,
    )
    assert.equal(config.policyFor('a', { encryption: 'none' }).policy.encryption, null)
  })

  test('values that can not be meant are refused', () => {
    refuses('limits: { upload: 80 MiB }', /not a rate, as 80 MiB\/s, or unlimited/)
    refuses('limits: { upload: 0 B/s }', /too small: write at least 1 KiB\/s/)
    refuses('limits: { download: 1 MiB/s }', /unknown key "download"/)
    refuses('storage: { tags: { a: 1 } }', /put numbers in quotes/)
    refuses('storage: { klass: X }', /did you mean "class"/)
    refuses(
      `storage: { tags: { ${Array.from({ length: 11 }, (_, i) => `t${i}: x`).join(', ')} } }`,
      /at most 10 tags/,
    )
  })

  test('the environment sets them like the rest; tags and holds have no place there', () => {
    const env = parseEnvironment(
      {
        STRATALOG_LIMITS__UPLOAD: '1 MiB/s',
        STRATALOG_STORAGE__KMS_KEY: 'k',
        STRATALOG_ENCRYPTION: 'none',
        STRATALOG_CACHE__DISK: '5 GiB',
      },
      ':',
    )
    const config = resolveConfig({ env, file: yaml('defaults: { encryption: { ring: r, key: k } }') })
    const { policy, origins } = config.policyFor('a')
    assert.equal(policy.limits.uploadBytesPerSecond, 2 ** 20)
    assert.equal(policy.storage.kmsKey, 'k')
    assert.deepEqual([policy.encryption, origins['encryption.key']], [null, 'env STRATALOG_ENCRYPTION'])
    assert.equal(config.cache.diskBytes.value, 5 * 2 ** 30)
    assert.throws(() => parseEnvironment({ STRATALOG_STORAGE__TAGS: 'a=b' }, ':'), /unknown variable/)
    assert.throws(() => parseEnvironment({ STRATALOG_HOLDS: 'a' }, ':'), /unknown variable/)
  })
})

describe('caches and archives', () => {
  test('sizes of the caches, with who said them', () => {
    const { cache } = resolved('cache: { disk: 10 GiB, index: 64 MiB }')
    assert.deepEqual(cache.diskBytes, {
      value: 10 * 2 ** 30,
      origin: 'stratalog.yaml:2',
      layer: 'file',
    })
    assert.equal(cache.indexBytes.value, 64 * 2 ** 20)
    assert.equal(resolved().cache.diskBytes.value, null)
    assert.throws(() => resolved('cache: { index: 1 KiB }'), /cache\.index: "1 KiB" is too small/)
  })

  test('an archive of a policy is placed by the layer that names it; none stays a word', () => {
    const file = yaml('policies:', '  - { match: a, archive: ./x }', '  - { match: b, archive: none }')
    const code = { policies: [{ match: 'c', archive: './y' }] }
    const config = resolveConfig({ file, code }, (value, layer) => `${layer}:${value}`)
    assert.deepEqual(
      ['a', 'b', 'c', 'd'].map((name) => config.policyFor(name).policy.archive),
      ['file:./x', 'none', 'code:./y', null],
    )
    assert.throws(
      () => resolved('policies: [{ match: a, archive: "s3://me:secret@b/p" }]'),
      (error) => isStratalogError(error, 'config_invalid') && !error.message.includes('secret'),
    )
  })
})
