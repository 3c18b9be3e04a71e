import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { after, before, describe, test } from 'node:test'
import { isStratalogError } from '../../../src/model/errors.js'
import type { EntryAnswer, LedgerHeader } from '../../../src/ports/segment-store.js'
import type { BookieSettings } from '../../../src/store/bookie/settings.js'
import type { BookieStore } from '../../../src/store/bookie/store.js'
import { bookieAt, packagedText } from '../../helpers/bookie.js'
import { type Bookies, startBookies } from '../../servers/bookkeeper.js'
import { skipWithout } from '../../servers/cache.js'

/**
 * The promises of `src/ports/segment-store.ts` as far as bookies make them. What they do not keep (headers, seals, what
 * was deleted, decisions) is in the metadata, so the common suite of segment stores does not run here.
 */
describe('a real bookie', { timeout: 120_000, skip: await skipWithout('bookkeeper') }, () => {
  const stores: BookieStore[] = []
  let bookies: Bookies
  let store: BookieStore
  let ledger = 1_000n
  before(async () => {
    // Bookies free ledgers that ZooKeeper does not name: not while the test runs.
    bookies = await startBookies({ count: 1, config: { gcWaitTime: 3_600_000 } })
    store = open()
  })
  after(async () => {
    await Promise.all(stores.map((one) => one.close()))
    await bookies?.stop()
  })
  const open = (settings: Partial<BookieSettings> = {}): BookieStore => {
    const opened = bookieAt(bookies.bookies[0]?.port ?? 0, settings)
    stores.push(opened)
    return opened
  }
  const isEntry = (answer: EntryAnswer, expected: { readonly bytes: Uint8Array }): void => {
    assert.equal(answer.kind, 'entry')
    if (answer.kind === 'entry') assert.deepEqual(Buffer.from(answer.bytes), Buffer.from(expected.bytes))
  }
  const fails = (work: Promise<unknown>, code: string): Promise<void> =>
    assert.rejects(work, (error) => {
      assert.ok(isStratalogError(error), String(error))
      assert.equal(error.code, code)
      return true
    })
  const entryOf = (id: bigint, payload: string | Uint8Array = `entry ${id}`) =>
    packagedText(ledger, id, id - 1n, payload)
  const fill = async (count: number, payload?: Uint8Array): Promise<{ readonly bytes: Uint8Array }[]> => {
    ledger += 1n
    const entries = Array.from({ length: count }, (_, id) => entryOf(BigInt(id), payload))
    await Promise.all(entries.map((entry, id) => store.addEntry(ledger, BigInt(id), entry)))
    return entries
  }
  const header = (digestType: LedgerHeader['digestType']): LedgerHeader => ({
    ledgerId: ledger,
    digestType,
    ensembleSize: 1,
    writeQuorum: 1,
    ackQuorum: 1,
    members: [store.id],
    firstEntryId: 0n,
    segment: null,
    preceding: null,
  })

  test('entries of any size read back as they were added', async () => {
    ledger += 1n
    const sizes = [0, 1, 16_383, 16_384, 65_536, 5 * 2 ** 20 - 400]
    const entries = sizes.map((size, id) => entryOf(BigInt(id), Buffer.alloc(size, id + 1)))
    await Promise.all(entries.map((entry, id) => store.addEntry(ledger, BigInt(id), entry)))
    for (const [id, entry] of entries.entries()) isEntry(await store.readEntry(ledger, BigInt(id)), entry)
  })

  test('the same entry again is accepted; what was never added is missing', async () => {
    const [first] = await fill(1)
    assert.ok(first)
    await store.addEntry(ledger, 0n, entryOf(0n))
    isEntry(await store.readEntry(ledger, 0n), first)
    assert.deepEqual(await store.readEntry(ledger, 1n), { kind: 'missing' })
    assert.deepEqual(await store.readEntry(999_999n, 0n), { kind: 'missing' })
    assert.deepEqual(await store.readLac(999_999n), { last: { kind: 'missing' }, explicitLac: -1n })
  })

  test('runs come in order, end before a hole, at the last one and at the limit of bytes', async () => {
    const entries = await fill(300)
    const run = await store.readEntries(ledger, 5n, 204n, 1 << 20)
    assert.deepEqual(
      run.map((bytes) => Buffer.from(bytes)),
      entries.slice(5, 205).map(({ bytes }) => Buffer.from(bytes)),
    )
    assert.equal((await store.readEntries(ledger, 0n, 9n, 1)).length, 1)
    const some = await store.readEntries(ledger, 0n, 299n, 400)
    assert.ok(some.length > 1 && Buffer.concat(some).length <= 400)
    await store.addEntry(ledger, 301n, entryOf(301n))
    assert.equal((await store.readEntries(ledger, 290n, 400n, 1 << 20)).length, 10)
    assert.equal((await store.readEntries(ledger, 300n, 400n, 1 << 20)).length, 0)
    assert.equal((await store.readEntries(ledger, 3n, 2n, 1 << 20)).length, 0)
    await assert.rejects(
      store.readEntries(ledger, 0n, 9n, 1 << 20, AbortSignal.abort(new Error('enough'))),
      /enough/,
    )
  })

  test('after a fence no plain add succeeds, ever; recovery adds do (invariant 3)', async () => {
    const entries = await fill(3)
    const last = entries[2]
    assert.ok(last)
    isEntry((await store.fence(ledger)).last, last)
    for (const one of [store, open()]) await fails(one.addEntry(ledger, 3n, entryOf(3n)), 'fenced')
    await store.addEntry(ledger, 3n, entryOf(3n), { recovery: true })
    isEntry((await store.fence(ledger)).last, entryOf(3n))
  })

  test('the fence of an unknown ledger holds, and so does a recovery read', async () => {
    ledger += 1n
    assert.deepEqual(await store.fence(ledger), { last: { kind: 'missing' }, explicitLac: -1n })
    await fails(store.addEntry(ledger, 0n, entryOf(0n)), 'fenced')
    await fill(1)
    isEntry(await store.readEntry(ledger, 0n, { fence: true }), entryOf(0n))
    await fails(store.addEntry(ledger, 1n, entryOf(1n)), 'fenced')
  })

  test('nothing is acknowledged after the answer of a fence, which misses nothing (invariant 3)', async () => {
    ledger += 1n
    let acknowledged = -1n
    const adds = Array.from({ length: 500 }, async (_, id) => {
      try {
        await store.addEntry(ledger, BigInt(id), entryOf(BigInt(id), Buffer.alloc(3_000, id)))
        if (BigInt(id) > acknowledged) acknowledged = BigInt(id)
      } catch (error) {
        assert.ok(isStratalogError(error, 'fenced'), String(error))
      }
    })
    const { last } = await open().fence(ledger)
    const at = last.kind === 'entry' ? Buffer.from(last.bytes).readBigInt64BE(8) : -1n
    assert.ok(acknowledged <= at, `entry ${acknowledged} was acknowledged, the fence says ${at}`)
    // Answers that were on their way on the other connection may be heard later than this one's; none above it may.
    await Promise.all(adds)
    assert.ok(acknowledged <= at, `entry ${acknowledged} was acknowledged, the fence says ${at}`)
  })

  for (const digest of ['CRC32', 'CRC32C', 'HMAC'] as const) {
    test(`a LAC that no entry carried is published with a ${digest} digest, and a wait hears of it`, async () => {
      await fill(3)
      await store.openLedger(header(digest))
      assert.equal((await store.readLac(ledger)).explicitLac, -1n)
      const waiting = open().waitForLac(ledger, 1n, 10_000)
      await store.writeLac(ledger, 2n)
      assert.equal(await waiting, 2n)
      const found = await store.readLac(ledger)
      assert.equal(found.explicitLac, 2n)
      isEntry(found.last, entryOf(2n))
    })
  }

  test('a wait ends with what is known after its time, also for a ledger that is not there yet', async () => {
    await fill(2)
    const beganMs = performance.now()
    assert.equal(await store.waitForLac(ledger, 5n, 200), 0n)
    assert.ok(performance.now() - beganMs >= 190)
    ledger += 1n
    assert.equal(await store.waitForLac(ledger, -1n, 30), -1n)
    const waiting = open().waitForLac(ledger, -1n, 10_000)
    for (const id of [0n, 1n]) await store.addEntry(ledger, id, entryOf(id))
    assert.equal(await waiting, 0n)
    const abort = new AbortController()
    const aborted = store.waitForLac(ledger, 5n, 10_000, abort.signal)
    abort.abort(new Error('enough'))
    await assert.rejects(aborted, /enough/)
  })

  test('another password is refused', async () => {
    await fill(1)
    await fails(open({ password: 'other' }).addEntry(ledger, 1n, entryOf(1n)), 'access_denied')
    await fails(open({ password: 'other' }).fence(ledger), 'access_denied')
    await store.addEntry(ledger, 1n, entryOf(1n))
  })

  test('several connections serve one ledger each', async () => {
    const many = open({ connections: 3 })
    for (let n = 0; n < 4; n += 1) {
      ledger += 1n
      await many.addEntry(ledger, 0n, entryOf(0n))
      isEntry(await store.readEntry(ledger, 0n), entryOf(0n))
    }
  })

  test('its status; what bookies do not keep is said so', async () => {
    const status = await store.status()
    assert.equal(status.state, 'writable')
    assert.ok(status.totalBytes > 0 && status.freeBytes > 0)
    await fails(store.listLedgers(-1n, 1), 'unsupported')
    await fails(store.putControl({ id: 'a', kind: 'trim', body: '{}' }), 'unsupported')
    await fails(store.listControls(), 'unsupported')
    await store.sealLedger(ledger, { lastEntryId: 0n, lengthBytes: 1 })
    await store.deleteLedger(ledger)
  })
})
