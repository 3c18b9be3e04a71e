import assert from 'node:assert/strict'
import { cpSync, existsSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import type { Log } from '../../src/log.js'
import { present } from '../../src/model/assert.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { type ErrorCode, isStratalogError } from '../../src/model/errors.js'
import { rebuildLogIndex } from '../../src/open/rebuild-log.js'
import { openArchive, openLog } from '../../src/open.js'
import type { OpenOptions } from '../../src/options.js'
import { planRestore, restoreArchive } from '../../src/restore.js'
import { silentLogger } from '../../src/system/logger.js'
import { statesOf, valuesOf } from '../helpers/own-archive-log.js'
import { type Bookies, startBookies } from '../servers/bookkeeper.js'
import { skipWithout } from '../servers/cache.js'

const skip = await skipWithout('bookkeeper')
const BASE = mkdtempSync(join(tmpdir(), 'sl-verbs-'))
const directory = () => mkdtempSync(join(BASE, 'dir-'))

/** What an operator can order of a log in a directory, ordered of one in a cluster: it works, or says why not. */
describe('verbs in a cluster', { skip }, () => {
  let cluster: Bookies | undefined
  const opened: Log[] = []
  before(async () => {
    cluster = await startBookies({ count: 4 })
  })
  after(async () => {
    await Promise.allSettled(opened.map((log) => log.close()))
    await cluster?.stop()
    rmSync(BASE, { recursive: true, force: true })
  })

  const options = (namespace: string, more: Partial<OpenOptions> = {}): OpenOptions => ({
    metadata: `zk://${present(cluster, 'cluster').zk.address}/${namespace}`,
    stores: 'bookkeeper',
    archive: join(BASE, namespace),
    zookeeper: { sessionTimeoutMs: 4_000 },
    bookkeeper: { evict: true },
    defaults: { evict: { lag: 0 }, hot: { for: 0 } },
    tiering: 'off',
    control: 'off',
    config: 'none',
    system: { logger: silentLogger() },
    ...more,
  })
  const open = async (settings: OpenOptions, dir = directory()): Promise<Log> => {
    const log = await openLog(dir, settings)
    opened.push(log)
    return log
  }
  /** Segments of two records each, and everything that is due happens. */
  const fill = async (log: Log, name: string, segments: number, first = 0): Promise<void> => {
    for (let segment = first; segment < first + segments; segment += 1) {
      for (const half of ['a', 'b']) await log.stream(name).append(`${segment}${half}`)
      await log.stream(name).seal()
    }
    for (let pass = 0; pass < 2; pass += 1) assert.deepEqual((await log.tier.run()).failed, [])
  }
  const valuesUpTo = (segments: number, first = 0): string[] =>
    Array.from({ length: segments }, (_, at) => [`${first + at}a`, `${first + at}b`]).flat()
  const settled = async <T>(parts: AsyncIterable<T>): Promise<T[]> => {
    const all: T[] = []
    for await (const part of parts) all.push(part)
    return all
  }
  const faults = async (log: Log, deep = false): Promise<object[]> =>
    (await settled(log.fsck({ deep }))).flatMap((part) => {
      if (part.type !== 'finding') return []
      const { severity, where, problem, stream } = part.finding
      return [{ severity, where, problem, stream }]
    })
  const objectsIn = (archive: string): string[] =>
    readdirSync(join(BASE, archive), { recursive: true, encoding: 'utf8' })
      .filter((name) => /\/s[0-9a-v]{13}-/.test(name))
      .map((name) => join(BASE, archive, name))

  test('fsck, verify and scrub find a sound log sound, and name what is not; hot copies are kept by BookKeeper', async () => {
    const log = await open(options('checks', { bookkeeper: { evict: false } }))
    await fill(log, 'orders', 3)
    assert.deepEqual(await statesOf(log, 'orders'), Array(3).fill('archived'))
    await log.stream('orders').append('open')
    assert.deepEqual(await faults(log), [])
    assert.deepEqual(await faults(log, true), [])
    for await (const part of log.archive.verify({ deep: true })) assert.notEqual(part.type, 'finding')
    assert.deepEqual((await log.archive.scrub()).alarms, [])
    assert.equal((await log.tier.status()).upkeep.copiesAreKept, true)
    const attached = await open({
      attach: join(BASE, 'checks'),
      control: 'off',
      system: { logger: silentLogger() },
    })
    assert.deepEqual(await valuesOf(attached, 'orders'), valuesUpTo(3))
    await attached.close()
    const orphans = await settled(log.archive.orphans({ graceMs: 0 }))
    assert.deepEqual(
      orphans.map(({ type }) => type),
      ['end'],
    )
    const plain = { severity: 'damage', stream: 'orders' }
    const [object = ''] = objectsIn('checks')
    renameSync(object, `${object}.away`)
    const [found, ...more] = await faults(log)
    renameSync(`${object}.away`, object)
    assert.deepEqual({ ...plain, where: 'archive', problem: 'missing' }, found)
    assert.deepEqual(more, [])
    // A bookie that lacks what it is to hold; the others have it.
    const { ledger, index } = log.parts.segments
    const stream = present(await log.streams.find('orders'), 'orders')
    const row = present(await index.segment(stream.incarnation, 1n), 'segment')
    const ledgerId = present(row.ledgerId, 'ledger')
    const { metadata, version } = await ledger.metadata.read(ledgerId)
    const [one, ...rest] = present(metadata.ensembles[0], 'ensemble').members
    const [another] = (await ledger.stores.writable()).filter(({ id }) => id !== one && !rest.includes(id))
    const members = [present(another, 'a bookie more').id, ...rest]
    await ledger.metadata.compareAndSet(ledgerId, version, {
      ...metadata,
      ensembles: [{ firstEntryId: 0n, members }],
    })
    assert.deepEqual(await faults(log), [{ ...plain, where: 'stores', problem: 'copies' }])
    await log.close()
  })

  test('hold, trim, recall, evict and delete: as in a directory, and the tree follows', async () => {
    const log = await open(options('ranges'))
    await fill(log, 'orders', 5)
    const stream = log.stream('orders')
    assert.deepEqual(new Set(await statesOf(log, 'orders')), new Set(['cold']))
    await stream.recall({ from: new Dlsn(2n, 0n, 0n), until: new Dlsn(4n, 0n, 0n) }, { for: '1h' })
    assert.deepEqual(await statesOf(log, 'orders'), ['cold', 'archived', 'archived', 'cold', 'cold'])
    // The ledgers that a recall made are known to every process.
    const other = await open(options('ranges'))
    assert.deepEqual(await valuesOf(other, 'orders'), valuesUpTo(5))
    assert.equal((await stream.evict()).evicted, 2)
    assert.deepEqual(await valuesOf(other, 'orders'), valuesUpTo(5))

    await stream.hold({ id: 'case', from: new Dlsn(3n, 0n, 0n) })
    const held = await other.stream('orders').trim({ before: new Dlsn(5n, 0n, 0n) })
    assert.deepEqual([held.below?.segment, held.held?.hold.id], [3n, 'case'])
    assert.deepEqual(await valuesOf(log, 'orders'), valuesUpTo(3, 2))
    await assert.rejects(log.streams.delete('orders'), (error) => isStratalogError(error, 'refused'))
    await other.stream('orders').release('case')
    assert.equal((await stream.trim({ before: new Dlsn(5n, 0n, 0n) })).below?.segment, 5n)
    assert.deepEqual(await valuesOf(other, 'orders'), valuesUpTo(1, 4))
    assert.equal((await log.streams.delete('orders')).settled, true)
    assert.equal(await other.streams.find('orders'), null)
    assert.deepEqual(objectsIn('ranges'), [])
    await other.close()
    await log.close()
  })

  test('rename, clone and a move of the archive are refused before anything is done, and say what to do', async () => {
    const log = await open(options('refused'))
    await fill(log, 'orders', 2)
    const refused = (code: ErrorCode, says: RegExp) => (error: unknown) =>
      isStratalogError(error, code) && says.test(error.message)
    const before = readdirSync(join(BASE, 'refused'), { recursive: true }).length
    await assert.rejects(
      log.streams.rename('orders', 'others'),
      refused('unsupported', /restore --streams orders --as orders=NAME/),
    )
    await assert.rejects(
      log.streams.clone('orders', 'copy'),
      refused('unsupported', /--streams orders --as orders=copy/),
    )
    const to = join(BASE, 'elsewhere')
    await assert.rejects(settled(log.archive.migrate({ to })), refused('unsupported', /stop all that have/))
    await assert.rejects(log.archive.planMigration({ to }), refused('unsupported', /stop all that have/))
    assert.equal(existsSync(to), false)
    assert.equal(readdirSync(join(BASE, 'refused'), { recursive: true }).length, before)
    assert.equal((await settled(log.streams.list())).length, 1)

    // What they say to do: from its own archive under another name, and the archive copied while nobody has it open.
    const archive = await openArchive(join(BASE, 'refused'))
    const plan = await planRestore(archive, { streams: ['orders'], as: { orders: 'copy' } })
    await restoreArchive(log, archive, plan)
    await archive.close()
    assert.deepEqual(await valuesOf(log, 'copy'), valuesUpTo(2))
    await log.close()
    cpSync(join(BASE, 'refused'), to, { recursive: true })
    rmSync(join(BASE, 'refused'), { recursive: true })
    const moved = await open({ ...options('refused'), archive: to })
    assert.deepEqual(await valuesOf(moved, 'orders'), valuesUpTo(2))
    await fill(moved, 'orders', 1, 2)
    assert.deepEqual(await faults(moved), [])
    await moved.close()
  })

  test('archives of some streams: their rows come back without the cache, and are unknown while one is away', async () => {
    const dirs = [directory(), directory(), directory()]
    const own = join(BASE, 'own-private')
    for (const dir of dirs)
      writeFileSync(
        join(dir, 'stratalog.yaml'),
        `version: 1\npolicies: [{ match: private/*, archive: ${own} }]\n`,
      )
    const { config: _, ...settings } = options('own')
    const log = await open(settings, dirs[0])
    await fill(log, 'private/a', 3)
    await fill(log, 'b', 3)
    assert.deepEqual([objectsIn('own-private').length, objectsIn('own').length], [3, 3])
    await log.close()
    const again = await open(settings, dirs[1])
    assert.deepEqual(await valuesOf(again, 'private/a'), valuesUpTo(3))
    assert.deepEqual(await faults(again), [])
    await fill(again, 'private/a', 1, 3)
    await again.close()
    renameSync(own, `${own}-away`)
    await assert.rejects(open(settings, dirs[2]), (error) => isStratalogError(error, 'archive_missing'))
    renameSync(`${own}-away`, own)
    const last = await open(settings, dirs[2])
    assert.deepEqual(await valuesOf(last, 'private/a'), valuesUpTo(4))
    await last.close()
  })

  test('index rebuild reads everything anew, also after the cache was deleted under an open log (invariant 12)', async () => {
    const dir = directory()
    const log = await open(options('rebuilt'), dir)
    await fill(log, 'orders', 3)
    const isCache = (name: string) => name.startsWith('namespace.db')
    for (const name of readdirSync(dir).filter(isCache)) rmSync(join(dir, name))
    await fill(log, 'orders', 2, 3)
    assert.deepEqual(await valuesOf(log, 'orders'), valuesUpTo(5))
    await log.stream('orders').append('open')
    const rebuild = () => rebuildLogIndex(dir, options('rebuilt'), { acceptLoss: false })
    await assert.rejects(rebuild(), (error) => isStratalogError(error, 'directory_in_use'))
    await log.close()
    const { file, segments, hot, cold, both, recovering, losses, cluster: inCluster } = await rebuild()
    assert.deepEqual([segments, hot, cold, both, recovering, losses, inCluster], [6, 1, 5, 0, 0, [], true])
    assert.equal(file, join(dir, 'namespace.db'))
    // Nor is it where no archive is named at all: it would be taken for purged, and the archive be told so (invariant 8).
    const { archive: _, ...nowhere } = options('rebuilt')
    await assert.rejects(open(nowhere, directory()), (error) => isStratalogError(error, 'archive_missing'))
    // What is not known is not missing: the cache that was there stays.
    renameSync(join(BASE, 'rebuilt'), join(BASE, 'away'))
    await assert.rejects(rebuild(), (error) => isStratalogError(error, 'archive_missing'))
    const still = await open(options('rebuilt'), dir)
    assert.deepEqual((await statesOf(still, 'orders')).slice(0, 5), Array(5).fill('cold'))
    await still.close()
    renameSync(join(BASE, 'away'), join(BASE, 'rebuilt'))
    const again = await open(options('rebuilt'), dir)
    assert.deepEqual(await valuesOf(again, 'orders'), [...valuesUpTo(5), 'open'])
    assert.deepEqual(
      readdirSync(dir).filter((name) => name.includes('aside')),
      [],
    )
    await again.close()
  })
})
