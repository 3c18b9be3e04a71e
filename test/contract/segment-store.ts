import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { crc32c } from '../../src/format/checksum.js'
import { PackagedEntry } from '../../src/format/packaged-entry.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { EntryAnswer, LedgerHeader, SegmentStore } from '../../src/ports/segment-store.js'

/** What the suite needs of an engine. `reopen` closes cleanly and opens the same replica again. */
export interface SegmentStoreSubject {
  readonly store: SegmentStore
  reopen(): Promise<SegmentStore>
  cleanup(): Promise<void>
}

const header = (ledgerId: bigint, change: Partial<LedgerHeader> = {}): LedgerHeader => ({
  ledgerId,
  digestType: 'CRC32C',
  ensembleSize: 3,
  writeQuorum: 3,
  ackQuorum: 2,
  members: ['store-a', 'store-b', 'store-c'],
  firstEntryId: 0n,
  segment: {
    incarnation: '00112233445566778899aabbccddeeff',
    stream: 'orders/eu',
    segment: 7n,
    epoch: 3n,
    openedMs: 1_700_000_000_000,
    firstTxid: 2n ** 62n,
    startSequenceId: 2n ** 60n,
  },
  preceding: { ledgerId: 1n, lastEntryId: 41n, lengthBytes: 4_200 },
  ...change,
})

/** A packaged entry as the ledger writer makes it: ids, LAC, length, digest, payload. */
const packaged = (
  ledgerId: bigint,
  entryId: bigint,
  lac: bigint,
  payload: string | Uint8Array,
): PackagedEntry => {
  const body = Buffer.from(payload)
  const bytes = Buffer.alloc(36 + body.byteLength)
  bytes.writeBigInt64BE(ledgerId, 0)
  bytes.writeBigInt64BE(entryId, 8)
  bytes.writeBigInt64BE(lac, 16)
  bytes.writeBigInt64BE(BigInt(body.byteLength), 24)
  bytes.set(body, 36)
  bytes.writeUInt32BE(crc32c(body, crc32c(bytes.subarray(0, 32))), 32)
  return new PackagedEntry(bytes)
}

const isEntry = (answer: EntryAnswer, expected: PackagedEntry): void => {
  assert.equal(answer.kind, 'entry')
  if (answer.kind === 'entry') assert.deepEqual(Buffer.from(answer.bytes), Buffer.from(expected.bytes))
}

const fails = (promise: Promise<unknown>, code: string): Promise<void> =>
  assert.rejects(promise, (error) => {
    assert.ok(isStratalogError(error), `not a StratalogError: ${String(error)}`)
    assert.equal(error.code, code)
    return true
  })

/** Every promise of `src/ports/segment-store.ts`, for any engine. */
export function segmentStoreContract(name: string, open: () => Promise<SegmentStoreSubject>): void {
  describe(`segment store contract: ${name}`, () => {
    let subject: SegmentStoreSubject
    let store: SegmentStore
    beforeEach(async () => {
      subject = await open()
      store = subject.store
    })
    afterEach(() => subject.cleanup())
    const reopen = async (): Promise<void> => {
      store = await subject.reopen()
    }
    const fill = async (ledgerId: bigint, count: number, size = 100): Promise<PackagedEntry[]> => {
      const entries = Array.from({ length: count }, (_, at) =>
        packaged(ledgerId, BigInt(at), BigInt(at) - 1n, Buffer.alloc(size, at)),
      )
      const opened = store.openLedger(header(ledgerId))
      await Promise.all([opened, ...entries.map((entry, at) => store.addEntry(ledgerId, BigInt(at), entry))])
      return entries
    }
    const at = (entries: PackagedEntry[], index: number): PackagedEntry => {
      const entry = entries[index]
      assert.ok(entry)
      return entry
    }

    describe('entries', () => {
      test('an entry reads back as it was added, before and after a clean reopen', async () => {
        const entries = await fill(10n, 5)
        for (const [id, entry] of entries.entries()) isEntry(await store.readEntry(10n, BigInt(id)), entry)
        await reopen()
        for (const [id, entry] of entries.entries()) isEntry(await store.readEntry(10n, BigInt(id)), entry)
      })
      test('the header need not be awaited before the first add', async () => {
        const opened = store.openLedger(header(10n))
        const added = store.addEntry(10n, 0n, packaged(10n, 0n, -1n, 'x'))
        await Promise.all([opened, added])
        assert.equal((await store.listLedgers(-1n, 10)).length, 1)
      })
      test('entries of any size, from none to a megabyte', async () => {
        await store.openLedger(header(10n))
        const sizes = [0, 1, 4_059, 4_060, 4_061, 65_536, 1_000_000]
        const entries = sizes.map((size, id) => packaged(10n, BigInt(id), -1n, Buffer.alloc(size, id + 1)))
        await Promise.all(entries.map((entry, id) => store.addEntry(10n, BigInt(id), entry)))
        await reopen()
        for (const [id, entry] of entries.entries()) isEntry(await store.readEntry(10n, BigInt(id)), entry)
      })
      test('entries may come in any order and with holes', async () => {
        await store.openLedger(header(10n))
        const ids = [7n, 2n, 9n, 3n]
        await Promise.all(ids.map((id) => store.addEntry(10n, id, packaged(10n, id, -1n, `entry ${id}`))))
        isEntry(await store.readEntry(10n, 3n), packaged(10n, 3n, -1n, 'entry 3'))
        assert.deepEqual(await store.readEntry(10n, 4n), { kind: 'missing' })
        const [summary] = await store.listLedgers(-1n, 1)
        assert.equal(summary?.entries, 4)
        assert.equal(summary?.lastEntryId, 9n)
      })
      test('the same entry again is accepted', async () => {
        const entries = await fill(10n, 2)
        await store.addEntry(10n, 1n, at(entries, 1))
        isEntry(await store.readEntry(10n, 1n), at(entries, 1))
        assert.equal((await store.listLedgers(-1n, 1))[0]?.entries, 2)
        await reopen()
        isEntry(await store.readEntry(10n, 1n), at(entries, 1))
      })
      test('a ledger that was never opened takes no entries', async () => {
        await fails(store.addEntry(99n, 0n, packaged(99n, 0n, -1n, 'x')), 'ledger_not_found')
      })
      test('what was never added is missing', async () => {
        await fill(10n, 2)
        assert.deepEqual(await store.readEntry(10n, 2n), { kind: 'missing' })
        assert.deepEqual(await store.readEntry(99n, 0n), { kind: 'missing' })
      })
      test('a read of an entry on its way waits for it', async () => {
        await store.openLedger(header(10n))
        const entry = packaged(10n, 0n, -1n, 'x')
        const added = store.addEntry(10n, 0n, entry)
        isEntry(await store.readEntry(10n, 0n), entry)
        await added
      })
      test('what is read belongs to the caller', async () => {
        const entries = await fill(10n, 1)
        const answer = await store.readEntry(10n, 0n)
        if (answer.kind === 'entry') answer.bytes.fill(0)
        isEntry(await store.readEntry(10n, 0n), at(entries, 0))
      })
      test('ledgers do not see each other', async () => {
        const [one, two] = await Promise.all([fill(10n, 50), fill(11n, 50)])
        isEntry(await store.readEntry(10n, 49n), at(one, 49))
        isEntry(await store.readEntry(11n, 49n), at(two, 49))
      })
      test('an aborted read rejects', async () => {
        await fill(10n, 1)
        await assert.rejects(
          store.readEntry(10n, 0n, { signal: AbortSignal.abort(new Error('enough')) }),
          /enough/,
        )
      })
    })

    describe('runs of entries', () => {
      test('consecutive entries come in order', async () => {
        const entries = await fill(10n, 300)
        const found = await store.readEntries(10n, 5n, 204n, 1 << 20)
        assert.equal(found.length, 200)
        for (const [index, bytes] of found.entries()) {
          assert.deepEqual(Buffer.from(bytes), Buffer.from(at(entries, index + 5).bytes))
        }
      })
      test('ends at the limit of bytes, but gives at least one', async () => {
        await fill(10n, 10)
        assert.equal((await store.readEntries(10n, 0n, 9n, 1)).length, 1)
        const some = await store.readEntries(10n, 0n, 9n, 400)
        assert.ok(some.length >= 1 && some.length <= 4, `${some.length} entries for 400 bytes`)
      })
      test('ends before a hole and at the last one asked for', async () => {
        await store.openLedger(header(10n))
        for (const id of [0n, 1n, 3n]) await store.addEntry(10n, id, packaged(10n, id, -1n, 'x'))
        assert.equal((await store.readEntries(10n, 0n, 100n, 1 << 20)).length, 2)
        assert.equal((await store.readEntries(10n, 0n, 0n, 1 << 20)).length, 1)
        assert.equal((await store.readEntries(10n, 2n, 100n, 1 << 20)).length, 0)
        assert.equal((await store.readEntries(10n, 3n, 2n, 1 << 20)).length, 0)
        assert.equal((await store.readEntries(99n, 0n, 2n, 1 << 20)).length, 0)
      })
      test('entries of interleaved ledgers', async () => {
        const [one] = await Promise.all([fill(10n, 100, 3_000), fill(11n, 100, 3_000), fill(12n, 100, 10)])
        await reopen()
        const found = await store.readEntries(10n, 0n, 99n, 1 << 24)
        assert.deepEqual(
          found.map((bytes) => Buffer.from(bytes)),
          one.map(({ bytes }) => Buffer.from(bytes)),
        )
      })
    })

    describe('ledgers', () => {
      test('a header is kept whole', async () => {
        await store.openLedger(header(10n))
        await store.openLedger(header(11n, { segment: null, preceding: null, digestType: 'HMAC' }))
        await reopen()
        const found = await store.listLedgers(-1n, 10)
        assert.deepEqual(found[0]?.header, header(10n))
        assert.deepEqual(
          found[1]?.header,
          header(11n, { segment: null, preceding: null, digestType: 'HMAC' }),
        )
      })
      test('opening again with an equal header is fine, with another it is not', async () => {
        await Promise.all([store.openLedger(header(10n)), store.openLedger(header(10n))])
        await store.openLedger(header(10n))
        await fails(store.openLedger(header(10n, { ackQuorum: 3 })), 'ledger_exists')
        await reopen()
        await store.openLedger(header(10n))
        await fails(store.openLedger(header(10n, { ackQuorum: 3 })), 'ledger_exists')
      })
      test('a listing is ascending, above `after`, limited', async () => {
        for (const id of [5n, 300n, 7n, 2n ** 62n]) await store.openLedger(header(id))
        const ids = async (after: bigint, limit: number): Promise<bigint[]> =>
          (await store.listLedgers(after, limit)).map(({ ledgerId }) => ledgerId)
        assert.deepEqual(await ids(-1n, 10), [5n, 7n, 300n, 2n ** 62n])
        assert.deepEqual(await ids(5n, 2), [7n, 300n])
        assert.deepEqual(await ids(2n ** 62n, 10), [])
      })
      test('a summary counts entries and bytes', async () => {
        const entries = await fill(10n, 3, 50)
        const [summary] = await store.listLedgers(-1n, 1)
        assert.equal(summary?.entries, 3)
        assert.equal(summary?.lastEntryId, 2n)
        assert.equal(
          summary?.sizeBytes,
          entries.reduce((sum, { bytes }) => sum + bytes.byteLength, 0),
        )
        assert.equal(summary?.fenced, false)
        assert.equal(summary?.seal, null)
      })
    })

    describe('fences', () => {
      test('after a fence no plain add succeeds, ever; recovery adds do', async () => {
        const entries = await fill(10n, 2)
        const answer = await store.fence(10n)
        isEntry(answer.last, at(entries, 1))
        await fails(store.addEntry(10n, 2n, packaged(10n, 2n, 1n, 'late')), 'fenced')
        await fails(store.addEntry(10n, 1n, at(entries, 1)), 'fenced')
        await store.addEntry(10n, 2n, packaged(10n, 2n, 1n, 'recovered'), { recovery: true })
        await reopen()
        await fails(store.addEntry(10n, 3n, packaged(10n, 3n, 1n, 'late')), 'fenced')
        isEntry(await store.readEntry(10n, 2n), packaged(10n, 2n, 1n, 'recovered'))
        assert.equal((await store.listLedgers(-1n, 1))[0]?.fenced, true)
      })
      test('a fence of an unknown ledger holds', async () => {
        const answer = await store.fence(77n)
        assert.deepEqual(answer, { last: { kind: 'missing' }, explicitLac: -1n })
        await store.openLedger(header(77n))
        await fails(store.addEntry(77n, 0n, packaged(77n, 0n, -1n, 'x')), 'fenced')
        await reopen()
        await fails(store.addEntry(77n, 0n, packaged(77n, 0n, -1n, 'x')), 'fenced')
      })
      test('nothing is acknowledged after the answer of a fence, which misses nothing', async () => {
        await store.openLedger(header(10n))
        const acknowledged: bigint[] = []
        let fencedNow = false
        let late = 0
        const adds = Array.from({ length: 200 }, async (_, id) => {
          try {
            await store.addEntry(10n, BigInt(id), packaged(10n, BigInt(id), -1n, Buffer.alloc(5_000, id)))
            acknowledged.push(BigInt(id))
            if (fencedNow) late += 1
          } catch (error) {
            assert.ok(isStratalogError(error, 'fenced'))
          }
        })
        const answer = await store.fence(10n)
        fencedNow = true
        const before = acknowledged.length
        await Promise.all(adds)
        assert.equal(late, 0)
        assert.equal(acknowledged.length, before)
        const last = answer.last.kind === 'entry' ? Buffer.from(answer.last.bytes).readBigInt64BE(8) : -1n
        for (const id of acknowledged)
          assert.ok(id <= last, `entry ${id} was acknowledged, the fence says ${last}`)
      })
      test('a recovery read fences first', async () => {
        const entries = await fill(10n, 1)
        isEntry(await store.readEntry(10n, 0n, { fence: true }), at(entries, 0))
        await fails(store.addEntry(10n, 1n, packaged(10n, 1n, -1n, 'late')), 'fenced')
      })
      test('fencing twice gives the same', async () => {
        const entries = await fill(10n, 1)
        const answers = await Promise.all([store.fence(10n), store.fence(10n)])
        for (const answer of [...answers, await store.fence(10n)]) isEntry(answer.last, at(entries, 0))
      })
    })

    describe('seals', () => {
      test('a seal is kept, the same one again is fine, another is a conflict', async () => {
        await fill(10n, 3)
        const seal = { lastEntryId: 2n, lengthBytes: 300 }
        await Promise.all([store.sealLedger(10n, seal), store.sealLedger(10n, seal)])
        await fails(store.sealLedger(10n, { lastEntryId: 1n, lengthBytes: 300 }), 'conflict')
        await fails(store.sealLedger(10n, { lastEntryId: 2n, lengthBytes: 301 }), 'conflict')
        await reopen()
        await store.sealLedger(10n, seal)
        await fails(store.sealLedger(10n, { lastEntryId: 1n, lengthBytes: 300 }), 'conflict')
        assert.deepEqual((await store.listLedgers(-1n, 1))[0]?.seal, seal)
      })
      test('a seal outranks the entries above it', async () => {
        const entries = await fill(10n, 4)
        await store.sealLedger(10n, { lastEntryId: 1n, lengthBytes: 200 })
        const check = async (): Promise<void> => {
          isEntry(await store.readEntry(10n, 1n), at(entries, 1))
          assert.deepEqual(await store.readEntry(10n, 2n), { kind: 'missing' })
          assert.equal((await store.readEntries(10n, 0n, 9n, 1 << 20)).length, 2)
          isEntry((await store.readLac(10n)).last, at(entries, 1))
        }
        await check()
        await reopen()
        await check()
      })
      test('an empty ledger is sealed at −1', async () => {
        await store.openLedger(header(10n))
        await store.sealLedger(10n, { lastEntryId: -1n, lengthBytes: 0 })
        await reopen()
        assert.deepEqual((await store.listLedgers(-1n, 1))[0]?.seal, { lastEntryId: -1n, lengthBytes: 0 })
        assert.deepEqual(await store.readEntry(10n, 0n), { kind: 'missing' })
      })
      test('a repair below the seal is accepted', async () => {
        await store.openLedger(header(10n))
        await store.sealLedger(10n, { lastEntryId: 1n, lengthBytes: 2 })
        const entry = packaged(10n, 0n, -1n, 'x')
        await store.addEntry(10n, 0n, entry, { recovery: true })
        isEntry(await store.readEntry(10n, 0n), entry)
      })
    })

    describe('deletes', () => {
      test('a deleted ledger is gone, before and after a reopen', async () => {
        await fill(10n, 3)
        await fill(11n, 1)
        await store.deleteLedger(10n)
        const check = async (): Promise<void> => {
          assert.deepEqual(await store.readEntry(10n, 0n), { kind: 'missing' })
          assert.deepEqual(await store.readEntries(10n, 0n, 2n, 1_000), [])
          assert.deepEqual(
            (await store.listLedgers(-1n, 10)).map(({ ledgerId }) => ledgerId),
            [11n],
          )
          await fails(store.addEntry(10n, 3n, packaged(10n, 3n, 2n, 'x')), 'ledger_not_found')
          await fails(
            store.addEntry(10n, 3n, packaged(10n, 3n, 2n, 'x'), { recovery: true }),
            'ledger_not_found',
          )
        }
        await check()
        await reopen()
        await check()
      })
      test('deleting twice, or what is unknown, is fine', async () => {
        await fill(10n, 1)
        await Promise.all([store.deleteLedger(10n), store.deleteLedger(10n)])
        await store.deleteLedger(10n)
        await store.deleteLedger(99n)
      })
    })

    describe('last add confirmed', () => {
      test('entries carry it, writeLac raises it, it never goes back', async () => {
        await fill(10n, 5)
        assert.equal(await store.waitForLac(10n, -1n, 1_000), 3n)
        await store.writeLac(10n, 4n)
        assert.equal(await store.waitForLac(10n, 3n, 1_000), 4n)
        await store.writeLac(10n, 2n)
        assert.equal((await store.readLac(10n)).explicitLac, 4n)
        assert.equal(await store.waitForLac(10n, 0n, 1_000), 4n)
      })
      test('readLac answers the last entry, without fencing', async () => {
        const entries = await fill(10n, 3)
        const answer = await store.readLac(10n)
        isEntry(answer.last, at(entries, 2))
        assert.equal(answer.explicitLac, -1n)
        await store.addEntry(10n, 3n, packaged(10n, 3n, 2n, 'more'))
      })
      test('a wait ends when an entry brings a higher one', async () => {
        await fill(10n, 1)
        const waiting = store.waitForLac(10n, 0n, 10_000)
        await store.addEntry(10n, 1n, packaged(10n, 1n, 0n, 'x'))
        await store.addEntry(10n, 2n, packaged(10n, 2n, 1n, 'x'))
        assert.equal(await waiting, 1n)
      })
      test('a wait ends after its time with what is known', async () => {
        await fill(10n, 2)
        assert.equal(await store.waitForLac(10n, 5n, 20), 0n)
        assert.equal(await store.waitForLac(99n, 5n, 20), -1n)
      })
      test('a wait ends when the ledger is sealed or deleted', async () => {
        await fill(10n, 3)
        await fill(11n, 3)
        const sealed = store.waitForLac(10n, 5n, 10_000)
        const deleted = store.waitForLac(11n, 5n, 10_000)
        await store.sealLedger(10n, { lastEntryId: 2n, lengthBytes: 300 })
        await store.deleteLedger(11n)
        assert.equal(await sealed, 1n)
        assert.equal(await deleted, 1n)
        assert.equal(await store.waitForLac(10n, 5n, 10_000), 1n)
      })
      test('a wait can be aborted', async () => {
        await fill(10n, 1)
        const abort = new AbortController()
        const waiting = store.waitForLac(10n, 5n, 10_000, abort.signal)
        abort.abort(new Error('enough'))
        await assert.rejects(waiting, /enough/)
        await assert.rejects(store.waitForLac(10n, 5n, 10_000, abort.signal), /enough/)
      })
    })

    describe('control frames', () => {
      test('each id is kept once, for ever', async () => {
        const frame = { id: 'a', kind: 'trim', body: '{"below":"1:2:3"}' }
        await Promise.all([store.putControl(frame), store.putControl(frame)])
        await store.putControl({ ...frame, body: 'other' })
        await store.putControl({ id: 'b', kind: 'hold', body: 'π' })
        await reopen()
        await store.putControl({ ...frame, body: 'other' })
        const found = (await store.listControls()).sort((x, y) => (x.id < y.id ? -1 : 1))
        assert.deepEqual(found, [frame, { id: 'b', kind: 'hold', body: 'π' }])
      })
    })

    describe('the store itself', () => {
      test('its name and its status', async () => {
        const { id } = store
        assert.match(id, /\S/)
        await fill(10n, 1)
        const status = await store.status()
        assert.equal(status.id, id)
        assert.equal(status.state, 'writable')
        assert.equal(status.reason, null)
        assert.equal(status.pendingBytes, 0)
        assert.equal(status.corruptBytes, 0)
        assert.ok(status.totalBytes > 0 && status.freeBytes > 0)
        await reopen()
        assert.equal(store.id, id)
      })
      test('what was accepted before close is durable; afterwards all is refused', async () => {
        await store.openLedger(header(10n))
        const entries = Array.from({ length: 20 }, (_, id) =>
          packaged(10n, BigInt(id), -1n, Buffer.alloc(3_000, id)),
        )
        const adds = entries.map((entry, id) => store.addEntry(10n, BigInt(id), entry))
        const waiting = assert.rejects(store.waitForLac(10n, 100n, 60_000))
        await store.close()
        await Promise.all(adds)
        await waiting
        await fails(store.addEntry(10n, 99n, packaged(10n, 99n, -1n, 'x')), 'closed')
        await fails(store.readEntry(10n, 0n), 'closed')
        await fails(store.fence(10n), 'closed')
        assert.equal((await store.status()).state, 'closed')
        await store.close()
        await reopen()
        for (const [id, entry] of entries.entries()) isEntry(await store.readEntry(10n, BigInt(id)), entry)
        assert.deepEqual(await store.readEntry(10n, 20n), { kind: 'missing' })
      })
    })
  })
}
