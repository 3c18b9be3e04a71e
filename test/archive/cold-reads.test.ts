import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import fc from 'fast-check'
import { BlockCache } from '../../archive/block-cache.js'
import { ColdReads, type ColdReadsOptions } from '../../archive/cold-reads.js'
import { DiskCache } from '../../archive/disk-cache.js'
import { DownloadLimit } from '../../archive/download-limit.js'
import { FetchWindow } from '../../archive/fetch-window.js'
import type { SegmentObjectReader } from '../../archive/segment-reader.js'
import { planSegmentObject, segmentObjectBody } from '../../archive/segment-writer.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import type { ArchivedObject } from '../../src/model/segment.js'
import { realClock } from '../../src/system/clock.js'
import { MemoryArchive, memoryLogger, nameOf, sampleSegment, sourceOf } from '../helpers/archive.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { MemoryDisk } from '../helpers/memory-disk.js'

const MIB = 2 ** 20
const SEGMENT = sampleSegment({
  entries: 120,
  recordsPerEntry: 2,
  payloadBytes: 40_000,
  incompressible: true,
})

interface Sample {
  readonly store: MemoryArchive
  readonly object: ArchivedObject
  readonly payloads: readonly Uint8Array[]
  readonly blocks: number
}

/** An object of about ten blocks that don't compress. */
async function sample(): Promise<Sample> {
  const { meta, payloads } = SEGMENT
  const planned = await planSegmentObject(meta, sourceOf(payloads))
  const key = nameOf(planned)
  const store = new MemoryArchive()
  await store.putIfAbsent(key, segmentObjectBody(planned, sourceOf(payloads)))
  const { sizeBytes, indexBytes } = planned
  store.requests = 0
  return { store, object: { key, sizeBytes, indexBytes }, payloads, blocks: planned.rows.length }
}

function readsOf(options: Partial<ColdReadsOptions> = {}): ColdReads {
  return new ColdReads({ clock: new ManualClock(), ...options })
}

async function readAll(reader: SegmentObjectReader, payloads: readonly Uint8Array[]): Promise<void> {
  let next = 0n
  while (next <= reader.lastEntryId) {
    const entries = await reader.readEntries(next, MIB)
    for (const { entryId, payload } of entries) {
      assert.equal(entryId, next)
      assert.ok(Buffer.from(payload).equals(present(payloads[Number(entryId)], 'payload')))
      next += 1n
    }
  }
}

async function cacheOf(disk: MemoryDisk, bytesMax = 64 * MIB): Promise<DiskCache> {
  const clock = new ManualClock()
  return DiskCache.open({ disk, clock, logger: memoryLogger(), directory: '/cache', bytesMax })
}

describe('cold reads of a log', () => {
  test('two requests to the first entry: the index, then its block; none where both are here', async () => {
    const { store, object } = await sample()
    const reads = readsOf()
    const reader = await reads.open(store, object)
    assert.equal((await reader.readEntries(60n, 1)).length, 1)
    assert.equal(store.requests, 2)
    const again = await reads.open(store, object)
    assert.equal((await again.readEntries(60n, 1)).length, 1)
    assert.equal(store.requests, 2)
  })

  test('readers that come together share the index and every block', async () => {
    const { store, object, payloads, blocks } = await sample()
    const reads = readsOf()
    const all = Array.from({ length: 20 }, async () => readAll(await reads.open(store, object), payloads))
    await Promise.all(all)
    assert.ok(store.requests <= blocks + 1, `${store.requests} requests for ${blocks} blocks`)
  })

  test('memory stays within its bound, whatever the readers, and order and contents with it (invariants 2, 11)', async () => {
    const { store, object, payloads } = await sample()
    const reads = readsOf({ memoryBytes: 4 * MIB, connections: 3 })
    let most = 0
    const watch = async (reader: SegmentObjectReader): Promise<void> => {
      let next = 0n
      while (next <= reader.lastEntryId) {
        for (const { entryId, payload } of await reader.readEntries(next, MIB)) {
          assert.equal(entryId, next)
          assert.ok(Buffer.from(payload).equals(present(payloads[Number(entryId)], 'payload')))
          next += 1n
        }
        most = Math.max(most, reads.cache.sizeBytes)
        await setImmediate()
      }
      reader.close()
    }
    await Promise.all(
      Array.from({ length: 12 }, async (_, i) => {
        for (let turn = 0; turn < i; turn += 1) await setImmediate()
        await watch(await reads.open(store, object))
      }),
    )
    // Beyond the cache itself: what each reader waits for, and what is fetched ahead.
    assert.ok(most <= 4 * MIB + 12 * 1.2 * MIB + 2 * MIB, `${most} bytes`)
    assert.ok(reads.cache.sizeBytes <= 4 * MIB)
  })

  test('an object that is gone is no reason to ask the archive less', async () => {
    const { store, object } = await sample()
    const reads = readsOf()
    const absent = { ...object, key: `${object.key.slice(0, -4)}0000` }
    for (let attempt = 0; attempt < 4; attempt += 1)
      await assert.rejects(reads.open(store, absent), (error) => isStratalogError(error, 'object_not_found'))
    assert.deepEqual([reads.state.connections, reads.state.failed], [16, 0])
  })

  test('who gives up ends the request that only it waits for, and no other', async () => {
    const { store, object } = await sample()
    const signals: AbortSignal[] = []
    const inner = store.readRange.bind(store)
    let hang = false
    store.readRange = (key, offset, length, signal) => {
      if (!hang) return inner(key, offset, length, signal)
      signals.push(present(signal, 'signal'))
      return new Promise((_, reject) =>
        signal?.addEventListener('abort', () => reject(signal.reason), { once: true }),
      )
    }
    const reads = readsOf()
    const [one, two] = await Promise.all([reads.open(store, object), reads.open(store, object)])
    hang = true
    const abort = new AbortController()
    const first = one.readEntries(0n, 1, abort.signal)
    const other = new AbortController()
    const second = two.readEntries(0n, 1, other.signal)
    await setImmediate()
    assert.equal(signals.length, 1, 'one request for both')
    abort.abort(new Error('enough'))
    await assert.rejects(first, /enough/)
    assert.equal(signals[0]?.aborted, false)
    other.abort(new Error('me too'))
    await assert.rejects(second, /me too/)
    assert.equal(signals[0]?.aborted, true)
    // What was given up is asked for anew at once.
    hang = false
    assert.equal((await one.readEntries(0n, 1)).length, 1)
  })

  test('closing a reader ends what it reads ahead; one that is read by another goes on', async () => {
    const { store, object } = await sample()
    const reads = readsOf({ memoryBytes: 64 * MIB })
    const reader = await reads.open(store, object)
    await reader.readEntries(0n, 1)
    const aborted: boolean[] = []
    const inner = store.readRange.bind(store)
    store.readRange = async (key, offset, length, signal) => {
      await setImmediate()
      await setImmediate()
      aborted.push(signal?.aborted ?? false)
      return inner(key, offset, length, signal)
    }
    await reader.readEntries(1n, 1)
    await setImmediate()
    reader.close()
    for (let turn = 0; turn < 10; turn += 1) await setImmediate()
    assert.ok(aborted.length > 0)
    assert.ok(
      aborted.every((one) => one),
      'what nobody waits for is aborted',
    )
    assert.ok(reads.cache.sizeBytes <= 2 * MIB, 'and takes no memory')
  })

  test('what fails is told to who waits, and asked for again by the next', async () => {
    const { store, object, payloads } = await sample()
    const inner = store.readRange.bind(store)
    let failing = 3
    store.readRange = async (...args) => {
      failing -= 1
      if (failing >= 0) throw new StratalogError('archive_unavailable', 'SlowDown', { retryable: true })
      return inner(...args)
    }
    const reads = readsOf()
    for (let attempt = 0; attempt < 3; attempt += 1) {
      const opening = reads.open(store, object)
      await assert.rejects(opening, (error) => isStratalogError(error, 'archive_unavailable'))
    }
    await readAll(await reads.open(store, object), payloads)
    assert.equal(reads.state.failed, 3)
  })

  test('invariant 9: a flipped byte in an object or in the disk cache never reaches a reader', async () => {
    const { store, object, payloads } = await sample()
    const disk = new MemoryDisk()
    const cache = await cacheOf(disk)
    await readAll(await readsOf({ disk: cache }).open(store, object), payloads)
    await cache.settled()
    assert.ok(disk.files.size > 5)
    const bytes = present(store.objects.get(object.key), 'object')
    await fc.assert(
      fc.asyncProperty(fc.nat(disk.files.size - 1), fc.nat(900_000), async (file, at) => {
        const [path, content] = present([...disk.files][file % disk.files.size], 'file')
        const offset = at % content.bytes.length
        content.bytes.writeUInt8(content.bytes.readUInt8(offset) ^ 0x10, offset)
        await readAll(await readsOf({ disk: cache }).open(store, object), payloads)
        await cache.settled()
        assert.ok(disk.files.has(path), 'it was fetched and kept again')
      }),
      { numRuns: 20 },
    )
    assert.equal(cache.counts.damaged, 20)
    // Now the object itself, where no good copy is left.
    bytes.writeUInt8(bytes.readUInt8(500_000) ^ 1, 500_000)
    const reader = await readsOf().open(store, object)
    await assert.rejects(readAll(reader, payloads), (error) => isStratalogError(error, 'corrupt'))
  })

  test('what the disk cache holds is not asked for again', async () => {
    const { store, object, payloads } = await sample()
    const cache = await cacheOf(new MemoryDisk())
    await readAll(await readsOf({ disk: cache }).open(store, object), payloads)
    await cache.settled()
    store.requests = 0
    const reads = readsOf({ disk: cache })
    await readAll(await reads.open(store, object), payloads)
    assert.equal(store.requests, 1, 'the index')
    assert.ok((reads.state.disk?.hits ?? 0) > 5, JSON.stringify(reads.state.disk))
  })

  test('random ranges by several readers over small memory, with failures in between, give the right entries', async () => {
    const { store, object, payloads } = await sample()
    const inner = store.readRange.bind(store)
    const cache = await cacheOf(new MemoryDisk(), 4 * MIB)
    const reads = fc.array(fc.tuple(fc.nat(2), fc.nat(119), fc.boolean()), { minLength: 1, maxLength: 30 })
    await fc.assert(
      fc.asyncProperty(reads, fc.integer({ min: 1, max: 6 }), async (steps, memory) => {
        const cold = readsOf({ disk: cache, memoryBytes: memory * MIB, connections: 2 })
        store.readRange = inner
        const readers = await Promise.all([0, 1, 2].map(() => cold.open(store, object)))
        let count = 0
        store.readRange = async (...args) => {
          count += 1
          if (count % 5 === 0) throw new StratalogError('archive_unavailable', 'no', { retryable: true })
          return inner(...args)
        }
        const work = steps.map(async ([who, entry, forward]) => {
          const reader = present(readers[who], 'reader')
          for (let next = BigInt(entry); next <= BigInt(entry) + (forward ? 20n : 0n) && next < 120n; ) {
            try {
              for (const { entryId, payload } of await reader.readEntries(next, 200_000)) {
                assert.equal(entryId, next)
                assert.ok(Buffer.from(payload).equals(present(payloads[Number(entryId)], 'payload')))
                next += 1n
              }
            } catch (error) {
              assert.ok(isStratalogError(error, 'archive_unavailable'), String(error))
            }
          }
        })
        await Promise.all(work)
        for (const reader of readers) reader.close()
      }),
      { numRuns: 15 },
    )
  })
})

describe('blocks in memory', () => {
  test('those of one request leave together, the one that was used longest ago first; what is under way stays', async () => {
    const cache = new BlockCache(4)
    const request = { live: true, hold: () => () => undefined }
    const requests = [1, 2, 3].map(() => ({ ...request }))
    const block = Promise.resolve({ firstEntryId: 0n, raw: new Uint8Array(1), offsets: [0, 1] })
    for (const [i, one] of requests.slice(0, 2).entries())
      for (const id of ['a', 'b']) cache.put(`${i}${id}`, block, 1, one)
    await setImmediate()
    cache.hold('0b')
    const late = new Promise<Awaited<typeof block>>(() => undefined)
    cache.put('2a', late, 1, present(requests[2], 'request'))
    const here = ['0a', '0b', '1a', '1b', '2a'].filter((id) => cache.has(id))
    assert.deepEqual(here, ['0a', '0b', '2a'])
    cache.put('2b', late, 3, present(requests[2], 'request'))
    assert.deepEqual(
      ['0a', '0b', '2a', '2b'].map((id) => cache.has(id)),
      [false, false, true, true],
    )
    assert.equal(cache.sizeBytes, 4)
  })
})

describe('fetch window', () => {
  /** A store with a latency and a bandwidth, in virtual time. */
  async function run(latencyMs: number, bytesPerMs: number, rounds: number): Promise<FetchWindow> {
    const clock = new ManualClock()
    const window = new FetchWindow(clock, { readAheadBytes: 64 * MIB, connections: 16 })
    const { signal } = new AbortController()
    let freeMs = 0
    const request = async (bytes: number): Promise<void> => {
      await window.run(
        async () => {
          freeMs = Math.max(freeMs, clock.monotonicMs()) + bytes / bytesPerMs
          await clock.sleep(latencyMs + freeMs - clock.monotonicMs())
          return new Uint8Array(bytes)
        },
        false,
        signal,
      )
    }
    for (let round = 0; round < rounds; round += 1) {
      const size = Math.max(1, Math.floor(window.bytes / 4))
      const all = Promise.all([1, 2, 3, 4].map(() => request(size)))
      let done = false
      void all.then(() => {
        done = true
      })
      while (!done) await clock.advance(1)
    }
    return window
  }

  test('it grows to latency × bandwidth and no further, and stays small where everything is near', async () => {
    const far = await run(50, 200_000, 14)
    const product = 50 * 200_000
    assert.ok(far.bytes > product, `${far.bytes} of ${product}`)
    assert.ok(far.bytes < 8 * product, `${far.bytes} of ${product}`)
    const near = await run(1, 50_000, 14)
    assert.ok(near.bytes <= 8 * MIB, `${near.bytes}`)
  })

  test('a fast connection is asked for large ranges, a slow one for small ones, and several fit the window', async () => {
    const slow = await run(1, 50_000, 14)
    assert.equal(slow.requestBytes, 2.5 * MIB)
    const fast = await run(1, 2_000_000, 14)
    assert.equal(fast.requestBytes, 8 * MIB)
    assert.ok(fast.bytes >= 3 * fast.requestBytes, `${fast.bytes}`)
    // What is asked for in vain costs as much as it is large.
    const fail = () => Promise.reject(new StratalogError('archive_unavailable', 'SlowDown'))
    for (let i = 0; i < 4; i += 1) await assert.rejects(fast.run(fail, true, new AbortController().signal))
    assert.equal(fast.requestBytes, 2.5 * MIB)
  })

  test('an error halves window and connections; both come back', async () => {
    const window = await run(50, 200_000, 14)
    const before = window.state
    const { signal } = new AbortController()
    const fail = () => Promise.reject(new StratalogError('archive_unavailable', 'SlowDown'))
    await assert.rejects(window.run(fail, true, signal))
    assert.ok(window.state.windowBytes <= Math.max(4 * MIB, before.windowBytes / 2 + 1))
    assert.equal(window.state.connections, before.connections / 2)
    for (let i = 0; i < 200; i += 1) await window.run(async () => new Uint8Array(100), true, signal)
    assert.equal(window.state.connections, before.connections)
  })

  test('no more requests than connections; those somebody waits for go first; one that gives up leaves the queue', async () => {
    const window = new FetchWindow(new ManualClock(), { connections: 2 })
    const order: string[] = []
    const open: (() => void)[] = []
    const request = (name: string, urgent: boolean, signal = new AbortController().signal) =>
      window.run(
        () => {
          order.push(name)
          return new Promise((resolve) => open.push(() => resolve(new Uint8Array(1))))
        },
        urgent,
        signal,
      )
    const abort = new AbortController()
    const all = [request('a', false), request('b', false), request('c', false), request('d', true)]
    const gone = request('e', true, abort.signal)
    abort.abort(new Error('gone'))
    await assert.rejects(gone, /gone/)
    await setImmediate()
    assert.deepEqual(order, ['a', 'd'], 'one connection is kept for who waits')
    for (let turn = 0; turn < 4; turn += 1) {
      open.shift()?.()
      await setImmediate()
    }
    await Promise.all(all)
    assert.deepEqual(order, ['a', 'd', 'b', 'c'])
  })
})

test('what is read ahead has its turn, however many somebody waits for: a reader may have come to it by now', async () => {
  const window = new FetchWindow(new ManualClock(), { connections: 4 })
  const { signal } = new AbortController()
  const open: (() => void)[] = []
  let urgent = 0
  let ahead = false
  let ended = false
  const hold = () =>
    new Promise<Uint8Array>((resolve) => {
      open.push(() => resolve(new Uint8Array(1)))
    })
  const readers = Array.from({ length: 6 }, async () => {
    while (!ended) {
      await window.run(hold, true, signal)
      urgent += 1
    }
  })
  await setImmediate()
  const waiting = window.run(
    () => {
      ahead = true
      return Promise.resolve(new Uint8Array(1))
    },
    false,
    signal,
  )
  for (let turn = 0; turn < 40 && !ahead; turn += 1) {
    open.shift()?.()
    await setImmediate()
  }
  assert.equal(ahead, true, `after ${urgent} others`)
  await waiting
  ended = true
  while (open.length > 0) {
    open.shift()?.()
    await setImmediate()
  }
  await Promise.all(readers)
})

describe('limits of cold reads', () => {
  test('limits.cold-read: so many bytes a second over all readers of the stream, and aborting ends the wait', async () => {
    const clock = new ManualClock()
    const { store, object, payloads } = await sample()
    const cold = readsOf({ clock })
    const limit = new DownloadLimit(clock, () => MIB)
    let done = false
    const reading = (async () => {
      const readers = await Promise.all([
        cold.open(store, object, { limit }),
        cold.open(store, object, { limit }),
      ])
      await Promise.all(readers.map((reader) => readAll(reader, payloads)))
      done = true
    })()
    while (!done) await clock.advance(10)
    await reading
    const seconds = clock.monotonicMs() / 1_000
    const least = (object.sizeBytes - 4 * MIB) / MIB
    assert.ok(
      seconds > least && seconds < object.sizeBytes / MIB + 1,
      `${seconds} s for ${object.sizeBytes} bytes`,
    )
    const abort = new AbortController()
    const fresh = new DownloadLimit(clock, () => MIB)
    await fresh.take(100 * MIB, abort.signal)
    const waiting = fresh.take(1, abort.signal)
    abort.abort(new Error('enough'))
    await assert.rejects(waiting, /enough/)
    assert.equal(clock.pending, 0)
  })

  test('what was given up is not paid for: readers that look at a little and leave starve nobody', async () => {
    const clock = new ManualClock()
    const limit = new DownloadLimit(clock, () => MIB)
    const { signal } = new AbortController()
    await limit.take(MIB, signal)
    for (let reader = 0; reader < 50; reader += 1) {
      const abort = new AbortController()
      const waiting = limit.take(16 * MIB, abort.signal)
      abort.abort(new Error('enough'))
      await assert.rejects(waiting, /enough/)
    }
    let took = false
    const last = limit.take(1, signal).then(() => {
      took = true
    })
    await clock.advance(1_100)
    assert.equal(took, true, 'after what the first one took is worked off')
    await last
  })

  test('a limit that is raised shortens the waits under way', async () => {
    const clock = new ManualClock()
    let rate = 1
    const limit = new DownloadLimit(clock, () => rate)
    const { signal } = new AbortController()
    await limit.take(4 * MIB, signal)
    let took = 0
    const waiting = [1, 2].map(() => limit.take(MIB, signal).then(() => (took += 1)))
    await clock.advance(5_000)
    assert.equal(took, 0)
    rate = 2 * MIB
    await clock.advance(3_600)
    assert.equal(took, 2)
    await Promise.all(waiting)
  })

  test('cold reads stand back while appends wait, and not for ever', async () => {
    const clock = new ManualClock()
    const { store, object } = await sample()
    let waiting = true
    const cold = readsOf({ clock, appendsWait: () => waiting })
    let entries = 0
    const read = async () => {
      const reader = await cold.open(store, object)
      entries = (await reader.readEntries(0n, 1)).length
    }
    const reading = read()
    await clock.advance(15)
    assert.equal(store.requests, 0, 'appends go first')
    while (entries === 0 && clock.monotonicMs() < 1_000) await clock.advance(1)
    await reading
    assert.equal(entries, 1, 'for a bounded time')
    assert.ok(cold.state.stoodBack >= 2 && cold.state.stoodBackMs <= 60, JSON.stringify(cold.state))
    waiting = false
    await (await cold.open(store, object)).readEntries(60n, 1)
  })
})

test('a loop that reads only what is cached leaves timers their turn', async () => {
  const { store, object, payloads } = await sample()
  const reader = await readsOf({ clock: realClock() }).open(store, object)
  await readAll(reader, payloads)
  let fired = false
  const timer = setTimeout(() => {
    fired = true
  }, 5)
  const endMs = performance.now() + 5_000
  while (!fired && performance.now() < endMs) await reader.readEntries(0n, MIB)
  clearTimeout(timer)
  reader.close()
  assert.ok(fired, 'no timer fired while a reader read')
})
