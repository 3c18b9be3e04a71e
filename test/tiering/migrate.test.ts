import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, test } from 'node:test'
import type { Log } from '../../src/log.js'
import type { MigrateToOptions, MigrationPart, MigrationReport } from '../../src/log-migrate.js'
import { openArchive, openLog } from '../../src/open.js'
import type { OpenOptions } from '../../src/options.js'
import { planRestore } from '../../src/restore.js'
import { silentLogger } from '../../src/system/logger.js'

const roots: string[] = []
afterEach(() => {
  for (const root of roots.splice(0)) rmSync(root, { recursive: true, force: true })
})

function place(): string {
  const root = mkdtempSync(join(tmpdir(), 'sl-migrate-'))
  roots.push(root)
  return root
}

const open = (root: string, archive: string, options: OpenOptions = {}): Promise<Log> =>
  openLog(join(root, 'log'), {
    archive: join(root, archive),
    tiering: 'off',
    control: 'off',
    config: 'none',
    storeFileBytes: 4 * 2 ** 20,
    defaults: { hot: { for: 0 }, evict: { lag: 0 } },
    system: { logger: silentLogger() },
    ...options,
  })

async function fill(log: Log, name: string, segments: number): Promise<void> {
  for (let at = 0; at < segments; at += 1) {
    await log.stream(name).appendAll([`${name} ${at} a`, `${name} ${at} b`])
    await log.stream(name).seal()
  }
}

async function textsOf(log: Log, name: string): Promise<string[]> {
  const texts: string[] = []
  for await (const { payload } of log.stream(name).read()) texts.push(Buffer.from(payload).toString())
  return texts
}

async function migrate(
  log: Log,
  options: MigrateToOptions,
): Promise<{ report: MigrationReport; parts: MigrationPart[] }> {
  const parts: MigrationPart[] = []
  for await (const part of log.archive.migrate(options)) parts.push(part)
  const end = parts.at(-1)
  assert.equal(end?.type, 'end')
  return { report: end.type === 'end' ? end.report : assert.fail(), parts }
}

/** Keys and bytes of an archive directory, marks and owners left out. */
function contents(archive: string): Map<string, string> {
  const found = new Map<string, string>()
  for (const name of readdirSync(archive, { recursive: true, encoding: 'utf8' }).sort()) {
    const path = join(archive, name)
    if (!statSync(path).isFile() || !/\/[cs][0-9a-v]{13}-/.test(name) || /-owner-/.test(name)) continue
    found.set(name, readFileSync(path).toString('base64'))
  }
  return found
}

async function digestOf(archive: string): Promise<string> {
  const store = await openArchive(archive)
  try {
    return (await planRestore(store)).digest
  } finally {
    await store.close()
  }
}

describe('migrate', () => {
  test('every object is in the new place, byte by byte, and the log goes on there', async () => {
    const root = place()
    const log = await open(root, 'old')
    await fill(log, 'a', 5)
    await fill(log, 'b', 3)
    await log.tier.run({ until: 'settled' })
    const before = await digestOf(join(root, 'old'))
    const texts = await textsOf(log, 'a')

    const { report } = await migrate(log, { to: join(root, 'new') })
    assert.equal(report.to, join(root, 'new'))
    assert.equal(report.epoch, 2n)
    assert.deepEqual(contents(join(root, 'new')), contents(join(root, 'old')))
    assert.deepEqual(await textsOf(log, 'a'), texts)
    assert.equal(await digestOf(join(root, 'new')), before)

    // What comes now goes to the new place alone.
    const left = contents(join(root, 'old')).size
    await fill(log, 'a', 1)
    await log.tier.run({ until: 'settled' })
    assert.equal(contents(join(root, 'old')).size, left)
    assert.equal(contents(join(root, 'new')).size, left + 1)
    assert.equal(log.parts.archiveLocation, join(root, 'new'))
    await log.close()

    // A configuration that names the old place leads to the new one, also when the old one is gone.
    for (const gone of [false, true]) {
      if (gone) rmSync(join(root, 'old'), { recursive: true })
      const again = await open(root, 'old')
      assert.equal((await again.archive.owner()).location, join(root, 'new'))
      assert.equal((await textsOf(again, 'a')).length, 12)
      await again.close()
    }
    await (await open(root, 'new')).close()
    await open(root, 'new')
      .then((one) => textsOf(one, 'b').finally(() => one.close()))
      .then((found) => assert.equal(found.length, 6))
  })

  test('the place that was left is refused with the new one named, and read where that is meant', async () => {
    const root = place()
    const log = await open(root, 'old')
    await fill(log, 'a', 2)
    await log.tier.run({ until: 'settled' })
    await migrate(log, { to: join(root, 'new') })
    await log.close()
    await assert.rejects(openArchive(join(root, 'old')), (error: Error & { code: string }) => {
      assert.equal(error.code, 'archive_moved')
      assert.match(error.message, new RegExp(join(root, 'new')))
      return true
    })
    const left = await openArchive(join(root, 'old'), {}, { moved: true })
    assert.equal((await planRestore(left)).streams.length, 1)
    await left.close()
    // Another log does not begin there either.
    const other = await openLog(join(root, 'other'), {
      archive: join(root, 'old'),
      tiering: 'off',
      control: 'off',
      config: 'none',
      system: { logger: silentLogger() },
    })
    await assert.rejects(textsOf(other, 'a'), { code: 'stream_not_found' })
    await assert.rejects(other.archive.takeOver(), { code: 'archive_moved' })
    await other.close()
  })
})
