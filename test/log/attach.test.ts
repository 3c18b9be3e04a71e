import assert from 'node:assert/strict'
import { chmodSync, existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { putControl } from '../../archive/control-objects.js'
import { directoryArchive } from '../../archive/directory/store.js'
import { decodeSegmentKey } from '../../src/format/archive-names.js'
import type { Log } from '../../src/log.js'
import { text } from '../../src/model/codec.js'
import { openArchive, openLog } from '../../src/open.js'
import type { OpenOptions } from '../../src/options.js'
import type { ArchiveEngine, ArchiveStore } from '../../src/ports/archive-store.js'
import { silentLogger } from '../../src/system/logger.js'
import { countingRandom } from '../helpers/archive.js'

let root = ''
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'stratalog-attach-'))
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

function open(directory: string, options: OpenOptions): Promise<Log> {
  return openLog(join(root, directory), {
    control: 'off',
    config: 'none',
    storeFileBytes: 4 * 1024 * 1024,
    system: { logger: silentLogger() },
    ...options,
  })
}

const owner = () =>
  open('log', {
    archive: join(root, 'archive'),
    tiering: 'off',
    defaults: { hot: { for: 0 }, evict: { lag: 0 } },
  })
const attached = (directory = 'view') => open(directory, { attach: join(root, 'archive') })

async function write(log: Log, name: string, ...values: string[]): Promise<void> {
  for (const value of values) await log.stream(name).append(value)
  await log.stream(name).seal()
  assert.deepEqual((await log.tier.run()).failed, [])
}

async function values(log: Log, name: string): Promise<string[]> {
  const found: string[] = []
  for await (const one of log.stream(name, { codec: text() }).read({ onGap: 'yield' }))
    found.push('gap' in one ? `gap ${one.gap}` : one.value)
  return found
}

async function names(log: Log): Promise<string[]> {
  const found: string[] = []
  for await (const { name } of log.streams.list()) found.push(name)
  return found
}

describe('an archive that another log owns, attached', () => {
  test('is read, followed as it grows, and never written to', async () => {
    await using log = await owner()
    await write(log, 'a', '1', '2')
    const before = readdirSync(join(root, 'archive'), { recursive: true }).length
    await using view = await attached()
    assert.deepEqual(await values(view, 'a'), ['1', '2'])
    assert.equal((await view.stream('a').info()).nextSequenceId, 2n)
    assert.equal(readdirSync(join(root, 'archive'), { recursive: true }).length, before)

    const seen: string[] = []
    const following = (async () => {
      for await (const { value } of view.stream('a', { codec: text() }).read({ follow: true }))
        seen.push(value)
    })()
    await write(log, 'a', '3')
    await write(log, 'b', 'new stream')
    await view.archive.refresh()
    assert.deepEqual(await names(view), ['a', 'b'])
    // Renamed, trimmed and ended on purpose there: here too, and the follower ends behind the last record.
    await log.streams.rename('b', 'c')
    await log.stream('c').setPolicy({ keep: { for: '1ms' } })
    await log.stream('a').finish()
    await log.tier.run()
    await view.archive.refresh()
    await following
    assert.deepEqual(seen, ['1', '2', '3'])
    assert.deepEqual(await names(view), ['a', 'c'])
    assert.deepEqual(await values(view, 'c'), [])
    assert.notEqual((await view.stream('a').info()).finishedMs, null)
  })

  test('whatever would change it is refused with where to do it', async () => {
    await using log = await owner()
    await write(log, 'a', '1')
    await using view = await attached()
    const refused = { code: 'refused', message: /another log owns: append there, or restore/ }
    await assert.rejects(view.stream('a').append('x'), refused)
    await assert.rejects(view.stream('new').append('x'), refused)
    await assert.rejects(view.streams.create('new'), refused)
    await assert.rejects(view.streams.rename('a', 'b'), refused)
    await assert.rejects(view.stream('a').setPolicy({ hot: { for: 0 } }), refused)
    await assert.rejects(view.stream('a').finish(), refused)
    await assert.rejects(view.tier.run(), refused)
    await assert.rejects(view.archive.takeOver(), refused)
    await assert.rejects(values(view, 'nobody'), { code: 'stream_not_found' })
    assert.equal((await view.tier.status()).streams.length, 1)
  })

  test('a gap, a hole and a later life of a name are what a restore would make of them', async () => {
    await using log = await owner()
    for (const value of ['1', '2', '3']) await write(log, 'a', value)
    const second = readdirSync(join(root, 'archive'), { recursive: true, encoding: 'utf8' }).find((name) =>
      /\/s0000000000002-/.test(name),
    )
    rmSync(join(root, 'archive', `${second}`))
    await using view = await attached()
    assert.deepEqual(await values(view, 'a'), ['1', 'gap corrupt', '3'])
    const { incarnation } = await view.stream('a').info()
    await putControl(
      await openArchive(join(root, 'archive')),
      incarnation,
      90n,
      'delete',
      { atMs: 1 },
      countingRandom(),
    )
    await view.archive.refresh()
    assert.deepEqual(await values(view, 'a'), [])
  })

  test('a segment that is stored while the archive is listed is no gap: the next look has it (invariant 2)', async () => {
    await using log = await owner()
    for (const value of ['1', '2', '3']) await write(log, 'a', value)
    const engine = directoryArchive(join(root, 'archive'))
    let listings = 0
    // The first listing passes by the second segment before it is there, and meets the third.
    const late: ArchiveEngine = {
      ...engine,
      open: async (context) => {
        const store = await engine.open(context)
        const listFrom: ArchiveStore['listFrom'] = async (prefix, ...rest) => {
          const page = await store.listFrom(prefix, ...rest)
          if (!prefix.endsWith('/s') || listings++ > 0) return page
          return page.filter(({ key }) => decodeSegmentKey(key)?.segment !== 2n)
        }
        return Object.create(store, {
          listFrom: { value: listFrom },
          readRange: { value: store.readRange.bind(store) },
          head: { value: store.head.bind(store) },
          close: { value: () => store.close() },
        }) as ArchiveStore
      },
    }
    await using view = await open('view', { attach: late })
    await view.archive.refresh()
    assert.deepEqual(await values(view, 'a'), ['1', '2', '3'])
  })

  test('the cache is used again, and made anew where it is damaged or of another archive', async () => {
    {
      await using log = await owner()
      await write(log, 'a', '1')
      await using view = await attached()
      await values(view, 'a')
      await write(log, 'a', '2')
    }
    {
      await using view = await attached()
      assert.deepEqual(await values(view, 'a'), ['1', '2'])
    }
    writeFileSync(join(root, 'view', 'attached.db'), Buffer.alloc(8192, 'x'))
    {
      await using view = await attached()
      assert.deepEqual(await values(view, 'a'), ['1', '2'])
    }
    await using other = await open('other', { archive: join(root, 'second'), tiering: 'off' })
    await write(other, 'b', 'x')
    await using view = await open('view', { attach: join(root, 'second') })
    assert.deepEqual(await names(view), ['b'])
  })

  test('an archive that can not be written is read; a log of its own, a missing archive and an own archive are refused', async () => {
    {
      await using log = await owner()
      await write(log, 'a', '1')
    }
    chmodSync(join(root, 'archive'), 0o555)
    rmSync(join(root, 'archive', '.tmp'), { recursive: true, force: true })
    {
      await using view = await attached()
      assert.deepEqual(await values(view, 'a'), ['1'])
      assert.equal(existsSync(join(root, 'archive', '.tmp')), false, 'nothing was made in it')
    }
    chmodSync(join(root, 'archive'), 0o755)
    await assert.rejects(attached('log'), { code: 'refused', message: /a log of its own/ })
    await assert.rejects(open('view', { attach: join(root, 'absent') }), { code: 'archive_missing' })
    assert.equal(existsSync(join(root, 'absent')), false)
    const both = { attach: join(root, 'archive'), archive: join(root, 'archive') }
    await assert.rejects(open('view', both), { code: 'invalid_argument' })
  })
})
