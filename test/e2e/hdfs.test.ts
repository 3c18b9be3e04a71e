import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import type { Log } from '../../src/log.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import { openLog } from '../../src/open.js'
import { silentLogger } from '../../src/system/logger.js'
import { finished, start } from '../helpers/cli.js'
import { fillSegments, readAll, rowsOf } from '../helpers/tiered-log.js'
import { skipWithout } from '../servers/cache.js'
import { type Hdfs, startHdfs } from '../servers/hdfs.js'

describe('a log with its archive in HDFS', { skip: await skipWithout('hdfs') }, () => {
  let started: Hdfs | undefined
  let root = ''
  let logs = 0
  const cluster = (): Hdfs => present(started, 'HDFS')
  before(async () => {
    started = await startHdfs()
    root = mkdtempSync(join(tmpdir(), 'stratalog-hdfs-'))
  })
  after(async () => {
    await started?.close()
    if (root !== '') rmSync(root, { recursive: true, force: true })
  })

  const at = (path: string): string => `hdfs://${cluster().namenode}${path}`
  const open = (path: string): Promise<Log> =>
    openLog(join(root, `log-${++logs}`), {
      archive: at(path),
      hdfs: { user: cluster().user, namenodeTimeoutMs: 2_000 },
      tiering: 'off',
      control: 'off',
      config: 'none',
      storeFileBytes: 4 * 2 ** 20,
      defaults: { hot: { for: 0 }, evict: { lag: 0 } },
      system: { logger: silentLogger() },
    })

  test('append, tier, evict, read cold, restore from the files alone with the command line', async () => {
    {
      await using log = await open('/strata')
      await fillSegments(log, 'a', 3)
      await log.tier.run()
      assert.deepEqual(
        (await rowsOf(log, 'a')).map(({ state }) => state),
        ['cold', 'cold', 'cold'],
      )
      const { texts, cold, hot } = await readAll(log, 'a')
      assert.deepEqual([texts.length, texts[29], cold, hot], [30, 'a 29', 30, 0])
      const report = await log.doctor()
      assert.equal(report.bad, 0, JSON.stringify(report.checks))
    }
    const args = ['restore', '--from', at('/strata'), '--into', join(root, 'restored'), '--yes']
    const restored = await finished(start(args, root, { STRATALOG_HDFS__USER: cluster().user }))
    assert.equal(restored.code, 0, restored.err)
    assert.match(restored.out, /^restored 1 stream, 3 segments, 30 records into/m)
  })

  test('safe mode, a NameNode that is gone: named, hot copies stay, and it goes on', async () => {
    await using log = await open('/second')
    await fillSegments(log, 'a', 1)
    await log.tier.run()
    /** A segment that can't be copied now, and what is said about that. */
    const stays = async (name: string): Promise<string> => {
      await fillSegments(log, name, 1)
      const { failed } = await log.tier.run({ until: 'once' })
      // Invariant 4: it is hot until a copy was read back.
      assert.equal((await rowsOf(log, name))[0]?.state, 'sealed')
      assert.equal((await readAll(log, name)).texts.length, 10)
      return failed.map(({ error }) => error).join('; ')
    }
    await cluster().safeMode(true)
    assert.match(await stays('b'), /safe mode/i)
    assert.equal((await readAll(log, 'a')).texts.length, 10, 'safe mode is no reason not to read')
    await cluster().safeMode(false)
    await log.tier.run()
    assert.equal((await rowsOf(log, 'b'))[0]?.state, 'cold')

    await cluster().killNamenode()
    await stays('c')
    const bad = (await log.doctor()).checks.find(({ state }) => state === 'bad')
    assert.equal(bad?.area, 'archive')
    // What was read lately may still be in memory; this was read from the stores only.
    await assert.rejects(readAll(log, 'b'), (error: unknown) =>
      isStratalogError(error, 'archive_unavailable'),
    )
    await cluster().startNamenode()
    await log.tier.run()
    assert.equal((await rowsOf(log, 'c'))[0]?.state, 'cold')
    for (const name of ['a', 'b', 'c']) assert.equal((await readAll(log, name)).texts.length, 10)
  })

  test('what can not be right is refused when the log is opened; a user without rights is named', async () => {
    for (const path of ['/a:b', '/.snapshot/x']) await assert.rejects(open(path), { code: 'config_invalid' })
    const command = ['archive', 'ls', '--from', at('/nothing/there')]
    const missing = await finished(start(command, root, { STRATALOG_HDFS__USER: cluster().user }))
    assert.equal(missing.code, 1, missing.err)
    assert.match(missing.err, /nothing\/there/)
    const stranger = await openLog(join(root, 'stranger'), {
      archive: at('/not-mine'),
      hdfs: { user: 'stranger' },
      tiering: 'off',
      control: 'off',
      config: 'none',
      storeFileBytes: 4 * 2 ** 20,
      system: { logger: silentLogger() },
    })
    try {
      const bad = (await stranger.doctor()).checks.find(({ state }) => state === 'bad')
      assert.match(`${bad?.text} ${bad?.mend}`, /stranger.*access_denied/)
    } finally {
      await stranger.close()
    }
  })
})
