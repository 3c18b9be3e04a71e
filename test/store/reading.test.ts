import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { after, describe, test } from 'node:test'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import type { Disk } from '../../src/ports/disk.js'
import type { SegmentStore } from '../../src/ports/segment-store.js'
import { realDisk } from '../../src/system/disk.js'
import { MemoryDisk } from '../helpers/memory-disk.js'
import { entryOf, header, methodsOf, openStore, TempDirectories } from '../helpers/store.js'

/** A disk that tells of each read of a log file before it happens and after. */
function watched(
  base: Disk,
  begins: (bytes: number, offset: number) => void,
  ends: (bytes: number) => void,
): Disk {
  const disk = methodsOf(base)
  const { open } = disk
  disk.open = async (path, mode) => {
    const file = await open(path, mode)
    if (!path.includes('/log-')) return file
    const read = file.read.bind(file)
    file.read = async (target, offset) => {
      begins(target.byteLength, offset)
      try {
        return await read(target, offset)
      } finally {
        ends(target.byteLength)
      }
    }
    return file
  }
  return disk
}

describe('a run of entries', () => {
  const directories = new TempDirectories()
  after(() => directories.removeAll())

  test('that lie far apart takes little memory, while it is read and after (invariant 11)', async () => {
    let reading = 0
    let most = 0
    const begins = (bytes: number): void => {
      reading += bytes
      most = Math.max(most, reading)
    }
    const ends = (bytes: number): void => {
      reading -= bytes
    }
    const store = await openStore(await directories.make(), {
      disk: watched(realDisk(), begins, ends),
      fileBytes: 64 << 20,
    })
    await store.openLedger(header(1n))
    await store.openLedger(header(2n))
    const adds: Promise<void>[] = []
    for (let id = 0n; id < 800n; id += 1n) {
      adds.push(store.addEntry(1n, id, entryOf(1n, id, 100)), store.addEntry(2n, id, entryOf(2n, id, 60_000)))
    }
    await Promise.all(adds)
    const run = await store.readEntries(1n, 0n, 799n, 1 << 20)
    assert.equal(run.length, 800)
    const kept = [...new Set(run.map(({ buffer }) => buffer))].reduce(
      (sum, { byteLength }) => sum + byteLength,
      0,
    )
    assert.ok(kept < 1 << 20, `${kept} bytes are kept for ${800 * 136}`)
    assert.ok(most <= 17 << 20, `${most} bytes were read at once`)
    await store.close()
  })

  describe('with a sector that can not be read', () => {
    async function setup(): Promise<{
      store: SegmentStore
      fail: (from: number, to: number) => void
      file: Buffer
    }> {
      const memory = new MemoryDisk()
      let bad = { from: 0, to: 0 }
      const begins = (bytes: number, offset: number): void => {
        if (offset < bad.to && offset + bytes > bad.from) throw new StratalogError('io_failed', 'bad sector')
      }
      const disk = watched(memory, begins, () => undefined)
      const store = await openStore('/store', { disk, fileBytes: 64 << 10 })
      await store.openLedger(header(1n))
      await store.openLedger(header(2n))
      const adds: Promise<void>[] = []
      for (let id = 0n; id < 6n; id += 1n) {
        adds.push(store.addEntry(1n, id, entryOf(1n, id, 500)), store.addEntry(2n, id, entryOf(2n, id, 700)))
      }
      await Promise.all(adds)
      const fail = (from: number, to: number): void => {
        bad = { from, to }
      }
      const file = memory.files.get('/store/log-0000000000000001')?.bytes ?? assert.fail('no log file')
      return { store, fail, file }
    }

    test('between them is whole all the same', async () => {
      const { store, fail, file } = await setup()
      const other = file.indexOf(Buffer.from(entryOf(2n, 2n, 700).bytes))
      fail(other, other + 10)
      assert.equal((await store.readEntries(1n, 0n, 5n, 1 << 20)).length, 6)
      await store.close()
    })

    test('in one of them ends before it, and only that one is unknown', async () => {
      const { store, fail, file } = await setup()
      const third = file.indexOf(Buffer.from(entryOf(1n, 2n, 500).bytes))
      fail(third, third + 10)
      assert.equal((await store.readEntries(1n, 0n, 5n, 1 << 20)).length, 2)
      await assert.rejects(store.readEntries(1n, 2n, 5n, 1 << 20), (error) =>
        isStratalogError(error, 'io_failed'),
      )
      assert.equal((await store.readEntries(1n, 3n, 5n, 1 << 20)).length, 3)
      await store.close()
    })
  })

  test('in a file that lost its end: what is left of it is read, and only what is gone is damaged', async () => {
    const memory = new MemoryDisk()
    const store = await openStore('/store', { disk: memory, fileBytes: 64 << 10 })
    await store.openLedger(header(1n))
    await Promise.all([0n, 1n, 2n].map((id) => store.addEntry(1n, id, entryOf(1n, id, 500))))
    const content = memory.files.get('/store/log-0000000000000001') ?? assert.fail('no log file')
    content.bytes = content.bytes.subarray(0, content.bytes.indexOf(Buffer.from(entryOf(1n, 2n, 500).bytes)))
    assert.equal((await store.readEntries(1n, 0n, 2n, 1 << 20)).length, 2)
    await assert.rejects(store.readEntry(1n, 2n), (error) => isStratalogError(error, 'corrupt'))
    assert.equal((await store.status()).corruptBytes, entryOf(1n, 2n, 500).bytes.byteLength + 40)
    await store.close()
  })
})
