import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { afterEach, describe, test } from 'node:test'
import { masterKey } from '../../../src/format/ledger-digest.js'
import { present } from '../../../src/model/assert.js'
import { isStratalogError } from '../../../src/model/errors.js'
import type { BookieSettings } from '../../../src/store/bookie/settings.js'
import type { BookieStore } from '../../../src/store/bookie/store.js'
import { BookieDirectory } from '../../../src/stores/bookies.js'
import { memoryLogger } from '../../helpers/archive.js'
import { bookieAt, packagedText } from '../../helpers/bookie.js'
import { FakeBookie, type FakeRequest, framed } from '../../helpers/fake-bookie.js'

const LEDGER = 7n
const QUICK = {
  addTimeoutMs: 150,
  readTimeoutMs: 150,
  connectTimeoutMs: 300,
  reconnectMs: 1,
  reconnectMsMax: 20,
}
const entry = (id: bigint) => packagedText(LEDGER, id, id - 1n, `entry ${id}`)

/** What bookies do wrong (FORMATS.md §1), each named and ended within the time that was configured. */
describe('a bookie that misbehaves', { timeout: 60_000 }, () => {
  const ends: (() => Promise<void>)[] = []
  afterEach(async () => {
    for (const end of ends.splice(0).reverse()) await end()
  })
  const start = async (
    script: (request: FakeRequest, bookie: FakeBookie) => void,
    settings: Partial<BookieSettings> = {},
  ): Promise<{ bookie: FakeBookie; store: BookieStore }> => {
    const bookie = await FakeBookie.start(script)
    ends.push(() => bookie.stop())
    const store = bookieAt(bookie.port, { ...QUICK, ...settings })
    ends.push(() => store.close())
    return { bookie, store }
  }
  const fails = (work: Promise<unknown>, code: string, message: RegExp): Promise<void> =>
    assert.rejects(work, (error) => {
      assert.ok(isStratalogError(error), String(error))
      assert.equal(error.code, code)
      assert.match(error.message, message)
      return true
    })
  const id = (request: FakeRequest, name: string): bigint => request.fields.get(name) as bigint
  const accept = (request: FakeRequest): void =>
    request.answer(0, { 1: 0n, 2: id(request, 'ledgerId'), 3: id(request, 'entryId') })

  test('adds and reads say what the protocol asks for', async () => {
    const { bookie, store } = await start((request) => {
      if (request.operation === 2) accept(request)
      else request.answer(403, { 1: 403n, 2: LEDGER, 3: id(request, 'entryId') })
    })
    const big = 2n ** 62n + 5n
    await store.addEntry(LEDGER, 3n, entry(3n), { recovery: true })
    await store.addEntry(big, big - 1n, packagedText(big, big - 1n, -1n, 'x'))
    await store.fence(LEDGER)
    await store.waitForLac(LEDGER, -1n, 0)
    const [recovery, plain, fence, poll] = bookie.requests
    assert.deepEqual(recovery?.fields.get('body'), Buffer.from(entry(3n).bytes))
    assert.deepEqual(Buffer.from(recovery?.fields.get('masterKey') as Uint8Array), masterKey(''))
    assert.equal(recovery?.fields.get('flag'), 1n)
    assert.equal(recovery?.priority, 100n)
    assert.equal(plain?.fields.get('ledgerId'), big)
    assert.equal(plain?.fields.get('entryId'), big - 1n)
    assert.equal(plain?.fields.get('flag'), undefined)
    assert.equal(plain?.priority, null)
    assert.deepEqual([fence?.fields.get('entryId'), fence?.fields.get('flag')], [-1n, 1n])
    assert.deepEqual(Buffer.from(fence?.fields.get('masterKey') as Uint8Array), masterKey(''))
    assert.deepEqual([poll?.fields.get('previousLac'), poll?.fields.get('flag')], [-1n, 2n])
  })

  test('each status is what the table says; only the two that say so are missing', async () => {
    let status = 0
    const { store } = await start((request) => request.answer(status))
    const expected: readonly [number, string, string | null][] = [
      [402, 'ledger_not_found', null],
      [403, 'entry_missing', null],
      [404, 'unsupported', 'unsupported'],
      [501, 'io_failed', 'io_failed'],
      [502, 'access_denied', 'access_denied'],
      [503, 'version_unsupported', 'version_unsupported'],
      [504, 'fenced', 'fenced'],
      [505, 'store_full', 'store_full'],
      [506, 'backpressure', 'backpressure'],
      [507, 'store_unavailable', 'store_unavailable'],
      [999, 'store_unavailable', 'store_unavailable'],
    ]
    for (const [next, forAdd, forRead] of expected) {
      status = next
      await fails(store.addEntry(LEDGER, 0n, entry(0n)), forAdd, /refused add of entry 0 of ledger 7/)
      if (forRead === null) assert.deepEqual(await store.readEntry(LEDGER, 0n), { kind: 'missing' })
      else await fails(store.readEntry(LEDGER, 0n), forRead, /refused read/)
      if (forRead !== null) await fails(store.fence(LEDGER), forRead, /refused read of the last entry/)
    }
  })

  const garbage: readonly [string, (request: FakeRequest) => void, RegExp][] = [
    ['a length that is negative', ({ socket }) => socket.write(Buffer.from('ffffffff00', 'hex')), /-1 bytes/],
    [
      'a length that is huge',
      ({ socket }) => socket.write(Buffer.from('7fffffff00', 'hex')),
      /2147483647 bytes/,
    ],
    ['bytes that are no protobuf', ({ socket }) => socket.write(framed(Buffer.alloc(20, 0xff))), /protobuf/],
    ['an empty frame', ({ socket }) => socket.write(framed(Buffer.alloc(0))), /operation 0/],
    [
      'a transaction that was never begun',
      (request) => request.answer(0, {}, { txnId: 99n }),
      /transaction 99/,
    ],
    ['an answer to something else', (request) => request.answer(0, {}, { operation: 8 }), /is one to info/],
    ['another ledger', (r) => r.answer(0, { 1: 0n, 2: 8n, 3: id(r, 'entryId') }), /about ledger 8/],
    ['another entry', (r) => r.answer(0, { 1: 0n, 2: LEDGER, 3: 77n }), /about entry 77/],
    ['no ids', (request) => request.answer(0), /about ledger null/],
  ]
  for (const [what, send, message] of garbage) {
    test(`${what}: named, and the connection is replaced`, async () => {
      let wrong = true
      const { bookie, store } = await start((request) => {
        if (wrong) send(request)
        else accept(request)
      })
      // Whatever else was on its way fails with it: none of it is acknowledged.
      const adds = [store.addEntry(LEDGER, 0n, entry(0n)), store.addEntry(LEDGER, 1n, entry(1n))]
      for (const result of await Promise.allSettled(adds)) {
        assert.equal(result.status, 'rejected')
        await fails(Promise.reject(result.reason), 'store_unavailable', message)
      }
      wrong = false
      await new Promise((resolve) => setTimeout(resolve, 20))
      await store.addEntry(LEDGER, 0n, entry(0n))
      assert.equal(bookie.connections, 2)
    })
  }

  test('an entry of another ledger or cut short in the answer is corrupt, and of this read alone', async () => {
    const bodies = [packagedText(8n, 0n, -1n, 'x').bytes, entry(5n).bytes, Buffer.alloc(7)]
    const { bookie, store } = await start((request) => {
      const body = bodies.shift()
      request.answer(0, { 1: 0n, 2: LEDGER, 3: 0n, 4: body ?? entry(0n).bytes })
    })
    for (let i = 0; i < 3; i += 1) {
      await fails(store.readEntry(LEDGER, 0n), 'corrupt', /something else than entry 0 of ledger 7/)
    }
    assert.equal((await store.readEntry(LEDGER, 0n)).kind, 'entry')
    assert.equal(bookie.connections, 1)
  })

  test('an answer that comes byte by byte counts, one that is cut off does not', async () => {
    let cut = false
    const { store } = await start((request) => {
      const { socket } = request
      const short = cut
      const write = socket.write.bind(socket)
      const pieces: Buffer[] = []
      socket.write = ((bytes: Buffer) => pieces.push(bytes) > 0) as typeof socket.write
      accept(request)
      socket.write = write
      const whole = Buffer.concat(pieces)
      const sent = short ? whole.subarray(0, whole.length - 3) : whole
      void (async () => {
        for (const byte of sent) {
          write(Buffer.from([byte]))
          await new Promise((resolve) => setImmediate(resolve))
        }
        if (short) socket.end()
      })()
    })
    await store.addEntry(LEDGER, 0n, entry(0n))
    cut = true
    await fails(store.addEntry(LEDGER, 1n, entry(1n)), 'store_unavailable', /in the middle of an answer/)
  })

  test('a bookie that never answers: the request ends in its time, the connection is replaced', async () => {
    let silent = true
    const { bookie, store } = await start((request) => {
      if (!silent) accept(request)
    })
    const beganMs = performance.now()
    await fails(store.addEntry(LEDGER, 0n, entry(0n)), 'timeout', /did not answer add of entry 0/)
    assert.ok(performance.now() - beganMs < 10_000)
    silent = false
    await new Promise((resolve) => setTimeout(resolve, 20))
    await store.addEntry(LEDGER, 0n, entry(0n))
    assert.equal(bookie.connections, 2)
  })

  test('answers that wait in the socket count, however long this process stood still', async () => {
    const standStill = (ms: number) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
    let held: FakeRequest[] = []
    const { bookie, store } = await start((request) => {
      held.push(request)
      if (held.length < 40) return
      // They are on their way, and the timers of the requests are long over when they are looked at.
      for (const one of held) accept(one)
      standStill(4 * QUICK.addTimeoutMs)
      held = []
    })
    const add = (n: number) => store.addEntry(LEDGER, BigInt(n), entry(BigInt(n)))
    for (let round = 0; round < 3; round += 1) {
      const adds = Array.from({ length: 40 }, (_, n) => add(round * 40 + n))
      // So do a connection that waits to be noticed, and requests that are not sent yet.
      standStill(2 * QUICK.connectTimeoutMs)
      await Promise.all(adds)
    }
    assert.equal(bookie.connections, 1)
  })

  test('one answer that never comes among others leaves the connection; when it comes late it is nothing', async () => {
    let late: FakeRequest | null = null
    const { bookie, store } = await start((request) => {
      if (request.operation === 2 && id(request, 'entryId') === 0n) late = request
      else accept(request)
    })
    const lost = fails(store.addEntry(LEDGER, 0n, entry(0n)), 'timeout', /entry 0/)
    await store.addEntry(LEDGER, 1n, entry(1n))
    await lost
    assert.ok(late !== null)
    accept(late)
    await store.addEntry(LEDGER, 2n, entry(2n))
    assert.equal(bookie.connections, 1)
  })

  test('a bookie that dies takes all requests with it, and is found again when it is back', async () => {
    let silent = true
    const { bookie, store } = await start((request, fake) => {
      if (!silent) accept(request)
      else if (fake.requests.length === 3) fake.drop()
    })
    const work = [store.addEntry(LEDGER, 0n, entry(0n)), store.readEntry(LEDGER, 0n), store.fence(LEDGER)]
    for (const result of await Promise.allSettled(work)) {
      assert.equal(result.status, 'rejected')
      await fails(Promise.reject(result.reason), 'store_unavailable', /the connection to bookie/)
    }
    silent = false
    await new Promise((resolve) => setTimeout(resolve, 20))
    await store.addEntry(LEDGER, 0n, entry(0n))
    assert.equal(bookie.connections, 2)
  })

  test('where nobody listens requests fail at once between attempts', async () => {
    const { bookie, store } = await start(() => {}, { reconnectMs: 60_000, reconnectMsMax: 60_000 })
    await bookie.stop()
    await fails(store.addEntry(LEDGER, 0n, entry(0n)), 'store_unavailable', /can't be reached/)
    const beganMs = performance.now()
    for (let i = 0; i < 100; i += 1) await fails(store.readEntry(LEDGER, 0n), 'store_unavailable', /reached/)
    assert.ok(performance.now() - beganMs < 10_000)
    assert.equal((await store.status()).state, 'unreachable')
  })

  test('what is on its way is bounded (invariant 11), and goes on when answers come', async () => {
    const held: FakeRequest[] = []
    const { store } = await start((request) => void held.push(request), {
      inFlightBytesMax: 1_000,
      addTimeoutMs: 5_000,
    })
    const add = (n: bigint) => store.addEntry(LEDGER, n, packagedText(LEDGER, n, -1n, Buffer.alloc(360)))
    const first = [add(0n), add(1n)]
    await fails(add(2n), 'backpressure', /on their way/)
    while (held.length < 2) await new Promise((resolve) => setTimeout(resolve, 1))
    await fails(add(2n), 'backpressure', /on their way/)
    for (const request of held.splice(0)) accept(request)
    await Promise.all(first)
    const again = add(2n)
    while (held.length < 1) await new Promise((resolve) => setTimeout(resolve, 1))
    for (const request of held.splice(0)) accept(request)
    await again
  })

  test('what the socket still has counts also when nobody waits for its answer any more (invariant 11)', async () => {
    let read: (() => void) | null = null
    const { bookie, store } = await start(
      (request) => {
        if (request.operation !== 2) return request.answer(0, { 1: 0n, 2: 1n, 3: 1n })
        if (read !== null) return accept(request)
        // It answers one thing at times, so that the connection stays, and reads nothing any more.
        request.socket.pause()
        const answers = setInterval(() => request.answer(0, { 1: 0n, 2: LEDGER, 3: 0n }), 10)
        read = () => {
          clearInterval(answers)
          request.socket.resume()
        }
      },
      { inFlightBytesMax: 16 * 2 ** 20 },
    )
    const add = (n: bigint) =>
      store.addEntry(LEDGER, n, packagedText(LEDGER, n, -1n, Buffer.alloc(4 * 2 ** 20)))
    await store.addEntry(LEDGER, 0n, entry(0n))
    const adds = await Promise.allSettled([1n, 2n, 3n].map(add))
    for (const result of adds) {
      assert.equal(result.status, 'rejected')
      await fails(Promise.reject(result.reason), 'timeout', /did not answer add/)
    }
    const { pendingBytes } = await store.status()
    assert.ok(pendingBytes > 4 * 2 ** 20, `${pendingBytes} bytes`)
    await fails(Promise.all([add(4n), add(5n), add(6n)]), 'backpressure', /on their way/)
    assert.ok(read !== null)
    ;(read as () => void)()
    // It goes on once they are sent.
    for (;;) {
      const done: unknown = await add(7n).then(
        () => null,
        (error: unknown) => error,
      )
      if (done === null) break
      assert.ok(isStratalogError(done, 'backpressure') || isStratalogError(done, 'timeout'), String(done))
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    assert.equal(bookie.connections, 1)
  })

  test('an entry that fits into no frame is refused before it is sent', async () => {
    const { bookie, store } = await start(() => {})
    const large = packagedText(LEDGER, 0n, -1n, Buffer.alloc(5 * 2 ** 20))
    await fails(store.addEntry(LEDGER, 0n, large), 'invalid_argument', /does not fit into a frame/)
    assert.equal(bookie.requests.length, 0)
  })

  /** Answers a read with an entry of that size. */
  const give = (request: FakeRequest, sizeBytes = 1_000): void => {
    const [ledgerId, entryId] = [id(request, 'ledgerId'), id(request, 'entryId')]
    const { bytes } = packagedText(ledgerId, entryId, entryId - 1n, Buffer.alloc(sizeBytes, Number(entryId)))
    request.answer(0, { 1: 0n, 2: ledgerId, 3: entryId, 4: bytes })
  }
  const SLOW = { readTimeoutMs: 30_000 }
  const until = async (holds: () => boolean): Promise<void> => {
    while (!holds()) await new Promise((resolve) => setTimeout(resolve, 1))
  }

  test('a run that was aborted ends at once and asks for nothing more', async () => {
    const held: FakeRequest[] = []
    const { bookie, store } = await start((request) => void held.push(request), SLOW)
    const stop = new AbortController()
    const run = store.readEntries(LEDGER, 0n, 999n, 1 << 20, stop.signal)
    await until(() => held.length > 0)
    stop.abort(new Error('enough'))
    await assert.rejects(run, /enough/)
    const asked = held.length
    for (const request of held.splice(0)) give(request)
    // Behind their answers nothing of the run is asked for: the next request is another's.
    const other = store.readEntry(LEDGER, 5_000n)
    await until(() => held.length > 0)
    assert.equal(bookie.requests.length, asked + 1)
    for (const request of held.splice(0)) give(request)
    assert.equal((await other).kind, 'entry')
  })

  test('a run goes on behind an answer that is late, in order, and further the more it knows', async () => {
    let late: FakeRequest | null = null
    const { bookie, store } = await start((request) => {
      if (id(request, 'entryId') === 0n) late = request
      else give(request)
    }, SLOW)
    const run = store.readEntries(LEDGER, 0n, 99n, 1 << 20)
    await until(() => bookie.requests.length === 100)
    assert.ok(late !== null)
    give(late)
    const entries = await run
    assert.equal(entries.length, 100)
    for (const [at, bytes] of entries.entries())
      assert.equal(Buffer.from(bytes).readBigInt64BE(8), BigInt(at))
  })

  test('entries that get larger than those before are never more than was asked for (invariant 11)', async () => {
    const { bookie, store } = await start((request) => {
      give(request, id(request, 'entryId') < 20n ? 100 : 30_000)
    }, SLOW)
    for (const [first, count] of [
      [0n, 20 + 3],
      [20n, 3],
      [0n, 20 + 3],
    ] as const) {
      const entries = await store.readEntries(LEDGER, first, 999n, 100_000)
      assert.equal(entries.length, count)
      assert.ok(Buffer.concat(entries).length <= 100_000)
    }
    // Once their size is known none is read in vain.
    assert.equal((await store.readEntries(LEDGER, 500n, 999n, 100_000)).length, 3)
    assert.equal((await store.readEntries(LEDGER, 600n, 999n, 1)).length, 1)
    const asked = bookie.requests.filter((request) => id(request, 'entryId') >= 500n)
    assert.equal(asked.length, 4)
  })

  test('a hole or a refusal ends a run before it, whatever comes behind; none at its beginning is an entry', async () => {
    const { store } = await start((request) => {
      const entryId = id(request, 'entryId')
      if (entryId === 5n) request.answer(403, { 1: 403n, 2: LEDGER, 3: entryId })
      else if (entryId === 12n) request.answer(101)
      else give(request)
    }, SLOW)
    assert.equal((await store.readEntries(LEDGER, 0n, 99n, 1 << 20)).length, 5)
    assert.equal((await store.readEntries(LEDGER, 5n, 99n, 1 << 20)).length, 0)
    assert.equal((await store.readEntries(LEDGER, 6n, 99n, 1 << 20)).length, 6)
    await fails(store.readEntries(LEDGER, 12n, 99n, 1 << 20), 'store_unavailable', /refused read/)
  })

  test('what all runs together expect of a bookie is bounded, and each has its turn (invariant 11)', async () => {
    const held: FakeRequest[] = []
    const { store } = await start((request) => void held.push(request), SLOW)
    const stop = new AbortController()
    const runs = Array.from({ length: 80 }, (_, n) =>
      store.readEntries(BigInt(n), 0n, 7n, 8 << 20, n === 60 ? stop.signal : undefined),
    )
    const gone = assert.rejects(runs[60] ?? Promise.resolve(), /enough/)
    // An MiB is expected of each read at first: 32 of them fill the room.
    await until(() => held.length === 32)
    const other = store.readEntry(99n, 0n)
    await until(() => held.length > 32)
    assert.equal(held.length, 33)
    stop.abort(new Error('enough'))
    await gone
    let most = 0
    const done = Promise.all(runs.filter((_, n) => n !== 60))
    const answering = setInterval(() => {
      most = Math.max(most, held.length)
      for (const request of held.splice(0)) give(request)
    }, 1)
    try {
      for (const entries of await done) assert.ok(entries.length > 0)
      await other
    } finally {
      clearInterval(answering)
    }
    assert.ok(most > 0)
  })

  test('a LAC that entries carry costs no message; the last one before a pause costs one', async () => {
    const { bookie, store } = await start((request) => {
      if (request.operation === 2) accept(request)
      else request.answer(0, { 1: 0n, 2: LEDGER })
    })
    let last = Promise.resolve()
    for (let n = 0n; n < 200n; n += 1n) {
      await store.addEntry(LEDGER, n, entry(n))
      last = store.writeLac(LEDGER, n)
    }
    await last
    const published = bookie.requests.filter(({ operation }) => operation === 6)
    assert.equal(published.at(-1)?.fields.get('lac'), 199n)
    assert.ok(published.length < 20, `${published.length} messages for 200 entries`)
  })

  test('closing waits for adds on their way, refuses the next and ends every wait', async () => {
    const held: FakeRequest[] = []
    const { store } = await start((request) => void held.push(request), { addTimeoutMs: 5_000 })
    const add = store.addEntry(LEDGER, 0n, entry(0n))
    const wait = store.waitForLac(LEDGER, 5n, 60_000)
    while (held.length < 2) await new Promise((resolve) => setTimeout(resolve, 1))
    const ended = fails(wait, 'closed', /closed/)
    const closing = store.close()
    await fails(store.addEntry(LEDGER, 1n, entry(1n)), 'closed', /closed/)
    const [first] = held
    assert.ok(first)
    accept(first)
    await add
    await closing
    await ended
    assert.equal((await store.status()).state, 'closed')
  })

  test('a bookie that leaves and comes back fails what is under way so that it is tried again', async () => {
    let silent = true
    const { bookie } = await start((request) => {
      if (!silent) accept(request)
    })
    const live = { id: `127.0.0.1:${bookie.port}`, host: '127.0.0.1', port: bookie.port, readOnly: false }
    let up = [live]
    let changed = (): void => {}
    const directory = await BookieDirectory.open({
      bookies: {
        all: () => up,
        known: async () => [live.id],
        changed: (listener) => {
          changed = listener
          return { close: () => {} }
        },
      },
      open: ({ port }) => bookieAt(port, { ...QUICK, readTimeoutMs: 60_000 }),
      spread: (bookies) => bookies,
      logger: memoryLogger(),
    })
    ends.push(() => directory.close())
    const before = present(directory.get(live.id), 'a store')
    const read = before.readEntry(LEDGER, 0n)
    read.catch(() => {})
    while (bookie.requests.length === 0) await new Promise((resolve) => setTimeout(resolve, 1))
    up = []
    changed()
    const retryable = (error: unknown) => isStratalogError(error, 'store_unavailable') && error.retryable
    await assert.rejects(read, retryable)
    // Who still has the client that was left is told the same, never that the log is closed.
    await assert.rejects(before.addEntry(LEDGER, 0n, entry(0n)), retryable)
    await assert.rejects(present(directory.get(live.id), 'absent').readEntry(LEDGER, 0n), retryable)
    up = [live]
    silent = false
    await present(directory.get(live.id), 'back').addEntry(LEDGER, 0n, entry(0n))
  })
})
