import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, renameSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { repairLedger } from '../../src/ledger/repair.js'
import type { Log } from '../../src/log.js'
import { isStratalogError } from '../../src/model/errors.js'
import { openLog } from '../../src/open.js'
import type { OpenOptions } from '../../src/options.js'
import { readSuperblock } from '../../src/store/local/superblock.js'
import { realDisk } from '../../src/system/disk.js'
import { silentLogger } from '../../src/system/logger.js'

/** `store replace` and `store drain` where disks move, are lost one after the other, and commands meet. */

let root = ''
// Upkeep waits on timers that keep no process alive.
let alive: NodeJS.Timeout | null = null
beforeEach(() => {
  alive = setInterval(() => {}, 1_000)
  root = mkdtempSync(join(tmpdir(), 'stratalog-stores-'))
})
afterEach(() => {
  clearInterval(alive ?? undefined)
  rmSync(root, { recursive: true, force: true })
})

const open = (options: Partial<OpenOptions> = {}): Promise<Log> =>
  openLog(join(root, 'log'), {
    tiering: 'off',
    control: 'off',
    config: 'none',
    storeFileBytes: 4 * 1024 * 1024,
    system: { logger: silentLogger() },
    ...options,
  })
const storeAt = (name: string) => join(root, 'log', 'stores', name)
const ids = (log: Log) => log.parts.segments.ledger.stores.all().map(({ id }) => id)
const work = (log: Log) => log.parts.upkeep.work(() => undefined)
const expected = (count: number) => Array.from({ length: count }, (_, at) => `record ${at}`)

/** Segments of 50 records each, sealed. */
async function fill(log: Log, segments: number): Promise<void> {
  const handle = log.stream('a')
  const from = (await log.streams.find('a')) ? Number((await handle.info()).nextSequenceId) : 0
  for (let segment = 0; segment < segments; segment += 1) {
    const first = from + segment * 50
    await Promise.all(Array.from({ length: 50 }, (_, i) => handle.append(`record ${first + i}`)))
    await handle.seal()
  }
}

async function contents(log: Log, stream = 'a'): Promise<string[]> {
  const seen: string[] = []
  for await (const record of log.stream(stream).read()) seen.push(Buffer.from(record.payload).toString())
  return seen
}

/** Every copy of every closed ledger is there and good. */
async function allWhole(log: Log): Promise<void> {
  const { ledger } = log.parts.segments
  for (const ledgerId of await ledger.metadata.list(-1n, 1_000)) {
    const report = await repairLedger(ledger, ledgerId)
    assert.equal(report.repairedEntries + report.unrepairableEntries, 0)
    assert.deepEqual(report.unreachable, [])
  }
}

describe('store replace, where things go wrong one after the other (invariants 1 and 8)', () => {
  const replace = (log: Log, name: string) =>
    log.parts.stores.beginReplace({ store: storeAt(name), with: null, bytesPerSecond: null })

  test('disks that changed places, and one of them lost: the one that is there is neither replaced nor retired', async () => {
    {
      await using log = await open()
      await fill(log, 3)
    }
    const moved = (await idsIn('1')) ?? ''
    const lost = (await idsIn('2')) ?? ''
    rmSync(storeAt('2'), { recursive: true })
    renameSync(storeAt('1'), storeAt('2'))
    // Twice: what is remembered at the first start must not mislead the second one.
    await (await open()).close()
    {
      await using log = await open()
      assert.equal((await replace(log, '1')).from, lost)
      await work(log)
      await allWhole(log)
    }
    await using log = await open()
    assert.ok(ids(log).includes(moved), 'it is opened as before')
    assert.ok((await log.stores()).every(({ state }) => state === 'writable'))
    await allWhole(log)
    assert.deepEqual(await contents(log), expected(150))
  })

  test('a successor that is lost before it has everything: the next one takes the place of both', async () => {
    {
      await using log = await open()
      await fill(log, 3)
      await log.stream('open').append('one')
    }
    rmSync(storeAt('2'), { recursive: true })
    {
      await using log = await open()
      const ledgers = log.parts.segments.ledger.metadata
      await replace(log, '2')
      const swap = ledgers.compareAndSet.bind(ledgers)
      let swaps = 0
      ledgers.compareAndSet = async (...args) => {
        swaps += 1
        if (swaps === 2) throw new Error('died half-way')
        return swap(...args)
      }
      await assert.rejects(work(log), /died half-way/)
    }
    rmSync(storeAt('2'), { recursive: true })
    {
      await using log = await open()
      await replace(log, '2')
      await work(log)
      assert.deepEqual((await log.parts.stores.list()).works, [])
      await allWhole(log)
    }
    await using log = await open()
    assert.equal((await log.parts.stores.list()).stores.length, 3, 'nothing names a lost store')
    assert.deepEqual(await contents(log), expected(150))
    assert.deepEqual(await contents(log, 'open'), ['one'])
  })

  test('the same command twice at once makes one store; two drains at once leave what quorums need', async () => {
    const stores = ['1', '2', '3', '4'].map(storeAt)
    {
      await using log = await open({ stores })
      await fill(log, 4)
    }
    rmSync(storeAt('2'), { recursive: true })
    await using log = await open({ stores })
    const [one, other] = await Promise.all([replace(log, '2'), replace(log, '2')])
    assert.equal(one.to, other.to)
    assert.equal(new Set(ids(log)).size, 4)
    await work(log)
    const drains = await Promise.allSettled(
      ['3', '4'].map((name) => log.parts.stores.beginDrain({ store: storeAt(name), bytesPerSecond: null })),
    )
    assert.deepEqual(
      drains.map(({ status }) => status),
      ['fulfilled', 'rejected'],
    )
    await work(log)
    await allWhole(log)
  })

  test('another store of the log is not opened a second time, under no name of its directory', async () => {
    {
      await using log = await open()
      await fill(log, 2)
    }
    rmSync(storeAt('2'), { recursive: true })
    const alias = join(root, 'alias')
    symlinkSync(storeAt('3'), alias)
    await using log = await open()
    await log.stream('b').append('one')
    const before = readdirSync(storeAt('3')).sort()
    await assert.rejects(
      log.parts.stores.beginReplace({ store: storeAt('2'), with: alias, bytesPerSecond: null }),
      (error: unknown) => isStratalogError(error, 'refused'),
    )
    assert.deepEqual(readdirSync(storeAt('3')).sort(), before)
    await log.stream('b').append('two')
    assert.deepEqual(await contents(log, 'b'), ['one', 'two'])
  })

  test('a replaced store that comes back elsewhere is not taken for a new one', async () => {
    {
      await using log = await open()
      await fill(log, 2)
    }
    const old = join(root, 'old-disk')
    renameSync(storeAt('2'), old)
    rmSync(storeAt('3'), { recursive: true })
    await using log = await open()
    await replace(log, '2')
    await work(log)
    await assert.rejects(
      log.parts.stores.beginReplace({ store: storeAt('3'), with: old, bytesPerSecond: null }),
      /was replaced/,
    )
    assert.deepEqual((await log.parts.stores.list()).works, [])
  })

  test('a directory that was added to the configuration: replace makes the store there, with every decision', async () => {
    {
      await using log = await open()
      await fill(log, 2)
      await log.stream('a').setPolicy({ hot: { for: '1h' } })
    }
    const stores = ['1', '2', '3', '4'].map(storeAt)
    await using log = await open({ stores })
    const added = (await log.parts.stores.list()).stores.find(({ location }) => location === storeAt('4'))
    assert.deepEqual([added?.state, added?.ledgers], ['unreachable', 0])
    assert.equal((await replace(log, '4')).from, null, 'it takes the place of none')
    const controls = await Promise.all(
      log.parts.segments.ledger.stores.all().map(async (store) => (await store.listControls()).length),
    )
    assert.equal(new Set(controls).size, 1, `${controls}`)
    assert.ok((controls[0] ?? 0) > 0)
    await fill(log, 4)
    const { stores: listed } = await log.parts.stores.list()
    assert.ok((listed.find(({ location }) => location === storeAt('4'))?.ledgers ?? 0) > 0, 'it is used')
  })

  for (const command of ['replace', 'drain'] as const)
    test(`${command} of a lost store ends evictions and trims that wait for it`, async () => {
      const stores = ['1', '2', '3', '4'].map(storeAt)
      const archive = join(root, 'archive')
      const defaults = { hot: { for: 0 }, evict: { lag: 0 } } as const
      {
        await using log = await open({ stores, archive })
        await fill(log, 4)
      }
      rmSync(storeAt('2'), { recursive: true })
      {
        await using log = await open({ stores, archive, defaults })
        await log.tier.run()
        await log.tier.run()
        const { index } = log.parts.segments
        assert.ok(
          (await index.segmentsOwing(10)).length > 0,
          'they can not be deleted on a store that is gone',
        )
        if (command === 'replace') await replace(log, '2')
        else await log.parts.stores.beginDrain({ store: storeAt('2'), bytesPerSecond: null })
        await work(log)
        await log.tier.run()
        assert.deepEqual(await index.segmentsOwing(10), [])
        await work(log)
        assert.deepEqual((await log.parts.stores.list()).works, [])
        assert.deepEqual(await contents(log), expected(200))
      }
    })

  test('a store that can not be filled now keeps no other one waiting', async () => {
    const stores = ['1', '2', '3', '4', '5'].map(storeAt)
    {
      await using log = await open({ stores })
      await fill(log, 6)
    }
    rmSync(storeAt('2'), { recursive: true })
    let lost = ''
    {
      await using log = await open({ stores })
      lost = (await replace(log, '2')).from ?? ''
    }
    renameSync(storeAt('2'), join(root, 'unplugged'))
    {
      await using log = await open({ stores })
      await log.parts.stores.beginDrain({ store: storeAt('4'), bytesPerSecond: null })
      const pass = await work(log)
      assert.deepEqual([...pass.broken.keys()], [lost])
      assert.equal(pass.broken.get(lost)?.code, 'store_unavailable')
      const { works } = await log.parts.stores.list()
      assert.deepEqual(
        works.map(({ from }) => from),
        [lost],
        'the drain came to its end',
      )
    }
    renameSync(join(root, 'unplugged'), storeAt('2'))
    await using log = await open({ stores })
    await work(log)
    assert.deepEqual((await log.parts.stores.list()).works, [])
    await allWhole(log)
    assert.deepEqual(await contents(log), expected(300))
  })
})

/** The id of the store in a directory of the log; null where there is none. */
async function idsIn(name: string): Promise<string | null> {
  return (await readSuperblock(realDisk(), storeAt(name)))?.storeId ?? null
}
