import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { describe, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import type { Clock } from '../../src/ports/clock.js'
import type { SegmentStore } from '../../src/ports/segment-store.js'
import type { LocalStoreOptions } from '../../src/store/local/options.js'
import { realClock } from '../../src/system/clock.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { MemoryDisk } from '../helpers/memory-disk.js'
import { cloneOf, entryOf, FaultyDisk, header, methodsOf, openStore } from '../helpers/store.js'

const DIRECTORY = '/store'
const FILE_BYTES = 64 << 10

interface Setup {
  readonly memory: MemoryDisk
  readonly faulty: FaultyDisk
  readonly store: SegmentStore
  /** Moves the store's clock on. */
  pass(ms: number): void
}

async function setup(change: Partial<LocalStoreOptions> = {}): Promise<Setup> {
  const memory = new MemoryDisk()
  const faulty = new FaultyDisk(memory)
  let passedMs = 0
  const base = realClock()
  const clock: Clock = { ...base, monotonicMs: () => base.monotonicMs() + passedMs }
  const store = await openStore(DIRECTORY, { disk: faulty.disk, clock, fileBytes: FILE_BYTES, ...change })
  const pass = (ms: number): void => {
    passedMs += ms
  }
  return { memory, faulty, store, pass }
}

const fails = (promise: Promise<unknown>, code: string): Promise<void> =>
  assert.rejects(promise, (error) => {
    assert.ok(isStratalogError(error, code as 'closed'), `expected ${code}, got ${String(error)}`)
    return true
  })
const isLog = (path: string): boolean => path.includes('/log-')

describe('a failed write or sync', () => {
  for (const action of ['write', 'dataSync'] as const) {
    test(`${action}: poisons the store for ever, and what was durable stays readable`, async () => {
      const { memory, faulty, store } = await setup()
      await store.openLedger(header(1n))
      await store.addEntry(1n, 0n, entryOf(1n, 0n, 100))
      faulty.fault = (called, path) => (called === action && isLog(path) ? 'io_failed' : null)
      const lost = [1n, 2n].map((id) => store.addEntry(1n, id, entryOf(1n, id, 100)))
      for (const add of lost) await fails(add, 'store_poisoned')
      faulty.fault = () => null
      const calls = faulty.calls.length
      await fails(store.addEntry(1n, 3n, entryOf(1n, 3n, 100)), 'store_poisoned')
      await fails(store.openLedger(header(2n)), 'store_poisoned')
      await fails(store.fence(1n), 'store_poisoned')
      await fails(store.sealLedger(1n, { lastEntryId: 0n, lengthBytes: 1 }), 'store_poisoned')
      await fails(store.deleteLedger(1n), 'store_poisoned')
      await fails(store.putControl({ id: 'x', kind: 'x', body: '' }), 'store_poisoned')
      assert.equal((await store.readEntry(1n, 0n)).kind, 'entry')
      const status = await store.status()
      assert.equal(status.state, 'poisoned')
      assert.match(status.reason ?? '', /injected/)
      assert.equal(status.pendingBytes, 0)
      await store.close()
      const later = faulty.calls
        .slice(calls)
        .filter((call) => call.action !== 'read' && call.action !== 'open')
      assert.deepEqual(later, [], 'a poisoned store wrote again')
      const again = await openStore(DIRECTORY, { disk: memory, fileBytes: FILE_BYTES })
      assert.equal((await again.readEntry(1n, 0n)).kind, 'entry')
      assert.equal((await again.readEntry(1n, 9n)).kind, 'suspect')
      await again.close()
    })
  }

  test('while the next file is listed poisons too', async () => {
    const { faulty, store } = await setup()
    faulty.fault = (called, path) => (called === 'syncDirectory' && path === DIRECTORY ? 'io_failed' : null)
    await fails(store.openLedger(header(1n)), 'store_poisoned')
    await store.close()
  })

  for (const action of ['syncDirectory', 'dataSync'] as const) {
    test(`${action} of the superblock, while a file is made ready ahead, poisons and is not repeated`, async () => {
      const { faulty, store } = await setup()
      await store.openLedger(header(1n))
      const superblock = (called: string, path: string) =>
        called === action && (action === 'syncDirectory' ? path === DIRECTORY : !isLog(path))
      faulty.fault = (called, path) => (superblock(called, path) ? 'io_failed' : null)
      const before = faulty.calls.length
      // Past the middle of the file the next one is made ready; the failure is nobody's answer.
      for (let id = 0n; id < 5n; id += 1n) await store.addEntry(1n, id, entryOf(1n, id, 8_000))
      for (let turn = 0; turn < 20; turn += 1) await setImmediate()
      faulty.fault = () => null
      const status = await store.status()
      assert.equal(status.state, 'poisoned')
      await fails(store.addEntry(1n, 5n, entryOf(1n, 5n, 100)), 'store_poisoned')
      assert.equal((await store.readEntry(1n, 4n)).kind, 'entry')
      await store.close()
      const later = faulty.calls.slice(before)
      assert.equal(later.filter(({ action: called, path }) => superblock(called, path)).length, 1)
    })
  }

  test('a disk that is gone or hangs: the store says that it is unreachable, and does not ask twice', async () => {
    const memory = new MemoryDisk()
    const clock = new ManualClock()
    let asked = 0
    let space: () => ReturnType<MemoryDisk['space']> = () => memory.space()
    const disk = {
      ...methodsOf(memory),
      space: () => {
        asked += 1
        return space()
      },
    }
    const store = await openStore(DIRECTORY, { disk, clock, fileBytes: FILE_BYTES })
    assert.equal((await store.status()).state, 'writable')
    space = () => Promise.reject(new StratalogError('file_not_found', 'gone: injected'))
    const gone = await store.status()
    assert.equal(gone.state, 'unreachable')
    assert.match(gone.reason ?? '', /gone: injected.*check the disk/)
    assert.equal(gone.device, 'memory')
    let wake: (found: Awaited<ReturnType<MemoryDisk['space']>>) => void = () => {}
    space = () => new Promise((resolve) => (wake = resolve))
    asked = 0
    const first = store.status()
    const second = store.status()
    await clock.advance(6_000)
    for (const status of [await first, await second, await store.status()]) {
      assert.equal(status.state, 'unreachable')
      assert.match(status.reason ?? '', /5000 ms/)
    }
    assert.equal(asked, 1)
    space = () => memory.space()
    wake(await memory.space())
    await setImmediate()
    assert.equal((await store.status()).state, 'writable')
    await store.close()
  })

  test('a read that fails is unknown, not missing', async () => {
    const { faulty, store } = await setup()
    await store.openLedger(header(1n))
    await store.addEntry(1n, 0n, entryOf(1n, 0n, 100))
    faulty.fault = (called) => (called === 'read' ? 'io_failed' : null)
    await fails(store.readEntry(1n, 0n), 'io_failed')
    faulty.fault = () => null
    assert.equal((await store.readEntry(1n, 0n)).kind, 'entry')
    faulty.fault = (called) => (called === 'open' ? 'io_failed' : null)
    await store.close()
  })

  test('sectors that can not be read at start are damage, the rest is found', async () => {
    const { memory, store } = await setup()
    await store.openLedger(header(1n))
    for (let id = 0n; id < 5n; id += 1n) await store.addEntry(1n, id, entryOf(1n, id, 2_000))
    await store.close()
    const base = await cloneOf(memory)
    // Without its index block the file is scanned.
    for (const [path, { bytes }] of base.files) if (isLog(path)) bytes.fill(0, bytes.byteLength - 4096)
    const bad = {
      ...methodsOf(base),
      open: async (path: string, mode: 'create' | 'write' | 'read') => {
        const file = await base.open(path, mode)
        const read = file.read.bind(file)
        file.read = async (target, offset) => {
          if (isLog(path) && offset < 12_288 && offset + target.byteLength > 8_192) throw ioError()
          return read(target, offset)
        }
        return file
      },
    }
    const again = await openStore(DIRECTORY, { disk: bad, fileBytes: FILE_BYTES })
    const kinds: string[] = []
    for (let id = 0n; id < 5n; id += 1n) {
      kinds.push(
        await again.readEntry(1n, id).then(
          ({ kind }) => kind,
          (error) => error.code,
        ),
      )
    }
    assert.deepEqual(kinds, ['entry', 'corrupt', 'entry', 'entry', 'entry'])
    assert.ok((await again.status()).corruptBytes > 0)
    await again.close()
  })
})

describe('a full disk', () => {
  const noSpace = (called: string): 'disk_full' | null => (called === 'preallocate' ? 'disk_full' : null)
  const fillUp = async (store: SegmentStore): Promise<bigint> => {
    for (let id = 0n; id < 1_000n; id += 1n) {
      try {
        await store.addEntry(1n, id, entryOf(1n, id, 3_000))
      } catch (error) {
        assert.ok(isStratalogError(error, 'store_full'), String(error))
        assert.equal(error.retryable, true)
        return id
      }
    }
    return assert.fail('the store never became full')
  }

  test('refuses entries, keeps what it has, and goes on when space returns', async () => {
    const { faulty, store, pass } = await setup()
    await store.openLedger(header(1n))
    faulty.fault = noSpace
    const next = await fillUp(store)
    assert.equal((await store.status()).state, 'full')
    const probes = faulty.calls.filter(({ action }) => action === 'preallocate').length
    await fails(store.addEntry(1n, next, entryOf(1n, next, 3_000)), 'store_full')
    assert.equal(
      faulty.calls.filter(({ action }) => action === 'preallocate').length,
      probes,
      'probed at once',
    )
    for (let id = 0n; id < next; id += 1n) assert.equal((await store.readEntry(1n, id)).kind, 'entry')
    pass(1_001)
    await fails(store.addEntry(1n, next, entryOf(1n, next, 3_000)), 'store_full')
    assert.ok(faulty.calls.filter(({ action }) => action === 'preallocate').length > probes, 'never probed')
    faulty.fault = () => null
    pass(1_001)
    await store.addEntry(1n, next, entryOf(1n, next, 3_000))
    assert.equal((await store.status()).state, 'writable')
    await store.close()
  })

  test('fences, seals and deletes go on, and deleting makes room without any new space', async () => {
    const { faulty, store, pass } = await setup()
    for (const id of [1n, 2n, 3n]) await store.openLedger(header(id))
    for (let id = 0n; id < 40n; id += 1n) await store.addEntry(2n, id, entryOf(2n, id, 3_000))
    faulty.fault = noSpace
    await fillUp(store)
    for (let id = 100n; id < 108n; id += 1n) await store.fence(id)
    await Promise.all(Array.from({ length: 100 }, (_, at) => store.fence(200n + BigInt(at))))
    await store.sealLedger(3n, { lastEntryId: -1n, lengthBytes: 0 })
    await store.deleteLedger(2n)
    await store.deleteLedger(1n)
    let added = false
    for (let turn = 0; turn < 100 && !added; turn += 1) {
      await new Promise((done) => setTimeout(done, 2))
      pass(1_001)
      added = await store.openLedger(header(4n)).then(
        () => true,
        (error: unknown) => {
          assert.ok(isStratalogError(error, 'store_full'), String(error))
          return false
        },
      )
    }
    assert.ok(added, 'no room although everything was deleted')
    await store.addEntry(4n, 0n, entryOf(4n, 0n, 3_000))
    await store.close()
  })

  test('without space for the superblock of the next file is full too, and survived', async () => {
    const { memory, faulty, store, pass } = await setup()
    await store.openLedger(header(1n))
    faulty.fault = (called, path) =>
      called === 'write' && !isLog(path) && !path.includes('spare') ? 'disk_full' : null
    const next = await fillUp(store)
    faulty.fault = () => null
    pass(1_001)
    await store.addEntry(1n, next, entryOf(1n, next, 3_000))
    await store.close()
    const again = await openStore(DIRECTORY, { disk: memory, fileBytes: FILE_BYTES })
    assert.equal((await again.listLedgers(-1n, 1))[0]?.entries, Number(next) + 1)
    await again.close()
  })
})

describe('a queue that does not move', () => {
  test('is bounded: more is refused and can be tried again', async () => {
    const { faulty, store } = await setup({ pendingBytesMax: 20_000 })
    await store.openLedger(header(1n))
    let open = (): void => undefined
    faulty.gate = new Promise((resolve) => {
      open = resolve
    })
    const adds = [0n, 1n, 2n].map((id) => store.addEntry(1n, id, entryOf(1n, id, 6_000)))
    assert.ok((await store.status()).pendingBytes >= 18_000)
    await assert.rejects(store.addEntry(1n, 3n, entryOf(1n, 3n, 6_000)), (error) => {
      return isStratalogError(error, 'backpressure') && error.retryable
    })
    open()
    await Promise.all(adds)
    await store.addEntry(1n, 3n, entryOf(1n, 3n, 6_000))
    await store.close()
  })

  test('a fence takes back what is not on its way', async () => {
    const { faulty, store } = await setup()
    await store.openLedger(header(1n))
    await store.openLedger(header(2n))
    let open = (): void => undefined
    faulty.gate = new Promise((resolve) => {
      open = resolve
    })
    const first = store.addEntry(1n, 0n, entryOf(1n, 0n, 100))
    await new Promise((done) => setTimeout(done, 5))
    const waiting = store.addEntry(1n, 1n, entryOf(1n, 1n, 100))
    const recovery = store.addEntry(1n, 2n, entryOf(1n, 2n, 100), { recovery: true })
    const other = store.addEntry(2n, 0n, entryOf(2n, 0n, 100))
    const fence = store.fence(1n)
    await fails(waiting, 'fenced')
    await fails(store.addEntry(1n, 3n, entryOf(1n, 3n, 100)), 'fenced')
    let answered = false
    const noted = fence.then(() => {
      answered = true
    })
    await new Promise((done) => setTimeout(done, 5))
    assert.equal(answered, false, 'a fence was answered before it was durable')
    open()
    await Promise.all([first, recovery, other, noted])
    const { last } = await fence
    assert.equal(last.kind, 'entry')
    assert.equal((await store.readEntry(1n, 1n)).kind, 'missing')
    await store.close()
  })

  test('an entry that fits into no file is refused', async () => {
    const { store } = await setup()
    await store.openLedger(header(1n))
    await fails(store.addEntry(1n, 0n, entryOf(1n, 0n, FILE_BYTES)), 'invalid_argument')
    await fails(store.addEntry(1n, -1n, entryOf(1n, 0n, 1)), 'invalid_argument')
    await fails(store.addEntry(1n, 2n ** 60n, entryOf(1n, 0n, 1)), 'invalid_argument')
    await fails(store.putControl({ id: 'x', kind: 'x', body: 'x'.repeat(600_000) }), 'invalid_argument')
    await fails(store.putControl({ id: 'x', kind: 'x', body: 'x'.repeat(100_000) }), 'invalid_argument')
    await store.addEntry(1n, 0n, entryOf(1n, 0n, 40_000))
    await store.close()
  })
})

describe('opening', () => {
  const open = (disk: MemoryDisk, change: Partial<LocalStoreOptions> = {}): Promise<SegmentStore> =>
    openStore(DIRECTORY, { disk, fileBytes: FILE_BYTES, ...change })
  const made = async (): Promise<MemoryDisk> => {
    const disk = new MemoryDisk()
    const store = await open(disk)
    await store.openLedger(header(1n))
    await store.close()
    return disk
  }

  test('a directory without a store, another log, options that make no sense', async () => {
    await fails(open(new MemoryDisk(), { create: false }), 'file_not_found')
    const disk = await made()
    await fails(open(disk, { logId: 'f'.repeat(32) }), 'refused')
    await fails(open(disk, { logId: 'x' }), 'invalid_argument')
    await fails(open(disk, { fileBytes: 1_000_000 }), 'invalid_argument')
    await fails(open(disk, { fileBytes: 4_096 }), 'invalid_argument')
    await fails(open(disk, { idleMarkMs: 0 }), 'invalid_argument')
  })

  test('a superblock that is damaged, gone or older than the files', async () => {
    const damaged = await made()
    const content = damaged.files.get('/store/superblock')
    assert.ok(content)
    content.bytes[20] = 0
    await fails(open(damaged), 'corrupt')
    const gone = await made()
    gone.files.delete('/store/superblock')
    await fails(open(gone), 'corrupt')
    assert.ok(gone.files.has('/store/log-0000000000000001'), 'a log file was touched')
    const older = new MemoryDisk()
    const store = await open(older)
    const first = Buffer.from(older.files.get('/store/superblock')?.bytes ?? [])
    await store.openLedger(header(1n))
    await store.close()
    older.files.set('/store/superblock', { bytes: first, durable: first })
    await fails(open(older), 'corrupt')
    assert.ok(older.files.has('/store/log-0000000000000001'), 'a log file was touched')
  })

  test('a directory that may not be written', async () => {
    const disk = await made()
    disk.fail = (call, path) => (call === 'open' && path.endsWith('.new') ? 'access_denied' : null)
    await fails(open(disk), 'access_denied')
  })

  test('a disk that is full already can be read', async () => {
    const disk = await made()
    disk.fail = (call, path) => (call === 'write' && path.endsWith('.new') ? 'disk_full' : null)
    const store = await open(disk)
    assert.equal((await store.listLedgers(-1n, 9)).length, 1)
    await store.close()
  })

  test('strange files are left alone, spares of another size are not used', async () => {
    const disk = await made()
    for (const name of ['notes.txt', 'log-1', 'spare-xyz', 'lost+found']) {
      disk.files.set(`${DIRECTORY}/${name}`, { bytes: Buffer.from('mine'), durable: Buffer.from('mine') })
    }
    const store = await open(disk, { fileBytes: 2 * FILE_BYTES })
    await store.openLedger(header(2n))
    await store.addEntry(2n, 0n, entryOf(2n, 0n, 100_000))
    await store.close()
    for (const name of ['notes.txt', 'log-1', 'spare-xyz', 'lost+found']) {
      assert.equal(disk.files.get(`${DIRECTORY}/${name}`)?.bytes.toString(), 'mine')
    }
  })
})

function ioError(): StratalogError {
  return new StratalogError('io_failed', 'injected')
}
