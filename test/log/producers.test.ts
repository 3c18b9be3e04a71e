import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import type { Log } from '../../src/log.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import { openArchive, openLog } from '../../src/open.js'
import { planRestore, restoreArchive } from '../../src/restore.js'
import { silentLogger } from '../../src/system/logger.js'

const code = (expected: string) => (error: unknown) => isStratalogError(error) && error.code === expected

describe('producers and finished streams of a real log', () => {
  let root = ''
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'stratalog-producers-'))
  })
  afterEach(() => rmSync(root, { recursive: true, force: true }))

  const open = (name = 'log', archive = true): Promise<Log> =>
    openLog(join(root, name), {
      tiering: 'off',
      control: 'off',
      config: 'none',
      ...(archive ? { archive: join(root, 'archive') } : {}),
      storeFileBytes: 4 * 1024 * 1024,
      defaults: { hot: { for: '1ms' }, evict: { lag: 0 } },
      system: { logger: silentLogger() },
    })
  const contents = async (log: Log) => {
    const seen: string[] = []
    for await (const { dlsn, txid, sequenceId, payload } of log.stream('a').read())
      seen.push(`${dlsn} ${txid} ${sequenceId} ${Buffer.from(payload).toString()}`)
    return seen
  }
  const values = (count: number) => Array.from({ length: count }, (_, id) => `value ${id}`)

  test('retries are recognised after a restart, from the archive alone, and in a restored log', async () => {
    let written: string[]
    {
      await using log = await open()
      const summary = await log.stream('a').appendAll(values(100), { producer: 'loader' })
      assert.equal(summary.count, 100)
      await log.stream('a').append('plain')
      await log.stream('a').seal()
      // Copied, read back (the tally counts user records alone), evicted.
      assert.deepEqual((await log.tier.run()).failed, [])
      for await (const row of log.segments('a')) assert.equal(row.state, 'cold')
      written = await contents(log)
    }
    {
      await using log = await open()
      assert.deepEqual(await contents(log), written, 'the same DLSNs from the archive (invariant 2)')
      const again = await log.stream('a').appendAll(values(120), { producer: 'loader' })
      assert.deepEqual([again.count, again.duplicates], [120, 100])
      await log.stream('a').seal()
      assert.deepEqual((await log.tier.run()).failed, [])
      written = await contents(log)
      assert.equal(written.length, 121)
    }
    const archive = await openArchive(join(root, 'archive'))
    await using restored = await open('restored', false)
    await restoreArchive(restored, archive, await planRestore(archive))
    await archive.close()
    assert.deepEqual(await contents(restored), written, 'equal DLSNs (invariant 7)')
    const third = await restored.stream('a').appendAll(values(120), { producer: 'loader' })
    assert.ok(third.duplicate)
  })

  test('a finished stream stays finished, and its history goes to the archive as any other', async () => {
    {
      await using log = await open()
      await log.stream('a').append('last')
      await log.stream('a').finish()
      assert.deepEqual((await log.tier.run()).failed, [])
    }
    await using log = await open()
    await assert.rejects(log.stream('a').append('more'), code('stream_finished'))
    assert.ok(present((await log.stream('a').info()).finishedMs, 'time') > 0)
    const seen: string[] = []
    for await (const { payload } of log.stream('a').read({ follow: true }))
      seen.push(Buffer.from(payload).toString())
    assert.deepEqual(seen, ['last'])
  })
})
