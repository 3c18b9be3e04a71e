import assert from 'node:assert/strict'
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { repairLedger } from '../../src/ledger/repair.js'
import type { Log } from '../../src/log.js'
import { isStratalogError } from '../../src/model/errors.js'
import { openLog } from '../../src/open.js'
import type { OpenOptions } from '../../src/options.js'
import { silentLogger } from '../../src/system/logger.js'
import type { StoreWork } from '../../tiering/store-facts.js'

/** Invariants 1 and 9 over real stores: flipped bits, lost directories, replaced and drained stores. */

let root = ''
// Upkeep waits on timers that keep no process alive.
let alive: NodeJS.Timeout | null = null
beforeEach(() => {
  alive = setInterval(() => {}, 1_000)
  root = mkdtempSync(join(tmpdir(), 'stratalog-repair-'))
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
const text = (at: number) => `record ${at} `.padEnd(700, 'x')

/** Segments of 50 records each, sealed. */
async function fill(log: Log, segments: number, stream = 'a'): Promise<void> {
  const handle = log.stream(stream)
  const { nextSequenceId } = (await log.streams.find(stream)) ? await handle.info() : { nextSequenceId: 0n }
  for (let segment = 0; segment < segments; segment += 1) {
    const from = Number(nextSequenceId) + segment * 50
    await Promise.all(Array.from({ length: 50 }, (_, i) => handle.append(text(from + i))))
    await handle.seal()
  }
}

async function contents(log: Log, stream = 'a'): Promise<string[]> {
  const seen: string[] = []
  for await (const record of log.stream(stream).read()) seen.push(Buffer.from(record.payload).toString())
  return seen
}
const expected = (count: number) => Array.from({ length: count }, (_, at) => text(at))

/** Flips a bit in the first of the records whose numbers are given; the store must not be open. */
function flipBits(directory: string, records: readonly number[]): void {
  const left = new Set(records)
  for (const name of readdirSync(directory).filter((one) => one.startsWith('log-'))) {
    const path = join(directory, name)
    const bytes = readFileSync(path)
    for (const record of left) {
      const at = bytes.indexOf(`record ${record} `)
      if (at < 0) continue
      bytes[at + 3] = (bytes[at + 3] ?? 0) ^ 0x04
      left.delete(record)
    }
    writeFileSync(path, bytes)
  }
  assert.equal(left.size, 0, `${directory} has all the records`)
}

const ids = (log: Log) => log.parts.segments.ledger.stores.all().map(({ id }) => id)

/** Every copy of every ledger is there and good; nothing names a store that is not there. */
async function allWhole(log: Log): Promise<number> {
  const { ledger } = log.parts.segments
  const known = new Set(ids(log))
  let checked = 0
  for (const ledgerId of await ledger.metadata.list(-1n, 1_000)) {
    const { metadata } = await ledger.metadata.read(ledgerId)
    for (const { members } of metadata.ensembles)
      for (const id of members) assert.ok(known.has(id), `${id} is there`)
    const report = await repairLedger(ledger, ledgerId)
    if (report.state !== 'closed') continue
    assert.equal(report.repairedEntries + report.unrepairableEntries, 0)
    assert.deepEqual(report.unreachable, [])
    checked += report.checkedEntries
  }
  return checked
}

const work = (log: Log) => log.parts.upkeep.work(() => undefined)

describe('scrub (invariant 9)', () => {
  test('finds flipped bits that no reader met, mends them, and says how it goes', async () => {
    {
      await using log = await open()
      await fill(log, 4)
    }
    flipBits(storeAt('2'), [7, 60, 149])
    await using log = await open()
    assert.deepEqual((await log.tier.status()).upkeep.scrub.passStartedMs, null)
    const state = await log.parts.upkeep.scrubPass()
    assert.ok(state.repaired > 0, 'it repaired copies')
    assert.equal(state.idle, true)
    assert.deepEqual([state.unrepairable.length, state.unreached], [0, 0])
    assert.ok((await allWhole(log)) > 0)
    assert.deepEqual(await contents(log), expected(200))
    const again = await log.parts.upkeep.scrubPass()
    assert.equal(again.repaired, state.repaired, 'the pass is over until its time comes')
  })

  test('goes on after a restart where it was, and begins anew when the pass is due', async () => {
    {
      await using log = await open()
      await fill(log, 3)
      const { upkeep } = log.parts
      const { metadata } = log.parts.segments.ledger
      const [first, second] = await metadata.list(-1n, 2)
      const passes = [await upkeep.state()]
      // One step a pass: the loop is not followed here.
      await Promise.race([upkeep.scrubPass(AbortSignal.timeout(1)).catch(() => null)])
      passes.push(await upkeep.state())
      assert.ok(first !== undefined && second !== undefined)
      assert.ok((passes[1]?.scrub.after ?? -1n) >= -1n)
    }
    await using log = await open()
    const resumed = (await log.parts.upkeep.state()).scrub
    const done = await log.parts.upkeep.scrubPass()
    if (resumed.passStartedMs !== null) assert.equal(done.passStartedMs, resumed.passStartedMs)
    assert.equal(done.idle, true)
  })

  test('an entry bad on every store is named, kept, and found mended once it is; the archive mends it', async () => {
    const archive = join(root, 'archive')
    {
      await using log = await open({ archive, defaults: { hot: { for: '1h' } } })
      await fill(log, 2)
    }
    for (const store of ['1', '2', '3']) flipBits(storeAt(store), [60])
    {
      await using log = await open({ archive, defaults: { hot: { for: '1h' } } })
      const state = await log.parts.upkeep.scrubPass()
      assert.equal(state.unrepairable.length, 3, 'the same entry on three stores')
      await assert.rejects(contents(log), (error: unknown) => isStratalogError(error, 'corrupt'))
    }
  })

  test('what is in the archive too is taken from there, with equal payloads', async () => {
    const archive = join(root, 'archive')
    const options = { archive, defaults: { hot: { for: '1h' } } } as const
    {
      await using log = await open(options)
      await fill(log, 2)
      assert.equal((await log.tier.run()).copied, 2)
    }
    for (const store of ['1', '2', '3']) flipBits(storeAt(store), [60])
    await using log = await open(options)
    const state = await log.parts.upkeep.scrubPass()
    assert.deepEqual([state.repaired, state.unrepairable.length], [3, 0])
    await allWhole(log)
    renameSync(archive, join(root, 'elsewhere'))
    assert.deepEqual(await contents(log), expected(100))
  })
})

describe('store replace (invariant 1)', () => {
  test('a lost directory gets a new store, every copy comes back, and the old one is never taken again', async () => {
    let lost = ''
    {
      await using log = await open()
      await fill(log, 5)
      lost = log.parts.stores ? ((await log.stores())[1]?.id ?? '') : ''
    }
    renameSync(storeAt('2'), join(root, 'old-disk'))
    {
      await using log = await open()
      const before = await log.parts.stores.list()
      const line = before.stores.find(({ id }) => id === lost)
      assert.deepEqual([line?.state, line?.ledgers, line?.missingCopies], ['unreachable', 5, null])
      // Appends go on without it, and what is open meanwhile comes later.
      await log.stream('b').append('while it is away')
      const begun = await log.parts.stores.beginReplace({
        store: storeAt('2'),
        with: null,
        bytesPerSecond: null,
      })
      assert.equal(begun.from, lost)
      const pass = await work(log)
      assert.equal(pass.works[0]?.doneLedgers, 5)
      await allWhole(log)
      const after = await log.parts.stores.list()
      assert.deepEqual(after.works, [])
      assert.deepEqual(
        after.stores.map(({ state, missingCopies }) => [state, missingCopies]),
        [
          ['writable', 0],
          ['writable', 0],
          ['writable', 0],
        ],
      )
    }
    // The other two hold nothing the new one does not: with one of them gone all is read from the rest.
    renameSync(storeAt('1'), join(root, 'another-old-disk'))
    {
      await using log = await open()
      assert.deepEqual(await contents(log), expected(250))
    }
    // The old disk comes back over its successor: it is not taken for it.
    renameSync(join(root, 'another-old-disk'), storeAt('1'))
    renameSync(storeAt('2'), join(root, 'successor'))
    cpSync(join(root, 'old-disk'), storeAt('2'), { recursive: true })
    await using log = await open()
    const status = (await log.stores()).find(({ location }) => location === storeAt('2'))
    assert.equal(status?.state, 'unreachable')
    assert.match(status?.reason ?? '', /was replaced: unmount it/)
    assert.deepEqual(await contents(log), expected(250))
  })

  test('with another directory, remembered over restarts', async () => {
    const elsewhere = join(root, 'new-disk', 'store')
    {
      await using log = await open()
      await fill(log, 2)
    }
    rmSync(storeAt('3'), { recursive: true })
    {
      await using log = await open()
      await log.parts.stores.beginReplace({ store: storeAt('3'), with: elsewhere, bytesPerSecond: null })
      await work(log)
    }
    await using log = await open()
    assert.deepEqual((await log.stores()).map(({ location }) => location).sort(), [
      storeAt('1'),
      storeAt('2'),
      elsewhere,
    ])
    await allWhole(log)
  })

  test('a crash at each step is gone on from: nothing is lost and it ends whole', async () => {
    {
      await using log = await open()
      await fill(log, 3)
    }
    rmSync(storeAt('2'), { recursive: true })
    const steps = ['settle', 'after settle', 'fact', 'controls', 'copy', 'metadata', 'end'] as const
    for (const step of steps) {
      const log = await open()
      try {
        const { directory, keeper, ledgers } = seams(log)
        const die = () => {
          throw new Error(`died at ${step}`)
        }
        const settle = directory.settle.bind(directory)
        if (step === 'settle') directory.settle = async () => die()
        if (step === 'after settle')
          directory.settle = async (...args) => {
            await settle(...args)
            return die()
          }
        const write = keeper.write.bind(keeper)
        if (step === 'fact' || step === 'end')
          keeper.write = async (text) => {
            const { works } = JSON.parse(text) as { works: StoreWork[] }
            const there = works.some(({ to }) => to !== null)
            if (step === 'fact' ? there : works.length === 0) die()
            await write(text)
          }
        if (step === 'controls')
          for (const store of log.parts.segments.ledger.stores.all()) store.putControl = async () => die()
        if (step === 'copy')
          for (const store of log.parts.segments.ledger.stores.all()) store.addEntry = async () => die()
        const swap = ledgers.compareAndSet.bind(ledgers)
        let swaps = 0
        if (step === 'metadata')
          ledgers.compareAndSet = async (...args) => {
            swaps += 1
            if (swaps === 2) die()
            return swap(...args)
          }
        await attempt(log)
        assert.deepEqual(await contents(log), expected(150), step)
      } finally {
        await log.close()
      }
    }
    await using log = await open()
    await attempt(log)
    assert.ok((await allWhole(log)) > 0)
    assert.deepEqual((await log.parts.stores.list()).works, [])
    assert.deepEqual(await contents(log), expected(150))
  })

  test('refuses a store that works, files that are in the way, and another log', async () => {
    const refusal = (code: 'refused' | 'corrupt' | 'not_found', say: RegExp) => (error: unknown) => {
      assert.ok(isStratalogError(error, code), String(error))
      assert.match(error.message, say)
      return true
    }
    {
      await using log = await open()
      await fill(log, 1)
      const request = { with: null, bytesPerSecond: null }
      await assert.rejects(
        log.parts.stores.beginReplace({ store: storeAt('1'), ...request }),
        refusal('refused', /works \(writable\): stratalog store drain/),
      )
      await assert.rejects(
        log.parts.stores.beginReplace({ store: 'nobody', ...request }),
        refusal('not_found', /no store has that id or directory; there are/),
      )
      await assert.rejects(
        log.parts.stores.beginDrain({ store: storeAt('1'), bytesPerSecond: null }),
        refusal('refused', /2 writable of the 3 stores .*store replace/),
      )
    }
    await (
      await openLog(join(root, 'other'), {
        tiering: 'off',
        control: 'off',
        config: 'none',
        system: { logger: silentLogger() },
      })
    ).close()
    rmSync(join(storeAt('2'), 'superblock'))
    await using log = await open()
    await assert.rejects(
      log.parts.stores.beginReplace({ store: storeAt('2'), with: null, bytesPerSecond: null }),
      refusal('corrupt', /holds log files but no superblock/),
    )
    await assert.rejects(
      log.parts.stores.beginReplace({
        store: storeAt('2'),
        with: join(root, 'other', 'stores', '1'),
        bytesPerSecond: null,
      }),
      refusal('refused', /is a store of log/),
    )
    await assert.rejects(
      log.parts.stores.beginReplace({ store: storeAt('2'), with: storeAt('3'), bytesPerSecond: null }),
      refusal('refused', /another place of this log/),
    )
    assert.deepEqual((await log.parts.stores.list()).works, [], 'what was refused is not remembered')
    assert.deepEqual(await contents(log), expected(50))
  })
})

describe('store drain (invariant 1)', () => {
  test('of a store that is gone: its copies are made anew on the others, from their peers', async () => {
    const stores = ['1', '2', '3', '4'].map(storeAt)
    {
      await using log = await open({ stores })
      await fill(log, 5)
    }
    rmSync(storeAt('2'), { recursive: true })
    let gone = ''
    {
      await using log = await open({ stores })
      const begun = await log.parts.stores.beginDrain({ store: storeAt('2'), bytesPerSecond: null })
      gone = begun.from ?? ''
      await work(log)
    }
    await using log = await open({ stores: stores.filter((one) => one !== storeAt('2')) })
    const listed = await log.parts.stores.list()
    assert.equal(
      listed.stores.some(({ id }) => id === gone),
      false,
      'no ledger names it',
    )
    await allWhole(log)
    assert.deepEqual(await contents(log), expected(250))
  })

  test('everything goes elsewhere, nothing new comes, and it can be taken away', async () => {
    const stores = ['1', '2', '3', '4', '5'].map(storeAt)
    let drained = ''
    {
      await using log = await open({ stores })
      await fill(log, 6)
      const handle = log.stream('open')
      await handle.append('one')
      const begun = await log.parts.stores.beginDrain({ store: storeAt('2'), bytesPerSecond: null })
      drained = begun.from ?? ''
      await work(log)
      const held = (await log.parts.stores.list()).stores.find(({ id }) => id === drained)
      assert.equal(held?.role, 'out')
      await handle.seal()
      await work(log)
      await fill(log, 3)
      const listed = await log.parts.stores.list()
      assert.equal(listed.stores.find(({ id }) => id === drained)?.ledgers, 0)
      assert.deepEqual(listed.works, [])
      await allWhole(log)
    }
    renameSync(storeAt('2'), join(root, 'away'))
    await using log = await open({ stores: stores.filter((one) => one !== storeAt('2')) })
    assert.equal(ids(log).includes(drained), false)
    await allWhole(log)
    assert.deepEqual(await contents(log), expected(450))
    assert.deepEqual(await contents(log, 'open'), ['one'])
    assert.equal(existsSync(storeAt('2')), false)
  })
})

/** Runs the command, as often as it takes a person: what it throws is the crash of the test. */
async function attempt(log: Log): Promise<void> {
  try {
    const { works } = await log.parts.stores.list()
    const done = (await log.stores()).every(({ state }) => state === 'writable')
    if (!done || works.length > 0)
      await log.parts.stores.beginReplace({ store: storeAt('2'), with: null, bytesPerSecond: null })
    await work(log)
  } catch (error) {
    if (!(error instanceof Error && error.message.startsWith('died'))) throw error
  }
}

type Changeable<T> = { -readonly [K in keyof T]: T[K] }

function seams(log: Log) {
  const { ledger } = log.parts.segments
  return {
    directory: ledger.stores as unknown as { settle(directory: string, at: string): Promise<unknown> },
    keeper: log.parts.stores.keeper,
    ledgers: ledger.metadata as Changeable<typeof ledger.metadata>,
  }
}
