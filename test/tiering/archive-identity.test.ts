import assert from 'node:assert/strict'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import type { Log } from '../../src/log.js'
import { openArchive, openLog } from '../../src/open.js'
import { silentLogger } from '../../src/system/logger.js'

let root = ''
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'stratalog-identity-'))
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

function open(directory = 'log', archive = 'archive'): Promise<Log> {
  return openLog(join(root, directory), {
    archive: join(root, archive),
    tiering: 'off',
    control: 'off',
    config: 'none',
    storeFileBytes: 4 * 1024 * 1024,
    defaults: { hot: { for: 0 }, evict: { lag: 0 } },
    system: { logger: silentLogger() },
  })
}

async function appendAndTier(log: Log, value: string, name = 'a') {
  await log.stream(name).append(value)
  await log.stream(name).seal()
  return await log.tier.run()
}

async function values(log: Log): Promise<string[]> {
  const found: string[] = []
  for await (const { payload } of log.stream('a').read()) found.push(Buffer.from(payload).toString())
  return found
}

describe('the archive of a log (decision 0008)', () => {
  test('an empty mount point or no directory at all is archive_missing: nothing is made, copied or evicted', async () => {
    {
      await using log = await open()
      assert.equal((await appendAndTier(log, 'one')).copied, 1)
    }
    for (const mount of [false, true]) {
      renameSync(join(root, 'archive'), join(root, 'unmounted'))
      if (mount) mkdirSync(join(root, 'archive'))
      {
        await using log = await open()
        const report = await appendAndTier(log, `mount ${mount}`)
        assert.deepEqual([report.copied, report.evicted], [0, 0])
        assert.match(report.failed[0]?.error ?? '', /mounted/)
        assert.match((await log.tier.status()).archive.archive, /^(failing|down)$/)
        await assert.rejects(values(log), { code: 'archive_missing' })
      }
      assert.deepEqual(readdirSync(root).includes('archive'), mount)
      if (mount) assert.deepEqual(readdirSync(join(root, 'archive')), [])
      rmSync(join(root, 'archive'), { recursive: true, force: true })
      renameSync(join(root, 'unmounted'), join(root, 'archive'))
    }
    await using log = await open()
    assert.equal((await log.tier.run()).copied, 2)
    assert.deepEqual(await values(log), ['one', 'mount false', 'mount true'])
  })

  test('another archive is not ours, a copy of the whole one is, wherever it lies', async () => {
    {
      await using log = await open()
      await appendAndTier(log, 'one')
      await using other = await open('other', 'theirs')
      await appendAndTier(other, 'theirs')
    }
    {
      await using log = await open('log', 'theirs')
      const report = await appendAndTier(log, 'two')
      assert.equal(report.copied, 0)
      assert.match(report.failed[0]?.error ?? '', /copy the whole archive/)
    }
    cpSync(join(root, 'archive'), join(root, 'moved'), { recursive: true })
    rmSync(join(root, 'archive'), { recursive: true })
    await using log = await open('log', 'moved')
    assert.equal((await log.tier.run()).copied, 1)
    assert.deepEqual(await values(log), ['one', 'two'])
  })

  test('a second log does not take an archive over', async () => {
    {
      await using log = await open()
      await appendAndTier(log, 'one')
    }
    {
      await using other = await open('other')
      const report = await appendAndTier(other, 'mine')
      assert.deepEqual([report.copied, report.evicted], [0, 0])
      assert.match(report.failed[0]?.error ?? '', /belongs to log [0-9a-f]{32}.*of its own/)
      assert.deepEqual(await values(other), ['mine'])
    }
    {
      await using other = await open('other', 'own')
      assert.equal((await other.tier.run()).copied, 1)
    }
    await using log = await open()
    assert.equal((await appendAndTier(log, 'two')).copied, 1)
  })

  test('who wants to read an archive makes none', async () => {
    mkdirSync(join(root, 'empty'))
    for (const name of ['empty', 'absent'])
      await assert.rejects(openArchive(join(root, name)), { code: 'archive_missing' })
    assert.deepEqual(readdirSync(root), ['empty'])
    assert.deepEqual(readdirSync(join(root, 'empty')), [])
  })
})
