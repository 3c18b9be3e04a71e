import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { describe, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { isStratalogError } from '../../src/model/errors.js'
import type { SegmentStore } from '../../src/ports/segment-store.js'
import { PAGE_BYTES } from '../../src/store/local/frame.js'
import { MemoryDisk } from '../helpers/memory-disk.js'
import { cloneOf, entryOf, FaultyDisk, header, openStore } from '../helpers/store.js'

const DIRECTORY = '/store'
const FILE_BYTES = 64 << 10
const FIRST = `${DIRECTORY}/log-0000000000000001`

const open = (disk: MemoryDisk): Promise<SegmentStore> =>
  openStore(DIRECTORY, { disk, fileBytes: FILE_BYTES })

async function fill(store: SegmentStore, from: bigint, to: bigint): Promise<void> {
  for (let id = from; id < to; id += 1n) await store.addEntry(1n, id, entryOf(1n, id, 1_900))
}

function bytesOf(disk: MemoryDisk, path: string): Buffer {
  return disk.files.get(path)?.bytes ?? assert.fail(`no ${path}`)
}

const corrupt = (promise: Promise<unknown>): Promise<void> =>
  assert.rejects(promise, (error) => isStratalogError(error, 'corrupt'))

describe('what is known to have been durable', () => {
  test('is lost with the newest file, too: what it held is corrupt, not suspect (invariants 1 and 9)', async () => {
    const disk = new MemoryDisk()
    const store = await open(disk)
    await store.openLedger(header(1n))
    await fill(store, 0n, 5n)
    await store.close()
    // The next start, which writes nothing else, notes how far the file was durable.
    await (await open(disk)).close()
    disk.files.delete(FIRST)
    const again = await open(disk)
    await corrupt(again.readEntry(1n, 0n))
    assert.ok((await again.status()).corruptBytes > 0)
    await again.close()
  })

  test('ends before what a cut tore off, also when the index block is damaged later', async () => {
    const disk = new MemoryDisk()
    const store = await open(disk)
    await store.openLedger(header(1n))
    await fill(store, 0n, 3n)
    await Promise.all([3n, 4n, 5n].map((id) => store.addEntry(1n, id, entryOf(1n, id, 1_900))))
    const cut = await cloneOf(disk)
    const torn = bytesOf(cut, FIRST).indexOf(Buffer.from(entryOf(1n, 4n, 1_900).bytes)) - 40
    bytesOf(cut, FIRST).fill(0, torn)
    for (let run = 0; run < 2; run += 1) {
      const opened = await open(cut)
      assert.equal((await opened.readEntry(1n, 3n)).kind, 'entry')
      assert.equal((await opened.readEntry(1n, 4n)).kind, 'suspect')
      await opened.close()
    }
    bytesOf(cut, FIRST).fill(0, FILE_BYTES - PAGE_BYTES)
    const opened = await open(cut)
    assert.equal((await opened.status()).corruptBytes, 0)
    assert.equal((await opened.readEntry(1n, 3n)).kind, 'entry')
    assert.equal((await opened.readEntry(1n, 4n)).kind, 'suspect')
    await opened.close()
    await store.close()
  })
})

test('a store with damage in two files of one ledger starts, and says so of those entries only', async () => {
  const disk = new MemoryDisk()
  let store = await open(disk)
  await store.openLedger(header(1n))
  const ids = Array.from({ length: 60 }, (_, at) => BigInt(at))
  await Promise.all(ids.map((id) => store.addEntry(1n, id, entryOf(1n, id, 1_900))))
  await store.close()
  // Another file holds newer copies from around the entry that is going to be damaged.
  store = await open(disk)
  for (const id of [0n, 59n]) await store.addEntry(1n, id, entryOf(1n, id, 1_900), { recovery: true })
  await store.close()
  const newest =
    [...disk.files.keys()]
      .filter((path) => path.includes('/log-'))
      .sort()
      .at(-1) ?? ''
  const flip = (path: string, at: number): void => {
    const bytes = bytesOf(disk, path)
    bytes[at] = (bytes[at] ?? 0) ^ 1
  }
  const bodyOf = (path: string, id: bigint): number =>
    bytesOf(disk, path).indexOf(Buffer.from(entryOf(1n, id, 1_900).bytes))
  flip(FIRST, bodyOf(FIRST, 3n) + 100)
  bytesOf(disk, FIRST).fill(0, bytesOf(disk, FIRST).byteLength - PAGE_BYTES)
  const place = Buffer.alloc(4)
  place.writeUInt32BE(bodyOf(newest, 59n) - 40)
  flip(newest, bytesOf(disk, newest).lastIndexOf(place))
  flip(newest, bodyOf(newest, 59n) + 100)
  store = await open(disk)
  await corrupt(store.readEntry(1n, 3n))
  await corrupt(store.readEntry(1n, 59n))
  await store.openLedger(header(2n))
  await store.addEntry(2n, 0n, entryOf(2n, 0n, 100))
  assert.deepEqual(
    (await store.listLedgers(-1n, 9)).map(({ ledgerId }) => ledgerId),
    [1n, 2n],
  )
  await store.close()
})

test('a directory that can not be synced for want of space leaves nobody knowing which superblock holds', async () => {
  const memory = new MemoryDisk()
  const faulty = new FaultyDisk(memory)
  const store = await openStore(DIRECTORY, { disk: faulty.disk, fileBytes: FILE_BYTES })
  faulty.fault = (action) => (action === 'syncDirectory' ? 'disk_full' : null)
  await assert.rejects(store.openLedger(header(1n)), (error) => isStratalogError(error, 'store_poisoned'))
  for (let turn = 0; turn < 20; turn += 1) await setImmediate()
  assert.equal((await store.status()).state, 'poisoned')
  await store.close()
})

test('a store that lost a ledger and joins it again does not say that it never had it (invariant 1)', async () => {
  const disk = new MemoryDisk()
  let store = await open(disk)
  await store.openLedger(header(1n))
  await fill(store, 0n, 5n)
  await store.close()
  await (await open(disk)).close()
  bytesOf(disk, FIRST).fill(0)
  store = await open(disk)
  await corrupt(store.readEntry(1n, 0n))
  await store.openLedger({ ...header(1n), firstEntryId: 9n })
  await corrupt(store.readEntry(1n, 0n))
  // A ledger that begins now is as good as on any other store.
  await store.openLedger(header(2n))
  await store.addEntry(2n, 0n, entryOf(2n, 0n, 100))
  assert.equal((await store.readEntry(2n, 1n)).kind, 'missing')
  await store.close()
  store = await open(disk)
  await corrupt(store.readEntry(1n, 0n))
  assert.equal((await store.readEntry(2n, 1n)).kind, 'missing')
  await store.close()
})
