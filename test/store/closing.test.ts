import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { isStratalogError } from '../../src/model/errors.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { MemoryDisk } from '../helpers/memory-disk.js'
import { entryOf, FaultyDisk, header, methodsOf, openStore } from '../helpers/store.js'

const DIRECTORY = '/store'
const FILE_BYTES = 64 << 10

function gate(): { readonly opened: Promise<void>; readonly open: () => void } {
  let open = (): void => {}
  const opened = new Promise<void>((resolve) => {
    open = resolve
  })
  return { opened, open }
}

describe('closing a store', () => {
  test('while the mark of an idle log falls due: one of the two ends the file, not both at one place', async () => {
    const memory = new MemoryDisk()
    const clock = new ManualClock()
    const offsets: number[] = []
    /** Syncs of the superblock and of log files wait for these. */
    const gates = { superblock: gate(), log: gate() }
    const disk = methodsOf(memory)
    const { open } = disk
    disk.open = async (path, mode) => {
      const file = await open(path, mode)
      const isLog = path.includes('/log-')
      const [write, dataSync] = [file.write.bind(file), file.dataSync.bind(file)]
      file.write = (chunks, offset) => {
        if (isLog) offsets.push(offset)
        return write(chunks, offset)
      }
      file.dataSync = async () => {
        await (isLog ? gates.log : gates.superblock).opened
        await dataSync()
      }
      return file
    }
    for (const one of [gates.log, gates.superblock]) one.open()
    const options = { disk, clock, fileBytes: FILE_BYTES, idleMarkMs: 1_000 }
    const store = await openStore(DIRECTORY, options)
    await store.openLedger(header(1n))
    // Past the middle, so that the next file is made ready; closing has to put it back, which takes a while.
    for (let id = 0n; id < 5n; id += 1n) await store.addEntry(1n, id, entryOf(1n, id, 8_000))
    for (let turn = 0; turn < 50; turn += 1) await setImmediate()
    gates.superblock = gate()
    gates.log = gate()
    offsets.length = 0
    const closed = store.close()
    await clock.advance(2_000)
    gates.superblock.open()
    for (let turn = 0; turn < 50; turn += 1) await setImmediate()
    gates.log.open()
    await closed
    assert.equal(new Set(offsets).size, offsets.length, `written twice: ${offsets.join(', ')}`)
    assert.equal(clock.pending, 0)
    const again = await openStore(DIRECTORY, { disk: memory, fileBytes: FILE_BYTES })
    assert.equal((await again.readEntries(1n, 0n, 9n, 1 << 20)).length, 5)
    assert.equal((await again.readEntry(1n, 5n)).kind, 'missing')
    await again.close()
  })

  test('without an index block that could be written is still a clean end', async () => {
    for (const action of ['write', 'dataSync'] as const) {
      const memory = new MemoryDisk()
      const faulty = new FaultyDisk(memory)
      const store = await openStore(DIRECTORY, { disk: faulty.disk, fileBytes: FILE_BYTES })
      await store.openLedger(header(1n))
      await store.addEntry(1n, 0n, entryOf(1n, 0n, 100))
      // The first call is the mark's, the second the block's.
      let calls = 0
      faulty.fault = (called, path) => {
        if (called !== action || !path.includes('/log-')) return null
        calls += 1
        return calls === 2 ? 'io_failed' : null
      }
      await store.close()
      assert.equal(calls, 2, 'the premise')
      const again = await openStore(DIRECTORY, { disk: memory, fileBytes: FILE_BYTES })
      assert.equal((await again.readEntry(1n, 0n)).kind, 'entry')
      assert.equal((await again.readEntry(1n, 1n)).kind, 'missing')
      await again.close()
    }
  })

  test('without its mark is a failure that is told', async () => {
    const faulty = new FaultyDisk(new MemoryDisk())
    const store = await openStore(DIRECTORY, { disk: faulty.disk, fileBytes: FILE_BYTES })
    await store.openLedger(header(1n))
    faulty.fault = (called, path) => (called === 'dataSync' && path.includes('/log-') ? 'io_failed' : null)
    await assert.rejects(store.close(), (error) => isStratalogError(error, 'store_poisoned'))
  })
})
