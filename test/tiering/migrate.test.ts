import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, test } from 'node:test'
import type { Log } from '../../src/log.js'
import type { MigrateToOptions, MigrationPart, MigrationReport } from '../../src/log-migrate.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { openArchive, openLog } from '../../src/open.js'
import type { OpenOptions } from '../../src/options.js'
import { planRestore } from '../../src/restore.js'
import { silentLogger } from '../../src/system/logger.js'
import { memoryLogger } from '../helpers/archive.js'

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

describe('migrate while the log runs', () => {
  test('appends, copies, trims and readers go on; the new place has it all and nothing that was deleted', async () => {
    const root = place()
    const log = await open(root, 'old')
    const rounds = 12
    let appended = 0
    const grow = async () => {
      for (let at = 0; at < rounds; at += 1) {
        await fill(log, 'a', 1)
        appended += 2
        await log.tier.run()
        if (at === rounds - 3) await log.stream('a').trim({ before: new Dlsn(4n, 0n, 0n) })
      }
    }
    await fill(log, 'a', 6)
    await log.tier.run({ until: 'settled' })
    const growing = grow()
    const seen: string[] = []
    const reading = (async () => {
      for await (const { payload } of log.stream('a').read({ from: new Dlsn(4n, 0n, 0n) })) {
        seen.push(Buffer.from(payload).toString())
        await new Promise((resolve) => setImmediate(resolve))
      }
    })()
    const { report } = await migrate(log, { to: join(root, 'new') })
    await Promise.all([growing, reading])
    await log.tier.run({ until: 'settled' })
    assert.ok(seen.length >= 6, 'a reader goes on over the switch')
    assert.equal(report.damaged, 0)
    assert.equal((await textsOf(log, 'a')).length, 12 + appended - 6)
    for await (const part of log.archive.verify({ deep: true }))
      assert.notEqual(part.type, 'finding', part.type === 'finding' ? part.finding.text : '')
    const segments = [...contents(join(root, 'new')).keys()].filter((key) => /\/s/.test(key))
    assert.equal(segments.length, 6 + rounds - 3, 'what was trimmed meanwhile is not there again')
    await log.close()
  })

  test('an index that is made again finds the archive where it went', async () => {
    const root = place()
    const log = await open(root, 'old')
    await fill(log, 'a', 3)
    await log.tier.run({ until: 'settled' })
    await migrate(log, { to: join(root, 'new') })
    await fill(log, 'a', 1)
    await log.tier.run({ until: 'settled' })
    await log.close()
    for (const name of readdirSync(join(root, 'log')))
      if (/^index\.db/.test(name)) rmSync(join(root, 'log', name))
    const again = await open(root, 'old')
    assert.equal((await textsOf(again, 'a')).length, 8)
    assert.equal((await again.archive.owner()).location, join(root, 'new'))
    // Its higher epoch does not make it another log's.
    assert.equal(await again.parts.segments.index.fact('archive-taken-over'), null)
    await again.close()
  })

  test('there and back again', async () => {
    const root = place()
    const log = await open(root, 'old')
    await fill(log, 'a', 2)
    await log.tier.run({ until: 'settled' })
    await migrate(log, { to: join(root, 'new') })
    await assert.rejects(migrate(log, { to: join(root, 'old') }), { code: 'archive_moved' })
    rmSync(join(root, 'old'), { recursive: true })
    const { report } = await migrate(log, { to: join(root, 'old') })
    assert.equal(report.epoch, 3n)
    await log.close()
    for (const named of ['old', 'new']) {
      const again = await open(root, named)
      assert.equal((await again.archive.owner()).location, join(root, 'old'))
      assert.equal((await textsOf(again, 'a')).length, 4)
      await again.close()
    }
  })

  test('a log that is attached to the place that was left reads on, and says that it moved', async () => {
    const root = place()
    const log = await open(root, 'old')
    await fill(log, 'a', 2)
    await log.tier.run({ until: 'settled' })
    const lines: string[] = []
    const attach = (name: string) =>
      openLog(join(root, 'view'), {
        attach: join(root, name),
        control: 'off',
        config: 'none',
        system: { logger: memoryLogger(lines) },
      })
    const view = await attach('old')
    await migrate(log, { to: join(root, 'new') })
    await view.archive.refresh()
    assert.equal((await textsOf(view, 'a')).length, 4)
    assert.ok(lines.some((line) => line.includes('the archive that is attached moved')))
    await view.close()
    await assert.rejects(attach('old'), { code: 'archive_moved' })
    const next = await attach('new')
    assert.equal((await textsOf(next, 'a')).length, 4)
    await next.close()
    await log.close()
  })
})

describe('migrate refuses', () => {
  test('a place that is not empty, is the same, lies inside, or while another migration is under way', async () => {
    const root = place()
    const log = await open(root, 'old')
    await assert.rejects(migrate(log, { to: join(root, 'new') }), /nothing to migrate/)
    await fill(log, 'a', 1)
    await log.tier.run({ until: 'settled' })
    const other = await openLog(join(root, 'other'), {
      archive: join(root, 'taken'),
      tiering: 'off',
      control: 'off',
      config: 'none',
      system: { logger: silentLogger() },
    })
    await fill(other, 'b', 1)
    await other.tier.run({ until: 'settled' })
    await other.close()
    await assert.rejects(migrate(log, { to: join(root, 'taken') }), /is the archive of log/)
    await assert.rejects(migrate(log, { to: join(root, 'old') }), /is at .* already/)
    await assert.rejects(migrate(log, { to: join(root, 'old', 'in') }), /one in the other/)
    await assert.rejects(migrate(log, { to: join(root, 'new'), rate: 'fast' }), /is not a size/)
    const stop = new AbortController()
    const stopped = log.archive
      .migrate({ to: join(root, 'new'), signal: stop.signal })
      [Symbol.asyncIterator]()
    stop.abort(new Error('enough'))
    await assert.rejects(async () => {
      while ((await stopped.next()).done !== true);
    }, /enough/)
    await log.close()
  })

  test('what it stopped for is said, gone on with, and can be ended', async () => {
    const root = place()
    const log = await open(root, 'old')
    await fill(log, 'a', 4)
    await log.tier.run({ until: 'settled' })
    const [key = ''] = [...contents(join(root, 'old')).keys()].filter((name) => /\/s/.test(name)).slice(1)
    const bytes = readFileSync(join(root, 'old', key))
    const bad = Buffer.from(bytes)
    bad[200] = (bad[200] ?? 0) ^ 1
    writeFileSync(join(root, 'old', key), bad)
    const to = join(root, 'new')
    const parts: MigrationPart[] = []
    const run = async () => {
      for await (const part of log.archive.migrate({ to })) parts.push(part)
    }
    await assert.rejects(run(), { code: 'corrupt' })
    assert.ok(parts.some((part) => part.type === 'finding' && part.finding.kind === 'damaged'))
    assert.equal((await log.archive.migration())?.to, to)
    assert.equal((await log.archive.owner()).location, join(root, 'old'))
    await assert.rejects(openArchive(to), /is not whole/)
    await assert.rejects(migrate(log, { to: join(root, 'elsewhere') }), /go on with that/)
    const plan = await log.archive.planMigration({ to })
    assert.deepEqual([plan.begun, plan.objects - plan.thereObjects], [true, 1])

    assert.deepEqual(await log.archive.abortMigration(), { to, deleted: plan.thereObjects })
    assert.deepEqual(contents(to).size, 0)
    await assert.rejects(log.archive.abortMigration(), { code: 'not_found' })

    // With its damage: all there is of it, and reads of the rest go on.
    const { report } = await migrate(log, { to, allowDamaged: true })
    assert.equal(report.damaged, 1)
    assert.deepEqual(readFileSync(join(to, key)), bad)
    await log.close()
  })

  test('a damaged object is mended from its hot copy or a twin first, and one that is nowhere is said', async () => {
    const root = place()
    const log = await open(root, 'old', { defaults: { hot: { for: '10 days' } } })
    await fill(log, 'a', 3)
    await log.tier.run({ until: 'settled' })
    const [first = '', second = ''] = [...contents(join(root, 'old')).keys()].filter((name) =>
      /\/s/.test(name),
    )
    for (const key of [first, second]) {
      const bytes = readFileSync(join(root, 'old', key))
      if (key === second) writeFileSync(join(root, 'old', key.replace(/.{13}$/, '7777777777777')), bytes)
      bytes[200] = (bytes[200] ?? 0) ^ 1
      writeFileSync(join(root, 'old', key), bytes)
    }
    const { report } = await migrate(log, { to: join(root, 'new') })
    assert.equal(report.mended, 2)
    assert.equal(contents(join(root, 'new')).has(first), false)
    for await (const part of log.archive.verify({ deep: true })) assert.notEqual(part.type, 'finding')
    const rows = [...contents(join(root, 'new')).keys()].filter((name) => /\/s/.test(name))
    await log.tier.run({ until: 'settled' })

    for (const key of rows.filter((name) => /s0000000000002-/.test(name))) rmSync(join(root, 'new', key))
    const lost: string[] = []
    const again = async (allowDamaged: boolean) => {
      for await (const part of log.archive.migrate({ to: join(root, 'third'), allowDamaged }))
        if (part.type === 'finding') lost.push(part.finding.kind)
    }
    await assert.rejects(again(false), { code: 'corrupt' })
    assert.deepEqual(lost, ['missing'])
    await again(true)
    assert.deepEqual(lost, ['missing', 'missing'])
    await log.close()
  })
})
