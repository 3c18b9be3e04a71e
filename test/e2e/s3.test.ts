import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { after, before, describe, test } from 'node:test'
import type { S3Settings } from '../../archive/s3/settings.js'
import type { Log } from '../../src/log.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import { openLog } from '../../src/open.js'
import { silentLogger } from '../../src/system/logger.js'
import { finished, type Result, start, values } from '../helpers/cli.js'
import { fillSegments, readAll, rowsOf } from '../helpers/tiered-log.js'
import { skipWithout } from '../servers/cache.js'
import { S3_ENVIRONMENT } from '../servers/s3.js'
import { startVersitygw, type Versitygw } from '../servers/versitygw.js'

/** Longer than a store that answers needs, shorter than a test may take. */
const SOON = { idleTimeoutMs: 2_000, totalTimeoutMs: 4_000 }

describe('a log with its archive in S3', { skip: await skipWithout('versitygw') }, () => {
  let started: Versitygw | undefined
  let root = ''
  let logs = 0
  const server = (): Versitygw => present(started, 'versitygw')
  const kept = { ...process.env }
  before(async () => {
    Object.assign(process.env, S3_ENVIRONMENT)
    started = await startVersitygw()
    root = mkdtempSync(join(tmpdir(), 'stratalog-s3-'))
  })
  after(async () => {
    for (const name of Object.keys(S3_ENVIRONMENT)) delete process.env[name]
    Object.assign(process.env, kept)
    await started?.close()
    if (root !== '') rmSync(root, { recursive: true, force: true })
  })

  const open = (archive: string, s3: S3Settings = {}, name = `log-${++logs}`): Promise<Log> =>
    openLog(join(root, name), {
      archive,
      s3: { endpoint: server().endpoint, region: server().region, ...SOON, ...s3 },
      tiering: 'off',
      control: 'off',
      config: 'none',
      storeFileBytes: 4 * 2 ** 20,
      defaults: { hot: { for: 0 }, evict: { lag: 0 } },
      system: { logger: silentLogger() },
    })
  const cli = (args: readonly string[], variables: Record<string, string> = {}): Promise<Result> =>
    finished(start(args, root, { ...S3_ENVIRONMENT, ...variables }))

  test('append, tier, evict, read cold, restore from the bucket alone with the command line', async () => {
    await server().makeBucket('whole')
    {
      await using log = await open('s3://whole/strata')
      await fillSegments(log, 'a', 3)
      await log.tier.run()
      const rows = await rowsOf(log, 'a')
      assert.deepEqual(
        rows.map(({ state }) => state),
        ['cold', 'cold', 'cold'],
      )
      const { texts, cold, hot } = await readAll(log, 'a')
      assert.deepEqual([texts.length, texts[29], cold, hot], [30, 'a 29', 30, 0])
      const report = await log.doctor()
      assert.equal(report.bad, 0, JSON.stringify(report.checks))
      assert.ok(
        report.checks.filter(({ area }) => area === 'archive').length > 1,
        'it says what the store does',
      )
    }
    const config = ['version: 1', 's3:', `  endpoint: ${server().endpoint}`, '  region: us-east-1', '']
    writeFileSync(join(root, 'stratalog.yaml'), config.join('\n'))
    const into = join(root, 'restored')
    const restored = await cli(['restore', '--from', 's3://whole/strata', '--into', into, '--yes'])
    assert.equal(restored.code, 0, restored.err)
    assert.match(restored.out, /^restored 1 stream, 3 segments, 30 records into/m)
    const read = await cli(['--dir', into, 'read', 'a', '--json'])
    assert.equal(values(read.out).length, 30, read.err)
    // The sections of a file that is named, for who runs somewhere else.
    const listed = await finished(
      start(
        ['--config', join(root, 'stratalog.yaml'), 'archive', 'ls', '--from', 's3://whole/strata', '--json'],
        tmpdir(),
        { ...S3_ENVIRONMENT },
      ),
    )
    assert.equal(values(listed.out).length, 3, listed.err)
    const attached = await cli(['--attach', 's3://whole/strata', 'read', 'a', '--limit', '1'])
    assert.match(attached.out, /a 0/, attached.err)
  })

  /** What a copy fails with while the bucket is as it is; nothing may be lost by it. */
  async function copyFails(archive: string, s3: S3Settings = {}): Promise<{ error: string; doctor: string }> {
    await using log = await open(archive, s3)
    await fillSegments(log, 'a', 1)
    const { failed } = await log.tier.run({ until: 'once' })
    const [row] = await rowsOf(log, 'a')
    // Invariant 4: it is hot until a copy was read back.
    assert.deepEqual([row?.state, (await readAll(log, 'a')).texts.length], ['sealed', 10])
    const bad = (await log.doctor()).checks.find(({ area, state }) => area === 'archive' && state === 'bad')
    const error = failed.map((one) => one.error).join('; ')
    const everything = `${error} ${JSON.stringify(bad)} ${JSON.stringify(await log.tier.status(), plain)}`
    assert.ok(!everything.includes('wrong-secret'), 'a secret is told')
    return { error, doctor: bad?.text ?? '' }
  }
  const plain = (_: string, value: unknown) => (typeof value === 'bigint' ? `${value}` : value)

  test('a bucket that is not there, and a wrong secret: named, nothing is lost, hot copies stay', async () => {
    const missing = await copyFails('s3://nowhere/x')
    assert.match(missing.error + missing.doctor, /bucket.*nowhere|nowhere.*bucket/i)
    process.env.AWS_SECRET_ACCESS_KEY = 'wrong-secret'
    try {
      await server().makeBucket('guarded')
      const wrong = await copyFails('s3://guarded/x')
      assert.match(wrong.doctor, /secret|signature|credential/i)
      const from = await cli(['archive', 'ls', '--from', 's3://guarded/x'], {
        AWS_SECRET_ACCESS_KEY: 'wrong-secret',
        STRATALOG_S3__ENDPOINT: server().endpoint,
      })
      assert.equal(from.code, 7, from.err)
      assert.match(from.err, /secret|signature|credential/i)
    } finally {
      process.env.AWS_SECRET_ACCESS_KEY = S3_ENVIRONMENT.AWS_SECRET_ACCESS_KEY
    }
    const gone = await cli(['restore', '--from', 's3://nowhere/x', '--into', join(root, 'none'), '--yes'], {
      STRATALOG_S3__ENDPOINT: server().endpoint,
    })
    assert.equal(gone.code, 1, gone.err)
    assert.match(gone.err, /nowhere/)
  })

  test('a store that is gone while the log runs is survived: copies wait, and go on when it is back', async () => {
    await server().makeBucket('away')
    await using log = await open('s3://away/x', { idleTimeoutMs: 500, totalTimeoutMs: 800 })
    await fillSegments(log, 'a', 1)
    await log.tier.run()
    await server().kill()
    await fillSegments(log, 'b', 1)
    await log.tier.run({ until: 'once' })
    assert.equal((await rowsOf(log, 'b'))[0]?.state, 'sealed')
    await assert.rejects(readAll(log, 'a'), (error: unknown) =>
      isStratalogError(error, 'archive_unavailable'),
    )
    await server().restart()
    await log.tier.run()
    assert.equal((await rowsOf(log, 'b'))[0]?.state, 'cold')
    assert.equal((await readAll(log, 'a')).texts.length, 10)
    assert.equal((await readAll(log, 'b')).texts.length, 10)
  })

  test('what can not be right is refused when the log is opened', async () => {
    for (const [archive, s3] of [
      ['s3://', {}],
      ['s3://b?x=1', {}],
      ['s3://bucket/x', { endpoint: 'ftp://x' }],
      ['s3://bucket/x', { sse: 'customer' }],
      ['s3://bucket/x', { partBytes: 1 }],
    ] as const)
      await assert.rejects(open(archive, s3), (error: unknown) => {
        assert.ok(isStratalogError(error), String(error))
        assert.match(error.code, /^(config_invalid|invalid_argument)$/)
        return true
      })
  })
})
