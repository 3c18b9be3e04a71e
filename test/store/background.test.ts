import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { describe, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { StratalogError } from '../../src/model/errors.js'
import type { SegmentStore } from '../../src/ports/segment-store.js'
import { readSuperblock } from '../../src/store/local/superblock.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { MemoryDisk } from '../helpers/memory-disk.js'
import { cloneOf, entryOf, FaultyDisk, header, openStore } from '../helpers/store.js'

const DIRECTORY = '/store'
const FILE_BYTES = 64 << 10
const FIRST = `${DIRECTORY}/log-0000000000000001`
const LEDGERS = 70n

interface Setup {
  readonly memory: MemoryDisk
  readonly faulty: FaultyDisk
  readonly clock: ManualClock
  readonly store: SegmentStore
}

async function setup(memory = new MemoryDisk(), rewriteBytesPerSecond = 2 ** 40): Promise<Setup> {
  const faulty = new FaultyDisk(memory)
  const clock = new ManualClock()
  const options = { disk: faulty.disk, clock, fileBytes: FILE_BYTES, rewriteBytesPerSecond }
  return { memory, faulty, clock, store: await openStore(DIRECTORY, options) }
}

async function settle(): Promise<void> {
  for (let turn = 0; turn < 300; turn += 1) await setImmediate()
}

/** An entry of each ledger: every file holds short runs of all of them, which is worth rewriting. */
async function round(store: SegmentStore, entryId: bigint): Promise<void> {
  const ids = Array.from({ length: Number(LEDGERS) }, (_, at) => BigInt(at))
  await Promise.all(ids.map((id) => store.addEntry(id, entryId, entryOf(id, entryId, 300))))
}

/** A closed store with files that are due to be rewritten, and none that was. */
async function scattered(): Promise<MemoryDisk> {
  const { memory, store } = await setup(new MemoryDisk(), 1)
  for (let id = 0n; id < LEDGERS; id += 1n) await store.openLedger(header(id))
  for (let id = 0n; id < 8n; id += 1n) await round(store, id)
  await store.close()
  return memory
}

/** The file with the oldest entries, which is rewritten first. */
function oldestOf(memory: MemoryDisk): {
  readonly path: string
  readonly generation: bigint
  readonly bytes: Buffer
} {
  const wanted = Buffer.from(entryOf(9n, 0n, 300).bytes)
  for (const [path, { bytes }] of memory.files) {
    if (!path.includes('/log-') || !bytes.includes(wanted)) continue
    return { path, bytes, generation: BigInt(`0x${path.slice(path.lastIndexOf('-') + 1)}`) }
  }
  return assert.fail('no file holds the entry')
}

async function rewrittenFiles(memory: MemoryDisk): Promise<number> {
  return (await readSuperblock(memory, DIRECTORY))?.rewritten.length ?? 0
}

async function checkEntries(store: SegmentStore, entries: number): Promise<void> {
  for (let id = 0n; id < LEDGERS; id += 1n) {
    assert.equal((await store.readEntries(id, 0n, 99n, 1 << 20)).length, entries, `of ledger ${id}`)
  }
}

describe('rewriting', () => {
  test('of a file that can not be opened for now waits; the store stays writable (invariant 10)', async () => {
    const { memory, faulty, clock, store } = await setup(await scattered())
    const oldest = oldestOf(memory).path
    faulty.fault = (action, path) => (action === 'open' && path === oldest ? 'io_failed' : null)
    await round(store, 8n)
    await settle()
    assert.equal((await store.status()).state, 'writable')
    assert.equal(await rewrittenFiles(memory), 0, 'the premise')
    faulty.fault = () => null
    await clock.advance(11_000)
    for (let id = 9n; id < 12n; id += 1n) await round(store, id)
    await settle()
    assert.ok((await rewrittenFiles(memory)) > 0, 'nothing was rewritten afterwards')
    await checkEntries(store, 12)
    await store.close()
  })

  test('poisons where a write fails, and the store still reads', async () => {
    const { memory, faulty, store } = await setup(await scattered())
    const listed = (await readSuperblock(memory, DIRECTORY))?.generation ?? 0n
    const ours = `${DIRECTORY}/log-${(listed + 1n).toString(16).padStart(16, '0')}`
    // Appends go to the next generation, what is rewritten to the ones behind.
    faulty.fault = (action, path) =>
      action === 'write' && path.includes('/log-') && path > ours ? 'io_failed' : null
    await round(store, 8n)
    await settle()
    assert.equal((await store.status()).state, 'poisoned')
    await checkEntries(store, 9)
    await store.close()
  })

  test('goes on with the other files where the index of one is damaged together with its frames', async () => {
    const memory = await scattered()
    const before = await readSuperblock(memory, DIRECTORY)
    const { bytes, generation } = oldestOf(memory)
    const { clock, store } = await setup(memory)
    // Row and frame of one entry: neither tells the other any more.
    const frame = bytes.indexOf(Buffer.from(entryOf(9n, 0n, 300).bytes)) - 40
    const place = Buffer.alloc(4)
    place.writeUInt32BE(frame)
    const row = bytes.lastIndexOf(place)
    assert.ok(frame > 0 && row > frame, 'the premise')
    for (const at of [frame + 100, row]) bytes[at] = (bytes[at] ?? 0) ^ 1
    for (let id = 8n; id < 14n; id += 1n) {
      await round(store, id)
      await settle()
      await clock.advance(11_000)
    }
    const after = await readSuperblock(memory, DIRECTORY)
    assert.ok((after?.rewritten.length ?? 0) > 0, 'nothing was rewritten')
    const kept = before?.files.filter((one) => after?.files.includes(one)).length ?? 0
    assert.ok(kept < (before?.files.length ?? 0), 'the other old files were not rewritten')
    assert.ok(after?.files.includes(generation), 'the damaged file is gone')
    assert.equal((await store.status()).state, 'writable')
    assert.equal((await store.readEntries(10n, 0n, 99n, 1 << 20)).length, 14)
    await assert.rejects(store.readEntry(9n, 0n))
    await store.close()
  })
})

describe('an index block that can not be written', () => {
  const fill = async (store: SegmentStore, from: bigint, to: bigint): Promise<void> => {
    for (let id = from; id < to; id += 1n) await store.addEntry(1n, id, entryOf(1n, id, 4_000))
    await settle()
  }

  for (const fault of ['open', 'write', 'dataSync'] as const) {
    test(`leaves the store writable and whole, and is written by the next start: ${fault}`, async () => {
      const { memory, faulty, store } = await setup()
      await store.openLedger(header(1n))
      // The block of the first file is what is opened, written and synced once the second takes the appends.
      let closed = false
      faulty.fault = (action, path) => (closed && action === fault && path === FIRST ? 'io_failed' : null)
      for (let id = 0n; !memory.files.has(`${DIRECTORY}/log-0000000000000002`); id += 1n)
        await fill(store, id, id + 1n)
      const { lastEntryId } = (await store.listLedgers(-1n, 1))[0] ?? assert.fail('no ledger')
      await fill(store, lastEntryId + 1n, lastEntryId + 3n)
      closed = true
      await fill(store, lastEntryId + 3n, 40n)
      faulty.fault = () => null
      const tried = faulty.calls.filter(({ action, path }) => action === fault && path === FIRST).length
      await fill(store, 40n, 60n)
      assert.equal((await store.status()).state, 'writable')
      assert.equal((await store.readEntries(1n, 0n, 99n, 1 << 20)).length, 60)
      const later = faulty.calls.filter(({ action, path }) => action === fault && path === FIRST).length
      if (fault === 'dataSync') assert.equal(later, tried, 'synced again after a failed sync')
      await store.close()
      const again = await setup(memory)
      assert.equal((await again.store.readEntries(1n, 0n, 99n, 1 << 20)).length, 60)
      assert.equal((await again.store.readEntry(1n, 60n)).kind, 'missing')
      await again.store.close()
    })
  }

  test('of file after file is a disk that must not be written to', async () => {
    const { faulty, store } = await setup()
    await store.openLedger(header(1n))
    let writes = new Map<string, number>()
    // The first write of a group is let through; the blocks of closed files are opened for.
    faulty.fault = (action, path) => {
      if (action !== 'open' || !path.includes('/log-')) return null
      writes = writes.set(path, (writes.get(path) ?? 0) + 1)
      return (writes.get(path) ?? 0) > 1 ? 'access_denied' : null
    }
    await assert.rejects(fill(store, 0n, 200n))
    assert.equal((await store.status()).state, 'poisoned')
    await store.close()
  })

  test('of a file that may only be read keeps a store from nothing', async () => {
    const memory = new MemoryDisk()
    const first = await setup(memory)
    await first.store.openLedger(header(1n))
    await fill(first.store, 0n, 3n)
    // Cut off: the next start scans the file and would give it its block.
    const cut = await cloneOf(memory)
    const open = cut.open.bind(cut)
    cut.open = async (path, mode) => {
      if (path === FIRST && mode === 'write') throw new StratalogError('access_denied', 'read only')
      return open(path, mode)
    }
    const { store } = await setup(cut)
    assert.equal((await store.status()).state, 'writable')
    assert.equal((await store.readEntries(1n, 0n, 9n, 1 << 20)).length, 3)
    await store.addEntry(1n, 3n, entryOf(1n, 3n, 4_000))
    await store.close()
    await first.store.close()
  })
})
