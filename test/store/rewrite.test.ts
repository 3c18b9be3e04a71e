import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import process from 'node:process'
import { describe, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { PackagedEntry } from '../../src/format/packaged-entry.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { SegmentStore } from '../../src/ports/segment-store.js'
import type { LocalStoreOptions } from '../../src/store/local/options.js'
import { readSuperblock, type Superblock } from '../../src/store/local/superblock.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { type DiskCall, MemoryDisk } from '../helpers/memory-disk.js'
import { afterPowerCut, cloneOf, entryOf, header, methodsOf, openStore } from '../helpers/store.js'

const DIRECTORY = '/store'
const FILE_BYTES = 64 << 10
const SIZE = 300
const MANY = 70n

const open = (disk: MemoryDisk, change: Partial<LocalStoreOptions> = {}): Promise<SegmentStore> =>
  openStore(DIRECTORY, { disk, fileBytes: FILE_BYTES, rewriteBytesPerSecond: 2 ** 40, ...change })

async function superblockOf(disk: MemoryDisk): Promise<Superblock> {
  const superblock = await readSuperblock(disk, DIRECTORY)
  assert.ok(superblock)
  return superblock
}

/** Waits until the store has rewritten something, or for what `seen` looks for. */
async function rewritten(
  disk: MemoryDisk,
  seen: (superblock: Superblock) => boolean = (superblock) => superblock.rewritten.length > 0,
): Promise<Superblock> {
  for (let turn = 0; turn < 2_000; turn += 1) {
    const superblock = await superblockOf(disk)
    if (seen(superblock)) return superblock
    await setImmediate()
  }
  return assert.fail('nothing was rewritten')
}

async function round(store: SegmentStore, entryId: bigint, ledgers = MANY): Promise<void> {
  const ids = Array.from({ length: Number(ledgers) }, (_, at) => BigInt(at))
  await Promise.all(ids.map((id) => store.addEntry(id, entryId, entryOf(id, entryId, SIZE))))
}

/** Many ledgers an entry each in turn: every file holds short runs of all of them. */
async function scatter(store: SegmentStore, rounds: bigint): Promise<void> {
  for (let id = 0n; id < MANY; id += 1n) await store.openLedger(header(id))
  for (let entryId = 0n; entryId < rounds; entryId += 1n) await round(store, entryId)
}

async function checkRuns(store: SegmentStore, ledgers: bigint, rounds: bigint, where = ''): Promise<void> {
  for (let id = 0n; id < ledgers; id += 1n) {
    const run = await store.readEntries(id, 0n, rounds + 5n, 1 << 20)
    assert.equal(run.length, Number(rounds), `${where}: entries of ledger ${id}`)
    for (const [at, bytes] of run.entries()) {
      assert.ok(Buffer.from(entryOf(id, BigInt(at), SIZE).bytes).equals(bytes), `${where}: ${id}:${at}`)
    }
  }
}

const fails = (promise: Promise<unknown>, code: string): Promise<void> =>
  assert.rejects(promise, (error) => isStratalogError(error, code as 'closed'))

describe('rewriting', () => {
  test('makes short runs sequential; entries and their counts stay, also after a restart', async () => {
    const disk = new MemoryDisk()
    let store = await open(disk)
    await scatter(store, 20n)
    const { generation } = await superblockOf(disk)
    await rewritten(disk, ({ files, rewritten: made }) => made.length >= 5 && files.length - made.length <= 3)
    assert.ok(generation > 5n)
    await checkRuns(store, MANY, 20n)
    const summaries = await store.listLedgers(-1n, 100)
    assert.equal(summaries.length, Number(MANY))
    for (const { entries, lastEntryId, sizeBytes } of summaries) {
      assert.deepEqual([entries, lastEntryId, sizeBytes], [20, 19n, 20 * (SIZE + 36)])
    }
    await store.close()
    store = await open(disk)
    await checkRuns(store, MANY, 20n)
    assert.deepEqual(await store.listLedgers(-1n, 100), summaries)
    assert.equal((await store.status()).corruptBytes, 0)
    await store.close()
  })

  test('gives back what is dead, and carries headers, fences, seals, tombstones and controls along', async () => {
    const disk = new MemoryDisk()
    let store = await open(disk)
    await store.openLedger(header(1n))
    await store.openLedger(header(2n))
    await store.openLedger(header(3n))
    await store.putControl({ id: 'c', kind: 'hold', body: '{}' })
    await store.fence(77n)
    await store.sealLedger(3n, { lastEntryId: -1n, lengthBytes: 0 })
    // One entry of ledger 1 in each file, the rest of ledger 2, which is deleted.
    for (let id = 0n; id < 60n; id += 1n) {
      await store.addEntry(2n, id, entryOf(2n, id, 4_000))
      if (id % 12n === 0n) await store.addEntry(1n, id / 12n, entryOf(1n, id / 12n, SIZE))
    }
    const before = (await store.status()).usedBytes
    await store.deleteLedger(2n)
    await rewritten(disk)
    for (let turn = 0; turn < 200; turn += 1) await setImmediate()
    const used = (await store.status()).usedBytes
    assert.ok(used < before / 2, `${used} of ${before} bytes`)
    assert.ok(!disk.files.has(`${DIRECTORY}/log-0000000000000001`), 'the first file is still there')
    const cut = await afterPowerCut(disk, () => false)
    for (const again of [await open(cut), await open(await cloneOf(cut))]) {
      store = again
      const listed = await store.listLedgers(-1n, 10)
      assert.deepEqual(
        listed.map(({ ledgerId, fenced, seal, entries }) => [ledgerId, fenced, seal?.lastEntryId, entries]),
        [
          [1n, false, undefined, 5],
          [3n, false, -1n, 0],
          [77n, true, undefined, 0],
        ],
      )
      assert.deepEqual(listed[0]?.header, header(1n))
      assert.deepEqual(await store.listControls(), [{ id: 'c', kind: 'hold', body: '{}' }])
      await fails(store.addEntry(77n, 0n, entryOf(77n, 0n, 1)), 'fenced')
      assert.notEqual((await store.readEntry(2n, 0n)).kind, 'entry')
      assert.equal((await store.readEntries(1n, 0n, 9n, 1 << 20)).length, 5)
      await store.close()
    }
  })

  test('uses up no spare: a log that frees what it writes soon fills no file with zeros', async () => {
    const disk = new MemoryDisk()
    let filled = 0
    const counted: MemoryDisk['open'] = async (path, mode) => {
      if (mode === 'create' && path.includes('spare')) filled += 1
      return disk.open(path, mode)
    }
    const counting = { ...methodsOf(disk), open: counted }
    const store = await openStore(DIRECTORY, {
      disk: counting,
      fileBytes: FILE_BYTES,
      rewriteBytesPerSecond: 2 ** 40,
    })
    await store.openLedger(header(1n))
    let deleted = 2n
    const cycle = async () => {
      await store.openLedger(header(deleted))
      for (let id = 0n; id < 40n; id += 1n) await store.addEntry(deleted, id, entryOf(deleted, id, 4_000))
      await store.addEntry(1n, deleted, entryOf(1n, deleted, SIZE))
      await store.deleteLedger(deleted)
      deleted += 1n
      const made = (await superblockOf(disk)).generation
      // Long enough for what is to be rewritten and freed.
      for (let turn = 0; turn < 200; turn += 1) await setImmediate()
      return made
    }
    for (let at = 0; at < 4; at += 1) await cycle()
    const before = filled
    for (let at = 0; at < 8; at += 1) await cycle()
    assert.ok((await superblockOf(disk)).rewritten.length > 0, 'nothing was rewritten')
    assert.equal(filled, before, 'a spare was made while files are freed all the time')
    await store.close()
  })

  test('does not make a ledger younger: what may be lost of it is still suspect', async () => {
    const disk = new MemoryDisk()
    const store = await open(disk)
    await scatter(store, 3n)
    const cut = await afterPowerCut(disk, () => false)
    const after = await open(cut)
    assert.equal((await after.readEntry(1n, 99n)).kind, 'suspect')
    // More files, so that the old ones are rewritten; and a ledger that is younger than the cut.
    await after.openLedger(header(500n))
    for (let id = 3n; id < 12n; id += 1n) await round(after, id)
    await rewritten(cut)
    for (const again of [after, await open(await afterPowerCut(cut, () => false))]) {
      assert.equal((await again.readEntry(1n, 99n)).kind, 'suspect')
    }
    assert.equal((await after.readEntry(500n, 99n)).kind, 'missing')
  })

  test('an entry written anew stays the newer one, before, while and after its old copy is rewritten', async () => {
    const disk = new MemoryDisk()
    const store = await open(disk)
    const anew = (entryId: bigint): PackagedEntry => {
      const bytes = Buffer.from(entryOf(5n, entryId, SIZE).bytes)
      bytes.fill(0xee, 36)
      return new PackagedEntry(bytes)
    }
    const repair = (id: bigint): Promise<void> => store.addEntry(5n, id, anew(id), { recovery: true })
    let during: Promise<void> | null = null
    let repairedEarly = false
    disk.fail = (call, path) => {
      // The first write of a file that is not listed: a copy is being made.
      if (call !== 'write' || !path.includes('/log-') || !repairedEarly || during !== null) return null
      const listed = JSON.parse(disk.files.get('/store/superblock')?.bytes.toString().split('\n')[0] ?? '{}')
      const generation = Number.parseInt(path.slice(-16), 16)
      const ranges = (listed.files as string[]).map((range) => range.split('-').map(Number))
      if (ranges.some(([from = 0, to = 0]) => generation >= from && generation <= to)) return null
      during = repair(1n)
      return null
    }
    for (let id = 0n; id < MANY; id += 1n) await store.openLedger(header(id))
    await round(store, 0n)
    await round(store, 1n)
    await round(store, 2n)
    await repair(0n)
    repairedEarly = true
    for (let entryId = 3n; entryId < 12n; entryId += 1n) await round(store, entryId)
    const first = await rewritten(disk)
    assert.ok(during !== null, 'no copy was seen being made')
    await during
    await repair(2n)
    const check = async (opened: SegmentStore): Promise<void> => {
      for (const entryId of [0n, 1n, 2n]) {
        const answer = await opened.readEntry(5n, entryId)
        assert.ok(
          answer.kind === 'entry' && Buffer.from(anew(entryId).bytes).equals(answer.bytes),
          `${entryId}`,
        )
      }
      const run = await opened.readEntries(5n, 0n, 99n, 1 << 20)
      assert.equal(run.length, 12)
      for (const [at, bytes] of run.entries()) {
        const expected = at < 3 ? anew(BigInt(at)) : entryOf(5n, BigInt(at), SIZE)
        assert.ok(Buffer.from(expected.bytes).equals(bytes), `run ${at}`)
      }
      const [summary] = await opened.listLedgers(4n, 1)
      assert.deepEqual([summary?.entries, summary?.sizeBytes], [12, 12 * (SIZE + 36)])
    }
    await check(store)
    await check(await open(await cloneOf(disk)))
    // And once what it was rewritten to is rewritten with the repairs.
    for (let entryId = 12n; entryId < 20n; entryId += 1n) await round(store, entryId, 5n)
    for (let id = 10n; id < MANY; id += 1n) await store.deleteLedger(id)
    await rewritten(disk, ({ rewritten: now }) => now.some((one) => one.generation > first.generation + 3n))
    await check(store)
    await store.close()
    await check(await open(disk))
  })

  test('a damaged entry is not rewritten into an absent one', async () => {
    const disk = new MemoryDisk()
    let store = await open(disk, { rewriteBytesPerSecond: 1 })
    await scatter(store, 8n)
    await store.close()
    assert.equal((await superblockOf(disk)).rewritten.length, 0, 'the premise')
    const wanted = Buffer.from(entryOf(9n, 0n, SIZE).bytes)
    for (const [path, { bytes }] of disk.files) {
      const at = path.includes('/log-') ? bytes.indexOf(wanted) : -1
      if (at >= 0) bytes[at + 100] = (bytes[at + 100] ?? 0) ^ 1
    }
    store = await open(disk)
    await round(store, 8n)
    for (let turn = 0; turn < 100; turn += 1) await setImmediate()
    for (const again of [store, await open(await cloneOf(disk))]) {
      await fails(again.readEntry(9n, 0n), 'corrupt')
      assert.equal((await again.readEntry(9n, 1n)).kind, 'entry')
    }
    assert.ok((await store.status()).corruptBytes > 0)
    await store.close()
  })

  test('ends when the store is closed, however slow it is', async () => {
    const disk = new MemoryDisk()
    const clock = new ManualClock()
    const store = await open(disk, { clock, rewriteBytesPerSecond: 1 })
    await scatter(store, 8n)
    for (let turn = 0; turn < 50; turn += 1) await setImmediate()
    await store.close()
    const { files, rewritten: made } = await superblockOf(disk)
    assert.equal(made.length, 0, 'nothing was to be finished')
    const logs = [...disk.files.keys()].filter((path) => path.includes('/log-'))
    assert.equal(logs.length, files.length, 'an unfinished file was left')
    const again = await open(disk)
    await checkRuns(again, MANY, 8n)
    await again.close()
  })

  test('many small files, as short runs leave them, become few', async () => {
    const disk = new MemoryDisk()
    for (let run = 0n; run < 30n; run += 1n) {
      const store = await open(disk)
      if (run === 0n) await store.openLedger(header(0n))
      await store.addEntry(0n, run, entryOf(0n, run, SIZE))
      for (let turn = 0; turn < 30; turn += 1) await setImmediate()
      await store.close()
    }
    const { files } = await superblockOf(disk)
    assert.ok(files.length <= 12, `${files.length} files`)
    const store = await open(disk)
    await checkRuns(store, 1n, 30n)
    await store.close()
  })
})

describe('a crash at any disk call of closing files, rewriting and freeing', () => {
  const CHANGES: readonly DiskCall[] = ['write', 'dataSync', 'rename', 'remove', 'syncDirectory', 'open']

  /** Appends, rewrites, deletes; answers what was acknowledged when the disk died. */
  async function work(
    disk: MemoryDisk,
    diesAt: number,
  ): Promise<{ added: Map<bigint, bigint>; asked: Set<bigint>; gone: Set<bigint>; calls: number }> {
    let calls = 0
    disk.fail = (call) => {
      if (!CHANGES.includes(call)) return null
      calls += 1
      return calls > diesAt ? 'io_failed' : null
    }
    const added = new Map<bigint, bigint>()
    const asked = new Set<bigint>()
    const gone = new Set<bigint>()
    try {
      const store = await open(disk)
      const rounds = async (from: bigint, to: bigint, ledgers: bigint): Promise<void> => {
        for (let entryId = from; entryId < to; entryId += 1n) {
          await Promise.all(
            Array.from({ length: Number(ledgers) }, async (_, at) => {
              const id = BigInt(at)
              await store.addEntry(id, entryId, entryOf(id, entryId, SIZE))
              added.set(id, entryId)
            }),
          )
          await setImmediate()
        }
      }
      for (let id = 0n; id < MANY; id += 1n) await store.openLedger(header(id))
      await rounds(0n, 7n, MANY)
      for (let id = 20n; id < MANY; id += 1n) {
        asked.add(id)
        await store.deleteLedger(id)
        gone.add(id)
      }
      await rounds(7n, 16n, 20n)
      for (let turn = 0; turn < 40; turn += 1) await setImmediate()
      await store.close()
    } catch (error) {
      assert.ok(isStratalogError(error), String(error))
    }
    return { added, asked, gone, calls }
  }

  for (const [name, keeps] of [
    ['nothing that was not synced is kept', (): boolean => false],
    ['half of it is kept', halves()],
  ] as const) {
    test(`loses nothing and brings nothing back; ${name} (invariants 1 and 10)`, async () => {
      const whole = new MemoryDisk()
      const { calls } = await work(whole, Number.POSITIVE_INFINITY)
      const { rewritten: made, generation } = await superblockOf(whole)
      assert.ok(made.length > 0 && generation > 8n, 'nothing was rewritten: the test shows nothing')
      const points = Number(process.env.TEST_RUNS ?? 20)
      const step = Math.max(1, Math.floor(calls / points))
      for (let diesAt = 5; diesAt < calls + 10; diesAt += step) {
        const disk = new MemoryDisk()
        const { added, asked, gone } = await work(disk, diesAt)
        const cut = await afterPowerCut(disk, keeps)
        if (!cut.files.has('/store/superblock')) continue
        const store = await open(cut)
        assert.equal(
          (await store.status()).corruptBytes,
          0,
          `after ${diesAt}: a torn end was taken for damage`,
        )
        for (const [id, last] of added) {
          if (asked.has(id) && !gone.has(id)) continue
          const run = await store.readEntries(id, 0n, 99n, 1 << 20)
          if (gone.has(id)) assert.equal(run.length, 0, `after ${diesAt}: deleted ledger ${id} is back`)
          else
            assert.ok(
              run.length > Number(last),
              `after ${diesAt}: ledger ${id} has ${run.length}, not ${last}`,
            )
          for (const [at, bytes] of run.entries()) {
            assert.ok(Buffer.from(entryOf(id, BigInt(at), SIZE).bytes).equals(bytes))
          }
        }
        await store.close()
      }
    })
  }
})

function halves(): () => boolean {
  let state = 12_345
  return () => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff
    return state % 3 !== 0
  }
}
