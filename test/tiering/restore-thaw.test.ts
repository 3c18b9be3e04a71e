import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { directoryArchive } from '../../archive/directory/store.js'
import { isStratalogError } from '../../src/model/errors.js'
import { openArchive, openLog } from '../../src/open.js'
import { planRestore, restoreArchive } from '../../src/restore.js'
import { silentLogger } from '../../src/system/logger.js'
import { Freezer, thawingArchive } from '../helpers/thawing-archive.js'
import { fillSegments, readAll } from '../helpers/tiered-log.js'

let root = ''
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'stratalog-restore-thaw-'))
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

const common = {
  tiering: 'off',
  control: 'off',
  config: 'none',
  storeFileBytes: 4 * 1024 * 1024,
  system: { logger: silentLogger() },
} as const

describe('a restore of objects that can not be read at once', () => {
  test('asks for all that is still to be restored, once, and goes on when they can be read', async () => {
    {
      await using log = await openLog(join(root, 'log'), {
        ...common,
        archive: join(root, 'archive'),
        defaults: { hot: { for: 0 }, evict: { lag: 0 } },
      })
      await fillSegments(log, 'a', 3)
      await fillSegments(log, 'b', 2)
      await log.tier.run()
    }
    const freezer = new Freezer()
    const archive = thawingArchive(directoryArchive(join(root, 'archive')), freezer)
    const restore = async () => {
      const source = await openArchive(archive)
      try {
        await using log = await openLog(join(root, 'restored'), common)
        return await restoreArchive(log, source, await planRestore(source))
      } finally {
        await source.close()
      }
    }
    // The first segment was moved away already; the others can't be read.
    let first = ''
    freezer.frozen = (key) => {
      if (!/\/s[0-9a-v]{13}-/.test(key)) return false
      if (first === '') first = key
      return key !== first
    }
    const waits = (error: unknown) =>
      isStratalogError(error, 'thawing') &&
      /4 objects .* run the same restore again/.test(error.message) &&
      error.retryable
    await assert.rejects(restore(), waits)
    assert.equal(freezer.asked.size, 4)
    assert.ok(!freezer.asked.has(first), 'what is restored is not asked for')
    // Still on their way: asked again, which tells no more and costs nothing.
    await assert.rejects(restore(), waits)
    freezer.thawAsked()
    const report = await restore()
    assert.deepEqual([report.streams, report.segments, report.records], [2, 5, 50n])
    await using log = await openLog(join(root, 'restored'), common)
    assert.equal((await readAll(log, 'a')).texts.length, 30)
    assert.equal((await readAll(log, 'b')).texts.length, 20)
  })
})
