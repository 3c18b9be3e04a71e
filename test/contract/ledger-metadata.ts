import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, test } from 'node:test'
import type { ErrorCode } from '../../src/model/errors.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { LedgerMetadata } from '../../src/model/ledger.js'
import type { LedgerMetadataStore } from '../../src/ports/ledger-metadata.js'

/** An empty engine for one test. `reopen` closes it and opens the same data again. */
export interface OpenedLedgerMetadata {
  readonly subject: LedgerMetadataStore
  readonly reopen?: () => Promise<LedgerMetadataStore>
  cleanup(): Promise<void>
}

const code = (expected: ErrorCode) => (error: unknown) => isStratalogError(error, expected)

/** Metadata of an open ledger with two ensembles and custom metadata. */
export function sampleMetadata(over: Partial<LedgerMetadata> = {}): LedgerMetadata {
  return {
    formatVersion: 3,
    ensembleSize: 3,
    writeQuorum: 2,
    ackQuorum: 2,
    state: 'OPEN',
    lengthBytes: 0n,
    lastEntryId: -1n,
    ensembles: [
      { firstEntryId: 0n, members: ['a', 'b', 'c'] },
      { firstEntryId: 17n, members: ['a', 'd', 'c'] },
    ],
    digestType: 'CRC32C',
    password: new Uint8Array([0, 255, 7]),
    ctimeMs: 1_700_000_000_000n,
    customMetadata: new Map([['stream', new Uint8Array([1, 2, 3])]]),
    cToken: 0n,
    ...over,
  }
}

/**
 * Compares metadata whatever kind of byte array they hold. Where no creation token is expected an engine may have put
 * one of its own.
 */
export function assertSameMetadata(found: LedgerMetadata, expected: LedgerMetadata): void {
  const plain = (metadata: LedgerMetadata) => ({
    ...metadata,
    cToken: expected.cToken === 0n ? 0n : metadata.cToken,
    password: metadata.password === null ? null : [...metadata.password],
    customMetadata: [...metadata.customMetadata].map(([key, value]) => [key, [...value]]),
  })
  assert.deepEqual(plain(found), plain(expected))
}

/** Every promise of `LedgerMetadataStore`, as tests of one engine. */
export function ledgerMetadataContract(name: string, open: () => Promise<OpenedLedgerMetadata>): void {
  describe(`ledger metadata: ${name}`, () => {
    let opened: OpenedLedgerMetadata
    let store: LedgerMetadataStore
    beforeEach(async () => {
      opened = await open()
      store = opened.subject
    })
    afterEach(() => opened.cleanup())

    test('ids are never given out twice, also to many at once', async () => {
      const ids = await Promise.all(Array.from({ length: 200 }, () => store.allocateId()))
      assert.equal(new Set(ids).size, 200)
      for (const id of ids) assert.ok(id >= 0n)
    })

    test('ids are never given out again after opening anew, created or not', async (context) => {
      if (opened.reopen === undefined) return context.skip('this engine can not be opened again')
      const seen = new Set<bigint>()
      for (let round = 0; round < 4; round++) {
        for (let i = 0; i < 70; i++) {
          const id = await store.allocateId()
          assert.ok(!seen.has(id), `id ${id} came twice`)
          seen.add(id)
        }
        store = await opened.reopen()
      }
    })

    test('the id of a deleted ledger, or of one from elsewhere, is not given out', async () => {
      const id = await store.allocateId()
      const { version } = await store.create(id, sampleMetadata())
      await store.delete(id, version)
      const foreign = id + 300n
      await store.create(foreign, sampleMetadata())
      for (let i = 0; i < 400; i++) {
        const next = await store.allocateId()
        assert.ok(next !== id && next !== foreign, `id ${next} came again`)
      }
    })

    test('what is created is read, with its version', async () => {
      const id = await store.allocateId()
      for (const [at, metadata] of [
        sampleMetadata(),
        sampleMetadata({ state: 'CLOSED', lastEntryId: 41n, lengthBytes: 2n ** 40n }),
        sampleMetadata({ password: null, ctimeMs: null, customMetadata: new Map(), state: 'IN_RECOVERY' }),
      ].entries()) {
        const ledgerId = id + BigInt(at) + 10_000n
        const created = await store.create(ledgerId, metadata)
        const found = await store.read(ledgerId)
        assert.equal(found.ledgerId, ledgerId)
        assert.equal(found.version, created.version)
        if (metadata.password !== null) assertSameMetadata(found.metadata, metadata)
        else assert.equal(found.metadata.state, 'IN_RECOVERY')
      }
    })

    test('a ledger is created once', async () => {
      const id = await store.allocateId()
      await store.create(id, sampleMetadata())
      await assert.rejects(store.create(id, sampleMetadata({ ackQuorum: 1 })), code('ledger_exists'))
      assert.equal((await store.read(id)).metadata.ackQuorum, 2)
      const other = await store.allocateId()
      const both = await Promise.allSettled([
        store.create(other, sampleMetadata()),
        store.create(other, sampleMetadata()),
      ])
      assert.equal(both.filter((result) => result.status === 'fulfilled').length, 1)
    })

    test('what is not there is ledger_not_found', async () => {
      const id = await store.allocateId()
      await assert.rejects(store.read(id), code('ledger_not_found'))
      await assert.rejects(store.compareAndSet(id, 0, sampleMetadata()), code('ledger_not_found'))
      await assert.rejects(store.read(2n ** 62n), code('ledger_not_found'))
    })

    test('metadata change only from the version they were seen in', async () => {
      const id = await store.allocateId()
      const created = await store.create(id, sampleMetadata())
      const closed = sampleMetadata({ state: 'CLOSED', lastEntryId: 9n, lengthBytes: 90n })
      const after = await store.compareAndSet(id, created.version, closed)
      assert.notEqual(after.version, created.version)
      assertSameMetadata((await store.read(id)).metadata, closed)
      assert.equal((await store.read(id)).version, after.version)
      await assert.rejects(
        store.compareAndSet(id, created.version, sampleMetadata()),
        (error) =>
          isStratalogError(error, 'conflict') &&
          error.expected === created.version &&
          error.found === after.version,
      )
      assertSameMetadata((await store.read(id)).metadata, closed)
    })

    test('of many that change one version, one does', async () => {
      const id = await store.allocateId()
      const { version } = await store.create(id, sampleMetadata())
      const results = await Promise.allSettled(
        Array.from({ length: 8 }, () =>
          store.compareAndSet(id, version, sampleMetadata({ state: 'IN_RECOVERY' })),
        ),
      )
      assert.equal(results.filter((result) => result.status === 'fulfilled').length, 1)
    })

    test('deleting is final and may be repeated', async () => {
      const id = await store.allocateId()
      const { version } = await store.create(id, sampleMetadata())
      await store.delete(id, version)
      await store.delete(id, version)
      await assert.rejects(store.read(id), code('ledger_not_found'))
      await assert.rejects(store.compareAndSet(id, version, sampleMetadata()), code('ledger_not_found'))
    })

    test('what changed since it was read is not deleted', async () => {
      const id = await store.allocateId()
      const { version } = await store.create(id, sampleMetadata())
      const after = await store.compareAndSet(id, version, sampleMetadata({ state: 'IN_RECOVERY' }))
      await assert.rejects(
        store.delete(id, version),
        (error) =>
          isStratalogError(error, 'conflict') && error.expected === version && error.found === after.version,
      )
      assert.equal((await store.read(id)).metadata.state, 'IN_RECOVERY')
      await store.delete(id, after.version)
      await assert.rejects(store.read(id), code('ledger_not_found'))
    })

    test('ids are listed ascending, a page at a time', async () => {
      const ids: bigint[] = []
      for (let i = 0; i < 12; i++) ids.push(await store.allocateId())
      // Numbers, not text: 9 comes before 10.
      for (const id of [...ids].reverse()) await store.create(id, sampleMetadata())
      ids.sort((a, b) => (a < b ? -1 : 1))
      assert.deepEqual(await store.list(-1n, 100), ids)
      assert.deepEqual(await store.list(-1n, 5), ids.slice(0, 5))
      assert.deepEqual(await store.list(ids[4] ?? 0n, 3), ids.slice(5, 8))
      assert.deepEqual(await store.list(ids.at(-1) ?? 0n, 3), [])
    })

    test('metadata are there after opening anew', async (context) => {
      if (opened.reopen === undefined) return context.skip('this engine can not be opened again')
      const id = await store.allocateId()
      const created = await store.create(id, sampleMetadata())
      const changed = await store.compareAndSet(id, created.version, sampleMetadata({ state: 'IN_RECOVERY' }))
      const found = await (await opened.reopen()).read(id)
      assert.equal(found.version, changed.version)
      assertSameMetadata(found.metadata, sampleMetadata({ state: 'IN_RECOVERY' }))
    })
  })
}
