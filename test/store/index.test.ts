import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { describe, test } from 'node:test'
import { gunzipSync } from 'node:zlib'
import fc from 'fast-check'
import { PackagedEntry } from '../../src/format/packaged-entry.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { SegmentStore } from '../../src/ports/segment-store.js'
import { PAGE_BYTES } from '../../src/store/local/frame.js'
import type { LocalStoreOptions } from '../../src/store/local/options.js'
import { SortedIds } from '../../src/store/local/sorted-ids.js'
import { MemoryDisk } from '../helpers/memory-disk.js'
import { afterPowerCut, cloneOf, entryOf, header, openStore } from '../helpers/store.js'

const DIRECTORY = '/store'
const FILE_BYTES = 64 << 10
const FIRST = `${DIRECTORY}/log-0000000000000001`

const open = (disk: MemoryDisk, change: Partial<LocalStoreOptions> = {}): Promise<SegmentStore> =>
  openStore(DIRECTORY, { disk, fileBytes: FILE_BYTES, ...change })

/** Bytes that are read of log files while `work` runs. */
async function readBytes<T>(disk: MemoryDisk, work: () => Promise<T>): Promise<{ bytes: number; result: T }> {
  let bytes = 0
  const before = disk.open.bind(disk)
  disk.open = async (path, mode) => {
    const file = await before(path, mode)
    const read = file.read.bind(file)
    file.read = async (target, offset) => {
      if (path.includes('/log-')) bytes += target.byteLength
      return read(target, offset)
    }
    return file
  }
  const result = await work()
  disk.open = before
  return { bytes, result }
}

async function fill(store: SegmentStore, entries: bigint): Promise<void> {
  for (const id of [1n, 2n]) await store.openLedger(header(id))
  for (let id = 0n; id < entries; id += 1n) {
    await Promise.all([1n, 2n].map((ledger) => store.addEntry(ledger, id, entryOf(ledger, id, 1_900))))
  }
}

async function checkAll(store: SegmentStore, entries: bigint, where = ''): Promise<void> {
  for (const ledgerId of [1n, 2n]) {
    const run = await store.readEntries(ledgerId, 0n, entries + 9n, 1 << 22)
    assert.equal(run.length, Number(entries), `${where}: ledger ${ledgerId}`)
    for (const [at, bytes] of run.entries()) {
      assert.ok(
        Buffer.from(entryOf(ledgerId, BigInt(at), 1_900).bytes).equals(bytes),
        `${where}: entry ${at}`,
      )
    }
  }
}

describe('the index block of a closed file', () => {
  test('spares a start the scan of all but what was open', async () => {
    const disk = new MemoryDisk()
    const store = await open(disk)
    await fill(store, 300n)
    const cut = await afterPowerCut(disk, () => false)
    const { bytes, result } = await readBytes(cut, () => open(cut))
    const files = [...cut.files.keys()].filter((path) => path.includes('/log-')).length
    assert.ok(files > 12, 'the premise')
    // 16 KiB of each file's end, and whole files only for the last ones: open, made ready, just closed.
    assert.ok(bytes < files * (16 << 10) + 3.5 * FILE_BYTES, `${bytes} bytes were read`)
    await checkAll(result, 300n)
    await result.close()
    const again = await readBytes(cut, () => open(cut))
    assert.ok(again.bytes < (files + 1) * (16 << 10), `${again.bytes} bytes were read after a clean end`)
    await checkAll(again.result, 300n)
  })

  test('is read as needed, with a cache that may be too small for anything (invariant 11)', async () => {
    const disk = new MemoryDisk()
    const store = await open(disk)
    await fill(store, 100n)
    await store.close()
    const small = await open(disk, { indexBytesMax: 1 })
    await checkAll(small, 100n)
    for (let id = 0n; id < 100n; id += 7n) {
      const [one, two] = await Promise.all([small.readEntry(1n, id), small.readEntry(2n, 99n - id)])
      assert.deepEqual([one.kind, two.kind], ['entry', 'entry'])
    }
    assert.equal((await small.readEntry(1n, 100n)).kind, 'missing')
    await small.close()
  })

  test('damaged anywhere, at start or later, costs a scan and nothing else', async () => {
    const disk = new MemoryDisk()
    const store = await open(disk)
    await fill(store, 60n)
    await store.close()
    const size = disk.files.get(FIRST)?.bytes.byteLength ?? 0
    for (let at = size - PAGE_BYTES; at < size; at += at < size - 200 ? 61 : 5) {
      const flip = (of: MemoryDisk): void => {
        const bytes = of.files.get(FIRST)?.bytes ?? Buffer.alloc(0)
        bytes[at] = (bytes[at] ?? 0) ^ (1 << (at % 8))
      }
      const damaged = await cloneOf(disk)
      flip(damaged)
      let opened = await open(damaged)
      await checkAll(opened, 60n, `flipped at ${at}`)
      assert.equal((await opened.status()).corruptBytes, 0)
      assert.equal((await opened.readEntry(1n, 60n)).kind, 'missing')
      await opened.close()
      const later = await cloneOf(disk)
      opened = await open(later)
      flip(later)
      await checkAll(opened, 60n, `flipped at ${at} after the start`)
      await opened.close()
    }
  })

  test('damaged together with the frames it tells of reads as corrupt, never as missing', async () => {
    const disk = new MemoryDisk()
    const store = await open(disk)
    await fill(store, 60n)
    await store.close()
    const bytes = disk.files.get(FIRST)?.bytes ?? Buffer.alloc(0)
    const frame = bytes.indexOf(Buffer.from(entryOf(1n, 3n, 1_900).bytes)) - 30
    bytes[frame] = (bytes[frame] ?? 0) ^ 1
    bytes.fill(0, bytes.byteLength - PAGE_BYTES)
    for (let run = 0; run < 3; run += 1) {
      const opened = await open(disk)
      await assert.rejects(opened.readEntry(1n, 3n), (error) => isStratalogError(error, 'corrupt'))
      assert.equal((await opened.readEntry(1n, 2n)).kind, 'entry')
      assert.ok((await opened.status()).corruptBytes > 0, `run ${run}`)
      await opened.close()
    }
  })

  test('of a file that later turns to zeros: what it held is corrupt, though its follower is gone', async () => {
    const disk = new MemoryDisk()
    let store = await open(disk)
    await fill(store, 60n)
    await store.close()
    store = await open(disk)
    await store.openLedger(header(7n))
    await store.close()
    disk.files.get(FIRST)?.bytes.fill(0)
    const opened = await open(disk)
    await assert.rejects(opened.readEntry(1n, 0n), (error) => isStratalogError(error, 'corrupt'))
    assert.ok((await opened.status()).corruptBytes > 0)
    await opened.close()
  })
})

test('a recovery add takes the place of a damaged copy, for good, though the ledger is sealed', async () => {
  const disk = new MemoryDisk()
  let store = await open(disk)
  await fill(store, 60n)
  await store.sealLedger(1n, { lastEntryId: 59n, lengthBytes: 9 })
  await store.close()
  const bytes = disk.files.get(FIRST)?.bytes ?? Buffer.alloc(0)
  const at = bytes.indexOf(Buffer.from(entryOf(1n, 3n, 1_900).bytes)) + 700
  bytes[at] = (bytes[at] ?? 0) ^ 1
  store = await open(disk)
  await assert.rejects(store.readEntry(1n, 3n), (error) => isStratalogError(error, 'corrupt'))
  const anew = new PackagedEntry(Buffer.from(entryOf(1n, 3n, 1_900).bytes))
  await store.addEntry(1n, 3n, anew, { recovery: true })
  await checkAll(store, 60n)
  for (let run = 0; run < 2; run += 1) {
    const cut = run === 0 ? await afterPowerCut(await cloneOf(disk), () => false) : disk
    if (run === 1) await store.close()
    const again = await open(cut)
    await checkAll(again, 60n)
    const [summary] = await again.listLedgers(0n, 1)
    assert.deepEqual([summary?.entries, summary?.lastEntryId, summary?.sizeBytes], [60, 59n, 60 * 1_936])
    await again.close()
  }
})

test('a store of 0.1.0 opens, keeps its promises, and gets its blocks', async () => {
  const path = join(import.meta.dirname, '..', '..', '..', 'test', 'golden', 'local-store-v1.json.gz')
  const golden = JSON.parse(gunzipSync(readFileSync(path)).toString()) as Record<string, string>
  const disk = new MemoryDisk()
  await disk.makeDirectory(DIRECTORY)
  for (const [name, text] of Object.entries(golden)) {
    const bytes = Buffer.from(text, 'base64')
    disk.files.set(`${DIRECTORY}/${name}`, { bytes, durable: Buffer.from(bytes) })
  }
  await disk.syncDirectory(dirname(`${DIRECTORY}/x`))
  const read: number[] = []
  for (let run = 0; run < 2; run += 1) {
    const { bytes, result: store } = await readBytes(disk, () => open(disk, { create: false }))
    read.push(bytes)
    const listed = await store.listLedgers(-1n, 10)
    assert.deepEqual(
      listed.map(({ ledgerId, entries, fenced, seal }) => [ledgerId, entries, fenced, seal?.lastEntryId]),
      [
        [1n, 30, false, undefined],
        [3n, 28, false, 27n],
        [4n, 5, false, undefined],
        [9n, 0, true, undefined],
      ],
    )
    for (const { ledgerId, entries } of listed) {
      for (let id = 0n; id < BigInt(entries); id += 1n) {
        const answer = await store.readEntry(ledgerId, id)
        assert.ok(answer.kind === 'entry')
        assert.ok(Buffer.from(entryOf(ledgerId, id, 500).bytes).equals(answer.bytes))
      }
    }
    assert.equal((await store.readEntry(3n, 28n)).kind, 'missing')
    assert.equal((await store.readEntry(4n, 5n)).kind, 'suspect')
    assert.deepEqual(await store.listControls(), [{ id: 'c', kind: 'hold', body: '{}' }])
    assert.equal((await store.status()).corruptBytes, 0)
    await store.close()
  }
  assert.ok((read[1] ?? 0) < (read[0] ?? 0), `${read[0]} bytes were read first, then ${read[1]}`)
})

test('sorted ids agree with a set, whatever comes and goes', () => {
  const step = fc.record({ id: fc.bigInt({ min: 0n, max: 60n }), add: fc.boolean() })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), fc.bigInt({ min: -1n, max: 61n }), (steps, after) => {
      const ids = new SortedIds()
      const model = new Set<bigint>()
      for (const { id, add } of steps) {
        if (add && !model.has(id)) ids.add(id)
        if (!add && model.has(id)) ids.remove(id)
        if (add) model.add(id)
        else model.delete(id)
      }
      const expected = [...model].filter((id) => id > after).sort((a, b) => (a < b ? -1 : 1))
      assert.deepEqual([...ids.above(after)], expected)
    }),
  )
})
