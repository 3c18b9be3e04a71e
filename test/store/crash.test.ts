import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { afterEach, describe, test } from 'node:test'
import type { SegmentStore } from '../../src/ports/segment-store.js'
import { decodeFrameHeader, frameSeed } from '../../src/store/local/frame.js'
import { readSuperblock } from '../../src/store/local/superblock.js'
import { realDisk } from '../../src/system/disk.js'
import { MemoryDisk } from '../helpers/memory-disk.js'
import { afterPowerCut, entryOf, header, openStore, TempDirectories } from '../helpers/store.js'

const DIRECTORY = '/store'
const FILE_BYTES = 64 << 10

const open = (disk: MemoryDisk): Promise<SegmentStore> =>
  openStore(DIRECTORY, { disk, fileBytes: FILE_BYTES })
const kindOf = async (store: SegmentStore, ledgerId: bigint, entryId: bigint): Promise<string> =>
  (await store.readEntry(ledgerId, entryId)).kind
const addAll = async (
  store: SegmentStore,
  ledgerId: bigint,
  from: bigint,
  count: number,
  size: number,
): Promise<void> => {
  const ids = Array.from({ length: count }, (_, at) => from + BigInt(at))
  await Promise.all(ids.map((id) => store.addEntry(ledgerId, id, entryOf(ledgerId, id, size))))
}
const isSame = async (
  store: SegmentStore,
  ledgerId: bigint,
  entryId: bigint,
  size: number,
): Promise<void> => {
  const answer = await store.readEntry(ledgerId, entryId)
  assert.equal(answer.kind, 'entry', `entry ${entryId} of ledger ${ledgerId}`)
  if (answer.kind === 'entry') {
    assert.ok(Buffer.from(entryOf(ledgerId, entryId, size).bytes).equals(answer.bytes))
  }
}

describe('a store that was cut off', () => {
  const temporary = new TempDirectories()
  afterEach(() => temporary.removeAll())

  test('invariant 1: a ledger that was in doubt when it was sealed stays so, however often power fails', async () => {
    const disk = new MemoryDisk()
    const first = await open(disk)
    await first.openLedger(header(1n))
    await addAll(first, 1n, 0n, 1, 500)
    let cut = await afterPowerCut(disk, () => false)
    // The disk had lied: what the store acknowledged went with the power.
    for (const [path, { bytes, durable }] of cut.files)
      if (path.includes('/log-')) for (const content of [bytes, durable]) content.fill(0)
    const second = await open(cut)
    assert.equal(await kindOf(second, 1n, 0n), 'suspect')
    // Whoever closed the ledger with the other stores tells this one where it ends.
    await second.sealLedger(1n, { lastEntryId: 0n, lengthBytes: 500 })
    for (let life = 0; life < 3; life += 1) {
      cut = await afterPowerCut(cut, () => false)
      const store = await open(cut)
      assert.equal(await kindOf(store, 1n, 0n), 'suspect', `life ${life}`)
      assert.equal(await kindOf(store, 1n, 1n), 'missing', `life ${life}`)
      // So that this life is cut off, too, and not one that wrote nothing.
      await store.openLedger(header(BigInt(10 + life)))
    }
  })

  test('on a real disk: what was acknowledged is there, the rest is suspect, not missing', async () => {
    const directory = await temporary.make()
    const store = await openStore(directory)
    await store.openLedger(header(1n))
    await addAll(store, 1n, 0n, 100, 5_000)
    const copy = await temporary.copyOf(directory)
    const after = await openStore(copy, { create: false })
    for (let id = 0n; id < 100n; id += 1n) await isSame(after, 1n, id, 5_000)
    assert.equal(await kindOf(after, 1n, 100n), 'suspect')
    await after.close()
    await store.close()
    const closed = await openStore(directory, { create: false })
    assert.equal(await kindOf(closed, 1n, 100n), 'missing')
    await closed.close()
  })

  test('suspicion holds for what was open then, through later clean runs, and for nothing else', async () => {
    const disk = new MemoryDisk()
    const store = await open(disk)
    for (const id of [1n, 2n, 3n]) await store.openLedger(header(id))
    await addAll(store, 1n, 0n, 3, 100)
    await store.sealLedger(2n, { lastEntryId: 4n, lengthBytes: 1 })
    const cut = await afterPowerCut(disk, () => false)
    const check = async (opened: SegmentStore): Promise<void> => {
      assert.equal(await kindOf(opened, 1n, 2n), 'entry')
      assert.equal(await kindOf(opened, 1n, 3n), 'suspect')
      assert.equal(await kindOf(opened, 3n, 0n), 'suspect')
      assert.equal(await kindOf(opened, 99n, 0n), 'suspect')
      assert.equal(await kindOf(opened, 2n, 3n), 'missing')
      assert.deepEqual((await opened.readLac(3n)).last, { kind: 'suspect' })
    }
    let after = await open(cut)
    await check(after)
    await after.openLedger(header(50n))
    assert.equal(await kindOf(after, 50n, 0n), 'missing')
    await after.close()
    after = await open(cut)
    await check(after)
    assert.equal(await kindOf(after, 50n, 0n), 'missing')
    // A seal says where the ledger ends: above it nothing is suspect.
    await after.sealLedger(1n, { lastEntryId: 2n, lengthBytes: 1 })
    assert.equal(await kindOf(after, 1n, 3n), 'missing')
    await after.close()
  })

  test('a store that wrote nothing has nothing suspect', async () => {
    const disk = new MemoryDisk()
    await open(disk)
    let after = await open(await afterPowerCut(disk, () => false))
    assert.equal(await kindOf(after, 1n, 0n), 'missing')
    await after.openLedger(header(1n))
    await after.close()
    const clean = new MemoryDisk()
    const store = await open(clean)
    await store.openLedger(header(1n))
    await store.close()
    await open(clean) // reads only, then is cut off
    after = await open(await afterPowerCut(clean, () => false))
    assert.equal(await kindOf(after, 1n, 0n), 'missing')
  })

  test('an idle store says that all was durable, but only a clean end ends suspicion', async () => {
    const disk = new MemoryDisk()
    const store = await openStore(DIRECTORY, { disk, fileBytes: FILE_BYTES, idleMarkMs: 5 })
    await store.openLedger(header(1n))
    await addAll(store, 1n, 0n, 1, 3_000)
    const path = '/store/log-0000000000000001'
    const written = (): number => disk.files.get(path)?.bytes.lastIndexOf('slgroup1') ?? -1
    const before = written()
    for (let turn = 0; written() === before && turn < 200; turn += 1)
      await new Promise((done) => setTimeout(done, 5))
    assert.notEqual(written(), before, 'no mark was written')
    const cut = await afterPowerCut(disk, () => false)
    const bytes = cut.files.get(path)?.bytes ?? Buffer.alloc(0)
    bytes.fill(0, 4096, 4096 + 200)
    const after = await open(cut)
    assert.ok((await after.status()).corruptBytes > 0, 'the last group was known to be durable')
  })
})

describe('recycled files', () => {
  test('are used again and their old frames never come back', async () => {
    const disk = new MemoryDisk()
    let store = await open(disk)
    const size = 3_000
    for (let ledgerId = 1n; ledgerId <= 40n; ledgerId += 1n) {
      await store.openLedger(header(ledgerId))
      await addAll(store, ledgerId, 0n, 12, size)
      if (ledgerId > 2n) await store.deleteLedger(ledgerId - 2n)
    }
    const superblock = await readSuperblock(disk, DIRECTORY)
    assert.ok(superblock !== null && superblock.generation > 15n, `generation ${superblock?.generation}`)
    assert.ok(disk.files.size < 9, `${disk.files.size} files for two live ledgers`)
    const cut = await afterPowerCut(disk, () => false)
    // The premise: old frames do lie in the files that are in use.
    const newest = superblock.files.at(-1) ?? 0n
    let old = 0
    for (const [path, { bytes }] of cut.files) {
      if (!path.includes('/log-')) continue
      const own = BigInt(`0x${path.slice(path.indexOf('log-') + 4)}`)
      for (let at = 0; at < bytes.byteLength; at += 4096) {
        for (let generation = 1n; generation <= newest; generation += 1n) {
          if (generation === own) continue
          if (decodeFrameHeader(bytes, at, frameSeed(superblock.storeId, generation)) !== null) old += 1
        }
      }
    }
    assert.ok(old > 0, 'no old frame is left: the test shows nothing')
    store = await open(cut)
    const found = await store.listLedgers(-1n, 100)
    assert.deepEqual(
      found.map(({ ledgerId, entries }) => [ledgerId, entries]),
      [
        [39n, 12],
        [40n, 12],
      ],
    )
    for (const ledgerId of [39n, 40n]) {
      for (let id = 0n; id < 12n; id += 1n) await isSame(store, ledgerId, id, size)
    }
    for (let ledgerId = 1n; ledgerId <= 38n; ledgerId += 1n)
      assert.notEqual(await kindOf(store, ledgerId, 0n), 'entry')
    assert.equal((await store.status()).corruptBytes, 0)
    await store.close()
  })

  test('headers, fences, seals, tombstones and control frames outlive the files they stood in', async () => {
    const disk = new MemoryDisk()
    let store = await open(disk)
    await store.openLedger(header(1n))
    await store.fence(2n)
    await store.openLedger(header(3n))
    await store.sealLedger(3n, { lastEntryId: -1n, lengthBytes: 0 })
    await store.putControl({ id: 'c', kind: 'hold', body: '{}' })
    for (let ledgerId = 10n; ledgerId <= 40n; ledgerId += 1n) {
      await store.openLedger(header(ledgerId))
      await addAll(store, ledgerId, 0n, 12, 3_000)
      await store.deleteLedger(ledgerId)
      if (ledgerId % 10n === 0n) {
        await store.close()
        store = await open(disk)
      }
    }
    assert.ok(!disk.files.has('/store/log-0000000000000001'), 'the first file was never freed')
    await store.close()
    store = await open(disk)
    const found = await store.listLedgers(-1n, 100)
    assert.deepEqual(
      found.map(({ ledgerId }) => ledgerId),
      [1n, 2n, 3n],
    )
    assert.deepEqual(found[0]?.header, header(1n))
    assert.equal(found[1]?.fenced, true)
    assert.deepEqual(found[2]?.seal, { lastEntryId: -1n, lengthBytes: 0 })
    assert.deepEqual(await store.listControls(), [{ id: 'c', kind: 'hold', body: '{}' }])
    for (let ledgerId = 10n; ledgerId <= 40n; ledgerId += 1n) {
      assert.equal(await kindOf(store, ledgerId, 0n), 'missing')
    }
    await store.close()
  })

  test('a file is not used again while somebody reads it', async () => {
    const directory = await temporaryDirectory()
    const disk = realDisk()
    let release = (): void => undefined
    const held = new Promise<void>((resolve) => {
      release = resolve
    })
    let reading = false
    const slow = {
      ...disk,
      open: async (path: string, mode: 'create' | 'write' | 'read') => {
        const file = await disk.open(path, mode)
        if (mode !== 'read' || !path.includes('log-')) return file
        return {
          write: file.write.bind(file),
          dataSync: file.dataSync.bind(file),
          preallocate: file.preallocate.bind(file),
          truncate: file.truncate.bind(file),
          sizeBytes: file.sizeBytes.bind(file),
          close: file.close.bind(file),
          read: async (target: Uint8Array, offset: number) => {
            reading = true
            await held
            return file.read(target, offset)
          },
        }
      },
    }
    const store = await openStore(directory.path, { disk: slow, fileBytes: FILE_BYTES })
    await store.openLedger(header(1n))
    await addAll(store, 1n, 0n, 12, 3_000)
    const read = store.readEntry(1n, 5n)
    await new Promise((done) => setTimeout(done, 5))
    assert.ok(reading)
    await store.deleteLedger(1n)
    for (let ledgerId = 2n; ledgerId < 12n; ledgerId += 1n) {
      await store.openLedger(header(ledgerId))
      await addAll(store, ledgerId, 0n, 12, 3_000)
      await store.deleteLedger(ledgerId)
    }
    release()
    const answer = await read
    assert.ok(answer.kind === 'entry' && Buffer.from(entryOf(1n, 5n, 3_000).bytes).equals(answer.bytes))
    await store.close()
    await directory.remove()
  })
})

async function temporaryDirectory(): Promise<{ path: string; remove(): Promise<void> }> {
  const temporary = new TempDirectories()
  return { path: await temporary.make(), remove: () => temporary.removeAll() }
}
